"""AnyDoor (Chen et al., arXiv 2307.09481): Stable Diffusion 2.1, told a picture in place of a text.

The context of its attention are DINOv2's tokens of a subject, and a ControlNet sees the subject's edges laid
over the place where it shall be. Each net is a library's; what is said here is how large they are, what they
are called in the authors' checkpoint, and where AnyDoor departs from them.

Shapes are written with B pictures, h x w latent pixels, and D channels of a token.

Not covered: training, and the options that the published checkpoint leaves off.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_controlnet_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
)
from torch import Tensor, nn
from torch.nn.functional import interpolate
from transformers import Dinov2Config, Dinov2Model
from transformers.models.dinov2.modeling_dinov2 import Dinov2Embeddings

__all__ = ["DINO", "PUBLISHED", "AnyDoorNets", "Config", "weights_by_module"]

LAYERS = 2  # residual blocks of each level of the UNet
HINT = 4  # channels: red, green, blue and the mask
PATCHED = 518  # pixels along a side of the pictures that DINOv2's places were trained on
PATCH = 14
LATENT_SCALE = 0.18215
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DINO = "cond_stage_model.model."
PROJECTOR = "cond_stage_model.projector."


@dataclass(frozen=True)
class Config:
    """The sizes of the nets, by default the published ones.

    Attributes:
        widths: Channels of each level of the UNet, from the finest.
        token_width: Channels of a token in the UNet.
        vae_widths: Channels of each level of the VAE, from the finest.
        vae_layers: Residual blocks of each of them.
        dino_width: Channels of a token in DINOv2.
        dino_layers: Layers of DINOv2.
        head_width: Channels of every attention head.
    """

    widths: tuple[int, ...] = (320, 640, 1280, 1280)
    token_width: int = 1024
    vae_widths: tuple[int, ...] = (128, 256, 512, 512)
    vae_layers: int = 2
    dino_width: int = 1536
    dino_layers: int = 40
    head_width: int = 64

    @property
    def unet(self) -> dict[str, Any]:
        """What the UNet and the ControlNet have in common."""
        return {
            "block_out_channels": self.widths,
            "layers_per_block": LAYERS,
            "cross_attention_dim": self.token_width,
            "attention_head_dim": [width // self.head_width for width in self.widths],  # is their number
            "use_linear_projection": True,
        }

    @property
    def vae(self) -> dict[str, Any]:
        levels = len(self.vae_widths)
        return {
            "down_block_types": ("DownEncoderBlock2D",) * levels,
            "up_block_types": ("UpDecoderBlock2D",) * levels,
            "block_out_channels": self.vae_widths,
            "layers_per_block": self.vae_layers,
            "scaling_factor": LATENT_SCALE,
        }

    @property
    def dino(self) -> dict[str, Any]:
        return {
            "hidden_size": self.dino_width,
            "num_hidden_layers": self.dino_layers,
            "num_attention_heads": self.dino_width // self.head_width,
            "image_size": PATCHED,
            "patch_size": PATCH,
            "use_swiglu_ffn": True,
        }


PUBLISHED = Config()


class AnyDoorNets(nn.Module):
    """All nets; ``weights_by_module`` has weights by the names that they have here.

    Attributes:
        dino: Sees the subject.
        projector: From its tokens to the UNet's.
        controlnet: Sees the collage.
        unet: Predicts the noise.
        vae: Only its decoder is used.
    """

    def __init__(self, config: Config = PUBLISHED) -> None:
        super().__init__()
        self.dino = Dinov2Model(Dinov2Config(**config.dino))
        self.dino.embeddings = Embeddings(self.dino.config)
        self.projector = nn.Linear(config.dino_width, config.token_width)
        self.controlnet = ControlNetModel(conditioning_channels=HINT, **config.unet)
        self.unet = UNet2DConditionModel(**config.unet)
        self.vae = AutoencoderKL(**config.vae)

    def look(self, picture: Tensor) -> Tensor:
        """What stands for a text: the class token and the patches, row by row.

        Args:
            picture: ``[B, 3, 224, 224]``, 0 to 1; all zeros for the branch without a subject.

        Returns:
            ``[B, 257, D]``.
        """
        mean, deviation = (picture.new_tensor(values)[:, None, None] for values in (MEAN, DEVIATION))
        pixels = ((picture - mean) / deviation).to(self.projector.weight.dtype)
        tokens: Tensor = self.projector(self.dino(pixels).last_hidden_state)
        return tokens

    def residuals(self, x: Tensor, timestep: Tensor, context: Tensor, hint: Tensor) -> list[Tensor]:
        """What the ControlNet adds to the UNet's skip connections, from the finest, and to its middle.

        Args:
            x: Latents ``[B, 4, h, w]``; their shape alone matters.
            timestep: ``[B]``, or one for all.
            context: ``[B, 257, D]``.
            hint: ``[B, 4, 8 h, 8 w]``.
        """
        skips, middle = self.controlnet(x, timestep, context, hint, return_dict=False)
        return [*skips, middle]

    def forward(
        self,
        x: Tensor,
        timestep: Tensor,
        context: Tensor,
        hint: Tensor | None = None,
        scales: float | Sequence[float] = 1.0,
    ) -> Tensor:
        """Predict the noise.

        Args:
            x: Latents ``[B, 4, h, w]``.
            timestep: ``[B]``, or one for all.
            context: ``[B, 257, D]``.
            hint: ``[B, 4, 8 h, 8 w]``: a collage, -1 to 1, and its mask; none leaves the ControlNet out.
            scales: How strongly the ControlNet acts, or each of its residuals.

        Returns:
            ``[B, 4, h, w]``.
        """
        control = {}
        if hint is not None:
            seen = self.residuals(x, timestep, context, hint)
            each = scales if isinstance(scales, Sequence) else [scales] * len(seen)
            *skips, middle = (scale * residual for scale, residual in zip(each, seen, strict=True))
            control = {
                "down_block_additional_residuals": skips,
                "mid_block_additional_residual": middle,
            }
        noise: Tensor = self.unet(x, timestep, context, **control, return_dict=False)[0]
        return noise

    def decode(self, latents: Tensor) -> Tensor:
        """``[B, 4, h, w]`` to pixels ``[B, 3, 8 h, 8 w]``, about -1 to 1."""
        pixels: Tensor = self.vae.decode(latents / LATENT_SCALE, return_dict=False)[0]
        return pixels


class Embeddings(Dinov2Embeddings):  # type: ignore[misc]
    """DINOv2's, with its places spread over a smaller picture in the way of its authors."""

    def interpolate_pos_encoding(self, embeddings: Tensor, height: int, width: int) -> Tensor:  # noqa: ARG002
        """The places of a picture: ``[1, 1 + patches, D]``.

        They are told the scale, a tenth of a patch too large, rather than the size, and step accordingly; by
        the size the tokens would be a tenth off.
        """
        first, rest = self.position_embeddings[:, :1], self.position_embeddings[:, 1:]
        side = PATCHED // PATCH
        grid = rest.unflatten(1, (side, side)).permute(0, 3, 1, 2).float()
        scale = tuple((pixels // PATCH + 0.1) / side for pixels in (height, width))
        small = interpolate(grid, scale_factor=scale, mode="bicubic").to(rest.dtype)
        return torch.cat([first, small.flatten(2).transpose(1, 2)], dim=1)


def weights_by_module(published: Mapping[str, Tensor], config: Config = PUBLISHED) -> dict[str, Tensor]:
    """The weights of the authors' checkpoint by their names in ``AnyDoorNets``, as views.

    The buffers of its schedule are left out. So is the ControlNet's first convolution, which the authors'
    ControlNet does not use: its hint takes the place of the latents. Zeros have the same effect here, where
    the hint is added to them.
    """
    controlnet = convert_controlnet_checkpoint(published, config.unet)
    for name in controlnet.keys() & {"conv_in.weight", "conv_in.bias"}:
        controlnet[name] = torch.zeros_like(controlnet[name])
    parts = {
        "dino": dict(_dino(_below(published, DINO))),
        "projector": _below(published, PROJECTOR),
        "controlnet": controlnet,
        "unet": convert_ldm_unet_checkpoint(published, config.unet),
        "vae": convert_ldm_vae_checkpoint(published, config.vae),
    }
    return {
        f"{part}.{name}": weight
        for part in parts
        for name, weight in parts[part].items()
        if weight is not None  # is what diffusers has for a weight that it does not find
    }


def _below(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): weight for name, weight in weights.items() if name.startswith(prefix)}


_RENAMED = {
    r"^(cls_token|mask_token)": r"embeddings.\1",
    r"^pos_embed": "embeddings.position_embeddings",
    r"^patch_embed\.proj": "embeddings.patch_embeddings.projection",
    r"^norm": "layernorm",
    r"^blocks": "encoder.layer",
    r"attn\.proj": "attention.o_proj",
    r"(ls\d)\.gamma": r"\1.lambda1",
    r"ls(\d)": r"layer_scale\1",
    r"mlp\.w3": "mlp.down_proj",
}
_FUSED = {
    "attn.qkv": ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
    "mlp.w12": ("mlp.gate_proj", "mlp.up_proj"),
}


def _dino(weights: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """DINOv2's weights by the names that transformers has for them."""
    for name, weight in weights.items():
        for pattern, renamed in _RENAMED.items():
            name = re.sub(pattern, renamed, name)
        fused = next((module for module in _FUSED if module in name), "")
        parts = _FUSED.get(fused, ("",))
        for part, rows in zip(parts, weight.chunk(len(parts)), strict=True):
            yield name.replace(fused, part), rows
