"""Whether the numbers of ``python -m cnnscale bench`` can be trusted, and what they say of our own claims.

    python benchmarks/throughput.py same         100 comparisons of a net with itself: at most 5 are called different
    python benchmarks/throughput.py twins        efficientnet_b0 scaled to b1..b4 against torchvision's own
    python benchmarks/throughput.py strategies   compound, fast and single dimensions at equal MACs, on four nets
    python benchmarks/throughput.py overhead     what a row of 8 s costs beyond its measured time: less than 10 %

Exit code 1 where a claim does not hold. A machine with other work to do makes intervals wide, not wrong.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
import torchvision
from torch import nn

import cnnscale
from cnnscale.benchmarking import Report, Settings
from cnnscale.benchmarking.comparing import compare
from cnnscale.benchmarking.variants import Built, Variant, phi_variants, plain_variant, scaled_variants
from cnnscale.measuring import measure
from cnnscale.strategies import STRATEGIES

PUBLISHED = {  # depth, width, pixels: torchvision's efficientnet.py, and the crops of its weights
    "efficientnet_b1": (1.1, 1.0, 240),
    "efficientnet_b2": (1.2, 1.1, 288),
    "efficientnet_b3": (1.4, 1.2, 300),
    "efficientnet_b4": (1.8, 1.4, 380),
}
COMPARED = ("efficientnet", "fast", "depth", "width", "resolution")


def zoo(name: str) -> nn.Module:
    return torchvision.models.get_model(name, weights=None)


def same(settings: Settings, count: int) -> bool:
    size, model = (3, 64, 64), zoo("mobilenet_v3_small")
    cost = measure(model, size)

    def variant(name: str) -> Variant:
        return Variant(
            model="net",
            name=name,
            phi=None,
            build=lambda: Built(model=copy.deepcopy(model), input_size=size, cost=cost),
        )

    verdicts = []
    for _ in range(count):
        report = compare([variant("one"), variant("other")], settings)
        verdicts.append(report.rows[1].verdict)
    different = sum(verdict in ("faster", "slower") for verdict in verdicts)
    print(f"a net against itself, {count} times: {different} called different, {verdicts.count('unclear')} unclear")
    return different <= 0.05 * count


def twins(settings: Settings, count: int) -> bool:
    print("| scaled efficientnet_b0 against | time, scaled / published | verdict |\n|---|---|---|")
    holds = True
    for name, (depth, width, pixels) in PUBLISHED.items():
        scaling = {"depth": depth, "width": width, "image_size": pixels, "input_size": (3, 224, 224)}
        scaled = scaled_variants(zoo("efficientnet_b0"), [("scaled", scaling)], name="efficientnet_b0")
        report = compare([plain_variant(name, name=name, input_size=(3, pixels, pixels)), *scaled], settings)
        (pair,) = report.pairs
        print(f"| {name} | {pair.ratio.middle:.3f} ({pair.ratio.low:.3f} to {pair.ratio.high:.3f}) | {pair.verdict} |")
        holds &= pair.verdict in ("no difference", "unclear") and pair.ratio.low <= 1 + settings.margin
    return holds


def strategies(settings: Settings, count: int) -> bool:
    """No claim: which one is fastest depends on the net and the machine. Holds where every net was scaled and timed."""
    ok = True
    print(f"| net, twice the MACs | {' | '.join(COMPARED)} |\n|{'---|' * (len(COMPARED) + 1)}")
    for name in ("resnet50", "mobilenet_v3_large", "efficientnet_b0", "regnet_y_400mf"):
        curves = {key: STRATEGIES[key] for key in COMPARED}
        report = compare(phi_variants(zoo(name), [1], curves=curves, input_size=(3, 224, 224)), settings)
        rows = report.rows[1:]
        print(f"| {name} | {' | '.join(growth(row) for row in rows)} |")
        for row in rows:
            if row.problem:
                print(f"  {row.name}: {row.problem}", file=sys.stderr)
        ok &= report.ok
    print("\nGrowth of time, with its interval, for twice the MACs; in brackets the growth of MACs that was reached.")
    return ok


def growth(row: Any) -> str:
    if row.time_growth_low is None:
        return "not timed"
    return f"{row.time_growth:.2f} ({row.time_growth_low:.2f} to {row.time_growth_high:.2f}) [{row.growth:.2f}]"


def overhead(settings: Settings, count: int) -> bool:
    """First runs, warm-up and the measurement of memory take as long for a row of one second as for one of a minute."""
    settings = replace(settings, min_time_s=8.0)
    variants = phi_variants(zoo("resnet18"), [1], input_size=(3, 224, 224))
    built_s = [0.0]
    timed = [Variant(model=v.model, name=v.name, phi=v.phi, build=clocked(v.build, built_s)) for v in variants]
    start = time.perf_counter()
    report = compare(timed, settings)
    wall_s = time.perf_counter() - start - built_s[0]
    measured_s = measured(report)
    share = wall_s / measured_s - 1
    each_s = (wall_s - measured_s) / len(report.rows)
    print(
        f"{len(report.rows)} rows: {measured_s:.1f} s measured, {wall_s:.1f} s in all but building ({share:+.1%}; "
        f"{each_s:.2f} s a row)"
    )
    return share < 0.10


def clocked(build: Callable[[], Built], total: list[float]) -> Callable[[], Built]:
    def run() -> Built:
        start = time.perf_counter()
        made = build()
        total[0] += time.perf_counter() - start
        return made

    return run


def measured(report: Report) -> float:
    """Seconds that went into the steps which the rows tell of, warm-up apart."""
    return sum(row.timing.measured_s for row in report.rows if row.timing)


CLAIMS: Mapping[str, Callable[[Settings, int], bool]] = {
    "same": same,
    "twins": twins,
    "strategies": strategies,
    "overhead": overhead,
}
LIMIT_S = {"same": 3.0, "twins": 30.0, "strategies": 60.0, "overhead": 30.0}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("claim", choices=CLAIMS)
    parser.add_argument("--count", type=int, default=100, help="comparisons of a net with itself (default 100)")
    parser.add_argument("--time-limit", type=float, help="seconds per comparison")
    parser.add_argument("--batch-size", type=int, default=1, help="images per step (default 1)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    arguments = parser.parse_args()
    limit_s = arguments.time_limit or LIMIT_S[arguments.claim]
    settings = Settings(
        batch_sizes=(arguments.batch_size,), threads=arguments.threads, time_limit_s=limit_s, single=False
    )
    versions = f"torch {torch.__version__}, cnnscale {cnnscale.__version__}"
    print(f"{versions}, {arguments.threads} thread(s), {limit_s:g} s each\n")
    holds = CLAIMS[arguments.claim](settings, arguments.count)
    print("\nholds" if holds else "\n**fails**")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
