"""FrameInit (ConsistI2V, arXiv 2402.04324): a clip that begins with the layout of its first frame.

Not covered: still clips that pan or zoom.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from anyv2v.schedule import DDIM

__all__ = ["FILTERS", "blend", "frame_init", "low_pass"]

LEVEL = 850  # how noisy the still clip is made
CUT = 0.25  # where the low frequencies end, as a share of the highest


def frame_init(z: Tensor, first: Tensor, schedule: DDIM, kind: str = "gaussian") -> Tensor:
    """Noise with the low frequencies of the first frame, standing still and as noisy.

    Args:
        z: Noise, ``[B, C, F, h, w]``.
        first: Clean latents of the first frame, ``[B, C, 1, h, w]``.
        schedule: Tells how noisy a level is.
        kind: A key of ``FILTERS``.
    """
    alpha = schedule.alpha(LEVEL)
    still = alpha.sqrt() * first + (1 - alpha).sqrt() * z
    frames, height, width = z.shape[2:]
    return blend(still, z, low_pass(kind, frames, height, width).to(z.device))


def blend(slow: Tensor, fast: Tensor, low: Tensor) -> Tensor:
    """The frequencies ``low`` ``[F, h, w]`` of one clip with the others of another, ``[B, C, F, h, w]``."""
    axes = (-3, -2, -1)
    low = torch.fft.ifftshift(low)
    spectrum = low * torch.fft.fftn(slow, dim=axes) + (1 - low) * torch.fft.fftn(fast, dim=axes)
    clip: Tensor = torch.fft.ifftn(spectrum, dim=axes).real
    return clip


def low_pass(
    kind: str, frames: int, height: int, width: int, *, space: float = CUT, time: float = CUT
) -> Tensor:
    """How much of each frequency passes, 0 to 1, the lowest in the middle: ``[F, h, w]``.

    Args:
        kind: A key of ``FILTERS``.
        frames: F.
        height: h.
        width: w.
        space: Where the low frequencies end in space, as a share of the highest.
        time: Where they end in time.
    """
    if kind == "box":
        return _box(frames, height, width, space, time)
    axes = [2 * torch.arange(n) / n - 1 for n in (frames, height, width)]
    t, y, x = torch.meshgrid(*axes, indexing="ij")
    return FILTERS[kind]((space / time * t) ** 2 + y**2 + x**2, space)


# Of the squared distance from the lowest frequency, and where the low ones end.
FILTERS: Mapping[str, Callable[[Tensor, float], Tensor]] = {
    "gaussian": lambda d2, cut: torch.exp(-d2 / (2 * cut**2)),
    "butterworth": lambda d2, cut: 1 / (1 + (d2 / cut**2) ** 4),
    "ideal": lambda d2, cut: (d2 <= 2 * cut).float(),  # of the authors: not the square of the cut
}


def _box(frames: int, height: int, width: int, space: float, time: float) -> Tensor:
    """All or nothing, within half the extents of a cuboid; the authors measure the width by the height."""
    reach, last = round(height // 2 * space), round(frames // 2 * time)
    low = torch.zeros(frames, height, width)
    middle = [
        slice(n // 2 - half, n // 2 + half) for n, half in ((frames, last), (height, reach), (width, reach))
    ]
    low[tuple(middle)] = 1
    return low
