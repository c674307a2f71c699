"""The command line from the outside: what goes to stdout, what to stderr, and with which exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from cnnscale import benchmarking, cli, plans, terminal, timing
from cnnscale.errors import ModelError
from cnnscale.loading import PLAN_FILE, SOURCE_FILE, WEIGHTS_FILE, load, rebuild, save

NET = """
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self, inputs, outputs, stride):
            super().__init__()
            self.conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
            self.norm = nn.BatchNorm2d(outputs)
            self.residual = inputs == outputs and stride == 1

        def forward(self, x):
            y = torch.relu(self.norm(self.conv(x)))
            return x + y if self.residual else y

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 16, 3, 1, 1)
            self.stage1 = nn.Sequential(Block(16, 32, 2), Block(32, 32, 1), Block(32, 32, 1))
            self.stage2 = nn.Sequential(Block(32, 64, 2), Block(64, 64, 1))
            self.head = nn.Linear(64, 10)

        def forward(self, x):
            return self.head(self.stage2(self.stage1(self.stem(x))).mean((2, 3)))

    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)

        def forward(self, x):
            y = self.conv(x)
            return y.mean((2, 3)) if y.sum().item() > 0 else y.amax((2, 3))

    def build():
        return Net()

    def broken():
        raise RuntimeError("no weights today")

    def mlp():
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 64), nn.ReLU(), nn.Linear(64, 10))

    def branching():
        return Branching()
"""
SIZE = ("--input-size", "32")
FAST = ("--batch-size", "2", "--min-time", "0.001", "--device", "cpu", "--threads", "1")


@pytest.fixture
def net(tmp_path: Path, monkeypatch) -> str:
    """A small net in a file of its own; the terminal is wide enough for every line."""
    path = tmp_path / "small_net.py"
    path.write_text(textwrap.dedent(NET), encoding="utf-8")
    monkeypatch.setenv("COLUMNS", "300")
    return str(path)


def run(*args: str | Path, code: int = 0):
    result = CliRunner().invoke(cli.app, list(map(str, args)))
    assert result.exit_code == code, result.output
    return result


def run_process(*args: str, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cnnscale", *args]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, **options)


class TestUsage:
    def test_help_is_quick_because_it_imports_no_torch(self):
        code = (
            "import sys; from cnnscale.cli import app\n"
            "try: app(['bench', '--help'])\n"
            "finally: assert not {'torch', 'torchvision', 'timm', 'thop'} & set(sys.modules), 'slow import'"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert "--phi" in done.stdout

    @pytest.mark.parametrize("command", ["plan", "scale", "verify", "bench"])
    def test_every_command_has_examples(self, command: str):
        text = run(command, "--help").stdout
        assert f"python -m cnnscale {command} " in text
        assert "MODEL" in text

    def test_version(self):
        import cnnscale

        assert run("--version").stdout == f"cnnscale {cnnscale.__version__}\n"

    @pytest.mark.parametrize(
        ("args", "message"),
        [
            (("plan",), "MODEL"),
            (("plan", "resnet18", "--phi", "much"), "'--phi'"),
            (("explain", "resnet18", "--phi", "1", "2"), "2"),
            (("plan", "resnet18", "--depth-rounding", "up"), "up"),
            (("frobnicate",), "frobnicate"),
            (("bench", "resnet18", "--phi"), "--phi"),
            (("bench", "resnet18", "--phi", "x"), "'--phi'"),
            (("scale", "resnet18", "--phi", "1"), "--out"),
        ],
        ids=str,
    )
    def test_wrong_usage_is_2(self, args: tuple[str, ...], message: str):
        result = run(*args, code=2)
        assert message in result.stderr
        assert result.stdout == ""

    @pytest.mark.parametrize(
        ("args", "message"),
        [
            (("--phi", "1", "--input-size", "big"), "--input-size must be CxHxW or SIDE in pixels, got 'big'"),
            (("--phi", "1", "--input-size", "1x3x32x32"), "--input-size must be"),
            (("--phi", "1", "--input-size", "0"), "--input-size must be"),
            (("--phi", "1", "--image-size", "3x32x32"), "--image-size must be HxW or SIDE in pixels, got '3x32x32'"),
            (("--phi", "1", "--depth", "2"), "phi"),
            (("--depth", "-1"), "depth"),
            (("--phi", "1", "--alpha", "0.5"), "alpha must be at least 1"),
            ((), "phi"),
        ],
        ids=str,
    )
    def test_options_that_make_no_sense_are_2_too(self, net: str, args: tuple[str, ...], message: str):
        result = run("plan", f"{net}:build", *args, code=2)
        assert result.stderr.startswith("error: ")
        assert message in result.stderr
        assert result.stderr.count("\n") == 1

    @pytest.mark.parametrize(
        ("args", "expected"),
        [
            ("m --phi 0 1 2", "m --phi 0 --phi 1 --phi 2"),
            ("--phi 0 1 2 m", "--phi 0 --phi 1 --phi 2 m"),
            ("m --phi -1 -.5 +2e-1 --json", "m --phi -1 --phi -.5 --phi +2e-1 --json"),
            ("m --phi=-1 0", "m --phi=-1 --phi 0"),
            ("m --phi 1 --batch-size 4 8", "m --phi 1 --batch-size 4 8"),
            ("m --phi", "m --phi"),
            ("m --phi x 1", "m --phi x --phi 1"),
            ("-- --phi 1 2", "-- --phi 1 2"),
            ("m --phi 1 -2 -- 3", "m --phi 1 --phi -2 -- 3"),
        ],
    )
    def test_several_values_after_one_option(self, args: str, expected: str):
        assert terminal.spread_values(args.split(), {"--phi"}) == expected.split()


class TestErrors:
    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            ("no/such/file.py:build", "cannot read no/such/file.py"),
            ("resnet51", "did you mean"),
            ("{net}:buidl", "did you mean build?"),
            ("{net}:broken", "broken failed: RuntimeError: no weights today ({net}:{line}, in broken)"),
        ],
    )
    @pytest.mark.parametrize("command", ["plan", "verify", "bench"])
    def test_a_model_that_cannot_be_loaded_is_one_line_and_1(self, net: str, command: str, spec: str, message: str):
        result = run(command, spec.format(net=net), "--phi", "1", code=1)
        assert result.stdout == ""
        line = 1 + Path(net).read_text(encoding="utf-8").partition("raise RuntimeError")[0].count("\n")
        assert message.format(net=net, line=line) in result.stderr
        assert result.stderr.count("\n") == 1

    @pytest.mark.parametrize("factory", ["mlp", "branching"])
    @pytest.mark.parametrize("command", ["plan", "bench"])
    def test_a_model_that_cannot_be_scaled_is_one_line_and_1(self, net: str, command: str, factory: str):
        result = run(command, f"{net}:{factory}", "--phi", "1", *SIZE, code=1)
        assert result.stdout == ""
        assert result.stderr.startswith("error: ")
        assert result.stderr.count("\n") == 1

    def test_an_input_size_that_the_model_cannot_take(self, net: str):
        result = run("plan", f"{net}:build", "--phi", "1", "--input-size", "4x32x32", code=1)
        assert result.stderr.startswith("error: ")
        assert "Traceback" not in result.stderr

    def test_debug_shows_the_traceback(self, net: str):
        quiet = run("plan", f"{net}:broken", "--phi", "1", code=1)
        assert "Traceback" not in quiet.stderr
        assert (
            'raise RuntimeError("no weights today")'
            in run("plan", f"{net}:broken", "--phi", "1", "--debug", code=1).stderr
        )

    def test_what_nobody_expected_is_reported_as_such(self, net: str, monkeypatch):
        monkeypatch.setattr("cnnscale.loading.load", lambda spec: 1 / 0)
        result = run("plan", f"{net}:build", code=1)
        assert result.stderr == "error: ZeroDivisionError: division by zero (--debug shows where)\n"

    def test_interrupted_is_130(self, net: str, monkeypatch):
        def interrupt(spec):
            raise KeyboardInterrupt

        monkeypatch.setattr("cnnscale.loading.load", interrupt)
        assert run("plan", f"{net}:build", code=130).stderr == "interrupted\n"

    def test_growth_out_of_tolerance_is_a_warning_on_stderr(self, net: str):
        args = ("verify", f"{net}:build", "--phi", "1", "--no-fit", "--tolerance", "0.0001", *SIZE)
        result = run(*args, code=1)
        assert result.stderr.startswith("warning: ")
        assert "FAILED" in result.stdout


class TestPlan:
    def test_the_table_is_on_stdout(self, net: str):
        result = run("plan", f"{net}:build", "--phi", "1", *SIZE)
        assert "stage1" in result.stdout
        assert "3x32x32 -> 3x" in result.stdout
        assert result.stderr == ""
        assert "\x1b" not in result.stdout

    def test_json_is_a_plan(self, net: str):
        made = plans.Plan.from_json(run("plan", f"{net}:build", "--phi", "1", "--json", *SIZE).stdout)
        assert made.phi == 1
        assert made.growth == pytest.approx(2, rel=0.03)

    def test_every_option_arrives(self, net: str):
        made = plans.Plan.from_json(
            run(
                *("plan", f"{net}:build", "--phi", "-1", "--alpha", "1.3", "--beta", "1.25", "--gamma", "1.05"),
                *(
                    "--no-fit",
                    "--tolerance",
                    "0.5",
                    "--divisor",
                    "4",
                    "--round-limit",
                    "0",
                    "--depth-rounding",
                    "floor",
                ),
                *("--pin", "^stem$", "--pin", "stage1", "--pin-depth", "stage2", "--input-size", "3x40x32", "--json"),
                *("--derive", "conv=on its own"),
            ).stdout
        )
        bases = made.coefficients
        assert (made.phi, bases.alpha, bases.beta, bases.gamma) == (-1, 1.3, 1.25, 1.05)
        assert made.baseline_size == (3, 40, 32)
        assert made.options == plans.Options(
            divisor=4,
            round_limit=0,
            depth_rounding="floor",
            pin=("^stem$", "stage1"),
            pin_depth=("stage2",),
            derive=(("conv", "on its own"),),
            fit=False,
            tolerance=0.5,
        )

    def test_multipliers_and_image_size(self, net: str):
        args = ("--depth", "2", "--width", "1.5", "--image-size", "48x40", "--json", *SIZE)
        made = plans.Plan.from_json(run("plan", f"{net}:build", *args).stdout)
        assert (made.phi, made.options.fit, made.input_size) == (None, False, (3, 48, 40))
        assert (made.multipliers.depth, made.multipliers.width) == (2, 1.5)

    def test_the_models_own_size_is_the_default(self):
        made = plans.Plan.from_json(run("plan", "efficientnet_b1", "--width", "1", "--json").stdout)
        assert made.baseline_size == (3, 240, 240)

    @pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
    def test_colour_only_where_it_is_wanted(self, net: str, monkeypatch, no_color: str, coloured: bool):
        monkeypatch.setenv("FORCE_COLOR", "1")  # as a terminal would
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("NO_COLOR", no_color)
        green = "\x1b[32m"
        assert (green in run("verify", f"{net}:build", "--phi", "0", *SIZE).stdout) is coloured

    def test_a_closed_pipe_is_no_error(self, net: str):
        command = f"{sys.executable} -m cnnscale plan {net}:build --phi 1 --input-size 32 | true"
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
        assert done.stderr == ""


class TestScale:
    def test_its_files_rebuild_the_model_in_a_fresh_process(self, net: str, tmp_path: Path):
        out = tmp_path / "out" / "deep"
        result = run("scale", f"{net}:build", "--phi", "1", "--seed", "3", "--out", out, *SIZE)
        assert "measured" in result.stdout
        assert result.stderr == f"wrote {out / WEIGHTS_FILE}, {out / PLAN_FILE} and {out / SOURCE_FILE}\n"
        assert sorted(path.name for path in out.iterdir()) == [SOURCE_FILE, WEIGHTS_FILE, PLAN_FILE]

        done = run_process("verify", f"{net}:build", "--plan", str(out / PLAN_FILE))
        assert (done.returncode, done.stderr) == (0, f"loaded {out / WEIGHTS_FILE}\n")
        assert "verification: ok" in done.stdout

        code = (
            "import sys, torch; from cnnscale.loading import load, rebuild; torch.manual_seed(99)\n"
            "model = rebuild(load(sys.argv[1]).model, sys.argv[2]).eval()\n"
            "print(model(torch.ones(1, *model.scaling.input_size)).tolist())"
        )
        command = [sys.executable, "-c", code, f"{net}:build", str(out)]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        model = rebuild(load(f"{net}:build").model, out).eval()
        images = torch.ones(1, *model.scaling.input_size)
        assert json.loads(printed) == model(images).tolist()

    def test_tied_weights_survive(self, tmp_path: Path):
        import cnnscale

        class Tied(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.stem = torch.nn.Conv2d(3, 16, 3, padding=1)
                self.one = torch.nn.Conv2d(16, 16, 3, padding=1)
                self.two = torch.nn.Conv2d(16, 16, 3, padding=1)
                self.two.weight = self.one.weight
                self.head = torch.nn.Linear(16, 10)

            def forward(self, x):
                return self.head(self.two(self.one(self.stem(x))).mean((2, 3)))

        scaled = cnnscale.scale(Tied(), width=2, input_size=(3, 16, 16)).eval()
        save(scaled, tmp_path)
        again = rebuild(Tied(), tmp_path).eval()
        assert again.two.weight is again.one.weight
        images = torch.ones(1, 3, 16, 16)
        assert torch.equal(again(images), scaled(images))

    def test_a_plan_of_another_model_is_refused(self, net: str, tmp_path: Path):
        run("scale", f"{net}:build", "--phi", "1", "--out", tmp_path / "out", *SIZE)
        result = run("verify", f"{net}:mlp", "--plan", tmp_path / "out" / PLAN_FILE, code=1)
        assert result.stderr.startswith("error: ")

    def test_weights_that_do_not_fit_are_refused(self, net: str, tmp_path: Path):
        for name, phi in (("one", "1"), ("two", "2")):
            run("scale", f"{net}:build", "--phi", phi, "--out", tmp_path / name, *SIZE)
        (tmp_path / "one" / WEIGHTS_FILE).replace(tmp_path / "two" / WEIGHTS_FILE)
        result = run("verify", f"{net}:build", "--plan", tmp_path / "two" / PLAN_FILE, code=1)
        assert "does not fit the model" in result.stderr

    @pytest.mark.parametrize("content", ["{}", "not json", None])
    def test_a_bad_plan_file_is_one_line(self, net: str, tmp_path: Path, content: str | None):
        if content is not None:
            (tmp_path / "p.json").write_text(content, encoding="utf-8")
        result = run("verify", f"{net}:build", "--plan", tmp_path / "p.json", code=1)
        assert result.stderr.startswith("error: ")
        assert result.stderr.count("\n") == 1

    def test_plan_and_options_contradict(self, net: str, tmp_path: Path):
        for option in (("--phi", "1"), ("--divisor", "4"), SIZE):
            result = run("verify", f"{net}:build", "--plan", tmp_path / "p.json", *option, code=2)
            assert "drop the other options" in result.stderr

    def test_the_output_is_checked_before_any_work(self, net: str, tmp_path: Path, monkeypatch):
        def work(spec):
            raise AssertionError("worked")

        monkeypatch.setattr("cnnscale.loading.load", work)
        (tmp_path / PLAN_FILE).write_text("precious", encoding="utf-8")
        assert "--force" in run("scale", f"{net}:build", "--phi", "1", "--out", tmp_path, code=2).stderr
        assert "cannot write" in run("scale", f"{net}:build", "--phi", "1", "--out", f"{net}/x", code=1).stderr
        assert (tmp_path / PLAN_FILE).read_text(encoding="utf-8") == "precious"

    def test_force_overwrites(self, net: str, tmp_path: Path):
        (tmp_path / PLAN_FILE).write_text("old", encoding="utf-8")
        run("scale", f"{net}:build", "--phi", "1", "--out", tmp_path, "--force", *SIZE)
        assert plans.Plan.from_json(tmp_path / PLAN_FILE).phi == 1

    def test_inherited_weights_and_strictness(self, net: str, tmp_path: Path):
        result = run(
            *("scale", f"{net}:build", "--phi", "1", "--no-fit", "--tolerance", "0.0001", "--strict"),
            *("--weights", "inherit", "--out", tmp_path / "out", *SIZE),
            code=1,
        )
        assert result.stderr.startswith("error: ")
        assert not (tmp_path / "out").exists()


class TestBench:
    def test_every_phi_has_its_row(self, net: str):
        data = json.loads(run("bench", f"{net}:build", "--phi", "1", "-0.5", "--json", *SIZE, *FAST).stdout)
        assert [row["phi"] for row in data["rows"]] == [0, 1, -0.5]  # the baseline is always measured
        assert [row["problem"] for row in data["rows"]] == [None] * 3
        baseline, bigger, _ = data["rows"]
        assert (baseline["growth"], baseline["time_growth"], baseline["input_size"]) == (1, 1, [3, 32, 32])
        assert bigger["growth"] == pytest.approx(2, rel=0.03)
        assert bigger["cost"]["macs"] == pytest.approx(2 * baseline["cost"]["macs"], rel=0.03)
        assert bigger["timing"]["peak_memory_bytes"] > baseline["timing"]["peak_memory_bytes"]
        assert data["model"] == f"{net}:build"
        assert data["environment"]["threads"] == 1

    def test_the_table(self, net: str):
        result = run("bench", f"{net}:build", "--phi", "0", "1", *SIZE, *FAST)
        header, *rows = [line.split() for line in result.stdout.splitlines() if line.startswith((" ", "phi"))]
        assert header[:2] == ["phi", "input"]
        assert [row[0] for row in rows] == ["0", "1"]
        assert result.stderr == ""

    def test_image_size_is_for_the_scaled_variants_only(self, net: str):
        args = ("bench", f"{net}:build", "--phi", "1", "--image-size", "40", "--tolerance", "0.5", "--json")
        data = json.loads(run(*args, *SIZE, *FAST).stdout)
        assert [row["input_size"] for row in data["rows"]] == [[3, 32, 32], [3, 40, 40]]

    def test_what_fails_verification_is_reported_and_1(self, net: str):
        args = ("bench", f"{net}:build", "--phi", "1", "--no-fit", "--tolerance", "0.0001", "--json", *SIZE, *FAST)
        row = json.loads(run(*args, code=1).stdout)["rows"][1]
        assert "MACs grew" in row["problem"]
        assert row["timing"] is None
        row = json.loads(run(*args, "--unverified", code=1).stdout)["rows"][1]
        assert row["timing"] is not None

    def test_a_variant_that_raises_leaves_the_others_and_is_1(self, net: str, monkeypatch):
        from cnnscale import scaling

        real = scaling.scale

        def fail_at_one(model, phi, **keywords):
            if phi == 1:
                raise ModelError("one is out of order")
            return real(model, phi, **keywords)

        monkeypatch.setattr(scaling, "scale", fail_at_one)
        result = run("bench", f"{net}:build", "--phi", "0", "1", "2", *SIZE, *FAST, code=1)
        assert "phi 1: one is out of order" in result.stdout
        assert sum("MB" in line or "KB" in line for line in result.stdout.splitlines()) == 2

    def test_an_interrupt_keeps_what_was_measured(self, net: str, monkeypatch):
        real = benchmarking.time_model
        calls = []

        def interrupt_second(*args):
            calls.append(args)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return real(*args)

        monkeypatch.setattr(benchmarking, "time_model", interrupt_second)
        result = run("bench", f"{net}:build", "--phi", "0", "1", "2", "--json", *SIZE, *FAST, code=130)
        assert [row["phi"] for row in json.loads(result.stdout)["rows"]] == [0]
        assert result.stderr == "interrupted\n"

    def test_the_model_that_was_loaded_is_left_alone(self, net: str):
        model = load(f"{net}:build").model
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        settings = timing.Settings(batch_size=1, min_time_s=0.001, dtype="bf16", device="cpu")
        report = benchmarking.benchmark(model, [1], settings=settings, input_size=(3, 32, 32))
        assert report.ok
        assert model.training
        assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())

    @pytest.mark.parametrize("option", [("--batch-size", "0"), ("--min-time", "0"), ("--dtype", "int8")], ids=str)
    def test_settings_out_of_range_are_2(self, net: str, option: tuple[str, str]):
        run("bench", f"{net}:build", *option, code=2)


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_control_c_ends_a_run_with_130(tmp_path: Path):
    ready = tmp_path / "ready"
    source = f"import pathlib, time\ndef build():\n    pathlib.Path({str(ready)!r}).touch()\n    time.sleep(60)\n"
    (tmp_path / "net.py").write_text(source, encoding="utf-8")
    command = [sys.executable, "-m", "cnnscale", "bench", str(tmp_path / "net.py") + ":build"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not ready.exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "interrupted\n")
