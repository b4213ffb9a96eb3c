"""An edit that was made elsewhere: by hand, or by any program at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from anyv2v.editors.protocol import Machine, Request
from anyv2v.picture import Fit, Frame, Size, read_image
from anyv2v.progress import OnStep, ignore

__all__ = ["Image", "ImageSettings"]


@dataclass(frozen=True)
class ImageSettings:
    """Which picture.

    Attributes:
        file: The edited first frame.
    """

    file: Path


class Image:
    """See ``Editor``. A picture of another shape is cropped around its centre."""

    Settings = ImageSettings

    def __init__(self, picture: Frame) -> None:
        self.picture = picture

    @classmethod
    def load(cls, weights: Mapping[str, Path], settings: ImageSettings, machine: Machine) -> Self:  # noqa: ARG003
        """See ``LoadableEditor``. Raises ImageError for what is no picture."""
        return cls(read_image(settings.file))

    def edit(self, request: Request, on_step: OnStep = ignore) -> Frame:  # noqa: ARG002 - it takes no time
        """See ``Editor``."""
        return Fit(Size.of(self.picture), Size.of(request.frame)).apply(self.picture)
