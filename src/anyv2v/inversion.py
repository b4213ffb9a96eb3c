"""Ways from data to noise: which latents does sampling carry back to the source?

Every scheme walks up the levels that sampling walks down, and gives the latents at each as it gets there.
``ask(z, t)`` is the net's prediction for latents ``[1, C, F, h, w]`` at level ``t``. Not covered: schemes
that tune the net or its conditions, and samplers that are invertible by design.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from anyv2v.options import Options
    from anyv2v.schedule import Schedule

__all__ = ["Ask", "calls", "ddim", "fixed_point", "midpoint", "undo", "uni", "walk"]

Ask = Callable[["Tensor", int], "Tensor"]
Walk = Iterator[tuple[int, "Tensor"]]


def walk(ask: Ask, schedule: Schedule, z: Tensor, options: Options) -> Walk:
    """Invert as ``options`` say: each of ``inversion_steps`` levels, cleanest first, and its latents.

    Args:
        ask: The net, told its condition.
        schedule: The levels, and the sampler's step.
        z: Clean latents, ``[1, C, F, h, w]``.
        options: ``inversion``, ``inversion_steps`` and ``inversion_iterations`` are read.
    """
    levels = schedule.grid(options.inversion_steps)[::-1]
    match options.inversion:
        case "ddim":
            return ddim(ask, schedule, z, levels)
        case "uni":
            return uni(ask, schedule, z, levels)
        case "fixed-point":
            return fixed_point(ask, schedule, z, levels, options.inversion_iterations)
        case "midpoint":
            return midpoint(ask, schedule, z, levels)


def calls(options: Options) -> int:
    """How often ``walk`` asks the net."""
    each = {"ddim": 1, "uni": 1, "fixed-point": options.inversion_iterations, "midpoint": 2}
    return each[options.inversion] * options.inversion_steps


def ddim(ask: Ask, schedule: Schedule, z: Tensor, levels: Sequence[int]) -> Walk:
    """The paper's and the reference's: the cleaner latents stand in for the noisier (arXiv 2105.05233)."""
    for s, t in pairwise(levels):
        z = schedule.step(ask(z, schedule.inverse_at(s, t)), z, s, t)
        yield t, z


def uni(ask: Ask, schedule: Schedule, z: Tensor, levels: Sequence[int]) -> Walk:
    """Uni-Inv (UniEdit-Flow, arXiv 2504.13109): ask where the last prediction leads, then step again.

    The net sees latents of its own level, off by the square of the step, for one call a step. The paper's one
    call more, before the first step, is left out: it took at most a twelfth off the error.
    """
    out: Tensor | None = None
    for s, t in pairwise(levels):
        out = ask(z if out is None else schedule.step(out, z, s, t), t)
        z = undo(schedule, out, z, t, s)
        yield t, z


def fixed_point(ask: Ask, schedule: Schedule, z: Tensor, levels: Sequence[int], iterations: int) -> Walk:
    """AIDI (arXiv 2309.04907), ReNoise (2403.14602) without its averages: repeat until the step agrees.

    Where it converges, sampling retraces it exactly.
    """
    for s, t in pairwise(levels):
        noisier = z
        for _ in range(iterations):
            noisier = undo(schedule, ask(noisier, t), z, t, s)
        z = noisier
        yield t, z


def midpoint(ask: Ask, schedule: Schedule, z: Tensor, levels: Sequence[int]) -> Walk:
    """The explicit midpoint rule, as in DPM-Solver-2 (arXiv 2206.00927): the way on is that halfway.

    It follows the continuous path to second order; DDIM's own steps leave that to first.
    """
    for s, t in pairwise(levels):
        m = max((s + t) // 2, levels[1])
        half = schedule.step(ask(z, m), z, s, m)
        out = ask(half, m)
        z = z + schedule.step(out, half, m, t) - schedule.step(out, half, m, s)
        yield t, z


def undo(schedule: Schedule, out: Tensor, z: Tensor, t: int, s: int) -> Tensor:
    """The latents at ``t`` that a step with the prediction ``out`` carries to ``z`` at ``s``.

    A step is ``kept * z_t + moved``, the second part in proportion to ``out``. For a net that predicts
    velocity this is not the step the other way, which reads ``out`` as a prediction at ``s``.
    """
    nothing = z.new_zeros(())
    kept, moved = schedule.step(nothing, z.new_ones(()), t, s), schedule.step(out, nothing, t, s)
    return (z - moved) / kept
