"""A first-frame editor for anyv2v, in a package of its own: fewer colours, as in a printed poster.

pip install ./examples/editor-package
anyv2v edit clip.mp4 --editor poster --set levels=4 -o poster.mp4
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from anyv2v.editors import EditorEntry
from anyv2v.editors.protocol import Machine, Request
from anyv2v.errors import OptionError
from anyv2v.picture import Frame
from anyv2v.progress import OnStep, ignore


@dataclass(frozen=True)
class PosterSettings:
    """What a user can set by ``--set``.

    Attributes:
        levels: Levels of each of red, green and blue, 2 to 64.
    """

    levels: int = 5

    def __post_init__(self) -> None:
        if not 2 <= self.levels <= 64:
            raise OptionError(f"levels is {self.levels}; it must be 2 to 64")


class Poster:
    """See ``anyv2v.editors.protocol.LoadableEditor``."""

    Settings = PosterSettings

    def __init__(self, settings: PosterSettings) -> None:
        self.settings = settings

    @classmethod
    def load(cls, weights: Mapping[str, Path], settings: PosterSettings, machine: Machine) -> Self:  # noqa: ARG003
        return cls(settings)

    def edit(self, request: Request, on_step: OnStep = ignore) -> Frame:  # noqa: ARG002
        steps = self.settings.levels - 1
        poster: Frame = np.rint(np.rint(request.frame / 255 * steps) * (255 / steps)).astype(np.uint8)
        return poster


ENTRY = EditorEntry("poster", "style", "fewer colours, as in a printed poster", "anyv2v_poster:Poster")
