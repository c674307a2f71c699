"""A plan is data: it goes to JSON and back, and a bad file is refused with the field that is wrong."""

from __future__ import annotations

import json
import math
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnscale.coefficients import Coefficients, Multipliers
from cnnscale.errors import PlanError
from cnnscale.plans import PLAN_VERSION, Cost, Fixed, Options, Plan, Stage, Width

POSITIVE = st.integers(1, 10**12)
NUMBERS = st.floats(0.01, 100, allow_nan=False)
TEXT = st.text(max_size=12)
SIZES = st.tuples(st.integers(1, 4), st.integers(1, 2000), st.integers(1, 2000))
COSTS = st.builds(Cost, macs=POSITIVE, params=POSITIVE, activations=POSITIVE)
MULTIPLIERS = st.builds(Multipliers, depth=NUMBERS, width=NUMBERS, resolution=NUMBERS)
STAGES = st.builds(
    Stage, path=TEXT, block=TEXT, repeats=POSITIVE, new_repeats=POSITIVE, width=POSITIVE, new_width=POSITIVE, note=TEXT
)
WIDTHS = st.builds(
    Width,
    name=TEXT,
    layers=st.lists(TEXT, max_size=3).map(tuple),
    before=POSITIVE,
    wanted=NUMBERS,
    after=POSITIVE,
    rule=TEXT,
)
PLANS = st.builds(
    Plan,
    version=st.just(PLAN_VERSION),
    model=TEXT,
    fingerprint=TEXT,
    phi=st.none() | st.floats(-3, 8),
    coefficients=st.builds(Coefficients, alpha=st.floats(1, 3), beta=st.floats(1, 3), gamma=st.floats(1, 3)),
    multipliers=MULTIPLIERS,
    achieved=MULTIPLIERS,
    baseline_size=SIZES,
    input_size=SIZES,
    stages=st.lists(STAGES, max_size=3).map(tuple),
    widths=st.lists(WIDTHS, max_size=3).map(tuple),
    fixed=st.lists(st.builds(Fixed, what=TEXT, why=TEXT), max_size=2).map(tuple),
    before=COSTS,
    after=COSTS,
    options=st.builds(Options, pin=st.lists(TEXT, max_size=2).map(tuple), fit=st.booleans()),
)


def make_plan(**changes):
    cost = Cost(macs=100, params=10, activations=20)
    stage = Stage(path="layer1", block="BasicBlock", repeats=2, new_repeats=3, width=64, new_width=72)
    width = Width(name="conv1", layers=("conv1",), before=64, wanted=70.4, after=72, rule="rounded to a multiple of 8")
    fields = {
        "model": "torchvision.models.resnet.ResNet",
        "fingerprint": "0" * 64,
        "phi": 1.0,
        "coefficients": Coefficients(),
        "multipliers": Coefficients().at(1),
        "achieved": Multipliers(depth=1.5, width=1.125, resolution=1.15),
        "baseline_size": (3, 224, 224),
        "input_size": (3, 258, 258),
        "stages": (stage,),
        "widths": (width,),
        "fixed": (Fixed(what="fc", why="its outputs are the classes"),),
        "before": cost,
        "after": Cost(macs=201, params=16, activations=40),
        "options": Options(),
    }
    return Plan(**{**fields, **changes})


@given(PLANS)
def test_plans_go_to_json_and_back(plan):
    text = plan.to_json()
    again = Plan.from_json(text)
    assert again == plan
    assert again.to_json() == text
    assert pickle.loads(pickle.dumps(plan)) == plan


def test_plans_go_to_files_and_back(tmp_path):
    plan = make_plan(model="réseau")
    path = tmp_path / "plan.json"
    text = plan.to_json(path)
    assert path.read_text(encoding="utf-8") == text
    assert Plan.from_json(path) == plan
    plan.to_json(str(path))
    assert Plan.from_json(path) == plan


def test_json_is_plain_and_has_a_version():
    data = json.loads(make_plan().to_json())
    assert data["version"] == PLAN_VERSION == 1
    assert data["stages"][0]["new_repeats"] == 3
    assert data["input_size"] == [3, 258, 258]
    assert data["after"] == {"macs": 201, "params": 16, "activations": 40}


def edited(**changes):
    return json.dumps({**json.loads(make_plan().to_json()), **changes})


def without(field):
    data = json.loads(make_plan().to_json())
    del data[field]
    return json.dumps(data)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "document"),
        ("{", "document"),
        ("[]", "document"),
        ("{}", r": [a-z_]+: Field required"),
        (edited(version=2), "version"),
        (edited(stages=[{"path": "layer1"}]), r"stages\.0\.block"),
        (edited(before={"macs": "many", "params": 1, "activations": 1}), r"before\.macs"),
        (edited(coefficients={"alpha": 0.5, "beta": 1.1, "gamma": 1.15}), r"coefficients.*alpha must be at least 1"),
        (edited(multipliers={"depth": -1, "width": 1, "resolution": 1}), "multipliers.*depth multiplier"),
        (edited(options={"depth_rounding": "up"}), r"options\.depth_rounding"),
        (edited(colour="red"), "colour"),
        (edited(phi=math.nan), "."),
        (without("input_size"), "input_size"),
    ],
)
def test_bad_json_is_refused_by_field(text, message):
    with pytest.raises(PlanError, match=message) as caught:
        Plan.from_json(text)
    assert "cnnscale plan" in str(caught.value)  # what to do


def test_bad_files_are_refused_by_name(tmp_path):
    path = tmp_path / "plan.json"
    with pytest.raises(PlanError, match=r"cannot read plan .*plan\.json: No such file"):
        Plan.from_json(path)
    with pytest.raises(PlanError, match=r"cannot read plan .*: Is a directory"):
        Plan.from_json(tmp_path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PlanError, match=r"plan\.json.*UTF-8"):
        Plan.from_json(path)
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(PlanError, match=r"plan\.json is not a plan of version 1"):
        Plan.from_json(path)


def test_plans_are_frozen():
    plan = make_plan()
    with pytest.raises(ValueError, match="frozen"):
        plan.phi = 2.0
    with pytest.raises(ValueError, match="frozen"):
        plan.stages[0].new_repeats = 9


def test_growths():
    plan = make_plan()
    assert plan.growth == 2.01
    assert plan.target_growth == 2
    assert plan.formula_growth == pytest.approx(1.92027)
    assert not plan.is_identity
    free = make_plan(phi=None, multipliers=Multipliers(width=2.0))
    assert free.target_growth is None
    assert free.formula_growth == 4


def test_identity_is_seen():
    plan = make_plan()
    same = {
        "input_size": plan.baseline_size,
        "stages": tuple(s.model_copy(update={"new_repeats": s.repeats}) for s in plan.stages),
        "widths": tuple(w.model_copy(update={"after": w.before}) for w in plan.widths),
    }
    assert make_plan(**same).is_identity
    assert not any(make_plan(**{k: v for k, v in same.items() if k != field}).is_identity for field in same)


def test_plans_print():
    text = str(make_plan())
    assert "layer1" in text
    assert "258" in text


def test_plans_need_no_torch():
    script = (
        "import sys, types; package = types.ModuleType('cnnscale'); package.__path__ = [sys.argv[1]];"
        "sys.modules['cnnscale'] = package; import cnnscale.plans, cnnscale.rounding, cnnscale.coefficients;"
        "assert 'torch' not in sys.modules"
    )
    package = Path(__file__).parents[1] / "cnnscale"
    subprocess.run([sys.executable, "-c", script, str(package)], check=True)
