"""Scale every convolutional network of a zoo at phi 1, on the meta device, and look for what is wrong with it.

    python benchmarks/zoo.py --out zoo.jsonl --report docs/coverage.md
    python benchmarks/zoo.py --library timm --only 'resnet*' 'convnext*'
    python benchmarks/zoo.py --models 100 --report docs/coverage.md

Every model gives one line of JSON as soon as it is done; the same command goes on where it stopped. They come in a
random order, always the same, so what a stopped sweep has seen is a sample. "It runs" is not enough: the result must
have the planned MACs (counted anew), widths and output shape, a gradient for every parameter that had one, its author's
class, and names in its author's order. Exit code 1 where a model is scaled wrongly.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import multiprocessing
import random
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from zoo_checks import CHECKS, frozen, wrong_identity
from zoo_report import report

import cnnscale

SPATIAL_LAYERS = 4
"""A net of fewer spatial convolutions (a patch embedding, say) is no CNN."""
TOLERANCE = 0.05
RENEWED = 40
"""Models after which a worker process is replaced, so that none grows without end."""

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


def segmentation_names() -> list[str]:
    import torchvision

    return list(torchvision.models.list_models(module=torchvision.models.segmentation))


def video_names() -> list[str]:
    import torchvision

    return list(torchvision.models.list_models(module=torchvision.models.video))


def other_model(name: str) -> nn.Module:
    """A model of torchvision that is no classifier of images, without weights for its backbone either."""
    import torchvision

    backbone = {"weights_backbone": None} if name in segmentation_names() else {}
    model: nn.Module = torchvision.models.get_model(name, weights=None, **backbone)
    return model


ZOOS: dict[str, tuple[Callable[[], list[str]], Callable[[str], nn.Module]]] = {
    "torchvision": (torchvision_names, torchvision_model),
    "timm": (timm_names, timm_model),
    "torchvision segmentation": (segmentation_names, other_model),
    "torchvision video": (video_names, other_model),
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
    if library == "torchvision video":
        return (3, 16, 112, 112)
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
    row["problems"] = found
    if found:
        return {**row, "status": "wrong", "why": "; ".join(f"{k}: {v}" for k, v in found.items())}
    on_target = abs(record.verification.growth / 2 - 1) <= TOLERANCE
    return {**row, "status": "scaled" if on_target else "off target"}


def sweep(jobs: Sequence[tuple[str, str]], out: Path, workers: int, limit_s: int) -> None:
    heal(out)
    with out.open("a", encoding="utf-8") as file:
        for number, row in enumerate(rows_of(jobs, workers, limit_s), 1):
            file.write(json.dumps(row) + "\n")
            file.flush()
            print(f"{number}/{len(jobs)} {row['library']} {row['name']}: {row['status']}", file=sys.stderr)


def rows_of(jobs: Sequence[tuple[str, str]], workers: int, limit_s: int) -> Iterator[dict[str, Any]]:
    """A row for every job, as they come. Where a worker dies, whatever was not finished runs again, one at a time."""
    for start in range(0, len(jobs), RENEWED * workers):
        rest = dict.fromkeys(jobs[start : start + RENEWED * workers])
        try:
            for row in _pooled(list(rest), workers, limit_s):
                del rest[row["library"], row["name"]]
                yield row
        except BrokenProcessPool:
            for job in rest:
                yield _alone(job, limit_s)


def _alone(job: tuple[str, str], limit_s: int) -> dict[str, Any]:
    try:
        return next(_pooled([job], 1, limit_s))
    except BrokenProcessPool:
        return {"library": job[0], "name": job[1], "status": "wrong", "why": "worker died", "seconds": 0.0}


def _pooled(jobs: Sequence[tuple[str, str]], workers: int, limit_s: int) -> Iterator[dict[str, Any]]:
    """Rows of new workers; ``max_tasks_per_child`` hangs where many jobs are submitted (python/cpython#115634)."""
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(examine, library, name, limit_s) for library, name in jobs]
        for future in as_completed(futures):
            yield future.result()


def heal(out: Path) -> None:
    """Cut off a last line that a killed run did not finish."""
    if out.exists():
        text = out.read_bytes()
        out.write_bytes(text[: text.rfind(b"\n") + 1])


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
    parser.add_argument(
        "--models", type=int, help="examine at most so many more; the order is random, the same one always"
    )
    options = parser.parse_args()
    names = [
        (lib, n) for lib in options.library for n in ZOOS[lib][0]() if any(fnmatch.fnmatch(n, p) for p in options.only)
    ]
    random.Random(0).shuffle(names)
    done = {(row["library"], row["name"]) for row in read(options.out)}
    rest = [job for job in names if job not in done]
    sweep(rest[: options.models], options.out, options.workers, options.limit)
    wanted = set(names)
    rows = [row for row in read(options.out) if (row["library"], row["name"]) in wanted]
    if options.report:
        options.report.write_text(report(rows, len(names)), encoding="utf-8")
    counts = Counter((row["library"], row.get("kind", "?"), row["status"]) for row in rows)
    for key, number in sorted(counts.items()):
        print(*key, number)
    return int(any(row["status"] == "wrong" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
