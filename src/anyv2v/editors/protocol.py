"""What an editor of the first frame is asked, and what it must be able to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from anyv2v.picture import Frame
from anyv2v.progress import OnStep, ignore

if TYPE_CHECKING:
    import torch

__all__ = ["Editor", "LoadableEditor", "Machine", "Mask", "Request"]

Mask = NDArray[np.bool_]  # [H, W], true where something is


@dataclass(frozen=True, eq=False)
class Request:
    """An edit of one picture.

    Attributes:
        frame: The source's first frame, ``[H, W, 3]``, of any size.
        instruction: What to do, or what the result shows, as the editor has it.
        references: Pictures ``[h, w, 3]`` of the style, subject or face that is wanted.
        reference_mask: The subject in the first reference, ``[h, w]``.
        mask: Where the frame may change, ``[H, W]``; everywhere if left out.
        seed: Seeds everything random.
    """

    frame: Frame
    instruction: str = ""
    references: tuple[Frame, ...] = ()
    reference_mask: Mask | None = None
    mask: Mask | None = None
    seed: int = 0


class Editor(Protocol):
    """What edits a first frame. One file and one entry in the registry add an editor."""

    def edit(self, request: Request, on_step: OnStep = ignore) -> Frame:
        """Edit a picture.

        Args:
            request: Holds everything that the editor's entry says it needs.
            on_step: Called with ``Step("edit frame", done, total)``.

        Returns:
            The edited frame ``[H, W, 3]``: of the frame's own size, each pixel where it was.
        """
        ...


@dataclass(frozen=True)
class Machine:
    """What an editor runs on.

    Attributes:
        device: Where it computes.
        dtype: What it computes in.
        low_memory: Keep on the device only the part that works.
    """

    device: torch.device
    dtype: torch.dtype
    low_memory: bool = False


class LoadableEditor(Editor, Protocol):
    """What an entry of the registry names.

    Attributes:
        Settings: A frozen dataclass of what a user can set, with defaults.
    """

    Settings: ClassVar[type[Any]]

    @classmethod
    def load(cls, weights: Mapping[str, Path], settings: Any, machine: Machine) -> Self:
        """Load it.

        Args:
            weights: The folder or file of each of its entry's ``weights``, by role.
            settings: An instance of ``Settings``.
            machine: What it runs on.

        Raises:
            CheckpointError: Weights that are broken, incomplete or another model's.
        """
        ...
