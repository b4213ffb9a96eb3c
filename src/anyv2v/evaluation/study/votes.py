"""The votes, in a file of SQLite: a vote that was acknowledged outlives a crash, and none counts twice."""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from anyv2v.errors import OutputError

__all__ = ["VOTES", "Vote", "Votes"]

VOTES = "study/votes.db"
"""Where the votes lie in the results."""

TABLES = """
CREATE TABLE IF NOT EXISTS rater (number INTEGER PRIMARY KEY, token TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS vote (
    rater INTEGER NOT NULL REFERENCES rater (number),
    entry TEXT NOT NULL,
    task TEXT NOT NULL,
    shown TEXT NOT NULL,
    aligned TEXT NOT NULL,
    favourite TEXT NOT NULL,
    is_check INTEGER NOT NULL,
    PRIMARY KEY (rater, entry, is_check)
);
"""


@dataclass(frozen=True)
class Vote:
    """What a rater said of an entry.

    Attributes:
        rater: Their number, from 1.
        entry: Its name.
        task: Its task.
        shown: The methods that were there to choose from.
        aligned: Those that follow the prompt or the reference.
        favourite: The one that is best overall.
        check: Whether it was there to see if the rater pays attention: see ``Round``.
    """

    rater: int
    entry: str
    task: str
    shown: tuple[str, ...]
    aligned: tuple[str, ...]
    favourite: str
    check: bool = False


@dataclass(frozen=True)
class Votes:
    """The file of a study. Threads and processes may share it.

    Attributes:
        path: The file; its folder is there.
    """

    path: Path

    def raters(self, at_least: int = 0) -> dict[str, int]:
        """The raters' numbers by their tokens, filled up to so many.

        Raises:
            OutputError: The file cannot be written.
        """
        with self._opened() as base:
            base.execute("BEGIN IMMEDIATE")
            (there,) = base.execute("SELECT count(*) FROM rater").fetchone()
            fresh = [(secrets.token_urlsafe(16),) for _ in range(there, at_least)]
            base.executemany("INSERT INTO rater (token) VALUES (?)", fresh)
            return dict(base.execute("SELECT token, number FROM rater ORDER BY number"))

    def save(self, vote: Vote) -> None:
        """Keep a vote, on disk when this returns; of two on the same entry the later one counts alone.

        Raises:
            OutputError: The file cannot be written.
        """
        lists = (json.dumps(vote.shown), json.dumps(vote.aligned))
        row = (vote.rater, vote.entry, vote.task, *lists, vote.favourite, vote.check)
        with self._opened() as base:
            base.execute("INSERT OR REPLACE INTO vote VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    def read(self, rater: int | None = None) -> list[Vote]:
        """All votes, or those of a rater.

        Raises:
            OutputError: The file cannot be read.
        """
        with self._opened() as base:
            rows = base.execute(
                "SELECT * FROM vote WHERE rater = coalesce(?, rater) ORDER BY rater, entry, is_check",
                (rater,),
            ).fetchall()
        return [
            Vote(number, entry, task, tuple(json.loads(shown)), tuple(json.loads(aligned)), best, bool(check))
            for number, entry, task, shown, aligned, best, check in rows
        ]

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        """A connection of its own, for threads may not share one; it is committed whole or not at all."""
        try:
            with closing(sqlite3.connect(self.path, timeout=30)) as base, base:
                base.execute("PRAGMA journal_mode = WAL")
                base.execute("PRAGMA synchronous = FULL")
                base.executescript(TABLES)
                yield base
        except sqlite3.Error as error:
            raise OutputError(f"{self.path}: cannot keep votes: {error}") from error
