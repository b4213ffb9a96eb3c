"""How a clip and a backbone meet, worked out before the work begins: size, levels, cost."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from anyv2v.errors import OptionError
from anyv2v.options import Options
from anyv2v.video import Fit, Frame, Size, Video

if TYPE_CHECKING:
    from anyv2v.backbones.protocol import Backbone, VideoSpec
    from anyv2v.features import FeatureBank
    from anyv2v.schedule import Schedule

__all__ = ["Cost", "check_levels", "check_size", "clip_spec", "cost", "fit_frame", "fit_frames"]


def clip_spec(backbone: Backbone, video: Video, options: Options) -> VideoSpec:
    """What the backbone will be given for this clip.

    Raises:
        OptionError: The size asked for does not fit the backbone.
    """
    size = options.size or backbone.spec.size
    check_size(backbone, size)
    return replace(backbone.spec, size=size, frames=len(video), fps=video.fps)


def check_size(backbone: Backbone, size: Size) -> None:
    """Raises OptionError for a size that the backbone cannot work at."""
    multiple = backbone.spec.multiple
    if size.width % multiple or size.height % multiple:
        raise OptionError(f"size {size} does not suit {backbone.name}: take multiples of {multiple}")


def fit_frame(frame: Frame, size: Size, options: Options) -> Frame:
    """Lay a frame ``[H, W, 3]`` into ``size`` as ``options.fit`` says."""
    return Fit(Size.of(frame), size, options.fit).apply(frame)


def fit_frames(frames: NDArray[np.uint8], size: Size, options: Options) -> NDArray[np.uint8]:
    """Lay frames ``[F, H, W, 3]`` into ``size`` as ``options.fit`` says."""
    return np.stack([fit_frame(frame, size, options) for frame in frames])


@dataclass(frozen=True)
class Cost:
    """What a run asks of the net: calls, and rows of the batch summed over all calls."""

    calls: int
    rows: int


def cost(bank: FeatureBank, options: Options, *, inverted: bool = False) -> Cost:
    """Count what an edit will ask of the net; ``inverted``: the clip's inversion is at hand."""
    inversion = 0 if inverted else options.inversion_steps
    sampling = options.steps - options.skip
    branches = 2 if options.guidance > 1 else 1
    if options.source_branch == "always":
        return Cost(inversion + sampling, inversion + sampling * (1 + branches))
    plan = bank.plan(options)
    recording = sum(bool(plan.active(step)) for step in range(options.skip, options.steps))
    return Cost(inversion + sampling + recording, inversion + sampling * branches + recording)


def check_levels(schedule: Schedule, options: Options) -> None:
    """See before the work begins that inversion passes every level that sampling visits.

    Raises:
        OptionError: It does not; the message names step counts that do.
    """
    visited = set(schedule.grid(options.steps)[options.skip : -1])
    if visited <= set(schedule.grid(options.inversion_steps)):
        return
    fits = [n for n in range(options.steps, 20 * options.steps) if visited <= _levels(schedule, n)]
    raise OptionError(
        f"{options.inversion_steps} inversion steps do not pass all levels of {options.steps} sampling "
        f"steps; these do: {', '.join(map(str, fits[:6]))}"
    )


def _levels(schedule: Schedule, steps: int) -> set[int]:
    try:
        return set(schedule.grid(steps))
    except OptionError:
        return set()
