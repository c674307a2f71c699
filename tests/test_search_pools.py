"""Trainings in pools of ``concurrent.futures``, and in what is only like one."""

from __future__ import annotations

import multiprocessing
import os
import threading
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from pathlib import Path

import pytest
import search_jobs
from search_jobs import Tiny, deadly, failing, quick
from test_search_engine import plans, posix, store, values  # noqa: F401  # fixtures

import cnnscale
from cnnscale.errors import SearchError, UsageError
from cnnscale.searching.engine import Driver
from cnnscale.searching.futures import FuturesExecutor
from cnnscale.searching.ledger import Ledger
from cnnscale.searching.pools import dumps_of, open_executor
from cnnscale.searching.trials import pack

SPAWN = multiprocessing.get_context("spawn")


def processes(workers: int = 2) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, mp_context=SPAWN)


@posix
def test_a_training_that_kills_a_process_pool_is_given_up_and_the_others_are_done(store: Ledger):  # noqa: F811
    """The pool breaks with all that it has; made anew, it finds out whose fault it was."""
    made = []
    executor = open_executor(lambda: made.append(processes()) or made[-1])
    Driver(store, executor, pack(Tiny, deadly, dumps_of(executor)), max_retries=1).run()
    assert values(store) == {("w1", 0): None, ("w2", 0): 17.0, ("w1", 1): 10.0, ("w2", 1): 18.0}
    first = store.tasks()[0]
    assert (first.state, first.attempts) == ("failed", 2)
    assert first.error.startswith("given up after 2 attempts: BrokenProcessPool: ")
    assert max(task.attempts for task in store.tasks()[1:]) <= 2
    assert len(made) in {2, 3}  # the others may be done before the pool sees the dead process


@posix
def test_a_given_pool_that_is_broken_ends_the_run_and_the_store_goes_on(store: Ledger):  # noqa: F811
    with processes(1) as pool:
        wait([pool.submit(os._exit, 1)])
        with pytest.raises(SearchError, match="with a function that makes a pool"):
            Driver(store, open_executor(pool), pack(Tiny, quick)).run()
    assert {(task.state, task.attempts) for task in store.tasks()} == {("waiting", 0)}
    with ThreadPoolExecutor(1) as pool:
        Driver(store, open_executor(pool), pack(Tiny, failing)).run()
        assert pool.submit(int).result() == 0  # it is the caller's, and still open
    assert values(store) == {("w1", 0): 9.0, ("w2", 0): 17.0, ("w1", 1): None, ("w2", 1): 18.0}
    assert "ValueError: no luck with this seed" in next(t for t in store.tasks() if t.error).error


class Jobs:
    """What is like submitit: what it returns is no future, and knows nothing of waiting."""

    class Job:
        def __init__(self, fn, args):
            self._future: Future = Future()
            threading.Thread(target=lambda: self._future.set_result(fn(*args))).start()

        def done(self):
            return self._future.done()

        def exception(self):
            return self._future.exception()

        def result(self):
            return self._future.result()

        def cancel(self):
            raise AssertionError("nothing runs any more")

    def submit(self, fn, /, *args):
        return self.Job(fn, args)


def test_what_is_only_like_a_pool_will_do(store: Ledger):  # noqa: F811
    Driver(store, open_executor(Jobs(), 3), pack(Tiny, quick)).run()
    assert set(values(store).values()) == {9.0, 10.0, 17.0, 18.0}


def test_a_search_takes_a_pool_and_a_folder_for_checkpoints(tmp_path: Path):
    grid = cnnscale.Grid(alpha=(1, 1.5), gamma=(1,), solve="beta")
    how = {"grid": grid, "divisor": 1, "input_size": (1, 16, 16), "seeds": 1, "checkpoints": tmp_path / "shared"}
    with ThreadPoolExecutor(1) as pool:
        result = cnnscale.search(Tiny(), search_jobs.keeping, store=tmp_path / "s.db", executor=pool, **how)
    (folder,) = (tmp_path / "shared").iterdir()
    assert folder.name.startswith("s.db-")
    assert all(task.value == len(folder.name) for task in result.tasks)
    assert not list(folder.iterdir())  # no checkpoint is left
    assert not (tmp_path / "s.db.trials").exists()


def test_a_store_has_a_folder_of_its_own_in_a_shared_one(tmp_path: Path):
    folders = set()
    for name in ("a", "b"):
        store = Ledger(tmp_path / name / "s.db")  # noqa: F811
        assert store.folder == tmp_path / name / "s.db.trials"
        store.keep_checkpoints_in(tmp_path)
        folders.add(store.folder)
        store.keep_checkpoints_in(tmp_path)
        folders.add(store.folder)
        store.close()
    assert len(folders) == 2
    assert {folder.parent for folder in folders} == {tmp_path}


def test_what_a_script_defines_can_be_sent_with_cloudpickle():
    pytest.importorskip("cloudpickle")
    executor = open_executor(Jobs(), 1)
    pack(lambda: Tiny(), lambda model, trial: 0.0, dumps_of(executor))  # noqa: PLW0108  # the lambda is the point


@pytest.mark.parametrize(
    ("executor", "workers", "message"),
    [
        (Jobs(), None, "say how many trainings Jobs is given at once: workers=N"),
        (Jobs(), 0, "workers must be at least 1, got 0"),
        ("cloud", None, "executor must be 'local', .*; got 'cloud'"),
        (None, None, "executor must be 'local', .*; got None"),
    ],
)
def test_what_is_no_executor(executor, workers, message: str):
    with pytest.raises(UsageError, match=message):
        open_executor(executor, workers)


def test_a_pool_says_how_many_it_takes():
    with ThreadPoolExecutor(3) as pool:
        assert open_executor(pool).slots == 3
        assert open_executor(pool, 2).slots == 2
        assert open_executor(FuturesExecutor(pool, 5)).slots == 5
