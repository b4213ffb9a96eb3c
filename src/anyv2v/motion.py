"""How a clip moves: dense flow to its first frame and from frame to frame, how far to trust it, and riders.

Flow: Kroeger et al., "Fast Optical Flow using Dense Inverse Search", ECCV 2016. Round trip: Sundaram et al.,
"Dense Point Trajectories by GPU-accelerated Large Displacement Optical Flow", ECCV 2010.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from anyv2v.fields import Field, bell, box, gray, grid, peak, soft, squared, warp
from anyv2v.picture import Frame

__all__ = ["Match", "Motion", "Ride", "Riders", "Tracker"]


@dataclass(frozen=True)
class Match:
    """Where each pixel comes from: flow float32 [h, w, 2] in pixels, trust float32 [h, w], 0 to 1."""

    flow: Field
    trust: Field


@dataclass(frozen=True)
class Motion:
    """How a clip came to a frame.

    first, previous: its matches in the first frame and in the one before. forth: the flow from the first,
    float32 [h, w, 2]. bared: where a moving thing has just bared the ground, float32 [h, w], 0 to 1.
    """

    first: Match
    previous: Match
    forth: Field
    bared: Field


class Tracker:
    """Follows a clip at the small size."""

    def __init__(self, first: Frame) -> None:
        # Sparser patches without variational smoothing take less than half the time; _settle mends the rest.
        self._dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self._dis.setPatchStride(4)
        self._dis.setVariationalRefinementIterations(0)
        self._first = self._previous = first
        self._back = self._forth = np.zeros((*first.shape[:2], 2), np.float32)

    def track(self, frame: Frame) -> Motion:
        """The motion up to the next frame."""
        now, first, previous = (gray(x) for x in (frame, self._first, self._previous))
        step = _settle(self._dis.calc(now, previous, None), frame, self._previous)
        # A chain of steps drifts and a direct search gets lost, so the search starts at the end of the chain.
        back = self._dis.calc(now, first, step + warp(self._back, step))
        back = _settle(back, frame, self._first)
        self._forth = self._dis.calc(first, now, self._forth.copy())
        trust = _likeness(back, frame, self._first) * _round_trip(back, self._forth)
        whole = _unstretched(step)
        like = _likeness(step, frame, self._previous) * whole
        self._back, self._previous = back, frame
        return Motion(Match(back, trust), Match(step, like), self._forth, 1 - whole)


def _settle(flow: Field, frame: Frame, other: Frame) -> Field:
    """Sharpen motion borders: a pixel takes the flow of a neighbour that explains its colour better."""
    height, width = flow.shape[:2]
    best, error = flow.copy(), _mismatch(flow, frame, other) - 1
    for r in (3, 6):
        near = cv2.copyMakeBorder(best, r, r, r, r, cv2.BORDER_REPLICATE)
        for y, x in ((0, r), (2 * r, r), (r, 0), (r, 2 * r)):
            rival = near[y : y + height, x : x + width]
            rival_error = _mismatch(rival, frame, other)
            cv2.copyTo(rival, cv2.compare(rival_error, error, cv2.CMP_LT), best)
            error = cv2.min(error, rival_error)
    smooth: Field = cv2.merge([cv2.medianBlur(axis, 5) for axis in cv2.split(best)])
    return smooth


def _mismatch(flow: Field, frame: Frame, other: Frame) -> Field:
    where = cv2.convertMaps(cv2.add(grid(*flow.shape[:2]), flow), None, cv2.CV_16SC2)  # half the time
    warped = cv2.remap(other, *where, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    error: Field = box(peak(cv2.absdiff(frame, warped)).astype(np.float32), 1)
    return error


def _unstretched(flow: Field) -> Field:
    """0 where a flow spreads few pixels over many: that is ground which a moving thing has just bared."""
    x, y = cv2.split(flow)
    xx, xy, yx, yy = (cv2.Scharr(c, cv2.CV_32F, *d, scale=1 / 32) for c in (x, y) for d in ((1, 0), (0, 1)))
    area = (1 + xx) * (1 + yy) - xy * yx
    whole: Field = cv2.erode(soft(area, 0.5, 0.9), np.ones((3, 3)))
    return whole


def _round_trip(flow: Field, inverse: Field) -> Field:
    back = warp(inverse, flow)
    return bell(cv2.sqrt(squared(flow + back) / (2 + 0.01 * (squared(flow) + squared(back)))))


def _likeness(flow: Field, frame: Frame, other: Frame) -> Field:
    """1 where a neighbourhood has the colours that the flow promises; texture may be a little out of step."""
    error = peak(cv2.absdiff(box(frame, 2), box(warp(other, flow), 2))).astype(np.float32)
    level = gray(frame).astype(np.float32)
    texture = cv2.sqrt(cv2.max(box(level * level, 3) - box(level, 3) ** 2, 0))
    like = bell(cv2.sqrt(cv2.GaussianBlur((error / (10 + 0.4 * texture)) ** 2, (0, 0), 1.5)))
    inside: Field = warp(np.ones_like(like), flow, cv2.BORDER_CONSTANT)
    return like * inside


@dataclass(frozen=True)
class Ride:
    """Riders in one frame: the flow that carries them, what they cover, and what they have left, 0 to 1."""

    flow: Field
    cover: Field
    left_first: Field
    left_previous: Field


class Riders:
    """Pieces of new content that were drawn over a background they do not move with: a hat over the trees.

    The flow inside a hat is that of the trees. A piece that lies partly on a moving thing goes with that
    thing, whole and rigid. The background is what fills the border of the picture.
    """

    def __init__(self, pieces: list[Field]) -> None:
        self._pieces = pieces
        self._homes = [soft(box(piece, 4), 0, 0.1) for piece in pieces]
        self._rides = [False] * len(pieces)
        self._cover = np.zeros_like(pieces[0])
        height, width = self._cover.shape
        self._plane = np.dstack([grid(height, width) * (2 / width) - 1, np.ones_like(self._cover)])
        edge = np.ones((height, width), bool)
        edge[height // 12 : -height // 12, width // 12 : -width // 12] = False
        self._edge = np.flatnonzero(edge & (np.max(pieces, axis=0) < 0.1))[::16]

    @classmethod
    def find(cls, source: Frame, edit: Frame) -> Riders | None:
        """Pieces from 0.3% to 15% of the picture; a larger one is a restyling, a smaller one is noise."""
        change = np.abs(box(cv2.subtract(edit, source, dtype=cv2.CV_32F), 2))
        new = soft(peak(change), 30, 60)
        count, labels, stats, _ = cv2.connectedComponentsWithStats((new > 0.1).astype(np.uint8))
        areas = stats[:, cv2.CC_STAT_AREA] / new.size
        pieces = [new * (labels == i) for i in range(1, count) if 0.003 < areas[i] < 0.15]
        return cls(pieces) if pieces else None

    def ride(self, motion: Motion) -> Ride | None:
        """Where the riders are now; None as long as there are none."""
        first, forth = motion.first, motion.forth
        there, here = self._drift(forth), soft(self._drift(first.flow), 1, 3) * first.trust
        flow, (cover, left) = np.zeros_like(forth), np.zeros((2, *here.shape), np.float32)
        for i, (piece, home) in enumerate(zip(self._pieces, self._homes, strict=True)):
            self._rides[i] = self._rides[i] or 0.12 < _moving_share(piece, there) < 0.82
            if self._rides[i]:
                was = warp(home, first.flow)
                rigid = _rigid(first.flow, here * was)
                now = warp(piece, rigid, cv2.BORDER_CONSTANT)
                flow = np.where((now > cover)[..., None], rigid, flow)
                cover, left = cv2.max(cover, now), cv2.max(left, was)
        left_previous = warp(self._cover, motion.previous.flow) * (1 - cover)
        self._cover = cover
        return Ride(flow, cover, left * (1 - cover), left_previous) if any(self._rides) else None

    def _drift(self, flow: Field) -> Field:
        """How far a flow leaves the affine motion of the border, fitted robustly against what crosses it."""
        x, y = (field.reshape(-1, field.shape[2])[self._edge] for field in (self._plane, flow))
        weight = np.ones((len(x), 1), np.float32)
        for _ in range(5):
            weighted = (x * weight).T
            motion = np.linalg.solve(weighted @ x + 1e-3 * np.eye(3, dtype=np.float32), weighted @ y)
            weight = 1 / (1 + ((x @ motion - y) ** 2).sum(axis=1, keepdims=True))
        drift: Field = cv2.sqrt(squared(flow - cv2.transform(self._plane, motion.T)))
        return drift


def _moving_share(piece: Field, drift: Field) -> float:
    """The share of a piece that goes with the fastest thing in it; 0 until that has moved far enough."""
    fastest = np.quantile(drift[piece > 0.5], 0.9) if (piece > 0.5).any() else 0.0
    if fastest < 2:
        return 0.0
    return float((piece * soft(drift / fastest, 0.3, 0.6)).sum() / piece.sum())


def _rigid(flow: Field, weight: Field) -> Field:
    """The shift, rotation and scale nearest to a weighted flow: a * arm + shift in the complex plane."""
    z, f = (np.ascontiguousarray(x).view(np.complex64)[..., 0] for x in (grid(*weight.shape), flow))
    total = weight.sum() + 1e-6
    centre, shift = (weight * z).sum() / total, (weight * f).sum() / total
    arm = z - centre
    # The ridge holds a patch that is too small to tell a rotation to a pure shift.
    a = (weight * arm.conj() * f).sum() / ((weight * abs(arm) ** 2).sum() + 50 * total)
    rigid: Field = (a * arm + shift).astype(np.complex64)[..., None].view(np.float32)
    return rigid
