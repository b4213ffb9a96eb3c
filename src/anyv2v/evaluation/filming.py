"""Rendered clips whose true edit is known: one scene filmed twice, before and after the edit.

Not covered: perspective, light that changes, motion blur, cuts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its name everywhere
from numpy.typing import NDArray
from torch import Tensor

from anyv2v.evaluation.drawing import Layer, sample, square
from anyv2v.evaluation.scenes import Scene, edit_scene, sample_scene

__all__ = ["Pair", "render", "render_pair"]

_PURE = 0.98  # the share of a pixel that one surface must have for its motion to be the pixel's


@dataclass(frozen=True)
class _Stage:
    """The pixels of a frame, complex ``[H, W]``, and the times of the frames, ``[F, 1, 1]``."""

    points: Tensor
    times: Tensor

    @classmethod
    def of(cls, size: int, frames: int, device: torch.device) -> _Stage:
        times = torch.arange(frames, device=device) / max(frames - 1, 15)
        return cls(square(size, 1, device), times[:, None, None])


@dataclass(frozen=True)
class _Shot:
    """A layer on its own, filmed."""

    colour: Tensor  # RGB in 0..1, [3, F, H, W]
    alpha: Tensor  # how much of a pixel it covers, [F, H, W]
    shadow: Tensor  # how much of a pixel its shadow covers, [F, H, W]
    was: Tensor  # where in frame k its points seen in frame k + 1 were, complex [F - 1, H, W]


@dataclass(frozen=True)
class _Film:
    """A scene, filmed, before style and weather."""

    colour: Tensor  # RGB in 0..1, [3, F, H, W]
    shares: Tensor  # how much of a pixel each layer makes up, [L, F, H, W]
    lit: Tensor  # how much light falls on what is seen, [F, H, W]


def render(scene: Scene, *, size: int = 128, frames: int = 16, device: str | torch.device = "cpu") -> Tensor:
    """Film a scene on a device: RGB frames ``[3, F, size, size]``, uint8.

    More than 16 frames show the same motion in finer steps, fewer show its beginning.
    """
    stage = _Stage.of(size, frames, torch.device(device))
    shots = [_shoot(layer, scene, stage) for layer in scene.layers]
    return _develop(_composite(shots, scene.shadow), scene, stage)


@dataclass(frozen=True)
class Pair:
    """A clip, its true edit, and what is known of both.

    Attributes:
        edit: One of ``EDITS``.
        motion: One of ``MOTIONS``.
        seed: Which of their scenes.
        source: RGB frames ``[F, H, W, 3]``.
        target: The true edited clip, the shape of ``source``. A method is given its first frame.
        region: Where the edit changes what is seen, two pixels wider, ``[F, H, W]``.
        flow: ``(dx, dy)`` in pixels of the edited scene, ``[F - 1, H, W, 2]``: what is seen at a position of
            frame k + 1 was at ``position + flow`` in frame k. It ignores weather.
        visible: Where it was to be seen there in the same light, away from borders, ``[F - 1, H, W]``.
    """

    edit: str
    motion: str
    seed: int
    source: NDArray[np.uint8]
    target: NDArray[np.uint8]
    region: NDArray[np.bool_]
    flow: NDArray[np.float32]
    visible: NDArray[np.bool_]


def render_pair(
    edit: str,
    motion: str,
    seed: int,
    *,
    size: int = 128,
    frames: int = 16,
    device: str | torch.device = "cpu",
) -> Pair:
    """Film a scene before and after an edit.

    Args:
        edit: One of ``EDITS``.
        motion: One of ``MOTIONS``.
        seed: Which scene, and which edit of it.
        size: The side of a frame in pixels.
        frames: How many frames, as in ``render``.
        device: Where to compute.

    Raises:
        OptionError: There is no such edit or motion.
    """
    before = sample_scene(motion, seed)
    after = edit_scene(before, edit, motion, seed)
    stage = _Stage.of(size, frames, torch.device(device))
    shots = {layer: _shoot(layer, before, stage) for layer in dict.fromkeys(before.layers + after.layers)}
    films = [_composite([shots[layer] for layer in scene.layers], scene.shadow) for scene in (before, after)]
    flow, visible = _track(films[1], torch.stack([shots[layer].was for layer in after.layers]), stage)
    return Pair(
        edit,
        motion,
        seed,
        source=_array(_develop(films[0], before, stage).movedim(0, -1)),
        target=_array(_develop(films[1], after, stage).movedim(0, -1)),
        region=_array(_region((before, after), films)),
        flow=_array(flow),
        visible=_array(visible),
    )


def _shoot(layer: Layer, scene: Scene, stage: _Stage) -> _Shot:
    size = stage.points.shape[-1]
    sprite = layer.bake(size * 3 // 2 if layer.shape else size * 5 // 2, stage.points.device)
    padding = "border" if layer.shape else "reflection"
    a, _ = layer.pose(scene.camera, stage.times)
    q = layer.from_frame(stage.points, scene.camera, stage.times)
    *colour, distance = sample(sprite[:4], q / layer.reach, padding)
    return _Shot(
        colour=torch.stack(colour),
        alpha=(0.5 - distance * a.abs() * size / 2).clamp(0, 1),
        shadow=sample(sprite[4:], (q - scene.light / a) / layer.reach, padding)[0],
        was=layer.to_frame(q[1:], scene.camera, stage.times[:-1]),
    )


def _composite(shots: Sequence[_Shot], shadow: float) -> _Film:
    """Lay the layers over each other, the first at the back."""
    colour, lit = torch.zeros_like(shots[0].colour), torch.ones_like(shots[0].alpha)
    shares: list[Tensor] = []
    for shot in shots:
        dimmed, clear = 1 - shadow * shot.shadow, 1 - shot.alpha
        colour = torch.lerp(colour * dimmed, shot.colour, shot.alpha)
        lit = lit * dimmed * clear + shot.alpha
        shares = [share * clear for share in shares] + [shot.alpha]
    return _Film(colour, torch.stack(shares), lit)


def _develop(film: _Film, scene: Scene, stage: _Stage) -> Tensor:
    """Uint8 frames. A style sees rounded colours, so that it is a function of the pixels of the source."""
    colour = (film.colour.clamp(0, 1) * 255).round() / 255
    if scene.style:
        colour = scene.style.apply(colour)
    if scene.weather:
        colour = scene.weather.cover(colour, stage.points, stage.times)
    return (colour * 255).round().to(torch.uint8)


def _region(scenes: Sequence[Scene], films: Sequence[_Film]) -> Tensor:
    """Where a scene looks different after an edit: ``[F, H, W]``."""
    if scenes[1].style or scenes[1].weather:
        return torch.ones_like(films[0].lit, dtype=torch.bool)
    change = (films[0].lit - films[1].lit).abs()
    for scene, other, film in zip(scenes, reversed(scenes), films, strict=True):
        for layer, share in zip(scene.layers, film.shares, strict=True):
            if layer not in other.layers:
                change = torch.maximum(change, share)
    return F.max_pool2d(change, 5, 1, 2) > 1 / 255


def _track(film: _Film, was: Tensor, stage: _Stage) -> tuple[Tensor, Tensor]:
    """The motion of what is seen, and where it was to be seen, from where each layer's points were."""
    share, top = film.shares[:, 1:].max(0, keepdim=True)
    was = was.gather(0, top)[0]
    past = torch.cat([film.shares[:, :-1], film.lit[None, :-1]]).transpose(0, 1)
    *shares, lit = F.grid_sample(past, torch.view_as_real(was), align_corners=False).unbind(1)
    pure = torch.minimum(share, torch.stack(shares).gather(0, top))[0] > _PURE
    flow = torch.view_as_real(was - stage.points) * (stage.points.shape[-1] / 2)
    return flow, pure & ((lit - film.lit[1:]).abs() < 1 - _PURE)


def _array(tensor: Tensor) -> NDArray[Any]:
    return tensor.cpu().contiguous().numpy()
