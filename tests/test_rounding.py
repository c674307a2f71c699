from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnscale.errors import UsageError
from cnnscale.rounding import DEPTH_ROUNDINGS, round_channels, round_repeats, round_size

POSITIVE = st.floats(0.5, 5000, allow_nan=False)


@pytest.mark.parametrize(
    ("channels", "expected"),
    [
        (32 * 1.1, 32),  # EfficientNet-B2's stem: 35.2
        (24 * 1.2, 32),  # 28.8: 24 would be below 90 %
        (16 * 1.2, 24),  # 19.2: 16 would be below 90 %
        (40 * 1.4, 56),
        (1280 * 1.4, 1792),
        (36, 40),  # halves go up
        (3, 8),  # never below the divisor
        (16 * 0.35, 8),
    ],
)
def test_channels_as_efficientnet_rounds_them(channels, expected):
    assert round_channels(channels) == expected


def test_other_divisors_limits_and_minimums():
    assert round_channels(12 * 1.1, divisor=1) == 13
    assert round_channels(11, round_limit=0) == 8
    assert round_channels(11) == 16
    assert round_channels(3, minimum=16) == 16
    assert round_channels(20, divisor=32) == 32


@given(POSITIVE, st.integers(1, 64))
def test_channels_are_a_multiple_near_what_was_wanted(channels, divisor):
    rounded = round_channels(channels, divisor=divisor)
    assert rounded % divisor == 0
    assert rounded >= max(divisor, 0.9 * channels)
    assert rounded <= max(divisor, channels + divisor)


@given(st.integers(1, 512))
def test_multiples_stay(steps):
    assert round_channels(8 * steps) == 8 * steps


@given(POSITIVE, POSITIVE, st.integers(1, 32))
def test_channels_are_monotone_where_the_limit_is_off(a, b, divisor):
    low, high = sorted((a, b))
    assert round_channels(low, divisor=divisor, round_limit=0) <= round_channels(high, divisor=divisor, round_limit=0)


@pytest.mark.parametrize(
    ("rounding", "expected"), [("ceil", [1, 2, 4, 5, 6]), ("round", [1, 1, 3, 5, 5]), ("floor", [1, 1, 3, 4, 5])]
)
def test_repeats(rounding, expected):
    wanted = [(1, 0.4), (1, 1.2), (3, 1.1), (4, 1.2), (3, 1.8)]
    assert [round_repeats(n, d, depth_rounding=rounding) for n, d in wanted] == expected


def test_repeats_that_are_whole_are_not_ceiled_up():
    assert round_repeats(10, 1.1) == 11  # 1.1 * 10 is 11.000000000000002
    assert round_repeats(3, 1 / 3, depth_rounding="floor") == 1


@given(st.integers(1, 40), st.floats(0.01, 5), st.sampled_from(list(DEPTH_ROUNDINGS)))
def test_repeats_are_near_what_was_wanted_and_at_least_1(repeats, depth, rounding):
    new = round_repeats(repeats, depth, depth_rounding=rounding)
    assert new >= 1
    assert new == 1 or abs(new - repeats * depth) <= 1
    assert round_repeats(repeats, 1.0, depth_rounding=rounding) == repeats


def test_unknown_depth_rounding_is_named():
    with pytest.raises(UsageError, match=r"depth_rounding.*'ceil', 'round', 'floor'.*'up'"):
        round_repeats(3, 1.2, depth_rounding="up")


def test_sizes():
    assert [round_size(224, 1.15**phi) for phi in (0, 1, 2, 3)] == [224, 258, 296, 341]  # FACTS: the formula's sizes
    assert round_size(224, 0.001) == 1


@given(st.integers(1, 4096))
def test_size_is_kept_at_1(pixels):
    assert round_size(pixels, 1.0) == pixels
