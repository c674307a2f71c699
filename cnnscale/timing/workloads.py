"""One network doing one thing over and over: a forward pass, or a step of training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from cnnscale.batches import Batch
from cnnscale.errors import ModelError
from cnnscale.inputs import InputSize, Size

from .devices import Device, MemorySource, Step, is_out_of_memory
from .rounds import OutOfMemoryError
from .settings import DTYPES, Mode, Settings

__all__ = ["Workload"]


class Workload:
    """A network, a batch of random inputs and what is done with them.

    Converts the network to the settings' device, dtype and layout **in place**. A step of training is forward, backward
    and SGD with momentum at a learning rate of 0: the same arithmetic as any other, and weights that never overflow.

    Raises:
        OutOfMemoryError: the device has not enough memory; also from every method.
        ModelError: torch.compile, or the first run of what it makes, fails; from every method.
    """

    def __init__(
        self, name: str, model: nn.Module, input_size: InputSize, batch: int, mode: Mode, settings: Settings
    ) -> None:
        self.name, self.batch, self.mode = name, batch, mode
        self.device: Device = settings.found_device
        self._model, self._settings = model, settings
        self._size = input_size
        self._step: Step | None = None
        self._has_run = False
        self._optimizer: torch.optim.Optimizer | None = None
        self._batch: Batch | None = None

    def times(self, runs: int) -> list[float]:
        """Seconds of each step of a row of them."""
        taken: list[float] = self._guarded(lambda: self.device.times(self._ready(), runs))
        self._has_run = True
        return taken

    def peak_memory(self) -> tuple[int, MemorySource]:
        """Bytes of all tensors that the network holds and of its input, and what one step takes beyond them."""
        grown, source = self._guarded(lambda: self.device.memory_growth(self._ready()))
        storages = [tensor.untyped_storage() for tensor in self._tensors()]
        return grown + sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values()), source

    def _guarded(self, act: Callable[[], Any]) -> Any:
        try:
            with torch.inference_mode(self.mode == "infer"), torch.enable_grad():
                return act()
        except Exception as error:
            if is_out_of_memory(error):
                raise OutOfMemoryError(self.name, ". ".join(_first_line(error).split(". ")[:2])) from error
            if self._settings.compile_mode and not self._has_run:
                kind = type(error).__name__
                raise ModelError(f"with torch.compile the first run fails: {kind}: {_first_line(error)}") from error
            raise

    def _ready(self) -> Step:
        """The step, made at its first use: until then a workload holds no memory of its own."""
        if self._step is None:
            with torch.inference_mode(mode=False):  # what is converted in it could not be trained afterwards
                self._step = self._made()
            if self._settings.cuda_graph and self.mode == "infer":
                self._step = self.device.captured(self._step)
        self._model.train(self.mode == "train")  # the same network may be in several workloads
        return self._step

    def _made(self) -> Step:
        settings, device = self._settings, self.device
        layout = torch.channels_last if settings.channels_last else torch.contiguous_format
        dtype = DTYPES[settings.dtype]
        model = self._model.to(device.where, dtype).to(memory_format=layout)

        def made(size: Size) -> Tensor:
            images = torch.randn(self.batch, *size, device=device.where, dtype=dtype)
            return images.to(memory_format=layout) if images.dim() == 4 else images

        self._batch = batch = Batch.of(self._size, made)
        forward: Callable[..., Any] = model
        if settings.compile_mode:
            forward = torch.compile(model, mode=settings.compile_mode)
        return self._trained(forward, batch) if self.mode == "train" else lambda: batch.into(forward)

    def _trained(self, forward: Callable[..., Any], batch: Batch) -> Step:
        parameters = [parameter for parameter in self._model.parameters() if parameter.requires_grad]
        self._optimizer = optimizer = torch.optim.SGD(parameters, lr=0.0, momentum=0.9)

        def step() -> None:
            optimizer.zero_grad()
            loss = torch.stack([output.float().square().mean() for output in _tensors(batch.into(forward))]).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

        return step

    def _tensors(self) -> Iterator[Tensor]:
        for tensor in (*self._model.parameters(), *self._model.buffers()):
            yield tensor
            if tensor.grad is not None:
                yield tensor.grad
        if self._batch is not None:
            yield from self._batch.tensors
        for state in self._optimizer.state.values() if self._optimizer else ():
            yield from (value for value in state.values() if isinstance(value, Tensor))


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]


def _tensors(output: Any) -> Iterator[Tensor]:
    """The floating-point tensors in whatever a network returns."""
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, dict):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, (list, tuple)):
        for value in output:
            yield from _tensors(value)
