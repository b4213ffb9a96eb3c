"""What holds moving pictures: films by FFmpeg, animations and folders of images by Pillow.

Not covered: tone mapping of HDR, pixels that are not square, interlacing, mirrored display matrices.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property, partial
from io import BytesIO
from itertools import accumulate, count, pairwise
from math import ceil
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import Colorspace, Interpolation
from PIL import Image

from anyv2v.errors import VideoError
from anyv2v.picture import IMAGES, Frame, Size, read_image, reading, rgb

__all__ = [
    "Film",
    "Picture",
    "Shown",
    "Slides",
    "VideoInfo",
    "heard",
    "open_source",
    "probe",
    "seek",
    "timed",
]


@dataclass(frozen=True)
class VideoInfo:
    """What a file says about its video."""

    path: Path
    width: int  # of the upright picture
    height: int
    fps: Fraction  # average
    frames: int | None  # by duration and rate; None where the container does not say
    duration: float | None  # seconds
    codec: str
    container: str
    pixel_format: str
    rotation: int = 0  # degrees counterclockwise that set the stored picture upright
    audio: str | None = None  # codec

    @property
    def size(self) -> Size:
        return Size(self.width, self.height)


# Pictures and the seconds at which they come on; at last the end, with any picture. One turns into RGB when
# it is called, so that a skipped one costs nothing. Times are a tick of the file's clock early: containers
# round, and 66.7 ms may be stored as 67.
Picture = Callable[[], Frame]
Shown = Iterator[tuple[Fraction, Picture]]


def open_source(path: Path, fps: Fraction | None = None) -> Film | Slides:
    """What is at a path, by its suffix; ``fps`` is the rate of images, which have none."""
    if path.is_dir():
        return _stills(path, [p for p in path.iterdir() if p.suffix.lower() in IMAGES], fps)
    if not path.exists() and re.search(r"[*?\[]", path.name):
        return _stills(path, list(path.parent.glob(path.name)), fps)
    if not path.exists():
        raise VideoError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise VideoError(f"{path}: the file is empty")
    if path.suffix.lower() in _TICKS:
        return _animation(path)
    return _stills(path, [path], fps) if path.suffix.lower() in IMAGES else Film(path)


def probe(path: Path | str) -> VideoInfo:
    """What the file says about its video. Raises VideoError if it holds none that can be read."""
    return open_source(Path(path)).info


def timed(info: VideoInfo) -> VideoInfo:
    """The same with its length, for which a film is gone through if its container does not say."""
    if info.duration is not None:
        return info
    seconds = Film(info.path).walked()
    return replace(info, duration=float(seconds) or None, frames=round(seconds * info.fps) or None)


class Film:
    """A video file, by FFmpeg."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def info(self) -> VideoInfo:
        first = self._first
        width, height = (first.width, first.height)[:: -1 if first.rotation % 180 else 1]
        with self._opened() as (container, stream):
            fps = Fraction(stream.average_rate or stream.guessed_rate)
            length = self._length(stream)
            return VideoInfo(
                path=self.path,
                width=width,
                height=height,
                fps=fps,
                frames=round(length * fps) or None,
                duration=float(length) or None,
                codec=stream.codec_context.codec.canonical_name,
                container=container.format.name,
                pixel_format=first.format.name,
                rotation=first.rotation % 360,
                audio=next((s.codec_context.codec.canonical_name for s in heard(container)), None),
            )

    @cached_property
    def end(self) -> Fraction | None:
        """When the last picture has gone, by what the container says."""
        with self._opened() as (_, stream):
            length = self._length(stream)
            return length - self._early(stream) if length else None

    def walked(self) -> Fraction:
        """Seconds by the times of all its packets, none of which is decoded."""
        with self._opened() as (container, stream):
            ends = [
                (packet.pts + (packet.duration or 0)) * stream.time_base
                for packet in container.demux(stream)
                if packet.pts is not None
            ]
        return Fraction(max([self.origin, *ends]) - self.origin)

    def shown(self, start: Fraction) -> Shown:
        """Pictures from ``start``, or from some time before."""
        for before in (0, 10, start):  # a demuxer may land too late: MPEG-TS, HEVC with open groups
            pictures = self._decoded(start - before)
            first = next(pictures, None)
            if first and first[0] <= start:
                yield first
                break
        yield from pictures

    def _decoded(self, start: Fraction) -> Shown:
        frame = None
        with self._opened() as (container, stream):
            early = self._early(stream)
            if start > 0:
                seek(container, stream, self.origin + start)
            for frame in container.decode(stream):
                yield self._time(frame) - self.origin - early, partial(_upright_rgb, frame, self._first)
            if frame is not None:  # else it was sought past the end
                lasts = frame.duration * stream.time_base or 1 / self.info.fps
                end = self._time(frame) - self.origin + lasts
                self._check_whole(stream, end)
                yield end - early, partial(_upright_rgb, frame, self._first)

    def _early(self, stream: Any) -> Fraction:
        return Fraction(min(stream.time_base, 1 / (4 * self.info.fps)))  # some clocks tick but once a picture

    def _check_whole(self, stream: Any, end: Fraction) -> None:
        """A file whose tail is missing may end without an error: hold it to its index, or its tag."""
        promised = stream.frames or "DURATION" in stream.metadata
        length = self._track_length(stream)
        if promised and length and end < length - 3 / self.info.fps:
            raise VideoError(f"{self.path}: truncated after {float(end):.2f} of {float(length):.2f} s")

    def _length(self, stream: Any) -> Fraction:
        """Seconds, 0 where nothing is said; a container counts its longest stream, which may be the sound."""
        return self._track_length(stream) or Fraction(stream.container.duration or 0, av.time_base)

    def _track_length(self, stream: Any) -> Fraction | None:
        if "DURATION" in stream.metadata:  # Matroska: the end, as hours:minutes:seconds
            hours, minutes, seconds = map(Fraction, stream.metadata["DURATION"].split(":"))
            return hours * 3600 + minutes * 60 + seconds - self.origin
        return stream.duration * stream.time_base if stream.duration else None

    @cached_property
    def origin(self) -> Fraction:
        """The time of the first picture on the file's own clock, in seconds."""
        return self._time(self._first)

    @cached_property
    def _first(self) -> Any:
        with self._opened() as (container, stream):
            for frame in container.decode(stream):
                return frame
        raise VideoError(f"{self.path}: its video stream is empty")

    def _time(self, frame: Any) -> Fraction:
        if frame.pts is None:
            raise VideoError(f"{self.path}: its pictures carry no times; put them into an mp4 or mkv")
        return Fraction(frame.pts * frame.time_base)

    @contextmanager
    def _opened(self) -> Iterator[tuple[Any, Any]]:
        """The container and its video stream, which the cover of an album is not."""
        with reading(self.path, "video", VideoError), av.open(self.path) as container:
            streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
            if not streams:
                raise VideoError(f"{self.path}: has no video stream")
            streams[0].thread_type = "AUTO"
            yield container, streams[0]


def heard(container: Any) -> list[Any]:
    """Its tracks of sound that there is a decoder for."""
    return [stream for stream in container.streams.audio if stream.codec_context]


def seek(container: Any, stream: Any, time: Fraction) -> None:
    """Go to the last key frame before ``time``; what cannot seek is read from its beginning."""
    with suppress(av.error.FFmpegError):
        container.seek(time // stream.time_base, stream=stream)


def _upright_rgb(frame: Any, first: Any) -> Frame:
    """A decoded frame by the colour matrix of its tag, and by the usual guess where it has none.

    It has the size of the film's first, as players show it: what is recorded live may change its own.

    The flags ask for interpolated chroma and exact rounding, which come 4 to 6 dB closer to the original.
    """
    guess = Colorspace.ITU709 if frame.height >= 720 else Colorspace.ITU601
    rgb = frame.reformat(
        width=first.width,
        height=first.height,
        format="rgb24",
        src_colorspace=guess if frame.colorspace == _UNTAGGED else frame.colorspace,
        interpolation=Interpolation.BILINEAR | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND,
        threads=1,
    )
    return np.ascontiguousarray(np.rot90(rgb.to_ndarray(), frame.rotation // 90))


_UNTAGGED = 2  # AVCOL_SPC_UNSPECIFIED


@dataclass(frozen=True)
class Slides:
    """Pictures that Pillow reads; ``times`` says when each comes on, and at last the end."""

    path: Path
    times: list[Fraction]
    fps: Fraction
    codec: str
    picture: Callable[[int], Frame]

    @cached_property
    def info(self) -> VideoInfo:
        size, frames, duration = Size.of(self.picture(0)), len(self.times) - 1, float(self.times[-1])
        kind = self.path.suffix.lower().lstrip(".") or "folder"
        return VideoInfo(
            self.path, size.width, size.height, self.fps, frames, duration, self.codec, kind, "rgb24"
        )

    @property
    def end(self) -> Fraction:
        return self.times[-1] - self._tick

    def shown(self, start: Fraction) -> Shown:  # noqa: ARG002 - there is nothing to seek
        return ((time - self._tick, partial(self.picture, k)) for k, time in enumerate(self.times))

    @property
    def _tick(self) -> Fraction:
        return min(_TICKS.get(self.path.suffix.lower(), Fraction(0)), 1 / (4 * self.fps))


_STILLS_FPS = Fraction(8)


def _stills(path: Path, images: list[Path], fps: Fraction | None) -> Slides:
    """Images in the natural order of their names: 2.png before 10.png."""
    images = sorted((p for p in images if not p.name.startswith(".")), key=_natural)
    if not images:
        raise VideoError(f"{path}: no images there ({' '.join(sorted(IMAGES))})")
    size = Size.of(read_image(images[0], VideoError))

    def picture(k: int) -> Frame:
        frame = read_image(images[k], VideoError)
        if Size.of(frame) != size:
            raise VideoError(f"{images[k]}: is {Size.of(frame)}, but the first image is {size}")
        return frame

    fps = _STILLS_FPS if fps is None else fps
    times = [k / fps for k in range(len(images) + 1)]
    return Slides(path, times, fps, images[0].suffix.lower().lstrip("."), picture)


def _natural(path: Path) -> list[str | int]:
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", path.name)]


# Animations round their times, some writers of WebP downwards.
_TICKS = {".gif": Fraction(1, 100), ".webp": Fraction(1, 500)}


def _animation(path: Path) -> Slides:
    """A GIF or WebP, by Pillow: FFmpeg guesses the rate of the one and cannot read the other."""
    with reading(path, "video", VideoError):
        image: Any = Image.open(BytesIO(path.read_bytes()))
        durations = [_duration(image, k) for k in range(image.n_frames)]

    def picture(k: int) -> Frame:
        image.seek(k)
        return rgb(image)

    suffix = path.suffix.lower()
    times = list(accumulate(durations, initial=Fraction(0)))
    return Slides(path, times, _simplest_rate(times, _TICKS[suffix]), suffix.lstrip("."), picture)


def _duration(image: Any, k: int) -> Fraction:
    image.seek(k)
    image.load()  # only then does Pillow know how long a WebP picture lasts
    return Fraction(image.info.get("duration") or 1000 / _STILLS_FPS) / 1000


def _simplest_rate(times: list[Fraction], tick: Fraction) -> Fraction:
    """The simplest rate that rounds to these times: 8 for pictures at 0, 13, 25 and 38 hundredths."""
    gaps = {after - before for before, after in pairwise(times)}
    steps, last = len(times) - 2, times[-2]
    if steps == 0 or last <= tick / 2 or (len(gaps) == 1 and (min(gaps) / tick).denominator == 1):
        return (steps + 1) / times[-1]  # nothing was rounded, or more than there is
    low, high = steps / (last + tick / 2), steps / (last - tick / 2)
    return next(Fraction(ceil(low * d), d) for d in count(1) if ceil(low * d) <= high * d)
