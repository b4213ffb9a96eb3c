"""Small sums on pictures and on fields of flow, as fast as OpenCV does them."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from anyv2v.picture import Frame

__all__ = [
    "Field",
    "Pixels",
    "bell",
    "box",
    "four_channels",
    "gray",
    "grid",
    "peak",
    "resize",
    "sample",
    "soft",
    "squared",
    "three_channels",
    "warp",
]

Field = NDArray[np.float32]  # [h, w] or [h, w, C], at the small size at which motion is measured
Pixels = NDArray[np.uint8]  # [H, W, 4], RGB and a channel that says nothing: OpenCV warps four twice as fast


@lru_cache(maxsize=4)
def grid(height: int, width: int) -> Field:
    return np.dstack(np.meshgrid(np.arange(width), np.arange(height))).astype(np.float32)


def warp(image: NDArray[Any], flow: Field, border: int = cv2.BORDER_REFLECT_101) -> NDArray[Any]:
    """image[x + flow(x)], mirrored at the border: a texture that ends at the frame goes on."""
    where = cv2.add(grid(*flow.shape[:2]), flow)
    return sample(image, where, border)


def sample(image: NDArray[Any], where: Field, border: int = cv2.BORDER_REFLECT_101) -> NDArray[Any]:
    out: NDArray[Any] = cv2.remap(image, where, None, cv2.INTER_LINEAR, borderMode=border)
    return out


def four_channels(frame: NDArray[Any]) -> NDArray[Any]:
    pixels: NDArray[Any] = cv2.cvtColor(frame, cv2.COLOR_RGB2RGBA)
    return pixels


def three_channels(pixels: Pixels) -> Frame:
    frame: Frame = cv2.cvtColor(pixels, cv2.COLOR_RGBA2RGB)
    return frame


def resize(image: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    while 4 * size[0] <= image.shape[1] and image.shape[0] % 2 == image.shape[1] % 2 == 0:
        image = cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)  # by two is fast
    how = cv2.INTER_AREA if size[0] < image.shape[1] else cv2.INTER_LINEAR
    out: NDArray[Any] = cv2.resize(image, size, interpolation=how)
    return out


def box(x: NDArray[Any], radius: int) -> NDArray[Any]:
    mean: NDArray[Any] = cv2.blur(x.reshape(*x.shape[:2], -1), (2 * radius + 1, 2 * radius + 1))
    return mean.reshape(x.shape)


def gray(frame: Frame) -> Frame:
    gray: Frame = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    return gray


def peak(x: NDArray[Any]) -> NDArray[Any]:
    """The largest channel; np.max over the last axis takes ten times as long."""
    r, g, b = cv2.split(x)
    peak: NDArray[Any] = cv2.max(cv2.max(r, g), b)
    return peak


def squared(flow: Field) -> Field:
    length: Field = cv2.transform(cv2.multiply(flow, flow), np.ones((1, 2), np.float32))
    return length


def bell(x: Field) -> Field:
    """exp(-x^2): 1 at 0, falling to 0."""
    bell: Field = cv2.exp(-x * x)
    return bell


def soft(x: NDArray[Any], low: float, high: float) -> Field:
    """A smooth step from 0 at low to 1 at high."""
    t: Field = np.clip((x - low) * np.float32(1 / (high - low)), 0, 1)
    return t * t * (3 - 2 * t)
