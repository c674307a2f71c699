"""The driver: from the ledger to the executor and back, until nothing is left to do.

Several drivers may work on one store: each leases what waits, and waits for what the others have. A driver that is
killed leaves leases behind which the next one sees to be of a dead process.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from .executors import Executor
from .ledger import Lease, Ledger, new_owner
from .trials import Job, Outcome, trial_folder

__all__ = ["MAX_RETRIES", "Driver"]

MAX_RETRIES = 2
"""Of a training whose worker dies without an error: out of memory, or a crash that would come again."""


@dataclass
class Driver:
    """One driver of one store."""

    ledger: Ledger
    executor: Executor
    payload: bytes
    advance: Callable[[], bool] = lambda: False
    """Called when all tasks are over: adds the next ones, and says whether there are any."""
    notify: Callable[[], object] = lambda: None
    """Called after every change, and about once a second."""
    lease_s: float = 30.0
    poll_s: float = 1.0
    max_retries: int = MAX_RETRIES
    owner: str = field(default_factory=new_owner)
    _leases: dict[tuple[int, int], Lease] = field(default_factory=dict)
    _renewed: float = 0.0

    def run(self) -> None:
        """Work until no task waits or runs and :attr:`advance` adds none; close the executor whatever happens."""
        try:
            while self.run_once():
                self.notify()
        finally:
            self.executor.close()
            self.ledger.release(self.owner)
            self._leases.clear()

    def run_once(self) -> bool:
        """One round: hand out, wait for a moment, write down; whether there may be more to do."""
        if not (self._fill() or self.ledger.unfinished() or self.advance()):
            return False
        self._collect()
        return True

    def _fill(self) -> bool:
        """Give the executor what it can take; whether it has anything to do."""
        self._renew()
        self.ledger.reap()
        while len(self._leases) < self.executor.slots:
            lease = self.ledger.lease(self.owner, self.lease_s)
            if lease is None:
                break
            self._leases[lease.task.id, lease.token] = lease
            self.executor.submit(self._job(lease))
        return bool(self._leases)

    def _job(self, lease: Lease) -> Job:
        task = lease.task
        return Job(
            task=task.id,
            token=lease.token,
            candidate=task.candidate,
            seed=task.seed,
            rung=task.rung,
            share=task.share,
            plan=self.ledger.plan_of(task.candidate),
            folder=str(self.ledger.folder),
            payload=self.payload,
        )

    def _collect(self) -> None:
        """Wait for outcomes and write them down."""
        if self._leases:
            for outcome in self.executor.wait(self.poll_s):
                self._record(outcome)
        else:
            time.sleep(self.poll_s / 4)  # what is left is another driver's

    def _renew(self) -> None:
        """By the clock of the leases, which goes on while the machine sleeps: what nobody took meanwhile is kept."""
        if self._leases and abs(time.time() - self._renewed) > self.lease_s / 4:
            self.ledger.renew(self.owner, self.lease_s)
            self._renewed = time.time()

    def _record(self, outcome: Outcome) -> None:
        lease = self._leases.pop((outcome.task, outcome.token))
        if outcome.lost:
            self.ledger.lose(lease, outcome.error or "its worker is gone", self.max_retries + 1)
        elif outcome.value is None:
            self.ledger.fail(lease, outcome.error or "no value")
        elif self.ledger.finish(lease, outcome.value, outcome.seconds):
            task = lease.task
            shutil.rmtree(trial_folder(self.ledger.folder, task.candidate, task.seed, task.rung), ignore_errors=True)
