"""A scaled model in formats that do without cnnscale: a Python file, ONNX, and torch.export's own.

Whatever is written is loaded again and run before it is kept: its outputs must be the model's.
"""

from __future__ import annotations

import contextlib
import copy
import io
import math
import random
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from .errors import CnnScaleError, ExportError
from .formatting import quantity, size_text
from .records import Scaling
from .sourcing import Source, native_source, network_source

__all__ = ["onnx_file", "source_file", "torch_file"]

_EXACT, _ROUNDED = 1e-5, 1e-3
"""Largest difference of outputs, as a fraction of the largest: of the same operations, and of another library's."""


def source_file(model: nn.Module) -> tuple[str, tuple[str, ...]]:
    """(text of a Python file whose ``build()`` makes a network like the scaled ``model``, what it leaves out).

    The file has been executed, has loaded the model's weights, and given the model's outputs: in eval mode, and in
    train mode unless it says otherwise.

    Raises:
        ExportError: the model cannot be written so.
    """
    with _generators_kept():
        return _source_file(model)


def _source_file(model: nn.Module) -> tuple[str, tuple[str, ...]]:
    bare, notes = _without_hooks(model)
    size = _scaling(model).input_size
    problems: list[str] = []
    for native, train in ((True, True), (False, True), (False, False)):
        try:
            source = native_source(bare) if native else network_source(bare, size, train=train)
            if source is None:
                continue
            built = _checked(bare, _text(model, source, ()), size, train=train)
        except Exception as error:  # a network may hold anything; the other files shall be written
            problems.append(str(error) if isinstance(error, CnnScaleError) else _first_line(error))
            continue
        notes += [] if train else [f"it is what the network does in eval mode; in train mode, {problems[-1]}"]
        notes += _one_size(bare, built, size)
        return _text(model, source, notes), tuple(notes)
    raise ExportError(f"{type(model).__name__} cannot be written as Python: {problems[-1]}")


def _one_size(model: nn.Module, built: nn.Module, size: tuple[int, ...]) -> list[str]:
    """A note where the file computes something else than the model for images of other sizes."""
    for sides in ([max(32, side // 64 * 32) for side in size[1:]], [side + 32 for side in size[1:]]):
        other = (size[0], *sides)
        wanted = _attempt(model, other)
        got = None if wanted is None else _attempt(built, other)
        if wanted is not None and (got is None or not _difference(wanted, got) <= _EXACT):
            return [f"it is for images of {size_text(size)} only, by whose size the model decides what it does"]
    return []


def _attempt(model: nn.Module, size: tuple[int, ...]) -> list[torch.Tensor] | None:
    """The outputs in eval mode, or None where the model takes no images of that size."""
    try:
        return _run(model, size, train=False)
    except Exception:  # it may refuse in any way
        return None


def _without_hooks(model: nn.Module) -> tuple[nn.Module, list[str]]:
    """A copy without hooks, which are the user's and not part of the network, and a note if there were any."""
    copied, notes = copy.deepcopy(model), []
    for module in copied.modules():
        for name, hooks in vars(module).items():
            if name.endswith("_hooks") and hooks:
                hooks.clear()
                notes = ["hooks are not part of it"]
    if not all(parameter.requires_grad for parameter in model.parameters()):
        notes.append("parameters that are frozen in the model are not in it")
    return copied, notes


def _scaling(model: nn.Module) -> Scaling:
    record = model.scaling
    assert isinstance(record, Scaling)
    return record


# --- the file ---------------------------------------------------------------------------------------------------------


def _text(model: nn.Module, source: Source, notes: Sequence[str]) -> str:
    plan = _scaling(model).plan
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


def _checked(model: nn.Module, text: str, size: tuple[int, ...], *, train: bool) -> nn.Module:
    """What the text, executed by itself, builds: a network that has the model's weights and gives its outputs.

    Raises:
        ExportError: it does not.
    """
    if _device(model).type == "meta":
        raise ExportError("the model is on the meta device, so its outputs cannot be compared")
    modes = (False, True) if train else (False,)
    try:
        with _quiet():
            names: dict[str, Any] = {"__name__": "model"}
            exec(compile(text, "model.py", "exec"), names)  # noqa: S102  # it was written above
            built: nn.Module = names["build"]().to(_device(model))
            built.load_state_dict(model.state_dict())
            worst = [_difference(_run(model, size, train=mode), _run(built, size, train=mode)) for mode in modes]
    except Exception as error:  # whatever the file or the model raises is a reason not to keep the file
        raise ExportError(f"the file does not run: {_first_line(error)}") from error
    _check_tensors(model, built)
    for mode, difference in zip(modes, worst, strict=True):
        if not difference <= _EXACT:
            where = "train" if mode else "eval"
            raise ExportError(
                f"its outputs in {where} mode differ from the model's, by {difference:.2g} of the largest"
            )
    return built


def _check_tensors(model: nn.Module, built: nn.Module) -> None:
    """The same tensors in the same order: an optimizer's state fits, too."""
    for one, other in ((model.state_dict(), built.state_dict()), (_parameters(model), _parameters(built))):
        if [(n, t.dtype) for n, t in one.items()] != [(n, t.dtype) for n, t in other.items()]:
            odd = sorted(set(one) ^ set(other))
            raise ExportError(f"its tensors are others than the model's: {', '.join(odd[:3]) or 'in order or dtype'}")


def _parameters(model: nn.Module) -> dict[str, Any]:
    return dict(model.named_parameters())


# --- other formats ----------------------------------------------------------------------------------------------------


def torch_file(model: nn.Module, path: Path) -> tuple[str, ...]:
    """Write the model in eval mode for ``torch.export.load``; returns what holds of it only.

    Raises:
        ExportError: torch.export cannot follow the model, or what it wrote gives other outputs.
    """
    program, batches, notes = _program(model)
    with _quiet():
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
        with _quiet():
            torch.onnx.export(program, (), path, dynamo=True, verbose=False, external_data=_is_large(model))
    except Exception as error:  # the exporter may raise anything
        raise ExportError(f"ONNX cannot express the model: {_first_line(error)}") from error
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (taken,) = session.get_inputs()
    _check_outputs(model, batches, lambda image: session.run(None, {taken.name: image.cpu().numpy()}))
    return notes


def _is_large(model: nn.Module) -> bool:
    """Whether the weights go to a file beside model.onnx: one of protobuf holds 2 GB at most."""
    return sum(t.nbytes for t in (*model.parameters(), *model.buffers())) > 1.9e9


def _program(model: nn.Module) -> tuple[torch.export.ExportedProgram, tuple[int, ...], tuple[str, ...]]:
    """(the program in eval mode, batch sizes to try it with, notes): for any batch size, or else for one image."""
    ready, notes = _without_hooks(model)
    ready.eval()
    problem: Exception | None = None
    for batch, dynamic in ((2, ({0: torch.export.Dim("batch", min=1)},)), (1, None)):
        try:
            with _quiet(), torch.no_grad():
                program = torch.export.export(
                    ready, (_image(ready, _scaling(model).input_size, batch),), dynamic_shapes=dynamic
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
    raise ExportError(f"torch.export cannot follow {type(model).__name__}: {_first_line(problem)}") from problem


def _check_outputs(model: nn.Module, batches: Sequence[int], call: Callable[[torch.Tensor], Any]) -> None:
    """What was written gives the outputs of the model in eval mode.

    Raises:
        ExportError: it does not.
    """
    ready, size = _without_hooks(model)[0].eval(), _scaling(model).input_size
    for batch in batches:
        image = _image(ready, size, batch)
        with torch.no_grad(), _quiet():
            worst = _difference(_tensors(ready(image)), _tensors(call(image)))
        if not worst <= _ROUNDED:
            raise ExportError(f"its outputs differ from the model's, by {worst:.2g} of the largest")


# --- running ----------------------------------------------------------------------------------------------------------


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def _image(model: nn.Module, size: tuple[int, ...], batch: int) -> torch.Tensor:
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    return torch.randn(batch, *size, generator=torch.Generator().manual_seed(0)).to(_device(model), dtype)


def _run(model: nn.Module, size: tuple[int, ...], *, train: bool) -> list[torch.Tensor]:
    """The outputs for one image (two in train mode) and one sequence of random numbers, then the buffers."""
    ready = copy.deepcopy(model).train(train)
    with _generators_kept(), _quiet(), torch.no_grad():
        torch.manual_seed(0)
        random.seed(0)
        outputs = _tensors(ready(_image(ready, size, 1 + train)))
    return [*outputs, *ready.buffers()]


@contextlib.contextmanager
def _generators_kept() -> Iterator[None]:
    state = random.getstate()
    with torch.random.fork_rng():
        yield
    random.setstate(state)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def _tensors(output: Any) -> list[torch.Tensor]:
    return [torch.as_tensor(leaf) for leaf in pytree.tree_leaves(output) if leaf is not None]


def _difference(wanted: Sequence[torch.Tensor], got: Sequence[torch.Tensor]) -> float:
    """The largest difference, as a fraction of the largest number; infinite where there are other tensors."""
    if [t.shape for t in wanted] != [t.shape for t in got]:
        return float("inf")
    worst = 0.0
    for one, other in zip(wanted, got, strict=True):
        if one.numel():
            a, b = one.detach().cpu().double(), other.detach().cpu().double()
            gap, largest = (a - b).abs().max().item(), a.abs().max().item()
            worst = max(worst, gap / largest if largest else gap) if math.isfinite(gap) else float("inf")
    return worst


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
