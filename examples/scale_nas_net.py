"""Scales the network of nas_net.py to twice its cost from Python, and looks at what came out.

Run it with ``python examples/scale_nas_net.py``.
"""

from __future__ import annotations

import torch
from nas_net import nas_net

import cnnscale


def main() -> None:
    baseline = nas_net()
    model = cnnscale.scale(baseline, phi=1, input_size=(3, 224, 224), seed=0)
    print(model.scaling)

    # An ordinary module of the same class, ready to train.
    assert type(model) is type(baseline)
    images = torch.randn(2, *model.scaling.input_size)
    loss = torch.nn.functional.cross_entropy(model(images), torch.tensor([3, 14]))
    loss.backward()

    # The plan is data: keep it, read it, apply it again.
    plan = cnnscale.Plan.from_json(model.scaling.plan.to_json())
    again = cnnscale.apply(baseline, plan)
    assert cnnscale.measure(again, plan.input_size) == model.scaling.verification.scaled


if __name__ == "__main__":
    main()
