"""A training function for image classifiers, ready for :func:`cnnscale.search` and the studies.

Images are brought to the trial's resolution; AdamW under a one-cycle learning rate that comes down within the trial's
share of the epochs, whatever it is; mixed precision on CUDA. A checkpoint an epoch: a killed training goes on from
there, and to the same weights as if it had not been killed.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  # torch's own habit

from .datasets import CLUTTER, Pictures, Split, count_pictures, load_pictures
from .errors import UsageError
from .inputs import Inputs, InputSize, Size

if TYPE_CHECKING:
    from .searching.trials import Trial

__all__ = ["Classification"]

_EVAL_BATCH = 512
_MOMENTS_OF = 4000
"""Pictures, or nearly twice as many."""


@dataclass(frozen=True, kw_only=True)
class Classification:
    """Trains a classifier and returns its accuracy, from 0 to 1.

    Raises:
        UsageError: a number is out of range.
    """

    data: str = CLUTTER
    """``mnist-clutter``, or a folder of tensors or pictures (:func:`cnnscale.datasets.load_pictures`)."""
    epochs: int = 6
    """Of the full schedule."""
    batch_size: int = 128
    lr: float = 0.01
    """The highest that the one-cycle schedule reaches."""
    weight_decay: float = 0.05
    label_smoothing: float = 0.0
    ema: float | None = None
    """Decay of an exponential moving average of the weights, which is then what is scored."""
    score_on: Split = "validation"
    """Choose by validation; report on the test set."""

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 2 or self.lr <= 0:
            raise UsageError("epochs, batch size and learning rate must be positive, the batch size 2 at least")

    def __call__(self, model: nn.Module, trial: Trial) -> float:
        return _Run(self, model, trial).score()

    def pictures(self, split: Split, input_size: InputSize) -> tuple[torch.Tensor, torch.Tensor]:
        """A split as a net of this input size takes it, (N, C, H, W), and its labels, (N,).

        Raises:
            UsageError: there is no such split, or the net takes something else.
        """
        size = _picture_size(input_size)
        pictures, (mean, std) = _resized(self.data, split, size), _moments(self.data, size)
        return (pictures.images.float() / 255 - mean) / std, pictures.labels

    def images(self, share: float) -> int:
        """How many pictures one training sees."""
        return self.epochs_of(share) * count_pictures(self.data, "train")

    def epochs_of(self, share: float) -> int:
        return max(1, round(self.epochs * share))


class _Run:
    """One training."""

    def __init__(self, settings: Classification, model: nn.Module, trial: Trial) -> None:
        self.settings, self.trial = settings, trial
        self.model = model.to(memory_format=torch.channels_last)  # a quarter less time on a CPU
        size = _picture_size(trial.input_size)
        self.train_set = _on(_resized(settings.data, "train", size), trial.device)
        self.scored = _on(_resized(settings.data, settings.score_on, size), trial.device)
        self.mean, self.std = _moments(settings.data, size)
        self.epochs = settings.epochs_of(trial.share)
        steps = self.epochs * self.batches
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, settings.lr, total_steps=steps + 1)
        self.averaged = copy.deepcopy(model) if settings.ema else None
        self.autocast = torch.autocast(trial.device.type, torch.bfloat16, enabled=trial.device.type == "cuda")

    @property
    def batches(self) -> int:
        """A last batch that is not full is left out: a batch norm cannot do with one image."""
        return len(self.train_set.labels) // self.settings.batch_size

    def score(self) -> float:
        for epoch in range(self._resumed(), self.epochs):
            self._epoch(epoch)
            self.trial.save(self._state(epoch + 1))
            self.trial.report(epoch + 1, self.epochs)
        return self._accuracy(self.averaged or self.model)

    def _epoch(self, epoch: int) -> None:
        self.model.train()
        generator = torch.Generator().manual_seed(self.trial.seed * 10_007 + epoch)
        order = torch.randperm(len(self.train_set.labels), generator=generator)
        for i in range(self.batches):
            chosen = order[i * self.settings.batch_size : (i + 1) * self.settings.batch_size]
            self._step(chosen.to(self.trial.device))
            self.schedule.step()

    def _step(self, chosen: torch.Tensor) -> None:
        with self.autocast:
            scores = self.model(self._batch(self.train_set, chosen))
            labels, smoothing = self.train_set.labels[chosen], self.settings.label_smoothing
            if scores.shape[1] <= int(labels.max()):
                raise UsageError(f"the net has {scores.shape[1]} outputs, but the data a class {int(labels.max())}")
            loss = F.cross_entropy(scores, labels, label_smoothing=smoothing)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's
        self.optimizer.step()
        if self.averaged is not None and self.settings.ema:
            _average(self.averaged, self.model, self.settings.ema)

    def _batch(self, pictures: Pictures, chosen: torch.Tensor | slice) -> torch.Tensor:
        images = (pictures.images[chosen].float() / 255 - self.mean) / self.std
        return images.contiguous(memory_format=torch.channels_last)

    @torch.no_grad()
    def _accuracy(self, model: nn.Module) -> float:
        model.eval()
        right = 0
        for start in range(0, len(self.scored.labels), _EVAL_BATCH):
            chosen = slice(start, start + _EVAL_BATCH)
            with self.autocast:
                scores = model(self._batch(self.scored, chosen))
            right += int((scores.argmax(1) == self.scored.labels[chosen]).sum())
        return right / len(self.scored.labels)

    def _parts(self) -> Iterator[tuple[str, Any]]:
        """Everything that has a state."""
        yield from (("model", self.model), ("optimizer", self.optimizer), ("schedule", self.schedule))
        if self.averaged is not None:
            yield "averaged", self.averaged

    def _state(self, epoch: int) -> dict[str, Any]:
        """What the rest of the training depends on; the generator matters where the net has dropout."""
        states = {name: part.state_dict() for name, part in self._parts()}
        return {"epoch": epoch, "generator": torch.get_rng_state(), **states}

    def _resumed(self) -> int:
        """Take up the last checkpoint, where there is one; the epoch to go on with."""
        state = self.trial.load()
        if state is None:
            return 0
        for name, part in self._parts():
            part.load_state_dict(state[name])
        torch.set_rng_state(state["generator"].cpu())
        return int(state["epoch"])


def _picture_size(input_size: InputSize) -> Size:
    """The size of the net's only input.

    Raises:
        UsageError: it has several.
    """
    inputs = Inputs.of(input_size)
    if len(inputs.sizes) > 1:
        raise UsageError(f"pictures and labels train a net of one input, and this one has {len(inputs.sizes)}")
    return inputs.sizes[0]


@lru_cache(maxsize=2)
def _resized(data: str, split: Split, input_size: Size) -> Pictures:
    """A split at a resolution, antialiased, with the channels that the net takes: 3 equal ones of 1, or their mean."""
    pictures = load_pictures(data, split, input_size)
    from torchvision.transforms.v2 import functional as transforms

    images = transforms.resize(pictures.images, list(input_size[1:]), antialias=True)
    if images.shape[1] == 1 < input_size[0]:
        images = images.expand(-1, input_size[0], -1, -1)
    elif images.shape[1] == 3 and input_size[0] == 1:
        images = transforms.rgb_to_grayscale(images)
    if images.shape[1] != input_size[0]:
        raise UsageError(f"the net takes {input_size[0]} channels, the pictures of {data} have {images.shape[1]}")
    return Pictures(images, pictures.labels)


@lru_cache(maxsize=2)
def _moments(data: str, input_size: Size) -> tuple[float, float]:
    """Mean and standard deviation of the pixels of some thousands of the training pictures, from 0 to 1."""
    images = load_pictures(data, "train", input_size).images
    pixels = images[:: max(1, len(images) // _MOMENTS_OF)].float() / 255
    return float(pixels.mean()), float(pixels.std())


def _on(pictures: Pictures, device: torch.device) -> Pictures:
    return Pictures(pictures.images.to(device), pictures.labels.to(device))


@torch.no_grad()
def _average(averaged: nn.Module, model: nn.Module, decay: float) -> None:
    for weight, new in zip(averaged.parameters(), model.parameters(), strict=True):
        weight.lerp_(new, 1 - decay)
    for buffer, current in zip(averaged.buffers(), model.buffers(), strict=True):
        buffer.copy_(current)
