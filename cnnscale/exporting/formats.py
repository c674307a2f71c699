"""A scaled model as a file of ONNX or torch.export, loaded again and run before it is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cnnscale.errors import ExportError

from .running import difference, first_line, quiet, random_images, scaling_of, tensors, without_hooks

__all__ = ["onnx_file", "torch_file"]

_ROUNDED = 1e-3
"""Largest difference of outputs, as a fraction of the largest: another library rounds in its own way."""


def torch_file(model: nn.Module, path: Path) -> tuple[str, ...]:
    """Write the model in eval mode for ``torch.export.load``; returns what holds of it only.

    Raises:
        ExportError: torch.export cannot follow the model, or what it wrote gives other outputs.
    """
    program, batches, notes = _program(model)
    with quiet():
        torch.export.save(program, path)
        loaded = torch.export.load(path).module()
    _check_outputs(model, batches, loaded)
    return notes


def onnx_file(model: nn.Module, path: Path) -> tuple[str, ...]:
    """Write the model in eval mode as ONNX, checked with onnxruntime; returns what holds of it only.

    Raises:
        ExportError: the model cannot be exported, or gives other outputs in onnxruntime.
    """
    import onnxruntime

    program, batches, notes = _program(model)
    try:
        with quiet():
            torch.onnx.export(program, (), path, dynamo=True, verbose=False, external_data=_is_large(model))
    except Exception as error:  # the exporter may raise anything
        raise ExportError(f"ONNX cannot express the model: {first_line(error)}") from error
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (taken,) = session.get_inputs()
    _check_outputs(model, batches, lambda image: session.run(None, {taken.name: image.cpu().numpy()}))
    return notes


def _is_large(model: nn.Module) -> bool:
    """Whether the weights go to a file beside model.onnx: one of protobuf holds 2 GB at most."""
    return sum(t.nbytes for t in (*model.parameters(), *model.buffers())) > 1.9e9


def _program(model: nn.Module) -> tuple[torch.export.ExportedProgram, tuple[int, ...], tuple[str, ...]]:
    """(the program in eval mode, batch sizes to try it with, notes): for any batch size, or else for one image."""
    ready, notes = without_hooks(model)
    ready.eval()
    problem: Exception | None = None
    for batch, dynamic in ((2, ({0: torch.export.Dim("batch", min=1)},)), (1, None)):
        try:
            with quiet(), torch.no_grad():
                program = torch.export.export(
                    ready, (random_images(ready, scaling_of(model).input_size, batch),), dynamic_shapes=dynamic
                )
        except Exception as error:  # the exporter or the model may raise anything
            problem = problem or error
            continue
        return (
            program,
            (1, 3) if dynamic else (1,),
            (*notes[:1], *(() if dynamic else ("it takes one image at a time",))),
        )
    assert problem is not None
    raise ExportError(f"torch.export cannot follow {type(model).__name__}: {first_line(problem)}") from problem


def _check_outputs(model: nn.Module, batches: Sequence[int], call: Callable[[torch.Tensor], Any]) -> None:
    """What was written gives the outputs of the model in eval mode.

    Raises:
        ExportError: it does not.
    """
    ready, size = without_hooks(model)[0].eval(), scaling_of(model).input_size
    for batch in batches:
        image = random_images(ready, size, batch)
        with torch.no_grad(), quiet():
            worst = difference(tensors(ready(image)), tensors(call(image)))
        if not worst <= _ROUNDED:
            raise ExportError(f"its outputs differ from the model's, by {worst:.2g} of the largest")
