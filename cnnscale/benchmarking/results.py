"""Results on disk: one JSON line per row, there as soon as it is measured, and still there after kill -9.

The law: a line is appended whole, in one write under a lock, and synchronised before :meth:`Store.append` returns. So
several processes may write to one file, and what a process that was killed leaves is at worst a torn last line, which
the next one to open the file mends.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, BinaryIO, Final

from pydantic import TypeAdapter, ValidationError

from cnnscale.errors import CnnScaleError
from cnnscale.timing.settings import Settings

from .comparing import Job
from .records import Environment, Row

__all__ = ["FORMAT", "Saved", "Store", "check_writable", "read_results"]

FORMAT: Final = 1
"""Of the lines; a later one says how it differs."""


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A line: a row, and what it belongs to."""

    format: int = FORMAT
    time: str
    """When it was written, UTC, ISO 8601."""
    complete: bool
    """False where Ctrl-C ended its comparison early."""
    batch_size: int
    """As asked for: the row's own may be smaller."""
    settings: dict[str, Any]
    environment: Environment
    row: Row


class Store:
    """A file of results, made where there is none.

    Raises:
        CnnScaleError: the file cannot be written, or one of its lines but the last is no result.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with self._locked():
            pass

    def append(self, rows: Sequence[Row], job: Job, settings: Settings, where: Environment, *, complete: bool) -> None:
        """Add rows; when this returns, they are on the disk."""
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        lines = []
        for row in rows:
            saved = Saved(
                time=now,
                complete=complete,
                batch_size=job.batch_size,
                settings=_told(settings),
                environment=where,
                row=row,
            )
            lines.append(json.dumps(asdict(saved), separators=(",", ":"), default=list) + "\n")
        with self._locked() as file:
            file.write("".join(lines).encode())
            file.flush()
            os.fsync(file.fileno())

    def read(self) -> list[Saved]:
        """All results, oldest first."""
        with self._locked() as file:
            file.seek(0)
            return _parsed(file.read(), self.path)

    def known(self, job: Job, rows: Sequence[Row], settings: Settings, where: Environment) -> list[Row] | None:
        """The latest complete comparison of the same variants, under the same settings, in the same place.

        The order is that of ``rows``; None where there is no such comparison.
        """
        sessions: dict[str, dict[str, Row]] = {}
        for saved in self.read():
            same = (saved.settings, saved.batch_size) == (_told(settings), job.batch_size)
            if same and saved.complete and _place(saved.environment) == _place(where):
                sessions.setdefault(saved.row.session, {})[saved.row.name] = saved.row
        wanted = [_identity(row) for row in rows]
        for found in reversed(sessions.values()):
            if sorted(map(_identity, found.values())) == sorted(wanted):
                return [found[row.name] for row in rows]
        return None

    @contextmanager
    def _locked(self) -> Iterator[BinaryIO]:
        """The file, locked against other processes, its last line whole."""
        try:
            with self.path.open("ab+") as file, _lock(file):
                _heal(file)
                yield file
        except OSError as error:
            raise CnnScaleError(f"cannot write {self.path}: {error.strerror or error}") from error


def read_results(path: str | Path) -> list[Saved]:
    """The results in a file that is left as it is, without a last line that was not finished.

    Raises:
        CnnScaleError: it cannot be read, or one of its lines is no result.
    """
    path = Path(path)
    try:
        text = path.read_bytes()
    except OSError as error:
        raise CnnScaleError(f"cannot read {path}: {error.strerror or error}") from error
    last = text.rpartition(b"\n")[2]
    return _parsed(text if _is_whole(last) else text[: len(text) - len(last)], path)


def _parsed(text: bytes, path: Path) -> list[Saved]:
    """A result from each line.

    Raises:
        CnnScaleError: it is none; the message names the line and the field.
    """
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            found.append(_SAVED.validate_json(line))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "line"
            raise CnnScaleError(f"{path}:{number} is not a result of bench: {where}: {first['msg']}") from error
    return found


def check_writable(path: str | Path) -> None:
    """Make sure that a report can be written there, before any work is done; leaves no file behind that was not there.

    Raises:
        CnnScaleError: it cannot.
    """
    path = Path(path)
    existed = path.exists()
    try:
        with path.open("ab"):
            pass
        if not existed:
            path.unlink()
    except OSError as error:
        raise CnnScaleError(f"cannot write {path}: {error.strerror or error}") from error


@contextmanager
def _lock(file: BinaryIO) -> Iterator[None]:
    """An exclusive lock, which ends with the process at the latest."""
    if sys.platform == "win32":
        import msvcrt

        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
        try:
            yield
        finally:
            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)


def _heal(file: BinaryIO) -> None:
    """Cut off a last line that whoever wrote it did not finish; keep it where only the line's end is missing."""
    end = file.seek(0, os.SEEK_END)
    if not end:
        return
    file.seek(end - 1)
    if file.read(1) == b"\n":
        return
    file.seek(0)
    last = file.read().rpartition(b"\n")[2]
    if _is_whole(last):
        file.write(b"\n")
    else:
        file.truncate(end - len(last))
    file.seek(0, os.SEEK_END)


def _is_whole(line: bytes) -> bool:
    """Whether nothing of a line is missing; of one that was being written, at least the last brace is."""
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _told(settings: Settings) -> dict[str, Any]:
    """The settings that a number depends on; not those that say when to stop."""
    names = ("dtype", "channels_last", "compile_mode", "cuda_graph", "single", "layers", "unverified")
    return {name: getattr(settings, name) for name in names}


def _place(where: Environment) -> tuple[Any, ...]:
    return (where.device, where.device_name, where.threads, where.torch, where.cnnscale)


def _identity(row: Row) -> tuple[str, ...]:
    """What makes two rows the same measurement: which network, how it was scaled, and what is done with it."""
    return (row.model, row.name, row.mode, row.plan or "", str(row.input_size), str(row.cost))


_SAVED = TypeAdapter(Saved)
