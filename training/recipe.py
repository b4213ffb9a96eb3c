"""What is trained, on what, and for how long."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["RECIPES", "Recipe"]


@dataclass(frozen=True)
class Recipe:
    """One training run: first the VAE, then the net with its encoders in the VAE's latents.

    Attributes:
        side: Width and height of a frame in pixels.
        frames: Frames of a clip.
        vae_widths: Channels of the VAE; each width after the first halves the picture.
        vae_minutes: How long the VAE is trained.
        vae_batch: Frames a step.
        vae_rate: Its learning rate once it is warm.
        widths: Channels of the net at its four scales.
        head: Channels of an attention head.
        minutes: How long the net is trained.
        batch: Clips a step.
        rate: The net's learning rate once it is warm.
        workers: Processes that render clips.
        save_minutes: How often a checkpoint and a picture are written.
        sample_steps: Steps in which the clips of the picture are made.
    """

    side: int
    frames: int
    vae_widths: tuple[int, ...] = (32, 64, 96)
    vae_minutes: float = 26.0
    vae_batch: int = 8
    vae_rate: float = 5e-4
    widths: tuple[int, ...] = (48, 64, 96, 128)
    head: int = 16
    minutes: float = 600.0
    batch: int = 4
    rate: float = 6e-4
    workers: int = 1
    save_minutes: float = 5.0
    sample_steps: int = 25


RECIPES: Mapping[str, Recipe] = {
    "cpu": Recipe(side=64, frames=8),
    "gpu": Recipe(
        side=128,
        frames=16,
        vae_minutes=5,
        vae_batch=64,
        widths=(64, 80, 96, 96),
        minutes=19,
        batch=32,
        workers=15,
        save_minutes=3,
    ),
    "smoke": Recipe(
        side=16,
        frames=4,
        vae_widths=(32, 40, 48),
        vae_minutes=0.01,
        vae_batch=4,
        widths=(32, 32, 32, 32),
        head=8,
        minutes=0.02,
        batch=2,
        workers=0,
        save_minutes=0.01,
        sample_steps=2,
    ),
}
"""Two cores in ten hours; one GPU in half an hour; and a test that all of it runs."""
