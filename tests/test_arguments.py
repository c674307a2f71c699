"""Arguments that contradict each other or lie out of range: one typed error each, which names the argument."""

import pytest
import torch
import torchvision

import cnnscale

WRONG = [
    {"phi": None},
    {"width": 2.0},
    {"phi": "1"},
    {"phi": float("nan")},
    {"phi": 1000},
    {"phi": None, "depth": -1.0},
    {"phi": None, "width": "2"},
    {"phi": None, "width": 2.0, "fit": True},
    {"phi": None, "resolution": 2.0, "image_size": 64},
    {"image_size": 0},
    {"image_size": 2.5},
    {"image_size": (64, 64, 64)},
    {"input_size": 224},
    {"input_size": (3, 0, 0)},
    {"coefficients": (1.2, 1.1, 1.15)},
    {"divisor": 0},
    {"divisor": 1.5},
    {"divisor": "8"},
    {"round_limit": 2},
    {"tolerance": 0},
    {"tolerance": float("inf")},
    {"depth_rounding": "down"},
    {"pin": "layer1"},
    {"pin": ["("]},
    {"pin": ["no such layer"]},
    {"pin_depth": ["no such stage"]},
    {"weights": "pretrained"},
    {"seed": "a"},
]


@pytest.fixture(scope="module")
def resnet():
    with torch.device("meta"):
        return torchvision.models.resnet18(weights=None)


@pytest.mark.parametrize("options", WRONG, ids=str)
def test_wrong_arguments_are_named(resnet, options):
    with pytest.raises(cnnscale.UsageError) as caught:
        cnnscale.scale(resnet, **{"phi": 1, **options})
    assert any(name.split("_")[0] in str(caught.value) for name in options)


def test_one_side_is_all_sides(resnet):
    assert cnnscale.plan(resnet, image_size=100) == cnnscale.plan(resnet, image_size=(100, 100))


@pytest.mark.parametrize("name", ["alpha", "beta", "gamma"])
@pytest.mark.parametrize("value", [0.9, "1.2", float("inf")])
def test_wrong_coefficients_are_named(name, value):
    with pytest.raises(cnnscale.UsageError, match=name):
        cnnscale.Coefficients(**{name: value})
