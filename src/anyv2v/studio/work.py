"""What a tab of the page works on. Its browser keeps it, so it outlives a reload, and may be anything."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["Work"]


@dataclass(frozen=True)
class Work:
    """What a tab of the page works on: names of what the shelf and the queue hold.

    Attributes:
        clip: The clip.
        start: Where its span begins, in seconds.
        end: Where it ends.
        first: The edited first frame, an image.
        made: The job that edited the first frame.
        chosen: The candidate of that job that was taken.
        references: Images for the editor.
        mask: An image of where the frame may change.
        open: The job that the player shows.
        tab: The stage of the method that a person looks at.
        painting: Whether a mask is being painted.
        trouble: What went wrong with the last thing that was asked for.
    """

    clip: str | None = None
    start: float = 0.0
    end: float = 0.0
    first: str | None = None
    made: str | None = None
    chosen: int | None = None
    references: tuple[str, ...] = ()
    mask: str | None = None
    open: str | None = None
    tab: Literal["frame", "propagate"] = "frame"
    painting: bool = False
    trouble: str = ""

    @classmethod
    def read(cls, kept: Any) -> Work:
        """From what a browser kept; from nonsense, nothing."""
        from pydantic import TypeAdapter, ValidationError

        try:
            return TypeAdapter(cls).validate_python(kept or {})
        except ValidationError:
            return cls()

    def kept(self) -> dict[str, Any]:
        """For the browser to keep."""
        return asdict(self) | {"trouble": ""}
