"""The studio's own folder: what people brought, named by its content, and what was made of it.

    clips/ID.mp4  clips/ID.json       a clip, and what is known of it
    images/ID.png images/ID.json      a picture, written anew: upright, 8 bits, no hidden data
    looks/ID/                         thumbnails, first frames, a playable copy of a clip: made when asked for
    jobs/ID/                          what a job made
    incoming/                         what is still arriving

No name that a client gives is ever part of a path, and an id that a client gives only if it looks like ours.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import time
import unicodedata
from collections.abc import Iterator, Set
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

import av
import numpy as np
from PIL import Image, ImageOps

from anyv2v.cache import touch
from anyv2v.drafts import draft
from anyv2v.errors import ImageError, OptionError, OutputError, VideoError
from anyv2v.film import VideoInfo, probe, timed
from anyv2v.picture import Fit, Frame, Size, reading, write_image
from anyv2v.studio.limits import Limits, TooLarge, TooSlow, Unknown
from anyv2v.video import Clip
from anyv2v.writing import write

__all__ = [
    "ClipFacts",
    "ImageFacts",
    "Shelf",
    "Thumbnail",
    "cleaned",
    "remove",
    "small",
    "studio_folder",
    "watchable",
]

ID = re.compile(r"[0-9a-f]{32}")
JOB = re.compile(r"[A-Za-z0-9_-]{16}")
CHUNK = 1 << 20

# FFmpeg's name of a container, and ours. What points to other files, as a playlist does, is not among them.
CONTAINERS = {
    "mov,mp4,m4a,3gp,3g2,mj2": "mp4",
    "matroska,webm": "mkv",
    "avi": "avi",
    "mpegts": "ts",
    "mpeg": "mpg",
    "flv": "flv",
    "asf": "wmv",
    "ogg": "ogv",
}
ANIMATIONS = {"GIF": "gif", "WEBP": "webp"}
PICTURES = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
PLAYABLE = {("mp4", "h264", "yuv420p"), ("mkv", "vp9", "yuv420p"), ("mkv", "vp8", "yuv420p")}

ANIMATED_PIXELS = 4_000_000_000  # of all pictures of an animation, which is decoded whole to know its times
ANIMATED_BYTES = 50_000_000
LOOK_SIDE = 960  # pixels of the longer side of a playable copy
STRIP_HEIGHT = 96
WHOLE = 300  # frames of a clip that is read faster than it is searched
DAY = 86400.0


@dataclass(frozen=True)
class ImageFacts:
    """A picture on the shelf: its id, the name that its owner gave it, its size."""

    id: str
    name: str
    width: int
    height: int
    bytes: int

    @property
    def size(self) -> str:
        """As "512x320"."""
        return f"{self.width}x{self.height}"


@dataclass(frozen=True)
class ClipFacts(ImageFacts):
    """A clip on the shelf; ``frames`` and ``seconds`` are None where nothing in its file says them."""

    fps: float
    frames: int | None
    seconds: float | None
    audio: bool
    kind: str


@dataclass(frozen=True)
class Thumbnail:
    """A small picture of a clip at a time."""

    seconds: float
    file: Path


@dataclass(frozen=True)
class Shelf:
    """The folder.

    Attributes:
        folder: Where it is.
        limits: What it takes in.
    """

    folder: Path
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        for name in ("clips", "images", "looks", "jobs", "incoming"):
            try:
                (self.folder / name).mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise OutputError(f"{self.folder / name}: cannot be made: {error.strerror}") from error

    # -- in

    @contextmanager
    def incoming(self) -> Iterator[Incoming]:
        """A file that arrives in pieces; it is gone at the end, unless it was taken in."""
        arriving = Incoming(self.folder / "incoming" / uuid4().hex, self.limits)
        try:
            with arriving:
                yield arriving
        finally:
            arriving.file.unlink(missing_ok=True)

    def add_clip(self, source: Path | IO[bytes], name: str) -> ClipFacts:
        """Take in a clip.

        Args:
            source: A file; it is copied.
            name: What its owner calls it.

        Raises:
            UserError: It is no video that can be edited here, or too large.
        """
        with self.incoming() as arriving:
            arriving.copy(source)
            return self.take_clip(arriving, name)

    def take_clip(self, arrived: Incoming, name: str) -> ClipFacts:
        """The same of a file that has arrived."""
        arrived.close()
        shown = cleaned(name) or "clip"
        kind = _kind_of(arrived.file, shown, self.limits)
        suffixed = arrived.file.rename(arrived.file.with_suffix(f".{kind}"))  # which says who reads it
        try:
            facts = self._facts(timed(probe(suffixed)), arrived, shown, kind)
            suffixed.replace(self._file("clips", facts.id, kind))
        except VideoError as error:
            raise VideoError(str(error).replace(str(suffixed), shown)) from error
        finally:
            suffixed.unlink(missing_ok=True)
        self._note("clips", facts)
        return facts

    def _facts(self, info: VideoInfo, arrived: Incoming, name: str, kind: str) -> ClipFacts:
        self.limits.check_size(name, info.width, info.height)
        self.limits.check_length(name, info.duration)
        return ClipFacts(
            id=arrived.id,
            name=name,
            width=info.width,
            height=info.height,
            bytes=arrived.count,
            fps=float(info.fps),
            frames=info.frames,
            seconds=info.duration,
            audio=info.audio is not None,
            kind=kind,
        )

    def add_image(self, source: Path | IO[bytes], name: str) -> ImageFacts:
        """Take in a picture. Raises UserError for what is none, or too large."""
        with self.incoming() as arriving:
            arriving.copy(source)
            return self.take_image(arriving, name)

    def take_image(self, arrived: Incoming, name: str) -> ImageFacts:
        """The same of a file that has arrived."""
        arrived.close()
        shown = cleaned(name) or "picture"
        picture = _picture(arrived.file, shown, self.limits)
        facts = ImageFacts(arrived.id, shown, picture.width, picture.height, arrived.count)
        with draft(self._file("images", facts.id, "png"), overwrite=True) as temporary:
            picture.save(temporary, format="PNG")
        self._note("images", facts)
        return facts

    def _note(self, room: str, facts: ImageFacts) -> None:
        with draft(self._file(room, facts.id, "json"), overwrite=True) as temporary:
            temporary.write_text(json.dumps(asdict(facts)), encoding="utf-8")

    # -- out

    def clip(self, name: str) -> ClipFacts:
        """What is known of a clip, which is in use, then. Raises Unknown."""
        facts = ClipFacts(**self._noted("clips", name, "clip"))
        touch(self._file("clips", name, facts.kind))
        return facts

    def image(self, name: str) -> ImageFacts:
        """What is known of a picture, which is in use, then. Raises Unknown."""
        facts = ImageFacts(**self._noted("images", name, "picture"))
        touch(self._file("images", name, "png"))
        return facts

    def _noted(self, room: str, name: str, what: str) -> dict[str, Any]:
        file = self._file(room, name, "json")
        with suppress(OSError):
            if ID.fullmatch(name):
                noted = dict(json.loads(file.read_text(encoding="utf-8")))
                touch(file)
                return noted
        raise Unknown(f"there is no such {what}; it may have been cleared away, so bring it again")

    def clip_file(self, name: str) -> Path:
        """The file of a clip. Raises Unknown."""
        return self._file("clips", name, self.clip(name).kind)

    def image_file(self, name: str) -> Path:
        """The file of a picture, a PNG. Raises Unknown."""
        return self._file("images", self.image(name).id, "png")

    def job_folder(self, name: str) -> Path:
        """Where a job's results are, or will be. Raises Unknown."""
        if not JOB.fullmatch(name):
            raise Unknown("there is no such job; it may have been removed")
        return self.folder / "jobs" / name

    def _file(self, room: str, name: str, suffix: str) -> Path:
        return self.folder / room / f"{name}.{suffix}"

    # -- looks

    def first_frame(self, name: str, start: float = 0.0) -> Path:
        """The picture at ``start`` seconds, of the clip's own size, as PNG. Raises UserError."""
        file = self._look(name, f"frame-{round(start * 1000)}.png")
        if not file.exists():
            write_image(file, self._at(name, start), overwrite=True)
        return file

    def strip(self, name: str, count: int = 12) -> list[Thumbnail]:
        """Small pictures, evenly spread over a clip. Raises UserError."""
        facts = self.clip(name)
        length = facts.seconds or 1 / facts.fps
        thumbnails = [
            Thumbnail(length * k / count, self._look(name, f"strip-{count}-{k}.jpg")) for k in range(count)
        ]
        if not thumbnails[-1].file.exists():
            short = (facts.frames or 0) <= WHOLE
            for thumbnail, frame in zip(thumbnails, self._spread(name, thumbnails, short), strict=False):
                write_image(thumbnail.file, small(frame, STRIP_HEIGHT), overwrite=True)
        return [thumbnail for thumbnail in thumbnails if thumbnail.file.exists()]

    def _spread(self, name: str, wanted: list[Thumbnail], short: bool) -> Iterator[Frame]:
        """The pictures at these times: of a short clip in one go, in a long one each is sought."""
        if short and len(wanted) > 1:
            yield from Clip(self.clip_file(name), fps=1 / wanted[1].seconds)
        else:
            yield from (self._at(name, thumbnail.seconds) for thumbnail in wanted)

    def film(self, name: str) -> Path:
        """The clip as a browser plays it: itself, or a copy that is made once. Raises UserError."""
        facts, original = self.clip(name), self.clip_file(name)
        info = probe(original)
        if (facts.kind, info.codec, info.pixel_format) in PLAYABLE and not info.rotation:
            return original
        file = self._look(name, "film.mp4")
        if not file.exists():
            clip = Clip(original, duration=facts.seconds or self.limits.seconds)
            write(file, map(watchable(clip.size), clip), clip.rate, clip.audio, overwrite=True, crf=23)
        return file

    def _look(self, name: str, file: str) -> Path:
        folder = self.folder / "looks" / self.clip(name).id
        folder.mkdir(exist_ok=True)
        return folder / file

    def _at(self, name: str, seconds: float) -> Frame:
        facts = self.clip(name)
        try:
            return next(iter(Clip(self.clip_file(name), start=seconds)))
        except VideoError as error:
            raise VideoError(self.spoken(str(error), facts)) from error

    def spoken(self, message: str, *facts: ImageFacts) -> str:
        """A message with people's own names for their files, and no place of this machine."""
        for fact in facts:
            message = re.sub(rf"\S*{fact.id}\.\w+", fact.name.replace("\\", ""), message)
        return message.replace(f"{self.folder}/", "")

    # -- order

    def clean(self, used: Set[str], jobs: Set[str], older: float = DAY) -> list[Path]:
        """Remove what nobody needs any more.

        Args:
            used: Ids of clips and pictures that jobs need.
            jobs: Ids of the jobs there are.
            older: Seconds without any use after which the rest goes.

        Returns:
            What was removed.
        """
        before = time.time() - older
        gone = [path for path in (self.folder / "jobs").iterdir() if path.name not in jobs]
        for room in ("clips", "images", "looks", "incoming"):
            gone += [path for path in (self.folder / room).iterdir() if path.stem not in used]
        gone = [path for path in gone if _changed(path) < before]
        for path in gone:
            remove(path)
        return gone


def _changed(path: Path) -> float:
    """When it was last changed or used; infinity of what another process has just removed."""
    try:
        return path.lstat().st_mtime
    except OSError:
        return math.inf


def remove(path: Path) -> None:
    """Remove a file or a folder; what another process has removed is gone already."""
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


class Incoming:
    """A file that arrives.

    Attributes:
        file: Where it is.
        count: Bytes that have arrived.
        id: The name of what has arrived.
    """

    def __init__(self, file: Path, limits: Limits) -> None:
        self.file, self.count = file, 0
        self._limits, self._until = limits, time.monotonic() + limits.upload_seconds
        self._digest = hashlib.sha256()
        self._stream = file.open("xb")

    def __enter__(self) -> Incoming:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def id(self) -> str:
        return self._digest.hexdigest()[:32]

    def take(self, piece: bytes) -> None:
        """Take the next piece. Raises TooLarge, TooSlow, OutputError."""
        self.count += len(piece)
        self._limits.check_bytes(self.count)
        if time.monotonic() > self._until:
            raise TooSlow(f"the file did not arrive within {self._limits.upload_seconds:g} s")
        self._digest.update(piece)
        try:
            self._stream.write(piece)
        except OSError as error:
            raise OutputError(f"the file cannot be kept: {error.strerror}") from error

    def copy(self, source: Path | IO[bytes]) -> None:
        """Take all of a file. Raises as ``take``, and OptionError for a file that cannot be read."""
        if not isinstance(source, Path):
            while piece := source.read(CHUNK):
                self.take(piece)
            return
        try:
            with source.open("rb") as stream:
                self.copy(stream)
        except OSError as error:
            raise OptionError(f"{source}: {str(error.strerror).lower()}") from error

    def close(self) -> None:
        """Nothing more will come."""
        self._stream.close()


def small(frame: Frame, height: int) -> Frame:
    """A frame, made so high at most."""
    size = Size.of(frame)
    if size.height <= height:
        return frame
    return Fit(size, Size(max(1, round(size.width * height / size.height)), height), "stretch").apply(frame)


def watchable(size: Size) -> Any:
    """What makes frames of a size small enough for a player, whose sides are even."""
    scale = min(1.0, LOOK_SIDE / max(size.width, size.height))
    even = Size(*(max(2, 2 * round(side * scale / 2)) for side in (size.width, size.height)))
    return Fit(size, even, "stretch").apply


def studio_folder() -> Path:
    """``ANYV2V_STUDIO``, else ``anyv2v/studio`` in the user's folder of data."""
    if named := os.environ.get("ANYV2V_STUDIO"):
        return Path(named)
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local" / "share") / "anyv2v" / "studio"


def cleaned(name: str) -> str:
    """A name to show: its last part, without what does not print, of 80 letters at most."""
    last = re.split(r"[/\\]", name)[-1]
    printing = "".join(c for c in unicodedata.normalize("NFC", last) if unicodedata.category(c)[0] != "C")
    return " ".join(printing.split())[:80].strip(". ")


def _kind_of(file: Path, name: str, limits: Limits) -> str:
    """What a file is, whatever it is called; its declared size is seen before anything is decoded."""
    try:
        with _declared(name), Image.open(file, formats=list(ANIMATIONS)) as image:
            return _animation(image, name, limits)
    except (OSError, ValueError, EOFError, SyntaxError):  # it is none
        return _film(file, name, limits)


@contextmanager
def _declared(name: str) -> Iterator[None]:
    """Refuse what declares more pixels than Pillow opens. Raises TooLarge."""
    try:
        yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooLarge(f"{name} declares more pixels than there may be") from error


def _animation(image: Any, name: str, limits: Limits) -> str:
    limits.check_size(name, *image.size)
    if Path(image.filename).stat().st_size > ANIMATED_BYTES:  # even to count its pictures would take long
        raise TooLarge(f"{name} is an animation of more than {ANIMATED_BYTES / 1e6:g} MB; make it a film")
    if image.width * image.height * image.n_frames > ANIMATED_PIXELS:
        raise TooLarge(f"{name} has {image.n_frames} pictures of {image.width}x{image.height}: take fewer")
    return ANIMATIONS[image.format]


def _film(file: Path, name: str, limits: Limits) -> str:
    """The container of a film that FFmpeg knows and that holds all of itself."""
    with _reading(file, name), av.open(file, options=ALLOWED) as container:
        streams = container.streams.video
        if not streams:
            raise VideoError(f"{name}: has no video stream")
        for stream in streams:
            limits.check_size(name, stream.codec_context.width, stream.codec_context.height)
        limits.check_length(name, container.duration and container.duration / av.time_base)
        _check_first(container, streams[0], limits)
        return CONTAINERS[container.format.name]


ALLOWED = {"format_whitelist": ",".join(CONTAINERS), "protocol_whitelist": "file"}


def _check_first(container: Any, stream: Any, limits: Limits) -> None:
    """Decode the first picture under a guard: what a stream holds may be larger than its container says."""
    stream.codec_context.options = {"max_pixels": str(limits.side**2)}
    next(container.decode(stream), None)


@contextmanager
def _reading(file: Path, name: str) -> Iterator[None]:
    try:
        with reading(file, "video", VideoError):
            yield
    except VideoError as error:
        raise VideoError(str(error).replace(str(file), name)) from error


def _picture(file: Path, name: str, limits: Limits) -> Any:
    """A picture as a viewer shows it, transparent where it is."""
    try:
        with (
            reading(file, "picture", ImageError),
            _declared(name),
            Image.open(file, formats=PICTURES) as image,
        ):
            limits.check_size(name, *image.size)
            return _plain(ImageOps.exif_transpose(image))
    except ImageError as error:
        raise ImageError(str(error).replace(str(file), name)) from error


def _plain(image: Any) -> Any:
    """Of 8 bits, without a profile, a text or a second picture."""
    if image.mode.startswith("I"):  # 16 bits of grey, which Pillow would clip at 255
        return Image.fromarray((np.asarray(image).clip(0, 65535) / 257).round().astype(np.uint8)).convert(
            "RGB"
        )
    plain = image.convert("RGBA" if image.has_transparency_data else "RGB")
    plain.info.clear()
    return plain
