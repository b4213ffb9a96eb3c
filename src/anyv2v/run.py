"""Run a job: files in, files out, each output whole or not at all, with a sidecar that says how."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyv2v.ahead import ahead
from anyv2v.backbones import Carrier, Choice, load_choice, recipe
from anyv2v.carry import diffuse_windows, invert_video
from anyv2v.checks import check, check_files, inputs_of, spec_for
from anyv2v.edit import Trajectory
from anyv2v.errors import OutOfMemory
from anyv2v.fitting import cost, fit_frame
from anyv2v.flow import FlowReport
from anyv2v.host import gpu
from anyv2v.job import EditJob, FrameJob, InvertJob, Job, StillJob, VideoJob
from anyv2v.options import Options
from anyv2v.picture import Frame, Size, write_image
from anyv2v.progress import OnStep, Step, ignore
from anyv2v.sheet import Reel
from anyv2v.sidecar import files_of, library_versions, sha256, write_sidecar
from anyv2v.source import Inversion, inversion_for, of_use
from anyv2v.span import expected_for, frames_for, left_out, moving, read_clip, span_for
from anyv2v.still import Still, check_still, edit_still, sheet_of
from anyv2v.store import identity, save_trajectory
from anyv2v.video import AudioTrack, Video
from anyv2v.writing import write

if TYPE_CHECKING:
    from anyv2v.backbones.protocol import Backbone
    from anyv2v.editors import EditorChoice

__all__ = [
    "Outcome",
    "Stopwatch",
    "first_frame_for",
    "load_for",
    "memory_errors",
    "origin_of",
    "run_edit",
    "run_frame",
    "run_invert",
    "to_choose",
]


Load = Callable[..., "Backbone | Carrier"]  # as ``load_choice``


@dataclass(frozen=True)
class Outcome:
    """What a job left behind.

    Attributes:
        output: The result; nothing if a person is to choose a first frame before.
        sidecar: What is needed to make it again, as JSON.
        sheet: The contact sheet, if one was asked for.
        candidates: The sheet of first frames to choose from, if there were several.
        frames: Number of frames.
        seconds: Time by stage.
        notices: What a person should know, a sentence each.
    """

    output: Path | None
    sidecar: Path | None
    sheet: Path | None = None
    candidates: Path | None = None
    frames: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)


def run_edit(job: EditJob, on_step: OnStep = ignore, load: Load | None = None) -> Outcome:
    """Edit a clip: write the result, its contact sheet and its sidecar.

    Args:
        job: What to do.
        on_step: Told of every step.
        load: Loads the backbone in place of ``load_choice``; for callers that keep one for many jobs.

    Raises:
        UserError: Anything that the user can mend.
    """
    choice, editor, watch = check(job), check_still(job), Stopwatch(on_step)
    origin = origin_of(job, choice)
    if choice.checkpoint:  # before weights of gigabytes, or an editor that takes minutes
        spec_for(job, load_choice(choice, device="meta", dtype="float32"))
    still = first_frame_for(job, editor, watch)
    if still.frame is None:
        return to_choose(job, still, watch)
    first_frame, reel = still.frame, Reel() if job.sheet else Reel(limit=0)
    with memory_errors():
        rendering = _render(job, choice, first_frame, watch, load)
        frames = reel.watch(rendering.pairs)
        write(job.output, frames, rendering.fps, rendering.audio, overwrite=job.overwrite)
    if job.sheet:
        write_image(job.sheet, reel.sheet(rendering.fps), overwrite=job.overwrite)
    found = rendering.findings()
    notices = [*still.notices, *_notices(job, choice, Size.of(first_frame), rendering, found)]
    result = {"frames": reel.count, "notices": notices, "seconds": watch.seconds, **found, **still.findings}
    sidecar = write_sidecar(job.output, origin | result, overwrite=job.overwrite)
    sheets = job.sheet, sheet_of(job)
    return Outcome(job.output, sidecar, *sheets, reel.count, watch.seconds, notices)


def run_frame(job: FrameJob, on_step: OnStep = ignore) -> Outcome:
    """Edit the first frame of a clip: write it, the sheet of candidates if there are several, and a sidecar.

    Raises:
        UserError: Anything that the user can mend.
    """
    check_files(job)
    editor, watch = check_still(job), Stopwatch(on_step)
    origin = _facts(job)
    still = first_frame_for(job, editor, watch)
    if still.frame is None:
        return to_choose(job, still, watch)
    write_image(job.output, still.frame, overwrite=job.overwrite)
    result = {"seconds": watch.seconds, **still.findings}
    sidecar = write_sidecar(job.output, origin | result, overwrite=job.overwrite)
    return Outcome(job.output, sidecar, None, sheet_of(job), 1, watch.seconds, list(still.notices))


def first_frame_for(job: StillJob, editor: EditorChoice, watch: Stopwatch) -> Still:
    """Edit the first frame, and write at once what came of it: a person's work, and hours of a machine's."""
    with memory_errors():
        still = edit_still(job, editor, watch)
    if still.sheet is not None and (path := sheet_of(job)):
        write_image(path, still.sheet, overwrite=job.overwrite)
    if isinstance(job, EditJob) and job.save_frame and still.frame is not None:
        write_image(job.save_frame, still.frame, overwrite=job.overwrite)
    return still


def to_choose(job: StillJob, still: Still, watch: Stopwatch) -> Outcome:
    same = "the same without --fresh" if job.fresh else "the same"
    notice = f"choose, and run {same} with --pick 1 to {job.candidates}: no first frame is made twice"
    return Outcome(None, None, None, sheet_of(job), seconds=watch.seconds, notices=[*still.notices, notice])


def run_invert(job: InvertJob, on_step: OnStep = ignore) -> Outcome:
    """Invert a clip and keep what sampling with ``steps`` steps will ask for.

    Raises:
        UserError: Anything that the user can mend.
    """
    choice, watch = check(job), Stopwatch(on_step)
    origin = origin_of(job, choice)
    spec_for(job, load_choice(choice, device="meta", dtype="float32"))
    with memory_errors():
        backbone: Any = load_for(job, choice, watch)
        video = read_clip(job, backbone)
        trajectory = invert_video(backbone, video, job.options, on_step=watch)
    kept, notices = of_use(trajectory, backbone, job.options), left_out(job, backbone)
    about = identity(backbone, choice.checkpoint, video, job.options)
    save_trajectory(job.output, kept, about, job.options.inversion_steps, overwrite=job.overwrite)
    result = {"frames": len(video), "notices": notices, "seconds": watch.seconds}
    sidecar = write_sidecar(job.output, origin | result, overwrite=job.overwrite)
    return Outcome(job.output, sidecar, frames=len(video), seconds=watch.seconds, notices=notices)


def origin_of(job: VideoJob, choice: Choice) -> dict[str, Any]:
    return {"backbone": choice.entry.name, "checkpoint": choice.checkpoint} | _facts(job)


def _facts(job: Job) -> dict[str, Any]:
    """What the result will be made of and by; looked at before the work, which may take hours."""
    return {
        "job": asdict(job),
        "sha256": {name: sha256(files_of(path)) for name, path in inputs_of(job).items()},
        "versions": library_versions(),
    }


def load_for(job: VideoJob, choice: Choice, watch: Stopwatch, load: Load | None = None) -> Backbone | Carrier:
    watch(Step("load", 0, 1))
    model = (load or load_choice)(
        choice, device=job.device, dtype=job.dtype, low_memory=job.low_memory, compiled=job.compile
    )
    watch(Step("load", 1, 1))
    return model


@dataclass(frozen=True)
class Rendering:
    """A result on its way.

    Attributes:
        pairs: Source and edited frames, made as they are drawn.
        fps: Frames per second.
        audio: The sound, if any.
        sizes: Sizes that were expected of the edited frame; it was fitted to the last.
        findings: For the sidecar, once the frames are drawn.
        notices: What a person should know then, a sentence each.
    """

    pairs: Iterable[tuple[Frame, Frame]]
    fps: Fraction
    audio: AudioTrack | None
    sizes: tuple[Size, ...]
    findings: Callable[[], dict[str, Any]]
    notices: Callable[[], Iterable[str]] = tuple


def _render(
    job: EditJob, choice: Choice, first_frame: Frame, watch: Stopwatch, load: Load | None
) -> Rendering:
    model = load_for(job, choice, watch, load)
    if isinstance(model, Carrier):
        return _by_carrier(job, model, first_frame, watch)
    assert choice.checkpoint is not None
    return _by_diffusion(job, choice.checkpoint, model, first_frame, watch)


def _by_carrier(job: EditJob, carrier: Carrier, first_frame: Frame, watch: Stopwatch) -> Rendering:
    clip = job.span
    carried = carrier.carry(moving(clip, job), fit_frame(first_frame, clip.size, job.options))

    def pairs() -> Iterator[tuple[Frame, Frame]]:
        for done, pair in enumerate(ahead(carried.pairs()), start=1):
            watch(Step("propagate", done, max(done, clip.expected or 0)))
            yield pair

    return Rendering(pairs(), clip.rate, clip.audio, (clip.size,), lambda: _flow_findings(carried.report))


def _flow_findings(report: FlowReport) -> dict[str, Any]:
    return {"flow": asdict(report) | {"warning": report.warning}}


def _by_diffusion(
    job: EditJob, checkpoint: Path, backbone: Backbone, first_frame: Frame, watch: Stopwatch
) -> Rendering:
    if memory := gpu(backbone.device):
        memory.begin()
    spec, clip, sources = spec_for(job, backbone), span_for(job, backbone.spec), list[Inversion]()

    def inverted(video: Video, on_step: OnStep) -> Trajectory:
        source = inversion_for(job, checkpoint, backbone, video, on_step)
        recorded = source.trajectory.features.items()
        lacking = Trajectory({}, {level: features for level, features in recorded if not features})
        sources.append(replace(source, trajectory=lacking))  # all of them would fill the memory
        return source.trajectory

    pairs = diffuse_windows(
        backbone,
        frames_for(job, backbone),
        clip.rate,
        first_frame,
        job.prompt,
        job.options,
        expected=expected_for(job, backbone),
        inverted=inverted,
        on_step=watch,
    )
    return Rendering(
        pairs,
        spec.fps,
        clip.audio if spec.fps == clip.rate else None,  # as in ``edit``
        (clip.size, spec.size),
        findings=lambda: _diffusion_findings(backbone, job.options, sources),
        notices=lambda: [
            *left_out(job, backbone),
            *_unread(job, backbone),
            *dict.fromkeys(n for s in sources for n in s.notices),
        ],
    )


def _unread(job: EditJob, backbone: Backbone) -> list[str]:
    """That the prompt is too long, in a sentence; else nothing."""
    if not (count := backbone.unread(job.prompt)):
        return []
    return [f"the prompt is {count} tokens longer than {backbone.name} reads: its last words do nothing"]


def _diffusion_findings(backbone: Backbone, options: Options, sources: list[Inversion]) -> dict[str, Any]:
    work = [cost(backbone, options, inverted=source.origin != "net") for source in sources]
    again = sum(len(source.trajectory.features) for source in sources)  # for want of room
    memory = gpu(backbone.device)
    return {
        "windows": len(sources),
        "inversion_steps": sources[0].steps,
        "inversion_from": ", ".join(sorted({source.origin for source in sources})),
        "network_calls": sum(one.calls for one in work) + again,
        "network_rows": sum(one.rows for one in work) + again,
        "whole_rows": sum(one.whole for one in work) + again,
        "network_rows_in_all": len(sources) * cost(backbone, options).rows,
        "peak_bytes": memory.most if memory else None,
    }


def _notices(
    job: EditJob, choice: Choice, given: Size, rendering: Rendering, found: dict[str, Any]
) -> list[str]:
    notices = [choice.reason] if choice.reason else []
    if given not in rendering.sizes:
        fitted = f"{rendering.sizes[-1]} ({job.options.fit})"
        notices.append(f"the edited frame is {given}; it was fitted to {fitted}")
    if choice.checkpoint is None and (unused := _unused(job)):
        notices.append(f"{choice.entry.name} does not use {', '.join(unused)}")
    if choice.checkpoint and job.instruction and not job.prompt:
        notices.append(f"{choice.entry.name} was not told what the clip shows: --prompt would")
    if rendering.audio and job.output.suffix.lower() != ".mp4":
        notices.append(f"{job.output.name} holds no sound; an mp4 would")
    if warning := found.get("flow", {}).get("warning"):
        notices.append(warning)
    return [*notices, *rendering.notices()]


def _unused(job: EditJob) -> list[str]:
    """What was asked for, and only a diffusion backbone can do."""
    base = recipe(job.recipe)
    names = [f.name for f in fields(Options) if f.name != "fit"]
    changed = [name for name in names if getattr(job.options, name) != getattr(base, name)]
    if job.first_frame:
        changed += ["dtype"] * (job.dtype != "auto") + ["low_memory"] * job.low_memory
    else:  # the editor has a use for them, and for the seed
        changed = [name for name in changed if name != "seed"]
    ranked = not job.first_frame and job.candidates > 1  # by how near they come to the prompt
    changed = ["prompt"] * bool(job.prompt and not ranked) + changed + ["compile"] * job.compile
    return [name.replace("_", " ") for name in changed]


class Stopwatch:
    """Passes progress on, and keeps the seconds that each stage took."""

    def __init__(self, on_step: OnStep) -> None:
        self.seconds: dict[str, float] = {}
        self._on_step = on_step
        self._last = time.perf_counter()

    def __call__(self, step: Step) -> None:
        now = time.perf_counter()
        self.seconds[step.stage] = round(self.seconds.get(step.stage, 0.0) + now - self._last, 3)
        self._last = now
        self._on_step(step)


FULL = "out of memory|allocate memory|ALLOC_FAILED|unable to find an engine"
"""What is said of a full device: by CUDA, the CPU's allocator, cuBLAS and cuDNN, and cuDNN without room."""


@contextmanager
def memory_errors() -> Iterator[None]:
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or re.search(FULL, str(error)):
            raise OutOfMemory(
                "out of memory; try --low-memory, a smaller --size, a smaller --window, or --dtype float16"
            ) from error
        raise
