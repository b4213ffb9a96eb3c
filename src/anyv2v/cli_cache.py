"""The commands that look after what is kept for later edits: inversions, and edited first frames."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from math import inf
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.filesize import decimal

from anyv2v.flags import Json
from anyv2v.terminal import print_json, print_table, screen

if TYPE_CHECKING:
    from anyv2v.cache import Kept

__all__ = ["cache"]

cache = typer.Typer(help="Look after what is kept for later edits.", no_args_is_help=True)

DAY = 86400.0


@cache.command("ls")
def list_kept(as_json: Json = False) -> None:
    """List the inversions and edited first frames that are kept, least recently used first."""
    from anyv2v.cache import cache_folder, cache_limit, kept

    there, limit = kept(), cache_limit()
    rows = [_row(one) for one in there]
    if as_json:
        print_json(rows)
        return
    if rows:
        _print(rows)
    screen.print(f"{_size(there)} of {limit / 1e9:g} GB in {cache_folder()}", soft_wrap=True)


def _row(one: Kept) -> dict[str, Any]:
    from anyv2v.store import subject_of

    used = datetime.fromtimestamp(one.used).astimezone().isoformat(timespec="seconds")
    facts = {"kind": one.kind, "of": subject_of(one), "bytes": one.size_bytes, "used": used}
    return facts | {"file": str(one.file)}


def _print(rows: Sequence[dict[str, Any]]) -> None:
    from rich.table import Table

    table = Table("kind", "of", "size", "last used")
    for row in rows:
        table.add_row(row["kind"], row["of"], decimal(row["bytes"]), row["used"][:16].replace("T", " "))
    print_table(table)


def _size(things: Sequence[Kept]) -> str:
    return decimal(sum(one.size_bytes for one in things))


@cache.command("prune")
def prune_kept(
    everything: Annotated[bool, typer.Option("--all", help="Remove all of it.")] = False,
    limit: Annotated[
        float | None, typer.Option(min=0, help="GB that may stay. Default: ANYV2V_CACHE_LIMIT, else 20.")
    ] = None,
    older: Annotated[
        float | None, typer.Option(min=0, help="Remove what was not used for so many days.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Remove what was least recently used, until the rest fits the limit."""
    from anyv2v.cache import cache_limit, kept, prune

    age = -inf if everything else inf if older is None else older * DAY
    gone = prune(limit=cache_limit() if limit is None else limit * 1e9, older=age)
    left = kept()
    if as_json:
        print_json({"removed": [str(one.file) for one in gone], "left": [str(one.file) for one in left]})
        return
    print(f"{len(gone)} removed, {_size(gone)}; {len(left)} left, {_size(left)}")
