"""Statistics of times on series of known distribution: how often an interval misses, and a verdict is wrong."""

from __future__ import annotations

import math
import random

import pytest

from cnnscale.timing.rounds import Contestant, Limits, OutOfMemoryError, run_rounds
from cnnscale.timing.statistics import (
    Interval,
    independent_ratio,
    judge,
    median,
    median_interval,
    quantile,
    ratio,
)


class Machine:
    """A clock and contestants whose noise is the machine's: an autoregression over time, with spikes.

    ``correlation`` is that of two neighbouring turns.
    """

    def __init__(self, seed: int, *, correlation: float = 0.0, spread: float = 0.03, drift: float = 0.0):
        self.random = random.Random(seed)
        self.now = 0.0
        self.correlation, self.spread, self.drift = correlation, spread, drift
        self.state = self.random.gauss(0, 1)

    def clock(self) -> float:
        return self.now

    def contestant(self, name: str, seconds: float = 0.1, *, first: tuple[float, ...] = ()) -> Contestant:
        early = list(first)

        def once() -> float:
            rest = math.sqrt(1 - self.correlation**2)
            self.state = self.correlation * self.state + rest * self.random.gauss(0, 1)
            spike = self.random.uniform(0, 0.5) if self.random.random() < 0.1 else 0.0
            taken = early.pop(0) if early else seconds * math.exp(self.spread * self.state) * (1 + spike)
            taken *= 1 + self.drift * self.now
            self.now += taken
            return taken

        return Contestant(name=name, times=lambda runs: [once() for _ in range(runs)])


def verdicts(count: int, factor: float = 1.0, **noise: float) -> list[str]:
    """Of whole measurements with early stopping, as ``bench`` makes them."""
    found = []
    for seed in range(count):
        machine = Machine(seed, **noise)
        pair = [machine.contestant("a"), machine.contestant("b", 0.1 * factor)]
        rounds = run_rounds(pair, Limits(time_limit_s=10, seed=seed), clock=machine.clock)
        found.append(judge(ratio(rounds.seconds["b"], rounds.seconds["a"]), margin=0.01, precision=0.02))
    return found


class TestVerdicts:
    @pytest.mark.parametrize(
        "noise",
        [
            {"spread": 0.01},
            {"spread": 0.05, "correlation": 0.5},
            {"spread": 0.05, "correlation": 0.9},
            {"spread": 0.05, "correlation": 0.99},
            {"spread": 0.03, "drift": 0.05},
        ],
        ids=str,
    )
    def test_equals_are_called_different_at_most_once_in_twenty(self, noise: dict):
        found = verdicts(100, **noise)
        assert sum(verdict in ("faster", "slower") for verdict in found) <= 5

    @pytest.mark.parametrize(("factor", "verdict"), [(1.1, "slower"), (0.9, "faster")])
    def test_a_tenth_is_seen_nearly_always(self, factor: float, verdict: str):
        assert verdicts(40, factor, spread=0.03, correlation=0.5).count(verdict) >= 38

    @pytest.mark.parametrize(
        ("low", "high", "verdict"),
        [
            (1.02, 1.10, "slower"),
            (0.90, 0.98, "faster"),
            (0.995, 1.004, "no difference"),
            (1.002, 1.02, "no difference"),
            (0.96, 1.01, "unclear"),
            (0.9, 1.2, "unclear"),
        ],
    )
    def test_the_rule(self, low: float, high: float, verdict: str):
        interval = Interval(low=low, middle=math.sqrt(low * high), high=high)
        assert judge(interval, margin=0.01, precision=0.02) == verdict


class TestIntervals:
    @pytest.mark.parametrize("count", [8, 20, 60])
    def test_it_misses_the_truth_about_once_in_twenty(self, count: int):
        source = random.Random(count)
        trials = 150
        missed = 0
        for _ in range(trials):
            interval = median_interval([math.exp(source.gauss(0, 0.05)) for _ in range(count)])
            missed += not interval.low <= 1 <= interval.high
        assert missed <= 0.09 * trials  # 5 % expected; 9 % is two standard deviations more

    def test_neighbours_that_resemble_each_other_widen_it(self):
        source, state, series = random.Random(1), 0.0, []
        for _ in range(60):
            state = 0.9 * state + source.gauss(0, 0.05)
            series.append(math.exp(state))
        mixed = random.Random(2).sample(series, len(series))
        assert median_interval(series).precision > 1.5 * median_interval(mixed).precision

    def test_two_rounds_say_nothing_of_the_spread(self):
        interval = median_interval([1.0, 2.0])
        assert (interval.low, interval.high, interval.precision) == (0, math.inf, math.inf)

    def test_it_is_the_same_every_time(self):
        series = [1.0, 1.1, 0.9, 1.05, 1.3, 0.97]
        assert median_interval(series) == median_interval(series)

    def test_pairs_cancel_what_a_round_has_in_common(self):
        common = [1.0, 2.0, 5.0, 3.0, 1.5, 9.0]
        assert ratio([2 * value for value in common], common) == Interval(low=2, middle=2, high=2)
        assert independent_ratio([2 * value for value in common], common).precision > 0.5

    def test_two_runs_of_different_lengths(self):
        interval = independent_ratio([2.0, 2.1, 1.9, 2.0, 2.05], [1.0, 1.01, 0.99] * 5)
        assert interval.low < 2.0 < interval.high
        assert interval.middle == pytest.approx(2)

    def test_no_rounds_are_an_error(self):
        with pytest.raises(ValueError, match="no rounds"):
            ratio([], [])

    def test_quantiles(self):
        assert median([3, 1, 2]) == 2
        assert [quantile([0, 10], q) for q in (0, 0.25, 1)] == [0, 2.5, 10]
        assert quantile([7], 0.95) == 7


class TestRounds:
    def test_it_stops_when_the_ratio_is_known(self):
        machine = Machine(0, spread=0.001)
        rounds = run_rounds([machine.contestant("a"), machine.contestant("b", 0.2)], Limits(), clock=machine.clock)
        assert rounds.stopped == "precise"
        assert [len(rounds.seconds[name]) for name in "ab"] == [rounds.count] * 2
        assert rounds.count < 30

    def test_or_when_time_is_up(self):
        machine = Machine(0, spread=0.5)
        limits = Limits(time_limit_s=10)
        rounds = run_rounds([machine.contestant("a"), machine.contestant("b")], limits, clock=machine.clock)
        assert rounds.stopped == "time limit"
        assert machine.now == pytest.approx(10, rel=0.2)

    def test_the_least_rounds_are_made_even_then(self):
        machine = Machine(0)
        rounds = run_rounds([machine.contestant("slow", 60.0)], Limits(time_limit_s=1), clock=machine.clock)
        assert rounds.count == 10

    def test_first_runs_take_none_of_it(self):
        """Else two networks that compile for a minute each leave a time limit of a minute nothing to measure in."""
        machine = Machine(0, spread=0.001)
        pair = [machine.contestant("a", first=(60.0,)), machine.contestant("b", 0.2, first=(70.0,))]
        rounds = run_rounds(pair, Limits(time_limit_s=20), clock=machine.clock)
        assert rounds.stopped == "precise"
        assert not rounds.cold
        assert 130 < machine.now < 150

    def test_every_contestant_has_every_place(self):
        order: list[str] = []

        def contestant(name: str) -> Contestant:
            return Contestant(name=name, times=lambda runs: order.append(name) or [1.0] * runs)

        run_rounds([contestant(name) for name in "abc"], Limits(least_rounds=30))
        rounds = [order[i : i + 3] for i in range(len(order) - 90, len(order), 3)]
        assert all(sorted(each) == ["a", "b", "c"] for each in rounds)
        assert all({each[place] for each in rounds} == {"a", "b", "c"} for place in range(3))

    def test_it_warms_up_until_a_contestant_is_no_longer_getting_faster(self):
        machine = Machine(0, spread=0.001)
        warming = machine.contestant("a", 0.1, first=(5.0, 1.0, 0.5, 0.25, 0.15))
        rounds = run_rounds([warming], Limits(), clock=machine.clock)
        assert max(rounds.runs["a"]) < 0.16
        assert not rounds.cold
        ever_faster = machine.contestant("b", first=tuple(10 * 0.9**i for i in range(60)))
        assert run_rounds([ever_faster], Limits(time_limit_s=100), clock=machine.clock).cold == {"b"}

    def test_one_that_fails_leaves_the_others(self):
        machine = Machine(0)
        turns = iter(range(8))

        def fails(runs: int) -> list[float]:
            next(turns)
            return [0.1] * runs

        trio = [machine.contestant("a"), Contestant(name="b", times=fails), machine.contestant("c")]
        rounds = run_rounds(trio, Limits(time_limit_s=20), clock=machine.clock)
        assert set(rounds.failed) == {"b"}
        assert isinstance(rounds.failed["b"], StopIteration)
        assert set(rounds.seconds) == {"a", "c"}
        assert rounds.count >= 10

    def test_out_of_memory_ends_it(self):
        def hungry(runs: int) -> list[float]:
            raise OutOfMemoryError("b", "too much")

        with pytest.raises(OutOfMemoryError, match="too much") as caught:
            run_rounds([Contestant(name="b", times=hungry)], Limits())
        assert caught.value.name == "b"

    def test_an_interrupt_keeps_whole_rounds(self):
        machine, count = Machine(0), 0

        def interrupted(runs: int) -> list[float]:
            nonlocal count
            count += 1
            if count == 9:
                raise KeyboardInterrupt
            return [0.1] * runs

        pair = [machine.contestant("a"), Contestant(name="b", times=interrupted)]
        rounds = run_rounds(pair, Limits(), clock=machine.clock)
        assert rounds.stopped == "interrupted"
        assert len(rounds.seconds["a"]) == len(rounds.seconds["b"]) == rounds.count > 0

    def test_min_time_is_kept(self):
        machine = Machine(0, spread=0.0001)
        rounds = run_rounds([machine.contestant("a")], Limits(min_time_s=5), clock=machine.clock)
        assert sum(rounds.runs["a"]) >= 5
