"""``bench`` from the outside: what is compared, where results go, and what becomes of a run that ends early."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from test_cli import FAST, NET, SIZE, run
from typer.testing import CliRunner

from cnnscale import cli
from cnnscale.benchmarking import comparing
from cnnscale.benchmarking.results import Store, read_results


@pytest.fixture
def net(tmp_path: Path, monkeypatch) -> str:
    """A small net; the terminal is wide enough for every line."""
    path = tmp_path / "small_net.py"
    path.write_text(textwrap.dedent(NET), encoding="utf-8")
    monkeypatch.setenv("COLUMNS", "300")
    return f"{path}:build"


def bench(net: str, *args: str | Path, code: int = 0):
    return run("bench", net, *args, *SIZE, *FAST, code=code)


class TestWhatIsCompared:
    def test_strategies_at_equal_macs(self, net: str):
        rows = json.loads(bench(net, "--phi", "1", "--strategies", "depth", "width", "--json").stdout)["rows"]
        assert [row["name"] for row in rows] == ["phi 0", "phi 1 depth", "phi 1 width"]
        _, deep, wide = rows
        assert deep["achieved"]["depth"] > 1 == deep["achieved"]["width"]
        assert wide["achieved"]["width"] > 1 == wide["achieved"]["depth"]
        assert deep["growth"] == pytest.approx(2, rel=0.03)
        assert wide["growth"] == pytest.approx(2, rel=0.03)

    def test_an_unknown_strategy_is_2_with_what_was_meant(self, net: str):
        told = bench(net, "--strategies", "fats", code=2).stderr
        assert "no strategy is called 'fats'; did you mean fast?" in told

    def test_strategies_leave_no_room_for_another_curve(self, net: str):
        assert "contradict" in bench(net, "--strategies", "fast", "--strategy", "tiny", code=2).stderr
        assert "contradict" in bench(net, "--strategies", "fast", "--alpha", "1.3", code=2).stderr

    def test_an_unknown_model_is_1_before_anything_is_measured(self, net: str, monkeypatch):
        monkeypatch.setattr(comparing, "run_rounds", None)
        told = run("bench", net, "resnet8", *SIZE, *FAST, code=1).stderr
        assert "did you mean resnet18" in told

    @pytest.mark.parametrize("text", ["0,1,2", "[0, 1, 2]", "0..2", "0-2", "0:2"])
    def test_a_list_written_otherwise_is_2_with_the_list_meant(self, net: str, text: str):
        assert "did you mean --phi 0 1 2?" in run("bench", net, "--phi", text, code=2).stderr

    def test_an_unknown_option_is_2_with_the_one_meant(self, net: str):
        assert "--batch-size" in bench(net, "--batchsize", "3", code=2).stderr


class TestOut:
    def test_every_row_is_a_line_with_its_environment(self, net: str, tmp_path: Path):
        out = tmp_path / "rows.jsonl"
        bench(net, "--out", out, "--phi", "1")
        lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
        assert [line["row"]["name"] for line in lines] == ["phi 0", "phi 1"]
        for line in lines:
            assert line["environment"]["device_name"]
            assert {"threads", "torch", "commit", "command", "libraries"} <= set(line["environment"])
            assert len(line["row"]["plan"]) == 64
        assert lines[1]["row"]["growth"] == pytest.approx(2, rel=0.03)
        assert lines[1]["row"]["verdict"]

    def test_a_second_run_adds_to_it(self, net: str, tmp_path: Path):
        out = tmp_path / "rows.jsonl"
        for _ in range(2):
            bench(net, "--out", out, "--phi", "0")
        assert len(read_results(out)) == 2

    def test_resume_measures_only_what_is_missing(self, net: str, tmp_path: Path, monkeypatch):
        out = tmp_path / "rows.jsonl"
        first = json.loads(bench(net, "--phi", "0", "--out", out, "--json").stdout)["rows"]
        measured = []
        real = comparing.run_rounds
        monkeypatch.setattr(comparing, "run_rounds", lambda *args, **rest: measured.append(1) or real(*args, **rest))
        args = ("--phi", "0", "--batch-size", "2", "4", "--out", out, "--resume", "--json")
        again = json.loads(run("bench", net, *SIZE, *FAST, *args).stdout)["rows"]
        assert again[0] == first[0]
        assert [row["batch_size"] for row in again] == [2, 4]
        assert len(measured) == 1
        run("bench", net, *SIZE, *FAST, *args)
        assert len(measured) == 1

    def test_resume_needs_a_file(self, net: str):
        assert "--out" in bench(net, "--resume", code=2).stderr

    @pytest.mark.parametrize(
        "option", ["--out={}/no/rows.jsonl", "--json={}/no/report.json", "--csv={}", "--markdown={}"]
    )
    def test_a_path_that_cannot_be_written_is_told_before_anything_is_measured(
        self, net: str, tmp_path: Path, monkeypatch, option: str
    ):
        monkeypatch.setattr(comparing, "run_rounds", None)
        assert "cannot write" in bench(net, option.format(tmp_path), code=1).stderr

    @pytest.mark.skipif(os.name == "nt", reason="signals")
    def test_kill_9_and_the_same_command_again(self, net: str, tmp_path: Path):
        out = tmp_path / "rows.jsonl"
        args = ["bench", net, *SIZE, *FAST, "--phi", "0", "--batch-size", "1", "4", "8", "--out", str(out)]
        process = subprocess.Popen([sys.executable, "-m", "cnnscale", *args], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while not (out.exists() and out.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait(10)
        with out.open("ab") as file:
            file.write(b'{"format":1,"row":{"na')  # as if it had been killed in the middle of a line
        kept = Store(out).read()
        assert len(kept) >= 1
        run(*args, "--resume")
        assert read_results(out)[: len(kept)] == kept
        assert [line.row.batch_size for line in read_results(out)] == [2, 1, 4, 8]


class TestAgainstAnEarlierRun:
    def took(self, out: Path, ms: float) -> None:
        """Rewrite a results file as if its rounds had taken about so long."""
        lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
        for line in lines:
            line["row"]["timing"]["rounds_ms"] = [ms * (1 + 0.01 * (i % 3)) for i in range(20)]
        out.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")

    def test_the_gate(self, net: str, tmp_path: Path):
        old, new = tmp_path / "old.jsonl", tmp_path / "new.jsonl"
        for path in (old, new):
            bench(net, "--phi", "0", "--out", path)
        self.took(old, 10.0)
        self.took(new, 11.0)
        gate = ("--phi", "0", "--out", new, "--resume", "--compare", old)
        told = bench(net, *gate, "--fail-over", "5%", code=1).stdout
        assert "slower, REGRESSED" in told
        assert "REGRESSED" not in bench(net, *gate).stdout
        self.took(old, 12.0)
        assert "faster" in bench(net, *gate, "--fail-over", "5%").stdout

    def test_an_earlier_run_is_left_as_it_is(self, net: str, tmp_path: Path):
        old = tmp_path / "old.jsonl"
        bench(net, "--phi", "0", "--out", old)
        with old.open("ab") as file:
            file.write(b'{"torn')
        before = old.read_bytes()
        data = json.loads(bench(net, "--phi", "0", "--compare", old, "--json").stdout)
        assert data["compared"]["changes"][0]["row"]["name"] == "phi 0"
        assert old.read_bytes() == before

    def test_one_that_is_not_there_is_told_at_once(self, net: str, tmp_path: Path, monkeypatch):
        monkeypatch.setattr(comparing, "run_rounds", None)
        assert "cannot read" in bench(net, "--compare", tmp_path / "no.jsonl", code=1).stderr
        assert not (tmp_path / "no.jsonl").exists()

    def test_a_gate_without_an_earlier_run_is_2(self, net: str):
        assert "--compare" in bench(net, "--fail-over", "5%", code=2).stderr


class TestFormats:
    def test_csv_has_a_line_per_row(self, net: str):
        rows = list(csv.DictReader(io.StringIO(bench(net, "--phi", "1", "--csv").stdout)))
        assert [row["name"] for row in rows] == ["phi 0", "phi 1"]
        assert rows[0]["input_size"] == "3x32x32"
        assert float(rows[1]["timing.images_per_s"]) > 0
        assert rows[1]["dtype"] == "fp32"
        assert None not in rows[0]

    def test_markdown_has_tables(self, net: str):
        text = bench(net, "--phi", "1", "--markdown").stdout
        lines = [line for line in text.splitlines() if line.startswith("|")]
        assert lines[0].startswith("| variant | input |")
        assert {line.count("|") for line in lines[:4]} == {lines[0].count("|")}
        assert "| phi 1 / phi 0 | time " in text

    def test_to_files_beside_the_table(self, net: str, tmp_path: Path):
        files = [tmp_path / name for name in ("r.json", "r.csv", "r.md")]
        options = [f"--{kind}={path}" for kind, path in zip(("json", "csv", "markdown"), files, strict=True)]
        result = bench(net, "--phi", "0", *options)
        assert "variant" in result.stdout
        assert [f"wrote {path}" for path in files] == result.stderr.splitlines()
        assert json.loads(files[0].read_text(encoding="utf-8"))["rows"]

    def test_only_one_goes_to_stdout(self, net: str):
        assert "stdout" in bench(net, "--json", "--csv", code=2).stderr


class TestConfig:
    def test_what_is_dumped_is_read_again(self, net: str, tmp_path: Path):
        config = tmp_path / "bench.toml"
        args = (
            "bench",
            net,
            "--phi",
            "0.5",
            "2",
            "--dtype",
            "bf16",
            "--fail-over",
            "5%",
            "--pin",
            "a|b",
            "--no-single",
        )
        config.write_text(run(*args, "--dump-config").stdout, encoding="utf-8")
        assert run("bench", "--config", config, "--dump-config").stdout == config.read_text(encoding="utf-8")
        assert run(*args, "--dump-config").stdout != run("bench", net, "--dump-config").stdout

    def test_the_command_line_wins(self, net: str, tmp_path: Path):
        config = tmp_path / "bench.toml"
        config.write_text(f"models = [{net!r}]\nphi = [1]\nbatch-size = [4]\ndtype = 'bf16'\n", encoding="utf-8")
        data = json.loads(run("bench", "--config", config, "--phi", "0", *SIZE, *FAST, "--json").stdout)
        assert [(row["phi"], row["batch_size"]) for row in data["rows"]] == [(0, 2)]
        assert data["environment"]["dtype"] == "bf16"

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("bathc-size = [1]", "did you mean batch-size"),
            ("phi = 1", "phi must be a list"),
            ("dtype = ['fp32']", "dtype must be a single value"),
            ("dtype = 'fp3'", "fp3"),
            ("phi = ", "is not TOML"),
        ],
    )
    def test_what_is_wrong_with_it_is_2(self, net: str, tmp_path: Path, text: str, told: str):
        config = tmp_path / "bench.toml"
        config.write_text(text, encoding="utf-8")
        assert told in run("bench", net, "--config", config, code=2).stderr
        assert "cannot read" in run("bench", net, "--config", tmp_path / "no.toml", code=2).stderr


def test_quiet_when_stderr_is_no_terminal(net: str):
    assert bench(net, "--phi", "0").stderr == ""


@pytest.mark.parametrize(
    ("words", "found"),
    [("bench resnet1", "resnet18\nresnet101\nresnet152"), ("bench resnet18 --strategies re", "resolution\nresnet-rs")],
)
def test_the_shell_completes_models_and_strategies(words: str, found: str):
    asked = {
        "_CNNSCALE_COMPLETE": "complete_bash",
        "COMP_WORDS": f"cnnscale {words}",
        "COMP_CWORD": str(len(words.split())),
    }
    told = CliRunner().invoke(cli.app, [], prog_name="cnnscale", env=asked).stdout
    assert sorted(told.split()) == sorted(found.split())
