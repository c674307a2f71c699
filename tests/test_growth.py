"""Weights that survive: a grown network computes what its baseline does, and all of it can learn."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from checks import for_nets, model_state, scaled, structure
from filling import fill
from hypothesis import strategies as st
from nets import NetSpec, StageSpec
from torch import nn

import cnnscale

SIZE = (3, 32, 32)
WAYS = ({"phi": 1}, {"width": 1.5, "depth": 1.5}, {"width": 2.0, "divisor": 1}, {"depth": 2.0}, {"width": 1.3})


def spec_of(*stages: StageSpec, **options) -> NetSpec:
    return NetSpec(stages, size=SIZE, **({"norm": "bn", "act": "relu"} | options))


def filled(spec: NetSpec) -> nn.Module:
    return fill(spec.build(device="meta"))


def error(baseline: nn.Module, result: nn.Module, size=SIZE) -> float:
    """The largest difference of the outputs in double precision, for an input of its own and random weights."""
    images = torch.randn(2, *size, dtype=torch.float64)
    with torch.no_grad():
        wanted, found = (net.eval()(images) for net in (baseline, result))
    return float((wanted - found).abs().max() / wanted.abs().max())


def preserved(baseline: nn.Module, size=SIZE, **options) -> nn.Module:
    """The grown network, in double precision; that it is equal is measured here, not believed."""
    baseline = baseline.double()
    result, _ = scaled(baseline, input_size=size, weights="preserve", **options)
    assert result.scaling.preservation.exact
    assert not result.scaling.preservation.notes
    assert error(baseline, result, size) < 1e-10
    return result


BLOCKS = {
    "plain": StageSpec("plain", 12, 3),
    "residual": StageSpec("basic", 12, 2, stride=2),
    "preactivation": StageSpec("preact", 12, 2),
    "grouped": StageSpec("bottleneck", 24, 2, groups=3, ratio=2),
    "squeezed": StageSpec("inverted", 12, 2, ratio=3, se=4),
    "separable": StageSpec("separable", 12, 2),
    "gain": StageSpec("grouped", 12, 2, groups=2),
    "chunks": StageSpec("split", 16, 2, groups=1, cut="chunk"),
    "dense": StageSpec("dense_dict", 12, 2, growth=4),
    "appended": StageSpec("dense_list", 12, 2, growth=4),
    "halves": StageSpec("csp", 12, 2),
    "gathered": StageSpec("gather", 12, 2),
}


@pytest.mark.parametrize("kind", BLOCKS)
@pytest.mark.parametrize("way", [{"width": 1.5, "divisor": 1}, {"depth": 2.0}], ids=["wider", "deeper"])
def test_the_function_stays(kind, way):
    baseline = filled(spec_of(BLOCKS[kind]))
    before = model_state(baseline)
    assert cnnscale.scale(baseline, input_size=SIZE, weights="preserve", **way).scaling.preservation.exact
    assert model_state(baseline) == before
    preserved(baseline, **way)


@pytest.mark.parametrize("head", ["grid", "view", "hidden"])
def test_flattened_maps_are_followed_to_the_classifier(head):
    preserved(filled(spec_of(BLOCKS["residual"], head=head)), width=1.5)


def test_a_shuffle_is_followed():
    preserved(filled(spec_of(StageSpec("split", 16, 3, groups=2, cut="chunk"))), depth=2.0)
    preserved(filled(spec_of(StageSpec("split", 16, 2, groups=2, cut="sizes"))), width=2.0)


@pytest.mark.parametrize(("width", "blocks"), [(20, 4), (24, 5), (12, 6)])
@pytest.mark.parametrize("way", [{"width": 1.5}, {"width": 2.0}, {"phi": 1}])
def test_copies_go_the_ways_of_their_channels(width, blocks, way):
    """Half of the channels pass a unit, again and again; a half of 6 or 10 channels has no half of a half."""
    preserved(filled(spec_of(StageSpec("split", width, blocks, groups=2, cut="chunk"))), **way)


def test_fewer_ways_than_channels_are_refused():
    """Cut in two seven times, 36 channels leave some way with more channels of the baseline than of the scaled one."""
    baseline = filled(spec_of(StageSpec("split", 36, 8, groups=2, cut="chunk")))
    with pytest.raises(cnnscale.PreserveError, match=r"chunk.*stages\.0"):
        cnnscale.scale(baseline, width=2.0, input_size=SIZE, weights="preserve")


def test_large_numbers_are_not_taken_for_channels():
    """A response norm divides by a mean over all channels."""

    class Response(nn.Module):
        def forward(self, x):
            return x * 1e18 / x.mean(1, keepdim=True)

    layers = [nn.Conv2d(3, 8, 3), Response(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)]
    with pytest.raises(cnnscale.PreserveError, match="truediv"):
        cnnscale.scale(nn.Sequential(*layers), width=1.5, divisor=1, input_size=SIZE, weights="preserve")


@pytest.mark.parametrize("extra", ["twice", "tied"])
def test_a_layer_called_twice_has_one_weight(extra):
    preserved(filled(spec_of(BLOCKS["residual"], extra=extra)), width=1.5)


def test_a_single_block_in_double_precision_is_opened_as_in_single():
    """A made copy is tried out, in the precision of its network."""
    single = StageSpec("inverted", 24, 1, stride=2, ratio=3, se=4)
    baseline = filled(spec_of(StageSpec("inverted", 16, 2, ratio=3, se=4), single))
    wanted = cnnscale.scale(baseline, depth=2.0, input_size=SIZE)
    assert [stage.new_repeats for stage in wanted.scaling.plan.stages] == [4, 2]
    assert structure(preserved(baseline.double(), depth=2.0)) == structure(wanted)


@pytest.mark.parametrize("way", [{"phi": 0}, {"resolution": 1.5}])
def test_what_stays_as_it_is_is_measured_too(way):
    preserved(filled(spec_of(BLOCKS["residual"])), **way)


def check_exact_or_refused(spec, way, counts):
    baseline = filled(dataclasses.replace(spec, norm="bn", conv="conv"))
    try:
        result, _ = scaled(baseline.double(), input_size=spec.size, weights="preserve", **way)
    except cnnscale.PreserveError as raised:
        refusal = str(raised)
        counts["refused"] += 1
    else:
        refusal = ""
        counts["exact"] += 1
    if refusal:
        assert "node" in refusal or "input size" in refusal
        return
    if result.scaling.preservation is not None:
        assert not result.scaling.preservation.notes
        assert error(baseline, result, spec.size) < 1e-10


def test_random_nets_are_preserved_or_refused():
    """With ``CNNSCALE_PROFILE=campaign`` 600 of them."""
    counts = {"exact": 0, "refused": 0}
    for_nets(18, check_exact_or_refused, shard=90, way=st.sampled_from(WAYS), counts=st.just(counts))
    assert counts["exact"] > counts["refused"], counts


# What cannot be preserved is refused, and where that is asked for done as nearly as can be.


def test_an_activation_that_is_not_idempotent_has_no_identity():
    baseline = filled(spec_of(BLOCKS["plain"], act="silu"))
    with pytest.raises(cnnscale.PreserveError, match=r"node .*\(SiLU\).*no identity.*preserve='best'"):
        cnnscale.scale(baseline, depth=2.0, input_size=SIZE, weights="preserve")
    result = cnnscale.scale(baseline, depth=2.0, input_size=SIZE, weights="preserve", preserve="best")
    found = result.scaling.preservation
    assert "SiLU" in found.notes[0]
    assert not found.exact
    assert found.fp64[0] == pytest.approx(error(baseline.double(), result.double()), rel=1)


def test_statistics_over_channels_stay_where_all_repeat_equally_often():
    spec = spec_of(BLOCKS["residual"], norm="gn")
    preserved(filled(spec), width=2.0, divisor=1)
    with pytest.raises(cnnscale.PreserveError, match="GroupNorm"):
        cnnscale.scale(filled(spec), width=1.25, divisor=1, input_size=SIZE, weights="preserve")


def test_a_classifier_bound_to_its_resolution_is_refused():
    baseline = filled(spec_of(BLOCKS["residual"], head="grid"))
    with pytest.raises(cnnscale.PreserveError, match="keep the resolution"):
        cnnscale.scale(baseline, phi=1, input_size=SIZE, weights="preserve")


def test_unknown_weights_are_refused():
    with pytest.raises(cnnscale.UsageError, match="'inherit', 'preserve'"):
        cnnscale.scale(filled(spec_of(BLOCKS["plain"])), 1, input_size=SIZE, weights="keep")
    with pytest.raises(cnnscale.UsageError, match="'exact', 'best'"):
        cnnscale.scale(filled(spec_of(BLOCKS["plain"])), 1, input_size=SIZE, preserve="all")


# What has grown can learn.


@pytest.mark.parametrize("kind", ["residual", "squeezed", "gain", "dense", "plain"])
def test_everything_learns_and_copies_grow_apart(kind):
    result = preserved(filled(spec_of(BLOCKS[kind])), width=2.0, depth=2.0, divisor=1)
    optimizer = torch.optim.SGD(result.parameters(), lr=0.05)
    for _ in range(2):  # in the first step nothing reaches what lies behind a zero
        optimizer.zero_grad()
        result.train()(torch.randn(4, *SIZE, dtype=torch.float64)).square().mean().backward()
        optimizer.step()
    for name, parameter in result.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name
        assert distinct(parameter), name


def distinct(weight: nn.Parameter) -> bool:
    """No two of its output channels are equal, save those that no gradient reaches: dead behind a ReLU for all images,
    and so dead in the baseline as well."""
    rows, slopes = (each.detach().reshape(len(weight), -1) for each in (weight, weight.grad))
    alive = slopes.any(1)
    return len(rows[alive].unique(dim=0)) == int(alive.sum())


# The weights that a network inherits.


def test_inherited_weights_follow_the_channels():
    baseline = filled(spec_of(BLOCKS["chunks"]))
    result = cnnscale.scale(baseline, width=1.5, divisor=1, input_size=SIZE, weights="inherit")
    before, after = baseline.head.fc.weight, result.head.fc.weight
    first = [i for i in range(after.shape[1]) if not any((after[:, i] == before[:, j]).all() for j in range(0))]
    kept = [i for i in first if any(after[:, i].equal(before[:, j]) for j in range(before.shape[1]))]
    assert len(kept) == before.shape[1]


@pytest.mark.parametrize(
    ("spec", "phi"),
    [
        (NetSpec((StageSpec("separable", 10, 2, stride=2),), (3, 32, 56), norm="ln_manual", act="F.silu"), 0.5),
        (NetSpec((StageSpec(width=14, repeats=3),), (4, 32, 56), stem="pooled", norm="ln_manual", head="grid"), -1),
    ],
    ids=["a weight that gets axes", "a classifier of the map"],
)
def test_what_cannot_be_followed_is_drawn_anew(spec, phi):
    baseline = filled(spec)
    result, _ = scaled(baseline, phi, input_size=spec.size, weights="inherit")
    assert result(torch.randn(2, *result.scaling.input_size)).isfinite().all()


def test_shrinking_keeps_the_channels_of_largest_norm():
    baseline = filled(spec_of(BLOCKS["residual"]))
    stage = baseline.stages
    convs = [m for m in stage.modules() if isinstance(m, nn.Conv2d) and m.out_channels == 12]
    with torch.no_grad():
        for conv in convs:
            conv.weight[::2] *= 100
    result = cnnscale.scale(baseline, width=0.5, divisor=1, input_size=SIZE, weights="inherit")
    fc = result.head.fc.weight
    assert fc.equal(baseline.head.fc.weight[:, ::2])


# What belongs to the weights grows with them.


@pytest.mark.parametrize("kind", ["residual", "squeezed", "chunks", "dense"])
@pytest.mark.parametrize("weights", ["preserve", "inherit"])
def test_a_state_dict_grows_as_the_weights_did(kind, weights):
    baseline = filled(spec_of(BLOCKS[kind]))
    result = cnnscale.scale(baseline, width=1.5, depth=2.0, divisor=1, input_size=SIZE, weights=weights)
    wanted = result.state_dict()
    state = cnnscale.grow_state(baseline.state_dict(), baseline, result)
    assert list(state) == list(wanted)
    assert all(tensor.equal(wanted[name]) for name, tensor in state.items())


def trained(kind: str, make, **options) -> tuple[nn.Module, torch.optim.Optimizer]:
    baseline = filled(spec_of(BLOCKS[kind])).double()
    optimizer = make(baseline, **options)
    for _ in range(3):
        optimizer.zero_grad()
        baseline.train()(torch.randn(4, *SIZE, dtype=torch.float64)).square().mean().backward()
        optimizer.step()
    return baseline, optimizer


def in_two_groups(cls, **options):
    def make(net: nn.Module) -> torch.optim.Optimizer:
        decayed = [p for p in net.parameters() if p.dim() > 1]
        rest = [p for p in net.parameters() if p.dim() < 2]
        return cls([{"params": decayed, "weight_decay": 0.1}, {"params": rest, "lr": 1e-3}], lr=1e-2, **options)

    return make


OPTIMIZERS = {
    "sgd": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "adam": (torch.optim.Adam, {"amsgrad": True}),
    "adamw": (torch.optim.AdamW, {"betas": (0.8, 0.99)}),
    "rmsprop": (torch.optim.RMSprop, {"momentum": 0.5, "centered": True}),
    "adagrad": (torch.optim.Adagrad, {}),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_is_transferred_and_goes_on(name):
    cls, options = OPTIMIZERS[name]
    baseline, optimizer = trained("squeezed", in_two_groups(cls, **options))
    before = copy.deepcopy(optimizer.state_dict())
    result, _ = scaled(baseline, width=2.0, depth=2.0, divisor=1, input_size=SIZE, weights="preserve")
    moved = cnnscale.transfer_optimizer(optimizer, baseline, result)
    assert type(moved) is cls
    held = [id(p) for group in moved.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in result.parameters())
    for old, new in zip(optimizer.param_groups, moved.param_groups, strict=True):
        assert {k: v for k, v in old.items() if k != "params"} == {k: v for k, v in new.items() if k != "params"}
        assert {p.dim() > 1 for p in old["params"]} == {p.dim() > 1 for p in new["params"]}
    old, new = optimizer.state[baseline.head.fc.weight], moved.state[result.head.fc.weight]
    assert old.keys() == new.keys()
    for key, value in old.items():
        if value.dim():
            assert {tuple(column) for column in value.T.tolist()} == {tuple(column) for column in new[key].T.tolist()}
        else:
            assert value == new[key]
    assert all(v.shape in {p.shape, ()} for p, state in moved.state.items() for v in state.values())
    moved.zero_grad()
    result.train()(torch.randn(4, *SIZE, dtype=torch.float64)).square().mean().backward()
    moved.step()
    assert all(p.isfinite().all() for p in result.parameters())
    assert str(before) == str(optimizer.state_dict())


def test_without_growth_the_transferred_optimizer_steps_as_the_old_one():
    baseline, optimizer = trained("residual", in_two_groups(torch.optim.AdamW))
    result, _ = scaled(baseline, resolution=1.5, input_size=SIZE, weights="preserve")
    moved = cnnscale.transfer_optimizer(optimizer, baseline, result)
    images = torch.randn(4, *SIZE, dtype=torch.float64)
    for net, own in ((baseline, optimizer), (result, moved)):
        own.zero_grad()
        net.train()(images).square().mean().backward()
        own.step()
    assert all(a.equal(b) for a, b in zip(baseline.parameters(), result.parameters(), strict=True))


def test_what_is_frozen_in_the_optimizer_stays_out_of_it():
    baseline = filled(spec_of(BLOCKS["residual"]))
    optimizer = torch.optim.SGD(baseline.head.parameters(), lr=0.1)
    result = cnnscale.scale(baseline, width=1.5, depth=2.0, input_size=SIZE, weights="preserve")
    moved = cnnscale.transfer_optimizer(optimizer, baseline, result)
    assert [id(p) for group in moved.param_groups for p in group["params"]] == [id(p) for p in result.head.parameters()]


def test_state_that_does_not_fit_is_refused():
    baseline, optimizer = trained("residual", in_two_groups(torch.optim.SGD, momentum=0.9))
    result = cnnscale.scale(baseline, width=1.5, input_size=SIZE, weights="preserve")
    optimizer.state[baseline.head.fc.weight]["factor"] = torch.ones(3)
    with pytest.raises(cnnscale.UsageError, match=r"'factor' of shape \(3,\) for head\.fc\.weight"):
        cnnscale.transfer_optimizer(optimizer, baseline, result)
    with pytest.raises(cnnscale.UsageError, match="not the baseline's"):
        cnnscale.transfer_optimizer(torch.optim.SGD(result.parameters(), lr=0.1), baseline, result)
    state = baseline.state_dict()
    with pytest.raises(cnnscale.UsageError, match=r"head\.fc\.bias has the shape \(3,\)"):
        cnnscale.grow_state(state | {"head.fc.bias": torch.ones(3)}, baseline, result)
    with pytest.raises(cnnscale.UsageError, match=r"lacks the Net's: head\.fc\.bias"):
        cnnscale.grow_state({k: v for k, v in state.items() if k != "head.fc.bias"}, baseline, result)
    with pytest.raises(cnnscale.UsageError, match=r"no \.scaling record"):
        cnnscale.grow_state(state, baseline, baseline)


@pytest.mark.parametrize("wrapped", [False, True])
def test_an_average_computes_what_it_did(wrapped):
    baseline, _ = trained("squeezed", in_two_groups(torch.optim.SGD))
    average = torch.optim.swa_utils.AveragedModel(baseline) if wrapped else copy.deepcopy(baseline)
    with torch.no_grad():
        for tensor in average.parameters():
            tensor.mul_(1.1)
    result, _ = scaled(baseline, width=1.5, depth=2.0, divisor=1, input_size=SIZE, weights="preserve")
    grown = cnnscale.transfer_ema(average, baseline, result)
    assert type(grown) is type(average)
    assert error(average, grown) < 1e-10
    assert error(baseline, grown) > 1e-3


def test_state_follows_a_part_of_a_network():
    class Detector(nn.Module):
        def __init__(self, backbone: nn.Module) -> None:
            super().__init__()
            self.backbone, self.box = backbone, nn.Linear(10, 4)

        def forward(self, x):
            return self.box(self.backbone(x))

    whole = Detector(filled(spec_of(BLOCKS["residual"])))
    options = {"width": 1.5, "input_size": SIZE, "weights": "preserve"}
    result = cnnscale.scale(whole, submodule="backbone", **options)
    state = cnnscale.grow_state(whole.state_dict(), whole, result)
    assert all(tensor.equal(result.state_dict()[name]) for name, tensor in state.items())
    optimizer = torch.optim.SGD(whole.parameters(), lr=0.1)
    moved = cnnscale.transfer_optimizer(optimizer, whole, result)
    assert len(moved.param_groups[0]["params"]) == len(list(result.parameters()))


@pytest.fixture
def tf32_allowed():
    conv = torch.backends.cudnn.conv
    before = conv.fp32_precision
    conv.fp32_precision = "tf32"
    yield conv
    conv.fp32_precision = before


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="the switch that is looked at is of torch 2.9")
def test_single_precision_is_not_measured_in_tf32(tf32_allowed):
    """On CUDA the user may have allowed it; growth would be called inexact for nothing."""
    seen = set()

    class Spy(nn.Sequential):
        def forward(self, x):
            if x.dtype == torch.float32:
                seen.add(tf32_allowed.fp32_precision)
            return super().forward(x)

    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)]
    cnnscale.scale(Spy(*layers), width=2.0, input_size=SIZE, weights="preserve")
    assert "ieee" in seen
    assert tf32_allowed.fp32_precision == "tf32"
