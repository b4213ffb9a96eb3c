"""VGG-19 (Simonyan and Zisserman, arXiv 1409.1556) without its classifier: a picture's features by layer.

Modules are named as in torchvision, whose published weights load as they are.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from torch import Tensor, nn

__all__ = ["LAYERS", "MEAN", "STD", "VGG19"]

BLOCKS = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))  # channels and convolutions between two poolings

LAYERS = tuple(f"conv{block}_{k + 1}" for block, (_, depth) in enumerate(BLOCKS, 1) for k in range(depth))
"""The layers in the names of the paper; each is meant with its rectification."""

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, which it was trained on


class VGG19(nn.Module):
    """The convolutional part; it takes pictures of any size.

    Args:
        pooling: ``max`` is what it was trained with; ``average`` lets the gradient reach every pixel.
        narrower: Divides the channels of all layers, for tests.
    """

    def __init__(self, pooling: Literal["average", "max"] = "max", narrower: int = 1) -> None:
        super().__init__()
        pool: type[nn.AvgPool2d | nn.MaxPool2d] = nn.AvgPool2d if pooling == "average" else nn.MaxPool2d
        modules: list[nn.Module] = []
        channels = 3
        for width, depth in BLOCKS:
            for _ in range(depth):
                modules += [nn.Conv2d(channels, width // narrower, 3, padding=1), nn.ReLU(inplace=True)]
                channels = width // narrower
            # The last row and column of odd sizes count too, so that no picture is too small.
            modules.append(pool(2, ceil_mode=True))
        self.features = nn.Sequential(*modules)

    def forward(self, pictures: Tensor, layers: Collection[str]) -> dict[str, Tensor]:
        """What some layers see.

        Args:
            pictures: ``[B, 3, H, W]``, RGB, 0 to 1.
            layers: Names in ``LAYERS``.

        Returns:
            ``[B, N, h, w]`` of each layer by name; what lies behind the last of them is not computed.
        """
        mean, std = (pictures.new_tensor(values)[:, None, None] for values in (MEAN, STD))
        x, names = (pictures - mean) / std, iter(LAYERS)
        seen: dict[str, Tensor] = {}
        for module in self.features:
            x = module(x)
            if isinstance(module, nn.ReLU) and (name := next(names)) in layers:
                seen[name] = x
                if len(seen) == len(set(layers)):
                    break
        return seen
