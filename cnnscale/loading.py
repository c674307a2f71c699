"""From a name to a model, and from a saved scaling back to one.

A model is named in one of four ways: ``resnet18`` (torchvision), ``timm:NAME``, ``path/file.py:factory`` or
``package.module:factory``. Nothing is ever downloaded: zoo models are built without pretrained weights.

    net = load("examples/net.py:build")
    save(cnnscale.scale(net.model, phi=1, input_size=net.input_size), "out")
    model = rebuild(load("examples/net.py:build").model, "out")     # in another process
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .errors import CnnScaleError, ExportError, ExportWarning, ModelError, UsageError, did_you_mean
from .inputs import Inputs, InputSize
from .plans import Plan

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "EXPORTS",
    "PLAN_FILE",
    "SOURCE_FILE",
    "WEIGHTS_FILE",
    "Factory",
    "Loaded",
    "check_output",
    "known_models",
    "load",
    "load_weights",
    "rebuild",
    "save",
]

WEIGHTS_FILE = "model.safetensors"
PLAN_FILE = "plan.json"
SOURCE_FILE = "model.py"
EXPORTS = {"onnx": "model.onnx", "torch": "model.pt2"}
"""Other formats, and the file that each is written to."""
_ONNX = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class Loaded:
    """A baseline, ready to be scaled."""

    name: str
    """What the user called it."""
    model: nn.Module
    input_size: InputSize | None
    """(C, H, W) in pixels, or several sizes, where the model declares its own, else None."""


@dataclass(frozen=True)
class Factory:
    """Builds the model of a name when it is called: what can be sent to another process instead of a model whose class
    is known in this one only."""

    spec: str

    def __call__(self) -> nn.Module:
        return load(self.spec).model


def load(spec: str) -> Loaded:
    """Build the model that ``spec`` names, with fresh weights.

    Raises:
        ModelError: there is no such file, module, factory or zoo model, its library is not installed, the factory
            raises, or what it returns is not an ``nn.Module``.
    """
    if spec.startswith("timm:"):
        model, declared = _load_timm(spec.removeprefix("timm:")), None
    elif spec.endswith(".py"):
        raise ModelError(f"{spec}: which function builds the model? Name it after a colon: {spec}:FUNCTION")
    elif ":" in spec:
        model, declared = _load_factory(spec), None
    else:
        model, declared = _load_torchvision(spec)
    return Loaded(spec, model, declared or _declared_size(model))


def _declared_size(model: nn.Module) -> InputSize | None:
    """The input size in the model's ``pretrained_cfg`` or ``default_cfg``, the convention of timm."""
    for name in ("pretrained_cfg", "default_cfg"):
        config = getattr(model, name, None)
        if isinstance(config, dict) and config.get("input_size"):
            return Inputs.of(config["input_size"]).input_size
    return None


# --- model zoos ---------------------------------------------------------------------------------------------------


def known_models(zoo: str = "") -> list[str]:
    """The names that :func:`load` takes from torchvision, or with ``timm:`` those from timm.

    Raises:
        ModelError: the library is not installed.
    """
    if zoo == "timm:":
        return [f"timm:{name}" for name in _import_zoo("timm").list_models()]
    models = _import_zoo("torchvision").models
    return list(models.list_models(module=models))


def _load_torchvision(name: str) -> tuple[nn.Module, tuple[int, ...] | None]:
    models = _import_zoo("torchvision").models
    classifiers = known_models()
    if name not in classifiers:
        if name in models.list_models():  # some of these would download a backbone
            raise ModelError(f"{name} is not one of torchvision's image classifiers; load it from a factory of yours")
        raise _unknown(f"torchvision has no classifier {name!r}", name, classifiers)
    crop = getattr(models.get_model_weights(name).DEFAULT.transforms(), "crop_size", None)
    size = (3, crop[0], crop[-1]) if crop else None
    return _built(name, lambda: models.get_model(name, weights=None), quiet=True), size


def _load_timm(name: str) -> nn.Module:
    timm = _import_zoo("timm")
    if not timm.is_model(name):
        raise _unknown(f"timm has no model {name!r}", name, timm.list_models())
    return _built(name, lambda: timm.create_model(name, pretrained=False), quiet=True)


def _import_zoo(library: str) -> Any:
    try:
        return importlib.import_module(library)
    except ModuleNotFoundError as error:
        if error.name != library:
            raise ModelError(f"{library} cannot be imported: {error}") from error
        raise ModelError(
            f'{library} is not installed: pip install "cnnscale[{library}]"; '
            "a model of your own is named as path/file.py:factory"
        ) from error


def _unknown(message: str, name: str, known: Iterable[str]) -> ModelError:
    return ModelError(message + did_you_mean(name, known))


# --- the user's own factories -------------------------------------------------------------------------------------


def _load_factory(spec: str) -> nn.Module:
    where, _, name = spec.rpartition(":")
    if where.endswith(".py") or os.sep in where:
        path = Path(where)
        with _first_on_path(str(path.resolve().parent)):
            return _call_factory(spec, _import_file(path), name)
    with _first_on_path(str(Path.cwd())):
        return _call_factory(spec, _import_module(where), name)


@contextmanager
def _first_on_path(folder: str) -> Iterator[None]:
    """Import from ``folder`` first, as ``python file.py`` does; afterwards it comes last, for imports made later."""
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
        if folder not in sys.path:
            sys.path.append(folder)


def _import_file(path: Path) -> ModuleType:
    """The file as a module of its own name, which stays in ``sys.modules``: its classes can be pickled."""
    try:
        source = path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error
    digest = hashlib.sha256(str(path.resolve()).encode() + source).hexdigest()[:12]
    name = f"cnnscale_user_{path.stem}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None:
        raise ModelError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the user's module raises is reported with its line
        del sys.modules[name]
        raise ModelError(f"importing {path} failed: {_blame(error, str(path.resolve()))}") from error
    return module


def _import_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and f"{name}.".startswith(f"{error.name}."):
            raise ModelError(f"no module named {error.name!r}; is its folder the current one, or installed?") from error
        raise ModelError(f"importing {name} failed: {_blame(error)}") from error
    except Exception as error:  # whatever the user's module raises is reported with its line
        raise ModelError(f"importing {name} failed: {_blame(error)}") from error


def _call_factory(spec: str, module: ModuleType, name: str) -> nn.Module:
    from torch import nn

    factory = getattr(module, name, None)
    where = spec.rpartition(":")[0]
    if factory is None:
        own = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise _unknown(f"{where} has no {name!r}", name, own)
    if isinstance(factory, nn.Module):
        return factory
    if not callable(factory):
        raise ModelError(f"{spec} is of type {type(factory).__name__}, not a function that builds a model")
    try:
        inspect.signature(factory).bind()
    except TypeError as error:
        raise ModelError(f"{spec} cannot be called without arguments ({error}); give them defaults") from error
    except ValueError:  # a builtin without a signature: calling it will tell
        pass
    return _built(spec, factory, file=getattr(module, "__file__", None))


def _built(name: str, factory: Callable[[], Any], *, quiet: bool = False, file: str | None = None) -> nn.Module:
    """Call the factory; ``quiet`` drops a zoo's FutureWarnings, which are not about what the user typed."""
    from torch import nn

    try:
        with warnings.catch_warnings():
            if quiet:
                warnings.simplefilter("ignore", FutureWarning)
            model = factory()
    except Exception as error:  # a factory may raise anything; it is reported with its line
        raise ModelError(f"{name} failed: {_blame(error, file)}") from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"{name} returned {type(model).__name__}, not an nn.Module")
    return model


def _blame(error: Exception, file: str | None = None) -> str:
    """``ValueError: bad width (net.py:17, in build)``; the deepest line of ``file`` where that is on the stack."""
    what = f"{type(error).__name__}: {error}"
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg} ({error.filename}:{error.lineno})"
    frames = traceback.extract_tb(error.__traceback__)
    frame = next((frame for frame in reversed(frames) if frame.filename == file), frames[-1])
    return f"{what} ({frame.filename}:{frame.lineno}, in {frame.name})"


# --- a scaled model on disk ---------------------------------------------------------------------------------------


def check_output(directory: str | Path, *, force: bool = False, exports: Sequence[str] = ()) -> None:
    """Make sure that :func:`save` will be able to write there, before any work is done. Creates nothing.

    Raises:
        UsageError: a file to be written exists and ``force`` is false, or there is no such format.
        ExportError: a library for a format is not installed.
        CnnScaleError: the folder cannot be written.
    """
    folder = Path(directory)
    for name in exports:
        if name not in EXPORTS:
            raise UsageError(f"there is no format {name!r} to export to; there are {' and '.join(EXPORTS)}")
    missing = [m for m in _ONNX if "onnx" in exports and importlib.util.find_spec(m) is None]
    if missing:
        raise ExportError(f'ONNX needs {" and ".join(missing)}: pip install "cnnscale[onnx]"')
    files = (WEIGHTS_FILE, PLAN_FILE, SOURCE_FILE, *(EXPORTS[name] for name in exports))
    existing = [str(folder / name) for name in files if (folder / name).exists()]
    if existing and not force:
        raise UsageError(f"{' and '.join(existing)} would be overwritten; pass --force (force=True) if that is meant")
    ancestor = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=ancestor):
            pass
    except OSError as error:
        raise CnnScaleError(f"cannot write to {folder}: {error.strerror} ({ancestor})") from error


def save(
    model: nn.Module, directory: str | Path, *, force: bool = False, exports: Sequence[str] = ()
) -> tuple[Path, ...]:
    """Write a scaled model as ``model.safetensors`` and ``plan.json``, from which :func:`rebuild` makes it again.

    Beside them goes ``model.py``, which builds the network without cnnscale; where that cannot be written, or leaves
    something out, an :class:`ExportWarning` says so. ``exports`` names other formats, of :data:`EXPORTS`.

    Returns:
        What was written.

    Raises:
        UsageError: the model was not made by cnnscale, a file exists and ``force`` is false, or an unknown format.
        ExportError: a format could not be written; all other files are there.
        CnnScaleError: the folder cannot be written, or the model's tensors overlap in a way that cannot be saved.
    """
    from safetensors.torch import save_model

    scaling = getattr(model, "scaling", None)
    if scaling is None:
        raise UsageError("only a model that cnnscale.scale() or apply() returned can be saved: it has no .scaling")
    check_output(directory, force=force, exports=exports)
    folder = Path(directory)
    partial = folder / f".{WEIGHTS_FILE}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_model(model, str(partial))
        partial.replace(folder / WEIGHTS_FILE)
        scaling.plan.to_json(folder / PLAN_FILE)
    except OSError as error:
        raise CnnScaleError(f"cannot write to {folder}: {error.strerror or error}") from error
    except RuntimeError as error:  # safetensors refuses tensors that overlap without being equal
        raise CnnScaleError(f"cannot save the weights: {error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return folder / WEIGHTS_FILE, folder / PLAN_FILE, *_exported(model, folder, exports)


def _exported(model: nn.Module, folder: Path, exports: Sequence[str]) -> list[Path]:
    """Write ``model.py`` and other formats; a file that is wrong is not kept."""
    from .exporting import onnx_file, source_file, torch_file

    def source(model: nn.Module, path: Path) -> tuple[str, ...]:
        text, notes = source_file(model)
        path.write_text(text, encoding="utf-8")
        return notes

    writers = {SOURCE_FILE: source, EXPORTS["onnx"]: onnx_file, EXPORTS["torch"]: torch_file}
    written: list[Path] = []
    problems: list[str] = []
    for name in (SOURCE_FILE, *(EXPORTS[each] for each in exports)):
        path = folder / name
        path.unlink(missing_ok=True)
        try:
            notes = writers[name](model, path)
        except ExportError as error:
            path.unlink(missing_ok=True)
            if name != SOURCE_FILE:
                problems.append(f"{path} was not written: {error}")
                continue
            notes = (f"was not written: {error}",)
        else:
            written.append(path)
        for note in notes:
            warnings.warn(ExportWarning(f"{path}: {note}"), stacklevel=3)
    if problems:
        raise ExportError("; ".join(problems))
    return written


def rebuild(model: nn.Module, directory: str | Path) -> nn.Module:
    """The scaled model that :func:`save` wrote: its plan applied to the baseline ``model``, its weights loaded.

    Raises:
        PlanError: the plan cannot be read, or belongs to another baseline.
        ModelError: the weights cannot be read, or do not fit the plan.
    """
    from .scaling import apply

    scaled = apply(model, Plan.from_json(Path(directory) / PLAN_FILE))
    load_weights(scaled, Path(directory) / WEIGHTS_FILE)
    return scaled


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a safetensors file into the model: every tensor of both, tied ones once.

    Raises:
        ModelError: the file cannot be read, or its tensors are not the model's.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_model

    try:
        load_model(model, path, strict=True)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"cannot read {path}: {error}") from error
    except RuntimeError as error:  # it lists every name and shape; the first two lines say enough
        raise ModelError(f"{path} does not fit the model: {' '.join(str(error).split(chr(10), 2)[:2])}") from error
