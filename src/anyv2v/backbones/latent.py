"""What backbones have in common that work in the latents of an image VAE, each frame on its own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its name everywhere
from numpy.typing import NDArray
from torch import Tensor, nn

from anyv2v.backbones.protocol import Condition, OnFrame, ignore
from anyv2v.deep import DeepCache
from anyv2v.features import FeatureBank, Kind, Tap
from anyv2v.options import Options
from anyv2v.picture import Size
from anyv2v.schedule import DDIM, Schedule, sampler_of

__all__ = ["LatentBackbone", "decoder_taps", "tokens_of"]


class LatentBackbone:
    """See ``Backbone``; a model adds its conditions and how its net is asked.

    Args:
        net: The denoising net.
        vae: ``AutoencoderKL``, applied to each frame alone.
        others: The encoders of its conditions.
        schedule: The noise levels that ``net`` was trained on.

    Attributes:
        taps: Where its features are.
        ignores: Options that it has no use for.
        tokenizer: Of its prompts.
    """

    ignores: ClassVar[tuple[str, ...]] = ("image_guidance", "frame_init")
    taps: ClassVar[tuple[Tap, ...]]
    tokenizer: Any

    def __init__(self, net: nn.Module, vae: nn.Module, others: Sequence[nn.Module], schedule: DDIM) -> None:
        self.net: Any = net
        self.vae: Any = vae
        self.parts = (net, vae, *others)
        self.schedule = schedule
        self.bank = FeatureBank(net, self.taps)
        self.deep = DeepCache(net)
        self._visited: torch.device | None = None
        self._visitor: nn.Module | None = None

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        device: torch.device = self._visited or next(self.net.parameters()).device
        return device

    @property
    def low_memory(self) -> bool:
        """See ``Backbone``."""
        return self._visited is not None

    def visit(self, device: torch.device) -> None:
        """See ``Backbone``."""
        self._visited = device

    def bring(self, part: nn.Module) -> None:
        """Have a part where it computes; if parts only visit the device, the last visitor leaves."""
        if self._visited is None or part is self._visitor:
            return
        if self._visitor is not None:
            self._visitor.to("cpu")
        self._visitor = None
        try:
            self._visitor = part.to(self._visited)
        except RuntimeError:  # out of memory, half way
            part.to("cpu")
            raise

    @property
    def dtype(self) -> torch.dtype:
        """What the net computes in."""
        dtype: torch.dtype = next(self.net.parameters()).dtype
        return dtype

    @cached_property
    def scale_factor(self) -> int:
        """Pixels to a latent, along each side."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @torch.no_grad()
    def encode(
        self,
        frames: NDArray[np.uint8],
        generator: torch.Generator | None = None,
        *,
        on_frame: OnFrame = ignore,
    ) -> Tensor:
        """Each frame alone, so that the VAE never dominates memory."""
        latents = []
        for frame in frames:
            latents.append(self.encode_frame(frame, generator))
            on_frame(len(latents))
        return torch.cat(latents).transpose(0, 1)[None]

    def encode_frame(
        self, frame: NDArray[np.uint8], generator: torch.Generator | None, size: Size | None = None
    ) -> Tensor:
        """``[H, W, 3] -> [1, C, h, w]``, float32; a frame of another ``size`` is stretched, bilinearly."""
        pixels = torch.tensor(frame, device=self.device).permute(2, 0, 1)[None] / 255
        if size and size != Size.of(frame):
            pixels = F.interpolate(pixels, (size.height, size.width), mode="bilinear", align_corners=False)
        return self.encode_pixels(2 * pixels - 1, generator)

    def encode_pixels(self, pixels: Tensor, generator: torch.Generator | None) -> Tensor:
        """``[1, 3, H, W]`` in -1..1 to ``[1, C, h, w]``, float32."""
        self.bring(self.vae)
        posterior = self.vae.encode(pixels.to(self.vae.dtype)).latent_dist
        latents = posterior.mean
        if generator is not None:
            latents = latents + posterior.std * self.noise(latents, generator)
        scaled: Tensor = latents * self.vae.config.scaling_factor
        return scaled.float()

    @torch.no_grad()
    def decode(self, latents: Tensor, *, on_frame: OnFrame = ignore) -> NDArray[np.uint8]:
        """Each frame alone, so that the VAE never dominates memory."""
        scaled = latents[0].transpose(0, 1).to(self.vae.dtype) / self.vae.config.scaling_factor
        frames: list[NDArray[np.uint8]] = []
        for latent in scaled:
            frames.append(self._decode(latent[None]))
            on_frame(len(frames))
        return np.stack(frames)

    def _decode(self, latents: Tensor) -> NDArray[np.uint8]:
        """``[1, C, h, w] -> [H, W, 3]``."""
        self.bring(self.vae)
        pixels = (self.vae.decode(latents).sample[0].float() / 2 + 0.5).clamp(0, 1) * 255
        frame: NDArray[np.uint8] = pixels.round().to("cpu", torch.uint8).permute(1, 2, 0).numpy()
        return frame

    def ask(self, z: Tensor, t: int, condition: Condition) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """What a net is asked with, in its dtype; between steps latents stay float32."""
        self.bring(self.net)
        told = {
            name: tensor.to(self.dtype) if tensor.is_floating_point() else tensor
            for name, tensor in condition.tensors.items()
        }
        level = torch.full((), t, device=z.device)  # made there: a copy would wait for the device
        return z.to(self.dtype), level, told

    def rows(self, options: Options) -> int:
        """The negative prompt's and the prompt's, or the prompt's alone."""
        return 2 if options.guidance > 1 else 1

    def prompts(self, prompt: str, options: Options | None) -> list[str]:
        """The text of each of them."""
        return [options.negative_prompt, prompt] if options and self.rows(options) > 1 else [prompt]

    def unread(self, prompt: str) -> int:
        """See ``Backbone``."""
        count = len(self.tokenizer(prompt, verbose=False).input_ids)
        return max(0, count - int(self.tokenizer.model_max_length))

    def guide(self, out: Tensor, options: Options) -> Tensor:
        """Classifier-free guidance (arXiv 2207.12598), rescaled to the prompt's contrast (2305.08891)."""
        if len(out) == 1:
            return out
        negative, prompt = out.chunk(2)
        guided = negative + options.guidance * (prompt - negative)
        return torch.lerp(guided, guided * prompt.std() / guided.std(), options.guidance_rescale)

    def sampler(self, options: Options) -> Schedule:
        """See ``Backbone``."""
        return sampler_of(self.schedule, options)

    def prepare(self, z: Tensor, condition: Condition, options: Options) -> Tensor:  # noqa: ARG002
        """See ``Backbone``; nothing is done."""
        return z

    def generator(self, seed: int) -> torch.Generator:
        """Always on the CPU, so that a seed gives the same clip on every device."""
        return torch.Generator().manual_seed(seed)

    def noise(self, latents: Tensor, generator: torch.Generator) -> Tensor:
        """Gaussian noise of the shape and on the device of ``latents``."""
        return torch.randn(latents.shape, generator=generator).to(latents)


def decoder_taps(temporal: str) -> tuple[Tap, ...]:
    """The features of a net in the layout of Stable Diffusion with attention along time.

    Decoder layer ``3 * block + index`` of the paper is number ``index`` of its block; the lowest block has no
    attention.

    Args:
        temporal: Where in a block its attention along time is, with ``{index}``.
    """

    def taps(kind: Kind, path: str, first_block: int) -> list[Tap]:
        return [
            Tap(f"up_blocks.{layer // 3}." + path.format(index=layer % 3), kind, layer)
            for layer in range(3 * first_block, 12)
        ]

    return (
        *taps("conv", "resnets.{index}.conv2", 0),
        *taps("spatial", "attentions.{index}.transformer_blocks.0.attn1.to_[qk]", 1),
        *taps("temporal", temporal + ".to_[qk]", 1),
        *taps("cross", "attentions.{index}.transformer_blocks.0.attn2.to_[qk]", 1),
    )


def tokens_of(tokenizer: Any, prompts: list[str]) -> Tensor:
    """Numbers of tokens, padded to the tokenizer's length: ``[rows, tokens]``."""
    tokens: Tensor = tokenizer(
        prompts,
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    return tokens
