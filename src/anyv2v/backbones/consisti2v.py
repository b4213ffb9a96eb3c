"""ConsistI2V (Ren et al., arXiv 2402.04324) as a backbone.

Its net is given the first frame without noise and predicts the others alone. Frame 0 walks with them all the
same: its prediction is the noise between its latents and the known ones, so that it ends on these.

Not covered: camera motion by its FrameInit, and long clips made one after the other.
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

from anyv2v.backbones.frame_init import frame_init
from anyv2v.backbones.latent import LatentBackbone, decoder_taps, tokens_of
from anyv2v.backbones.protocol import Condition, VideoSpec
from anyv2v.models.consisti2v import NEVER_USED, ConsistI2VUNet
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
    weights_of,
)

__all__ = ["ConsistI2V"]

FILMED = 24  # frames per second of the clips that its frame stride counts in


class ConsistI2V(LatentBackbone):
    """See ``Backbone``; ``load`` is the way to make one.

    Args:
        net: A predictor of noise.
        vae: ``AutoencoderKL``, applied to each frame alone.
        text_encoder: ``CLIPTextModel``.
        tokenizer: ``CLIPTokenizer``.
        schedule: The noise levels that ``net`` was trained on.
    """

    name = "consisti2v"
    ignores = ()
    taps = decoder_taps("tempo_attns.{index}.transformer_blocks.0.attn1")

    def __init__(
        self, net: ConsistI2VUNet, vae: nn.Module, text_encoder: nn.Module, tokenizer: Any, schedule: DDIM
    ) -> None:
        super().__init__(net, vae, (text_encoder,), schedule)
        self.text_encoder: Any = text_encoder
        self.tokenizer = tokenizer

    @classmethod
    def load(cls, folder: Path, device: str = "auto", dtype: str = "auto") -> ConsistI2V:
        """Load a checkpoint in the layout of ``TIGER-Lab/ConsistI2V``; see ``load_backbone`` for the rest."""
        from diffusers import AutoencoderKL
        from transformers import CLIPTextModel, CLIPTokenizer

        where = pick_device(device)
        precision = pick_dtype(dtype, where)
        with loading(folder):
            with torch.device("meta"):
                net = ConsistI2VUNet.from_config(configuration(folder, "unet/config.json"))
            if where.type != "meta":
                stored = weights_of(folder / "unet", precision)
                used = {key: weight for key, weight in stored.items() if not NEVER_USED.search(key)}
                fill(net, used, folder / "unet")
            return cls(
                net=net.to(where, precision).eval().requires_grad_(False),
                vae=load_part(AutoencoderKL, folder, "vae", where, precision),
                text_encoder=load_part(CLIPTextModel, folder, "text_encoder", where, precision),
                tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True),
                schedule=DDIM.from_config(
                    configuration(folder, "scheduler/scheduler_config.json"), predicts="epsilon"
                ),
            )

    @cached_property
    def spec(self) -> VideoSpec:
        """256 x 256, as its authors publish it and the reference runs it."""
        config = self.net.config
        side = min(256, config.sample_size * self.scale_factor)
        return VideoSpec(Size(side, side), config.n_frames, fps=Fraction(8), multiple=self.scale_factor)

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
        """See ``Backbone``. With image guidance the first of three rows sees noise for the first frame.

        The keys are ``encoder_hidden_states`` ``[rows, 77, D]``, ``first_frame_latents``
        ``[rows, 4, 1, h, w]`` and ``frame_stride`` ``[rows]``, how many frames of a film lie between two.
        """
        rows = self.rows(options) if options else 1
        negative = options.negative_prompt if options else ""
        first = self.encode_frame(first_frame, generator, spec.size)[:, :, None].repeat(rows, 1, 1, 1, 1)
        if options and rows == 3:
            first[:1] = self.noise(first[:1], self.generator(options.seed))
        self.bring(self.text_encoder)
        tokens = tokens_of(self.tokenizer, [negative] * (rows - 1) + [prompt]).to(self.device)
        return Condition(
            {
                "encoder_hidden_states": self.text_encoder(tokens).last_hidden_state,
                "first_frame_latents": first,
                "frame_stride": torch.full((rows,), max(1, round(FILMED / spec.fps)), device=self.device),
            }
        )

    @torch.no_grad()
    def denoise(self, z: Tensor, t: int, condition: Condition) -> Tensor:
        """The noise, float32."""
        sample, level, told = self.ask(z, t, condition)
        others = self.net(sample[:, :, 1:], level, **told).float()
        alpha = self.schedule.alpha(t)
        known = condition.tensors["first_frame_latents"]
        first = (z[:, :, :1] - alpha.sqrt() * known) / (1 - alpha).sqrt()
        return torch.cat([first, others], dim=2)

    def rows(self, options: Options) -> int:
        """Three with image guidance: no frame, no text but the frame, both."""
        return 3 if options.image_guidance > 1 else super().rows(options)

    def guide(self, out: Tensor, options: Options) -> Tensor:
        """Guidance by the text, or by the first frame and then the text; the first frame itself is known."""
        known, others = out[-1:, :, :1], out[:, :, 1:]
        if len(out) < 3:
            return torch.cat([known, super().guide(others, options)], dim=2)
        blind, seeing, told = others.chunk(3)
        guided = blind + options.image_guidance * (seeing - blind) + options.guidance * (told - seeing)
        return torch.cat([known, guided], dim=2)

    def prepare(self, z: Tensor, condition: Condition, options: Options) -> Tensor:
        """With FrameInit, if it is asked for."""
        if options.frame_init == "none":
            return z
        first = condition.tensors["first_frame_latents"][-1:]
        return frame_init(z, first, self.schedule, options.frame_init)
