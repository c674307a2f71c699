"""Class activation maps: which part of a picture speaks for the class that a net sees in it (paper, figure 7).

Where a net ends in a global mean and a linear layer, the map is the last feature map's channels, weighted with the
class's weights (Zhou et al. 2016, arXiv 1512.04150). For any other end the weights are the means of the score's
gradients, which are the same numbers there up to a factor (Grad-CAM, Selvaraju et al. 2017, arXiv 1610.02391, section
3.1); so gradients serve for all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # torch's own habit

from cnnscale.errors import ModelError, SearchError
from cnnscale.inputs import InputSize
from cnnscale.plotting import new_figure, save
from cnnscale.scaling import apply
from cnnscale.searching.result import as_csv

from .variants import Variant

if TYPE_CHECKING:
    from cnnscale.searching.trials import TrainFn, Trial

__all__ = ["Kept", "Maps", "activation_maps", "maps_of", "save_maps"]

PicturesOf = Callable[[InputSize], tuple[Tensor, Tensor]]
"""Images as a net of this input size takes them, (N, C, H, W), and their labels."""


@dataclass(frozen=True)
class Kept:
    """A training function that also keeps the weights as trained, for the maps."""

    train_fn: TrainFn
    folder: str
    """Seen by all workers."""

    def __call__(self, model: nn.Module, trial: Trial) -> float:
        value = self.train_fn(model, trial)
        path = _weights(self.folder, trial.candidate, trial.seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(f".{trial.token}.tmp")
        torch.save(model.state_dict(), beside)
        beside.replace(path)
        return value


def _weights(folder: str | Path, candidate: str, seed: int) -> Path:
    return Path(folder) / f"{candidate.replace(' ', '-')}-{seed}.pt"


@dataclass(frozen=True, kw_only=True)
class Maps:
    """What one net sees in each picture."""

    net: str
    images: Tensor
    """(N, H, W), from 0 to 1, at the net's own resolution."""
    maps: Tensor
    """(N, H, W), from 0 to 1: how much a place speaks for the predicted class."""
    labels: tuple[int, ...]
    predictions: tuple[int, ...]
    probabilities: tuple[float, ...]
    """Of the predicted class."""


def maps_of(
    model: Callable[[], nn.Module], nets: Mapping[str, Variant], folder: str | Path, pictures: PicturesOf, seed: int = 0
) -> tuple[Maps, ...]:
    """The maps of every net of a study, with the weights that :class:`Kept` kept of this seed.

    Raises:
        SearchError: weights are not there.
        ModelError: a net has no feature map.
    """
    found = []
    for name, variant in nets.items():
        path = _weights(folder, name, seed)
        if not path.exists():
            raise SearchError(
                f"the weights of {name}, seed {seed}, are not at {path}: remove the store and train again"
            )
        net = apply(model(), variant.plan)
        net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        images, labels = pictures(variant.plan.input_size)
        maps, scores = activation_maps(net, images)
        best = scores.softmax(1).max(1)
        found.append(
            Maps(
                net=variant.line,
                images=_stretched(images.mean(1)),
                maps=maps,
                labels=tuple(labels.tolist()),
                predictions=tuple(best.indices.tolist()),
                probabilities=tuple(best.values.tolist()),
            )
        )
    return tuple(found)


def activation_maps(net: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """For each image the map of the class that the net predicts, (N, H, W) from 0 to 1, and all scores, (N, classes).

    The feature map is the last one that a module returns and that is larger than one pixel. The net is put into eval
    mode.

    Raises:
        ModelError: there is none, or it returns something else than one row of scores per image.
    """
    net.eval()
    with torch.enable_grad(), _watched(net) as features:
        scores = net(images)
        if not isinstance(scores, Tensor) or scores.dim() != 2:
            raise ModelError(f"{type(net).__name__} returns no row of scores per image, so there is no class to map")
        if not features:
            raise ModelError(f"{type(net).__name__} has no module that returns a feature map")
        (gradient,) = torch.autograd.grad(scores.max(1).values.sum(), features[-1], allow_unused=True)
    if gradient is None:
        raise ModelError(f"the scores of {type(net).__name__} do not depend on its last feature map")
    weighted = (gradient.mean((2, 3), keepdim=True) * features[-1]).sum(1, keepdim=True).relu().detach()
    return _stretched(F.interpolate(weighted, images.shape[2:], mode="bilinear")[:, 0]), scores.detach()


@contextmanager
def _watched(net: nn.Module) -> Iterator[list[Tensor]]:
    """The feature maps that modules return meanwhile, in order."""
    seen: list[Tensor] = []

    def see(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.dim() == 4 and output.requires_grad and min(output.shape[2:]) > 1:
            seen.append(output)

    hooks = [module.register_forward_hook(see) for module in net.modules() if module is not net]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _stretched(maps: Tensor) -> Tensor:
    """Each map from 0 to 1; all 0 where it is the same everywhere."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low).clamp(min=torch.finfo(maps.dtype).tiny)


def save_maps(found: Sequence[Maps], folder: str | Path) -> list[Path]:
    """Write ``maps.png`` and ``maps.svg``, a row per picture and a column per net, and ``maps.csv``, the predictions.

    Raises:
        CnnScaleError: matplotlib is not installed, or a file cannot be written.
    """
    count = len(found[0].labels)
    figure = new_figure(1.35 * (len(found) + 1), 1.55 * count + 0.4)
    grid = figure.subplots(count, len(found) + 1, squeeze=False)
    sharpest = max(found, key=lambda maps: maps.images.shape[-1])
    for row in range(count):
        grid[row][0].imshow(sharpest.images[row].numpy(), cmap="gray")
        grid[row][0].set_title("picture" if not row else "", fontsize=8)
        grid[row][0].set_xlabel(f"class {found[0].labels[row]}", fontsize=7)
        for axes, maps in zip(grid[row][1:], found, strict=True):
            axes.imshow(maps.images[row].numpy(), cmap="gray")
            axes.imshow(maps.maps[row].numpy(), cmap="inferno", alpha=0.55)
            axes.set_title(maps.net if not row else "", fontsize=8)
            right = maps.predictions[row] == maps.labels[row]
            told = f"{maps.predictions[row]}{'' if right else ' (wrong)'}, {maps.probabilities[row]:.0%}"
            axes.set_xlabel(told, fontsize=7, color="black" if right else "#D55E00")
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
    written = [Path(folder) / f"maps{suffix}" for suffix in (".png", ".svg", ".csv")]
    for path in written[:2]:
        save(figure, path)
    rows = [
        {"net": m.net, "picture": i, "label": m.labels[i], "prediction": m.predictions[i], "p": m.probabilities[i]}
        for m in found
        for i in range(count)
    ]
    written[2].write_text(as_csv(rows), encoding="utf-8")
    return written
