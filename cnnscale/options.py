"""What the command line adds to typer's options: lists, options that may stand alone, and values from a file.

--phi 0 1 2            is --phi 0 --phi 1 --phi 2: numbers, up to the first word that is none
--strategies a b c     is --strategies a --strategies b ...: words, up to the next option
--json                 is --json=-: an option of ALONE without its value
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import typer
from typer.core import TyperCommand

from .errors import CnnScaleError, UsageError, did_you_mean
from .strategies import STRATEGIES

__all__ = [
    "ListsCommand",
    "complete_model",
    "complete_strategy",
    "dumped",
    "fraction",
    "is_number",
    "option",
    "read_config",
    "spread_values",
]

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)
_NUMBERS: Final = ("phi", "batch_size")
_WORDS: Final = ("strategies",)
_ALONE: Final = {"compile_mode": "default", "json_to": "-", "csv_to": "-", "markdown_to": "-"}
"""Parameters whose option may stand without a value, and what it means then."""
_NOT_SETTINGS: Final = ("config", "dump_config", "debug", "help")


def option(help: str, *names: str, panel: str | None = None, **rest: Any) -> Any:
    """A typer option; without names it is called like its parameter, and a bool has a ``--no-`` form too."""
    return typer.Option(*names, help=help, rich_help_panel=panel, **rest)


def is_number(text: str) -> bool:
    return bool(_NUMBER.fullmatch(text))


def fraction(name: str, text: str) -> float:
    """``5%`` or ``0.05``.

    Raises:
        UsageError: it is neither.
    """
    number, percent, rest = text.partition("%")
    if rest or not is_number(number):
        raise UsageError(f"{name} must be a percentage or a fraction, as in 5% or 0.05, got {text!r}")
    return float(number) / 100 if percent else float(number)


# --- completion ---------------------------------------------------------------------------------------------------


def complete_model(incomplete: str) -> list[str]:
    """The zoo's names that begin so; nothing of a zoo that is not installed, since a shell shows no errors."""
    from .loading import known_models

    with suppress(CnnScaleError):
        return [
            name
            for name in known_models("timm:" if incomplete.startswith("timm") else "")
            if name.startswith(incomplete)
        ]
    return []


def complete_strategy(incomplete: str) -> list[str]:
    return [name for name in STRATEGIES if name.startswith(incomplete)]


# --- lists --------------------------------------------------------------------------------------------------------


class ListsCommand(TyperCommand):
    """A command whose lists may be written without repeating their option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        several = [p for p in self.params if getattr(p, "multiple", False)]
        numbers = {name for p in several if p.name in _NUMBERS for name in p.opts}
        words = {name for p in several if p.name in _WORDS for name in p.opts}
        alone = {name: _ALONE[p.name] for p in self.params if p.name in _ALONE for name in p.opts}
        args = [f"{word}={alone[word]}" if word in alone else word for word in args]
        return super().parse_args(ctx, spread_values(args, numbers, words))


def spread_values(args: Sequence[str], numbers: set[str], words: Iterable[str] = ()) -> list[str]:
    """Repeat the name of an option of ``numbers`` or ``words`` before each value that follows it.

    Raises:
        typer.BadParameter: a list of numbers is written in another way, such as ``0,1,2``; the message shows it right.
    """
    spread, rest = [], list(args)
    while rest:
        word = rest.pop(0)
        spread.append(word)
        if word == "--":
            return spread + rest
        name, equals, value = word.partition("=")
        if name not in {*numbers, *words}:
            continue
        if not equals and rest:
            value = rest.pop(0)
            spread.append(value)
        if name in numbers:
            _check_list(name, value)
        while rest and (is_number(rest[0]) if name in numbers else not rest[0].startswith("-")):
            spread += [name, rest.pop(0)]
    return spread


def _check_list(name: str, text: str) -> None:
    numbers = [part for part in re.split(r"[,;\s]+", text.strip("[](){} ")) if part]
    bounds = re.fullmatch(r"(\d+)(?:\.\.|:|-|to)(\d+)", text)
    if bounds and int(bounds[1]) < int(bounds[2]):
        numbers = [str(number) for number in range(int(bounds[1]), int(bounds[2]) + 1)]
    if not is_number(text) and numbers and all(map(is_number, numbers)):
        raise typer.BadParameter(f"{text!r} is no number; did you mean {name} {' '.join(numbers)}?", param_hint=name)


# --- a file of options --------------------------------------------------------------------------------------------


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
