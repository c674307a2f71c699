"""The command line: ``python -m cnnscale plan | explain | scale | verify | bench``. The only module that prints.

Results go to stdout, everything else (progress, warnings, errors) to stderr. Exit codes: 0 done, 1 failed, 2 wrong
usage, 130 interrupted. torch is imported when a command runs, not before, so that ``--help`` is quick.

Options that commands share are declared once, as the fields of a dataclass; :func:`_command` spreads them over the
signature that typer reads.
"""

from __future__ import annotations

import functools
import inspect
import json
import logging
import re
import shutil
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import typer
from rich.console import Console, RenderableType
from typer.core import TyperCommand

from .coefficients import Coefficients
from .errors import CnnScaleError, GrowthWarning, UsageError
from .formatting import bench_view, explain_view, family_view, plan_view, scaling_view, verification_view
from .plans import Plan
from .records import Scaling
from .strategies import STRATEGIES, Curve, named

__all__ = ["main"]

_NONE: Any = []  # a default that typer copies
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)
_MIN_WIDTH = 100  # narrower tables would lose digits; a narrower terminal wraps them instead

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Scale a convolutional network in depth, width and resolution, and measure what that costs.",
)


def _option(help: str, *names: str, panel: str | None = None, **rest: Any) -> Any:
    """A typer option; without names it is called like its parameter, and a bool has a ``--no-`` form too."""
    return typer.Option(*names, help=help, rich_help_panel=panel, **rest)


_SI = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_budget = functools.partial(_option, panel="What it may cost")
_grow = functools.partial(_option, panel="What to grow")
_round = functools.partial(_option, panel="How to round and what to keep")

_MODEL_HELP = "A torchvision classifier, timm:NAME, path/file.py:factory or package.module:factory."
_Model = Annotated[str, typer.Argument(metavar="MODEL", help=_MODEL_HELP, show_default=False)]
_Json = Annotated[bool, _option("Print JSON instead of a table.", "--json")]
_Debug = Annotated[bool, _option("Show the traceback of an error.", "--debug")]


_Phi = Annotated[float | None, _grow("Compound coefficient: MACs grow as 2^phi.")]


@dataclass(frozen=True)
class _Goal:
    """How far to scale, if not by phi: to a budget, or by multipliers."""

    macs: Annotated[str | None, _budget("Of one image, instead of phi: 4G, 600M, 4.1e9.", metavar="N")] = None
    params: Annotated[str | None, _budget("Instead of phi: 25M.", metavar="N")] = None
    activations: Annotated[str | None, _budget("Of one image, instead of phi.", metavar="N")] = None
    growth: Annotated[float | None, _budget("Of MACs, instead of phi: 3 is thrice the baseline's.")] = None
    latency_ms: Annotated[float | None, _budget("Of one batch, measured here: builds and times networks.")] = None
    peak_memory: Annotated[str | None, _budget("Of one batch, in bytes, measured likewise: 2G.", metavar="N")] = None
    device: Annotated[Literal["auto", "cpu", "cuda"], _budget("Of measured budgets; auto: cuda if there is one.")] = (
        "auto"
    )
    batch_size: Annotated[int, _budget("Images of a batch in measured budgets.")] = 1
    depth: Annotated[list[str], _grow("Multiplier, instead of phi; REGEX=F for single stages.", metavar="F")] = field(
        default_factory=list
    )
    width: Annotated[list[str], _grow("Multiplier, instead of phi; REGEX=F for single layers.", metavar="F")] = field(
        default_factory=list
    )
    resolution: Annotated[float | None, _grow("Resolution multiplier, instead of phi.")] = None

    def keywords(self) -> dict[str, Any]:
        """Keywords of :func:`cnnscale.plan` and :func:`cnnscale.scale`."""
        budgets = {name: _amount(f"--{name}", getattr(self, name)) for name in ("macs", "params", "activations")}
        factors = {name: _factors(f"--{name}", getattr(self, name)) for name in ("depth", "width")}
        measured = {name: getattr(self, name) for name in ("latency_ms", "device", "batch_size")}
        measured["peak_memory_bytes"] = _amount("--peak-memory", self.peak_memory)
        return {"growth": self.growth, "resolution": self.resolution, **budgets, **measured, **factors}


@dataclass(frozen=True)
class _Shaping:
    """Everything else that shapes a plan."""

    image_size: Annotated[str | None, _grow("Scaled input size, SIDE or HxW, set outright.")] = None
    input_size: Annotated[str | None, _grow("Baseline's input size, CxHxW or SIDE; default: its own, or 224.")] = None
    strategy: Annotated[str | None, _grow(f"In which proportion: {', '.join(STRATEGIES)}.")] = None
    alpha: Annotated[float | None, _grow("Depth per unit of phi; default: 1.2.")] = None
    beta: Annotated[float | None, _grow("Width per unit of phi; default: 1.1.")] = None
    gamma: Annotated[float | None, _grow("Resolution per unit of phi; default: 1.15.")] = None
    fit: Annotated[bool | None, _grow("Adjust until MACs grow as 2^phi; default: with --phi or a budget.")] = None
    tolerance: Annotated[float | None, _grow("Allowed deviation; default: 0.03 of 2^phi, 0.02 of a budget.")] = None
    max_image_size: Annotated[int | None, _grow("No side is enlarged beyond it.")] = None
    max_repeats: Annotated[int | None, _grow("No stage is deepened beyond it.")] = None
    divisor: Annotated[int, _round("Channels are rounded to its multiples.")] = 8
    round_limit: Annotated[float, _round("Never round below this fraction; 0: no limit.")] = 0.9
    depth_rounding: Annotated[
        Literal["ceil", "round", "floor"] | None, _round("Of repeats; default: the strategy's, mostly ceil.")
    ] = None
    pin: Annotated[list[str], _round("Regex of modules whose width stays.")] = field(default_factory=list)
    pin_depth: Annotated[list[str], _round("Regex of stages whose repeats stay.")] = field(default_factory=list)
    derive: Annotated[list[str], _round("REGEX=RULE for inner widths.")] = field(default_factory=list)
    submodule: Annotated[str | None, _round("Scale this module inside; the rest stays.", metavar="PATH")] = None

    def keywords(self, declared_size: tuple[int, ...] | None) -> dict[str, Any]:
        """Keywords of :func:`cnnscale.plan` and :func:`cnnscale.scale`."""
        values = asdict(self)
        bases = {name: values.pop(name) for name in ("alpha", "beta", "gamma")}
        strategy = values.pop("strategy")
        size = _pixels("--input-size", self.input_size, forms="CxHxW")
        image = _pixels("--image-size", self.image_size, forms="HxW")
        declared_size = None if self.submodule else declared_size  # that is the whole's
        return values | {
            "coefficients": _curve(strategy, {name: base for name, base in bases.items() if base is not None}),
            "image_size": image and (image[0], image[-1]),
            "input_size": declared_size if size is None else size if len(size) == 3 else (3, size[0], size[-1]),
            "pin": tuple(self.pin),
            "pin_depth": tuple(self.pin_depth),
            "derive": dict(map(_told, self.derive)),
        }


@dataclass(frozen=True)
class _Bench:
    """What to time, and how."""

    phi: Annotated[list[float], _option("0: baseline.", metavar="F...")] = field(default_factory=lambda: [0.0, 1.0])
    batch_size: Annotated[int, _option("Images per forward pass.")] = 8
    device: Annotated[Literal["auto", "cpu", "cuda"], _option("auto: cuda if there is one.")] = "auto"
    dtype: Annotated[Literal["fp32", "bf16", "fp16"], _option("Of the model and its input.")] = "fp32"
    channels_last: Annotated[bool, _option("Store images as NHWC.", "--channels-last")] = False
    compiled: Annotated[bool, _option("Time torch.compile(model).", "--compile")] = False
    min_time_s: Annotated[float, _option("Seconds of measurement per variant.", "--min-time")] = 1.0
    threads: Annotated[int | None, _option("CPU threads; default: torch's.")] = None
    unverified: Annotated[bool, _option("Time what fails verification, too.", "--unverified")] = False


def _pixels(option: str, text: str | None, *, forms: str) -> tuple[int, ...] | None:
    if text is None:
        return None
    sides = text.lower().split("x")
    if len(sides) > forms.count("x") + 1 or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise UsageError(f"{option} must be {forms} or SIDE in pixels, got {text!r}")
    return tuple(map(int, sides))


def _curve(strategy: str | None, bases: dict[str, float]) -> Curve:
    if strategy is None:
        return Coefficients(**bases)
    if bases:
        raise UsageError(f"--strategy and --{next(iter(bases))} contradict each other: give one of them")
    return named(strategy)


def _amount(option: str, text: str | None) -> float | None:
    """A number with an SI prefix: 4G, 600M, 25k."""
    if text is None:
        return None
    number, prefix = (text[:-1], text[-1].upper()) if text[-1:].isalpha() else (text, "")
    if prefix not in _SI or not _NUMBER.fullmatch(number):
        raise UsageError(f"{option} must be a number, as in 4G, 600M or 4.1e9, got {text!r}")
    return float(number) * _SI[prefix]


def _factors(option: str, texts: list[str]) -> dict[str, float] | float | None:
    """``F`` for all, ``REGEX=F`` for some."""
    factors: dict[str, float] = {}
    for text in texts:
        pattern, _, number = text.rpartition("=")
        if not _NUMBER.fullmatch(number):
            raise UsageError(f"{option} must be a number or REGEX=NUMBER, got {text!r}")
        factors[pattern] = float(number)
    return factors.get("") if set(factors) <= {""} else factors


def _told(text: str) -> tuple[str, str]:
    """``REGEX=RULE``, the rule being what follows the last equals sign."""
    pattern, equals, rule = text.rpartition("=")
    if not equals:
        raise UsageError(f"--derive must be REGEX=RULE, got {text!r}")
    return pattern, rule.strip()


class _PhisCommand(TyperCommand):
    """Lets a repeatable ``--phi`` take its numbers at once: ``--phi 0 1 2`` is ``--phi 0 --phi 1 --phi 2``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        several = {"--phi"} if any(p.name == "phi" and getattr(p, "multiple", False) for p in self.params) else set()
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
        while rest and _NUMBER.fullmatch(rest[0]):
            spread += [name, rest.pop(0)]
    return spread


def _command(*examples: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
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
            cls=_PhisCommand,
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
    hints = inspect.get_annotations(owner, eval_str=True)
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
        warnings.simplefilter("always", GrowthWarning)
        warnings.showwarning = lambda message, *_args, **_kwargs: _note(f"warning: {message}", "yellow")
        try:
            yield
        except (typer.Exit, BrokenPipeError):
            raise
        except KeyboardInterrupt:
            _note("interrupted", "red")
            raise typer.Exit(130) from None
        except Exception as error:  # the last resort of the program: nobody is left to handle it
            if debug:
                traceback.print_exc()
            if isinstance(error, CnnScaleError):
                _note(f"error: {error}", "red")
            else:
                _note(f"error: {type(error).__name__}: {error} (--debug shows where)", "red")
            raise typer.Exit(2 if isinstance(error, UsageError) else 1) from None


def _note(text: str, style: str = "dim") -> None:
    _stderr().print(" ".join(text.split()), style=style, soft_wrap=True)


def _stderr() -> Console:
    return Console(stderr=True, markup=False, highlight=False, emoji=False)


def _columns() -> int:
    return shutil.get_terminal_size((120, 24)).columns


def _show(view: RenderableType) -> None:
    Console(width=max(_MIN_WIDTH, _columns()), markup=False, highlight=False, emoji=False).print(view)


def _version(wanted: bool) -> None:
    if wanted:
        from . import __version__

        typer.echo(f"cnnscale {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, _option("Print the version.", "--version", callback=_version, is_eager=True)] = False,
) -> None: ...


@_command(
    "plan resnet50 --phi 1",
    "plan resnet50 --phi -1 0 1 2 3 --plot family.png",
    "plan timm:convnext_tiny --macs 3G --json > plan.json",
)
def plan(
    model: _Model,
    goal: _Goal,
    shaping: _Shaping,
    phi: Annotated[list[float], _grow("MACs grow as 2^phi; several: a family.", metavar="F...")] = _NONE,
    plot: Annotated[
        Path | None, _option("Draw the nets to scale: a .png, .svg or .pdf.", "--plot", metavar="FILE")
    ] = None,
    as_json: _Json = False,
) -> None:
    """Show how a model would be scaled. Builds nothing."""
    from . import scaling
    from .drawing import check_picture, save_family
    from .loading import load

    if plot is not None:
        check_picture(plot)
    if len(phi) > 1 and goal != _Goal():
        raise UsageError("several --phi make a family, which has no other goal: drop budgets and multipliers")
    loaded = load(model)
    keywords = shaping.keywords(loaded.input_size)
    if len(phi) > 1:
        family = scaling.family(loaded.model, phi, **keywords)
        text, view, plans = family.to_json, family_view(family), family.plans
    else:
        made = scaling.plan(loaded.model, next(iter(phi), None), **goal.keywords(), **keywords)
        text, view, plans = made.to_json, plan_view(made), (made,)
    if as_json:
        typer.echo(text(), nl=False)
    else:
        _show(view)
    if plot is not None:
        save_family(plans, plot)
        _note(f"wrote {plot}")


@_command("explain resnet50 --phi 1", "explain efficientnet_b0 --macs 1G --strategy fast")
def explain(model: _Model, goal: _Goal, shaping: _Shaping, phi: _Phi = None) -> None:
    """Show every number of a plan: what was wanted, how it was rounded and why, and what stays."""
    from . import scaling
    from .loading import load

    loaded = load(model)
    _show(explain_view(scaling.plan(loaded.model, phi, **goal.keywords(), **shaping.keywords(loaded.input_size))))


@_command(
    "scale resnet50 --phi 1 --out resnet50x2",
    "scale resnet50 --macs 8G --params 30M --out bigger",
    "scale net.py:build --width 2 --weights inherit --out wide",
)
def scale(
    model: _Model,
    out: Annotated[Path, _option("Folder to write to.", "--out", metavar="DIR")],
    goal: _Goal,
    shaping: _Shaping,
    phi: _Phi = None,
    weights: Annotated[
        Literal["fresh", "inherit", "preserve"],
        _option("New; the baseline's where they fit; or such that its function stays."),
    ] = "fresh",
    seed: Annotated[int | None, _option("Make fresh weights reproducible.")] = None,
    strict: Annotated[bool, _option("Fail where growth is out of tolerance.", "--strict")] = False,
    force: Annotated[bool, _option("Overwrite what is there.", "--force")] = False,
) -> None:
    """Scale a model; write model.safetensors and plan.json to a folder."""
    from . import scaling
    from .loading import PLAN_FILE, WEIGHTS_FILE, check_output, load, save

    check_output(out, force=force)
    loaded = load(model)
    keywords = goal.keywords() | shaping.keywords(loaded.input_size)
    scaled = scaling.scale(loaded.model, phi, **keywords, weights=weights, seed=seed, strict=strict)
    save(scaled, out, force=force)
    _show(scaling_view(cast("Scaling", scaled.scaling)))
    _note(f"wrote {out / WEIGHTS_FILE} and {out / PLAN_FILE}")


@_command("verify resnet50 --phi 1", "verify resnet50 --plan resnet50x2/plan.json")
def verify(
    model: _Model,
    goal: _Goal,
    shaping: _Shaping,
    phi: _Phi = None,
    plan_file: Annotated[
        Path | None,
        _option("A saved plan; weights beside it are loaded.", "--plan", metavar="FILE"),
    ] = None,
) -> None:
    """Build the scaled model and measure it against plan and target; exit 1 where it fails."""
    from . import scaling
    from .loading import WEIGHTS_FILE, load, load_weights

    if plan_file is None:
        loaded = load(model)
        scaled = scaling.scale(loaded.model, phi, **goal.keywords(), **shaping.keywords(loaded.input_size))
    elif (phi, goal, shaping) == (None, _Goal(), _Shaping()):
        made, weights = Plan.from_json(plan_file), plan_file.with_name(WEIGHTS_FILE)
        scaled = scaling.apply(load(model).model, made)
        if weights.exists():
            load_weights(scaled, weights)
            _note(f"loaded {weights}")
    else:
        raise UsageError("--plan already says how to scale: drop the other options")
    verification = cast("Scaling", scaled.scaling).verification
    _show(verification_view(verification))
    if not verification.ok:
        raise typer.Exit(1)


@_command("bench resnet18 --phi 0 1 2", "bench timm:efficientnet_b0 --phi -1 1 --dtype bf16 --json")
def bench(model: _Model, timing: _Bench, shaping: _Shaping, as_json: _Json = False) -> None:
    """Time the baseline and scaled variants. Each is verified first; one that fails is not timed."""
    from .benchmarking import Report, Row, bench_rows, environment, phi_variants
    from .loading import load
    from .parts import part_of
    from .timing import Settings

    settings = Settings(**{name: value for name, value in vars(timing).items() if name != "phi"})
    loaded = load(model)
    keywords = shaping.keywords(loaded.input_size)
    part = part_of(loaded.model, keywords.pop("submodule"))  # of a submodule, the time is its own
    variants = phi_variants(
        part.module, timing.phi, **keywords | {"input_size": keywords["input_size"] or part.input_size}
    )
    rows: tuple[Row, ...] = ()
    interrupted = False
    with _stderr().status("") as status:  # shows nothing where stderr is no terminal
        try:
            for row in bench_rows(variants, settings, on_start=lambda name: status.update(f"{name} ...")):
                rows += (row,)
        except KeyboardInterrupt:  # keep what has been measured
            interrupted = True
    report = Report(model=loaded.name, environment=environment(settings), rows=rows)
    if as_json:
        typer.echo(json.dumps(report.to_dict(), indent=2))
    else:
        _show(bench_view(report, width=_columns()))
    if interrupted:
        raise KeyboardInterrupt
    if not report.ok:
        raise typer.Exit(1)


main = app  # what the installed command and __main__ call
