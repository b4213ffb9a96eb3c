"""The VAE: frames in and out, one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from training.clips import Batch, stream
from training.recipe import Recipe

__all__ = ["VaeLearner", "balanced"]

STEP = 0.1  # in latents, by which their effect is measured
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
def balanced(vae: Any, frames: Tensor) -> Any:
    """The same VAE with other latents: their squared error is that of the picture, whatever the channel.

    Else a net would learn most of all what hardly shows: a channel of fine detail, which cannot be foreseen,
    made half of its loss and a tenth of the error in pixels. Their means are zero, and with the scaling
    factor their variance is one.

    Args:
        vae: Whose channels have any scale.
        frames: ``[B, 3, H, W]`` in -1..1, by which its latents are judged.
    """
    vae = deepcopy(vae)
    z = vae.encode(frames).latent_dist.mean
    shows, mean = _shown(vae, z), z.mean((0, 2, 3))
    shows = shows.clamp(min=shows.max() / 10)  # a young VAE has channels that do not show at all
    scale = shows / shows.square().mean().sqrt()
    out, back = vae.quant_conv, vae.post_quant_conv
    count = len(scale)
    out.weight[:count] *= scale.view(-1, 1, 1, 1)
    out.bias[:count] = (out.bias[:count] - mean) * scale
    out.bias[count:] += 2 * scale.log()  # the posterior's variances
    back.bias += back.weight[:, :, 0, 0] @ mean
    back.weight /= scale.view(1, -1, 1, 1)
    vae.register_to_config(
        scaling_factor=1 / ((z - mean.view(1, -1, 1, 1)) * scale.view(1, -1, 1, 1)).std().item()
    )
    return vae


def _shown(vae: Any, z: Tensor) -> Tensor:
    """How far the picture moves with each channel of its latents: by root mean squares, ``[C]``."""
    before, moves = vae.decode(z).sample, []
    for channel in range(z.shape[1]):
        step = torch.zeros_like(z)
        step[:, channel] = STEP * torch.randn_like(z[:, channel])
        moves.append((vae.decode(z + step).sample - before).square().mean().sqrt() / STEP)
    return torch.stack(moves)
