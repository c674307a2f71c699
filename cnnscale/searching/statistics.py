"""Which candidates can be told apart, from a few seeds each.

Every candidate is trained under the same seeds, so seeds are blocks: what a seed does to all candidates cancels in
their differences. The law (analysis of variance of a randomized complete block design, see Montgomery, Design and
Analysis of Experiments, chapter 4): with x[c, s] for k candidates and n seeds,

    residual variance  v = sum of (x[c, s] - mean of c - mean of s + mean of all) ** 2 / ((k - 1) * (n - 1))
    two means differ   where |difference| > t * sqrt(2 * v / n), t of (k - 1) * (n - 1) degrees of freedom

For two candidates this is the paired t-test. The best is compared with k - 1 others, so the probability of an error is
shared among them (Bonferroni): all statements together hold with the confidence asked for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean, stdev

from cnnscale.errors import UsageError

__all__ = ["Ranked", "Ranking", "rank", "t_probability", "t_quantile"]

Values = Mapping[str, Mapping[int, float]]
"""Candidate -> seed -> value."""


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """One candidate among the others."""

    name: str
    mean: float
    spread: float | None
    """Standard deviation over the seeds; None for a single one."""
    behind: float
    """The best one's mean less this one's."""
    tied: bool
    """Whether it cannot be told from the best."""


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Candidates from the best down."""

    entries: tuple[Ranked, ...]
    margin: float | None
    """Half the width of the confidence interval of a difference to the best; None where one seed gives none."""
    confidence: float
    seeds: tuple[int, ...]

    @property
    def best(self) -> Ranked:
        return self.entries[0]

    @property
    def tied(self) -> tuple[Ranked, ...]:
        """The best, and all that cannot be told from it."""
        return tuple(entry for entry in self.entries if entry.tied)


def rank(values: Values, confidence: float = 0.95) -> Ranking:
    """Rank candidates by their means; larger is better.

    With a single seed nothing is known of the noise: then only equal values are tied, and there is no margin.

    Raises:
        UsageError: there is no candidate, or candidates have different seeds.
    """
    seeds = _common_seeds(values)
    means = {name: fmean(of.values()) for name, of in values.items()}
    best = max(means.values())
    margin = _margin(values, seeds, confidence)
    entries = [
        Ranked(
            name=name,
            mean=mean,
            spread=stdev(values[name].values()) if len(seeds) > 1 else None,
            behind=best - mean,
            tied=best - mean <= (margin or 0.0),
        )
        for name, mean in means.items()
    ]
    entries.sort(key=lambda entry: -entry.mean)
    return Ranking(entries=tuple(entries), margin=margin, confidence=confidence, seeds=seeds)


def _common_seeds(values: Values) -> tuple[int, ...]:
    seeds = {frozenset(of) for of in values.values()}
    if len(seeds) != 1 or not next(iter(seeds)):
        raise UsageError("candidates can be ranked where each has a value for every seed, and there is one at least")
    return tuple(sorted(next(iter(seeds))))


def _margin(values: Values, seeds: tuple[int, ...], confidence: float) -> float | None:
    """Half the width of the interval of one difference, when the best is compared with all others."""
    k, n = len(values), len(seeds)
    if n == 1:
        return None
    if k == 1:
        return 0.0
    freedom = (k - 1) * (n - 1)
    of_seed = {seed: fmean(of[seed] for of in values.values()) for seed in seeds}
    all_mean = fmean(of_seed.values())
    squares = sum(
        (of[seed] - fmean(of.values()) - of_seed[seed] + all_mean) ** 2 for of in values.values() for seed in seeds
    )
    error = (1 - confidence) / (k - 1)
    return t_quantile(1 - error / 2, freedom) * math.sqrt(2 * squares / freedom / n)


def t_probability(t: float, freedom: int) -> float:
    """P(T <= t) for Student's distribution (Abramowitz and Stegun 26.7.3 and 26.7.4; exact for whole freedoms)."""
    angle = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term = total = cosine if odd else 1.0
    for i in range(2 + odd, freedom - 1, 2):
        term *= (i - 1) / i * cosine**2
        total += term
    inside = (angle + (sine * total if freedom > 1 else 0.0)) * 2 / math.pi if odd else sine * total
    return (1 + inside) / 2


def t_quantile(probability: float, freedom: int) -> float:
    """The t whose :func:`t_probability` is ``probability``, which is at least one half; by bisection."""
    low, high = 0.0, 1.0
    while t_probability(high, freedom) < probability:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        if t_probability(middle, freedom) < probability:
            low = middle
        else:
            high = middle
    return high
