"""What an image-to-video model must offer to be a backbone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from anyv2v.deep import DeepCache
from anyv2v.features import FeatureBank
from anyv2v.options import Options
from anyv2v.picture import Size
from anyv2v.schedule import Schedule

__all__ = ["Backbone", "Condition", "OnFrame", "VideoSpec", "ignore"]


@dataclass(frozen=True)
class VideoSpec:
    """The clip that a backbone works on.

    Attributes:
        size: Width and height in pixels.
        frames: Number of frames.
        fps: Frames per second.
        multiple: Width and height must be multiples of this many pixels.
    """

    size: Size
    frames: int
    fps: Fraction
    multiple: int


@dataclass(frozen=True)
class Condition:
    """What the net is told beside the latents and the timestep: one row for each branch of a batch.

    Attributes:
        tensors: Keyword arguments of the net, every one ``[rows, ...]``. A guided edit has two rows, the
            negative prompt first.
    """

    tensors: Mapping[str, Tensor]

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, rows: slice) -> Condition:
        return Condition({name: tensor[rows] for name, tensor in self.tensors.items()})

    def __add__(self, other: Condition) -> Condition:
        """The rows of both, under each other."""
        return Condition(
            {name: torch.cat([rows, other.tensors[name]]) for name, rows in self.tensors.items()}
        )


OnFrame = Callable[[int], None]


def ignore(_done: int) -> None:
    """For who does not listen."""


class Backbone(Protocol):
    """An image-to-video model. ``F`` frames of ``H x W`` pixels are latents ``[B, C, F, h, w]``.

    Attributes:
        name: The name in the registry.
        spec: The clip that it works on unless told otherwise.
        schedule: Its noise levels, as inversion walks them.
        device: Where it computes.
        net: The denoising net.
        parts: Every net that takes memory, ``net`` among them.
        ignores: Options that it has no use for.
        low_memory: Whether parts only visit ``device``: see ``visit``.
        bank: The features of ``net``, with a tap for each kind and each decoder layer of the paper's count.
        deep: The deep layers of ``net``, of which some steps need no new answer.
    """

    name: str
    spec: VideoSpec
    schedule: Schedule
    device: torch.device
    net: nn.Module
    parts: Sequence[nn.Module]
    ignores: Sequence[str]
    low_memory: bool
    bank: FeatureBank
    deep: DeepCache

    def visit(self, device: torch.device) -> None:
        """Compute on ``device`` with one part there at a time; the others wait in the host's memory."""
        ...

    def encode(
        self,
        frames: NDArray[np.uint8],
        generator: torch.Generator | None = None,
        *,
        on_frame: OnFrame = ignore,
    ) -> Tensor:
        """Frames ``[F, H, W, 3]`` to clean latents ``[1, C, F, h, w]``, float32.

        Without a generator each frame becomes the mode of the VAE's posterior, else a sample of it.
        ``on_frame`` is called with the number of frames done.
        """
        ...

    def decode(self, latents: Tensor, *, on_frame: OnFrame = ignore) -> NDArray[np.uint8]:
        """Clean latents ``[1, C, F, h, w]`` to frames ``[F, H, W, 3]``; ``on_frame`` as above."""
        ...

    def condition(
        self,
        first_frame: NDArray[np.uint8],
        prompt: str,
        spec: VideoSpec,
        options: Options | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Condition:
        """Condition on a first frame ``[H, W, 3]`` and a prompt, for a clip as ``spec`` has it.

        Returns:
            One row, or with options the rows that their guidance needs, the prompt's last.
        """
        ...

    def unread(self, prompt: str) -> int:
        """How many tokens of a prompt are too many: what comes last is not read."""
        ...

    def prepare(self, z: Tensor, condition: Condition, options: Options) -> Tensor:
        """The latents to start from, given those that the source and the noise make, ``[1, C, F, h, w]``."""
        ...

    def rows(self, options: Options) -> int:
        """How many rows the guidance of ``options`` needs."""
        ...

    def sampler(self, options: Options) -> Schedule:
        """How the edit walks from noise to data; ``schedule`` is how the source was inverted."""
        ...

    def denoise(self, z: Tensor, t: int, condition: Condition) -> Tensor:
        """The net's prediction for latents ``[B, C, F, h, w]`` at level ``t``; ``condition`` has B rows."""
        ...

    def guide(self, out: Tensor, options: Options) -> Tensor:
        """Combine the rows of a condition's prediction, ``[rows, ...] -> [1, ...]``."""
        ...

    def generator(self, seed: int) -> torch.Generator:
        """A source of randomness that gives the same numbers on every device."""
        ...

    def noise(self, latents: Tensor, generator: torch.Generator) -> Tensor:
        """Gaussian noise of the shape and on the device of ``latents``."""
        ...
