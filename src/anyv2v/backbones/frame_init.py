"""FrameInit (ConsistI2V, arXiv 2402.04324): a clip that begins with the layout of its first frame.

Not covered: other filters than the Gaussian, and still clips that pan or zoom.
"""

from __future__ import annotations

import torch
from torch import Tensor

from anyv2v.schedule import DDIM

__all__ = ["frame_init", "low_pass"]

LEVEL = 850  # how noisy the still clip is made
CUT = 0.25  # where the low frequencies end, as a share of the highest


def frame_init(z: Tensor, first: Tensor, schedule: DDIM) -> Tensor:
    """Noise with the low frequencies of the first frame, standing still and as noisy.

    Args:
        z: Noise, ``[B, C, F, h, w]``.
        first: Clean latents of the first frame, ``[B, C, 1, h, w]``.
        schedule: Tells how noisy a level is.
    """
    alpha = schedule.alpha(LEVEL)
    return blend(alpha.sqrt() * first + (1 - alpha).sqrt() * z, z)


def blend(slow: Tensor, fast: Tensor) -> Tensor:
    """The low frequencies of one clip with the others of another, both ``[B, C, F, h, w]``."""
    low, axes = low_pass(*slow.shape[2:]).to(slow.device), (-3, -2, -1)
    spectrum = low * torch.fft.fftn(slow, dim=axes) + (1 - low) * torch.fft.fftn(fast, dim=axes)
    clip: Tensor = torch.fft.ifftn(spectrum, dim=axes).real
    return clip


def low_pass(frames: int, height: int, width: int) -> Tensor:
    """A Gaussian over the frequencies of a clip, in the order of ``fftn``: ``[F, h, w]``."""
    axes = [2 * torch.arange(n) / n - 1 for n in (frames, height, width)]
    distance = torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(0)
    shares: Tensor = torch.fft.ifftshift(torch.exp(-distance / (2 * CUT**2)))
    return shares
