"""Whether a job can run, and destroys nothing: seen before the work begins, which may take hours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from anyv2v.backbones import Choice, choose
from anyv2v.drafts import check_file
from anyv2v.errors import OptionError, OutputError, VideoError
from anyv2v.fitting import check_levels, check_options, clip_spec, window_for
from anyv2v.job import EditJob, FrameJob, InvertJob, Job, StillJob, VideoJob
from anyv2v.picture import check_image_suffix
from anyv2v.sidecar import files_of, sidecar_of
from anyv2v.span import lone, span_for
from anyv2v.still import sheet_of, still_inputs
from anyv2v.video import Clip, Video
from anyv2v.writing import check_output

if TYPE_CHECKING:
    from anyv2v.backbones.protocol import VideoSpec

__all__ = ["check", "check_apart", "check_files", "inputs_of", "spec_for"]


def check(job: VideoJob) -> Choice:
    """See before the work begins that a job can run, and that it destroys nothing; find its backbone.

    Raises:
        UserError: It cannot.
    """
    check_files(job)
    choice = _check_backbone(job, choose(job.backbone, job.model, job.device))
    if choice.checkpoint is None:  # else at the rate of the backbone: see ``spec_for``
        _check_span(job, job.span)
    return choice


def check_files(job: Job) -> None:
    """The same of its files alone."""
    outputs = _check_outputs(job)
    if not isinstance(job, VideoJob) or job.span.expected == 0:
        _check_span(job, job.span)
    check_apart(inputs_of(job), outputs)


def check_apart(inputs: Mapping[str, Path], outputs: Iterable[Path]) -> None:
    """They are there, and no output would replace one, or a folder that holds one."""
    for path in inputs.values():
        if not files_of(path):
            raise OptionError(f"{path}: no such file")
    precious = [source.resolve() for path in inputs.values() for source in files_of(path)]
    folders = [path.resolve() for path in inputs.values() if path.is_dir()]
    for output in outputs:
        for source in precious:
            if output.resolve() in (source, *source.parents):
                raise OutputError(
                    f"{output}: would replace {source.name}, an input of this job; use another name"
                )
        if output.resolve().parent in folders:
            raise OutputError(
                f"{output}: would be one more file of {output.parent.name}, an input of this job"
            )


def inputs_of(job: Job) -> dict[str, Path]:
    inputs = {"clip": job.clip} | (still_inputs(job) if isinstance(job, StillJob) else {})
    trajectory = getattr(job, "trajectory", None)
    return inputs | ({"trajectory": trajectory} if trajectory else {})


def spec_for(job: VideoJob, backbone: Any) -> VideoSpec:
    """What a diffusion backbone would be given at once for a job; it may be on the meta device.

    Raises:
        OptionError: It has no use for an option, or inversion does not pass what sampling asks for.
        VideoError: The clip has fewer frames than were asked for, or but one.
    """
    clip, options = span_for(job, backbone.spec), job.options
    _check_span(job, clip)
    length, _ = window_for(backbone, options)
    blank = np.zeros((1, clip.size.height, clip.size.width, 3), np.uint8)
    spec = clip_spec(backbone, Video(blank, clip.rate), options)
    check_options(backbone, options)
    if getattr(job, "trajectory", None) is None:
        check_levels(backbone, options)
    return replace(spec, frames=min(clip.expected or length, length))


def _check_outputs(job: Job) -> list[Path]:
    """The outputs of a job, different from each other and writable."""
    files = []
    if isinstance(job, EditJob):
        check_output(job.output, overwrite=job.overwrite)
        files += [check_image_suffix(path) for path in (job.sheet, job.save_frame) if path]
    else:
        check_file(job.output, overwrite=job.overwrite)
    if isinstance(job, FrameJob):
        check_image_suffix(job.output)
    files.append(sidecar_of(job.output))
    if isinstance(job, StillJob) and (sheet := sheet_of(job)):
        files.append(sheet)
    for path in files:
        check_file(path, overwrite=job.overwrite)
    outputs = [job.output, *files]
    if len({path.resolve() for path in outputs}) < len(outputs):
        raise OutputError(f"{job.output}: two outputs would have the same name")
    return outputs


def _check_span(job: Job, clip: Clip) -> None:
    found, wanted = clip.expected, clip.frames
    if isinstance(job, VideoJob) and (found == 1 or wanted == 1):
        raise lone(job)
    if found is not None and found < (wanted or 1):
        there = f"has {found} frames at {float(clip.rate):g} fps from {job.start:g} s on"
        raise VideoError(f"{job.clip}: {there}, not {wanted or 'one'}")


def _check_backbone(job: VideoJob, choice: Choice) -> Choice:
    if choice.checkpoint is not None:
        return choice
    name = choice.entry.name
    if isinstance(job, InvertJob):
        raise OptionError(f"{name} has nothing to invert; name a diffusion model by --backbone")
    if job.model or getattr(job, "trajectory", None):
        raise OptionError(
            f"{name} takes neither --model nor --trajectory; name a diffusion model by --backbone"
        )
    return choice
