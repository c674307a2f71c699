"""From what the user names to an executor."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

from cnnscale.errors import UsageError

from .executors import Executor
from .futures import FuturesExecutor
from .workers import LocalExecutor

__all__ = ["dumps_of", "open_executor"]


def open_executor(executor: Any = "local", workers: int | None = None) -> Executor:
    """An executor: ``local``, a pool of ``concurrent.futures``, a function that makes one, or an object that is one.

    Raises:
        UsageError: it is none of these.
    """
    if executor == "local":
        return LocalExecutor(workers)
    if isinstance(executor, Executor):
        return executor
    if hasattr(executor, "submit") or callable(executor):
        return FuturesExecutor(executor, workers)
    raise UsageError(
        "executor must be 'local', a pool of concurrent.futures, a function that makes one, or an object with submit, "
        f"wait, close and slots; got {executor!r}"
    )


def dumps_of(executor: Executor) -> Callable[[object], bytes]:
    """How an executor wants models and training functions pickled."""
    dumps: Callable[[object], bytes] = getattr(executor, "dumps", pickle.dumps)
    return dumps
