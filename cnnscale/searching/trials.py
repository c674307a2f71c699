"""One training in one process: what the user's function is given, and what comes back.

A checkpoint is written beside its place and moved into it, so that a killed process leaves the old one or the new one,
never half of one. Its name bears the token of the lease: an attempt reads the newest checkpoint of those before it
and writes only its own, so that a process which was thought dead cannot overwrite what its successor wrote.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import pickle
import random
import re
import threading
import time
import traceback
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from cnnscale.errors import SearchError, UsageError
from cnnscale.inputs import InputSize
from cnnscale.plans import Plan
from cnnscale.scaling import apply

__all__ = ["Job", "Outcome", "TrainFn", "Trial", "pack", "progress", "run_job", "trial_folder"]

_ONE_AT_A_TIME = threading.Lock()


class TrainFn(Protocol):
    """Trains a net for ``trial.share`` of its full schedule, and returns what is to be maximised."""

    def __call__(self, model: nn.Module, trial: Trial, /) -> float: ...


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What a training function has to know, and where it keeps its state."""

    candidate: str
    seed: int
    rung: int
    share: float
    """Of the full schedule. Train a complete, shorter schedule: a learning rate that has come down."""
    input_size: InputSize
    """(C, H, W) of the images that this net is for; of several inputs as in :attr:`cnnscale.Plan.input_size`."""
    device: torch.device
    folder: Path
    token: int

    def save(self, state: Any) -> None:
        """Keep a checkpoint, as ``torch.save`` takes it; call it once an epoch."""
        self.folder.mkdir(parents=True, exist_ok=True)
        _replace(self.folder / f"{self.token}.pt", lambda path: torch.save(state, path))

    def load(self) -> Any:
        """The newest checkpoint of this training, or None; a torn or foreign one is passed over."""
        for path in sorted(self.folder.glob("*.pt"), key=_token_of, reverse=True):
            if _token_of(path) <= self.token:
                try:
                    return torch.load(path, map_location=self.device, weights_only=False)
                except (OSError, RuntimeError, EOFError, pickle.UnpicklingError):
                    continue
        return None

    def report(self, step: int, steps: int, value: float | None = None) -> None:
        """Say how far it has come, for whoever watches; costs a few milliseconds."""
        self.folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"step": step, "steps": steps, "value": value, "token": self.token})
        _replace(self.folder / "progress.json", lambda path: path.write_text(text, encoding="utf-8"))


@dataclass(frozen=True, kw_only=True)
class Job:
    """Everything that a worker needs for one training, wherever it runs."""

    task: int
    token: int
    candidate: str
    seed: int
    rung: int
    share: float
    plan: str
    """As JSON."""
    folder: str
    payload: bytes = field(repr=False)
    """The model or its factory and the training function, from :func:`pack`."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a job: a value, or an error; ``lost`` where nobody can tell because the worker is gone."""

    task: int
    token: int
    value: float | None = None
    seconds: float = 0.0
    error: str | None = None
    lost: bool = False


def pack(
    model: nn.Module | Callable[[], nn.Module],
    train_fn: TrainFn,
    dumps: Callable[[object], bytes] = pickle.dumps,
) -> bytes:
    """The two as bytes for other processes.

    Raises:
        UsageError: one of them cannot be pickled: a lambda, a function inside a function, an open file.
    """
    return pickle.dumps((_pickled(model, "the model", dumps), _pickled(train_fn, "train_fn", dumps)))


def _pickled(thing: object, what: str, dumps: Callable[[object], bytes]) -> bytes:
    try:
        return dumps(thing)
    except Exception as error:  # pickling asks the objects themselves, which may raise anything
        raise UsageError(
            f"{what} cannot be sent to a worker process ({type(error).__name__}: {error}); define it at the top of a "
            "module"
        ) from error


def run_job(job: Job, device: str = "auto") -> Outcome:
    """Build the candidate and train it; whatever is raised becomes the outcome's error.

    One at a time in a process, also where a pool has threads: seeds, and what tracing patches, are the process's.
    """
    with _ONE_AT_A_TIME:
        start = time.perf_counter()
        try:
            value = _train(job, device)
        except Exception:  # the user's function may raise anything
            return _outcome(job, start, error=traceback.format_exc())
        return _outcome(job, start, value=value)


def _outcome(job: Job, start: float, **result: Any) -> Outcome:
    return Outcome(task=job.task, token=job.token, seconds=time.perf_counter() - start, **result)


def _train(job: Job, device: str) -> float:
    where = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    made, train_fn = map(pickle.loads, pickle.loads(job.payload))  # noqa: S301  # from the driver of this process
    plan = Plan.from_json(job.plan)
    torch.manual_seed(job.seed)
    random.seed(job.seed)
    model = apply(made if isinstance(made, nn.Module) else made(), plan, seed=job.seed)
    trial = Trial(
        candidate=job.candidate,
        seed=job.seed,
        rung=job.rung,
        share=job.share,
        input_size=plan.input_size,
        device=torch.device(where),
        folder=trial_folder(job.folder, job.candidate, job.seed, job.rung),
        token=job.token,
    )
    value = float(train_fn(model.to(where), trial))
    if not math.isfinite(value):
        raise SearchError(f"train_fn returned {value}, where a finite number is needed")
    return value


def progress(folder: str | Path, candidate: str, seed: int, rung: int) -> tuple[int, int] | None:
    """(step, steps) that a running trial last reported; None where it has not."""
    try:
        text = (trial_folder(folder, candidate, seed, rung) / "progress.json").read_text(encoding="utf-8")
    except OSError:
        return None
    reported = json.loads(text)
    return reported["step"], reported["steps"]


def trial_folder(root: str | Path, candidate: str, seed: int, rung: int) -> Path:
    plain = re.sub(r"[^\w.-]+", "_", candidate)
    digest = hashlib.sha256(candidate.encode()).hexdigest()[:6]  # names that differ in what was replaced
    return Path(root) / f"{plain}-{digest}-s{seed}-r{rung}"


def _token_of(path: Path) -> int:
    return int(path.stem) if path.stem.isdecimal() else -1


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Write beside the path, to the disk, then move it there; under a name of its own, also on a shared disk."""
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    write(beside)
    with beside.open("rb") as file:
        os.fsync(file.fileno())
    beside.replace(path)
