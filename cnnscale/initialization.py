"""Weights for a scaled network, drawn as the baseline's author drew them.

How the author drew is read from the baseline's tensors. A tensor of one value stays that constant. Any other keeps its
distribution, normal or uniform, and its mean; its standard deviation follows the fan it depended on. Which fan that is
(in, out, or none) is inferred over all layers of one type: the one for which std * sqrt(fan) varies least. The fans are
those of ``torch.nn.init`` (in: shape[1] * kernel, out: shape[0] * kernel).
"""

from __future__ import annotations

import hashlib
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal, TypeAlias

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from .surgery import Origin, new_tensor, split_path

__all__ = ["initialize"]

Fan = Literal["none", "in", "out"]
_Fans: TypeAlias = dict[tuple[type, str], Fan]
_SAMPLE = 65536
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def initialize(
    scaled: nn.Module, baseline: nn.Module, origins: dict[str, Origin], seed: int | None, *, same: bool = False
) -> None:
    """Replace the meta tensors of ``scaled`` by real ones on the baseline's devices (a meta baseline stays meta).

    With ``same``, tensors of the baseline's shape get its values.
    ``seed`` makes the draw reproducible; without one it follows from the state of torch's global generator, which is
    read but never advanced.
    """
    fans = cache(lambda: _fans(baseline))
    source = _Source(seed)
    made: dict[int, torch.Tensor] = {}
    for path, module in scaled.named_modules():
        origin = origins.get(path)
        original = baseline.get_submodule(origin.path) if origin is not None else None
        for store in (module._parameters, module._buffers):
            for name, tensor in store.items():
                if tensor is None:
                    continue
                if id(tensor) not in made:
                    like = getattr(original, name, None) if original is not None else None
                    copied = origin is not None and origin.copy > 0
                    place = _Place(module, original, name)
                    made[id(tensor)] = _value(
                        tensor, like, place, fans, source, same=same and not copied, copied=copied
                    )
                store[name] = made[id(tensor)]


@dataclass(frozen=True)
class _Place:
    """Where a tensor stands: its module in the scaled network and in the baseline, and its name there."""

    scaled: nn.Module
    baseline: nn.Module | None
    name: str


def _value(
    tensor: torch.Tensor,
    like: torch.Tensor | None,
    place: _Place,
    fans: Callable[[], _Fans],
    source: _Source,
    *,
    same: bool,
    copied: bool,
) -> torch.Tensor:
    """One tensor of the result, of the shape of the meta ``tensor`` and the kind of the baseline's ``like``."""
    if like is None:
        return new_tensor(tensor, tensor.shape, "cpu").zero_()
    value = new_tensor(like, tensor.shape, like.device)
    if like.device.type == "meta":
        return value
    with torch.no_grad():
        unchanged = like.shape == value.shape
        statistic = isinstance(place.baseline, _NormBase) and place.name in _STATISTICS
        buffer = not isinstance(like, nn.Parameter) and not statistic
        if unchanged and (same or (buffer and not copied)):
            value.copy_(like)
        elif buffer or not (statistic or value.is_floating_point()):
            _tile(value, like)
        elif statistic:
            value.fill_(1.0 if place.name == "running_var" else 0.0)
        else:
            _draw(value, like, _ratio(fans, place, like, value), source)
    return value


def _tile(value: torch.Tensor, like: torch.Tensor) -> None:
    """A buffer is no weight (the kernel of a blur, one row per channel): its rows are repeated, never drawn."""
    for dim, size in enumerate(value.shape):
        like = like.index_select(dim, torch.arange(size, device=like.device) % like.shape[dim])
    value.copy_(like)


# --- how the baseline was drawn ---------------------------------------------------------------------------------------


@dataclass
class _Source:
    """Independent generators, one per device, all from one seed."""

    seed: int | None

    def __post_init__(self) -> None:
        if self.seed is None:
            state = torch.get_rng_state().numpy().tobytes()
            self.seed = int.from_bytes(hashlib.sha256(state).digest()[:7], "big")
        self.generators: dict[torch.device, torch.Generator] = {}

    def on(self, device: torch.device) -> torch.Generator:
        if device not in self.generators:
            assert self.seed is not None
            self.generators[device] = torch.Generator(device).manual_seed(self.seed)
        return self.generators[device]


def _draw(value: torch.Tensor, like: torch.Tensor, ratio: float, source: _Source) -> None:
    """Fill ``value`` from the distribution of ``like``, its standard deviation times ``ratio``."""
    sample = like.detach().flatten()[:_SAMPLE].float()
    low, high = (float(v) for v in sample.aminmax()) if sample.numel() else (0.0, 0.0)
    if low == high:
        value.fill_(low)
        return
    mean, std = float(sample.mean()), float(sample.std(correction=0))
    generator = source.on(value.device)
    if _is_uniform(sample, mean, std):
        reach = math.sqrt(3) * std * ratio
        value.uniform_(mean - reach, mean + reach, generator=generator)
    else:
        value.normal_(mean, std * ratio, generator=generator)


def _is_uniform(sample: torch.Tensor, mean: float, std: float) -> bool:
    """By the fourth moment: 1.8 for a uniform distribution, 3 for a normal one. Few values decide nothing: uniform."""
    if sample.numel() < 32:
        return True
    return float(((sample - mean) / std).square().square().mean()) < 2.2


def _ratio(fans: Callable[[], _Fans], place: _Place, like: torch.Tensor, value: torch.Tensor) -> float:
    """Correction of the standard deviation for the new fan.

    A bias has torch's default where its std is 1 / sqrt(3 * fan in) of its weight; then it follows that fan.
    """
    if like.dim() > 1:
        fan = fans().get((type(place.baseline), place.name), "none")
        return 1.0 if fan == "none" else math.sqrt(_fan(like, fan) / _fan(value, fan))
    before, after = getattr(place.baseline, "weight", None), getattr(place.scaled, "weight", None)
    if place.name != "bias" or before is None or after is None or before.dim() < 2 or like.numel() < 2:
        return 1.0
    usual = 1 / math.sqrt(3 * _fan(before, "in"))
    is_default = abs(float(like.detach().float().std()) / usual - 1) < 0.5
    return math.sqrt(_fan(before, "in") / _fan(after, "in")) if is_default else 1.0


def _fan(tensor: torch.Tensor, fan: Fan) -> int:
    kernel = math.prod(tensor.shape[2:])
    return int(tensor.shape[1] if fan == "in" else tensor.shape[0]) * kernel


def _fans(baseline: nn.Module) -> _Fans:
    """(type of layer, name of tensor) -> the fan on which its standard deviation depends."""
    groups: dict[tuple[type, str], list[torch.Tensor]] = defaultdict(list)
    for path, tensor in baseline.named_parameters():
        if tensor.dim() > 1 and tensor.device.type != "meta" and tensor.is_floating_point():
            parent, name = split_path(path)
            groups[type(baseline.get_submodule(parent)), name].append(tensor)
    return {key: _best_fan(tensors) for key, tensors in groups.items()}


def _best_fan(tensors: list[torch.Tensor]) -> Fan:
    deviations = [(t, float(t.detach().flatten()[:_SAMPLE].float().std(correction=0))) for t in tensors]
    spreads: dict[Fan, float] = {}
    for fan in ("in", "out", "none"):
        logs = list(_normalized(deviations, fan))
        if not logs:
            return "none"
        spreads[fan] = statistics.pstdev(logs) if len(logs) > 1 else _distance_to_gain(logs[0], fan)
    return min(spreads, key=lambda fan: spreads[fan])


def _normalized(deviations: list[tuple[torch.Tensor, float]], fan: Fan) -> Iterator[float]:
    for tensor, std in deviations:
        if std > 0:
            yield math.log(std) + (0.5 * math.log(_fan(tensor, fan)) if fan != "none" else 0.0)


def _distance_to_gain(log: float, fan: Fan) -> float:
    """For a single layer: how far std * sqrt(fan) is from a usual gain (He 2, LeCun 1, torch's default 1/3), or std
    itself from a usual constant."""
    gains, deviations = (2.0, 1.0, 1 / 3), (0.001, 0.01, 0.02)
    usual = [math.log(s) for s in deviations] if fan == "none" else [0.5 * math.log(g) for g in gains]
    return min(abs(log - value) for value in usual)
