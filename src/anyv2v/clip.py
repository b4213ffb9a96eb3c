"""CLIP, which puts pictures and texts into one space (arXiv 2103.00020)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from anyv2v.picture import Frame
from anyv2v.weights import Weights, load_part, loading

__all__ = ["CLIP", "WEIGHTS"]

WEIGHTS = Weights(
    "openai/clip-vit-large-patch14", 1.7, "MIT", ("*.json", "*.txt", "model.safetensors"), role="clip"
)

BATCH = 16  # frames that it sees at once


class CLIP:
    """Embeddings of unit length.

    Args:
        model: ``CLIPModel``.
        processor: What prepares its pictures.
        tokenizer: What prepares its texts.
    """

    def __init__(self, model: Any, processor: Any, tokenizer: Any) -> None:
        self.model = model
        self.processor = processor
        self.tokenizer = tokenizer

    @classmethod
    def load(cls, folder: Path, device: torch.device, dtype: torch.dtype) -> Self:
        """Load it from a folder in the layout of transformers. Raises CheckpointError."""
        import transformers

        # In transformers 5 the plain name wants torchvision and warns without it.
        name = (
            "CLIPImageProcessorPil"
            if hasattr(transformers, "CLIPImageProcessorPil")
            else "CLIPImageProcessor"
        )
        model = load_part(transformers.CLIPModel, folder, ".", device, dtype)
        with loading(folder):
            processor = getattr(transformers, name).from_pretrained(folder, local_files_only=True)
            tokenizer = transformers.CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        return cls(model, processor, tokenizer)

    @torch.no_grad()
    def pictures(self, frames: Iterable[Frame]) -> Tensor:
        """``[n, d]``, float32, of frames ``[H, W, 3]``."""
        pixels = self.processor(list(frames), return_tensors="pt").pixel_values
        batches = pixels.to(self.model.device, self.model.dtype).split(BATCH)
        return torch.cat([_unit(self.model.get_image_features(batch)) for batch in batches])

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """``[n, d]``, float32; what is longer than CLIP's 77 tokens is cut."""
        tokens = self.tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
        return _unit(self.model.get_text_features(**tokens.to(self.model.device)))


def _unit(features: Any) -> Tensor:
    return torch.nn.functional.normalize(features.pooler_output.float(), dim=-1)
