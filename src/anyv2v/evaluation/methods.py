"""What can be put to the test: backbones, the paper's ablations of them, and what is no method at all."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anyv2v.backbones import Carrier, list_backbones, load_backbone
from anyv2v.edit import diffuse
from anyv2v.options import Options
from anyv2v.video import Size, Video

__all__ = ["ABLATIONS", "Method", "Result", "Task", "methods"]

Frames = NDArray[np.uint8]


@dataclass(frozen=True)
class Task:
    """What a method is given: a source clip and its edited first frame, and the truth for its judges alone.

    Attributes:
        source: ``[F, H, W, 3]``.
        truth: The true edited clip, ``[F, H, W, 3]``; its first frame is what a method may see.
        prompt: What the edited clip shows.
        fps: Frames per second.
    """

    source: Frames
    truth: Frames
    prompt: str = ""
    fps: Fraction = Fraction(8)

    @property
    def edited_first(self) -> NDArray[np.uint8]:
        """The edited first frame, ``[H, W, 3]``."""
        first: NDArray[np.uint8] = self.truth[0]
        return first


@dataclass(frozen=True)
class Result:
    """An edited clip and what it cost.

    Attributes:
        frames: ``[F, H, W, 3]``.
        seconds: Wall time.
        network_rows: Rows of the batch summed over all calls of the net.
        peak_bytes: Most memory held on the GPU; none without one.
    """

    frames: Frames
    seconds: float = 0.0
    network_rows: int = 0
    peak_bytes: int | None = None


@dataclass(frozen=True)
class Method:
    """A row of the table."""

    name: str
    run: Callable[[Task], Result]


ABLATIONS: Mapping[str, dict[str, Any]] = {
    "": {},
    ", no temporal": {"tau_temporal": 0.0},
    ", no injection": {"tau_temporal": 0.0, "tau_spatial": 0.0, "tau_conv": 0.0},
    ", no inversion": {
        "tau_temporal": 0.0,
        "tau_spatial": 0.0,
        "tau_conv": 0.0,
        "noise_share": 1.0,
        "skip": 0,
    },
}
"""Table 3 of the paper: temporal injection is taken away, then spatial, then the start from the inversion."""


def methods(
    backbones: list[str],
    *,
    model: str | None = None,
    options: Options = Options(),
    ablations: bool = False,
    device: str = "auto",
) -> list[Method]:
    """The rows of a table: the source unchanged, the edited frame frozen, and each backbone.

    Args:
        backbones: Names in the registry.
        model: A checkpoint for the diffusion backbones.
        options: Settings of the diffusion stage.
        ablations: Also run each diffusion backbone without its parts.
        device: See ``load_backbone``.
    """
    rows = [Method("source", lambda task: Result(task.source)), Method("frozen frame", _frozen)]
    for name in backbones:
        known = list_backbones().get(name)
        backbone = load_backbone(name, model if known and known.pipeline else None, device=device)
        if isinstance(backbone, Carrier):
            rows.append(Method(name, _carried(backbone)))
            continue
        rows.append(Method(f"{name}, its VAE alone", _ceiling(backbone)))
        for suffix, changes in ABLATIONS.items() if ablations else [("", {})]:
            rows.append(Method(name + suffix, _diffused(backbone, replace(options, **changes))))
    return rows


def _frozen(task: Task) -> Result:
    return Result(np.broadcast_to(task.edited_first, task.source.shape))


def _carried(carrier: Carrier) -> Callable[[Task], Result]:
    def run(task: Task) -> Result:
        began = time.perf_counter()
        frames = np.stack(list(carrier.carry(task.source, task.edited_first)))
        return Result(frames, time.perf_counter() - began)

    return run


def _ceiling(backbone: Any) -> Callable[[Task], Result]:
    """No latent model is sharper than its VAE."""
    return lambda task: Result(backbone.decode(backbone.encode(task.truth)))


def _diffused(backbone: Any, options: Options) -> Callable[[Task], Result]:
    import torch

    def run(task: Task) -> Result:
        video = Video(task.source, task.fps)
        fitted = replace(options, size=Size.of(task.edited_first))
        rows: list[int] = []
        hook = backbone.net.register_forward_pre_hook(lambda _net, args: rows.append(len(args[0])))
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        try:
            frames = diffuse(backbone, video, task.edited_first, task.prompt, fitted).frames
        finally:
            hook.remove()
        peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
        return Result(frames, time.perf_counter() - began, sum(rows), peak)

    return run
