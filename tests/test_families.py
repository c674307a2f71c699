"""Several plans side by side, every number of one, and the families that were published."""

from __future__ import annotations

import json

import pytest
import torch
import torchvision
from typer.testing import CliRunner

import cnnscale
from cnnscale import cli
from cnnscale.formatting import explain_view, format_family
from cnnscale.publications import PUBLISHED


@pytest.fixture(scope="module")
def resnet():
    with torch.device("meta"):
        return torchvision.models.resnet18(weights=None)


@pytest.fixture(scope="module")
def family(resnet):
    return cnnscale.family(resnet, [-1, 0, 1])


def run(*args: str, code: int = 0):
    result = CliRunner().invoke(cli.app, list(args))
    assert result.exit_code == code, result.output
    return result


def test_a_family_is_the_plans_of_its_phis(resnet, family):
    assert [plan.phi for plan in family] == [-1, 0, 1]
    assert len(family) == 3
    assert family[2] == cnnscale.plan(resnet, 1)
    assert family[1].is_identity


def test_a_family_prints_one_line_for_each_plan_and_stage(family):
    text = format_family(family)
    assert str(family) == text
    for plan in family:
        assert any(line.startswith(f"phi {plan.phi:g}") for line in text.splitlines())
    assert sum(line.startswith("layer") for line in text.splitlines()) == 4


def test_a_family_needs_a_phi(resnet):
    with pytest.raises(cnnscale.UsageError, match="one phi at least"):
        cnnscale.family(resnet, [])


def test_keywords_reach_every_plan(resnet):
    for plan in cnnscale.family(resnet, [1, 2], pin_depth=["layer1"]):
        assert plan.stages[0].new_repeats == 2


def test_explain_shows_every_stage_and_width(resnet):
    from cnnscale.formatting import plain_text

    plan = cnnscale.plan(resnet, 1)
    text = plain_text(explain_view(plan))
    for width in plan.widths:
        assert any(line.startswith(width.name) and width.rule.split()[-1] in text for line in text.splitlines())
    for stage in plan.stages:
        assert f"{stage.wanted:.2f}" in text
    assert "formula" in text


def test_explain_shows_what_makes_ceil_add_a_block():
    from cnnscale.formatting import _not_rounded_down

    assert [_not_rounded_down(x) for x in (3.0, 3.0001, 2.9999, 3.456, 3.4511)] == [
        "3.00", "3.00+", "3.00", "3.46", "3.45",
    ]  # fmt: skip


def test_several_phis_on_the_command_line_are_a_family(family):
    assert "phi 1" in run("plan", "resnet18", "--phi", "-1", "0", "1").stdout
    made = json.loads(run("plan", "resnet18", "--phi", "-1", "0", "1", "--json").stdout)
    assert [plan["phi"] for plan in made["plans"]] == [-1, 0, 1]


def test_a_family_has_no_other_goal():
    assert "several --phi" in run("plan", "resnet18", "--phi", "0", "1", "--macs", "4G", code=2).stderr


@pytest.mark.parametrize("text", ["4.2G", "4200M", "4.2e9"])
def test_budgets_are_read_with_their_prefixes(text):
    made = json.loads(run("plan", "resnet18", "--macs", text, "--json").stdout)
    assert made["budget"]["macs"] == pytest.approx(4.2e9)
    assert made["after"]["macs"] == pytest.approx(4.2e9, rel=0.02)


@pytest.mark.parametrize(
    "args",
    [
        ("--macs", "4X"),
        ("--macs", "G"),
        ("--macs", "many"),
        ("--depth", "layer1=two"),
        ("--phi", "1", "--strategy", "fastest"),
        ("--phi", "1", "--strategy", "fast", "--alpha", "1.3"),
    ],
)
def test_wrong_goals_are_wrong_usage(args):
    assert (
        args[-2] in run("plan", "resnet18", *args, code=2).stderr
        or args[-1] in run("plan", "resnet18", *args, code=2).stderr
    )


def test_single_stages_and_strategies_on_the_command_line():
    made = json.loads(run("plan", "resnet18", "--depth", "1", "--depth", "layer3=2", "--json").stdout)
    assert [stage["new_repeats"] for stage in made["stages"]] == [2, 2, 4, 2]
    fast = json.loads(run("plan", "resnet18", "--growth", "2", "--strategy", "fast", "--json").stdout)
    assert fast["achieved"]["width"] == pytest.approx(2**0.4, rel=0.05)


def test_explain_on_the_command_line():
    out = run("explain", "resnet18", "--phi", "1").stdout
    assert "to a multiple of 8" in out


# --- published families -----------------------------------------------------------------------------------------------


def test_the_published_table_is_data():
    b4 = cnnscale.published("efficientnet_b4")
    assert (b4.width, b4.depth, b4.image_size, b4.dropout) == (1.4, 1.8, 380, 0.4)
    assert b4.multipliers.resolution == pytest.approx(380 / 224)


def test_every_member_refers_to_a_member():
    assert all(member.baseline in PUBLISHED for member in PUBLISHED.values())
    assert all(member.multipliers.growth > 0 for member in PUBLISHED.values())


@pytest.mark.parametrize("name", [f"efficientnet_b{i}" for i in range(8)])
def test_a_published_member_is_what_its_multipliers_give(name):
    with torch.device("meta"):
        b0 = torchvision.models.efficientnet_b0(weights=None)
        author = torchvision.models.get_model(name, weights=None)
    member = cnnscale.published(name)
    plan = cnnscale.plan(b0, depth=member.depth, width=member.width, image_size=member.image_size)
    assert plan.after.params == sum(parameter.numel() for parameter in author.parameters())


def test_a_name_nearly_right_is_answered_with_the_right_one():
    with pytest.raises(cnnscale.UsageError, match="did you mean 'efficientnet_b4'"):
        cnnscale.published("efficientnetb4")
