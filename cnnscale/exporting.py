"""A model in formats that do without cnnscale: a Python file, ONNX, and torch.export's own.

    model = cnnscale.scale(baseline, phi=1)
    cnnscale.export(model, "out", ["source", "onnx", "torch"])      # model.py, model.onnx, model.pt2

Whatever is written is loaded again and run: its outputs must be the model's.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import io
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import nn

from .errors import CnnScaleError, ExportError, UsageError
from .formatting import quantity, size_text
from .records import Scaling
from .sourcing import classes_source
from .tracing import Trace, meta_copy, trace

__all__ = ["FILES", "Exported", "Format", "export", "source_of"]

Format: TypeAlias = Literal["source", "onnx", "torch"]

FILES: dict[Format, str] = {"source": "model.py", "onnx": "model.onnx", "torch": "model.pt2"}
"""The file that each format is written to."""

_TOLERANCE = {"source": 1e-5, "onnx": 1e-3, "torch": 1e-4}
"""Largest difference of outputs allowed, as a fraction of the largest output: of the same operations in the same order;
of another library's; of the same ones, perhaps fused."""


@dataclass(frozen=True)
class Exported:
    """One file that was written."""

    path: Path
    difference: float | None
    """Largest difference of its outputs from the model's, as a fraction of the largest output; None: not checked."""
    batch: int | None
    """The batch size that it is for; None: any."""
    note: str = ""
    """What was not checked, and why."""


def export(
    model: nn.Module,
    directory: str | Path,
    formats: Sequence[Format] = ("source",),
    *,
    input_size: tuple[int, ...] | None = None,
    force: bool = False,
) -> tuple[Exported, ...]:
    """Write a model in other formats; one :class:`Exported` for each, in order.

    Args:
        model: any module that takes one image, scaled or not; it is left unchanged.
        directory: folder to write to; it is created.
        formats: ``source`` (model.py, a Python file that needs torch only), ``onnx`` (model.onnx), ``torch``
            (model.pt2, for ``torch.export.load``). The last two are the model in eval mode.
        input_size: (C, H, W) of the image; by default a scaled model's own.
        force: overwrite files.

    Raises:
        UsageError: a format is unknown, a file exists, or the input size is missing.
        ExportError: the model cannot be written in a format, a library for it is not installed, or what was written
            gives other outputs than the model.
    """
    size = _size(model, input_size)
    unknown = [name for name in formats if name not in FILES]
    if unknown:
        raise UsageError(f"unknown format {unknown[0]!r}; there are {', '.join(FILES)}")
    folder = Path(directory)
    existing = [str(folder / FILES[name]) for name in formats if (folder / FILES[name]).exists()]
    if existing and not force:
        raise UsageError(f"{' and '.join(existing)} would be overwritten; pass force=True if that is meant")
    for name in formats:
        _require(name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return tuple(_WRITERS[name](model, size, folder / FILES[name]) for name in formats)
    except OSError as error:
        raise CnnScaleError(f"cannot write to {folder}: {error.strerror or error}") from error


def _size(model: nn.Module, given: tuple[int, ...] | None) -> tuple[int, ...]:
    record = getattr(model, "scaling", None)
    if given is None and not isinstance(record, Scaling):
        raise UsageError("which input size (C, H, W)? Pass input_size=..., the model does not carry one")
    return tuple(given) if given is not None else record.input_size  # type: ignore[union-attr]


def _require(name: Format) -> None:
    missing = [m for m in ("onnx", "onnxscript") if name == "onnx" and importlib.util.find_spec(m) is None]
    if missing:
        raise ExportError(f'ONNX needs {" and ".join(missing)}: pip install "cnnscale[export]"')


# --- source -----------------------------------------------------------------------------------------------------------


def source_of(model: nn.Module, input_size: tuple[int, ...] | None = None) -> str:
    """The text of a Python file whose ``build()`` makes a network like ``model``: the same names of parameters in the
    same order, and the same outputs in eval and in train mode for the same weights. Checked on the model's device.

    Raises:
        UsageError: no input size is given or known.
        ExportError: the model cannot be written so.
    """
    size = _size(model, input_size)
    traces = (trace(meta_copy(model), size), trace(meta_copy(model), size, train=True))
    problems: list[ExportError] = []
    for nested in (True, False):
        try:
            text = _file(model, size, traces, nested=nested)
            _check_source(model, size, text)
            return text
        except ExportError as error:
            problems.append(error)
    raise ExportError(f"{type(model).__name__} cannot be written as source: {problems[0]}") from problems[0]


def _file(model: nn.Module, size: tuple[int, ...], traces: tuple[Trace, Trace], *, nested: bool) -> str:
    classes, imports, root = classes_source(model, traces, nested=nested)
    if "OrderedDict(" in classes:
        imports.append("from collections import OrderedDict")
    if "namedtuple(" in classes:
        imports.append("from collections import namedtuple")
    plain = sorted(line for line in imports if not line.startswith("from ") or "collections" in line)
    others = sorted({*imports} - {*plain})
    functional = ["import torch.nn.functional as F"] if "F." in classes else []
    known = ["import torch", *functional, "from torch import nn", *others]
    parts = [
        _docstring(model, size, traces, others),
        "\n".join([*plain, "", *known] if plain else known),
        f"INPUT_SIZE = {size}  # channels, height, width of one image",
    ]
    return "\n\n".join(parts) + f"\n\n\n{classes}\n\n\n{_builder(model, root)}"


def _docstring(model: nn.Module, size: tuple[int, ...], traces: tuple[Trace, Trace], others: Sequence[str]) -> str:
    from . import __version__

    params = sum(p.numel() for p in model.parameters())
    facts = [f"input {size_text(size)}", f"{quantity(params)} parameters"]
    record = getattr(model, "scaling", None)
    how = ""
    if isinstance(record, Scaling):
        facts.insert(1, f"{quantity(record.plan.after.macs)} multiply-accumulates")
        plan = record.plan
        by = "explicit multipliers" if plan.phi is None else f"phi {plan.phi:g}"
        how = f", scaled by {by} from {size_text(plan.baseline_size)}"
    libraries = ["torch", *sorted({line.split()[1].split(".")[0] for line in others})]
    lines = [
        f'"""{type(model).__name__}{how}: {", ".join(facts)}.',
        "",
        f"Written by cnnscale {__version__}, which it does not need: {' and '.join(libraries)} will do.",
        "",
        '    model = build("model.safetensors")   # with the weights in that file',
        "    model = build()                      # as torch initialises each layer, which may not be how the author did",
    ]
    decisions = {node.name for each in traces for node in each.decisions}
    if decisions:
        lines += ["", "The original decides some things by the size of its input; here they are as for INPUT_SIZE."]
    return "\n".join([*lines, '"""'])


def _builder(model: nn.Module, root: str) -> str:
    dtypes = {p.dtype for p in model.parameters() if p.is_floating_point()}
    cast = "" if dtypes <= {torch.float32} else f".to({next(iter(dtypes))})"
    return f'''def build(weights=None):
    """The network, in train mode; ``weights`` names a safetensors file to load."""
    model = {root}(){cast}
    if weights is not None:
        from safetensors.torch import load_model

        load_model(model, weights)
    return model
'''


def _check_source(model: nn.Module, size: tuple[int, ...], text: str) -> float:
    """The largest difference between the outputs of the model and of what the source builds, in either mode.

    Raises:
        ExportError: the source does not build, or not the same.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    with _generators_kept(), device if device.type == "meta" else contextlib.nullcontext():
        try:
            space: dict[str, Any] = {"__name__": "model"}
            exec(compile(text, FILES["source"], "exec"), space)  # noqa: S102  # the text was made here
            copied: nn.Module = space["build"]().to(device)
        except Exception as error:  # generated code may fail in any way; flat code or an error take its place
            raise ExportError(f"the source does not run: {type(error).__name__}: {error}") from error
    for kind in ("named_parameters", "named_buffers"):
        wanted, got = (
            {name: (tuple(t.shape), t.dtype) for name, t in getattr(m, kind)()} for m in (model, copied)
        )
        if list(wanted.items()) != list(got.items()):
            odd = [*dict(wanted.items() ^ got.items())] or ["their order"]
            raise ExportError(f"the source has other {kind[6:]} than the model: {', '.join(odd[:3])}")
    frozen, got = ([n for n, p in m.named_parameters() if not p.requires_grad] for m in (model, copied))
    if frozen != got:
        raise ExportError("the source freezes other parameters than the model")
    if device.type == "meta":
        return 0.0
    copied.load_state_dict(model.state_dict())
    worst = 0.0
    for train in (False, True):
        original, other = _bare(model).train(train), copied.train(train)
        try:
            wanted = _run(original, size, 2, device)
        except Exception:  # a model may be unable to train on a batch of two
            if train:
                return worst
            raise
        try:
            got = _run(other, size, 2, device)
        except Exception as error:  # as above
            raise ExportError(f"what the source builds does not run: {type(error).__name__}: {error}") from error
        difference = _difference(wanted, got)
        if not difference <= _TOLERANCE["source"]:
            mode = "train" if train else "eval"
            raise ExportError(f"what the source builds differs from the model in {mode} mode (by {difference:.2g})")
        worst = max(worst, difference)
    return worst


def _write_source(model: nn.Module, size: tuple[int, ...], path: Path) -> Exported:
    text = source_of(model, size)
    path.write_text(text, encoding="utf-8")
    return Exported(path, _check_source(model, size, text), None)


# --- torch's own formats ----------------------------------------------------------------------------------------------


def _write_torch(model: nn.Module, size: tuple[int, ...], path: Path) -> Exported:
    program, batch = _program(model, size)
    torch.export.save(program, path)
    read = torch.export.load(path).module()
    return _checked(model, size, path, batch, lambda image: read(image))


def _write_onnx(model: nn.Module, size: tuple[int, ...], path: Path) -> Exported:
    program, batch = _program(model, size)
    with _quiet():
        try:
            made = torch.onnx.export(program, dynamo=True, input_names=["image"], verbose=False)
            assert made is not None
            made.save(str(path))
        except Exception as error:  # the exporter may raise anything
            raise ExportError(f"{type(model).__name__} cannot be written as ONNX: {_first_line(error)}") from error
    if importlib.util.find_spec("onnxruntime") is None:
        note = 'not checked: pip install "cnnscale[export]" for onnxruntime'
        return Exported(path, None, batch, note)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return _checked(model, size, path, batch, lambda image: session.run(None, {name: image.cpu().numpy()}))


def _program(model: nn.Module, size: tuple[int, ...]) -> tuple[Any, int | None]:
    """(the exported program in eval mode, batch size): for any batch size, or, where that fails, for one image.

    Raises:
        ExportError: torch.export cannot follow the model.
    """
    ready = _bare(model).eval()
    if any(p.is_meta for p in ready.parameters()):
        raise ExportError("the model is on the meta device and has no weights to write")
    parameter = next(ready.parameters(), torch.empty(0))
    problem: Exception | None = None
    for batch, dynamic in ((2, ({0: torch.export.Dim("batch", min=1)},)), (1, None)):
        image = torch.zeros(batch, *size, dtype=parameter.dtype, device=parameter.device)
        try:
            with _quiet(), torch.no_grad():
                return torch.export.export(ready, (image,), dynamic_shapes=dynamic), None if dynamic else 1
        except Exception as error:  # whatever the exporter or the model raises is reported
            problem = problem or error
    assert problem is not None
    raise ExportError(f"torch.export cannot follow {type(model).__name__}: {_first_line(problem)}") from problem


def _checked(
    model: nn.Module, size: tuple[int, ...], path: Path, batch: int | None, call: Callable[[torch.Tensor], Any]
) -> Exported:
    """The record of a file, after its outputs were compared with the model's.

    Raises:
        ExportError: they differ.
    """
    form: Format = next(name for name, file in FILES.items() if file == path.name)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    ready, worst = _bare(model).eval(), 0.0
    for count in (1, 2) if batch is None else (batch,):
        wanted = _run(ready, size, count, device)
        with torch.no_grad(), _quiet():
            got = call(_image(ready, size, count, device))
        worst = max(worst, _difference(wanted, list(_tensors(got))))
    if not worst <= _TOLERANCE[form]:
        path.unlink()
        raise ExportError(f"{path.name} gives other outputs than the model (by {worst:.2g} of the largest): not written")
    return Exported(path, worst, batch)


# --- running ----------------------------------------------------------------------------------------------------------


def _bare(model: nn.Module) -> nn.Module:
    """A copy without hooks, which are the user's and not part of the network."""
    copied = copy.deepcopy(model)
    for module in copied.modules():
        for name, value in vars(module).items():
            if name.endswith("_hooks") and isinstance(value, dict):
                value.clear()
    return copied


def _image(model: nn.Module, size: tuple[int, ...], batch: int, device: torch.device) -> torch.Tensor:
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    image = torch.randn(batch, *size, generator=torch.Generator().manual_seed(0))
    return image.to(device, dtype)


def _run(model: nn.Module, size: tuple[int, ...], batch: int, device: torch.device) -> list[torch.Tensor]:
    """The outputs for the one image and the one sequence of random numbers that all are compared on, and buffers."""
    with _generators_kept(), torch.no_grad(), _quiet():
        torch.manual_seed(0)
        random.seed(0)
        outputs = list(_tensors(model(_image(model, size, batch, device))))
    return [*outputs, *model.buffers()] if model.training else outputs


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


def _tensors(output: Any) -> Iterator[torch.Tensor]:
    if isinstance(output, torch.Tensor):
        yield output
    elif isinstance(output, dict):
        yield from _tensors(list(output.values()))
    elif isinstance(output, (tuple, list)):
        for part in output:
            yield from _tensors(part)
    elif output is not None and hasattr(output, "__array__"):
        yield torch.as_tensor(output)


def _difference(wanted: Sequence[torch.Tensor], got: Sequence[torch.Tensor]) -> float:
    """The largest difference, as a fraction of the largest number; infinite where there are other tensors."""
    if [tuple(t.shape) for t in wanted] != [tuple(t.shape) for t in got]:
        return float("inf")
    worst = 0.0
    for one, other in zip(wanted, got, strict=True):
        a, b = one.detach().cpu().double(), other.detach().cpu().double()
        if not bool((a.isfinite() == b.isfinite()).all()):
            return float("inf")
        gap = (a - b).abs().nan_to_num(0.0, 0.0, 0.0).max().item() if a.numel() else 0.0
        scale = a.abs().nan_to_num(0.0, 0.0, 0.0).max().item() if a.numel() else 0.0
        worst = max(worst, gap / scale if scale else gap)
    return worst


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


_WRITERS: dict[Format, Callable[[nn.Module, tuple[int, ...], Path], Exported]] = {
    "source": _write_source,
    "onnx": _write_onnx,
    "torch": _write_torch,
}
