"""The clips that the model learns from: rendered scenes of endless kinds, numbered, each with a caption.

Held out for the benchmark: its seeds, one whole class of edits and one of motions (``HELD_OUT``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

import torch
from skimage import data
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from anyv2v.evaluation.captions import describe
from anyv2v.evaluation.drawing import Dice, Layer, sample
from anyv2v.evaluation.filming import render
from anyv2v.evaluation.scenes import EDITS, HELD_OUT, MOTIONS, Scene, edit_scene, sample_scene

__all__ = ["Batch", "Clips", "make_clip", "stream"]

Batch = tuple[Tensor, list[str], Tensor]  # clips [B, F, 3, side, side] in uint8, captions, frames per second

FIRST_SEED = 1_000_000  # the benchmark's seeds count from 0
RENDERED = 16  # frames that a scene is filmed for
PHOTOS = ("astronaut", "brick", "chelsea", "coffee", "coins", "grass", "gravel", "moon", "rocket")


def make_clip(number: int, side: int, frames: int) -> tuple[Tensor, str, int]:
    """Clip of that number: RGB ``[F, 3, side, side]`` in uint8, its caption, and its frames per second."""
    dice = Dice("training", number)
    scene, caption = _scene(dice, FIRST_SEED + number)
    film = render(scene, size=side, frames=max(RENDERED, frames)).transpose(0, 1)
    longest = (len(film) - 1) // (frames - 1)
    stride = min(longest, dice.choice((1, 1, 1, 1, 1, 2)))
    start = dice.choice(range(len(film) - stride * (frames - 1)))
    clip = film[start : start + stride * (frames - 1) + 1 : stride]
    for axis in (0, 2, 3):  # backwards, upside down, mirrored
        clip = clip.flip(axis) if dice.choice((True, False)) else clip
    return clip, caption, 8 // stride


def _scene(dice: Dice, seed: int) -> tuple[Scene, str]:
    """A scene, often an edited one, with a photograph here and there."""
    motion = dice.choice([motion for motion in MOTIONS if motion not in HELD_OUT])
    scene = sample_scene(motion, seed)
    if dice.choice((True, True, False)):
        edit = dice.choice([edit for edit in EDITS if edit not in HELD_OUT])
        scene = edit_scene(scene, edit, motion, seed)
    caption = describe(scene, motion)
    layers = [_photographed(layer, dice) if dice.uniform(0, 1) < 0.15 else layer for layer in scene.layers]
    return replace(scene, layers=tuple(layers)), caption


@dataclass(frozen=True)
class Photo:
    """A photograph in the place of a texture."""

    kind: str
    turn: complex  # how it is scaled and turned
    place: complex  # where its middle is
    channels: tuple[int, ...]  # the order of its colours

    def paint(self, q: Tensor) -> Tensor:
        """See ``Texture.paint``."""
        image = _photograph(self.kind)[list(self.channels)].to(q.device)
        return sample(image, q * self.turn + self.place, "reflection")


def _photographed(layer: Layer, dice: Dice) -> Layer:
    zoom = dice.vector(0.25, 0.6)
    channels = dice.choice(((0, 1, 2), (0, 1, 2), (2, 1, 0), (1, 0, 2)))
    photo = Photo(dice.choice(PHOTOS), zoom, dice.vector(0, 0.6), channels)
    return replace(layer, texture=photo)  # type: ignore[arg-type]


@cache
def _photograph(name: str) -> Tensor:
    """Its central square, RGB in 0..1, ``[3, n, n]``; all of them come with scikit-image, free to use."""
    pixels = torch.from_numpy(getattr(data, name)())
    pixels = pixels[..., None].expand(*pixels.shape, 3) if pixels.ndim == 2 else pixels
    n = min(pixels.shape[:2])
    top, left = ((extent - n) // 2 for extent in pixels.shape[:2])
    return pixels[top : top + n, left : left + n].permute(2, 0, 1) / 255


class Clips(IterableDataset):  # type: ignore[type-arg]
    """All clips from a number on, shared out among the workers."""

    def __init__(self, first: int, side: int, frames: int) -> None:
        self.first, self.side, self.frames = first, side, frames

    def __iter__(self) -> Iterator[tuple[Tensor, str, int]]:
        worker = get_worker_info()
        number, step = (self.first + worker.id, worker.num_workers) if worker else (self.first, 1)
        while True:
            yield make_clip(number, self.side, self.frames)
            number += step


def stream(first: int, side: int, frames: int, *, batch: int, workers: int) -> Iterator[Batch]:
    """Batches without end, from clip ``first`` on."""
    return iter(DataLoader(Clips(first, side, frames), batch_size=batch, num_workers=workers))
