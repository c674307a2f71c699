"""Any pool of ``concurrent.futures`` as an executor: process pools, Dask, submitit.

What a pool raises, rather than the training, means that the training's worker is lost: whoever drives submits it anew,
under another token. A pool that breaks loses everything that it had, and does not say through whose fault. It is made
anew, and what it had runs one at a time: so a training that kills its process is found, and costs no other a second
attempt.
"""

from __future__ import annotations

import importlib.util
import pickle
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future
from concurrent.futures import wait as wait_for_futures
from dataclasses import dataclass
from typing import Any, Protocol

from cnnscale.errors import SearchError, UsageError

from .trials import Job, Outcome, run_job

__all__ = ["FuturesExecutor", "Pool"]

_POLL_S = 0.2
"""Between two looks at futures that are not those of ``concurrent.futures``: submitit's look at files."""


class Pool(Protocol):
    """``concurrent.futures.Executor``, as far as it is needed.

    What ``submit`` returns has ``done``, ``exception``, ``result`` and ``cancel``.
    """

    def submit(self, fn: Callable[..., Outcome], /, *args: Any) -> Any:
        """Start ``fn(*args)`` somewhere; returns at once."""


@dataclass(frozen=True)
class _Running:
    job: Job
    future: Any
    alone: bool
    """It runs by itself because a pool broke that had it."""


class FuturesExecutor:
    """Runs jobs in a pool.

    A pool that was given is the caller's to shut down; one that a function made is shut down here. Neither can stop a
    training that has begun: it runs to its end, and its result is not used.

    Args:
        pool: the pool, or a function that makes one, which is called again where a pool breaks.
        workers: trainings that the pool is given at once; by default as many as a pool of the standard library has
            workers.
        device: what each trains on; ``auto`` is CUDA's first device where the worker sees one.

    Raises:
        UsageError: nobody says how many workers there are, or it is a number below 1.
    """

    def __init__(self, pool: Pool | Callable[[], Pool], workers: int | None = None, *, device: str = "auto") -> None:
        self._make: Any = pool if isinstance(pool, type) or not hasattr(pool, "submit") else None
        self._pool: Any = self._make() if self._make else pool
        known = getattr(self._pool, "_max_workers", None)
        if (wanted := known if workers is None else workers) is None:
            raise UsageError(f"say how many trainings {type(self._pool).__name__} is given at once: workers=N")
        if wanted < 1:
            raise UsageError(f"workers must be at least 1, got {wanted}")
        self._workers: int = wanted
        self._device = device
        self._running: list[_Running] = []
        self._suspects = 0
        """How many trainings a broken pool had that have not run since."""

    @property
    def slots(self) -> int:
        return 1 if self._suspects else self._workers

    def dumps(self, thing: object) -> bytes:
        """With what the caller's script itself defines, where cloudpickle is there: workers elsewhere lack it."""
        if importlib.util.find_spec("cloudpickle"):
            import cloudpickle

            return bytes(cloudpickle.dumps(thing))
        return pickle.dumps(thing)

    def submit(self, job: Job) -> None:
        alone = self._suspects > 0 and not self._running
        try:
            future = self._pool.submit(run_job, job, self._device)
        except BrokenExecutor as error:
            if self._make is None:
                raise SearchError(
                    f"the pool is broken ({error}); call again to go on, with a function that makes a pool as executor "
                    "to have it made anew"
                ) from error
            self._pool = self._make()
            future = self._pool.submit(run_job, job, self._device)
        self._running.append(_Running(job, future, alone))

    def wait(self, timeout_s: float) -> list[Outcome]:
        futures = [running.future for running in self._running]
        if all(isinstance(future, Future) for future in futures):
            wait_for_futures(futures, timeout_s, FIRST_COMPLETED)
        elif not any(future.done() for future in futures):
            time.sleep(min(timeout_s, _POLL_S))
        over = [running for running in self._running if running.future.done()]
        self._running = [running for running in self._running if running not in over]
        return [self._outcome(running) for running in over]

    def _outcome(self, running: _Running) -> Outcome:
        try:
            error = running.future.exception()
            outcome: Outcome | None = None if error else running.future.result()
        except Exception as raised:  # a pool's own errors are of any type
            error, outcome = raised, None
        if isinstance(error, BrokenExecutor):
            self._suspects += not running.alone
        elif running.alone:
            self._suspects -= 1
        if outcome is not None:
            return outcome
        job = running.job
        return Outcome(task=job.task, token=job.token, lost=True, error=f"{type(error).__name__}: {error}")

    def close(self) -> None:
        for running in self._running:
            running.future.cancel()
        self._running.clear()
        if self._make is not None:
            self._pool.shutdown(wait=False)
