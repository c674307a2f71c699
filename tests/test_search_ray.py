"""Trainings on a real Ray cluster; skipped where Ray is not installed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
import search_jobs
from search_jobs import EPOCHS
from test_search_engine import lines, log, plans, store, values  # noqa: F401  # fixtures

from cnnscale.errors import UsageError
from cnnscale.searching.clusters import RayExecutor
from cnnscale.searching.ledger import Ledger
from cnnscale.searching.pools import open_executor

PROGRAM = Path(search_jobs.__file__).with_name("search_on_ray.py")


def test_a_node_that_is_killed_costs_one_attempt_and_no_result(store: Ledger, log: Path):  # noqa: F811
    pytest.importorskip("ray", reason='needs Ray: pip install "cnnscale[ray]"')
    store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # the program copies the file
    ran = subprocess.run(
        [sys.executable, str(PROGRAM), str(store.path)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "CNNSCALE_TEST_EPOCH_S": "0.2"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    assert values(store) == {("w1", 0): 8.0, ("w2", 0): 16.0, ("w1", 1): None, ("w2", 1): 18.0}
    tasks = store.tasks()
    failed = tasks[2]
    assert "search_jobs.py" in failed.error
    assert "ValueError: no luck with this seed" in failed.error
    assert sorted(task.attempts for task in tasks) == [1, 1, 1, 2]  # whichever the node was at
    epochs = Counter(tuple(line[:2] + line[4:5]) for line in lines(log))
    assert len(epochs) == 2 * EPOCHS
    assert sum(epochs.values()) - len(epochs) <= 1  # the killed worker's
    with closing(Ledger(store.path.with_name("client.db"))) as through_client:
        assert values(through_client) == {("w1", 0): 9.0, ("w2", 0): 17.0, ("w1", 1): 10.0, ("w2", 1): 18.0}


def test_where_ray_is_not_installed_that_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r'pip install "cnnscale\[ray\]"'):
        open_executor("ray")


@pytest.mark.parametrize("numbers", [{"workers": 0}, {"num_cpus": 0}, {"num_gpus": -1}])
def test_numbers_that_make_no_sense(numbers: dict[str, float]):
    with pytest.raises(UsageError, match="workers must be at least 1, num_cpus positive and num_gpus not negative"):
        RayExecutor(**numbers)
