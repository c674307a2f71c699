"""Regular expressions that users give for module paths."""

from __future__ import annotations

import re
from collections.abc import Callable

from .errors import UsageError

__all__ = ["compiled"]


def compiled(pattern: str, option: str) -> Callable[[str], object]:
    """``re.search`` for a pattern given by the user."""
    try:
        return re.compile(pattern).search
    except re.error as error:
        raise UsageError(f"{option}={pattern!r} is not a regular expression: {error}") from error
