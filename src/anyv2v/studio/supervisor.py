"""Looks after the workers: one process for each lane, a new one for each that dies."""

from __future__ import annotations

import secrets
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from threading import Event, Thread
from typing import get_args

from anyv2v.errors import UserError
from anyv2v.studio.desk import Desk
from anyv2v.studio.request import Lane
from anyv2v.studio.worker import Post

__all__ = ["Supervisor", "supervised"]

GLANCE = 0.3  # seconds between two looks
GRACE = 5.0  # seconds that a worker has to leave a job that was cancelled, or to leave
SPELL = 3.0  # seconds after which a worker that dies is no longer one that could not begin
SLOWEST = 30.0  # seconds between two attempts to begin, at most
TIDY = 3600.0  # seconds between two times that the shelf is cleaned


class Supervisor:
    """Looks after the worker of one lane.

    Args:
        desk: Whose jobs are done.
        post: Where its workers work; each gets a name of its own.
    """

    def __init__(self, desk: Desk, post: Post) -> None:
        self._queue, self._post = desk.queue, post
        self._delay, self._next = GLANCE, 0.0
        self._begin()

    def _begin(self) -> None:
        self._post = replace(self._post, name=f"{self._post.lane}-{secrets.token_hex(4)}")
        self._began = time.monotonic()
        # A session of its own: an interrupt at the terminal is for the server, which sees to its workers.
        self.process = subprocess.Popen(
            [sys.executable, "-m", "anyv2v.studio.worker", self._post.text],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    def look(self) -> None:
        """Do what is to be done now: see off a worker that hangs, bury a dead one, begin with another."""
        now = time.monotonic()
        if self.process.poll() is None:
            if self._queue.lingering(self._post.name, GRACE):
                self.process.kill()
        elif self._next == 0.0:
            self._queue.bury(self._post.name)
            self._delay = GLANCE if now - self._began > SPELL else min(SLOWEST, 2 * self._delay)
            self._next = now + self._delay
        elif now >= self._next:
            self._close()
            self._next = 0.0
            self._begin()

    def end(self) -> None:
        """Send the worker home; what it was doing waits again, and is not held against the job."""
        self.process.terminate()
        try:
            self.process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._close()
        self._queue.let_go(self._post.name)

    def _close(self) -> None:
        assert self.process.stdin is not None
        with suppress(OSError):
            self.process.stdin.close()


@contextmanager
def supervised(desk: Desk, post: Post) -> Iterator[dict[str, Supervisor]]:
    """Have the jobs of a desk done, by a worker for each lane, as long as this lasts.

    Args:
        desk: Whose.
        post: Where; the lane is each in turn.

    Yields:
        Who looks after which lane.
    """
    desk.queue.bury_all()  # there are no other servers, so there are no other workers
    lanes = {lane: Supervisor(desk, replace(post, lane=lane)) for lane in get_args(Lane)}
    over = Event()

    def look() -> None:
        tidy = 0.0
        while not over.wait(GLANCE):
            try:
                for supervisor in lanes.values():
                    supervisor.look()
                if time.monotonic() >= tidy:
                    tidy = time.monotonic() + TIDY
                    desk.clean()
            except UserError as error:  # a full disk, say, which may have room again
                print(f"anyv2v: {error}", file=sys.stderr)
            except Exception as error:  # the next look is to come whatever this one raised
                traceback.print_exception(error)

    thread = Thread(target=look, daemon=True)
    thread.start()
    try:
        yield lanes
    finally:
        over.set()
        thread.join()
        for supervisor in lanes.values():
            supervisor.end()
