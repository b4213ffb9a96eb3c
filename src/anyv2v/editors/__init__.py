"""The registry of editors: what can change a first frame, what each needs, and where its weights are.

Nothing heavy is imported here; an editor's own module is imported when it is loaded. Another package adds an
editor with an entry point in the group ``anyv2v.editors`` that names an ``EditorEntry``.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, fields
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from anyv2v.editors.catalog import BUILT_IN
from anyv2v.editors.entry import EditorEntry, Input
from anyv2v.errors import OptionError, WeightsMissing
from anyv2v.packages import brought
from anyv2v.weights import weights_missing

if TYPE_CHECKING:
    from anyv2v.editors.protocol import Editor

__all__ = [
    "EditorChoice",
    "EditorEntry",
    "Input",
    "check_inputs",
    "choose_editor",
    "editor_named",
    "list_editors",
    "load_editor",
    "load_editor_choice",
    "settings_of",
]


@cache
def list_editors() -> Mapping[str, EditorEntry]:
    """Every editor by name: the built-in ones and those of other packages."""
    # What another package calls by the name of one of ours does not take its place.
    known = (*brought("anyv2v.editors", EditorEntry), *BUILT_IN)
    return MappingProxyType({entry.name: entry for entry in known})


def editor_named(name: str) -> EditorEntry:
    """The editor of that name. Raises OptionError if there is none."""
    if name not in list_editors():
        raise OptionError(f"no editor {name!r}; there are {', '.join(list_editors())}")
    return list_editors()[name]


@dataclass(frozen=True)
class EditorChoice:
    """An editor that was chosen, with its settings and the folders of its weights."""

    entry: EditorEntry
    settings: Any
    weights: Mapping[str, Path]


def choose_editor(
    name: str,
    models: Mapping[str, str] = MappingProxyType({}),
    settings: Mapping[str, Any] = MappingProxyType({}),
) -> EditorChoice:
    """Find an editor and its weights, without loading anything.

    Args:
        name: A name in the registry.
        models: Folders or repositories to take in place of the published ones, by role; the empty role is
            the first.
        settings: What the user set, by name; values may be texts.

    Raises:
        OptionError: There is no such editor, role or setting, or a value that does not fit it.
        WeightsMissing: The weights are not on this machine; the message says how to get them.
        CheckpointError: What ``models`` names is no checkpoint.
    """
    entry = editor_named(name)
    entry.check_installed()
    return EditorChoice(entry, _settings(entry, settings), _folders(entry, models))


def check_inputs(entry: EditorEntry, given: set[Input]) -> None:
    """See before anything is loaded that an editor gets what it needs.

    Raises:
        OptionError: It does not, or gets what it has no use for.
    """
    if lacking := [what for what in entry.needs if what not in given]:
        raise OptionError(f"{entry.name} needs {_options(lacking)}")
    # A mask limits whatever an editor does, so each has a use for one.
    if unused := sorted(given - {*entry.needs, *entry.takes, "mask"}):
        raise OptionError(f"{entry.name} has no use for {_options(unused)}")


def _options(inputs: list[Input] | list[str]) -> str:
    return " and ".join(f"--{what.replace(' ', '-')}" for what in inputs)


def load_editor(
    name: str,
    models: Mapping[str, str] = MappingProxyType({}),
    *,
    device: str = "auto",
    dtype: str = "auto",
    low_memory: bool = False,
    **settings: Any,
) -> Editor:
    """Load an editor.

    Args:
        name: See ``choose_editor``.
        models: See ``choose_editor``.
        device: See ``load_backbone``.
        dtype: ``float32``, ``float16``, ``bfloat16``; ``auto`` is float32 on the CPU, else bfloat16 where
            the editor was trained in it, else float16.
        low_memory: Keep on the device only the part that works.
        settings: The editor's own.

    Raises:
        UserError: See ``choose_editor``.
    """
    return load_editor_choice(
        choose_editor(name, models, settings), device=device, dtype=dtype, low_memory=low_memory
    )


def load_editor_choice(
    choice: EditorChoice, *, device: str = "auto", dtype: str = "auto", low_memory: bool = False
) -> Editor:
    """Load what ``choose_editor`` found."""
    from anyv2v.editors.protocol import Machine
    from anyv2v.weights import pick_device, pick_dtype

    place = pick_device(device)
    machine = Machine(place, pick_dtype(dtype, place), low_memory)
    return _class_of(choice.entry).load(choice.weights, choice.settings, machine)  # type: ignore[no-any-return]


def settings_of(entry: EditorEntry) -> dict[str, Any]:
    """What of an editor can be set, by name, with what it is otherwise; required ones are a blank."""
    return {
        f.name: entry.settings.get(f.name, "" if f.default is MISSING else f.default)
        for f in fields(_class_of(entry).Settings)
    }


def _class_of(entry: EditorEntry) -> Any:
    module, _, name = entry.target.partition(":")
    return getattr(importlib.import_module(module), name)


def _folders(entry: EditorEntry, models: Mapping[str, str]) -> dict[str, Path]:
    """The folder or file of each of an editor's weights, by role."""
    roles = [weights.role for weights in entry.weights]
    given = {role or (roles[0] if roles else ""): model for role, model in models.items()}
    for role in given.keys() - set(roles):
        if not roles:
            raise OptionError(f"{entry.name} has no weights; leave out --editor-model")
        raise OptionError(f"{entry.name} has no model {role!r}; there are {', '.join(roles)}")
    found, absent = {}, []
    for weights in entry.weights:
        try:
            found[weights.role] = weights.whole_folder(given.get(weights.role))
        except WeightsMissing:
            absent.append(weights.of(given.get(weights.role)))
    if absent:
        raise weights_missing(absent)
    return found


def _settings(entry: EditorEntry, given: Mapping[str, Any]) -> Any:
    """An editor's settings: its class's defaults, its entry's, and the user's."""
    from pydantic import TypeAdapter, ValidationError

    kind = _class_of(entry).Settings
    known = {f.name: f for f in fields(kind)}
    for name in given.keys() - known.keys():
        raise OptionError(f"{entry.name} has no setting {name!r}; there are {', '.join(known) or 'none'}")
    parsed = {name: _parsed(known[name], value) for name, value in given.items()}
    try:
        return TypeAdapter(kind).validate_python({**entry.settings, **parsed})
    except ValidationError as error:
        first = error.errors()[0]
        where = " ".join(map(str, first["loc"]))
        raise OptionError(f"{entry.name}, {where}: {first['msg'][0].lower()}{first['msg'][1:]}") from error


def _parsed(setting: Field[Any], value: Any) -> Any:
    """A text for what is none: names with commas, or a JSON object."""
    if isinstance(setting.default, tuple) and isinstance(value, str):
        return value.split(",")
    if setting.default_factory is dict and isinstance(value, str):
        try:
            return json.loads(value)
        except ValueError as error:
            raise OptionError(f"{setting.name} is no JSON object: {error}") from error
    return value
