"""Analysis -> plan: multipliers become repeats, widths and an input size, rounded, fitted and costed.

Nothing is built: a plan's cost comes from the polynomials of :mod:`cnnscale.costs`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import cast

from .analysis import COPY, Analysis, Stage
from .budgets import Cost
from .coefficients import Multipliers
from .costs import CostModel, Kind, sizes
from .errors import BudgetError, ModelError, UsageError, WidthError
from .fitting import REACH, Growth, Space, crossing, fit
from .inputs import Inputs, InputSize
from .mixtures import rows
from .patterns import compiled
from .plans import Fixed, Options, Plan, Width
from .plans import Stage as PlannedStage
from .reading import fingerprint
from .requests import Request, moves_widths
from .rounding import round_repeats, round_size, share_repeats
from .strategies import stage_exponents
from .surgery import CONTAINERS
from .symbolic import Atom, Poly, Values
from .widths import Choice, Group, check_pins, choose, groups, pinned_atoms, told_factors

__all__ = ["Planner"]

_REACH = 64  # pixels within which a size that the model takes is looked for


@dataclass(frozen=True)
class Draft:
    """One candidate: its numbers and their cost."""

    multipliers: Multipliers
    repeats: tuple[int, ...]
    choices: tuple[Choice, ...]
    sides: tuple[int, ...]
    """Of the largest image."""
    values: Values
    cost: Cost


@dataclass
class Planner:
    """Plans for one analysis under one set of options."""

    analysis: Analysis
    options: Options

    @property
    def inputs(self) -> Inputs:
        return self.analysis.inputs

    @cached_property
    def groups(self) -> list[Group]:
        return groups(self.analysis, self.options.divisor, self.options.derive)

    @cached_property
    def costs(self) -> CostModel:
        return CostModel(self.analysis)

    @cached_property
    def pinned(self) -> dict[Atom, str]:
        return pinned_atoms(self.analysis, self.options.pin)

    @cached_property
    def factors(self) -> dict[Atom, float]:
        """Width multipliers of single groups."""
        return told_factors(self.analysis, self.groups, self.options.width)

    @cached_property
    def held(self) -> dict[int, str]:
        """Stages whose repeats stay: number -> why."""
        held = {i: stage.obstacle for i, stage in enumerate(self.analysis.stages) if stage.obstacle}
        for pattern in self.options.pin_depth:
            held.update(dict.fromkeys(self._stages_named(pattern, "pin_depth"), f"pinned by {pattern!r}"))
        return held

    def _stages_named(self, pattern: str, option: str) -> list[int]:
        """The numbers of the stages that a pattern matches."""
        search = compiled(pattern, option)
        matches = [i for i, s in enumerate(self.analysis.stages) if any(map(search, self.stage_paths(s)))]
        if not matches:
            known = ", ".join(repr(self.stage_path(s)) for s in self.analysis.stages) or "none"
            raise UsageError(f"{option}={pattern!r} matches no stage; the stages are {known}")
        return matches

    @cached_property
    def baseline(self) -> Cost:
        """Cost of the baseline itself."""
        cost = self.costs.cost(dict(self._baseline_values), [stage.repeats for stage in self.analysis.stages])
        if not cost.macs:
            raise ModelError("the model has no multiply-accumulates, so there is no cost to scale")
        return cost

    @cached_property
    def _baseline_values(self) -> Values:
        return sizes(self.analysis, self.inputs, [stage.repeats for stage in self.analysis.stages])

    def stage_path(self, stage: Stage) -> str:
        """The container's path, or the first block's where the container holds more than this stage, or is none."""
        first = stage.blocks[0]
        shared = [s for s in self.analysis.stages if s.blocks[0].parent == first.parent]
        whole = len(stage.blocks) > 1 or isinstance(self.analysis.trace.modules[first.parent], CONTAINERS)
        alone = first.parent and len(shared) == 1 and stage.site.kind != "stack"
        path = first.parent if alone and whole else first.path
        return self.analysis.baseline_path(path)

    def stage_paths(self, stage: Stage) -> set[str]:
        first = self.analysis.baseline_path(stage.blocks[0].path)
        return {self.stage_path(stage), first, *([first.rpartition(".")[0]] if "." in first else [])}

    @cached_property
    def _stage_factors(self) -> dict[int, float]:
        """Depth multipliers of single stages: number -> multiplier; the last pattern that matches holds."""
        factors: dict[int, float] = {}
        for pattern, factor in self.options.depth:
            factors.update(dict.fromkeys(self._stages_named(pattern, "depth"), factor))
        return factors

    @cached_property
    def _exponents(self) -> tuple[float, ...]:
        return stage_exponents(len(self.analysis.stages), self.options.late_depth)

    def depths(self, depth: float) -> tuple[float, ...]:
        """The depth multiplier of each stage."""
        return tuple(self._stage_factors.get(i, depth**exponent) for i, exponent in enumerate(self._exponents))

    def repeats(self, depth: float) -> tuple[int, ...]:
        """New repeats of every stage; the stages of one row (:func:`cnnscale.mixtures.rows`) share theirs."""
        repeats, factors = [stage.repeats for stage in self.analysis.stages], self.depths(depth)
        for row in self._rows:
            if (factor := factors[row[0]]) == 1:
                continue
            stages = [self.analysis.stages[i] for i in row]
            blocks = [stage.repeats * stage.turn for stage in stages]
            total = round_repeats(sum(blocks), factor, depth_rounding=self.options.depth_rounding)
            for i, stage, share in zip(row, stages, share_repeats(blocks, total), strict=True):
                repeats[i] = self._limited(stage, max(round(share / stage.turn), stage.least))
        return tuple(repeats)

    def _limited(self, stage: Stage, repeats: int) -> int:
        limit = self.options.max_repeats
        return repeats if limit is None else min(repeats, max(stage.repeats, limit))

    @cached_property
    def _rows(self) -> list[list[int]]:
        """The numbers of the stages whose repeats may change, row by row; one with a multiplier of its own is alone."""
        stages = self.analysis.stages
        numbers = {stage.site: i for i, stage in enumerate(stages)}
        found = ([numbers[site] for site in row] for row in rows(self.analysis.trace, [s.site for s in stages]))
        own = [[i] for i in self._stage_factors if i not in self.held]
        shared = ([i for i in row if i not in self.held and i not in self._stage_factors] for row in found)
        return own + [row for row in shared if row]

    def sides(self, resolution: float) -> tuple[int, ...]:
        return self.fitting(tuple(round_size(side, resolution) for side in self._own_sides))

    @cached_property
    def _limit(self) -> float:
        """The longest side that an image may have."""
        limit = self.options.max_image_size
        return math.inf if limit is None else max(limit, *self._own_sides, 1)

    def _capped(self, sides: tuple[int, ...]) -> tuple[int, ...]:
        """The sides in their proportion, the longest no longer than the limit."""
        longest = max(sides, default=1)
        return sides if longest <= self._limit else tuple(max(1, int(s * self._limit / longest)) for s in sides)

    @property
    def _own_sides(self) -> tuple[int, ...]:
        return self.inputs.sides

    def _held_at_one(self, sides: tuple[int, ...]) -> tuple[int, ...]:
        """A side of 1 is no extent (a latent code, one row of samples): it stays, whatever the resolution."""
        return tuple(1 if own == 1 else side for side, own in zip(sides, self._own_sides, strict=True))

    def fitting(self, sides: tuple[int, ...]) -> tuple[int, ...]:
        """The sides nearest to ``sides`` that the model takes (some take multiples of 32 only), the same number of
        pixels more or less on each; ``sides`` themselves where there are none."""
        sides = self._capped(self._held_at_one(sides))
        if sides not in self._fitting:
            shifts = sorted(range(-_REACH, _REACH + 1), key=abs)
            moved = (self._held_at_one(tuple(side + shift for side in sides)) for shift in shifts)
            fits = (s for s in moved if min(s, default=1) > 0 and self._takes(s))
            self._fitting[sides] = next(fits, sides)
        return self._fitting[sides]

    def _reachable(self, sides: tuple[int, ...]) -> tuple[int, ...]:
        """``sides`` if the model takes them, else today's: depth and width have to do without resolution."""
        return sides if self._takes(sides) else self._own_sides

    @cached_property
    def _fitting(self) -> dict[tuple[int, ...], tuple[int, ...]]:
        return {}

    def draft(self, multipliers: Multipliers, sides: tuple[int, ...] | None = None) -> Draft:
        """The candidate for these multipliers.

        Raises:
            WidthError: the input size does not fit the model, or a width would fall below 1.
        """
        repeats = self.repeats(multipliers.depth)
        sides = sides or self.sides(multipliers.resolution)
        inputs = self.inputs.at(sides)
        values = sizes(self.analysis, inputs, repeats)
        self._check(values, inputs.input_size)
        choices = tuple(self._choices(multipliers.width, values))
        self._check_widths(values)
        self._check_projections(values)
        cost = self.costs.cost(values, repeats)
        return Draft(multipliers, repeats, choices, sides, values, cost)

    def _choices(self, width: float, values: Values) -> Iterator[Choice]:
        options = self.options
        return choose(
            self.groups,
            width,
            values,
            divisor=options.divisor,
            round_limit=options.round_limit,
            pinned=self.pinned,
            factors=self.factors,
        )

    def _check(self, values: Values, input_size: InputSize) -> None:
        for check in self.analysis.ctx.equations.checks:
            if not check.at(values):
                raise WidthError(f"the model does not take inputs of {input_size}: sizes part at {check.where}")
        if not self._fits(values):
            raise WidthError(f"inputs of {input_size} are too small for the model")

    def _check_widths(self, values: Values) -> None:
        ctx = self.analysis.ctx
        for name, dims in ctx.tensors.items():
            short = next((dim for dim in dims if ctx.equations.resolve(dim).at(values) < 1), None)
            if short is not None:
                raise WidthError(
                    f"of the {short.hint} channels that {self.analysis.baseline_path(name)!r} has or reads none would "
                    "be left: other layers take what there is; scale the width less, or pin those"
                )

    def _check_projections(self, values: Values) -> None:
        for projection in self.analysis.projections:
            if self.analysis.gained(projection).at(values) == 0:
                raise WidthError(
                    f"{projection.block!r} stands between a pinned width and a widened one, which is rounded back to "
                    "the same number; pin the block's layers as well, widen more, or take a smaller divisor"
                )

    def plan(self, request: Request) -> Plan:
        """The plan for a request.

        Raises:
            UsageError: a pattern matches nothing, or the sides given are more or fewer than the input has.
            WidthError: the input size does not fit the model, pinned and widened channels meet, or no width can change.
        """
        if moves_widths(request) and not self.groups:
            why = next((f"{fixed.what}: {fixed.why}" for fixed in self._fixed()), "it has none")
            raise WidthError(f"no width of {type(self.analysis.baseline).__name__} can change, so none can grow: {why}")
        if moves_widths(request):
            check_pins(self.analysis, self.options.pin)
        request = replace(request, sides=self._given(request))
        draft = self._fitted(request) if self.options.fit else self.draft(request.multipliers, request.sides)
        return self._plan(request, draft)

    def _given(self, request: Request) -> tuple[int, ...] | None:
        rank = len(self._own_sides)
        if request.sides is None or len(request.sides) == rank:
            return request.sides
        if len(request.sides) == 1:
            return request.sides * rank
        raise UsageError(f"image_size {request.sides} has {len(request.sides)} sides, the model's input {rank}")

    def _fitted(self, request: Request) -> Draft:
        curve, limits = request.coefficients, request.aim.counted(self.baseline)
        by_numbers: dict[tuple[tuple[int, ...], tuple[int, ...]], Growth] = {}

        @cache
        def load(repeats: tuple[int, ...], width: float) -> Growth:
            values = sizes(self.analysis, self.inputs, repeats)
            widths = tuple(choice.value for choice in self._choices(curve.at(width).width, values))
            key = repeats, widths
            if key not in by_numbers:
                by_numbers[key] = self._load(values, repeats, limits)
            return by_numbers[key]

        @cache
        def growth(depth: float, width: float) -> Growth:
            return load(self.repeats(curve.at(depth).depth), width)

        space = Space(
            growth,
            cache(lambda t: request.sides or self._reachable(self.sides(curve.at(t).resolution))),
            cache(curve.at),
            cache(lambda sides: self._reachable(self.fitting(sides))),
            tolerance=self.options.tolerance,
            fixed=request.sides is not None or not self._has_resolution,
        )
        phi = self._expected(space, limits) if request.phi is None else request.phi
        if phi == 0 and request.sides is None:
            return self.draft(Multipliers())
        best = fit(space, phi, 1.0)
        multipliers = Multipliers(
            depth=curve.at(best.depth).depth,
            width=curve.at(best.width).width,
            resolution=max(best.sides, default=1) / max(self._own_sides, default=1),
        )
        return self.draft(multipliers, best.sides)

    def _expected(self, space: Space, limits: Mapping[str, float]) -> float:
        """phi of a budget: log2 of the growth of MACs at which it is met.

        Raises:
            BudgetError: no point of the curve meets it.
        """
        t = crossing(space, 1.0)
        load = space.growth(t, t).at(space.sides(t))
        if not abs(load - 1) <= self.options.tolerance and (t == 0 or abs(t) >= REACH):
            raise BudgetError(self._unreachable(limits, load))
        repeats = self.repeats(space.curve(t).depth)
        values = sizes(self.analysis, self.inputs.at(space.sides(t)), repeats)
        list(self._choices(space.curve(t).width, values))
        cost = self.costs.cost(values, repeats)
        binding = max(limits, key=lambda name: getattr(cost, name) / limits[name])
        macs = limits["macs"] if binding == "macs" else cost.macs
        return math.log2(macs / self.baseline.macs)

    def _unreachable(self, limits: Mapping[str, float], load: float) -> str:
        wanted = " and ".join(f"{name}={limit:.6g}" for name, limit in limits.items())
        now = ", ".join(f"{name}={getattr(self.baseline, name)}" for name in limits)
        side, room = ("above", "shrink") if load > 1 else ("below", "grow")
        return (
            f"{wanted} cannot be met: as far as this strategy can {room} the model (today {now}), it stays "
            f"{side} that, at {load:.3g} times the budget; choose another strategy or budget"
        )

    @property
    def _has_resolution(self) -> bool:
        return any(side > 1 for side in self._own_sides)

    def _load(self, values: Values, repeats: tuple[int, ...], limits: Mapping[str, float]) -> Growth:
        costs = [(self.costs.by_sides(cast("Kind", name), values, repeats), limit) for name, limit in limits.items()]

        @cache
        def at(sides: tuple[int, ...]) -> float:
            if not self._takes(sides):
                return math.nan
            atoms = self._side_values(sides)
            return max(cost(atoms) / limit for cost, limit in costs)

        return Growth(at, cache(lambda: self.costs.changed(values, repeats)))

    @cached_property
    def _takes(self) -> Callable[[tuple[int, ...]], bool]:
        """Whether the model takes inputs of these sides."""
        return cache(lambda sides: max(sides, default=1) <= self._limit and self._fits(self._side_values(sides)))

    def _side_values(self, sides: tuple[int, ...]) -> Values:
        """The values of the inputs' sides, where the largest image has these."""
        return self.analysis.side_values(self.inputs.at(sides))

    def _fits(self, values: Values) -> bool:
        checks = all(check.at(values) for check in self.analysis.ctx.equations.checks)
        return checks and all(poly.at(values) >= 1 for poly in self._spatial)

    @cached_property
    def _spatial(self) -> list[Poly]:
        """Every side that a cost depends on."""
        factors = dict.fromkeys(f for product in self.analysis.eval_products for f in product.factors)
        return [f for f in factors if not f.has_width and f.constant is None]

    def _plan(self, request: Request, draft: Draft) -> Plan:
        cls = type(self.analysis.baseline)
        stages = tuple(self._stage(i, stage, draft) for i, stage in enumerate(self.analysis.stages))
        widths = tuple(self._width(choice) for choice in draft.choices)
        return Plan(
            model=f"{cls.__module__}.{cls.__qualname__}",
            fingerprint=fingerprint(self.analysis.baseline),
            phi=request.phi,
            budget=request.budget,
            coefficients=request.coefficients,
            multipliers=draft.multipliers,
            achieved=self._achieved(stages, widths, draft),
            baseline_size=self.analysis.input_size,
            input_size=self.inputs.at(draft.sides).input_size,
            stages=stages,
            widths=widths,
            fixed=self._fixed(),
            before=self.baseline,
            after=draft.cost,
            options=self.options,
        )

    def _stage(self, number: int, stage: Stage, draft: Draft) -> PlannedStage:
        output = stage.site.template.output
        channels, sides = self.analysis.channels(output), self.analysis.sides(output)
        modules = map(self.analysis.trace.module.get_submodule, stage.site.template.modules[: stage.turn])
        return PlannedStage(
            path=self.stage_path(stage),
            block=" + ".join(type(module).__name__ for module in modules),
            repeats=stage.repeats,
            new_repeats=draft.repeats[number],
            wanted=None if number in self.held else stage.repeats * self.depths(draft.multipliers.depth)[number],
            width=channels.at(dict(self._baseline_values)) if channels is not None else 0,
            new_width=channels.at(draft.values) if channels is not None else 0,
            sides=tuple(side.at(dict(self._baseline_values)) for side in sides),
            new_sides=tuple(side.at(draft.values) for side in sides),
            note=self._note(number, draft),
        )

    def _note(self, number: int, draft: Draft) -> str:
        """Why the repeats are not those wanted."""
        if number in self.held:
            return self.held[number]
        limit = self.options.max_repeats
        wanted = self.analysis.stages[number].repeats * self.depths(draft.multipliers.depth)[number]
        return f"no more than {limit} by max_repeats" if limit is not None and wanted > limit else ""

    def _width(self, choice: Choice) -> Width:
        group = choice.group
        return Width(
            name=group.name,
            layers=tuple(p for p in map(self.analysis.baseline_path, group.layers) if not p.endswith(COPY)),
            before=group.width,
            wanted=choice.wanted,
            after=choice.value * group.unit,
            rule=choice.rule,
        )

    def _achieved(self, stages: Sequence[PlannedStage], widths: Sequence[Width], draft: Draft) -> Multipliers:
        blocks = sum(s.repeats for s in stages)
        layers = [(w.after / w.before, len(w.layers) or 1) for w in widths]
        sides = zip(draft.sides, self._own_sides, strict=True)
        ratios = [after / before for after, before in sides]
        return Multipliers(
            depth=sum(s.new_repeats for s in stages) / blocks if blocks else 1.0,
            width=sum(r * n for r, n in layers) / sum(n for _, n in layers) if layers else 1.0,
            resolution=math.prod(ratios) ** (1 / max(1, len(ratios))),
        )

    def _fixed_sides(self) -> Iterator[Fixed]:
        """The input size, where the model takes no other one near it, and the operation that says so."""
        size = self._own_sides
        others = (tuple(side + shift for side in size) for shift in range(1, _REACH + 1))
        checks = self.analysis.ctx.equations.checks
        failed = [{c.where for c in checks if not c.at(self._side_values(sides))} for sides in others]
        if all(failed):
            always = set.intersection(*failed) or failed[0]
            yield Fixed(
                what="resolution",
                why=f"the model takes no other size: {next(c.where for c in checks if c.where in always)}",
            )

    def _fixed(self) -> tuple[Fixed, ...]:
        ctx = self.analysis.ctx
        fixed = [Fixed(what=where, why=why) for where, why in ctx.frozen.items()]
        widths = {path: ctx.equations.resolve(poly) for path, poly in ctx.producers.items()}
        fixed += [
            Fixed(
                what=self.analysis.baseline_path(path),
                why=f"its output width {poly.hint} is the network's output or tied to a constant",
            )
            for path, poly in widths.items()
            if not poly.has_width
        ]
        unread = [n for n, _ in self.analysis.trace.module.named_parameters() if n not in ctx.tensors]
        if unread:
            more = f" and {len(unread) - 1} more" if len(unread) > 1 else ""
            fixed.append(Fixed(what=f"{unread[0]}{more}", why="never read by forward, in eval or train mode"))
        if self._has_resolution:
            fixed += self._fixed_sides()
        else:
            fixed.append(
                Fixed(what="resolution", why=f"not applicable: an input of {self.analysis.input_size} has no sides")
            )
        if not self.analysis.stages:
            fixed.append(Fixed(what="depth", why="not applicable: no block of the model repeats"))
        return tuple(fixed)
