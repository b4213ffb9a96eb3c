"""Time and memory of I2VGen-XL at its published size. Its weights are random: neither depends on them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from diffusers import AutoencoderKL, I2VGenXLUNet
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModelWithProjection

from anyv2v.backbones.i2vgen_xl import I2VGenXL
from anyv2v.schedule import DDIM

PIXELS = {"crop_size": {"width": 224, "height": 224}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
LEVELS = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "steps_offset": 1,
}


def i2vgen_xl(
    width: float = 1.0, device: str = "cuda", dtype: torch.dtype = torch.float16, frames: int = 16
) -> I2VGenXL:
    """The nets of ``ali-vilab/i2vgen-xl`` with random weights, their channels in proportion to ``width``."""
    with torch.device("meta"):
        parts = net(width), vae(width), text_encoder(width), image_encoder(width)
    unet, auto, text, image = (random(part, device, dtype) for part in parts)
    nn.Module.to(auto, dtype=torch.float32)  # the VAE overflows in half precision
    schedule = DDIM.from_config(LEVELS)
    return I2VGenXL(unet, auto, text, tokenizer, image, PIXELS, schedule, frames)


def net(width: float) -> nn.Module:
    return I2VGenXLUNet(sample_size=32, block_out_channels=channels(width, 320, 640, 1280, 1280))


def channels(width: float, *published: int) -> tuple[int, ...]:
    """A share of them, in whole heads of 64, which are whole groups of norms too."""
    return tuple(64 * max(1, round(width * count / 64)) for count in published)


def vae(width: float) -> nn.Module:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=channels(width, 128, 256, 512, 512),
        layers_per_block=2,
    )


def text_encoder(width: float) -> nn.Module:
    """OpenCLIP's ViT-H/14, as far as it is used."""
    config = CLIPTextConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=max(2, round(23 * width)),
        num_attention_heads=16,
        hidden_act="gelu",
    )
    return CLIPTextModel(config)


def image_encoder(width: float) -> nn.Module:
    """OpenCLIP's ViT-H/14."""
    heads = max(1, round(16 * width))
    config = CLIPVisionConfig(
        hidden_size=80 * heads,
        intermediate_size=320 * heads,
        num_hidden_layers=max(2, round(32 * width)),
        num_attention_heads=heads,
        patch_size=14,
        projection_dim=1024,
        hidden_act="gelu",
    )
    return CLIPVisionModelWithProjection(config)


@torch.no_grad()
def random(part: nn.Module, device: str, dtype: torch.dtype) -> nn.Module:
    """Weights that keep the scale of what passes through."""
    part = nn.Module.to(part, dtype=dtype).to_empty(device=device).eval().requires_grad_(False)
    for name, weight in part.named_parameters():
        if weight.ndim > 1:
            weight.normal_(std=weight[0].numel() ** -0.5)
        else:
            weight.fill_(float(name.endswith("weight")))
    for buffer in part.buffers():  # the places of tokens are the only ones
        buffer.copy_(torch.arange(buffer.numel()).view_as(buffer))
    return part


def tokenizer(prompts: list[str], **_settings: Any) -> SimpleNamespace:
    """Every prompt is as long as every other."""
    return SimpleNamespace(input_ids=torch.zeros(len(prompts), 77, dtype=torch.long))


tokenizer.model_max_length = 77  # type: ignore[attr-defined]
