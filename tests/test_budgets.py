"""Budgets instead of phi: the binding limit is met, the others are kept, and a miss is told."""

from __future__ import annotations

import warnings

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st

import cnnscale
from cnnscale.budgets import Budget, Cost

SIZE = (3, 224, 224)


@pytest.fixture(scope="module")
def nets():
    names = ("resnet18", "mobilenet_v2", "densenet121", "efficientnet_b0")
    with torch.device("meta"):
        return {name: torchvision.models.get_model(name, weights=None) for name in names}


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "densenet121", "efficientnet_b0"])
@pytest.mark.parametrize("growth", [0.5, 3.0])
@pytest.mark.parametrize("kind", ["macs", "params", "activations"])
def test_a_budget_is_met(nets, name, growth, kind):
    model = nets[name]
    limit = growth * getattr(cnnscale.measure(model, SIZE), kind)
    plan = cnnscale.plan(model, **{kind: limit}, input_size=SIZE)
    assert getattr(plan.after, kind) == pytest.approx(limit, rel=0.02)
    assert plan.budget == Budget(**{kind: limit})
    assert plan.phi is None
    assert not plan.is_identity


def test_growth_is_a_budget_of_macs(nets):
    model = nets["resnet18"]
    plan = cnnscale.plan(model, growth=2)
    assert plan.growth == pytest.approx(2, rel=0.02)
    again = cnnscale.plan(model, macs=2 * plan.before.macs)
    assert (again.stages, again.widths, again.input_size) == (plan.stages, plan.widths, plan.input_size)


def test_of_two_budgets_the_binding_one_is_met_and_the_other_kept(nets):
    model = nets["resnet18"]
    now = cnnscale.measure(model, SIZE)
    tight, loose = 1.5, 4.0
    few = cnnscale.plan(model, macs=loose * now.macs, params=tight * now.params)
    assert few.after.params == pytest.approx(tight * now.params, rel=0.02)
    assert few.after.macs < loose * now.macs
    assert max(few.loads, key=few.loads.get) == "params"
    cheap = cnnscale.plan(model, macs=tight * now.macs, params=loose * now.params)
    assert cheap.after.macs == pytest.approx(tight * now.macs, rel=0.02)
    assert cheap.after.params < loose * now.params


def test_the_budget_of_what_there_is_changes_nothing(nets):
    model = nets["resnet18"]
    assert cnnscale.plan(model, macs=cnnscale.measure(model, SIZE).macs).is_identity


def test_a_built_network_keeps_its_budget(nets):
    model = nets["mobilenet_v2"]
    scaled = cnnscale.scale(model, params=7e6, strict=True)
    record = scaled.scaling
    assert sum(p.numel() for p in scaled.parameters()) == pytest.approx(7e6, rel=0.02)
    assert record.verification.ok
    assert "params 7.00 M" in str(record) or "params 7" in str(record)
    again = cnnscale.apply(model, cnnscale.Plan.from_json(record.plan.to_json()))
    assert again.scaling == record


def test_a_miss_is_told_and_strict_refuses_it(nets):
    """With one step of 64 channels between two networks, no plan comes within a tolerance this narrow."""
    model, asked = nets["resnet18"], {"params": 2.5e7, "coefficients": cnnscale.WIDTH, "divisor": 64, "tolerance": 1e-6}
    with pytest.warns(cnnscale.GrowthWarning, match=r"the budget is missed: params .* of 25\.0 M"):
        near = cnnscale.scale(model, **asked)
    assert not near.scaling.verification.ok
    assert near.scaling.plan.after.params == pytest.approx(2.5e7, rel=0.15)
    with pytest.raises(cnnscale.GrowthError, match="the budget is missed"):
        cnnscale.scale(model, **asked, strict=True)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"params": 3e7, "coefficients": cnnscale.RESOLUTION}, "it stays below that"),
        ({"params": 1e3, "coefficients": cnnscale.RESOLUTION}, "it stays above that"),
    ],
)
def test_a_budget_that_the_strategy_cannot_reach_is_refused(nets, asked, says):
    with pytest.raises(cnnscale.BudgetError, match=says):
        cnnscale.plan(nets["resnet18"], **asked)


@pytest.mark.parametrize(
    "asked",
    [
        {"phi": 1, "macs": 1e9},
        {"macs": 1e9, "width": 2.0},
        {"macs": 0},
        {"params": -1},
        {"growth": float("inf")},
        {"activations": "1M"},
        {"macs": True},
        {"macs": 1e9, "fit": False},
        {"depth": {"layer1": 0}},
        {"depth": {1: 2.0}},
        {"depth": {"no such stage": 2.0}},
        {"width": {"no such layer": 2.0}},
        {"phi": 1, "max_repeats": 0},
        {"phi": 1, "max_image_size": 0},
        {"image_size": 300, "max_image_size": 200},
        {"phi": 1, "coefficients": "fast"},
    ],
    ids=str,
)
def test_budgets_that_make_no_sense_are_named(nets, asked):
    with pytest.raises(cnnscale.UsageError) as caught:
        cnnscale.plan(nets["resnet18"], **asked)
    assert any(name.split("_")[0] in str(caught.value) for name in asked)


@given(
    before=st.builds(Cost, macs=st.integers(1, 10**9), params=st.integers(1, 10**9), activations=st.integers(1, 10**9)),
    growth=st.floats(0.1, 10),
    macs=st.floats(1, 1e9),
)
def test_the_load_is_cost_over_limit(before, growth, macs):
    loads = Budget(growth=growth, macs=macs, params=before.params).loads(before, before)
    assert loads["macs"] == pytest.approx(before.macs / min(macs, growth * before.macs))
    assert loads["params"] == 1


# --- single stages and layers, and caps -------------------------------------------------------------------------------


def repeats(plan: cnnscale.Plan) -> list[int]:
    return [stage.new_repeats for stage in plan.stages]


def test_single_stages_have_their_own_depth(nets):
    plan = cnnscale.plan(nets["resnet18"], depth={"layer3": 3.0})
    assert repeats(plan) == [2, 2, 6, 2]
    plan = cnnscale.plan(nets["resnet18"], depth={"": 2.0, "layer[34]": 3.0, "layer4": 1.0})
    assert repeats(plan) == [4, 4, 6, 2]


def test_single_stages_keep_their_depth_beside_phi(nets):
    plan = cnnscale.plan(nets["resnet18"], 2, depth={"layer1": 5.0})
    assert repeats(plan)[0] == 10
    assert plan.growth == pytest.approx(4, rel=0.03)


def test_single_layers_have_their_own_width(nets):
    scaled = cnnscale.scale(nets["resnet18"], width={"layer4": 1.5})
    assert scaled.fc.in_features == 768
    assert scaled.conv1.out_channels == 64
    assert scaled.layer4[1].conv1.out_channels == 768


def test_a_width_that_follows_another_cannot_be_told(nets):
    with pytest.raises(cnnscale.UsageError, match="follows another width"):
        cnnscale.plan(nets["efficientnet_b0"], width={r"features\.2\.0\.block\.0\.0": 2.0})


def test_caps_hold_and_the_rest_makes_up_for_them(nets):
    plan = cnnscale.plan(nets["resnet18"], 3, max_repeats=3, max_image_size=256)
    assert max(repeats(plan)) == 3
    assert max(plan.input_size[1:]) <= 256
    assert plan.growth == pytest.approx(8, rel=0.03)
    assert any("max_repeats" in stage.note for stage in plan.stages)


def test_a_cap_below_what_there_is_takes_nothing_away(nets):
    plan = cnnscale.plan(nets["resnet18"], 1, max_repeats=1, max_image_size=100)
    assert repeats(plan) == [2, 2, 2, 2]
    assert plan.input_size == SIZE


@settings(max_examples=15, deadline=None)
@given(growth=st.floats(0.3, 12), share=st.sampled_from(["efficientnet", "fast", "depth", "width", "resolution"]))
def test_every_strategy_meets_any_growth(nets, growth, share):
    from cnnscale.strategies import named

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan = cnnscale.plan(nets["resnet18"], growth=growth, coefficients=named(share), divisor=2)
    if share != "depth":  # 8 blocks are too few for any growth by depth alone
        assert plan.growth == pytest.approx(growth, rel=0.02)
