"""What an edited clip is judged by, where its true edit is not known: one function for each metric.

Each takes a ``Sample`` and the ``Judges``, and gives NaN where it does not apply. ``METRICS`` holds them all,
with ranges and directions. Motion is that of the source, by dense inverse search (Kroeger et al., ECCV 2016).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import inf, isnan, nan
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from anyv2v.editors.protocol import Mask
from anyv2v.errors import UserError
from anyv2v.evaluation import metrics
from anyv2v.picture import Frame

if TYPE_CHECKING:
    from torch import Tensor

    from anyv2v.evaluation.judges import Judges

__all__ = ["METRICS", "Metric", "Sample", "adherence_curve", "measured"]

Frames = NDArray[np.uint8]
Region = NDArray[np.bool_]  # [F, H, W]
Field = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Sample:
    """An edited clip and what it may be judged by.

    Attributes:
        frames: The edited clip, ``[F, H, W, 3]``.
        source: The source, of the same size and number of frames.
        edited_first: The edited first frame that was to be carried, ``[H, W, 3]``.
        prompt: What the edited clip shows.
        mask: Where the first frame was allowed to change, ``[H, W]``.
        seconds: Wall time of the edit.
        network_rows: Rows of the batch summed over all calls of the net.
        peak_bytes: Most memory held on the GPU.
    """

    frames: Frames
    source: Frames
    edited_first: Frame | None = None
    prompt: str = ""
    mask: Mask | None = None
    seconds: float = nan
    network_rows: float = nan
    peak_bytes: float = nan

    @cached_property
    def motion(self) -> tuple[Field, Region]:
        """The source's motion, as ``warping_error`` takes it."""
        return motion_of(self.source)

    @cached_property
    def background(self) -> Region | None:
        """What was not allowed to change in each frame; None without a mask."""
        return None if self.mask is None else ~carried(self.mask, self.source, self.motion[0])


@dataclass(frozen=True)
class Metric:
    """One number about a sample.

    Attributes:
        name: What it is called in files; the name of its function.
        title: What it is called in tables.
        better: Which way is better.
        low: The least it can be.
        high: The most it can be.
        measure: Gives the number; NaN where it does not apply. Raises WeightsMissing without its judge.
        summary: What it says, in a line.
        needs: What a sample must have for it.
    """

    name: str
    title: str
    better: Literal["higher", "lower"]
    low: float
    high: float
    measure: Callable[[Sample, Judges], float]
    summary: str
    needs: str = "a clip"


_METRICS: dict[str, Metric] = {}

METRICS: Mapping[str, Metric] = MappingProxyType(_METRICS)
"""Every metric by name."""

Measure = Callable[[Sample, "Judges"], float]


def _metric(
    title: str,
    better: Literal["higher", "lower"],
    span: tuple[float, float],
    summary: str,
    needs: str = "a clip",
) -> Callable[[Measure], Measure]:
    """Put a function among the metrics, under its own name; see ``Metric``."""

    def register(measure: Measure) -> Measure:
        name = measure.__name__
        _METRICS[name] = Metric(name, title, better, *span, measure, summary, needs)
        return measure

    return register


def measured(sample: Sample, judges: Judges, names: Iterable[str] | None = None) -> dict[str, float | str]:
    """Each metric of a sample, or those that are named: its number, or else why there is none."""
    return {name: _number(METRICS[name], sample, judges) for name in names or METRICS}


def _number(metric: Metric, sample: Sample, judges: Judges) -> float | str:
    try:
        value = metric.measure(sample, judges)
    except UserError as error:
        return f"n/a: {error}"
    except ModuleNotFoundError as error:
        return f"n/a: {error.name} is not installed; get it with: pip install 'anyv2v[eval]'"
    return f"n/a: this needs {metric.needs}" if isnan(value) else value


_FIRST, _MASK = "the edited first frame", "a mask that leaves something out"
_MOTION = "a source in which something can be followed"


# -- by models


@_metric("CLIP-Text", "higher", (-1, 1), "cosine of prompt and frames in CLIP", "a prompt")
def clip_text(sample: Sample, judges: Judges) -> float:
    """CLIP-Text of AnyV2V (arXiv 2403.14468, section 5.3): does the clip show what the prompt says?

    The mean over frames of the cosine of the prompt's and the frame's embeddings in CLIP's space, -1 to 1,
    higher is better. Real pictures and their captions are at 0.2 to 0.35.
    """
    if not sample.prompt:
        return nan
    return (_embedded(sample, judges) @ judges.clip.texts([sample.prompt])[0]).mean().item()


@_metric("CLIP-Image", "higher", (-1, 1), "cosine of consecutive frames in CLIP", "two frames")
def clip_image(sample: Sample, judges: Judges) -> float:
    """CLIP-Image of AnyV2V (arXiv 2403.14468, section 5.3): does the clip stay the same from frame to frame?

    The mean cosine of the embeddings of consecutive frames in CLIP's space, -1 to 1, higher is better. A
    still has 1: it says nothing of motion.
    """
    if len(sample.frames) < 2:
        return nan
    frames = _embedded(sample, judges)
    return (frames[1:] * frames[:-1]).sum(dim=-1).mean().item()


def _embedded(sample: Sample, judges: Judges) -> Tensor:
    return judges.once(sample, "clip", lambda: judges.clip.pictures(sample.frames))


@_metric("PickScore", "higher", (-100, 100), "what people would pick for the prompt", "a prompt")
def pick_score(sample: Sample, judges: Judges) -> float:
    """PickScore (Kirstain et al., arXiv 2305.01569): would people pick these pictures for the prompt?

    The mean over frames of the cosine of prompt and frame, times the model's scale of 100, as published: -100
    to 100, mostly 17 to 24, higher is better.
    """
    if not sample.prompt:
        return nan
    frames, text = judges.pick.pictures(sample.frames), judges.pick.texts([sample.prompt])[0]
    return (frames @ text).mean().item() * float(judges.pick.model.logit_scale.exp())


@_metric("structure", "lower", (0, 4), "distance of DINO's structure to the source's")
def structure(sample: Sample, judges: Judges) -> float:
    """Structure distance to the source (Splice, arXiv 2201.00424): are things still where they were?

    Of each frame, the mean squared difference of two matrices, the frame's and the source's: the cosines of
    all pairs of keys in DINO's last layer. The mean over frames; 0 to 4, mostly below 0.2, lower is better.
    """
    return _dino(sample, judges)[0].mean().item()


@_metric("adherence", "higher", (-1, 1), "cosine of frames and edited first frame in DINO", _FIRST)
def adherence(sample: Sample, judges: Judges) -> float:
    """The mean of ``adherence_curve``, -1 to 1, higher is better."""
    if sample.edited_first is None:
        return nan
    return float(adherence_curve(sample, judges).mean())


def adherence_curve(sample: Sample, judges: Judges) -> Field:
    """How much each frame shows what the edited first frame shows: ``[F]``, -1 to 1.

    The cosine of their class tokens in DINO, which tell the appearance of a picture (Splice, arXiv
    2201.00424). It falls as an edit fades.
    """
    _, wanted = judges.dino.look(np.asarray(sample.edited_first)[None])
    curve: Field = (_dino(sample, judges)[1] @ wanted[0].cpu()).numpy()
    return curve


def _dino(sample: Sample, judges: Judges) -> tuple[Tensor, Tensor]:
    return judges.once(sample, "dino", lambda: judges.dino.compare(sample.frames, sample.source))


# -- by pixels


@_metric("1st frame dB", "higher", (0, 100), "PSNR of frame 0 to the edited first frame", _FIRST)
def first_frame(sample: Sample, _judges: Judges) -> float:
    """PSNR of frame 0 against the edited first frame: 0 to 100 dB, which stands for equal; higher is better.

    Codecs and VAEs keep it below 100 even where a backbone returns its first frame.
    """
    if sample.edited_first is None:
        return nan
    return metrics.first_frame_adherence(sample.frames, sample.edited_first)


@_metric("outside dB", "higher", (0, 100), "PSNR to the source outside the mask", _MASK)
def background_psnr(sample: Sample, _judges: Judges) -> float:
    """PSNR to the source outside the mask: 0 to 100 dB, which stands for equal; higher is better.

    See ``carried`` for where the mask is in later frames.
    """
    if sample.background is None:
        return nan
    return metrics.bounded_psnr(sample.frames, sample.source, sample.background)


@_metric("outside SSIM", "higher", (-1, 1), "SSIM to the source outside the mask", _MASK)
def background_ssim(sample: Sample, _judges: Judges) -> float:
    """Structural similarity (Wang et al., 2004) to the source outside the mask: -1 to 1, higher is better."""
    if sample.background is None:
        return nan
    return metrics.ssim(sample.frames, sample.source, sample.background)


@_metric("outside VGG", "lower", (0, 1), "distance to the source in VGG-19 outside the mask", _MASK)
def background_perceptual(sample: Sample, judges: Judges) -> float:
    """Distance to the source outside the mask in features of VGG-19: 0 to 1, lower is better.

    Like LPIPS (arXiv 1801.03924), but without the weights that LPIPS learned for its channels: see
    ``judges.VGG``.
    """
    if sample.background is None:
        return nan
    return judges.vgg.distance(sample.frames, sample.source, sample.background)


@_metric("sharpness", "higher", (0, inf), "detail in units of the source's", "a source that is not blank")
def sharpness(sample: Sample, _judges: Judges) -> float:
    """Detail in units of the source's: 0 to infinity, higher is better; 1 is as sharp as the source.

    The ratio of the mean variances of the Laplacian (Pech-Pacheco et al., ICPR 2000). Noise counts as detail.
    It compares methods on the same edit, as another edit asks for another amount of detail.
    """
    ours, theirs = _detail(sample.frames), _detail(sample.source)
    return ours / theirs if theirs else nan


def _detail(frames: Frames) -> float:
    return float(np.mean([cv2.Laplacian(_grey(frame), cv2.CV_32F).var() for frame in frames]))


# -- by motion


@_metric("warp error", "lower", (0, 255), "change along the source's motion, in levels", _MOTION)
def warping_error(sample: Sample, _judges: Judges) -> float:
    """Mean absolute change along the source's motion, in levels: 0 to 255, lower is better.

    The warping error of Lai et al. (arXiv 1808.00449), absolute where they square. Only pixels count that
    ``motion_of`` finds again. Flicker raises it, and so does motion that is not the source's; blur lowers it.
    """
    flow, visible = sample.motion
    return metrics.warping_error(sample.frames, flow, visible) if visible.any() else nan


@_metric("motion", "higher", (-1, 1), "similarity of the tracks of points to the source's", _MOTION)
def motion_fidelity(sample: Sample, _judges: Judges) -> float:
    """Motion fidelity (Yatim et al., arXiv 2311.17009): do things move as in the source?

    Each track of a point in the edit is compared with the most similar one anywhere in the source, and the
    other way round. How similar two are is the mean over time of the cosine of their displacements: -1 to 1,
    higher is better. What is told is the mean of the means of either direction, and 0 where nothing in the
    edit can be followed.

    A displacement has a third component here, for time, as in the angular error of Barron et al. (IJCV 1994).
    So points at rest are similar to each other, and no direction is read into their noise. And tracks are
    those of ``tracks_of``, not of the paper's CoTracker. So numbers do not compare with the paper's.
    """
    ours, theirs = _headings(sample.frames), _headings(sample.source)
    if not len(theirs):
        return nan
    if not len(ours):
        return 0.0
    alike = np.einsum("nkc, mkc -> nm", ours, theirs) / ours.shape[1]
    return float(alike.max(axis=0).mean() + alike.max(axis=1).mean()) / 2


STEP = 1 / 512  # of the shorter side: the displacement that weighs as much as rest


def _headings(frames: Frames) -> Field:
    """Unit vectors (x, y, time) of each track from each frame to the next, ``[n, F - 1, 3]``."""
    moved = np.diff(tracks_of(frames), axis=1) / np.float32(STEP * min(frames.shape[1:3]))
    headings = np.concatenate([moved, np.ones_like(moved[..., :1])], axis=-1)
    unit: Field = headings / np.linalg.norm(headings, axis=-1, keepdims=True)
    return unit if moved.shape[1] else unit[:0]


TRACKED = 256  # pixels of the shorter side; more cost time and tell no more of the motion
LOST = 0.5  # pixels between a point and where it comes back to


def tracks_of(frames: Frames) -> Field:
    """Where corners of the first frame are in every frame: x, y in pixels, ``[n, F, 2]``, n at most 400.

    Found as in Shi and Tomasi (CVPR 1994), followed as in Lucas and Kanade (IJCAI 1981) through a pyramid. A
    point is given up when following it back does not end where it began; only those that last through the
    clip are told.
    """
    scale = max(1.0, min(frames.shape[1:3]) / TRACKED)
    size = round(frames.shape[2] / scale), round(frames.shape[1] / scale)
    grey = [cv2.resize(_grey(frame), size, interpolation=cv2.INTER_AREA) for frame in frames]
    corners = cv2.goodFeaturesToTrack(grey[0], maxCorners=400, qualityLevel=0.01, minDistance=min(size) / 40)
    tracks = np.empty((0, 1, 2), np.float32) if corners is None else corners
    for before, after in pairwise(grey):
        tracks = _followed(tracks, before, after)
    return np.asarray(tracks * np.float32(scale))


def _followed(tracks: Field, before: Frame, after: Frame) -> Field:
    """Tracks ``[n, k, 2]`` a frame later, ``[m, k + 1, 2]``."""
    last = np.ascontiguousarray(tracks[:, -1:])
    if not len(last):
        return np.concatenate([tracks, last], axis=1)
    now, found, _ = cv2.calcOpticalFlowPyrLK(before, after, last, None)
    back, returned, _ = cv2.calcOpticalFlowPyrLK(after, before, now, None)
    kept = (found & returned).astype(bool)[:, 0] & (np.linalg.norm(back - last, axis=-1)[:, 0] < LOST)
    return np.asarray(np.concatenate([tracks, now], axis=1)[kept])


def motion_of(frames: Frames) -> tuple[Field, Region]:
    """Where each pixel of frame k + 1 was in frame k, and whether it could be seen there.

    It could if the way back leads to where it came from, as in Sundaram et al. (ECCV 2010).

    Returns:
        Offsets in pixels, ``[F - 1, H, W, 2]``, and ``[F - 1, H, W]``.
    """
    flow = np.empty((len(frames) - 1, *frames.shape[1:3], 2), np.float32)
    visible = np.empty(flow.shape[:3], bool)
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    for k, (before, after) in enumerate(pairwise(_grey(frame) for frame in frames)):
        flow[k] = dis.calc(after, before, None)
        visible[k] = _returns(flow[k], dis.calc(before, after, None))
    return flow, visible


def _returns(back: Field, forth: Field) -> Region:
    """Where the way back, and the way forth from its end, lead to the start, ``[H, W]``, and inside."""
    where = _grid(back) + back
    there = cv2.remap(forth, where, None, cv2.INTER_LINEAR)
    inside = ((where >= 0) & (where <= np.subtract(back.shape[1::-1], 1))).all(axis=-1)
    gap, length = (np.square(x).sum(axis=-1) for x in (back + there, np.dstack([back, there])))
    return np.asarray(inside & (gap < 0.01 * length + 0.5))


MARGIN = 1 / 64  # of the shorter side


def carried(mask: Mask, frames: Frames, flow: Field) -> Region:
    """Where a mask of the first frame is in each frame, ``[F, H, W]``.

    Each pixel asks where it was in the first frame, in two ways: along the chain of steps, which drifts and
    loses what passes behind a thing, and by a search that starts at the end of the chain. Either will do: in
    doubt a pixel is masked, so that no edit counts as damage. For the same reason, ground that a masked thing
    bares stays masked, and what comes into the frame counts as what it comes in beside. And the mask is
    widened by 1/64 of the shorter side, since a VAE blurs what is edited into what is beside it.

    Args:
        mask: ``[H, W]``.
        frames: ``[F, H, W, 3]``.
        flow: Their motion, of ``motion_of``.
    """
    flags, grid = mask.astype(np.uint8), _grid(mask)
    masks, chain, first = [flags], grid, _grey(frames[0])
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    for step, frame in zip(flow, frames[1:], strict=True):
        chain = cv2.remap(chain, grid + step, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        search = grid + dis.calc(_grey(frame), first, chain - grid)
        masks.append(_looked_up(flags, chain) | _looked_up(flags, search))
    reach = max(1, round(MARGIN * min(mask.shape)))
    brush = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    return np.stack([cv2.dilate(shown, brush) for shown in masks]).astype(bool)


def _looked_up(flags: NDArray[np.uint8], where: Field) -> NDArray[np.uint8]:
    return np.asarray(cv2.remap(flags, where, None, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE))


def _grid(of: NDArray[np.generic]) -> Field:
    """Each pixel's own x and y, ``[H, W, 2]``."""
    height, width = of.shape[:2]
    return np.dstack(np.meshgrid(np.arange(width), np.arange(height))).astype(np.float32)


def _grey(frame: Frame) -> Frame:
    return np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY))


# -- costs

_METERED = "a method that says what it cost"


@_metric("s", "lower", (0, inf), "wall time in seconds", _METERED)
def seconds(sample: Sample, _judges: Judges) -> float:
    """Wall time of the edit in seconds, lower is better."""
    return sample.seconds


@_metric("net rows", "lower", (0, inf), "rows of the batch over all calls of the net", _METERED)
def network_rows(sample: Sample, _judges: Judges) -> float:
    """Rows of the batch summed over all calls of the net: time that does not depend on the machine."""
    return sample.network_rows


@_metric("peak bytes", "lower", (0, inf), "most memory held on the GPU", _METERED)
def peak_bytes(sample: Sample, _judges: Judges) -> float:
    """Most memory held on the GPU in bytes, lower is better."""
    return sample.peak_bytes
