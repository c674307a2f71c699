"""What is to be trained and what came of it, in one SQLite file that survives kill -9 at any moment.

A task is one training: (candidate, seed, rung). Its life:

    waiting -> running -> done | failed        and back from running to waiting, where its owner died or let go

The laws, each held by one UPDATE whose WHERE states it:

1. A task is leased to one owner at a time. Every lease has a token, one higher than the last one's.
2. A result counts only under the token of the present lease (fencing): who was thought dead and comes back late is
   refused, so no task is counted twice.
3. What was acknowledged stays: write-ahead log, ``synchronous=FULL``.
4. A lease ends by itself when its owner stops renewing it, and at once where the owner's process is known to be gone.
"""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cnnscale.errors import SearchError

__all__ = ["Lease", "Ledger", "State", "Task", "new_owner"]

State = Literal["waiting", "running", "done", "failed"]

_VERSION = 1
_TIMEOUT_S = 30.0  # to wait for another writer
_SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS candidates (
    name TEXT PRIMARY KEY, position INTEGER NOT NULL, plan TEXT NOT NULL, facts TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS tasks (
    id INTEGER PRIMARY KEY,
    candidate TEXT NOT NULL REFERENCES candidates (name),
    seed INTEGER NOT NULL,
    rung INTEGER NOT NULL,
    share REAL NOT NULL,
    state TEXT NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'running', 'done', 'failed')),
    token INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    owner TEXT,
    deadline REAL,
    value REAL,
    seconds REAL,
    error TEXT,
    UNIQUE (candidate, seed, rung)
);
"""
_FIELDS = "id, candidate, seed, rung, share, state, token, attempts, owner, value, seconds, error"


@dataclass(frozen=True)
class Task:
    """One training, as the ledger has it."""

    id: int
    candidate: str
    seed: int
    rung: int
    share: float
    """Of the full schedule."""
    state: State
    token: int
    attempts: int
    owner: str | None
    value: float | None
    """What the training function returned; None until it is done."""
    seconds: float | None
    """Of the attempt that finished."""
    error: str | None
    """Traceback of a task that failed."""


@dataclass(frozen=True)
class Lease:
    """The right to record one task's result."""

    task: Task

    @property
    def token(self) -> int:
        return self.task.token


def new_owner() -> str:
    """A name for a driver: host, process and a random part, so that no two are ever the same."""
    return f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"


class Ledger:
    """A store of candidates and tasks; one object per process and thread, any number of them per file.

    Raises:
        SearchError: the file is no store, is of another version, or (with ``create=False``) does not exist.
    """

    def __init__(self, path: str | Path, *, create: bool = True) -> None:
        self.path = Path(path)
        if not create and not self.path.is_file():
            raise SearchError(f"there is no store {self.path}")
        try:
            if create:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self.path, timeout=_TIMEOUT_S, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("PRAGMA foreign_keys=ON")
            with self._transaction():
                for statement in _SCHEMA.split(";"):
                    self._db.execute(statement)
        except (sqlite3.DatabaseError, OSError) as error:
            raise SearchError(f"cannot open {self.path} as a store of trials: {error}") from error

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or nothing, and no other writer in between."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("COMMIT")
        except BaseException:
            self._roll_back()
            raise

    def _roll_back(self) -> None:
        """Ctrl-C can come between any two statements, also before the first and after the last of a transaction."""
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    # --- what the store is of ---------------------------------------------------------------------------------------

    def describe(self, description: Mapping[str, Any], *, resume: bool = True) -> None:
        """Say what the store is of, or make sure that it is of just that.

        Raises:
            SearchError: it is of something else (the message names the first difference), or it is in use already and
                ``resume`` is false.
        """
        wanted = {"version": _VERSION, **json.loads(json.dumps(description))}
        with self._transaction():
            self._db.execute("INSERT OR IGNORE INTO facts VALUES ('description', ?)", (json.dumps(wanted),))
            fresh = self._db.execute("SELECT changes()").fetchone()[0] == 1
            found = self.description()
        if not fresh and not resume:
            raise SearchError(f"{self.path} holds a search already; name another store, or pass resume=True to go on")
        different = [name for name in sorted({*wanted, *found}) if wanted.get(name) != found.get(name)]
        if different:
            name = different[0]
            raise SearchError(
                f"{self.path} belongs to another search: its {name} is {found.get(name)!r}, not {wanted.get(name)!r}; "
                "name another store"
            )

    def description(self) -> dict[str, Any]:
        """What :meth:`describe` said; empty before."""
        row = self._db.execute("SELECT value FROM facts WHERE name = 'description'").fetchone()
        described: dict[str, Any] = json.loads(row[0]) if row else {}
        return described

    @property
    def folder(self) -> Path:
        """Where the trainings keep their checkpoints: beside the store, unless :meth:`keep_checkpoints_in` was told."""
        row = self._db.execute("SELECT value FROM facts WHERE name = 'folder'").fetchone()
        path = self.path.absolute()
        return Path(row[0]) if row else path.with_name(f"{path.name}.trials")

    def keep_checkpoints_in(self, shared: str | Path) -> None:
        """From now on in a folder of this store's own inside ``shared``; the same one however often this is called."""
        parent = Path(shared).absolute()
        with self._transaction():
            if self.folder.parent != parent:
                folder = parent / f"{self.path.name}-{uuid.uuid4().hex[:8]}"
                self._db.execute("INSERT OR REPLACE INTO facts VALUES ('folder', ?)", (str(folder),))

    def add_candidates(self, candidates: Iterable[tuple[str, str, Mapping[str, Any]]]) -> None:
        """(name, plan as JSON, other facts) of each candidate; those that are there stay as they are."""
        with self._transaction():
            for name, plan, facts in candidates:
                self._db.execute(
                    "INSERT OR IGNORE INTO candidates SELECT ?, COUNT(*), ?, ? FROM candidates",
                    (name, plan, json.dumps(facts)),
                )

    def candidates(self) -> dict[str, tuple[str, dict[str, Any]]]:
        """Name -> (plan as JSON, other facts), in the order in which they were added."""
        rows = self._db.execute("SELECT name, plan, facts FROM candidates ORDER BY position")
        return {name: (plan, json.loads(facts)) for name, plan, facts in rows}

    def facts(self) -> dict[str, dict[str, Any]]:
        """Name -> what is known of the candidate besides its plan."""
        rows = self._db.execute("SELECT name, facts FROM candidates ORDER BY position")
        return {name: json.loads(facts) for name, facts in rows}

    def plan_of(self, candidate: str) -> str:
        """A candidate's plan, as JSON."""
        return str(self._db.execute("SELECT plan FROM candidates WHERE name = ?", (candidate,)).fetchone()[0])

    def add_tasks(self, candidates: Sequence[str], seeds: Sequence[int], rung: int, share: float) -> int:
        """A task for every candidate and seed at a rung; returns how many of them are new."""
        before = self._db.total_changes
        with self._transaction():
            self._db.executemany(
                "INSERT OR IGNORE INTO tasks (candidate, seed, rung, share) VALUES (?, ?, ?, ?)",
                [(candidate, seed, rung, share) for seed in seeds for candidate in candidates],
            )
        return self._db.total_changes - before

    # --- the life of a task -------------------------------------------------------------------------------------------

    def lease(self, owner: str, seconds: float) -> Lease | None:
        """The next waiting task, now running under ``owner`` for so many seconds; None where none waits."""
        with self._transaction():
            row = self._db.execute(
                "SELECT id FROM tasks WHERE state = 'waiting' ORDER BY rung, seed, id LIMIT 1"
            ).fetchone()
            if row is None:
                return None
            self._db.execute(
                "UPDATE tasks SET state = 'running', token = token + 1, attempts = attempts + 1, owner = ?, "
                "deadline = ? WHERE id = ? AND state = 'waiting'",
                (owner, time.time() + seconds, row[0]),
            )
            return Lease(self._task(row[0]))

    def renew(self, owner: str, seconds: float) -> int:
        """Extend all leases that an owner still has; returns how many."""
        return self._update(
            "UPDATE tasks SET deadline = ? WHERE owner = ? AND state = 'running'", time.time() + seconds, owner
        )

    def finish(self, lease: Lease, value: float, seconds: float) -> bool:
        """Record a result; False where the lease is over, so that it does not count."""
        return self._end(lease, "state = 'done', value = ?, seconds = ?, error = NULL", value, seconds)

    def fail(self, lease: Lease, error: str) -> bool:
        """Record that a task raised, with its traceback; False where the lease is over."""
        return self._end(lease, "state = 'failed', error = ?", error)

    def release(self, owner: str) -> int:
        """Let all tasks go that an owner has, whether it knows of them or was interrupted as it leased them.

        They wait for whoever comes next, and these attempts do not count; returns how many.
        """
        self._roll_back()
        return self._update(
            "UPDATE tasks SET state = 'waiting', attempts = attempts - 1, owner = NULL, deadline = NULL "
            "WHERE owner = ? AND state = 'running'",
            owner,
        )

    def lose(self, lease: Lease, why: str, most: int) -> bool:
        """The process that worked on a task is gone: it waits again, or has failed after ``most`` attempts."""
        if lease.task.attempts >= most:
            return self.fail(lease, f"given up after {lease.task.attempts} attempts: {why}")
        return self._end(lease, "state = 'waiting'")

    def _end(self, lease: Lease, change: str, *values: Any) -> bool:
        ended = self._update(
            f"UPDATE tasks SET {change}, owner = NULL, deadline = NULL "  # noqa: S608  # the changes stand above
            "WHERE id = ? AND token = ? AND state = 'running'",
            *values,
            lease.task.id,
            lease.token,
        )
        return ended == 1

    def reap(self) -> int:
        """Make tasks wait again whose lease has run out or whose owner is dead; returns how many."""
        running = self._db.execute("SELECT id, token, owner, deadline FROM tasks WHERE state = 'running'").fetchall()
        over = [row[:2] for row in running if row[3] < time.time() or not _may_live(row[2])]
        free = "UPDATE tasks SET state = 'waiting', owner = NULL, deadline = NULL WHERE id = ? AND token = ?"
        return sum(self._update(f"{free} AND state = 'running'", *key) for key in over)

    def _update(self, statement: str, *values: Any) -> int:
        with self._transaction():
            return self._db.execute(statement, values).rowcount

    # --- reading ------------------------------------------------------------------------------------------------------

    def tasks(self, rung: int | None = None) -> list[Task]:
        """All tasks, or one rung's, in the order in which they were added."""
        where, values = ("", ()) if rung is None else (" WHERE rung = ?", (rung,))
        rows = self._db.execute(f"SELECT {_FIELDS} FROM tasks{where} ORDER BY id", values)  # noqa: S608
        return [Task(*row) for row in rows]

    def unfinished(self) -> int:
        """How many tasks wait or run."""
        return int(self._db.execute("SELECT COUNT(*) FROM tasks WHERE state IN ('waiting', 'running')").fetchone()[0])

    def _task(self, id: int) -> Task:
        return Task(*self._db.execute(f"SELECT {_FIELDS} FROM tasks WHERE id = ?", (id,)).fetchone())  # noqa: S608


def _may_live(owner: str) -> bool:
    """False where the owner's process is known to be gone: on this host, and no process has its number."""
    host, process, _ = owner.rsplit(":", 2)
    if host != socket.gethostname() or os.name != "posix":
        return True
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
