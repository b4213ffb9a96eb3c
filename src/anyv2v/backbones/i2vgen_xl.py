"""I2VGen-XL (Zhang et al., arXiv 2311.04145) as a backbone, on diffusers' net and transformers' encoders.

Not covered: its refinement stage, and several clips in one batch.
"""

from __future__ import annotations

from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from anyv2v.backbones.checkpoint import configuration, load_part, loading, pick_device, pick_dtype
from anyv2v.backbones.protocol import Condition, OnFrame, VideoSpec, ignore
from anyv2v.features import FeatureBank, Kind, Tap
from anyv2v.options import Options
from anyv2v.schedule import DDIM, Schedule, sampler_of
from anyv2v.video import Size

__all__ = ["I2VGenXL"]

PAPER_SIDE = 512


class I2VGenXL:
    """See ``Backbone``; ``load`` is the way to make one.

    Args:
        net: ``I2VGenXLUNet``, a velocity predictor.
        vae: ``AutoencoderKL``, applied to each frame alone.
        text_encoder: ``CLIPTextModel``.
        tokenizer: ``CLIPTokenizer``.
        image_encoder: ``CLIPVisionModelWithProjection``.
        pixels: What the image encoder expects: ``crop_size``, ``image_mean``, ``image_std``.
        schedule: The noise levels that ``net`` was trained on.
        frames: Of the clips that ``net`` was trained on.
    """

    name = "i2vgen-xl"

    def __init__(
        self,
        net: nn.Module,
        vae: nn.Module,
        text_encoder: nn.Module,
        tokenizer: Any,
        image_encoder: nn.Module,
        pixels: dict[str, Any],
        schedule: DDIM,
        frames: int = 16,
    ) -> None:
        self.net: Any = net
        self.vae: Any = vae
        self.text_encoder: Any = text_encoder
        self.tokenizer = tokenizer
        self.image_encoder: Any = image_encoder
        self.pixels = pixels
        self.schedule = schedule
        self.frames = frames
        self.parts = (net, vae, text_encoder, image_encoder)
        self.bank = FeatureBank(net, decoder_taps())

    @classmethod
    def load(cls, folder: Path, device: str = "auto", dtype: str = "auto") -> I2VGenXL:
        """Load a checkpoint in the layout of ``ali-vilab/i2vgen-xl``; see ``load_backbone`` for the rest."""
        from diffusers import AutoencoderKL, I2VGenXLUNet
        from transformers import CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection

        where = pick_device(device)
        precision = pick_dtype(dtype, where)
        with loading(folder):
            # The VAE overflows in half precision, which its configuration tells.
            upcast = configuration(folder, "vae/config.json").get("force_upcast", True)
            pixels = configuration(folder, "feature_extractor/preprocessor_config.json")
            return cls(
                net=load_part(I2VGenXLUNet, folder, "unet", where, precision),
                vae=load_part(AutoencoderKL, folder, "vae", where, torch.float32 if upcast else precision),
                text_encoder=load_part(CLIPTextModel, folder, "text_encoder", where, precision),
                tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True),
                image_encoder=load_part(
                    CLIPVisionModelWithProjection, folder, "image_encoder", where, precision
                ),
                pixels={key: pixels[key] for key in ("crop_size", "image_mean", "image_std")},
                schedule=DDIM.from_config(configuration(folder, "scheduler/scheduler_config.json")),
                frames=configuration(folder, "model_index.json").get("frames", 16),
            )

    @cached_property
    def spec(self) -> VideoSpec:
        """The paper's clip: 8 frames per second, 512 x 512 even though the net was trained at 256."""
        factor = self.scale_factor
        trained = self.net.config.sample_size * factor
        side = PAPER_SIDE if trained >= PAPER_SIDE // 2 else trained
        return VideoSpec(Size(side, side), frames=self.frames, fps=Fraction(8), multiple=factor)

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
            latents.append(self._encode(frame, generator))
            on_frame(len(latents))
        return torch.cat(latents).transpose(0, 1)[None]

    def _encode(self, frame: NDArray[np.uint8], generator: torch.Generator | None) -> Tensor:
        """``[H, W, 3] -> [1, C, h, w]``, float32."""
        pixels = torch.tensor(frame, device=self.vae.device).permute(2, 0, 1)[None] / 255
        posterior = self.vae.encode((2 * pixels - 1).to(self.vae.dtype)).latent_dist
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
        pixels = (self.vae.decode(latents).sample[0] / 2 + 0.5).clamp(0, 1) * 255
        frame: NDArray[np.uint8] = pixels.round().to("cpu", torch.uint8).permute(1, 2, 0).numpy()
        return frame

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
        """See ``Backbone``. The negative row has a zero image embedding, which is how the model was trained.

        The keys are ``encoder_hidden_states`` ``[rows, 77, D]``, ``image_embeddings`` ``[rows, 1, D]``,
        ``image_latents`` ``[rows, 4, F, h, w]`` and ``fps`` ``[rows]``. A first frame of another size than
        the clip's is scaled and cropped around its centre.
        """
        prompts = [options.negative_prompt, prompt] if options and options.guidance > 1 else [prompt]
        rows = len(prompts)
        seen = self._image_embeddings(first_frame, spec.size.width)
        first = self._encode(centre_crop(first_frame, spec.size), generator)[:, :, None]
        return Condition(
            {
                "encoder_hidden_states": text_embeddings(self.text_encoder, self.tokenizer, prompts),
                "image_embeddings": torch.cat([torch.zeros_like(seen)] * (rows - 1) + [seen]),
                "image_latents": image_latents(first, spec.frames).expand(rows, -1, -1, -1, -1),
                "fps": torch.full((rows,), round(spec.fps), device=self.net.device),
            }
        )

    def _image_embeddings(self, frame: NDArray[np.uint8], width: int) -> Tensor:
        """CLIP's view of the central square of a frame: ``[1, 1, D]``."""
        crop, mean, std = (self.pixels[key] for key in ("crop_size", "image_mean", "image_std"))
        square = Image.fromarray(centre_crop(frame, Size(width, width)))
        small = square.resize((crop["width"], crop["height"]), Image.Resampling.BILINEAR)
        pixels = (np.asarray(small, dtype=np.float32) / 255 - np.float32(mean)) / np.float32(std)
        batch = torch.from_numpy(pixels).permute(2, 0, 1)[None].to(self.net.device, self.image_encoder.dtype)
        embeddings: Tensor = self.image_encoder(batch).image_embeds[:, None]
        return embeddings

    @torch.no_grad()
    def denoise(self, z: Tensor, t: int, condition: Condition) -> Tensor:
        """The velocity, float32. Latents stay float32 between steps, whatever the net computes in."""
        dtype = self.net.dtype
        told = {
            name: tensor.to(dtype) if tensor.is_floating_point() else tensor
            for name, tensor in condition.tensors.items()
        }
        level = torch.full((), t, device=z.device)  # made there: a copy would wait for the device
        velocity: Tensor = self.net(z.to(dtype), level, **told, return_dict=False)[0]
        return velocity.float()

    def rows(self, options: Options) -> int:
        """The negative prompt's and the prompt's, or the prompt's alone."""
        return 2 if options.guidance > 1 else 1

    def guide(self, out: Tensor, options: Options) -> Tensor:
        """Classifier-free guidance (Ho & Salimans, arXiv 2207.12598) on the velocity."""
        if len(out) == 1:
            return out
        negative, prompt = out.chunk(2)
        return negative + options.guidance * (prompt - negative)

    def sampler(self, options: Options) -> Schedule:
        """See ``Backbone``."""
        return sampler_of(self.schedule, options)

    def generator(self, seed: int) -> torch.Generator:
        """Always on the CPU, so that a seed gives the same clip on every device."""
        return torch.Generator().manual_seed(seed)

    def noise(self, latents: Tensor, generator: torch.Generator) -> Tensor:
        """Gaussian noise of the shape and on the device of ``latents``."""
        return torch.randn(latents.shape, generator=generator).to(latents)


def decoder_taps() -> tuple[Tap, ...]:
    """Decoder layer ``3 * block + index`` of the paper; the lowest block has no attention."""

    def taps(kind: Kind, path: str, first_block: int) -> list[Tap]:
        return [
            Tap(path.format(block=layer // 3, index=layer % 3), kind, layer)
            for layer in range(3 * first_block, 12)
        ]

    return (
        *taps("conv", "up_blocks.{block}.resnets.{index}.conv2", 0),
        *taps("spatial", "up_blocks.{block}.attentions.{index}.transformer_blocks.0.attn1.to_[qk]", 1),
        *taps("temporal", "up_blocks.{block}.temp_attentions.{index}.transformer_blocks.0.attn1.to_[qk]", 1),
        *taps("cross", "up_blocks.{block}.attentions.{index}.transformer_blocks.0.attn2.to_[qk]", 1),
    )


def text_embeddings(encoder: Any, tokenizer: Any, prompts: list[str]) -> Tensor:
    """The encoder's last layer but one, normalised: ``[rows, tokens, D]``."""
    tokens = tokenizer(
        prompts,
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )
    out = encoder(tokens.input_ids.to(encoder.device), output_hidden_states=True)
    # transformers 5 took CLIPTextModel's inner module away
    inner = getattr(encoder, "text_model", encoder)
    embeddings: Tensor = inner.final_layer_norm(out.hidden_states[-2])
    return embeddings


def image_latents(first: Tensor, frames: int) -> Tensor:
    """The first frame's latents, and then each frame's place in the clip.

    ``[rows, C, 1, h, w] -> [rows, C, frames, h, w]``.
    """
    place = torch.arange(1, frames, device=first.device) / (frames - 1)
    rest = place[None, None, :, None, None].expand(*first.shape[:2], -1, *first.shape[3:])
    return torch.cat([first, rest], dim=2)


def centre_crop(frame: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """Scale a frame until it covers ``size`` and cut out the centre, as the model's own preprocessing does.

    Its floor division can fall one pixel short of ``size``, and then leaves a black line; kept, as it is what
    the model was ported with and it shows in the image encoder's view alone.
    """
    height, width = frame.shape[:2]
    scale = min(width / size.width, height / size.height)
    scaled = round(width // scale), round(height // scale)
    left, top = (scaled[0] - size.width) // 2, (scaled[1] - size.height) // 2
    resized = Image.fromarray(frame).resize(scaled, Image.Resampling.BOX)
    return np.asarray(resized.crop((left, top, left + size.width, top + size.height)))
