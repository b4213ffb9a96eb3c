"""Masks, read from pictures."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from anyv2v.editors.protocol import Mask
from anyv2v.errors import ImageError
from anyv2v.picture import Size, read_image, reading

__all__ = ["alpha_of", "read_mask"]


def read_mask(path: Path, size: Size) -> Mask:
    """The mask that a picture shows: where it is opaque, if any of it is transparent, else where it is white.

    Args:
        path: A picture of the shape of what it masks; one of another size is scaled.
        size: Size of that.

    Raises:
        ImageError: It cannot be read, is of another shape, or empty.
    """
    alpha = alpha_of(path)
    inside = read_image(path).mean(axis=-1) > 127 if alpha is None else alpha
    height, width = inside.shape
    if not Size(width, height).is_of_shape(size):
        raise ImageError(f"{path}: is {width}x{height}, which is not the shape of what it masks ({size})")
    flags = cv2.resize(inside.astype(np.uint8), (size.width, size.height), interpolation=cv2.INTER_NEAREST)
    if not flags.any():
        raise ImageError(f"{path}: the mask is empty; it must be white, or opaque, somewhere")
    return np.asarray(flags, bool)


def alpha_of(path: Path) -> Mask | None:
    """Where a picture is opaque, ``[h, w]``; nothing if it is so everywhere. Raises ImageError."""
    with reading(path, "image", ImageError), Image.open(path) as image:
        if not image.has_transparency_data:
            return None
        opaque = np.asarray(ImageOps.exif_transpose(image).convert("RGBA"))[..., 3] > 127
    return None if opaque.all() else opaque
