"""What the tests of searches train: module-level functions, as worker processes need them."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import torch
from torch import nn

from cnnscale.coefficients import Multipliers
from cnnscale.planning import Planner
from cnnscale.plans import Options
from cnnscale.reading import analyse
from cnnscale.searching.candidates import explicit

SIZE = (1, 8, 8)
EPOCHS = 6
EPOCH_S = float(os.environ.get("CNNSCALE_TEST_EPOCH_S", "0.05"))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, 1, 1)

    def forward(self, x):
        return x + torch.relu(self.conv(x))


class Tiny(nn.Module):
    """Quick to analyse: what is tested here is not the scaling."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, 1, 1)
        self.stage = nn.Sequential(Block(), Block())
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.stage(self.stem(x)).mean((2, 3)))


def plans(widths=(1.0, 2.0)) -> dict[str, str]:
    """Name -> plan of some candidates, as JSON."""
    planner = Planner(analyse(Tiny(), SIZE), Options())
    return {f"w{width:g}": explicit(planner, Multipliers(width=width)).to_json() for width in widths}


def channels(model: nn.Module) -> float:
    return float(model.head.in_features)


def log(trial, word: str) -> None:
    """One line in the log whose name the environment has; appended in one write, so that processes can share it."""
    line = f"{trial.candidate} {trial.seed} {trial.rung} {trial.token} {word} {os.getpid()}\n"
    file = os.open(os.environ["CNNSCALE_TEST_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, line.encode())
    os.close(file)


def slow(model: nn.Module, trial) -> float:
    """Some epochs of sleep, each logged when it is over and then kept; the value tells the net and the seed."""
    done = trial.load() or 0
    for epoch in range(done, EPOCHS):
        time.sleep(EPOCH_S)
        log(trial, f"epoch{epoch}")
        trial.save(epoch + 1)
        trial.report(epoch + 1, EPOCHS)
    return channels(model) + trial.seed


def quick(model: nn.Module, trial) -> float:
    return channels(model) + trial.seed + trial.share


def slow_or_failing(model: nn.Module, trial) -> float:
    return failing(model, trial) if trial.seed else slow(model, trial)


def failing(model: nn.Module, trial) -> float:
    """The narrow net fails under seed 1, the others do not."""
    if trial.candidate == "w1" and trial.seed == 1:
        raise ValueError("no luck with this seed")
    return quick(model, trial)


def keeping(model: nn.Module, trial) -> float:
    """Tells where its checkpoints are."""
    trial.save(1)
    return float(len(trial.folder.parent.name))


def deadly(model: nn.Module, trial) -> float:
    """The narrow net kills its process under seed 0, the others do not."""
    if trial.candidate == "w1" and trial.seed == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return quick(model, trial)


def drive(store: str, workers: int) -> None:
    """A driver of its own process: everything is resumed from the store."""
    from cnnscale.searching.engine import Driver
    from cnnscale.searching.ledger import Ledger
    from cnnscale.searching.trials import pack
    from cnnscale.searching.workers import LocalExecutor

    Driver(Ledger(Path(store)), LocalExecutor(workers, ["cpu"]), pack(Tiny, slow), poll_s=0.1).run()


if __name__ == "__main__":
    from search_jobs import drive as _drive  # so that workers find the functions under this module's name

    _drive(sys.argv[1], int(sys.argv[2]))
