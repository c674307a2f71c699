"""What a search costs beyond its trainings, and how well two workers share the work.

    python benchmarks/searching.py

Whole calls of ``cnnscale.search``, of one candidate under several seeds. Overhead: trainings that sleep for 10 s in ten
epochs, with a checkpoint and a report after each, on one worker; what the call takes beyond the sleep, per training.
Efficiency: trainings of a fixed number of steps on one thread, by one worker and by two; the time of the one over twice
that of the two. Both count from the first training's start to the call's end: what comes before (the analysis, the
measurement, the worker's start) is paid once and told beside it. Two plain processes at once, against one alone, show
what the machine allows. Wall time: the machine has to be idle, and CPU seconds tell whether it was. Exit code 1 where a
claim of benchmarks/README.md fails.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

import cnnscale
from cnnscale.reference import INPUT_SIZE, build
from cnnscale.searching.trials import Trial

OVERHEAD, EFFICIENCY = 0.05, 0.9
EPOCHS = 10
BATCH = 64
IDLE = 0.97
"""Of a training's wall time that is CPU time, where nothing else wants the cores."""


class Span(NamedTuple):
    """One training."""

    start: float
    end: float
    cpu: float

    @property
    def seconds(self) -> float:
        return self.end - self.start


def steps(model: nn.Module, count: int, size: tuple[int, ...]) -> None:
    """Training steps on noise."""
    images, labels = torch.randn(BATCH, *size), torch.arange(BATCH) % 10
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in range(count):
        optimizer.zero_grad()
        F.cross_entropy(model.train()(images), labels).backward()
        optimizer.step()


@dataclass(frozen=True)
class Training:
    """Sleeps for some seconds, or takes some steps, and writes into ``log`` when it began and ended."""

    log: str
    sleep_s: float = 0.0
    count: int = 0

    def __call__(self, model: nn.Module, trial: Trial) -> float:
        start, cpu = time.time(), time.process_time()
        torch.set_num_threads(1)
        for epoch in range(EPOCHS):
            time.sleep(self.sleep_s / EPOCHS)
            steps(model, self.count // EPOCHS, trial.input_size)
            trial.save(model.state_dict())
            trial.report(epoch + 1, EPOCHS)
        line = f"{start!r} {time.time()!r} {time.process_time() - cpu!r}\n"
        file = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, line.encode())  # at once, so that workers can share the file
        os.close(file)
        return 0.0


class Call(NamedTuple):
    """One search."""

    start: float
    end: float
    trainings: list[Span]

    @property
    def first(self) -> float:
        return min(training.start for training in self.trainings)

    @property
    def seconds(self) -> float:
        return self.end - self.first

    @property
    def cpu_share(self) -> float:
        return sum(t.cpu for t in self.trainings) / sum(t.seconds for t in self.trainings)


def search(trainings: int, workers: int, **work: float) -> Call:
    grid = cnnscale.Grid(alpha=(1.3,), gamma=(1.15,), solve="beta")
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        train = Training(str(log), **work)
        start = time.time()
        cnnscale.search(
            build,
            train,
            grid=grid,
            divisor=1,
            seeds=trainings,
            rungs=(1.0,),
            store=Path(folder) / "s.db",
            workers=workers,
        )
        end = time.time()
        spans = [Span(*map(float, line.split())) for line in log.read_text().splitlines()]
    assert len(spans) == trainings
    return Call(start, end, spans)


def plain(count: int) -> float:
    """Seconds of so many steps, by themselves."""
    torch.set_num_threads(1)
    model = build()
    steps(model, 3, INPUT_SIZE)
    start = time.time()
    steps(model, count, INPUT_SIZE)
    return time.time() - start


def on_its_own(function: Callable[[int], float], count: int, at_once: int) -> float:
    """Mean seconds where so many processes do the same at once."""
    with ProcessPoolExecutor(at_once, mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(function, [1] * at_once))  # they have started
        return sum(pool.map(function, [count] * at_once)) / at_once


def overhead(seconds: float, trainings: int) -> bool:
    call = search(trainings, 1, sleep_s=seconds)
    each = call.seconds / trainings - seconds
    share = each / seconds
    print(f"| overhead per training of {seconds:g} s | {1e3 * each:.0f} ms, {share:.2%} | below {OVERHEAD:.0%} |")
    print(f"| once, before the first training | {call.first - call.start:.1f} s | |", flush=True)
    return share < OVERHEAD


def efficiency(seconds: float, trainings: int) -> bool:
    trial_count = 50
    alone = on_its_own(plain, trial_count, 1)
    count = max(EPOCHS, round(seconds / alone * trial_count / 2))  # a candidate has twice the baseline's MACs
    machine = on_its_own(plain, count, 1) / on_its_own(plain, count, 2)
    one, two = (search(trainings, workers, count=count) for workers in (1, 2))
    found = one.seconds / two.seconds / 2
    print(f"| {trainings} trainings, one worker | {one.seconds:.1f} s | |")
    print(f"| {trainings} trainings, two workers | {two.seconds:.1f} s | |")
    print(f"| parallel efficiency of two workers | {found:.3f} | above {EFFICIENCY} |")
    print(f"| of two plain processes | {machine:.3f} | |")
    print(f"| CPU time in the trainings' wall time | {one.cpu_share:.3f}, {two.cpu_share:.3f} | |")
    if min(one.cpu_share, two.cpu_share) < IDLE:
        print("\nThe machine had other work: measure again when it is idle.")
    return found > EFFICIENCY


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="of one training (default 10)")
    parser.add_argument("--trainings", type=int, default=8, help="in a search (default 8)")
    arguments = parser.parse_args()
    print(f"torch {torch.__version__}, load {os.getloadavg()[0]:.1f} before the start\n")
    print("| | measured | claim |")
    print("|---|---|---|")
    holds = [measure(arguments.seconds, arguments.trainings) for measure in (overhead, efficiency)]
    print("\nholds" if all(holds) else "\n**fails**")
    return 0 if all(holds) else 1


if __name__ == "__main__":
    sys.exit(main())
