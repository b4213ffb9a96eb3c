"""The models that some metrics ask: CLIP, PickScore, DINO, VGG-19. Each is loaded when it is first asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any, Self, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, interpolate, normalize

from anyv2v.clip import CLIP
from anyv2v.clip import WEIGHTS as CLIP_WEIGHTS
from anyv2v.editors.catalog import VGG19 as VGG19_WEIGHTS
from anyv2v.errors import OptionError
from anyv2v.models.vgg import MEAN, STD, VGG19
from anyv2v.weights import Weights, fill, load_part, pick_device, pick_dtype, weights_of

__all__ = ["DINO", "VGG", "WEIGHTS", "Judges"]

Frames = NDArray[np.uint8]
Region = NDArray[np.bool_]
T = TypeVar("T")

WEIGHTS: Mapping[str, Weights] = MappingProxyType(
    {
        weights.role: weights
        for weights in (
            CLIP_WEIGHTS,
            Weights(
                "yuvalkirstain/PickScore_v1",
                3.9,
                "no licence is stated; made from LAION's CLIP ViT-H/14 (MIT)",
                ("*.json", "*.txt", "model.safetensors"),
                role="pick",
                commercial=False,
            ),
            Weights(
                "facebook/dino-vitb8", 0.34, "Apache-2.0", ("config.json", "model.safetensors"), role="dino"
            ),
            replace(VGG19_WEIGHTS, role="vgg"),
        )
    }
)
"""Every judge's weights, by role."""


class Judges:
    """The models, on one device. CLIP-like ones compute in half precision where the device is fast at it.

    Args:
        device: See ``pick_device``.
        models: Folders or repositories to take in place of the published ones, by role.

    Attributes:
        clip: CLIP ViT-L/14.
        pick: PickScore, which is a CLIP that learned from people's choices (arXiv 2305.01569).
        dino: See ``DINO``.
        vgg: See ``VGG``. Asking for any of the four raises WeightsMissing where its weights are not here, and
            CheckpointError where they are broken.

    Raises:
        OptionError: There is no such role.
    """

    def __init__(self, device: str = "auto", models: Mapping[str, str] = MappingProxyType({})) -> None:
        if unknown := models.keys() - WEIGHTS.keys():
            raise OptionError(f"no judge {min(unknown)!r}; there are {', '.join(WEIGHTS)}")
        self._device, self.models = device, models
        self._found: WeakKeyDictionary[object, dict[str, Any]] = WeakKeyDictionary()

    @cached_property
    def clip(self) -> CLIP:
        return CLIP.load(self._folder("clip"), *self._machine)

    @cached_property
    def pick(self) -> CLIP:
        return CLIP.load(self._folder("pick"), *self._machine)

    @cached_property
    def dino(self) -> DINO:
        return DINO.load(self._folder("dino"), *self._machine)

    @cached_property
    def vgg(self) -> VGG:
        return VGG.load(self._folder("vgg"), self._machine[0])

    def once(self, sample: object, what: str, look: Callable[[], T]) -> T:
        """What ``look`` finds. It looks once for each sample, since several metrics ask for the same."""
        found = self._found.setdefault(sample, {})
        if what not in found:
            found[what] = look()
        return found[what]  # type: ignore[no-any-return]

    def _folder(self, role: str) -> Path:
        return WEIGHTS[role].whole_folder(self.models.get(role))

    @cached_property
    def _machine(self) -> tuple[torch.device, torch.dtype]:
        device = pick_device(self._device)
        return device, pick_dtype("auto", device)


BATCH = 8  # frames; DINO sees each in a thousand pieces


class DINO:
    """A vision transformer that learned without labels (arXiv 2104.14294), and what it sees of structure.

    As in Splice (arXiv 2201.00424), the keys of its last layer tell the structure of a picture, and its class
    token what the picture shows. The shorter side of a picture is scaled to the 224 pixels it was trained on.

    Args:
        model: ``ViTModel``.
    """

    def __init__(self, model: Any) -> None:
        self.model = model

    @classmethod
    def load(cls, folder: Path, device: torch.device, dtype: torch.dtype) -> Self:
        """Load it from a folder in the layout of transformers. Raises CheckpointError."""
        from transformers import ViTModel

        # It was published without the pooler, a head that no metric needs.
        headless = SimpleNamespace(from_pretrained=partial(ViTModel.from_pretrained, add_pooling_layer=False))
        return cls(load_part(headless, folder, ".", device, dtype))

    def compare(self, frames: Frames, source: Frames) -> tuple[Tensor, Tensor]:
        """How far the structure of frames ``[F, H, W, 3]`` is from that of others, and what they show.

        Returns:
            Distances ``[F]``, 0 to 4: the mean squared difference of two matrices, of a frame and its source,
            that hold the cosine of every pair of keys. And the class tokens of ``frames``, ``[F, d]``.
        """
        distances, shown = [], []
        for part in (slice(k, k + BATCH) for k in range(0, len(frames), BATCH)):
            (ours, tokens), (theirs, _) = self.look(frames[part]), self.look(source[part])
            distances.append((alike(ours) - alike(theirs)).square().mean((1, 2)))
            shown.append(tokens)
        return torch.cat(distances).cpu(), torch.cat(shown).cpu()

    @torch.no_grad()
    def look(self, frames: Frames) -> tuple[Tensor, Tensor]:
        """Keys of the last layer, ``[n, 1 + places, d]``, and class tokens of unit length, ``[n, d]``.

        The first key is that of the class token. Both are float32.
        """
        keys: list[Tensor] = []
        projection = self.model.layers[-1].attention.k_proj
        with projection.register_forward_hook(lambda _module, _args, output: keys.append(output)):
            seen = self.model(self._pixels(frames), interpolate_pos_encoding=True).last_hidden_state
        return keys[0].float(), normalize(seen[:, 0].float(), dim=-1)

    def _pixels(self, frames: Frames) -> Tensor:
        """``[n, 3, h, w]``, with sides that are multiples of a patch."""
        config = self.model.config
        scale = config.image_size / min(frames.shape[1:3])
        size = [round(side * scale / config.patch_size) * config.patch_size for side in frames.shape[1:3]]
        pixels = interpolate(pixels_of(frames), size=size, mode="bicubic", antialias=True).clamp(0, 1)
        mean, std = (pixels.new_tensor(values)[:, None, None] for values in (MEAN, STD))
        return ((pixels - mean) / std).to(self.model.device, self.model.dtype)


def alike(keys: Tensor) -> Tensor:
    """The cosine of every pair of keys: ``[n, t, d] -> [n, t, t]``."""
    units = normalize(keys, dim=-1)
    return units @ units.transpose(1, 2)


LAYERS = ("conv1_2", "conv2_2", "conv3_4", "conv4_4", "conv5_4")  # the last one before each pooling


class VGG:
    """A distance of pictures in features of VGG-19 (arXiv 1409.1556), closer to the eye than that of pixels.

    It is made like LPIPS (Zhang et al., arXiv 1801.03924), of features of unit length, but without what LPIPS
    learned: all layers and channels count the same. Its numbers are not those of the ``lpips`` package.

    Args:
        net: What sees features.
    """

    def __init__(self, net: VGG19) -> None:
        self.net = net.eval().requires_grad_(False)
        self.device = next(net.parameters()).device

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> Self:
        """Load it from a folder with weights as timm publishes them. Raises CheckpointError."""
        published = weights_of(folder, torch.float32)
        with torch.device("meta"):
            net = VGG19()
        fill(net, {name: w for name, w in published.items() if name.startswith("features.")}, folder)
        return cls(net.to(device, torch.float32))

    @torch.no_grad()
    def distance(self, frames: Frames, others: Frames, region: Region) -> float:
        """1 - cosine of the features at each place, in the mean over a region and then over layers: 0 to 1.

        Args:
            frames: ``[F, H, W, 3]``.
            others: ``[F, H, W, 3]``.
            region: ``[F, H, W]``. A place of a deep layer counts by the share of its pixels that are in it.

        Returns:
            NaN where the region is empty.
        """
        found = torch.zeros(len(LAYERS), 2, dtype=torch.float64)
        for pair, where in zip(zip(frames, others, strict=True), region, strict=True):
            seen = self.net(pixels_of(np.stack(pair)).to(self.device), LAYERS)
            weight = torch.from_numpy(where.astype(np.float32))[None].to(self.device)
            found += torch.tensor([_weighed(normalize(seen[name]), weight) for name in LAYERS])
        return (found[:, 0] / found[:, 1]).mean().item()


def _weighed(pair: Tensor, weight: Tensor) -> tuple[float, float]:
    """The weighted sum of the distances of two unit features ``[2, N, h, w]``, and the sum of the weights."""
    apart = (pair[0] - pair[1]).square().sum(0) / 2  # is 1 - cosine, but 0 where nothing is seen in either
    height, width = apart.shape
    weight = adaptive_avg_pool2d(weight, (height, width))[0]
    return (apart * weight).sum().item(), weight.sum().item()


def pixels_of(frames: Frames) -> Tensor:
    """``[n, H, W, 3] -> [n, 3, H, W]``, float32, 0 to 1."""
    return torch.from_numpy(frames.astype(np.float32)).permute(0, 3, 1, 2) / 255
