"""The method (arXiv 2403.14468, section 4): invert the source, then denoise the edit with its features.

This page holds no tensor library, no model and no file: a backbone brings the first two, a caller the third.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from anyv2v.backbones import Carrier, load_backbone, recipe
from anyv2v.deep import mode_at
from anyv2v.errors import OptionError, VideoError
from anyv2v.fitting import (
    check_levels,
    check_options,
    clip_spec,
    fit_frame,
    fit_frames,
    recorded_taps,
    source_level,
    start_level,
    window_for,
)
from anyv2v.host import Fetch, Shelf
from anyv2v.inversion import walk
from anyv2v.options import Options
from anyv2v.progress import OnStep, Step, ignore
from anyv2v.video import Fit, Frame, Size, Video
from anyv2v.windows import Seam, count_windows, over_windows, windows

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from anyv2v.backbones.protocol import Backbone, Condition

__all__ = ["Trajectory", "diffuse", "diffuse_windows", "edit", "invert", "invert_video", "propagate"]


Noise = Callable[["Tensor"], "Tensor"]
Lay = Callable[["Tensor", "Tensor", int], "Tensor"]


@dataclass(frozen=True)
class Trajectory:
    """The latents of an inversion, by noise level.

    Attributes:
        latents: Level to ``[1, C, F, h, w]``; a negative level is clean.
        features: Level to what was recorded there, by module name, if that was asked for. Some may wait in
            the host's memory; a level that has none found no room.
    """

    latents: Mapping[int, Tensor]
    features: Mapping[int, Mapping[str, Tensor]] = field(default_factory=dict)

    def at(self, level: int) -> Tensor:
        """z_t of the source, ``[1, C, F, h, w]``.

        Raises:
            OptionError: The inversion did not pass this level.
        """
        if level not in self.latents:
            raise OptionError(
                f"the inversion holds no latents at noise level {level}, which sampling visits; "
                "invert the clip with the same number of sampling steps"
            )
        return self.latents[level]

    def features_at(self, level: int) -> Mapping[str, Tensor]:
        """The features of the source at a level, by module name.

        Raises:
            OptionError: The inversion recorded none there.
        """
        if level not in self.features:
            raise OptionError(
                f"the inversion recorded no features at noise level {level}, where sampling injects them; "
                "take source branch injecting, or invert the clip in the same run"
            )
        return self.features[level]


def invert(
    backbone: Backbone,
    z0: Tensor,
    condition: Condition,
    options: Options = Options(),
    *,
    on_step: OnStep = ignore,
) -> Trajectory:
    """Invert the source: no text, but its first frame (section 4.2, equation 3, with ``ddim``).

    Args:
        backbone: The image-to-video model.
        z0: Clean latents of the source, ``[1, C, F, h, w]``.
        condition: One row: the inversion prompt and the source's first frame.
        options: ``inversion_steps`` and ``inversion`` are read, and with ``source_branch: recorded`` also
            what sampling will inject.
        on_step: Called after every step with the latents reached.

    Returns:
        The latents at each of ``inversion_steps`` levels, and ``z0``; the features that were recorded.
    """
    wanted, shelf = recorded_taps(backbone, options), Shelf(backbone, backbone.rows(options))
    features: dict[int, Mapping[str, Tensor]] = {}

    def ask(z: Tensor, t: int) -> Tensor:
        if t not in wanted:
            return backbone.denoise(z, t, condition)
        with backbone.bank.recording(wanted[t]):
            out = backbone.denoise(z, t, condition)
        features[t] = shelf.put(
            backbone.bank.take()
        )  # the last call at a level is nearest to what sampling will see
        return out

    latents = {backbone.schedule.grid(options.inversion_steps)[-1]: z0}
    for done, (t, z) in enumerate(walk(ask, backbone.schedule, z0, options), start=1):
        latents[t] = z
        on_step(Step("invert", done, options.inversion_steps, t, z))
    shelf.settle()
    return Trajectory(latents, features)


def propagate(
    backbone: Backbone,
    source: Trajectory,
    source_condition: Condition,
    edit_condition: Condition,
    options: Options = Options(),
    *,
    noise: Noise | None = None,
    lay: Lay | None = None,
    on_step: OnStep = ignore,
) -> Tensor:
    """Denoise the edit from the source's noise, with the source's features (equation 4).

    Args:
        backbone: The image-to-video model.
        source: The source's inversion; it must pass every level that sampling visits.
        source_condition: One row: the inversion prompt and the source's first frame.
        edit_condition: One row for each branch of guidance, the prompt's last; the edited first frame.
        options: Steps, thresholds, layers, guidance.
        noise: Draws noise like the latents it is given, for ``noise_share`` first, then for each step of a
            stochastic sampler; left out, the seed draws it.
        lay: Given the edit's latents and the source's at each level as sampling gets there, and the level;
            what it returns takes the place of the edit's. Of clean latents the source's are not known: 0.
        on_step: Called after every step with the latents reached.

    Returns:
        Clean latents of the edit, ``[1, C, F, h, w]``.

    Raises:
        OptionError: The source's inversion and the sampling steps do not meet.
    """
    bank, sampler, draw = backbone.bank, backbone.sampler(options), noise or _noise(backbone, options)
    plan, grid = bank.plan(options), sampler.grid(options.steps)

    def laid(z: Tensor, t: int) -> Tensor:
        if lay is None:
            return z
        return lay(z, source.at(source_level(backbone, t, options)) if t >= 0 else 0 * z, t)

    z = _start(source.at(start_level(backbone, options)), options, draw)
    z = laid(backbone.prepare(z, edit_condition, options), grid[options.skip])
    recorded = Fetch(source.features_at, recorded_taps(backbone, options), backbone.device)
    for step in range(options.skip, options.steps):
        t, s, taps = grid[step], grid[step + 1], plan.active(step)
        level = source_level(backbone, t, options)
        told = edit_condition if step < options.guided_steps else edit_condition[-1:]
        if options.source_branch == "always":
            with bank.pairing(taps, groups=1 + len(told)), backbone.deep.mode(mode_at(step, plan, options)):
                out = _denoise_together(backbone, source.at(level), z, t, source_condition, told)
        else:
            if taps and options.source_branch == "recorded":
                bank.give(recorded(level))
            if taps and not bank.features():
                with bank.recording(taps):
                    backbone.denoise(source.at(level), level, source_condition)
            with bank.injecting(taps), backbone.deep.mode(mode_at(step, plan, options)):
                out = backbone.denoise(_branches(z, len(told)), t, told)
        fresh = draw(z) if sampler.stochastic else None
        z = laid(sampler.step(backbone.guide(out, options), z, t, s, fresh), s)
        on_step(Step("propagate", step + 1 - options.skip, options.steps - options.skip, s, z))
    backbone.deep.clear()
    return z


def _denoise_together(
    backbone: Backbone, z_source: Tensor, z: Tensor, t: int, source: Condition, edit: Condition
) -> Tensor:
    """The edit's rows of a batch that the source leads; all are told one level."""
    batch = _branches(z, 1 + len(edit)).clone()
    batch[:1] = z_source
    return backbone.denoise(batch, t, source + edit)[1:]


def _branches(z: Tensor, count: int) -> Tensor:
    return z.expand(count, *z.shape[1:])


def _noise(backbone: Backbone, options: Options) -> Noise:
    generator = backbone.generator(options.seed)
    return lambda z: backbone.noise(z, generator)


def _start(z: Tensor, options: Options, draw: Noise) -> Tensor:
    """Mix noise into the start linearly, as the reference does; the variance is not preserved."""
    if options.noise_share == 0:
        return z
    return draw(z) * options.noise_share + z * (1 - options.noise_share)


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
    seam, draw, z0 = Seam(), _noise(backbone, options), None
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
