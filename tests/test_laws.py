"""The laws of DESIGN.md, section 4, over random nets; 300 nets in a default run (law 4 is test_twins.py).

Law 7 is the large one: whatever net comes, it is scaled correctly or refused with a typed error.
"""

from __future__ import annotations

import copy
import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import hypothesis.strategies as st
import pytest
import torch
from author import FULLY_DROPPED, authored, drop_rates
from checks import (
    PHIS,
    bad_gradients,
    count,
    digest,
    for_nets,
    model_state,
    net_count,
    planned,
    process_state,
    record,
    scaled,
    structure,
    train_step,
)
from nets import NetSpec
from nets.layers import BlurPool
from torch import nn

import cnnscale

PHI = st.sampled_from(PHIS)


def shapes_of(model):
    return {name: tuple(t.shape) for name, t in model.state_dict().items()}


def state_of(model):
    return {name: digest(t) for name, t in model.state_dict().items()}


# Law 1: phi = 0 is the identity.


def check_identity(spec):
    model = spec.build()
    next(model.children()).eval()  # flags that differ between modules must stay so
    next(model.parameters()).requires_grad_(False)
    result, _ = scaled(model, 0, input_size=spec.size)
    assert type(result) is type(model)
    assert [(n, type(m), m.training) for n, m in result.named_modules()] == [
        (n, type(m), m.training) for n, m in model.named_modules()
    ]
    assert [(n, p.requires_grad) for n, p in result.named_parameters()] == [
        (n, p.requires_grad) for n, p in model.named_parameters()
    ]
    assert list(state_of(result).items()) == list(state_of(model).items())
    shared = {p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in result.parameters()}
    assert not shared, "the result shares storage with the baseline"
    assert result.scaling.plan.is_identity
    assert result.scaling.verification.growth == 1
    assert result.scaling.input_size == spec.size
    x = torch.randn(2, *spec.size)
    assert result.eval()(x).equal(model.eval()(x))
    outputs = []
    for net in (model.train(), result.train()):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            outputs.append(net(x)[0])
    assert outputs[0].equal(outputs[1])


@pytest.mark.parametrize("shard", range(2))
def test_law_1_phi_zero_is_the_identity(shard):
    for_nets(20, check_identity, shard=10 + shard)


# Law 2: the input model is untouched, on success and on failure.

HOOKS = ("register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook")
FAILURES = ({"depth": -1.0}, {"phi": 1, "width": 2.0}, {"phi": 1, "input_size": (7, 32, 32)}, {"phi": 1, "pin": ["("]})


class Alarm:
    """A hook that must not be called."""

    def __init__(self):
        self.calls = 0

    def __call__(self, *args):
        self.calls += 1

    def __deepcopy__(self, memo):  # shared by the copies that are made on the way
        return self


def lived_in(spec):
    """A model which has been trained for a step, is partly in eval mode and partly frozen, and has hooks."""
    model = spec.build()
    train_step(model, spec.size)
    alarm = Alarm()
    modules = list(model.modules())
    for i, module in enumerate(modules):
        module.training = i % 3 == 0
        if i % 4 == 0:
            getattr(module, HOOKS[i // 4 % len(HOOKS)])(alarm)
    for p in list(model.parameters())[::5]:
        p.requires_grad_(False)
        p.grad = None
    return model, alarm


def check_untouched(spec, phi):
    model, alarm = lived_in(spec)
    before, process = model_state(model), process_state()
    attempts = [
        {"phi": phi},
        {"phi": phi, "weights": "inherit", "seed": 1},
        {"phi": phi, "strict": True, "tolerance": 1e-12},  # fails at the very end
        *FAILURES,
    ]
    failed = []
    for options in attempts:
        try:
            scaled(model, **{"input_size": spec.size, **options})
        except cnnscale.CnnScaleError:
            failed.append(options)
        assert model_state(model) == before, options
        assert process_state() == process, options
        assert alarm.calls == 0, options
    assert all(options in failed for options in FAILURES)
    assert attempts[0] not in failed


@pytest.mark.parametrize("shard", range(2))
def test_law_2_the_input_model_is_untouched(shard):
    for_nets(15, check_untouched, shard=20 + shard, phi=PHI)


# Law 3: the plan's numbers are the built model's, as integers.


def check_cost(spec, phi):
    model = spec.build(device="meta")
    plan = planned(model, phi, input_size=spec.size)
    result = cnnscale.apply(model, plan)
    for net, size, cost in ((model, spec.size, plan.before), (result, plan.input_size, plan.after)):
        assert cnnscale.measure(net, size) == cost
        assert count(net, size) == (cost.macs, cost.params, cost.activations)
    assert result.scaling.verification.as_planned


@pytest.mark.parametrize("shard", range(2))
def test_law_3_plans_cost_what_they_say(shard):
    for_nets(25, check_cost, shard=30 + shard, phi=PHI)


# Law 5: plans are deterministic, and data.


def check_deterministic(spec, phi):
    model = spec.build()
    plan = planned(model, phi, input_size=spec.size)
    assert planned(model, phi, input_size=spec.size) == plan
    assert planned(pickle.loads(pickle.dumps(model)), phi, input_size=spec.size) == plan
    assert planned(spec.build(device="meta"), phi, input_size=spec.size) == plan
    read = cnnscale.Plan.from_json(plan.to_json())
    assert read == plan
    assert read.to_json() == plan.to_json()
    results = [cnnscale.apply(model, p, seed=3) for p in (plan, read)]
    results.append(scaled(model, phi, input_size=spec.size, seed=3)[0])
    states = [list(state_of(result).items()) for result in results]
    assert states[0] == states[1] == states[2]
    other = cnnscale.apply(model, plan, seed=4)
    assert shapes_of(other) == shapes_of(results[0])


@pytest.mark.parametrize("shard", range(2))
def test_law_5_plans_are_deterministic_and_survive_json(shard):
    for_nets(11, check_deterministic, shard=50 + shard, phi=PHI)


PLAN_IN_ANOTHER_PROCESS = """
import hashlib, json, sys
import torch
torch.set_num_threads(1)
import cnnscale
from checks import planned, digest
from nets import NetSpec, StageSpec
for line in sys.stdin:
    spec, phi = eval(line)
    model = spec.build()
    plan = planned(model, phi, input_size=spec.size)
    state = {k: str(digest(v)) for k, v in cnnscale.apply(model, plan, seed=5).state_dict().items()}
    print(json.dumps([plan.to_json(), state]))
"""


def test_law_5_plans_are_equal_in_any_process():
    cases = []
    for_nets(8, lambda spec, phi: cases.append((spec, phi)), shard=59, phi=PHI)
    lines = "".join(f"({spec!r}, {phi!r})\n" for spec, phi in cases)
    here = Path(__file__).parent
    outputs = []
    for hash_seed in ("1", "2"):
        path = os.pathsep.join([str(here), str(here.parent)])
        env = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-W", "ignore", "-c", PLAN_IN_ANOTHER_PROCESS]
        done = subprocess.run(command, input=lines, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-4000:]
        outputs.append([json.loads(line) for line in done.stdout.splitlines()])
    assert len(outputs[0]) == len(cases)
    assert outputs[0] == outputs[1]
    spec, phi = cases[-1]
    assert planned(spec.build(), phi, input_size=spec.size).to_json() == outputs[0][-1][0]


# Law 6: growth is monotone in phi.


def check_monotone(spec, fit):
    model = spec.build(device="meta")
    plans = [planned(model, phi, input_size=spec.size, fit=fit) for phi in sorted([0, *PHIS])]
    macs = [plan.after.macs for plan in plans]
    assert macs == sorted(macs), [(plan.phi, plan.after.macs, plan.input_size) for plan in plans]
    assert macs[-1] > macs[0]


@pytest.mark.parametrize("fit", [True, False], ids=["fit", "formula"])
def test_law_6_growth_is_monotone_in_phi(fit):
    for_nets(15, check_monotone, shard=60 + fit, fit=st.just(fit))


# Law 7: scaled correctly, or refused with a typed error that says where and what to do.


def names_something(message: str, model: nn.Module) -> bool:
    """Whether a message names a module, a source line, or an argument."""
    names = [name for name, _ in model.named_modules() if name]
    return bool(re.search(r"\w+\.py:\d+|input_size|image_size|\bpin", message)) or any(n in message for n in names)


def check_scaled(spec: NetSpec, phi: float, baseline: nn.Module, result: nn.Module) -> None:
    """Everything that makes a scaled model the one which the baseline's author would have written."""
    plan = result.scaling.plan
    size = result.scaling.input_size
    assert size == plan.input_size
    assert size[0] == spec.size[0]
    # it runs, and in training mode gives the same structure with gradients everywhere
    assert result.eval()(torch.randn(2, *size)).shape == (2, spec.classes)
    assert train_step(result, size) == [(2, spec.classes)] * (2 if spec.aux else 1)
    assert not bad_gradients(result)
    # a fixed kernel is still that kernel, in every channel
    for name, kernel in result.named_buffers():
        if name.endswith("kernel"):
            assert kernel.equal(BlurPool(len(kernel)).kernel), name
    # tied weights stay tied
    if spec.extra == "tied":
        params = dict(result.named_parameters(remove_duplicate=False))
        tied = [p for n, p in params.items() if re.search(r"tied\.conv[12]\.weight$", n)]
        assert len(tied) == 2
        assert tied[0] is tied[1]
    assert result.scaling.verification.as_planned


def check_like_the_authors(spec, result):
    """The same operations, in the same order, as the author's own class with the plan's repeats."""
    plan, size = result.scaling.plan, result.scaling.input_size
    # it does what the author's own class does with the plan's repeats: same operations in the same order, so every
    # residual, concatenation and squeeze is where it belongs, in the copies too
    author = authored(spec, plan)
    assert not author.missed, plan.stages
    assert not author.surplus
    written = author.spec.build(device="meta")
    assert record(result, size).calls == record(written, size).calls
    # the native module has the author's names, classes and flags, and stochastic depth redrawn over the new depth
    if result.scaling.form == "module" and not spec.container.startswith("hand"):
        if {stage.kind for stage in spec.stages} <= FULLY_DROPPED:
            assert structure(result) == structure(written)
            assert drop_rates(result) == pytest.approx(drop_rates(written))
        else:  # not all blocks drop, so the schedule over all of them cannot be read
            assert undropped(structure(result)) == undropped(structure(written))


def undropped(modules):
    return [entry for entry in modules if not entry[0].endswith("drop_path")]


@pytest.mark.parametrize("shard", range(2))
def test_law_7_scaled_or_refused(shard):
    refused, warned = [], []

    def check(spec, phi):
        baseline = spec.build()
        try:
            result, warning = scaled(baseline, phi, input_size=spec.size, seed=0)
        except cnnscale.CnnScaleError as error:
            refused.append((spec, phi, f"{type(error).__name__}: {error}"))
            if not names_something(str(error), baseline):
                raise
            return
        assert warning == (not result.scaling.verification.ok)
        if warning:
            warned.append((spec, phi, result.scaling.verification.growth))
        check_scaled(spec, phi, baseline, result)
        check_like_the_authors(spec, result)

    seen = for_nets(50, check, shard=70 + shard, phi=PHI)
    assert len(refused) <= seen * 0.02, refused
    assert len(warned) <= seen * 0.10, warned


def check_widths(spec, width, divisor):
    """With width alone, names stay: every layer of every group has the planned width, and nearly all weights change."""
    model = spec.build(device="meta")
    plan = planned(model, width=width, input_size=spec.size, divisor=divisor)
    result = cnnscale.apply(model, plan)
    assert plan.input_size == spec.size
    assert all(stage.new_repeats == stage.repeats for stage in plan.stages)
    before, after = (dict(net.named_parameters(remove_duplicate=False)) for net in (model, result))
    assert before.keys() == after.keys()
    for group in plan.widths:
        for layer in group.layers:
            times = before[f"{layer}.weight"].shape[0] // group.before  # 2 for a layer whose output is cut in halves
            assert before[f"{layer}.weight"].shape[0] == group.before * times, (group, layer)
            assert after[f"{layer}.weight"].shape[0] == group.after * times, (group, layer)
    weights = [name for name, p in after.items() if p.ndim >= 2]
    same = [name for name in weights if before[name].shape == after[name].shape]
    assert len(same) <= 0.05 * len(weights), same
    assert result.scaling.verification.changed == pytest.approx(1 - len(same) / len(weights), abs=0.02)
    assert record(result, spec.size).calls == record(model, spec.size).calls


@pytest.mark.parametrize(("width", "divisor"), [(0.5, 1), (2.0, 8)])
def test_law_7_widths_are_those_of_the_plan(width, divisor):
    for_nets(24, check_widths, shard=75 + divisor, width=st.just(width), divisor=st.just(divisor))


def check_copy_is_ordinary(spec, phi):
    result, _ = scaled(spec.build(), phi, input_size=spec.size)
    copied, pickled = copy.deepcopy(result), pickle.loads(pickle.dumps(result))
    x = torch.randn(1, *result.scaling.input_size)
    expected = result.eval()(x)
    for other in (copied, pickled):
        assert other.scaling == result.scaling
        assert other.eval()(x).equal(expected)


def test_law_8_random_nets_copy_and_pickle():
    for_nets(12, check_copy_is_ordinary, shard=80, phi=PHI)


def test_the_shards_look_at_300_nets():
    shares = {"1": 2 * 20, "2": 2 * 15, "3": 2 * 25, "5": 2 * 11 + 8, "6": 2 * 15, "7": 2 * 50 + 2 * 24, "8": 12}
    assert sum(map(net_count, shares.values())) >= net_count(300)
