"""The method (arXiv 2403.14468, section 4): invert the source, then denoise the edit with its features.

This page holds no tensor library, no model and no file: a backbone brings the first two, a caller the third.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from anyv2v.backbones import Carrier, load_backbone, recipe
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
)
from anyv2v.host import Fetch, Shelf
from anyv2v.inversion import walk
from anyv2v.options import Options
from anyv2v.progress import OnStep, Step, ignore
from anyv2v.video import Fit, Frame, Video

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from anyv2v.backbones.protocol import Backbone, Condition

__all__ = ["Trajectory", "diffuse", "edit", "invert", "invert_video", "propagate"]


Noise = Callable[["Tensor"], "Tensor"]


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
        on_step: Called after every step with the latents reached.

    Returns:
        Clean latents of the edit, ``[1, C, F, h, w]``.

    Raises:
        OptionError: The source's inversion and the sampling steps do not meet.
    """
    bank, sampler, draw = backbone.bank, backbone.sampler(options), noise or _noise(backbone, options)
    plan, grid = bank.plan(options), sampler.grid(options.steps)
    z = _start(source.at(start_level(backbone, options)), options, draw)
    z = backbone.prepare(z, edit_condition, options)
    recorded = Fetch(source.features_at, recorded_taps(backbone, options), backbone.device)
    for step in range(options.skip, options.steps):
        t, s, taps = grid[step], grid[step + 1], plan.active(step)
        level = source_level(backbone, t, options)
        if options.source_branch == "always":
            with bank.pairing(taps, groups=1 + len(edit_condition)):
                out = _denoise_together(backbone, source.at(level), z, t, source_condition, edit_condition)
        else:
            if taps and options.source_branch == "recorded":
                bank.give(recorded(level))
            if taps and not bank.features():
                with bank.recording(taps):
                    backbone.denoise(source.at(level), level, source_condition)
            with bank.injecting(taps):
                out = backbone.denoise(_branches(z, len(edit_condition)), t, edit_condition)
        fresh = draw(z) if sampler.stochastic else None
        z = sampler.step(backbone.guide(out, options), z, t, s, fresh)
        on_step(Step("propagate", step + 1 - options.skip, options.steps - options.skip, s, z))
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
        video: The source, at least two frames. A diffusion backbone is at its best with the number of frames
            and the frame rate of its ``spec``: ``Clip(path, frames=16, fps=8).read()``.
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
    return diffuse(model, video, first_frame, prompt, own, on_step=on_step)


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
    """``edit`` by a diffusion backbone, from the clip's inversion by ``invert_video`` if that is at hand."""
    check_options(backbone, options)
    spec = clip_spec(backbone, video, options)
    first, edited = (fit_frame(frame, spec.size, options) for frame in (video.frames[0], first_frame))
    if trajectory is None:
        trajectory = invert_video(backbone, video, options, on_step=on_step)
    draw = _draws(backbone, options)
    edit_condition = backbone.condition(edited, prompt, spec, options, generator=draw)
    seen = edited if options.source_frame == "edited" else first
    source_condition = backbone.condition(seen, options.inversion_prompt, spec, generator=draw)
    z0 = propagate(backbone, trajectory, source_condition, edit_condition, options, on_step=on_step)
    frames = backbone.decode(z0, on_frame=lambda done: on_step(Step("decode", done, spec.frames)))
    if options.restore:
        fit = Fit(video.size, spec.size, options.fit)
        frames = np.stack([fit.undo(new, old) for new, old in zip(frames, video.frames, strict=True)])
    # Frames that keep another rate than their own run faster or slower than their sound.
    return Video(frames, spec.fps, video.audio if spec.fps == video.fps else None)


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
