"""From what the user names to an executor."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

from cnnscale.errors import UsageError

from .clusters import RayExecutor
from .executors import Executor
from .futures import FuturesExecutor
from .workers import LocalExecutor

__all__ = ["dumps_of", "open_executor"]


def open_executor(executor: Any = "local", workers: int | None = None) -> Executor:
    """An executor.

    Args:
        executor: ``local``; ``ray`` or ``ray://HOST:PORT``; a pool of ``concurrent.futures`` or a function that makes
            one; or an object that is one.
        workers: trainings at once; by default as many as it has places. An object that is one knows it already.

    Raises:
        UsageError: it is none of these, or one that is not installed.
        SearchError: there is no such cluster.
    """
    if executor == "local":
        return LocalExecutor(workers)
    if executor == "ray":
        return RayExecutor(workers=workers)
    if isinstance(executor, str) and executor.startswith("ray://"):
        return RayExecutor(executor, workers)
    if isinstance(executor, Executor):
        return executor
    if hasattr(executor, "submit") or callable(executor):
        return FuturesExecutor(executor, workers)
    raise UsageError(
        "executor must be 'local', 'ray', 'ray://HOST:PORT', a pool of concurrent.futures, a function that makes one, "
        f"or an object with submit, wait, close and slots; got {executor!r}"
    )


def dumps_of(executor: Executor) -> Callable[[object], bytes]:
    """How an executor wants models and training functions pickled."""
    dumps: Callable[[object], bytes] = getattr(executor, "dumps", pickle.dumps)
    return dumps
