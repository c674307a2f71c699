"""Halve every width of the same networks with cnnscale and with Torch-Pruning, and judge both by one function.

    python benchmarks/peers.py
    python benchmarks/peers.py --rows random --limit 20

Torch-Pruning is used as its documentation recommends: a ``BasePruner`` with ``pruning_ratio=0.5`` for every layer by
itself, classifiers ignored, channels chosen at random (the cheapest way, and it leaves none out). It cuts the model
that it is given; cnnscale makes a new one, with the weights taken over, and verifies it. A network passes where the
result still runs on the same input, has the same output shape, gets finite gradients in a training step, and at least
90 % of its convolution and linear weights changed their shape. Exit code 1 where cnnscale is not the better one in
every row, in coverage and in CPU seconds per model.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import random
import signal
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path

import hypothesis
import timm
import torch
import torch_pruning
import torchvision
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from zoo import input_size, timm_model, torchvision_model
from zoo_checks import tensors

import cnnscale

CLASSES = 1000
"""Outputs of every network here; no inner layer has as many, so this is how classifiers are told."""
CHANGED = 0.9
BATCH = 2

TRANSFORMERS = ("vit", "swin", "maxvit")
TIMM = (
    "resnet18", "resnetv2_50", "wide_resnet50_2", "resnext50_32x4d", "legacy_seresnet18", "ecaresnet26t", "skresnet18",
    "resnest14d", "res2net50_14w_8s", "densenet121", "dla34", "hrnet_w18_small", "dpn48b", "vgg11", "inception_v4",
    "xception41", "cspresnet50", "cs3darknet_s", "ese_vovnet19b_slim_dw", "repvgg_a0", "regnetx_002", "selecsls42",
    "tresnet_m", "eca_nfnet_l0", "convnext_atto", "mobilenetv2_050", "mobilenetv3_small_050", "mnasnet_small",
    "efficientnet_b0", "tf_efficientnet_lite0", "mixnet_s", "rexnet_100", "ghostnet_050", "hardcorenas_a",
    "lcnet_035", "starnet_s1",
)  # fmt: skip
"""One small variant of each of 36 families of convolutional networks. The list is ours, and was written down before
either tool had seen one of them: the families that people use, then those with an unusual block."""
RANDOM, SEED = 200, 20_26


@dataclass(frozen=True)
class Net:
    name: str
    make: Callable[[], nn.Module]
    size: tuple[int, ...]


# --- the networks -----------------------------------------------------------------------------------------------------


def torchvision_nets() -> Iterator[Net]:
    for name in torchvision.models.list_models(module=torchvision.models):
        if not name.startswith(TRANSFORMERS):
            side = 299 if name == "inception_v3" else 224
            yield Net(name, lambda name=name: torchvision_model(name), (3, side, side))


def timm_nets() -> Iterator[Net]:
    for name in TIMM:
        with torch.device("meta"):
            size = input_size("timm", name, timm_model(name))
        yield Net(name, lambda name=name: timm_model(name), size)


def random_nets() -> Iterator[Net]:
    """The nets of the law tests, the same ones every time."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from nets import NetSpec, nets

    specs: dict[NetSpec, None] = {}

    @hypothesis.seed(SEED)
    @hypothesis.settings(
        max_examples=2 * RANDOM,
        phases=[hypothesis.Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(spec=nets())
    def draw(spec: NetSpec) -> None:
        specs[replace(spec, classes=CLASSES)] = None

    draw()
    for number, spec in enumerate(list(specs)[:RANDOM]):
        yield Net(f"random {number}: {spec}", spec.build, spec.size)


ROWS = {"torchvision": torchvision_nets, "timm": timm_nets, "random": random_nets}


# --- the two tools ----------------------------------------------------------------------------------------------------


def halve_cnnscale(model: nn.Module, size: tuple[int, ...]) -> nn.Module:
    return cnnscale.scale(model, width=0.5, divisor=1, weights="inherit", input_size=size)


def halve_torch_pruning(model: nn.Module, size: tuple[int, ...]) -> nn.Module:
    torch_pruning.pruner.BasePruner(
        model,
        torch.randn(1, *size),
        importance=torch_pruning.importance.RandomImportance(),
        pruning_ratio=0.5,
        ignored_layers=classifiers(model),
    ).step()
    return model


def classifiers(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, (_ConvNd, nn.Linear)) and m.weight.shape[0] == CLASSES]


TOOLS = {"cnnscale": halve_cnnscale, f"Torch-Pruning {version('torch-pruning')}": halve_torch_pruning}


# --- the judge --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    row: str
    name: str
    tool: str
    problem: str
    """Why the network did not pass; empty where it did."""
    seconds: float
    """CPU seconds of the tool alone."""


@contextmanager
def cpu_limit(limit_s: int) -> Iterator[None]:
    """Raise TimeoutError after so many CPU seconds: a busy machine fails nobody."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"took longer than {limit_s} CPU s")

    signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def weight_shapes(model: nn.Module) -> dict[str, torch.Size]:
    layers = ((path, m) for path, m in model.named_modules() if isinstance(m, (_ConvNd, nn.Linear)))
    return {path: m.weight.shape for path, m in layers if isinstance(m.weight, Tensor) and m.weight.dim() > 1}


def output_shapes(model: nn.Module, images: Tensor) -> list[torch.Size]:
    with torch.no_grad():
        return [t.shape for t in tensors(model.eval()(images))]


def judge(baseline: nn.Module, halved: nn.Module, size: tuple[int, ...]) -> str:
    """What is wrong with a network whose widths should be half of those of ``baseline``."""
    images = torch.randn(BATCH, *size)
    wanted = output_shapes(copy.deepcopy(baseline).to("meta"), images.to("meta"))
    found = output_shapes(halved, images)
    if found != wanted:
        return f"output {wanted} became {found}"
    before, after = weight_shapes(baseline), weight_shapes(halved)
    changed = sum(after.get(path) not in (None, shape) for path, shape in before.items()) / len(before)
    if changed < CHANGED:
        return f"only {changed:.0%} of the weights changed shape"
    halved.zero_grad()
    sum(t.square().mean() for t in tensors(halved.train()(images))).backward()  # type: ignore[union-attr]
    gradients = [p.grad for p in halved.parameters() if p.grad is not None]
    if not gradients or not all(gradient.isfinite().all() for gradient in gradients):
        return "a training step gives no finite gradients"
    return ""


def attempt(row: str, net: Net, tool: str, baseline: nn.Module, limit_s: int) -> Verdict:
    model = copy.deepcopy(baseline)
    torch.manual_seed(0)
    start = time.process_time()
    try:
        with cpu_limit(limit_s):
            halved = TOOLS[tool](model, net.size)
    except Exception as error:  # whatever a tool raises, it did not do its work
        seconds = time.process_time() - start
        return Verdict(row, net.name, tool, f"{type(error).__name__}: {error}", seconds)
    seconds = time.process_time() - start
    try:
        problem = judge(baseline, halved, net.size)
    except Exception as error:  # the result does not run
        problem = f"broken: {type(error).__name__}: {error}"
    return Verdict(row, net.name, tool, problem, seconds)


def warm_up() -> None:
    """Imports and caches of first use are nobody's seconds."""
    net = Net("warm-up", lambda: torchvision_model("resnet18"), (3, 64, 64))
    for tool in TOOLS:
        attempt("", net, tool, net.make(), 60)


def contest(row: str, nets: Sequence[Net], limit_s: int) -> Iterator[Verdict]:
    """Both tools on every network, in turns as to which goes first."""
    for number, net in enumerate(nets):
        baseline = net.make()
        for tool in sorted(TOOLS, reverse=bool(number % 2)):
            verdict = attempt(row, net, tool, baseline, limit_s)
            result = f"{verdict.seconds:.2f} s {verdict.problem or 'passed'}"[:150]
            print(f"{number + 1}/{len(nets)} {net.name[:40]}, {tool}: {result}", file=sys.stderr, flush=True)
            yield verdict


# --- the table --------------------------------------------------------------------------------------------------------

HEADER = "| networks | | cnnscale | {peer} | |\n|---|---|---|---|---|"


def table(verdicts: Sequence[Verdict]) -> tuple[str, bool]:
    """The table in markdown, and whether cnnscale's column is the better one throughout."""
    ours, theirs = TOOLS
    lines, better = [HEADER.format(peer=theirs)], True
    for row in dict.fromkeys(v.row for v in verdicts):
        by_tool = [[v for v in verdicts if (v.row, v.tool) == (row, tool)] for tool in (ours, theirs)]
        passed = [sum(not v.problem for v in of_tool) for of_tool in by_tool]
        median, total = (
            [f([v.seconds for v in of_tool]) for of_tool in by_tool] for f in (statistics.median, math.fsum)
        )
        number = len(by_tool[0])
        wins = passed[0] > passed[1] or passed[0] == passed[1] == number
        checks = [("passed", [f"{p} of {number}" for p in passed], wins)]
        for title, seconds in (("CPU s per model, median", median), ("CPU s, total", total)):
            checks.append((title, [f"{s:.2f}" for s in seconds], seconds[0] < seconds[1]))
        for title, cells, holds in checks:
            better &= holds
            lines.append(f"| {row} | {title} | {' | '.join(cells)} | {'holds' if holds else '**fails**'} |")
    return "\n".join(lines), better


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--limit", type=int, help="networks per row, evenly spread over it (default: all)")
    parser.add_argument("--seconds", type=int, default=120, help="CPU seconds per network and tool (default 120)")
    parser.add_argument("--json", action="store_true", help="print every verdict, one line of JSON each")
    options = parser.parse_args()
    torch.set_num_threads(1)
    random.seed(0)
    warnings.simplefilter("ignore")
    warm_up()
    verdicts = []
    for row in options.rows:
        nets = list(ROWS[row]())
        nets = nets[:: max(1, len(nets) // options.limit)][: options.limit] if options.limit else nets
        for verdict in contest(row, nets, options.seconds):
            verdicts.append(verdict)
            if options.json:
                print(json.dumps(asdict(verdict)), flush=True)
    text, better = table(verdicts)
    if not options.json:
        print(f"torch {torch.__version__}, torchvision {torchvision.__version__}, timm {timm.__version__}\n\n{text}")
    return 0 if better else 1


if __name__ == "__main__":
    sys.exit(main())
