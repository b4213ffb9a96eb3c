"""Looking inside: what a net's features show, by decoder layer and step (arXiv 2403.14468, Figure 6).

The features are those that the net makes, or is given, while a clip is denoised; no hook is added. Not
covered: attention to the text, which has a map for each of its tokens.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, product
from typing import TYPE_CHECKING, Annotated, Any, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BeforeValidator
from torch import Tensor

from anyv2v.backbones import Choice
from anyv2v.carry import diffuse, invert_video
from anyv2v.checks import check
from anyv2v.errors import OptionError
from anyv2v.features import Kind as TapKind
from anyv2v.job import TrialJob
from anyv2v.options import Options
from anyv2v.picture import Frame, check_image_suffix, write_image
from anyv2v.progress import OnStep, ignore
from anyv2v.run import (
    Outcome,
    Stopwatch,
    first_frame_for,
    load_for,
    memory_errors,
    origin_of,
    to_choose,
)
from anyv2v.sheet import gallery, picks
from anyv2v.sidecar import write_sidecar
from anyv2v.span import read_clip
from anyv2v.still import check_still
from anyv2v.video import Video

if TYPE_CHECKING:
    from anyv2v.backbones.protocol import Backbone, Condition

__all__ = [
    "Aim",
    "InspectJob",
    "Map",
    "Sight",
    "diffusion_for",
    "inspect",
    "map_sheet",
    "run_inspect",
    "weights",
]

Kind = Literal["conv", "spatial", "temporal", "frames"]
Side = Literal["source", "edit"]


@dataclass(frozen=True)
class Aim:
    """What to look at.

    Attributes:
        kinds: ``conv`` is the convolution feature, the mean over channels; ``spatial`` and ``temporal`` are
            how much attention each place receives, in its frame and along time, the mean over heads and
            queries; ``frames`` is which frame attends to which, the mean over heads and places.
        layers: Decoder layers in the paper's count.
        steps: Sampling steps, from 1, the noisiest; nothing for four that are evenly spread.
        frames: Frames of the clip, from 0; nothing for the middle one.
    """

    kinds: tuple[Kind, ...] = ("conv", "spatial", "temporal")
    layers: tuple[int, ...] = (4, 7, 11)
    steps: tuple[int, ...] = ()
    frames: tuple[int, ...] = ()

    def at(self, backbone: Backbone, options: Options, length: int) -> Aim:
        """The same in order, with what was left out, for a clip of ``length`` frames.

        Raises:
            OptionError: There is no such layer, step or frame.
        """
        taps = [tap for tap in backbone.bank.taps if tap.kind in map(_tapped, self.kinds)]
        done = range(options.skip + 1, options.steps + 1)
        return Aim(
            tuple(dict.fromkeys(self.kinds)),
            _among("layer", {tap.layer for tap in taps}, self.layers),
            _among("step", done, self.steps or [done[k] for k in picks(len(done), 4)]),
            _among("frame", range(length), self.frames or [length // 2]),
        )


def _tapped(kind: Kind) -> TapKind:
    """The kind of the taps that a kind of map is made of."""
    return "temporal" if kind == "frames" else kind


def _among(what: str, there: Collection[int], wanted: Iterable[int]) -> tuple[int, ...]:
    for number in wanted:
        if number not in there:
            raise OptionError(f"there is no {what} {number} to look at, but {min(there)} to {max(there)}")
    return tuple(sorted(set(wanted)))


@dataclass(frozen=True, eq=False)
class Map:
    """What a feature shows of a frame at a step.

    Attributes:
        kind: See ``Aim``.
        layer: See ``Aim``.
        step: See ``Aim``.
        frame: See ``Aim``.
        values: ``[h, w]``, the places of the frame; of ``frames`` the queries are rows and the keys columns.
            Where a net looks back at its first frame, as ConsistI2V does, the places of that one follow
            below, and what it sees around a place on the right.
        spread: How widely a query attends: the mean entropy, from 0 for one key alone to 1 for all alike.
            None of a convolution.
    """

    kind: Kind
    layer: int
    step: int
    frame: int
    values: NDArray[np.float32]
    spread: float | None = None


@dataclass(frozen=True, eq=False)
class Sight:
    """What was seen.

    Attributes:
        aim: What was looked at.
        maps: By kind, then layer, step and frame.
        predictions: By step, what the net took the frames to be in the end, ``[frames, H, W, 3]``.
    """

    aim: Aim
    maps: Sequence[Map]
    predictions: Mapping[int, NDArray[np.uint8]]


def inspect(
    backbone: Backbone,
    video: Video,
    first_frame: Frame | None = None,
    prompt: str = "",
    options: Options = Options(),
    aim: Aim = Aim(),
    *,
    on_step: OnStep = ignore,
) -> Sight:
    """Look at the features of a clip, or of its edit, while it is denoised.

    Args:
        backbone: The image-to-video model.
        video: The source.
        first_frame: The edited first frame, to look at the edit; what is injected is the source's. Left out,
            the source is made again from its inversion, with nothing injected, as in the paper's figure.
        prompt: What the edited clip shows.
        options: Settings of the run.
        aim: What to look at.
        on_step: Called as the work goes on.

    Raises:
        UserError: Anything that the caller can mend; the message says how.
    """
    if first_frame is None:
        first_frame, prompt, options = video.frames[0], options.inversion_prompt, _plain(options)
    # Denoised at every step or only where it injects, the source gives the same; alone it is told apart. And
    # layers can be looked at where they compute.
    options = replace(options, source_branch="injecting", deep_every=1)
    watched: Any = _Watched(backbone, options, aim.at(backbone, options, len(video)))
    trajectory = invert_video(backbone, video, options, on_step=on_step)
    diffuse(watched, video, first_frame, prompt, options, trajectory=trajectory, on_step=on_step)
    sight: Sight = watched.sight()
    return sight


def _plain(options: Options) -> Options:
    """The options of a reconstruction: every step, without guidance, injection or noise."""
    return replace(
        options,
        guidance=1.0,
        image_guidance=1.0,
        tau_conv=0.0,
        tau_spatial=0.0,
        tau_temporal=0.0,
        tau_cross=0.0,
        skip=0,
        noise_share=0.0,
        frame_init="none",
        sampler="ddim",
        start_level=None,
    )


class _Watched:
    """A backbone that keeps what its net does at some steps; for the rest it is the backbone itself."""

    def __init__(self, backbone: Backbone, options: Options, aim: Aim) -> None:
        self._backbone, self._options, self._aim = backbone, options, aim
        self._sampler, self._plan = backbone.sampler(options), backbone.bank.plan(options)
        levels = self._sampler.grid(options.steps)
        self._steps = {levels[step - 1]: step for step in aim.steps}
        kinds = {"conv", *map(_tapped, aim.kinds)}  # a convolution tells the size that its layer works at
        self._taps = [tap for tap in backbone.bank.taps if tap.kind in kinds and tap.layer in aim.layers]
        self._names = {(tap.kind, tap.layer): backbone.bank.modules(tap)[0] for tap in self._taps}
        self._clean: dict[int, Tensor] = {}
        self._maps: dict[int, list[Map]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backbone, name)

    def denoise(self, z: Tensor, t: int, condition: Condition) -> Tensor:
        """See ``Backbone``. Where features are injected the source comes first; the edit takes its place."""
        if t not in self._steps:
            return self._backbone.denoise(z, t, condition)
        step, bank = self._steps[t], self._backbone.bank
        injected = self._plan.active(step - 1)
        with bank.recording([tap for tap in self._taps if tap not in injected]):
            out = self._backbone.denoise(z, t, condition)
        clean = self._sampler.step(self._backbone.guide(out, self._options), z[-1:], t, -1)
        self._clean[step] = clean[:, :, list(self._aim.frames)]
        self._maps[step] = list(self._look(step, z.shape[2]))
        return out

    def _look(self, step: int, length: int) -> Iterator[Map]:
        """Every map that there is of a step, in a clip of ``length`` frames."""
        features = self._backbone.bank.features()
        for kind, layer, frame in product(self._aim.kinds, self._aim.layers, self._aim.frames):
            if name := self._names.get((_tapped(kind), layer)):
                conv = features[self._names["conv", layer]][-length:]  # the prompt's branch is the last
                values, spread = conv[frame].mean(0), None
                if kind != "conv":
                    values, spread = self._attended(kind, name.rpartition(".")[0], frame, conv.shape)
                yield Map(kind, layer, step, frame, values.float().cpu().numpy(), spread)

    def _attended(self, kind: Kind, path: str, frame: int, shape: torch.Size) -> tuple[Tensor, float]:
        """A map of attention, and its spread, in a layer that works at ``[F, C, h, w]``."""
        attention, features = self._backbone.net.get_submodule(path), self._backbone.bank.features()
        q, k = features[f"{path}.to_q"], features[f"{path}.to_k"]
        length, _, height, width = shape
        if kind == "spatial":  # of one frame, as that alone can be a gigabyte
            seen = weights(attention, q[-length:][frame, None], k[-length:][frame, None])
            return seen.mean((0, 1, 2)).reshape(-1, width), _spread(seen)
        seen = weights(attention, q[-height * width :], k[-height * width :])
        if kind == "temporal":
            return seen[..., frame].mean((1, 2)).reshape(height, width), _spread(seen)
        return seen.mean((0, 1)), _spread(seen)

    def sight(self) -> Sight:
        """All that was seen."""
        maps = [seen for step in self._aim.steps for seen in self._maps[step]]
        maps.sort(key=lambda seen: (self._aim.kinds.index(seen.kind), seen.layer))
        predictions = {step: self._backbone.decode(self._clean[step]) for step in self._aim.steps}
        return Sight(self._aim, maps, predictions)


def weights(attention: Any, q: Tensor, k: Tensor) -> Tensor:
    """How much each query attends to each key: ``[n, i, C]``, ``[n, j, C] -> [n, heads, i, j]``.

    Args:
        attention: The module, which knows the number of its heads and what it tells them of time.
        q: Queries as they are projected.
        k: Keys as they are projected.
    """
    if hasattr(attention, "place"):
        q, k = attention.place(q, k)
    q, k = (x.reshape(*x.shape[:2], attention.heads, -1).transpose(1, 2) for x in (q, k))
    if hasattr(attention, "attend"):  # it averages values by its weights, and those of unit vectors are these
        found: Tensor = attention.attend(q, k, torch.eye(k.shape[2]).to(k).expand(*k.shape[:2], -1, -1))
        return found.float()
    return (q.float() @ k.float().mT / math.sqrt(q.shape[-1])).softmax(-1)


def _spread(seen: Tensor) -> float:
    most = math.log(max(2, seen.shape[-1]))  # one key alone is attended to by all
    return float(torch.special.entr(seen).sum(-1).mean()) / most


TILE = 192  # pixels


def map_sheet(sight: Sight, title: str = "source") -> Frame:
    """Every map under its name, a row for each kind and layer, below what the net makes of the clip.

    Args:
        sight: What was seen.
        title: What the clip is called.

    Returns:
        The sheet, ``[H, W, 3]``. Each map has colours of its own scale, from its least value to its greatest.
    """
    columns = list(product(sight.aim.steps, sight.aim.frames))
    clip = [picture for shown in sight.predictions.values() for picture in shown]
    rows = {title: clip} | {
        f"{kind} {layer}": [_coloured(seen) for seen in maps]
        for (kind, layer), maps in groupby(sight.maps, key=lambda seen: (seen.kind, seen.layer))
    }
    several = len(sight.aim.frames) > 1
    pictures = {
        f"{row}, step {step}" + (f", frame {frame}" if several else ""): picture
        for row, shown in rows.items()
        for (step, frame), picture in zip(columns, shown, strict=True)
    }
    return gallery(pictures, columns=len(columns), tile=TILE)


COLOURS = {"conv": cv2.COLORMAP_VIRIDIS}


def _coloured(seen: Map) -> Frame:
    """In colours, each value a rectangle of its own: ``[TILE * h / w, TILE, 3]``."""
    height, width = seen.values.shape
    low, high = seen.values.min(), seen.values.max()
    levels = np.uint8(255 * (seen.values - low) / max(high - low, 1e-12))
    large = cv2.resize(levels, (TILE, round(TILE * height / width)), interpolation=cv2.INTER_NEAREST)
    colours = cv2.applyColorMap(large, COLOURS.get(seen.kind, cv2.COLORMAP_MAGMA))
    return np.ascontiguousarray(colours[..., ::-1], np.uint8)


def diffusion_for(job: TrialJob) -> Choice:
    """See before the work begins that a job can run; find its backbone, which must be a diffusion model.

    Raises:
        UserError: It cannot.
    """
    choice = check(job)
    if choice.checkpoint is None:
        name = choice.entry.name
        raise OptionError(f"{name} has neither features nor options; name a diffusion model by --backbone")
    return choice


Listed = BeforeValidator(lambda value: value.split(",") if isinstance(value, str) else value)


@dataclass(frozen=True, kw_only=True)
class InspectJob(TrialJob):
    """Look at the features of a clip, or of its edit.

    Attributes:
        side: Which of the two; the source needs no edited first frame.
        kinds: See ``Aim``.
        layers_at: See ``Aim``.
        steps_at: See ``Aim``.
        frames_at: See ``Aim``.
    """

    side: Side = "source"
    kinds: Annotated[tuple[Kind, ...], Listed] = Aim.kinds
    layers_at: tuple[int, ...] = Aim.layers
    steps_at: Annotated[tuple[int, ...], Listed] = ()
    frames_at: Annotated[tuple[int, ...], Listed] = ()

    @property
    def aim(self) -> Aim:
        """What to look at."""
        return Aim(self.kinds, self.layers_at, self.steps_at, self.frames_at)


def run_inspect(job: InspectJob, on_step: OnStep = ignore) -> Outcome:
    """Look at a clip's features: write the maps as one picture, and a sidecar that also has their spreads.

    Raises:
        UserError: Anything that the user can mend.
    """
    check_image_suffix(job.output)
    choice, watch = diffusion_for(job), Stopwatch(on_step)
    editor = check_still(job) if job.side == "edit" else None
    origin, first_frame = origin_of(job, choice), None
    if editor:
        still = first_frame_for(job, editor, watch)
        if (first_frame := still.frame) is None:
            return to_choose(job, still, watch)
    with memory_errors():
        backbone: Any = load_for(job, choice, watch)
        video = read_clip(job, backbone)
        sight = inspect(backbone, video, first_frame, job.prompt, job.options, job.aim, on_step=watch)
    write_image(job.output, map_sheet(sight, job.side), overwrite=job.overwrite)
    result = {"frames": len(video), "spreads": _spreads(sight), "seconds": watch.seconds}
    sidecar = write_sidecar(job.output, origin | result, overwrite=job.overwrite)
    return Outcome(job.output, sidecar, frames=len(video), seconds=watch.seconds)


def _spreads(sight: Sight) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in vars(seen).items() if key != "values"}
        for seen in sight.maps
        if seen.spread is not None
    ]
