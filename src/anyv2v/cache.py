"""A folder of what was made once and may be asked for again, each thing named after all it depends on."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anyv2v.errors import OptionError, OutputError

__all__ = ["Kept", "cache_folder", "cache_limit", "file_of", "keeping", "kept", "key_of", "prune", "touch"]

SUFFIXES = {"inversions": ".safetensors", "frames": ".png"}
"""What is kept, by kind: inversions of clips, and edited first frames."""

LEFT_OVER = 3600.0
"""Seconds after which a draft is no longer somebody's work but the trace of a process that was killed."""


@dataclass(frozen=True)
class Kept:
    """Something that is kept.

    Attributes:
        kind: ``inversions`` or ``frames``.
        file: Where it is.
        size_bytes: Its size on disk.
        used: When it was last made or taken, in seconds since 1970.
    """

    kind: str
    file: Path
    size_bytes: int
    used: float


def cache_folder() -> Path:
    """Where what was once made is kept: ``ANYV2V_CACHE``, else ``anyv2v`` in the user's cache folder."""
    if named := os.environ.get("ANYV2V_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "anyv2v"


def cache_limit() -> float:
    """How many bytes may be kept: ``ANYV2V_CACHE_LIMIT`` in GB, else 20 GB.

    Raises:
        OptionError: The variable holds something else than a number from 0 on.
    """
    text = os.environ.get("ANYV2V_CACHE_LIMIT") or "20"
    with suppress(ValueError):
        if (gigabytes := float(text)) >= 0:
            return gigabytes * 1e9
    raise OptionError(f"ANYV2V_CACHE_LIMIT is {text!r}; it must be a number of GB, such as 20")


def key_of(content: Mapping[str, Any]) -> str:
    """A name for ``content``: equal for what is equal, in whatever order it is given."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def file_of(kind: str, key: str) -> Path:
    """Where the thing of this name is, if it is kept."""
    return cache_folder() / kind / f"{key}{SUFFIXES[kind]}"


@contextmanager
def keeping(kind: str, key: str) -> Iterator[Path]:
    """Where to write something new; once it is there, others make room for it: see ``prune``.

    Raises:
        OutputError: There is no such place, and none can be made.
        OptionError: See ``cache_limit``.
    """
    file, limit = file_of(kind, key), cache_limit()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{file.parent}: cannot be made: {error.strerror}") from error
    yield file
    prune(limit=limit, spare=file)


def touch(file: Path) -> None:
    """Note that it was used. The time of its last change says when: that of its last reading may be off."""
    with suppress(OSError):
        os.utime(file)


def kept() -> list[Kept]:
    """All that is kept, least recently used first."""
    files = [(kind, file) for kind in SUFFIXES for file in (cache_folder() / kind).glob("[!.]*")]
    found = [_seen(kind, file) for kind, file in files if file.suffix == SUFFIXES[kind]]
    return sorted(filter(None, found), key=lambda one: one.used)


def _seen(kind: str, file: Path) -> Kept | None:
    """Nothing if another process has just removed it."""
    try:
        facts = file.stat()
    except OSError:
        return None
    return Kept(kind, file, facts.st_size, facts.st_mtime)


def prune(*, limit: float = math.inf, older: float = math.inf, spare: Path | None = None) -> list[Kept]:
    """Remove what was not used for long, then the least recently used until the rest fits.

    Args:
        limit: Bytes that may stay.
        older: Seconds without use after which a thing goes; ``-inf`` removes whatever there is.
        spare: What stays in any case.

    Returns:
        What was removed.
    """
    now, there, gone = time.time(), kept(), []
    total = sum(one.size_bytes for one in there)
    for one in there:
        if one.file != spare and (total > limit or now - one.used >= older) and _removed(one.file):
            gone.append(one)
            total -= one.size_bytes
    _sweep(now - LEFT_OVER)
    return gone


def _removed(file: Path) -> bool:
    """Whether it is gone; another process may have been quicker, and a folder may be read-only."""
    try:
        file.unlink(missing_ok=True)
    except OSError:
        return False
    return True


def _sweep(before: float) -> None:
    """Remove the drafts of processes that were killed before then."""
    for kind in SUFFIXES:
        for file in (cache_folder() / kind).glob(".*"):
            if (draft := _seen(kind, file)) and draft.used < before:
                _removed(file)
