"""Pictures in files, in a folder per class, brought to one size.

A picture is scaled, antialiased, until it covers the size, and what juts out is cut off on both sides alike: it is
never distorted. All are kept in memory as bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch

from .errors import CnnScaleError, UsageError

__all__ = ["find_files", "read_files"]


def find_files(folder: Path) -> tuple[list[tuple[Path, int]], tuple[str, ...]]:
    """((file, class), ...) and the names of the classes, in the order of the alphabet.

    Raises:
        UsageError: there is no class, or one without pictures.
        CnnScaleError: torchvision is not installed.
    """
    try:
        from torchvision.datasets import ImageFolder
    except ModuleNotFoundError as error:
        raise CnnScaleError('pictures in files are read by torchvision: pip install "cnnscale[search]"') from error
    try:
        found = ImageFolder(str(folder))
    except FileNotFoundError as error:
        raise UsageError(f"{folder} needs a folder of pictures per class: {error}") from error
    return [(Path(path), label) for path, label in found.samples], tuple(found.classes)


def read_files(paths: Sequence[Path], sides: Sequence[int]) -> torch.Tensor:
    """The pictures as bytes, (N, 3, H, W), for sides (H, W) in pixels.

    Raises:
        UsageError: a file is no picture.
    """
    images = torch.empty(len(paths), 3, *sides, dtype=torch.uint8)
    for image, path in zip(images, paths, strict=True):
        image.copy_(_covering(path, sides))
    return images


def _covering(path: Path, sides: Sequence[int]) -> torch.Tensor:
    from PIL import Image, ImageOps
    from torchvision.transforms.v2 import functional as transforms

    try:
        with Image.open(path) as file:
            picture = transforms.pil_to_tensor(ImageOps.exif_transpose(file).convert("RGB"))
    except OSError as error:
        raise UsageError(f"cannot read {path} as a picture: {error}") from error
    scale = max(wanted / has for wanted, has in zip(sides, picture.shape[1:], strict=True))
    scaled = [math.ceil(round(has * scale, 6)) for has in picture.shape[1:]]
    cut: torch.Tensor = transforms.center_crop(transforms.resize(picture, scaled, antialias=True), list(sides))
    return cut
