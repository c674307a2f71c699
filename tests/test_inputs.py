"""Nets with several inputs: sizes by order or by name, images that grow together, and vectors that stay."""

from __future__ import annotations

import json
from typing import Any

import hypothesis
import pytest
import torch
from checks import bad_gradients, meta_copy, scaled, tensors_in
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

import cnnscale
from cnnscale.cli import app
from cnnscale.formatting import size_text
from cnnscale.inputs import Inputs
from cnnscale.loading import load_weights, save

IMAGE = (3, 48, 48)


# --- the nets ---------------------------------------------------------------------------------------------------------


def layer(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = layer(width, width), nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.first(x))


def trunk(channels: int = 3, stride: int = 2) -> nn.Sequential:
    return nn.Sequential(layer(channels, 32, stride), Residual(32), Residual(32))


class Siamese(nn.Module):
    """Two images of one size go through the same layers."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.head = trunk(), nn.Linear(64, 10)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.head(torch.cat([self.trunk(left).mean((2, 3)), self.trunk(right).mean((2, 3))], 1))


class Refined(nn.Module):
    """What the two images share is called twice for each."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.refine = layer(3, 32, 2), nn.Sequential(Residual(32), Residual(32))
        self.stack, self.head = nn.Sequential(layer(32, 48), layer(48, 48), layer(48, 48)), nn.Linear(48, 10)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        x, y = (self.refine(self.refine(self.stem(image))) for image in (left, right))
        return self.head((self.stack(x) - self.stack(y)).mean((2, 3)))


class Flat(nn.Module):
    """Two images go through one row of layers."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.head = nn.Sequential(*layer(3, 32, 2), *layer(32, 32), *layer(32, 32)), nn.Linear(32, 10)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.head((self.features(left) * self.features(right)).mean((2, 3)))


class ImageAndVector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.other, self.head = trunk(), nn.Linear(7, 24), nn.Linear(56, 10)

    def forward(self, image: Tensor, meta: Tensor) -> Tensor:
        return self.head(torch.cat([self.trunk(image).mean((2, 3)), self.other(meta).relu()], 1))


class Masked(nn.Module):
    """A mask of one channel is multiplied with what the image has become."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stage, self.head = layer(3, 32), nn.Sequential(Residual(32), Residual(32)), nn.Linear(32, 10)
        self.map = nn.Conv2d(32, 2, 1)

    def forward(self, image: Tensor, mask: Tensor) -> dict[str, Any]:
        x = self.stage(self.stem(image) * mask)
        return {"classes": self.head(x.mean((2, 3))), "maps": [self.map(x), (mask, None)]}


class TwoSizes(nn.Module):
    """The second image is half as large, and the two must fit each other."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.near, self.join = trunk(), trunk(1, stride=1), layer(64, 64)
        self.stage, self.head = nn.Sequential(Residual(64), Residual(64)), nn.Linear(64, 10)

    def forward(self, wide: Tensor, near: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stage(self.join(torch.cat([self.wide(wide), self.near(near)], 1)))
        return self.head(x.mean((2, 3))), x.amax(1)


class Pair(nn.Module):
    """Images that need not fit each other; the second is named, and the last may be left out."""

    def __init__(self) -> None:
        super().__init__()
        self.colour, self.depth, self.extra = trunk(), trunk(1), nn.Linear(5, 32)
        self.head = nn.Linear(32, 10)

    def forward(self, colour: Tensor, twice: bool = False, *, depth: Tensor, extra: Tensor | None = None) -> Tensor:
        x = self.colour(colour).mean((2, 3)) + self.depth(depth).mean((2, 3))
        if extra is not None:
            x = x * self.extra(extra).sigmoid()
        return self.head(2 * x if twice else x)


class Frames(nn.Module):
    """As many images as there are."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.head = trunk(6), nn.Linear(32, 10)

    def forward(self, *frames: Tensor) -> Tensor:
        return self.head(self.trunk(torch.cat(frames, 1)).mean((2, 3)))


class Translator(nn.Module):
    """One of its modules takes what two others give."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.other, self.join = trunk(), nn.Linear(32, 6), Joined()

    def forward(self, image: Tensor) -> Tensor:
        x = self.trunk(image)
        return self.join(x, code=self.other(x.mean((2, 3))))


class Joined(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stage, self.code, self.head = (
            nn.Sequential(layer(32, 48), Residual(48)),
            nn.Linear(6, 48),
            nn.Linear(48, 4),
        )

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        return self.head(self.stage(x).mean((2, 3)) * self.code(code))


NETS: dict[str, tuple[Any, Any]] = {
    "siamese": (Siamese, [IMAGE, IMAGE]),
    "refined": (Refined, {"left": IMAGE, "right": IMAGE}),
    "flat": (Flat, [IMAGE, IMAGE]),
    "vector": (ImageAndVector, {"image": IMAGE, "meta": (7,)}),
    "mask": (Masked, {"mask": (1, 48, 48), "image": IMAGE}),
    "two_sizes": (TwoSizes, {"wide": (3, 64, 64), "near": (1, 32, 32)}),
    "keyword_only": (Pair, {"colour": (3, 48, 40), "depth": (1, 24, 36)}),  # the sides of no two agree
    "optional": (Pair, {"colour": IMAGE, "depth": (1, 48, 48), "extra": (5,)}),
    "frames": (Frames, [IMAGE, IMAGE]),
}


def build(name: str) -> tuple[nn.Module, Any]:
    make, size = NETS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = make()
    if isinstance(net, Pair) and "extra" not in size:
        del net.extra
    return net, size


def run(net: nn.Module, size: Any, batch: int = 2, device: str = "cpu") -> Any:
    """The outputs for one batch of random numbers, made here and not by cnnscale."""
    generator = torch.Generator().manual_seed(0)
    named = isinstance(size, dict)
    made = [torch.randn(batch, *s, generator=generator).to(device) for s in (size.values() if named else size)]
    return net(**dict(zip(size, made, strict=True))) if named else net(*made)


def macs(net: nn.Module, size: Any) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run(meta_copy(net).eval(), size, 1, "meta")
    return counter.get_total_flops() // 2


def shapes(output: Any) -> list[tuple[int, ...]]:
    return [tuple(t.shape) for t in tensors_in(output)]


# --- scaled -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phi", [1, -1])
@pytest.mark.parametrize("name", NETS)
def test_costs_what_is_planned_and_trains(name: str, phi: float):
    baseline, size = build(name)
    result, warned = scaled(baseline, phi, input_size=size, seed=0)
    plan = result.scaling.plan
    assert not warned
    assert (type(result), result.scaling.form) == (type(baseline), "module")
    assert type(result.scaling.input_size) is (dict if isinstance(size, dict) else tuple)
    assert result.scaling.input_size == plan.input_size
    assert (macs(baseline, size), macs(result, plan.input_size)) == (plan.before.macs, plan.after.macs)
    assert cnnscale.measure(result, plan.input_size) == plan.after
    assert abs(result.scaling.verification.growth / 2**phi - 1) < 0.03
    assert result.scaling.verification.thop_growth == pytest.approx(plan.growth)
    sum(t.square().mean() for t in tensors_in(run(result.train(), plan.input_size)) if t.requires_grad).backward()
    assert not bad_gradients(result)


@pytest.mark.parametrize("name", NETS)
def test_images_grow_together_and_all_else_stays(name: str):
    baseline, size = build(name)
    plan = cnnscale.plan(baseline, resolution=1.25, input_size=size)
    before, after = (list(s.values()) if isinstance(s, dict) else s for s in (size, plan.input_size))
    for old, new in zip(before, after, strict=True):
        assert new[0] == old[0]
        assert new[1:] == tuple(round(1.25 * side) for side in old[1:])
    if isinstance(size, dict):
        assert list(plan.input_size) == list(size)
    assert (2, 10) in shapes(run(cnnscale.apply(baseline, plan).eval(), plan.input_size))


@pytest.mark.parametrize("name", NETS)
def test_every_weight_grows(name: str):
    baseline, size = build(name)
    result, _ = scaled(baseline, width=1.5, input_size=size)
    before = dict(baseline.named_parameters())
    assert not [n for n, p in result.named_parameters() if p.ndim > 1 and p.shape == before[n].shape]
    assert shapes(run(result.eval(), size)) == shapes(run(baseline.eval(), size))


@pytest.mark.parametrize("name", ["siamese", "refined", "flat"])
def test_blocks_of_what_is_called_several_times_repeat(name: str):
    baseline, size = build(name)
    result, _ = scaled(baseline, depth=2, input_size=size)
    wanted = {"siamese": {"trunk": 2}, "refined": {"refine": 2, "stack": 3}, "flat": {"features": 3 * 3}}[name]
    added = {path: len(getattr(result, path)) - len(getattr(baseline, path)) for path in wanted}
    assert added == wanted
    assert macs(result, size) == result.scaling.plan.after.macs
    less, _ = scaled(baseline, depth=0.5, input_size=size)
    assert macs(less, size) == less.scaling.plan.after.macs < macs(baseline, size)


def test_unlike_sides_keep_fitting_each_other():
    baseline, size = build("two_sizes")
    for resolution in (
        1.03,
        1.1,
        1.17,
        1.3,
        0.9,
    ):  # 66, 70, 75, 83 and 58: an odd side's half is rounded up by a stride
        new = cnnscale.plan(baseline, resolution=resolution, input_size=size).input_size
        assert [-(-side // 2) for side in new["wide"][1:]] == list(new["near"][1:])
        assert abs(new["wide"][1] / 64 - resolution) < 0.03


@pytest.mark.parametrize("name", NETS)
def test_a_plan_is_carried_out_again(name: str):
    baseline, size = build(name)
    result, _ = scaled(baseline, 1, input_size=size, seed=0)
    plan = cnnscale.Plan.from_json(result.scaling.plan.to_json())
    assert plan == result.scaling.plan
    again = cnnscale.apply(baseline, plan, seed=0)
    assert all(a.equal(b) for a, b in zip(result.state_dict().values(), again.state_dict().values(), strict=True))
    assert size_text(plan.input_size) in str(plan)
    assert cnnscale.verify(baseline, again).ok
    twice = cnnscale.plan(result, width=0.5)  # the size is on record
    assert twice.baseline_size == plan.input_size


def test_a_plan_of_one_input_is_written_as_ever():
    plan = cnnscale.plan(nn.Sequential(trunk(), nn.Flatten(), nn.Linear(32 * 24 * 24, 10)), 1, input_size=list(IMAGE))
    assert json.loads(plan.to_json())["baseline_size"] == [3, 48, 48]
    assert (plan.baseline_size, type(plan.input_size[0])) == (IMAGE, int)


def test_a_sequence_names_the_first_arguments():
    baseline, size = build("vector")
    by_name = cnnscale.plan(baseline, 1, input_size=size)
    in_order = cnnscale.plan(baseline, 1, input_size=list(size.values()))
    assert in_order.input_size == tuple(by_name.input_size.values())
    assert (in_order.widths, in_order.stages, in_order.after) == (by_name.widths, by_name.stages, by_name.after)


def test_the_identity_is_the_baseline():
    for name in NETS:
        baseline, size = build(name)
        same, _ = scaled(baseline, 0, input_size=size)
        both = zip(*(tensors_in(run(net.eval(), size)) for net in (baseline, same)), strict=True)
        assert all(a.equal(b) for a, b in both)


def test_image_size_is_that_of_the_largest():
    baseline, size = build("keyword_only")
    plan = cnnscale.plan(baseline, image_size=(96, 60), input_size=size)
    assert plan.input_size == {"colour": (3, 96, 60), "depth": (1, 48, 54)}
    assert max(cnnscale.plan(baseline, 3, max_image_size=50, input_size=size).input_size["colour"]) <= 50


@pytest.mark.parametrize("name", NETS)
def test_a_function_is_preserved(name: str):
    baseline, size = build(name)
    result, _ = scaled(baseline, width=1.5, depth=2, input_size=size, weights="preserve")
    assert result.scaling.preservation.exact
    both = zip(*(tensors_in(run(net.eval(), size)) for net in (result, baseline)), strict=True)
    for found, wanted in both:
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["vector", "keyword_only", "frames"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_files(name: str, tmp_path):
    baseline, size = build(name)
    result, _ = scaled(baseline, width=1.25, resolution=1.25, input_size=size, seed=0)
    result.eval()
    save(result, tmp_path, exports=("torch",))
    again = cnnscale.apply(baseline, cnnscale.Plan.from_json(tmp_path / "plan.json")).eval()
    load_weights(again, tmp_path / "model.safetensors")
    names: dict[str, Any] = {"__name__": "model"}
    exec((tmp_path / "model.py").read_text(), names)
    assert names["INPUT_SIZE"] == result.scaling.input_size
    exported = torch.export.load(tmp_path / "model.pt2").module()
    for net in (again, names["build"](str(tmp_path / "model.safetensors")).eval(), exported):
        torch.testing.assert_close(run(net, names["INPUT_SIZE"], 3), run(result, names["INPUT_SIZE"], 3))


def test_onnx(tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    result, _ = scaled(*build("vector")[:1], width=1.25, input_size=build("vector")[1], seed=0)
    save(result, tmp_path, exports=("onnx",))
    taken = runtime.InferenceSession(tmp_path / "model.onnx").get_inputs()
    assert [each.name for each in taken] == ["image", "meta"]


def test_a_measured_budget():
    baseline, size = build("vector")
    plan = cnnscale.plan(baseline, peak_memory_bytes=2_000_000, input_size=size, device="cpu", tolerance=0.3)
    assert plan.measured.peak_memory_bytes == pytest.approx(2_000_000, rel=0.3)


def test_what_a_submodule_gets_is_seen_in_the_whole():
    net = Translator()
    plan = cnnscale.plan(net, width=1.5, submodule="join")
    assert plan.baseline_size == {"x": (32, 112, 112), "code": (6,)}
    result = cnnscale.apply(net, plan).eval()
    assert result(torch.zeros(2, 3, 32, 32)).shape == (2, 4)


class Declared(ImageAndVector):
    default_cfg = {"input_size": {"image": (3, 32, 32), "meta": (7,)}}  # noqa: RUF012  # a convention of others


def test_from_the_command_line(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    (tmp_path / "net.py").write_text("from test_inputs import Declared, ImageAndVector, Siamese\n")

    def cli(*args: str, code: int = 0) -> str:
        result = CliRunner().invoke(app, list(args))
        assert result.exit_code == code, result.output
        return result.output

    def planned(net: str, *sizes: str) -> cnnscale.Plan:
        options = [word for size in sizes for word in ("--input-size", size)]
        return cnnscale.Plan.from_json(cli("plan", f"{tmp_path}/net.py:{net}", "--phi", "1", "--json", *options))

    named = planned("ImageAndVector", "image=3x32x32", "meta=7")
    assert named.baseline_size == Declared.default_cfg["input_size"]
    assert planned("Declared").input_size == named.input_size
    assert planned("Siamese", "3x32x32", "3x32x32").baseline_size == ((3, 32, 32),) * 2
    text = cli("plan", f"{tmp_path}/net.py:Declared", "--phi", "1")
    assert f"input image=3x32x32 meta=7 -> {size_text(named.input_size)}" in text
    assert "name for each" in cli(
        "plan", f"{tmp_path}/net.py:Declared", "--input-size", "3x8x8", "--input-size", "meta=7", code=2
    )
    quick = ("--batch-size", "2", "--min-time", "0.001", "--time-limit", "0.2", "--device", "cpu", "--threads", "1")
    for mode in ("infer", "train"):
        text = cli("bench", f"{tmp_path}/net.py:Declared", "--phi", "1", "--csv", "--mode", mode, *quick)
        assert "image=3x32x32 meta=7" in text


# --- refused ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "size", "error", "told"),
    [
        (Siamese, None, cnnscale.ModelError, '2 inputs (left, right).*{"left": (3, 224, 224), "right": (C, H, W)}'),
        (Siamese, {"right": IMAGE}, cnnscale.ModelError, '{"left": (C, H, W), "right": (3, 48, 48)}'),
        (Pair, [IMAGE], cnnscale.ModelError, '{"colour": (3, 48, 48), "depth": (C, H, W)}'),
        (Pair, {"colour": IMAGE, "depth": (1, 48, 48)}, cnnscale.ModelError, '"extra": (C, H, W)'),
        (Siamese, {"left": IMAGE, "rigth": IMAGE}, cnnscale.UsageError, "no argument 'rigth'; it takes left, right"),
        (Siamese, [IMAGE] * 3, cnnscale.UsageError, "takes left, right, and input_size holds 3 sizes"),
        (Siamese, {"left": IMAGE, "right": 48}, cnnscale.UsageError, "mapping from the names"),
        (Siamese, {"left": IMAGE, "right": (3, 0, 48)}, cnnscale.UsageError, "all positive ints"),
        (Siamese, [], cnnscale.UsageError, "input_size must be"),
        (Siamese, {}, cnnscale.UsageError, "input_size must be"),
        (ImageAndVector, [IMAGE, (8,)], cnnscale.ModelError, "does not run at input_size ((3, 48, 48), (8,))"),
    ],
)
def test_refused_with_what_to_pass(make, size, error, told):
    with pytest.raises(error) as caught:
        cnnscale.plan(make(), 1, input_size=size)
    at = 0
    for part in told.split(".*"):
        at = str(caught.value).index(part, at)


def test_measure_takes_what_scale_takes():
    net = ImageAndVector()
    assert cnnscale.measure(net, [[3, 48, 48], [7]]) == cnnscale.measure(net, {"meta": (7,), "image": IMAGE})
    with pytest.raises(cnnscale.UsageError, match="input_size must be"):
        cnnscale.measure(net, "3x48x48")
    with pytest.raises(cnnscale.ModelError, match="does not run"):
        cnnscale.measure(net, IMAGE)


# --- sizes by themselves ----------------------------------------------------------------------------------------------


def test_rows_of_numbers_stay_beside_images_only():
    assert Inputs.of(((3, 8, 8), (16, 20))).at((12, 12)).input_size == ((3, 12, 12), (16, 20))
    assert Inputs.of(((2, 100), (3, 50))).at((120,)).input_size == ((2, 120), (3, 60))
    assert Inputs.of({"clip": (3, 4, 16, 16), "frame": (3, 32, 32)}).at((5, 20, 20)).input_size == {
        "clip": (3, 5, 20, 20),
        "frame": (3, 40, 40),
    }
    assert Inputs.of(((3, 1, 64), (1, 1, 16))).at((1, 96)).input_size == ((3, 1, 96), (1, 1, 24))
    assert Inputs.of((100,)).at(()).input_size == (100,)


sizes = st.lists(st.integers(1, 300), min_size=1, max_size=4).map(tuple)


@hypothesis.given(
    st.one_of(
        sizes,
        st.lists(sizes, min_size=1, max_size=4).map(tuple),
        st.dictionaries(st.text(min_size=1), sizes, min_size=1),
    )
)
def test_sizes_come_back_as_they_were_given(given):
    inputs = Inputs.of(given)
    assert inputs.input_size == given
    assert inputs.at(inputs.sides) == inputs
    assert Inputs.of(inputs.at(tuple(2 * side for side in inputs.sides)).input_size).names == inputs.names
