"""Propagation without a model: dense optical flow carries the edit of the first frame through the clip.

The edit is read as a function of the source and carried to first order. With S the source first frame and E
its edit, both brought to frame k by the flow, and S_k the source frame::

    out_k = light * E + gain * (S_k - light * S)

The gain says how far the edit follows the source: 1 where nothing was edited (the source comes through as it
is, whatever the flow), the slope of a recolouring (folds and grain keep moving), 0 where the content is new
(nothing of the source shines through). The light is the slow change of illumination.

A grade of the whole picture is one map of colours. It is fitted first and applied to every frame, so that S
is the graded source and only the rest of the edit is carried.

What frame 0 never saw is carried on from the previous result. What that never saw either is guessed: a local
affine map of colours, fitted where the edit is known. ``FlowReport`` says how much had no match.

Local affine maps: He et al., "Guided Image Filtering", TPAMI 2013. How motion is found: see ``motion``.

Not covered: what the first frame cannot tell. A thing that enters later takes on a restyling of the whole
picture and nothing else; a painted texture does not go on behind a thing that moves away.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from operator import itemgetter

import cv2
import numpy as np
from numpy.typing import NDArray

from anyv2v.ahead import ahead
from anyv2v.errors import ImageError, OptionError
from anyv2v.fields import (
    Field,
    Pixels,
    bell,
    box,
    four_channels,
    grid,
    peak,
    resize,
    sample,
    soft,
    three_channels,
    warp,
)
from anyv2v.motion import Motion, Riders, Tracker
from anyv2v.picture import Frame

__all__ = ["Carried", "Flow", "FlowCarrier", "FlowReport"]

LEAST = 16  # pixels; with fewer, OpenCV ends the process
_UNIT = 128  # a gain of 1, in the eight bits of Layer.law


@dataclass(frozen=True)
class Flow:
    """Propagation by optical flow, ready to use.

    Attributes:
        detail: Shorter side, in pixels, of the frames on which motion is measured; at least 64. Coarser is
            faster and smoother.

    Raises:
        OptionError: ``detail`` is too small.
    """

    detail: int = 256

    def __post_init__(self) -> None:
        if self.detail < 64:
            raise OptionError(f"detail is {self.detail}; it must be at least 64 pixels")

    def carry(self, frames: Iterable[Frame], edited_first: Frame) -> Carried:
        """Carry the edit of a clip's first frame, ``[H, W, 3]`` RGB, through its frames; see ``Carried``."""
        return Carried(self, frames, edited_first)


@dataclass(frozen=True)
class FlowReport:
    """How much of a result had no match in the first frame. Shares are 0 to 1.

    Attributes:
        frames: Frames carried; the first one is given and does not count.
        guessed: Mean share of pixels without a trusted match.
        guessed_in_edit: The same, of the pixels that the edit changed.
        doubtful: The part of ``guessed_in_edit`` that colours do not explain either.
        worst: The highest doubtful share of a frame.
        worst_frame: That frame; 0 if none was doubtful.
    """

    frames: int = 0
    guessed: float = 0.0
    guessed_in_edit: float = 0.0
    doubtful: float = 0.0
    worst: float = 0.0
    worst_frame: int = 0

    @property
    def warning(self) -> str | None:
        """One sentence for the user, if much was guessed."""
        if self.doubtful < 0.25 and self.worst < 0.45:
            return None
        return (
            f"optical flow had nothing sure to go by for {self.doubtful:.0%} of the edited area "
            f"(at worst {self.worst:.0%}, in frame {self.worst_frame}); look there for drift and guesses"
        )


class Carried:
    """The edited frames of a clip, made one by one as they are drawn; iterate once.

    The first one is the edited first frame itself. Memory does not grow with the clip.

    Raises:
        ImageError: The edited first frame and the clip differ in size, or are less than 16 pixels high or
            wide; raised by the first draw.
    """

    def __init__(self, flow: Flow, frames: Iterable[Frame], edited_first: Frame) -> None:
        self._flow, self._frames, self._edited_first = flow, frames, edited_first
        self._carrier: FlowCarrier | None = None

    def __iter__(self) -> Iterator[Frame]:
        return (edited for _, edited in self.pairs())

    def pairs(self) -> Iterator[tuple[Frame, Frame]]:
        """Each source frame with its edit; the motion of the next one is measured meanwhile, in a thread."""
        frames = iter(self._frames)
        for first in islice(frames, 1):
            self._carrier = carrier = FlowCarrier(first, self._edited_first, self._flow)
            yield first, self._edited_first
            for frame, motion in ahead((frame, carrier.track(frame)) for frame in frames):
                yield frame, carrier.paint(frame, motion)

    @property
    def report(self) -> FlowReport:
        """On the frames drawn so far."""
        return self._carrier.report if self._carrier else FlowReport()


class FlowCarrier:
    """Carries the edit of a first frame to the frames that follow: one call each, in order.

    Args:
        source_first: The first frame, uint8 ``[H, W, 3]`` RGB.
        edited_first: Its edit, of the same size.
        flow: How motion is measured.

    Raises:
        ImageError: The two differ in size, or are too small.
    """

    def __init__(self, source_first: Frame, edited_first: Frame, flow: Flow = Flow()) -> None:
        (height, width), (h, w) = source_first.shape[:2], edited_first.shape[:2]
        if (height, width) != (h, w):
            raise ImageError(f"the edited first frame is {w}x{h}, the clip {width}x{height}; make them equal")
        if min(height, width) < LEAST:
            raise ImageError(f"the clip is {width}x{height}; optical flow needs {LEAST} pixels a side")
        scale = min(1.0, flow.detail / min(height, width))
        self._size = round(width * scale), round(height * scale)
        source, edit = resize(source_first, self._size), resize(edited_first, self._size)
        self._look = Look.between(source, edit)
        graded_first = self._look(source_first)
        law = resize(_law(graded_first, edited_first), self._size)
        self._first = self._previous = Layer(four_channels(graded_first), four_channels(edited_first), law)
        self._painter = Painter(width, height)
        self._credit = np.ones(source.shape[:2], np.float32)
        self._tracker, self._riders = Tracker(source), Riders.find(self._look(source), edit)
        self._count, self._shares, self._worst = 0, np.zeros(3), (0.0, 0)

    def __call__(self, frame: Frame) -> Frame:
        """The edit of the next source frame; both uint8 ``[H, W, 3]``."""
        return self.paint(frame, self.track(frame))

    def track(self, frame: Frame) -> Motion:
        """Measure the motion up to the next source frame; it may be measured before the last is painted."""
        return self._tracker.track(resize(frame, self._size))

    def paint(self, frame: Frame, motion: Motion) -> Frame:
        """The edit of the next source frame, whose motion is known."""
        frame, paint = self._look(frame), self._painter
        now, small = four_channels(frame), resize(frame, self._size)
        layer, known = self._recall(now, motion)
        then = three_channels(resize(layer.source, self._size))
        light = _light(small, then, known)
        known = known * _first_order(small, then, layer.law, light)
        out = paint.transfer(now, layer, light)
        guess = _guess(small, three_channels(resize(out, self._size)), known)
        supposed, error = Layer(now, paint.add(now, guess.change), guess.law), guess.error
        if self._look.grades:  # then bared ground needs the grade, and no guess at what lay around it
            supposed = paint.unedit(supposed, motion.bared)
            error = error * (1 - motion.bared)
        # A poor guess is worse than a doubtful match; but ground that was just bared has no match at all.
        share = (1 - known) * bell(error / (12 + 13 * motion.bared))
        self._previous = paint.blend(Layer(now, out, layer.law), supposed, share)
        self._credit = known + share
        self._note(motion.first.trust, layer.law, error)
        return three_channels(self._previous.edit)

    def _recall(self, now: Pixels, motion: Motion) -> tuple[Layer, Field]:
        """What the first frame and the previous result say of this one, and how well it is known, 0 to 1."""
        first, previous, paint = motion.first, motion.previous, self._painter
        its = previous.trust * warp(self._credit, previous.flow) * (1 - first.trust)
        mine = cv2.max(first.trust, 0.02)
        known, share = cv2.min(mine + its, 1), its / (mine + its)
        a, b = paint.warp(self._first, first.flow), paint.warp(self._previous, previous.flow)
        ride = self._riders.ride(motion) if self._riders else None
        if ride is None:
            return paint.blend(a, b, share), known
        a, b = paint.unedit(a, ride.left_first), paint.unedit(b, ride.left_previous)
        rider = Layer(now, paint.move(self._first.edit, ride.flow), np.full_like(a.law, (0, 0, 0, 255)))
        known = cv2.max(known * (1 - ride.left_first), ride.cover)
        return paint.blend(paint.blend(a, b, share), rider, ride.cover), known

    def _note(self, trust: Field, law: Frame, error: Field) -> None:
        strength = law[..., 3] / np.float32(255)
        lost = 1 - soft(trust, 0.1, 0.6)
        doubtful = cv2.multiply(lost, 1 - bell(error / np.float32(12)))  # the rest is guessed, but well
        edited = max(float(strength.sum()), 0.02 * strength.size)  # a speck of edit is nothing to warn of
        in_edit, unexplained = (float((share * strength).sum()) / edited for share in (lost, doubtful))
        self._count += 1
        self._shares += (float(lost.mean()), in_edit, unexplained)
        self._worst = max(self._worst, (unexplained, self._count), key=itemgetter(0))

    @property
    def report(self) -> FlowReport:
        """On the frames carried so far."""
        everywhere, in_edit, doubtful = (self._shares / max(self._count, 1)).tolist()
        return FlowReport(self._count, everywhere, in_edit, doubtful, *self._worst)


class Look:
    """A grade: one map of colours that explains most of an edit. What is left of the edit is local.

    It holds for ground that the first frame never saw, so that less has to be carried or guessed.

    Args:
        weights: The map, a polynomial of second degree: float32 [10, 3]; none leaves colours as they are.
    """

    def __init__(self, weights: Field | None = None) -> None:
        self._weights = None if weights is None else 255 * weights.T

    @property
    def grades(self) -> bool:
        """Whether it changes anything."""
        return self._weights is not None

    def __call__(self, frame: Frame) -> Frame:
        if self._weights is None:
            return frame
        plain, squares, products = self._weights[:, [0, 1, 2, 9]], *np.split(self._weights[:, 3:9], 2, axis=1)
        out = np.empty_like(frame)
        for rows in _strips(len(frame)):
            x = frame[rows] * np.float32(1 / 255)
            most = cv2.transform(x, plain) + cv2.transform(x * x, squares)
            cv2.add(most, cv2.transform(x * cv2.transform(x, _NEXT), products), out[rows], dtype=cv2.CV_8U)
        return out

    @classmethod
    def between(cls, source: Frame, edit: Frame) -> Look:
        """The grade from one small frame to the other, if one explains clearly more than none does."""
        x, y = _colours(source), _colours(edit)
        weights = _robust_fit(x, y)
        grades = _explained(_polynomial(x) @ weights, y) >= max(0.5, _explained(x, y) + 0.25)
        return cls(weights if grades else None)


_NEXT = np.roll(np.eye(3, dtype=np.float32), 1, axis=1)  # green, blue, red


def _colours(frame: Frame) -> Field:
    """Some thousands of its colours, [n, 3], 0 to 1."""
    colours: Field = resize(frame, (96, 96)).reshape(-1, 3).astype(np.float32) / np.float32(255)
    return colours


def _explained(guess: Field, truth: Field) -> float:
    """The share of colours [n, 3] that are right within twelve levels."""
    return float((np.abs(guess - truth).max(axis=1) < 12 / 255).mean())


def _polynomial(x: Field) -> Field:
    """Colours [n, 3] and their products of second degree, [n, 10]."""
    r, g, b = x.T
    return np.stack([r, g, b, r * r, g * g, b * b, r * g, g * b, b * r, np.ones_like(r)], axis=1)


def _robust_fit(x: Field, y: Field) -> Field:
    """Least squares that outliers, which are local edits, do not pull at: float32 [10, 3]."""
    terms, still = _polynomial(x), np.eye(10, 3, dtype=np.float32)
    weights, ridge = still, 1e-4 * len(x) * np.eye(10, dtype=np.float32)
    for _ in range(12):
        error = np.square(terms @ weights - y).mean(axis=1, keepdims=True)
        trusted = terms / (1 + error / (10 / 255) ** 2)
        weights = still + np.linalg.solve(trusted.T @ terms + ridge, trusted.T @ (y - x))
    return weights.astype(np.float32)


@dataclass(frozen=True)
class Layer:
    """A source frame, its edit, and the law by which the one follows from the other.

    law: uint8 [h, w, 4] at the small size, for it is smooth: the gains of red, green and blue in units of
    1/128, then the strength of the edit.
    """

    source: Pixels
    edit: Pixels
    law: Frame


class Painter:
    """Work on whole frames, in memory that is kept: pages fresh from the system take longer than the sums.

    Fields come at the small size, float32 [h, w], and are spread over the frame.
    """

    def __init__(self, width: int, height: int) -> None:
        self._size, self._grid = (width, height), grid(height, width)
        self._where = np.empty_like(self._grid)
        self._a, self._b, self._c = np.empty((3, height, width, 4), np.float32)

    def warp(self, layer: Layer, flow: Field) -> Layer:
        """A layer carried by a flow, [h, w, 2] in pixels of the small size."""
        where = self._aim(flow)
        return Layer(sample(layer.source, where), sample(layer.edit, where), warp(layer.law, flow))

    def move(self, image: Pixels, flow: Field) -> Pixels:
        """One picture carried likewise."""
        return sample(image, self._aim(flow))

    def blend(self, layer: Layer, other: Layer, share: Field) -> Layer:
        """A layer with a share of another, 0 to 1."""
        narrow = cv2.merge([cv2.multiply(share, 128, dtype=cv2.CV_16S)] * 4)
        wide: NDArray[np.int16] = cv2.resize(narrow, self._size, interpolation=cv2.INTER_LINEAR)
        same = layer.source is other.source
        source = layer.source if same else _mix(layer.source, other.source, wide)
        return Layer(source, _mix(layer.edit, other.edit, wide), _mix(layer.law, other.law, narrow))

    def unedit(self, layer: Layer, mask: Field) -> Layer:
        """Back to the source where the mask is 1."""
        plain = Layer(layer.source, layer.source, np.full_like(layer.law, (_UNIT, _UNIT, _UNIT, 0)))
        return self.blend(layer, plain, mask) if mask.max() > 0 else layer

    def transfer(self, now: Pixels, layer: Layer, light: Field) -> Pixels:
        """light * E + gain * (S_k - light * S)."""
        gain = self._spread(layer.law * np.float32(1 / _UNIT), self._a)
        new = cv2.multiply(layer.source, gain, dst=self._b, dtype=cv2.CV_32F)
        new = cv2.subtract(layer.edit, new, dst=new, dtype=cv2.CV_32F)
        new = cv2.multiply(new, self._spread(four_channels(light), self._c), dst=new)
        follows = cv2.multiply(now, gain, dst=gain, dtype=cv2.CV_32F)
        out: Pixels = cv2.add(new, follows, dtype=cv2.CV_8U)
        return out

    def add(self, now: Pixels, change: Field) -> Pixels:
        """A frame whose levels change by so much, [h, w, 3]."""
        out: Pixels = cv2.add(now, self._spread(four_channels(change), self._a), dtype=cv2.CV_8U)
        return out

    def _aim(self, flow: Field) -> Field:
        """Where each pixel of a frame comes from."""
        scale = np.divide(self._size, flow.shape[1::-1], dtype=np.float32)
        where: Field = cv2.add(self._grid, self._spread(flow * scale, self._where), dst=self._where)
        return where

    def _spread(self, field: Field, room: Field) -> Field:
        wide: Field = cv2.resize(field, self._size, dst=room, interpolation=cv2.INTER_LINEAR)
        return wide


def _mix(a: Pixels, b: Pixels, share: NDArray[np.int16]) -> Pixels:
    """a + share * (b - a), shares in units of 1/128."""
    out = np.empty_like(a)
    for rows in _strips(len(a)):
        step = b[rows] - a[rows].astype(np.int16)
        step *= share[rows]
        step += 64
        step >>= 7
        step += a[rows]
        out[rows] = step
    return out


def _strips(height: int) -> Iterator[slice]:
    """Rows that fit the cache."""
    return (slice(top, top + 32) for top in range(0, height, 32))


def _law(source: Frame, edit: Frame) -> Frame:
    """Gain and strength of an edit: a regression of the edit on the source in small windows."""
    radius = max(2, min(source.shape[:2]) // 128)
    s, e = source.astype(np.float32), edit.astype(np.float32)
    mean_s, mean_e = box(s, radius), box(e, radius)
    variance, covariance = box(s * s, radius) - mean_s**2, box(s * e, radius) - mean_s * mean_e
    # Editors redraw texture a little everywhere. That is no edit, so texture asks for a stronger change.
    texture = cv2.sqrt(cv2.max(peak(variance), 0))
    strength = soft(peak(box(cv2.absdiff(s, e), radius)) / (8 + 0.5 * texture), 0.6, 1.6)
    gain = 1 + strength[..., None] * (np.clip(covariance / (variance + 100), 0, 1.9) - 1)
    return np.dstack([gain * _UNIT, strength * 255]).round().astype(np.uint8)


def _light(small: Frame, then: Frame, known: Field) -> Field:
    """The ratio of today's light to the first frame's, where they can be compared: float32 [h/4, w/4, 3]."""
    weight = cv2.merge([known + 1e-3] * 3)
    size = small.shape[1] // 4, small.shape[0] // 4
    shares = (resize(cv2.multiply(x, weight, dtype=cv2.CV_32F), size) for x in (small, then))
    a, b = (cv2.GaussianBlur(x, (0, 0), min(size) / 24) for x in shares)
    ratio: Field = np.clip((a + 1) / (b + 1), 0.6, 1.6)
    return ratio


def _first_order(small: Frame, then: Frame, law: Frame, light: Field) -> Field:
    """1 where the step from S to S_k is short, or followed in full; a long one proves the match wrong."""
    expected = cv2.multiply(then, resize(light, small.shape[1::-1]), dtype=cv2.CV_32F)
    unfollowed: Field = np.clip(1 - law[..., :3] / np.float32(_UNIT), 0, 1)
    gap = box(cv2.subtract(small, expected, dtype=cv2.CV_32F) * unfollowed, 2)
    return bell(peak(np.abs(gap) / np.float32(15)))


@dataclass(frozen=True)
class Guess:
    """An edit by colours alone: the change and its error in levels, float32 [h, w, 3] and [h, w]; its law."""

    change: Field
    law: Frame
    error: Field


def _guess(small: Frame, out: Frame, known: Field) -> Guess:
    """The frame edited by its colours alone."""
    maps, error = _colour_maps(small, out, known)
    size = small.shape[1::-1]
    rows = [resize(maps[:, :, i], size) for i in range(4)]
    change = 255 * rows[3]
    for row, colour in zip(rows, cv2.split(small), strict=False):
        change += cv2.multiply(row, cv2.cvtColor(colour, cv2.COLOR_GRAY2RGB), dtype=cv2.CV_32F)
    gain = np.dstack([np.clip(1 + rows[i][..., i], 0, 1.9) * _UNIT for i in range(3)])
    law = np.dstack([gain, 255 * soft(peak(np.abs(change)), 8, 28)]).round().astype(np.uint8)
    return Guess(change, law, resize(error, size))


def _colour_maps(small: Frame, out: Frame, known: Field) -> tuple[Field, Field]:
    """Maps [n, 48, 4, 3] of (colour, 1) to out - small, fitted in windows where out is known; their error."""
    size = 48, max(1, round(48 * small.shape[0] / small.shape[1]))
    weight = resize(known, size) + np.float32(1e-4)
    change = cv2.subtract(out, small, dtype=cv2.CV_32F) * cv2.merge([known] * 3)
    y = resize(change, size) / (255 * weight[..., None])
    x = np.dstack([resize(small, size) / np.float32(255), np.ones_like(weight)])
    xx = weight[..., None, None] * x[..., :, None] * x[..., None, :]
    xy = weight[..., None, None] * x[..., :, None] * y[..., None, :]
    ridge = np.diag(np.array([0.002, 0.002, 0.002, 0.02], np.float32))
    maps = np.linalg.solve(xx.mean(axis=(0, 1)) + ridge, xy.mean(axis=(0, 1)))
    for radius in (8, 3):  # where a narrow window knows too little, the ridge holds it to the wider one
        maps = np.linalg.solve(box(xx, radius) + ridge, box(xy, radius) + ridge @ maps)
    error = ((y - np.einsum("hwi,hwij->hwj", x, maps)) ** 2).mean(axis=2)
    error = box(weight * error, 3) / box(weight, 3)
    return maps.astype(np.float32), 255 * np.sqrt(error)
