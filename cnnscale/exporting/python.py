"""A scaled model as a Python file, which is executed and compared before it is kept."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from cnnscale.errors import CnnScaleError, ExportError
from cnnscale.formatting import quantity, size_text
from cnnscale.inputs import Inputs, InputSize

from .running import device_of, difference, first_line, generators_kept, outputs_of, quiet, scaling_of, without_hooks
from .sourcing import Source, native_source, network_source

__all__ = ["source_file"]

_EXACT = 1e-5
"""Largest difference of outputs, as a fraction of the largest: the same operations round alike."""


def source_file(model: nn.Module) -> tuple[str, tuple[str, ...]]:
    """(text of a Python file whose ``build()`` makes a network like the scaled ``model``, what it leaves out).

    The file has been executed, has loaded the model's weights, and given the model's outputs: in eval mode, and in
    train mode unless it says otherwise.

    Raises:
        ExportError: the model cannot be written so.
    """
    with generators_kept():
        return _source_file(model)


def _source_file(model: nn.Module) -> tuple[str, tuple[str, ...]]:
    bare, notes = without_hooks(model)
    size = scaling_of(model).input_size
    problems: list[str] = []
    for native, train in ((True, True), (False, True), (False, False)):
        try:
            source = native_source(bare) if native else network_source(bare, size, train=train)
            if source is None:
                continue
            built = _checked(bare, _text(model, source, ()), size, train=train)
        except Exception as error:  # a network may hold anything; the other files shall be written
            problems.append(str(error) if isinstance(error, CnnScaleError) else first_line(error))
            continue
        notes += [] if train else [f"it is what the network does in eval mode; in train mode, {problems[-1]}"]
        notes += _one_size(bare, built, size)
        return _text(model, source, notes), tuple(notes)
    raise ExportError(f"{type(model).__name__} cannot be written as Python: {problems[-1]}")


def _one_size(model: nn.Module, built: nn.Module, size: InputSize) -> list[str]:
    """A note where the file computes something else than the model for images of other sizes."""
    inputs = Inputs.of(size)
    for sides in ([max(32, side // 64 * 32) for side in inputs.sides], [side + 32 for side in inputs.sides]):
        other = inputs.at(tuple(sides)).input_size
        wanted = _attempt(model, other)
        got = None if wanted is None else _attempt(built, other)
        if wanted is not None and (got is None or not difference(wanted, got) <= _EXACT):
            return [f"it is for images of {size_text(size)} only, by whose size the model decides what it does"]
    return []


def _attempt(model: nn.Module, size: InputSize) -> list[torch.Tensor] | None:
    """The outputs in eval mode, or None where the model takes no images of that size."""
    try:
        return outputs_of(model, size, train=False)
    except Exception:  # it may refuse in any way
        return None


def _text(model: nn.Module, source: Source, notes: Sequence[str]) -> str:
    plan = scaling_of(model).plan
    by = "" if plan.phi is None else f" by phi {plan.phi:g}"
    plain = [line for line in source.imports if _library(line) in sys.stdlib_module_names]
    dtypes = {p.dtype for p in model.parameters() if p.is_floating_point()} - {torch.float32}
    casts = "".join(f"\n    model.to({dtype})" for dtype in dtypes)
    others = _merged({*source.imports, *(["import torch"] if casts else [])} - {*plain})
    needed = " and ".join(dict.fromkeys(["torch", *map(_library, others)]))
    lines = [
        f"{type(model).__name__}, scaled{by} from {size_text(plan.baseline_size)} to {size_text(plan.input_size)}.",
        "",
        f"{quantity(plan.after.macs)} multiply-accumulates, {quantity(plan.after.params)} parameters.",
        f"Written by cnnscale, which it does not need: {needed} will do.",
        *(f"Note: {note}." for note in notes),
        "",
        '    model = build("model.safetensors")  # with the weights of that file',
        "    model = build()  # each layer as torch initialises it, which may not be how the author did",
    ]
    parts = [
        '"""' + "\n".join(lines) + '\n"""',
        *(["\n".join(sorted(plain))] if plain else []),
        "\n".join(others),
        f"INPUT_SIZE = {plan.input_size}  # channels, height, width\n",
        *([f"{source.classes}\n"] if source.classes else []),
        _BUILD.format(made=source.made + casts),
    ]
    return "\n\n".join(parts)


_BUILD = '''def build(weights=None):
    """The network, in train mode, with the weights of a safetensors file if one is named."""
{made}
    if weights is not None:
        from safetensors.torch import load_model

        load_model(model, weights)
    return model
'''


def _merged(lines: set[str]) -> list[str]:
    """Sorted, with one line for each module."""
    names: dict[str, list[str]] = {}
    for line in sorted(lines):
        start, _, name = line.partition(" import ")
        names.setdefault(start, []).append(name)
    merged = (f"{start} import {', '.join(found)}" if found != [""] else start for start, found in names.items())
    return sorted(merged, key=lambda line: (line.startswith("from "), line))


def _library(line: str) -> str:
    """The top-level package of a line that imports."""
    return line.split()[1].split(".", maxsplit=1)[0]


def _checked(model: nn.Module, text: str, size: InputSize, *, train: bool) -> nn.Module:
    """What the text, executed by itself, builds: a network that has the model's weights and gives its outputs.

    Raises:
        ExportError: it does not.
    """
    if device_of(model).type == "meta":
        raise ExportError("the model is on the meta device, so its outputs cannot be compared")
    modes = (False, True) if train else (False,)
    try:
        with quiet():
            names: dict[str, Any] = {"__name__": "model"}
            exec(compile(text, "model.py", "exec"), names)  # noqa: S102  # it was written above
            built: nn.Module = names["build"]().to(device_of(model))
            built.load_state_dict(model.state_dict())
            worst = [
                difference(outputs_of(model, size, train=mode), outputs_of(built, size, train=mode)) for mode in modes
            ]
    except Exception as error:  # whatever the file or the model raises is a reason not to keep the file
        raise ExportError(f"the file does not run: {first_line(error)}") from error
    _check_tensors(model, built)
    for mode, distance in zip(modes, worst, strict=True):
        if not distance <= _EXACT:
            where = "train" if mode else "eval"
            raise ExportError(f"its outputs in {where} mode differ from the model's, by {distance:.2g} of the largest")
    return built


def _check_tensors(model: nn.Module, built: nn.Module) -> None:
    """The same tensors in the same order: an optimizer's state fits, too."""
    for one, other in ((model.state_dict(), built.state_dict()), (_parameters(model), _parameters(built))):
        if [(n, t.dtype) for n, t in one.items()] != [(n, t.dtype) for n, t in other.items()]:
            odd = sorted(set(one) ^ set(other))
            raise ExportError(f"its tensors are others than the model's: {', '.join(odd[:3]) or 'in order or dtype'}")


def _parameters(model: nn.Module) -> dict[str, Any]:
    return dict(model.named_parameters())
