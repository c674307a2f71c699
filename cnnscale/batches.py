"""What a network is called with: a tensor for each of its inputs."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .errors import CnnScaleError, ModelError, UsageError
from .inputs import Inputs, InputSize, Size

__all__ = ["BATCH", "Batch", "example_batch", "random_batch"]

BATCH = 2  # norm layers in train mode refuse one value per channel
_SEED = 0
_VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@dataclass(frozen=True)
class Batch:
    """The arguments of one call."""

    args: tuple[Tensor, ...]
    kwargs: dict[str, Tensor]

    @classmethod
    def of(cls, input_size: InputSize, make: Callable[[Size], Tensor]) -> Batch:
        """A tensor of ``make`` for the size of each input."""
        return cls(*Inputs.of(input_size).call(make))

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (*self.args, *self.kwargs.values())

    def into(self, net: Callable[..., Any]) -> Any:
        """What the network returns for it."""
        return net(*self.args, **self.kwargs)

    def arguments(self, module: nn.Module) -> dict[str, Any]:
        """What each argument of ``forward`` gets, by its name; a tuple for ``*args``, a dict for ``**kwargs``.

        Raises:
            ModelError: ``forward`` needs more.
            UsageError: ``forward`` does not take as much, or has no argument of that name.
        """
        signature = inspect.signature(module.forward)
        try:
            return signature.bind(*self.args, **self.kwargs).arguments
        except TypeError as error:
            raise self._refusal(module, list(signature.parameters.values())) from error

    def _refusal(self, module: nn.Module, parameters: list[inspect.Parameter]) -> CnnScaleError:
        name = f"{type(module).__name__}.forward"
        named = [p.name for p in parameters if p.kind not in _VARIABLE]
        needed = [p.name for p in parameters if p.default is p.empty and p.kind not in _VARIABLE]
        given = dict(zip(named, self.args, strict=False)) | self.kwargs
        sizes = {key: str(tuple(tensor.shape[1:])) for key, tensor in given.items() if key in named}
        wanted = ", ".join(f'"{key}": {sizes.get(key, "(C, H, W)")}' for key in dict.fromkeys([*needed, *sizes]))
        told = f"pass the size of each by its name, input_size={{{wanted}}}, a vector's being (C,)"
        unknown = [key for key in self.kwargs if key not in named]
        if unknown:
            return UsageError(f"{name} has no argument {unknown[0]!r}; it takes {', '.join(named)}: {told}")
        if len(self.args) > len(named):
            return UsageError(f"{name} takes {', '.join(named)}, and input_size holds {len(self.args)} sizes: {told}")
        inputs = "1 input" if len(needed) == 1 else f"{len(needed)} inputs"
        return ModelError(
            f"{name} needs {inputs} ({', '.join(needed)}), and input_size gives {', '.join(sizes)} only: {told}"
        )


def example_batch(module: nn.Module, input_size: InputSize, batch: int = BATCH) -> Batch:
    """Empty tensors on the meta device, of the dtype of the module's parameters."""
    dtype = _like(module).dtype
    return Batch.of(input_size, lambda size: torch.empty(batch, *size, device="meta", dtype=dtype))


def random_batch(module: nn.Module, input_size: InputSize, batch: int = BATCH) -> Batch:
    """The one random batch of this size, on the module's device and in its precision."""
    like, generator = _like(module), torch.Generator().manual_seed(_SEED)
    return Batch.of(
        input_size, lambda size: torch.randn(batch, *size, generator=generator, dtype=torch.float64).to(like)
    )


def _like(module: nn.Module) -> Tensor:
    return next((p for p in module.parameters() if p.is_floating_point()), torch.empty(0))
