"""Video in: films, animations and folders of images as RGB frames, with their times and their sound.

    clip = Clip("walk.mp4", start=2.0, frames=16, fps=Fraction(8))      # nothing is decoded yet
    fit = Fit(clip.size, Size(512, 512))
    write("out.mp4", map(fit.apply, clip), clip.rate, clip.audio)

Frames pass through one by one: an hour of film costs no more memory than a second.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import islice, pairwise
from math import ceil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anyv2v.errors import OptionError, VideoError
from anyv2v.film import Film, Picture, Shown, Slides, VideoInfo, open_source
from anyv2v.picture import Frame, Size

__all__ = ["AudioTrack", "Clip", "Video", "ratio"]


@dataclass(frozen=True)
class AudioTrack:
    """A span of a film's sound, decoded only while it is written.

    ``start`` counts in seconds from the film's first picture. It lasts ``duration`` seconds, but no longer
    than the pictures it is written with; None: as long as those.
    """

    path: Path | str
    start: float = 0.0
    duration: float | None = None


@dataclass(frozen=True, eq=False)
class Video:
    """A video in memory: ``frames`` [F, H, W, 3] uint8 RGB, ``fps`` in Hz, and the sound of it."""

    frames: NDArray[np.uint8]
    fps: Fraction
    audio: AudioTrack | None = None

    def __post_init__(self) -> None:
        shape, dtype = self.frames.shape, self.frames.dtype
        if len(shape) != 4 or shape[3] != 3 or 0 in shape or dtype != np.uint8:
            raise VideoError(f"a video is [F, H, W, 3] of uint8, not {list(shape)} of {dtype}")

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def size(self) -> Size:
        return Size.of(self.frames[0])


@dataclass(frozen=True)
class Clip:
    """A span of a video on disk: a film, an animation, a folder of images or a pattern such as "in/*.png".

    Nothing is decoded until it is iterated. Frame k is the picture on screen ``start`` + k / ``rate`` seconds
    after the first picture of the file; one that stays on longer is repeated.

    ``frames`` asks for exactly so many, ``duration`` for at most so many seconds; give one of them or none.
    ``fps`` None keeps the file's average rate. Images have no rate of their own: ``fps``, or 8.

    Raises OptionError for values out of range, VideoError for what cannot be read or is too short.
    """

    path: Path | str
    start: float = 0.0
    frames: int | None = None
    duration: float | None = None
    fps: Fraction | float | None = None

    def __post_init__(self) -> None:
        if self.frames is not None and self.duration is not None:
            raise OptionError("frames and duration contradict each other: give one of them")
        if not 0 <= self.start <= _LONGEST:  # nor is NaN
            raise OptionError(f"start {self.start}: must lie between 0 and {_LONGEST} s")
        if self.frames is not None and self.frames < 1:
            raise OptionError(f"frames {self.frames}: must be 1 or more")
        if self.duration is not None and not 0 < self.duration <= _LONGEST:
            raise OptionError(f"duration {self.duration}: must be more than 0 s and at most {_LONGEST} s")
        if self.fps is not None and not _SLOWEST <= self.fps <= _FASTEST:
            raise OptionError(f"fps {self.fps}: must lie between {_SLOWEST} and {_FASTEST}")

    @cached_property
    def _source(self) -> Film | Slides:
        return open_source(Path(self.path), None if self.fps is None else ratio(self.fps))

    @property
    def info(self) -> VideoInfo:
        """What the whole file says of itself, whatever the span."""
        return self._source.info

    @property
    def rate(self) -> Fraction:
        """Frames per second of what is read."""
        return self.info.fps if self.fps is None else ratio(self.fps)

    @property
    def size(self) -> Size:
        return self.info.size

    @property
    def audio(self) -> AudioTrack | None:
        """The sound from ``start`` on, as long as the frames it is written with; None if there is none."""
        return AudioTrack(self.path, self.start) if self.info.audio else None

    @property
    def expected(self) -> int | None:
        """How many frames iterating will give, by what the container says; None if it says nothing.

        Exact for images and animations. Iterating raises VideoError if it is 0, or less than ``frames``.
        """
        if self._source.end is None:
            return self.frames
        there = max(0, ceil((self._source.end - Fraction(self.start)) * self.rate))
        return there if self._limit is None else min(there, self._limit)

    def __iter__(self) -> Iterator[Frame]:
        start, read = Fraction(self.start), 0
        for picture in islice(_on_screen(self._source.shown(start), start, self.rate), self._limit):
            yield picture()
            read += 1
        if read < (self.frames or 1):
            there = f"has {read} frames at {float(self.rate):g} fps from {self.start:g} s on"
            raise VideoError(f"{self.path}: {there}, not {self.frames or 'one'}")

    def read(self) -> Video:
        """All its frames, in memory."""
        return Video(np.stack(list(self)), self.rate, self.audio)

    @property
    def _limit(self) -> int | None:
        if self.duration is None:
            return self.frames
        return max(1, round(Fraction(self.duration) * self.rate))


_LONGEST = 10_000_000  # seconds: beyond four months, the clocks of containers overflow
_SLOWEST, _FASTEST = Fraction(1, 100), 1000  # Hz


def ratio(fps: Fraction | float) -> Fraction:
    """A rate as FFmpeg can hold it: 29.97 becomes 2997/100."""
    return Fraction(fps).limit_denominator(1001)


def _on_screen(shown: Shown, start: Fraction, rate: Fraction) -> Iterator[Picture]:
    """The pictures on screen at start, start + 1 / rate, ... until the last one has gone."""
    now = start
    for (_, picture), (until, _) in pairwise(shown):
        while now < until:
            yield picture
            now += 1 / rate
