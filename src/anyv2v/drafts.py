"""Files and folders that take their name only when they are whole, and never that of what matters."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from os import W_OK, access
from os.path import lexists
from pathlib import Path
from uuid import uuid4

from anyv2v.errors import OutputError

__all__ = ["check_file", "check_replaceable", "draft", "named"]


def named(path: Path | str) -> Path:
    """The path, if it names something that can be made. Raises OutputError."""
    path = Path(path)
    if path.name in ("", ".."):  # "." has no name either
        raise OutputError(f"{path}: is no name for an output; give one, as in {path / 'out'}")
    return path


def check_file(path: Path, *, overwrite: bool) -> None:
    """Whether ``draft`` could make this file, of any kind: to be asked before hours of work.

    Raises OutputError for a folder that is missing or read-only, and for what exists, unless ``overwrite``.
    """
    if not access(path.parent, W_OK):
        raise OutputError(f"{path}: the folder {path.parent} is missing, or cannot be written to")
    if path.is_dir():
        raise OutputError(f"{path}: is a folder; use another name")
    if lexists(path) and not overwrite:
        raise OutputError(f"{path}: exists already; --overwrite replaces it")


def check_replaceable(path: Path, overwrite: bool, folder: bool) -> None:
    """Raises OutputError for what stands in the way and may not be lost: a folder may hold frames alone."""
    if path.is_dir() != folder:
        raise OutputError(f"{path}: is a {'folder' if path.is_dir() else 'file'}; use another name")
    lost = [p.name for p in path.iterdir()] if folder else [path.name]
    if lost and not overwrite:
        raise OutputError(f"{path}: exists already; --overwrite replaces it")
    if folder and not all(re.fullmatch(r"\d{5,}\.png", name) for name in lost):
        raise OutputError(f"{path}: holds other files than frames; use another name")


@contextmanager
def draft(path: Path | str, *, overwrite: bool) -> Iterator[Path]:
    """A hidden name beside ``path``; the file or folder made there takes the name ``path`` once it is whole.

        with draft("report.json", overwrite=False) as temporary:
            temporary.write_text(report)

    Whatever fails or interrupts leaves no trace of it. What has come to stand at ``path`` meanwhile is lost
    only with ``overwrite``, and a folder only if it holds frames alone. Raises OutputError.
    """
    path = named(path)
    temporary = _hidden(path)
    try:
        yield temporary
        _publish(temporary, path, overwrite)
    except OSError as reason:
        raise OutputError(f"{path}: cannot be written: {reason.strerror or reason}") from reason
    finally:
        _remove(temporary)


def _hidden(path: Path) -> Path:
    return path.with_name(f".{uuid4().hex[:8]}-{path.name}")


def _remove(path: Path) -> None:
    """Remove what may be a folder, or nothing at all; what cannot be removed stays."""
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _publish(whole: Path, path: Path, overwrite: bool) -> None:
    folder = whole.is_dir()
    if lexists(path):
        check_replaceable(path, overwrite, folder)
    if folder and overwrite and path.exists():
        _exchange(whole, path)
    elif folder or overwrite:
        whole.replace(path)  # fails where a folder is not empty
    else:
        _take_free_name(whole, path)


def _take_free_name(whole: Path, path: Path) -> None:
    """A second name, unlike a new one, never replaces what came between the check and now."""
    try:
        path.hardlink_to(whole)
    except OSError:  # the name is taken, or the disk has no second names, as with exFAT
        if lexists(path):
            raise
        whole.rename(path)


def _exchange(whole: Path, path: Path) -> None:
    """Put a folder in the place of another; one of the two always remains."""
    old = _hidden(path)
    try:
        path.rename(old)
        whole.rename(path)
    finally:
        if not lexists(path):
            old.rename(path)
        elif not whole.exists():
            _remove(old)
