"""A scaled model as a file of ONNX or torch.export, loaded again and run before it is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from cnnscale.batches import Batch, random_batch
from cnnscale.errors import ExportError

from .running import difference, first_line, quiet, scaling_of, tensors, without_hooks

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
    _check_outputs(model, batches, lambda batch: batch.into(loaded))
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
    names = [taken.name for taken in session.get_inputs()]

    def call(batch: Batch) -> Any:
        return session.run(None, {n: t.cpu().numpy() for n, t in zip(names, batch.tensors, strict=True)})

    _check_outputs(model, batches, call)
    return notes


def _is_large(model: nn.Module) -> bool:
    """Whether the weights go to a file beside model.onnx: one of protobuf holds 2 GB at most."""
    return sum(t.nbytes for t in (*model.parameters(), *model.buffers())) > 1.9e9


def _program(model: nn.Module) -> tuple[torch.export.ExportedProgram, tuple[int, ...], tuple[str, ...]]:
    """(the program in eval mode, batch sizes to try it with, notes): for any batch size, or else for one image."""
    ready, notes = without_hooks(model)
    ready.eval()
    problem: Exception | None = None
    for images, dynamic in ((2, {0: torch.export.Dim("batch", min=1)}), (1, None)):
        batch = random_batch(ready, scaling_of(model).input_size, images)
        shapes = dynamic and pytree.tree_map(lambda _, d=dynamic: d, batch.arguments(ready))
        try:
            with quiet(), torch.no_grad():
                program = torch.export.export(ready, batch.args, batch.kwargs, dynamic_shapes=shapes)
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


def _check_outputs(model: nn.Module, batches: Sequence[int], call: Callable[[Batch], Any]) -> None:
    """What was written gives the outputs of the model in eval mode.

    Raises:
        ExportError: it does not.
    """
    ready, size = without_hooks(model)[0].eval(), scaling_of(model).input_size
    for images in batches:
        batch = random_batch(ready, size, images)
        with torch.no_grad(), quiet():
            worst = difference(tensors(batch.into(ready)), tensors(call(batch)))
        if not worst <= _ROUNDED:
            raise ExportError(f"its outputs differ from the model's, by {worst:.2g} of the largest")
