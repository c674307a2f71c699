"""The options of ``bench``: what is compared, how it is timed, and where the results go."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from .errors import UsageError
from .options import complete_strategy, fraction
from .strategies import STRATEGIES
from .terminal import option

if TYPE_CHECKING:
    from .timing.settings import Settings

__all__ = ["Compared", "Outputs", "Timed"]

_compare = functools.partial(option, panel="What to compare")
_measure = functools.partial(option, panel="How to measure")
_write = functools.partial(option, panel="Where results go")


@dataclass(frozen=True)
class Compared:
    """What is compared with what."""

    phi: Annotated[list[float], _compare("MACs grow as 2^phi; 0 is the baseline.", metavar="F...")] = field(
        default_factory=lambda: [0.0, 1.0]
    )
    strategies: Annotated[
        list[str],
        _compare(
            f"At the same phi, so at equal MACs: {', '.join(STRATEGIES)}.",
            metavar="NAME...",
            autocompletion=complete_strategy,
        ),
    ] = field(default_factory=list)
    twin: Annotated[str | None, _compare("A hand-written network.", metavar="MODEL")] = None
    compare: Annotated[Path | None, _compare("The results of an earlier run (--out).", metavar="OLD.jsonl")] = None
    fail_over: Annotated[str | None, _compare("Exit 1 where a row became slower by more than this.", metavar="P%")] = (
        None
    )

    @property
    def allowed(self) -> float | None:
        """How much slower than in the earlier run a row may be.

        Raises:
            UsageError: it is no percentage, or there is no earlier run.
        """
        if self.fail_over is None:
            return None
        if self.compare is None:
            raise UsageError("--fail-over compares with an earlier run: name its results with --compare")
        return fraction("--fail-over", self.fail_over)


@dataclass(frozen=True)
class Timed:
    """How variants are timed."""

    mode: Annotated[Literal["infer", "train", "both"], _measure("Forward pass, training step, or both.")] = "infer"
    batch_size: Annotated[
        list[int], _measure("Images per step; several: a sweep.", "--batch-size", "--batch-sweep", metavar="N...")
    ] = field(default_factory=lambda: [8])
    single: Annotated[bool, _measure("Latency of a single image, too.")] = True
    device: Annotated[Literal["auto", "cpu", "cuda", "mps"], _measure("auto: a GPU if there is one.")] = "auto"
    dtype: Annotated[Literal["fp32", "tf32", "bf16", "fp16"], _measure("Of the model and its input.")] = "fp32"
    channels_last: Annotated[bool, _measure("Store images as NHWC.", "--channels-last")] = False
    compile_mode: Annotated[
        str | None,
        _measure("Time torch.compile(model, mode=...); alone: default.", "--compile", metavar="[=MODE]"),
    ] = None
    cuda_graph: Annotated[bool, _measure("Time replays of a CUDA graph.", "--cuda-graph")] = False
    precision: Annotated[str, _measure("Add rounds until each ratio of times is known within it.", metavar="P%")] = "2%"
    min_time_s: Annotated[float, _measure("Seconds of measurement per variant, at least.", "--min-time")] = 1.0
    time_limit_s: Annotated[float, _measure("Seconds per comparison, at most.", "--time-limit")] = 30.0
    threads: Annotated[int | None, _measure("CPU threads; default: torch's.")] = None
    layers: Annotated[bool, _measure("Which parts of the net take the time, too.", "--layers")] = False
    unverified: Annotated[bool, _measure("Time what fails verification, too.", "--unverified")] = False

    def settings(self) -> Settings:
        """What :mod:`cnnscale.timing` takes.

        Raises:
            UsageError: a value is out of range, or the device is not there.
        """
        from .timing.settings import Settings

        values: dict[str, Any] = {key: value for key, value in vars(self).items() if key not in ("mode", "batch_size")}
        values["precision"] = fraction("--precision", self.precision)
        modes: tuple[Any, ...] = ("infer", "train") if self.mode == "both" else (self.mode,)
        return Settings(**values, modes=modes, batch_sizes=tuple(dict.fromkeys(self.batch_size)))


@dataclass(frozen=True)
class Outputs:
    """Where results go besides the table on stdout."""

    out: Annotated[
        Path | None, _write("Append each row at once, as a line of JSON.", "--out", metavar="FILE.jsonl")
    ] = None
    resume: Annotated[bool, _write("Do not measure again what --out has.", "--resume")] = False
    json_to: Annotated[str | None, _write("The report as JSON; alone: on stdout.", "--json", metavar="[=FILE]")] = None
    csv_to: Annotated[str | None, _write("The rows as CSV; alone: on stdout.", "--csv", metavar="[=FILE]")] = None
    markdown_to: Annotated[
        str | None, _write("Tables in markdown; alone: on stdout.", "--markdown", metavar="[=FILE]")
    ] = None
    html: Annotated[Path | None, _write("A page that works offline.", "--html", metavar="FILE.html")] = None
    plot: Annotated[Path | None, _write("Pictures there, as PNG and SVG.", "--plot", metavar="DIR")] = None

    @property
    def on_stdout(self) -> str | None:
        """The format that replaces the table on stdout: ``json``, ``csv`` or ``markdown``."""
        return next((kind for kind, where in self.formats.items() if where == "-"), None)

    @property
    def formats(self) -> dict[str, str]:
        """Formats asked for -> where they go; ``-`` is stdout."""
        asked = {"json": self.json_to, "csv": self.csv_to, "markdown": self.markdown_to}
        return {kind: where for kind, where in asked.items() if where is not None}

    def check(self) -> None:
        """Try every path, before anything is measured.

        Raises:
            UsageError: options contradict each other.
            CnnScaleError: a path cannot be written.
        """
        from .benchmarking.results import check_writable
        from .plotting import check_folder

        if self.resume and self.out is None:
            raise UsageError("--resume continues a file of results: name it with --out")
        if list(self.formats.values()).count("-") > 1:
            raise UsageError("only one format can go to stdout: give the others a file, as in --csv=rows.csv")
        for where in self.formats.values():
            if where != "-":
                check_writable(where)
        if self.html is not None:
            check_writable(self.html)
        if self.plot is not None:
            check_folder(self.plot)
