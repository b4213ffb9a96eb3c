"""The rounds of a rater: every entry once, shuffled and blind, and repeats that show who pays attention.

A rater's token seeds everything, so that the same rounds come back after a restart; and what comes to the
results meanwhile moves no other round.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2s
from pathlib import Path

from anyv2v.errors import OptionError
from anyv2v.evaluation.study.slates import Slate

__all__ = ["LETTERS", "UNEDITED", "Round", "ballot"]

LETTERS = "abcdefghi"
UNEDITED = ""
"""Stands for the source where it is shown among the methods."""

SPACING = 8  # rounds to a check, in a long study
FEWEST = 3  # checks, if there are as many entries: one slip is then no more than a third


@dataclass(frozen=True)
class Round:
    """An entry as one rater sees it.

    Attributes:
        slate: The entry and its clips.
        shown: The methods in the order of their letters; in a check ``UNEDITED`` has the place of one.
        check: Whether it is there to see if the rater pays attention: the source itself follows no prompt and
            no reference, and must not be marked. It repeats an entry that was rated already, so that it
            cannot sway that vote, and does not count for any method.
        id: Tells it apart; says nothing of what it holds.
    """

    slate: Slate
    shown: tuple[str, ...]
    check: bool
    id: str

    @property
    def key(self) -> tuple[str, bool]:
        """What a rater votes on once."""
        return self.slate.entry.name, self.check

    @cached_property
    def letters(self) -> Mapping[str, str]:
        """The methods by letter."""
        return dict(zip(LETTERS, self.shown, strict=False))

    @cached_property
    def media(self) -> Mapping[str, Path]:
        """The files by letter, and as ``source`` and ``reference``."""
        clips = {
            letter: self.slate.clips.get(name, self.slate.source) for letter, name in self.letters.items()
        }
        reference = {"reference": self.slate.reference} if self.slate.reference else {}
        return {**clips, "source": self.slate.source, **reference}

    def media_id(self, place: str) -> str:
        """The name that a file goes by in the page; another one once the file has changed."""
        return _digest(self.id, place, str(self.media[place].stat().st_mtime_ns))


def ballot(slates: Sequence[Slate], token: str) -> list[Round]:
    """The rounds of a rater.

    Raises:
        OptionError: An entry has more clips than there are letters.
    """
    for slate in slates:
        if len(slate.clips) > len(LETTERS):
            raise OptionError(
                f"{slate.entry.name!r} has {len(slate.clips)} clips; {len(LETTERS)} can be compared"
            )
    order = sorted(slates, key=lambda slate: _digest(token, slate.entry.name))
    return list(_with_checks(order, token))


def _with_checks(order: Sequence[Slate], token: str) -> Iterator[Round]:
    """The rounds in equal stretches, a check after each that repeats its first entry."""
    count = min(len(order), max(FEWEST, len(order) // SPACING))
    starts = [k * len(order) // count for k in range(count)]
    for start, end in zip(starts, [*starts[1:], len(order)], strict=True):
        yield from (_round(slate, token, check=False) for slate in order[start:end])
        yield _round(order[start], token, check=True)


def _round(slate: Slate, token: str, *, check: bool) -> Round:
    about = (token, slate.entry.name, "check" if check else "vote")
    shown = sorted(slate.clips, key=lambda method: _digest(*about, method))
    if check:
        shown[int(_digest(*about), 16) % len(shown)] = UNEDITED
    return Round(slate, tuple(shown), check, _digest(*about, *shown))


def _digest(*parts: str) -> str:
    return blake2s("\0".join(parts).encode(), digest_size=10).hexdigest()
