"""What the studio takes in, and how it says no."""

from __future__ import annotations

from dataclasses import dataclass

from anyv2v.errors import OptionError, UserError, VideoError

__all__ = ["Limits", "TooLarge", "TooMany", "TooSlow", "Unknown"]


class Unknown(UserError):  # noqa: N818 - reads as what happened
    """A job, clip or picture that is not there."""


class TooLarge(UserError):  # noqa: N818 - reads as what happened
    """A file that is larger than the studio takes."""


class TooMany(UserError):  # noqa: N818 - reads as what happened
    """The queue is full."""


class TooSlow(UserError):  # noqa: N818 - reads as what happened
    """A file that did not arrive in time."""


@dataclass(frozen=True)
class Limits:
    """How much of everything.

    Attributes:
        upload_bytes: The size of a file.
        upload_seconds: The time that it may take to arrive.
        seconds: The length of a clip.
        side: Pixels of the longer side of a clip or picture.
        frames: Frames that one job may edit.
        queued: Jobs that may wait.
        kept: Jobs that have ended and are kept; the oldest make room for new ones.

    Raises:
        OptionError: A limit that lets nothing through.
    """

    upload_bytes: int = 1_000_000_000
    upload_seconds: float = 600.0
    seconds: float = 600.0
    side: int = 4096
    frames: int = 1800
    queued: int = 100
    kept: int = 200

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise OptionError(f"the limit of {name.replace('_', ' ')} is {value:g}; it must be above 0")

    def check_bytes(self, count: int) -> None:
        """Raises TooLarge."""
        if count > self.upload_bytes:
            raise TooLarge(f"the file is larger than {self.upload_bytes / 1e6:g} MB, the most there may be")

    def check_size(self, name: str, width: int, height: int) -> None:
        """Raises TooLarge."""
        if max(width, height) > self.side:
            most = f"more than {self.side} pixels a side; make it smaller"
            raise TooLarge(f"{name} is {width}x{height}, {most}")

    def check_length(self, name: str, seconds: float | None) -> None:
        """Raises VideoError."""
        if seconds is not None and seconds > self.seconds:
            raise VideoError(f"{name} lasts {seconds:.0f} s, more than {self.seconds:g} s; cut it first")

    def check_frames(self, count: int) -> None:
        """Raises OptionError."""
        if count > self.frames:
            raise OptionError(
                f"{count} frames are more than the {self.frames} of one job; take a shorter span"
            )
