"""Clips of any length, cut into windows of the length that a net was made for.

A window begins with the last frames of the one before it, the overlap. Not covered: windows that are edited
at once and agree step by step, which would hold the whole clip in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from anyv2v.picture import Frame
from anyv2v.progress import OnStep

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Seam", "Window", "count_windows", "over_windows", "windows"]


@dataclass(frozen=True, eq=False)
class Window:
    """A stretch of a clip.

    Attributes:
        frames: ``[F, H, W, 3]``.
        known: How many of them, from the first, the window before has as its last.
        last: Whether the clip ends here.
    """

    frames: NDArray[np.uint8]
    known: int
    last: bool


def windows(frames: Iterable[Frame], length: int, overlap: int) -> Iterator[Window]:
    """Cut a clip into windows as its frames come; no more than a window and a half are held.

    Args:
        frames: ``[H, W, 3]`` each.
        length: Of every window, but for a clip that is shorter. The last one slides back until it is full.
        overlap: Frames that a window shares with the one before it, at least; fewer than ``length``.
    """
    rest, known = iter(frames), 0
    held = list(islice(rest, length))
    while held:
        fresh = list(islice(rest, length - overlap))
        yield Window(np.stack(held), known, last=not fresh)
        known = length - len(fresh)
        held = held[len(fresh) :] + fresh if fresh else []


def count_windows(frames: int, length: int, overlap: int) -> int:
    """How many windows a clip of so many frames makes."""
    return 1 + max(0, -(-(frames - length) // (length - overlap)))


class Seam:
    """Has a window go on from the one before, level by level, while it samples.

    Kept is how far the edit is from its source. The noise that a frame was inverted to is another in each
    window, so in the next one the edit is laid that far from the source there: both windows end on the same
    frames. What that adds to the last of them is added to the frames after it as well, as far as it is
    coarse: else every window would fall back to the source's colours anew.
    """

    def __init__(self) -> None:
        self._changes: dict[int, Tensor] = {}

    def lay(self, z: Tensor, source: Tensor, level: int, known: int) -> Tensor:
        """The edit's latents at a level, of which the window before has the first ``known`` frames.

        Args:
            z: As sampling has them, ``[1, C, F, h, w]``.
            source: The source's at this level, the shape of ``z``.
            level: The level.
            known: Frames; none in the first window.
        """
        if known:
            shared = source[:, :, :known] + self._changes[level][:, :, -known:]
            z = z + self.ahead(shared - z[:, :, :known])
            z[:, :, :known] = shared
        self._changes[level] = z - source
        return z

    def ahead(self, missing: Tensor) -> Tensor:
        """What frames to come are given of what the known ones lacked, ``[1, C, known, h, w]``."""
        from torch.nn.functional import interpolate

        coarse = interpolate(missing[:, :, -1], (COARSE, COARSE), mode="area")
        return interpolate(coarse, missing.shape[-2:], mode="bilinear")[:, :, None]


COARSE = 8
"""Cells along a side; a thing that moves on by more than one of them would leave its colours behind."""


def over_windows(on_step: OnStep, number: int, count: int) -> OnStep:
    """Tell of the steps of window ``number``, from 0, as of steps of all ``count`` windows."""
    return lambda step: on_step(replace(step, done=number * step.total + step.done, total=count * step.total))
