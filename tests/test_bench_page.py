"""The HTML report: what is in it, and what a browser makes of it."""

from __future__ import annotations

import dataclasses
import importlib
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree as ET

import pytest
from test_bench_results import WHERE, make_row
from test_formatting import make_plan

from cnnscale.benchmarking.comparing import judged
from cnnscale.benchmarking.page import page
from cnnscale.benchmarking.records import Report, Row, StageShare
from cnnscale.benchmarking.svg import latency_chart, memory_chart, nets_drawing, throughput_chart
from cnnscale.coefficients import Multipliers
from cnnscale.plans import Cost
from cnnscale.timing.settings import Settings

SETTINGS = Settings(device="cpu")
VOID = {"meta"}


def row(number: int, **changes) -> Row:
    made = make_row(f"phi {number}", ms=10.0 * 2**number)
    timing = dataclasses.replace(
        made.timing,
        peak_memory_bytes=1000 * (10 - number),
        quantiles_ms=tuple(10.0 * 2**number + step for step in range(21)),
        images_per_s=800 / 2**number,
    )
    cost = Cost(macs=10**9 * 2**number, params=10**6, activations=10**6)
    fields = {
        "phi": float(number),
        "cost": cost,
        "input_size": (3, 32, 32),
        "achieved": Multipliers(),
        "timing": timing,
    }
    return dataclasses.replace(made, **fields | changes)


def report(*rows: Row, **changes) -> Report:
    rows, pairs = judged(rows or (row(0), row(1), row(2)), SETTINGS)
    fields = {
        "model": "resnet<18>",
        "environment": WHERE,
        "rows": rows,
        "pairs": pairs,
        "plans": {"phi 1": make_plan()},
    }
    return Report(**fields | changes)


class Reader(HTMLParser):
    """Insists that every element is closed in its turn."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.text += data


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    assert not reader.open
    return reader


class TestText:
    def test_it_is_whole_and_refers_to_nothing_outside(self):
        text = page(report())
        seen = read(text).seen
        assert not [tag for tag, _ in seen if tag in ("link", "img", "iframe")]
        assert not [attrs for _, attrs in seen if {"src", "href"} & set(attrs)]
        assert not re.search(r"https?:|url\(|@import", text)

    def test_what_users_named_is_text(self):
        reader = read(page(report(row(0, name="a<b>&\"c'"))))
        assert "resnet<18>" in reader.text
        assert "a<b>&\"c'" in reader.text

    def test_every_row_pair_note_and_problem_is_there(self):
        stages = (StageShare(path="layer1", macs=0.4, time=0.6), StageShare(path="(rest)", macs=0.6, time=0.4))
        bad = row(3, timing=None, problem="RuntimeError: no", verified=False)
        text = read(page(report(row(0, stages=stages), row(1), bad, notes=("batch 8 -> 4",), interrupted=True))).text
        for told in ("phi 0", "phi 1 / phi 0", "slower", "batch 8 -> 4", "phi 3: RuntimeError: no", "layer1", "60.0%"):
            assert told in text
        assert "interrupted" in text
        assert "Some CPU" in text

    def test_a_report_of_nothing_is_a_page(self):
        read(page(report(row(0, timing=None, cost=None, input_size=None, problem="no"), plans={})))

    def test_each_mode_has_its_section(self):
        text = page(report(row(0), dataclasses.replace(row(0), mode="train", session="t")))
        assert re.findall(r"<h2>(.*?)</h2>", text) == ["Inference, batch 8", "Training step, batch 8", "Nets"]


class TestCharts:
    def rects(self, text: str, kind: str) -> list[dict[str, float]]:
        found = ET.fromstring(text).iter("rect")
        return [
            {name: float(each.get(name)) for name in ("x", "y", "width", "height")}
            for each in found
            if each.get("class") == kind
        ]

    def test_bars_are_as_long_as_memory_is_large(self):
        bars = self.rects(memory_chart(report().rows), "bar")
        assert [bar["width"] / bars[0]["width"] for bar in bars] == pytest.approx([1, 0.9, 0.8], rel=1e-3)

    def test_boxes_hold_the_middle_half(self):
        boxes = self.rects(latency_chart(report().rows), "bar")
        assert len({round(box["width"], 2) for box in boxes}) == 1  # each has the same spread in milliseconds
        assert boxes[0]["x"] < boxes[1]["x"] < boxes[2]["x"]

    def test_equal_gmacs_per_second_lie_on_the_broken_line(self):
        figure = ET.fromstring(throughput_chart(report().rows))
        points = [(float(c.get("cx")), float(c.get("cy"))) for c in figure.iter("circle")]
        (guide,) = [line for line in figure.iter("line") if line.get("class") == "guide"]
        x1, y1, x2, y2 = (float(guide.get(name)) for name in ("x1", "y1", "x2", "y2"))
        for x, y in points:
            assert y == pytest.approx(y1 + (y2 - y1) * (x - x1) / (x2 - x1), abs=0.5)

    def test_stages_are_to_scale(self):
        plan = make_plan()
        boxes = self.rects(nets_drawing({"one": plan, "two": plan}), "stage")
        expected = [stage.new_repeats for stage in plan.stages]
        half = boxes[: len(boxes) // 2]
        assert [box["width"] / half[0]["width"] for box in half] == pytest.approx(
            [n / expected[0] for n in expected], rel=1e-3
        )
        widths = [stage.new_width for stage in plan.stages]
        assert [box["height"] / half[0]["height"] for box in half] == pytest.approx(
            [n / widths[0] for n in widths], rel=1e-3
        )
        assert all(box["x"] + box["width"] <= 360 for box in boxes)

    def test_nothing_to_show_is_no_chart(self):
        empty = [row(0, timing=None)]
        assert throughput_chart(empty) == latency_chart(empty) == memory_chart(empty) == nets_drawing({}) == ""


# --- in a browser -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium, if this machine has one and the means to drive it."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not program or not driver:
        pytest.skip("no Chromium with its driver: apt-get install chromium chromium-driver")
    try:
        webdriver = importlib.import_module("selenium.webdriver")
        service = importlib.import_module("selenium.webdriver.chrome.service")
    except ModuleNotFoundError:
        pytest.skip("selenium drives the browser: pip install selenium")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=service.Service(driver))
    yield started
    started.quit()


@pytest.fixture
def shown(browser, tmp_path: Path):
    path = tmp_path / "report.html"
    missing = row(3, timing=None, problem="RuntimeError: no")
    path.write_text(page(report(row(0), row(2), row(1), missing)), encoding="utf-8")
    browser.get(path.as_uri())
    yield browser
    assert browser.get_log("browser") == []


@contextmanager
def emulated(browser, command: str, on: dict, off: dict) -> Iterator[None]:
    browser.execute_cdp_cmd(command, on)
    yield
    browser.execute_cdp_cmd(command, off)


class TestInABrowser:
    def names(self, shown) -> list[str]:
        return [
            cell.text for cell in shown.find_elements("css selector", "table:first-of-type tbody tr td:nth-child(2)")
        ][:4]

    def press(self, shown, label: str):
        (button,) = [b for b in shown.find_elements("css selector", "th button") if b.text.strip(" ↑↓") == label]
        button.click()
        return button.find_element("xpath", "..")

    def test_headings_sort_by_value_both_ways_and_say_so(self, shown):
        assert self.names(shown) == ["phi 0", "phi 2", "phi 1", "phi 3"]
        heading = self.press(shown, "ms")
        assert self.names(shown) == ["phi 0", "phi 1", "phi 2", "phi 3"]
        assert heading.get_attribute("aria-sort") == "ascending"
        assert shown.find_element("id", "said").text == "Sorted by ms, ascending"
        self.press(shown, "ms")
        assert self.names(shown) == ["phi 2", "phi 1", "phi 0", "phi 3"]  # what is missing stays last
        assert heading.get_attribute("aria-sort") == "descending"
        self.press(shown, "variant")
        assert self.names(shown) == ["phi 0", "phi 1", "phi 2", "phi 3"]
        assert heading.get_attribute("aria-sort") == "none"

    def test_a_phone_scrolls_tables_and_not_the_page(self, shown):
        phone = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
        with emulated(shown, "Emulation.setDeviceMetricsOverride", phone, {**phone, "width": 0, "height": 0}):
            assert shown.execute_script("return document.documentElement.scrollWidth") <= 360
            table = shown.execute_script(
                "const box = document.querySelector('.scroll'); return [box.scrollWidth, box.clientWidth]"
            )
            assert table[0] > table[1]
            sizes = shown.execute_script(
                "return [...document.querySelectorAll('svg text')].map(each => each.getBoundingClientRect().height)"
            )
            assert min(sizes) >= 9

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_texts_stand_out_in_light_and_dark(self, shown, scheme: str):
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        with emulated(shown, "Emulation.setEmulatedMedia", media, {"features": []}):
            colours = shown.execute_script(
                "const of = (what, name) => getComputedStyle(document.querySelector(what))[name];"
                "return [of('body', 'backgroundColor'), of('body', 'color'), of('.faint', 'color'),"
                "of('svg text', 'fill'), of('td.bad', 'color')]"
            )
        back, *inks = map(luminance, colours)
        assert (back > 0.5) == (scheme == "light")
        for ink in inks:
            light, dark = max(ink, back), min(ink, back)
            assert (light + 0.05) / (dark + 0.05) >= 4.5  # WCAG 2.1, 1.4.3

    def test_a_screen_reader_hears_names_and_roles(self, shown):
        nodes = shown.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
        heard = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if "role" in node]
        roles = SimpleNamespace(of=lambda role: [name for found, name in heard if found == role])
        assert roles.of("main")
        assert "resnet<18>" in roles.of("heading")
        assert any(name.startswith("Inference, batch 8") for name in roles.of("table"))
        assert {"ms", "images/s", "verdict"} <= set(roles.of("columnheader"))
        pictures = roles.of("image") + roles.of("img")
        titles = ("Throughput against MACs", "Latency distribution", "Peak memory", "The nets, to one scale")
        assert {title for title in titles for name in pictures if name.startswith(title)} == set(titles)

    def test_all_can_be_reached_with_the_keyboard(self, shown):
        reach = shown.execute_script(
            "return [...document.querySelectorAll('button, .scroll, summary')].filter(each => each.tabIndex < 0).length"
        )
        assert reach == 0


def luminance(colour: str) -> float:
    """Relative luminance of ``rgb(r, g, b)``, as WCAG 2.1 defines it."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
