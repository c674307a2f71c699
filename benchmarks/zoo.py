"""Scale every convolutional network of a zoo at phi 1, on the meta device, and look for what is wrong with it.

    python benchmarks/zoo.py --out zoo.jsonl --report docs/coverage.md
    python benchmarks/zoo.py --library timm --only 'resnet*' 'convnext*'

Every model gives one line of JSON as soon as it is done; the same command goes on where it stopped. "It runs" is not
enough: the result must have the planned MACs (counted anew), widths and output shape, a gradient for every parameter
that had one, its author's class, and names in its author's order. Exit code 1 where a model is scaled wrongly.
"""

from __future__ import annotations

import argparse
import copy
import fnmatch
import json
import multiprocessing
import signal
import sys
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import cnnscale

SPATIAL_LAYERS = 4
"""A net of fewer spatial convolutions (a patch embedding, say) is no CNN."""
TOLERANCE = 0.05
BATCH = 2
REPORTED = 60
"""Characters of a message that identify a kind of refusal in the report."""

# --- the zoos ---------------------------------------------------------------------------------------------------------


def torchvision_names() -> list[str]:
    import torchvision

    return list(torchvision.models.list_models(module=torchvision.models))


def torchvision_model(name: str) -> nn.Module:
    import torchvision

    aux = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    model: nn.Module = torchvision.models.get_model(name, weights=None, **aux)
    return model


def timm_names() -> list[str]:
    import timm

    return list(timm.list_models())


def timm_model(name: str) -> nn.Module:
    import timm

    model: nn.Module = timm.create_model(name, pretrained=False)
    return model


ZOOS: dict[str, tuple[Callable[[], list[str]], Callable[[str], nn.Module]]] = {
    "torchvision": (torchvision_names, torchvision_model),
    "timm": (timm_names, timm_model),
}
PIXELS = {("torchvision", "inception_v3"): 299}
"""Input sides that a zoo's model does not tell by itself."""


def build(library: str, name: str) -> nn.Module:
    """The model on the meta device; built there where its constructor allows it."""
    make = ZOOS[library][1]
    try:
        with torch.device("meta"):
            return make(name)
    except (NotImplementedError, RuntimeError):
        return make(name).to("meta")


def input_size(library: str, name: str, model: nn.Module) -> tuple[int, ...]:
    config = getattr(model, "default_cfg", None) or {}
    pixels = PIXELS.get((library, name), 224)
    return tuple(config.get("input_size") or (3, pixels, pixels))


# --- what a net is ----------------------------------------------------------------------------------------------------


def kind(model: nn.Module, size: tuple[int, ...]) -> str:
    """``convolutional``, ``hybrid`` (convolutions and products of activations), or ``other``."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        frozen(model)(torch.empty(1, *size, device="meta"))
    ops = {str(op) for op in counter.get_flop_counts()["Global"]}
    attends = any("bmm" in op or "attention" in op for op in ops)
    if sum(is_spatial(m) for m in model.modules()) < SPATIAL_LAYERS:
        return "other"
    return "hybrid" if attends else "convolutional"


def is_spatial(module: nn.Module) -> bool:
    kernel, stride = getattr(module, "kernel_size", None), getattr(module, "stride", None)
    weight = getattr(module, "weight", None)
    if not (isinstance(kernel, tuple) and isinstance(stride, tuple) and isinstance(weight, Tensor)):
        return False
    return weight.dim() > 2 and any(k > s for k, s in zip(kernel, stride, strict=True))


# --- what can be wrong ------------------------------------------------------------------------------------------------


def frozen(model: nn.Module) -> nn.Module:
    """A copy in eval mode without gradients."""
    return copy.deepcopy(model).eval().requires_grad_(False)


def tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, (dict, list, tuple)):
        for value in output.values() if isinstance(output, dict) else output:
            yield from tensors(value)


def output_shapes(model: nn.Module, size: tuple[int, ...]) -> list[tuple[int, ...]]:
    with torch.no_grad():
        output = frozen(model)(torch.empty(BATCH, *size, device="meta"))
    return [tuple(t.shape) for t in tensors(output)]


def macs(model: nn.Module, size: tuple[int, ...]) -> int:
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        frozen(model)(torch.empty(1, *size, device="meta"))
    return int(counter.get_total_flops()) // 2


def trained(model: nn.Module, size: tuple[int, ...]) -> tuple[int, int]:
    """(parameters with a gradient after one step, trainable parameters)."""
    model = copy.deepcopy(model).train()
    sum(t.float().sum() for t in tensors(model(torch.empty(BATCH, *size, device="meta")))).backward()  # type: ignore[union-attr]
    params = [p for p in model.parameters() if p.requires_grad]
    return sum(p.grad is not None for p in params), len(params)


def wrong_output(baseline: nn.Module, result: Any, size: tuple[int, ...]) -> str:
    before, after = output_shapes(baseline, size), output_shapes(result, result.scaling.input_size)
    return "" if before == after else f"output {before} became {after}"


def wrong_macs(baseline: nn.Module, result: Any, size: tuple[int, ...]) -> str:
    plan = result.scaling.plan
    before, after = macs(baseline, size), macs(result, plan.input_size)
    return (
        "" if (before, after) == (plan.before.macs, plan.after.macs) else f"MACs {before}, {after} are not the plan's"
    )


def wrong_widths(baseline: nn.Module, result: Any, size: tuple[int, ...]) -> str:
    """Every layer of every group must be there with its new width."""
    before = dict(baseline.named_modules(remove_duplicate=False))
    there = Counter(w.shape[0] for m in result.modules() if isinstance(w := getattr(m, "weight", None), Tensor))
    for group in result.scaling.plan.widths:
        for layer in group.layers:
            weight = getattr(before.get(layer), "weight", None)
            if isinstance(weight, Tensor) and weight.shape[0] % group.before == 0:
                wanted = weight.shape[0] // group.before * group.after
                there[wanted] -= 1
                if there[wanted] < 0 and all(s.new_repeats >= s.repeats for s in result.scaling.plan.stages):
                    return f"no layer of {wanted} channels for {layer}"
    return ""


def wrong_training(baseline: nn.Module, result: Any, size: tuple[int, ...]) -> str:
    before, after = trained(baseline, size), trained(result, result.scaling.input_size)
    if before[0] == before[1] and after[0] != after[1]:
        return f"{after[1] - after[0]} of {after[1]} parameters get no gradient"
    return ""


def wrong_names(baseline: nn.Module, result: Any, size: tuple[int, ...]) -> str:
    """The author's class, and in every module the author's names in the author's order."""
    if type(result) is not type(baseline) or result.scaling.form != "module":
        return "not its own class"
    orders = defaultdict(set)
    for module in baseline.modules():
        orders[type(module)].add((tuple(module._parameters), tuple(module._buffers), tuple(module._modules)))
    for path, module in result.named_modules():
        children = tuple(module._modules)
        if children and all(name.isdigit() for name in children):
            if children != tuple(map(str, range(len(children)))):
                return f"{path} numbers its children {children}"
        elif not isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict)):
            order = (tuple(module._parameters), tuple(module._buffers), children)
            if type(module) in orders and order not in orders[type(module)]:
                return f"{path} has {order}"
    return ""


CHECKS = {
    "output": wrong_output,
    "MACs": wrong_macs,
    "widths": wrong_widths,
    "training": wrong_training,
    "names": wrong_names,
}


def wrong_identity(model: nn.Module, size: tuple[int, ...]) -> str:
    same = cnnscale.scale(model, 0, input_size=size)
    alike = list(same.state_dict()) == list(model.state_dict()) and type(same) is type(model)
    return "" if alike else "phi 0 is not the identity"


# --- the sweep --------------------------------------------------------------------------------------------------------


def examine(library: str, name: str, limit_s: int) -> dict[str, Any]:
    """One row; whatever happens to the model is in it."""
    row: dict[str, Any] = {"library": library, "name": name}
    start = time.process_time()

    def stop(*_: object) -> None:
        raise TimeoutError(f"took longer than {limit_s} s")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(limit_s)
    try:
        row |= _examined(library, name)
    except cnnscale.CnnScaleError as error:
        row |= {"status": "refused", "why": f"{type(error).__name__}: {error}"}
    except Exception as error:  # whatever else is raised is a fault, and a row
        row |= {"status": "wrong", "why": f"{type(error).__name__}: {error}"}
    finally:
        signal.alarm(0)
    return {**row, "seconds": round(time.process_time() - start, 2)}


def _examined(library: str, name: str) -> dict[str, Any]:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    model = build(library, name)
    size = input_size(library, name, model)
    row: dict[str, Any] = {"kind": kind(model, size), "input_size": size}
    if row["kind"] == "other":
        return {**row, "status": "skipped"}
    try:
        result: Any = cnnscale.scale(model, 1, input_size=size)
    except cnnscale.CnnScaleError as error:
        return {**row, "status": "refused", "why": f"{type(error).__name__}: {error}"}
    except Exception as error:
        return {**row, "status": "wrong", "why": f"{type(error).__name__}: {error}"}
    record = result.scaling
    row |= {
        "growth": round(record.verification.growth, 4),
        "changed": round(record.verification.changed, 4),
        "form": record.form,
        "input": record.input_size,
        "blocks": [sum(s.repeats for s in record.plan.stages), sum(s.new_repeats for s in record.plan.stages)],
    }
    problems = {title: check(model, result, size) for title, check in CHECKS.items()}
    problems["identity"] = wrong_identity(model, size)
    found = {title: problem for title, problem in problems.items() if problem}
    if found:
        return {**row, "status": "wrong", "why": "; ".join(f"{k}: {v}" for k, v in found.items())}
    on_target = abs(record.verification.growth / 2 - 1) <= TOLERANCE
    return {**row, "status": "scaled" if on_target else "off target"}


def sweep(jobs: Sequence[tuple[str, str]], out: Path, workers: int, limit_s: int) -> None:
    with (
        ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), max_tasks_per_child=40) as pool,
        out.open("a", encoding="utf-8") as file,
    ):
        futures = [pool.submit(examine, library, name, limit_s) for library, name in jobs]
        for number, future in enumerate(as_completed(futures), 1):
            row = future.result()
            file.write(json.dumps(row) + "\n")
            file.flush()
            print(f"{number}/{len(jobs)} {row['library']} {row['name']}: {row['status']}", file=sys.stderr)


def read(out: Path) -> list[dict[str, Any]]:
    lines = out.read_text(encoding="utf-8").splitlines() if out.exists() else []
    rows = {}
    for line in lines:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:  # the last line of a run that was killed
            continue
        rows[row["library"], row["name"]] = row
    return [rows[key] for key in sorted(rows)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", nargs="+", choices=ZOOS, default=list(ZOOS))
    parser.add_argument("--only", nargs="+", default=["*"], metavar="PATTERN", help="shell patterns of model names")
    parser.add_argument("--out", type=Path, default=Path("zoo.jsonl"), help="one line of JSON per model")
    parser.add_argument("--report", type=Path, help="write the summary there, in markdown")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--limit", type=int, default=300, help="seconds per model")
    options = parser.parse_args()
    names = [
        (lib, n) for lib in options.library for n in ZOOS[lib][0]() if any(fnmatch.fnmatch(n, p) for p in options.only)
    ]
    done = {(row["library"], row["name"]) for row in read(options.out)}
    sweep([job for job in names if job not in done], options.out, options.workers, options.limit)
    wanted = set(names)
    rows = [row for row in read(options.out) if (row["library"], row["name"]) in wanted]
    counts = Counter((row["library"], row.get("kind", "?"), row["status"]) for row in rows)
    for key, number in sorted(counts.items()):
        print(*key, number)
    return int(any(row["status"] == "wrong" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
