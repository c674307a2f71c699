"""Does the scaled network compute what the baseline does? Measured on one random batch, in two precisions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .batches import random_batch
from .copying import plain_copy
from .errors import ModelError
from .inputs import InputSize
from .precision import tf32
from .records import Preservation
from .tracing import user_frame

__all__ = ["assign", "compare", "relative_error", "tensors_of"]


def compare(
    baseline: nn.Module, scaled: nn.Module, input_size: InputSize, exact: Mapping[str, Tensor] | None = None
) -> Preservation:
    """Run copies of both networks in eval mode at the baseline's ``input_size``; neither is touched.

    ``exact`` holds tensors of the scaled network, by name, before they were rounded to its own precision.

    Raises:
        ModelError: a network does not run at this size.
    """
    before, after = plain_copy(baseline).to(torch.float64), plain_copy(scaled).to(torch.float64)
    assign(after, exact or {})
    fp64 = _errors(_outputs(after, input_size), _outputs(before, input_size))
    with tf32(allowed=False):  # a coarser rounding than single precision
        single = _outputs(before.to(torch.float32), input_size)
        fp32 = _errors(_outputs(after.to(torch.float32), input_size), single)
    rounding = _errors(single, _outputs(before.to(torch.float64), input_size))
    return Preservation(fp64=fp64, fp32=fp32, rounding=max(rounding, default=0.0))


def _errors(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> tuple[float, ...]:
    shapes = [[tuple(t.shape) for t in tensors] for tensors in (found, wanted)]
    if shapes[0] != shapes[1]:
        raise ModelError(
            f"at the baseline's input size the scaled model returns {shapes[0]} where the baseline returns {shapes[1]}"
        )
    return tuple(relative_error(f.to(w.dtype), w) for f, w in zip(found, wanted, strict=True))


def assign(net: nn.Module, exact: Mapping[str, Tensor]) -> None:
    """Copy values into the tensors of these names."""
    tensors = tensors_of(net)
    with torch.no_grad():
        for name, value in exact.items():
            tensors[name].copy_(value)


def tensors_of(net: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers; a shared one under each of its names."""
    parameters = net.named_parameters(remove_duplicate=False)
    return {**dict(parameters), **dict(net.named_buffers(remove_duplicate=False))}


def _outputs(net: nn.Module, size: InputSize) -> list[Tensor]:
    """What a network of ours returns in eval mode for the one random batch of this size."""
    batch = random_batch(net, size)
    net.train()  # where models forget what they computed for eval mode
    net.eval()
    try:
        with torch.no_grad():
            return list(_tensors(batch.into(net)))
    except Exception as error:  # user code may raise anything
        raise ModelError(
            f"{type(net).__name__} does not run at the baseline's input size {size} in {batch.tensors[0].dtype}: "
            f"{type(error).__name__}: {error}{user_frame(error.__traceback__)}"
        ) from error


def _tensors(output: Any) -> Iterator[Tensor]:
    """The tensors of an output, in order."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, (tuple, list)):
        for value in output:
            yield from _tensors(value)


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """max |found - wanted| / max |wanted|; infinite where a value is not finite."""
    difference = (found - wanted).abs().max() if wanted.numel() else torch.tensor(0.0)
    if not difference.isfinite():
        return float("inf")
    reference = wanted.abs().max() if wanted.numel() else difference
    return float(difference / reference) if difference else 0.0
