"""What a job would do, said before it is done: steps, calls of the net, memory, sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, cast

import numpy as np

from anyv2v.backbones import Choice, choose, load_choice
from anyv2v.jobs import EditJob, source_span
from anyv2v.plan import check_levels, check_size, cost

if TYPE_CHECKING:
    from anyv2v.backbones.protocol import Backbone, VideoSpec
    from anyv2v.options import Options

__all__ = ["Plan", "dry_run"]


@dataclass(frozen=True)
class Plan:
    """What an edit would do.

    Attributes:
        backbone: The name of the backbone.
        checkpoint: The folder of its weights.
        reason: Why this backbone, if the choice was ours.
        source: Size of the clip.
        size: Size that the backbone works at.
        output: Size of the result.
        frames: Number of frames; none if the container does not say.
        fps: Frames per second.
        steps: Steps by stage.
        injecting: Steps that inject, by kind of feature.
        network_calls: Calls of the net.
        network_rows: Rows of the batch summed over all calls of the net.
        memory: Bytes of weights, recorded features and kept latents; what the layers need in passing comes
            on top.
    """

    backbone: str
    checkpoint: str | None
    reason: str | None
    source: str
    size: str
    output: str
    frames: int | None
    fps: float
    steps: Mapping[str, int] = field(default_factory=dict)
    injecting: Mapping[str, int] = field(default_factory=dict)
    network_calls: int = 0
    network_rows: int = 0
    memory: Mapping[str, int] = field(default_factory=dict)


def dry_run(job: EditJob) -> Plan:
    """Say what an edit would do, without loading weights.

    Raises:
        UserError: The job could not run.
    """
    choice = choose(job.backbone, job.model)
    if choice.checkpoint is not None:
        return _plan_diffusion(job, choice)
    clip = source_span(job)
    size = str(clip.size)
    return Plan(choice.entry.name, None, choice.reason, size, size, size, _length(job), float(clip.rate))


def _plan_diffusion(job: EditJob, choice: Choice) -> Plan:
    backbone = cast("Backbone", load_choice(choice, device="meta", dtype=_dtype(job)))
    clip, options = source_span(job, backbone.spec), job.options
    frames = min(_length(job, backbone.spec) or backbone.spec.frames, job.frames or backbone.spec.frames)
    size = options.size or backbone.spec.size
    spec = replace(backbone.spec, size=size, frames=frames, fps=clip.rate)
    check_size(backbone, size)
    check_levels(backbone.schedule, options)
    work = cost(backbone.bank, options, inverted=job.trajectory is not None)
    injection = backbone.bank.plan(options)
    return Plan(
        backbone=choice.entry.name,
        checkpoint=str(choice.checkpoint),
        reason=choice.reason,
        source=str(clip.size),
        size=str(size),
        output=str(clip.size if options.restore else size),
        frames=frames,
        fps=float(clip.rate),
        steps={
            "invert": 0 if job.trajectory else options.inversion_steps,
            "sample": options.steps - options.skip,
        },
        injecting={kind: max(0, until - options.skip) for kind, until in injection.until.items()},
        network_calls=work.calls,
        network_rows=work.rows,
        memory=_memory(backbone, spec, options),
    )


def _length(job: EditJob, spec: VideoSpec | None = None) -> int | None:
    """The number of frames in the job's span, as far as the container says."""
    clip = source_span(job, spec)
    if job.frames or clip.info.duration is None:
        return job.frames
    seconds = clip.info.duration - job.start
    return round(min(seconds, job.duration or seconds) * clip.rate)


def _dtype(job: EditJob) -> str:
    """What the job would compute in on this machine."""
    from anyv2v.backbones.checkpoint import pick_device, pick_dtype

    return str(pick_dtype(job.dtype, pick_device(job.device))).removeprefix("torch.")


def _memory(backbone: Backbone, spec: VideoSpec, options: Options) -> dict[str, int]:
    """Ask a net on the meta device, which has shapes and no weights."""
    frames = np.zeros((spec.frames, spec.size.height, spec.size.width, 3), np.uint8)
    z, condition = backbone.encode(frames), backbone.condition(frames[0], "", spec)
    with backbone.bank.recording(backbone.bank.plan(options).active(options.skip)):
        backbone.denoise(z, 0, condition)
    features = backbone.bank.features().values()
    weights = (weight for part in backbone.parts for weight in part.parameters())
    return {
        "weights": sum(weight.nbytes for weight in weights),
        "features": sum(feature.nbytes for feature in features),
        "latents": z.nbytes * (options.inversion_steps + 1),
    }
