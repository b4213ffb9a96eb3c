"""Which tables a folder of results gives: those of the paper, or all metrics for each task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from anyv2v.errors import OptionError
from anyv2v.evaluation.manifest import TASKS
from anyv2v.evaluation.measures import METRICS
from anyv2v.evaluation.propagation import Estimate
from anyv2v.evaluation.results import Results
from anyv2v.evaluation.scoring import Score, read_scores
from anyv2v.evaluation.study.tally import study_report
from anyv2v.evaluation.tables import Column, Table, column

__all__ = ["tables_of"]

TITLES = {
    "prompt": "Prompt-based editing",
    "style": "Reference-based style transfer",
    "subject": "Subject-driven editing",
    "identity": "Identity manipulation",
}


def tables_of(
    folder: Path,
    paper: int | None = None,
    metrics: Sequence[str] | None = None,
    tasks: Sequence[str] | None = None,
) -> list[Table]:
    """The tables of a folder of results that was scored.

    Args:
        folder: See ``Results``.
        paper: 1: prompts by people and by CLIP; 2: the other tasks by people; 3: frame consistency of methods
            and their ablations. A table for each task, of all metrics, if left out.
        metrics: Names of metrics, in place of those.
        tasks: Names of tasks, likewise.

    Raises:
        OptionError: There are no scores yet, or no such table, metric or task.
    """
    scores = read_scores(folder)
    if not scores:
        raise OptionError(f"{folder}: nothing was scored yet; run: anyv2v eval score {folder}")
    for name, known in ((metrics or (), METRICS), (tasks or (), TASKS)):
        if unknown := [one for one in name if one not in known]:
            raise OptionError(f"there is no {unknown[0]!r}; there are {', '.join(known)}")
    if paper is None:
        return [_of_task(scores, task, metrics or list(METRICS)) for task in tasks or _tasks(scores)]
    if paper == 1:
        return [
            _of_people(folder, scores, task, metrics or ["clip_text", "clip_image"])
            for task in tasks or ("prompt",)
        ]
    if paper == 2:
        return [_of_people(folder, scores, task, metrics or []) for task in tasks or TASKS[1:]]
    if paper == 3:
        chosen = [score for score in scores if not tasks or score.task in tasks]
        return [_ablation(chosen, metrics or ["clip_image"])]
    raise OptionError(f"table {paper}: there are 1, 2 and 3")


def _tasks(scores: Sequence[Score]) -> list[str]:
    return [task for task in TASKS if any(score.task == task for score in scores)]


def _columns(scores: Sequence[Score], metrics: Sequence[str]) -> list[Column]:
    return [column(METRICS[name].title, METRICS[name].better, scores, name) for name in metrics]


def _of_task(scores: Sequence[Score], task: str, metrics: Sequence[str]) -> Table:
    chosen = [score for score in scores if score.task == task]
    clips, methods = {score.entry for score in chosen}, _methods(chosen)
    made = [{score.entry for score in chosen if score.method == method} for method in methods]
    note = "means are over the clips that all methods made"
    if made and not set.intersection(*made):
        note = "the methods have no clip in common: each mean is over clips of its own"
    notes = [] if all(found == clips for found in made) else [note]
    return Table(f"{TITLES[task]}, {_counted(len(clips))}", methods, _columns(chosen, metrics), notes)


def _methods(scores: Sequence[Score]) -> list[str]:
    return list(dict.fromkeys(score.method for score in scores))


def _of_people(folder: Path, scores: Sequence[Score], task: str, metrics: Sequence[str]) -> Table:
    """The votes of the study, where there was one, and then metrics."""
    found = _of_task(scores, task, metrics)
    return Table(found.title, found.methods, [*_votes(folder, task), *found.columns], found.notes)


def _votes(folder: Path, task: str) -> list[Column]:
    """What people said of a task, in the percent of the paper's tables."""
    try:
        rows = [row for row in study_report(Results(folder)).rows if row.task == task]
    except OptionError:  # nobody has voted
        rows = []
    said = {
        "alignment %": {row.method: row.alignment for row in rows},
        "preference %": {row.method: row.preference for row in rows},
    }
    nobody = "" if rows else "nobody has voted yet"
    return [
        Column(
            title,
            "higher",
            {method: _percent(share) for method, share in shares.items()},
            digits=1,
            note=nobody,
        )
        for title, shares in said.items()
    ]


def _percent(share: Estimate) -> Estimate:
    return Estimate(100 * share.mean, 100 * share.low, 100 * share.high)


def _ablation(scores: Sequence[Score], metrics: Sequence[str]) -> Table:
    clips = len({score.entry for score in scores})
    return Table(f"Ablation, {_counted(clips)}", _methods(scores), _columns(scores, metrics))


def _counted(clips: int) -> str:
    return "1 clip" if clips == 1 else f"{clips} clips"
