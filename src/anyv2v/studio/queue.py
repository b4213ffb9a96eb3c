"""The queue: jobs in a file of SQLite, taken by workers for as long as they show signs of life.

A job waits as ``queued``, is ``running`` under a worker's lease, and ends ``done``, ``failed`` or
``cancelled``. A lease that runs out, as a killed worker's does, sets the job free for the next worker. Of
what a job does nothing is known here: its settings are any JSON.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from threading import Lock
from typing import Any, Literal
from weakref import finalize

from anyv2v.errors import OutputError
from anyv2v.studio.limits import TooMany, Unknown

__all__ = ["ENDED", "LEASE", "TRIES", "Job", "Queue", "State"]

State = Literal["queued", "running", "done", "failed", "cancelled"]

ENDED = ("done", "failed", "cancelled")

LEASE = 30.0
"""Seconds without a beat after which a worker counts as dead."""

TRIES = 3
"""How many workers may die of a job."""

VERSION = 1

# Triggers count the revision, so that no change can forget it; a beat changes no column that they watch.
TABLES = """
CREATE TABLE job (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    lane TEXT NOT NULL,
    title TEXT NOT NULL,
    settings TEXT NOT NULL,
    parent TEXT,
    state TEXT NOT NULL DEFAULT 'queued',
    created REAL NOT NULL,
    started REAL,
    ended REAL,
    worker TEXT,
    lease REAL NOT NULL DEFAULT 0,
    tries INTEGER NOT NULL DEFAULT 0,
    stage TEXT NOT NULL DEFAULT '',
    done INTEGER NOT NULL DEFAULT 0,
    total INTEGER NOT NULL DEFAULT 0,
    left_seconds REAL,
    message TEXT NOT NULL DEFAULT '',
    outcome TEXT NOT NULL DEFAULT '{}'
);
CREATE INDEX waiting ON job (lane, state, number);
CREATE TABLE clock (revision INTEGER NOT NULL);
INSERT INTO clock VALUES (0);
CREATE TRIGGER added AFTER INSERT ON job BEGIN
    UPDATE clock SET revision = revision + 1;
END;
CREATE TRIGGER changed AFTER UPDATE OF state, worker, stage, done, total, outcome ON job BEGIN
    UPDATE clock SET revision = revision + 1;
END;
CREATE TRIGGER removed AFTER DELETE ON job BEGIN
    UPDATE clock SET revision = revision + 1;
END;
"""


@dataclass(frozen=True)
class Job:
    """A job as it stands.

    Attributes:
        number: Its place among all that were ever submitted.
        id: Random; nobody guesses it from another's.
        lane: Which workers take it.
        title: What a person calls it.
        settings: What to do.
        parent: The id of the job that it was submitted beside, if any.
        state: See the module.
        created: When it was submitted, in seconds since 1970.
        started: When a worker first took it.
        ended: When it ended.
        worker: Who holds it. A cancelled job is held until its worker has let go of the device.
        lease: Until when it is held, unless the worker beats.
        tries: How often it was taken.
        stage: What is being done.
        done: Steps of the stage that are finished.
        total: Steps that the stage has.
        left_seconds: What is left of the stage, by its pace.
        message: Why it failed.
        outcome: What came of it.
    """

    number: int
    id: str
    lane: str
    title: str
    settings: Mapping[str, Any]
    parent: str | None
    state: State
    created: float
    started: float | None
    ended: float | None
    worker: str | None
    lease: float
    tries: int
    stage: str
    done: int
    total: int
    left_seconds: float | None
    message: str
    outcome: Mapping[str, Any] = field(default_factory=dict)


COLUMNS = ", ".join(f.name for f in fields(Job))


class Queue:
    """The file of a queue. Processes may share it, and threads an object of this.

    Args:
        path: The file; its folder is there.

    Raises:
        OutputError: The file cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._turn = path, Lock()
        with self._spoken():
            self._base = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
            finalize(self, self._base.close)
            self._base.execute("PRAGMA journal_mode = WAL")
        with self._opened() as base:
            (version,) = base.execute("PRAGMA user_version").fetchone()
            if version == 0:
                for statement in _statements(TABLES):
                    base.execute(statement)
                base.execute(f"PRAGMA user_version = {VERSION}")
            elif version != VERSION:
                raise OutputError(f"{path}: is the queue of another version of anyv2v; use another folder")

    # -- those who ask

    def submit(
        self,
        settings: Mapping[str, Any],
        lane: str,
        title: str = "",
        parent: str | None = None,
        most: int | None = None,
    ) -> str:
        """Add a job; it is on disk when this returns.

        Args:
            settings: What to do, as JSON can hold it.
            lane: Which workers take it.
            title: What a person calls it.
            parent: The job that it is submitted beside, if any.
            most: How many may wait.

        Returns:
            Its id.

        Raises:
            TooMany: So many wait already.
        """
        name, row = secrets.token_urlsafe(12), json.dumps(settings)
        with self._opened() as base:
            (waiting,) = base.execute("SELECT count(*) FROM job WHERE state = 'queued'").fetchone()
            if most is not None and waiting >= most:
                raise TooMany(f"{waiting} jobs wait already, as many as may; cancel one, or come back later")
            base.execute(
                "INSERT INTO job (id, lane, title, settings, parent, created) VALUES (?, ?, ?, ?, ?, ?)",
                (name, lane, title, row, parent, time.time()),
            )
        return name

    def get(self, name: str) -> Job:
        """A job. Raises Unknown."""
        if found := self._jobs("WHERE id = ?", name):
            return found[0]
        raise Unknown("there is no such job; it may have been removed")

    def list(self, limit: int = 50, before: int | None = None) -> Sequence[Job]:
        """Jobs, the newest first; with ``before``, those of smaller numbers."""
        most = "WHERE number < coalesce(?, number + 1) ORDER BY number DESC LIMIT ?"
        return self._jobs(most, before, limit)

    def revision(self) -> int:
        """The number of the last change to any job."""
        with self._opened(writes=False) as base:
            return int(base.execute("SELECT revision FROM clock").fetchone()[0])

    def position(self, job: Job) -> int:
        """How many of its lane come before it, itself among them: 1 is next."""
        with self._opened(writes=False) as base:
            ahead = "SELECT count(*) FROM job WHERE lane = ? AND state = 'queued' AND number <= ?"
            return int(base.execute(ahead, (job.lane, job.number)).fetchone()[0])

    def cancel(self, name: str) -> bool:
        """Cancel what waits or runs; whether there was something to cancel. Raises Unknown."""
        self.get(name)
        query = (
            "UPDATE job SET state = 'cancelled', ended = ? WHERE id = ? AND state IN ('queued', 'running')"
        )
        return self._change(query, time.time(), name)

    def remove(self, name: str) -> bool:
        """Forget a job that has ended and that no worker holds; whether it was so. Raises Unknown."""
        self.get(name)
        free = "(worker IS NULL OR lease < ?)"
        query = f"DELETE FROM job WHERE id = ? AND state IN {ENDED} AND {free}"
        return self._change(query, name, time.time())

    # -- those who work

    def take(self, lane: str, worker: str, lease: float = LEASE) -> Job | None:
        """The next job of a lane, now this worker's; one whose worker has died comes before all that wait.

        What ``TRIES`` workers have died of is taken no more, but fails.
        """
        now = time.time()
        with self._opened() as base:
            base.execute(
                "UPDATE job SET state = 'failed', ended = ?, worker = NULL, "
                "message = 'the worker died ' || tries || ' times while it ran' "
                "WHERE lane = ? AND state = 'running' AND lease < ? AND tries >= ?",
                (now, lane, now, TRIES),
            )
            row = base.execute(
                "UPDATE job SET state = 'running', worker = ?, lease = ?, tries = tries + 1, stage = '', "
                "done = 0, total = 0, left_seconds = NULL, started = coalesce(started, ?) WHERE number = ("
                "SELECT number FROM job WHERE lane = ? AND "
                "(state = 'queued' OR state = 'running' AND lease < ?) "
                f"ORDER BY state DESC, number LIMIT 1) RETURNING {COLUMNS}",
                (worker, now + lease, now, lane, now),
            ).fetchone()
        return _job(row) if row else None

    def beat(self, name: str, worker: str, lease: float = LEASE) -> bool:
        """Show a sign of life; whether the job is still this worker's, and not cancelled."""
        query = "UPDATE job SET lease = ? WHERE id = ? AND worker = ? RETURNING state"
        with self._opened() as base:
            row = base.execute(query, (time.time() + lease, name, worker)).fetchone()
        return row is not None and row[0] == "running"

    def holds(self, name: str, worker: str) -> bool:
        """Whether the job is still this worker's, and not cancelled: to be asked often."""
        return bool(self._jobs(MINE, name, worker))

    def report(
        self, name: str, worker: str, stage: str, done: int, total: int, left_seconds: float | None
    ) -> bool:
        """Say how far it is; whether the job is still this worker's, and not cancelled."""
        query = "UPDATE job SET stage = ?, done = ?, total = ?, left_seconds = ? " + MINE
        return self._change(query, stage, done, total, left_seconds, name, worker)

    def finish(self, name: str, worker: str, outcome: Mapping[str, Any]) -> bool:
        """End a job well; whether it was still this worker's."""
        query = "UPDATE job SET state = 'done', ended = ?, worker = NULL, outcome = ? " + MINE
        return self._change(query, time.time(), json.dumps(outcome), name, worker)

    def fail(self, name: str, worker: str, message: str) -> bool:
        """End a job that cannot be done; whether it was still this worker's."""
        query = "UPDATE job SET state = 'failed', ended = ?, worker = NULL, message = ? " + MINE
        return self._change(query, time.time(), message, name, worker)

    def let_go(self, worker: str) -> None:
        """Of all that a worker held: what was cancelled is free of it, what ran waits again as if untried."""
        with self._opened() as base:
            base.execute(
                "UPDATE job SET state = 'queued', tries = tries - 1, worker = NULL, stage = '' "
                "WHERE worker = ? AND state = 'running'",
                (worker,),
            )
            base.execute("UPDATE job SET worker = NULL WHERE worker = ?", (worker,))

    # -- those who look after the workers

    def bury(self, worker: str) -> None:
        """A worker has died: what it held need not wait for the end of the lease."""
        with self._opened() as base:
            base.execute("UPDATE job SET worker = NULL WHERE worker = ? AND state = 'cancelled'", (worker,))
            base.execute("UPDATE job SET lease = 0 WHERE worker = ? AND state = 'running'", (worker,))

    def bury_all(self) -> None:
        """No worker is alive."""
        for job in self._jobs("WHERE worker IS NOT NULL"):
            self.bury(str(job.worker))

    def lingering(self, worker: str, seconds: float) -> bool:
        """Whether a worker still holds what was cancelled so long ago."""
        query = "SELECT 1 FROM job WHERE worker = ? AND state = 'cancelled' AND ended < ?"
        with self._opened(writes=False) as base:
            return base.execute(query, (worker, time.time() - seconds)).fetchone() is not None

    def outlived(self, kept: int) -> Sequence[Job]:
        """The jobs that have ended, but for so many of the newest."""
        return self._jobs(f"WHERE state IN {ENDED} ORDER BY number DESC LIMIT -1 OFFSET ?", kept)

    # -- the file

    def _jobs(self, condition: str, *values: Any) -> Sequence[Job]:
        with self._opened(writes=False) as base:
            return [_job(row) for row in base.execute(f"SELECT {COLUMNS} FROM job {condition}", values)]

    def _change(self, query: str, *values: Any) -> bool:
        with self._opened() as base:
            return base.execute(query, values).rowcount > 0

    @contextmanager
    def _opened(self, *, writes: bool = True) -> Iterator[sqlite3.Connection]:
        """The connection, which threads take in turns; all that is done with it is done, or nothing.

        Who will write says so at once: a reader that becomes a writer half-way cannot wait for its turn.
        """
        with self._turn, self._spoken():
            self._base.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
            with self._base:  # commits, or rolls back
                yield self._base

    @contextmanager
    def _spoken(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise OutputError(f"{self.path}: cannot keep jobs: {error}") from error


MINE = "WHERE id = ? AND worker = ? AND state = 'running'"


def _job(row: Sequence[Any]) -> Job:
    told = dict(zip((f.name for f in fields(Job)), row, strict=True))
    return Job(**told | {key: json.loads(told[key]) for key in ("settings", "outcome")})


def _statements(script: str) -> Iterator[str]:
    """The statements of a script: ``executescript`` would commit before it begins."""
    statement = ""
    for line in script.splitlines():
        statement += f"{line}\n"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
