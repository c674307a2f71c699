"""Every error and warning that cnnscale raises on purpose.

    CnnScaleError
    ├── UsageError          arguments that contradict each other or lie out of range
    ├── ModelError          the model could not be loaded, built or run at the baseline's input size
    ├── TraceError          torch.fx could not follow the model's forward
    ├── UnsupportedOpError  no width rule for an operation on the path of a channel
    ├── WidthError          no assignment of widths satisfies the model
    ├── BudgetError         no network on the strategy's curve meets the budget
    ├── PlanError           a plan that is malformed or belongs to another model
    ├── RewriteError        the scaled model is not what the plan says
    ├── PreserveError       no weights make the scaled model compute the baseline's function
    ├── GrowthError         the measured growth is out of tolerance (``strict=True``)
    ├── SearchError         a store of trials is another search's, or there is nothing to choose from
    └── ExportError         a model cannot be written as source or in another format, or its copy computes otherwise

    GrowthWarning           the same, without ``strict``
    ExportWarning           model.py could not be written, or does not say all

Each message says what happened, where (node, ``file:line``, shape) and what to do about it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "BudgetError",
    "CnnScaleError",
    "ExportError",
    "ExportWarning",
    "GrowthError",
    "GrowthWarning",
    "ModelError",
    "PlanError",
    "PreserveError",
    "RewriteError",
    "SearchError",
    "TraceError",
    "UnsupportedOpError",
    "UsageError",
    "WidthError",
    "did_you_mean",
]


class CnnScaleError(Exception):
    """Base class of all errors raised by cnnscale."""


class UsageError(CnnScaleError, ValueError):
    """Arguments contradict each other or lie out of range."""


class ModelError(CnnScaleError):
    """The model could not be loaded, built, or run at the baseline's input size."""


class TraceError(CnnScaleError):
    """torch.fx could not follow the model's forward."""


class UnsupportedOpError(CnnScaleError):
    """An operation on the path of a channel has no width rule."""


class WidthError(CnnScaleError):
    """No assignment of widths satisfies the model's constraints."""


class BudgetError(CnnScaleError):
    """No network on the strategy's curve meets the budget."""


class PlanError(CnnScaleError):
    """A plan is malformed, of another version, or belongs to another model."""


class RewriteError(CnnScaleError):
    """The scaled model is not what the plan says."""


class PreserveError(CnnScaleError):
    """No weights that are known make the scaled model compute the baseline's function."""


class GrowthError(CnnScaleError):
    """The measured growth is out of tolerance."""


class ExportError(CnnScaleError):
    """A model cannot be written as source or in another format, or what was written computes something else."""


class SearchError(CnnScaleError):
    """A store of trials belongs to another search, or its trials leave nothing to choose from."""


class GrowthWarning(UserWarning):
    """The measured growth is out of tolerance, or cannot reach its target."""


class ExportWarning(UserWarning):
    """``model.py`` could not be written beside a saved model, or leaves something out."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown word: ``; did you mean x or y?``, or nothing where none is like it."""
    close = difflib.get_close_matches(word, list(known), n=3)
    return f"; did you mean {' or '.join(close)}?" if close else ""
