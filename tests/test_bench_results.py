"""Results on disk: nothing acknowledged is lost, nothing is measured twice, and a regression is seen."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest

from cnnscale.benchmarking.comparing import Job
from cnnscale.benchmarking.records import Environment, Report, Row, Timing
from cnnscale.benchmarking.regressions import against
from cnnscale.benchmarking.results import Store, check_writable
from cnnscale.errors import CnnScaleError
from cnnscale.timing.settings import Settings

SETTINGS = Settings(device="cpu")
JOB = Job("infer", 8)
WHERE = Environment(
    device="cpu",
    device_name="Some CPU",
    threads=2,
    cores=2,
    dtype="fp32",
    channels_last=False,
    compile_mode=None,
    cuda_graph=False,
    torch="2.14.1",
    python="3.11",
    cnnscale="0.1.0",
    libraries={},
    platform="Linux",
    commit="abc",
    command=("bench",),
    state={},
)


def make_row(name: str = "phi 0", *, ms: float = 10.0, spread: float = 0.01, session: str = "s", **changes) -> Row:
    source = random.Random(name + session)
    rounds = tuple(ms * (1 + spread * source.uniform(-1, 1)) for _ in range(20))
    timing = Timing(
        latency_ms=ms,
        latency_low_ms=ms,
        latency_high_ms=ms,
        p95_ms=ms,
        images_per_s=8e3 / ms,
        gmacs_per_s=1.0,
        peak_memory_bytes=1000,
        memory_source="resident",
        runs=20,
        rounds_ms=rounds,
        quantiles_ms=(ms,),
        warm=True,
    )
    fields = {"model": "net", "phi": 0.0, "batch_size": 8, "verified": True, "timing": timing}
    return Row(name=name, session=session, **fields | changes)


def save(store: Store, *rows: Row, complete: bool = True) -> None:
    store.append(rows, JOB, SETTINGS, WHERE, complete=complete)


class TestStore:
    def test_what_goes_in_comes_out(self, tmp_path: Path):
        store = Store(tmp_path / "r.jsonl")
        rows = [make_row(), make_row("phi 1", problem="no")]
        save(store, *rows)
        saved = Store(tmp_path / "r.jsonl").read()
        assert [line.row for line in saved] == rows
        assert saved[0].environment == WHERE
        assert saved[0].time.endswith("+00:00")

    @pytest.mark.parametrize("torn", [b"{", b'{"format":1,"ti', b"\xff\xfe", b'{"format":1}garbage'])
    def test_a_torn_last_line_is_healed_at_the_next_opening(self, tmp_path: Path, torn: bytes):
        path = tmp_path / "r.jsonl"
        save(Store(path), make_row())
        with path.open("ab") as file:
            file.write(torn)
        store = Store(path)
        save(store, make_row("phi 1"))
        assert [line.row.name for line in store.read()] == ["phi 0", "phi 1"]

    def test_a_line_that_lacks_only_its_end_is_kept(self, tmp_path: Path):
        path = tmp_path / "r.jsonl"
        save(Store(path), make_row())
        path.write_bytes(path.read_bytes().rstrip(b"\n"))
        save(Store(path), make_row("phi 1"))
        assert [line.row.name for line in Store(path).read()] == ["phi 0", "phi 1"]

    def test_a_strange_line_is_named(self, tmp_path: Path):
        path = tmp_path / "r.jsonl"
        path.write_text('{"format":1}\n', encoding="utf-8")
        with pytest.raises(CnnScaleError, match=r"r\.jsonl:1 is not a result of bench: time"):
            Store(path).read()

    def test_paths_are_tried_at_once(self, tmp_path: Path):
        with pytest.raises(CnnScaleError, match="cannot write"):
            Store(tmp_path / "missing" / "r.jsonl")
        with pytest.raises(CnnScaleError, match="cannot write"):
            check_writable(tmp_path)
        check_writable(tmp_path / "page.html")
        assert not (tmp_path / "page.html").exists()


class TestResume:
    def test_the_same_comparison_is_found(self, tmp_path: Path):
        store = Store(tmp_path / "r.jsonl")
        rows = [make_row("phi 0"), make_row("phi 1")]
        save(store, *reversed(rows))
        assert store.known(JOB, rows, SETTINGS, WHERE) == rows

    def test_the_latest_counts(self, tmp_path: Path):
        store = Store(tmp_path / "r.jsonl")
        save(store, make_row(session="a"))
        save(store, make_row(session="b"))
        assert store.known(JOB, [make_row()], SETTINGS, WHERE)[0].session == "b"

    @pytest.mark.parametrize(
        ("row", "settings", "where", "batch"),
        [
            ({"plan": "other"}, {}, {}, 8),
            ({"mode": "train"}, {}, {}, 8),
            ({"input_size": (3, 9, 9)}, {}, {}, 8),
            ({}, {"dtype": "bf16"}, {}, 8),
            ({}, {"channels_last": True}, {}, 8),
            ({}, {}, {"device_name": "Another CPU"}, 8),
            ({}, {}, {"threads": 1}, 8),
            ({}, {}, {"torch": "2.13"}, 8),
            ({}, {}, {}, 16),
        ],
        ids=str,
    )
    def test_another_one_is_not(self, tmp_path: Path, row: dict, settings: dict, where: dict, batch: int):
        store = Store(tmp_path / "r.jsonl")
        save(store, make_row())
        asked = [dataclasses.replace(make_row(), **row)]
        settings, where = dataclasses.replace(SETTINGS, **settings), dataclasses.replace(WHERE, **where)
        assert store.known(Job("infer", batch), asked, settings, where) is None
        assert store.known(JOB, [make_row()], SETTINGS, WHERE) is not None

    def test_half_a_comparison_is_none(self, tmp_path: Path):
        store = Store(tmp_path / "r.jsonl")
        save(store, make_row())
        assert store.known(JOB, [make_row(), make_row("phi 1")], SETTINGS, WHERE) is None
        save(store, make_row("phi 2", session="b"), complete=False)
        assert store.known(JOB, [make_row("phi 2")], SETTINGS, WHERE) is None


def write_many(path: str, writer: int, count: int) -> None:
    store = Store(path)
    for number in range(count):
        save(store, make_row(f"{writer}/{number}"))


@pytest.mark.skipif(sys.platform == "win32", reason="signals and forks")
class TestProcesses:
    def test_eight_writers_lose_nothing(self, tmp_path: Path):
        path = tmp_path / "r.jsonl"
        context = multiprocessing.get_context("fork")
        writers = [context.Process(target=write_many, args=(str(path), n, 10)) for n in range(8)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join(60)
        names = [line.row.name for line in Store(path).read()]
        assert sorted(names) == sorted(f"{w}/{n}" for w in range(8) for n in range(10))

    def test_kill_9_loses_no_acknowledged_row(self, tmp_path: Path):
        path = tmp_path / "r.jsonl"
        context = multiprocessing.get_context("fork")
        for turn in range(5):
            reading, writing = context.Pipe(duplex=False)
            writer = context.Process(target=write_and_tell, args=(str(path), turn, writing))
            writer.start()
            time.sleep(0.05 + 0.02 * turn)
            os.kill(writer.pid, signal.SIGKILL)
            writer.join(60)
            told = []
            while reading.poll():
                told.append(reading.recv())
            names = [line.row.name for line in Store(path).read()]
            assert set(told) <= set(names)
        assert all(json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())


def write_and_tell(path: str, turn: int, told) -> None:
    store = Store(path)
    for number in range(1000):
        save(store, make_row(f"{turn}/{number}"))
        told.send(f"{turn}/{number}")


class TestRegressions:
    def compared(self, tmp_path: Path, new: Row, *old: Row, fail_over: float | None = 0.05, **where):
        store = Store(tmp_path / "old.jsonl")
        for row in old:
            save(store, row)
        report = Report(model="net", environment=dataclasses.replace(WHERE, **where), rows=(new,))
        return against(report, store.read(), SETTINGS, fail_over=fail_over)

    def test_a_slower_row_fails(self, tmp_path: Path):
        found = self.compared(tmp_path, make_row(ms=11.0, session="new"), make_row())
        assert not found.ok
        assert found.changes[0].verdict == "slower"
        assert found.changes[0].ratio.middle == pytest.approx(1.1, rel=0.02)

    def test_unless_nobody_asked_or_the_allowance_is_wider(self, tmp_path: Path):
        assert self.compared(tmp_path, make_row(ms=11.0, session="new"), make_row(), fail_over=None).ok
        assert self.compared(tmp_path, make_row(ms=11.0, session="new"), make_row(), fail_over=0.2).ok

    def test_noise_is_no_regression(self, tmp_path: Path):
        found = self.compared(tmp_path, make_row(ms=10.6, spread=0.9, session="new"), make_row(spread=0.9))
        assert found.ok

    def test_the_latest_old_row_counts(self, tmp_path: Path):
        slow = make_row(ms=20.0, session="slow")
        assert self.compared(tmp_path, make_row(session="new"), slow, make_row()).changes[0].verdict == "no difference"

    def test_what_differs_is_said(self, tmp_path: Path):
        old = (make_row(), make_row("phi 1"))
        found = self.compared(tmp_path, make_row(session="new"), *old, threads=1, commit="def")
        assert found.notes == ("phi 1 is in the old results only", "threads was 2, is 1")

    def test_nothing_in_common_is_an_error(self, tmp_path: Path):
        with pytest.raises(CnnScaleError, match="nothing to compare"):
            self.compared(tmp_path, make_row(mode="train"), make_row())
