"""Score every clip in a folder of results, by whatever method it was made."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyv2v.cache import key_of
from anyv2v.drafts import draft
from anyv2v.errors import OptionError, UserError
from anyv2v.evaluation.manifest import Entry
from anyv2v.evaluation.measures import METRICS, Sample, measured
from anyv2v.evaluation.results import SCORES, Results
from anyv2v.picture import Size
from anyv2v.sidecar import sha256

if TYPE_CHECKING:
    from anyv2v.evaluation.judges import Judges

__all__ = ["Score", "read_scores", "score", "write_scores"]


@dataclass(frozen=True)
class Score:
    """What a method scored on an entry.

    Attributes:
        method: The method.
        entry: Name of the entry.
        task: Of the entry.
        clip: The hash of everything that was looked at.
        metrics: Numbers by metric; one that does not apply is left out.
        missing: Why there is no number, by metric.
    """

    method: str
    entry: str
    task: str
    clip: str
    metrics: Mapping[str, float]
    missing: Mapping[str, str]


COSTS = ("seconds", "network_rows", "peak_bytes")
"""Metrics that are read, not measured, and so never kept."""


def score(
    results: Results,
    judges: Judges,
    metrics: Sequence[str] | None = None,
    known: Sequence[Score] = (),
) -> Iterator[Score]:
    """Score each clip; one that was scored before, with all that belongs to it, keeps its scores.

    Args:
        results: The folder.
        judges: The models that some metrics need.
        metrics: Names of metrics; all if left out.
        known: Earlier scores.

    Yields:
        Scores; of a clip that cannot be read, none but the reason.

    Raises:
        OptionError: There is no such metric.
    """
    names = list(metrics or METRICS)
    if unknown := [name for name in names if name not in METRICS]:
        raise OptionError(f"no metric {unknown[0]!r}; there are {', '.join(METRICS)}")
    earlier = {(old.method, old.entry, old.clip): old for old in known}
    for method, entry, path in results.clips():
        seen = _digest(results, entry, path, judges)
        new = Score(method, entry.name, entry.task, seen, {}, {})
        yield _completed(earlier.get((method, entry.name, seen), new), results, entry, judges, names)


def _digest(results: Results, entry: Entry, clip: Path, judges: Judges) -> str:
    """A hash of a clip, of what it is compared to, and of who compares."""
    files = {"clip": clip, "source": results.compared_to(entry)}
    if first_frame := results.wanted(entry):
        files["first frame"] = first_frame
    if mask := entry.settings.get("mask"):
        files["mask"] = Path(mask)
    said = {name: sha256([file]) for name, file in files.items() if file.is_file()}
    how = {name: entry.settings.get(name) for name in ("start", "fit")}
    return key_of({**said, **how, "text": entry.text, "judges": dict(judges.models)})


def _completed(old: Score, results: Results, entry: Entry, judges: Judges, names: Sequence[str]) -> Score:
    """A score with the metrics that it lacked."""
    lacking = [name for name in names if name not in old.metrics or name in COSTS]
    try:
        found = measured(_sample(results, old.method, entry), judges, lacking)
    except UserError as error:
        found = dict.fromkeys(lacking, f"n/a: {error}")
    numbers = {name: value for name, value in found.items() if not isinstance(value, str)}
    reasons = {name: value for name, value in found.items() if isinstance(value, str)}
    kept = {name: value for name, value in old.metrics.items() if name not in COSTS}
    return replace(old, metrics={**kept, **numbers}, missing={**old.missing, **reasons})


def _sample(results: Results, method: str, entry: Entry) -> Sample:
    edited = results.edited(method, entry)
    source = results.source_like(entry, edited)
    frames = edited.frames[: len(source)]
    return Sample(
        frames,
        source.frames,
        results.edited_first(entry, edited.size),
        entry.text,
        results.mask(entry, Size.of(frames[0])),
        **_cost(results.sidecar(method, entry)),
    )


def _cost(sidecar: Mapping[str, Any]) -> dict[str, float]:
    """What a method of ours cost, as it said itself: all of it, and no time where its inversion was kept."""
    cost = {"network_rows": sidecar.get("network_rows_in_all"), "peak_bytes": sidecar.get("peak_bytes")}
    if (seconds := sidecar.get("seconds")) and sidecar.get("inversion_from", "net") == "net":
        cost["seconds"] = sum(spent for stage, spent in seconds.items() if stage != "load")
    return {name: float(value) for name, value in cost.items() if value}


def write_scores(folder: Path, scores: Sequence[Score]) -> Path:
    """Write the scores of a folder of results, whole or not at all. Raises OutputError."""
    path = folder / SCORES
    with draft(path, overwrite=True) as temporary:
        temporary.write_text(json.dumps([asdict(found) for found in scores], indent=1) + "\n")
    return path


def read_scores(folder: Path) -> list[Score]:
    """The scores of a folder of results; none if there are none yet, or they are of no use."""
    try:
        return [Score(**row) for row in json.loads((folder / SCORES).read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError):
        return []
