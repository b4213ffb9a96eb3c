"""SEINE (Chen et al., arXiv 2310.20700) as a backbone: it fills in the frames that a mask leaves open.

Not covered: transitions between two given frames, and its own sampler of learned variance.
"""

from __future__ import annotations

from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from anyv2v.backbones.checkpoint import ema_weights, stable_diffusion
from anyv2v.backbones.latent import LatentBackbone, decoder_taps, tokens_of
from anyv2v.backbones.protocol import Condition, VideoSpec
from anyv2v.models.seine import Config, SEINEUNet
from anyv2v.options import Options
from anyv2v.picture import Size
from anyv2v.schedule import DDIM
from anyv2v.weights import (
    configuration,
    fill,
    load_part,
    loading,
    pick_device,
    pick_dtype,
)

__all__ = ["SEINE"]

BETAS = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}
"""Its own noise levels, over the steps and the offset of Stable Diffusion's."""


class SEINE(LatentBackbone):
    """See ``Backbone``; ``load`` is the way to make one.

    Args:
        net: A predictor of noise.
        vae: ``AutoencoderKL``, applied to each frame alone.
        text_encoder: ``CLIPTextModel``.
        tokenizer: ``CLIPTokenizer``.
        schedule: The noise levels that ``net`` was trained on.
        side: Pixels along a side of its clips.
    """

    name = "seine"
    taps = decoder_taps("attentions.{index}.transformer_blocks.0.attn_temp")

    def __init__(
        self,
        net: SEINEUNet,
        vae: nn.Module,
        text_encoder: nn.Module,
        tokenizer: Any,
        schedule: DDIM,
        side: int = 512,
    ) -> None:
        super().__init__(net, vae, (text_encoder,), schedule)
        self.text_encoder: Any = text_encoder
        self.tokenizer = tokenizer
        self.side = side

    @classmethod
    def load(cls, folder: Path, device: str = "auto", dtype: str = "auto") -> SEINE:
        """Load ``seine.pt``, or what ``anyv2v convert`` made of it, beside a Stable Diffusion v1-4 folder.

        See ``load_backbone`` for the rest.
        """
        from diffusers import AutoencoderKL
        from transformers import CLIPTextModel, CLIPTokenizer

        where = pick_device(device)
        precision = pick_dtype(dtype, where)
        base = stable_diffusion(folder)
        with loading(folder):
            unet = configuration(base, "unet/config.json")
            weights = ema_weights(folder, where)
            with torch.device("meta"):
                net = SEINEUNet(Config.of(weights, groups=unet.get("norm_num_groups", 32)))
            fill(net, weights, folder)
            return cls(
                net=net.to(where, precision).eval().requires_grad_(False),
                vae=load_part(AutoencoderKL, base, "vae", where, precision),
                text_encoder=load_part(CLIPTextModel, base, "text_encoder", where, precision),
                tokenizer=CLIPTokenizer.from_pretrained(base / "tokenizer", local_files_only=True),
                schedule=DDIM.from_config(configuration(base, "scheduler/scheduler_config.json") | BETAS),
                side=unet.get("sample_size", 64) * 8,
            )

    @cached_property
    def spec(self) -> VideoSpec:
        """512 x 512, as the reference runs it."""
        return VideoSpec(Size(self.side, self.side), frames=16, fps=Fraction(8), multiple=self.scale_factor)

    @torch.no_grad()
    def condition(
        self,
        first_frame: NDArray[np.uint8],
        prompt: str,
        spec: VideoSpec,
        options: Options | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Condition:
        """See ``Backbone``. The first frame is given, the others are grey and masked.

        The keys are ``encoder_hidden_states`` ``[rows, 77, D]`` and ``given`` ``[rows, 5, F, h, w]``: the
        mask, 0 where a frame is given and else 1, and the latents of what is given.
        """
        prompts = self.prompts(prompt, options)
        first = self.encode_frame(first_frame, generator, spec.size)
        grey = torch.zeros(1, 3, spec.size.height, spec.size.width, device=self.device)
        draws = spec.frames - 1 if generator else 1  # without noise all of them are equal
        others = torch.stack([self.encode_pixels(grey, generator) for _ in range(draws)], dim=2)
        latents = torch.cat([first[:, :, None], others.expand(-1, -1, spec.frames - 1, -1, -1)], dim=2)
        mask = torch.ones_like(latents[:, :1])
        mask[:, :, 0] = 0
        self.bring(self.text_encoder)
        tokens = tokens_of(self.tokenizer, prompts).to(self.device)
        return Condition(
            {
                "encoder_hidden_states": self.text_encoder(tokens).last_hidden_state,
                "given": torch.cat([mask, latents], dim=1).expand(len(prompts), -1, -1, -1, -1),
            }
        )

    @torch.no_grad()
    def denoise(self, z: Tensor, t: int, condition: Condition) -> Tensor:
        """The noise, float32."""
        sample, level, told = self.ask(z, t, condition)
        noise: Tensor = self.net(
            torch.cat([sample, told["given"]], dim=1), level, told["encoder_hidden_states"]
        )
        return noise.float()
