"""The net and its encoders: what lies under the noise, given the first frame and a caption."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F  # noqa: N812 - its name everywhere
from torch import Tensor, nn
from transformers import CLIPTokenizer

from anyv2v.backbones.i2vgen_xl import image_latents, text_embeddings
from anyv2v.schedule import DDIM
from training.clips import Batch, stream
from training.parts import PIXELS
from training.recipe import Recipe

__all__ = ["NetLearner"]

LEAST = 0.05  # the least weight of a level
UNTOLD = (0.1, 0.15, 0.2)  # up to where neither is told, the caption is not, the picture is not


class NetLearner:
    """Learns the velocity (Salimans & Ho, arXiv 2202.00512) at noise levels spread evenly over a batch."""

    def __init__(
        self,
        nets: nn.ModuleDict,
        vae: nn.Module,
        tokenizer: CLIPTokenizer,
        schedule: DDIM,
        recipe: Recipe,
        device: torch.device,
    ) -> None:
        # Without the dropout of the net's temporal convolutions: endless data cannot be learned by heart.
        self.nets = nets.eval().to(device)
        self.vae = vae.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)
        self.tokenizer, self.recipe, self.device = tokenizer, recipe, device
        self.alphas = schedule.alphas_cumprod.to(device)

    def batches(self, first: int) -> Iterator[Batch]:
        """Clips ``[B, F, 3, H, W]`` in uint8, their captions, their frames per second."""
        recipe = self.recipe
        return stream(first, recipe.side, recipe.frames, batch=recipe.batch, workers=recipe.workers)

    def loss(self, batch: Batch) -> Tensor:
        """Mean squared error of the clean latents, but for the cleanest levels, which would not count at all.

        That of the velocity is mostly of levels where almost nothing is left to foresee.
        """
        pixels, captions, fps = batch
        clips = pixels.to(self.device).float() / 255
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            z0 = self._encode(clips)
            told = self._condition(clips[:, 0], z0[:, :, :1], captions)
            t = self._levels(len(z0))
            alpha = self.alphas[t].view(-1, 1, 1, 1, 1)
            noise = torch.randn_like(z0)
            z, velocity = mix(alpha, z0, noise)
            out = self.nets["unet"](z, t, fps=fps.to(self.device), **told, return_dict=False)[0]
        weight = (1 - alpha).clamp(min=LEAST)
        return (weight * (out.float() - velocity).square()).mean()

    @torch.no_grad()
    def _encode(self, clips: Tensor) -> Tensor:
        """``[B, F, 3, H, W] -> [B, C, F, h, w]``, float32."""
        frames = (2 * clips - 1).flatten(0, 1).contiguous(memory_format=torch.channels_last)
        latents = self.vae.encode(frames).latent_dist.mean.float() * self.vae.config.scaling_factor
        return latents.unflatten(0, clips.shape[:2]).transpose(1, 2).contiguous()

    def _condition(self, first: Tensor, latents: Tensor, captions: list[str]) -> dict[str, Tensor]:
        """As the backbone makes it, but that guidance needs rows that are told less."""
        draw = torch.rand(len(captions)).tolist()
        mute = [x < UNTOLD[1] for x in draw]
        blind = torch.tensor([x < UNTOLD[0] or UNTOLD[1] <= x < UNTOLD[2] for x in draw], device=self.device)
        texts = ["" if silent else caption for caption, silent in zip(captions, mute, strict=True)]
        crop = PIXELS["crop_size"]["height"]
        seen = F.interpolate(first, (crop, crop), mode="bilinear", antialias=True)
        normal = (seen - PIXELS["image_mean"][0]) / PIXELS["image_std"][0]
        embeddings = self.nets["image_encoder"](normal).image_embeds[:, None]
        return {
            "encoder_hidden_states": text_embeddings(self.nets["text_encoder"], self.tokenizer, texts),
            "image_embeddings": embeddings.masked_fill(blind[:, None, None], 0),
            "image_latents": image_latents(latents, self.recipe.frames),
        }

    def _levels(self, count: int) -> Tensor:
        """One level in each ``count``-th of the schedule."""
        spread = (torch.arange(count) + torch.rand(count)) / count
        return (spread * len(self.alphas)).long().to(self.device)


def mix(alpha: Tensor, z0: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """The noisy latents at a level, and their velocity."""
    signal, sigma = alpha.sqrt(), (1 - alpha).sqrt()
    return signal * z0 + sigma * noise, signal * noise - sigma * z0
