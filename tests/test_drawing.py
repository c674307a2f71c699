"""The picture of a family: everything in it is to one scale, says its units, and is written or refused in one line."""

from __future__ import annotations

import itertools
import re
import sys

import pytest
from matplotlib.patches import Rectangle
from test_cli import NET, SIZE, net, run  # noqa: F401
from test_plans import make_plan

from cnnscale import drawing
from cnnscale.errors import CnnScaleError, UsageError
from cnnscale.plans import Cost, Plan, Stage


def stage(number: int, phi: float, count: int = 4) -> Stage:
    return Stage(
        path=f"backbone.a_rather_long_name.stage_{number}$x_",
        block="Block",
        repeats=1 + number % 4,
        new_repeats=max(1, round((1 + number % 4) * 1.2**phi)),
        width=64 * (number + 1),
        new_width=round(64 * (number + 1) * 1.1**phi),
        sides=(224 // (number + 2),) * 2,
        new_sides=(round(224 * 1.15**phi) // (number + 2),) * 2,
    )


def family(phis=(-1, 1, 2), stages: int = 4, **changes) -> list[Plan]:
    return [
        make_plan(
            phi=phi,
            stages=tuple(stage(i, phi) for i in range(stages)),
            input_size=(3, *[round(224 * 1.15**phi)] * 2),
            before=Cost(macs=10**9, params=10**7, activations=10**6),
            after=Cost(macs=int(10**9 * 2**phi), params=int(10**7 * 1.5**phi), activations=int(10**6 * 1.7**phi)),
            **changes,
        )
        for phi in phis
    ]


def boxes(figure, prefix: str) -> list[Rectangle]:
    return [p for p in figure.axes[0].patches if (p.get_gid() or "").startswith(prefix)]


def texts(figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_boxes_are_to_one_scale():
    plans = family()
    figure = drawing.family_figure(plans)
    rows = [
        [(s.new_repeats, s.new_width) for s in plans[0].stages],
        [(s.repeats, s.width) for s in plans[0].stages],
        *([(s.new_repeats, s.new_width) for s in plan.stages] for plan in plans[1:]),
    ]
    drawn = boxes(figure, "stage ")
    numbers = list(itertools.chain(*rows))
    per_block = {round(box.get_width() / blocks, 9) for box, (blocks, _) in zip(drawn, numbers, strict=True)}
    per_channel = {round(box.get_height() / width, 9) for box, (_, width) in zip(drawn, numbers, strict=True)}
    assert len(per_block) == len(per_channel) == 1
    sides = [plans[0].input_size[1], 224, plans[1].input_size[1], plans[2].input_size[1]]
    inputs = boxes(figure, "input ")
    assert len({round(box.get_width() / side, 9) for box, side in zip(inputs, sides, strict=True)}) == 1
    assert all(box.get_width() == box.get_height() for box in inputs)


def test_coarser_feature_maps_are_darker():
    row = boxes(drawing.family_figure(family()), "stage 1 ")
    light = [sum(box.get_facecolor()[:3]) for box in row]
    assert light == sorted(light, reverse=True)
    assert len(set(light)) == len(row)


def test_texts_say_what_is_drawn_and_in_which_unit():
    figure = drawing.family_figure(family())
    found = texts(figure)
    for expected in ("baseline", "φ = −1", "φ = 2", "3×224×224 px", "1.00 G MACs", "10.0 M params", "×3", "256"):
        assert expected in found
    chart = figure.axes[1]
    lines = {line.get_label(): line for line in chart.lines}
    assert set(lines) == {"2^φ", "MACs", "params", "activations"}
    assert list(lines["MACs"].get_xdata()) == [-1, 0, 1, 2]
    assert list(lines["MACs"].get_ydata()) == [0.5, 1, 2, 4]
    assert chart.get_ylabel() == "growth, scaled / baseline"


def test_the_baseline_is_drawn_once():
    identity = make_plan(phi=0, stages=(), widths=(), input_size=(3, 224, 224))
    assert texts(drawing.family_figure([identity])).count("baseline") == 1
    assert len(boxes(drawing.family_figure([identity]), "input ")) == 1


@pytest.mark.parametrize(("plans", "stages"), [(1, 1), (7, 30), (7, 7), (2, 0), (3, 16)])
def test_nothing_overlaps_or_leaves_the_sheet(plans: int, stages: int):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = drawing.family_figure(family([-3, -2, -1, 1, 2, 2.25, 3][-plans:], stages, model="a$long_." * 30 + "Net"))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    sheet, chart = figure.axes
    extents = [text.get_window_extent() for text in sheet.texts]
    solid = extents + [box.get_window_extent() for box in boxes(figure, "stage ") + boxes(figure, "input ")]
    solid.append(chart.get_tightbbox())
    for one, other in itertools.combinations(solid, 2):
        width = min(one.x1, other.x1) - max(one.x0, other.x0)
        assert width <= 1 or min(one.y1, other.y1) - max(one.y0, other.y0) <= 1
    assert all(box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1 for box in solid)


def test_multipliers_have_no_phi_to_be_drawn_against():
    figure = drawing.family_figure([make_plan(phi=None)])
    assert {line.get_label() for line in figure.axes[1].lines} == {"MACs", "params", "activations"}


@pytest.mark.parametrize(
    ("suffix", "start"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF"), (".PNG", b"\x89PNG")]
)
def test_files_are_written_and_the_same_each_time(tmp_path, suffix: str, start: bytes):
    one, two = tmp_path / f"one{suffix}", tmp_path / f"two{suffix}"
    for path in (one, two):
        drawing.save_family(family(), path)
    assert one.read_bytes().startswith(start)
    assert one.read_bytes() == two.read_bytes()


def test_pyplot_is_left_alone(tmp_path):
    drawing.save_family(family(), tmp_path / "x.png")
    assert "matplotlib.pyplot" not in sys.modules


def test_refused(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match=r"suffix must be one of \.png, \.svg, \.pdf"):
        drawing.save_family(family(), tmp_path / "family.gif")
    with pytest.raises(UsageError, match="at least one"):
        drawing.family_figure([])
    with pytest.raises(UsageError, match="one baseline"):
        drawing.family_figure([*family(), make_plan(fingerprint="1" * 64)])
    with pytest.raises(CnnScaleError, match="there is no folder"):
        drawing.save_family(family(), tmp_path / "none" / "x.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(CnnScaleError, match=r"cannot write .*folder\.png"):
        drawing.save_family(family(), tmp_path / "folder.png")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(CnnScaleError, match=re.escape("pip install 'cnnscale[plot]'")):
        drawing.save_family(family(), tmp_path / "x.png")


def test_from_the_command_line(net: str, tmp_path):  # noqa: F811
    picture = tmp_path / "net.svg"
    result = run("plan", f"{net}:build", "--phi", "1", *SIZE, "--json", "--plot", picture)
    plan = Plan.from_json(result.stdout)
    assert [(s.sides, s.new_sides) for s in plan.stages] == [
        ((16, 16), (-(-plan.input_size[1] // 2),) * 2),
        ((8, 8), (-(-plan.input_size[1] // 4),) * 2),
    ]
    assert "wrote" in result.stderr
    assert "stage 1 stage1" in picture.read_text(encoding="utf-8")


def test_an_unknown_suffix_is_refused_before_the_model_is_loaded(tmp_path):
    assert ".gif" in run("plan", "no_such_model", "--phi", "1", "--plot", tmp_path / "x.gif", code=2).stderr
