"""How near each inversion comes to the source, to the source branch's features and to the paper's edit.

``python benchmarks/inversion.py CHECKPOINT`` prints two tables in Markdown, a row as soon as it is known. Not
covered: time and memory, which depend on the machine.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from anyv2v import Options, Size, Trajectory, Video, invert, load_backbone, propagate, recipe
from anyv2v.backbones.protocol import Backbone
from anyv2v.evaluation.metrics import psnr
from anyv2v.evaluation.propagation import Case, rendered_cases
from anyv2v.fitting import clip_spec, cost, recorded_taps

Changes = dict[str, Any]
Figures = dict[str, float]

SCHEMES: Mapping[str, Changes] = {
    "ddim": {"inversion": "ddim"},
    "uni": {"inversion": "uni"},
    "fixed-point, 2": {"inversion": "fixed-point", "inversion_iterations": 2},
    "fixed-point, 3": {"inversion": "fixed-point", "inversion_iterations": 3},
    "midpoint": {"inversion": "midpoint"},
    "fast": {"inversion": "uni", "deep_every": recipe("fast").deep_every},
}
NOTHING: Changes = {"tau_conv": 0.0, "tau_spatial": 0.0, "tau_temporal": 0.0}
PAPER: Changes = {"inversion": "ddim", "inversion_steps": 500, "source_branch": "always"}
RECORDED: Changes = {"source_branch": "recorded"}
QUARTER: Changes = {"steps": 25, "inversion_steps": 25}
EDITS: Mapping[str, Changes] = {
    "paper": PAPER,
    "ddim": SCHEMES["ddim"],
    "ddim, recorded": SCHEMES["ddim"] | RECORDED,
    "uni (default)": SCHEMES["uni"],
    "uni, recorded": SCHEMES["uni"] | RECORDED,
    "fast": SCHEMES["fast"] | RECORDED,
    "fixed-point, 2, recorded": SCHEMES["fixed-point, 2"] | RECORDED,
    "uni, recorded, 25 steps": SCHEMES["uni"] | RECORDED | QUARTER,
}
"""The first is what the others are compared with. Frames come to all alike, as the mode of the posterior."""


class Bench:
    """A clip in a backbone's hands. No inversion is made twice."""

    def __init__(self, backbone: Backbone, case: Case) -> None:
        self.backbone, self.case = backbone, case
        self.own = replace(recipe(backbone=backbone.name), size=Size.of(case.task.edited_first))
        self.spec = clip_spec(backbone, Video(case.task.source, case.task.fps), self.own)
        self.z0 = backbone.encode(case.task.source)
        self.source = backbone.condition(case.task.source[0], "", self.spec)
        self._made: dict[tuple[Any, ...], Trajectory] = {}

    def invert(self, options: Options) -> Trajectory:
        """An inversion that has recorded what sampling injects, if it can."""
        if options.inversion != "midpoint":
            options = replace(options, **RECORDED)
        steps = options.steps, options.inversion_steps
        key = (*steps, options.skip, options.inversion, options.inversion_iterations, options.deep_every)
        if key not in self._made:
            self._made[key] = invert(self.backbone, self.z0, self.source, options)
        return self._made[key]

    def retrace(self, scheme: Changes, steps: int, sampling: int) -> Figures:
        """Sample the source from its noisiest latents with what was recorded; compare that."""
        options = replace(self.own, **scheme, inversion_steps=steps, steps=sampling, skip=0)
        source = self.invert(options)
        plain = replace(options, guidance=1.0, **(RECORDED if source.features else NOTHING))
        z = propagate(self.backbone, source, self.source, self.source, plain)
        frames = self.backbone.decode(z), self.backbone.decode(self.z0)
        calls = cost(self.backbone, options).calls - cost(self.backbone, options, inverted=True).calls
        found = {"calls": float(calls), "error": distance(z, self.z0), "PSNR": psnr(*frames)}
        return found | (self.features(source, options) if source.features else {})

    def features(self, source: Trajectory, options: Options) -> Figures:
        """How far recorded features are from those of the source branch, by kind."""
        found = defaultdict[str, list[float]](list)
        for level, taps in recorded_taps(self.backbone, replace(options, **RECORDED)).items():
            with self.backbone.bank.recording(taps):
                self.backbone.denoise(source.at(level), level, self.source)
            true = self.backbone.bank.take()
            for tap in taps:
                for path in self.backbone.bank.modules(tap):
                    found[tap.kind].append(distance(source.features_at(level)[path], true[path]))
        return {kind: fmean(values) for kind, values in found.items()}

    def edit(self, changes: Changes) -> tuple[Figures, Tensor]:
        """Edit the clip: what it costs, how near it comes to the truth, and its latents."""
        options, task, where = replace(self.own, **changes), self.case.task, self.case.region[1:]
        told = self.backbone.condition(task.edited_first, task.prompt, self.spec, options)
        z = propagate(self.backbone, self.invert(options), self.source, told, options)
        frames, truth = self.backbone.decode(z)[1:], task.truth[1:]
        found = {
            "rows, first edit": float(cost(self.backbone, options).rows),
            "whole": float(cost(self.backbone, options).whole),
            "rows, second": float(cost(self.backbone, options, inverted=True).rows),
            "PSNR": psnr(frames, truth),
            "PSNR in the edit": psnr(frames, truth, where),
        }
        return found, z


def distance(ours: Tensor, theirs: Tensor) -> float:
    """Relative L2."""
    return float(torch.linalg.vector_norm(ours - theirs) / torch.linalg.vector_norm(theirs))


def mean(rows: Iterable[Figures]) -> Figures:
    """The mean over clips, figure by figure."""
    found = list(rows)
    return {name: fmean(row[name] for row in found) for name in found[0]}


def heading(title: str, *columns: str) -> None:
    print(f"\n{title}\n\n| | {' | '.join(columns)} |\n|{'---|' * (1 + len(columns))}")


def row(name: str, figures: Figures, *columns: str) -> None:
    told = (f"{figures[column]:.4g}" if column in figures else "" for column in columns)
    print(f"| {name} | {' | '.join(told)} |", flush=True)


def write_edits(benches: list[Bench]) -> None:
    columns = "rows, first edit", "whole", "rows, second", "to the paper's", "PSNR", "PSNR in the edit"
    heading("Edits: relative L2 of their latents to the paper's, PSNR to the truth in dB", *columns)
    papers: list[Tensor] = []
    for name, changes in EDITS.items():
        made = [bench.edit(changes) for bench in benches]
        papers = papers or [z for _, z in made]
        far = [distance(z, paper) for (_, z), paper in zip(made, papers, strict=True)]
        row(name, mean(figures for figures, _ in made) | {"to the paper's": fmean(far)}, *columns)


def write_retraced(benches: list[Bench], steps: list[int], *, long: bool) -> None:
    columns = "calls", "error", "PSNR", "conv", "spatial", "temporal"
    heading("Reconstruction from noise, and recorded features: relative L2, PSNR in dB", *columns)
    trials = [(name, scheme, count, count) for count in steps for name, scheme in SCHEMES.items()]
    trials += [("ddim", SCHEMES["ddim"], 500, count) for count in ((50, 500) if long else (50,))]
    for name, scheme, count, sampling in trials:
        found = mean(bench.retrace(scheme, count, sampling) for bench in benches)
        row(f"{name}, {count} steps, sampled in {sampling}", found, *columns)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoint", nargs="?", help="left out, the backbone's own")
    parser.add_argument("--backbone", default="mini")
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 25, 50, 100])
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--clips", nargs="+", default=["recolour:translation", "replace:camera"])
    parser.add_argument("--tables", nargs="+", default=["edits", "retraced"], help="which to print")
    parser.add_argument("--long", action="store_true", help="sample in 500 steps as well")
    given = parser.parse_args()
    backbone: Any = load_backbone(given.backbone, given.checkpoint)
    pairs = [clip.split(":") for clip in given.clips]
    benches = [
        Bench(backbone, case)
        for edit, motion in pairs
        for case in rendered_cases(1, [edit], [motion], side=given.side, frames=given.frames)
    ]
    with torch.no_grad():
        if "edits" in given.tables:
            write_edits(benches)
        if "retraced" in given.tables:
            write_retraced(benches, given.steps, long=given.long)


if __name__ == "__main__":
    main()
