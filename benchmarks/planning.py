"""What planning costs in CPU time and memory, beside what people already pay elsewhere.

    python benchmarks/planning.py

Planning (trace, widths, stages, fit) is timed on a model on the meta device, so that no weight is touched. It is set
against two things measured in the same run, round by round in turn, on one thread: constructing the same torchvision
module with its weights, and building Torch-Pruning's dependency graph with all its groups. Exit code 1 where a claim
of benchmarks/README.md fails.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import statistics
import sys
import time
import tracemalloc
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch
import torchvision
from torch import nn

import cnnscale

MEMORY_LIMIT_MB = 100
BILLION = 1_000_000_000


class Contest(NamedTuple):
    """Two things to time; ``make`` builds, untimed, what each is given."""

    name: str
    make: Callable[[], object]
    ours: Callable[[object], object]
    other: str
    other_make: Callable[[], object]
    theirs: Callable[[object], object]


def on_meta(name: str) -> nn.Module:
    with torch.device("meta"):
        return torchvision.models.get_model(name, weights=None)


def plan(model: object) -> object:
    return cnnscale.plan(model, phi=2, input_size=(3, 224, 224))


def against_construction(name: str) -> Contest:
    def construct(_: object) -> nn.Module:
        return torchvision.models.get_model(name, weights=None)

    return Contest(f"plan {name}, phi 2", lambda: on_meta(name), plan, "construct it", lambda: None, construct)


def against_torch_pruning(name: str) -> Contest:
    import torch_pruning

    def build(model: object) -> list[object]:
        graph = torch_pruning.DependencyGraph().build_dependency(model, example_inputs=torch.randn(1, 3, 224, 224))
        return list(graph.get_all_groups())

    def made() -> nn.Module:
        return torchvision.models.get_model(name, weights=None).eval()

    other = f"Torch-Pruning {version('torch-pruning')}: graph and groups"
    return Contest(f"plan {name}, phi 2", lambda: on_meta(name), plan, other, made, build)


def cpu_seconds(action: Callable[[object], object], argument: object, kept: list[object]) -> float:
    gc.collect()
    start = time.process_time()
    result = action(argument)
    elapsed = time.process_time() - start
    kept.append(result)
    return elapsed


def run(contest: Contest, rounds: int) -> tuple[list[float], list[float]]:
    """CPU seconds of both sides, in turn; the first round warms up and is dropped.

    All results are kept to the end, as a program keeps its model: no round gets the memory of an earlier one for free.
    """
    ours, theirs, kept = [], [], []
    for _ in range(rounds + 1):
        ours.append(cpu_seconds(contest.ours, contest.make(), kept))
        theirs.append(cpu_seconds(contest.theirs, contest.other_make(), kept))
    return ours[1:], theirs[1:]


def spread(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.3f} ({min(seconds):.3f} to {max(seconds):.3f})"


def planning_table(rounds: int) -> bool:
    contests = [
        against_construction("resnet50"),
        against_construction("efficientnet_b7"),
        against_torch_pruning("densenet121"),
    ]
    print(f"CPU seconds, one thread, median of {rounds} rounds (smallest to largest); the claim is a ratio below 1.\n")
    print("| cnnscale | CPU s | against | CPU s | ratio | |")
    print("|---|---|---|---|---|---|")
    holds = True
    for contest in contests:
        ours, theirs = run(contest, rounds)
        ratio = statistics.median(ours) / statistics.median(theirs)
        holds &= ratio < 1
        verdict = "holds" if ratio < 1 else "**fails**"
        print(f"| {contest.name} | {spread(ours)} | {contest.other} | {spread(theirs)} | {ratio:.2f} | {verdict} |")
    return holds


# --- memory -------------------------------------------------------------------------------------------------------


def resident_kb(field: str) -> int:
    """``VmRSS`` (now) or ``VmHWM`` (most so far) of this process; Linux only."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(field + ":"))


def scale_a_billion() -> int:
    """Scale a network on the meta device to 10^9 parameters and more; returns how many."""
    model = cnnscale.scale(on_meta("resnet50"), width=6.5, input_size=(3, 224, 224))
    assert all(parameter.is_meta for parameter in model.parameters())
    return sum(parameter.numel() for parameter in model.parameters())


def measure_memory(_: None) -> tuple[int, float, float | None]:
    """Parameters, peak of Python's allocations in MB, and peak growth of the process in MB (None off Linux).

    Run in a process of its own. A small network is scaled first, so that modules imported on first use do not count.
    """
    torch.set_num_threads(1)
    cnnscale.scale(on_meta("resnet18"), width=2.0, input_size=(3, 224, 224))
    gc.collect()

    growth = None
    if sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # VmHWM starts again from VmRSS
        before = resident_kb("VmRSS")
        scale_a_billion()
        growth = (resident_kb("VmHWM") - before) / 1024
        gc.collect()

    tracemalloc.start()
    params = scale_a_billion()
    _, peak = tracemalloc.get_traced_memory()
    return params, peak / 2**20, growth


def memory_table() -> bool:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        params, python_mb, growth_mb = pool.submit(measure_memory, None).result()
    holds = params >= BILLION and max(python_mb, growth_mb or 0) < MEMORY_LIMIT_MB
    print(f"\n`scale()` on the meta device; the claim is less than {MEMORY_LIMIT_MB} MB.\n")
    print("| result | Python allocations, peak | process, peak growth | |")
    print("|---|---|---|---|")
    growth = "not measured" if growth_mb is None else f"{growth_mb:.1f} MB"
    verdict = "holds" if holds else "**fails**"
    print(f"| resnet50 at width 6.5, {params / 1e9:.2f} G params | {python_mb:.1f} MB | {growth} | {verdict} |")
    return holds


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each pair (default 7)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # a missed target is no matter of time
    print(f"torch {torch.__version__}, torchvision {torchvision.__version__}, Python {sys.version.split()[0]}\n")
    holds = planning_table(arguments.rounds)
    holds &= memory_table()
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
