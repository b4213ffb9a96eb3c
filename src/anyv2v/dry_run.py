"""What a job would do, said before it is done: steps, calls of the net, memory, sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from anyv2v.backbones import Choice, load_choice
from anyv2v.fitting import cost, recorded_taps, window_for
from anyv2v.job import EditJob
from anyv2v.run import check, frames_for, left_out, span_for, spec_for
from anyv2v.source import inversion_at_hand
from anyv2v.still import check_still
from anyv2v.video import Video, read_image
from anyv2v.windows import windows

if TYPE_CHECKING:
    from anyv2v.backbones.protocol import Backbone, VideoSpec
    from anyv2v.options import Options

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
        memory: Bytes of weights, and of the recorded features and kept latents of a window; what the layers
            need in passing comes on top.
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
    memory: Mapping[str, int] = field(default_factory=dict)
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
    backbone: Any = load_choice(choice, device="meta", dtype=_dtype(job))
    clip, options = span_for(job, backbone.spec), job.options
    spec = spec_for(job, backbone)
    stretches = _windows(job, choice, backbone)
    work = [cost(backbone, options, inverted=window.at_hand) for window in stretches]
    injection = backbone.bank.plan(options)
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
        inversion_at_hand=all(window.at_hand for window in stretches),
        steps={
            "invert": options.inversion_steps * sum(not window.at_hand for window in stretches),
            "sample": (options.steps - options.skip) * len(stretches),
        },
        injecting={kind: max(0, until - options.skip) for kind, until in injection.until.items()},
        network_calls=sum(one.calls for one in work),
        network_rows=sum(one.rows for one in work),
        memory=_memory(backbone, spec, options, low_memory=job.low_memory, chained=len(stretches) > 1),
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
        at_hand = job.trajectory is not None or inversion_at_hand(job, choice.checkpoint, backbone, video)
        found.append(_Window(len(video) - window.known, at_hand))
    return found


def _dtype(job: EditJob) -> str:
    """What the job would compute in on this machine."""
    from anyv2v.weights import pick_device, pick_dtype

    return str(pick_dtype(job.dtype, pick_device(job.device))).removeprefix("torch.")


def _memory(
    backbone: Backbone, spec: VideoSpec, options: Options, *, low_memory: bool = False, chained: bool = False
) -> dict[str, int]:
    """Ask a net on the meta device, which has shapes and no weights."""
    frames = np.zeros((spec.frames, spec.size.height, spec.size.width, 3), np.uint8)
    z, condition = backbone.encode(frames), backbone.condition(frames[0], "", spec)
    with backbone.bank.recording(backbone.bank.plan(options).active(options.skip)):
        backbone.denoise(z, 0, condition)
    bank = backbone.bank
    sizes = {path: feature.nbytes for path, feature in bank.features().items()}
    if levels := recorded_taps(backbone, options).values():  # then those of every step are kept
        features = sum(sizes[path] for taps in levels for tap in taps for path in bank.modules(tap))
    else:
        features = sum(sizes.values())
    parts = [sum(weight.nbytes for weight in part.parameters()) for part in backbone.parts]
    return {
        "weights": max(parts) if low_memory else sum(parts),
        "features": features,
        "latents": z.nbytes * (options.inversion_steps + 1 + chained * (1 + options.steps - options.skip)),
    }
