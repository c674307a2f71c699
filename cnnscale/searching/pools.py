"""From what the user names to an executor."""

from __future__ import annotations

from typing import Any

from cnnscale.errors import UsageError

from .executors import Executor
from .workers import LocalExecutor

__all__ = ["open_executor"]


def open_executor(executor: Any = "local", workers: int | None = None) -> Executor:
    """An executor: ``local``, or an object that is one.

    Raises:
        UsageError: it is none of these.
    """
    if executor == "local":
        return LocalExecutor(workers)
    if isinstance(executor, Executor):
        return executor
    raise UsageError(f"executor must be 'local' or an object with submit, wait, close and slots, got {executor!r}")
