"""How the windows of a long clip meet, and what they cost.

``python benchmarks/windows.py CHECKPOINT`` prints tables in Markdown, a row as soon as it is known, and draws
the cost. Not covered: real clips, whose motion is not known.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from hashlib import sha256
from math import isfinite
from pathlib import Path
from statistics import fmean
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anyv2v import (
    Options,
    Size,
    Step,
    Trajectory,
    Video,
    invert_video,
    load_backbone,
    recipe,
    write,
    write_image,
)
from anyv2v.backbones.protocol import Backbone
from anyv2v.carry import diffuse_windows
from anyv2v.evaluation.metrics import psnr, warping_error
from anyv2v.evaluation.propagation import Case, rendered_cases
from anyv2v.fitting import window_for
from anyv2v.flow import Flow
from anyv2v.host import gpu
from anyv2v.job import EditJob
from anyv2v.run import run_edit
from anyv2v.windows import Seam, windows

Frames = NDArray[np.uint8]


class FrameAlone(Seam):
    """The next window is told the edited frame that it begins with, and nothing else."""

    def lay(self, z: Tensor, source: Tensor, level: int, known: int) -> Tensor:  # noqa: ARG002
        return z


class Change(Seam):
    """It also has the change of the frames that both show, at every level."""

    def ahead(self, missing: Tensor) -> Tensor:
        return 0 * missing[:, :, :1]


class Latents(Change):
    """The same with the latents themselves, whatever noise the window's own source was inverted to."""

    def lay(self, z: Tensor, source: Tensor, level: int, known: int) -> Tensor:
        return super().lay(z, 0 * source, level, known)


WAYS: dict[str, type[Seam]] = {
    "the first frame alone": FrameAlone,
    "and latents": Latents,
    "and changes": Change,
    "and changes, coarse ones ahead": Seam,
}
"""The last is what is done."""


@dataclass(frozen=True)
class Figures:
    """What was found in one clip.

    Attributes:
        across: Warping error of each join, in levels.
        inside: That of all other pairs of frames.
        frames: PSNR of each frame but the first to the truth, in dB.
    """

    across: list[float]
    inside: list[float]
    frames: list[float]

    @classmethod
    def of(cls, frames: Frames, case: Case, joins: list[int]) -> Figures:
        """Judge a clip; a join is known by the number of the frame before it."""
        assert case.flow is not None
        assert case.visible is not None
        pairs = range(len(frames) - 1)
        errors = [
            warping_error(frames[k : k + 2], case.flow[k : k + 1], case.visible[k : k + 1]) for k in pairs
        ]
        return cls(
            [errors[k] for k in joins],
            [errors[k] for k in pairs if k not in joins],
            [psnr(frames[k : k + 1], case.task.truth[k : k + 1]) for k in range(1, len(frames))],
        )


class Bench:
    """A backbone with its settings. No window of a clip is inverted twice."""

    def __init__(self, backbone: Backbone, options: Options) -> None:
        self.backbone, self.options = backbone, options
        self._inverted: dict[str, Trajectory] = {}

    def edit(self, case: Case, way: type[Seam], overlap: int) -> Figures:
        """Edit a clip in windows that are joined in some way."""
        options = replace(self.options, overlap=overlap)
        with patch("anyv2v.carry.Seam", way):
            pairs = diffuse_windows(
                self.backbone,
                case.task.source,
                case.task.fps,
                case.task.edited_first,
                case.task.prompt,
                options,
                inverted=lambda video, _on_step: self._inversion(video),
            )
            frames = np.stack([edited for _, edited in pairs])
        return Figures.of(frames, case, self.joins(case, overlap))

    def joins(self, case: Case, overlap: int) -> list[int]:
        length, _ = window_for(self.backbone, self.options)
        fresh = [len(one.frames) - one.known for one in windows(case.task.source, length, overlap)]
        return [int(end) - 1 for end in np.cumsum(fresh)[:-1]]

    def _inversion(self, video: Video) -> Trajectory:
        key = sha256(video.frames.tobytes()).hexdigest()
        if key not in self._inverted:
            self._inverted[key] = invert_video(self.backbone, video, self.options)
        return self._inverted[key]


def heading(title: str, *columns: str) -> None:
    print(f"\n{title}\n\n| | {' | '.join(columns)} |\n|{'---|' * (1 + len(columns))}")


def row(name: str, found: list[Figures], *more: str) -> None:
    across, inside = (fmean(x for one in found for x in getattr(one, part)) for part in ("across", "inside"))
    scores = fmean(x for one in found for x in one.frames), fmean(x for one in found for x in one.frames[-4:])
    told = [
        f"{figure:.2f}" if isfinite(figure) else "" for figure in (across, inside, across / inside, *scores)
    ]
    print(f"| {name} | {' | '.join([*told, *more])} |", flush=True)


COLUMNS = "across joins", "inside", "ratio", "PSNR", "of the last four frames"


def write_ways(bench: Bench, cases: list[Case], overlap: int) -> None:
    heading(f"Ways to go on, {overlap} frames shared: warping error in levels, PSNR in dB", *COLUMNS)
    for name, way in WAYS.items():
        row(name, [bench.edit(case, way, overlap) for case in cases])
    joins = [bench.joins(case, overlap) for case in cases]
    flow = [np.stack(list(Flow().carry(c.task.source, c.task.edited_first))) for c in cases]
    row("`flow`, at the same places", [Figures.of(*one) for one in zip(flow, cases, joins, strict=True)])
    truth = [Figures.of(c.task.truth, c, at) for c, at in zip(cases, joins, strict=True)]
    row("the truth, at the same places", truth)


def write_overlaps(bench: Bench, cases: list[Case], overlaps: list[int]) -> None:
    heading("Frames that windows share", *COLUMNS, "windows")
    for overlap in overlaps:
        count = fmean(1 + len(bench.joins(case, overlap)) for case in cases)
        row(str(overlap), [bench.edit(case, Seam, overlap) for case in cases], f"{count:.0f}")


def write_drift(bench: Bench, count: int, side: int) -> None:
    """How an edit lasts over many windows."""
    length, overlap = window_for(bench.backbone, bench.options)
    frames = length + (count - 1) * (length - overlap)
    (case,) = rendered_cases(1, ["style"], ["camera"], side=side, frames=frames)
    heading("PSNR in dB of the frames of each window", *(str(number + 1) for number in range(count)))
    ends = [*bench.joins(case, overlap), frames - 1]
    for name, way in WAYS.items():
        scores = np.split(np.array(bench.edit(case, way, overlap).frames), ends[:-1])
        print(f"| {name} | {' | '.join(f'{part.mean():.2f}' for part in scores)} |", flush=True)


@dataclass
class Meter:
    """What a run has cost when each of its windows is done.

    Attributes:
        seconds: Since it began.
        rows: Of the batch, summed over all calls of the net.
        peak: Most bytes held: on the GPU, or without one by the process.
    """

    length: int
    seconds: list[float] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    peak: list[int] = field(default_factory=list)
    counted: int = 0
    began: float = field(default_factory=time.perf_counter)

    def __call__(self, step: Step) -> None:
        if step.stage == "decode" and step.done % self.length == 0:
            self.seconds.append(time.perf_counter() - self.began)
            self.rows.append(self.counted)
            self.peak.append(peak_bytes())

    @contextmanager
    def counting(self, net: Any) -> Iterator[None]:
        def count(_net: Any, args: Any) -> None:
            self.counted += len(args[0])

        hook = net.register_forward_pre_hook(count)
        yield
        hook.remove()


def peak_bytes() -> int:
    if torch.cuda.is_available():
        return gpu(torch.device("cuda:0")).most
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def write_cost(bench: Bench, count: int, model: str, plot: Path | None) -> None:
    """Edit a file of so many windows as a user does; what it costs, and how the edit lasts."""
    length, overlap = window_for(bench.backbone, bench.options)
    side = bench.options.size.width if bench.options.size else 64
    size = length + (count - 1) * (length - overlap)
    (case,) = rendered_cases(1, ["style"], ["camera"], side=side, frames=size)
    meter = Meter(length)
    with tempfile.TemporaryDirectory() as folder, meter.counting(bench.backbone.net):
        here = Path(folder)
        os.environ["ANYV2V_CACHE"] = str(here / "cache")
        write(here / "clip", case.task.source, case.task.fps)
        write_image(here / "edited.png", case.task.edited_first)
        job = EditJob(
            clip=here / "clip",
            first_frame=here / "edited.png",
            output=here / "out",
            prompt=case.task.prompt,
            backbone=bench.backbone.name,
            model=model,
            options=bench.options,
            whole=True,
            fps=case.task.fps,
        )
        outcome = run_edit(job, meter, load=lambda *_, **__: bench.backbone)
        assert outcome.sidecar is not None
        told = json.loads(outcome.sidecar.read_text())
        assert (told["windows"], told["network_rows"]) == (count, meter.rows[-1])
    heading("Windows of a clip", "seconds", "rows", "peak, MB")
    for number, (seconds, rows, peak) in enumerate(
        zip(meter.seconds, meter.rows, meter.peak, strict=True), 1
    ):
        print(f"| {number} | {seconds:.1f} | {rows} | {peak / 1e6:.0f} |")
    if plot:
        draw(plot, meter)


def draw(path: Path, meter: Meter) -> None:
    """Three curves over the number of windows."""
    from matplotlib.figure import Figure

    curves: dict[str, list[float]] = {
        "seconds": meter.seconds,
        "rows of the net": [float(rows) for rows in meter.rows],
        "peak memory, GB": [peak / 1e9 for peak in meter.peak],
    }
    figure = Figure(figsize=(10, 3), layout="constrained")
    for axes, (name, values) in zip(figure.subplots(1, 3), curves.items(), strict=True):
        axes.plot(range(1, len(values) + 1), values, "o-", color="#2a6f97", markersize=4)
        axes.set(xlabel="windows", title=name, xlim=(0, None), ylim=(0, 1.1 * max(values)))
        axes.grid(alpha=0.25)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoint", nargs="?", help="left out, the backbone's own")
    parser.add_argument("--backbone", default="mini")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--frames", type=int, default=20, help="of the clips that are judged")
    parser.add_argument("--overlap", type=int, default=2)
    parser.add_argument("--overlaps", type=int, nargs="*", default=[1, 2, 4])
    clips = ["style:camera", "recolour:translation", "replace:fast"]
    parser.add_argument("--clips", nargs="+", default=clips)
    parser.add_argument(
        "--tables", nargs="+", default=["cost", "ways", "overlaps", "drift"], help="which to print"
    )
    parser.add_argument(
        "--windows", type=int, default=10, help="of the clip whose cost and drift are measured"
    )
    parser.add_argument("--plot", type=Path, help="where to draw the cost")
    given = parser.parse_args()
    backbone: Any = load_backbone(given.backbone, given.checkpoint)
    options = replace(
        recipe("fast", backbone=backbone.name),
        steps=given.steps,
        inversion_steps=given.steps,
        size=Size(given.side, given.side),
    )
    bench = Bench(backbone, options)
    cases = [
        case
        for edit, motion in (clip.split(":") for clip in given.clips)
        for case in rendered_cases(1, [edit], [motion], side=given.side, frames=given.frames)
    ]
    with torch.no_grad():
        if "cost" in given.tables:
            write_cost(bench, given.windows, given.checkpoint, given.plot)
        if "ways" in given.tables:
            write_ways(bench, cases, given.overlap)
        if "overlaps" in given.tables:
            write_overlaps(bench, cases, given.overlaps)
        if "drift" in given.tables:
            write_drift(bench, given.windows, given.side)


if __name__ == "__main__":
    main()
