"""What a built network costs, counted by torch itself on the meta device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from thop.profile import register_hooks as thop_rules
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from .batches import example_batch
from .budgets import Cost
from .copying import meta_copy
from .errors import ModelError
from .inputs import GivenSize, Inputs, InputSize
from .shortcuts import Shortcuts
from .tracing import user_frame

__all__ = ["measure", "run_once"]


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's modes have no types
    """Adds up what torch's own formulas (``torch.utils.flop_counter``) say of each operation that has one.

    ``FlopCounterMode`` counts the same, by module too, for four times the pass.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # the same
        self.flops = 0
        self.activations = 0
        """Output elements of the convolutions."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        packet = getattr(func, "_overloadpacket", None)
        if packet in flop_registry:
            self.flops += flop_registry[packet](*args, **kwargs, out_val=result)
        if packet is torch.ops.aten.convolution:
            self.activations += result.numel()
        return result


@dataclass(frozen=True)
class Pass:
    """What one forward pass of one image showed."""

    cost: Cost
    outputs: Any
    thop_macs: int
    """MACs of the convolution and linear modules as thop's rules count them."""


def measure(model: nn.Module, input_size: GivenSize) -> Cost:
    """The cost of one image of ``input_size`` (C, H, W) in eval mode, or of one of each of several inputs, as
    :func:`cnnscale.scale` takes them; ``model`` is not touched.

    MACs are half of what ``torch.utils.flop_counter`` counts, parameters are counted once where they are tied, and
    activations are the output elements of the convolutions.

    Raises:
        ModelError: the model does not run at this size.
        UsageError: ``input_size`` is none.
    """
    return run_once(model, Inputs.of(input_size).input_size).cost


def run_once(model: nn.Module, input_size: InputSize) -> Pass:
    """One forward pass of a meta copy, with all that is counted.

    Raises:
        ModelError: the model does not run at this size.
    """
    # FLOP formulas ask nothing of gradients, and meta tensors without them are quicker
    module = meta_copy(model).requires_grad_(False)
    module.train()  # where models forget what they computed for eval mode
    module.eval()
    params = sum(parameter.numel() for parameter in module.parameters())
    counter, outputs, calls = _Counter(), [], []
    module.register_forward_hook(lambda _module, _args, result: outputs.append(result))
    for layer in module.modules():
        if isinstance(layer, (_ConvNd, nn.Linear)) and type(layer) in thop_rules:
            layer.register_forward_hook(lambda *call: calls.append(call))
    try:
        with torch.no_grad(), counter, Shortcuts():
            example_batch(module, input_size, batch=1).into(module)
    except Exception as error:  # user code may raise anything
        raise ModelError(
            f"{type(model).__name__} does not run at input_size {input_size}: {type(error).__name__}: {error}"
            f"{user_frame(error.__traceback__)}"
        ) from error
    cost = Cost(macs=counter.flops // 2, params=params, activations=counter.activations)
    return Pass(cost, outputs[-1], _thop_macs(calls))


def _thop_macs(calls: list[Any]) -> int:
    """The sum of thop's rules over calls (layer, inputs, output) of layers; a rule adds to ``layer.total_ops``."""
    layers = {layer for layer, *_ in calls}
    for layer in layers:
        layer.total_ops = 0
    for layer, inputs, output in calls:
        thop_rules[type(layer)](layer, inputs, output)
    return int(sum(layer.total_ops for layer in layers))
