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

from anyv2v.backbones.latent import LatentBackbone, decoder_taps, tokens_of
from anyv2v.backbones.protocol import Condition, VideoSpec
from anyv2v.options import Options
from anyv2v.picture import Size
from anyv2v.schedule import DDIM
from anyv2v.weights import configuration, load_part, loading, pick_device, pick_dtype

__all__ = ["I2VGenXL"]

PAPER_SIDE = 512


class I2VGenXL(LatentBackbone):
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
    taps = decoder_taps("temp_attentions.{index}.transformer_blocks.0.attn1")

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
        super().__init__(net, vae, (text_encoder, image_encoder), schedule)
        self.text_encoder: Any = text_encoder
        self.tokenizer = tokenizer
        self.image_encoder: Any = image_encoder
        self.pixels = pixels
        self.frames = frames

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
        prompts = self.prompts(prompt, options)
        rows = len(prompts)
        seen = self._image_embeddings(first_frame, spec.size.width)
        first = self.encode_frame(centre_crop(first_frame, spec.size), generator)[:, :, None]
        self.bring(self.text_encoder)
        return Condition(
            {
                "encoder_hidden_states": text_embeddings(self.text_encoder, self.tokenizer, prompts),
                "image_embeddings": torch.cat([torch.zeros_like(seen)] * (rows - 1) + [seen]),
                "image_latents": image_latents(first, spec.frames).expand(rows, -1, -1, -1, -1),
                "fps": torch.full((rows,), round(spec.fps), device=self.device),
            }
        )

    def _image_embeddings(self, frame: NDArray[np.uint8], width: int) -> Tensor:
        """CLIP's view of the central square of a frame: ``[1, 1, D]``."""
        crop, mean, std = (self.pixels[key] for key in ("crop_size", "image_mean", "image_std"))
        square = Image.fromarray(centre_crop(frame, Size(width, width)))
        small = square.resize((crop["width"], crop["height"]), Image.Resampling.BILINEAR)
        pixels = (np.asarray(small, dtype=np.float32) / 255 - np.float32(mean)) / np.float32(std)
        batch = torch.from_numpy(pixels).permute(2, 0, 1)[None].to(self.device, self.image_encoder.dtype)
        self.bring(self.image_encoder)
        embeddings: Tensor = self.image_encoder(batch).image_embeds[:, None]
        return embeddings

    @torch.no_grad()
    def denoise(self, z: Tensor, t: int, condition: Condition) -> Tensor:
        """The velocity, float32."""
        sample, level, told = self.ask(z, t, condition)
        velocity: Tensor = self.net(sample, level, **told, return_dict=False)[0]
        return velocity.float()


def text_embeddings(encoder: Any, tokenizer: Any, prompts: list[str]) -> Tensor:
    """The encoder's last layer but one, normalised: ``[rows, tokens, D]``."""
    tokens = tokens_of(tokenizer, prompts).to(encoder.device)
    out = encoder(tokens, output_hidden_states=True)
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
