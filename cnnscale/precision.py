"""Whether CUDA may round products of single precision to TF32, which has 10 bits of fraction instead of 23."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

__all__ = ["tf32"]


@contextmanager
def tf32(*, allowed: bool) -> Iterator[None]:
    """Allow or forbid it meanwhile; afterwards it is as it was. torch 2.9 renamed the switches."""
    matmul: Any = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn
    switches: list[tuple[Any, str, Any]]
    if hasattr(matmul, "fp32_precision"):
        word = "tf32" if allowed else "ieee"
        switches = [(matmul, "fp32_precision", word), (cudnn.conv, "fp32_precision", word)]
    else:
        switches = [(matmul, "allow_tf32", allowed), (cudnn, "allow_tf32", allowed)]
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in switches]
    for owner, name, value in switches:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)
