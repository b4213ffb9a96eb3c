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

Flow: Kroeger et al., "Fast Optical Flow using Dense Inverse Search", ECCV 2016. Round trip: Sundaram et al.,
"Dense Point Trajectories by GPU-accelerated Large Displacement Optical Flow", ECCV 2010. Local affine maps:
He et al., "Guided Image Filtering", TPAMI 2013.

Not covered: what the first frame cannot tell. A thing that enters later takes on a restyling of the whole
picture and nothing else; a painted texture does not go on behind a thing that moves away.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from operator import itemgetter
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from anyv2v.ahead import ahead
from anyv2v.errors import ImageError, OptionError
from anyv2v.video import Frame

__all__ = ["Carried", "Flow", "FlowCarrier", "FlowReport"]

Field = NDArray[np.float32]  # [h, w] or [h, w, C], at the small size at which motion is measured
Pixels = NDArray[np.uint8]  # [H, W, 4], RGB and a channel that says nothing: OpenCV warps four twice as fast
Size = tuple[int, int]  # width, height

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
        ImageError: The edited first frame and the clip differ in size; raised by the first draw.
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
        ImageError: The two differ in size.
    """

    def __init__(self, source_first: Frame, edited_first: Frame, flow: Flow = Flow()) -> None:
        (height, width), (h, w) = source_first.shape[:2], edited_first.shape[:2]
        if (height, width) != (h, w):
            raise ImageError(f"the edited first frame is {w}x{h}, the clip {width}x{height}; make them equal")
        scale = min(1.0, flow.detail / min(height, width))
        self._size = round(width * scale), round(height * scale)
        source, edit = _resize(source_first, self._size), _resize(edited_first, self._size)
        self._look = Look.between(source, edit)
        graded_first = self._look(source_first)
        law = _resize(_law(graded_first, edited_first), self._size)
        self._first = self._previous = Layer(_pixels(graded_first), _pixels(edited_first), law)
        self._painter = Painter(width, height)
        self._credit = np.ones(source.shape[:2], np.float32)
        self._tracker, self._riders = Tracker(source), Riders.find(self._look(source), edit)
        self._count, self._shares, self._worst = 0, np.zeros(3), (0.0, 0)

    def __call__(self, frame: Frame) -> Frame:
        """The edit of the next source frame; both uint8 ``[H, W, 3]``."""
        return self.paint(frame, self.track(frame))

    def track(self, frame: Frame) -> Motion:
        """Measure the motion up to the next source frame; it may be measured before the last is painted."""
        return self._tracker.track(_resize(frame, self._size))

    def paint(self, frame: Frame, motion: Motion) -> Frame:
        """The edit of the next source frame, whose motion is known."""
        frame, paint = self._look(frame), self._painter
        now, small = _pixels(frame), _resize(frame, self._size)
        layer, known = self._recall(now, motion)
        then = _frame(_resize(layer.source, self._size))
        light = _light(small, then, known)
        known = known * _first_order(small, then, layer.law, light)
        out = paint.transfer(now, layer, light)
        guess = _guess(small, _frame(_resize(out, self._size)), known)
        supposed, error = Layer(now, paint.add(now, guess.change), guess.law), guess.error
        if self._look.grades:  # then bared ground needs the grade, and no guess at what lay around it
            supposed = paint.unedit(supposed, motion.bared)
            error = error * (1 - motion.bared)
        # A poor guess is worse than a doubtful match; but ground that was just bared has no match at all.
        share = (1 - known) * _bell(error / (12 + 13 * motion.bared))
        self._previous = paint.blend(Layer(now, out, layer.law), supposed, share)
        self._credit = known + share
        self._note(motion.first.trust, layer.law, error)
        return _frame(self._previous.edit)

    def _recall(self, now: Pixels, motion: Motion) -> tuple[Layer, Field]:
        """What the first frame and the previous result say of this one, and how well it is known, 0 to 1."""
        first, previous, paint = motion.first, motion.previous, self._painter
        its = previous.trust * _warp(self._credit, previous.flow) * (1 - first.trust)
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
        lost = 1 - _soft(trust, 0.1, 0.6)
        doubtful = cv2.multiply(lost, 1 - _bell(error / np.float32(12)))  # the rest is guessed, but well
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
    colours: Field = _resize(frame, (96, 96)).reshape(-1, 3).astype(np.float32) / np.float32(255)
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
        self._size, self._grid = (width, height), _grid(height, width)
        self._where = np.empty_like(self._grid)
        self._a, self._b, self._c = np.empty((3, height, width, 4), np.float32)

    def warp(self, layer: Layer, flow: Field) -> Layer:
        """A layer carried by a flow, [h, w, 2] in pixels of the small size."""
        where = self._aim(flow)
        return Layer(_sample(layer.source, where), _sample(layer.edit, where), _warp(layer.law, flow))

    def move(self, image: Pixels, flow: Field) -> Pixels:
        """One picture carried likewise."""
        return _sample(image, self._aim(flow))

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
        new = cv2.multiply(new, self._spread(_pixels(light), self._c), dst=new)
        follows = cv2.multiply(now, gain, dst=gain, dtype=cv2.CV_32F)
        out: Pixels = cv2.add(new, follows, dtype=cv2.CV_8U)
        return out

    def add(self, now: Pixels, change: Field) -> Pixels:
        """A frame whose levels change by so much, [h, w, 3]."""
        out: Pixels = cv2.add(now, self._spread(_pixels(change), self._a), dtype=cv2.CV_8U)
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
    mean_s, mean_e = _box(s, radius), _box(e, radius)
    variance, covariance = _box(s * s, radius) - mean_s**2, _box(s * e, radius) - mean_s * mean_e
    # Editors redraw texture a little everywhere. That is no edit, so texture asks for a stronger change.
    texture = cv2.sqrt(cv2.max(_peak(variance), 0))
    strength = _soft(_peak(_box(cv2.absdiff(s, e), radius)) / (8 + 0.5 * texture), 0.6, 1.6)
    gain = 1 + strength[..., None] * (np.clip(covariance / (variance + 100), 0, 1.9) - 1)
    return np.dstack([gain * _UNIT, strength * 255]).round().astype(np.uint8)


def _light(small: Frame, then: Frame, known: Field) -> Field:
    """The ratio of today's light to the first frame's, where they can be compared: float32 [h/4, w/4, 3]."""
    weight = cv2.merge([known + 1e-3] * 3)
    size = small.shape[1] // 4, small.shape[0] // 4
    shares = (_resize(cv2.multiply(x, weight, dtype=cv2.CV_32F), size) for x in (small, then))
    a, b = (cv2.GaussianBlur(x, (0, 0), min(size) / 24) for x in shares)
    ratio: Field = np.clip((a + 1) / (b + 1), 0.6, 1.6)
    return ratio


def _first_order(small: Frame, then: Frame, law: Frame, light: Field) -> Field:
    """1 where the step from S to S_k is short, or followed in full; a long one proves the match wrong."""
    expected = cv2.multiply(then, _resize(light, small.shape[1::-1]), dtype=cv2.CV_32F)
    unfollowed: Field = np.clip(1 - law[..., :3] / np.float32(_UNIT), 0, 1)
    gap = _box(cv2.subtract(small, expected, dtype=cv2.CV_32F) * unfollowed, 2)
    return _bell(_peak(np.abs(gap) / np.float32(15)))


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
    rows = [_resize(maps[:, :, i], size) for i in range(4)]
    change = 255 * rows[3]
    for row, colour in zip(rows, cv2.split(small), strict=False):
        change += cv2.multiply(row, cv2.cvtColor(colour, cv2.COLOR_GRAY2RGB), dtype=cv2.CV_32F)
    gain = np.dstack([np.clip(1 + rows[i][..., i], 0, 1.9) * _UNIT for i in range(3)])
    law = np.dstack([gain, 255 * _soft(_peak(np.abs(change)), 8, 28)]).round().astype(np.uint8)
    return Guess(change, law, _resize(error, size))


def _colour_maps(small: Frame, out: Frame, known: Field) -> tuple[Field, Field]:
    """Maps [n, 48, 4, 3] of (colour, 1) to out - small, fitted in windows where out is known; their error."""
    size = 48, max(1, round(48 * small.shape[0] / small.shape[1]))
    weight = _resize(known, size) + np.float32(1e-4)
    change = cv2.subtract(out, small, dtype=cv2.CV_32F) * cv2.merge([known] * 3)
    y = _resize(change, size) / (255 * weight[..., None])
    x = np.dstack([_resize(small, size) / np.float32(255), np.ones_like(weight)])
    xx = weight[..., None, None] * x[..., :, None] * x[..., None, :]
    xy = weight[..., None, None] * x[..., :, None] * y[..., None, :]
    ridge = np.diag(np.array([0.002, 0.002, 0.002, 0.02], np.float32))
    maps = np.linalg.solve(xx.mean(axis=(0, 1)) + ridge, xy.mean(axis=(0, 1)))
    for radius in (8, 3):  # where a narrow window knows too little, the ridge holds it to the wider one
        maps = np.linalg.solve(_box(xx, radius) + ridge, _box(xy, radius) + ridge @ maps)
    error = ((y - np.einsum("hwi,hwij->hwj", x, maps)) ** 2).mean(axis=2)
    error = _box(weight * error, 3) / _box(weight, 3)
    return maps.astype(np.float32), 255 * np.sqrt(error)


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
        now, first, previous = (_gray(x) for x in (frame, self._first, self._previous))
        step = _settle(self._dis.calc(now, previous, None), frame, self._previous)
        # A chain of steps drifts and a direct search gets lost, so the search starts at the end of the chain.
        back = self._dis.calc(now, first, step + _warp(self._back, step))
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
    where = cv2.convertMaps(cv2.add(_grid(*flow.shape[:2]), flow), None, cv2.CV_16SC2)  # half the time
    warped = cv2.remap(other, *where, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    error: Field = _box(_peak(cv2.absdiff(frame, warped)).astype(np.float32), 1)
    return error


def _unstretched(flow: Field) -> Field:
    """0 where a flow spreads few pixels over many: that is ground which a moving thing has just bared."""
    x, y = cv2.split(flow)
    xx, xy, yx, yy = (cv2.Scharr(c, cv2.CV_32F, *d, scale=1 / 32) for c in (x, y) for d in ((1, 0), (0, 1)))
    area = (1 + xx) * (1 + yy) - xy * yx
    whole: Field = cv2.erode(_soft(area, 0.5, 0.9), np.ones((3, 3)))
    return whole


def _round_trip(flow: Field, inverse: Field) -> Field:
    back = _warp(inverse, flow)
    return _bell(cv2.sqrt(_squared(flow + back) / (2 + 0.01 * (_squared(flow) + _squared(back)))))


def _likeness(flow: Field, frame: Frame, other: Frame) -> Field:
    """1 where a neighbourhood has the colours that the flow promises; texture may be a little out of step."""
    error = _peak(cv2.absdiff(_box(frame, 2), _box(_warp(other, flow), 2))).astype(np.float32)
    gray = _gray(frame).astype(np.float32)
    texture = cv2.sqrt(cv2.max(_box(gray * gray, 3) - _box(gray, 3) ** 2, 0))
    like = _bell(cv2.sqrt(cv2.GaussianBlur((error / (10 + 0.4 * texture)) ** 2, (0, 0), 1.5)))
    inside: Field = _warp(np.ones_like(like), flow, cv2.BORDER_CONSTANT)
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
        self._homes = [_soft(_box(piece, 4), 0, 0.1) for piece in pieces]
        self._rides = [False] * len(pieces)
        self._cover = np.zeros_like(pieces[0])
        height, width = self._cover.shape
        self._plane = np.dstack([_grid(height, width) * (2 / width) - 1, np.ones_like(self._cover)])
        edge = np.ones((height, width), bool)
        edge[height // 12 : -height // 12, width // 12 : -width // 12] = False
        self._edge = np.flatnonzero(edge & (np.max(pieces, axis=0) < 0.1))[::16]

    @classmethod
    def find(cls, source: Frame, edit: Frame) -> Riders | None:
        """Pieces from 0.3% to 15% of the picture; a larger one is a restyling, a smaller one is noise."""
        change = np.abs(_box(cv2.subtract(edit, source, dtype=cv2.CV_32F), 2))
        new = _soft(_peak(change), 30, 60)
        count, labels, stats, _ = cv2.connectedComponentsWithStats((new > 0.1).astype(np.uint8))
        areas = stats[:, cv2.CC_STAT_AREA] / new.size
        pieces = [new * (labels == i) for i in range(1, count) if 0.003 < areas[i] < 0.15]
        return cls(pieces) if pieces else None

    def ride(self, motion: Motion) -> Ride | None:
        """Where the riders are now; None as long as there are none."""
        first, forth = motion.first, motion.forth
        there, here = self._drift(forth), _soft(self._drift(first.flow), 1, 3) * first.trust
        flow, (cover, left) = np.zeros_like(forth), np.zeros((2, *here.shape), np.float32)
        for i, (piece, home) in enumerate(zip(self._pieces, self._homes, strict=True)):
            self._rides[i] = self._rides[i] or 0.12 < _moving_share(piece, there) < 0.82
            if self._rides[i]:
                was = _warp(home, first.flow)
                rigid = _rigid(first.flow, here * was)
                now = _warp(piece, rigid, cv2.BORDER_CONSTANT)
                flow = np.where((now > cover)[..., None], rigid, flow)
                cover, left = cv2.max(cover, now), cv2.max(left, was)
        left_previous = _warp(self._cover, motion.previous.flow) * (1 - cover)
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
        drift: Field = cv2.sqrt(_squared(flow - cv2.transform(self._plane, motion.T)))
        return drift


def _moving_share(piece: Field, drift: Field) -> float:
    """The share of a piece that goes with the fastest thing in it; 0 until that has moved far enough."""
    fastest = np.quantile(drift[piece > 0.5], 0.9) if (piece > 0.5).any() else 0.0
    if fastest < 2:
        return 0.0
    return float((piece * _soft(drift / fastest, 0.3, 0.6)).sum() / piece.sum())


def _rigid(flow: Field, weight: Field) -> Field:
    """The shift, rotation and scale nearest to a weighted flow: a * arm + shift in the complex plane."""
    z, f = (np.ascontiguousarray(x).view(np.complex64)[..., 0] for x in (_grid(*weight.shape), flow))
    total = weight.sum() + 1e-6
    centre, shift = (weight * z).sum() / total, (weight * f).sum() / total
    arm = z - centre
    # The ridge holds a patch that is too small to tell a rotation to a pure shift.
    a = (weight * arm.conj() * f).sum() / ((weight * abs(arm) ** 2).sum() + 50 * total)
    rigid: Field = (a * arm + shift).astype(np.complex64)[..., None].view(np.float32)
    return rigid


@lru_cache(maxsize=4)
def _grid(height: int, width: int) -> Field:
    return np.dstack(np.meshgrid(np.arange(width), np.arange(height))).astype(np.float32)


def _warp(image: NDArray[Any], flow: Field, border: int = cv2.BORDER_REFLECT_101) -> NDArray[Any]:
    """image[x + flow(x)], mirrored at the border: a texture that ends at the frame goes on."""
    where = cv2.add(_grid(*flow.shape[:2]), flow)
    return _sample(image, where, border)


def _sample(image: NDArray[Any], where: Field, border: int = cv2.BORDER_REFLECT_101) -> NDArray[Any]:
    out: NDArray[Any] = cv2.remap(image, where, None, cv2.INTER_LINEAR, borderMode=border)
    return out


def _pixels(frame: NDArray[Any]) -> NDArray[Any]:
    pixels: NDArray[Any] = cv2.cvtColor(frame, cv2.COLOR_RGB2RGBA)
    return pixels


def _frame(pixels: Pixels) -> Frame:
    frame: Frame = cv2.cvtColor(pixels, cv2.COLOR_RGBA2RGB)
    return frame


def _resize(image: NDArray[Any], size: Size) -> NDArray[Any]:
    while 4 * size[0] <= image.shape[1] and image.shape[0] % 2 == image.shape[1] % 2 == 0:
        image = cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)  # by two is fast
    how = cv2.INTER_AREA if size[0] < image.shape[1] else cv2.INTER_LINEAR
    out: NDArray[Any] = cv2.resize(image, size, interpolation=how)
    return out


def _box(x: NDArray[Any], radius: int) -> NDArray[Any]:
    mean: NDArray[Any] = cv2.blur(x.reshape(*x.shape[:2], -1), (2 * radius + 1, 2 * radius + 1))
    return mean.reshape(x.shape)


def _gray(frame: Frame) -> Frame:
    gray: Frame = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    return gray


def _peak(x: NDArray[Any]) -> NDArray[Any]:
    """The largest channel; np.max over the last axis takes ten times as long."""
    r, g, b = cv2.split(x)
    peak: NDArray[Any] = cv2.max(cv2.max(r, g), b)
    return peak


def _squared(flow: Field) -> Field:
    length: Field = cv2.transform(cv2.multiply(flow, flow), np.ones((1, 2), np.float32))
    return length


def _bell(x: Field) -> Field:
    """exp(-x^2): 1 at 0, falling to 0."""
    bell: Field = cv2.exp(-x * x)
    return bell


def _soft(x: NDArray[Any], low: float, high: float) -> Field:
    """A smooth step from 0 at low to 1 at high."""
    t: Field = np.clip((x - low) * np.float32(1 / (high - low)), 0, 1)
    return t * t * (3 - 2 * t)
