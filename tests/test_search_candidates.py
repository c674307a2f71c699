"""The candidates of a search: equal MACs as measured, each net once, and what fits no budget is said to."""

from __future__ import annotations

import pytest

import cnnscale
from cnnscale.coefficients import Multipliers
from cnnscale.errors import UsageError
from cnnscale.planning import Planner
from cnnscale.plans import Options
from cnnscale.reading import analyse
from cnnscale.reference import INPUT_SIZE, build
from cnnscale.searching.candidates import Candidates, explicit, find_candidates
from cnnscale.searching.grid import Grid


@pytest.fixture(scope="module")
def planner() -> Planner:
    return Planner(analyse(build(), INPUT_SIZE), Options(divisor=1))


GRIDS = {
    "beta": (Grid.default(), 2.0),
    "gamma": (Grid(alpha=(1, 1.5), beta=(1.2, 1.4), solve="gamma"), 4.0),
    "alpha": (Grid(beta=(1, 1.4), gamma=(1, 1.2), solve="alpha"), 4.0),
}


@pytest.fixture(scope="module")
def searched(planner: Planner) -> dict[str, Candidates]:
    return {solve: find_candidates(planner, grid, budget) for solve, (grid, budget) in GRIDS.items()}


@pytest.mark.parametrize("solve", GRIDS)
def test_built_candidates_measure_the_budget(searched: dict[str, Candidates], solve: str):
    found, budget = searched[solve], GRIDS[solve][1]
    assert len(found.members) > 2
    assert all(m.plan.growth == pytest.approx(budget, rel=found.tolerance) for m in found.members)
    model = build()
    baseline = cnnscale.measure(model, INPUT_SIZE).macs
    assert baseline == found.baseline.macs == 1_224_438
    for member in found.members[-2:]:
        net = cnnscale.apply(model, member.plan)
        measured = cnnscale.measure(net, net.scaling.input_size).macs
        assert measured / baseline == pytest.approx(budget, rel=found.tolerance)
    assert found.macs == sum(member.plan.after.macs for member in found.members)


def test_every_point_of_the_grid_is_accounted_for_and_every_net_is_there_once(searched: dict[str, Candidates]):
    found, grid = searched["beta"], GRIDS["beta"][0]
    assert sum(1 + len(m.merged) for m in found.members) + len(found.left_out) == len(list(grid.cells())) == 25
    nets = [
        (m.plan.input_size, [s.new_repeats for s in m.plan.stages], [w.after for w in m.plan.widths])
        for m in found.members
    ]
    assert len(set(map(repr, nets))) == len(nets)
    assert len({m.name for m in found.members}) == len(nets)
    # two blocks a stage become three for every alpha above 1: what was built is 1.5 times as deep, nearest to 1.4
    assert {m.multipliers.depth for m in found.members} == {1.0, 1.4}
    assert {w.depth for m in found.members for w in m.merged} == {1.1, 1.2, 1.3}


def test_what_exceeds_the_budget_says_so(planner: Planner, searched: dict[str, Candidates]):
    found = searched["beta"]
    assert {(item.cell["alpha"], item.cell["gamma"]) for item in found.left_out} == {
        (alpha, 1.3) for alpha in (1.1, 1.2, 1.3, 1.4)
    }
    assert all("2.28 times the baseline already with beta = 1" in item.why for item in found.left_out)
    with pytest.raises(UsageError, match=r"no point of the grid meets the budget of 1\.5: its net costs"):
        find_candidates(planner, Grid(alpha=(3,), gamma=(2,)), 1.5)


def test_coefficients_double_the_cost_per_unit_of_phi(searched: dict[str, Candidates]):
    found = searched["gamma"]
    member = found.members[-1]
    at_budget = member.coefficients(found.budget).at(2)  # 4 times the cost is two units of phi
    for name in ("depth", "width", "resolution"):
        assert getattr(at_budget, name) == pytest.approx(getattr(member.multipliers, name))


def test_candidates_are_the_same_every_time(searched: dict[str, Candidates]):
    again = Planner(analyse(build(), INPUT_SIZE), Options(divisor=1))
    assert find_candidates(again, *GRIDS["beta"]) == searched["beta"]


def test_an_explicit_plan_is_not_fitted(planner: Planner):
    plan = explicit(planner, Multipliers(depth=2, width=1.5, resolution=1.3))
    assert plan.input_size == (1, 44, 44)
    assert [stage.new_repeats for stage in plan.stages] == [4, 4, 4]
    assert [stage.new_width for stage in plan.stages] == [9, 18, 36]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: Grid(alpha=(1,), beta=(1,), gamma=(1,)), "beta is solved for"),
        (lambda p: Grid(alpha=(1,)), "the grid needs values for gamma"),
        (lambda p: Grid(alpha=(0.9,), gamma=(1,)), "alpha must be at least 1"),
        (lambda p: Grid(alpha=(1,), gamma=(1,), solve="phi"), "solve must be one of alpha, beta, gamma"),
        (lambda p: find_candidates(p, Grid.default(), 1.0), "budget must be between 1 and"),
        (lambda p: find_candidates(p, Grid.default(), 2.0, tolerance=0), "tolerance must be a fraction"),
    ],
)
def test_wrong_arguments(planner: Planner, make, message: str):
    with pytest.raises(UsageError, match=message):
        make(planner)
