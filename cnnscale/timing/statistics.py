"""What a series of times says: its median, how well that is known, and whether two series differ.

Times come in rounds. In each round every contestant runs once, in an order drawn anew, so that what the machine does to
one round it does to all contestants alike, and what it does within a round it does to none of them in particular. Two
contestants are therefore compared round by round: the statistic is the median of the logarithms of their ratios.

Intervals are bootstrapped (Efron 1979), in blocks where neighbours in the series resemble each other (Kunsch 1989). Few
samples make a bootstrap too sure of itself; its half-widths are stretched by Student's t over the normal quantile.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeAlias

import torch

__all__ = ["Interval", "Verdict", "independent_ratio", "judge", "median", "median_interval", "quantile", "ratio"]

Verdict: TypeAlias = Literal["faster", "slower", "no difference", "unclear"]

_CONFIDENCE = 0.95
_RESAMPLES = 1000
_SEED = 20
_MAX_CORRELATION = 0.95


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate and the 95 % confidence interval around it."""

    low: float
    middle: float
    high: float

    @property
    def precision(self) -> float:
        """How far the interval reaches from its estimate, relative to it: 0.02 is 2 %."""
        return max(self.high / self.middle, self.middle / self.low) - 1 if self.low > 0 else math.inf


def median(values: Sequence[float]) -> float:
    return quantile(values, 0.5)


def quantile(values: Sequence[float], fraction: float) -> float:
    """Linear between the two nearest order statistics, as Hyndman and Fan's type 7; one value is all its quantiles."""
    ordered = sorted(values)
    place = fraction * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def median_interval(values: Sequence[float]) -> Interval:
    """The median of positive values, in rounds, with its interval; two values or fewer say nothing of the spread."""
    low, middle, high = map(math.exp, _bootstrap([math.log(value) for value in values]))
    return Interval(low=low, middle=middle, high=high)


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Interval:
    """The ratio of two contestants' times, paired by round: the exponential of the median log-ratio.

    Raises:
        ValueError: they have different numbers of rounds, or none.
    """
    pairs = zip(numerators, denominators, strict=True)
    low, middle, high = map(math.exp, _bootstrap([math.log(above / below) for above, below in pairs]))
    return Interval(low=low, middle=middle, high=high)


def independent_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Interval:
    """The ratio of the medians of two series that share no rounds: two runs, perhaps on different days.

    The half-widths of the two logarithms add up as independent errors do, by their squares.
    """
    above, below = (_bootstrap([math.log(value) for value in values]) for values in (numerators, denominators))
    middle = above[1] - below[1]
    down = math.hypot(above[1] - above[0], below[2] - below[1])
    up = math.hypot(above[2] - above[1], below[1] - below[0])
    return Interval(low=math.exp(middle - down), middle=math.exp(middle), high=math.exp(middle + up))


def judge(ratio: Interval, *, margin: float, precision: float) -> Verdict:
    """What a ratio of times says of its numerator.

    Law: ``faster`` and ``slower`` where the whole interval lies beyond ``margin`` of 1 (a difference below that is of
    no use to anyone, and two copies of one network show it); ``no difference`` where all of it lies within margin plus
    ``precision`` of 1; else ``unclear``: more rounds would tell.
    """
    if ratio.low > 1 + margin:
        return "slower"
    if ratio.high < 1 / (1 + margin):
        return "faster"
    reach = 1 + margin + precision
    return "no difference" if ratio.low >= 1 / reach and ratio.high <= reach else "unclear"


def _bootstrap(values: Sequence[float]) -> tuple[float, float, float]:
    """Low end, median and high end: percentiles of the medians of resampled series, stretched for few blocks."""
    count = len(values)
    if not count:
        raise ValueError("no rounds, no statistics")
    middle = median(values)
    if count < 3:
        return (-math.inf, middle, math.inf)
    series = torch.tensor(values, dtype=torch.float64)
    length = _block_length(values)
    generator = torch.Generator().manual_seed(_SEED)
    starts = torch.randint(0, count, (_RESAMPLES, math.ceil(count / length), 1), generator=generator)
    places = ((starts + torch.arange(length)) % count).flatten(1)[:, :count]
    medians = torch.quantile(series[places], 0.5, dim=1)
    tail = (1 - _CONFIDENCE) / 2
    low, high = torch.quantile(medians, torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    stretch = _student(count / length - 1) / _student(math.inf)
    return (middle - stretch * (middle - low), middle, middle + stretch * (high - middle))


def _block_length(values: Sequence[float]) -> int:
    """Carlstein's rule for a first-order autoregression; its correlation is read from signs, which no spike sways."""
    count, centre = len(values), median(values)
    signs = [math.copysign(1, value - centre) for value in values]
    agreement = sum(one * other for one, other in pairwise(signs)) / count
    correlation = min(max(math.sin(agreement * math.pi / 2) + 1 / count, 0.0), _MAX_CORRELATION)
    length: float = (2 * correlation / (1 - correlation**2)) ** (2 / 3) * count ** (1 / 3)
    return min(max(1, math.ceil(length)), max(1, count // 3))


def _student(degrees: float) -> float:
    """The 97.5 % quantile of Student's t: Cornish and Fisher's expansion, good to 3 % from two degrees on."""
    z = 1.959964
    terms = (
        1.0,
        (z**2 + 1) / 4,
        (5 * z**4 + 16 * z**2 + 3) / 96,
        (3 * z**6 + 19 * z**4 + 17 * z**2 - 15) / 384,
    )
    return z * sum(term / max(2.0, degrees) ** power for power, term in enumerate(terms))
