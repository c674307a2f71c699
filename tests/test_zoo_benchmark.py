"""The sweep of a zoo: its report, its going on after an end, and that every check can fail."""

from __future__ import annotations

import json
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest
import torch
from torch import nn

import cnnscale

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import zoo
import zoo_checks
from zoo_report import report

GOOD = {"library": "a", "kind": "convolutional", "seconds": 1.0, "growth": 2.0, "changed": 0.9, "problems": {}}
ROWS = [
    {**GOOD, "name": "one", "status": "scaled"},
    {**GOOD, "name": "two", "status": "off target", "growth": 1.5, "seconds": 3.0},
    {"library": "a", "name": "three", "status": "refused", "why": "TraceError: no", "seconds": 1.0},
    {**GOOD, "name": "four", "status": "wrong", "why": "names: p has x", "problems": {"names": "p has x"}},
    {"library": "a", "name": "five", "status": "skipped", "kind": "other", "seconds": 1.0},
]
SIZE = (3, 32, 32)


def net() -> nn.Sequential:
    with torch.device("meta"):
        convs = [nn.Conv2d(3 if i == 0 else 64, 64, 3, padding=1) for i in range(5)]
        return nn.Sequential(*convs, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


@pytest.fixture
def pair():
    model = net()
    return model, cnnscale.scale(model, 1, input_size=SIZE)


def test_the_report_comes_from_the_rows_alone():
    text = report(ROWS, len(ROWS))
    assert text == report(ROWS[::-1], len(ROWS))
    assert f"All {len(ROWS)} models" in text
    assert f"A random {len(ROWS)} of the 99 models" in report(ROWS, 99)
    assert "| a | convolutional | 3 | 1 | 1 | 0 | 1 | 1.00 | 3.00 |" in text
    assert "- TraceError: no (1): a three" in text
    assert "- growth 1.5 instead of 2 (1): a two" in text
    assert "2 of 3 results have their author's class" in text
    assert "five" not in text


def test_a_torn_line_is_cut_off_before_more_is_written(tmp_path, monkeypatch):
    out = tmp_path / "zoo.jsonl"
    out.write_text(json.dumps(ROWS[0]) + "\n" + json.dumps(ROWS[1])[:20], encoding="utf-8")
    monkeypatch.setattr(zoo, "rows_of", lambda jobs, workers, limit_s: iter([ROWS[1]]))
    zoo.sweep([("a", "two")], out, 1, 1)
    assert [row["name"] for row in zoo.read(out)] == ["one", "two"]


def test_a_dead_worker_costs_its_own_model_only(monkeypatch):
    def pooled(jobs, workers, limit_s):
        for library, name in jobs:
            if name == "bad":
                raise BrokenProcessPool
            yield {"library": library, "name": name, "status": "scaled"}

    monkeypatch.setattr(zoo, "_pooled", pooled)
    rows = list(zoo.rows_of([("a", name) for name in ("one", "bad", "two")], 1, 1))
    assert [(row["name"], row["status"]) for row in rows] == [("one", "scaled"), ("bad", "wrong"), ("two", "scaled")]


def test_a_good_net_passes_every_check(pair):
    assert [check(*pair, SIZE) for check in zoo_checks.CHECKS.values()] == [""] * len(zoo_checks.CHECKS)
    assert zoo_checks.wrong_identity(pair[0], SIZE) == ""


def test_another_output_is_caught(pair):
    baseline, result = pair
    result[-1] = nn.Linear(result[-1].in_features, 11, device="meta")
    assert "became" in zoo_checks.wrong_output(baseline, result, SIZE)


def test_a_map_follows_the_image_but_keeps_its_channels():
    baseline = net()[:5]
    result = cnnscale.scale(baseline, width=1.25, image_size=40, input_size=SIZE)
    assert zoo_checks.wrong_output(baseline, result, SIZE) == ""
    result.append(nn.Conv2d(64, 65, 1, device="meta"))
    assert "became" in zoo_checks.wrong_output(baseline, result, SIZE)


def test_a_layer_left_unscaled_is_caught():
    baseline = net()
    result = cnnscale.scale(baseline, width=1.25, input_size=SIZE)
    result[0] = nn.Conv2d(3, 64, 3, padding=1, device="meta")
    result[1] = nn.Conv2d(64, result[1].out_channels, 3, padding=1, device="meta")
    assert "plan" in zoo_checks.wrong_macs(baseline, result, SIZE)
    assert "no layer" in zoo_checks.wrong_widths(baseline, result, SIZE)


def test_a_parameter_without_gradient_is_caught(pair):
    baseline, result = pair
    result[0].unused = nn.Parameter(torch.empty(1, device="meta"))
    assert "get no gradient" in zoo_checks.wrong_training(baseline, result, SIZE)


def test_other_names_are_caught(pair):
    baseline, result = pair
    result.add_module("9x", nn.Identity())
    result[0]._parameters = dict(reversed(result[0]._parameters.items()))
    assert "has" in zoo_checks.wrong_names(baseline, result, SIZE)


def test_a_wrong_identity_is_caught(monkeypatch):
    monkeypatch.setattr(cnnscale, "scale", lambda model, phi, **options: nn.Sequential(net()))
    assert zoo_checks.wrong_identity(net(), SIZE) == "phi 0 is not the identity"
