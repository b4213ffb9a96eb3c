"""Every method on every entry: cells that are resumed after an interruption, and do not stop each other."""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from anyv2v.backbones import Choice, load_choice
from anyv2v.checks import inputs_of
from anyv2v.errors import AnyV2VError, OptionError, OutputError
from anyv2v.evaluation.manifest import Entry, write_manifest
from anyv2v.evaluation.methods import ABLATIONS
from anyv2v.evaluation.results import INPUTS, MANIFEST, Results
from anyv2v.job import EditJob, FrameJob, Job, StillJob, read_settings
from anyv2v.progress import OnStep, Step, ignore
from anyv2v.run import run_edit, run_frame
from anyv2v.sidecar import files_of, sha256
from anyv2v.store import fingerprint
from anyv2v.writing import write

if TYPE_CHECKING:
    from anyv2v.backbones import Carrier
    from anyv2v.backbones.protocol import Backbone

__all__ = ["Cell", "Plan", "plans", "run_cells"]

SPAN = {"duration": 2.0, "fps": "8"}
"""What of a clip is edited, unless its entry says otherwise: the paper's 16 frames, if there are so many."""


@dataclass(frozen=True)
class Plan:
    """A method of ours.

    Attributes:
        name: Of its folder, and in tables.
        settings: Backbone, checkpoint and options.
    """

    name: str
    settings: Mapping[str, Any]


def plans(
    backbones: Sequence[str], variants: Sequence[str] = (), model: str | None = None, **settings: Any
) -> list[Plan]:
    """Every backbone, by itself and in every variant.

    Args:
        backbones: Names in the registry.
        variants: ``ablations`` for those of the paper's Table 3; a YAML file of settings by name; or
            ``name:option=value,option=value``. Optical flow has none.
        model: A checkpoint for the backbones that take one.
        settings: What all have in common: recipe, device and the like.

    Raises:
        OptionError: A variant is of another form.
    """
    from anyv2v.backbones import list_backbones

    known, backbones = list_backbones(), [name.strip() for name in backbones]
    if unknown := [name for name in backbones if name not in known]:
        raise OptionError(f"no backbone {unknown[0]!r}; there are {', '.join(known)}")
    changes = {name: change for text in variants for name, change in _variants(text).items()}
    found = []
    for backbone in backbones:
        takes = bool(known[backbone].pipelines)
        base = {"backbone": backbone, **settings} | ({"model": model} if model and takes else {})
        found.append(Plan(backbone, base))
        found += [Plan(f"{backbone}+{name}", base | change) for name, change in changes.items() if takes]
    return found


def _variants(text: str) -> dict[str, dict[str, Any]]:
    if text == "ablations":
        return {
            name.removeprefix(", ").replace(" ", "-"): change for name, change in ABLATIONS.items() if name
        }
    if text.endswith((".yaml", ".yml")):
        return _variants_of_file(Path(text))
    name, colon, changes = text.partition(":")
    pairs = [change.partition("=") for change in changes.split(",")]
    if not (colon and re.fullmatch(r"\w[\w.-]*", name) and all(equals for _, equals, _ in pairs)):
        raise OptionError(f"variant {text!r} is not of the form name:option=value,option=value")
    return {name: {option.strip().replace("-", "_"): value for option, _, value in pairs}}


def _variants_of_file(path: Path) -> dict[str, dict[str, Any]]:
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        found = {str(name): dict(change or {}) for name, change in content.items()}
        if wrong := [name for name in found if not re.fullmatch(r"\w[\w.-]*", name)]:
            raise OptionError(f"{path}: {wrong[0]!r} is no name for a variant")
        return found
    except (OSError, yaml.YAMLError, AttributeError, TypeError, ValueError) as error:
        raise OptionError(f"{path} holds no settings by the name of a variant") from error


@dataclass(frozen=True)
class Cell:
    """A method on an entry.

    Attributes:
        method: Name of the method.
        entry: Name of the entry.
        state: ``made``; ``kept``, if it had been made before; or ``failed``.
        error: Why it failed.
    """

    method: str
    entry: str
    state: Literal["made", "kept", "failed"]
    error: str = ""


def run_cells(
    entries: Sequence[Entry],
    methods: Sequence[Plan],
    folder: Path,
    *,
    on_step: OnStep = ignore,
) -> Iterator[Cell]:
    """Edit every entry by every method, whatever was not done before; each first frame is edited once.

    Args:
        entries: What to edit.
        methods: How.
        folder: See ``Results``; made if it is missing.
        on_step: Told of the cells, and of the steps within one.

    Yields:
        A cell as soon as it is done. What the user can mend in one does not stop the others.

    Raises:
        OptionError: The folder holds other entries by these names.
    """
    results = _prepared(entries, folder)
    total, load = len(entries) * len(methods), _Loader()
    shared = {name: methods[0].settings[name] for name in MACHINE if name in methods[0].settings}
    ready = {
        entry.name: _try("inputs", entry, partial(_inputs, results, entry, shared, on_step))
        for entry in entries
    }
    for done, (method, entry) in enumerate(product(methods, entries)):
        on_step(Step("cells", done, total))
        if ready[entry.name].state == "failed":
            yield Cell(method.name, entry.name, "failed", ready[entry.name].error)
        else:
            yield _try(method.name, entry, partial(_edit, results, method, entry, on_step, load))


def _prepared(entries: Sequence[Entry], folder: Path) -> Results:
    """The folder with the entries in its manifest; others that it had stay."""
    try:
        (folder / INPUTS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made: {error.strerror}") from error
    had = {entry.name: entry for entry in Results(folder).entries} if (folder / MANIFEST).exists() else {}
    names = {name.casefold(): name for name in had}  # of which some file systems make one
    for entry in entries:
        name = names.get(entry.name.casefold(), entry.name)
        other = had.get(name, entry)
        if other.name != entry.name or (other != entry and any(folder.glob(f"*/{glob.escape(name)}.*"))):
            raise OptionError(
                f"{folder} holds results of another {name!r}; use another folder or another name"
            )
    write_manifest(folder / MANIFEST, list((had | {entry.name: entry for entry in entries}).values()))
    return Results(folder)


Done = Literal["made", "kept"]


def _try(method: str, entry: Entry, work: Callable[[], Done]) -> Cell:
    try:
        return Cell(method, entry.name, work())
    except Exception as error:  # whatever it is, it is no reason to lose the others
        kind = "" if isinstance(error, AnyV2VError) else f"{type(error).__name__}: "
        return Cell(method, entry.name, "failed", f"{kind}{error}")


def _inputs(results: Results, entry: Entry, machine: Mapping[str, Any], on_step: OnStep) -> Done:
    """Keep what all methods and judges see: the source's span, the edited first frame, the reference."""
    job = entry.job(results.source(entry), **_span(entry), **machine)
    first, source = results.first_frame(entry), results.source(entry)
    if first.exists() and source.exists():
        _check_files(results.sidecar(INPUTS, entry, ".png"), _still(job, entry, first))
        return "kept"
    if not first.exists():
        run_frame(replace(_still(job, entry, first), **machine), on_step)
    _write_reference(results, job, entry)
    span = job.span
    write(source, span, span.rate, overwrite=True)
    return "made"


def _span(entry: Entry) -> dict[str, Any]:
    """The settings of the span that the entry leaves open."""
    said = entry.settings.keys()
    return {
        key: value
        for key, value in SPAN.items()
        if key not in said and not (key == "duration" and {"frames", "whole"} & said)
    }


def _still(job: EditJob, entry: Entry, output: Path) -> FrameJob:
    """The first stage of an entry's job."""
    names = {f.name for f in fields(StillJob)} & entry.settings.keys()
    still = {name: entry.settings[name] for name in names}
    return read_settings(FrameJob, {**still, "output": output, "seed": job.first_seed})


def _write_reference(results: Results, job: EditJob, entry: Entry) -> None:
    if job.reference:
        from anyv2v.picture import read_image, write_image

        path = results.folder / INPUTS / f"{entry.name}.reference.png"
        write_image(path, read_image(job.reference[0]), overwrite=True)


def _edit(results: Results, method: Plan, entry: Entry, on_step: OnStep, load: _Loader) -> Done:
    output = results.output(method.name, entry)
    stills = {f.name for f in fields(StillJob)} - {"clip", "start", "output", *MACHINE}
    settings = {key: value for key, value in entry.settings.items() if key not in stills}
    video = Entry(entry.name, entry.task, settings | {"first_frame": str(results.first_frame(entry))})
    job = video.job(output, **_span(entry), **method.settings)
    made = results.sidecar(method.name, entry)
    if output.exists() and not made:
        raise OptionError(f"{output} was made by something else; give that folder another name")
    if output.exists():
        _check_files(made, job)
        if _settings(made["job"]) != _settings(json.loads(json.dumps(asdict(job), default=str))):
            raise OptionError(f"{output} was made with other settings; name the variant anew")
        return "kept"
    output.parent.mkdir(exist_ok=True)
    run_edit(replace(job, overwrite=True), on_step, load)
    return "made"


MACHINE = ("device", "dtype", "low_memory")
"""Settings that both stages have a use for."""

ELSEWHERE = ("output", "first_frame", "overwrite", "cache", "fresh", "device", "low_memory")
"""What may differ between a clip that was made before and the same made now: places and machines."""


def _settings(job: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in job.items() if key not in ELSEWHERE}


def _check_files(made: Mapping[str, Any], job: Job) -> None:
    """Raises OptionError if an input of a clip has changed since it was made."""
    now = {name: sha256(files_of(path)) for name, path in inputs_of(job).items()}
    if changed := [
        name for name, before in made.get("sha256", {}).items() if now.get(name, before) != before
    ]:
        names = " and ".join(changed).replace("_", " ")
        raise OptionError(f"{names} changed since the results were made; use another folder")


class _Loader:
    """Loads a backbone once for all cells that follow each other with it."""

    def __init__(self) -> None:
        self._about: Any = None
        self._model: Any = None

    def __call__(self, choice: Choice, **machine: Any) -> Backbone | Carrier:
        files = choice.checkpoint and fingerprint(choice.checkpoint)  # it may be in training
        about = choice.entry, choice.checkpoint, files, machine
        if about != self._about:
            self._model = None  # its memory is free before the next one is loaded
            self._model, self._about = load_choice(choice, **machine), about
        return self._model  # type: ignore[no-any-return]
