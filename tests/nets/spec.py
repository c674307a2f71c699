"""Specs of random staged CNNs: small, frozen, printed as the expression that makes them again."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import blocks
from .layers import BlurPool, Style, conv_norm
from .stages import CrossStage, DenseDict, DenseList, GatherStage, Transition, contain

BLOCKS: dict[str, type[nn.Module]] = {
    "plain": blocks.Plain,
    "separable": blocks.Separable,
    "basic": blocks.Basic,
    "preact": blocks.PreAct,
    "bottleneck": blocks.Bottleneck,
    "inverted": blocks.Inverted,
    "grouped": blocks.Grouped,
    "concat": blocks.Concat,
    "split": blocks.Split,
    "layer_scale": blocks.LayerScale,
}
COMPOSITES = {"dense_dict": "DenseLayer", "dense_list": "DenseLayer", "csp": "Basic", "gather": "Basic"}
"""Kinds whose repeats are inside one module, and the class that repeats there."""


class _Short:
    """A dataclass whose repr leaves defaults out."""

    def __repr__(self) -> str:
        shown = (f for f in fields(self) if getattr(self, f.name) != f.default)  # type: ignore[arg-type]
        return f"{type(self).__name__}({', '.join(f'{f.name}={getattr(self, f.name)!r}' for f in shown)})"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """What hypothesis prints."""
        printer.text(repr(self))


@dataclass(frozen=True, repr=False)
class StageSpec(_Short):
    kind: str = "plain"
    width: int = 12
    repeats: int = 1
    stride: int = 1
    shortcut: str = "project"
    """project, identity, use_res or shape; see ``blocks.Residual``."""
    ratio: int = 2
    """Expansion of inverted and layer_scale, reduction of bottleneck."""
    groups: int = 1
    se: int = 0
    """Reduction of squeeze-excitation; 0: none."""
    kernel: int = 3
    growth: int = 8
    """Channels that each dense layer adds."""
    cut: str = "chunk"
    """How a split block cuts its input: chunk, split, sizes or slice."""

    @property
    def block(self) -> str:
        """Class name of what repeats."""
        return COMPOSITES.get(self.kind) or BLOCKS[self.kind].__name__

    @property
    def unit_count(self) -> int:
        """How many modules :meth:`units` returns."""
        if self.kind in COMPOSITES:
            return 2 if self.kind.startswith("dense") else 1
        return self.repeats + (self.kind == "layer_scale")

    @property
    def last_of_body(self) -> int:
        """Where in an inverted block's body its last convolution is."""
        return (1 if self.ratio != 1 else 0) + 2 + (1 if self.se else 0)

    def units(self, cin: int, style: Style, rates: Iterable[float]) -> list[nn.Module]:
        """The modules of this stage, in order."""
        drop = iter(rates)
        match self.kind:
            case "dense_dict" | "dense_list":
                dense = (DenseDict if self.kind == "dense_dict" else DenseList)(cin, self, style)
                return [dense, Transition(cin + self.repeats * self.growth, self.width, self.stride, style)]
            case "csp":
                return [CrossStage(cin, self, style)]
            case "gather":
                return [GatherStage(cin, self, style)]
            case "layer_scale":
                opening = [blocks.Down(cin, self.width, self.stride, style)]
                block = blocks.LayerScale
                return opening + [
                    block(self.width, self.width, 1, self, style, next(drop)) for _ in range(self.repeats)
                ]
        block = BLOCKS[self.kind]
        first = block(cin, self.width, self.stride, self, style, next(drop))
        return [first, *(block(self.width, self.width, 1, self, style, next(drop)) for _ in range(self.repeats - 1))]


@dataclass(frozen=True, repr=False)
class NetSpec(_Short):
    stages: tuple[StageSpec, ...] = (StageSpec(),)
    size: tuple[int, int, int] = (3, 32, 32)
    stem: str = "conv"
    """conv, strided, pooled, patch, blurred or none (the first stage reads the image)."""
    stem_width: int = 16
    norm: str = "bn"
    act: str = "relu"
    conv: str = "conv"
    container: str = "sequential"
    head: str = "gap"
    """gap, mean, view, conv, hidden, grid or grid_pool."""
    classes: int = 10
    dropout: float = 0.0
    functional_dropout: bool = False
    drop_path: float = 0.0
    extra: str = ""
    """After the stages: ``twice`` (one module called twice), ``tied`` (two with one weight)."""
    fuse: bool = False
    """Add the feature maps of the last two stages, resized to one another."""
    aux: bool = False
    """A second head, in training mode only."""

    @property
    def style(self) -> Style:
        return Style(self.norm, self.act, self.conv)

    def build(self, *, device: str = "cpu", seed: int = 0) -> nn.Module:
        """The module; the global RNG is left as it was."""
        with torch.random.fork_rng(devices=[]), torch.device(device):
            torch.manual_seed(seed)
            return Net(self)


OUTPUTS = {
    "plain": ("conv",),
    "separable": ("pointwise",),
    "basic": ("conv2",),
    "preact": ("conv2",),
    "bottleneck": ("conv3",),
    "grouped": ("conv",),
    "concat": ("branch1.conv", "branch3.1.conv", "branch_pool.conv"),
    "split": ("branch2.3", "branch2.3"),
    "layer_scale": ("pwconv2",),
    "dense_dict": ("0",),
    "dense_list": ("0",),
    "csp": ("merge.conv",),
    "gather": ("merge.conv",),
}
"""kind -> the layers of its last unit whose output channels add up to the stage's."""


def output_layers(spec: NetSpec) -> list[list[str]]:
    """Module paths of the layers that say how wide the stem and each stage are."""
    forked = spec.fuse or spec.aux
    units = [[nn.Identity() for _ in range(stage.unit_count)] for stage in spec.stages]
    roots = {"early": units[:-1], "late": units[-1:]} if forked else {"stages": units}
    flat = spec.container == "flat" and not forked
    stem = {"none": 0, "pooled": 2, "blurred": 2, "patch": 2}.get(spec.stem, 1)
    names = {
        id(module): f"features.{stem + int(name)}" if flat else f"{root}.{name}"
        for root, stages in roots.items()
        for name, module in contain(spec.container, stages).named_modules()
        if name
    }
    stem_layer = {"none": [], "patch": ["0"]}.get(spec.stem, ["0.conv"])
    layers = [[f"features.{layer}" if flat else f"stem.{layer}" for layer in stem_layer]]
    for stage, modules in zip(spec.stages, units, strict=True):
        inner = OUTPUTS.get(stage.kind) or (f"body.{stage.last_of_body}",)
        layers.append([f"{names[id(modules[-1])]}.{layer}" for layer in inner])
    return layers


class Refine(nn.Module):
    """A convolution on the residual, called twice by the net."""

    def __init__(self, width: int, style: Style) -> None:
        super().__init__()
        self.body = conv_norm(style, width, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Tied(nn.Module):
    """Two convolutions that share one weight."""

    def __init__(self, width: int, style: Style) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.conv2.weight = self.conv1.weight
        self.norm = style.make_norm(width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(self.conv2(torch.tanh(self.conv1(x))))


def make_stem(spec: NetSpec) -> nn.Module:
    channels, width, style = spec.size[0], spec.stem_width, spec.style
    if spec.stem == "none":
        return nn.Identity()
    if spec.stem == "patch":
        return nn.Sequential(nn.Conv2d(channels, width, 4, stride=4), style.make_norm(width))
    kernel, stride = {"conv": (3, 1), "strided": (3, 2), "pooled": (7, 2), "blurred": (3, 1)}[spec.stem]
    stage = StageSpec(kernel=kernel)
    stem: list[nn.Module] = [blocks.Plain(channels, width, stride, stage, style, 0.0)]
    if spec.stem == "pooled":
        stem.append(nn.MaxPool2d(3, stride=2, padding=1))
    elif spec.stem == "blurred":
        stem.append(BlurPool(width))
    return nn.Sequential(*stem)


class Head(nn.Module):
    """From the last feature map to classes."""

    def __init__(self, spec: NetSpec, cin: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.kind, self.rate, self.functional_dropout = spec.head, spec.dropout, spec.functional_dropout
        style, hidden = spec.style, 2 * cin
        self.drop = nn.Dropout(spec.dropout)
        if self.kind == "conv":
            self.conv = blocks.Plain(cin, hidden, 1, StageSpec(kernel=1), style, 0.0)
        elif self.kind == "hidden":
            self.hidden = nn.Linear(cin, hidden)
        elif self.kind == "grid_pool":
            grid = (2, 3)
        features = cin * grid[0] * grid[1] if self.kind.startswith("grid") else cin
        self.pool = nn.AdaptiveAvgPool2d(grid if self.kind == "grid_pool" else 1)
        self.fc = nn.Linear(hidden if self.kind in ("conv", "hidden") else features, spec.classes)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "mean":
            x = x.mean((2, 3))
        elif self.kind == "view":
            x = F.adaptive_avg_pool2d(x, (1, 1))
            x = x.view(x.size(0), -1)
        elif self.kind == "grid":
            x = x.flatten(1)
        elif self.kind == "conv":
            x = torch.flatten(self.pool(self.conv(x)), 1)
        elif self.kind == "hidden":
            x = F.relu(self.hidden(torch.flatten(self.pool(x), 1)), inplace=True)
        else:
            x = torch.flatten(self.pool(x), 1)
        x = F.dropout(x, p=self.rate, training=self.training) if self.functional_dropout else self.drop(x)
        return self.fc(x)


class Net(nn.Module):
    """A stem, stages, a head; and what the spec adds between them."""

    def __init__(self, spec: NetSpec) -> None:
        super().__init__()
        style = spec.style
        cin = spec.size[0] if spec.stem == "none" else spec.stem_width
        stages, rates = [], drop_rates(spec)
        mid = cin
        for stage in spec.stages:
            mid = cin
            stages.append(stage.units(cin, style, (next(rates) for _ in range(stage.repeats))))
            cin = stage.width
        if spec.container == "flat" and not spec.fuse and not spec.aux:
            self.features = nn.Sequential(*make_stem(spec).children(), *contain("flat", stages).children())
        elif spec.fuse or spec.aux:
            self.stem = make_stem(spec)
            self.early = contain(spec.container, stages[:-1])
            self.late = contain(spec.container, stages[-1:])
        else:
            self.stem = make_stem(spec)
            self.stages = contain(spec.container, stages)
        self.lateral = nn.Conv2d(mid, cin, 1) if spec.fuse else None
        self.refine = Refine(cin, style) if spec.extra == "twice" else None
        self.tied = Tied(cin, style) if spec.extra == "tied" else None
        self.aux = (
            nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(mid, spec.classes)) if spec.aux else None
        )
        grid = spatial(self, spec) if spec.head == "grid" else (1, 1)
        self.head = Head(spec, cin, grid)

    def trunk(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if hasattr(self, "features"):
            x = mid = self.features(x)
        elif hasattr(self, "stages"):
            x = mid = self.stages(self.stem(x))
        else:
            mid = self.early(self.stem(x))
            x = self.late(mid)
        if self.lateral is not None:
            x = x + F.interpolate(self.lateral(mid), size=x.shape[-2:], mode="nearest")
        if self.refine is not None:
            x = self.refine(self.refine(x))
        if self.tied is not None:
            x = self.tied(x)
        return x, mid

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x, mid = self.trunk(x)
        if self.training and self.aux is not None:
            return self.head(x), self.aux(mid)
        return self.head(x)


def drop_rates(spec: NetSpec) -> Any:
    """Stochastic depth, linear in the block's index over the net."""
    total = sum(stage.repeats for stage in spec.stages)
    return (spec.drop_path * i / max(1, total - 1) for i in range(total))


def spatial(net: Net, spec: NetSpec) -> tuple[int, int]:
    """Height and width of the last feature map."""
    probe = copy.deepcopy(net).to("meta").eval()
    height, width = probe.trunk(torch.empty(1, *spec.size, device="meta"))[0].shape[-2:]
    return int(height), int(width)
