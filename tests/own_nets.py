"""Nets that nobody published: each mixes ideas in a way of its own, small enough to be checked whole."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IMAGE = (3, 32, 32)


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.SiLU())


class DenseBranch(nn.Module):
    """Half of the channels pass by, the other half grows densely; both are joined, shuffled and merged."""

    def __init__(self, inputs: int, outputs: int, growth: int, depth: int) -> None:
        super().__init__()
        self.half = inputs // 2
        self.layers = nn.ModuleList(conv(self.half + i * growth, growth) for i in range(depth))
        self.merge = conv(inputs + depth * growth, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        passed, seen = x.split([self.half, x.shape[1] - self.half], 1)
        states = [seen]
        for layer in self.layers:
            states.append(layer(torch.cat(states, 1)))
        return self.merge(torch.cat([*reversed(states), passed], 1))


class CrossDense(nn.Module):
    size = IMAGE

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 32, 3, 2)
        self.one, self.down = DenseBranch(32, 32, 16, 3), conv(32, 64, 3, 2)
        self.two = DenseBranch(64, 64, 16, 4)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.two(self.down(self.one(self.stem(x)))).amax((2, 3)))


class ShuffleUNet(nn.Module):
    """Down by folding places into channels, up by the reverse; what is skipped is gated by what comes from below."""

    size = IMAGE

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 16)
        self.down1, self.down2 = conv(64, 32), conv(128, 64)
        self.fold = nn.PixelUnshuffle(2)
        self.up1, self.up2 = nn.Conv2d(64, 128, 1), nn.Conv2d(32, 64, 1)
        self.gate1, self.gate2 = nn.Conv2d(32, 32, 1), nn.Conv2d(16, 16, 1)
        self.join1, self.join2 = conv(64, 32), conv(32, 16)
        self.head = nn.Conv2d(16, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.stem(x)
        second = self.down1(self.fold(first))
        y = F.pixel_shuffle(self.up1(self.down2(self.fold(second))), 2)
        y = self.join1(torch.cat([y, second * self.gate1(y).sigmoid()], 1))
        y = F.pixel_shuffle(self.up2(y), upscale_factor=2)
        y = self.join2(torch.cat([y, first * self.gate2(y).sigmoid()], 1))
        return x + self.head(y)


class GatedCell(nn.Module):
    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.gates = nn.Conv2d(inputs + hidden, 2 * hidden, 3, padding=1)
        self.candidate = nn.Conv2d(inputs + hidden, hidden, 3, padding=1)

    def forward(self, x: Tensor, state: Tensor | None) -> Tensor:
        if state is None:
            state = x.new_zeros(x.shape[0], self.hidden, *x.shape[2:])
        update, reset = self.gates(torch.cat([x, state], 1)).sigmoid().chunk(2, 1)
        new = self.candidate(torch.cat([x, reset * state], 1)).tanh()
        return torch.lerp(state, new, update)


class Recurrent(nn.Module):
    """Gated recurrent cells over the frames of a clip, two layers, the second on every other frame."""

    size = (3, 4, 16, 16)

    def __init__(self) -> None:
        super().__init__()
        self.encode = conv(3, 16, 3, 2)
        self.slow, self.fast = GatedCell(16, 24), GatedCell(24, 32)
        self.head = nn.Linear(32, 7)

    def forward(self, clip: Tensor) -> Tensor:
        one: Tensor | None = None
        two: Tensor | None = None
        for i, frame in enumerate(clip.unbind(2)):
            one = self.slow(self.encode(frame), one)
            if i % 2:
                two = self.fast(one, two)
        assert two is not None
        return self.head(two.flatten(2).mean(2))


class Conditioned(nn.Module):
    """Dilated gated units, shifted and scaled by a code of the whole signal; the skips are summed with weights."""

    size = (2, 128)

    def __init__(self) -> None:
        super().__init__()
        self.entry = nn.Conv1d(2, 24, 1)
        self.code = nn.Sequential(nn.Conv1d(24, 12, 8, 8), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten())
        self.units = nn.ModuleList(FilmUnit(24, 32, 12, 2**i) for i in range(4))
        self.weights = nn.Parameter(torch.ones(4))
        self.rest = nn.Conv1d(24, 5, 1)
        self.exit = nn.Sequential(nn.PReLU(32), nn.Conv1d(32, 20, 1), nn.PReLU(20), nn.Conv1d(20, 5, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.entry(x)
        code, skips = self.code(x), []
        for unit in self.units:
            x, skip = unit(x, code)
            skips.append(skip)
        return self.exit(torch.einsum("k,knct->nct", self.weights.softmax(0), torch.stack(skips))) + self.rest(x)


class FilmUnit(nn.Module):
    def __init__(self, width: int, skip: int, code: int, dilation: int) -> None:
        super().__init__()
        self.filter = nn.Conv1d(width, 2 * width, 3, padding=dilation, dilation=dilation)
        self.film = nn.Linear(code, 2 * width)
        self.residual, self.skip = nn.Conv1d(width, width, 1), nn.Conv1d(width, skip, 1)

    def forward(self, x: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        scale, shift = self.film(code).unsqueeze(-1).chunk(2, 1)
        signal, gate = self.filter(x).chunk(2, 1)
        y = torch.tanh(signal * (1 + scale) + shift) * torch.sigmoid(gate)
        return (x + self.residual(y)) * 0.5**0.5, self.skip(y)


class RadixBlock(nn.Module):
    """Attention between the splits of a grouped convolution, then a residual."""

    def __init__(self, width: int, radix: int = 3, groups: int = 2) -> None:
        super().__init__()
        self.radix = radix
        self.spread = conv(width, width * radix, 3, 1, groups * radix)
        self.squeeze, self.weigh = nn.Linear(width, width // 2), nn.Linear(width // 2, width * radix)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        splits = self.spread(x).view(n, self.radix, c, h, w)
        code = self.squeeze(splits.sum(1).mean((-2, -1))).relu()
        weights = self.weigh(code).reshape(n, self.radix, -1).softmax(1)
        return x + (splits * weights[..., None, None]).sum(1)


class Radix(nn.Module):
    size = IMAGE

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            conv(3, 24, 3, 2), RadixBlock(24), RadixBlock(24), conv(24, 48, 3, 2), RadixBlock(48), RadixBlock(48)
        )
        self.head = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.net(x).mean([2, 3]))


class SharedGates(nn.Module):
    """All blocks of a stage are gated by one and the same squeeze."""

    size = IMAGE

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 32, 5, 4)
        self.gate1 = nn.Sequential(nn.Linear(32, 8), nn.ReLU(), nn.Linear(8, 32), nn.Sigmoid())
        self.row1 = nn.ModuleList(conv(32, 32) for _ in range(3))
        self.down = conv(32, 48, 1)
        self.gate2 = nn.Sequential(nn.Linear(48, 12), nn.ReLU(), nn.Linear(12, 48), nn.Sigmoid())
        self.row2 = nn.ModuleList(conv(48, 48, groups=3) for _ in range(2))
        self.head = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.row1:
            y = layer(x)
            x = x + y * self.gate1(y.mean((2, 3)))[:, :, None, None]
        x = self.down(x)
        for layer in self.row2:
            y = layer(x)
            x = x + y * self.gate2(y.mean((2, 3)))[:, :, None, None]
        return self.head(x.mean((2, 3)))


class Coupled(nn.Module):
    """Additive coupling: each half is changed by the other, then the halves change places."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.f, self.g = conv(width // 2, width // 2), conv(width // 2, width // 2)

    def forward(self, x: Tensor) -> Tensor:
        one, two = x.tensor_split(2, dim=1)
        one = one + self.f(two)
        two = two + self.g(one)
        return torch.cat([two, one], 1)


class Reversible(nn.Module):
    size = IMAGE

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 8, 3, 2)
        self.one = nn.Sequential(Coupled(8), Coupled(8))
        self.fold = nn.PixelUnshuffle(2)
        self.two = nn.Sequential(Coupled(32), Coupled(32), Coupled(32))
        self.head = nn.Conv2d(32, 10, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.two(self.fold(self.one(self.stem(x))))
        return F.adaptive_avg_pool2d(self.head(x), 1).squeeze(-1).squeeze(-1)


class InceptionBlock(nn.Module):
    """Three ways of unlike depth, joined, brought back to the width, and added at a learnt scale for each channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.a = conv(width, 8, 1)
        self.b = nn.Sequential(conv(width, 8, 1), conv(8, 12))
        self.c = nn.Sequential(nn.AvgPool2d(3, 1, 1), conv(width, 4, 1), conv(4, 6), conv(6, 8))
        self.up = nn.Conv2d(28, width, 1)
        self.scale = nn.Parameter(torch.full((width, 1, 1), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.scale * self.up(torch.cat((self.a(x), self.b(x), self.c(x)), dim=-3)))


class InceptionResidual(nn.Module):
    size = IMAGE

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 32, 3, 2)
        self.one = nn.Sequential(InceptionBlock(32), InceptionBlock(32))
        self.reduce, self.pool = conv(32, 24, 3, 2), nn.MaxPool2d(2)
        self.two = nn.Sequential(InceptionBlock(56), InceptionBlock(56))
        self.head = nn.Linear(56, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(self.stem(x))
        x = self.two(torch.cat([self.reduce(x), self.pool(x)], 1))
        return self.head(x.mean(3).mean(2))


class Ghost(nn.Module):
    """Few real channels; cheap copies of them fill up the rest, of which the surplus is cut off."""

    def __init__(self, inputs: int, outputs: int, ratio: int = 3) -> None:
        super().__init__()
        self.outputs = outputs
        real = -(-outputs // ratio)
        self.real, self.cheap = conv(inputs, real, 1), conv(real, real * (ratio - 1), 3, 1, real)

    def forward(self, x: Tensor) -> Tensor:
        x = self.real(x)
        return torch.cat([x, self.cheap(x)], 1)[:, : self.outputs]


class GhostBlock(nn.Module):
    def __init__(self, inputs: int, middle: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.wide, self.narrow = Ghost(inputs, middle), Ghost(middle, outputs)
        self.between = conv(middle, middle, 3, stride, middle) if stride > 1 else nn.Identity()
        self.short = nn.Identity() if stride == 1 and inputs == outputs else conv(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.narrow(self.between(self.wide(x))) + self.short(x)


class Ghosts(nn.Module):
    size = IMAGE

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 16, 3, 2)
        blocks = [(16, 48, 16, 1), (16, 48, 32, 2), (32, 64, 32, 1), (32, 64, 32, 1)]
        self.blocks = nn.Sequential(*(GhostBlock(*sizes) for sizes in blocks))
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


class Octave(nn.Module):
    """Channels of full and of half resolution, and the ways between them."""

    def __init__(self, high: int, low: int) -> None:
        super().__init__()
        self.hh, self.hl = nn.Conv2d(high, high, 3, padding=1), nn.Conv2d(high, low, 3, padding=1)
        self.ll, self.lh = nn.Conv2d(low, low, 3, padding=1), nn.Conv2d(low, high, 3, padding=1)
        self.norm_high, self.norm_low = nn.GroupNorm(4, high), nn.GroupNorm(2, low)

    def forward(self, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        high, low = pair
        up = F.interpolate(self.lh(low), size=high.shape[-2:], mode="nearest")
        across = self.hl(F.avg_pool2d(high, 2)) + self.ll(low)
        return high + self.norm_high(self.hh(high) + up).relu(), low + self.norm_low(across).relu()


class Octaves(nn.Module):
    size = IMAGE

    def __init__(self) -> None:
        super().__init__()
        self.high, self.low = conv(3, 24, 3, 2), conv(3, 8, 3, 4)
        self.body = nn.Sequential(Octave(24, 8), Octave(24, 8), Octave(24, 8))
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        high, low = self.body((self.high(x), self.low(x)))
        features = torch.cat([high.mean((2, 3)), low.mean((2, 3))], 1)
        return {"logits": self.head(features), "features": high.mean(1)}


class Complex(nn.Module):
    """Complex numbers in pairs of convolutions, kept side by side in the channels."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.real = nn.Parameter(torch.randn(outputs, inputs, 3, 3) * 0.1)
        self.imaginary = nn.Parameter(torch.randn(outputs, inputs, 3, 3) * 0.1)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        top, bottom = torch.cat([self.real, -self.imaginary], 1), torch.cat([self.imaginary, self.real], 1)
        return F.conv2d(x, torch.cat([top, bottom], 0), None, self.stride, 1)


class ComplexNet(nn.Module):
    size = (2, 32, 32)

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(Complex(1, 8), nn.Tanh(), Complex(8, 16, 2), nn.Tanh(), Complex(16, 16), nn.Tanh())
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        real, imaginary = self.layers(x).chunk(2, 1)
        return self.head((real.square() + imaginary.square() + 1e-6).sqrt().mean((2, 3)))


class Warped(nn.Module):
    """Maps are read at places that the net itself finds, at two scales, by one shared head."""

    size = IMAGE

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down = conv(3, 24, 3, 2), conv(24, 40, 3, 2)
        self.find, self.turn = nn.Conv2d(24, 2, 3, padding=1), nn.Linear(40, 6)
        self.side1, self.side2 = nn.Conv2d(24, 16, 1), nn.Conv2d(40, 16, 1)
        self.head = nn.Sequential(conv(16, 16), nn.Conv2d(16, 5, 1))

    def forward(self, x: Tensor) -> list[Tensor]:
        one = self.stem(x)
        grid = self.find(one).tanh().permute(0, 2, 3, 1)
        one = F.grid_sample(one, grid, align_corners=False)
        two = self.down(one)
        turn = F.affine_grid(self.turn(two.mean((2, 3))).view(-1, 2, 3), list(two.size()), align_corners=False)
        two = self.side2(F.grid_sample(two, turn, align_corners=False))
        one = self.side1(one) + F.interpolate(two, scale_factor=2.0, mode="bilinear")
        return [self.head(one), self.head(two)]
