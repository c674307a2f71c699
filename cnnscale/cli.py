"""The command line: ``python -m cnnscale plan | explain | scale | verify | bench | search | status | export | study``.

What all commands share is in :mod:`cnnscale.terminal`, those that train in :mod:`cnnscale.campaigns`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from . import campaigns
from .bench_options import Compared, Outputs, Timed
from .coefficients import Coefficients
from .config import dumped, read_config
from .errors import UsageError
from .formatting import explain_view, family_view, plan_view, scaling_view, verification_view
from .inputs import InputSize
from .options import Json, Model, Models, Rounding, amount, complete_strategy, pixels, rounding_option
from .plans import Plan
from .records import Scaling
from .strategies import STRATEGIES, Curve, named
from .terminal import NONE, NUMBER, app, columns, command, note, option, show, stderr

if TYPE_CHECKING:
    from .benchmarking.variants import Variant

__all__ = ["main"]

_budget = functools.partial(option, panel="What it may cost")
_grow = functools.partial(option, panel="What to grow")
_Config = Annotated[
    Path | None,
    option("TOML with options; those on the command line win.", "--config", callback=read_config, is_eager=True),
]
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
        budgets = {name: amount(f"--{name}", getattr(self, name)) for name in ("macs", "params", "activations")}
        factors = {name: _factors(f"--{name}", getattr(self, name)) for name in ("depth", "width")}
        measured = {name: getattr(self, name) for name in ("latency_ms", "device", "batch_size")}
        measured["peak_memory_bytes"] = amount("--peak-memory", self.peak_memory)
        return {"growth": self.growth, "resolution": self.resolution, **budgets, **measured, **factors}


@dataclass(frozen=True)
class _Shaping(Rounding):
    """Everything else that shapes a plan."""

    image_size: Annotated[str | None, _grow("Scaled input size, SIDE or HxW, set outright.")] = None
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
    submodule: Annotated[str | None, rounding_option("Scale this module inside; the rest stays.", metavar="PATH")] = (
        None
    )

    @property
    def bases(self) -> dict[str, float]:
        """Those that were given, by the names of :class:`cnnscale.Coefficients`."""
        bases = {name: getattr(self, name) for name in ("alpha", "beta", "gamma")}
        return {name: base for name, base in bases.items() if base is not None}

    def keywords(self, declared_size: InputSize | None) -> dict[str, Any]:
        """Keywords of :func:`cnnscale.plan` and :func:`cnnscale.scale`."""
        values = {name: value for name, value in asdict(self).items() if name not in ("alpha", "beta", "gamma")}
        strategy = values.pop("strategy")
        image = pixels("--image-size", self.image_size, forms="HxW")
        declared_size = None if self.submodule else declared_size  # that is the whole's
        return values | {
            "coefficients": _curve(strategy, self.bases),
            "image_size": image and (image[0], image[-1]),
            **self.rounding_keywords(declared_size),
        }


def _curve(strategy: str | None, bases: dict[str, float]) -> Curve:
    if strategy is None:
        return Coefficients(**bases)
    if bases:
        raise UsageError(f"--strategy and --{next(iter(bases))} contradict each other: give one of them")
    return named(strategy)


def _factors(option: str, texts: list[str]) -> dict[str, float] | float | None:
    """``F`` for all, ``REGEX=F`` for some."""
    factors: dict[str, float] = {}
    for text in texts:
        pattern, _, number = text.rpartition("=")
        if not NUMBER.fullmatch(number):
            raise UsageError(f"{option} must be a number or REGEX=NUMBER, got {text!r}")
        factors[pattern] = float(number)
    return factors.get("") if set(factors) <= {""} else factors


def _version(wanted: bool) -> None:
    if wanted:
        from . import __version__

        typer.echo(f"cnnscale {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, option("Print the version.", "--version", callback=_version, is_eager=True)] = False,
) -> None: ...


@command(
    "plan resnet50 --phi 1",
    "plan resnet50 --phi -1 0 1 2 3 --plot family.png",
    "plan timm:convnext_tiny --macs 3G --json > plan.json",
)
def plan(
    model: Model,
    goal: _Goal,
    shaping: _Shaping,
    phi: Annotated[list[float], _grow("MACs grow as 2^phi; several: a family.", metavar="F...")] = NONE,
    plot: Annotated[
        Path | None, option("Draw the nets to scale: a .png, .svg or .pdf.", "--plot", metavar="FILE")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show how a model would be scaled. Builds nothing."""
    from . import scaling
    from .drawing import save_family
    from .loading import load
    from .plotting import check_picture

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
        show(view)
    if plot is not None:
        save_family(plans, plot)
        note(f"wrote {plot}")


@command("explain resnet50 --phi 1", "explain efficientnet_b0 --macs 1G --strategy fast")
def explain(model: Model, goal: _Goal, shaping: _Shaping, phi: _Phi = None) -> None:
    """Show every number of a plan: what was wanted, how it was rounded and why, and what stays."""
    from . import scaling
    from .loading import load

    loaded = load(model)
    show(explain_view(scaling.plan(loaded.model, phi, **goal.keywords(), **shaping.keywords(loaded.input_size))))


@command(
    "scale resnet50 --phi 1 --out resnet50x2",
    "scale resnet50 --macs 8G --params 30M --out bigger",
    "scale net.py:build --width 2 --weights inherit --out wide",
)
def scale(
    model: Model,
    out: Annotated[Path, option("Folder to write to.", "--out", metavar="DIR")],
    goal: _Goal,
    shaping: _Shaping,
    phi: _Phi = None,
    weights: Annotated[
        Literal["fresh", "inherit", "preserve"],
        option("New; the baseline's where they fit; or such that its function stays."),
    ] = "fresh",
    seed: Annotated[int | None, option("Make fresh weights reproducible.")] = None,
    strict: Annotated[bool, option("Fail where growth is out of tolerance.", "--strict")] = False,
    export: Annotated[
        list[str] | None, option("Also write model.onnx or model.pt2.", "--export", metavar="[onnx|torch]")
    ] = None,
    force: Annotated[bool, option("Overwrite what is there.", "--force")] = False,
) -> None:
    """Scale a model; write model.safetensors, plan.json and model.py to a folder."""
    from . import scaling
    from .loading import check_output, load, save

    exports = tuple(dict.fromkeys(export or ()))
    check_output(out, force=force, exports=exports)
    loaded = load(model)
    keywords = goal.keywords() | shaping.keywords(loaded.input_size)
    scaled = scaling.scale(loaded.model, phi, **keywords, weights=weights, seed=seed, strict=strict)
    show(scaling_view(cast("Scaling", scaled.scaling)))
    *files, last = save(scaled, out, force=force, exports=exports)
    note(f"wrote {', '.join(map(str, files))} and {last}")


@command("verify resnet50 --phi 1", "verify resnet50 --plan resnet50x2/plan.json")
def verify(
    model: Model,
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
            note(f"loaded {weights}")
    else:
        raise UsageError("--plan already says how to scale: drop the other options")
    verification = cast("Scaling", scaled.scaling).verification
    show(verification_view(verification))
    if not verification.ok:
        raise typer.Exit(1)


@command(
    "bench resnet18 --phi 0 1 2",
    "bench resnet50 --phi 1 --strategies efficientnet fast depth width resolution --markdown=strategies.md",
    "bench resnet50 mobilenet_v3_large --phi 0 --mode both --batch-size 1 8 32 --out rows.jsonl --resume",
    "bench net.py:build --phi 1 --compare old.jsonl --fail-over 5%",
)
def bench(
    ctx: typer.Context,
    models: Models,
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
    from .benchmarking.page import page
    from .benchmarking.plots import save_plots
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
        show(bench_view(report, width=columns()))
        if comparison:
            show(comparison_view(comparison))
    for kind, where in outputs.formats.items():
        text = exported(report, kind, comparison)
        if where == "-":
            typer.echo(text, nl=False)
        else:
            Path(where).write_text(text, encoding="utf-8")
            note(f"wrote {where}")
    if outputs.html is not None:
        outputs.html.write_text(page(report, comparison), encoding="utf-8")
        note(f"wrote {outputs.html}")
    if outputs.plot is not None:
        note(f"wrote {len(save_plots(report, outputs.plot))} pictures into {outputs.plot}")
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
    with stderr().status("") as status:

        def tick(what: str, left_s: float) -> None:
            left = f", at most {left_s:.0f} s left" if left_s > 0 else ""
            status.update(f"{what} ...{left}")

        yield tick


campaigns.add_commands()

main = app  # what the installed command and __main__ call
