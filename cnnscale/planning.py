"""Analysis -> plan: multipliers become repeats, widths and an input size, rounded, fitted and costed.

Nothing is built: a plan's cost comes from the polynomials of :mod:`cnnscale.costs`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property

from .analysis import COPY, Analysis, Stage
from .coefficients import Coefficients, Multipliers
from .costs import CostModel, side_values, sizes
from .errors import ModelError, UsageError, WidthError
from .fitting import Growth, Space, fit
from .mixtures import rows
from .patterns import compiled
from .plans import Cost, Fixed, Options, Plan, Width
from .plans import Stage as PlannedStage
from .reading import fingerprint
from .rounding import round_repeats, round_size, share_repeats
from .surgery import CONTAINERS
from .symbolic import Atom, Poly, Values
from .widths import Choice, Group, check_pins, choose, groups, pinned_atoms

__all__ = ["Planner", "Request"]

_REACH = 64  # pixels within which a size that the model takes is looked for


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user asked for: a phi, or multipliers."""

    phi: float | None
    coefficients: Coefficients
    multipliers: Multipliers
    sides: tuple[int, ...] | None
    """Sides of the scaled input, where given outright; a single one is all of them."""
    options: Options


@dataclass(frozen=True)
class Draft:
    """One candidate: its numbers and their cost."""

    multipliers: Multipliers
    repeats: tuple[int, ...]
    choices: tuple[Choice, ...]
    input_size: tuple[int, ...]
    values: Values
    cost: Cost


@dataclass
class Planner:
    """Plans for one analysis under one set of options."""

    analysis: Analysis
    options: Options

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
    def held(self) -> dict[int, str]:
        """Stages whose repeats stay: number -> why."""
        held = {i: stage.obstacle for i, stage in enumerate(self.analysis.stages) if stage.obstacle}
        for pattern in self.options.pin_depth:
            search = compiled(pattern, "pin_depth")
            matches = [i for i, s in enumerate(self.analysis.stages) if any(map(search, self.stage_paths(s)))]
            if not matches:
                known = ", ".join(repr(self.stage_path(s)) for s in self.analysis.stages) or "none"
                raise UsageError(f"pin_depth={pattern!r} matches no stage; the stages are {known}")
            held.update(dict.fromkeys(matches, f"pinned by {pattern!r}"))
        return held

    @cached_property
    def baseline(self) -> Cost:
        """Cost of the baseline itself."""
        cost = self.costs.cost(dict(self._baseline_values), [stage.repeats for stage in self.analysis.stages])
        if not cost.macs:
            raise ModelError("the model has no multiply-accumulates, so there is no cost to scale")
        return cost

    @cached_property
    def _baseline_values(self) -> Values:
        return sizes(self.analysis, self.analysis.input_size, [stage.repeats for stage in self.analysis.stages])

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

    def repeats(self, depth: float) -> tuple[int, ...]:
        """New repeats of every stage; the stages of one row (:func:`cnnscale.mixtures.rows`) share theirs."""
        repeats = [stage.repeats for stage in self.analysis.stages]
        for row in self._rows if depth != 1 else ():
            stages = [self.analysis.stages[i] for i in row]
            blocks = [stage.repeats * stage.turn for stage in stages]
            total = round_repeats(sum(blocks), depth, depth_rounding=self.options.depth_rounding)
            for i, stage, share in zip(row, stages, share_repeats(blocks, total), strict=True):
                repeats[i] = max(round(share / stage.turn), stage.least)
        return tuple(repeats)

    @cached_property
    def _rows(self) -> list[list[int]]:
        """The numbers of the stages whose repeats may change, row by row."""
        stages = self.analysis.stages
        numbers = {stage.site: i for i, stage in enumerate(stages)}
        found = ([numbers[site] for site in row] for row in rows(self.analysis.trace, [s.site for s in stages]))
        return [free for row in found if (free := [i for i in row if i not in self.held])]

    def sides(self, resolution: float) -> tuple[int, ...]:
        return self.fitting(tuple(round_size(side, resolution) for side in self._own_sides))

    @property
    def _own_sides(self) -> tuple[int, ...]:
        return self.analysis.input_size[1:]

    def _held_at_one(self, sides: tuple[int, ...]) -> tuple[int, ...]:
        """A side of 1 is no extent (a latent code, one row of samples): it stays, whatever the resolution."""
        return tuple(1 if own == 1 else side for side, own in zip(sides, self._own_sides, strict=True))

    def fitting(self, sides: tuple[int, ...]) -> tuple[int, ...]:
        """The sides nearest to ``sides`` that the model takes (some take multiples of 32 only), the same number of
        pixels more or less on each; ``sides`` themselves where there are none."""
        sides = self._held_at_one(sides)
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
        input_size = (self.analysis.input_size[0], *(sides or self.sides(multipliers.resolution)))
        values = sizes(self.analysis, input_size, repeats)
        self._check(values, input_size)
        choices = tuple(self._choices(multipliers.width, values))
        self._check_widths(values)
        self._check_projections(values)
        cost = self.costs.cost(values, repeats)
        return Draft(multipliers, repeats, choices, input_size, values, cost)

    def _choices(self, width: float, values: Values) -> Iterator[Choice]:
        options = self.options
        return choose(
            self.groups, width, values, divisor=options.divisor, round_limit=options.round_limit, pinned=self.pinned
        )

    def _check(self, values: Values, input_size: Sequence[int]) -> None:
        for check in self.analysis.ctx.equations.checks:
            if not check.at(values):
                raise WidthError(f"the model does not take inputs of {tuple(input_size)}: sizes part at {check.where}")
        if not self._fits(values):
            raise WidthError(f"inputs of {tuple(input_size)} are too small for the model")

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
        if request.multipliers.width != 1 and not self.groups:
            why = next((f"{fixed.what}: {fixed.why}" for fixed in self._fixed()), "it has none")
            raise WidthError(f"no width of {type(self.analysis.baseline).__name__} can change, so none can grow: {why}")
        if request.multipliers.width != 1:
            check_pins(self.analysis, self.options.pin)
        request = replace(request, sides=self._given(request))
        draft = self._fitted(request) if self.options.fit else self.draft(request.multipliers, request.sides)
        return self._plan(request, draft)

    def _given(self, request: Request) -> tuple[int, ...] | None:
        rank = len(self.analysis.input_size) - 1
        if request.sides is None or len(request.sides) == rank:
            return request.sides
        if len(request.sides) == 1:
            return request.sides * rank
        raise UsageError(f"image_size {request.sides} has {len(request.sides)} sides, the model's input {rank}")

    def _fitted(self, request: Request) -> Draft:
        assert request.phi is not None
        phi, coefficients = request.phi, request.coefficients
        if phi == 0 and request.sides is None:
            return self.draft(request.multipliers)
        by_numbers: dict[tuple[tuple[int, ...], tuple[int, ...]], Growth] = {}

        def growth(depth: float, width: float) -> Growth:
            repeats = self.repeats(coefficients.at(depth).depth)
            values = sizes(self.analysis, self.analysis.input_size, repeats)
            widths = tuple(choice.value for choice in self._choices(coefficients.at(width).width, values))
            key = repeats, widths
            if key not in by_numbers:
                by_numbers[key] = self._growth(values, repeats)
            return by_numbers[key]

        logs = (math.log(coefficients.beta), math.log(coefficients.gamma), math.log(coefficients.alpha))
        space = Space(
            growth,
            lambda t: request.sides or self._reachable(self.sides(coefficients.at(t).resolution)),
            logs,
            lambda sides: self._reachable(self.fitting(sides)),
            fixed=request.sides is not None or not self._has_resolution,
        )
        best = fit(space, phi, 2.0**phi, self.options.tolerance)
        multipliers = Multipliers(
            depth=coefficients.at(best.depth).depth,
            width=coefficients.at(best.width).width,
            resolution=max(best.sides, default=1) / max(self._own_sides, default=1),
        )
        return self.draft(multipliers, best.sides)

    @property
    def _has_resolution(self) -> bool:
        return any(side > 1 for side in self._own_sides)

    def _growth(self, values: Values, repeats: tuple[int, ...]) -> Growth:
        macs = self.costs.macs_by_sides(values, repeats)

        @cache
        def at(sides: tuple[int, ...]) -> float:
            return macs(side_values(self.analysis, sides)) / self.baseline.macs if self._takes(sides) else math.nan

        return Growth(at, cache(lambda: self.costs.changed(values, repeats)))

    @cached_property
    def _takes(self) -> Callable[[tuple[int, ...]], bool]:
        """Whether the model takes inputs of these sides."""
        return cache(lambda sides: self._fits(side_values(self.analysis, sides)))

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
            coefficients=request.coefficients,
            multipliers=draft.multipliers,
            achieved=self._achieved(stages, widths, draft),
            baseline_size=self.analysis.input_size,
            input_size=draft.input_size,
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
            width=channels.at(dict(self._baseline_values)) if channels is not None else 0,
            new_width=channels.at(draft.values) if channels is not None else 0,
            sides=tuple(side.at(dict(self._baseline_values)) for side in sides),
            new_sides=tuple(side.at(draft.values) for side in sides),
            note=self.held.get(number, ""),
        )

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
        sides = zip(draft.input_size[1:], self.analysis.input_size[1:], strict=True)
        ratios = [after / before for after, before in sides]
        return Multipliers(
            depth=sum(s.new_repeats for s in stages) / blocks if blocks else 1.0,
            width=sum(r * n for r, n in layers) / sum(n for _, n in layers) if layers else 1.0,
            resolution=math.prod(ratios) ** (1 / max(1, len(ratios))),
        )

    def _fixed_sides(self) -> Iterator[Fixed]:
        """The input size, where the model takes no other one near it, and the operation that says so."""
        size = self.analysis.input_size[1:]
        others = (tuple(side + shift for side in size) for shift in range(1, _REACH + 1))
        checks = self.analysis.ctx.equations.checks
        failed = [{c.where for c in checks if not c.at(side_values(self.analysis, sides))} for sides in others]
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
