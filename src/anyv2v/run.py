"""Run a job: files in, files out, each output whole or not at all, with a sidecar that says how."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from anyv2v.ahead import ahead
from anyv2v.backbones import Carrier, Choice, choose, load_choice, recipe
from anyv2v.carry import diffuse_windows, invert_video
from anyv2v.drafts import check_file
from anyv2v.edit import Trajectory
from anyv2v.errors import OptionError, OutOfMemory, OutputError, VideoError
from anyv2v.fitting import check_levels, check_options, clip_spec, cost, fit_frame, window_for
from anyv2v.flow import FlowReport
from anyv2v.host import gpu
from anyv2v.job import EditJob, FrameJob, InvertJob, Job, StillJob, VideoJob
from anyv2v.options import Options
from anyv2v.progress import OnStep, Step, ignore
from anyv2v.sheet import Reel
from anyv2v.sidecar import files_of, library_versions, sha256, sidecar_of, write_sidecar
from anyv2v.source import Inversion, inversion_for, of_use
from anyv2v.still import Still, check_still, edit_still, sheet_of, still_inputs
from anyv2v.store import identity, save_trajectory
from anyv2v.video import AudioTrack, Clip, Frame, Size, Video, check_image_suffix, write_image
from anyv2v.writing import check_output, write

if TYPE_CHECKING:
    from anyv2v.backbones.protocol import Backbone, VideoSpec
    from anyv2v.editors import EditorChoice

__all__ = [
    "Outcome",
    "Stopwatch",
    "check",
    "check_apart",
    "check_files",
    "first_frame_for",
    "frames_for",
    "inputs_of",
    "left_out",
    "load_for",
    "memory_errors",
    "origin_of",
    "read_clip",
    "run_edit",
    "run_frame",
    "run_invert",
    "span_for",
    "spec_for",
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
    notice = f"choose, and run the same with --pick 1 to {job.candidates}: no first frame is made twice"
    return Outcome(None, None, None, sheet_of(job), seconds=watch.seconds, notices=[*still.notices, notice])


def run_invert(job: InvertJob, on_step: OnStep = ignore) -> Outcome:
    """Invert a clip and keep what sampling with ``steps`` steps will ask for.

    Raises:
        UserError: Anything that the user can mend.
    """
    choice, watch = check(job), Stopwatch(on_step)
    origin = origin_of(job, choice)
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


def check(job: VideoJob) -> Choice:
    """See before the work begins that a job can run, and that it destroys nothing; find its backbone.

    Raises:
        UserError: It cannot.
    """
    check_files(job)
    return _check_backbone(job, choose(job.backbone, job.model, job.device))


def check_files(job: Job) -> None:
    """The same of its files alone."""
    outputs = _check_outputs(job)
    _check_span(job)
    check_apart(inputs_of(job), outputs)


def _check_outputs(job: Job) -> list[Path]:
    """The outputs of a job, different from each other and writable."""
    files = []
    if isinstance(job, EditJob):
        check_output(job.output, overwrite=job.overwrite)
        files += [check_image_suffix(path) for path in (job.sheet, job.save_frame) if path]
    else:
        check_file(job.output, overwrite=job.overwrite)
    if isinstance(job, FrameJob):
        check_image_suffix(job.output)
    files.append(sidecar_of(job.output))
    if isinstance(job, StillJob) and (sheet := sheet_of(job)):
        files.append(sheet)
    for path in files:
        check_file(path, overwrite=job.overwrite)
    outputs = [job.output, *files]
    if len({path.resolve() for path in outputs}) < len(outputs):
        raise OutputError(f"{job.output}: two outputs would have the same name")
    return outputs


def _check_span(job: Job) -> None:
    found, wanted = job.span.expected, job.span.frames
    if isinstance(job, VideoJob) and (found == 1 or wanted == 1):
        raise VideoError(f"{job.clip}: has one frame in this span, so there is nothing to carry an edit to")
    if found is not None and found < (wanted or 1):
        there = f"has {found} frames at {float(job.span.rate):g} fps from {job.start:g} s on"
        raise VideoError(f"{job.clip}: {there}, not {wanted or 'one'}")


def spec_for(job: VideoJob, backbone: Any) -> VideoSpec:
    """What a diffusion backbone would be given at once for a job; it may be on the meta device.

    Raises:
        OptionError: It has no use for an option, or inversion does not pass what sampling asks for.
    """
    clip, options = span_for(job, backbone.spec), job.options
    length, _ = window_for(backbone, options)
    blank = np.zeros((1, clip.size.height, clip.size.width, 3), np.uint8)
    spec = clip_spec(backbone, Video(blank, clip.rate), options)
    check_options(backbone, options)
    if getattr(job, "trajectory", None) is None:
        check_levels(backbone, options)
    return replace(spec, frames=min(clip.expected or length, length))


def check_apart(inputs: Mapping[str, Path], outputs: Iterable[Path]) -> None:
    """They are there, and no output would replace one, or a folder that holds one."""
    for path in inputs.values():
        if not files_of(path):
            raise OptionError(f"{path}: no such file")
    precious = [source.resolve() for path in inputs.values() for source in files_of(path)]
    folders = [path.resolve() for path in inputs.values() if path.is_dir()]
    for output in outputs:
        for source in precious:
            if output.resolve() in (source, *source.parents):
                raise OutputError(
                    f"{output}: would replace {source.name}, an input of this job; use another name"
                )
        if output.resolve().parent in folders:
            raise OutputError(
                f"{output}: would be one more file of {output.parent.name}, an input of this job"
            )


def _check_backbone(job: VideoJob, choice: Choice) -> Choice:
    if choice.checkpoint is not None:
        return choice
    name = choice.entry.name
    if isinstance(job, InvertJob):
        raise OptionError(f"{name} has nothing to invert; name a diffusion model by --backbone")
    if job.model or getattr(job, "trajectory", None):
        raise OptionError(
            f"{name} takes neither --model nor --trajectory; name a diffusion model by --backbone"
        )
    return choice


def inputs_of(job: Job) -> dict[str, Path]:
    inputs = {"clip": job.clip} | (still_inputs(job) if isinstance(job, StillJob) else {})
    trajectory = getattr(job, "trajectory", None)
    return inputs | ({"trajectory": trajectory} if trajectory else {})


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
    carried = carrier.carry(_moving(clip, job), fit_frame(first_frame, clip.size, job.options))

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
        expected=_expected(job, backbone),
        inverted=inverted,
        on_step=watch,
    )
    return Rendering(
        pairs,
        spec.fps,
        clip.audio if spec.fps == clip.rate else None,  # as in ``edit``
        (clip.size, spec.size),
        findings=lambda: _diffusion_findings(backbone, job.options, sources),
        notices=lambda: [*left_out(job, backbone), *dict.fromkeys(n for s in sources for n in s.notices)],
    )


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
        "network_rows_in_all": len(sources) * cost(backbone, options).rows,
        "peak_bytes": memory.most if memory else None,
    }


def span_for(job: VideoJob, spec: VideoSpec) -> Clip:
    """The span that a diffusion backbone works on: at its frame rate, unless told otherwise."""
    keeps = job.fps is not None or job.options.frame_rate == "keep"
    return job.span if keeps else replace(job.span, fps=spec.fps)


def frames_for(job: VideoJob, backbone: Backbone) -> Iterator[Frame]:
    """As many frames as were asked for, or at most those of a window.

    Raises:
        VideoError: There is but one.
        OptionError: More were asked for than those of a window, for a job that takes one.
    """
    frames = _moving(islice(span_for(job, backbone.spec), _limit(job, backbone)), job)
    if isinstance(job, EditJob) and not job.trajectory:
        return frames
    return iter(_one_window(frames, window_for(backbone, job.options)[0]))


def _one_window(frames: Iterable[Frame], length: int) -> list[Frame]:
    taken = list(islice(frames, length + 1))
    if len(taken) > length:
        raise OptionError(
            f"more than the {length} frames of a window were asked for, and this takes one window: "
            f"give --frames {length}, or a larger --window"
        )
    return taken


def _limit(job: VideoJob, backbone: Backbone) -> int | None:
    """How many frames are taken at most: those of a window, unless a person said how many."""
    told = job.frames or job.duration or (isinstance(job, EditJob) and job.whole)
    return None if told else window_for(backbone, job.options)[0]


def _expected(job: VideoJob, backbone: Backbone) -> int | None:
    """How many frames ``frames_for`` will give, by what the container says."""
    there = span_for(job, backbone.spec).expected
    return there and min(there, _limit(job, backbone) or there)


def left_out(job: VideoJob, backbone: Backbone) -> list[str]:
    """That the clip is longer than what is edited of it, in a sentence; else nothing."""
    clip, taken = span_for(job, backbone.spec), _expected(job, backbone)
    if taken == clip.expected:
        return []
    there = f"{clip.expected} frames at {float(clip.rate):g} fps"
    if not isinstance(job, EditJob) or job.trajectory:
        return [f"of {there} the first {taken} are taken, which are one window"]
    return [f"the first {taken} of {there} are edited, and no more; --whole takes all of them"]


def read_clip(job: VideoJob, backbone: Backbone) -> Video:
    """The frames of a job that works on one window. Raises as ``frames_for``."""
    clip = span_for(job, backbone.spec)
    return Video(np.stack(list(frames_for(job, backbone))), clip.rate, clip.audio)


def _moving(frames: Iterable[Frame], job: Job) -> Iterator[Frame]:
    """The same frames, of which there must be two at least."""
    rest = iter(frames)
    first = list(islice(rest, 2))
    if len(first) < 2:
        raise VideoError(f"{job.clip}: has one frame in this span, so there is nothing to carry an edit to")
    return chain(first, rest)


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
    return (["prompt"] if job.prompt else []) + [name.replace("_", " ") for name in changed]


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
