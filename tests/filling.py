"""Values for a model which was built on the meta device: random ones, quickly, and none that hides a mistake."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def fill(model: nn.Module, *, seed: int = 0) -> nn.Module:
    """Materialise on the CPU. Norms get scales, shifts and running statistics that are not 1 and 0."""
    model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in {**dict(model.named_parameters()), **dict(model.named_buffers())}.items():
            fill_tensor(name.rpartition(".")[2], tensor, generator)
    return model


def fill_tensor(role: str, tensor: Tensor, generator: torch.Generator) -> None:
    if not tensor.is_floating_point():
        tensor.zero_()
    elif role == "running_mean" or role.endswith("bias"):
        tensor.uniform_(-0.2, 0.2, generator=generator)
    elif tensor.ndim < 2 or role == "running_var":
        tensor.uniform_(0.5, 1.5, generator=generator)
    else:
        bound = math.sqrt(6 / max(1, tensor[0].numel()))
        tensor.uniform_(-bound, bound, generator=generator)
