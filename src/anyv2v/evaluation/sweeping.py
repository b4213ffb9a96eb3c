"""Varying options on a real clip, whose true edit nobody knows: one sheet, and what can be measured."""

from __future__ import annotations

import csv
import io
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from anyv2v.backbones import Choice
from anyv2v.carry import diffuse, invert_video
from anyv2v.drafts import check_file, draft
from anyv2v.edit import Trajectory
from anyv2v.evaluation.inspecting import diffusion_for
from anyv2v.evaluation.metrics import bounded_psnr
from anyv2v.evaluation.sweep import knobs_of, trials
from anyv2v.fitting import check_levels, check_options, clip_spec, fit_frame, fit_frames, recorded_taps
from anyv2v.job import TrialJob
from anyv2v.options import Options
from anyv2v.picture import Frame, check_image_suffix, write_image
from anyv2v.progress import OnStep, Step, ignore
from anyv2v.run import (
    Outcome,
    Stopwatch,
    first_frame_for,
    load_for,
    memory_errors,
    origin_of,
    to_choose,
)
from anyv2v.sheet import contact_sheet
from anyv2v.sidecar import write_sidecar
from anyv2v.span import read_clip
from anyv2v.still import check_still
from anyv2v.store import identity
from anyv2v.video import Video
from anyv2v.writing import write

if TYPE_CHECKING:
    from anyv2v.backbones.protocol import Backbone

__all__ = ["SweepJob", "Trial", "run_sweep", "sweep"]


@dataclass(frozen=True, eq=False)
class Trial:
    """An edit, and the options that it was made with.

    Attributes:
        options: The options.
        result: The edited clip.
        seconds: Wall time of the whole edit, also where its inversion was at hand.
    """

    options: Options
    result: Video
    seconds: float


def sweep(
    backbone: Backbone,
    video: Video,
    first_frame: Frame,
    prompt: str,
    options: Mapping[str, Options],
    *,
    on_step: OnStep = ignore,
) -> dict[str, Trial]:
    """Edit a clip with one set of options after the other.

    What can start from the same inversion does, and no edit is made twice.

    Args:
        backbone: The image-to-video model.
        video: The source.
        first_frame: The edited first frame, ``[H, W, 3]``.
        prompt: What the edited clip shows.
        options: By name; all are looked at before the work begins.
        on_step: Called as the work goes on; the stage ``sweep`` counts edits.

    Raises:
        UserError: Anything that the caller can mend; the message says how.
    """
    different = list(dict.fromkeys(options.values()))  # options that are varied share the value they have
    for one in different:
        _check_options(backbone, video, one)
    inversions, made = _Inversions(backbone, video, on_step), dict[Options, Trial]()
    for one in different:
        trajectory, spent = inversions.of(one)
        began = time.perf_counter()
        result = diffuse(backbone, video, first_frame, prompt, one, trajectory=trajectory, on_step=on_step)
        made[one] = Trial(one, result, spent + time.perf_counter() - began)
        on_step(Step("sweep", len(made), len(different)))
    return {name: made[one] for name, one in options.items()}


def _check_options(backbone: Backbone, video: Video, options: Options) -> None:
    check_options(backbone, options)
    check_levels(backbone, options)
    clip_spec(backbone, video, options)
    backbone.bank.plan(options)


class _Inversions:
    """The inversions of a clip, each made once, with the seconds that it took."""

    def __init__(self, backbone: Backbone, video: Video, on_step: OnStep) -> None:
        self._backbone, self._video, self._on_step = backbone, video, on_step
        self._made: dict[str, tuple[Trajectory, float]] = {}

    def of(self, options: Options) -> tuple[Trajectory, float]:
        recorded = recorded_taps(self._backbone, options)
        about = f"{identity(self._backbone, None, self._video, options)} {options.inversion_steps} {recorded}"
        if about not in self._made:
            began = time.perf_counter()
            trajectory = invert_video(self._backbone, self._video, options, on_step=self._on_step)
            self._made[about] = trajectory, time.perf_counter() - began
        return self._made[about]


@dataclass(frozen=True, kw_only=True)
class SweepJob(TrialJob):
    """Edit a clip with several values of options. The output is a folder, or a sheet beside its tables.

    Attributes:
        vary: An option and its values each: see ``knobs_of``.
        grid: Combine the values of all options, instead of one option at a time.
    """

    vary: tuple[str, ...]
    grid: bool = False

    @property
    def trials(self) -> dict[str, Options]:
        """The options to try, by name."""
        return trials(knobs_of(self.vary), self.options, grid=self.grid)


def run_sweep(job: SweepJob, on_step: OnStep = ignore) -> Outcome:
    """Edit a clip with every value: a sheet with a row for each, tables, and in a folder the clips as well.

    Raises:
        UserError: Anything that the user can mend.
    """
    options, choice, editor, watch = job.trials, _check(job), check_still(job), Stopwatch(on_step)
    origin = origin_of(job, choice)
    still = first_frame_for(job, editor, watch)
    if (first_frame := still.frame) is None:
        return to_choose(job, still, watch)
    with memory_errors():
        backbone: Any = load_for(job, choice, watch)
        video = read_clip(job, backbone)
        found = sweep(backbone, video, first_frame, job.prompt, options, on_step=watch)
    scores = {name: scores_of(trial, video, first_frame, job.prompt) for name, trial in found.items()}
    sheet = _publish(job, video, found, scores)
    result = {"frames": len(video), "scores": scores, "seconds": watch.seconds}
    sidecar = write_sidecar(job.output, origin | result, overwrite=job.overwrite)
    return Outcome(job.output, sidecar, sheet, frames=len(video), seconds=watch.seconds)


def _check(job: SweepJob) -> Choice:
    choice = diffusion_for(job)
    if job.output.suffix:
        for path in (check_image_suffix(job.output), *_tables(job.output)):
            check_file(path, overwrite=job.overwrite)
    return choice


def _tables(sheet: Path) -> tuple[Path, Path]:
    return sheet.with_suffix(".csv"), sheet.with_suffix(".md")


Scores = Mapping[str, float | str]
PIXELS = ("first_frame", "sharpness", "warping_error", "motion_fidelity", "seconds")
"""What of ``measures.METRICS`` asks no model."""


def scores_of(trial: Trial, video: Video, first_frame: Frame, prompt: str) -> Scores:
    """``source_psnr`` in dB, and ``PIXELS``: each a number, or why there is none."""
    from anyv2v.evaluation.judges import Judges
    from anyv2v.evaluation.measures import Sample, measured

    frames, source = trial.result.frames, _source(video, trial)
    edited = fit_frame(first_frame, trial.result.size, trial.options)
    sample = Sample(frames, source, edited, prompt, seconds=trial.seconds)
    return {"source_psnr": bounded_psnr(frames, source), **measured(sample, Judges(), PIXELS)}


def _source(video: Video, trial: Trial) -> NDArray[np.uint8]:
    """The source as the edit shows it, ``[F, H, W, 3]``."""
    return fit_frames(video.frames, trial.result.size, trial.options)


def _publish(
    job: SweepJob, video: Video, found: Mapping[str, Trial], scores: Mapping[str, Scores]
) -> Path | None:
    """Write what was found; where the sheet is, if that is not the output itself."""
    first = next(iter(found.values()))
    rows = {"source": _source(video, first)} | {name: trial.result.frames for name, trial in found.items()}
    sheet = contact_sheet(rows, fps=float(first.result.fps))
    if job.output.suffix:
        _write_sheet(job.output, sheet, scores, overwrite=job.overwrite)
        return None
    with draft(job.output, overwrite=job.overwrite) as folder:
        folder.mkdir()
        _write_sheet(folder / SHEET, sheet, scores, overwrite=False)
        for number, (name, trial) in enumerate(found.items(), start=1):
            file = folder / f"{number:02}-{re.sub(UNSAFE, '_', name)[:100]}.mp4"
            write(file, trial.result.frames, trial.result.fps, trial.result.audio)
    return job.output / SHEET


SHEET = "sheet.png"
UNSAFE = r"[^\w=.,-]+"  # in the name of a file


def _write_sheet(path: Path, sheet: Frame, scores: Mapping[str, Scores], *, overwrite: bool) -> None:
    """A sheet, and beside it its scores as CSV and Markdown."""
    write_image(path, sheet, overwrite=overwrite)
    for table, text in zip(_tables(path), (as_csv(scores), as_markdown(scores)), strict=True):
        with draft(table, overwrite=overwrite) as temporary:
            temporary.write_text(text, encoding="utf-8")


def as_csv(scores: Mapping[str, Scores]) -> str:
    """A row for each trial; nothing where there is no number."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["trial", *next(iter(scores.values()))])
    for name, found in scores.items():
        writer.writerow([name, *("" if isinstance(value, str) else value for value in found.values())])
    return out.getvalue()


def as_markdown(scores: Mapping[str, Scores]) -> str:
    """The same to be read."""
    from anyv2v.evaluation.measures import METRICS

    titles = [METRICS[name].title if name in METRICS else "source dB" for name in next(iter(scores.values()))]
    rows = [[name, *map(_number, found.values())] for name, found in scores.items()]
    lines = [["trial", *titles], ["---", *("---:" for _ in titles)], *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _number(value: float | str) -> str:
    return "-" if isinstance(value, str) else f"{value:.3g}"
