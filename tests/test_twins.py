"""Law 4: scaling a family's smaller member gives the bigger one that its author published.

Each row checks names, shapes, classes, flags, cost and, with the published weights in the scaled model, outputs.
"""

from __future__ import annotations

import pytest
import torch
from checks import CAMPAIGN, numbers, record, structure
from filling import fill
from torch import nn
from torchvision.ops import StochasticDepth
from twins import Twin, build, twins

import cnnscale

NO_SKIP = """timm/models/efficientnet.py, _gen_efficientnet_edge: "er_r1_k3_s1_e4_c24_fc24_noskip" says that blocks of
stage 0 have no residual; the only one of the baseline changes its width and could not have any"""

KNOWN_DIFFERENCES = {
    "timm(efficientnet_es)->timm(efficientnet_em)": NO_SKIP,
    "timm(efficientnet_es)->timm(efficientnet_el)": NO_SKIP,
}
"""Row (as printed) -> why it is another net, with the author's source line."""

PROBE = 64
"""Pixels of the images whose outputs are compared: enough for nearly every net here."""
WHOLE = {"vgg11_bn"}
"""Baselines whose head needs the whole image."""
BIG = 100_000_000
"""Parameters of a target above which its operations are compared, but no output."""
ROWS = {"torchvision": 49, "timm": 65}
TWINS = [twin for library in ROWS for twin in twins(library)]
LONG = {
    f"timm({family}_{baseline})->timm({family}_{target})"
    for family, baseline, targets in (
        ("efficientnet", "b0", "b5 b6 b8 l2"),
        ("tf_efficientnet", "b0", "b2 b3 b4 b5 b6 b7 l2"),
        ("nfnet", "f0", "f2 f3 f4 f5 f6"),
    )
    for target in targets.split()
}
"""Rows between others of their families, looked at in a campaign only: each takes up to a quarter of a minute."""


def scale_to(twin: Twin) -> nn.Module:
    return cnnscale.scale(
        build(twin.baseline),
        depth=twin.depth,
        width=twin.width,
        image_size=twin.resolution,
        input_size=(3, twin.baseline_resolution, twin.baseline_resolution),
        divisor=twin.divisor,
        pin=twin.pin,
        pin_depth=twin.pin_depth,
        depth_rounding=twin.depth_rounding,
        derive=twin.derive,
    )


def adopt_eps(scaled: nn.Module, target: nn.Module) -> None:
    """EfficientNet B5-B7 have another BN eps than B0; nothing in B0 can say so."""
    for ours, theirs in zip(scaled.modules(), target.modules(), strict=True):
        if isinstance(theirs, nn.BatchNorm2d):
            ours.eps = theirs.eps


def rows() -> list[object]:
    known = KNOWN_DIFFERENCES
    marks = {str(t): [pytest.mark.xfail(reason=known[str(t)])] for t in TWINS if str(t) in known}
    wanted = [twin for twin in TWINS if CAMPAIGN or str(twin) not in LONG]
    return [pytest.param(twin, id=str(twin), marks=marks.get(str(twin), ())) for twin in wanted]


@pytest.mark.parametrize("twin", rows())
def test_the_scaled_baseline_is_the_published_model(twin):
    target = build(twin.target)
    scaled = scale_to(twin)

    shapes = [{name: tuple(t.shape) for name, t in net.state_dict().items()} for net in (scaled, target)]
    assert shapes[0] == shapes[1]
    assert list(shapes[0]) == list(shapes[1])
    assert scaled.scaling.form == "module"
    assert structure(scaled) == structure(target)
    assert numbers(scaled) == numbers(target)

    size = (3, twin.resolution, twin.resolution)
    assert scaled.scaling.input_size == size
    before, after = scaled.scaling.plan.before, scaled.scaling.plan.after
    assert (before.params, before.macs) == (twin.baseline_params, twin.baseline_macs)
    assert (after.params, after.macs) == (twin.target_params, twin.target_macs)
    assert cnnscale.measure(scaled, size) == after
    assert record(scaled, size).calls == record(target, size).calls

    if twin.target_params > BIG:
        return
    fill(target)
    scaled.load_state_dict(target.state_dict(), strict=True, assign=True)
    if any(name in twin.target for name in ("b5", "b6", "b7")):
        adopt_eps(scaled, target)
    pixels = twin.resolution if any(name in twin.baseline for name in WHOLE) else PROBE
    images = torch.randn(1, 3, pixels, pixels, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        ours, theirs = scaled.eval()(images), target.eval()(images)
    unit = theirs.std()
    assert unit > 0
    torch.testing.assert_close(ours / unit, theirs / unit, rtol=1e-5, atol=1e-5)


def schedule(model: nn.Module) -> list[float]:
    return [module.p for module in model.modules() if isinstance(module, StochasticDepth)]


@pytest.mark.parametrize("twin", [t for t in twins("torchvision") if "efficientnet" in t.baseline][:4], ids=str)
def test_stochastic_depth_is_redrawn_over_the_new_depth(twin):
    assert schedule(scale_to(twin)) == pytest.approx(schedule(build(twin.target)))


def test_all_rows_are_there_and_known_differences_are_rows():
    names = [str(twin) for twin in TWINS]
    assert {library: len(twins(library)) for library in ROWS} == ROWS
    assert len(set(names)) == len(names)
    assert set(KNOWN_DIFFERENCES) | LONG <= set(names)
