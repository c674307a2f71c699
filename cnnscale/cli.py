"""The command line: ``python -m cnnscale plan | explain | scale | verify | bench``. The only module that prints.

Results go to stdout, everything else (progress, warnings, errors) to stderr. Exit codes: 0 done, 1 failed, 2 wrong
usage, 130 interrupted. torch is imported when a command runs, not before, so that ``--help`` is quick.

Options that commands share are declared once, as the fields of a dataclass; :func:`_command` spreads them over the
signature that typer reads.
"""

from __future__ import annotations

import functools
import inspect
import logging
import shutil
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer
from rich.console import Console, RenderableType

from .bench_options import Compared, Outputs, Timed
from .coefficients import Coefficients
from .errors import CnnScaleError, GrowthWarning, UsageError
from .formatting import explain_view, family_view, plan_view, scaling_view, verification_view
from .options import ListsCommand, complete_model, complete_strategy, dumped, is_number, option, read_config
from .plans import Plan
from .records import Scaling
from .strategies import STRATEGIES, Curve, named

if TYPE_CHECKING:
    from .benchmarking.variants import Variant

__all__ = ["main"]

_NONE: Any = []  # a default that typer copies
_MIN_WIDTH = 100  # narrower tables would lose digits; a narrower terminal wraps them instead

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Scale a convolutional network in depth, width and resolution, and measure what that costs.",
)


_SI = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_budget = functools.partial(option, panel="What it may cost")
_grow = functools.partial(option, panel="What to grow")
_round = functools.partial(option, panel="How to round and what to keep")

_MODEL_HELP = "A torchvision classifier, timm:NAME, path/file.py:factory or package.module:factory."
_argument = functools.partial(typer.Argument, help=_MODEL_HELP, show_default=False, autocompletion=complete_model)
_Model = Annotated[str, _argument(metavar="MODEL")]
_Models = Annotated[list[str], _argument(metavar="MODEL...")]
_Config = Annotated[
    Path | None,
    option("TOML with options; those on the command line win.", "--config", callback=read_config, is_eager=True),
]
_Json = Annotated[bool, option("Print JSON instead of a table.", "--json")]
_Debug = Annotated[bool, option("Show the traceback of an error.", "--debug")]


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
    strategy: Annotated[
        str | None, _grow(f"In which proportion: {', '.join(STRATEGIES)}.", autocompletion=complete_strategy)
    ] = None
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

    @property
    def bases(self) -> dict[str, float]:
        """Those that were given, by the names of :class:`cnnscale.Coefficients`."""
        bases = {name: getattr(self, name) for name in ("alpha", "beta", "gamma")}
        return {name: base for name, base in bases.items() if base is not None}

    def keywords(self, declared_size: tuple[int, ...] | None) -> dict[str, Any]:
        """Keywords of :func:`cnnscale.plan` and :func:`cnnscale.scale`."""
        values = {name: value for name, value in asdict(self).items() if name not in ("alpha", "beta", "gamma")}
        strategy = values.pop("strategy")
        size = _pixels("--input-size", self.input_size, forms="CxHxW")
        image = _pixels("--image-size", self.image_size, forms="HxW")
        declared_size = None if self.submodule else declared_size  # that is the whole's
        return values | {
            "coefficients": _curve(strategy, self.bases),
            "image_size": image and (image[0], image[-1]),
            "input_size": declared_size if size is None else size if len(size) == 3 else (3, size[0], size[-1]),
            "pin": tuple(self.pin),
            "pin_depth": tuple(self.pin_depth),
            "derive": dict(map(_told, self.derive)),
        }


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
    if prefix not in _SI or not is_number(number):
        raise UsageError(f"{option} must be a number, as in 4G, 600M or 4.1e9, got {text!r}")
    return float(number) * _SI[prefix]


def _factors(option: str, texts: list[str]) -> dict[str, float] | float | None:
    """``F`` for all, ``REGEX=F`` for some."""
    factors: dict[str, float] = {}
    for text in texts:
        pattern, _, number = text.rpartition("=")
        if not is_number(number):
            raise UsageError(f"{option} must be a number or REGEX=NUMBER, got {text!r}")
        factors[pattern] = float(number)
    return factors.get("") if set(factors) <= {""} else factors


def _told(text: str) -> tuple[str, str]:
    """``REGEX=RULE``, the rule being what follows the last equals sign."""
    pattern, equals, rule = text.rpartition("=")
    if not equals:
        raise UsageError(f"--derive must be REGEX=RULE, got {text!r}")
    return pattern, rule.strip()


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
            cls=ListsCommand,
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
    version: Annotated[bool, option("Print the version.", "--version", callback=_version, is_eager=True)] = False,
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
        Path | None, option("Draw the nets to scale: a .png, .svg or .pdf.", "--plot", metavar="FILE")
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
    out: Annotated[Path, option("Folder to write to.", "--out", metavar="DIR")],
    goal: _Goal,
    shaping: _Shaping,
    phi: _Phi = None,
    weights: Annotated[Literal["fresh", "inherit"], option("New, or the baseline's where they fit.")] = "fresh",
    seed: Annotated[int | None, option("Make fresh weights reproducible.")] = None,
    strict: Annotated[bool, option("Fail where growth is out of tolerance.", "--strict")] = False,
    force: Annotated[bool, option("Overwrite what is there.", "--force")] = False,
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
        option("A saved plan; weights beside it are loaded.", "--plan", metavar="FILE"),
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


@_command(
    "bench resnet18 --phi 0 1 2",
    "bench resnet50 --phi 1 --strategies efficientnet fast depth width resolution --markdown=strategies.md",
    "bench resnet50 mobilenet_v3_large --phi 0 --mode both --batch-size 1 8 32 --out rows.jsonl --resume",
    "bench net.py:build --phi 1 --compare old.jsonl --fail-over 5%",
)
def bench(
    ctx: typer.Context,
    models: _Models,
    compared: Compared,
    timed: Timed,
    outputs: Outputs,
    shaping: _Shaping,
    config: _Config = None,
    dump_config: Annotated[
        bool, option("Print the options as a file for --config, and measure nothing.", "--dump-config")
    ] = False,
) -> None:
    """Time the baseline and scaled variants in turn. Each is verified first; one that fails is not timed."""
    from .benchmarking.exports import exported
    from .benchmarking.recording import recorded
    from .benchmarking.regressions import against
    from .benchmarking.results import Store, read_results
    from .benchmarking.views import bench_view, comparison_view

    if dump_config:
        typer.echo(dumped(ctx), nl=False)
        return
    settings, allowed = timed.settings(), compared.allowed
    outputs.check()
    old = read_results(compared.compare) if compared.compare else None
    store = Store(outputs.out) if outputs.out else None
    variants = _variants(models, compared, shaping)
    with _progress() as tick:
        report = recorded(variants, settings, store, resume=outputs.resume, tick=tick)
    comparison = against(report, old, settings, fail_over=allowed) if old and report.rows else None
    if report.rows and not outputs.on_stdout:
        _show(bench_view(report, width=_columns()))
        if comparison:
            _show(comparison_view(comparison))
    for kind, where in outputs.formats.items():
        text = exported(report, kind, comparison)
        if where == "-":
            typer.echo(text, nl=False)
        else:
            Path(where).write_text(text, encoding="utf-8")
            _note(f"wrote {where}")
    if report.interrupted:
        raise KeyboardInterrupt
    if not report.ok or (comparison and not comparison.ok):
        raise typer.Exit(1)


def _variants(models: list[str], compared: Compared, shaping: _Shaping) -> list[Variant]:
    """Each model at each phi, by each strategy, and the twin: at its own input size, or that which the options name."""
    from .benchmarking.variants import phi_variants, plain_variant
    from .loading import load
    from .parts import part_of

    variants: list[Variant] = []
    for spec in dict.fromkeys(models):
        loaded = load(spec)
        prefix = f"{spec} " if len(models) > 1 else ""
        keywords = shaping.keywords(loaded.input_size)
        part = part_of(loaded.model, keywords.pop("submodule"))  # of a submodule, the time is its own
        keywords["input_size"] = keywords["input_size"] or part.input_size
        curves = {name: _curve(name, shaping.bases) for name in compared.strategies}
        if curves and shaping.strategy:
            raise UsageError("--strategy and --strategies contradict each other: give one of them")
        variants += phi_variants(part.module, compared.phi, name=loaded.name, prefix=prefix, curves=curves, **keywords)
    if compared.twin is not None:
        asked = shaping.keywords(None)
        size = (3, *asked["image_size"]) if asked["image_size"] else asked["input_size"]
        variants.append(plain_variant(compared.twin, name=compared.twin, input_size=size))
    return variants


@contextmanager
def _progress() -> Iterator[Callable[[str, float], None]]:
    """What is being done, and how many seconds are left at most; shows nothing where stderr is no terminal."""
    with _stderr().status("") as status:

        def tick(what: str, left_s: float) -> None:
            left = f", at most {left_s:.0f} s left" if left_s > 0 else ""
            status.update(f"{what} ...{left}")

        yield tick


main = app  # what the installed command and __main__ call
