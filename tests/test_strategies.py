"""A strategy is a curve through the baseline on which the formula's growth is 2 ** phi."""

from __future__ import annotations

import math
import pickle
from itertools import pairwise

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st

import cnnscale
from cnnscale.strategies import STRATEGIES, named, stage_exponents, traits

SHARES = st.floats(0, 10).map(lambda share: round(share, 2))
PHIS = st.floats(-4, 8)


@given(d=SHARES, w=SHARES, r=SHARES, phi=PHIS)
def test_shares_divide_the_growth(d, w, r, phi):
    if d + w + r == 0:
        return
    got = cnnscale.Strategy.from_shares(d=d, w=w, r=r).at(phi)
    total, s = d + w + r, 2**phi
    assert got.depth == pytest.approx(s ** (d / total))
    assert got.width == pytest.approx(s ** (w / total / 2))
    assert got.resolution == pytest.approx(s ** (r / total / 2))
    assert got.growth == pytest.approx(s)


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name != "efficientnet"])
@given(phi=PHIS)
def test_on_every_named_curve_the_formula_grows_as_two_to_the_phi(name, phi):
    assert named(name).at(phi).growth == pytest.approx(2**phi)


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_named_curve_passes_the_baseline_and_can_be_pickled(name):
    curve = named(name)
    assert curve.at(0) == cnnscale.Multipliers()
    assert pickle.loads(pickle.dumps(curve)) == curve


def test_fast_is_eight_shares_of_width():
    got = cnnscale.FAST.at(1)
    assert (got.depth, got.width, got.resolution) == pytest.approx((2**0.1, 2**0.4, 2**0.05))


def test_a_curve_passes_its_points_and_goes_on_in_the_direction_of_the_last():
    points = (
        cnnscale.Multipliers(depth=2.0),
        cnnscale.Multipliers(depth=2.0, width=2.0),
    )
    strategy = cnnscale.Strategy(points=points)
    for point in points:
        got = strategy.at(math.log2(point.growth))
        assert (got.depth, got.width, got.resolution) == pytest.approx((point.depth, point.width, point.resolution))
    beyond = strategy.at(6)
    assert (beyond.depth, beyond.width) == pytest.approx((4.0, 4.0))


def test_the_published_tinynets_lie_on_the_curve_for_shrinking():
    for letter in "abcde":
        member = cnnscale.published(f"tinynet_{letter}").multipliers
        got = cnnscale.TINY.at(math.log2(member.growth))
        assert (got.depth, got.width) == pytest.approx((member.depth, member.width), rel=0.02)


@pytest.mark.parametrize("shares", [{}, {"d": 0}, {"d": -1, "w": 2}, {"w": math.inf}, {"r": math.nan}])
def test_shares_that_share_nothing_are_refused(shares):
    with pytest.raises(cnnscale.UsageError, match="shares must be"):
        cnnscale.Strategy.from_shares(**shares)


@pytest.mark.parametrize(
    "points",
    [(), (cnnscale.Multipliers(),), (cnnscale.Multipliers(depth=4), cnnscale.Multipliers(width=2))],
)
def test_points_that_give_no_direction_are_refused(points):
    with pytest.raises(cnnscale.UsageError, match="different growths"):
        cnnscale.Strategy(points=points)


def test_an_unknown_name_is_answered_with_those_there_are():
    with pytest.raises(cnnscale.UsageError, match=r"'fastest'; did you mean fast\?"):
        named("fastest")
    with pytest.raises(cnnscale.UsageError, match=r"'zoom'; there are efficientnet, .*fast"):
        named("zoom")


@given(stages=st.integers(1, 9), late=st.floats(0.2, 5))
def test_exponents_of_stages_rise_evenly_around_one(stages, late):
    exponents = stage_exponents(stages, late)
    assert sum(exponents) / stages == pytest.approx(1)
    if stages > 1:
        assert exponents[-1] / exponents[0] == pytest.approx(late)
        steps = [b - a for a, b in pairwise(exponents)]
        assert steps == pytest.approx([steps[0]] * len(steps))


def test_coefficients_ask_for_nothing_beside_their_multipliers():
    own = traits(cnnscale.EFFICIENTNET)
    assert (own.late_depth, own.max_image_size, own.depth_rounding) == (1.0, None, "ceil")


@pytest.fixture(scope="module")
def regnet():
    with torch.device("meta"):
        return timm.create_model("regnety_040")


def test_fast_keeps_activations_low(regnet):
    """Dollar et al. 2021, section 4: activations of RegNetY-4GF at 16 times the MACs."""
    fast = cnnscale.plan(regnet, growth=16, coefficients=cnnscale.FAST, input_size=(3, 224, 224))
    uniform = cnnscale.Strategy.from_shares(d=1, w=1, r=1)
    even = cnnscale.plan(regnet, growth=16, coefficients=uniform, input_size=(3, 224, 224))
    grew = [plan.after.activations / plan.before.activations for plan in (fast, even)]
    assert grew == pytest.approx([4.9, 8.9], rel=0.08)


def test_late_stages_deepen_more_and_the_image_is_capped(regnet):
    strategy = cnnscale.EFFICIENTNET_V2
    plan = cnnscale.plan(regnet, 6, coefficients=strategy, input_size=(3, 224, 224), depth_rounding="round")
    factors = [stage.new_repeats / stage.repeats for stage in plan.stages]
    assert factors[2] > factors[1]  # the two stages with blocks enough to tell
    assert max(plan.input_size[1:]) == 480
    assert plan.growth == pytest.approx(64, rel=0.03)
    assert cnnscale.Plan.from_json(plan.to_json()) == plan
