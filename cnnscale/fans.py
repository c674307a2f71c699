"""Factors that depend on a layer's fan-in: kept true where the fan-in has changed.

A layer that standardises its weights multiplies them by ``gain * fan_in ** -0.5`` (Brock et al. 2021, arXiv
2101.08692), a number that its author computed when the layer was made. That an attribute is one is seen from the
baseline: over all layers of a class, whose fan-ins differ, its product with their square root is one number.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator

import torch
from torch import nn

__all__ = ["follow_fans"]


def follow_fans(baseline: nn.Module, scaled: nn.Module) -> None:
    """Give the factors of ``scaled`` the values that their author would have computed."""
    for (cls, name), gain in _gains(baseline).items():
        for module, fan_in in _weighted(scaled):
            factor = gain / math.sqrt(fan_in)
            if type(module) is cls and name in vars(module) and not math.isclose(getattr(module, name), factor):
                setattr(module, name, factor)


def _gains(root: nn.Module) -> dict[tuple[type[nn.Module], str], float]:
    """(class, attribute) -> what it is for a fan-in of 1, for attributes that fall with its square root."""
    values: dict[tuple[type[nn.Module], str], set[tuple[float, int]]] = defaultdict(set)
    for module, fan_in in _weighted(root):
        for name, value in vars(module).items():
            if isinstance(value, float) and value > 0:
                values[type(module), name].add((value, fan_in))
    gains = {}
    for key, pairs in values.items():
        products = [value * math.sqrt(fan_in) for value, fan_in in pairs]
        if len({fan_in for _, fan_in in pairs}) > 1 and math.isclose(min(products), max(products), rel_tol=1e-6):
            gains[key] = products[0]
    return gains


def _weighted(root: nn.Module) -> Iterator[tuple[nn.Module, int]]:
    """Every module with a weight of its own, and the weight's fan-in."""
    for module in root.modules():
        weight = module._parameters.get("weight")
        if isinstance(weight, torch.Tensor) and weight.dim() > 1:
            yield module, weight[0].numel()
