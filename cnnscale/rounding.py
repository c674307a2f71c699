"""How wanted numbers become integers: channels, repeats and pixels.

The channel rule is EfficientNet's (tensorflow/tpu ``efficientnet_builder.round_filters``): the nearest multiple of
``divisor``, halves up, and one step more where that falls below ``round_limit`` of the number wanted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from .errors import UsageError

__all__ = ["DEPTH_ROUNDINGS", "round_channels", "round_repeats", "round_size", "share_repeats"]

_EPSILON = 1e-9  # 1.1 * 10 must not ceil to 12


def round_channels(channels: float, *, divisor: int = 8, round_limit: float = 0.9, minimum: int | None = None) -> int:
    """The multiple of ``divisor`` nearest to ``channels``, never below ``minimum`` (default: ``divisor``).

    One ``divisor`` is added where the result lies below ``round_limit * channels``; ``round_limit=0`` turns that off.
    """
    rounded = max(divisor if minimum is None else minimum, int(channels + divisor / 2) // divisor * divisor)
    if rounded < round_limit * channels:
        rounded += divisor
    return rounded


DEPTH_ROUNDINGS: dict[str, Callable[[float], int]] = {
    "ceil": lambda blocks: math.ceil(blocks - _EPSILON),
    "round": round,
    "floor": lambda blocks: math.floor(blocks + _EPSILON),
}
"""``depth_rounding`` -> the rounding itself. EfficientNet uses ceil, TinyNet round."""


def round_repeats(repeats: int, depth: float, *, depth_rounding: str = "ceil") -> int:
    """New number of blocks of a stage that has ``repeats``; at least 1.

    Raises:
        UsageError: ``depth_rounding`` is not a known rounding.
    """
    if depth_rounding not in DEPTH_ROUNDINGS:
        known = ", ".join(map(repr, DEPTH_ROUNDINGS))
        raise UsageError(f"depth_rounding must be one of {known}, got {depth_rounding!r}")
    return max(1, DEPTH_ROUNDINGS[depth_rounding](repeats * depth))


def share_repeats(repeats: Sequence[int], total: int) -> list[int]:
    """``total`` blocks for kinds that have ``repeats``: in proportion, from the last kind to the first, 1 at least.

    No share falls when ``total`` rises. This is ``_scale_stage_depth`` of timm's ``_efficientnet_builder.py``.
    """
    left, shares = sum(repeats), []
    for number in reversed(repeats):
        shares.append(max(1, round(number * total / left)))
        left -= number
        total -= shares[-1]
    return shares[::-1]


def round_size(pixels: int, resolution: float) -> int:
    """New side of an input of ``pixels``, in whole pixels, at least 1."""
    return max(1, int(pixels * resolution + 0.5 + _EPSILON))
