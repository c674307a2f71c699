"""Convolution and attention in one net: what each attention idiom needs, in the smallest net that has it."""

from __future__ import annotations

import warnings

import pytest
import timm
import torch
import torch.nn.functional as F
from checks import count
from torch import Tensor, nn

import cnnscale
from cnnscale.scaling import _agree
from cnnscale.sources import Attribute, Place, solve

SIZE = (3, 32, 32)


def scale(model: nn.Module, size: tuple[int, ...] = SIZE, **options: object) -> nn.Module:
    """Scaled at phi 1 to its own class, at the planned cost, which is counted anew."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", cnnscale.GrowthWarning)
        result = cnnscale.scale(model, **({"phi": 1} | options), input_size=size)
    plan = result.scaling.plan
    assert result.scaling.form == "module"
    assert type(result) is type(model)
    assert count(model, size) == (plan.before.macs, plan.before.params, plan.before.activations)
    assert count(result, plan.input_size) == (plan.after.macs, plan.after.params, plan.after.activations)
    return result


class Hybrid(nn.Module):
    """A strided stem, two convolution blocks, whatever mixes the tokens, and a classifier."""

    def __init__(self, *mixers: nn.Module, width: int = 32) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, 4, 1)
        self.blocks = nn.Sequential(*(Residual(nn.Conv2d(width, width, 3, padding=1)) for _ in range(2)))
        self.mixers = nn.Sequential(*mixers)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mixers(self.blocks(self.stem(x))).mean((2, 3)))


class Residual(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class Attention(nn.Module):
    """Heads of ``head_dim`` channels; the scale is a float made once."""

    def __init__(self, dim: int = 32, heads: int = 4, fused: bool = False) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.fused = heads, dim // heads, fused
        self.scale = self.head_dim**-0.5
        self.qkv = nn.Conv2d(dim, 3 * dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, high, wide = x.shape
        q, k, v = self.qkv(x).view(batch, self.num_heads, 3 * self.head_dim, high * wide).transpose(2, 3).chunk(3, -1)
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = (q * self.scale @ k.transpose(-2, -1)).softmax(-1) @ v
        return x + y.transpose(2, 3).reshape(batch, self.num_heads * self.head_dim, high, wide)


@pytest.mark.parametrize("fused", [False, True])
def test_the_scale_of_attention_follows_the_width_of_its_heads(fused):
    result = scale(Hybrid(Attention(fused=fused), Attention(fused=fused)), width=1.5, phi=None)
    for attention in result.mixers:
        assert attention.num_heads == 4
        assert attention.head_dim == attention.qkv.out_channels // 12 == 12
        assert attention.scale == attention.head_dim**-0.5


class Derived(Attention):
    """Reads the width of a head off its layer's output; ``head_dim`` is never read."""

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, high, wide = x.shape
        q, k, v = self.qkv(x).view(batch, 3, self.num_heads, -1, high * wide).unbind(1)
        y = v @ (q.transpose(-2, -1) * self.scale @ k).softmax(-1).transpose(-2, -1)
        return x + y.reshape(batch, channels, high, wide)


def test_a_head_width_that_the_graph_does_not_read_follows_too():
    result = scale(Hybrid(Derived(128, 4), width=128), width=1.5, phi=None)
    assert (result.mixers[0].head_dim, result.mixers[0].scale) == (48, 48**-0.5)


class Partial(nn.Module):
    """Attends with a part of the channels; the rest passes. All sizes are arithmetic on attributes."""

    def __init__(self, dim: int = 32) -> None:
        super().__init__()
        self.dim, self.part, self.parts = dim, dim // 4, 3
        self.qkv = nn.Conv2d(self.part, self.parts * self.part, 1)
        self.proj = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        some, rest = x.split([self.part, self.dim - self.part], 1)
        qkv = self.qkv(some).flatten(2).reshape(x.shape[0], self.parts * self.part, -1)
        q, k, v = qkv.split([self.part, self.part, self.part], 1)
        y = v @ (q.transpose(1, 2) @ k).softmax(-1)
        return x + self.proj(torch.cat((y.view_as(some), rest), 1))


def test_literals_that_are_arithmetic_on_attributes_are_solved_for_them():
    partial = scale(Hybrid(Partial(64), width=64), width=1.5, phi=None).mixers[0]
    assert (partial.dim, partial.part, partial.parts) == (96, 24, 3)


def test_solve_moves_the_widest_attribute_that_is_open():
    parts, width, dim = Attribute(3, "m", "parts"), Attribute(16, "m", "width"), Attribute(64, "m", "dims", 1)
    assert solve([(parts * width, 72)]) == {width.place: 24}
    assert solve([(dim - width, 72), (width, 24)]) == {width.place: 24, Place("m", "dims", 1): 96}
    assert solve([(dim // 4, 20)]) == {dim.place: 80}
    assert solve([(3 * width + 1, 72)]) == {}  # no integer will do
    assert solve([(width, 16)]) == {}


class Table(nn.Module):
    """A bias from a table of relative positions, looked up by ``mode``."""

    def __init__(self, mode: str, heads: int = 2, side: int = 8) -> None:
        super().__init__()
        self.mode, self.heads = mode, heads
        self.qk = nn.Conv2d(32, 64, 1)
        self.table = nn.Parameter(torch.randn(heads, 2 * side - 1, 2 * side - 1))
        place = torch.arange(side)
        self.register_buffer("offsets", place[:, None] - place[None, :] + side - 1)
        self.register_buffer("lookup", F.one_hot(self.offsets, 2 * side - 1).float())
        self.kept: dict[str, Tensor] = {}

    def bias(self) -> Tensor:
        if self.mode == "einsum":
            rows = torch.einsum("nhw,ixh->nixw", self.table, self.lookup)
            return torch.einsum("nixw,jyw->nijxy", rows, self.lookup).flatten(3).flatten(1, 2)
        side = self.offsets.shape[0]
        rows, columns = self.offsets.repeat_interleave(side, 0), self.offsets.repeat(side, 1)
        return self.table[:, rows.repeat_interleave(side, 1), columns.repeat(1, side)]

    def train(self, mode: bool = True) -> Table:
        if mode:
            self.kept = {}
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        q, k = self.qk(x).reshape(x.shape[0], 2 * self.heads, -1, x.shape[2] * x.shape[3]).chunk(2, 1)
        if self.mode == "cached":
            if "bias" not in self.kept:
                self.kept["bias"] = self.bias()
            bias = self.kept["bias"]
        else:
            bias = self.bias()
        attention = (q.transpose(-2, -1) @ k + bias).softmax(-1)
        v = x.reshape(x.shape[0], self.heads, -1, x.shape[2] * x.shape[3])
        return x + (v @ attention).reshape(x.shape)


@pytest.mark.parametrize("mode", ["einsum", "index", "cached"])
def test_tables_of_positions_stay_and_fix_the_resolution(mode):
    result = scale(Hybrid(Table(mode)))
    assert result.mixers[0].table.shape == (2, 15, 15)
    assert result.mixers[0].kept == {}
    assert result.stem.weight.shape[0] > 32
    assert abs(result.scaling.verification.growth / 2 - 1) <= 0.05
    assert result(torch.randn(2, *result.scaling.input_size)).shape == (2, 10)


def test_what_the_baseline_has_cached_is_not_the_scaled_models():
    model = Hybrid(Table("cached")).eval()
    with torch.no_grad():
        model(torch.randn(1, *SIZE))
    result = cnnscale.scale(model, width=1.5, input_size=SIZE)
    assert list(model.mixers[0].kept) == ["bias"]
    assert result.mixers[0].kept == {}
    assert not any(module.training for module in result.modules())


class Shortened(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.key = nn.Parameter(torch.randn(32, 32))

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.einsum("b...d,dk->b...k", x.transpose(1, 3), self.key).transpose(1, 3)


def test_an_equation_without_a_rule_is_refused_with_its_node():
    with pytest.raises(cnnscale.UnsupportedOpError, match=r"'einsum' \(einsum\) in mixers.0 \(Shortened\)"):
        scale(Hybrid(Shortened()))


class Windows(nn.Module):
    """Attention within windows: the windows join the batch."""

    def __init__(self, dim: int = 32, side: int = 4) -> None:
        super().__init__()
        self.side, self.scale = side, dim**-0.5
        self.mix = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, high, wide = x.shape
        rows, columns = high // self.side, wide // self.side
        y = x.view(batch, channels, rows, self.side, columns, self.side).permute(0, 2, 4, 3, 5, 1)
        y = self.mix(y.reshape(-1, self.side * self.side, channels))
        y = (y * self.scale @ y.transpose(-2, -1)).softmax(-1) @ y
        count = y.shape[0] // (rows * columns)
        y = y.view(count, rows, columns, self.side, self.side, channels).permute(0, 5, 1, 3, 2, 4)
        return x + y.reshape(batch, channels, high, wide)


def test_windows_in_the_batch_cost_what_torch_counts():
    result = scale(Hybrid(Windows(), Windows()))
    assert result.mixers[0].side == 4
    assert result.mixers[0].scale == result.stem.out_channels**-0.5


def test_as_many_tokens_as_channels_are_still_two_things():
    model = Hybrid(Attention(64, 4), width=64)  # 64 channels, 8 x 8 tokens
    result = scale(model, width=1.25, resolution=1.5, phi=None)
    assert result.scaling.input_size == (3, 48, 48)
    assert result.mixers[0].head_dim == 20


class Shared(nn.Module):
    """Both blocks encode positions with one convolution, which the net owns."""

    class Block(nn.Module):
        def __init__(self, position: nn.Module) -> None:
            super().__init__()
            self.position, self.mix = position, nn.Conv2d(32, 32, 1)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.mix(x + self.position(x))

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, 2, 1)
        self.position = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.blocks = nn.Sequential(*(self.Block(self.position) for _ in range(2)))
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def test_copies_share_what_their_block_shares():
    result = scale(Shared(), depth=2, width=1.5, phi=None)
    assert len(result.blocks) == 4
    assert all(block.position is result.position for block in result.blocks)
    assert len({block.mix for block in result.blocks}) == 4


class Asserting(nn.Module):
    def __init__(self, side: int = 8) -> None:
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        torch._assert(x.shape[2] == self.side, "another height")
        torch._assert(x.shape[3] % self.side == 0, "another width")
        return x


def test_what_a_model_asserts_of_its_input_holds_for_the_scaled_one():
    result = scale(Hybrid(Asserting()))
    assert 29 <= result.scaling.input_size[1] <= 32
    fixed = {f.what: f.why for f in result.scaling.plan.fixed}
    assert "mixers.0 (Asserting)" in fixed["resolution"]
    with pytest.raises(cnnscale.WidthError, match="does not take inputs"):
        scale(Hybrid(Asserting()), image_size=64)


class Mixed(nn.Module):
    """Two sublayers in one wrapper class; the second one's sum is the block's own."""

    def __init__(self) -> None:
        super().__init__()
        self.local = Residual(Convolved())
        self.mixer = Residual(Attention())
        self.mlp = Convolved()

    def forward(self, x: Tensor) -> Tensor:
        x = self.mixer(self.local(x))
        return x + self.mlp(x)


class Convolved(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Conv2d(32, 64, 1), nn.Conv2d(64, 32, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.up(x).relu())


def test_a_block_of_wrapped_sublayers_repeats_as_a_whole():
    result = scale(Hybrid(Mixed(), Mixed()), depth=2, phi=None)
    assert [s.path for s in result.scaling.plan.stages if s.block == "Mixed"] == ["mixers"]
    assert all(s.block != "Convolved" for s in result.scaling.plan.stages)
    assert [type(m) for m in result.mixers] == [Mixed] * 4


class Directed(Attention):
    """Attends along one axis or the other, by a flag."""

    def __init__(self, along: bool) -> None:
        super().__init__()
        self.along = along

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if self.along else x.transpose(2, 3))


class Told(nn.Module):
    """A block that is told the sides of the map, as blocks of token sequences are."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.local = nn.Linear(32, 32), nn.Conv2d(32, 32, 3, padding=1, groups=32)

    def forward(self, tokens: Tensor, high: int, wide: int) -> Tensor:
        tokens = tokens + self.mix(tokens)
        pixels = tokens.transpose(1, 2).reshape(tokens.shape[0], -1, high, wide)
        return tokens + self.local(pixels).flatten(2).transpose(1, 2)


class Sequence(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Told(), Told()])

    def forward(self, x: Tensor) -> Tensor:
        high, wide = x.shape[2:]
        tokens = x.flatten(2).transpose(1, 2)
        for block in self.blocks:
            tokens = block(tokens, high, wide)
        return tokens.transpose(1, 2).reshape(x.shape)


def test_blocks_that_are_told_sizes_are_repeated():
    result = scale(Hybrid(Sequence()), depth=2, width=1.5, phi=None)
    assert [type(m) for m in result.mixers[0].blocks] == [Told] * 4


class Twofold(nn.Module):
    """Not in a container, and called with more than its input: nothing can be chained behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = Told(), Told()

    def forward(self, x: Tensor) -> Tensor:
        high, wide = x.shape[2:]
        tokens = x.flatten(2).transpose(1, 2)
        tokens = self.two(self.one(tokens, high=high, wide=wide).relu(), high=high, wide=wide)
        return tokens.transpose(1, 2).reshape(x.shape)


def test_blocks_outside_containers_are_repeated_only_if_their_input_is_all_they_take():
    result = scale(Hybrid(Twofold()), depth=2, width=1.5, phi=None)
    assert type(result.mixers[0].one) is Told


class Axial(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rows, self.columns = Directed(along=True), Directed(along=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.columns(self.rows(x)).transpose(2, 3)


def test_blocks_told_to_work_differently_are_no_repeats_of_each_other():
    result = scale(Hybrid(Axial(), Axial()), depth=1.5, phi=None)
    assert [type(m) for m in result.mixers] == [Axial] * 3
    assert [m.columns.along for m in result.mixers] == [False] * 3


class Cascade(nn.Module):
    """One convolution per group of channels, side by side in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        parts = x.chunk(len(self.convs), 1)
        return torch.cat([conv(part) for conv, part in zip(self.convs, parts, strict=True)], 1)


def test_parallel_layers_in_a_list_are_not_repeated():
    result = scale(Hybrid(Cascade()), depth=2, width=1.5, phi=None)
    assert len(result.mixers[0].convs) == 2


def test_a_cost_that_torch_counts_otherwise_is_an_error():
    record = scale(Hybrid(Attention())).scaling
    _agree(record.verification, record.plan)
    with pytest.raises(cnnscale.RewriteError, match="the baseline costs"):
        _agree(record.verification, record.plan.__class__(**{**vars(record.plan), "before": record.plan.after}))


FAMILIES = """
coat_lite_tiny visformer_tiny levit_conv_128s botnet26t_256 test_maxvit efficientvit_b0 efficientvit_m0
coatnext_nano_rw_224
lamhalobotnet50ts_256 shvit_s1
"""


@pytest.mark.parametrize("name", FAMILIES.split())
def test_hybrids_of_the_zoo_are_scaled_to_their_own_class(name):
    with torch.device("meta"):
        model = timm.create_model(name)
    result = scale(model, model.default_cfg["input_size"])
    assert abs(result.scaling.verification.growth / 2 - 1) <= 0.05
    scales = [m for m in result.modules() if "scale" in vars(m) and "num_heads" in vars(m)]
    for module in scales:
        width = vars(module).get("key_dim", vars(module).get("head_dim", vars(module).get("dim_head_qk")))
        assert width is None or module.scale == pytest.approx(width**-0.5)


class Written(nn.Module):
    """Attention to which a bias is added by writing into a part of it: a table of the differences of places, counted
    from the sizes of the map, or kept as a constant."""

    def __init__(self, counted: bool, dim: int = 32, side: int = 8) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.rows = nn.Parameter(torch.randn(2 * side - 1, 4))
        self.counted = counted
        self.register_buffer("places", torch.arange(side)[:, None] - torch.arange(side)[None] + side - 1)

    def forward(self, x: Tensor) -> Tensor:
        batch, height = len(x), x.shape[2]
        q, k, v = self.qkv(x.mean(3).transpose(1, 2)).reshape(batch, height, 3, 4, -1).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-2, -1)
        places = self.places
        if self.counted:
            places = (torch.arange(height)[:, None] - torch.arange(height)[None] + height - 1).long()
        scores[:, :, :, 0:] = scores[:, :, :, 0:] + self.rows[places].permute(2, 0, 1)
        return x + self.proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2)).transpose(1, 2)[..., None]


@pytest.mark.parametrize("counted", [True, False])
def test_a_table_of_places_fixes_the_resolution(counted):
    result = scale(Hybrid(Written(counted)), phi=2, fit=False).eval()
    plan = result.scaling.plan
    assert plan.input_size == SIZE
    assert any(fixed.what == "resolution" and "getitem" in fixed.why for fixed in plan.fixed) or not counted
    assert result.mixers[0].rows.shape == (15, 4)
    assert result.mixers[0].qkv.out_features == 3 * result.mixers[0].proj.out_features > 96
    assert result(torch.rand(2, *SIZE)).shape == (2, 10)


class Reordered(nn.Module):
    """Pixels in an order that is a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("order", torch.arange(64).flip(0))

    def forward(self, x: Tensor) -> Tensor:
        return x + x.flatten(2)[:, :, self.order].mean(2)[:, :, None, None]


def test_an_order_of_pixels_fixes_the_resolution():
    assert scale(Hybrid(Reordered()), fit=False).scaling.plan.input_size == SIZE


class TwoScales(nn.Module):
    """Queries, keys and values of two scales, cut into heads of a fixed size: sums of widths must fit the heads."""

    def __init__(self, dim: int = 96, head: int = 32, groups: int = 9) -> None:
        super().__init__()
        self.head = head
        self.qkv = nn.Conv2d(dim, 3 * dim, 1)
        self.wide = nn.Conv2d(3 * dim, 3 * dim, 1, groups=groups)
        self.proj = nn.Conv2d(2 * dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        qkv = self.qkv(x)
        qkv = torch.cat([qkv, self.wide(qkv)], 1).reshape(batch, -1, 3 * self.head, height * width)
        q, k, v = qkv.transpose(-1, -2).chunk(3, -1)
        return x + self.proj((q @ (k.transpose(-1, -2) @ v)).transpose(-1, -2).reshape(batch, -1, height, width))


@pytest.mark.parametrize("groups", [9, 12, 36])
@pytest.mark.parametrize("width", [1.1, 1.5, 0.7])
def test_sums_of_widths_that_must_fit_heads(groups, width):
    result = scale(Hybrid(TwoScales(groups=groups), width=96), phi=None, width=width)
    for plan in result.scaling.plan.widths:
        assert (plan.after - plan.before) * (width - 1) >= 0
    assert result(torch.rand(2, *SIZE)).shape == (2, 10)
