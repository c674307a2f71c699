"""Kinds of networks other than image classifiers: each is scaled as its plan says, or refused by name.

Scaled means here: the planned cost is the one counted anew, every weight follows the width that its plan names, the
outputs have the shapes that they should, and a training step reaches every parameter.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from checks import bad_gradients, changed_bounds, count, meta_copy, planned, scaled, tensors_in, train_step
from torch import Tensor, nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm
from torchvision.models import detection, quantization, segmentation, video

import cnnscale

IMAGE = (3, 64, 64)


# --- the nets ---------------------------------------------------------------------------------------------------------


def layer(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = layer(width, width), nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.first(x))


def trunk() -> nn.Sequential:
    return nn.Sequential(layer(3, 32, 2), Residual(32), Residual(32))


class Signal(nn.Module):
    """A 1-D CNN."""

    def __init__(self) -> None:
        super().__init__()
        pairs = [(2, 32, 2), (32, 32, 1), (32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 64, 1)]
        layers = [
            nn.Sequential(nn.Conv1d(i, o, 7, s, 3, bias=False), nn.BatchNorm1d(o), nn.ReLU()) for i, o, s in pairs
        ]
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean(2))


class Outputs(nn.Module):
    """Classes and a map, returned in one of several ways."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.trunk, self.deep = trunk(), nn.Sequential(layer(32, 64, 2), Residual(64))
        self.classes, self.map = nn.Linear(64, 10), nn.Conv2d(32, 4, 1)

    def forward(self, x: Tensor) -> object:
        x = self.trunk(x)
        classes, image = self.classes(self.deep(x).mean((2, 3))), self.map(x)
        if self.way == "nested":
            return {"classes": classes, "maps": [image, (image.relu(), classes)], "none": None}
        return {"classes": classes, "map": image} if self.way == "dict" else (classes, image)


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()

        def twice(inputs: int, outputs: int) -> nn.Sequential:
            return nn.Sequential(*layer(inputs, outputs), *layer(outputs, outputs))

        self.down1, self.down2, self.bottom = twice(3, 32), twice(32, 64), twice(64, 128)
        self.pool = nn.MaxPool2d(2)
        self.up2, self.join2 = nn.ConvTranspose2d(128, 64, 2, 2), twice(128, 64)
        self.up1, self.join1 = nn.ConvTranspose2d(64, 32, 2, 2), twice(64, 32)
        self.out = nn.Conv2d(32, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.down1(x)
        two = self.down2(self.pool(one))
        x = self.bottom(self.pool(two))
        x = self.join2(torch.cat([self.up2(x), two], 1))
        return self.out(self.join1(torch.cat([self.up1(x), one], 1)))


class Generator(nn.Module):
    """DCGAN: a latent code, as (C, 1, 1) or as a vector (C,), becomes an image."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs, stride, padding in [(100, 256, 1, 0), (256, 128, 2, 1), (128, 64, 2, 1), (64, 32, 2, 1)]:
            layers += [nn.ConvTranspose2d(inputs, outputs, 4, stride, padding, bias=False)]
            layers += [nn.BatchNorm2d(outputs), nn.ReLU()]
        self.main = nn.Sequential(*layers, nn.ConvTranspose2d(32, 3, 4, 2, 1, bias=False), nn.Tanh())

    def forward(self, code: Tensor) -> Tensor:
        return self.main(code if code.dim() == 4 else code[:, :, None, None])


class Projected(nn.Module):
    """A generator whose code goes through a linear layer, and whose forward holds its width."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(64, 128 * 4 * 4)
        self.up = nn.Sequential(nn.Upsample(scale_factor=2), layer(128, 64), nn.Upsample(scale_factor=2), layer(64, 32))
        self.out = nn.Conv2d(32, 3, 3, padding=1)

    def forward(self, code: Tensor) -> Tensor:
        return self.out(self.up(self.project(code).view(-1, 128, 4, 4)))


class SuperResolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head, self.body = nn.Conv2d(3, 64, 3, padding=1), nn.Sequential(*(Residual(64) for _ in range(4)))
        self.up, self.tail = nn.Sequential(nn.Conv2d(64, 256, 3, padding=1), nn.PixelShuffle(2)), nn.Conv2d(64, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(x)
        return self.tail(self.up(x + self.body(x)))


class Normed(nn.Module):
    """Convolutions and a linear layer whose weights are normalised by ``norm``."""

    class Block(nn.Module):
        def __init__(self, norm) -> None:
            super().__init__()
            self.first, self.second = (norm(nn.Conv2d(32, 32, 3, padding=1)) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.second(F.relu(self.first(x)))

    def __init__(self, norm) -> None:
        super().__init__()
        self.stem, self.head = norm(nn.Conv2d(3, 32, 3, 2, 1)), norm(nn.Linear(32, 10))
        self.depthwise = norm(nn.Conv2d(32, 32, 3, padding=1, groups=32))
        self.blocks = nn.Sequential(self.Block(norm), self.Block(norm))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.depthwise(self.stem(x))).mean((2, 3)))


def lazy() -> nn.Module:
    return nn.Sequential(
        *(nn.LazyConv2d(32, 3, 2, 1), nn.LazyBatchNorm2d(), nn.ReLU(), nn.LazyConv2d(64, 3), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(10)),
    )


def lazy_after_a_run() -> nn.Module:
    model = lazy()
    with torch.random.fork_rng(devices=[]):
        model(torch.zeros(2, *IMAGE))
    return model


class Attending(nn.Module):
    """A CNN with an attention over its pixels. ``masked`` gives it a mask."""

    def __init__(self, *, batch_first: bool = True, need_weights: bool = False, masked: bool = False) -> None:
        super().__init__()
        self.need_weights, self.masked = need_weights, masked
        self.trunk, self.norm = nn.Sequential(trunk(), layer(32, 64, 2)), nn.LayerNorm(64)
        self.attention, self.head = nn.MultiheadAttention(64, 4, batch_first=batch_first), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        pixels = self.trunk(x).flatten(2)
        pixels = pixels.permute((0, 2, 1) if self.attention.batch_first else (2, 0, 1))
        q = self.norm(pixels)
        mask = torch.zeros(len(q[0]), len(q[0]), device=x.device) if self.masked else None
        y, _ = self.attention(q, q, q, need_weights=self.need_weights, attn_mask=mask)
        return self.head((pixels + y).mean(1 if self.attention.batch_first else 0))


class Mixture(nn.Module):
    """CondConv: each image's kernel is a mixture of ``experts``; the batch is folded into groups."""

    def __init__(self, way: str, experts: int = 4) -> None:
        super().__init__()
        self.way, self.inputs, self.outputs = way, 32, 64
        self.route = nn.Linear(32, experts)
        weight = torch.randn(experts, 64, 32, 3, 3) / 17
        self.weight = nn.Parameter(weight.flatten(1) if way == "flat" else weight)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        route = self.route(x.mean((2, 3))).sigmoid()
        if self.way == "einsum":
            kernel = torch.einsum("ne,eoikl->noikl", route, self.weight)
        elif self.way == "sum":
            kernel = (route[:, :, None, None, None, None] * self.weight[None]).sum(1)
        else:
            kernel = route @ self.weight.view(self.weight.shape[0], -1)
        kernel = kernel.reshape(n * self.outputs, self.inputs, 3, 3)
        return F.conv2d(x.reshape(1, n * c, h, w), kernel, padding=1, groups=n).view(n, self.outputs, h, w)


class Filter(nn.Module):
    """A depthwise convolution of each image with kernels computed from it."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels = nn.Linear(32, 32 * 9)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        kernels = self.kernels(x.mean((2, 3))).view(n * c, 1, 3, 3)
        return F.conv2d(x.reshape(1, n * c, h, w), kernels, padding=1, groups=n * c).view(n, c, h, w)


def dynamic(middle: nn.Module, width: int) -> nn.Module:
    return nn.Sequential(
        *(trunk(), middle, nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        nn.Linear(width, 10),
    )


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.other, self.head = trunk(), nn.Linear(7, 32), nn.Linear(32, 10)

    def forward(self, image: Tensor, vector: Tensor) -> Tensor:
        return self.head(self.trunk(image).mean((2, 3)) + self.other(vector))


class OneInput(nn.Module):
    """``TwoInputs`` for an image alone: how a net with several inputs is scaled."""

    def __init__(self) -> None:
        super().__init__()
        self.net = TwoInputs()

    def forward(self, image: Tensor) -> Tensor:
        return self.net(image, image.new_zeros(image.shape[0], 7))


class TwoImages(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.colour, self.depth = trunk(), nn.Sequential(layer(1, 32, 2), Residual(32))
        self.join, self.head = layer(64, 64), nn.Linear(64, 10)

    def forward(self, colour: Tensor, depth: Tensor) -> Tensor:
        return self.head(self.join(torch.cat([self.colour(colour), self.depth(depth)], 1)).mean((2, 3)))


class Stacked(nn.Module):
    """``TwoImages`` for one image of four channels."""

    def __init__(self) -> None:
        super().__init__()
        self.net = TwoImages()

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images[:, :3], images[:, 3:])


class Optional(nn.Module):
    """An optional input, with or without parameters that only it reaches."""

    def __init__(self, *, weighted: bool) -> None:
        super().__init__()
        self.trunk, self.head = trunk(), nn.Linear(32, 10)
        self.other = nn.Linear(7, 32) if weighted else None

    def forward(self, image: Tensor, extra: Tensor | None = None, *more: Tensor, double: bool = False) -> Tensor:
        x = self.trunk(image).mean((2, 3))
        if extra is not None:
            x = x + (extra if self.other is None else self.other(extra))
        for each in more:
            x = x + each
        return self.head(x * 2 if double else x)


class Centred(nn.Module):
    """A parametrisation of a user's own: each output channel's kernel has mean 0."""

    def forward(self, weight: Tensor) -> Tensor:
        flat = weight.reshape(weight.shape[0], -1)
        return (flat - flat.mean(1, keepdim=True)).view(weight.shape)


def centred(module: nn.Module) -> nn.Module:
    nn.utils.parametrize.register_parametrization(module, "weight", Centred())
    return module


NETS = {
    "centred": (lambda: Normed(centred), IMAGE),
    "signal": (Signal, (2, 256)),
    "dict": (lambda: Outputs("dict"), IMAGE),
    "tuple": (lambda: Outputs("tuple"), IMAGE),
    "nested": (lambda: Outputs("nested"), IMAGE),
    "unet": (UNet, IMAGE),
    "generator": (Generator, (100, 1, 1)),
    "generator_of_vectors": (Generator, (100,)),
    "projected": (Projected, (64,)),
    "super_resolution": (SuperResolution, (3, 32, 32)),
    "weight_norm": (lambda: Normed(parametrizations.weight_norm), IMAGE),
    "spectral_norm": (lambda: Normed(parametrizations.spectral_norm), IMAGE),
    "lazy_after_a_run": (lazy_after_a_run, IMAGE),
    "attention": (Attending, IMAGE),
    "attention_sequence_first": (lambda: Attending(batch_first=False), IMAGE),
    "attention_weights": (lambda: Attending(need_weights=True), IMAGE),
    "mixture": (lambda: dynamic(Mixture("matmul"), 64), IMAGE),
    "mixture_sum": (lambda: dynamic(Mixture("sum"), 64), IMAGE),
    "mixture_flat": (lambda: dynamic(Mixture("flat"), 64), IMAGE),
    "mixture_einsum": (lambda: dynamic(Mixture("einsum"), 64), IMAGE),
    "filter": (lambda: dynamic(Filter(), 32), IMAGE),
    "optional": (lambda: Optional(weighted=False), IMAGE),
    "image_and_vector": (OneInput, IMAGE),
    "two_images": (Stacked, (4, 64, 64)),
}
GRAPHS = {"projected"}
"""Nets whose forward holds a width as a number: their class cannot be scaled, the graph can."""
OUTPUTS = {
    "signal": lambda size: [(2, 5)],
    "unet": lambda size: [(2, 2, *size[1:])],
    "generator": lambda size: [(2, 3, 64, 64)],
    "generator_of_vectors": lambda size: [(2, 3, 64, 64)],
    "projected": lambda size: [(2, 3, 16, 16)],
    "super_resolution": lambda size: [(2, 3, 2 * size[1], 2 * size[2])],
    "dict": lambda size: [(2, 10), _half(size)],
    "tuple": lambda size: [(2, 10), _half(size)],
    "nested": lambda size: [(2, 10), _half(size), _half(size), (2, 10)],
}
"""Shapes of the outputs for a batch of two; classes where a net is not listed."""


def _half(size: tuple[int, ...]) -> tuple[int, ...]:
    return (2, 4, *((side + 1) // 2 for side in size[1:]))


def build(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    make, size = NETS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make(), size


def agrees(baseline: nn.Module, result: nn.Module) -> None:
    """The cost counted anew is the planned one; every weight without a partner in the baseline counts as changed."""
    scaling = result.scaling
    after = scaling.plan.after
    assert count(result, scaling.input_size) == (after.macs, after.params, after.activations)
    assert scaling.verification.changed >= changed_bounds(baseline, result)[0] - 1e-9


# --- scaled -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phi", [1, -1])
@pytest.mark.parametrize("name", NETS)
def test_costs_what_is_planned_and_trains(name, phi):
    baseline, size = build(name)
    result, _ = scaled(baseline, phi, input_size=size, seed=0)
    agrees(baseline, result)
    assert result.scaling.form == ("graph" if name in GRAPHS else "module")
    assert 0.8 < result.scaling.verification.growth / 2**phi < 1.1
    scaled_size = result.scaling.input_size
    expected = OUTPUTS.get(name, lambda size: [(2, 10)])(scaled_size)
    assert train_step(result, scaled_size) == expected
    assert not bad_gradients(result)
    result.eval()
    for batch in (1, 3):
        images = torch.randn(batch, *scaled_size, generator=torch.Generator().manual_seed(0))
        assert all(t.shape[0] == batch and t.isfinite().all() for t in tensors_in(result(images)))


@pytest.mark.parametrize("name", NETS)
def test_every_weight_follows_the_width_of_its_plan(name):
    baseline, size = build(name)
    result, _ = scaled(baseline, width=1.5, input_size=size, seed=0)
    agrees(baseline, result)
    before = dict(baseline.named_parameters())
    same = {name for name, p in result.named_parameters() if p.ndim > 1 and p.shape == before[name].shape}
    assert same == ({"head.parametrizations.weight.original0"} if name == "weight_norm" else set())
    modules, originals = dict(result.named_modules()), dict(baseline.named_modules())
    checked = 0
    for width in result.scaling.plan.widths:
        assert width.after > width.before
        for module, original in ((modules[p], originals[p]) for p in width.layers if hasattr(modules.get(p), "bias")):
            outputs = module.weight.shape[isinstance(module, nn.ConvTranspose2d)]
            assert outputs in (getattr(module, "out_channels", None), getattr(module, "out_features", None))
            assert outputs * width.before == original.weight.shape[isinstance(module, nn.ConvTranspose2d)] * width.after
            checked += 1
    assert checked


@pytest.mark.parametrize("name", ["weight_norm", "spectral_norm"])
def test_a_parametrised_layer_stays_one(name):
    baseline, size = build(name)
    result, _ = scaled(baseline, 2, input_size=size, seed=0)
    stem, depthwise = result.stem, result.depthwise
    assert torch.nn.utils.parametrize.is_parametrized(stem, "weight")
    assert stem.out_channels == stem.weight.shape[0] == depthwise.groups == depthwise.in_channels > 32
    assert result.head.in_features == result.head.weight.shape[1] == stem.out_channels
    assert len(result.blocks) > len(baseline.blocks)


@pytest.mark.parametrize("size", [(100, 1, 1), (100,)])
def test_a_latent_code_has_no_resolution(size):
    plan = planned(Generator(), 1, input_size=size)
    assert plan.input_size == size
    assert plan.achieved.resolution == 1
    assert plan.achieved.width > 1.4
    assert any(fixed.what == "resolution" and "no sides" in fixed.why for fixed in plan.fixed)


def test_one_row_of_samples_stays_one():
    net = nn.Sequential(nn.Conv2d(1, 32, (1, 9)), nn.ReLU(), nn.Conv2d(32, 32, (1, 9)), nn.ReLU(), nn.Conv2d(32, 4, 1))
    rows, samples = planned(net, 1, input_size=(1, 1, 256)).input_size[1:]
    assert rows == 1
    assert samples > 256


def test_heads_of_attention_stay_and_grow_wider():
    baseline, size = build("attention")
    result, _ = scaled(baseline, width=1.5, input_size=size, seed=0)
    attention = result.attention
    assert (attention.num_heads, attention.embed_dim, attention.head_dim) == (4, 96, 24)
    assert attention.in_proj_weight.shape == (288, 96)
    assert (attention.kdim, attention.vdim, attention.out_proj.in_features) == (96, 96, 96)


def test_a_mixture_is_still_one_kernel_per_image():
    baseline, size = build("mixture")
    result, _ = scaled(baseline, width=1.5, input_size=size, seed=0)
    assert (result[1].inputs, result[1].outputs) == (48, 96)
    assert result[1].weight.shape[1:] == (96, 48, 3, 3)
    images = torch.randn(3, *size, generator=torch.Generator().manual_seed(0))
    result.eval()
    one_by_one = torch.cat([result(image[None]) for image in images])
    torch.testing.assert_close(result(images), one_by_one)


def test_experts_of_a_mixture_are_a_width_that_can_be_pinned():
    baseline, size = build("mixture")
    plan = planned(baseline, width=1.5, input_size=size, pin=("1.route",))
    assert next(width for width in plan.widths if width.name == "1.route").after == 4


def test_nets_of_several_inputs_are_scaled_through_a_wrapper():
    for name, others in {"image_and_vector": (7,), "two_images": None}.items():
        baseline, size = build(name)
        result, _ = scaled(baseline, 1, input_size=size, seed=0)
        sides = result.scaling.input_size[1:]
        net = result.net.eval()
        assert type(net) is type(baseline.net)
        assert net(torch.zeros(2, 3, *sides), torch.zeros(2, *(others or (1, *sides)))).shape == (2, 10)


def test_an_optional_input_is_left_out_and_still_works():
    baseline, size = build("optional")
    result, _ = scaled(baseline, 1, input_size=size, seed=0)
    result.eval()
    images = torch.randn(2, *result.scaling.input_size, generator=torch.Generator().manual_seed(0))
    nothing = torch.zeros(2, result.head.in_features)
    assert result(images, nothing, nothing).equal(result(images))
    assert not result(images, nothing + 1).equal(result(images))
    assert not result(images, double=True).equal(result(images))


@pytest.mark.parametrize("options", [{"phi": 1}, {"width": 2.0}], ids=str)
def test_a_net_none_of_whose_widths_can_move_is_refused(options):
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)
            self.order = torch.arange(8)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x)[:, self.order])

    with pytest.raises(cnnscale.WidthError, match=r"no width .* can change.*indexed by a tensor"):
        cnnscale.plan(Fixed(), **options, input_size=IMAGE)
    assert cnnscale.plan(Fixed(), resolution=2.0, input_size=IMAGE).input_size == (3, 128, 128)


# --- refused ----------------------------------------------------------------------------------------------------------


def scripted() -> nn.Module:
    return nn.Sequential(layer(3, 32, 2), torch.jit.script(Residual(32)))


REFUSED = {
    "lazy": (lazy, cnnscale.ModelError, "'0.weight'.*run it once"),
    "scripted": (scripted, cnnscale.TraceError, "module 1 is scripted"),
    "hooked_weight_norm": (
        lambda: Normed(weight_norm), cnnscale.UnsupportedOpError, "weight of node 'stem'.*utils.parametrizations",
    ),
    "hooked_spectral_norm": (
        lambda: Normed(spectral_norm), cnnscale.UnsupportedOpError, "weight of node 'stem'.*utils.parametrizations",
    ),
    "masked_attention": (lambda: Attending(masked=True), cnnscale.UnsupportedOpError, "node 'attention'"),
    "encoder": (
        lambda: nn.Sequential(layer(3, 32, 2), nn.Flatten(2), nn.TransformerEncoderLayer(1024, 4)),
        cnnscale.UnsupportedOpError, "TransformerEncoderLayer",
    ),
    "recurrent": (
        lambda: nn.Sequential(layer(3, 32, 2), nn.Flatten(2), nn.LSTM(1024, 4)), cnnscale.UnsupportedOpError, "LSTM",
    ),
    "two_inputs": (TwoInputs, cnnscale.ModelError, r"needs 2 inputs \(image, vector\)"),
    "optional_weights": (
        lambda: Optional(weighted=True), cnnscale.ModelError, "'other.weight'.*optional input 'extra'",
    ),
    "video_transformer": (lambda: video.mvit_v1_b(weights=None), cnnscale.UnsupportedOpError, "node"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(name):
    make, error, message = REFUSED[name]
    with torch.device("meta" if name == "video_transformer" else "cpu"):
        model = make()
    with pytest.raises(error, match=message):
        cnnscale.plan(model, 1, input_size=(3, 16, 224, 224) if name == "video_transformer" else IMAGE)


# --- torchvision's other models ---------------------------------------------------------------------------------------


def on_meta(make, **options):
    with torch.device("meta"):
        return make(weights=None, **options)


def outputs_of(model: nn.Module, size: tuple[int, ...]) -> list[tuple[int, ...]]:
    with torch.no_grad():
        return [tuple(t.shape) for t in tensors_in(meta_copy(model).eval()(torch.empty(2, *size, device="meta")))]


def trains(model: nn.Module, size: tuple[int, ...]) -> bool:
    copy = meta_copy(model)
    train_step(copy, size)
    return not bad_gradients(copy)


SEGMENTATION = [
    *((name, auxiliary) for name in ("fcn_resnet50", "deeplabv3_resnet50") for auxiliary in (False, True)),
    *(("deeplabv3_mobilenet_v3_large", False), ("deeplabv3_mobilenet_v3_large", True)),
    ("lraspp_mobilenet_v3_large", False),
]


@pytest.mark.parametrize(("name", "auxiliary"), SEGMENTATION)
def test_segmentation_follows_its_input(name, auxiliary):
    options = {"aux_loss": True} if auxiliary else {}
    baseline = on_meta(getattr(segmentation, name), weights_backbone=None, num_classes=21, **options)
    result, warned = scaled(baseline, 1, input_size=(3, 224, 224))
    agrees(baseline, result)
    assert not warned
    size = result.scaling.input_size
    assert outputs_of(result, size) == [(2, 21, *size[1:])] * (1 + auxiliary)
    assert trains(result, size)
    assert result.scaling.form == "module"
    heads = [stage for stage in result.scaling.plan.stages if "classifier" in stage.path]
    assert all(stage.new_repeats == stage.repeats for stage in heads)


@pytest.mark.parametrize("name", ["r3d_18", "mc3_18", "r2plus1d_18", "s3d"])
def test_video_nets(name):
    baseline = on_meta(getattr(video, name))
    size = (3, 16, 224, 224) if name == "s3d" else (3, 16, 112, 112)
    result, warned = scaled(baseline, 1, input_size=size)
    agrees(baseline, result)
    assert not warned
    assert result.scaling.form == "module"
    assert result.scaling.verification.changed > 0.95
    assert outputs_of(result, result.scaling.input_size) == [(2, 400)]
    assert trains(result, result.scaling.input_size)
    frames = planned(baseline, 1, input_size=size, image_size=(16, *size[2:]), fit=False).input_size
    assert frames == size


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "mobilenet_v3_large", "googlenet", "shufflenet_v2_x1_0"])
def test_quantizable_nets(name):
    options = {"init_weights": False} if name == "googlenet" else {}
    baseline = on_meta(getattr(quantization, name), quantize=False, **options)
    result, warned = scaled(baseline, 1, input_size=(3, 224, 224))
    agrees(baseline, result)
    assert not warned
    assert result.scaling.form == "module"
    assert type(result) is type(baseline)
    assert outputs_of(result, result.scaling.input_size) == [(2, 1000)]
    assert trains(result, result.scaling.input_size)


DETECTORS = {
    "fasterrcnn_resnet50_fpn": (3, 320, 320), "retinanet_resnet50_fpn": (3, 320, 320), "ssd300_vgg16": (3, 300, 300),
    "ssdlite320_mobilenet_v3_large": (3, 320, 320),
}  # fmt: skip


@pytest.mark.parametrize("name", DETECTORS)
def test_backbones_of_detectors_keep_what_the_detector_reads(name):
    baseline = on_meta(getattr(detection, name), weights_backbone=None).backbone
    result, warned = scaled(baseline, 1, input_size=DETECTORS[name])
    agrees(baseline, result)
    assert not warned
    assert result.scaling.form == "module"
    before, after = outputs_of(baseline, DETECTORS[name]), outputs_of(result, result.scaling.input_size)
    assert [shape[:2] for shape in before] == [shape[:2] for shape in after]
    assert trains(result, result.scaling.input_size)
    assert not [stage for stage in result.scaling.plan.stages if stage.path.startswith("fpn")]


def test_a_detector_runs_on_its_scaled_backbone():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        detector = detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=5)
    detector.backbone, _ = scaled(detector.backbone, 1, input_size=(3, 320, 320), seed=0)
    (found,) = detector.eval()([torch.rand(3, 320, 320, generator=torch.Generator().manual_seed(0))])
    assert set(found) == {"boxes", "scores", "labels"}
