"""What it costs to find out which channels of a network have one width, and how that cost grows with the network.

    python benchmarks/widths.py

Widths inference is all that lies between a traced graph with its stages and the width groups: the walk that runs every
node's rule and collects the equations, the ties of stages that repeat, and the groups with the rules by which they
follow one another. It is timed apart from tracing, on the meta device, on one thread. Exit code 1 where a claim of
benchmarks/README.md fails.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import timm
import torch
import torchvision
from torch import nn
from torchvision.models.resnet import Bottleneck, ResNet

import cnnscale
from cnnscale.reading import _analysis, _Base
from cnnscale.tracing import trace
from cnnscale.widths import groups

PIXELS, DIVISOR = 224, 8
LIMITS_S = {"resnet50": 0.1, "densenet201": 0.2, "hrnet_w48": 1.0}
DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 200: (3, 24, 36, 3), 500: (3, 4, 156, 3), 1000: (3, 4, 323, 3)}
"""Layers of a residual network with bottlenecks -> blocks of each stage (to within a few layers)."""
LINEAR = 1.5
"""Time per node of the largest network over that of the smallest, at most."""

Made = TypeVar("Made")


class Times(NamedTuple):
    """CPU seconds, medians."""

    nodes: int
    tracing: float
    stages: float
    widths: float

    @property
    def microseconds(self) -> float:
        """Of widths inference, for each node."""
        return self.widths / self.nodes * 1e6


def zoo_model(name: str) -> nn.Module:
    known = name in torchvision.models.list_models(module=torchvision.models)
    return torchvision.models.get_model(name, weights=None) if known else timm.create_model(name)


def timed(action: Callable[[], Made]) -> tuple[Made, float]:
    gc.collect()
    start = time.process_time()
    made = action()
    return made, time.process_time() - start


def measure(make: Callable[[], nn.Module], rounds: int) -> Times:
    """Each round works on a model of its own: nothing is remembered from the one before."""
    nodes, seconds = 0, []
    for _ in range(rounds + 1):
        with torch.device("meta"):
            model = make().eval()
        traced, tracing = timed(lambda model=model: trace(model, (3, PIXELS, PIXELS)))
        sites, staging = timed(lambda model=model, traced=traced: _Base(model).sites(traced))
        _, widths = timed(
            lambda model=model, traced=traced, sites=sites: groups(_analysis(_Base(model), traced, sites), DIVISOR)
        )
        nodes = len(traced.nodes)
        seconds.append((tracing, staging, widths))
    return Times(nodes, *map(statistics.median, zip(*seconds[1:], strict=True)))


HEADER = "| network | graph nodes | trace, s | stages, s | widths, s | µs per node | |\n|---|---|---|---|---|---|---|"


def line(name: str, times: Times, verdict: str) -> str:
    cells = (f"{seconds:.3f}" for seconds in times[1:])
    return f"| {name} | {times.nodes} | {' | '.join(cells)} | {times.microseconds:.0f} | {verdict} |"


def verdict(holds: bool, claim: str) -> str:
    return f"{claim}: {'holds' if holds else '**fails**'}"


def zoo_table(rounds: int) -> bool:
    print(HEADER)
    every = True
    for name, limit in LIMITS_S.items():
        times = measure(lambda name=name: zoo_model(name), rounds)
        holds = times.widths < limit
        every &= holds
        print(line(name, times, verdict(holds, f"below {limit:g} s")), flush=True)
    return every


def growth_table(rounds: int) -> bool:
    print(f"\n{HEADER}")
    found = {}
    for depth, repeats in DEPTHS.items():
        found[depth] = measure(lambda repeats=repeats: ResNet(Bottleneck, list(repeats)), rounds)
        print(line(f"residual, {depth} layers", found[depth], ""), flush=True)
    ratio = found[max(DEPTHS)].microseconds / found[min(DEPTHS)].microseconds
    claim = f"\nTime per node at {max(DEPTHS)} layers is {ratio:.2f} times that at {min(DEPTHS)}; at most {LINEAR}"
    print(verdict(ratio <= LINEAR, claim))
    return ratio <= LINEAR


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="rounds; the median counts, and one more warms up")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    versions = f"torch {torch.__version__}, torchvision {torchvision.__version__}, timm {timm.__version__}"
    print(f"cnnscale {cnnscale.__version__}, {versions}; CPU seconds, one thread, median of {arguments.rounds}\n")
    holds = [zoo_table(arguments.rounds), growth_table(arguments.rounds)]
    return 0 if all(holds) else 1


if __name__ == "__main__":
    sys.exit(main())
