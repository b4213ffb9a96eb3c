"""AnyDoor's pictures, before and after its nets (Chen et al., arXiv 2307.09481).

The subject is cut out of its own picture. A square around the place where it shall be is cut out of the
frame, and the subject's edges are laid over that place: the collage. What the nets make of it is pasted back.

Every rounding is the authors', even where it loses a row of pixels, so that the nets see what they were
trained on, bit for bit. Their random ratios are given here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from anyv2v.editors.protocol import Mask
from anyv2v.errors import OptionError
from anyv2v.picture import Frame

__all__ = [
    "FEWEST",
    "SIDE",
    "Box",
    "Place",
    "Subject",
    "Variant",
    "bounding_box",
    "cut_out",
    "expanded",
    "squared",
]

Variant = Literal["demo", "script"]

SIDE = 512  # of the collage
SUBJECT_SIDE = 224
DETAIL_SIDE = 256
FAINT = 50  # a weaker edge is none
ROOM = 1.1  # of the subject's box around the mask; the authors draw it from a range of one number
MARGIN = {"demo": 3, "script": 5}  # pixels along the collage's border that are not pasted back
FEWEST = 10  # pixels of a mask
BEYOND = 2  # marks what is no part of the frame in a mask of 0 and 1


class Box(NamedTuple):
    """A part of a picture, in pixels: ``bottom`` and ``right`` are the first row and column behind it."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def width(self) -> int:
        return self.right - self.left

    def of(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """That part of a picture, as a view."""
        return picture[self.top : self.bottom, self.left : self.right]


@dataclass(frozen=True, eq=False)
class Subject:
    """A subject, cut out.

    Attributes:
        picture: ``[224, 224, 3]``, white around it.
        mask: ``[224, 224]``, from 0 outside of it to 255.
    """

    picture: Frame
    mask: NDArray[np.uint8]

    @property
    def detail(self) -> Frame:
        """Its colours where it has edges, the brighter the stronger they are: ``[224, 224, 3]``."""
        large = (DETAIL_SIDE, DETAIL_SIDE)
        picture = cv2.resize(self.picture, large)
        inside = (cv2.resize(self.mask / 255, large) > 0.5).astype(np.uint8)
        # Its outline is an edge too, but one of the white around it.
        inside = cv2.erode(inside, np.ones((5, 5), np.uint8), iterations=2)
        edges = _edges(picture) * inside
        edges[edges < FAINT] = 0
        colours = edges[..., None].astype(np.float32) / 255 * picture.astype(np.float32)
        return np.asarray(cv2.resize(colours.astype(np.uint8), (SUBJECT_SIDE, SUBJECT_SIDE)), np.uint8)


def _edges(picture: Frame) -> NDArray[np.uint8]:
    """How strong edges are by Sobel, 0 to 255, in the channel where they are strongest: ``[H, W]``."""
    across, down = (cv2.convertScaleAbs(cv2.Sobel(picture, cv2.CV_64F, x, 1 - x, ksize=3)) for x in (1, 0))
    return np.asarray(cv2.addWeighted(across, 0.5, down, 0.5, 0).max(axis=-1), np.uint8)


def cut_out(picture: Frame, mask: Mask, ratio: float) -> Subject:
    """Cut out a subject.

    Args:
        picture: ``[h, w, 3]``.
        mask: The subject in it, ``[h, w]``.
        ratio: How much larger the result is than the subject's box.

    Raises:
        OptionError: The subject is but one pixel wide or high.
    """
    box = bounding_box(mask)
    if min(box.height, box.width) < 1:
        raise OptionError("the reference mask is one pixel wide or high; mark the whole subject")
    white = np.where(mask[..., None], picture, np.uint8(255))
    flags = mask.astype(np.uint8) * np.uint8(255)
    return Subject(_in_the_middle(box.of(white), ratio, 255), _in_the_middle(box.of(flags), ratio, 0))


def _in_the_middle(picture: NDArray[np.uint8], ratio: float, value: int) -> NDArray[np.uint8]:
    """Larger by a ratio, then square, then of the size that the encoder takes."""
    height, width = (int(side * ratio) for side in picture.shape[:2])
    side = max(height, width)
    larger = _padded(_padded(picture, height, width, value), side, side, value)
    return np.asarray(cv2.resize(larger, (SUBJECT_SIDE, SUBJECT_SIDE)), np.uint8)


def _padded(picture: NDArray[np.uint8], height: int, width: int, value: int) -> NDArray[np.uint8]:
    """A picture in the middle of one of this size; of an odd rest, more is right and below."""
    top, left = (height - picture.shape[0]) // 2, (width - picture.shape[1]) // 2
    below, right = height - picture.shape[0] - top, width - picture.shape[1] - left
    around = ((top, below), (left, right), (0, 0))[: picture.ndim]
    return np.pad(picture, around, constant_values=value)


@dataclass(frozen=True)
class Place:
    """Where in a frame a subject shall be; ``around`` makes one from a mask.

    Attributes:
        box: Of the subject, within the frame.
        crop: What the nets see of the frame; a square where the frame's borders allow.
        variant: Whose rules hold: ``demo``'s, which are those of training, or those of the authors' inference
            ``script``. The script tells the nets that the subject goes over whatever is beyond the frame, and
            pastes back the whole crop; the demo marks it as what it is, and pastes back the subject's box.

    Raises:
        OptionError: It is too small to paste anything into it.
    """

    box: Box
    crop: Box
    variant: Variant = "demo"

    def __post_init__(self) -> None:
        least = 2 * MARGIN[self.variant] + 1
        if min(self.crop.height, self.crop.width) < least or min(self.box.height, self.box.width) < 1:
            raise OptionError(f"the mask is too small; AnyDoor needs a place of {least}x{least} pixels")

    @classmethod
    def around(cls, mask: Mask, ratio: float, variant: Variant = "demo") -> Place:
        """The place that a mask ``[H, W]`` marks, in a crop that is larger by about ``ratio``."""
        height, width = mask.shape
        box = expanded(bounding_box(mask), ROOM, height, width)
        return cls(box, squared(expanded(box, ratio, height, width), height, width), variant)

    @property
    def side(self) -> int:
        """Pixels along a side of the crop when it is padded to a square."""
        return max(self.crop.height, self.crop.width)

    def hint(self, frame: Frame, detail: Frame, shape: Mask | None = None) -> NDArray[np.float32]:
        """What the ControlNet sees.

        Args:
            frame: ``[H, W, 3]``.
            detail: Of the subject, ``[224, 224, 3]``.
            shape: The subject's shape, ``[H, W]``, if it is not just its box.

        Returns:
            ``[512, 512, 4]``: the collage, -1 to 1, and its mask: 1 where the subject shall be, else 0, and
            beyond the frame -1, or 1 after the script.
        """
        collage = self.collage(frame, detail).astype(np.float32) / np.float32(127.5) - 1
        return np.dstack([collage, self.mask(shape)])

    def collage(self, frame: Frame, detail: Frame) -> Frame:
        """The crop with a subject's detail in its place, black beyond the frame: ``[512, 512, 3]``."""
        filled = frame.copy()
        self.box.of(filled)[:] = cv2.resize(detail, (self.box.width, self.box.height))
        return np.asarray(cv2.resize(self._square(filled, 0), (SIDE, SIDE)), np.uint8)

    def mask(self, shape: Mask | None = None) -> NDArray[np.float32]:
        """The last channel of ``hint``: ``[512, 512]``."""
        if shape is None:
            shape = np.zeros((self.crop.bottom, self.crop.right), bool)
            shape[self.box.top : self.box.bottom, self.box.left : self.box.right] = True
        inside = shape.astype(np.uint8)
        if self.variant == "demo":
            flags = cv2.resize(self._square(inside, BEYOND), (SIDE, SIDE), interpolation=cv2.INTER_NEAREST)
            return np.where(flags == BEYOND, np.float32(-1), flags.astype(np.float32))
        # A -1 that became 255, and so "inside", on its way through the authors' uint8.
        flags = cv2.resize(self._square(inside, 255), (SIDE, SIDE))
        return np.asarray(flags > 0, np.float32)

    def _square(self, picture: NDArray[np.uint8], value: int) -> NDArray[np.uint8]:
        return _padded(self.crop.of(picture), self.side, self.side, value)

    def paste(self, frame: Frame, picture: NDArray[np.float32]) -> Frame:
        """Put what the nets made of the crop into a frame.

        Args:
            frame: ``[H, W, 3]``.
            picture: ``[512, 512, 3]``, 0 to 255.

        Returns:
            The frame with the place painted; every other pixel is as it was.
        """
        margin = MARGIN[self.variant]
        top, left = (self.side - self.crop.height) // 2, (self.side - self.crop.width) // 2
        # The first row is lost in the authors' code, and the rest stretched over it.
        square = cv2.resize(picture[1:], (self.side, self.side))
        crop = square[top : top + self.crop.height, left : left + self.crop.width]
        painted, inner = frame.copy(), np.s_[margin:-margin, margin:-margin]
        self.crop.of(painted)[inner] = crop[inner].astype(np.uint8)
        pasted, part = frame.copy(), self.box if self.variant == "demo" else self.crop
        part.of(pasted)[:] = part.of(painted)
        return pasted


def bounding_box(mask: Mask) -> Box:
    """The box of a mask; of a mask of fewer than ``FEWEST`` pixels, the whole picture.

    The mask's last row and column are left out, as they are in the authors' code.
    """
    if np.count_nonzero(mask) < FEWEST:
        return Box(0, mask.shape[0], 0, mask.shape[1])
    rows, columns = (np.flatnonzero(mask.any(axis=axis)).tolist() for axis in (1, 0))
    return Box(rows[0], rows[-1], columns[0], columns[-1])


def expanded(box: Box, ratio: float, height: int, width: int) -> Box:
    """A box enlarged around its centre, as far as a picture of this size goes."""
    top, bottom = _enlarged(box.top, box.bottom, ratio, height)
    left, right = _enlarged(box.left, box.right, ratio, width)
    return Box(top, bottom, left, right)


def _enlarged(start: int, end: int, ratio: float, most: int) -> tuple[int, int]:
    centre, half = 0.5 * (start + end), 0.5 * ratio * (end - start + 1)
    return max(int(centre - half), 0), min(int(centre + half), most)


def squared(box: Box, height: int, width: int) -> Box:
    """A square around a box: its shorter side grows, as far as a picture of this size goes."""
    if box.height >= box.width:
        left, right = _around(box.left, box.right, box.height // 2, width)
        return Box(box.top, box.bottom, left, right)
    top, bottom = _around(box.top, box.bottom, box.width // 2, height)
    return Box(top, bottom, box.left, box.right)


def _around(start: int, end: int, half: int, most: int) -> tuple[int, int]:
    centre = (start + end) // 2
    return max(centre - half, 0), min(centre + half, most)
