"""Lists on the command line, and options that may stand alone.

A parameter's metavar says which it is:

    F... or N...   numbers: --phi 0 1 2 is --phi 0 --phi 1 --phi 2, up to the first word that is no number
    NAME...        words: --strategies a b is --strategies a --strategies b, up to the next option
    [=...]         may stand alone: --json is --json=-, what it then means being in ``ALONE``
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

import typer
from typer.core import TyperCommand

__all__ = ["NUMBER", "ListsCommand", "spread_values"]

NUMBER: Final = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)
ALONE: Final = {"--compile": "default"}
"""What options mean that stand alone, if not ``-``: standard output."""


class ListsCommand(TyperCommand):
    """A command whose lists may be written without repeating their option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        marks = {name: p.metavar or "" for p in self.params for name in p.opts}
        words = {name for name, mark in marks.items() if mark == "NAME..."}
        numbers = {name for name, mark in marks.items() if mark.endswith("...")} - words
        alone = {name for name, mark in marks.items() if mark.startswith("[=")}
        args = [f"{word}={ALONE.get(word, '-')}" if word in alone else word for word in args]
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
        while rest and (NUMBER.fullmatch(rest[0]) if name in numbers else not rest[0].startswith("-")):
            spread += [name, rest.pop(0)]
    return spread


def _check_list(name: str, text: str) -> None:
    numbers = [part for part in re.split(r"[,;\s]+", text.strip("[](){} ")) if part]
    bounds = re.fullmatch(r"(\d+)(?:\.\.|:|-|to)(\d+)", text)
    if bounds and int(bounds[1]) < int(bounds[2]):
        numbers = [str(number) for number in range(int(bounds[1]), int(bounds[2]) + 1)]
    if not NUMBER.fullmatch(text) and numbers and all(map(NUMBER.fullmatch, numbers)):
        raise typer.BadParameter(f"{text!r} is no number; did you mean {name} {' '.join(numbers)}?", param_hint=name)
