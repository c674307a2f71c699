"""A benchmark as one HTML page that needs nothing else: no network, no server, no other file.

The tables hold everything; the charts show parts of it again. Headings are buttons that sort (``page.js``); the page
follows the reader's choice of light or dark (``page.css``), fits a phone, and names every part for a screen reader.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from html import escape
from importlib.resources import files
from typing import Final, TypeAlias

from cnnscale.benchmarking.records import Pair, Report, Row
from cnnscale.benchmarking.regressions import Comparison
from cnnscale.benchmarking.svg import element, latency_chart, memory_chart, nets_drawing, throughput_chart
from cnnscale.benchmarking.views import (
    CHANGE_COLUMNS,
    LAYER_COLUMNS,
    change_cells,
    comparisons,
    layer_cells,
    place_text,
    title_of,
)
from cnnscale.formatting import fixed_point, quantity, ratio_text, size_text

__all__ = ["page"]

_Value: TypeAlias = float | str | None
_Shown: TypeAlias = Callable[[float], str]


def page(report: Report, comparison: Comparison | None = None) -> str:
    """The whole page, as text."""
    parts = [_head(report), *_notes(report, comparison)]
    for rows in comparisons(report):
        parts += _section(report, rows)
    if comparison:
        parts += [
            element("h2", "Against the earlier run"),
            _plain_table(CHANGE_COLUMNS, map(change_cells, comparison.changes)),
        ]
    drawn = nets_drawing(report.plans)
    parts += [element("h2", "Nets"), drawn] if drawn else []
    parts.append(_details(report))
    said = element("p", id="said", role="status", aria_live="polite", class_="faint")
    body = element("body", element("main", *parts, said), element("script", _file("page.js")))
    head = element(
        "head",
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        element("title", escape(f"Benchmark of {report.model}")),
        element("style", _file("page.css")),
    )
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


def _file(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _head(report: Report) -> str:
    env = report.environment
    return element(
        "header",
        element("h1", escape(report.model)),
        element("p", escape(place_text(env)), class_="faint"),
        element("p", element("code", escape(" ".join(env.command))), class_="faint"),
    )


def _notes(report: Report, comparison: Comparison | None) -> Iterable[str]:
    problems = [f"{row.name}: {row.problem}" for row in report.rows if row.problem]
    early = ["the measurement was interrupted; this is what there was"] if report.interrupted else []
    told = [
        *(element("li", escape(text), class_="bad") for text in (*early, *problems)),
        *(element("li", escape(text)) for text in (*report.notes, *(comparison.notes if comparison else ()))),
    ]
    if told:
        yield element("ul", *told)


def _section(report: Report, rows: Sequence[Row]) -> Iterable[str]:
    title = title_of(rows[0]).capitalize()
    yield element("h2", escape(title))
    yield _rows_table(rows, title)
    charts = [chart for chart in (throughput_chart(rows), latency_chart(rows), memory_chart(rows)) if chart]
    if charts:
        yield element("div", *charts, class_="charts")
    pairs = [pair for pair in report.pairs if (pair.mode, pair.batch_size) == (rows[0].mode, rows[0].batch_size)]
    if pairs:
        yield element("h3", "Pairs")
        yield _table(
            "Ratios of times, round by round, with 95 % intervals", _PAIR_COLUMNS, [_pair_cells(pair) for pair in pairs]
        )
    for row in (row for row in rows if row.stages):
        lines = _plain_table(LAYER_COLUMNS, layer_cells(row, rows))
        yield element("details", element("summary", escape(f"{row.name}: where the time goes")), lines)


# --- tables -------------------------------------------------------------------------------------------------------

_ROW_COLUMNS: Final = (
    *("#", "variant", "images/s", "ms", "ms, p95", "ms, batch 1", "time grew", "MACs grew", "beyond MACs", "verdict"),
    *("peak memory", "memory grew", "GMAC/s", "input", "MACs", "2^phi", "params", "params grew", "activations"),
    "activations grew",
)
_PAIR_COLUMNS: Final = ("pair", "ratio", "low", "high", "verdict")
_VERDICTS: Final = {"faster": "good", "slower": "bad"}


def _rows_table(rows: Sequence[Row], title: str) -> str:
    lines = [[_cell(number, "{:.0f}".format), *_row_cells(row)] for number, row in enumerate(rows, 1)]
    return _table(f"{title}; growths are against the first row", _ROW_COLUMNS, lines)


def _row_cells(row: Row) -> Iterable[str]:
    cost, timing = row.cost, row.timing
    yield _cell(row.name)
    yield _cell(getattr(timing, "images_per_s", None), quantity)
    yield from (_cell(getattr(timing, name, None), fixed_point) for name in ("latency_ms", "p95_ms", "single_ms"))
    yield from (_cell(growth, ratio_text) for growth in (row.time_growth, row.growth))
    yield _cell(row.beyond_macs, "{:+.0%}".format)
    yield _cell(row.verdict or "", kind=_VERDICTS.get(row.verdict or "", ""))
    yield _cell(getattr(timing, "peak_memory_bytes", None), lambda value: quantity(value, "B"))
    yield _cell(row.memory_growth, ratio_text)
    yield _cell(getattr(timing, "gmacs_per_s", None), fixed_point)
    yield _cell(size_text(row.input_size) if row.input_size else "")
    yield _cell(getattr(cost, "macs", None), quantity)
    yield _cell(row.target_growth, ratio_text)
    yield _cell(getattr(cost, "params", None), quantity)
    yield _cell(row.params_growth, ratio_text)
    yield _cell(getattr(cost, "activations", None), quantity)
    yield _cell(row.activations_growth, ratio_text)


def _pair_cells(pair: Pair) -> list[str]:
    ratio = pair.ratio
    numbers = (_cell(value, "{:.3f}".format) for value in (ratio.middle, ratio.low, ratio.high))
    return [_cell(f"{pair.name} / {pair.other}"), *numbers, _cell(pair.verdict, kind=_VERDICTS.get(pair.verdict, ""))]


def _cell(value: _Value, shown: _Shown = str, *, kind: str = "") -> str:
    """A cell that sorts by its value, whatever it shows."""
    if isinstance(value, str):
        return element("td", escape(value), class_=f"text {kind}".strip())
    if value is None:
        return element("td", "\N{EN DASH}", data_value="")
    return element("td", escape(shown(value)), data_value=float(value))


def _table(caption: str, columns: Sequence[str], lines: Iterable[Iterable[str]]) -> str:
    """A table whose headings sort it, in a box of its own that scrolls where it is wider than the page."""
    headings = (
        element(
            "th", element("button", escape(column), type="button"), scope="col", aria_sort="none", class_=_side(column)
        )
        for column in columns
    )
    return _boxed(caption, element("thead", element("tr", *headings)), lines)


def _plain_table(columns: Sequence[str], lines: Iterable[Iterable[str]]) -> str:
    headings = (element("th", escape(column), scope="col", class_=_side(column)) for column in columns)
    cells = (
        [element("td", escape(text), class_=_side(column)) for column, text in zip(columns, line, strict=True)]
        for line in lines
    )
    return _boxed("", element("thead", element("tr", *headings)), cells)


def _boxed(caption: str, head: str, lines: Iterable[Iterable[str]]) -> str:
    body = element("tbody", *(element("tr", *line) for line in lines))
    table = element("table", *([element("caption", escape(caption))] if caption else []), head, body)
    return element("div", table, class_="scroll", tabindex=0, role="region", aria_label=caption or "Table")


def _side(column: str) -> str:
    return "text" if column in ("variant", "input", "pair", "verdict", "part", "output", "mode", "what") else "number"


def _details(report: Report) -> str:
    env = report.environment
    facts = {name: value for name, value in vars(env).items() if name not in ("command", "libraries", "state")}
    facts |= {f"{name} version": value for name, value in env.libraries.items()}
    facts |= {f"{name} before": value for name, value in env.state.items()}
    lines = ((name.replace("_", " "), "-" if value is None else str(value)) for name, value in facts.items())
    return element("details", element("summary", "Where this was measured"), _plain_table(("what", "value"), lines))
