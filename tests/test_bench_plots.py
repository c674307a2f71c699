"""Pictures of a benchmark's report."""

from __future__ import annotations

import dataclasses
import re
import sys

import pytest
from test_bench_page import report, row

from cnnscale.benchmarking.plots import save_plots
from cnnscale.errors import CnnScaleError

NAMES = [f"{kind}-infer-8{suffix}" for kind in ("throughput", "latency", "memory") for suffix in (".png", ".svg")]


def test_every_comparison_has_three_pictures_in_two_formats(tmp_path):
    one, two = tmp_path / "one", tmp_path / "deep" / "two"
    for folder in (one, two):
        written = save_plots(report(), folder)
        assert [path.name for path in written] == NAMES
        assert written[0].read_bytes().startswith(b"\x89PNG")
        assert written[1].read_bytes().startswith(b"<?xml")
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in NAMES)
    assert "matplotlib.pyplot" not in sys.modules


def test_what_is_not_known_is_not_drawn(tmp_path):
    """An error row has no times; where no row has any, or any peak, there is no picture."""
    broken = dataclasses.replace(row(1), timing=None, problem="RuntimeError: no")
    assert len(save_plots(report(row(0), broken), tmp_path)) == 6
    assert save_plots(report(dataclasses.replace(row(0), timing=None)), tmp_path) == []
    unknown = dataclasses.replace(row(0), timing=dataclasses.replace(row(0).timing, peak_memory_bytes=None))
    assert [path.name for path in save_plots(report(unknown), tmp_path)] == NAMES[:4]


def test_the_names_of_the_rows_are_in_the_pictures(tmp_path):
    import matplotlib as mpl

    with mpl.rc_context({"svg.fonttype": "none"}):
        save_plots(report(), tmp_path)
    for name in NAMES[1::2]:
        text = (tmp_path / name).read_text()
        assert all(f">phi {number}<" in text for number in range(3))
        assert "resnet&lt;18&gt;" in text


def test_refused(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(CnnScaleError, match=r"cannot write into .*file"):
        save_plots(report(), tmp_path / "file")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(CnnScaleError, match=re.escape("pip install 'cnnscale[plot]'")):
        save_plots(report(), tmp_path)
