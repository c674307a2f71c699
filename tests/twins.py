"""Pairs of published nets of one family, where a scaling by plain numbers leads from the smaller to the bigger.

The rows are in ``data/twins_*.json``; their ``baseline`` and ``target`` are calls of the builders below.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from unittest import mock

import timm
import torch
import torchvision.models as zoo
from torch import nn
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.efficientnet import EfficientNet, _efficientnet_conf
from torchvision.models.mobilenetv3 import MobileNetV3, _mobilenet_v3_conf
from torchvision.models.regnet import BlockParams


def published(name: str, **options: object) -> nn.Module:
    """A torchvision model by name, also on the meta device (where RegNet's own arithmetic cannot run)."""
    if name in ("googlenet", "inception_v3"):
        options.setdefault("init_weights", False)  # the alternative warns, and takes a minute
    arithmetic = BlockParams.from_init_params.__func__

    def on_cpu(cls: type, *args: object, **kwargs: object) -> object:
        with torch.device("cpu"):
            return arithmetic(cls, *args, **kwargs)

    with mock.patch.object(BlockParams, "from_init_params", classmethod(on_cpu)):
        return zoo.get_model(name, weights=None, **options)


def efficientnet(width: float, depth: float) -> nn.Module:
    settings, last_channel = _efficientnet_conf("efficientnet_b0", width_mult=width, depth_mult=depth)
    return EfficientNet(settings, 0.2, last_channel=last_channel)


MOBILENET_V2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def mobilenet_v2(width: float, depth: float = 1.0) -> nn.Module:
    settings = [[expansion, c, math.ceil(n * depth), stride] for expansion, c, n, stride in MOBILENET_V2]
    return zoo.MobileNetV2(width_mult=width, inverted_residual_setting=settings)


def mobilenet_v3(name: str, width: float) -> nn.Module:
    return MobileNetV3(*_mobilenet_v3_conf(name, width_mult=width))


def resnet(block: str, layers: list[int], **options: int) -> nn.Module:
    return zoo.ResNet(getattr(zoo.resnet, block), layers, **options)


def densenet(growth: int, layers: tuple[int, int, int, int], stem: int) -> nn.Module:
    return zoo.DenseNet(growth, layers, stem)


def convnext(widths: Sequence[int], depths: Sequence[int]) -> nn.Module:
    following = [*widths[1:], None]
    return ConvNeXt([CNBlockConfig(*stage) for stage in zip(widths, following, depths, strict=True)])


def shufflenet(repeats: list[int], widths: list[int]) -> nn.Module:
    return zoo.ShuffleNetV2(repeats, widths)


def timm_model(name: str) -> nn.Module:
    return timm.create_model(name, pretrained=False)


def timm_resnet(block: str, layers: list[int], **options: object) -> nn.Module:
    return timm.models.ResNet(getattr(timm.models.resnet, block), tuple(layers), **options)


def timm_vgg(cfg: list[object], **options: object) -> nn.Module:
    return timm.models.VGG(cfg, **options)


TORCHVISION = (published, efficientnet, mobilenet_v2, mobilenet_v3, resnet, densenet, convnext, shufflenet)
TIMM = (timm_model, timm_resnet, timm_vgg)
BUILDERS = {builder.__name__: builder for builder in (*TORCHVISION, *TIMM)} | {"nn": nn}


@dataclass(frozen=True)
class Twin:
    """One row: ``baseline`` scaled by ``depth``, ``width`` and to ``resolution`` is ``target``."""

    baseline: str
    target: str
    depth: float
    width: float
    baseline_resolution: int
    resolution: int
    divisor: int
    pin: tuple[str, ...]
    baseline_params: int
    target_params: int
    baseline_macs: int
    target_macs: int
    note: str
    pin_depth: tuple[str, ...] = ()
    depth_rounding: str = "ceil"
    derive: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.baseline}->{self.target}".replace("published", "").replace("timm_model", "timm").replace("'", "")


def build(call: str) -> nn.Module:
    """The model of a row's ``baseline`` or ``target``, on the meta device."""
    with torch.device("meta"):
        return eval(call, dict(BUILDERS))


@cache
def twins(library: str) -> tuple[Twin, ...]:
    rows = json.loads((Path(__file__).parent / "data" / f"twins_{library}.json").read_text(encoding="utf-8"))
    return tuple(
        Twin(**{**row, "pin": tuple(row["pin"]), "pin_depth": tuple(row.get("pin_depth", ()))}) for row in rows
    )
