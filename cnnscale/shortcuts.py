"""Shapes without kernels: operations on meta tensors that return what they are given, as far as shapes go.

Torch's meta kernels for pointwise functions and norms are Python, and cost more than those of all other operations
together. Neither has MACs, so nothing is lost where only shapes and MACs count. What torch would check of the widths
of a norm is checked here, and strided tensors are left to torch: what comes of them is laid out in another way, on
which views depend.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  # torch's own habit
from torch.overrides import TorchFunctionMode

__all__ = ["Shortcuts", "is_plain"]


class Shortcuts(TorchFunctionMode):
    """While it is on, an operation of ``_RULES`` on a plain meta tensor is not run: its rule answers."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        rule = _RULES.get(func)
        if rule is not None and args and is_plain(args[0]) and rule(*args, **kwargs):
            return args[0].detach()  # not itself, whose shape may be changed in place
        return func(*args, **kwargs)


def is_plain(value: object) -> bool:
    """Whether the value is a contiguous floating-point tensor on the meta device."""
    return isinstance(value, torch.Tensor) and value.is_meta and value.is_floating_point() and value.is_contiguous()


def _pointwise(image: torch.Tensor, *_: Any, **__: Any) -> bool:
    return True


def _alike(image: torch.Tensor, other: Any, *rest: Any, **options: Any) -> bool:
    """Of two tensors, or a tensor and a number: whether neither shape nor dtype is the other's."""
    if rest or options:
        return False
    if isinstance(other, torch.Tensor):
        return is_plain(other) and other.shape == image.shape and other.dtype == image.dtype
    return type(other) in (int, float)


def _batch_norm(
    image: torch.Tensor,
    running_mean: torch.Tensor | None = None,
    running_var: torch.Tensor | None = None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    *_: Any,
    **__: Any,
) -> bool:
    """Whether all tensors have one value per channel: else torch itself says what is wrong."""
    return all(shape == image.shape[1:2] for shape in _shapes(running_mean, running_var, weight, bias))


def _layer_norm(
    image: torch.Tensor,
    normalized_shape: object,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    *_: Any,
    **__: Any,
) -> bool:
    """Whether the last dimensions are those that are told; only the layers' own form of telling them is known."""
    if not isinstance(normalized_shape, (tuple, list)):
        return False
    shape = torch.Size(normalized_shape)
    return image.shape[-len(shape) :] == shape and all(s == shape for s in _shapes(weight, bias))


def _group_norm(
    image: torch.Tensor,
    num_groups: int,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    *_: Any,
    **__: Any,
) -> bool:
    width = image.shape[1:2]
    return len(width) == 1 and width[0] % num_groups == 0 and all(s == width for s in _shapes(weight, bias))


def _shapes(*tensors: torch.Tensor | None) -> list[torch.Size]:
    return [tensor.shape for tensor in tensors if tensor is not None]


_RULES: dict[Any, Callable[..., bool]] = {
    **dict.fromkeys(
        (F.relu, F.relu6, F.leaky_relu, F.elu, F.celu, F.selu, F.gelu, F.silu, F.mish, F.hardtanh, F.hardswish,
         F.hardsigmoid, F.softplus, F.logsigmoid, F.tanhshrink, F.softsign, F.local_response_norm,
         torch.relu, torch.sigmoid, torch.tanh, torch.Tensor.relu, torch.Tensor.sigmoid, torch.Tensor.tanh),
        _pointwise,
    ),
    **dict.fromkeys(
        (torch.add, torch.sub, torch.mul, torch.div, torch.Tensor.add, torch.Tensor.sub, torch.Tensor.mul,
         torch.Tensor.div, torch.Tensor.__add__, torch.Tensor.__mul__),
        _alike,
    ),
    F.batch_norm: _batch_norm,
    F.layer_norm: _layer_norm,
    F.group_norm: _group_norm,
}  # fmt: skip
"""Function -> whether its result has the shape and dtype of its first argument."""
