"""Which part of a network takes its time: shares of time against shares of MACs, from profiled forward passes.

The parts are the modules at the top of the network, and inside of one that holds more than half of the MACs; neighbours
whose outputs are images of one size are one part. So a deeper version of a network has the same parts in the same
order, whatever its modules are called. What no part does, as a flatten in the network's own forward, is the last line.
Waiting for the device at the border of each part costs time of its own: the shares are for comparing parts with each
other, not with other numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cnnscale.batches import example_batch
from cnnscale.copying import meta_copy
from cnnscale.inputs import InputSize
from cnnscale.timing.workloads import Workload

from .records import StageShare

__all__ = ["REST", "stage_shares"]

REST: Final = "(rest)"
_LARGE: Final = 0.5
_PASSES: Final = 5


def stage_shares(model: nn.Module, input_size: InputSize, load: Workload) -> tuple[StageShare, ...]:
    """Each part's fraction of the MACs, and of the time of a few passes of ``load``, which runs ``model``.

    Law: either fraction adds up to 1 over all parts.
    """
    seen = _survey(model, input_size)
    paths = list(_parts(model, "", seen))
    with _clocked(model, paths, load) as seconds:
        load.times(_PASSES)
    total_macs, total_s = seen[""].macs or 1, sum(seconds.values()) or 1.0
    shares = []
    for sides, group in groupby(paths, key=lambda path: seen[path].sides):
        inside = list(group)
        shares.append(
            StageShare(
                path=inside[0] if len(inside) == 1 else f"{inside[0]} to {inside[-1]}",
                sides=sides,
                macs=sum(seen[path].macs for path in inside) / total_macs,
                time=sum(seconds[path] for path in inside) / total_s,
            )
        )
    rest = seen[""].macs - sum(seen[path].macs for path in paths)
    return (*shares, StageShare(path=REST, macs=rest / total_macs, time=seconds[REST] / total_s))


@dataclass(frozen=True)
class _Seen:
    """A module in one pass."""

    macs: int
    """Those of what is inside included."""
    sides: tuple[int, ...]
    """Height and width of its output; empty where that is no image."""


def _survey(model: nn.Module, input_size: InputSize) -> dict[str, _Seen]:
    """Modules by path, those that ran; "" is the whole."""
    module = meta_copy(model).eval()
    sides: dict[str, tuple[int, ...]] = {}

    def look(path: str) -> Any:
        def hook(_module: nn.Module, _args: Any, result: Any) -> None:
            sides.setdefault(path, _sides(result))

        return hook

    for path, each in module.named_modules():
        each.register_forward_hook(look(path))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        example_batch(module, input_size, batch=1).into(module)
    counted = {path: sum(flops.values()) // 2 for path, flops in counter.get_flop_counts().items()}
    name = type(module).__name__
    return {path: _Seen(counted.get(f"{name}.{path}" if path else "Global", 0), size) for path, size in sides.items()}


def _sides(result: Any) -> tuple[int, ...]:
    while isinstance(result, (list, tuple)) and result:
        result = result[0]
    return tuple(result.shape[2:]) if isinstance(result, torch.Tensor) and result.dim() == 4 else ()


def _parts(module: nn.Module, path: str, seen: dict[str, _Seen]) -> Iterator[str]:
    """Paths of the parts before neighbours are put together, in the order of the modules."""
    for name, child in module.named_children():
        below = f"{path}.{name}" if path else name
        inside = [each for each in seen if each.startswith(f"{below}.")]
        if inside and (below not in seen or seen[below].macs > _LARGE * seen[""].macs):
            yield from _parts(child, below, seen)
        elif below in seen:
            yield below


@contextmanager
def _clocked(model: nn.Module, paths: list[str], load: Workload) -> Iterator[dict[str, float]]:
    """Seconds by part of what runs inside: each moment is charged to the innermost part that is running."""
    seconds: dict[str, float] = dict.fromkeys([*paths, REST], 0.0)
    running, since = [REST], [0.0]

    def charge() -> None:
        now = load.device.clock()
        seconds[running[-1]] += now - since[0]
        since[0] = now

    def entered(path: str) -> Any:
        def hook(*_: Any) -> None:
            charge()
            running.append(path)

        return hook

    def left(*_: Any) -> None:
        charge()
        running.pop()

    def begun(*_: Any) -> None:
        since[0] = load.device.clock()

    handles = [model.register_forward_pre_hook(begun), model.register_forward_hook(lambda *_: charge())]
    for path in paths:
        part = model.get_submodule(path)
        handles += [part.register_forward_pre_hook(entered(path)), part.register_forward_hook(left)]
    try:
        yield seconds
    finally:
        for handle in handles:
            handle.remove()
