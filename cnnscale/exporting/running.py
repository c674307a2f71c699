"""A network run for the sake of its outputs, which those of its copies must equal."""

from __future__ import annotations

import contextlib
import copy
import io
import math
import random
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from cnnscale.batches import random_batch
from cnnscale.inputs import InputSize
from cnnscale.records import Scaling

__all__ = [
    "device_of",
    "difference",
    "first_line",
    "generators_kept",
    "outputs_of",
    "quiet",
    "scaling_of",
    "tensors",
    "without_hooks",
]


def scaling_of(model: nn.Module) -> Scaling:
    record = model.scaling
    assert isinstance(record, Scaling)
    return record


def without_hooks(model: nn.Module) -> tuple[nn.Module, list[str]]:
    """A copy without hooks, which are the user's and not part of the network, and a note if there were any."""
    copied, notes = copy.deepcopy(model), []
    for module in copied.modules():
        for name, hooks in vars(module).items():
            if name.endswith("_hooks") and hooks:
                hooks.clear()
                notes = ["hooks are not part of it"]
    if not all(parameter.requires_grad for parameter in model.parameters()):
        notes.append("parameters that are frozen in the model are not in it")
    return copied, notes


def device_of(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def outputs_of(model: nn.Module, size: InputSize, *, train: bool) -> list[torch.Tensor]:
    """The outputs for one image (two in train mode) and one sequence of random numbers, then the buffers."""
    ready = copy.deepcopy(model).train(train)
    with generators_kept(), quiet(), torch.no_grad():
        torch.manual_seed(0)
        random.seed(0)
        outputs = tensors(random_batch(ready, size, 1 + train).into(ready))
    return [*outputs, *ready.buffers()]


@contextlib.contextmanager
def generators_kept() -> Iterator[None]:
    state = random.getstate()
    with torch.random.fork_rng():
        yield
    random.setstate(state)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def tensors(output: Any) -> list[torch.Tensor]:
    return [torch.as_tensor(leaf) for leaf in pytree.tree_leaves(output) if leaf is not None]


def difference(wanted: Sequence[torch.Tensor], got: Sequence[torch.Tensor]) -> float:
    """The largest difference, as a fraction of the largest number; infinite where there are other tensors."""
    if [t.shape for t in wanted] != [t.shape for t in got]:
        return float("inf")
    worst = 0.0
    for one, other in zip(wanted, got, strict=True):
        if one.numel():
            a, b = one.detach().cpu().double(), other.detach().cpu().double()
            gap, largest = (a - b).abs().max().item(), a.abs().max().item()
            worst = max(worst, gap / largest if largest else gap) if math.isfinite(gap) else float("inf")
    return worst


def first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
