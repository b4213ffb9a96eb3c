"""From a clip to its edit: what stands around the method of ``edit``, for any backbone and any length."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from anyv2v.backbones import Carrier, load_backbone, recipe
from anyv2v.edit import Lay, Noise, Trajectory, drawing, invert, propagate
from anyv2v.errors import VideoError
from anyv2v.fitting import check_levels, check_options, clip_spec, fit_frame, fit_frames, window_for
from anyv2v.options import Options
from anyv2v.picture import Fit, Frame, Size
from anyv2v.progress import OnStep, Step, ignore
from anyv2v.video import Video
from anyv2v.windows import Seam, count_windows, over_windows, windows

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from anyv2v.backbones.protocol import Backbone

__all__ = ["diffuse", "diffuse_windows", "edit", "invert_video"]


def edit(
    video: Video,
    first_frame: Frame,
    prompt: str = "",
    *,
    backbone: str | Backbone | Carrier = "auto",
    options: Options | None = None,
    on_step: OnStep = ignore,
) -> Video:
    """Carry the edit of a clip's first frame through the clip.

    Args:
        video: The source, at least two frames. A diffusion backbone is at its best with the frame rate of its
            ``spec``, ``Clip(path, fps=8).read()``; what is longer than ``options.window`` goes in windows.
        first_frame: The edited first frame, ``[H, W, 3]`` RGB; fitted like the source if its size differs.
        prompt: What the edited clip shows. Optical flow does not read it.
        backbone: A backbone, or the name of one: see ``load_backbone``.
        options: Settings of the diffusion stage; left out, the backbone's own.
        on_step: Called as the work goes on.

    Returns:
        The edited clip with the source's frame rate and audio, unless the options keep frames at another
        rate; at the source's size by optical flow and with ``options.restore``, else at ``options.size`` or
        the backbone's own.

    Raises:
        UserError: Anything that the caller can mend; the message says how.
    """
    if len(video) < 2:
        raise VideoError("the clip has one frame; there is nothing to carry an edit to")
    model = load_backbone(backbone) if isinstance(backbone, str) else backbone
    if isinstance(model, Carrier):
        fitted = fit_frame(first_frame, video.size, options or Options())
        return _carry(model, video, fitted, on_step)
    own = options or recipe(backbone=model.name)
    pairs = diffuse_windows(
        model, video.frames, video.fps, first_frame, prompt, own, expected=len(video), on_step=on_step
    )
    return _timed(np.stack([edited for _, edited in pairs]), model, video, own)


def _carry(carrier: Carrier, video: Video, first_frame: Frame, on_step: OnStep) -> Video:
    frames = np.empty_like(video.frames)
    for k, frame in enumerate(carrier.carry(video.frames, first_frame)):
        frames[k] = frame
        on_step(Step("propagate", k + 1, len(video)))
    return replace(video, frames=frames)


def diffuse(
    backbone: Backbone,
    video: Video,
    first_frame: Frame,
    prompt: str,
    options: Options = Options(),
    *,
    trajectory: Trajectory | None = None,
    on_step: OnStep = ignore,
) -> Video:
    """``edit`` in one window, by a diffusion backbone that is given all frames at once, however many.

    It starts from the clip's inversion by ``invert_video`` if that is at hand.
    """
    z0 = _denoise(backbone, video, first_frame, prompt, options, trajectory, on_step=on_step)
    return _timed(_develop(backbone, z0, video, options, on_step=on_step), backbone, video, options)


Invert = Callable[[Video, OnStep], Trajectory]


def diffuse_windows(
    backbone: Backbone,
    frames: Iterable[Frame],
    fps: Fraction,
    first_frame: Frame,
    prompt: str,
    options: Options = Options(),
    *,
    expected: int | None = None,
    inverted: Invert | None = None,
    on_step: OnStep = ignore,
) -> Iterator[tuple[Frame, Frame]]:
    """``edit`` by a diffusion backbone, window by window: a clip of any length in the memory of one window.

    Each next window is anchored on the last frames of the one before: its edited first frame is what that
    made of this frame, and it goes on from there at every level as ``Seam`` has it.

    Args:
        backbone: The image-to-video model.
        frames: The source, ``[H, W, 3]`` each; taken as they are needed.
        fps: Its frames per second.
        first_frame: The edited first frame of the clip, ``[H, W, 3]``.
        prompt: What the edited clip shows.
        options: Settings; ``window`` and ``overlap`` are read here.
        expected: How many frames there are, if that is known, to tell how far the work is.
        inverted: Gives the inversion of a window; left out, the window is inverted.
        on_step: Called as the work goes on, with the steps of all windows.

    Yields:
        Each frame of the source, and of the edit.
    """
    length, overlap = window_for(backbone, options)
    count = count_windows(expected or 0, length, overlap)
    seam, draw, z0 = Seam(), drawing(backbone, options), None
    for number, window in enumerate(windows(frames, length, overlap)):
        watch = over_windows(on_step, number, number + 1 if window.last else max(count, number + 2))
        video, known = Video(window.frames, fps), window.known
        if z0 is not None:
            first_frame = backbone.decode(z0[:, :, -known:][:, :, :1])[0]
        z0 = _denoise(
            backbone,
            video,
            first_frame,
            prompt,
            options,
            inverted and inverted(video, watch),
            noise=draw,
            lay=None if window.last and not known else partial(seam.lay, known=known),
            on_step=watch,
        )
        yield from zip(
            video.frames[known:], _develop(backbone, z0, video, options, known, watch), strict=True
        )


def _denoise(
    backbone: Backbone,
    video: Video,
    first_frame: Frame,
    prompt: str,
    options: Options,
    trajectory: Trajectory | None,
    *,
    noise: Noise | None = None,
    lay: Lay | None = None,
    on_step: OnStep,
) -> Tensor:
    """The clean latents of the edit of a window."""
    check_options(backbone, options)
    spec = clip_spec(backbone, video, options)
    first, edited = (fit_frame(frame, spec.size, options) for frame in (video.frames[0], first_frame))
    if trajectory is None:
        trajectory = invert_video(backbone, video, options, on_step=on_step)
    draw = _draws(backbone, options)
    edit_condition = backbone.condition(edited, prompt, spec, options, generator=draw)
    seen = edited if options.source_frame == "edited" else first
    source_condition = backbone.condition(seen, options.inversion_prompt, spec, generator=draw)
    conditions = source_condition, edit_condition
    return propagate(backbone, trajectory, *conditions, options, noise=noise, lay=lay, on_step=on_step)


def _develop(
    backbone: Backbone, z0: Tensor, video: Video, options: Options, known: int = 0, on_step: OnStep = ignore
) -> NDArray[np.uint8]:
    """The frames of the edit of a window, but for those that are known already."""
    whole = len(video)
    frames = backbone.decode(
        z0[:, :, known:], on_frame=lambda done: on_step(Step("decode", known + done, whole))
    )
    if not options.restore:
        return frames
    fit = Fit(video.size, Size.of(frames[0]), options.fit)
    return np.stack([fit.undo(new, old) for new, old in zip(frames, video.frames[known:], strict=True)])


def _timed(frames: NDArray[np.uint8], backbone: Backbone, video: Video, options: Options) -> Video:
    """Frames that keep another rate than their own run faster or slower than their sound, and lose it."""
    fps = clip_spec(backbone, video, options).fps
    return Video(frames, fps, video.audio if fps == video.fps else None)


def invert_video(
    backbone: Backbone, video: Video, options: Options = Options(), *, on_step: OnStep = ignore
) -> Trajectory:
    """Encode a clip and invert it: the part of an edit that the edited frame has no say in.

    Raises:
        OptionError: Inversion would not pass every level that sampling visits.
    """
    check_levels(backbone, options)
    spec = clip_spec(backbone, video, options)
    source = fit_frames(video.frames, spec.size, options)
    draw = _draws(backbone, options)
    z0 = backbone.encode(source, draw, on_frame=lambda done: on_step(Step("encode", done, spec.frames)))
    condition = backbone.condition(source[0], options.inversion_prompt, spec, generator=draw)
    return invert(backbone, z0, condition, options, on_step=on_step)


def _draws(backbone: Backbone, options: Options) -> Generator | None:
    """What samples the VAE's posterior. The reference seeds it anew for each stage."""
    return backbone.generator(options.seed) if options.vae == "sample" else None
