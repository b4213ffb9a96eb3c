"""What a job would do, said before it is done: steps, calls of the net, memory, sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from anyv2v.backbones import Choice, load_choice
from anyv2v.checks import check, spec_for
from anyv2v.fitting import cost, window_for
from anyv2v.job import EditJob
from anyv2v.picture import read_image
from anyv2v.source import inversion_at_hand
from anyv2v.span import frames_for, left_out, span_for
from anyv2v.still import check_still
from anyv2v.video import Video
from anyv2v.windows import windows

if TYPE_CHECKING:
    from anyv2v.backbones.protocol import Backbone

__all__ = ["Plan", "dry_run"]


@dataclass(frozen=True)
class Plan:
    """What an edit would do.

    Attributes:
        editor: What edits the first frame.
        backbone: The name of the backbone.
        checkpoint: The folder of its weights.
        reason: Why this backbone, if the choice was ours.
        source: Size of the clip.
        size: Size that the backbone works at.
        output: Size of the result.
        frames: Number of frames; none if the container does not say.
        windows: How many windows they are edited in.
        notices: What a person should know, a sentence each.
        fps: Frames per second.
        inversion_at_hand: Whether nothing of the clip need be inverted.
        steps: Steps by stage, of all windows.
        injecting: Steps of a window that inject, by kind of feature.
        network_calls: Calls of the net.
        network_rows: Rows of the batch summed over all calls of the net.
        whole_rows: Those of them that all of its layers see.
        peak_bytes: The most memory that is held at once on the device.
        peak_stage: The stage that holds it.
        peaks: The same of every stage.
        memory: What it is made of: weights, recorded features, latents of the inversion, and what the layers
            hold in passing.
        host_bytes: Features that wait in the host's memory.
    """

    editor: str
    backbone: str
    checkpoint: str | None
    reason: str | None
    source: str
    size: str
    output: str
    frames: int | None
    fps: float
    windows: int = 1
    inversion_at_hand: bool = False
    steps: Mapping[str, int] = field(default_factory=dict)
    injecting: Mapping[str, int] = field(default_factory=dict)
    network_calls: int = 0
    network_rows: int = 0
    whole_rows: int = 0
    peak_bytes: int | None = None
    peak_stage: str | None = None
    peaks: Mapping[str, int] = field(default_factory=dict)
    memory: Mapping[str, int] = field(default_factory=dict)
    host_bytes: int | None = None
    notices: list[str] = field(default_factory=list)


def dry_run(job: EditJob) -> Plan:
    """Say what an edit would do, without loading weights.

    Raises:
        UserError: The job could not run.
    """
    choice, editor = check(job), check_still(job).entry.name
    if job.first_frame:
        read_image(job.first_frame)
    if choice.checkpoint is not None:
        return _plan_diffusion(job, choice, editor)
    clip, size = job.span, str(job.span.size)
    name, rate = choice.entry.name, float(clip.rate)
    return Plan(editor, name, None, choice.reason, size, size, size, clip.expected, rate)


def _plan_diffusion(job: EditJob, choice: Choice, editor: str) -> Plan:
    from anyv2v.footprint import rehearse

    backbone: Any = load_choice(choice, device="meta", dtype=_dtype(job), low_memory=job.low_memory)
    clip, options = span_for(job, backbone.spec), job.options
    spec = spec_for(job, backbone)
    stretches = _windows(job, choice, backbone)
    work = [cost(backbone, options, inverted=window.at_hand) for window in stretches]
    at_hand = all(window.at_hand for window in stretches)
    injection = backbone.bank.plan(options)
    footprint = rehearse(
        backbone,
        spec,
        options,
        windows=len(stretches),
        low_memory=job.low_memory,
        inverted=at_hand,
        limit=_limit(job),
    )
    return Plan(
        editor=editor,
        backbone=choice.entry.name,
        checkpoint=str(choice.checkpoint),
        reason=choice.reason,
        source=str(clip.size),
        size=str(spec.size),
        output=str(clip.size if options.restore else spec.size),
        frames=sum(window.fresh for window in stretches),
        fps=float(spec.fps),
        windows=len(stretches),
        inversion_at_hand=at_hand,
        steps={
            "invert": options.inversion_steps * sum(not window.at_hand for window in stretches),
            "sample": (options.steps - options.skip) * len(stretches),
        },
        injecting={kind: max(0, until - options.skip) for kind, until in injection.until.items()},
        network_calls=sum(one.calls for one in work),
        network_rows=sum(one.rows for one in work),
        whole_rows=sum(one.whole for one in work),
        peak_bytes=footprint.peak,
        peak_stage=footprint.stage,
        peaks=footprint.peaks,
        memory={
            "weights": footprint.weights,
            "features": footprint.features,
            "latents": footprint.latents,
            "passing": footprint.passing,
        },
        host_bytes=footprint.waiting,
        notices=left_out(job, backbone),
    )


@dataclass(frozen=True)
class _Window:
    fresh: int  # frames that no window before it has
    at_hand: bool  # whether it need not be inverted


def _windows(job: EditJob, choice: Choice, backbone: Backbone) -> list[_Window]:
    """Those of the clip, which has to be read: an inversion is known by its frames."""
    rate, found = span_for(job, backbone.spec).rate, list[_Window]()
    assert choice.checkpoint is not None
    for window in windows(frames_for(job, backbone), *window_for(backbone, job.options)):
        video = Video(window.frames, rate)
        at_hand = inversion_at_hand(job, choice.checkpoint, backbone, video)
        found.append(_Window(len(video) - window.known, at_hand))
    return found


def _dtype(job: EditJob) -> str:
    """What the job would compute in on this machine."""
    from anyv2v.weights import pick_device, pick_dtype

    return str(pick_dtype(job.dtype, pick_device(job.device))).removeprefix("torch.")


def _limit(job: EditJob) -> float:
    """How much memory the job may take on this machine's device."""
    from anyv2v.host import memory_of
    from anyv2v.weights import pick_device

    memory = memory_of(pick_device(job.device))
    return memory.limit if memory else math.inf
