"""How work tells where it stands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["OnStep", "Step", "ignore"]


@dataclass(frozen=True)
class Step:
    """Where a run stands.

    Attributes:
        stage: ``load``, ``edit frame``, ``encode``, ``invert``, ``propagate``, ``decode`` and the like.
        done: Steps of the stage that are finished.
        total: Steps that the stage has.
        level: The noise level just reached; negative is clean.
        latents: The latents at that level, ``[1, C, F, h, w]``.
    """

    stage: str
    done: int
    total: int
    level: int | None = None
    latents: Tensor | None = None


OnStep = Callable[[Step], None]


def ignore(_step: Step) -> None:
    """For who does not listen."""
