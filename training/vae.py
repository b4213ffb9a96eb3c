"""The VAE: frames in and out, one at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from training.clips import Batch, stream
from training.recipe import Recipe

__all__ = ["VaeLearner", "latent_scale"]

PURE = 3e-5  # the weight of the prior; small, as latents are scaled afterwards anyway


class VaeLearner:
    """Learns to give frames back: absolute and squared error, and little of the prior."""

    def __init__(self, vae: nn.Module, recipe: Recipe, device: torch.device) -> None:
        self.nets = vae.to(device, memory_format=torch.channels_last)
        self.recipe, self.device = recipe, device

    def batches(self, first: int) -> Iterator[Tensor]:
        """Frames ``[B, 3, H, W]`` in -1..1, four of each clip."""
        recipe = self.recipe
        clips = max(1, recipe.vae_batch // 4)
        for batch in stream(first, recipe.side, recipe.frames, batch=clips, workers=recipe.workers):
            yield picked(batch).to(self.device, memory_format=torch.channels_last).float() / 127.5 - 1

    def loss(self, batch: Tensor) -> Tensor:
        """``batch`` as ``batches`` makes it."""
        posterior = self.nets.encode(batch).latent_dist
        error = self.nets.decode(posterior.sample()).sample - batch
        prior: Tensor = posterior.kl().mean() / posterior.mean[0].numel()
        return error.abs().mean() + error.square().mean() + PURE * prior


def picked(batch: Batch) -> Tensor:
    """Four frames of each clip, evenly spread."""
    clips = batch[0]
    return clips[:, :: max(1, clips.shape[1] // 4)][:, :4].flatten(0, 1)


@torch.no_grad()
def latent_scale(vae: nn.Module, frames: Tensor) -> float:
    """What makes the latents of frames ``[B, 3, H, W]`` of unit variance."""
    return 1 / vae.encode(frames).latent_dist.mean.std().item()
