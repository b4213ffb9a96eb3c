"""The terminal: settings in; bars, tables, facts and outcomes out."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from anyv2v.errors import OptionError

if TYPE_CHECKING:
    from rich.table import Table

    from anyv2v.progress import OnStep

__all__ = [
    "among",
    "do",
    "print_json",
    "print_table",
    "progress",
    "screen",
    "settings_of_line",
    "show",
    "show_outcome",
]

screen = Console(stderr=True, highlight=False)


def do(kind: type[Any], run: Callable[..., Any], given: Mapping[str, Any]) -> None:
    """Read a job, run it under bars, and say what came of it.

    Args:
        kind: The class of the job.
        run: Runs one, and tells of its steps.
        given: What was said on the command line.
    """
    from anyv2v.job import read_settings

    job = read_settings(kind, settings_of_line(given))
    with progress(given["quiet"] or given["as_json"]) as on_step:
        outcome = run(job, on_step)
    show_outcome(asdict(outcome), given["quiet"], given["verbose"], given["as_json"])


NOT_SETTINGS = {"job", "dry_run", "quiet", "verbose", "as_json"}


def settings_of_line(given: Mapping[str, Any]) -> dict[str, Any]:
    """The job file's settings under those that were given on the command line."""
    told = {key: value for key, value in given.items() if value is not None and key not in NOT_SETTINGS}
    settings = (_read_job(given["job"], told) if given["job"] else {}) | told
    for key, name in {"clip": "CLIP", "output": "--output"}.items():
        if key in given and key not in settings:
            raise OptionError(f"{name} is missing")
    return settings


def _read_job(path: Path, told: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a job file or a sidecar that what was ``told`` does not take the place of."""
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise OptionError(f"{path} is no job file: {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict):
        raise OptionError(f"{path} is no job file: it must hold options as keys")
    settings = {str(key).replace("-", "_"): value for key, value in content.items()}
    if isinstance(settings.get("job"), dict):
        settings = _of_sidecar(settings, anew=bool(told.keys() & {"recipe", "backbone", "model"}))
    outdone = {name for key in told.keys() & INSTEAD.keys() for name in INSTEAD[key]}
    return {key: value for key, value in settings.items() if key not in outdone}


INSTEAD = {
    "frames": {"duration", "whole"},
    "duration": {"frames", "whole"},
    "whole": {"frames", "duration"},
    "first_frame": {"editor", "command"},
    "editor": {"first_frame", "command"},
    "command": {"first_frame", "editor"},
    "mask": {"mask_point", "mask_box"},
    "mask_point": {"mask"},
    "mask_box": {"mask"},
    "backbone": {"model", "trajectory"},
}
"""Settings that say the same in different ways, or go with another: one takes the place of the others."""

NOT_AGAIN = {"options", "overwrite", "sheet", "save_frame"}
"""What of a sidecar's job is not done again: leave to overwrite, and files beside the output."""


def _of_sidecar(sidecar: dict[str, Any], *, anew: bool) -> dict[str, Any]:
    """The settings that a sidecar's output was made with; ``anew`` without options, for another recipe's."""
    job = {key: value for key, value in sidecar["job"].items() if key not in NOT_AGAIN and value is not None}
    options: dict[str, Any] = {} if anew else sidecar["job"].get("options", {})
    return job | options | ({"backbone": sidecar["backbone"]} if "backbone" in sidecar else {})


@contextmanager
def progress(silent: bool) -> Iterator[OnStep]:
    """A bar for each stage with the step and the time left."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from anyv2v.progress import Step

    columns = TextColumn("{task.description:<10}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=screen, disable=silent or not screen.is_terminal) as bars:
        tasks: dict[str, Any] = {}

        def on_step(step: Step) -> None:
            if step.stage not in tasks:
                tasks[step.stage] = bars.add_task(step.stage)
            bars.update(tasks[step.stage], completed=step.done, total=step.total)

        yield on_step


def show_outcome(outcome: dict[str, Any], quiet: bool, verbose: bool, as_json: bool) -> None:
    if as_json:
        print_json(outcome)
    if as_json or quiet:
        return
    for notice in outcome["notices"]:
        screen.print(f"note: {notice}", soft_wrap=True)
    if verbose:
        for stage, seconds in outcome["seconds"].items():
            screen.print(f"{stage}: {seconds:.1f} s")
    for path in filter(None, (outcome["output"], outcome["sheet"], outcome["candidates"])):
        print(path)


def print_json(content: Any) -> None:
    print(json.dumps(content, indent=2, default=lambda x: float(x) if isinstance(x, Fraction) else str(x)))


def show(facts: Mapping[str, Any], as_json: bool) -> None:
    """Facts by name, for a machine or for a person."""
    if as_json:
        print_json(facts)
        return
    for name, value in facts.items():
        print(f"{name.removesuffix('_bytes').replace('_', ' '):<22} {_readable(name, value)}")


def _readable(name: str, value: Any) -> str:
    if isinstance(value, Mapping):
        unit = "_bytes" if name in ("memory", "peaks") else ""
        return ", ".join(f"{key} {_readable(unit, item)}" for key, item in value.items()) or "-"
    if isinstance(value, list):
        return "; ".join(value) or "none"
    if name.endswith("_bytes") and value is not None:
        return f"{value / 1e9:.2f} GB"
    return "-" if value is None else str(value)


def print_table(table: Table) -> None:
    Console(highlight=False, width=None if sys.stdout.isatty() else 160).print(table)


def among(names: str | None, known: Sequence[str], *special: str) -> Sequence[str]:
    """Those asked for of what is known; all of it, but for what is special, if none was."""
    chosen = names.split(",") if names else known
    for name in chosen:
        if name not in (*known, *special):
            raise OptionError(f"no class {name!r}; there are {', '.join(known)}")
    return chosen
