"""Compound scaling of any convolutional network.

    import cnnscale, torchvision

    model = cnnscale.scale(torchvision.models.resnet50(), phi=1)   # an nn.Module that costs twice as much
    model.scaling.input_size                                        # the input that goes with it, (C, H, W)
    print(model.scaling)                                            # what was planned, and what it measured

``scale`` is ``plan`` (data, no network) followed by ``apply`` (the network); ``measure`` and ``verify`` count what a
network costs. Every error derives from ``CnnScaleError``.
"""

import importlib
from typing import TYPE_CHECKING, Any

from .budgets import Budget, Cost, Measurement
from .coefficients import EFFICIENTNET, Coefficients, Multipliers
from .errors import (
    BudgetError,
    CnnScaleError,
    ExportError,
    ExportWarning,
    GrowthError,
    GrowthWarning,
    ModelError,
    PlanError,
    PreserveError,
    RewriteError,
    SearchError,
    TraceError,
    UnsupportedOpError,
    UsageError,
    WidthError,
)
from .plans import Family, Plan
from .publications import Published, published
from .records import Preservation, Scaling, Verification
from .searching.grid import Grid
from .strategies import DEPTH, EFFICIENTNET_V2, FAST, RESNET_RS, RESOLUTION, TINY, WIDTH, Strategy

if TYPE_CHECKING:
    from .measuring import measure
    from .scaling import apply, family, plan, scale, verify
    from .searching.search import search
    from .transferring import grow_state, transfer_ema, transfer_optimizer

__version__ = "0.1.0"

__all__ = [
    "DEPTH",
    "EFFICIENTNET",
    "EFFICIENTNET_V2",
    "FAST",
    "RESNET_RS",
    "RESOLUTION",
    "TINY",
    "WIDTH",
    "Budget",
    "BudgetError",
    "CnnScaleError",
    "Coefficients",
    "Cost",
    "ExportError",
    "ExportWarning",
    "Family",
    "Grid",
    "GrowthError",
    "GrowthWarning",
    "Measurement",
    "ModelError",
    "Multipliers",
    "Plan",
    "PlanError",
    "Preservation",
    "PreserveError",
    "Published",
    "RewriteError",
    "Scaling",
    "SearchError",
    "Strategy",
    "TraceError",
    "UnsupportedOpError",
    "UsageError",
    "Verification",
    "WidthError",
    "apply",
    "family",
    "grow_state",
    "measure",
    "plan",
    "published",
    "scale",
    "search",
    "transfer_ema",
    "transfer_optimizer",
    "verify",
]

_WITH_TORCH = {"measure": "measuring"} | dict.fromkeys(("apply", "family", "plan", "scale", "verify"), "scaling")
_WITH_TORCH |= dict.fromkeys(("grow_state", "transfer_ema", "transfer_optimizer"), "transferring")
_WITH_TORCH |= {"search": "searching.search"}


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is first used (PEP 562): ``python -m cnnscale --help`` does without."""
    if name not in _WITH_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_WITH_TORCH[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
