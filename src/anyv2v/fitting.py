"""How a clip and a backbone meet: size, frame rate, noise levels, cost. Worked out before the work begins."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from anyv2v.errors import OptionError
from anyv2v.inversion import calls
from anyv2v.options import Options
from anyv2v.picture import Fit, Frame, Size
from anyv2v.video import Video

if TYPE_CHECKING:
    from anyv2v.backbones.protocol import Backbone, VideoSpec
    from anyv2v.deep import Mode
    from anyv2v.features import Tap
    from anyv2v.schedule import Schedule

__all__ = [
    "Cost",
    "check_levels",
    "check_options",
    "check_size",
    "clip_spec",
    "cost",
    "fit_frame",
    "fit_frames",
    "inversion_modes",
    "recorded_taps",
    "source_level",
    "source_levels",
    "start_level",
    "window_for",
]


OVERLAP = 4
"""Windows share a quarter of their frames: docs/windows.md has what other shares give."""


def clip_spec(backbone: Backbone, video: Video, options: Options) -> VideoSpec:
    """What the backbone will be given for this clip.

    Raises:
        OptionError: The size asked for does not fit the backbone.
    """
    size = options.size or backbone.spec.size
    check_size(backbone, size)
    fps = backbone.spec.fps if options.frame_rate == "keep" else video.fps
    return replace(backbone.spec, size=size, frames=len(video), fps=fps)


def check_size(backbone: Backbone, size: Size) -> None:
    """Raises OptionError for a size that the backbone cannot work at."""
    multiple = backbone.spec.multiple
    if size.width % multiple or size.height % multiple:
        raise OptionError(f"size {size} does not suit {backbone.name}: take multiples of {multiple}")


def window_for(backbone: Backbone, options: Options) -> tuple[int, int]:
    """How many frames are edited at once, and how many of them two windows share.

    Raises:
        OptionError: The overlap is no part of a window.
    """
    length = options.window or backbone.spec.frames
    overlap = options.overlap or max(1, length // OVERLAP)
    if overlap >= length:
        raise OptionError(f"overlap is {overlap}; it must be less than the {length} frames of a window")
    return length, overlap


def check_options(backbone: Backbone, options: Options) -> None:
    """Raises OptionError for an option that was set and that the backbone has no use for."""
    for name in backbone.ignores:
        if getattr(options, name) != getattr(Options(), name):
            raise OptionError(f"{backbone.name} has no {name.replace('_', ' ')}")


def source_level(backbone: Backbone, t: int, options: Options) -> int:
    """The level of the source that belongs to level ``t`` of sampling: their grids may begin elsewhere."""
    return t + backbone.schedule.offset - backbone.sampler(options).offset


def source_levels(backbone: Backbone, options: Options) -> list[int]:
    """The levels of the source that belong to the steps of sampling, skipped ones too, noisiest first."""
    return [source_level(backbone, t, options) for t in backbone.sampler(options).grid(options.steps)[:-1]]


def start_level(backbone: Backbone, options: Options) -> int:
    """The level of the source that sampling starts from."""
    if options.start_level is not None:
        return options.start_level
    return source_levels(backbone, options)[options.skip]


def recorded_taps(backbone: Backbone, options: Options) -> dict[int, tuple[Tap, ...]]:
    """What inversion is to record at which level of the source: what sampling will inject there."""
    if options.source_branch != "recorded":
        return {}
    plan, levels = backbone.bank.plan(options), source_levels(backbone, options)
    return {levels[step]: taps for step in range(options.skip, options.steps) if (taps := plan.active(step))}


def inversion_modes(backbone: Backbone, options: Options) -> dict[int, Mode]:
    """What the deep layers do at each level of the inversion: what they will there in sampling.

    Between the levels of sampling they rest, if they ever do; but not at the first that is asked at.
    """
    plan, grid = backbone.bank.plan(options), backbone.schedule.grid(options.inversion_steps)
    if not plan.resting:
        return dict.fromkeys(grid[:-1], "compute")
    known = {level: plan.mode(step) for step, level in enumerate(source_levels(backbone, options))}
    return {level: known.get(level, "reuse") for level in grid[:-2]} | {grid[-2]: "keep"}


def check_levels(backbone: Backbone, options: Options) -> None:
    """See before the work begins that inversion passes every level that sampling asks for.

    Raises:
        OptionError: It does not; the message names step counts that do.
    """
    schedule = backbone.schedule
    asked = source_levels(backbone, options)[options.skip :]
    passed = set(schedule.grid(options.inversion_steps))
    start, visited = start_level(backbone, options), set(asked)
    if visited <= passed and start not in passed:
        raise OptionError(f"{options.inversion_steps} inversion steps do not pass the start level {start}")
    if visited <= passed:
        return
    fits = [
        n for n in range(options.steps - options.skip, 20 * options.steps) if visited <= _levels(schedule, n)
    ]
    raise OptionError(
        f"{options.inversion_steps} inversion steps do not pass all levels of {options.steps} sampling "
        f"steps; these do: {', '.join(map(str, fits[:6]))}"
    )


@dataclass(frozen=True)
class Cost:
    """What a run asks of the net.

    Attributes:
        calls: Of the net.
        rows: Of the batch, summed over all calls.
        whole: Those of the rows that all layers see: see ``anyv2v.deep``.
    """

    calls: int
    rows: int
    whole: int


def cost(backbone: Backbone, options: Options, *, inverted: bool = False) -> Cost:
    """Count what an edit will ask of the net; ``inverted``: the clip's inversion is at hand."""
    plan, steps = backbone.bank.plan(options), range(options.skip, options.steps)
    told = {step: backbone.rows(options) if step < options.guided_steps else 1 for step in steps}
    if options.source_branch == "always":
        told = {step: 1 + rows for step, rows in told.items()}
    recording = sum(bool(plan.active(step)) for step in steps if options.source_branch == "injecting")
    modes = list(inversion_modes(backbone, options).values())
    each = 0 if inverted else calls(options) // len(modes)
    rows = each * len(modes) + sum(told.values()) + recording
    spared = each * modes.count("reuse") + sum(told[step] for step in plan.resting)
    return Cost(each * len(modes) + len(steps) + recording, rows, rows - spared)


def _levels(schedule: Schedule, steps: int) -> set[int]:
    try:
        return set(schedule.grid(steps))
    except OptionError:
        return set()


def fit_frame(frame: Frame, size: Size, options: Options) -> Frame:
    """Lay a frame ``[H, W, 3]`` into ``size`` as ``options.fit`` says."""
    return Fit(Size.of(frame), size, options.fit).apply(frame)


def fit_frames(frames: NDArray[np.uint8], size: Size, options: Options) -> NDArray[np.uint8]:
    """Lay frames ``[F, H, W, 3]`` into ``size`` as ``options.fit`` says."""
    return np.stack([fit_frame(frame, size, options) for frame in frames])
