"""Which of several edits of a frame is best: what it keeps, how sharp it is, and whether it does as told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from anyv2v.editors.protocol import Mask
from anyv2v.picture import Frame

if TYPE_CHECKING:
    from anyv2v.clip import CLIP

__all__ = ["UNCHANGED", "Score", "ranked", "score"]

UNCHANGED = 0.1  # of ``changed``: an editor that changes less has done nothing to speak of
PLAIN = 32  # grey levels that are plain to see


@dataclass(frozen=True)
class Score:
    """How good an edit is; higher is better in each.

    Attributes:
        changed: How much it changed where it changed most, 0 to 1: 1 is plain to see. Noise is not counted.
        structure: How much of the source's contours it keeps outside the mask, or all over, 0 to 1.
        sharpness: How near its detail is to the source's, 0 to 1; more is as bad as less, as it is noise.
        alignment: Cosine, -1 to 1, of the way from source to edit and the way from a photo to the text, in
            CLIP's space (the directional similarity of StyleGAN-NADA, arXiv 2108.00946); 0 without CLIP.
    """

    changed: float
    structure: float
    sharpness: float
    alignment: float = 0.0


def score(
    source: Frame,
    edited: Frame,
    mask: Mask | None = None,
    *,
    shown: Frame | None = None,
    clip: CLIP | None = None,
    text: str = "",
) -> Score:
    """Score an edit.

    Args:
        source: ``[H, W, 3]``.
        edited: ``[H, W, 3]``.
        mask: Where it may change, ``[H, W]``.
        shown: The edit within the mask alone, ``[H, W, 3]``: what does as told, or does not.
        clip: Judges whether the edit does as told, if it is at hand and there is a text.
        text: What the edit shows, or what was to be done.
    """
    shown = edited if shown is None else shown
    within = np.ones(source.shape[:2], bool) if mask is None else mask
    outside = within if mask is None or mask.all() else ~mask
    detail = _detail(edited, within) / max(_detail(source, within), 1e-6)
    return Score(
        changed=_change(source, edited, within),
        structure=_cosine(_contours(source)[outside], _contours(edited)[outside]),
        sharpness=min(detail, 1 / max(detail, 1e-6)),
        alignment=_alignment(clip, source, shown, text) if clip and text else 0.0,
    )


def ranked(scores: Sequence[Score]) -> list[int]:
    """Indices, best first: by the mean of their places in each score; what changed nothing comes last."""
    table = np.array([astuple(score) for score in scores]).round(2)  # less is no difference
    # The place of a score is how many others are better, so that equals share one.
    places = (table[None] > table[:, None]).sum(axis=1).mean(axis=1)
    return [int(k) for k in np.lexsort((places, table[:, 0] < UNCHANGED))]


def _change(source: Frame, edited: Frame, where: Mask) -> float:
    """The change of the hundredth of the pixels that changed most, in what is plain to see."""
    difference = edited.astype(np.float32) - source
    smooth = np.asarray(cv2.GaussianBlur(difference, (0, 0), 3.0), np.float32)
    return min(1.0, float(np.quantile(np.abs(smooth).max(axis=-1)[where], 0.99)) / PLAIN)


def _contours(frame: Frame) -> NDArray[np.float32]:
    """Strength of the edges, ``[H, W]``; slightly blurred, so that half a pixel does not count."""
    grey = cv2.GaussianBlur(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32), (0, 0), 1.5)
    return np.asarray(cv2.magnitude(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)))


def _detail(frame: Frame, where: Mask) -> float:
    """The variance of the Laplacian."""
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return float(np.asarray(cv2.Laplacian(grey, cv2.CV_32F))[where].var())


def _cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.vdot(a, b)) / max(lengths, 1e-6)


def _alignment(clip: CLIP, source: Frame, edited: Frame, text: str) -> float:
    """Whether the picture moves as the text does, from what any picture is."""
    pictures, texts = clip.pictures([source, edited]), clip.texts(["a photo", text])
    return _cosine((pictures[1] - pictures[0]).numpy(force=True), (texts[1] - texts[0]).numpy(force=True))
