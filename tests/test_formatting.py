"""Records as text: every number that a reader needs is there, nothing is cut, and nothing is taken for markup."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from cnnscale.benchmarking import Environment, Report, Row
from cnnscale.coefficients import Coefficients, Multipliers
from cnnscale.formatting import (
    bench_view,
    failure_of,
    format_bench,
    format_plan,
    format_scaling,
    format_verification,
    plan_view,
    quantity,
    size_text,
)
from cnnscale.plans import Cost, Fixed, Options, Plan, Stage, Width
from cnnscale.records import Scaling, Verification
from cnnscale.timing import Timing

BEFORE = Cost(macs=1_814_000_000, params=11_689_512, activations=2_480_000)
AFTER = Cost(macs=3_640_000_000, params=19_300_000, activations=4_100_000)


def make_plan(**changes) -> Plan:
    fields = {
        "model": "torchvision.models.resnet.ResNet",
        "fingerprint": "0" * 64,
        "phi": 1.0,
        "coefficients": Coefficients(),
        "multipliers": Multipliers(depth=1.21, width=1.105, resolution=1.152),
        "achieved": Multipliers(depth=1.5, width=1.125, resolution=1.134),
        "baseline_size": (3, 224, 224),
        "input_size": (3, 254, 254),
        "stages": (
            Stage(path="layer1", block="BasicBlock", repeats=2, new_repeats=3, width=64, new_width=72),
            Stage(path="layer2", block="BasicBlock", repeats=4, new_repeats=4, width=128, new_width=128, note="pinned"),
        ),
        "widths": (
            Width(name="conv1", layers=("conv1",), before=64, wanted=70.4, after=72, rule="rounded"),
            Width(name="layer2.0", layers=("layer2.0",), before=128, wanted=128, after=128, rule="pinned"),
        ),
        "fixed": (Fixed(what="fc", why="its outputs are the classes"),),
        "before": BEFORE,
        "after": AFTER,
        "options": Options(fit=True),
    }
    return Plan(**fields | changes)


def make_verification(**changes) -> Verification:
    fields = {
        "baseline": BEFORE,
        "scaled": AFTER,
        "planned": AFTER,
        "target_growth": 2.0,
        "formula_growth": 1.92,
        "tolerance": 0.03,
        "thop_growth": 2.0123,
        "changed": 0.981,
        "notes": ("thop does not count matmul",),
    }
    return Verification(**fields | changes)


def make_row(phi: float, **changes) -> Row:
    timing = Timing(latency_ms=41.27, iqr_ms=0.531, images_per_s=193.8, peak_memory_bytes=97_500_000, runs=12)
    fields = {
        "name": f"phi {phi:g}",
        "phi": phi,
        "verified": True,
        "input_size": (3, 224, 224),
        "achieved": Multipliers(depth=1.51, width=1.12, resolution=1.13),
        "cost": BEFORE,
        "growth": 1.987,
        "target_growth": 2.0,
        "timing": timing,
        "time_growth": 2.36,
    }
    return Row(**fields | changes)


def make_report(*rows: Row) -> Report:
    environment = Environment(
        torch="2.9.0",
        python="3.11.7",
        device="cpu",
        device_name="Some CPU",
        threads=2,
        dtype="fp32",
        batch_size=8,
        channels_last=False,
        compiled=True,
    )
    return Report(model="resnet18", environment=environment, rows=rows)


@pytest.mark.parametrize(
    ("number", "unit", "text"),
    [
        (0, "", "0"),
        (999, "", "999"),
        (999.4, "", "999"),
        (999.6, "", "1.00 K"),
        (1000, "", "1.00 K"),
        (4_089_184_256, "", "4.09 G"),
        (25_557_032, "", "25.6 M"),
        (999_999, "", "1.00 M"),
        (97_500_000, "B", "97.5 MB"),
        (12, "B", "12 B"),
        (1.234, "", "1.23"),
        (193.84, "", "194"),
        (3.2e21, "", "3200 E"),
    ],
)
def test_quantities_have_three_digits_and_a_prefix(number: float, unit: str, text: str):
    assert quantity(number, unit) == text


def test_size_text_is_what_the_command_line_reads():
    assert size_text((3, 224, 192)) == "3x224x192"


def words_of(line: str) -> list[str]:
    return line.split()


def line_with(text: str, start: str) -> str:
    (line,) = [line for line in text.splitlines() if line.startswith(start)]
    return line


def test_a_plan_shows_all_that_it_does():
    text = format_plan(make_plan())
    assert "phi 1" in text
    assert "3x224x224 -> 3x254x254" in text
    assert words_of(line_with(text, "layer1")) == ["layer1", "BasicBlock", "2", "->", "3", "64", "->", "72"]
    assert words_of(line_with(text, "layer2")) == ["layer2", "BasicBlock", "4", "128", "pinned"]
    assert words_of(line_with(text, "depth")) == ["depth", "1.210", "1.500"]
    assert words_of(line_with(text, "resolution")) == ["resolution", "1.152", "1.134"]
    assert words_of(line_with(text, "MACs")) == ["MACs", "1.81", "G", "3.64", "G", "2.01x"]
    assert words_of(line_with(text, "params")) == ["params", "11.7", "M", "19.3", "M", "1.65x"]
    assert words_of(line_with(text, "activations")) == ["activations", "2.48", "M", "4.10", "M", "1.65x"]
    assert line_with(text, "growth of MACs") == "growth of MACs: planned 2.007, 2^phi 2.000 (+0.3%), formula 1.920"
    assert line_with(text, "channel groups") == "channel groups: 1 of 2 change their width"
    assert line_with(text, "not scaled") == "not scaled: fc: its outputs are the classes"


def test_a_plan_of_multipliers_has_no_target():
    text = format_plan(make_plan(phi=None, multipliers=Multipliers(depth=2, width=1.5, resolution=1)))
    assert "explicit multipliers" in text
    assert "2^phi" not in text
    assert "formula 4.500" in text


def test_without_stages_depth_is_not_applicable():
    assert "depth: not applicable" in format_plan(make_plan(stages=()))


def test_layers_that_stay_for_one_reason_share_a_line():
    fixed = tuple(Fixed(what=f"conv{i}", why="pinned") for i in range(9))
    text = format_plan(make_plan(fixed=(*fixed, Fixed(what="fc", why="classes"))))
    assert "not scaled: conv0, conv1, conv2, conv3, conv4, conv5 and 3 more: pinned" in text
    assert "not scaled: fc: classes" in text


def test_brackets_are_text_not_markup():
    stage = Stage(path="[red]x", block="B[/]", repeats=1, new_repeats=1, width=1, new_width=1, note="[bold]")
    plan = make_plan(stages=(stage,), fixed=(Fixed(what="blocks[0-9]+", why="pin [a-z]"),))
    with_markup = Console(file=io.StringIO(), width=200)  # a console that does read markup
    with with_markup.capture() as capture:
        with_markup.print(plan_view(plan))
    for text in (format_plan(plan), capture.get()):
        for bracketed in ("[red]x", "B[/]", "[bold]", "blocks[0-9]+: pin [a-z]"):
            assert bracketed in text


def test_long_notes_wrap_and_lose_nothing():
    note = " ".join(f"word{i}" for i in range(80))
    text = format_verification(make_verification(notes=(note,)))
    assert max(map(len, text.splitlines())) <= 120
    assert all(f"word{i}" in text.split() for i in range(80))


def test_text_is_plain_ascii_even_where_colours_are_forced(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    scaling = Scaling(input_size=(3, 254, 254), plan=make_plan(), verification=make_verification(), form="module")
    for text in (format_scaling(scaling), format_bench(make_report(make_row(0, verified=False, problem="bad")))):
        assert text.isascii()
        assert "\x1b" not in text
        assert not any(line.endswith(" ") for line in text.splitlines())


def test_records_print_themselves():
    scaling = Scaling(input_size=(3, 254, 254), plan=make_plan(), verification=make_verification(), form="graph")
    assert str(scaling) == format_scaling(scaling)
    assert str(scaling.plan) == format_plan(scaling.plan)


def test_a_scaling_shows_the_plan_and_what_was_measured():
    measured = Cost(macs=3_700_000_000, params=AFTER.params, activations=AFTER.activations)
    verification = make_verification(scaled=measured)
    text = format_scaling(Scaling(input_size=(3, 254, 254), plan=make_plan(), verification=verification, form="graph"))
    assert "form: a torch.fx.GraphModule" in text
    assert words_of(line_with(text, "MACs")) == ["MACs", "1.81", "G", "3.70", "G", "2.04x"]
    assert "measured 2.040, 2^phi 2.000 (+2.0%), formula 1.920" in text
    assert "plan: planned 2.007, NOT as measured" in text
    assert "thop's growth: 2.01x" in text
    assert "changed: 98.1%" in text
    assert "note: thop does not count matmul" in text
    assert "verification: FAILED: cost is not as planned: macs planned 3640000000, measured 3700000000" in text


def test_thop_that_cannot_run_is_said():
    assert "thop's growth: could not count" in format_verification(make_verification(thop_growth=None))


def test_failures_are_explained():
    assert failure_of(make_verification()) is None
    assert failure_of(make_verification(target_growth=None, planned=None)) is None
    off_target = failure_of(make_verification(target_growth=4.0))
    assert off_target == "MACs grew 2.01x where 4.00x was wanted, -49.8% (tolerance 3.0%)"
    both = failure_of(make_verification(target_growth=4.0, planned=BEFORE))
    assert both is not None
    assert both.startswith("cost is not as planned: macs planned 1814000000, measured 3640000000; params planned")
    assert both.endswith(off_target)


def test_a_benchmark_row_has_every_column():
    text = format_bench(make_report(make_row(0), make_row(-0.5)))
    table = [line.split() for line in text.splitlines() if "97.5" in line]
    assert [line[0] for line in table] == ["0", "-0.5"]
    assert table[0][1:] == [
        *("3x224x224", "1.51", "1.12", "1.13", "11.7", "M", "1.81", "G", "1.99x", "2.00x", "2.36x"),
        *("194", "41.3", "0.53", "97.5", "MB"),
    ]
    assert "Some CPU (cpu), fp32, batch 8, 2 threads, compiled, torch 2.9.0" in text


def test_a_variant_that_was_not_timed_says_why():
    failed = make_row(1, verified=False, problem="MACs grew 9x", timing=None, time_growth=None)
    broken = Row(name="phi 2", phi=2.0, problem="RuntimeError: out of memory\nand a long story")
    text = format_bench(make_report(make_row(0), failed, broken))
    assert "phi 1: MACs grew 9x" in text
    assert "phi 2: RuntimeError: out of memory" in text.splitlines()
    assert words_of(next(line for line in text.splitlines() if line.split()[:2] == ["2", "-"])) == ["2", *["-"] * 13]


def test_a_benchmark_turns_upright_rather_than_lose_digits():
    row = make_row(-0.25, input_size=(3, 1024, 1024), cost=Cost(macs=123 * 10**9, params=888 * 10**6, activations=1))
    report = make_report(row, make_row(2))
    assert "3x1024x1024" in format_bench(report)
    console = Console(file=io.StringIO(), width=80)
    with console.capture() as capture:
        console.print(bench_view(report, width=80))
    lines = [line.split() for line in capture.get().splitlines()]
    assert ["input", "3x1024x1024", "3x224x224"] in lines
    assert ["peak", "mem", "97.5", "MB", "97.5", "MB"] in lines
    assert ["phi", "-0.25", "2"] in lines
