"""Grow trained networks of the zoos, and measure whether they still compute what they did.

    python benchmarks/growing.py --out growing.jsonl --report docs/growing-table.md
    python benchmarks/growing.py --only 'resnet*' --ways phi

Every network gets random weights, affine parameters and running statistics (those of a new one hide mistakes), and is
scaled with ``weights="preserve"`` at phi 1, by width 1.5, by depth 1.5, and by both. The outputs of both networks are
then compared once more, on other images than those which ``scale`` compares them on, and in double precision where
memory allows. Every network gives one line of JSON as soon as it is done; the same command goes on where it stopped.
Exit code 1 where a result is not exact: what cannot be exact must be refused.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import math
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from zoo import heal, read, timm_model, torchvision_model, torchvision_names
from zoo_checks import tensors

import cnnscale

WAYS: dict[str, dict[str, float]] = {
    "phi": {"phi": 1},
    "wider": {"width": 1.5},
    "deeper": {"depth": 1.5},
    "wider and deeper": {"width": 1.5, "depth": 1.5},
}
TRANSFORMERS = ("vit", "swin", "maxvit")
TIMM = (
    "cs3darknet_l", "efficientnet_b0", "efficientnet_es", "efficientnet_lite0", "mnasnet_100", "mobilenetv2_100",
    "mobilenetv3_large_100", "mobilenetv3_small_100", "nfnet_f0", "resnet18", "resnet50", "tf_efficientnet_b0",
    "tf_efficientnet_lite0", "vgg11_bn", "convnext_small", "convnextv2_base",
)  # fmt: skip
"""The baselines of the tests' published pairs; those of torchvision are in its list."""
PIXELS = {"inception_v3": 299}
SMALL = 64
DOUBLE = 1e-10
WIDE = 100_000_000
"""Parameters up to which a network is in double precision from the start; beyond, its memory does not do."""


def names() -> list[tuple[str, str]]:
    ours = [n for n in torchvision_names() if not n.startswith(TRANSFORMERS)]
    return [("torchvision", n) for n in ours] + [("timm", n) for n in TIMM]


def build(library: str, name: str) -> nn.Module:
    model = torchvision_model(name) if library == "torchvision" else timm_model(name)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, tensor in [*model.named_parameters(), *model.named_buffers()]:
            fill(key.rpartition(".")[2], tensor, generator)
    few = sum(p.numel() for p in model.parameters()) < WIDE
    model = model.double() if few else model
    settle(model, pixels(name), generator)
    return model


def pixels(name: str) -> int:
    return PIXELS.get(name, SMALL)


def settle(model: nn.Module, side: int, generator: torch.Generator) -> None:
    """Give batch norms running statistics near those of the activations that they get, as training leaves them.

    And biases near 1, which keep most units on: with biases near 0 a random network lets rounding grow by a fifth a
    layer (Yang et al. 2019, "A mean field theory of batch normalization", section 3), until it decides the outputs.
    """

    def near(layer: nn.Module, inputs: tuple[Tensor]) -> None:
        assert isinstance(layer, _BatchNorm)
        mean, var = layer.running_mean, layer.running_var
        assert mean is not None
        assert var is not None
        channels = inputs[0].transpose(0, 1).flatten(1)
        spread = channels.std(1, correction=0)
        mean.copy_(channels.mean(1) + (torch.rand(len(mean), generator=generator) - 0.5) * spread)
        factor = 0.5 + torch.rand(len(var), generator=generator)
        var.copy_(spread.square() * factor + 1e-3)  # some are equal in all images
        if layer.bias is not None:
            layer.bias += 1

    hooks = [m.register_forward_pre_hook(near) for m in model.modules() if isinstance(m, _BatchNorm)]
    images = torch.rand(8, 3, side, side, generator=generator).to(next(model.parameters()).dtype)
    with torch.no_grad():
        model.eval()(images)
    for hook in hooks:
        hook.remove()


def fill(role: str, tensor: Tensor, generator: torch.Generator) -> None:
    """Random values of a size at which the network neither dies out nor overflows."""
    if not tensor.is_floating_point():
        tensor.zero_()
    elif role == "running_mean" or role.endswith("bias"):
        tensor.uniform_(-0.2, 0.2, generator=generator)
    elif tensor.ndim < 2 or role == "running_var":
        tensor.uniform_(0.5, 1.5, generator=generator)
    else:
        bound = math.sqrt(6 / max(1, tensor[0].numel()))
        tensor.uniform_(-bound, bound, generator=generator)


def norms(model: nn.Module) -> str:
    """``batch``: every norm is a batch norm. ``none``: there are none."""
    kinds = {type(m) for m in model.modules() if "Norm" in type(m).__name__ and list(m.parameters(recurse=False))}
    if not kinds:
        return "none"
    return "batch" if any(issubclass(kind, _BatchNorm) for kind in kinds) else "other"


def examine(library: str, name: str, way: str) -> dict[str, Any]:
    row: dict[str, Any] = {"library": library, "name": f"{name} {way}"}
    start = time.process_time()
    size = (3, pixels(name), pixels(name))
    model = build(library, name)
    row |= {"net": name, "way": way, "norms": norms(model), "params": sum(p.numel() for p in model.parameters())}
    try:
        result: Any = cnnscale.scale(model, input_size=size, weights="preserve", **WAYS[way])
    except cnnscale.CnnScaleError as error:
        row |= {"status": "refused", "why": f"{type(error).__name__}: {error}"}
    except Exception as error:  # whatever else is raised is a fault, and a row
        row |= {"status": "wrong", "why": f"{type(error).__name__}: {error}"}
    else:
        found = result.scaling.preservation
        row |= {"fp64": max(found.fp64), "fp32": max(found.fp32), "own": difference(model, result, size)}
        row |= {"growth": sum(p.numel() for p in result.parameters()) / row["params"]}
        bound = DOUBLE if next(model.parameters()).dtype == torch.float64 else max(1e-5, 2 * found.rounding)
        row["status"] = "exact" if found.exact and row["own"] <= bound else "wrong"
    return {**row, "seconds": round(time.process_time() - start, 2)}


def difference(model: nn.Module, result: nn.Module, size: Sequence[int]) -> float:
    """Of the outputs, relative to the largest, on images of our own."""
    images = torch.rand(2, *size, generator=torch.Generator().manual_seed(7)).to(next(model.parameters()).dtype)
    with torch.no_grad():
        before, after = (list(tensors(net.eval()(images))) for net in (model, result))
    assert len(before) == len(after)
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(after, before, strict=True))


def size(library: str, name: str) -> int:
    model = (torchvision_model if library == "torchvision" else timm_model)(name)
    return sum(p.numel() for p in model.parameters())


def report(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """A table of counts, and one of all refusals."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "timm"))
    yield f"Made by `python benchmarks/growing.py --report docs/growing-table.md` with {versions}."
    yield ""
    yield "# What growing preserves"
    yield ""
    yield "Random weights, affine parameters and statistics. Errors are the largest difference of the outputs, relative"
    yield "to the largest output. The ways: phi 1; width 1.5; depth 1.5; both. Norms: batch norms, none, or others."
    yield ""
    yield "| networks | norms | way | exact | refused | largest error, fp64 | fp32 |"
    yield "|---|---|---|---|---|---|---|"
    for library in ("torchvision", "timm"):
        for norm in ("batch", "none", "other"):
            for way in WAYS:
                mine = [r for r in rows if (r["library"], r["norms"], r["way"]) == (library, norm, way)]
                exact = [r for r in mine if r["status"] == "exact"]
                if mine:
                    errors = [f"{max(r[k] for r in exact):.0e}" if exact else "-" for k in ("fp64", "fp32")]
                    counts = [len(exact), len(mine) - len(exact)]
                    yield "| " + " | ".join(map(str, [library, norm, way, *counts, *errors])) + " |"
    yield ""
    yield "| refused | way | why |"
    yield "|---|---|---|"
    for r in rows:
        if r["status"] != "exact":
            why = r.get("why", "not exact").removeprefix("PreserveError: ").partition("; pin the")[0]
            yield f"| {r['net']} | {r['way']} | {why} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=["*"], metavar="PATTERN", help="shell patterns of model names")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--out", type=Path, default=Path("growing.jsonl"), help="one line of JSON per network and way")
    parser.add_argument("--report", type=Path, help="write the tables there, in markdown")
    parser.add_argument(
        "--largest", type=float, default=1e9, help="leave larger networks out (parameters; 50 bytes each)"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    heal(options.out)
    done = {(row["library"], row["name"]) for row in read(options.out)}
    jobs = [(lib, n) for lib, n in names() if any(fnmatch.fnmatch(n, p) for p in options.only)]
    with options.out.open("a", encoding="utf-8") as file:
        for library, name in jobs:
            ways = [way for way in options.ways if (library, f"{name} {way}") not in done]
            if not ways or size(library, name) > options.largest:
                continue
            for way in ways:
                row = examine(library, name, way)
                file.write(json.dumps(row) + "\n")
                file.flush()
                errors = f"{row['fp64']:.0e} {row['fp32']:.0e} {row['own']:.0e}" if "own" in row else ""
                print(row["name"], row["status"], errors, row.get("why", ""), f"{row['seconds']} s", flush=True)
    rows = read(options.out)
    if options.report:
        options.report.write_text("\n".join(report(rows)) + "\n", encoding="utf-8")
    return int(any(row["status"] == "wrong" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
