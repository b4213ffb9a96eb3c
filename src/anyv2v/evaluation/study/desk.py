"""A rater's place: what the page is told, by letters alone, and what it says becomes votes on methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from anyv2v.evaluation.study.ballot import Round
from anyv2v.evaluation.study.votes import Vote, Votes

__all__ = ["Desk"]

Given = Mapping[tuple[str, bool], Vote]


@dataclass(frozen=True)
class Desk:
    """A rater's place.

    Attributes:
        rater: Their number.
        rounds: Their rounds, in order.
        votes: Where their votes go.
    """

    rater: int
    rounds: Sequence[Round]
    votes: Votes

    @cached_property
    def media(self) -> Mapping[str, Path]:
        """The files of all rounds by id."""
        return {found.media_id(place): path for found in self.rounds for place, path in found.media.items()}

    @cached_property
    def numbers(self) -> Mapping[str, int]:
        """Where a round stands among all, from 0, by id."""
        return {found.id: number for number, found in enumerate(self.rounds)}

    def next(self) -> dict[str, Any]:
        """The first round without a vote, or that there is none."""
        given = self._given()
        waiting = (number for number, found in enumerate(self.rounds) if found.key not in given)
        return self._sheet(next(waiting, len(self.rounds)), given)

    def sheet(self, name: str) -> dict[str, Any]:
        """A round by id, as the page shows it. Raises KeyError where there is none."""
        return self._sheet(self.numbers[name], self._given())

    def vote(self, name: str, marks: Any) -> None:
        """Keep what the page says of a round. Raises KeyError or TypeError where it makes no sense."""
        found = self.rounds[self.numbers[name]]
        entry, letters = found.slate.entry, found.letters
        aligned = tuple(letters[letter] for letter in sorted(set(marks["aligned"])))
        favourite = letters[marks["favourite"]]
        self.votes.save(
            Vote(self.rater, entry.name, entry.task, found.shown, aligned, favourite, found.check)
        )

    def _given(self) -> Given:
        return {(vote.entry, vote.check): vote for vote in self.votes.read(self.rater)}

    def _sheet(self, number: int, given: Given) -> dict[str, Any]:
        standing = {
            "number": number,
            "total": len(self.rounds),
            "previous": self.rounds[number - 1].id if number else None,
        }
        if number == len(self.rounds):
            return {**standing, "done": True}
        found = self.rounds[number]
        return {**standing, **_content(found), "vote": _marks(found, given.get(found.key))}


def _content(found: Round) -> dict[str, Any]:
    slate = found.slate
    return {
        "id": found.id,
        "task": slate.entry.task,
        "prompt": slate.entry.text if slate.entry.task == "prompt" else "",
        "fps": float(slate.fps),
        "letters": list(found.letters),
        "media": {place: found.media_id(place) for place in found.media},
    }


def _marks(found: Round, vote: Vote | None) -> dict[str, Any] | None:
    """A vote as the page shows it, unless other methods were there to choose from then."""
    if vote is None or set(vote.shown) != set(found.shown):
        return None
    letter = {method: letter for letter, method in found.letters.items()}
    return {"aligned": [letter[method] for method in vote.aligned], "favourite": letter[vote.favourite]}
