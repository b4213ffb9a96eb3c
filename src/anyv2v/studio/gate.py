"""Who may come in: on loopback whoever asks this machine by its name, elsewhere whoever has the token."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from ipaddress import ip_address
from secrets import compare_digest
from typing import Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit

__all__ = ["Gate", "is_loopback"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

COOKIE = "anyv2v_token"
SAFE = ("GET", "HEAD", "OPTIONS")
LOCAL = ("localhost", "127.0.0.1", "[::1]")
POLICY = (
    "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; base-uri 'self'; frame-ancestors 'none'"
)
ELSEWHERE = re.compile(r"/(file|proxy)=\s*https?:", re.IGNORECASE)  # gradio would fetch it for the visitor
SAFEGUARDS = {  # nothing is fetched from elsewhere, whatever the page's libraries would like to
    b"content-security-policy": POLICY.encode(),
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"same-origin",
}


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class Gate:
    """Stands before an app.

    Attributes:
        app: What is behind it.
        hosts: What a request may call this machine, so that no foreign name that was bent to this address
            (DNS rebinding) gets an answer; anything, if left out.
        token: What a request must bring: as ``Authorization: Bearer TOKEN``, in a cookie, or once in the
            address, ``?token=TOKEN``, which sets the cookie.
    """

    app: App
    hosts: tuple[str, ...] | None = LOCAL
    token: str | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or answer it here."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if answer := self._answer(scope, headers):
            await _reply(scope, send, *answer)
        else:
            await self.app(scope, receive, _guarded(send))

    def _answer(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str, dict[str, str]] | None:
        """Status, sentence and headers of an answer from here."""
        host = headers.get("host", "")
        if self.hosts is not None and _bare(host) not in self.hosts:
            return 403, "the studio does not go by that name; call it by localhost or 127.0.0.1", {}
        if ELSEWHERE.search(scope["path"]):
            return 403, "the studio fetches nothing from elsewhere", {}
        origin = headers.get("origin")
        if origin is not None and scope.get("method") not in SAFE and urlsplit(origin).netloc != host:
            return 403, "another site's page asks for this, so it is refused", {}
        if self.token is None or _brought(headers, self.token):
            return None
        query = parse_qs(scope["query_string"].decode("latin-1"))
        if scope.get("method") == "GET" and _same(query.pop("token", [""])[0], self.token):
            place = quote(scope["path"]) + (f"?{urlencode(query, doseq=True)}" if query else "")
            cookie = f"{COOKIE}={self.token}; HttpOnly; SameSite=Lax; Path=/; Max-Age=31536000"
            return 303, "come in", {"location": "/" + place.lstrip("/\\"), "set-cookie": cookie}
        return 401, "the studio asks for its token: open the link that it printed when it started", {}


def _bare(host: str) -> str:
    """The name of a host without its port."""
    name, colon, port = host.rpartition(":")
    return name.lower() if colon and port.isdigit() else host.lower()


def _brought(headers: dict[str, str], token: str) -> bool:
    kind, _, given = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer" and _same(given.strip(), token):
        return True
    try:
        cookies = SimpleCookie(headers.get("cookie", ""))
    except CookieError:
        return False
    return COOKIE in cookies and _same(cookies[COOKIE].value, token)


def _same(given: str, token: str) -> bool:
    """Compared in a time that tells nothing of where they differ."""
    return compare_digest(given.encode(), token.encode())


def _guarded(send: Send) -> Send:
    async def guarded(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), *SAFEGUARDS.items()]
        await send(message)

    return guarded


async def _reply(scope: Scope, send: Send, status: int, sentence: str, more: dict[str, str]) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    body = json.dumps({"detail": sentence}).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close"}
    encoded = [(name.encode(), value.encode()) for name, value in (headers | more).items()]
    await send({"type": "http.response.start", "status": status, "headers": [*encoded, *SAFEGUARDS.items()]})
    await send({"type": "http.response.body", "body": body})
