"""Whether a scaled network runs as fast as the one that its authors published at that size.

    python benchmarks/twin_speed.py

EfficientNet-B0 is scaled to B4's multipliers and given the weights of torchvision's own B4, so that both compute the
same numbers. Both run in turn, round by round, and so does a second instance of torchvision's B4: how far that one
strays from the first is the noise. Exit code 1 where the scaled network is slower than noise explains.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import torch
import torchvision
from torch import Tensor, nn

import cnnscale

B4 = {"depth": 1.8, "width": 1.4, "image_size": 380}


def networks() -> dict[str, nn.Module]:
    """The published network twice and the scaled one, all with the same weights."""
    published = torchvision.models.efficientnet_b4(weights=None)
    control = torchvision.models.efficientnet_b4(weights=None)
    scaled = cnnscale.scale(torchvision.models.efficientnet_b0(weights=None), input_size=(3, 224, 224), **B4)
    weights = published.state_dict()
    for model in (control, scaled):
        model.load_state_dict(weights, strict=True)
    return {"published": published.eval(), "control": control.eval(), "scaled": scaled.eval()}


def cpu_seconds(model: nn.Module, images: Tensor) -> float:
    start = time.process_time()
    model(images)
    return time.process_time() - start


def run(models: dict[str, nn.Module], images: Tensor, rounds: int) -> dict[str, list[float]]:
    """CPU seconds of every forward pass; each round starts with another network, the first two only warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in models}
    names = list(models)
    for number in range(rounds + 2):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            elapsed = cpu_seconds(models[name], images)
            if number >= 2:
                seconds[name].append(elapsed)
    return seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=30, help="rounds (default 30)")
    parser.add_argument("--batch-size", type=int, default=1, help="images in a forward pass (default 1)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)

    models = networks()
    images = torch.randn(arguments.batch_size, 3, B4["image_size"], B4["image_size"])
    with torch.inference_mode():
        if not torch.allclose(models["scaled"](images), models["published"](images), atol=1e-5):
            print("**fails**: with equal weights the outputs differ, so there is nothing to compare")
            return 1
        seconds = run(models, images, arguments.rounds)

    print(f"torch {torch.__version__}, torchvision {torchvision.__version__}, {arguments.threads} thread(s)")
    print(f"efficientnet_b4 at 380 px, batch {arguments.batch_size}, eval mode, {arguments.rounds} rounds\n")
    print("| network | CPU ms, median | ratio to published, median | 5 % to 95 % of rounds |")
    print("|---|---|---|---|")
    median, low, high = {}, {}, {}
    for name, label in (
        ("published", "torchvision's own"),
        ("control", "torchvision's own, again"),
        ("scaled", f"efficientnet_b0 scaled, {type(models['scaled']).__name__}"),
    ):
        ratios = [mine / theirs for mine, theirs in zip(seconds[name], seconds["published"], strict=True)]
        cuts = statistics.quantiles(ratios, n=20, method="inclusive")
        median[name], low[name], high[name] = statistics.median(ratios), cuts[0], cuts[-1]
        milliseconds = statistics.median(seconds[name]) * 1e3
        print(f"| {label} | {milliseconds:.1f} | {median[name]:.3f} | {low[name]:.3f} to {high[name]:.3f} |")

    holds = median["scaled"] <= high["control"]
    noise = f"{low['control']:.3f} to {high['control']:.3f}"
    print(f"\n{'holds' if holds else '**fails**'}: {median['scaled']:.3f}, where noise alone gives {noise}")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
