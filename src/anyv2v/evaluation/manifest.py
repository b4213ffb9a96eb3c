"""A dataset of edits: which clip, which edited first frame or editor, which words; an entry on each line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anyv2v.drafts import draft
from anyv2v.errors import OptionError
from anyv2v.job import EditJob, read_settings, underscored

__all__ = ["TASKS", "Entry", "read_manifest", "write_manifest"]

TASKS = ("prompt", "style", "subject", "identity")
"""The paper's: prompt-based editing, style transfer, subject-driven editing, identity manipulation."""

FILES = ("clip", "first_frame", "mask", "reference_mask", "trajectory")
RESULTS = (
    "output",
    "overwrite",
    "sheet",
    "save_frame",
    "backbone",
    "model",
    "recipe",
)  # are the run's to say


@dataclass(frozen=True)
class Entry:
    """An edit to make, by whatever method.

    Attributes:
        name: Unique; a part of file names.
        task: One of ``TASKS``.
        settings: Of an ``EditJob``, all but what the run decides: its output and its method. Paths are
            absolute.
    """

    name: str
    task: str
    settings: Mapping[str, Any]

    @property
    def prompt(self) -> str:
        """What the edited clip shows."""
        return str(self.settings.get("prompt", ""))

    @property
    def text(self) -> str:
        """What the edited clip shows, as far as a person said: the prompt, or what the editor is told."""
        return self.prompt or str(self.settings.get("instruction", ""))

    def job(self, output: Path, **method: Any) -> EditJob:
        """The job that makes it.

        Raises:
            OptionError: A setting is unknown, or a value does not fit it.
        """
        return read_settings(EditJob, {**self.settings, **method, "output": output})


def read_manifest(path: Path) -> list[Entry]:
    """Read a manifest: JSON Lines, an object each; or YAML, a list of such mappings.

    Every entry has a ``clip``, a ``task``, a ``name`` if it is not to be called by its clip, and a
    ``first_frame`` or an ``editor`` with what that needs. Besides, anything that ``anyv2v edit`` takes. Paths
    are relative to the manifest.

    Raises:
        OptionError: It cannot be read, or an entry is wrong; the message begins with file and line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    parse = _yaml if path.suffix.lower() in (".yaml", ".yml") else _json_lines
    entries: dict[str, Entry] = {}
    for line, content in parse(path, text):
        try:
            entry = _entry(content, path.parent)
            if entry.name.casefold() in map(str.casefold, entries):
                raise OptionError(f"there is a {entry.name!r} already; give it another name")
            entry.job(Path("none.mp4"))
        except OptionError as error:
            raise OptionError(f"{path}:{line}: {error}") from error
        entries[entry.name] = entry
    if not entries:
        raise OptionError(f"{path}: there is no entry in it")
    return list(entries.values())


def write_manifest(path: Path, entries: list[Entry]) -> None:
    """Write entries as JSON Lines, whole or not at all. Raises OutputError."""
    lines = [json.dumps({"name": e.name, "task": e.task, **e.settings}, default=str) for e in entries]
    with draft(path, overwrite=True) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _json_lines(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except json.JSONDecodeError as error:
            raise OptionError(f"{path}:{number}: no JSON: {error.msg} at column {error.colno}") from error


def _yaml(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    import yaml

    try:
        content, tree = yaml.safe_load(text), yaml.compose(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise OptionError(f"{path}:{mark.line + 1 if mark else 1}: no YAML: {what}") from error
    if not isinstance(content, list):
        raise OptionError(f"{path}:1: must be a list of entries")
    assert tree is not None  # there is a list
    for entry, node in zip(content, tree.value, strict=True):
        yield node.start_mark.line + 1, entry


def _entry(content: Any, folder: Path) -> Entry:
    if not isinstance(content, dict):
        raise OptionError("an entry must hold settings by name")
    settings = underscored(content)
    task = settings.pop("task", None)
    if task not in TASKS:
        raise OptionError(f"task is {task!r}; it must be one of {', '.join(TASKS)}")
    if not settings.get("clip"):
        raise OptionError("clip is missing")
    if odd := [key for key in FILES if key in settings and not isinstance(settings[key], str)]:
        raise OptionError(f"{odd[0].replace('_', ' ')} must be a path")
    if not ({"first_frame", "editor", "command"} & settings.keys()):
        raise OptionError("first_frame is missing; or name an editor")
    if decided := sorted(settings.keys() & set(RESULTS)):
        raise OptionError(f"{', '.join(decided)}: the run decides that, not an entry")
    name = str(settings.pop("name", Path(str(settings["clip"])).stem))
    if not re.fullmatch(r"\w[\w .+-]*", name) or name.endswith(".reference"):
        raise OptionError(f"name {name!r}: take letters, digits, spaces and . + - _ alone")
    return Entry(name, str(task), _absolute(settings, folder))


def _absolute(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The same settings with paths that hold from anywhere."""
    found = dict(settings)
    for key in settings.keys() & set(FILES):
        found[key] = str((folder / str(settings[key])).resolve())
    if references := settings.get("reference"):
        listed = references if isinstance(references, list) else [references]
        found["reference"] = [str((folder / str(path)).resolve()) for path in listed]
    return found
