"""The method (arXiv 2403.14468, section 4): invert the source, then denoise the edit with its features.

This page holds no tensor library, no model and no file: a backbone brings the first two, a caller the third.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from anyv2v.errors import OptionError
from anyv2v.fitting import inversion_modes, recorded_taps, source_level, start_level
from anyv2v.host import Fetch, Shelf
from anyv2v.inversion import walk
from anyv2v.options import Options
from anyv2v.progress import OnStep, Step, ignore

if TYPE_CHECKING:
    from torch import Tensor

    from anyv2v.backbones.protocol import Backbone, Condition

__all__ = ["Lay", "Noise", "Trajectory", "drawing", "invert", "propagate"]


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
        options: ``inversion_steps`` and ``inversion`` are read; with ``source_branch: recorded`` also what
            sampling will inject, and with ``deep_every`` where it will compute the deep layers.
        on_step: Called after every step with the latents reached.

    Returns:
        The latents at each of ``inversion_steps`` levels, and ``z0``; the features that were recorded.
    """
    backbone.deep.clear()  # of what a run that was interrupted has kept
    bank, wanted, modes = backbone.bank, recorded_taps(backbone, options), inversion_modes(backbone, options)
    shelf = Shelf(backbone, backbone.rows(options), wanted.values())
    features: dict[int, Mapping[str, Tensor]] = {}
    fresh: dict[int, Mapping[str, Tensor]] = {}

    def ask(z: Tensor, t: int) -> Tensor:
        with bank.recording(wanted.get(t, ())), backbone.deep.mode(modes.get(t, "compute"), t):
            out = backbone.denoise(z, t, condition)
        if t in wanted:
            fresh[t] = bank.take()  # the last call at a level is nearest to what sampling will see
        return out

    latents = {backbone.schedule.grid(options.inversion_steps)[-1]: z0}
    for done, (t, z) in enumerate(walk(ask, backbone.schedule, z0, options), start=1):
        latents[t] = z
        features |= {level: shelf.put(fresh.pop(level)) for level in list(fresh)}
        on_step(Step("invert", done, options.inversion_steps, t, z))
    shelf.settle()
    backbone.deep.clear()
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
    backbone.deep.clear()
    bank, sampler, draw = backbone.bank, backbone.sampler(options), noise or drawing(backbone, options)
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
        deep = backbone.deep.mode(plan.mode(step), t, (taps, len(told)))
        if options.source_branch == "always":
            with bank.pairing(taps, groups=1 + len(told)), deep:
                out = _denoise_together(backbone, source.at(level), z, t, source_condition, told)
        else:
            held = recorded(level) if taps and options.source_branch == "recorded" else {}
            if held:
                bank.give(held)
                del held  # which would live on beside those of the next step
            elif taps:
                with bank.recording(taps):
                    backbone.denoise(source.at(level), level, source_condition)
            with bank.injecting(taps), deep:
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


def drawing(backbone: Backbone, options: Options) -> Noise:
    """What draws noise from the seed, the same on every device."""
    generator = backbone.generator(options.seed)
    return lambda z: backbone.noise(z, generator)


def _start(z: Tensor, options: Options, draw: Noise) -> Tensor:
    """Mix noise into the start linearly, as the reference does; the variance is not preserved."""
    if options.noise_share == 0:
        return z
    return draw(z) * options.noise_share + z * (1 - options.noise_share)
