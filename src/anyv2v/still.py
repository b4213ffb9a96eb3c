"""Stage 1: edit a clip's first frame; candidates are kept, ranked, and laid on a sheet to choose from."""

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from anyv2v.editors import (
    EditorChoice,
    EditorEntry,
    Input,
    check_inputs,
    choose_editor,
    editor_named,
    load_editor_choice,
)
from anyv2v.editors.canvas import limited
from anyv2v.editors.masks import alpha_of, read_mask
from anyv2v.editors.protocol import Request
from anyv2v.editors.ranking import UNCHANGED, ranked, score
from anyv2v.errors import EditorError, OptionError, UserError, WeightsMissing
from anyv2v.job import StillJob, TrialJob
from anyv2v.picture import Frame, Size, read_image
from anyv2v.progress import OnStep, Step, ignore
from anyv2v.sheet import gallery
from anyv2v.store import frame_key, keep_frame, kept_frame

if TYPE_CHECKING:
    from anyv2v.clip import CLIP
    from anyv2v.editors.protocol import Editor, Mask
    from anyv2v.weights import Weights

__all__ = ["Still", "check_still", "edit_still", "free", "sheet_of", "still_inputs"]


@dataclass(frozen=True)
class Still:
    """An edited first frame.

    Attributes:
        frame: ``[H, W, 3]`` of the source's size, unless a person made it at another; nothing if a person is
            still to choose.
        sheet: The candidates under their numbers, ``[h, w, 3]``, if there are several.
        findings: For the sidecar.
        notices: What a person should know, a sentence each.
    """

    frame: Frame | None
    sheet: Frame | None = None
    findings: Mapping[str, Any] = field(default_factory=dict)
    notices: Sequence[str] = ()


HELPERS = {"segmentation": "anyv2v.editors.sam:SAM2", "clip": "anyv2v.clip:WEIGHTS"}
"""Roles of models that no editor has: one cuts out masks, one ranks."""


def check_still(job: StillJob) -> EditorChoice:
    """See before anything is loaded that the first frame can be edited; find the editor and its weights.

    Raises:
        UserError: It cannot.
    """
    name, settings = _editor_of(job)
    entry = editor_named(name)
    _check_given(job, entry)
    for role in _pointed(job) | HELPERS.keys() & job.editor_model.keys():
        _helper(job, role)
    models = {role: model for role, model in job.editor_model.items() if role not in HELPERS}
    choice = choose_editor(name, models, settings)
    _read_pictures(job, entry)
    return choice


def _editor_of(job: StillJob) -> tuple[str, dict[str, Any]]:
    """The editor's name and settings; what was given may say which it is."""
    name = job.editor or ("command" if job.command else "image" if job.first_frame else None)
    if name is None:
        raise OptionError("--first-frame is missing; or name an editor by --editor: see anyv2v editors")
    own = {"image": ("file", job.first_frame), "command": ("command", job.command)}
    for editor, (_, value) in own.items():
        if value is not None and name != editor:
            option = "--first-frame" if editor == "image" else "--command"
            raise OptionError(f"{option} and --editor {name} contradict each other: give one of them")
    key, value = own.get(name, ("", None))
    return name, dict(job.editor_settings) | ({key: value} if value is not None else {})


def _check_given(job: StillJob, entry: EditorEntry) -> None:
    """What the editor needs is there, and what is there it can use."""
    there: dict[Input, Any] = {
        "first frame": job.first_frame,
        "command": job.command,
        "instruction": job.instruction,
        "reference": job.reference,
        "reference mask": job.reference_mask,
        "mask": job.mask or _pointed(job),
    }
    given = {what for what, value in there.items() if value}
    if "reference mask" in entry.needs and job.reference and alpha_of(job.reference[0]) is not None:
        given.add("reference mask")  # where it is opaque
    check_inputs(entry, given)
    if len(job.reference) > entry.references:
        raise OptionError(f"{entry.name} takes {entry.references} of --reference, not {len(job.reference)}")
    if not entry.seeded and (job.candidates > 1 or job.pick != "best"):
        raise OptionError(f"{entry.name} always makes the same picture; leave out --candidates and --pick")


def _pointed(job: StillJob) -> set[str]:
    """The role of what is needed to make a mask of points and a box, if there are any."""
    return {"segmentation"} if job.mask_point or job.mask_box else set()


def _helper(job: StillJob, role: str) -> Path:
    """The weights of a helper. Raises UserError."""
    module, _, name = HELPERS[role].partition(":")
    weights: Weights = getattr(importlib.import_module(module), name)
    return weights.whole_folder(job.editor_model.get(role))


def _read_pictures(job: StillJob, entry: EditorEntry) -> tuple[tuple[Frame, ...], Mask | None, Mask | None]:
    """The references, the subject in the first of them, and the mask, as far as it is a picture."""
    references = tuple(read_image(path) for path in job.reference)
    outline = None
    if references and "reference mask" in (*entry.needs, *entry.takes):
        size = Size.of(references[0])
        outline = read_mask(job.reference_mask, size) if job.reference_mask else alpha_of(job.reference[0])
    return references, outline, read_mask(job.mask, job.span.size) if job.mask else None


def still_inputs(job: StillJob) -> dict[str, Path]:
    """The files that a first frame is made of, by name."""
    named = {"first_frame": job.first_frame, "mask": job.mask, "reference_mask": job.reference_mask}
    references = {f"reference {number}": path for number, path in enumerate(job.reference, start=1)}
    return {name: path for name, path in named.items() if path is not None} | references


def sheet_of(job: StillJob) -> Path | None:
    """Where the sheet of the candidates goes, if there will be one."""
    if job.candidates == 1 or isinstance(job.pick, int):
        return None
    return job.output.with_name(f"{job.output.name}.candidates.png")


def edit_still(job: StillJob, choice: EditorChoice, on_step: OnStep = ignore) -> Still:
    """Make the candidates that are not kept already, and pick one.

    Raises:
        UserError: Anything that the user can mend.
    """
    if isinstance(job, TrialJob) and job.first_frame and not (job.mask or _pointed(job)):
        return Still(read_image(job.first_frame))  # it is scaled once, to where the video model works
    request, bench = _request(job, choice), _Bench(job, choice)
    numbers = [job.pick] if isinstance(job.pick, int) else range(1, job.candidates + 1)
    seeds = [job.first_seed + number - 1 for number in numbers]
    raw = list(bench.make([replace(request, seed=seed) for seed in seeds], on_step))
    free()
    shown = [_limited(job, choice, request, frame) for frame in raw]
    if len(shown) == 1:
        return Still(shown[0], None, _findings(choice, seeds[0]), bench.notices)
    return _picked(job, choice, request, seeds, raw, shown, bench.notices)


def _request(job: StillJob, choice: EditorChoice) -> Request:
    frame = next(iter(job.span))
    references, outline, mask = _read_pictures(job, choice.entry)
    if _pointed(job):
        from anyv2v.editors.sam import segment
        from anyv2v.weights import pick_device

        folder = _helper(job, "segmentation")
        mask = segment(frame, job.mask_point, job.mask_box, folder, pick_device(job.device))
    return Request(frame, job.instruction, references, outline, mask)


class _Bench:
    """Where an editor works: loaded when it is first needed; what it makes is kept at once.

    Attributes:
        notices: What a person should know, a sentence each.
    """

    def __init__(self, job: StillJob, choice: EditorChoice) -> None:
        self.notices: list[str] = []
        self._job, self._choice = job, choice
        self._editor: Editor | None = None

    def make(self, requests: Sequence[Request], on_step: OnStep) -> Iterator[Frame]:
        """The edited frames; those that were kept before are not made again."""
        kept = 0
        for number, request in enumerate(requests):
            frame = self._kept(request)
            kept += frame is not None
            yield frame if frame is not None else self._made(request, _one_of(on_step, number, len(requests)))
        self._editor = None  # nothing holds it any more
        if kept:
            what = "the edited first frame was" if len(requests) == 1 else f"{kept} of the candidates were"
            self.notices.append(f"{what} kept from before; --fresh makes it anew")
        elif isinstance(self._job.pick, int):
            self.notices.append(f"candidate {self._job.pick} was not kept, so it was made now")

    def _kept(self, request: Request) -> Frame | None:
        if self._choice.entry.instant or self._job.fresh:
            return None
        frame = kept_frame(frame_key(self._choice, request, self._dtype))
        return frame if frame is not None and frame.shape == request.frame.shape else None

    def _made(self, request: Request, on_step: OnStep) -> Frame:
        choice = self._choice
        if self._editor is None:
            on_step(Step("load editor", 0, 1))
            machine = {"device": self._job.device, "dtype": self._job.dtype}
            self._editor = load_editor_choice(choice, **machine, low_memory=self._job.low_memory)
            on_step(Step("load editor", 1, 1))
        frame = self._editor.edit(request, on_step)
        if frame.shape != request.frame.shape or frame.dtype != np.uint8:
            said = f"{frame.dtype} {frame.shape} for a frame of {request.frame.shape}"
            raise EditorError(f"{choice.entry.name} breaks an editor's promise: it gave {said}")
        if not choice.entry.instant:
            self._keep(frame_key(choice, request, self._dtype), frame)
        return frame

    @property
    def _dtype(self) -> str:
        """What the editor computes in on this machine; as it was asked for, if it has no weights."""
        if not self._choice.weights:
            return self._job.dtype
        from anyv2v.weights import pick_device, pick_dtype

        return str(pick_dtype(self._job.dtype, pick_device(self._job.device)))

    def _keep(self, key: str, frame: Frame) -> None:
        """Keep a frame; that there is no place for it is no reason to lose it."""
        try:
            keep_frame(key, frame)
        except UserError as error:
            self.notices.append(f"the edited first frame was not kept: {error}")


def _one_of(on_step: OnStep, number: int, count: int) -> OnStep:
    """Progress of one candidate as a part of that of all."""

    def on_part(step: Step) -> None:
        share = (1, 0) if step.stage == "load editor" else (count, number)
        on_step(replace(step, done=share[1] * step.total + step.done, total=share[0] * step.total))

    return on_part


def free() -> None:
    """Give back the memory of what is not used any more, before something else needs it."""
    gc.collect()
    if "torch" in sys.modules:
        import torch

        torch.cuda.empty_cache()


def _limited(job: StillJob, choice: EditorChoice, request: Request, edited: Frame) -> Frame:
    if request.mask is None or choice.entry.places:
        return edited
    feather = FEATHER if job.feather is None else job.feather
    return limited(request.frame, edited, request.mask, feather)


FEATHER = 6.0  # pixels


def _picked(
    job: StillJob,
    choice: EditorChoice,
    request: Request,
    seeds: Sequence[int],
    raw: Sequence[Frame],
    shown: Sequence[Frame],
    notices: list[str],
) -> Still:
    """Rank the candidates, lay them on a sheet, and take the best, unless a person wants to choose."""
    clip = _clip(job) if job.text else None
    scores = [
        score(request.frame, frame, request.mask, shown=limited, clip=clip, text=job.text)
        for frame, limited in zip(raw, shown, strict=True)
    ]
    order = ranked(scores)
    if clip is None:
        notices.append(
            "the candidates were ranked without CLIP, so by sharpness and contours: look at the sheet"
        )
    if all(found.changed < UNCHANGED for found in scores):
        notices.append("no candidate changes anything to speak of")
    places = {k: place for place, k in enumerate(order, start=1)}
    titles = [f"{k + 1}  " + ("best" if places[k] == 1 else f"place {places[k]}") for k in range(len(shown))]
    findings = _findings(choice, seeds[order[0]]) | {
        "candidates": [
            {"number": k + 1, "seed": seeds[k], "place": places[k], **asdict(scores[k])}
            for k in range(len(shown))
        ]
    }
    sheet = gallery({"source": request.frame} | dict(zip(titles, shown, strict=True)))
    return Still(None if job.pick == "ask" else shown[order[0]], sheet, findings, notices)


def _clip(job: StillJob) -> CLIP | None:
    """CLIP, where it is at hand."""
    from anyv2v.clip import CLIP
    from anyv2v.weights import pick_device, pick_dtype

    try:
        folder = _helper(job, "clip")
    except WeightsMissing:
        return None
    device = pick_device(job.device)
    return CLIP.load(folder, device, pick_dtype(job.dtype, device))


def _findings(choice: EditorChoice, seed: int) -> dict[str, Any]:
    return {
        "editor": choice.entry.name,
        "editor_settings": asdict(choice.settings),
        "editor_weights": dict(choice.weights),
        "editor_seed": seed,
    }
