"""One picture: its size, its files, and how it is laid into another size."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Literal

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from anyv2v.drafts import draft
from anyv2v.errors import ImageError, OptionError, OutputError, UserError

__all__ = [
    "IMAGES",
    "Fit",
    "Frame",
    "Size",
    "check_image_suffix",
    "read_image",
    "reading",
    "rgb",
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

    def is_of_shape(self, other: Size, slack: float = 1) -> bool:
        """Whether one is the other scaled, but for so many of the larger one's pixels."""
        largest = max(self.width, self.height, other.width, other.height)
        return abs(self.width * other.height - self.height * other.width) <= slack * largest

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


IMAGES = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


def read_image(path: Path | str, error: type[UserError] = ImageError) -> Frame:
    """An image as a viewer shows it: upright (EXIF), transparency on white, 8 bits. Raises ``error``."""
    with reading(Path(path), "image", error), Image.open(path) as image:
        return rgb(image)


def write_image(path: Path | str, frame: Frame, *, overwrite: bool = False) -> Path:
    """Write one frame in the format of the suffix. Raises OutputError; also if the file exists already."""
    path = check_image_suffix(path)
    with draft(path, overwrite=overwrite) as temporary:
        try:
            Image.fromarray(frame).save(temporary, quality=95)
        except ValueError as reason:  # a WebP has at most 16383 pixels a side
            raise OSError(str(reason)) from reason
    return path


def check_image_suffix(path: Path | str) -> Path:
    """The path, if its suffix names a format of ``write_image``. Raises OutputError."""
    path = Path(path)
    if path.suffix.lower() not in IMAGES:
        raise OutputError(f"{path}: unknown suffix; use one of {' '.join(sorted(IMAGES))}")
    return path


def rgb(image: Image.Image) -> Frame:
    """What Pillow has opened, likewise."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits of grey, which Pillow would clip at 255
        image = Image.fromarray((np.asarray(image).clip(0, 65535) / 257).round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))


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
    except Image.DecompressionBombError as reason:
        raise error(f"{path}: has more pixels than a picture should have") from reason


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
