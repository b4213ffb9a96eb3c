"""The inversion that an edit starts from: out of a file, out of the cache, or made and then kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from anyv2v.cache import cache_limit
from anyv2v.carry import invert_video
from anyv2v.edit import Trajectory
from anyv2v.errors import UserError
from anyv2v.fitting import check_options, recorded_taps, source_levels, start_level
from anyv2v.job import EditJob
from anyv2v.options import Options
from anyv2v.progress import OnStep, ignore
from anyv2v.store import identity, inversion_key, keep_inversion, kept_inversion, load_trajectory
from anyv2v.video import Video

if TYPE_CHECKING:
    from anyv2v.backbones.protocol import Backbone

__all__ = ["Inversion", "inversion_at_hand", "inversion_for", "of_use"]

SHARE = 4
"""One inversion may take a quarter of the cache: features of a full-size net would drive out all else."""


@dataclass(frozen=True)
class Inversion:
    """The inversion of a clip.

    Attributes:
        trajectory: All that sampling asks for, at least.
        steps: The number of its steps.
        origin: Where it came from: ``file``, ``cache``, or ``net``, which made it.
        notices: What a person should know, a sentence each.
    """

    trajectory: Trajectory
    steps: int
    origin: Literal["file", "cache", "net"]
    notices: tuple[str, ...] = ()


def inversion_for(
    job: EditJob, checkpoint: Path, backbone: Backbone, video: Video, on_step: OnStep = ignore
) -> Inversion:
    """Take what is at hand; else invert the clip, and keep what later edits may ask for.

    Raises:
        UserError: Anything that the user can mend; that nothing can be kept is but a notice.
    """
    check_options(backbone, job.options)  # before the work
    about, steps = identity(backbone, checkpoint, video, job.options), job.options.inversion_steps
    if job.trajectory:
        given, steps = load_trajectory(job.trajectory, about, backbone.device)
        return Inversion(_lacking_nothing(given, backbone, job), steps, "file")
    key = inversion_key(backbone, checkpoint, about, steps)
    held = kept_inversion(key, about, backbone.device) if job.cache else None
    if held and _serves(held, backbone, job.options):
        return Inversion(held, steps, "cache")
    made = of_use(invert_video(backbone, video, job.options, on_step=on_step), backbone, job.options)
    if not job.cache:
        return Inversion(made, steps, "net")
    return Inversion(made, steps, "net", _keep(key, made, held, about, steps))


def inversion_at_hand(job: EditJob, checkpoint: Path, backbone: Backbone, video: Video) -> bool:
    """Whether an edit would find its clip's inversion: in the file that was named, or in the cache.

    Raises:
        OptionError: The file is no inversion of this clip with these settings, or lacks features.
    """
    about = identity(backbone, checkpoint, video, job.options)
    if job.trajectory:
        _lacking_nothing(load_trajectory(job.trajectory, about, "cpu")[0], backbone, job)
        return True
    key = inversion_key(backbone, checkpoint, about, job.options.inversion_steps)
    held = kept_inversion(key, about, "cpu") if job.cache else None
    return held is not None and _serves(held, backbone, job.options)


def of_use(trajectory: Trajectory, backbone: Backbone, options: Options) -> Trajectory:
    """The part that sampling with as many steps can ask for, whatever it skips."""
    asked = {start_level(backbone, options), *source_levels(backbone, options)}
    passed = sorted(asked & trajectory.latents.keys())  # of skipped steps not every level must be there
    return Trajectory({level: trajectory.at(level) for level in passed}, trajectory.features)


def _lacking_nothing(given: Trajectory, backbone: Backbone, job: EditJob) -> Trajectory:
    """The inversion of a file, seen to hold all that sampling will ask for. Raises OptionError."""
    given.at(start_level(backbone, job.options))
    for level in recorded_taps(backbone, job.options):
        given.features_at(level)
    return given


def _serves(held: Trajectory, backbone: Backbone, options: Options) -> bool:
    """Whether it has all that sampling will ask for."""
    levels = {start_level(backbone, options), *source_levels(backbone, options)[options.skip :]}
    return levels <= held.latents.keys() and all(
        held.features.get(level, {}).keys() >= set(backbone.bank.modules(tap))
        for level, taps in recorded_taps(backbone, options).items()
        for tap in taps
    )


def _joined(made: Trajectory, held: Trajectory | None) -> Trajectory:
    """Both: edits that sample in other steps share what is kept, so it is to serve them all."""
    if held is None:
        return made
    levels = held.features.keys() | made.features.keys()
    features = {level: {**held.features.get(level, {}), **made.features.get(level, {})} for level in levels}
    return Trajectory({**held.latents, **made.latents}, features)


def _keep(
    key: str, made: Trajectory, held: Trajectory | None, about: dict[str, str], steps: int
) -> tuple[str, ...]:
    """Keep both, with as many features as are not too large; what a person should know of that."""
    whole = _joined(made, held)
    try:
        room, size = cache_limit() / SHARE, _size(whole)
        some = whole, made, *([held] if held else []), Trajectory({})
        kept = next(one for one in some if _size(one) <= room)
        keep_inversion(key, Trajectory(whole.latents, kept.features), about, steps)
    except UserError as error:
        return (f"the inversion was not kept for later edits: {error}",)
    if _size(kept) == size:
        return ()
    lost = f"{(size - _size(kept)) / 1e9:.3g} GB of features were not kept"
    again = f"so a later edit inverts the clip again; ANYV2V_CACHE_LIMIT={SHARE * size / 1e9:.0f}"
    return (f"{lost}, {again} would keep them",)


def _size(trajectory: Trajectory) -> int:
    """Bytes of its features."""
    return sum(feature.nbytes for level in trajectory.features.values() for feature in level.values())
