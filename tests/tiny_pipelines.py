"""Tiny random pipelines of the real classes of diffusers, made without a download."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import torch
import transformers
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

SPECIAL = ("<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>")
VISION = ("<|vision_start|>", "<|image_pad|>", "<|vision_end|>", "<|video_pad|>")
NAMES = (*SPECIAL, *VISION, *sorted(pre_tokenizers.ByteLevel.alphabet()))
CHAT = "{% for message in messages %}<|im_start|>{{ message['content'] }}<|im_end|>{% endfor %}"
FACTOR_8: dict[str, Any] = {
    "block_out_channels": (4, 4, 4, 4),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 1,
    "norm_num_groups": 2,
}


class Qwen2VLProcessor(transformers.ProcessorMixin):
    """Stands in for the one of that name, which cannot be made without torchvision, as it can do films."""

    __module__ = "transformers"

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, **others: Any) -> None:
        super().__init__(image_processor, tokenizer, **others)

    def __call__(self, text: Sequence[str], images: Any, **others: Any) -> Any:
        seen = self.image_processor(images=images, return_tensors="pt")
        counts = [int(grid.prod()) // self.image_processor.merge_size**2 for grid in seen["image_grid_thw"]]
        for count in counts:
            text = [line.replace("<|image_pad|>", "<|pad|>" * count, 1) for line in text]
        words = self.tokenizer([line.replace("<|pad|>", "<|image_pad|>") for line in text], **others)
        return transformers.BatchFeature({**words, **seen})


def tokenizer() -> Any:
    """Of bytes, with the special tokens of every model here."""
    bytewise = Tokenizer(models.BPE({name: index for index, name in enumerate(NAMES)}, []))
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytewise.decoder = decoders.ByteLevel()
    bytewise.add_special_tokens([AddedToken(name, special=True) for name in (*SPECIAL, *VISION)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=bytewise,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        chat_template=CHAT,
        model_max_length=32,
    )


def text_config(kind: Any, **own: Any) -> Any:
    return kind(
        vocab_size=len(NAMES),
        hidden_size=16,
        intermediate_size=16,
        num_attention_heads=2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        **own,
    )


def clip_text() -> Any:
    config = text_config(
        transformers.CLIPTextConfig, num_hidden_layers=1, max_position_embeddings=32, projection_dim=16
    )
    return transformers.CLIPTextModel(config)


def unet(channels: int) -> Any:
    return diffusers.UNet2DConditionModel(
        in_channels=channels,
        out_channels=4,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        cross_attention_dim=16,
        sample_size=8,
    )


def vae(channels: int = 4) -> Any:
    return diffusers.AutoencoderKL(**FACTOR_8, latent_channels=channels, shift_factor=0.1)


def flow() -> Any:
    return diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)


def instruct_pix2pix() -> Any:
    return diffusers.StableDiffusionInstructPix2PixPipeline(
        vae=vae(),
        text_encoder=clip_text(),
        tokenizer=tokenizer(),
        unet=unet(8),
        scheduler=diffusers.DDIMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def paint_by_example() -> Any:
    from diffusers.pipelines.deprecated.paint_by_example import PaintByExampleImageEncoder

    config = transformers.CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=4,  # its mapper is empty below
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
        projection_dim=16,
    )
    return diffusers.PaintByExamplePipeline(
        vae=vae(),
        image_encoder=PaintByExampleImageEncoder(config),
        unet=unet(9),
        scheduler=diffusers.PNDMScheduler(skip_prk_steps=True),
        safety_checker=None,
        feature_extractor=transformers.CLIPImageProcessor(
            size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}
        ),
    )


def flux2_klein() -> Any:
    config = text_config(
        transformers.Qwen3Config,
        num_hidden_layers=3,
        num_key_value_heads=1,
        head_dim=8,
        tie_word_embeddings=True,
    )
    return diffusers.Flux2KleinPipeline(
        scheduler=flow(),
        vae=diffusers.AutoencoderKLFlux2(**FACTOR_8, latent_channels=4),
        text_encoder=transformers.Qwen3ForCausalLM(config),
        tokenizer=tokenizer(),
        transformer=diffusers.Flux2Transformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=48,
            timestep_guidance_channels=16,
            axes_dims_rope=(2, 2, 2, 2),
            guidance_embeds=False,
        ),
        is_distilled=True,
    )


def flux_kontext() -> Any:
    config = transformers.T5Config(
        vocab_size=len(NAMES), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, pad_token_id=0
    )
    return diffusers.FluxKontextPipeline(
        scheduler=flow(),
        vae=vae(),
        text_encoder=clip_text(),
        tokenizer=tokenizer(),
        text_encoder_2=transformers.T5EncoderModel(config),
        tokenizer_2=tokenizer(),
        transformer=diffusers.FluxTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=16,
            pooled_projection_dim=16,
            axes_dims_rope=(2, 2, 4),
            guidance_embeds=True,
        ),
    )


def qwen_vl() -> tuple[Any, Any]:
    """Its encoder of words and pictures, and its processor."""
    config = transformers.Qwen2_5_VLConfig(
        text_config={
            **text_config(
                transformers.Qwen2_5_VLTextConfig, num_hidden_layers=1, num_key_value_heads=1
            ).to_dict(),
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]},
        },
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": 16,
            "patch_size": 8,
            "fullatt_block_indexes": [0],
        },
        image_token_id=NAMES.index("<|image_pad|>"),
        video_token_id=NAMES.index("<|video_pad|>"),
        vision_start_token_id=NAMES.index("<|vision_start|>"),
        vision_end_token_id=NAMES.index("<|vision_end|>"),
    )
    sees = transformers.Qwen2VLImageProcessor(patch_size=8, min_pixels=256, max_pixels=1024)
    return transformers.Qwen2_5_VLForConditionalGeneration(config), Qwen2VLProcessor(sees, tokenizer())


def qwen_image_edit_plus() -> Any:
    encoder, processor = qwen_vl()
    return diffusers.QwenImageEditPlusPipeline(
        scheduler=flow(),
        vae=diffusers.AutoencoderKLQwenImage(
            base_dim=4,
            z_dim=4,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            latents_mean=[0.1] * 4,
            latents_std=[1.5] * 4,
        ),
        text_encoder=encoder,
        tokenizer=tokenizer(),
        processor=processor,
        transformer=diffusers.QwenImageTransformer2DModel(
            in_channels=16,
            out_channels=4,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=16,
            axes_dims_rope=(2, 2, 4),
        ),
    )


def longcat_image_edit() -> Any:
    encoder, processor = qwen_vl()
    return diffusers.LongCatImageEditPipeline(
        scheduler=flow(),
        vae=vae(16),
        text_encoder=encoder,
        tokenizer=tokenizer(),
        text_processor=processor,
        transformer=diffusers.LongCatImageTransformer2DModel(
            in_channels=64,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=16,
            pooled_projection_dim=16,
            axes_dims_rope=[2, 2, 4],
        ),
    )


def omnigen() -> Any:
    return diffusers.OmniGenPipeline(
        transformer=diffusers.OmniGenTransformer2DModel(
            hidden_size=16,
            num_attention_heads=2,
            num_key_value_heads=2,
            intermediate_size=16,
            num_layers=1,
            pad_token_id=0,
            vocab_size=len(NAMES),
            time_step_dim=16,
            rope_scaling={"short_factor": [1.0] * 4, "long_factor": [1.0] * 4},
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=vae(),
        tokenizer=tokenizer(),
    )


def _tensor(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(picture, np.float32) / 255).permute(2, 0, 1)


TRANSFORMS = SimpleNamespace(
    Compose=lambda steps: lambda picture: _all(steps, picture),
    Lambda=lambda step: step,
    ToTensor=lambda: _tensor,
    Normalize=lambda mean, std, inplace: lambda pixels: (pixels - mean[0]) / std[0],
)
"""What OmniGen has of torchvision."""


def _all(steps: Sequence[Any], picture: Any) -> Any:
    for step in steps:
        picture = step(picture)
    return picture
