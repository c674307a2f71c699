"""Shapes without kernels: operations on meta tensors whose answer is an empty tensor of a shape that is known.

Torch's meta kernels for pointwise functions, norms and means are Python, and cost more than those of all other
operations together. None of them has MACs, so nothing is lost where only shapes and MACs count. Each rule answers in
the cases that it knows, where torch would refuse nothing and lay its answer out in order; all else is left to torch.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import zip_longest
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F  # noqa: N812  # torch's own habit
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

__all__ = ["OnMeta", "Shortcuts", "is_plain"]

_Answer: TypeAlias = torch.Tensor | None
"""None where torch itself is to answer."""


class OnMeta(TorchFunctionMode):
    """While it is on, tensors that a model makes on the CPU, where it is meant to run, meet those on the meta device:
    an operation that refuses the two together is run with all of them on the latter."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        try:
            return func(*args, **kwargs)
        except RuntimeError:
            tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
            if len({tensor.is_meta for tensor in tensors}) < 2:
                raise
        args, kwargs = tree_map_only(torch.Tensor, lambda tensor: tensor.to("meta"), (args, kwargs))
        return func(*args, **kwargs)


class Shortcuts(OnMeta):
    """While it is on, an operation of ``_RULES`` on meta tensors is not run where its rule has the answer."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        rule = _RULES.get(func) if args else None
        answer = rule(*args, **(kwargs or {})) if rule is not None else None
        return super().__torch_function__(func, types, args, kwargs) if answer is None else answer


def is_plain(value: object) -> bool:
    """Whether the value is a contiguous floating-point tensor on the meta device."""
    return isinstance(value, torch.Tensor) and value.is_meta and value.is_floating_point() and value.is_contiguous()


def _like(image: torch.Tensor) -> torch.Tensor:
    return image.detach()  # not itself, whose shape may be changed in place


def _empty(image: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.empty(shape, dtype=image.dtype, device="meta")


# --- operations on one image ------------------------------------------------------------------------------------------


def _pointwise(image: torch.Tensor, *_: Any, **__: Any) -> _Answer:
    return _like(image) if is_plain(image) else None


def _power(image: torch.Tensor, exponent: Any, *rest: Any, **options: Any) -> _Answer:
    known = isinstance(exponent, (int, float)) and not rest and not options
    return _pointwise(image) if known else None


def _mean(image: torch.Tensor, dim: Any = None, keepdim: Any = False, *rest: Any, **options: Any) -> _Answer:
    """Without the dimensions over which it is taken, or with 1 for each."""
    dims = (dim,) if isinstance(dim, int) else dim
    if rest or options or not isinstance(dims, (tuple, list)) or not is_plain(image):
        return None
    gone = {d + image.dim() if d < 0 else d for d in dims}
    if not dims or len(gone) < len(dims) or not gone <= set(range(image.dim())):
        return None
    kept = ((d, size) for d, size in enumerate(image.shape) if keepdim or d not in gone)
    return _empty(image, tuple(1 if d in gone else size for d, size in kept))


def _variance(image: torch.Tensor, dim: Any = None, *rest: Any, keepdim: Any = False, **options: Any) -> _Answer:
    return _mean(image, dim, keepdim) if not rest and options.keys() <= {"unbiased"} else None


def _adaptive_pool(image: torch.Tensor, output_size: Any, *_: Any, **__: Any) -> _Answer:
    """A map to a square of a given side, or to given sides."""
    sides = (output_size,) * 2 if isinstance(output_size, int) else output_size
    known = isinstance(sides, (tuple, list)) and all(isinstance(s, int) and s > 0 for s in sides)
    if not known or not is_plain(image) or image.dim() != 4 or not image.numel():
        return None
    return _empty(image, (*image.shape[:2], *sides)) if len(sides) == 2 else None


# --- operations on several --------------------------------------------------------------------------------------------


def _binary(image: torch.Tensor, other: Any, *rest: Any, **options: Any) -> _Answer:
    """An image with a number, or with an image of its dtype; sizes of 1, and those that are missing, are stretched."""
    if rest or options or not is_plain(image):
        return None
    if isinstance(other, (int, float)):
        return _like(image)
    if not is_plain(other) or other.dtype != image.dtype:
        return None
    if other.shape == image.shape:
        return _like(image)
    pairs = list(zip_longest(reversed(image.shape), reversed(other.shape), fillvalue=1))
    if any(a != b and 1 not in {a, b} for a, b in pairs):
        return None
    return _empty(image, tuple(b if a == 1 else a for a, b in reversed(pairs)))


def _in_place(image: torch.Tensor, other: Any, *rest: Any, **options: Any) -> _Answer:
    answer = _binary(image, other, *rest, **options)
    return image if answer is not None and answer.shape == image.shape else None


def _cat(images: Any, dim: Any = 0, *rest: Any, **options: Any) -> _Answer:
    """Images that differ in one size alone."""
    known = isinstance(images, (tuple, list)) and images and isinstance(dim, int) and not rest and not options
    if not known or not all(map(is_plain, images)):
        return None
    first = images[0]
    at = dim + first.dim() if dim < 0 else dim
    around = [(*image.shape[:at], *image.shape[at + 1 :]) for image in images]
    if not 0 <= at < first.dim() or any(sizes != around[0] for sizes in around):
        return None
    if any(image.dtype != first.dtype or image.dim() != first.dim() for image in images):
        return None
    return _empty(first, (*first.shape[:at], sum(image.shape[at] for image in images), *first.shape[at + 1 :]))


def _linear(image: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> _Answer:
    """The same without its bias, which has no MACs; torch's kernel for both together is its dearest."""
    if bias is None or not (is_plain(bias) and is_plain(weight) and weight.dtype == bias.dtype == image.dtype):
        return None
    return F.linear(image, weight) if (*bias.shape, *image.shape[-1:]) == weight.shape else None


# --- norms ------------------------------------------------------------------------------------------------------------


def _batch_norm(
    image: torch.Tensor,
    running_mean: torch.Tensor | None = None,
    running_var: torch.Tensor | None = None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    *_: Any,
    **__: Any,
) -> _Answer:
    """Of batches and of instances: all tensors have one value per channel, and a channel has more than one."""
    known = is_plain(image) and image.shape[:2].numel() < image.numel()
    shapes = _shapes(running_mean, running_var, weight, bias)
    return _like(image) if known and all(shape == image.shape[1:2] for shape in shapes) else None


def _layer_norm(
    image: torch.Tensor,
    normalized_shape: object,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    *_: Any,
    **__: Any,
) -> _Answer:
    """The last dimensions are those that are told, in the layers' own form; whatever the layout, it comes out plain."""
    if not isinstance(normalized_shape, (tuple, list)) or not (image.is_meta and image.is_floating_point()):
        return None
    shape = torch.Size(normalized_shape)
    known = len(shape) > 0 and image.shape[-len(shape) :] == shape and all(s == shape for s in _shapes(weight, bias))
    return _empty(image, image.shape) if known else None


def _group_norm(
    image: torch.Tensor,
    num_groups: int,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    *_: Any,
    **__: Any,
) -> _Answer:
    """All tensors have one value per channel, and a group of channels has more than one."""
    width = image.shape[1:2]
    known = is_plain(image) and len(width) == 1 and width[0] % num_groups == 0
    known = known and image.numel() > image.shape[0] * num_groups
    return _like(image) if known and all(shape == width for shape in _shapes(weight, bias)) else None


def _shapes(*tensors: torch.Tensor | None) -> list[torch.Size]:
    return [tensor.shape for tensor in tensors if tensor is not None]


_RULES: dict[Any, Callable[..., _Answer]] = {
    **dict.fromkeys(
        (F.relu, F.relu6, F.leaky_relu, F.elu, F.celu, F.selu, F.gelu, F.silu, F.mish, F.hardtanh, F.hardswish,
         F.hardsigmoid, F.softplus, F.logsigmoid, F.tanhshrink, F.softsign, F.local_response_norm,
         torch.relu, torch.sigmoid, torch.tanh, torch.sqrt, torch.rsqrt,
         torch.Tensor.relu, torch.Tensor.sigmoid, torch.Tensor.tanh, torch.Tensor.sqrt, torch.Tensor.rsqrt),
        _pointwise,
    ),
    **dict.fromkeys(
        (torch.add, torch.sub, torch.mul, torch.div, torch.Tensor.add, torch.Tensor.sub, torch.Tensor.mul,
         torch.Tensor.div, torch.Tensor.__add__, torch.Tensor.__sub__, torch.Tensor.__mul__,
         torch.Tensor.__truediv__),
        _binary,
    ),
    **dict.fromkeys((torch.Tensor.add_, torch.Tensor.mul_, torch.Tensor.sub_, torch.Tensor.div_), _in_place),
    **dict.fromkeys((torch.pow, torch.Tensor.pow, torch.Tensor.__pow__), _power),
    **dict.fromkeys((torch.mean, torch.Tensor.mean), _mean),
    **dict.fromkeys((torch.var, torch.Tensor.var), _variance),
    torch.cat: _cat,
    F.adaptive_avg_pool2d: _adaptive_pool,
    F.linear: _linear,
    **dict.fromkeys((F.batch_norm, F.instance_norm), _batch_norm),
    F.layer_norm: _layer_norm,
    F.group_norm: _group_norm,
}  # fmt: skip
"""Function -> its answer to the calls that it knows."""
