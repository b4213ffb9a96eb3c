"""Stage 1: edit a clip's first frame; candidates are kept, ranked, and laid on a sheet to choose from."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyv2v.editors import EditorChoice, Input, check_inputs, choose_editor, editor_named, load_editor_choice
from anyv2v.errors import EditorError, OptionError, WeightsMissing
from anyv2v.job import StillJob, TrialJob
from anyv2v.progress import OnStep, Step, ignore
from anyv2v.sheet import gallery
from anyv2v.store import frame_key, keep_frame, kept_frame
from anyv2v.video import Frame, Size, read_image

if TYPE_CHECKING:
    from anyv2v.editors.protocol import Mask, Request
    from anyv2v.editors.ranking import Score

__all__ = ["Still", "check_still", "edit_still", "sheet_of", "still_inputs"]


@dataclass(frozen=True)
class Still:
    """An edited first frame.

    Attributes:
        frame: ``[H, W, 3]`` of the source's size, unless a person made it at another; nothing if a person is
            still to choose.
        sheet: The candidates under their numbers, ``[h, w, 3]``, if there are several.
        findings: For the sidecar.
    """

    frame: Frame | None
    sheet: Frame | None = None
    findings: Mapping[str, Any] = field(default_factory=dict)


def check_still(job: StillJob) -> EditorChoice:
    """See before anything is loaded that the first frame can be edited; find the editor and its weights.

    Raises:
        UserError: It cannot.
    """
    name, settings = _editor_of(job)
    check_inputs(editor_named(name), _given(job))  # before weights, which may be gigabytes away
    if job.mask_point or job.mask_box:
        from anyv2v.editors.sam import SAM2

        SAM2.whole_folder(job.editor_model.get(SAM2.role))
    models = {role: model for role, model in job.editor_model.items() if role not in HELPERS}
    return choose_editor(name, models, settings)


HELPERS = ("segmentation", "clip")  # roles of models that no editor has: they make masks, and rank


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


def _given(job: StillJob) -> set[Input]:
    there: dict[Input, Any] = {
        "first frame": job.first_frame,
        "command": job.command,
        "instruction": job.instruction,
        "reference": job.reference,
        "reference mask": job.reference_mask or (job.reference and _cutout(job.reference[0])),
        "mask": job.mask or job.mask_point or job.mask_box,
    }
    return {what for what, value in there.items() if value}


def _cutout(reference: Path) -> bool:
    from anyv2v.editors.masks import alpha_of

    return alpha_of(reference) is not None


def still_inputs(job: StillJob) -> dict[str, Path]:
    """The files that a first frame is made of, by name."""
    named = {"first_frame": job.first_frame, "mask": job.mask, "reference_mask": job.reference_mask}
    references = {f"reference {number}": path for number, path in enumerate(job.reference, start=1)}
    return {name: path for name, path in named.items() if path is not None} | references


def sheet_of(job: StillJob) -> Path | None:
    """Where the sheet of the candidates goes, if there will be one."""
    if job.candidates == 1 or isinstance(job.pick, int):
        return None
    return job.output.with_name(f"{job.output.stem}.candidates.png")


def edit_still(job: StillJob, choice: EditorChoice, on_step: OnStep = ignore) -> Still:
    """Make the candidates that are not kept already, and pick one.

    Raises:
        UserError: Anything that the user can mend.
    """
    if isinstance(job, TrialJob) and job.first_frame and "mask" not in _given(job):
        return Still(read_image(job.first_frame))  # it is scaled once, to where the video model works
    request = _request(job, choice)
    seeds = [job.first_seed + k for k in range(job.candidates)]
    if isinstance(job.pick, int):
        seeds = [job.first_seed + job.pick - 1]
    requests = [replace(request, seed=seed) for seed in seeds]
    raw = list(_candidates(job, choice, requests, on_step))
    _free()
    if len(raw) == 1:
        return Still(_limited(job, choice, request, raw[0]), findings=_findings(choice, seeds[0]))
    return _picked(job, choice, request, seeds, raw)


def _request(job: StillJob, choice: EditorChoice) -> Request:
    from anyv2v.editors.masks import alpha_of, read_mask
    from anyv2v.editors.protocol import Request

    frame = next(iter(job.span))
    references = tuple(read_image(path) for path in job.reference)
    outline = None
    if "reference mask" in (*choice.entry.needs, *choice.entry.takes) and references:
        size = Size.of(references[0])
        outline = read_mask(job.reference_mask, size) if job.reference_mask else alpha_of(job.reference[0])
    return Request(frame, job.instruction, references, outline, _mask(job, frame))


def _mask(job: StillJob, frame: Frame) -> Mask | None:
    if job.mask:
        from anyv2v.editors.masks import read_mask

        return read_mask(job.mask, Size.of(frame))
    if not (job.mask_point or job.mask_box):
        return None
    from anyv2v.editors import sam
    from anyv2v.editors.protocol import Machine
    from anyv2v.weights import pick_device, pick_dtype

    device = pick_device(job.device)
    folder = sam.SAM2.whole_folder(job.editor_model.get(sam.SAM2.role))
    machine = Machine(device, pick_dtype(job.dtype, device))
    return sam.segment(frame, job.mask_point, job.mask_box, folder, machine)


def _candidates(
    job: StillJob, choice: EditorChoice, requests: Sequence[Request], on_step: OnStep
) -> Iterator[Frame]:
    """The edited frames, those that were kept before as they are; each is kept as soon as it is made."""
    reuse = choice.entry.repeatable or isinstance(job.pick, int)
    keep = reuse or len(requests) > 1
    editor = None
    for number, request in enumerate(requests):
        key = frame_key(choice, request)
        frame = kept_frame(key) if reuse else None
        if frame is None:
            if editor is None:
                on_step(Step("load editor", 0, 1))
                editor = load_editor_choice(
                    choice, device=job.device, dtype=job.dtype, low_memory=job.low_memory
                )
                on_step(Step("load editor", 1, 1))
            frame = editor.edit(request, _one_of(on_step, number, len(requests)))
            _check_size(choice, request.frame, frame)
            if keep:
                keep_frame(key, frame)
        yield frame


def _one_of(on_step: OnStep, number: int, count: int) -> OnStep:
    """Progress of one candidate as a part of that of all."""

    def on_part(step: Step) -> None:
        on_step(replace(step, done=number * step.total + step.done, total=count * step.total))

    return on_part


def _check_size(choice: EditorChoice, source: Frame, edited: Frame) -> None:
    """Editors of other packages may not keep the promise."""
    if edited.shape != source.shape:
        raise EditorError(f"{choice.entry.name} gave {edited.shape} pixels for a frame of {source.shape}")


def _free() -> None:
    """Give the editor's memory back before the video model needs it."""
    gc.collect()
    if "torch" in sys.modules:
        import torch

        torch.cuda.empty_cache()


def _limited(job: StillJob, choice: EditorChoice, request: Request, edited: Frame) -> Frame:
    if request.mask is None or choice.entry.places:
        return edited
    from anyv2v.editors.canvas import limited

    return limited(request.frame, edited, request.mask, job.feather)


def _picked(
    job: StillJob, choice: EditorChoice, request: Request, seeds: Sequence[int], raw: Sequence[Frame]
) -> Still:
    """Rank the candidates, lay them on a sheet, and take the best, unless a person wants to choose."""
    from anyv2v.editors.ranking import ranked

    scores = _scores(job, request, raw)
    order = ranked(scores)
    shown = [_limited(job, choice, request, frame) for frame in raw]
    titles = {
        f"{k + 1}  " + ("best" if place == 0 else f"place {place + 1}"): k for place, k in enumerate(order)
    }
    by_number = sorted(titles, key=lambda title: titles[title])
    sheet = gallery({"source": request.frame} | {title: shown[titles[title]] for title in by_number})
    findings = _findings(choice, seeds[order[0]])
    findings["candidates"] = [
        {"number": k + 1, "seed": seeds[k], "place": order.index(k) + 1, **asdict(scores[k])}
        for k in range(len(raw))
    ]
    return Still(None if job.pick == "ask" else shown[order[0]], sheet, findings)


def _scores(job: StillJob, request: Request, raw: Sequence[Frame]) -> list[Score]:
    from anyv2v.editors.ranking import score

    clip = _clip(job) if job.text else None
    return [score(request.frame, frame, request.mask, clip=clip, text=job.text) for frame in raw]


def _clip(job: StillJob) -> Any:
    """CLIP, where it is at hand."""
    from anyv2v.clip import CLIP, WEIGHTS
    from anyv2v.weights import pick_device, pick_dtype

    try:
        folder = WEIGHTS.whole_folder(job.editor_model.get(WEIGHTS.role))
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
