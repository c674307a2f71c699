"""Options that several commands share, and how their texts are read."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import typer

from .errors import CnnScaleError, UsageError
from .inputs import InputSize
from .strategies import STRATEGIES
from .terminal import NUMBER, option

__all__ = [
    "MODEL_HELP",
    "Json",
    "Model",
    "Models",
    "Rounding",
    "amount",
    "complete_strategy",
    "fraction",
    "pixels",
    "rounding_option",
]

_SI = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
rounding_option = functools.partial(option, panel="How to round and what to keep")

MODEL_HELP = "A torchvision classifier, timm:NAME, path/file.py:factory or package.module:factory."


def complete_model(incomplete: str) -> list[str]:
    """The zoo's names that begin so; nothing of a zoo that is not installed, since a shell shows no errors."""
    from .loading import known_models

    with suppress(CnnScaleError):
        known = known_models("timm:" if incomplete.startswith("timm") else "")
        return [name for name in known if name.startswith(incomplete)]
    return []


def complete_strategy(incomplete: str) -> list[str]:
    return [name for name in STRATEGIES if name.startswith(incomplete)]


_argument = functools.partial(typer.Argument, help=MODEL_HELP, show_default=False, autocompletion=complete_model)
Model = Annotated[str, _argument(metavar="MODEL")]
Models = Annotated[list[str], _argument(metavar="MODEL...")]
Json = Annotated[bool, option("Print JSON instead of a table.", "--json")]


@dataclass(frozen=True)
class Rounding:
    """The baseline's input, how to round, and what to keep."""

    input_size: Annotated[
        list[str],
        option(
            "Baseline's input size, CxHxW or SIDE; default: its own, or 224. NAME=CxHxW for each of several inputs.",
            panel="What to grow",
            metavar="[NAME=]SIZE",
        ),
    ] = field(default_factory=list)
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

    def rounding_keywords(self, declared_size: InputSize | None) -> dict[str, Any]:
        """Keywords of :func:`cnnscale.plan` and of searches."""
        return {
            "input_size": input_size("--input-size", self.input_size) or declared_size,
            "divisor": self.divisor,
            "round_limit": self.round_limit,
            "depth_rounding": self.depth_rounding,
            "pin": tuple(self.pin),
            "pin_depth": tuple(self.pin_depth),
            "derive": dict(map(_told, self.derive)),
        }


def input_size(option: str, texts: Sequence[str]) -> InputSize | None:
    """``SIDE``, ``HxW`` or ``CxHxW`` of one image; of several inputs ``CxHxW`` or ``C`` each, in order or ``NAME=``."""
    if not texts:
        return None
    names = [text.rpartition("=")[0] for text in texts]
    sizes = [_sides(option, text.rpartition("=")[2], "CxHxW") for text in texts]
    if all(names) and len(set(names)) == len(names):
        return dict(zip(names, sizes, strict=True))
    if any(names):
        raise UsageError(f"{option} needs a name for each input, or none for any, got {' '.join(texts)!r}")
    if len(sizes) > 1:
        return tuple(sizes)
    (size,) = sizes
    return size if len(size) >= 3 else (3, size[0], size[-1])


def pixels(option: str, text: str | None, *, forms: str) -> tuple[int, ...] | None:
    return None if text is None else _sides(option, text, forms)


def _sides(option: str, text: str, forms: str) -> tuple[int, ...]:
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


def fraction(option: str, text: str) -> float:
    """``5%`` or ``0.05``.

    Raises:
        UsageError: it is neither.
    """
    number, percent, rest = text.partition("%")
    if rest or not NUMBER.fullmatch(number):
        raise UsageError(f"{option} must be a percentage or a fraction, as in 5% or 0.05, got {text!r}")
    return float(number) / 100 if percent else float(number)


def _told(text: str) -> tuple[str, str]:
    """``REGEX=RULE``, the rule being what follows the last equals sign."""
    pattern, equals, rule = text.rpartition("=")
    if not equals:
        raise UsageError(f"--derive must be REGEX=RULE, got {text!r}")
    return pattern, rule.strip()
