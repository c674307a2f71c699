"""What a search or a study will cost, told before anything trains."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from cnnscale.batches import Batch
from cnnscale.plans import Plan
from cnnscale.scaling import apply

__all__ = ["Forecast", "forecast"]

_PASSES = 3
"""Forward, and backward, which is about two of it (D. Amodei, D. Hernandez, AI and Compute, 2018, appendix)."""
_STEPS = 3


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """The size of the work."""

    trainings: int
    images: int
    """That all trainings see together."""
    macs: int
    """Of forward and backward passes."""
    seconds: float
    """An estimate, from a few steps of a few of the nets on an otherwise idle machine."""
    workers: int


def forecast(
    model: nn.Module,
    work: Sequence[tuple[Plan, int]],
    *,
    trainings: int,
    batch_size: int,
    workers: int,
    threads: int = 1,
    device: str = "cpu",
) -> Forecast:
    """The cost of training nets on so many images each.

    Args:
        model: the baseline.
        work: (plan, images that its trainings see).
        trainings: how many there are.
        batch_size: images per step.
        workers: how many trainings run at once.
        threads: CPU threads of each.
        device: what they run on.
    """
    pairs = sorted(work, key=lambda pair: pair[0].after.macs)
    probed = [pairs[i][0] for i in sorted({0, len(pairs) // 2, len(pairs) - 1})]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        seconds = sum(_seconds_per_image(model, plan, batch_size, torch.device(device)) for plan in probed)
    finally:
        torch.set_num_threads(before)
    forward = sum(plan.after.macs * images for plan, images in pairs)
    return Forecast(
        trainings=trainings,
        images=sum(images for _, images in pairs),
        macs=_PASSES * forward,
        seconds=seconds / sum(plan.after.macs for plan in probed) * forward / workers,
        workers=workers,
    )


def _seconds_per_image(model: nn.Module, plan: Plan, batch_size: int, device: torch.device) -> float:
    """Of one training step, after a first one that allocates and chooses algorithms."""
    net = apply(model, plan).to(device).train()
    optimizer = torch.optim.AdamW(net.parameters())
    batch = Batch.of(plan.input_size, lambda size: torch.randn(batch_size, *size, device=device))
    start = 0.0
    for step in range(_STEPS + 1):
        if step == 1:
            start = _now(device)
        optimizer.zero_grad()
        batch.into(net).float().square().mean().backward()
        optimizer.step()
    return (_now(device) - start) / _STEPS / batch_size


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
