"""Compound scaling of any convolutional network.

    import cnnscale, torchvision

    model = cnnscale.scale(torchvision.models.resnet50(), phi=1)   # an nn.Module that costs twice as much
    model.scaling.input_size                                        # the input that goes with it, (C, H, W)
    print(model.scaling)                                            # what was planned, and what it measured

``scale`` is ``plan`` (data, no network) followed by ``apply`` (the network); ``measure`` and ``verify`` count what a
network costs. Every error derives from ``CnnScaleError``.
"""

from .coefficients import EFFICIENTNET, Coefficients, Multipliers
from .errors import (
    CnnScaleError,
    GrowthError,
    GrowthWarning,
    ModelError,
    PlanError,
    RewriteError,
    TraceError,
    UnsupportedOpError,
    UsageError,
    WidthError,
)
from .measuring import measure
from .plans import Cost, Plan
from .records import Scaling, Verification
from .scaling import apply, plan, scale, verify

__version__ = "0.1.0"

__all__ = [
    "EFFICIENTNET",
    "CnnScaleError",
    "Coefficients",
    "Cost",
    "GrowthError",
    "GrowthWarning",
    "ModelError",
    "Multipliers",
    "Plan",
    "PlanError",
    "RewriteError",
    "Scaling",
    "TraceError",
    "UnsupportedOpError",
    "UsageError",
    "Verification",
    "WidthError",
    "apply",
    "measure",
    "plan",
    "scale",
    "verify",
]
