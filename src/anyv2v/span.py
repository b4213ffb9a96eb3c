"""What of its clip a job works on: the frames, and how many of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain, islice
from typing import TYPE_CHECKING

import numpy as np

from anyv2v.errors import OptionError, VideoError
from anyv2v.fitting import window_for
from anyv2v.job import EditJob, Job, VideoJob
from anyv2v.picture import Frame
from anyv2v.video import Clip, Video

if TYPE_CHECKING:
    from anyv2v.backbones.protocol import Backbone, VideoSpec

__all__ = ["expected_for", "frames_for", "left_out", "lone", "moving", "read_clip", "span_for"]


def span_for(job: VideoJob, spec: VideoSpec) -> Clip:
    """The span that a diffusion backbone works on: at its frame rate, unless told otherwise."""
    keeps = job.fps is not None or job.options.frame_rate == "keep"
    return job.span if keeps else replace(job.span, fps=spec.fps)


def frames_for(job: VideoJob, backbone: Backbone) -> Iterator[Frame]:
    """As many frames as were asked for, or at most those of a window.

    Raises:
        VideoError: There is but one.
        OptionError: More were asked for than those of a window, for a job that takes one.
    """
    frames = moving(islice(span_for(job, backbone.spec), _limit(job, backbone)), job)
    if isinstance(job, EditJob) and not job.trajectory:
        return frames
    return iter(_one_window(frames, window_for(backbone, job.options)[0]))


def read_clip(job: VideoJob, backbone: Backbone) -> Video:
    """The frames of a job that works on one window. Raises as ``frames_for``."""
    clip = span_for(job, backbone.spec)
    return Video(np.stack(list(frames_for(job, backbone))), clip.rate, clip.audio)


def expected_for(job: VideoJob, backbone: Backbone) -> int | None:
    """How many frames ``frames_for`` will give, by what the container says."""
    there = span_for(job, backbone.spec).expected
    return there and min(there, _limit(job, backbone) or there)


def left_out(job: VideoJob, backbone: Backbone) -> list[str]:
    """That the clip is longer than what is edited of it, in a sentence; else nothing."""
    clip, taken = span_for(job, backbone.spec), expected_for(job, backbone)
    if taken == clip.expected:
        return []
    there = f"{clip.expected} frames at {float(clip.rate):g} fps"
    if not isinstance(job, EditJob) or job.trajectory:
        return [f"of {there} the first {taken} are taken, which are one window"]
    return [f"the first {taken} of {there} are edited, and no more; --whole takes all of them"]


def moving(frames: Iterable[Frame], job: Job) -> Iterator[Frame]:
    """The same frames, of which there must be two at least."""
    rest = iter(frames)
    first = list(islice(rest, 2))
    if len(first) < 2:
        raise lone(job)
    return chain(first, rest)


def lone(job: Job) -> VideoError:
    """What is said of a span of one frame."""
    return VideoError(f"{job.clip}: has one frame in this span, so there is nothing to carry an edit to")


def _one_window(frames: Iterable[Frame], length: int) -> list[Frame]:
    taken = list(islice(frames, length + 1))
    if len(taken) > length:
        raise OptionError(
            f"more than the {length} frames of a window were asked for, and this takes one window: "
            f"give --frames {length}, or a larger --window"
        )
    return taken


def _limit(job: VideoJob, backbone: Backbone) -> int | None:
    """How many frames are taken at most: those of a window, unless a person said how many."""
    told = job.frames or job.duration or (isinstance(job, EditJob) and job.whole)
    return None if told else window_for(backbone, job.options)[0]
