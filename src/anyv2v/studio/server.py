"""The studio's server: the page and the API on one address, and the workers behind them."""

from __future__ import annotations

import os
import re
import secrets
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from anyv2v.errors import OptionError, OutputError
from anyv2v.studio.desk import Desk
from anyv2v.studio.gate import LOCAL, App, Gate, is_loopback
from anyv2v.studio.shelf import remove
from anyv2v.studio.supervisor import supervised
from anyv2v.studio.worker import Post

__all__ = ["Address", "create_app", "serve"]

PORT = 7860
GOODBYE = 2  # seconds that open connections have when the server ends


@dataclass(frozen=True)
class Address:
    """Where the studio is to be found.

    Attributes:
        host: The address to listen at.
        port: The port; 0 takes a free one, and left out the usual one, or else a free one.
        token: What visitors must bring; off loopback one is drawn if there is none.
    """

    host: str = "127.0.0.1"
    port: int | None = None
    token: str | None = None

    def __post_init__(self) -> None:
        if self.port is not None and not 0 <= self.port <= 65535:
            raise OptionError(f"port is {self.port}; it must be 0 to 65535, and 0 takes a free one")
        if self.token is None and not is_loopback(self.host):
            object.__setattr__(self, "token", secrets.token_urlsafe(16))
        if self.token is not None and not re.fullmatch(r"[A-Za-z0-9._~-]{8,200}", self.token):
            raise OptionError("the token must be 8 to 200 letters, digits, and . _ ~ -; longer is safer")


def create_app(desk: Desk, address: Address) -> App:
    """The app: the API, the page, and before both the gate."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
    os.environ["GRADIO_TEMP_DIR"] = str(desk.shelf.folder / "gradio")
    import gradio

    from anyv2v.studio.api import create_api
    from anyv2v.studio.page import look, page

    app = gradio.mount_gradio_app(create_api(desk), page(desk), path="/", **look())
    hosts = (*LOCAL, address.host) if is_loopback(address.host) else None
    return Gate(app, hosts, address.token)


def serve(desk: Desk, address: Address, post: Post, ready: Callable[[str], None]) -> None:
    """Serve a studio until it is interrupted; its jobs go on when it is served again.

    Args:
        desk: The studio.
        address: Where.
        post: Where its workers work.
        ready: Told the address to open: it listens already, and answers in a moment.

    Raises:
        OptionError: The address cannot be had.
        OutputError: Another server has this folder.
    """
    import uvicorn

    with _alone(desk.shelf.folder) as lock, _listening(address) as listening:
        remove(desk.shelf.folder / "gradio")  # what the page before has left
        link = _link(address, listening)
        lock.write(link.partition("?")[0])  # others may read it, but not the token
        lock.flush()
        config = uvicorn.Config(
            create_app(desk, address),
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=GOODBYE,
            proxy_headers=False,
        )
        with supervised(desk, post), suppress(KeyboardInterrupt):
            ready(link)
            uvicorn.Server(config).run(sockets=[listening])


def _listening(address: Address) -> socket.socket:
    """A socket at the address; where no port was asked for, the usual one or any that is free."""
    ports = (PORT, 0) if address.port is None else (address.port,)
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    for port in ports:
        try:
            return socket.create_server((address.host.strip("[]"), port), family=family)
        except OSError as error:
            reason = error
    raise OptionError(f"cannot listen at {address.host}:{address.port}: {reason}; port 0 takes a free one")


def _link(address: Address, listening: socket.socket) -> str:
    """What to open: with the token, if there is one, and at a name that other machines know."""
    everywhere = address.host in ("0.0.0.0", "::")
    host = socket.gethostname() if everywhere else address.host
    host = f"[{host}]" if ":" in host else host
    query = f"?token={address.token}" if address.token else ""
    return f"http://{host}:{listening.getsockname()[1]}/{query}"


@contextmanager
def _alone(folder: Path) -> Iterator[IO[str]]:
    """Hold a folder, whose lock tells others where the studio is."""
    import fcntl

    with (folder / "server").open("a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            where = lock.read().partition("?")[0] or "another address"
            raise OutputError(f"{folder}: is open already, at {where}") from None
        lock.truncate(0)
        yield lock
