"""Trainings on a Ray cluster, this machine being one of one node.

A training is a Ray task that Ray itself does not retry: where its worker or node is lost, whoever drives submits it
anew under another token, so that a node which was only thought dead cannot spoil what its successor writes.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any

from cnnscale.errors import SearchError, UsageError

from .trials import Job, Outcome, run_job

__all__ = ["RayExecutor"]


class RayExecutor:
    """Runs jobs as tasks of a Ray cluster.

    A program that has called ``ray.init`` keeps its connection; otherwise this one connects, and disconnects in the
    end: to ``address``, or to the cluster that ``RAY_ADDRESS`` or this machine has, or it starts one here.

    Args:
        address: ``ray://HOST:PORT`` of a cluster elsewhere (which needs the extra ``ray``, for its client).
        workers: trainings at once; by default as many as the cluster's nodes have room for, counted anew as they come
            and go.
        num_cpus: cores of each, and the threads that torch takes.
        num_gpus: GPUs of each, or a share of one; by default 1 where the cluster has any. A training that has some
            runs on CUDA, another on the CPU.

    Raises:
        UsageError: Ray is not installed, or a number is out of range.
        SearchError: the cluster cannot be reached.
    """

    def __init__(
        self,
        address: str | None = None,
        workers: int | None = None,
        *,
        num_cpus: float = 1,
        num_gpus: float | None = None,
    ) -> None:
        if (workers is not None and workers < 1) or num_cpus <= 0 or (num_gpus or 0) < 0:
            raise UsageError(
                f"workers must be at least 1, num_cpus positive and num_gpus not negative, got {workers}, {num_cpus} "
                f"and {num_gpus}"
            )
        try:
            import ray
        except ImportError as error:
            raise UsageError('Ray is not installed: pip install "cnnscale[ray]"') from error
        self._ray: Any = ray
        self._workers = workers
        self._running: dict[Any, Job] = {}
        self._ours = not ray.is_initialized()
        if self._ours:
            self._connect(address)
        gpus = float(any(node.get("GPU", 0) for node in self._nodes())) if num_gpus is None else num_gpus
        self._needs = {name: need for name, need in (("CPU", num_cpus), ("GPU", gpus)) if need}
        self._device = "cuda" if gpus else "cpu"
        self._task = self._ray.remote(run_job).options(num_cpus=num_cpus, num_gpus=gpus, max_retries=0)

    def _connect(self, address: str | None) -> None:
        try:
            self._ray.init(address, log_to_driver=False, logging_level=logging.WARNING)
        except (ConnectionError, ImportError, RuntimeError, ValueError) as error:
            raise SearchError(f"cannot reach the Ray cluster {address or ''}: {error}") from error

    def _nodes(self) -> list[dict[str, float]]:
        """What each living node has in all."""
        return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]

    @property
    def slots(self) -> int:
        if self._workers is not None:
            return self._workers
        room = sum(min(int(node.get(name, 0) / need) for name, need in self._needs.items()) for node in self._nodes())
        return max(1, room)  # Ray says where a task fits on no node

    def dumps(self, thing: object) -> bytes:
        """With what the caller's script itself defines: the workers do not have the script."""
        return bytes(self._ray.cloudpickle.dumps(thing))

    def submit(self, job: Job) -> None:
        self._running[self._task.remote(job, self._device)] = job

    def wait(self, timeout_s: float) -> list[Outcome]:
        try:
            ready, _ = self._ray.wait(list(self._running), timeout=timeout_s)
        except ConnectionError as error:
            raise SearchError(f"the Ray cluster is gone ({error}); call again to go on") from error
        return [self._outcome(reference, self._running.pop(reference)) for reference in ready]

    def _outcome(self, reference: Any, job: Job) -> Outcome:
        try:
            outcome: Outcome = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:  # the training's own errors are in its outcome
            why = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            return Outcome(task=job.task, token=job.token, lost=True, error=why)
        return outcome

    def close(self) -> None:
        for reference in self._running:
            with suppress(ConnectionError, self._ray.exceptions.RayError):
                self._ray.cancel(reference, force=True)
        self._running.clear()
        if self._ours:
            self._ray.shutdown()
            self._ours = False
