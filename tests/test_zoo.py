"""All convolutional classifiers of torchvision at phi=1: they run, cost twice as much, train, and have changed.

Everything but the training step is done on the meta device. The step is a real one at a small image, save for nets too
big for a test (``BIG``), where a backward pass on the meta device shows that every parameter is reached.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
import torchvision.models as zoo
from checks import bad_gradients, changed_bounds, count, meta_copy, scaled, tensors_in, train_step
from filling import fill
from torch import nn
from twins import published

TRANSFORMERS = ("vit", "swin", "maxvit")
NAMES = [n for n in zoo.list_models(module=zoo) if not n.startswith(TRANSFORMERS)]

OFF_TARGET: dict[str, str] = {}
"""Nets which cannot grow by 2 within 3 %, and why."""

NARROW = {
    "efficientnet_b0", "efficientnet_b1", "efficientnet_b2", "mnasnet0_5", "mnasnet0_75", "mnasnet1_0", "mnasnet1_3",
    "mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2_x0_5",
}  # fmt: skip
"""Nets of whose weights less than 95 % change: 16 and 24 channels times 1.1 round back to themselves, as they do in the
published EfficientNet-B2. Stages of 1 to 4 blocks get one block more each, and what is left of the growth is too little
for 24 and 32 channels instead. Rounded to whole channels, these widths change as well."""

PIXELS = {"inception_v3": (299, 299)}
"""Baseline input sizes other than torchvision's usual 224."""

BIG = 60_000_000
"""Parameters of a baseline above which the training step is made on the meta device."""
INITIALISED = 20_000_000
"""Parameters of a baseline up to which it is built with real weights, so that the fresh ones are trained."""
STEP = 64
"""Pixels of the training step."""
WHOLE = {"inception_v3"}
"""Nets whose auxiliary head needs the whole image in training."""


def on_meta(name: str) -> nn.Module:
    with torch.device("meta"):
        return published(name)


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def base_size(name: str) -> tuple[int, int, int]:
    return (3, *PIXELS.get(name, (224, 224)))


@dataclass(frozen=True)
class Scaled:
    name: str
    baseline: nn.Module
    result: nn.Module
    warned: bool


@pytest.fixture(scope="module", params=[pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in NAMES])
def net(request):
    """A baseline and what becomes of it at phi=1; with real weights where it is small, else on the meta device.

    One process has both tests of a net, so that it is scaled once.
    """
    name = request.param
    baseline = on_meta(name)
    if parameters(baseline) <= INITIALISED:
        baseline = published(name)
    result, warned = scaled(baseline, 1, input_size=base_size(name), seed=0)
    return Scaled(name, baseline, result, warned)


def test_scaled_nets_run_cost_twice_and_change(net):
    scaling = net.result.scaling
    size = scaling.input_size
    with torch.no_grad():
        outputs = meta_copy(net.result).eval()(torch.empty(2, *size, device="meta"))
    assert [tuple(t.shape) for t in tensors_in(outputs)] == [(2, 1000)]

    before, after = count(net.baseline, base_size(net.name)), count(net.result, size)
    assert after == (scaling.plan.after.macs, scaling.plan.after.params, scaling.plan.after.activations)
    on_target = abs(after[0] / before[0] / 2 - 1) <= 0.03
    assert on_target == (net.name not in OFF_TARGET), after[0] / before[0]
    assert net.warned == (not on_target)

    assert all(stage.new_repeats >= stage.repeats for stage in scaling.plan.stages)
    assert all(width.after >= width.before for width in scaling.plan.widths)
    assert scaling.form == "module"
    low, high = changed_bounds(net.baseline, net.result)
    assert low - 1e-9 <= scaling.verification.changed <= high + 1e-9
    if scaling.verification.changed < 0.95:
        assert net.name in NARROW, scaling.verification.changed
        finer, _ = scaled(on_meta(net.name), 1, input_size=base_size(net.name), divisor=1)
        assert finer.scaling.verification.changed >= 0.95


def test_scaled_nets_train_one_step(net):
    result = net.result
    if INITIALISED < parameters(net.baseline) <= BIG:
        result = fill(result)
    size = result.scaling.input_size if net.name in WHOLE else (3, STEP, STEP)
    shapes = train_step(result, size)
    assert set(shapes) == {(2, 1000)}
    assert len(shapes) == {"googlenet": 3, "inception_v3": 2}.get(net.name, 1)
    assert not bad_gradients(result)


def test_the_zoo_is_whole():
    assert len(NAMES) == 68
    assert set(OFF_TARGET) | set(PIXELS) | NARROW <= set(NAMES)
