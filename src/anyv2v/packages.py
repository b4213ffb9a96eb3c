"""What other packages bring: entry points that name an entry of one of our registries."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import TypeVar

__all__ = ["brought"]

T = TypeVar("T")


def brought(group: str, kind: type[T]) -> Iterator[T]:
    """The entries of a group; of a package that is broken nothing but a warning."""
    for point in entry_points(group=group):
        try:
            entry = point.load()
        except Exception as error:  # whatever its import raises
            entry = error
        if isinstance(entry, kind):
            yield entry
        else:
            what = group.removeprefix("anyv2v.").removesuffix("s")
            said = f"the {what} {point.name!r} of another package is left out: {entry!r}"
            warnings.warn(said, stacklevel=2)
