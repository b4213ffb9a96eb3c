"""What training looks like: its curve, what the VAE gives back, what the net makes of a first frame."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from anyv2v.backbones.i2vgen_xl import I2VGenXL
from anyv2v.edit import Trajectory, propagate
from anyv2v.options import Options
from training.clips import make_clip
from training.recipe import Recipe

matplotlib.use("Agg")

__all__ = ["curve", "generated", "given_back"]

SHOWN = (-1, -2, -3, -4)  # numbers of clips that no training run draws


def curve(folder: Path, title: str) -> None:
    """The loss over the clips seen, ``curve.png`` from ``curve.json``."""
    from matplotlib import pyplot

    points = np.array(json.loads((folder / "curve.json").read_text())["curve"])
    figure, axes = pyplot.subplots(figsize=(7, 3), layout="constrained")
    width = max(1, len(points) // 40)
    axes.plot(points[:, 1], points[:, 2], color="#c9d7e8", linewidth=1)
    smooth = np.convolve(points[:, 2], np.ones(width) / width, mode="valid")
    axes.plot(points[width - 1 :, 1], smooth, color="#1f4e8c", linewidth=1.8)
    axes.set(xlabel="clips seen", ylabel="loss", yscale="log", title=title)
    axes.grid(which="both", alpha=0.25)
    figure.savefig(folder / "curve.png", dpi=110)
    pyplot.close(figure)


@torch.no_grad()
def given_back(vae: nn.Module, recipe: Recipe, path: Path) -> float:
    """Clips above what the VAE makes of them; its PSNR on them in dB."""
    device = next(vae.parameters()).device
    rows, errors = [], []
    for number in SHOWN:
        clip = make_clip(number, recipe.side, recipe.frames)[0].to(device)
        coder: Any = vae
        latents = coder.encode(clip.float() / 127.5 - 1).latent_dist.mean
        ours = ((coder.decode(latents).sample + 1) * 127.5).round().clamp(0, 255)
        errors.append((ours - clip).square().mean(dim=(1, 2, 3)).sqrt())
        rows += [_frames(clip), _frames(ours.byte())]
    _sheet(rows, path)
    return float((20 * torch.log10(255 / torch.cat(errors))).mean())


def generated(backbone: I2VGenXL, path: Path, steps: int) -> float:
    """Clips above what the net makes of their first frame and noise; its PSNR on them in dB."""
    rows, errors = [], []
    options = Options(steps=steps, guidance=1, skip=0, tau_conv=0, tau_spatial=0, tau_temporal=0)
    for number in SHOWN:
        clip, caption, _ = make_clip(number, backbone.spec.size.width, backbone.spec.frames)
        frames = _frames(clip)
        told = backbone.condition(frames[0], caption, backbone.spec)
        noise = torch.randn(told.tensors["image_latents"].shape, generator=backbone.generator(0))
        start = Trajectory({backbone.schedule.grid(steps)[0]: noise.to(backbone.net.device)})
        ours = backbone.decode(propagate(backbone, start, told, told, options))
        errors.append(np.square(ours[1:] - frames[1:].astype(float)).mean())
        rows += [frames, ours]
    _sheet(rows, path)
    return float(np.mean(10 * np.log10(255**2 / np.array(errors))))


def _frames(clip: torch.Tensor) -> NDArray[np.uint8]:
    frames: NDArray[np.uint8] = clip.permute(0, 2, 3, 1).cpu().numpy()
    return frames


def _sheet(rows: list[NDArray[np.uint8]], path: Path) -> None:
    picture = np.concatenate([np.concatenate(list(row), axis=1) for row in rows])
    Image.fromarray(picture).save(path)
