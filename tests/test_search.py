"""The whole of a search, trained by functions whose answers are known; and its arithmetic against published tables."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
import torch
from search_jobs import Tiny
from test_search_engine import Here

import cnnscale
from cnnscale import Coefficients, Grid
from cnnscale.budgets import Measurement
from cnnscale.errors import SearchError, UsageError
from cnnscale.searching.halving import keep_best, schedule
from cnnscale.searching.ledger import Ledger
from cnnscale.searching.result import as_csv, export_rows
from cnnscale.searching.search import prepare
from cnnscale.searching.statistics import rank, t_probability, t_quantile

SIZE = (1, 32, 32)
GRID = Grid(alpha=(1, 1.3), gamma=(1, 1.15, 1.3))  # five of whose six points have a net


# --- statistics ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("probability", "freedom", "expected"),
    [  # NIST/SEMATECH e-Handbook of Statistical Methods, table 1.3.6.7.2
        (0.975, 1, 12.706),
        (0.975, 2, 4.303),
        (0.975, 3, 3.182),
        (0.95, 4, 2.132),
        (0.975, 10, 2.228),
        (0.995, 21, 2.831),
        (0.9, 30, 1.310),
        (0.975, 100, 1.984),
    ],
)
def test_student_quantiles_are_those_of_the_tables(probability: float, freedom: int, expected: float):
    assert t_quantile(probability, freedom) == pytest.approx(expected, abs=5e-4)
    assert t_probability(t_quantile(probability, freedom), freedom) == pytest.approx(probability)
    assert t_probability(-1.0, freedom) == pytest.approx(1 - t_probability(1.0, freedom))


def test_two_candidates_are_compared_by_the_paired_t_test():
    """Differences 1, 2, 3: mean 2, standard deviation 1, t(0.975, 2) = 4.303, so the margin is 4.303 / sqrt(3)."""
    ranking = rank({"a": {0: 11, 1: 22, 2: 33}, "b": {0: 10, 1: 20, 2: 30}})
    assert ranking.margin == pytest.approx(4.303 / 3**0.5, abs=1e-3)
    assert [entry.name for entry in ranking.tied] == ["a", "b"]  # 2 < 2.48
    sure = rank({"a": {0: 13, 1: 24, 2: 35}, "b": {0: 10, 1: 20, 2: 30}})
    assert [entry.name for entry in sure.tied] == ["a"]
    assert [(entry.name, entry.behind) for entry in sure.entries] == [("a", 0), ("b", 4)]


def test_what_a_seed_does_to_all_is_no_noise():
    noise = {0: 0.0, 1: 50.0, 2: -30.0}
    values = {
        name: {seed: base + noise[seed] + 0.01 * i * seed for seed in noise}
        for i, (name, base) in enumerate([("a", 3), ("b", 2)])
    }
    assert [entry.name for entry in rank(values).tied] == ["a"]
    assert rank(values).best.spread > 30


def test_several_comparisons_share_the_probability_of_an_error():
    """Three candidates, three seeds: 4 degrees of freedom, residual variance 6 / 4, two comparisons at 2.5 % each."""
    values = {"a": {0: 0, 1: 1, 2: -1}, "b": {0: 1, 1: -1, 2: 0}, "c": {0: -1, 1: 0, 2: 1}}
    assert rank(values).margin == pytest.approx(t_quantile(1 - 0.025 / 2, 4) * (2 * 1.5 / 3) ** 0.5)
    assert len(rank(values).tied) == 3


def test_one_seed_says_nothing_of_noise():
    ranking = rank({"a": {0: 2.0}, "b": {0: 1.0}, "c": {0: 2.0}})
    assert ranking.margin is None
    assert ranking.best.spread is None
    assert [entry.name for entry in ranking.tied] == ["a", "c"]


def test_unequal_seeds_cannot_be_ranked():
    with pytest.raises(UsageError, match="a value for every seed"):
        rank({"a": {0: 1.0}, "b": {0: 1.0, 1: 2.0}})


# --- halving ------------------------------------------------------------------------------------------------------


def test_rungs_are_complete_schedules_of_fewer_and_fewer():
    rungs = schedule(9, 3, (0.5, 1.0), 0.5)
    assert [(r.share, r.candidates, r.trainings, r.schedules) for r in rungs] == [(0.5, 9, 27, 13.5), (1.0, 5, 15, 15)]
    assert [r.candidates for r in schedule(10, 1, (0.25, 0.5, 1.0), 0.3)] == [10, 3, 1]


def test_the_better_part_goes_on_in_its_old_order():
    assert keep_best({"a": 1, "b": 3, "c": 2, "d": 2, "e": 0}, 0.5) == ["b", "c", "d"]


@pytest.mark.parametrize(
    ("rungs", "keep", "message"),
    [
        ((), 0.5, "rise to 1"),
        ((0.5,), 0.5, "rise to 1"),
        ((1.0, 0.5), 0.5, "rise to 1"),
        ((1.0,), 0, "between 0 and 1"),
    ],
)
def test_wrong_schedules(rungs, keep: float, message: str):
    with pytest.raises(UsageError, match=message):
        schedule(4, 3, rungs, keep)


# --- the search ---------------------------------------------------------------------------------------------------


def depth_wins(model: torch.nn.Module, trial) -> float:
    """Deeper is better by far, wider is a little better than sharp; longer schedules give more."""
    blocks = len(model.stage)
    noise = 0.01 * ((trial.seed * 7 + trial.input_size[-1]) % 3)
    return blocks * trial.share + 0.001 * model.head.in_features + noise


def never(model: torch.nn.Module, trial) -> float:
    raise AssertionError("must not be trained")


@pytest.fixture(scope="module", autouse=True)
def _stopwatch():
    """Wider nets are quicker, sharper ones need more memory; real timing has its own tests."""

    def one(model, input_size) -> Measurement:
        milliseconds = 100 / model.head.in_features
        memory = input_size[-1] * 1000
        return Measurement(
            latency_ms=milliseconds,
            iqr_ms=0,
            runs=1,
            peak_memory_bytes=memory,
            batch_size=1,
            device="cpu",
            device_name="a machine",
        )

    def timed(models, settings) -> dict[str, Measurement]:
        return {name: one(*each) for name, each in models.items()}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cnnscale.searching.search.time_models", timed)
        yield


def run(tmp_path: Path, train_fn=depth_wins, **changes):
    keywords = {
        "grid": GRID,
        "divisor": 1,
        "input_size": SIZE,
        "store": tmp_path / "s.db",
        "executor": Here(),
        "seeds": 2,
    }
    return cnnscale.search(Tiny(), train_fn, **(keywords | changes))


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, object]:
    folder = tmp_path_factory.mktemp("search")
    return folder, run(folder)


def test_the_best_is_found_and_its_coefficients_scale(finished):
    _, result = finished
    assert len(result.candidates.members) == 5
    deep = [m.name for m in result.candidates.members if m.multipliers.depth > 1]
    assert {entry.name for entry in result.ranking.entries[: len(deep)]} >= set(result.tied)
    assert set(result.tied) <= set(deep)
    latency = {name: facts["latency_ms"] for name, facts in result.facts.items()}
    assert result.proposed.name == min(result.tied, key=latency.__getitem__)
    assert isinstance(result.best, Coefficients)
    assert result.best.alpha == 1.3
    scaled = cnnscale.plan(Tiny(), phi=2, coefficients=result.best, divisor=1, input_size=SIZE)
    assert scaled.growth == pytest.approx(4, rel=0.03)


def test_rungs_are_run_as_planned(finished):
    _, result = finished
    rungs = prepare(Tiny(), grid=GRID, divisor=1, seeds=2, input_size=SIZE).rungs
    for number, rung in enumerate(rungs):
        tasks = [task for task in result.tasks if task.rung == number]
        assert len(tasks) == rung.trainings
        assert {task.share for task in tasks} == {rung.share}
    assert [len(ranking.entries) for ranking in result.rankings] == [5, 3]


def test_a_finished_search_is_read_and_not_trained_again(finished):
    folder, result = finished
    again = run(folder)
    assert again == result
    with pytest.raises(SearchError, match="belongs to another search: its train_fn"):
        run(folder, never)
    with pytest.raises(SearchError, match="belongs to another search: its seeds is 2, not 3"):
        run(folder, seeds=3)
    with pytest.raises(SearchError, match="holds a search already"):
        run(folder, resume=False)


def test_results_go_out_as_json_and_csv(finished):
    folder, result = finished
    data = json.loads(result.to_json())
    assert data["best"]["alpha"] == 1.3
    assert [ranking["seeds"] for ranking in data["rankings"]] == [[0, 1]] * 2
    assert {row["name"] for row in data["candidates"]} == {m.name for m in result.candidates.members}
    rows = list(csv.DictReader(io.StringIO(as_csv(export_rows(Ledger(folder / "s.db"))))))
    assert len(rows) == len(result.tasks) == 16
    assert float(rows[0]["latency_ms"]) > 0


def test_limits_leave_out_what_was_measured_to_exceed_them(tmp_path: Path, finished):
    memory = {name: facts["peak_memory_bytes"] for name, facts in finished[1].facts.items()}
    limit = sorted(memory.values())[2]
    result = run(tmp_path, peak_memory_bytes=limit, seeds=1, rungs=(1.0,))
    assert {m.name for m in result.candidates.members} == {n for n, m in memory.items() if m <= limit}
    assert sum("over the limit" in item.why for item in result.candidates.left_out) == sum(
        m > limit for m in memory.values()
    )
    with pytest.raises(UsageError, match="no candidate keeps within the limits"):
        run(tmp_path / "none", latency_ms=1e-6)


def test_if_everything_fails_the_reason_is_told(tmp_path: Path):
    with pytest.raises(SearchError, match="every candidate failed: AssertionError: must not be trained"):
        run(tmp_path, never, seeds=1)


def test_preparing_trains_nothing_and_tells_the_work():
    ready = prepare(Tiny(), grid=GRID, divisor=1, input_size=SIZE)
    assert (ready.trainings, ready.baseline_schedules) == (24, 2 * (15 * 0.5 + 9))
