"""The measured pass is the last one that can catch a wrong net, so it runs every layer that could be wrong."""

from __future__ import annotations

import pytest
from torch import nn

import cnnscale

SIZE = (3, 16, 16)


def test_a_norm_of_another_width_does_not_pass():
    with pytest.raises(cnnscale.ModelError, match="does not run"):
        cnnscale.measure(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(4), nn.ReLU()), SIZE)


class ByKeyword(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 8, 3), nn.ReLU()

    def forward(self, x):
        return self.act(input=self.conv(x))


def test_a_layer_may_be_called_by_keyword():
    assert cnnscale.measure(ByKeyword(), SIZE).macs == 14 * 14 * 8 * 27
