"""The executor without dependencies: one spawned process per core or GPU, which lives for many trainings.

Spawned, not forked: torch's threads and CUDA do not survive a fork. A worker ends when its driver does, also by
kill -9: it watches the driver's process, so that nothing trains on unseen. It ignores Ctrl-C, which is the driver's.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import connection, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess

import torch

from cnnscale.errors import UsageError

from .trials import Job, Outcome, run_job

__all__ = ["LocalExecutor", "default_devices", "default_workers", "threads_of"]

_STOP_S = 2.0


@dataclass
class _Worker:
    """A process, the pipe to it, and the job that it has."""

    process: SpawnProcess
    pipe: Connection
    device: str
    job: Job | None = None


class LocalExecutor:
    """Worker processes on this machine.

    Args:
        workers: how many; by default one per GPU, or where there is none one per core.
        devices: what they train on, in turn; by default every GPU, or the CPU.

    Raises:
        UsageError: a number below 1.
    """

    def __init__(self, workers: int | None = None, devices: Sequence[str] | None = None) -> None:
        self._devices = list(devices or default_devices())
        wanted = default_workers() if workers is None else workers
        if wanted < 1:
            raise UsageError(f"workers must be at least 1, got {wanted}")
        self._slots = wanted
        self._workers: list[_Worker] = []

    @property
    def slots(self) -> int:
        return self._slots

    def submit(self, job: Job) -> None:
        worker = next((worker for worker in self._workers if worker.job is None), None) or self._started()
        worker.job = job
        try:
            worker.pipe.send(job)
        except OSError:  # it died while it had nothing to do; wait() will find the pipe closed
            return

    def _started(self) -> _Worker:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        device = min(self._devices, key=lambda name: sum(worker.device == name for worker in self._workers))
        process = context.Process(target=_work, args=(theirs, device, threads_of(self._slots)), daemon=True)
        worker = _Worker(process, ours, device)
        with _holding_interrupts():
            process.start()
            theirs.close()
            self._workers.append(worker)
        return worker

    def wait(self, timeout_s: float) -> list[Outcome]:
        busy = {worker.pipe: worker for worker in self._workers if worker.job is not None}
        outcomes = []
        for pipe in connection.wait(list(busy), timeout_s):
            worker = busy[pipe]  # type: ignore[index]  # pipes went in, so pipes come out
            try:
                outcomes.append(worker.pipe.recv())
                worker.job = None
            except (EOFError, OSError):
                outcomes.append(self._lost(worker))
        return outcomes

    def _lost(self, worker: _Worker) -> Outcome:
        job = worker.job
        assert job is not None
        worker.process.join()
        self._workers.remove(worker)
        worker.pipe.close()
        return Outcome(task=job.task, token=job.token, lost=True, error=f"its worker {_ended(worker.process.exitcode)}")

    def close(self) -> None:
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join(_STOP_S)
            worker.process.kill()  # does nothing where it is over
            worker.process.join()
            worker.pipe.close()
        self._workers.clear()


def default_devices() -> list[str]:
    """Every GPU, or the CPU."""
    return [f"cuda:{i}" for i in range(torch.cuda.device_count())] or ["cpu"]


def default_workers() -> int:
    """One per GPU, or where there is none one per core."""
    return torch.cuda.device_count() or _cores()


def threads_of(workers: int) -> int:
    """CPU threads of each of so many workers: their share of the cores, or of fewer where torch has been told so."""
    return max(1, min(_cores(), torch.get_num_threads()) // workers)


@contextmanager
def _holding_interrupts() -> Iterator[None]:
    """Ctrl-C is heard afterwards, and by this process only.

    A process that is started meanwhile inherits the mask: it is deaf from its first moment on, not only when it has
    imported torch. Here another thread may be given the signal in spite of the mask, hence a handler that keeps it.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # otherwise started with the process, and it would take the mask off
    came: list[int] = []
    handler = signal.getsignal(signal.SIGINT)
    ours = callable(handler) and threading.current_thread() is threading.main_thread()  # no other may set handlers
    if ours:
        signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if ours:
            signal.signal(signal.SIGINT, handler)
        if came and callable(handler):
            handler(came[0], None)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _ended(code: int | None) -> str:
    if code is not None and code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"


def _work(pipe: Connection, device: str, threads: int) -> None:
    """The life of a worker: jobs in, outcomes out, until the driver is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    driver = multiprocessing.parent_process()
    assert driver is not None
    threading.Thread(target=_end_with, args=(driver.sentinel,), daemon=True).start()
    torch.set_num_threads(threads)
    with suppress(EOFError, OSError):  # the driver is gone
        while True:
            pipe.send(run_job(pipe.recv(), device))


def _end_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)
