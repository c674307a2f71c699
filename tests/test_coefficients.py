from __future__ import annotations

import math
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnscale.coefficients import EFFICIENTNET, Coefficients, Multipliers
from cnnscale.errors import CnnScaleError, UsageError


def test_efficientnet_is_the_papers():
    assert Coefficients() == Coefficients(alpha=1.2, beta=1.1, gamma=1.15) == EFFICIENTNET
    assert EFFICIENTNET.at(1) == Multipliers(depth=1.2, width=1.1, resolution=1.15)
    assert EFFICIENTNET.at(1).growth == pytest.approx(1.92027)
    assert EFFICIENTNET.at(0) == Multipliers()


@given(st.floats(-4, 8), st.floats(-4, 8))
def test_multipliers_are_powers(a, b):
    together, growths = EFFICIENTNET.at(a + b), EFFICIENTNET.at(a).growth * EFFICIENTNET.at(b).growth
    assert together.growth == pytest.approx(growths, rel=1e-9)
    assert math.isclose(EFFICIENTNET.at(a).depth, 1.2**a)


def test_arguments_are_keyword_only():
    with pytest.raises(TypeError):
        Coefficients(1.2, 1.1, 1.15)
    with pytest.raises(TypeError):
        Multipliers(1.2)


@pytest.mark.parametrize("name", ["alpha", "beta", "gamma"])
@pytest.mark.parametrize("value", [0.99, 0.0, -1.2, math.nan, math.inf])
def test_bases_below_1_are_refused_by_name(name, value):
    with pytest.raises(UsageError, match=rf"{name} must be at least 1"):
        Coefficients(**{name: value})


@pytest.mark.parametrize("name", ["depth", "width", "resolution"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_multipliers_must_be_positive(name, value):
    with pytest.raises(UsageError, match=rf"{name} multiplier must be a positive number"):
        Multipliers(**{name: value})


def test_usage_errors_are_value_errors():
    assert issubclass(UsageError, ValueError)
    assert issubclass(UsageError, CnnScaleError)


def test_records_are_frozen_hashable_and_picklable():
    for record in (EFFICIENTNET, Multipliers(width=2.0)):
        assert pickle.loads(pickle.dumps(record)) == record
        assert hash(record) == hash(pickle.loads(pickle.dumps(record)))
        with pytest.raises(AttributeError):
            record.alpha = 2.0
