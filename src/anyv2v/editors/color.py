"""Take over the colours of a reference: no model, no time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from anyv2v.editors.protocol import Machine, Mask, Request
from anyv2v.options import within
from anyv2v.picture import Frame
from anyv2v.progress import OnStep, ignore

__all__ = ["Color", "ColorSettings"]

Pixels = NDArray[np.float32]  # [n, 3]


@dataclass(frozen=True)
class ColorSettings:
    """How colours are matched.

    Attributes:
        method: ``reinhard`` gives the frame the mean and the deviation of the reference's colours (Reinhard
            et al., Color Transfer between Images, 2001), in CIE L*a*b*; ``histogram`` gives each of red,
            green and blue the reference's whole distribution.
        strength: Share of the way to go, 0 to 1.

    Raises:
        OptionError: ``strength`` is out of its range.
    """

    method: Literal["reinhard", "histogram"] = "reinhard"
    strength: float = 1.0

    def __post_init__(self) -> None:
        within(self, 0, 1, "strength")


class Color:
    """See ``Editor``. With a mask, the colours within it are matched; so of the reference with its own."""

    Settings = ColorSettings

    def __init__(self, settings: ColorSettings) -> None:
        self.settings = settings

    @classmethod
    def load(cls, weights: Mapping[str, Path], settings: ColorSettings, machine: Machine) -> Self:  # noqa: ARG003
        """See ``LoadableEditor``."""
        return cls(settings)

    def edit(self, request: Request, on_step: OnStep = ignore) -> Frame:  # noqa: ARG002 - it takes no time
        """See ``Editor``."""
        match = _reinhard if self.settings.method == "reinhard" else _histogram
        frame, reference = request.frame, request.references[0]
        matched = match(frame, _within(frame, request.mask), _within(reference, request.reference_mask))
        graded: Frame = np.rint(frame + self.settings.strength * (matched - frame)).astype(np.uint8)
        return graded


def _within(picture: Frame, mask: Mask | None) -> Frame:
    """The pixels of a picture in a mask as a picture of one row; all of them if the mask is empty."""
    pixels = picture[mask] if mask is not None and mask.any() else picture.reshape(-1, 3)
    return np.ascontiguousarray(pixels[None])


ROUNDING = 0.5
"""In Lab: what varies less, as colours of a grey picture do, is no variation to be stretched."""


def _reinhard(frame: Frame, own: Frame, wanted: Frame) -> NDArray[Any]:
    (mean, deviation), (to_mean, to_deviation) = (_moments(_lab(pixels)) for pixels in (own, wanted))
    lab = (_lab(frame) - mean) * (to_deviation / np.maximum(deviation, ROUNDING)) + to_mean
    rgb = np.asarray(cv2.cvtColor(lab.astype(np.float32), cv2.COLOR_LAB2RGB))
    clipped: NDArray[Any] = np.clip(255 * rgb, 0, 255)
    return clipped


def _lab(frame: Frame) -> NDArray[np.float32]:
    return np.asarray(cv2.cvtColor(frame.astype(np.float32) / 255, cv2.COLOR_RGB2LAB), np.float32)


def _moments(lab: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    return lab.mean((0, 1)), lab.std((0, 1))


def _histogram(frame: Frame, own: Frame, wanted: Frame) -> NDArray[Any]:
    tables = [_table(own[..., c], wanted[..., c]) for c in range(3)]
    return np.stack([table[frame[..., c]] for c, table in enumerate(tables)], axis=-1)


def _table(own: NDArray[np.uint8], wanted: NDArray[np.uint8]) -> NDArray[np.float64]:
    """For each level 0..255 the level of the same rank in the wanted distribution."""
    ranks, wanted_ranks = _ranks(own), _ranks(wanted)
    return np.interp(ranks, wanted_ranks, np.arange(256))


def _ranks(levels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """For each level 0..255 the share of pixels below it, and half of those at it."""
    counts = np.bincount(levels.ravel(), minlength=256) / levels.size
    return np.cumsum(counts) - counts / 2
