"""Options from a file: TOML whose keys are the options' names, ``batch-size = [1, 8]`` for ``--batch-size 1 8``."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import typer

from .errors import did_you_mean

__all__ = ["dumped", "read_config"]

_NOT_SETTINGS: Final = ("config", "dump_config", "debug", "help")


def read_config(ctx: typer.Context, path: Path | None) -> Path | None:
    """Let a TOML file give the values of options that are not on the command line; an eager option's callback.

    Raises:
        typer.BadParameter: the file cannot be read, is no TOML, or has a key or a list where no option has one.
    """
    if path is None:
        return None
    known = {_key(parameter): parameter for parameter in ctx.command.params if parameter.name not in _NOT_SETTINGS}
    values: dict[str, Any] = {}
    for key, value in _toml(path).items():
        name = key.replace("_", "-")
        if name not in known:
            raise typer.BadParameter(f"{path}: there is no option {key!r}{did_you_mean(name, known)}")
        if isinstance(value, list) != _is_list(known[name]) or isinstance(value, dict):
            wanted = "a list" if _is_list(known[name]) else "a single value"
            raise typer.BadParameter(f"{path}: {key} must be {wanted}, got {value!r}")
        values[known[name].name] = value
    ctx.default_map = {**(ctx.default_map or {}), **values}
    return path


def dumped(ctx: typer.Context) -> str:
    """The options' values as the TOML that :func:`read_config` reads; those that have none are comments."""
    lines = []
    for parameter in ctx.command.params:
        if parameter.name in _NOT_SETTINGS:
            continue
        value = ctx.params[parameter.name]
        lines.append(f"# {getattr(parameter, 'help', None) or ''}".rstrip())
        shown = "..." if value is None else json.dumps(list(value) if isinstance(value, tuple) else value, default=str)
        lines.append(f"{'# ' * (value is None)}{_key(parameter)} = {shown}\n")
    return "\n".join(lines)


def _key(parameter: Any) -> str:
    """``batch-size`` for the option ``--batch-size``; an argument's name."""
    return str(parameter.opts[0]).lstrip("-").replace("_", "-")


def _is_list(parameter: Any) -> bool:
    return bool(getattr(parameter, "multiple", False)) or parameter.nargs != 1


def _toml(path: Path) -> Mapping[str, Any]:
    reader: Any = None
    for name in ("tomllib", "tomli"):  # Python has its own from 3.11 on
        with suppress(ModuleNotFoundError):
            reader = reader or importlib.import_module(name)
    if reader is None:
        raise typer.BadParameter("a config file needs Python 3.11, or: pip install tomli")
    try:
        return dict(reader.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    except ValueError as error:  # what its reader raises is one
        raise typer.BadParameter(f"{path} is not TOML: {error}") from error
