"""The page that raters see, served from this machine.

/page.css /page.js /icon.svg      the parts of the page
/rate/TOKEN                       the page
/rate/TOKEN/round                 the first round that waits for a vote, as JSON
/rate/TOKEN/round/ID              a round; POST {"aligned": ["a"], "favourite": "b"} to vote
/rate/TOKEN/media/ID              a clip, or a picture

Nothing that a client sends is ever a path: tokens and ids are looked up in tables.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any

from anyv2v.errors import OptionError, OutputError
from anyv2v.evaluation.results import Results
from anyv2v.evaluation.study.ballot import ballot
from anyv2v.evaluation.study.desk import Desk
from anyv2v.evaluation.study.slates import roomy, slates
from anyv2v.evaluation.study.votes import VOTES, Votes

__all__ = ["StudyServer"]

KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".mp4": "video/mp4",
    ".png": "image/png",
}
PARTS = ("page.html", "page.css", "page.js", "icon.svg")
TEXT = "text/plain; charset=utf-8"
LONGEST_VOTE = 4096  # bytes
FRESH = "no-store"
FOREVER = "private, max-age=86400, immutable"  # an id is of one file as it is


class StudyServer(ThreadingHTTPServer):
    """Serves a study of a folder of results, from ``serve_forever`` until it is interrupted.

    Args:
        results: The folder.
        host: The address to listen at: 127.0.0.1 for this machine alone, 0.0.0.0 for all who can reach it.
        port: The port; 0 takes a free one.
        raters: How many raters there shall be; those there are already stay.

    Attributes:
        links: The address of every rater's page, by the rater's number.

    Raises:
        OptionError: There is nothing to compare, or the address cannot be had.
        VideoError: A clip cannot be read.
        OutputError: Votes, or copies of clips, cannot be written.
    """

    def __init__(self, results: Results, host: str = "127.0.0.1", port: int = 8000, raters: int = 1) -> None:
        shown = slates(results)
        votes = Votes(roomy(results.folder / VOTES))
        tokens = votes.raters(at_least=raters)
        self.desks = {token: Desk(number, ballot(shown, token), votes) for token, number in tokens.items()}
        self.parts = {name: files(__package__).joinpath(name).read_bytes() for name in PARTS}
        try:
            super().__init__((host, port), Handler)
        except (OSError, OverflowError) as error:
            raise OptionError(f"cannot listen at {host}:{port}: {error}; port 0 takes a free one") from error
        home = f"http://{self.server_name if host == '0.0.0.0' else host}:{self.server_port}"
        self.links = {number: f"{home}/rate/{token}" for token, number in tokens.items()}

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A player that has seen enough hangs up; all else is worth a traceback."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


WORDS = {
    HTTPStatus.FORBIDDEN: "This link is not known. Please ask for the whole of it.",
    HTTPStatus.NOT_FOUND: "There is nothing here.",
    HTTPStatus.CONFLICT: "The study has changed meanwhile. Please load the page again.",
    HTTPStatus.BAD_REQUEST: "That is no vote.",
    HTTPStatus.INTERNAL_SERVER_ERROR: "The vote could not be kept; please try again.",
}


class Refused(Exception):  # noqa: N818 - reads as what happened
    """A request that is answered by one of ``WORDS``."""

    def __init__(self, status: HTTPStatus) -> None:
        super().__init__(WORDS[status])
        self.status = status


class Handler(BaseHTTPRequestHandler):
    """Answers the requests of one connection."""

    server: StudyServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "anyv2v", ""
    timeout = 60  # seconds that a silent connection is kept
    safeguards = (
        ("Content-Security-Policy", "default-src 'self'; base-uri 'none'; frame-ancestors 'none'"),
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "no-referrer"),  # an address holds its rater's token
    )

    def do_GET(self) -> None:
        """Answer GET."""
        self._answer(self._get)

    def do_HEAD(self) -> None:
        """Answer HEAD."""
        self._answer(self._get)

    def do_POST(self) -> None:
        """Answer POST."""
        self._answer(self._post)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the terminal is for the links."""

    def _answer(self, work: Callable[..., None]) -> None:
        try:
            work(*self.path.partition("?")[0].split("/")[1:])
        except OutputError as error:
            print(f"anyv2v: {error}", file=sys.stderr)  # of its files the rater is told nothing
            self._refuse(Refused(HTTPStatus.INTERNAL_SERVER_ERROR))
        except Refused as refused:
            self._refuse(refused)

    def _get(self, *parts: str) -> None:
        match parts:
            case [name] if name in self.server.parts:
                self._send(self.server.parts[name], KINDS[Path(name).suffix])
            case ["rate", token]:
                self._desk(token)
                self._send(self.server.parts["page.html"], KINDS[".html"])
            case ["rate", token, "round"]:
                self._send_json(self._desk(token).next())
            case ["rate", token, "round", name]:
                self._send_json(self._round(token, name).sheet(name))
            case ["rate", token, "media", name] if name in self._desk(token).media:
                self._send_file(self._desk(token).media[name])
            case _:
                raise Refused(HTTPStatus.NOT_FOUND)

    def _post(self, *parts: str) -> None:
        match parts:
            case ["rate", token, "round", name]:
                desk = self._round(token, name)
                try:
                    desk.vote(name, self._received())
                except (KeyError, TypeError, ValueError) as error:
                    raise Refused(HTTPStatus.BAD_REQUEST) from error
                self._send_json(desk.next())
            case _:
                raise Refused(HTTPStatus.NOT_FOUND)

    def _desk(self, token: str) -> Desk:
        if token not in self.server.desks:
            raise Refused(HTTPStatus.FORBIDDEN)
        return self.server.desks[token]

    def _round(self, token: str, name: str) -> Desk:
        """The desk, if it has this round: a page may be older than the server."""
        desk = self._desk(token)
        if name not in desk.numbers:
            raise Refused(HTTPStatus.CONFLICT)
        return desk

    def _received(self) -> Any:
        length = int(self.headers["Content-Length"])
        if not 0 <= length <= LONGEST_VOTE:
            raise ValueError(f"a vote of {length} bytes")
        return json.loads(self.rfile.read(length))

    def _send_json(self, content: object) -> None:
        self._send(json.dumps(content).encode(), KINDS[".json"])

    def _send_file(self, path: Path) -> None:
        """A file, or the one range of it that a player asks for (RFC 9110, section 14)."""
        size = path.stat().st_size
        about = {"Accept-Ranges": "bytes", "Cache-Control": FOREVER}
        wanted = re.fullmatch(r"bytes=(?=.*\d)(\d*)-(\d*)", self.headers.get("Range", ""))
        if wanted is None:
            self._send(path.read_bytes(), KINDS[path.suffix], about=about)
            return
        start, stop = _span(wanted[1], wanted[2], size)
        if start >= stop:
            about["Content-Range"] = f"bytes */{size}"
            self._send(b"", KINDS[path.suffix], HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, about)
            return
        about["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        with path.open("rb") as stream:
            stream.seek(start)
            self._send(stream.read(stop - start), KINDS[path.suffix], HTTPStatus.PARTIAL_CONTENT, about)

    def _refuse(self, refused: Refused) -> None:
        self.close_connection = True  # what the client sent may not have been read
        self._send(str(refused).encode(), TEXT, refused.status)

    def _send(
        self,
        body: bytes,
        kind: str,
        status: HTTPStatus = HTTPStatus.OK,
        about: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.send_response(status)
        headers = {"Content-Type": kind, "Content-Length": str(len(body)), "Cache-Control": FRESH, **about}
        for name, value in (*headers.items(), *self.safeguards):
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _span(first: str, last: str, size: int) -> tuple[int, int]:
    """From which byte to before which; "500-" is all but the first 500, "-500" the last 500."""
    if not first:
        return max(0, size - int(last)), size
    return int(first), min(int(last) + 1, size) if last else size
