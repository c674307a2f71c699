"""The commands that train, from the outside: real processes, a real kill -9 and a real Ctrl-C."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import search_jobs
import torch
from test_search_engine import LONG, Here, alive, interruptible, until  # noqa: F401  # a fixture
from typer.testing import CliRunner

from cnnscale import cli
from cnnscale.errors import SearchError, UsageError
from cnnscale.loading import Factory
from cnnscale.searching.ledger import Ledger, new_owner
from cnnscale.searching.status import status_of
from cnnscale.searching.trials import trial_folder
from cnnscale.searching.views import duration

NET = f"{search_jobs.__file__}:Tiny"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    """Bright pictures and dark ones."""
    folder = tmp_path_factory.mktemp("data")
    labels = torch.arange(32) % 2
    images = (labels * 200)[:, None, None, None].expand(-1, 1, 16, 16).to(torch.uint8)
    for split in ("train", "validation", "test"):
        torch.save({"images": images, "labels": labels}, folder / f"{split}.pt")
    return str(folder)


@pytest.fixture
def command(data: str, tmp_path: Path) -> list[str]:
    grid = ("--divisor", "1", "--alpha", "1", "1.5", "--gamma", "1", "--input-size", "1x16x16", "--seeds", "2")
    how = ("--data", data, "--epochs", "3", "--batch-size", "8", "--workers", "1", "--store", str(tmp_path / "s.db"))
    return ["search", NET, *grid, *how]


def call(*args, code: int = 0):
    result = CliRunner().invoke(cli.app, list(map(str, args)))
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def here(monkeypatch) -> None:
    """Trains in this process."""
    monkeypatch.setattr("cnnscale.searching.search.open_executor", lambda name, workers: Here())


def test_a_dry_run_shows_the_work_and_trains_nothing(command: list[str], tmp_path: Path):
    out = call(*command, "--dry-run").stdout
    assert "d1 w" in out
    assert "d1.5 w" in out
    assert "in all: 6 trainings, 448 images" in out  # of 32: 2 nets x 2 seeds x 2 epochs, and 1 x 2 x 3
    assert "with 1 worker" in out
    assert not list(tmp_path.iterdir())


def test_a_search_is_shown_ranked_and_exported(command: list[str], here, tmp_path: Path):
    result = call(*command)
    assert "in all: 6 trainings" in result.stderr
    assert "proposed: d" in result.stdout
    assert "per unit of phi: alpha 1" in result.stdout
    found = json.loads(call(*command, "--json").stdout)  # again, from the store
    assert set(found["best"]) == {"alpha", "beta", "gamma"}
    assert found["rankings"][-1]["entries"][0]["mean"] == 1.0  # bright is not dark
    status = json.loads(call("status", tmp_path / "s.db", "--json").stdout)
    assert [(rung["done"], rung["trainings"]) for rung in status["rungs"]] == [(4, 4), (2, 2)]
    assert status["seconds_left"] == 0.0
    assert "rung 2 of 2: 2 of 2 trainings done" in call("status", tmp_path / "s.db").stdout
    rows = list(csv.DictReader(io.StringIO(call("export", tmp_path / "s.db").stdout)))
    assert len(rows) == 6
    assert {row["state"] for row in rows} == {"done"}
    assert len(json.loads(call("export", tmp_path / "s.db", "--format", "json").stdout)) == 6


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
@pytest.mark.usefixtures("interruptible")
def test_control_c_stops_cleanly_and_the_same_command_goes_on(command: list[str], here, tmp_path: Path):
    command[command.index("--epochs") + 1] = "40"
    command += ["--rungs", "0.05", "1"]  # the first training is soon over, and the last ones not before it is stopped
    with (tmp_path / "stderr").open("w") as stderr:
        run = subprocess.Popen(
            [sys.executable, "-m", "cnnscale", *command],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )
    folders = tmp_path / "s.db.trials"
    until(lambda: list(folders.glob("*/progress.json")))
    if LONG:  # a worker takes seconds to start; the engine's own test kills one every time
        for worker in children(run.pid):
            os.kill(worker, signal.SIGKILL)
    with closing(Ledger(tmp_path / "s.db")) as ledger:
        until(lambda: any(task.state == "done" for task in ledger.tasks()))
    left = children(run.pid)
    run.send_signal(signal.SIGINT)
    assert run.wait(60) == 130
    assert not any(map(alive, left))
    said = (tmp_path / "stderr").read_text()
    assert "keeps what is done; the same command goes on with it" in said
    assert "Traceback" not in said
    with closing(Ledger(tmp_path / "s.db")) as ledger:
        done = [task for task in ledger.tasks() if task.state == "done"]
        assert not [task for task in ledger.tasks() if task.state == "running"]
    call(*command)
    with closing(Ledger(tmp_path / "s.db")) as ledger:
        assert [task for task in ledger.tasks() if task.id in {d.id for d in done}] == done
        assert {task.state for task in ledger.tasks()} == {"done"}


def children(pid: int) -> set[int]:
    """Live spawned workers of a process; multiprocessing's resource tracker is none."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {int(child) for child in found if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text()}


def test_errors_are_one_line(command: list[str], tmp_path: Path):
    assert "there is no store" in call("status", tmp_path / "none.db", code=1).stderr
    assert "cannot read" in call(*command, "--data", tmp_path, code=2).stderr
    assert "beta is solved for" in call(*command, "--beta", "1", "--dry-run", code=2).stderr


def test_the_time_left_counts_what_is_under_way_and_what_is_to_come(tmp_path: Path):
    plans = search_jobs.plans()
    with closing(Ledger(tmp_path / "s.db")) as ledger:
        ledger.describe({"kind": "search", "candidates": list(plans), "rungs": [0.5, 1.0], "keep": 0.5, "seeds": 1})
        assert status_of(ledger).seconds_left is None
        ledger.add_candidates((name, plan, {"macs": 100}) for name, plan in plans.items())
        ledger.add_tasks(list(plans), (0,), 0, 0.5)
        ledger.finish(ledger.lease(new_owner(), 30), 0.5, 10.0)
        ledger.lease(new_owner(), 30)
        status = status_of(ledger)
        assert [rung.trainings for rung in status.rungs] == [2, 1]
        assert status.seconds_left == pytest.approx(10 + 20)  # half a schedule took 10 s
        folder = trial_folder(tmp_path / "s.db.trials", "w2", 0, 0)
        folder.mkdir(parents=True)
        (folder / "progress.json").write_text('{"step": 1, "steps": 2}')
        assert status_of(ledger).seconds_left == pytest.approx(5 + 20)
        assert status_of(ledger).leaders == (("w1", 0.5, 1),)


def test_a_factory_can_be_sent():
    import pickle

    factory = pickle.loads(pickle.dumps(Factory(NET)))
    assert type(factory()).__name__ == "Tiny"


@pytest.mark.parametrize(("seconds", "text"), [(44.6, "45 s"), (100, "1.7 min"), (1200, "20 min"), (2e5, "2.3 days")])
def test_durations(seconds: float, text: str):
    assert duration(seconds) == text


def test_parts_are_not_searched():
    import cnnscale

    with pytest.raises(UsageError, match="a search trains whole nets"):
        cnnscale.search(search_jobs.Tiny(), search_jobs.quick, input_size=(1, 16, 16), submodule="stage")


def test_a_store_of_something_else_is_refused(command: list[str], here, tmp_path: Path):
    call(*command)
    assert "belongs to another search: its budget" in call(*command, "--budget", "3", code=1).stderr
    with pytest.raises(SearchError):
        Ledger(tmp_path / "nowhere.db", create=False)
