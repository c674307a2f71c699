"""What a scaled model says about itself is true, and its own methods work on it.

The attributes are held against what hooks see when the scaled model runs; what its author would have written is held
against the published models in ``test_twins.py``.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import timm
import torch
from checks import CAMPAIGN
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

import cnnscale

FAMILIES = (
    "resnet18", "efficientnet_b0", "mobilenetv3_small_050", "mobilenetv4_conv_small", "convnext_atto", "densenet121",
    "vgg11_bn", "hrnet_w18_small", "cspresnet50", "inception_v4", "dm_nfnet_f0", "ghostnet_050",
)  # fmt: skip
MORE = (
    "resnext50_32x4d", "regnety_002", "convnextv2_atto", "dla46_c", "ese_vovnet19b_slim_dw", "res2net50_14w_8s",
    "resnest14d", "skresnet18", "cs3darknet_s", "dpn48b", "xception41", "ecaresnet26t", "eca_nfnet_l0", "repvgg_a0",
    "selecsls42", "legacy_seresnet18", "hardcorenas_a", "mixnet_s", "tresnet_m", "edgenext_xx_small",
    "mobilenetv2_050", "resnetv2_50",
)  # fmt: skip
"""Looked at in a campaign only: five tests each take minutes."""


@cache
def pair(name: str) -> tuple[nn.Module, nn.Module]:
    """(baseline, scaled) on the meta device."""
    with torch.device("meta"):
        baseline = timm.create_model(name).eval()
    return baseline, cnnscale.scale(baseline, 1).eval()


def image(model: nn.Module, baseline: nn.Module) -> Tensor:
    record = getattr(model, "scaling", None)
    size = record.input_size if record is not None else pair_size(baseline)
    return torch.empty(2, *size, device="meta")


def pair_size(baseline: nn.Module) -> tuple[int, ...]:
    return baseline.pretrained_cfg["input_size"]


def outputs(model: nn.Module, names: list[str], images: Tensor) -> dict[str, tuple[int, ...]]:
    """The shapes that come out of submodules when the model runs."""
    seen: dict[str, tuple[int, ...]] = {}

    def note(name: str) -> Any:
        return lambda module, args, out: seen.update({name: tuple(out.shape)}) if isinstance(out, Tensor) else None

    modules = dict(model.named_modules())
    handles = [modules[name].register_forward_hook(note(name)) for name in names if name in modules]
    try:
        with torch.no_grad():
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def claims(model: nn.Module) -> list[dict[str, Any]]:
    info = model.feature_info
    return info if isinstance(info, list) else info.info


def untrue(model: nn.Module) -> Iterator[str]:
    """Layers whose numbers of channels are not those of their weights."""
    for path, m in model.named_modules():
        if isinstance(m, _ConvNd) and not isinstance(m, _ConvTransposeNd):
            said, got = (m.out_channels, m.in_channels), (m.weight.shape[0], m.weight.shape[1] * m.groups)
        elif isinstance(m, nn.Linear):
            said, got = (m.out_features, m.in_features), tuple(m.weight.shape)
        elif isinstance(m, _BatchNorm) and m.running_mean is not None:
            said, got = m.num_features, m.running_mean.shape[0]
        else:
            continue
        if said != got:
            yield f"{path}: says {said}, has {got}"


def layers_and_their_subclasses_know_their_channels(name: str) -> None:
    assert list(untrue(pair(name)[1])) == []


def feature_info_tells_channels_and_reduction(name: str) -> None:
    """Every entry that is true of the baseline is true of the scaled model, of the module that plays its part there."""
    baseline, scaled = pair(name)
    said = claims(baseline), claims(scaled)
    assert len(said[0]) == len(said[1]) > 0
    seen = [outputs(m, [c["module"] for c in s], image(m, baseline)) for m, s in zip(pair(name), said, strict=True)]
    true = 0
    for before, after in zip(*said, strict=True):
        shapes = seen[0].get(before["module"]), seen[1].get(after["module"])
        if shapes[0] is None or before["num_chs"] not in shapes[0]:
            continue
        true += 1
        assert shapes[1] is not None, after
        assert shapes[1][shapes[0].index(before["num_chs"])] == after["num_chs"]
        assert before["reduction"] == after["reduction"]
    assert true > 0 or name == "hrnet_w18_small"  # whose entries name modules that return lists


def num_features_is_what_the_head_gets(name: str) -> None:
    baseline, scaled = pair(name)
    for model in (baseline, scaled):
        with torch.no_grad():
            features = model.forward_features(image(model, baseline))
            pooled = model.forward_head(features, pre_logits=True)
        assert model.num_features in features.shape[1:]
        assert model.head_hidden_size == pooled.shape[-1]
    assert scaled.num_features != baseline.num_features
    assert scaled.num_classes == baseline.num_classes


def the_classifier_can_be_reset(name: str) -> None:
    """As for fine-tuning: a new classifier, built by the model's own method from its own attributes."""
    baseline, scaled = pair(name)
    fresh = copy.deepcopy(scaled)
    with torch.device("meta"):
        fresh.reset_classifier(10)
        assert fresh(image(fresh, baseline)).shape == (2, 10)
        assert fresh.num_classes == 10
    assert isinstance(scaled.get_classifier(), type(baseline.get_classifier()))


def intermediate_features_have_the_channels_told(name: str) -> None:
    baseline, scaled = pair(name)
    if not hasattr(baseline, "forward_intermediates"):
        return
    with torch.no_grad():
        got = [m.forward_intermediates(image(m, baseline), intermediates_only=True) for m in (baseline, scaled)]
    told = [[claim["num_chs"] for claim in claims(model)][-len(got[0]) :] for model in (baseline, scaled)]
    true = [i for i, (maps, number) in enumerate(zip(got[0], told[0], strict=True)) if maps.shape[1] == number]
    assert [got[1][i].shape[1] for i in true] == [told[1][i] for i in true]


@pytest.mark.parametrize("name", [*FAMILIES, *(MORE if CAMPAIGN else ())])
def test_what_a_scaled_model_says_of_itself_is_true(name: str):
    """One test, so that a family is scaled once, whichever processes the tests are spread over."""
    layers_and_their_subclasses_know_their_channels(name)
    feature_info_tells_channels_and_reduction(name)
    num_features_is_what_the_head_gets(name)
    the_classifier_can_be_reset(name)
    intermediate_features_have_the_channels_told(name)
