"""The plan: what will be done to a model, as data.

A plan holds no tensor and needs no torch. It says, for one model at one input size, how often each stage's block
repeats, how many channels each group of tied channels has, and which input size goes with it; and what all that costs.
It goes to JSON and back without loss.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .budgets import Budget, Cost, Measurement
from .coefficients import Coefficients, Multipliers
from .errors import PlanError
from .formatting import format_family, format_plan
from .inputs import InputSize
from .strategies import Strategy

__all__ = ["PLAN_VERSION", "Cost", "Family", "Fixed", "Options", "Plan", "Stage", "Width"]

PLAN_VERSION: Final = 1


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Stage(_Record):
    """A run of blocks whose input and output shapes agree, and the block that opens it."""

    path: str
    """Module path of the container, or of the first block where the stage shares its container with others."""
    block: str
    """Class name of the block that is repeated (the last of the stage)."""
    repeats: int
    new_repeats: int
    wanted: float | None = None
    """Repeats before rounding; None where they were not to change."""
    width: int
    """Output channels of the stage in the baseline."""
    new_width: int
    sides: tuple[int, ...] = ()
    """Height and width of the stage's output in the baseline, in pixels; empty where it is no image."""
    new_sides: tuple[int, ...] = ()
    note: str = ""
    """Why the repeats stayed, where they did."""


class Width(_Record):
    """A group of channels that are tied together and therefore have one width."""

    name: str
    """Module path of the group's first layer; unique within a plan."""
    layers: tuple[str, ...]
    """Module paths of all convolutions and linear layers whose output has this width."""
    before: int
    wanted: float
    """The width before rounding."""
    after: int
    rule: str
    """Where the number wanted comes from, for people: ``rounded to a multiple of 8``, ``6 x block input``, ..."""


class Fixed(_Record):
    """Something that was not scaled, and why."""

    what: str
    why: str


class Options(_Record):
    """The options of :func:`cnnscale.scale` which shaped a plan."""

    divisor: int = Field(8, ge=1, strict=True)
    round_limit: float = Field(0.9, ge=0, le=1, strict=True)
    depth_rounding: Literal["ceil", "round", "floor"] = "ceil"
    pin: tuple[str, ...] = ()
    pin_depth: tuple[str, ...] = ()
    derive: tuple[tuple[str, str], ...] = ()
    fit: bool = False
    tolerance: float = Field(0.03, gt=0, strict=True)
    depth: tuple[tuple[str, float], ...] = ()
    """Depth multipliers of single stages, by regular expression; the last one that matches holds."""
    width: tuple[tuple[str, float], ...] = ()
    """Width multipliers of single layers, the same way."""
    late_depth: float = Field(1.0, gt=0, strict=True)
    """Of the strategy: exponent of the last stage's depth over the first's."""
    max_image_size: int | None = Field(None, ge=1, strict=True)
    """No side of the image is enlarged beyond it."""
    max_repeats: int | None = Field(None, ge=1, strict=True)
    """No stage is deepened beyond it."""
    submodule: str | None = None
    """Path of the module inside the model that the plan is for; None: the model itself."""


class Plan(_Record):
    """How one model becomes another; made by :func:`cnnscale.plan`, carried out by :func:`cnnscale.apply`."""

    version: Literal[1] = PLAN_VERSION
    model: str
    """Qualified class name of the baseline."""
    fingerprint: str
    """SHA-256 of the names and shapes of the baseline's parameters and buffers."""
    phi: float | None
    budget: Budget | None = None
    """What the plan was to meet, where a budget was given."""
    measured: Measurement | None = None
    """What the planned network took when it was built, where the budget had to be measured."""
    coefficients: Coefficients | Strategy
    multipliers: Multipliers
    """Wanted: coefficients at phi, or as given; after fitting, where the fit came to rest."""
    achieved: Multipliers
    """Got, after rounding: blocks after / before, mean width after / before, pixels after / before."""
    baseline_size: InputSize
    """Input size of the baseline, (C, H, W); of several inputs a tuple of sizes, or a dict from names to sizes."""
    input_size: InputSize
    """Input size of the scaled model, in the same form."""
    stages: tuple[Stage, ...]
    widths: tuple[Width, ...]
    fixed: tuple[Fixed, ...]
    before: Cost
    after: Cost
    options: Options

    @property
    def growth(self) -> float:
        """Planned MACs, scaled / baseline."""
        return self.after.macs / self.before.macs

    @property
    def target_growth(self) -> float | None:
        """2 ** phi, or None where multipliers or a budget were given instead of phi."""
        return None if self.phi is None else 2.0**self.phi

    @property
    def aim(self) -> Budget | None:
        """What the plan was to meet: its budget, or 2 ** phi times the baseline's MACs; None for multipliers."""
        return self.budget or (None if self.target_growth is None else Budget(growth=self.target_growth))

    @property
    def loads(self) -> dict[str, float]:
        """Planned cost / limit, for each limit of the aim: the largest is 1 where it is met exactly."""
        return {} if self.aim is None else self.aim.loads(self.before, self.after, self.measured)

    @property
    def formula_growth(self) -> float:
        """What the formula promises: (alpha * beta**2 * gamma**2) ** phi, or depth * width**2 * resolution**2."""
        return self.multipliers.growth if self.phi is None else self.coefficients.at(self.phi).growth

    @property
    def is_identity(self) -> bool:
        """Whether the plan leaves the model exactly as it is."""
        return (
            self.baseline_size == self.input_size
            and all(s.repeats == s.new_repeats for s in self.stages)
            and all(w.before == w.after for w in self.widths)
        )

    def __str__(self) -> str:
        return format_plan(self)

    def to_json(self, path: str | Path | None = None) -> str:
        """The plan as JSON text; also written to ``path`` where one is given."""
        text = self.model_dump_json(indent=2) + "\n"
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    @classmethod
    def from_json(cls, source: str | Path) -> Plan:
        """Read a plan from JSON text, or from the file that a ``Path`` names.

        Raises:
            PlanError: the file cannot be read, or its text is not a plan of this version; the message names the field.
        """
        where = "plan"
        try:
            if isinstance(source, Path):
                where = str(source)
                source = source.read_text(encoding="utf-8")
            return cls.model_validate_json(source)
        except OSError as error:
            raise PlanError(f"cannot read plan {where}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise PlanError(f"{where} is not a plan: it is not UTF-8 text") from error
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"])) or "document"
            raise PlanError(
                f"{where} is not a plan of version {PLAN_VERSION}: {field}: {first['msg']}; "
                "make it again with `python -m cnnscale plan MODEL --json`"
            ) from error


class Family(_Record):
    """Plans for one model, side by side; made by :func:`cnnscale.family`. It has a length, and is indexed and iterated
    like a tuple of them."""

    plans: tuple[Plan, ...] = Field(min_length=1)

    def __len__(self) -> int:
        return len(self.plans)

    def __getitem__(self, index: int) -> Plan:
        return self.plans[index]

    def __iter__(self) -> Iterator[Plan]:  # type: ignore[override]  # pydantic's own gives (field, value) pairs
        return iter(self.plans)

    def __str__(self) -> str:
        return format_family(self)

    def to_json(self) -> str:
        """The plans as one JSON document."""
        return self.model_dump_json(indent=2) + "\n"
