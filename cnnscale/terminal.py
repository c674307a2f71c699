"""What every command of the command line is made of. The only module that prints.

Results go to stdout, everything else (progress, warnings, errors) to stderr. Exit codes: 0 done, 1 failed, 2 wrong
usage, 130 interrupted. torch is imported when a command runs, not before, so that ``--help`` is quick.

Options that commands share are declared once, as the fields of a dataclass; :func:`command` spreads them over the
signature that typer reads.
"""

from __future__ import annotations

import functools
import inspect
import logging
import re
import shutil
import traceback
import typing
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import is_dataclass
from typing import Annotated, Any, cast

import typer
from rich.console import Console, RenderableType
from typer.core import TyperCommand

from .errors import CnnScaleError, ExportWarning, GrowthWarning, UsageError

__all__ = ["NONE", "NUMBER", "app", "columns", "command", "note", "option", "show", "spread_values", "stderr"]

NONE: Any = []  # a default that typer copies
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)
_MIN_WIDTH = 100  # narrower tables would lose digits; a narrower terminal wraps them instead

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Scale a convolutional network in depth, width and resolution, and measure what that costs.",
)


def option(help: str, *names: str, panel: str | None = None, **rest: Any) -> Any:
    """A typer option; without names it is called like its parameter, and a bool has a ``--no-`` form too."""
    return typer.Option(*names, help=help, rich_help_panel=panel, **rest)


_Debug = Annotated[bool, option("Show the traceback of an error.", "--debug")]


class _SpreadingCommand(TyperCommand):
    """Lets numbers be given at once, ``--phi 0 1 2`` for ``--phi 0 --phi 1 --phi 2``, where the metavar is ``F...``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        several = {name for p in self.params for name in p.opts if (p.metavar or "").endswith("...")}
        return super().parse_args(ctx, spread_values(args, several))


def spread_values(args: Sequence[str], options: set[str]) -> list[str]:
    """Repeat an option's name before each number that follows it, up to the first word that is no number."""
    spread, rest = [], list(args)
    while rest:
        word = rest.pop(0)
        spread.append(word)
        if word == "--":
            return spread + rest
        name, equals, _ = word.partition("=")
        if name not in options:
            continue
        if not equals and rest:
            spread.append(rest.pop(0))
        while rest and NUMBER.fullmatch(rest[0]):
            spread += [name, rest.pop(0)]
    return spread


def command(*examples: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function as a command; parameters that are dataclasses become one option per field."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        parameters = _parameters(function)
        bundles: dict[str, Any] = {p.name: p.annotation for p in parameters if is_dataclass(p.annotation)}
        fields = {name: _parameters(bundle) for name, bundle in bundles.items()}

        @functools.wraps(function)
        def run(*, debug: bool, **values: Any) -> None:
            with _reported(debug=debug):
                for name, bundle in bundles.items():
                    values[name] = bundle(**{each.name: values.pop(each.name) for each in fields[name]})
                function(**values)

        # typer reads both; functools.wraps copied them as they were before the options were spread
        flat = [each for parameter in parameters for each in fields.get(parameter.name, [parameter])]
        flat.append(inspect.Parameter("debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=_Debug))
        run.__signature__ = inspect.Signature(flat)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in flat}
        app.command(
            cls=_SpreadingCommand,
            epilog="\n\n".join(["[b]Examples[/b]", *(f"python -m cnnscale {each}" for each in examples)]),
        )(run)
        return function

    return register


def _parameters(owner: Any) -> list[inspect.Parameter]:
    """The parameters of a function, or the fields of a dataclass that has a default for each, as keyword-only."""
    if is_dataclass(owner):
        defaults = vars(cast("Any", owner)())
    else:
        defaults = {name: each.default for name, each in inspect.signature(owner).parameters.items()}
    hints = typing.get_type_hints(owner, include_extras=True)  # of a dataclass, those that it inherits too
    return [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hints[name])
        for name, default in defaults.items()
    ]


@contextmanager
def _reported(*, debug: bool) -> Iterator[None]:
    """Errors and warnings become one line on stderr each, and errors an exit code."""
    if debug:
        logging.basicConfig(level=logging.DEBUG)  # to stderr
    with warnings.catch_warnings():
        for category in (GrowthWarning, ExportWarning):
            warnings.simplefilter("always", category)
        warnings.showwarning = lambda message, *_args, **_kwargs: note(f"warning: {message}", "yellow")
        try:
            yield
        except (typer.Exit, BrokenPipeError):
            raise
        except KeyboardInterrupt:
            note("interrupted", "red")
            raise typer.Exit(130) from None
        except Exception as error:  # the last resort of the program: nobody is left to handle it
            if debug:
                traceback.print_exc()
            if isinstance(error, CnnScaleError):
                note(f"error: {error}", "red")
            else:
                note(f"error: {type(error).__name__}: {error} (--debug shows where)", "red")
            raise typer.Exit(2 if isinstance(error, UsageError) else 1) from None


def note(text: str, style: str = "dim") -> None:
    stderr().print(" ".join(text.split()), style=style, soft_wrap=True)


def stderr() -> Console:
    return Console(stderr=True, markup=False, highlight=False, emoji=False)


def columns() -> int:
    return shutil.get_terminal_size((120, 24)).columns


def show(view: RenderableType) -> None:
    Console(width=max(_MIN_WIDTH, columns()), markup=False, highlight=False, emoji=False).print(view)
