"""Whole nets of the literature that no zoo has, each in the smallest form that still has its idea."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from literature import Residual, conv
from torch import Tensor, nn
from torch.nn.utils import parametrizations


class WaveNet(nn.Module):
    """van den Oord et al. 2016: gated dilated convolutions; every block also adds to a sum of skips."""

    size = (1, 256)

    def __init__(self, width: int = 32, skip: int = 64, layers: int = 3, stacks: int = 2) -> None:
        super().__init__()
        self.first = nn.Conv1d(1, width, 1)
        dilations = [2**i for i in range(layers)] * stacks
        self.blocks = nn.ModuleList(Gated(width, skip, d) for d in dilations)
        self.out1, self.out2 = nn.Conv1d(skip, skip, 1), nn.Conv1d(skip, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        x, total = self.first(x), 0
        for block in self.blocks:
            x, skip = block(x)
            total = total + skip
        return self.out2(F.relu(self.out1(F.relu(total))))


class Gated(nn.Module):
    def __init__(self, width: int, skip: int, dilation: int) -> None:
        super().__init__()
        self.pad = 2 * dilation
        self.conv = nn.Conv1d(width, 2 * width, 3, dilation=dilation)
        self.residual, self.skip = nn.Conv1d(width, width, 1), nn.Conv1d(width, skip, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a, b = self.conv(F.pad(x, (self.pad, 0))).chunk(2, 1)
        y = torch.tanh(a) * torch.sigmoid(b)
        return x + self.residual(y), self.skip(y)


class TCN(nn.Module):
    """Bai et al. 2018: causal blocks whose surplus is chomped off."""

    size = (4, 64)

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.net = nn.Sequential(*(Temporal(4 if i == 0 else width, width, 2**i) for i in range(4)))
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.net(x)[:, :, -1])


class Temporal(nn.Module):
    def __init__(self, inputs: int, width: int, dilation: int) -> None:
        super().__init__()
        self.chomp = 2 * dilation
        self.conv1 = parametrizations.weight_norm(nn.Conv1d(inputs, width, 3, padding=2 * dilation, dilation=dilation))
        self.conv2 = parametrizations.weight_norm(nn.Conv1d(width, width, 3, padding=2 * dilation, dilation=dilation))
        self.downsample = nn.Conv1d(inputs, width, 1) if inputs != width else None

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.conv1(x)[:, :, : -self.chomp].contiguous())
        y = F.relu(self.conv2(y)[:, :, : -self.chomp].contiguous())
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class AttentionUNet(nn.Module):
    """Oktay et al. 2018: U-Net with gates on the skips, built in lists; odd sizes are padded."""

    size = (3, 48, 48)

    def __init__(self, width: int = 16, levels: int = 3) -> None:
        super().__init__()
        widths = [width * 2**i for i in range(levels)]
        self.downs = nn.ModuleList(double(i, o) for i, o in zip([3, *widths], widths, strict=False))
        self.ups = nn.ModuleList(
            nn.ConvTranspose2d(o, i, 2, 2) for i, o in zip(widths[-2::-1], widths[:0:-1], strict=False)
        )
        self.gates = nn.ModuleList(Gate(w) for w in widths[-2::-1])
        self.joins = nn.ModuleList(double(2 * w, w) for w in widths[-2::-1])
        self.out = nn.Conv2d(width, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for i, down in enumerate(self.downs):
            x = down(x if i == 0 else F.max_pool2d(x, 2))
            skips.append(x)
        for up, gate, join, skip in zip(self.ups, self.gates, self.joins, skips[-2::-1], strict=False):
            x = up(x)
            dy, dx = skip.size(2) - x.size(2), skip.size(3) - x.size(3)
            x = F.pad(x, [dx // 2, dx - dx // 2, dy // 2, dy - dy // 2])
            x = join(torch.cat([gate(x, skip), x], 1))
        return self.out(x)


class Gate(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.g, self.x = nn.Conv2d(width, width // 2, 1), nn.Conv2d(width, width // 2, 1)
        self.psi = nn.Conv2d(width // 2, 1, 1)

    def forward(self, g: Tensor, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.psi(F.relu(self.g(g) + self.x(x))))


def double(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(*conv(inputs, outputs), *conv(outputs, outputs))


class NestedUNet(nn.Module):
    """Zhou et al. 2018 (UNet++)."""

    size = (3, 32, 32)

    def __init__(self, f=(16, 32, 64)) -> None:
        super().__init__()
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        self.conv0_0, self.conv1_0, self.conv2_0 = double(3, f[0]), double(f[0], f[1]), double(f[1], f[2])
        self.conv0_1, self.conv1_1 = double(f[0] + f[1], f[0]), double(f[1] + f[2], f[1])
        self.conv0_2 = double(2 * f[0] + f[1], f[0])
        self.final = nn.Conv2d(f[0], 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x00 = self.conv0_0(x)
        x10 = self.conv1_0(F.max_pool2d(x00, 2))
        x01 = self.conv0_1(torch.cat([x00, self.up(x10)], 1))
        x20 = self.conv2_0(F.max_pool2d(x10, 2))
        x11 = self.conv1_1(torch.cat([x10, self.up(x20)], 1))
        return self.final(self.conv0_2(torch.cat([x00, x01, self.up(x11)], 1)))


class YOLO(nn.Module):
    """CSP stages (Wang et al. 2019), SPPF, a neck that goes up and down (PANet), three heads in a list."""

    size = (3, 64, 64)

    def __init__(self, w: int = 16, anchors: int = 3, classes: int = 4) -> None:
        super().__init__()
        self.outputs = classes + 5
        self.stem = conv(3, w, 3, 2)
        self.model = nn.ModuleList(
            [conv(w, 2 * w, 3, 2), C3(2 * w, 2 * w, 1), conv(2 * w, 4 * w, 3, 2), C3(4 * w, 4 * w, 2),
             conv(4 * w, 8 * w, 3, 2), C3(8 * w, 8 * w, 1), SPPF(8 * w, 8 * w)]
        )  # fmt: skip
        self.lateral, self.up1 = conv(8 * w, 4 * w, 1), C3(8 * w, 4 * w, 1, shortcut=False)
        self.down, self.down1 = conv(4 * w, 4 * w, 3, 2), C3(8 * w, 8 * w, 1, shortcut=False)
        self.heads = nn.ModuleList(nn.Conv2d(c, anchors * self.outputs, 1) for c in (4 * w, 8 * w))
        self.anchors = anchors

    def forward(self, x: Tensor) -> list[Tensor]:
        x, saved = self.stem(x), []
        for layer in self.model:
            x = layer(x)
            saved.append(x)
        top = self.lateral(saved[-1])
        one = self.up1(torch.cat([F.interpolate(top, scale_factor=2.0), saved[3]], 1))
        two = self.down1(torch.cat([self.down(one), top], 1))
        results = []
        for head, y in zip(self.heads, (one, two), strict=False):
            result = head(y)
            b, _, h, w = result.shape
            results.append(result.view(b, self.anchors, self.outputs, h, w).permute(0, 1, 3, 4, 2).contiguous())
        return results


class Bottleneck(nn.Module):
    def __init__(self, c1: int, c2: int, shortcut: bool = True) -> None:
        super().__init__()
        self.cv1, self.cv2 = conv(c1, c2, 1), conv(c2, c2)
        self.add = shortcut and c1 == c2

    def forward(self, x: Tensor) -> Tensor:
        return x + self.cv2(self.cv1(x)) if self.add else self.cv2(self.cv1(x))


class C3(nn.Module):
    def __init__(self, c1: int, c2: int, n: int, shortcut: bool = True) -> None:
        super().__init__()
        self.cv1, self.cv2, self.cv3 = conv(c1, c2 // 2, 1), conv(c1, c2 // 2, 1), conv(c2, c2, 1)
        self.m = nn.Sequential(*(Bottleneck(c2 // 2, c2 // 2, shortcut) for _ in range(n)))

    def forward(self, x: Tensor) -> Tensor:
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))


class SPPF(nn.Module):
    def __init__(self, c1: int, c2: int) -> None:
        super().__init__()
        self.cv1, self.cv2, self.m = conv(c1, c1 // 2, 1), conv(c1 * 2, c2, 1), nn.MaxPool2d(5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.cv1(x)
        y1 = self.m(x)
        y2 = self.m(y1)
        return self.cv2(torch.cat([x, y1, y2, self.m(y2)], 1))


class C2fNet(nn.Module):
    """The growing list of YOLOv8's C2f: what each block makes is appended, and all is read at the end."""

    size = (3, 32, 32)

    def __init__(self, w: int = 32, n: int = 3) -> None:
        super().__init__()
        self.stem = conv(3, w, 3, 2)
        self.c = w // 2
        self.cv1, self.cv2 = conv(w, 2 * self.c, 1), conv((2 + n) * self.c, w, 1)
        self.m = nn.ModuleList(Bottleneck(self.c, self.c) for _ in range(n))
        self.head = nn.Linear(w, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = list(self.cv1(self.stem(x)).chunk(2, 1))
        y.extend(m(y[-1]) for m in self.m)
        return self.head(self.cv2(torch.cat(y, 1)).mean((2, 3)))


class FPN(nn.Module):
    """Lin et al. 2017: top-down sums of laterals; dict output."""

    size = (3, 64, 64)

    def __init__(self, w: int = 16, out: int = 32) -> None:
        super().__init__()
        self.stem = conv(3, w, 3, 2)
        self.layers = nn.ModuleList(
            nn.Sequential(conv(w * 2**i, w * 2 ** (i + 1), 3, 2), Residual(w * 2 ** (i + 1))) for i in range(3)
        )
        self.laterals = nn.ModuleList(nn.Conv2d(w * 2 ** (i + 1), out, 1) for i in range(3))
        self.smooth = nn.ModuleList(nn.Conv2d(out, out, 3, padding=1) for _ in range(3))
        self.classes, self.boxes = nn.Conv2d(out, 4, 3, padding=1), nn.Conv2d(out, 4, 3, padding=1)

    def forward(self, x: Tensor) -> dict[str, list[Tensor]]:
        x, maps = self.stem(x), []
        for layer in self.layers:
            x = layer(x)
            maps.append(x)
        tops = [lateral(m) for lateral, m in zip(self.laterals, maps, strict=False)]
        for i in range(len(tops) - 1, 0, -1):
            tops[i - 1] = tops[i - 1] + F.interpolate(tops[i], size=tops[i - 1].shape[-2:], mode="nearest")
        tops = [smooth(t) for smooth, t in zip(self.smooth, tops, strict=False)]
        return {"classes": [self.classes(t) for t in tops], "boxes": [self.boxes(t) for t in tops]}


class EDSR(nn.Module):
    """Lim et al. 2017: residual scaling, shuffled up twice, a mean that is a buffer."""

    size = (3, 24, 24)

    def __init__(self, width: int = 32, n: int = 4, res_scale: float = 0.1) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.4, 0.4, 0.4]).view(1, 3, 1, 1))
        self.head = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.Sequential(
            *(EDSRBlock(width, res_scale) for _ in range(n)), nn.Conv2d(width, width, 3, padding=1)
        )
        up = [layer for _ in range(2) for layer in (nn.Conv2d(width, 4 * width, 3, padding=1), nn.PixelShuffle(2))]
        self.tail = nn.Sequential(*up, nn.Conv2d(width, 3, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(x - self.mean)
        return self.tail(x + self.body(x)) + self.mean


class EDSRBlock(nn.Module):
    def __init__(self, width: int, res_scale: float) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(True), nn.Conv2d(width, width, 3, padding=1)
        )
        self.res_scale = res_scale

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x).mul(self.res_scale)


class RRDB(nn.Module):
    """Wang et al. 2018 (ESRGAN): dense blocks in residual ones, in residual ones."""

    size = (3, 16, 16)

    def __init__(self, nf: int = 32, gc: int = 16, n: int = 2) -> None:
        super().__init__()
        self.conv_first = nn.Conv2d(3, nf, 3, 1, 1)
        self.trunk = nn.Sequential(*(RRDBBlock(nf, gc) for _ in range(n)))
        self.trunk_conv, self.upconv = nn.Conv2d(nf, nf, 3, 1, 1), nn.Conv2d(nf, nf, 3, 1, 1)
        self.conv_last = nn.Conv2d(nf, 3, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        fea = self.conv_first(x)
        fea = fea + self.trunk_conv(self.trunk(fea))
        return self.conv_last(F.leaky_relu(self.upconv(F.interpolate(fea, scale_factor=2, mode="nearest")), 0.2))


class RRDBBlock(nn.Module):
    def __init__(self, nf: int, gc: int) -> None:
        super().__init__()
        self.RDB1, self.RDB2 = RDB(nf, gc), RDB(nf, gc)

    def forward(self, x: Tensor) -> Tensor:
        return self.RDB2(self.RDB1(x)) * 0.2 + x


class RDB(nn.Module):
    def __init__(self, nf: int, gc: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(nf, gc, 3, 1, 1), nn.Conv2d(nf + gc, gc, 3, 1, 1)
        self.conv3 = nn.Conv2d(nf + 2 * gc, nf, 3, 1, 1)
        self.lrelu = nn.LeakyReLU(0.2, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x1 = self.lrelu(self.conv1(x))
        x2 = self.lrelu(self.conv2(torch.cat((x, x1), 1)))
        return self.conv3(torch.cat((x, x1, x2), 1)) * 0.2 + x


class StyleGenerator(nn.Module):
    """Karras et al. 2019: a learned constant, a mapping net, modulated and demodulated kernels for each image."""

    size = (32,)

    def __init__(self, latent: int = 32, width: int = 32) -> None:
        super().__init__()
        self.mapping = nn.Sequential(*(nn.Sequential(nn.Linear(latent, latent), nn.LeakyReLU(0.2)) for _ in range(3)))
        self.constant = nn.Parameter(torch.randn(1, width, 4, 4))
        self.layers = nn.ModuleList([Modulated(width, width, latent), Modulated(width, width // 2, latent)])
        self.rgb = nn.Conv2d(width // 2, 3, 1)

    def forward(self, z: Tensor) -> Tensor:
        style = self.mapping(z)
        x = self.constant.repeat(z.shape[0], 1, 1, 1)
        for layer in self.layers:
            x = F.interpolate(layer(x, style), scale_factor=2)
        return torch.tanh(self.rgb(x))


class Modulated(nn.Module):
    def __init__(self, inputs: int, outputs: int, latent: int) -> None:
        super().__init__()
        self.inputs, self.outputs = inputs, outputs
        self.style = nn.Linear(latent, inputs)
        self.weight = nn.Parameter(torch.randn(1, outputs, inputs, 3, 3))
        self.bias = nn.Parameter(torch.zeros(1, outputs, 1, 1))

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        b, _, h, w = x.shape
        weight = self.weight * (self.style(style).view(b, 1, self.inputs, 1, 1) + 1)
        weight = weight * torch.rsqrt(weight.pow(2).sum([2, 3, 4], keepdim=True) + 1e-8)
        x = x.reshape(1, b * self.inputs, h, w)
        y = F.conv2d(x, weight.view(b * self.outputs, self.inputs, 3, 3), padding=1, groups=b)
        return F.leaky_relu(y.view(b, self.outputs, h, w) + self.bias, 0.2)


class CycleGenerator(nn.Module):
    """Zhu et al. 2017: reflection padding, instance norm, residual blocks in one flat Sequential."""

    size = (3, 32, 32)

    def __init__(self, w: int = 16, n: int = 3) -> None:
        super().__init__()
        layers = [nn.ReflectionPad2d(3), nn.Conv2d(3, w, 7), nn.InstanceNorm2d(w), nn.ReLU(True)]
        for i in (1, 2):
            layers += [nn.Conv2d(w * i, w * i * 2, 3, 2, 1), nn.InstanceNorm2d(w * i * 2), nn.ReLU(True)]
        layers += [CycleBlock(4 * w) for _ in range(n)]
        for i in (4, 2):
            layers += [
                nn.ConvTranspose2d(w * i, w * i // 2, 3, 2, 1, output_padding=1),
                nn.InstanceNorm2d(w * i // 2),
                nn.ReLU(True),
            ]
        self.model = nn.Sequential(*layers, nn.ReflectionPad2d(3), nn.Conv2d(w, 3, 7), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class CycleBlock(nn.Module):
    def __init__(self, w: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(w, w, 3),
            nn.InstanceNorm2d(w),
            nn.ReLU(True),
            nn.ReflectionPad2d(1),
            nn.Conv2d(w, w, 3),
            nn.InstanceNorm2d(w),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x)


class Discriminator(nn.Module):
    """Miyato et al. 2018: spectral norm; Karras et al. 2018: the deviation of a batch as one more channel."""

    size = (3, 32, 32)

    def __init__(self, w: int = 16) -> None:
        super().__init__()
        sn = parametrizations.spectral_norm
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(sn(nn.Conv2d(i, o, 4, 2, 1)), nn.LeakyReLU(0.1))
                for i, o in ((3, w), (w, 2 * w), (2 * w, 4 * w))
            )
        )
        self.last, self.out = sn(nn.Conv2d(4 * w + 1, 4 * w, 3, padding=1)), sn(nn.Linear(4 * w * 4 * 4, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(x)
        b, _, h, w = x.shape
        std = torch.sqrt(x.var(0, unbiased=False) + 1e-8).mean().view(1, 1, 1, 1).repeat(b, 1, h, w)
        return self.out(self.last(torch.cat([x, std], 1)).flatten(1))


class Siamese(nn.Module):
    """One encoder for two images that come side by side; compared by a correlation for each pair of places."""

    size = (6, 32, 32)

    def __init__(self, w: int = 16) -> None:
        super().__init__()
        self.encoder = nn.Sequential(conv(3, w, 3, 2), Residual(w), Residual(w))
        self.merge = nn.Conv2d(3 * w, 2 * w, 3, padding=1)
        self.head = nn.Linear(2 * w, 2)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.encoder(x[:, :3]), self.encoder(x[:, 3:])
        return self.head(F.relu(self.merge(torch.cat([a, b, (a - b).abs()], 1))).mean((2, 3)))


class ConvLSTM(nn.Module):
    """Shi et al. 2015: a cell called once for each frame; its state starts at zero."""

    size = (3, 4, 16, 16)

    def __init__(self, w: int = 32) -> None:
        super().__init__()
        self.hidden = w
        self.gates = nn.Conv2d(3 + w, 4 * w, 3, padding=1)
        self.head = nn.Conv2d(w, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, _, t, h, w = x.shape
        hidden, cell = x.new_zeros(b, self.hidden, h, w), x.new_zeros(b, self.hidden, h, w)
        for step in range(t):
            i, f, o, g = torch.split(self.gates(torch.cat([x[:, :, step], hidden], 1)), self.hidden, dim=1)
            cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
            hidden = torch.sigmoid(o) * torch.tanh(cell)
        return self.head(hidden)


class Recursive(nn.Module):
    """Kim et al. 2016 (DRCN): one layer called again and again; all its outputs are read."""

    size = (3, 16, 16)

    def __init__(self, w: int = 32, times: int = 3) -> None:
        super().__init__()
        self.times = times
        self.embed, self.again, self.out = (
            nn.Conv2d(3, w, 3, padding=1),
            nn.Conv2d(w, w, 3, padding=1),
            nn.Conv2d(w * times, 3, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        y, all_ = F.relu(self.embed(x)), []
        for _ in range(self.times):
            y = F.relu(self.again(y))
            all_.append(y)
        return x + self.out(torch.cat(all_, 1))


class PointNet(nn.Module):
    """Qi et al. 2017: 1x1 convolutions on points, and a learnt 3x3 transform of them."""

    size = (3, 64)

    def __init__(self, w: int = 32) -> None:
        super().__init__()
        self.t1, self.t2, self.t3 = nn.Conv1d(3, w, 1), nn.Conv1d(w, 2 * w, 1), nn.Linear(2 * w, 9)
        self.c1, self.c2, self.c3 = nn.Conv1d(3, w, 1), nn.Conv1d(w, 2 * w, 1), nn.Linear(2 * w, 5)
        self.bn1, self.bn2 = nn.BatchNorm1d(w), nn.BatchNorm1d(2 * w)

    def forward(self, x: Tensor) -> Tensor:
        t = self.t3(torch.max(F.relu(self.t2(F.relu(self.t1(x)))), 2, keepdim=True)[0].view(-1, self.t3.in_features))
        t = t.view(-1, 3, 3) + torch.eye(3, device=x.device).view(1, 3, 3)
        x = torch.bmm(x.transpose(2, 1), t).transpose(2, 1)
        return self.c3(torch.max(self.bn2(self.c2(F.relu(self.bn1(self.c1(x))))), 2)[0])


class Volume(nn.Module):
    """Milletari et al. 2016 (V-Net): 3-D, the image itself repeated to the width and added."""

    size = (1, 16, 16, 16)

    def __init__(self, w: int = 16) -> None:
        super().__init__()
        self.width = w
        self.first, self.norm = nn.Conv3d(1, w, 5, padding=2), nn.BatchNorm3d(w)
        self.down, self.up = nn.Conv3d(w, 2 * w, 2, 2), nn.ConvTranspose3d(2 * w, w, 2, 2)
        self.act, self.out = nn.PReLU(w), nn.Conv3d(2 * w, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.act(self.norm(self.first(x)) + x.repeat(1, self.width, 1, 1, 1))
        return self.out(torch.cat([one, self.up(self.down(one))], 1)).softmax(1)


class OptionA(nn.Module):
    """He et al. 2016, for CIFAR: shortcuts without weights, strided and padded with zeros."""

    size = (3, 32, 32)

    def __init__(self, w: int = 16, n: int = 2) -> None:
        super().__init__()
        self.stem = conv(3, w)
        self.layer1 = nn.Sequential(*(Padded(w, w, 1) for _ in range(n)))
        self.layer2 = nn.Sequential(Padded(w, 2 * w, 2), *(Padded(2 * w, 2 * w, 1) for _ in range(n - 1)))
        self.layer3 = nn.Sequential(Padded(2 * w, 4 * w, 2), *(Padded(4 * w, 4 * w, 1) for _ in range(n - 1)))
        self.linear = nn.Linear(4 * w, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(self.stem(x))))
        return self.linear(F.avg_pool2d(x, x.size()[3]).view(x.size(0), -1))


class Padded(nn.Module):
    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv(inputs, planes, 3, stride), nn.Conv2d(planes, planes, 3, padding=1)
        self.planes, self.change = planes, stride != 1 or inputs != planes

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.conv1(x))
        if self.change:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.planes // 4, self.planes // 4), "constant", 0)
        return F.relu(y + x)


class Hourglass(nn.Module):
    """Newell et al. 2016: recursion that is built of modules, twice, with what is found added back."""

    size = (3, 64, 64)

    def __init__(self, w: int = 32, stacks: int = 2, joints: int = 4) -> None:
        super().__init__()
        self.pre = conv(3, w, 7, 4)
        self.hgs = nn.ModuleList(Glass(2, w) for _ in range(stacks))
        self.features = nn.ModuleList(conv(w, w, 1) for _ in range(stacks))
        self.outs = nn.ModuleList(nn.Conv2d(w, joints, 1) for _ in range(stacks))
        self.merge_features = nn.ModuleList(nn.Conv2d(w, w, 1) for _ in range(stacks - 1))
        self.merge_preds = nn.ModuleList(nn.Conv2d(joints, w, 1) for _ in range(stacks - 1))

    def forward(self, x: Tensor) -> Tensor:
        x, preds = self.pre(x), []
        for i in range(len(self.hgs)):
            feature = self.features[i](self.hgs[i](x))
            preds.append(self.outs[i](feature))
            if i < len(self.hgs) - 1:
                x = x + self.merge_preds[i](preds[-1]) + self.merge_features[i](feature)
        return torch.stack(preds, 1)


class Glass(nn.Module):
    def __init__(self, n: int, w: int) -> None:
        super().__init__()
        self.up1, self.low1, self.low3 = Residual(w), Residual(w), Residual(w)
        self.low2 = Glass(n - 1, w) if n > 1 else Residual(w)
        self.pool = nn.MaxPool2d(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.up1(x) + F.interpolate(self.low3(self.low2(self.low1(self.pool(x)))), scale_factor=2)


class Mixed(nn.Module):
    """Depthwise kernels of several sizes on parts of the channels (MixConv), and a shuffle of channels by hand."""

    size = (3, 32, 32)

    def __init__(self, w: int = 48) -> None:
        super().__init__()
        self.stem = conv(3, w, 3, 2)
        self.parts = [w // 2, w // 4, w // 4]
        self.mix = nn.ModuleList(
            nn.Conv2d(p, p, k, padding=k // 2, groups=p) for p, k in zip(self.parts, (3, 5, 7), strict=False)
        )
        self.group = nn.Conv2d(w, 2 * w, 1, groups=3)
        self.head = nn.Linear(2 * w, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([layer(part) for layer, part in zip(self.mix, torch.split(x, self.parts, 1), strict=False)], 1)
        x = self.group(x)
        b, c, h, w = x.size()
        x = x.view(b, 3, c // 3, h, w).transpose(1, 2).contiguous().view(b, -1, h, w)
        return self.head(x.mean((2, 3)))


class Diffusion(nn.Module):
    """Ho et al. 2020 without the time: group norm, attention over places in the middle, lists of skips popped."""

    size = (3, 32, 32)

    def __init__(self, w: int = 32) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, w, 3, padding=1)
        self.down = nn.ModuleList([ResnetBlock(w, w), nn.Conv2d(w, w, 3, 2, 1), ResnetBlock(w, 2 * w)])
        self.mid1, self.mid2, self.mid3 = ResnetBlock(2 * w, 2 * w), AttnBlock(2 * w), ResnetBlock(2 * w, 2 * w)
        self.up = nn.ModuleList([ResnetBlock(4 * w, w), ResnetBlock(2 * w, w), ResnetBlock(2 * w, w)])
        self.norm, self.conv_out = nn.GroupNorm(8, w), nn.Conv2d(w, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        hs = [x]
        for layer in self.down:
            x = layer(x)
            hs.append(x)
        x = self.mid3(self.mid2(self.mid1(x)))
        for i, layer in enumerate(self.up):
            skip = hs.pop()
            if i == 2:
                x, skip = (
                    F.interpolate(x, scale_factor=2.0),
                    F.interpolate(skip, size=[2 * s for s in x.shape[2:]]) if skip.shape[2] != 2 * x.shape[2] else skip,
                )
            x = layer(torch.cat([x, skip], 1))
        return self.conv_out(F.silu(self.norm(x)))


class ResnetBlock(nn.Module):
    def __init__(self, i: int, o: int) -> None:
        super().__init__()
        self.in_channels, self.out_channels = i, o
        self.norm1, self.conv1 = nn.GroupNorm(8, i), nn.Conv2d(i, o, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(8, o), nn.Conv2d(o, o, 3, padding=1)
        if i != o:
            self.nin_shortcut = nn.Conv2d(i, o, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        return h + (self.nin_shortcut(x) if self.in_channels != self.out_channels else x)


class AttnBlock(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.norm, self.q, self.k, self.v, self.proj = (
            nn.GroupNorm(8, c),
            nn.Conv2d(c, c, 1),
            nn.Conv2d(c, c, 1),
            nn.Conv2d(c, c, 1),
            nn.Conv2d(c, c, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = self.q(h), self.k(h), self.v(h)
        b, c, hh, w = q.shape
        q = q.reshape(b, c, hh * w).permute(0, 2, 1)
        a = torch.bmm(q, k.reshape(b, c, hh * w)) * (int(c) ** (-0.5))
        a = F.softmax(a, dim=2).permute(0, 2, 1)
        return x + self.proj(torch.bmm(v.reshape(b, c, hh * w), a).reshape(b, c, hh, w))
