"""A benchmark for other programs: JSON with everything, CSV with one line per row, markdown to paste."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from cnnscale.budgets import Cost
from cnnscale.coefficients import Multipliers
from cnnscale.formatting import size_text

from .records import Report, Row, Timing
from .regressions import Comparison
from .views import CHANGE_COLUMNS, COLUMNS, cells, change_cells, comparisons, pair_text, place_text, title_of

__all__ = ["exported"]

_PLACE = ("device", "device_name", "threads", "dtype", "channels_last", "compile_mode", "torch", "commit")
_NESTED = {"achieved": Multipliers, "cost": Cost, "timing": Timing}
_SERIES = ("rounds_ms", "quantiles_ms", "stages", "state")


def exported(report: Report, kind: str, comparison: Comparison | None = None) -> str:
    """The report as ``json``, ``csv`` or ``markdown``, with its comparison with an earlier run where there is one."""
    return {"json": _json, "csv": _csv, "markdown": _markdown}[kind](report, comparison)


def _json(report: Report, comparison: Comparison | None) -> str:
    data = report.to_dict()
    if comparison:
        data["compared"] = comparison.to_dict()
    return json.dumps(data, indent=2) + "\n"


def _csv(report: Report, comparison: Comparison | None) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*(label for label, _, _ in _columns()), *_PLACE])
    place = [getattr(report.environment, name) for name in _PLACE]
    writer.writerows([*(_value(row, owner, name) for _, owner, name in _columns()), *place] for row in report.rows)
    return text.getvalue()


def _columns() -> Iterable[tuple[str, str | None, str]]:
    """(heading, the field of a row that holds it, its name), where series of numbers have no place."""
    for field in fields(Row):
        inner = _NESTED.get(field.name)
        for name in (each.name for each in fields(inner)) if inner else ():
            if name not in _SERIES:
                yield f"{field.name}.{name}", field.name, name
        if not inner and field.name not in _SERIES:
            yield field.name, None, field.name


def _value(row: Row, owner: str | None, name: str) -> Any:
    held = getattr(row, owner) if owner else row
    value = getattr(held, name) if held is not None else None
    return size_text(value) if name == "input_size" and value else value


def _markdown(report: Report, comparison: Comparison | None) -> str:
    lines = [f"**{report.model}** on {place_text(report.environment)}", ""]
    for rows in comparisons(report):
        lines += [f"{title_of(rows[0]).capitalize()}:", "", *_table(COLUMNS, map(cells, rows)), ""]
    if report.pairs:
        told = [pair_text(pair, report) for pair in report.pairs]
        lines += [*_table(("pair", "time"), told), ""]
    if comparison:
        lines += [*_table(CHANGE_COLUMNS, map(change_cells, comparison.changes)), ""]
    problems = [f"{row.name}: {row.problem}" for row in report.rows if row.problem]
    notes = [*report.notes, *(comparison.notes if comparison else ()), *problems]
    lines += [f"- {' '.join(note.split())}" for note in notes]
    return "\n".join(lines).rstrip() + "\n"


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    header = list(header)
    return [_line(header), "|".join(["", *["---"] * len(header), ""]), *map(_line, rows)]


def _line(texts: Iterable[str]) -> str:
    return "| " + " | ".join(" ".join(text.split()).replace("|", "\\|") for text in texts) + " |"
