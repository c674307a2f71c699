"""What a built network costs, counted by torch itself on the meta device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from .budgets import Cost
from .errors import ModelError
from .tracing import SAME_SHAPE, example_input, is_leaf, meta_copy, user_frame

__all__ = ["measure", "run_once"]


class _ConvolutionOutputs(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's modes have no types
    """Sums the output elements of all convolutions."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # the same
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func._overloadpacket is torch.ops.aten.convolution:
            self.total += result.numel()
        return result


def measure(model: nn.Module, input_size: tuple[int, ...]) -> Cost:
    """The cost of one image of ``input_size`` (C, H, W) in eval mode; ``model`` is not touched.

    MACs are half of what ``torch.utils.flop_counter`` counts, parameters are counted once where they are tied, and
    activations are the output elements of the convolutions.

    Raises:
        ModelError: the model does not run at this size.
    """
    return run_once(model, input_size)[0]


def run_once(
    model: nn.Module, input_size: tuple[int, ...], run: Callable[[nn.Module, torch.Tensor], None] | None = None
) -> tuple[Cost, Any]:
    """(cost, outputs) of one forward pass of a meta copy. ``run`` makes that pass in its own way, and may count too.

    Raises:
        ModelError: the model does not run at this size.
    """
    # FLOP counting asks any parameter given to a layer for its grad_fn
    module = meta_copy(model).requires_grad_(False)
    module.train()  # where models forget what they computed for eval mode
    module.eval()
    _shorten(module)
    params = sum(parameter.numel() for parameter in module.parameters())
    activations, flops, outputs = _ConvolutionOutputs(), FlopCounterMode(display=False), []
    module.register_forward_hook(lambda _module, _args, result: outputs.append(result))
    try:
        with torch.no_grad(), flops, activations:
            (run or nn.Module.__call__)(module, example_input(module, input_size, batch=1))
    except Exception as error:  # user code may raise anything
        raise ModelError(
            f"{type(model).__name__} does not run at input_size {tuple(input_size)}: {type(error).__name__}: {error}"
            f"{user_frame(error.__traceback__)}"
        ) from error
    cost = Cost(macs=flops.get_total_flops() // 2, params=params, activations=activations.total)
    return cost, outputs[-1]


def _shorten(module: nn.Module) -> None:
    """Activations hand on what they get: they cost no MACs, have no width that could be wrong, and are slow on meta."""
    for child in module.modules():
        if is_leaf(child) and isinstance(child, SAME_SHAPE) and not isinstance(child, _BatchNorm):
            child.forward = _handed_on  # type: ignore[method-assign]  # of our own copy


def _handed_on(input: torch.Tensor) -> torch.Tensor:
    return input
