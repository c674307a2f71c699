"""Nets of the literature that no zoo has, each in the smallest form that still has its idea."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IMAGE = (3, 32, 32)


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    padding = dilation * (kernel // 2)
    layer = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class Residual(nn.Module):
    def __init__(self, width: int, *more: nn.Module) -> None:
        super().__init__()
        self.conv1 = conv(width, width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.more = nn.Sequential(*more)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.more(self.conv2(self.conv1(x))))


class Classifier(nn.Module):
    """Two stages with one module of interest in each block, or between them."""

    def __init__(self, make, *, inside: bool = False, width: int = 32) -> None:
        super().__init__()
        gate = [make(width)] if inside else []
        deep = [make(2 * width)] if inside else []
        self.stem = conv(3, width, 3, 2)
        self.stage1 = nn.Sequential(Residual(width, *gate), Residual(width, *gate and [make(width)]))
        self.down = conv(width, 2 * width, 3, 2)
        self.stage2 = nn.Sequential(Residual(2 * width, *deep), Residual(2 * width, *deep and [make(2 * width)]))
        self.last = nn.Identity() if inside else make(2 * width)
        self.head = nn.Linear(2 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage2(self.down(self.stage1(self.stem(x))))
        return self.head(self.last(x).mean((2, 3)))


# --- attention for convolutions ---------------------------------------------------------------------------------------


class CBAM(nn.Module):
    """Woo et al. 2018: a gate for channels from two poolings through one MLP, then one for places."""

    def __init__(self, width: int, reduction: int = 8) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(width, width // reduction), nn.ReLU(), nn.Linear(width // reduction, width))
        self.place = nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        n, c = x.shape[:2]
        average, largest = F.adaptive_avg_pool2d(x, 1).view(n, c), F.adaptive_max_pool2d(x, 1).view(n, c)
        x = x * torch.sigmoid(self.mlp(average) + self.mlp(largest))[:, :, None, None]
        maps = torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True)[0]], 1)
        return x * torch.sigmoid(self.place(maps))


class ShuffleAttention(nn.Module):
    """Zhang and Yang 2021: groups, each half gated by channel or by place, and a shuffle."""

    def __init__(self, width: int, groups: int = 4) -> None:
        super().__init__()
        self.groups = groups
        part = width // (2 * groups)
        self.cweight, self.cbias = nn.Parameter(torch.zeros(1, part, 1, 1)), nn.Parameter(torch.ones(1, part, 1, 1))
        self.sweight, self.sbias = nn.Parameter(torch.zeros(1, part, 1, 1)), nn.Parameter(torch.ones(1, part, 1, 1))
        self.norm = nn.GroupNorm(part, part)

    def forward(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        one, two = x.reshape(b * self.groups, -1, h, w).chunk(2, dim=1)
        one = one * torch.sigmoid(self.cweight * F.adaptive_avg_pool2d(one, 1) + self.cbias)
        two = two * torch.sigmoid(self.sweight * self.norm(two) + self.sbias)
        x = torch.cat([one, two], 1).reshape(b, -1, h, w)
        x = x.reshape(b, 2, -1, h, w).permute(0, 2, 1, 3, 4)
        return x.reshape(b, -1, h, w)


class CoordinateAttention(nn.Module):
    """Hou et al. 2021: poolings along each side, squeezed together and cut apart again."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = max(8, width // 8)
        self.squeeze, self.norm = nn.Conv2d(width, inner, 1), nn.BatchNorm2d(inner)
        self.rows, self.columns = nn.Conv2d(inner, width, 1), nn.Conv2d(inner, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[2:]
        both = torch.cat([x.mean(3, keepdim=True), x.mean(2, keepdim=True).permute(0, 1, 3, 2)], 2)
        rows, columns = torch.split(F.hardswish(self.norm(self.squeeze(both))), [h, w], dim=2)
        return x * torch.sigmoid(self.rows(rows)) * torch.sigmoid(self.columns(columns.permute(0, 1, 3, 2)))


class SelectiveKernel(nn.Module):
    """Li et al. 2019: branches weighted against each other, channel by channel."""

    def __init__(self, width: int, branches: int = 2) -> None:
        super().__init__()
        self.branches = nn.ModuleList(conv(width, width, 3, 1, 1 + i) for i in range(branches))
        self.squeeze = nn.Linear(width, width // 4)
        self.select = nn.ModuleList(nn.Linear(width // 4, width) for _ in range(branches))

    def forward(self, x: Tensor) -> Tensor:
        maps = torch.stack([branch(x) for branch in self.branches], 1)
        code = F.relu(self.squeeze(maps.sum(1).mean((2, 3))))
        weights = torch.stack([select(code) for select in self.select], 1).softmax(1)
        return (maps * weights[..., None, None]).sum(1)


class NonLocal(nn.Module):
    """Wang et al. 2018: attention of every place to every other."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = width // 2
        self.theta, self.phi = nn.Conv2d(width, self.inner, 1), nn.Conv2d(width, self.inner, 1)
        self.g, self.out = nn.Conv2d(width, self.inner, 1), nn.Conv2d(self.inner, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        n = x.size(0)
        theta = self.theta(x).view(n, self.inner, -1).permute(0, 2, 1)
        phi = self.phi(x).view(n, self.inner, -1)
        g = self.g(x).view(n, self.inner, -1).permute(0, 2, 1)
        y = torch.matmul(F.softmax(torch.matmul(theta, phi), -1), g)
        return x + self.out(y.permute(0, 2, 1).contiguous().view(n, self.inner, *x.size()[2:]))


class GlobalContext(nn.Module):
    """Cao et al. 2019 (GCNet)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mask = nn.Conv2d(width, 1, 1)
        inner = width // 4
        self.add = nn.Sequential(
            nn.Conv2d(width, inner, 1), nn.LayerNorm([inner, 1, 1]), nn.ReLU(), nn.Conv2d(inner, width, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.size()
        context = x.view(n, 1, c, h * w) @ self.mask(x).view(n, 1, h * w, 1).softmax(2)
        return x + self.add(context.view(n, c, 1, 1))


class DualAttention(nn.Module):
    """Fu et al. 2019 (DANet): channels attend to channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1))
        self.after = conv(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.size()
        query, key = x.view(n, c, -1), x.view(n, c, -1).permute(0, 2, 1)
        energy = torch.bmm(query, key)
        attention = (energy.max(-1, keepdim=True)[0].expand_as(energy) - energy).softmax(-1)
        return self.after(self.gamma * torch.bmm(attention, x.view(n, c, -1)).view(n, c, h, w) + x)


class TripletAttention(nn.Module):
    """Misra et al. 2021: gates across channels and one side, by permutation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.cw, self.hc = nn.Conv2d(2, 1, 7, padding=3, bias=False), nn.Conv2d(2, 1, 7, padding=3, bias=False)

    @staticmethod
    def gate(x: Tensor, layer: nn.Module) -> Tensor:
        pooled = torch.cat((torch.max(x, 1)[0].unsqueeze(1), torch.mean(x, 1).unsqueeze(1)), dim=1)
        return x * torch.sigmoid(layer(pooled))

    def forward(self, x: Tensor) -> Tensor:
        one = self.gate(x.permute(0, 2, 1, 3).contiguous(), self.cw).permute(0, 2, 1, 3)
        two = self.gate(x.permute(0, 3, 2, 1).contiguous(), self.hc).permute(0, 3, 2, 1)
        return (one + two) / 2


class SimAM(nn.Module):
    """Yang et al. 2021: a gate without parameters."""

    def __init__(self, width: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[2] * x.shape[3] - 1
        d = (x - x.mean(dim=[2, 3], keepdim=True)).pow(2)
        return x * torch.sigmoid(d / (4 * (d.sum(dim=[2, 3], keepdim=True) / n + 1e-4)) + 0.5)


# --- convolutions of other kinds --------------------------------------------------------------------------------------


class Involution(nn.Module):
    """Li et al. 2021: a kernel for each place, shared by the channels of a group."""

    def __init__(self, width: int, kernel: int = 3, groups: int = 4) -> None:
        super().__init__()
        self.kernel_size, self.groups, self.group_channels = kernel, groups, width // groups
        self.reduce, self.span = conv(width, width // 4, 1), nn.Conv2d(width // 4, kernel**2 * groups, 1)
        self.unfold = nn.Unfold(kernel, 1, kernel // 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.span(self.reduce(x))
        b, _, h, w = weight.shape
        weight = weight.view(b, self.groups, self.kernel_size**2, h, w).unsqueeze(2)
        patches = self.unfold(x).view(b, self.groups, self.group_channels, self.kernel_size**2, h, w)
        return (weight * patches).sum(dim=3).view(b, -1, h, w)


class ODConv(nn.Module):
    """Li et al. 2022: a kernel for each image, from attention to its four dimensions."""

    def __init__(self, width: int, kernel: int = 3, number: int = 4) -> None:
        super().__init__()
        self.inputs = self.outputs = width
        self.kernel, self.number = kernel, number
        self.squeeze = nn.Conv2d(width, width // 4, 1)
        self.channel, self.filter = nn.Conv2d(width // 4, width, 1), nn.Conv2d(width // 4, width, 1)
        self.spatial, self.kernels = nn.Conv2d(width // 4, kernel * kernel, 1), nn.Conv2d(width // 4, number, 1)
        self.weight = nn.Parameter(torch.randn(number, width, width, kernel, kernel) * 0.05)

    def forward(self, x: Tensor) -> Tensor:
        b, _, h, w = x.size()
        code = F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))
        channel, filters = torch.sigmoid(self.channel(code)), torch.sigmoid(self.filter(code))
        spatial = torch.sigmoid(self.spatial(code).view(b, 1, 1, 1, self.kernel, self.kernel))
        kernels = self.kernels(code).view(b, -1, 1, 1, 1, 1).softmax(1)
        x = (x * channel).reshape(1, -1, h, w)
        weight = (spatial * kernels * self.weight.unsqueeze(0)).sum(1).view(-1, self.inputs, self.kernel, self.kernel)
        y = F.conv2d(x, weight, None, 1, self.kernel // 2, groups=b)
        return y.view(b, self.outputs, y.size(-2), y.size(-1)) * filters


class CoordConv(nn.Module):
    """Liu et al. 2018: two more channels that say where a pixel is."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width + 2, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        ys = torch.linspace(-1, 1, h, device=x.device).view(1, 1, h, 1).expand(n, 1, h, w)
        xs = torch.linspace(-1, 1, w, device=x.device).view(1, 1, 1, w).expand(n, 1, h, w)
        return self.conv(torch.cat([x, ys, xs], 1))


class CoordGrid(nn.Module):
    """The same with arange and repeat."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width + 2, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        b, _, rows, columns = x.size()
        xx = torch.arange(columns, dtype=x.dtype, device=x.device).repeat(rows, 1) / (columns - 1)
        yy = torch.arange(rows, dtype=x.dtype, device=x.device).repeat(columns, 1).t() / (rows - 1)
        grid = torch.stack([xx, yy]).unsqueeze(0).repeat(b, 1, 1, 1)
        return self.conv(torch.cat((x, grid * 2 - 1), dim=1))


class Res2(nn.Module):
    """Gao et al. 2019: parts of the channels, each added to the next."""

    def __init__(self, width: int, scales: int = 4) -> None:
        super().__init__()
        self.scales, self.part = scales, width // scales
        self.convs = nn.ModuleList(conv(self.part, self.part) for _ in range(scales - 1))

    def forward(self, x: Tensor) -> Tensor:
        parts = torch.split(x, self.part, 1)
        outputs = [parts[0]]
        for layer, part in zip(self.convs, parts[1:], strict=True):
            outputs.append(layer(part if len(outputs) == 1 else part + outputs[-1]))
        return torch.cat(outputs, 1)


class ASPP(nn.Module):
    """Chen et al. 2017: parallel dilations and a pooled branch, concatenated."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList([conv(width, width, 1), *(conv(width, width, 3, 1, d) for d in (2, 3))])
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, width, 1), nn.ReLU())
        self.project = conv(4 * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps = [layer(x) for layer in self.convs]
        maps.append(F.interpolate(self.pool(x), size=x.shape[-2:], mode="bilinear", align_corners=False))
        return self.project(torch.cat(maps, dim=1))


class PyramidPooling(nn.Module):
    """Zhao et al. 2017 (PSPNet)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.sizes = (1, 2, 4)
        self.branches = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(s), nn.Conv2d(width, width // 4, 1)) for s in self.sizes
        )
        self.join = conv(width + 3 * (width // 4), width)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.size(2), x.size(3)
        maps = [F.interpolate(b(x), (h, w), mode="bilinear", align_corners=True) for b in self.branches]
        return self.join(torch.cat([x, *maps], 1))


class Octave(nn.Module):
    """Chen et al. 2019: a part of the channels at half the resolution."""

    def __init__(self, width: int, alpha: float = 0.25) -> None:
        super().__init__()
        low = int(alpha * width)
        self.low = low
        self.hh, self.hl = nn.Conv2d(width - low, width - low, 3, padding=1), nn.Conv2d(width - low, low, 3, padding=1)
        self.lh, self.ll = nn.Conv2d(low, width - low, 3, padding=1), nn.Conv2d(low, low, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        high, low = x[:, self.low :], F.avg_pool2d(x[:, : self.low], 2)
        up = self.hh(high) + F.interpolate(self.lh(low), size=high.shape[2:])
        down = self.hl(F.avg_pool2d(high, 2)) + self.ll(low)
        return torch.cat([F.interpolate(down, size=high.shape[2:]), up], 1)


class Maxout(nn.Module):
    """Goodfellow et al. 2013."""

    def __init__(self, width: int, pieces: int = 2) -> None:
        super().__init__()
        self.pieces = pieces
        self.conv = nn.Conv2d(width, width * pieces, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        n, c, h, w = x.shape
        return x.view(n, c // self.pieces, self.pieces, h, w).max(2)[0]


class CReLU(nn.Module):
    """Shang et al. 2016: both signs."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width // 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return F.relu(torch.cat([x, -x], 1))


class Ghost(nn.Module):
    """Han et al. 2020, with the surplus cut off."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.outputs = width
        inner = math.ceil(width / 2)
        self.primary, self.cheap = conv(width, inner, 1), nn.Conv2d(inner, inner, 3, padding=1, groups=inner)

    def forward(self, x: Tensor) -> Tensor:
        one = self.primary(x)
        return torch.cat([one, self.cheap(one)], dim=1)[:, : self.outputs, :, :]


class Shift(nn.Module):
    """Wu et al. 2018: groups of channels moved by one pixel, written part by part."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.part = width // 4
        self.mix = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        p = self.part
        out[:, :p, :, 1:] = x[:, :p, :, :-1]
        out[:, p : 2 * p, :, :-1] = x[:, p : 2 * p, :, 1:]
        out[:, 2 * p :] = x[:, 2 * p :]
        return self.mix(out)


class PartialConv(nn.Module):
    """Chen et al. 2023 (FasterNet): a quarter of the channels is convolved."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.part = width // 4
        self.conv = nn.Conv2d(self.part, self.part, 3, padding=1, bias=False)
        self.mlp = nn.Sequential(nn.Conv2d(width, 2 * width, 1), nn.ReLU(), nn.Conv2d(2 * width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        one, two = torch.split(x, [self.part, x.shape[1] - self.part], dim=1)
        return x + self.mlp(torch.cat((self.conv(one), two), 1))


class Highway(nn.Module):
    """Srivastava et al. 2015."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.transform, self.gate = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        t = torch.sigmoid(self.gate(x))
        return F.relu(self.transform(x)) * t + x * (1 - t)


class ChannelDropPath(nn.Module):
    """Layer scale, drop path written by hand, a norm over channels written by hand (ConvNeXt's)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.gamma = nn.Parameter(0.1 * torch.ones(width))
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(x)
        u = y.mean(1, keepdim=True)
        y = (y - u) / torch.sqrt((y - u).pow(2).mean(1, keepdim=True) + 1e-6)
        y = (self.weight[:, None, None] * y + self.bias[:, None, None]).permute(0, 2, 3, 1)
        y = (self.gamma * self.down(F.gelu(self.up(y)))).permute(0, 3, 1, 2)
        keep = torch.rand(x.shape[0], 1, 1, 1, device=x.device).add(0.9).floor() if self.training else 1.0
        return x + y * keep


class GRN(nn.Module):
    """Woo et al. 2023: global response normalisation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.zeros(1, 1, 1, width)), nn.Parameter(torch.zeros(1, 1, 1, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        g = torch.norm(x, p=2, dim=(1, 2), keepdim=True)
        return (self.gamma * (x * (g / (g.mean(dim=-1, keepdim=True) + 1e-6))) + self.beta + x).permute(0, 3, 1, 2)


class BottleneckAttention(nn.Module):
    """Srinivas et al. 2021 (BoTNet): heads over places, positions from two parameters made for one size."""

    def __init__(self, width: int, side: int = 8, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Conv2d(width, width, 1) for _ in range(3))
        self.rel_h = nn.Parameter(torch.randn(1, heads, width // heads, 1, side))
        self.rel_w = nn.Parameter(torch.randn(1, heads, width // heads, side, 1))

    def forward(self, x: Tensor) -> Tensor:
        n, c, w, h = x.size()
        q = self.query(x).view(n, self.heads, c // self.heads, -1)
        k = self.key(x).view(n, self.heads, c // self.heads, -1)
        v = self.value(x).view(n, self.heads, c // self.heads, -1)
        position = (self.rel_h + self.rel_w).view(1, self.heads, c // self.heads, -1).permute(0, 1, 3, 2)
        energy = torch.matmul(q.permute(0, 1, 3, 2), k) + torch.matmul(position, q)
        return torch.matmul(v, energy.softmax(-1).permute(0, 1, 3, 2)).view(n, c, w, h)
