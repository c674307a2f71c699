"""Trainings that survive: real processes, killed with SIGKILL, and no task lost, repeated or counted twice."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import SimpleNamespace

import pytest
import search_jobs
from search_jobs import EPOCHS, Tiny, failing, quick

from cnnscale.errors import SearchError, UsageError
from cnnscale.searching.engine import Driver
from cnnscale.searching.executors import Executor
from cnnscale.searching.halving import schedule
from cnnscale.searching.ledger import Ledger, new_owner
from cnnscale.searching.search import _advance
from cnnscale.searching.trials import Outcome, Trial, pack, run_job
from cnnscale.searching.workers import LocalExecutor

LONG = os.environ.get("CNNSCALE_PROFILE") == "campaign"
posix = pytest.mark.skipif(os.name != "posix", reason="SIGKILL")


class Here:
    """Runs jobs in this process, when their outcomes are asked for."""

    slots = 2

    def __init__(self):
        self.jobs, self.closed = [], False

    def submit(self, job):
        self.jobs.append(job)

    def wait(self, timeout_s):
        return [run_job(self.jobs.pop(0), "cpu")] if self.jobs else []

    def close(self):
        self.closed = True


@pytest.fixture(scope="module")
def plans() -> dict[str, str]:
    return search_jobs.plans()


@pytest.fixture
def store(tmp_path: Path, plans) -> Ledger:
    made = Ledger(tmp_path / "s.db")
    made.add_candidates((name, plan, {}) for name, plan in plans.items())
    made.add_tasks(list(plans), (0, 1), 0, 1.0)
    yield made
    made.close()


def values(store: Ledger) -> dict[tuple[str, int], float | None]:
    return {(task.candidate, task.seed): task.value for task in store.tasks()}


# --- the ledger ---------------------------------------------------------------------------------------------------


def test_a_task_is_leased_once_and_a_result_counts_once(store: Ledger):
    leases = [store.lease("here:1:a", 30) for _ in range(4)]
    assert [(x.task.candidate, x.task.seed) for x in leases] == [("w1", 0), ("w2", 0), ("w1", 1), ("w2", 1)]
    assert store.lease("here:2:b", 30) is None
    assert store.finish(leases[0], 0.5, 1.0)
    assert not store.finish(leases[0], 0.7, 1.0)
    assert not store.fail(leases[0], "too late")
    assert values(store)["w1", 0] == 0.5


def test_who_comes_back_from_the_dead_is_refused(store: Ledger):
    late = store.lease("elsewhere:1:a", -1.0)  # over as soon as it began
    assert store.reap() == 1
    again = store.lease("elsewhere:2:b", 30)
    assert again.task.id == late.task.id
    assert again.token == late.token + 1
    assert not store.finish(late, 0.1, 1.0)
    assert store.release("elsewhere:1:a") == 0
    assert store.finish(again, 0.2, 1.0)
    assert values(store)["w1", 0] == 0.2


@posix
def test_leases_of_a_dead_process_end_at_once_and_others_when_their_time_is_up(store: Ledger):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    host, _, rest = new_owner().split(":")
    store.lease(f"{host}:{gone.pid}:{rest}", 1000)
    store.lease(f"another-{host}:{gone.pid}:{rest}", 1000)
    store.lease(new_owner(), 1000)
    assert store.reap() == 1
    assert [task.state for task in store.tasks()] == ["waiting", "running", "running", "waiting"]


def test_renewed_leases_last(store: Ledger):
    owner = new_owner()
    store.lease(owner, -1.0)
    assert store.renew(owner, 30) == 1
    assert store.reap() == 0


def test_a_task_whose_worker_dies_again_and_again_fails(store: Ledger):
    for attempt in range(3):
        lease = store.lease(new_owner(), 30)
        assert (lease.task.candidate, lease.task.attempts) == ("w1", attempt + 1)
        store.lose(lease, "its worker was killed by SIGKILL", 3)
    assert store.tasks()[0].state == "failed"
    assert store.tasks()[0].error == "given up after 3 attempts: its worker was killed by SIGKILL"


def test_tasks_and_candidates_are_added_once(store: Ledger, plans):
    assert store.add_tasks(list(plans), (0, 1, 2), 0, 1.0) == 2
    assert store.add_tasks(list(plans), (0, 1, 2), 0, 1.0) == 0
    store.add_candidates([("w1", "another plan", {})])
    assert store.candidates()["w1"] == (plans["w1"], {})
    store.add_candidates([("a", "its plan", {})])
    assert [row[0] for row in store._db.execute("SELECT position FROM candidates ORDER BY position")] == [0, 1, 2]
    assert list(store.facts()) == ["w1", "w2", "a"]


def test_a_store_belongs_to_one_search(tmp_path: Path):
    with closing(Ledger(tmp_path / "s.db")) as made:
        made.describe({"budget": 2.0, "seeds": [0, 1]})
    with closing(Ledger(tmp_path / "s.db")) as again:
        again.describe({"budget": 2.0, "seeds": (0, 1)})
        with pytest.raises(SearchError, match=r"belongs to another search: its budget is 2\.0, not 4\.0"):
            again.describe({"budget": 4.0, "seeds": [0, 1]})
        with pytest.raises(SearchError, match="holds a search already"):
            again.describe({"budget": 2.0, "seeds": [0, 1]}, resume=False)


def test_what_is_no_store(tmp_path: Path):
    (tmp_path / "text").write_text("not a database, but long enough to be looked at as one" * 100)
    with pytest.raises(SearchError, match="as a store of trials"):
        Ledger(tmp_path / "text")
    with pytest.raises(SearchError, match="there is no store"):
        Ledger(tmp_path / "none", create=False)


def test_the_ledger_is_written_to_the_disk(store: Ledger):
    assert store._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store._db.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL


# --- trials -------------------------------------------------------------------------------------------------------


def trial(folder: Path, token: int) -> Trial:
    device = search_jobs.torch.device("cpu")
    return Trial(
        candidate="c", seed=0, rung=0, share=1.0, input_size=(1, 8, 8), device=device, folder=folder, token=token
    )


def test_checkpoints_are_fenced(tmp_path: Path):
    first, second = trial(tmp_path, 1), trial(tmp_path, 2)
    assert first.load() is None
    first.save({"epoch": 1})
    assert second.load() == {"epoch": 1}
    second.save({"epoch": 2})
    first.save({"epoch": 1})  # it does not know that it was given up
    assert second.load() == {"epoch": 2}
    (tmp_path / "2.pt").write_bytes(b"torn")
    assert second.load() == {"epoch": 1}


def test_what_cannot_be_sent_is_refused_before_anything_starts():
    with pytest.raises(UsageError, match="train_fn cannot be sent to a worker process"):
        pack(Tiny, lambda model, trial: 0.0)
    with pytest.raises(UsageError, match="the model cannot be sent"):
        pack(lambda: None, quick)


# --- the driver ---------------------------------------------------------------------------------------------------


def test_a_trial_that_raises_is_recorded_and_does_not_stop_the_rest(store: Ledger):
    here = Here()
    assert isinstance(here, Executor)
    Driver(store, here, pack(Tiny, failing)).run()
    assert values(store) == {("w1", 0): 9.0, ("w2", 0): 17.0, ("w1", 1): None, ("w2", 1): 18.0}
    failed = next(task for task in store.tasks() if task.state == "failed")
    assert "search_jobs.py" in failed.error
    assert "ValueError: no luck with this seed" in failed.error
    assert here.closed


def test_a_value_that_is_none_is_a_failure(store: Ledger, monkeypatch):
    monkeypatch.setattr(search_jobs, "channels", lambda model: float("nan"))
    Driver(store, Here(), pack(Tiny, quick)).run()
    assert all("train_fn returned nan" in task.error for task in store.tasks())


def test_interrupted_it_lets_go_of_what_it_has(store: Ledger):
    class Interrupted(Here):
        def wait(self, timeout_s):
            raise KeyboardInterrupt

    here = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        Driver(store, here, pack(Tiny, quick)).run()
    assert here.closed
    assert {(task.state, task.attempts) for task in store.tasks()} == {("waiting", 0)}


@pytest.mark.parametrize("statement", ["BEGIN IMMEDIATE", "SELECT id FROM tasks", "UPDATE tasks", "COMMIT"])
def test_interrupted_while_it_leases_it_lets_go_all_the_same(store: Ledger, statement: str):
    class Interrupted:
        """The connection; Ctrl-C comes in the midst of the statement of the second lease, and is heard after it."""

        def __init__(self, db):
            self.db, self.seen = db, 0

        def __getattr__(self, name):
            return getattr(self.db, name)

        def execute(self, text, *values):
            cursor = self.db.execute(text, *values)
            self.seen += text.startswith(statement)
            if self.seen == 2:
                self.seen += 1
                raise KeyboardInterrupt
            return cursor

    class Leasing(Ledger):
        def lease(self, owner, seconds):
            self._db = self._db if isinstance(self._db, Interrupted) else Interrupted(self._db)
            return super().lease(owner, seconds)

    with closing(Leasing(store.path)) as ledger, pytest.raises(KeyboardInterrupt):
        Driver(ledger, Here(), pack(Tiny, quick)).run()
    assert {(task.state, task.attempts) for task in store.tasks()} == {("waiting", 0)}


def test_two_drivers_share_the_work(store: Ledger):
    other = Driver(Ledger(store.path), Here(), pack(Tiny, quick))
    started = []

    class Interleaved(Here):
        def wait(self, timeout_s):
            if not started:
                started.append(True)
                other.run_once()
            return super().wait(timeout_s)

    Driver(store, Interleaved(), pack(Tiny, quick), notify=other.run_once, poll_s=0.01).run()
    assert values(store) == {("w1", 0): 9.0, ("w2", 0): 17.0, ("w1", 1): 10.0, ("w2", 1): 18.0}
    assert {task.attempts for task in store.tasks()} == {1}
    other.ledger.close()


def test_a_machine_that_slept_goes_on_with_what_it_had(store: Ledger, monkeypatch):
    """Leases are over by the clock when it wakes; nobody else took them, so they are the driver's still."""

    now = time.time

    class Slept(Here):
        def wait(self, timeout_s):
            monkeypatch.setattr("time.time", lambda: now() + 3600 * len(done(store)))
            return super().wait(timeout_s)

    Driver(store, Slept(), pack(Tiny, quick)).run()
    assert [(task.state, task.attempts) for task in store.tasks()] == [("done", 1)] * 4


def test_a_driver_waits_for_the_rung_that_another_has_just_added(store: Ledger):
    """The other adds it between this one's look at the tasks and its wish to add it."""
    ready = SimpleNamespace(rungs=schedule(2, 2, (0.5, 1.0), 0.5), keep=0.5, seeds=2)
    for _ in range(4):
        store.finish(store.lease("elsewhere:1:a", 30), 1.0, 1.0)
    assert store.unfinished() == 0
    assert _advance(store, ready)
    assert _advance(store, ready), "there is a rung to be done"
    for _ in range(2):
        store.finish(store.lease("elsewhere:1:a", 30), 1.0, 1.0)
    assert not _advance(store, ready)


def done(store: Ledger) -> list[int]:
    return [task.id for task in store.tasks() if task.state == "done"]


# --- killing ------------------------------------------------------------------------------------------------------


@pytest.fixture
def log(tmp_path: Path, monkeypatch) -> Path:
    path = tmp_path / "log"
    path.touch()
    monkeypatch.setenv("CNNSCALE_TEST_LOG", str(path))
    return path


def driver(store: Ledger, workers: int, train_fn: str = "slow") -> subprocess.Popen:
    return process(str(store.path), str(workers), train_fn)


def process(*args: str, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, search_jobs.__file__, *args],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        start_new_session=True,
        **options,
    )


def until(condition, seconds: float = 60.0):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.01)
    return found


def lines(log: Path) -> list[list[str]]:
    return [line.split() for line in log.read_text().splitlines()]


def alive(pid: int) -> bool:
    try:
        return "zombie" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def after(log: Path, count: int) -> int:
    """The worker that wrote the next lines, as soon as there are so many more."""
    wanted = len(lines(log)) + count
    return int(until(lambda: len(lines(log)) >= wanted and lines(log))[-1][-1])


@posix
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_kill_9_of_a_worker_of_the_driver_and_of_everything(store: Ledger, log: Path):
    workers = 2 if LONG else 1
    first = driver(store, workers)
    worker = after(log, 2)
    os.kill(worker, signal.SIGKILL)  # 1: the worker; the driver starts another
    worker = after(log, EPOCHS)
    assert first.poll() is None
    first.kill()  # 2: the driver; its workers end by themselves
    first.wait()
    until(lambda: not alive(worker), 10)
    acknowledged = {key: value for key, value in values(store).items() if value is not None}
    assert acknowledged

    second = driver(store, workers)
    after(log, 3)
    os.killpg(second.pid, signal.SIGKILL)  # 3: everything
    second.wait()
    assert acknowledged.items() <= values(store).items()

    Driver(store, Here(), pack(Tiny, search_jobs.slow)).run()
    assert values(store) == {("w1", 0): 8.0, ("w2", 0): 16.0, ("w1", 1): 9.0, ("w2", 1): 17.0}
    epochs = Counter(tuple(line[:2] + line[4:5]) for line in lines(log))
    assert len(epochs) == 4 * EPOCHS
    assert sum(epochs.values()) - len(epochs) <= 3 * workers  # at most one epoch per worker and kill
    assert not list(store.folder.iterdir())  # no checkpoint is left


@posix
def test_two_drivers_in_processes_share_the_work_and_one_goes_on_when_the_other_is_killed(store: Ledger, log: Path):
    first, second = (driver(store, 1, "together") for _ in range(2))
    until(lambda: any(line[4] == "epoch1" for line in lines(log)))
    assert {task.owner.split(":")[1] for task in store.tasks() if task.owner} == {str(first.pid), str(second.pid)}
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert second.wait(60) == 0
    assert values(store) == {("w1", 0): 8.0, ("w2", 0): 16.0, ("w1", 1): None, ("w2", 1): 17.0}
    failed = next(task for task in store.tasks() if task.state == "failed")
    assert (failed.attempts, failed.error.splitlines()[-1]) == (1, "ValueError: no luck with this seed")
    epochs = Counter(tuple(line[:2] + line[4:5]) for line in lines(log) if line[4] != "begin")
    assert len(epochs) == 3 * EPOCHS
    assert sum(epochs.values()) - len(epochs) <= 1


@posix
def test_what_was_acknowledged_survives_kill_9_in_the_midst_of_writing(store: Ledger, tmp_path: Path):
    """Two processes write as fast as they can; both are killed, then two others do the rest."""
    store.add_tasks(["w1"], range(2, 298), 0, 1.0)
    answers = [tmp_path / f"answers{number}" for number in range(4)]

    def pair(files: list[Path]) -> list[subprocess.Popen]:
        """Two that begin at the same time."""
        made = []
        for file in files:
            with file.open("w") as stdout:
                made.append(process("count", str(store.path), stdin=subprocess.PIPE, stdout=stdout))
        until(lambda: all("ready" in file.read_text() for file in files))
        for one in made:
            one.stdin.close()
        return made

    def acknowledged() -> list[int]:
        return [int(line) for file in answers if file.exists() for line in file.read_text().split() if line != "ready"]

    for one in (killed := pair(answers[:2])):
        until(lambda: len(acknowledged()) >= 100)
        one.kill()
    assert [one.wait() for one in killed] == [-signal.SIGKILL] * 2
    early = set(acknowledged())
    done = {task.id for task in store.tasks() if task.state == "done"}
    assert early <= done
    assert len(done) < 300
    assert [one.wait(60) for one in pair(answers[2:])] == [0, 0]
    assert {task.id: task.value for task in store.tasks()} == {number: number for number in range(1, 301)}
    counted = Counter(acknowledged())
    assert set(counted.values()) == {1}
    assert 300 - len(counted) <= 2  # a result may be taken, and its process killed before it could say so


@posix
def test_a_worker_that_dies_is_an_outcome(tmp_path: Path, store: Ledger):
    executor = LocalExecutor(1, ["cpu"])
    lease = store.lease(new_owner(), 30)
    executor.submit(Driver(store, executor, pack(Tiny, search_jobs.quick))._job(lease))
    os.kill(executor._workers[0].process.pid, signal.SIGKILL)
    assert executor.wait(10) == [
        Outcome(task=1, token=1, lost=True, error="its worker was killed by SIGKILL"),
    ]
    executor.close()


@pytest.fixture
def interruptible() -> None:
    """Also where the tests run in the background of a shell, which makes them deaf to Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@posix
@pytest.mark.usefixtures("interruptible")
def test_control_c_while_a_worker_starts_is_the_driver_s_and_not_lost(store: Ledger, monkeypatch):
    start = SpawnProcess.start

    def interrupted(process: SpawnProcess) -> None:
        start(process)
        for pid in (process.pid, os.getpid()):  # as a terminal does
            os.kill(pid, signal.SIGINT)

    monkeypatch.setattr(SpawnProcess, "start", interrupted)
    executor = LocalExecutor(1, ["cpu"])
    job = Driver(store, executor, pack(Tiny, quick))._job(store.lease(new_owner(), 30))
    with pytest.raises(KeyboardInterrupt):
        executor.submit(job)
    executor.submit(job)
    assert [outcome.value for outcome in executor.wait(60)] == [9.0]
    assert len(multiprocessing.active_children()) == 1
    executor.close()
    assert not multiprocessing.active_children()
