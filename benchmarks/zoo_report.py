"""The report of a sweep, made from its rows alone: the same rows give the same text."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

Row = dict[str, Any]

REPORTED = 60
"""Characters of a message that tell one reason from another."""
STATUSES = ("scaled", "off target", "refused", "wrong")


def report(rows: Sequence[Row], models: int) -> str:
    """The page, in markdown, for what has been seen of so many ``models``."""
    examined = sorted((r for r in rows if r["status"] != "skipped"), key=lambda r: (r["library"], r["name"]))
    measured = [r for r in examined if "growth" in r]
    sections = [_origin(), _extent(rows, models), _coverage(examined)]
    sections += [_reasons(status.capitalize(), examined, status, _reason) for status in STATUSES[1:]]
    sections += [_names(measured), _changed(measured)]
    return "\n\n".join(sections) + "\n"


def _origin() -> str:
    versions = ", ".join(f"{name} {_version(name)}" for name in ("cnnscale", "torch", "torchvision", "timm"))
    return f"Made by `python benchmarks/zoo.py --report docs/coverage.md` with {versions}.\n\n# Coverage at phi 1"


def _extent(rows: Sequence[Row], models: int) -> str:
    others = sum(row["status"] == "skipped" for row in rows)
    part = "All" if len(rows) == models else f"A random {len(rows)} of the"
    return f"{part} {models} models that were asked for; {others} of them are no convolutional networks, and left out."


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "(not installed)"


def _coverage(rows: Sequence[Row]) -> str:
    lines = ["| library | kind | models | scaled within 5 % | off target | refused | wrong | CPU s, median | 95 % |"]
    lines.append("|---" * 9 + "|")
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["library"], row.get("kind", "not known")].append(row)
    for key, group in sorted(groups.items()):
        counts = [sum(row["status"] == status for row in group) for status in STATUSES]
        seconds = sorted(row["seconds"] for row in group)
        late = seconds[-(-len(seconds) * 95 // 100) - 1]
        cells = (*key, len(group), *counts, f"{statistics.median(seconds):.2f}", f"{late:.2f}")
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def _reason(row: Row) -> str:
    why = row.get("why") or f"growth {row.get('growth', 0):.1f} instead of 2"
    return " ".join(why.split())[:REPORTED]


def _grouped(rows: Sequence[Row], reason: Callable[[Row], str]) -> Iterator[str]:
    groups: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        groups[reason(row)].append(f"{row['library']} {row['name']}")
    for why, names in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])):
        yield f"- {why} ({len(names)}): {', '.join(names)}"


def _reasons(title: str, rows: Sequence[Row], status: str, reason: Callable[[Row], str]) -> str:
    listed = "\n".join(_grouped([r for r in rows if r["status"] == status], reason))
    return f"## {title}\n\n{listed or 'None.'}"


def _names(rows: Sequence[Row]) -> str:
    rows = [row for row in rows if "problems" in row]  # rows of an older sweep do not tell
    odd = [row for row in rows if "names" in row["problems"]]
    listed = "\n".join(_grouped(odd, lambda row: row["problems"]["names"][:REPORTED]))
    kept = f"{len(rows) - len(odd)} of {len(rows)} results have their author's class, keys and order."
    return f"## Names and order\n\n{kept}" + (f"\n\n{listed}" if odd else "")


def _changed(rows: Sequence[Row]) -> str:
    if not rows:
        return "## Weights that changed\n\nNo model was scaled."
    shares = [row["changed"] for row in rows]
    text = f"Least {min(shares):.1%}, median {statistics.median(shares):.1%} of the weights of 2 or more dimensions."
    return f"## Weights that changed\n\n{text}"
