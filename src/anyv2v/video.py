"""Video in: films, animations and folders of images as RGB frames, with their times and their sound.

    clip = Clip("walk.mp4", start=2.0, frames=16, fps=Fraction(8))      # nothing is decoded yet
    fit = Fit(clip.size, Size(512, 512))
    write("out.mp4", map(fit.apply, clip), clip.rate, clip.audio)

Frames pass through one by one: an hour of film costs no more memory than a second.

Not covered: tone mapping of HDR, pixels that are not square, interlacing, mirrored display matrices.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, partial
from io import BytesIO
from itertools import accumulate, count, islice, pairwise
from math import ceil
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import Colorspace, Interpolation
from numpy.typing import NDArray
from PIL import Image, ImageOps

from anyv2v.drafts import draft
from anyv2v.errors import ImageError, OptionError, OutputError, UserError, VideoError

__all__ = [
    "AudioTrack",
    "Clip",
    "Film",
    "Fit",
    "Frame",
    "Size",
    "Video",
    "VideoInfo",
    "check_image_suffix",
    "probe",
    "ratio",
    "read_image",
    "reading",
    "seek",
    "write_image",
]

Frame = NDArray[np.uint8]  # [H, W, 3], RGB, 0..255


@dataclass(frozen=True)
class Size:
    """Width and height in pixels; ``str`` gives "512x320"."""

    width: int
    height: int

    @classmethod
    def parse(cls, text: str) -> Size:
        """The size that "512x320" names. Raises OptionError."""
        if match := re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text.strip().lower()):
            return cls(int(match[1]), int(match[2]))
        raise OptionError(f"size {text!r}: not of the form WIDTHxHEIGHT, as in 512x320")

    @classmethod
    def of(cls, frame: Frame) -> Size:
        """The size of a frame."""
        return cls(frame.shape[1], frame.shape[0])

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


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
    def _source(self) -> Film | _Slides:
        return _source(Path(self.path), None if self.fps is None else ratio(self.fps))

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


def probe(path: Path | str) -> VideoInfo:
    """What the file says about its video. Raises VideoError if it holds none that can be read."""
    return _source(Path(path)).info


# -- images

_IMAGES = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


def read_image(path: Path | str) -> Frame:
    """An image as a viewer shows it: upright (EXIF), transparency on white, 8 bits. Raises ImageError."""
    return _load(Path(path), ImageError)


def write_image(path: Path | str, frame: Frame, *, overwrite: bool = True) -> Path:
    """Write one frame in the format of the suffix. Raises OutputError."""
    path = check_image_suffix(path)
    with draft(path, overwrite=overwrite) as temporary:
        Image.fromarray(frame).save(temporary, quality=95)
    return path


def check_image_suffix(path: Path | str) -> Path:
    """The path, if its suffix names a format of ``write_image``. Raises OutputError."""
    path = Path(path)
    if path.suffix.lower() not in _IMAGES:
        raise OutputError(f"{path}: unknown suffix; use one of {' '.join(sorted(_IMAGES))}")
    return path


def _load(path: Path, error: type[UserError]) -> Frame:
    with reading(path, "image", error), Image.open(path) as image:
        return _rgb(image)


def _rgb(image: Image.Image) -> Frame:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits of grey, which Pillow would clip at 255
        image = Image.fromarray((np.asarray(image).clip(0, 65535) / 257).round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))


# -- reading

# Pictures and the seconds at which they come on; at last the end, with any picture. One turns into RGB when
# it is called, so that a skipped one costs nothing. Times are a tick of the file's clock early: containers
# round, and 66.7 ms may be stored as 67.
_Picture = Callable[[], Frame]
_Shown = Iterator[tuple[Fraction, _Picture]]


def _source(path: Path, fps: Fraction | None = None) -> Film | _Slides:
    if path.is_dir():
        return _stills(path, [p for p in path.iterdir() if p.suffix.lower() in _IMAGES], fps)
    if not path.exists() and re.search(r"[*?\[]", path.name):
        return _stills(path, list(path.parent.glob(path.name)), fps)
    if not path.exists():
        raise VideoError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise VideoError(f"{path}: the file is empty")
    if path.suffix.lower() in _TICKS:
        return _animation(path)
    return _stills(path, [path], fps) if path.suffix.lower() in _IMAGES else Film(path)


def _on_screen(shown: _Shown, start: Fraction, rate: Fraction) -> Iterator[_Picture]:
    """The pictures on screen at start, start + 1 / rate, ... until the last one has gone."""
    now = start
    for (_, picture), (until, _) in pairwise(shown):
        while now < until:
            yield picture
            now += 1 / rate


@contextmanager
def reading(path: Path, kind: str, error: type[UserError]) -> Iterator[None]:
    """Turn what FFmpeg and Pillow raise over a bad file into one line of ours."""
    damage = (av.error.FFmpegError, OSError, EOFError, IndexError, SyntaxError, ValueError)
    try:
        yield
    except (FileNotFoundError, IsADirectoryError, PermissionError) as reason:
        raise error(f"{path}: {str(reason.strerror).lower()}") from reason
    except damage as reason:
        raise error(f"{path}: damaged, or no {kind} at all") from reason


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
                audio=next((s.codec_context.codec.canonical_name for s in container.streams.audio), None),
            )

    @cached_property
    def end(self) -> Fraction | None:
        """When the last picture has gone, by what the container says."""
        with self._opened() as (_, stream):
            length = self._length(stream)
            return length - self._early(stream) if length else None

    def shown(self, start: Fraction) -> _Shown:
        """Pictures from ``start``, or from some time before."""
        for before in (0, 10, start):  # a demuxer may land too late: MPEG-TS, HEVC with open groups
            pictures = self._decoded(start - before)
            first = next(pictures, None)
            if first and first[0] <= start:
                yield first
                break
        yield from pictures

    def _decoded(self, start: Fraction) -> _Shown:
        frame = None
        with self._opened() as (container, stream):
            early = self._early(stream)
            if start > 0:
                seek(container, stream, self.origin + start)
            for frame in container.decode(stream):
                yield self._time(frame) - self.origin - early, partial(_upright_rgb, frame)
            if frame is not None:  # else it was sought past the end
                lasts = frame.duration * stream.time_base or 1 / self.info.fps
                end = self._time(frame) - self.origin + lasts
                self._check_whole(stream, end)
                yield end - early, partial(_upright_rgb, frame)

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


def seek(container: Any, stream: Any, time: Fraction) -> None:
    """Go to the last key frame before ``time``; what cannot seek is read from its beginning."""
    with suppress(av.error.FFmpegError):
        container.seek(time // stream.time_base, stream=stream)


def _upright_rgb(frame: Any) -> Frame:
    """A decoded frame by the colour matrix of its tag, and by the usual guess where it has none.

    The flags ask for interpolated chroma and exact rounding, which come 4 to 6 dB closer to the original.
    """
    guess = Colorspace.ITU709 if frame.height >= 720 else Colorspace.ITU601
    rgb = frame.reformat(
        format="rgb24",
        src_colorspace=guess if frame.colorspace == _UNTAGGED else frame.colorspace,
        interpolation=Interpolation.BILINEAR | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND,
        threads=1,
    )
    return np.ascontiguousarray(np.rot90(rgb.to_ndarray(), frame.rotation // 90))


_UNTAGGED = 2  # AVCOL_SPC_UNSPECIFIED


@dataclass(frozen=True)
class _Slides:
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

    def shown(self, start: Fraction) -> _Shown:  # noqa: ARG002 - there is nothing to seek
        return ((time - self._tick, partial(self.picture, k)) for k, time in enumerate(self.times))

    @property
    def _tick(self) -> Fraction:
        return _TICKS.get(self.path.suffix.lower(), Fraction(0))


_STILLS_FPS = Fraction(8)


def _stills(path: Path, images: list[Path], fps: Fraction | None) -> _Slides:
    """Images in the natural order of their names: 2.png before 10.png."""
    images = sorted((p for p in images if not p.name.startswith(".")), key=_natural)
    if not images:
        raise VideoError(f"{path}: no images there ({' '.join(sorted(_IMAGES))})")
    size = Size.of(_load(images[0], VideoError))

    def picture(k: int) -> Frame:
        frame = _load(images[k], VideoError)
        if Size.of(frame) != size:
            raise VideoError(f"{images[k]}: is {Size.of(frame)}, but the first image is {size}")
        return frame

    fps = _STILLS_FPS if fps is None else fps
    times = [k / fps for k in range(len(images) + 1)]
    return _Slides(path, times, fps, images[0].suffix.lower().lstrip("."), picture)


def _natural(path: Path) -> list[str | int]:
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", path.name)]


# Animations round their times, some writers of WebP downwards.
_TICKS = {".gif": Fraction(1, 100), ".webp": Fraction(1, 500)}


def _animation(path: Path) -> _Slides:
    """A GIF or WebP, by Pillow: FFmpeg guesses the rate of the one and cannot read the other."""
    with reading(path, "video", VideoError):
        image: Any = Image.open(BytesIO(path.read_bytes()))
        durations = [_duration(image, k) for k in range(image.n_frames)]

    def picture(k: int) -> Frame:
        image.seek(k)
        return _rgb(image)

    suffix = path.suffix.lower()
    times = list(accumulate(durations, initial=Fraction(0)))
    return _Slides(path, times, _simplest_rate(times, _TICKS[suffix]), suffix.lstrip("."), picture)


def _duration(image: Any, k: int) -> Fraction:
    image.seek(k)
    image.load()  # only then does Pillow know how long a WebP picture lasts
    return Fraction(image.info.get("duration") or 1000 / _STILLS_FPS) / 1000


def _simplest_rate(times: list[Fraction], tick: Fraction) -> Fraction:
    """The simplest rate that rounds to these times: 8 for pictures at 0, 13, 25 and 38 hundredths."""
    steps, last = len(times) - 2, times[-2]
    if steps == 0:
        return 1 / times[-1]
    low, high = steps / (last + tick / 2), steps / (last - tick / 2)
    return next(Fraction(ceil(low * d), d) for d in count(1) if ceil(low * d) <= high * d)


# -- fitting

_Box = tuple[slice, slice]  # rows, columns


@dataclass(frozen=True)
class Fit:
    """How frames of size ``source`` are laid into ``target``, and how edited ones are laid back.

    crop: the largest centred part of the source that has the target's shape.
    letterbox: the whole source, between black bars.
    stretch: the whole source, distorted.

    Resampled by Lanczos; what has the right size already stays as it is, bit for bit.
    """

    source: Size
    target: Size
    mode: Literal["crop", "letterbox", "stretch"] = "crop"

    def apply(self, frame: Frame) -> Frame:
        """A frame of the source's size, in the target's."""
        laid = np.zeros((self.target.height, self.target.width, 3), np.uint8)
        laid[self._panel] = _resized(frame[self._window], laid[self._panel])
        return laid

    def undo(self, frame: Frame, source_frame: Frame) -> Frame:
        """A frame of the target's size, back in the source's.

        What ``crop`` left out is taken from ``source_frame``; the seam is feathered over a few pixels.
        """
        laid, below = source_frame.copy(), source_frame[self._window]
        above = _resized(frame[self._panel], below).astype(float)
        laid[self._window] = np.rint(below + self._opacity * (above - below))
        return laid

    @cached_property
    def _window(self) -> _Box:
        """The part of the source that is kept."""
        return _inscribed(self.target if self.mode == "crop" else self.source, self.source)

    @cached_property
    def _panel(self) -> _Box:
        """The part of the target that it fills."""
        return _inscribed(self.source if self.mode == "letterbox" else self.target, self.target)

    @cached_property
    def _opacity(self) -> NDArray[np.float64]:
        rows, columns = self._window
        down, across = _feathered(rows, self.source.height), _feathered(columns, self.source.width)
        return np.minimum(down[:, None], across)[:, :, None]


def _inscribed(shape: Size, outer: Size) -> _Box:
    """The largest centred box of this shape inside ``outer``, in whole pixels."""
    scale = min(Fraction(outer.width, shape.width), Fraction(outer.height, shape.height))
    width, height = max(1, round(shape.width * scale)), max(1, round(shape.height * scale))
    top, left = (outer.height - height) // 2, (outer.width - width) // 2
    return slice(top, top + height), slice(left, left + width)


def _resized(frame: Frame, like: Frame) -> Frame:
    return np.asarray(Image.fromarray(frame).resize((like.shape[1], like.shape[0]), Image.Resampling.LANCZOS))


def _feathered(side: slice, whole: int) -> NDArray[np.float64]:
    """Opacity along a side of a box: 1, but rising over a few pixels from an edge inside the picture."""
    length = side.stop - side.start
    rise = np.minimum(np.arange(1, length + 1) / (min(16, length // 8) + 1), 1.0)
    flat = np.ones(length)
    return np.minimum(rise if side.start else flat, rise[::-1] if side.stop < whole else flat)
