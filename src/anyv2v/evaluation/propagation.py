"""The benchmark of propagation: clips whose true edit is known, so that every method is judged by numbers.

Scores leave the first frame out, as every method is given it; only first-frame adherence looks at it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice, product
from pathlib import Path
from statistics import fmean

import cv2
import numpy as np
from numpy.typing import NDArray

from anyv2v.errors import VideoError
from anyv2v.evaluation.captions import describe
from anyv2v.evaluation.filming import Pair, render_pair
from anyv2v.evaluation.methods import Method, Result, Task
from anyv2v.evaluation.metrics import bounded_psnr, first_frame_adherence, ssim, warping_error
from anyv2v.evaluation.scenes import EDITS, MOTIONS, edit_scene, sample_scene
from anyv2v.picture import Fit, Size
from anyv2v.video import Clip

__all__ = [
    "EDITS",
    "METRICS",
    "MOTIONS",
    "Case",
    "Estimate",
    "Row",
    "Score",
    "estimate",
    "real_cases",
    "real_clips",
    "rendered_cases",
    "run",
    "summarise",
]

METRICS = ("psnr", "psnr_edit", "psnr_rest", "ssim", "ssim_edit", "ssim_rest", "first_frame", "warp")
"""dB, dB in the edited region and outside it; structural similarity likewise; dB of frame 0; levels."""

SIDE, FRAMES, FPS = 128, 16, Fraction(8)


@dataclass(frozen=True)
class Case:
    """A task with the truth about it.

    Attributes:
        edit: Class of the edit.
        motion: Class of the motion, or ``real``.
        seed: Which of its class, from 0.
        task: What a method is given.
        region: Where the edit changes the picture, ``[F, H, W]``.
        flow: See ``warping_error``; none for real clips, whose motion is not known.
        visible: See ``warping_error``.
    """

    edit: str
    motion: str
    seed: int
    task: Task
    region: NDArray[np.bool_]
    flow: NDArray[np.float32] | None = None
    visible: NDArray[np.bool_] | None = None


def rendered_cases(
    seeds: int,
    edits: Sequence[str] = EDITS,
    motions: Sequence[str] = MOTIONS,
    *,
    side: int = SIDE,
    frames: int = FRAMES,
) -> Iterator[Case]:
    """``seeds`` rendered pairs of each class of edit and of motion, made as they are drawn.

    All edits of a source come after each other.
    """
    for motion, seed, edit in product(motions, range(seeds), edits):
        yield _case(render_pair(edit, motion, seed, size=side, frames=frames))


def _case(pair: Pair) -> Case:
    after = edit_scene(sample_scene(pair.motion, pair.seed), pair.edit, pair.motion, pair.seed)
    # A source that is only made again is told what its inversion was: nothing.
    prompt = "" if pair.edit == "nothing" else describe(after, pair.motion)
    task = Task(pair.source, pair.target, prompt, FPS)
    return Case(pair.edit, pair.motion, pair.seed, task, pair.region, pair.flow, pair.visible)


def real_cases(folder: Path, *, side: int = SIDE, frames: int = FRAMES) -> Iterator[Case]:
    """Every clip of a folder, edited by each filter of a pixel and its neighbours: the same for every frame.

    Raises:
        VideoError: See ``real_clips``.
    """
    for (seed, path), (edit, change) in product(enumerate(real_clips(folder)), FILTERS.items()):
        source = _small(path, side, frames)
        truth = np.stack([change(frame) for frame in source])
        yield Case(edit, "real", seed, Task(source, truth, fps=FPS), np.ones(source.shape[:3], bool))


def real_clips(folder: Path) -> list[Path]:
    """The clips of a folder.

    Raises:
        VideoError: It holds none, or one that cannot be read or has nothing that moves.
    """
    clips = sorted(path for path in folder.glob("*") if path.suffix.lower() in FILMS)
    if not clips:
        raise VideoError(f"{folder}: there is no clip in it")
    for path in clips:
        if Clip(path, fps=FPS).expected in (0, 1):
            raise VideoError(f"{path}: has one frame at {FPS} fps, so nothing moves in it")
    return clips


FILMS = {".mp4", ".mov", ".mkv", ".webm", ".gif"}


def _small(path: Path, side: int, frames: int) -> NDArray[np.uint8]:
    clip = Clip(path, fps=FPS)
    fit = Fit(clip.size, Size(side, side))
    return np.stack([fit.apply(frame) for frame in islice(clip, frames)])


def grade(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Warm lights, teal shadows, more contrast."""
    x = frame / 255
    light = x.mean(axis=-1, keepdims=True)
    tint = light * [1.15, 1.0, 0.8] + (1 - light) * [0.8, 1.0, 1.1]
    graded: NDArray[np.uint8] = (255 * (0.5 + 1.2 * (x * tint - 0.5))).clip(0, 255).astype(np.uint8)
    return graded


def posterise(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Four levels a colour."""
    levels: NDArray[np.uint8] = frame // 64 * np.uint8(85)
    return levels


def sketch(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Dark edges on light paper."""
    gray = cv2.GaussianBlur(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), (0, 0), 0.8).astype(np.float32)
    edge = np.hypot(cv2.Scharr(gray, -1, 1, 0), cv2.Scharr(gray, -1, 0, 1)) / 8
    return np.repeat((250 - edge[..., None]).clip(0, 255).astype(np.uint8), 3, axis=-1)


FILTERS: Mapping[str, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    "grade": grade,
    "posterise": posterise,
    "sketch": sketch,
}


@dataclass(frozen=True)
class Score:
    """What a method scored in a case.

    Attributes:
        method: The method.
        edit: Class of the edit.
        motion: Class of the motion.
        seed: Which of its class.
        metrics: Score by metric; NaN where it does not apply.
        seconds: Wall time.
        network_rows: Rows of the batch summed over all calls of the net.
        peak_bytes: Most memory held on the GPU; none without one.
    """

    method: str
    edit: str
    motion: str
    seed: int
    metrics: Mapping[str, float]
    seconds: float
    network_rows: int
    peak_bytes: int | None


def run(methods: Sequence[Method], cases: Iterable[Case]) -> Iterator[tuple[Case, Score, Result]]:
    """Put every method to every case, one after the other."""
    for case, method in ((case, method) for case in cases for method in methods):
        result = method.run(case.task)
        cost = result.seconds, result.network_rows, result.peak_bytes
        yield (
            case,
            Score(method.name, case.edit, case.motion, case.seed, measure(result, case), *cost),
            result,
        )


def measure(result: Result, case: Case) -> dict[str, float]:
    """Every metric of one result."""
    ours, truth, region = result.frames[1:], case.task.truth[1:], case.region[1:]
    warp = float("nan")
    if case.flow is not None and case.visible is not None:
        warp = warping_error(result.frames, case.flow, case.visible)
    return {
        "psnr": bounded_psnr(ours, truth),
        "psnr_edit": bounded_psnr(ours, truth, region),
        "psnr_rest": bounded_psnr(ours, truth, ~region),
        "ssim": ssim(ours, truth),
        "ssim_edit": ssim(ours, truth, region),
        "ssim_rest": ssim(ours, truth, ~region),
        "first_frame": first_frame_adherence(result.frames, case.task.edited_first),
        "warp": warp,
    }


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its 95 % confidence interval (Student's t), which is empty for one seed."""

    mean: float
    low: float
    high: float


def estimate(values: Iterable[float]) -> Estimate | None:
    """The mean of the values that apply, or none if none does."""
    from scipy import stats

    known = [value for value in values if not np.isnan(value)]
    if not known:
        return None
    spread = stats.sem(known) if len(known) > 1 else 0.0
    reach = spread * stats.t.ppf(0.975, len(known) - 1) if spread > 0 else 0.0
    mean = fmean(known)
    return Estimate(mean, float(mean - reach), float(mean + reach))


@dataclass(frozen=True)
class Row:
    """A method's scores in one class.

    Attributes:
        method: The method.
        edit: Class of the edit, or ``all``.
        motion: Class of the motion, or ``all``.
        seeds: Number of clips.
        metrics: Estimate by metric; none where it does not apply.
        seconds: Mean wall time of a clip.
        network_rows: Mean rows of the batch of a clip.
        peak_bytes: Most memory held on the GPU; none without one.
    """

    method: str
    edit: str
    motion: str
    seeds: int
    metrics: Mapping[str, Estimate | None]
    seconds: float
    network_rows: float
    peak_bytes: int | None


def summarise(scores: Iterable[Score], *, by: Sequence[str] = ()) -> list[Row]:
    """Rows for each method and class; classes are told apart ``by`` edit, motion, both, or neither."""
    groups: dict[tuple[str, str, str], list[Score]] = defaultdict(list)
    for score in scores:
        edit = score.edit if "edit" in by else "all"
        motion = score.motion if "motion" in by else "all"
        groups[score.method, edit, motion].append(score)
    return [_row(key, members) for key, members in groups.items()]


def _row(key: tuple[str, str, str], members: list[Score]) -> Row:
    peaks = [score.peak_bytes for score in members if score.peak_bytes is not None]
    return Row(
        *key,
        seeds=len(members),
        metrics={name: estimate(score.metrics[name] for score in members) for name in METRICS},
        seconds=fmean(score.seconds for score in members),
        network_rows=fmean(score.network_rows for score in members),
        peak_bytes=max(peaks, default=None),
    )
