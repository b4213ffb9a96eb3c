"""What can be put to the test: backbones, the paper's ablations of them, and what is no method at all."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from anyv2v.backbones import Carrier, list_backbones, load_backbone, recipe
from anyv2v.carry import diffuse, invert_video
from anyv2v.edit import Trajectory
from anyv2v.fitting import recorded_taps
from anyv2v.host import gpu
from anyv2v.options import Options
from anyv2v.picture import Size
from anyv2v.store import identity
from anyv2v.video import Video

if TYPE_CHECKING:
    from anyv2v.backbones.protocol import Backbone, VideoSpec

__all__ = ["ABLATIONS", "Method", "Result", "Task", "ablated", "clip_for", "methods"]

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
    """A row of the table.

    Attributes:
        name: What it is called.
        run: Edits a clip.
        spec: The clip that it is made for, if it is made for one.
    """

    name: str
    run: Callable[[Task], Result]
    spec: VideoSpec | None = None


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


def ablated(options: Options) -> dict[str, Options]:
    """The whole method and its ablations, by what is added to its name."""
    return {name: replace(options, **changes) for name, changes in ABLATIONS.items()}


def methods(
    backbones: list[str],
    model: str | None = None,
    variations: Callable[[Options], Mapping[str, Options]] | None = None,
    *,
    recipes: Sequence[str] = ("default",),
    device: str = "auto",
) -> list[Method]:
    """The rows of a table: the source unchanged, the edited frame frozen, and each backbone.

    Args:
        backbones: Names in the registry.
        model: A checkpoint for the diffusion backbones.
        variations: Makes of a diffusion backbone's own options those to run it with, by what is added to its
            name; left out, it runs with its own.
        recipes: Names of those that a diffusion backbone is run by.
        device: See ``load_backbone``.

    Raises:
        OptionError: There is no such backbone, or recipe.
    """
    rows = [Method("source", lambda task: Result(task.source)), Method("frozen frame", _frozen)]
    for name in backbones:
        known = list_backbones().get(name)
        backbone = load_backbone(name, model if not known or known.pipelines else None, device=device)
        if isinstance(backbone, Carrier):
            rows.append(Method(name, _carried(backbone)))
        else:
            rows += _diffused(backbone, recipes, variations or (lambda own: {"": own}))
    return rows


def _diffused(
    backbone: Backbone, recipes: Sequence[str], variations: Callable[[Options], Mapping[str, Options]]
) -> Iterator[Method]:
    """A backbone's VAE alone, since no latent model is sharper than that, and its variations."""
    yield Method(
        f"{backbone.name}, its VAE alone",
        lambda task: Result(backbone.decode(backbone.encode(task.truth))),
        backbone.spec,
    )
    for name in recipes:
        diffusion, own = Diffusion(backbone), recipe(name, backbone=backbone.name)
        label = backbone.name if name == "default" else f"{backbone.name}, {name}"
        for suffix, options in variations(own).items():
            yield Method(label + suffix, partial(diffusion.run, options), backbone.spec)


def clip_for(methods: Iterable[Method], side: int = 128, frames: int = 16) -> tuple[int, int]:
    """The side in pixels and the number of frames that suit every method; those given if all suit them."""
    specs = [method.spec for method in methods if method.spec]
    sides = [min(spec.size.width, spec.size.height) for spec in specs]
    return min(sides, default=side), min((spec.frames for spec in specs), default=frames)


def _frozen(task: Task) -> Result:
    return Result(np.broadcast_to(task.edited_first, task.source.shape))


def _carried(carrier: Carrier) -> Callable[[Task], Result]:
    def run(task: Task) -> Result:
        began = time.perf_counter()
        frames = np.stack(list(carrier.carry(task.source, task.edited_first)))
        return Result(frames, time.perf_counter() - began)

    return run


@dataclass
class Cost:
    """See ``Result``."""

    seconds: float = 0.0
    network_rows: int = 0
    peak_bytes: int | None = None


class Diffusion:
    """Edits by a diffusion backbone. The last inversion is kept, for all edits of its clip start from it."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self._about: dict[str, Any] = {}
        self._kept: tuple[Trajectory, Cost] | None = None

    def run(self, options: Options, task: Task) -> Result:
        """Edit a clip. The cost is that of the whole edit, also where its inversion was at hand."""
        video = Video(task.source, task.fps)
        options = replace(options, size=Size.of(task.edited_first))
        trajectory, inversion = self._inverted(video, options)
        with _counting(self.backbone) as cost:
            frames = diffuse(
                self.backbone, video, task.edited_first, task.prompt, options, trajectory=trajectory
            ).frames
        return Result(
            frames,
            inversion.seconds + cost.seconds,
            inversion.network_rows + cost.network_rows,
            max(filter(None, (inversion.peak_bytes, cost.peak_bytes)), default=None),
        )

    def _inverted(self, video: Video, options: Options) -> tuple[Trajectory, Cost]:
        about = identity(self.backbone, None, video, options) | {
            "steps": str(options.inversion_steps),
            "recorded": str(recorded_taps(self.backbone, options)),
        }
        if self._kept is None or about != self._about:
            with _counting(self.backbone) as cost:
                trajectory = invert_video(self.backbone, video, options)
            self._about, self._kept = about, (trajectory, cost)
        return self._kept


@contextmanager
def _counting(backbone: Backbone) -> Iterator[Cost]:
    """Fills in its cost when the work is done."""
    cost, rows, memory = Cost(), list[int](), gpu(backbone.device)
    hook = backbone.net.register_forward_pre_hook(lambda _net, args: rows.append(len(args[0])))
    if memory:
        memory.begin()
    began = time.perf_counter()
    try:
        yield cost
    finally:
        hook.remove()
    cost.seconds, cost.network_rows = time.perf_counter() - began, sum(rows)
    cost.peak_bytes = memory.most if memory else None
