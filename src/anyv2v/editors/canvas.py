"""Where an editor works: the frame scaled as a whole and padded to sizes that the editor can take."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from anyv2v.editors.protocol import Mask
from anyv2v.errors import EditorError
from anyv2v.picture import Fit, Frame, Size

__all__ = ["Canvas", "frame_of", "limited"]


@dataclass(frozen=True)
class Canvas:
    """A frame's place within a picture of another size: at its upper left, with its own aspect.

    Attributes:
        source: Size of the frame.
        scaled: What it is scaled to.
        padded: Size of the picture; what is right of and below the frame mirrors it.
    """

    source: Size
    scaled: Size
    padded: Size

    @classmethod
    def of(cls, source: Size, multiple: int, area: int | None = None) -> Self:
        """A canvas of sides that are multiples of ``multiple``, and of about ``area`` pixels if given."""
        scale = math.sqrt(area / (source.width * source.height)) if area else 1.0
        scaled = Size(max(1, round(source.width * scale)), max(1, round(source.height * scale)))
        return cls(source, scaled, Size(_up(scaled.width, multiple), _up(scaled.height, multiple)))

    def lay(self, frame: Frame) -> Frame:
        """``[H, W, 3]`` of the source's size to the padded one."""
        return self._pad(Fit(self.source, self.scaled, "stretch").apply(frame))

    def lay_mask(self, mask: Mask) -> Mask:
        """The same of a mask; what lies beyond the frame is outside."""
        scaled = cv2.resize(
            mask.astype(np.uint8), (self.scaled.width, self.scaled.height), interpolation=cv2.INTER_NEAREST
        )
        right, below = self._rest
        return np.pad(scaled.astype(bool), ((0, below), (0, right)))

    def lift(self, picture: Frame) -> Frame:
        """The frame out of a picture of the padded size, or of whatever size an editor made of that."""
        whole = Fit(Size.of(picture), self.padded, "stretch").apply(picture)
        inner = np.ascontiguousarray(whole[: self.scaled.height, : self.scaled.width])
        return Fit(self.scaled, self.source, "stretch").apply(inner)

    @property
    def _rest(self) -> tuple[int, int]:
        """Columns and rows that are padded."""
        return self.padded.width - self.scaled.width, self.padded.height - self.scaled.height

    def _pad(self, frame: Frame) -> Frame:
        right, below = self._rest
        return np.asarray(cv2.copyMakeBorder(frame, 0, below, 0, right, cv2.BORDER_REFLECT_101), np.uint8)


def _up(side: int, multiple: int) -> int:
    return -(-side // multiple) * multiple


def limited(source: Frame, edited: Frame, mask: Mask, feather: float) -> Frame:
    """Let an edit be seen only within a mask.

    Args:
        source: ``[H, W, 3]``, kept bit for bit outside the mask.
        edited: ``[H, W, 3]``.
        mask: ``[H, W]``.
        feather: Pixels, from the mask's edge inwards, over which the edit comes in; in each of its parts at
            most half of how deep that is.
    """
    inside = np.pad(mask, 1, mode="edge").astype(np.uint8)  # the picture's border is no edge of the mask
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    _, parts = cv2.connectedComponents(mask.astype(np.uint8))
    deepest = np.zeros(parts.max() + 1, np.float32)
    np.maximum.at(deepest, parts, depth)
    reach = np.maximum(np.minimum(feather, deepest / 2), 1.0)[parts]
    share = np.clip(depth / reach, 0.0, 1.0)[..., None]
    blended: Frame = np.rint(source + share * (edited.astype(np.float32) - source)).astype(np.uint8)
    return blended


def frame_of(picture: NDArray[np.floating[Any]]) -> Frame:
    """The frame of a picture ``[H, W, 3]``, 0 to 1.

    Raises:
        EditorError: It holds what is no number, as after an overflow.
    """
    if not np.isfinite(picture).all():
        raise EditorError("the editor's numbers overflowed; it may do with --dtype bfloat16 or float32")
    frame: Frame = np.rint(255 * np.clip(picture, 0, 1)).astype(np.uint8)
    return frame
