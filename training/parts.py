"""The parts of a checkpoint in I2VGen-XL's layout, made small and new, and written as published ones are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from itertools import islice
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, DDIMScheduler, I2VGenXLUNet
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from anyv2v.evaluation.captions import describe
from anyv2v.evaluation.scenes import EDITS, MOTIONS, edit_scene, sample_scene
from training.clips import FIRST_SEED
from training.copying import GROUPS, start_copying
from training.recipe import Recipe
from training.start import start_linear

__all__ = ["PIXELS", "new_nets", "new_vae", "scheduler", "tokenizer", "write_index", "write_part"]

WIDTH = 64  # of the text and image encoders, and of the net's cross-attention
TOKENS = 32  # of a caption, padded
PIXELS: dict[str, Any] = {  # what the image encoder sees
    "crop_size": {"height": 32, "width": 32},
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


def new_vae(recipe: Recipe) -> AutoencoderKL:
    """A VAE without attention, so that what moves looks the same wherever it is."""
    scales = len(recipe.vae_widths)
    vae = AutoencoderKL(
        block_out_channels=recipe.vae_widths,
        down_block_types=("DownEncoderBlock2D",) * scales,
        up_block_types=("UpDecoderBlock2D",) * scales,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=recipe.side,
        mid_block_add_attention=False,
        force_upcast=False,
    )
    start_linear(vae)
    return vae


def new_nets(recipe: Recipe, words: CLIPTokenizer) -> nn.ModuleDict:
    """The net, and the encoders of text and image, which learn with it."""
    net = I2VGenXLUNet(
        sample_size=recipe.side // 2 ** (len(recipe.vae_widths) - 1),
        block_out_channels=recipe.widths,
        cross_attention_dim=WIDTH,
        attention_head_dim=recipe.head,
        norm_num_groups=GROUPS,
    )
    start_copying(net, recipe.frames)
    encoder = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_attention_heads": 4}
    text = CLIPTextConfig(
        **encoder,
        num_hidden_layers=3,
        vocab_size=len(words),
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
        max_position_embeddings=TOKENS,
        projection_dim=WIDTH,
    )
    image = CLIPVisionConfig(
        **encoder, num_hidden_layers=2, image_size=32, patch_size=8, projection_dim=WIDTH
    )
    nets = {
        "unet": net,
        "text_encoder": CLIPTextModel(text),
        "image_encoder": CLIPVisionModelWithProjection(image),
    }
    return nn.ModuleDict(nets)


def scheduler() -> DDIMScheduler:
    """I2VGen-XL's own noise levels."""
    return DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        clip_sample=False,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        set_alpha_to_one=True,
        steps_offset=1,
        timestep_spacing="leading",
    )


def tokenizer() -> CLIPTokenizer:
    """Byte pairs learned from captions; other words fall into letters."""
    return CLIPTokenizer(model_max_length=TOKENS).train_new_from_iterator(
        islice(_captions(), 4000), vocab_size=1000, show_progress=False
    )


def _captions() -> Iterator[str]:
    for seed in range(FIRST_SEED, 2 * FIRST_SEED):
        motion, edit = MOTIONS[seed % len(MOTIONS)], EDITS[seed % len(EDITS)]
        yield describe(edit_scene(sample_scene(motion, seed), edit, motion, seed), motion)


def write_part(folder: Path, name: str, part: Any) -> None:
    """Save a part in half precision, as published checkpoints are."""
    if isinstance(part, nn.Module):
        deepcopy(part).half().save_pretrained(folder / name, variant="fp16")
    else:
        part.save_pretrained(folder / name)


def write_index(folder: Path, recipe: Recipe) -> None:
    """Name the parts for who loads them, and the clip that they were trained on."""
    index = {
        "_class_name": "AnyV2VMini",
        "frames": recipe.frames,
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
        "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "I2VGenXLUNet"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    extractor = folder / "feature_extractor"
    extractor.mkdir(exist_ok=True)
    (extractor / "preprocessor_config.json").write_text(json.dumps(PIXELS, indent=2) + "\n")
