"""Options that several commands share, and how their texts are read."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import typer

from .errors import UsageError
from .terminal import NUMBER, option

__all__ = ["MODEL_HELP", "Json", "Model", "Rounding", "amount", "pixels", "rounding_option"]

_SI = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
rounding_option = functools.partial(option, panel="How to round and what to keep")

MODEL_HELP = "A torchvision classifier, timm:NAME, path/file.py:factory or package.module:factory."
Model = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP, show_default=False)]
Json = Annotated[bool, option("Print JSON instead of a table.", "--json")]


@dataclass(frozen=True)
class Rounding:
    """The baseline's input, how to round, and what to keep."""

    input_size: Annotated[
        str | None, option("Baseline's input size, CxHxW or SIDE; default: its own, or 224.", panel="What to grow")
    ] = None
    divisor: Annotated[int, rounding_option("Channels are rounded to its multiples.")] = 8
    round_limit: Annotated[float, rounding_option("Never round below this fraction; 0: no limit.")] = 0.9
    depth_rounding: Annotated[
        Literal["ceil", "round", "floor"] | None, rounding_option("Of repeats; default: the strategy's, mostly ceil.")
    ] = None
    pin: Annotated[list[str], rounding_option("Regex of modules whose width stays.")] = field(default_factory=list)
    pin_depth: Annotated[list[str], rounding_option("Regex of stages whose repeats stay.")] = field(
        default_factory=list
    )
    derive: Annotated[list[str], rounding_option("REGEX=RULE for inner widths.")] = field(default_factory=list)

    def rounding_keywords(self, declared_size: tuple[int, ...] | None) -> dict[str, Any]:
        """Keywords of :func:`cnnscale.plan` and of searches."""
        size = pixels("--input-size", self.input_size, forms="CxHxW")
        return {
            "input_size": declared_size if size is None else size if len(size) == 3 else (3, size[0], size[-1]),
            "divisor": self.divisor,
            "round_limit": self.round_limit,
            "depth_rounding": self.depth_rounding,
            "pin": tuple(self.pin),
            "pin_depth": tuple(self.pin_depth),
            "derive": dict(map(_told, self.derive)),
        }


def pixels(option: str, text: str | None, *, forms: str) -> tuple[int, ...] | None:
    if text is None:
        return None
    sides = text.lower().split("x")
    if len(sides) > forms.count("x") + 1 or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise UsageError(f"{option} must be {forms} or SIDE in pixels, got {text!r}")
    return tuple(map(int, sides))


def amount(option: str, text: str | None) -> float | None:
    """A number with an SI prefix: 4G, 600M, 25k."""
    if text is None:
        return None
    number, prefix = (text[:-1], text[-1].upper()) if text[-1:].isalpha() else (text, "")
    if prefix not in _SI or not NUMBER.fullmatch(number):
        raise UsageError(f"{option} must be a number, as in 4G, 600M or 4.1e9, got {text!r}")
    return float(number) * _SI[prefix]


def _told(text: str) -> tuple[str, str]:
    """``REGEX=RULE``, the rule being what follows the last equals sign."""
    pattern, equals, rule = text.rpartition("=")
    if not equals:
        raise UsageError(f"--derive must be REGEX=RULE, got {text!r}")
    return pattern, rule.strip()
