"""``submodule=``: a part is scaled inside its whole, and what stands around it still fits."""

from __future__ import annotations

import pytest
import torch
import torchvision
from checks import model_state, scaled
from torch import nn
from typer.testing import CliRunner

import cnnscale
from cnnscale.cli import app


def conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    layer = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU())


class Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 16, 2)
        self.layer1 = nn.Sequential(*(conv(16, 16) for _ in range(3)))
        self.layer2 = nn.Sequential(conv(16, 32, 2), *(conv(32, 32) for _ in range(2)))

    def forward(self, x):
        low = self.layer1(self.stem(x))
        return {"low": low, "high": self.layer2(low)}


class Detector(nn.Module):
    """Finds as many places as the image has bright spots: control flow that depends on data."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.head = nn.Conv2d(32, 5, 1)

    def forward(self, x):
        scores = self.head(self.backbone(x)["high"])
        return [score[score > score.mean()] for score in scores if float(score.detach().amax()) > -1e9]


class Segmenter(nn.Module):
    """One input, one way through: it traces as a whole."""

    def __init__(self, *, inside: bool = False, shared: bool = False) -> None:
        super().__init__()
        self.stem = conv(3, 3)
        self.backbone = Backbone()
        self.head = nn.Conv2d(48, 4, 1)
        self.inside = inside
        self.again = self.backbone.layer2[0] if shared else None

    def forward(self, x):
        x = self.stem(x)
        if self.inside:
            low = self.backbone.layer1(self.backbone.stem(x))
            maps = {"low": low, "high": self.backbone.layer2(low)}
        else:
            maps = self.backbone(x)
        high = nn.functional.interpolate(maps["high"], maps["low"].shape[2:])
        return self.head(torch.cat([maps["low"], high], 1))


def test_the_whole_keeps_its_class_and_all_that_stands_around():
    net = Detector().eval()
    before = model_state(net)
    result, _ = scaled(net, 1, submodule="backbone", input_size=(3, 64, 64), seed=0)
    assert model_state(net) == before
    assert type(result) is Detector
    assert type(result.backbone) is Backbone
    assert list(result.state_dict())[:3] == list(net.state_dict())[:3]
    assert result.head.weight.equal(net.head.weight)
    assert not hasattr(result.backbone, "scaling")
    assert result.scaling.verification.ok
    assert any("not traced" in note for note in result.scaling.verification.notes)
    assert sum(p.numel() for p in result.parameters()) > 1.2 * sum(p.numel() for p in net.parameters())
    maps = result.backbone(torch.rand(1, *result.scaling.input_size))
    assert [m.shape[1] for m in maps.values()] == [16, 32]
    assert len(result(torch.rand(2, 3, 80, 80))) == 2
    assert cnnscale.verify(net, result).ok


def test_the_input_size_is_what_the_whole_hands_to_its_part():
    with torch.device("meta"):
        net = Segmenter()
    plan = cnnscale.plan(net, 1, submodule="backbone.layer2", fit=False)
    assert plan.baseline_size == (16, 112, 112)
    assert cnnscale.plan(net, depth=2, submodule="head").baseline_size == (48, 112, 112)


def test_a_plan_knows_its_part():
    net = Segmenter()
    result, _ = scaled(net, width=2, submodule="backbone", seed=0)
    plan = cnnscale.Plan.from_json(result.scaling.plan.to_json())
    assert plan.options.submodule == "backbone"
    assert "at 'backbone'" in str(plan)
    again = cnnscale.apply(net, plan, seed=0)
    assert all(a.equal(b) for a, b in zip(result.state_dict().values(), again.state_dict().values(), strict=True))
    twice, _ = scaled(result, width=0.5, submodule="backbone")
    assert twice.backbone.layer1[0][0].weight.shape == net.backbone.layer1[0][0].weight.shape
    with pytest.raises(cnnscale.UsageError, match="backbone"):
        cnnscale.apply(net.backbone, plan)


@pytest.mark.parametrize(
    ("net", "path", "named"),
    [
        (Segmenter(inside=True), "backbone", ("backbone.stem.0", "node ")),
        (Segmenter(shared=True), "backbone", ("backbone.layer2.0", "again")),
        (Segmenter(), "neck", ("neck", "backbone")),
        (Segmenter(), "", ("backbone",)),
        (Segmenter(inside=True), "backbone.layer1", ()),
    ],
    ids=["inside", "shared", "unknown", "empty", "fine"],
)
def test_what_cannot_be_taken_apart_is_refused_with_both_ends(net, path, named):
    if not named:
        assert cnnscale.plan(net, 1, submodule=path, fit=False).widths
        return
    with pytest.raises(cnnscale.UsageError) as caught:
        cnnscale.scale(net, 1, submodule=path)
    assert all(name in str(caught.value) for name in named)


def test_a_published_detector():
    with torch.device("meta"):
        build = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn
        net = build(weights=None, weights_backbone=None, num_classes=5)
    result, _ = scaled(net, 1, submodule="backbone", input_size=(3, 320, 320))
    assert type(result) is type(net)
    assert result.scaling.form == "module"
    assert abs(result.scaling.verification.growth / 2 - 1) < 0.03
    assert result.roi_heads.box_predictor.cls_score.out_features == 5
    maps = result.backbone(torch.empty(1, *result.scaling.input_size, device="meta"))
    assert {m.shape[1] for m in maps.values()} == {net.backbone.out_channels}


def test_from_the_command_line(tmp_path):
    (tmp_path / "net.py").write_text("from test_submodule import Segmenter as build\n")
    result = CliRunner().invoke(
        app, ["plan", f"{tmp_path / 'net.py'}:build", "--phi", "1", "--submodule", "backbone", "--json"]
    )
    assert result.exit_code == 0, result.output
    plan = cnnscale.Plan.from_json(result.stdout)
    assert plan.options.submodule == "backbone"
    assert {width.name.split(".")[0] for width in plan.widths} <= {"stem", "layer1", "layer2"}
