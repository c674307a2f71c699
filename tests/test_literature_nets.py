"""Whole nets that no zoo has: scaled natively, every weight with the rest, to the costs of the plan."""

from __future__ import annotations

import literature_nets
import pytest
import torch
from checks import bad_gradients, count, planned, scaled, train_step
from literature_nets import ConvLSTM, OptionA, Volume
from torch import nn

NETS = [cls for cls in vars(literature_nets).values() if isinstance(cls, type) and "size" in vars(cls)]


def built(cls):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return cls()


@pytest.mark.parametrize("cls", NETS, ids=lambda cls: cls.__name__)
def test_scaled_in_whole(cls):
    net = built(cls)
    result, _ = scaled(net, width=1.5, input_size=cls.size, seed=0)
    plan = result.scaling.plan
    before = {name: p.shape for name, p in net.named_parameters()}
    assert result.scaling.form == "module"
    assert type(result) is cls
    assert [name for name, p in result.named_parameters() if p.ndim > 1 and p.shape == before[name]] == []
    assert count(result, cls.size) == (plan.after.macs, plan.after.params, plan.after.activations)
    assert train_step(result, cls.size) == train_step(net, cls.size)
    assert bad_gradients(result) == bad_gradients(net)  # WaveNet's last residual is read by nobody


@pytest.mark.parametrize("width", [0.5, 1.5, 3])
def test_zeros_put_beside_channels_keep_their_part(width):
    result, _ = scaled(built(OptionA), width=width, input_size=OptionA.size, seed=0)
    for layer, narrower in ((result.layer2, result.layer1), (result.layer3, result.layer2)):
        inputs, outputs = narrower[-1].conv2.out_channels, layer[0].conv2.out_channels
        assert outputs == inputs + 2 * (layer[0].planes // 4)
    assert result.linear.in_features == pytest.approx(64 * width, abs=8 * width)


def test_an_image_repeated_to_the_width_follows_it():
    result, _ = scaled(built(Volume), width=1.5, input_size=Volume.size, seed=0)
    assert result.width == result.first.out_channels == 24


def test_a_state_made_of_zeros_has_the_width_of_what_it_is_joined_with():
    result, _ = scaled(built(ConvLSTM), width=1.5, input_size=ConvLSTM.size, seed=0)
    assert (result.hidden, result.gates.in_channels, result.gates.out_channels) == (48, 51, 192)


def test_a_size_that_counts_a_loop_stays():
    plan = planned(built(ConvLSTM), resolution=2, input_size=ConvLSTM.size)
    assert plan.input_size[1] == 4


def test_half_of_the_channels_gate_the_others():
    net = nn.Sequential(nn.Conv1d(4, 32, 3), nn.GLU(1), nn.Conv1d(16, 32, 3), nn.GLU(1), nn.Conv1d(16, 2, 1))
    result, _ = scaled(net, width=1.5, input_size=(4, 32), seed=0)
    assert [result[i].out_channels for i in (0, 2)] == [48, 48]
    assert [result[i].in_channels for i in (2, 4)] == [24, 24]
