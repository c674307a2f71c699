"""Does every strategy reach its target? Plans only: no network is built.

    python benchmarks/strategies.py --report docs/strategy-targets.md

Every share strategy takes every network to 2, 4, 8 and 16 times its MACs; the miss is how far the planned MACs are from
that. The claims: the median miss is below 1 %, the worst below 3 %, and no network stays as it is. Beside them stands
what others have measured of pycls' own scaler on such networks. Exit code 1 where a claim fails.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator
from typing import NamedTuple

import timm
import torchvision
from torch import nn

import cnnscale

NETS = {
    "EfficientNet-B0": "torchvision:efficientnet_b0",
    "ResNet-50": "torchvision:resnet50",
    "RegNetX-600MF": "timm:regnetx_006",
    "RegNetX-4GF": "timm:regnetx_040",
    "RegNetY-600MF": "timm:regnety_006",
    "RegNetY-4GF": "timm:regnety_040",
}
SHARES = {
    "d": {"d": 1},
    "w": {"w": 1},
    "r": {"r": 1},
    "dw": {"d": 1, "w": 1},
    "dr": {"d": 1, "r": 1},
    "wr": {"w": 1, "r": 1},
    "dwr": {"d": 1, "w": 1, "r": 1},
    "d1_w2_r1": {"d": 1, "w": 2, "r": 1},
    "d1_w4_r1": {"d": 1, "w": 4, "r": 1},
    "d1_w8_r1": {"d": 1, "w": 8, "r": 1},
    "d2_w1_r1": {"d": 2, "w": 1, "r": 1},
}
TARGETS = (2, 4, 8, 16)
MEDIAN, WORST = 0.01, 0.03
TOLERANCE = 0.005
PYCLS = {"runs": 264, "median": 0.062, "worst": 0.536}
"""As reported of pycls' ``models/scaler.py`` for EfficientNet-B0, ResNet-50 and RegNetX/Y."""


class Run(NamedTuple):
    net: str
    shares: str
    target: int
    plan: cnnscale.Plan

    @property
    def miss(self) -> float:
        return abs(self.plan.growth / self.target - 1)


def built(name: str) -> nn.Module:
    library, _, net = name.partition(":")
    make = torchvision.models.get_model if library == "torchvision" else timm.create_model
    return make(net).to("meta")


def runs(nets: dict[str, str]) -> Iterator[Run]:
    for net, name in nets.items():
        model = built(name)
        for shares, values in SHARES.items():
            strategy = cnnscale.Strategy.from_shares(**values)
            for target in TARGETS:
                plan = cnnscale.plan(
                    model, growth=target, coefficients=strategy, tolerance=TOLERANCE, input_size=(3, 224, 224)
                )
                yield Run(net, shares, target, plan)
        print(f"{net} done", file=sys.stderr)


def main() -> int:
    r = list(runs(NETS))
    for x in sorted(r, key=lambda x: -x.miss)[:25]:
        print(
            x.net,
            x.shares,
            x.target,
            round(x.plan.growth, 3),
            round(x.miss, 4),
            x.plan.input_size,
            [s.new_repeats for s in x.plan.stages],
            x.plan.achieved,
        )
    print(statistics.median(x.miss for x in r), max(x.miss for x in r))


if __name__ == "__main__":
    sys.exit(main())
