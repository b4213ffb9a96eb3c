"""Video out: films with sound, animations, folders of images. Frames pass through one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain, islice
from os import W_OK, access
from os.path import lexists
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from numpy.typing import NDArray
from PIL import Image

from anyv2v.drafts import check_replaceable, draft, named
from anyv2v.errors import OutputError, VideoError
from anyv2v.film import Film, heard, seek
from anyv2v.picture import Frame, reading
from anyv2v.video import AudioTrack, ratio

__all__ = ["check_output", "write"]


def write(
    path: Path | str,
    frames: Iterable[Frame],
    fps: Fraction | float,
    audio: AudioTrack | None = None,
    *,
    overwrite: bool = False,
    crf: int | None = None,
) -> Path:
    """Write frames of one size, taking them one by one, in the format that the suffix of the path names.

    .mp4: H.264, bt709, odd sizes grown by a pixel; of high quality, unless ``crf`` (0 to 51, larger is
    smaller and worse) says otherwise; ``audio`` is cut to the frames' length.
    .gif, .webp: endless animations, without sound; a WebP stays in memory until it is whole.
    No suffix: a folder of 00000.png, 00001.png, ... without sound.

    The output takes its name only when it is whole. Raises OutputError, see ``check_output``, and VideoError
    if there are no frames.
    """
    path, rest = check_output(path, overwrite=overwrite), iter(frames)
    first = list(islice(rest, 1))
    if not first:
        raise VideoError(f"{path}: there are no frames to write")
    frames = chain(first, rest)
    with draft(path, overwrite=overwrite) as temporary:
        if path.suffix:
            _encode(temporary, frames, ratio(fps), audio, {} if crf is None else {"crf": str(crf)})
        else:
            _write_stills(temporary, frames)
    return path


def check_output(path: Path | str, *, overwrite: bool = False) -> Path:
    """The path, if ``write`` can write there: to be asked before hours of work.

    Raises OutputError for an unknown suffix, a folder that is missing or read-only, and for what exists
    already, unless ``overwrite``; a folder that holds anything but frames is never overwritten.
    """
    path = named(path)
    if path.suffix and path.suffix.lower() not in _FORMATS:
        raise OutputError(f"{path}: unknown suffix; use {' '.join(_FORMATS)} or none, for a folder of PNG")
    if not path.parent.is_dir():
        raise OutputError(f"{path}: there is no folder {path.parent}")
    if not access(path.parent, W_OK):
        raise OutputError(f"{path}: the folder {path.parent} is read-only")
    if lexists(path):
        check_replaceable(path, overwrite, folder=not path.suffix)
    return path


def _write_stills(folder: Path, frames: Iterable[Frame]) -> None:
    folder.mkdir()
    for k, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{k:05}.png")


def _encode(
    path: Path, frames: Iterator[Frame], fps: Fraction, audio: AudioTrack | None, more: Mapping[str, str]
) -> None:
    kind = _FORMATS[path.suffix.lower()]
    pictures = map(kind.picture, frames)
    first = next(pictures)
    with av.open(path, "w", options=kind.container_options) as container:
        stream = container.add_stream(kind.codec, rate=fps, options={**kind.codec_options, **more})
        stream.width, stream.height, stream.pix_fmt = first.width, first.height, first.format.name
        sound = _Sound(container, audio) if audio and kind.sounds else None
        for k, picture in enumerate(chain([first], pictures)):
            picture.pts, picture.time_base = k, 1 / fps
            container.mux(stream.encode(picture))
            if sound:
                container.mux(sound.until((k + 1) / fps))
        container.mux(stream.encode(None))
        if sound:
            container.mux(sound.stream.encode(None))


def _yuv(frame: Frame) -> Any:
    height, width, _ = frame.shape
    even = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")  # chroma has half the size
    return av.VideoFrame.from_ndarray(even).reformat(
        format="yuv420p",
        dst_colorspace=Colorspace.ITU709,
        dst_color_range=ColorRange.MPEG,
        interpolation=Interpolation.BICUBIC | Interpolation.ACCURATE_RND,
        threads=1,
    )


def _paletted(frame: Frame) -> Any:
    """Dithered to 256 colours of its own."""
    image = Image.fromarray(frame)
    colours = image.quantize(256, Image.Quantize.FASTOCTREE)
    dithered = image.quantize(palette=colours, dither=Image.Dither.FLOYDSTEINBERG)
    palette = np.full((256, 4), 255, np.uint8)  # ARGB
    listed = np.reshape(dithered.getpalette() or [], (-1, 3))
    palette[: len(listed), 1:] = listed
    return av.VideoFrame.from_ndarray((np.asarray(dithered), palette), format="pal8")


def _bgra(frame: Frame) -> Any:
    return av.VideoFrame.from_ndarray(frame).reformat(format="bgra")


@dataclass(frozen=True)
class _Format:
    codec: str
    picture: Callable[[Frame], Any]
    codec_options: dict[str, str] = field(default_factory=dict)
    container_options: dict[str, str] = field(default_factory=dict)
    sounds: bool = False


_BT709 = {"colorspace": "bt709", "color_primaries": "bt709", "color_trc": "bt709", "color_range": "tv"}
_FORMATS = {
    ".mp4": _Format("libx264", _yuv, {"crf": "17", **_BT709}, {"movflags": "+faststart"}, sounds=True),
    ".gif": _Format("gif", _paletted),
    ".webp": _Format("libwebp_anim", _bgra, {"quality": "90"}, {"loop": "0"}),
}


# -- sound

_RATE = 48_000  # Hz
_JITTER = _RATE // 200  # samples: containers round the times of sound, and a true gap is longer


class _Sound:
    """The sound of a film that is being written, kept level with its pictures: AAC, 48 kHz, stereo."""

    def __init__(self, container: Any, track: AudioTrack) -> None:
        self.stream = container.add_stream("aac", rate=_RATE, layout="stereo", bit_rate=192_000)
        self.duration = track.duration
        self.blocks = _samples(track)
        self.ready = np.zeros((2, 0), np.float32)
        self.done = 0

    def until(self, seconds: Fraction) -> list[Any]:
        """Packets that bring the sound to so many seconds."""
        if self.duration is not None:
            seconds = min(seconds, Fraction(self.duration))
        samples = self._take(round(seconds * _RATE) - self.done)
        if not samples.size:
            return []
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout="stereo")
        frame.rate, frame.pts, frame.time_base = _RATE, self.done, Fraction(1, _RATE)
        self.done += samples.shape[1]
        return list(self.stream.encode(frame))

    def _take(self, n: int) -> NDArray[np.float32]:
        """The next n samples [2, n], fewer at the end of the file."""
        while self.ready.shape[1] < n and (block := next(self.blocks, None)) is not None:
            self.ready = np.concatenate([self.ready, block], axis=1)
        taken, self.ready = np.split(self.ready, [n], axis=1)
        return taken


def _samples(track: AudioTrack) -> Iterator[NDArray[np.float32]]:
    """Samples [2, n] from the track's start to the end of the file, with silence in its gaps."""
    start = Film(Path(track.path)).origin + Fraction(track.start)
    done = 0
    for time, block in _resampled(Path(track.path), start):
        late = round((time - start) * _RATE) - done
        jitter = _JITTER if done else 0
        if late > jitter:
            block = np.concatenate([np.zeros((2, late), np.float32), block], axis=1)
        elif late < -jitter:  # decoding began before the span
            block = block[:, -late:]
        yield block
        done += block.shape[1]


def _resampled(path: Path, start: Fraction) -> Iterator[tuple[Fraction, NDArray[np.float32]]]:
    """Blocks of samples [2, n] at 48 kHz with their times on the file's clock, from before ``start`` on."""
    resampler = av.AudioResampler(format="fltp", layout="stereo", rate=_RATE)
    with reading(path, "sound", VideoError), av.open(path) as container:
        stream = heard(container)[0]
        seek(container, stream, start - 1)  # decoders need a moment to settle
        for frame in chain(_heard(container, stream), [None]):
            for block in resampler.resample(frame):
                yield block.pts * block.time_base, block.to_ndarray()


def _heard(container: Any, stream: Any) -> Iterator[Any]:
    for packet in container.demux(stream):
        with suppress(av.error.InvalidDataError):  # a glitch in the sound must not cost the pictures
            yield from packet.decode()
