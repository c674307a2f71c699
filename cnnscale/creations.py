"""Functions that make tensors, while sizes are proxies: ``torch.zeros(n, c)`` then is ``torch.zeros((n, c))``."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx

__all__ = ["sizes_taken"]

_CREATIONS = ("empty", "zeros", "ones", "rand", "randn")


@contextmanager
def sizes_taken() -> Iterator[None]:
    """Within it, torch's functions that make tensors take proxies as sizes one by one, too."""
    before = {name: getattr(torch, name) for name in _CREATIONS}
    for name, function in before.items():
        setattr(torch, name, _gathering(function))
    try:
        yield
    finally:
        for name, function in before.items():
            setattr(torch, name, function)


def _gathering(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def gathered(*sizes: Any, **options: Any) -> Any:
        traced = any(isinstance(size, fx.Proxy) and type(size.node.meta.get("val")) is int for size in sizes)
        return function(sizes, **options) if traced else function(*sizes, **options)

    return gathered
