"""Where trainings run: a protocol of three functions and a number.

The driver leases a task, submits it, waits, and writes what comes back into the ledger; an executor knows nothing of
the ledger. Whatever can run a function in another process can be one. One whose workers cannot import what
the driver's script defines may also have ``dumps``, which pickles models and training functions in its own way.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from .trials import Job, Outcome

__all__ = ["Executor"]


@runtime_checkable
class Executor(Protocol):
    """Runs jobs, at most :attr:`slots` at once."""

    @property
    def slots(self) -> int:
        """How many jobs may run at the same time."""

    def submit(self, job: Job) -> None:
        """Start a job (:func:`cnnscale.searching.trials.run_job`); returns at once."""

    def wait(self, timeout_s: float) -> list[Outcome]:
        """The outcomes since the last call, as soon as there is one; none when the time is up.

        A job whose worker died is an outcome too, with ``lost``.
        """

    def close(self) -> None:
        """Stop everything that runs, without waiting for results."""
