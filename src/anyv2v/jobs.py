"""A job: files in, files out. What the command line and every other front end run.

A job is read from settings with the same keys everywhere (options of the command line, keys of a YAML file),
planned without running it, and run with a sidecar that says how to make its output again.
"""

from __future__ import annotations

import difflib
import json
import platform
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from importlib.metadata import version
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from anyv2v.backbones import Choice, choose, load_choice
from anyv2v.edit import OnStep, Step, diffuse, invert_video
from anyv2v.errors import OptionError, OutOfMemory, OutputError, VideoError
from anyv2v.flow import Flow, FlowReport
from anyv2v.options import Options, recipe
from anyv2v.plan import clip_spec, fit_frame, fit_frames
from anyv2v.sheet import Reel
from anyv2v.store import check_free, identity, load_trajectory, save_trajectory, sha256, write_text
from anyv2v.video import (
    AudioTrack,
    Clip,
    Frame,
    Size,
    Video,
    check_output,
    probe,
    read_image,
    write,
    write_image,
)

if TYPE_CHECKING:
    from anyv2v.backbones.protocol import Backbone, VideoSpec

__all__ = ["EditJob", "InvertJob", "Job", "Outcome", "read_settings", "run_edit", "run_invert", "source_span"]


@dataclass(frozen=True, kw_only=True)
class Job:
    """The span of a clip, what works on it, and where the result goes.

    Attributes:
        clip: The source video.
        output: The file to write.
        backbone: A name in the registry, or ``auto``.
        model: A checkpoint's folder, or a Hugging Face repository.
        start: Seconds to leave out at the beginning.
        frames: Number of frames; if left out the backbone's own, and for optical flow all there are.
        duration: Seconds, instead of ``frames``.
        fps: Frames per second; if left out the backbone's own, and for optical flow the clip's.
        device: See ``load_backbone``.
        dtype: See ``load_backbone``.
        recipe: The named recipe that ``options`` started from.
        overwrite: Replace outputs that are there already.
        options: Settings of the diffusion stage.
    """

    clip: Path
    output: Path
    backbone: str = "auto"
    model: str | None = None
    start: float = 0.0
    frames: int | None = None
    duration: float | None = None
    fps: Fraction | None = None
    device: str = "auto"
    dtype: str = "auto"
    recipe: str = "default"
    overwrite: bool = False
    options: Options = Options()


@dataclass(frozen=True, kw_only=True)
class InvertJob(Job):
    """Keep the inversion of a clip, for later edits, in a ``.safetensors`` file."""


@dataclass(frozen=True, kw_only=True)
class EditJob(Job):
    """Edit a clip.

    Attributes:
        first_frame: The edited first frame.
        prompt: What the edited clip shows.
        trajectory: An inversion of the clip that ``anyv2v invert`` kept.
        sheet: Where to put a contact sheet of source and edit, if anywhere.
    """

    first_frame: Path
    prompt: str = ""
    trajectory: Path | None = None
    sheet: Path | None = None


@dataclass(frozen=True)
class Outcome:
    """What a job left behind.

    Attributes:
        output: The result.
        sidecar: What is needed to make it again, as JSON.
        sheet: The contact sheet, if one was asked for.
        frames: Number of frames written.
        seconds: Time by stage.
        notices: What a person should know, a sentence each.
    """

    output: Path
    sidecar: Path
    sheet: Path | None
    frames: int
    seconds: Mapping[str, float]
    notices: tuple[str, ...]


J = TypeVar("J", bound=Job)


def read_settings(kind: type[J], settings: Mapping[str, Any]) -> J:
    """Make a job of flat settings: keys of the job and of its options, any of them with ``-`` or ``_``.

    Raises:
        OptionError: A key is unknown or missing, or a value does not fit it.
    """
    from pydantic import TypeAdapter, ValidationError

    settings = {key.replace("-", "_"): value for key, value in settings.items()}
    of_job = {f.name for f in fields(kind)} - {"options"}
    of_options = {f.name for f in fields(Options)}
    for key in settings.keys() - of_job - of_options:
        close = difflib.get_close_matches(key, of_job | of_options, n=1)
        raise OptionError(f"unknown option {key!r}" + (f"; did you mean {close[0]!r}?" if close else ""))
    if isinstance(settings.get("size"), str):
        settings["size"] = Size.parse(settings["size"])
    base = recipe(settings.get("recipe", "default"))
    job = {key: settings[key] for key in settings.keys() & of_job}
    options = {name: settings.get(name, getattr(base, name)) for name in of_options}
    try:
        return TypeAdapter(kind).validate_python({**job, "options": options})
    except ValidationError as error:
        first = error.errors()[0]
        where = str(first["loc"][-1]).replace("_", " ")
        raise OptionError(f"{where}: {first['msg'][0].lower()}{first['msg'][1:]}") from error


def source_span(job: Job, spec: VideoSpec | None = None) -> Clip:
    """The span of the clip that a job works on; ``spec`` is what a diffusion backbone expects."""
    fps = job.fps or (spec.fps if spec and job.options.frame_rate == "resample" else None)
    return Clip(job.clip, start=job.start, frames=job.frames, duration=job.duration, fps=fps)


def source_video(job: Job, spec: VideoSpec) -> Video:
    """Read what a diffusion backbone works on: what was asked for, or at most its own number of frames.

    Raises:
        VideoError: The clip cannot be read, is too short, or has one frame.
    """
    clip = source_span(job, spec)
    limit = None if job.frames or job.duration else spec.frames
    frames = np.stack(list(_moving(islice(clip, limit), job)))
    if job.options.frame_rate == "keep":
        return Video(frames, job.fps or spec.fps)
    return Video(frames, clip.rate, clip.audio)


def _moving(frames: Iterable[Frame], job: Job) -> Iterator[Frame]:
    """The same frames, of which there must be two at least."""
    rest = iter(frames)
    first = list(islice(rest, 2))
    if len(first) < 2:
        raise VideoError(f"{job.clip}: has one frame in this span, so there is nothing to carry an edit to")
    return chain(first, rest)


def run_edit(job: EditJob, on_step: OnStep = lambda _: None) -> Outcome:
    """Edit a clip: write the result, its contact sheet and its sidecar, each of them whole or not at all.

    Raises:
        UserError: Anything that the user can mend.
    """
    check_output(job.output, overwrite=job.overwrite)
    _check_files(job, job.sheet)
    watch, choice = Stopwatch(on_step), choose(job.backbone, job.model)
    first_frame = read_image(job.first_frame)
    with _memory_errors():
        rendering = _render(job, choice, first_frame, watch)
        reel = Reel()
        frames = reel.watch(rendering.pairs)
        write(job.output, frames, rendering.fps, rendering.audio, overwrite=job.overwrite)
    if job.sheet:
        write_image(job.sheet, reel.sheet(rendering.fps))
    report = rendering.report()
    notices = filter(None, (choice.reason, _aspect_notice(job, first_frame), report.get("warning")))
    outcome = Outcome(job.output, _sidecar_of(job), job.sheet, reel.count, watch.seconds, tuple(notices))
    _write_sidecar(job, choice, watch, {"frames": reel.count, "flow": report, "notices": outcome.notices})
    return outcome


def _check_files(job: Job, *others: Path | None) -> None:
    """See before the work begins that the clip can be read, and that nothing precious would be replaced."""
    inputs = {path.resolve() for path in (job.clip, getattr(job, "first_frame", job.clip))}
    if job.output.resolve() in inputs:
        raise OutputError(f"{job.output}: is an input of this job; use another name")
    for path in filter(None, (_sidecar_of(job), *others)):
        check_free(path, overwrite=job.overwrite)
    probe(job.clip)


def _load(job: Job, choice: Choice, watch: Stopwatch) -> Backbone | Flow:
    watch(Step("load", 0, 1))
    model = load_choice(choice, device=job.device, dtype=job.dtype)
    watch(Step("load", 1, 1))
    return model


@dataclass(frozen=True)
class Rendering:
    """A result on its way: pairs of source and edited frame, made as they are drawn."""

    pairs: Iterable[tuple[Frame, Frame]]
    fps: Fraction
    audio: AudioTrack | None
    report: Callable[[], dict[str, Any]] = dict


def _render(job: EditJob, choice: Choice, first_frame: Frame, watch: Stopwatch) -> Rendering:
    model = _load(job, choice, watch)
    if isinstance(model, Flow):
        return _by_flow(job, model, first_frame, watch)
    return _by_diffusion(job, choice, model, first_frame, watch)


def _by_flow(job: EditJob, flow: Flow, first_frame: Frame, watch: Stopwatch) -> Rendering:
    clip = source_span(job)
    edited = fit_frame(first_frame, clip.size, job.options)
    carried = flow.carry(_moving(clip, job), edited)
    total = job.frames or round((job.duration or (clip.info.duration or 0) - job.start) * clip.rate)

    def pairs() -> Iterator[tuple[Frame, Frame]]:
        for done, pair in enumerate(carried.pairs(), start=1):
            watch(Step("propagate", done, max(done, total)))
            yield pair

    return Rendering(pairs(), clip.rate, clip.audio, lambda: _report(carried.report))


def _report(report: FlowReport) -> dict[str, Any]:
    return asdict(report) | {"warning": report.warning}


def _by_diffusion(
    job: EditJob, choice: Choice, backbone: Backbone, first_frame: Frame, watch: Stopwatch
) -> Rendering:
    video = source_video(job, backbone.spec)
    trajectory = None
    if job.trajectory:
        about = _identity(backbone, choice, video, job.options)
        trajectory = load_trajectory(job.trajectory, about, next(backbone.net.parameters()).device)
    result = diffuse(
        backbone, video, first_frame, job.prompt, job.options, trajectory=trajectory, on_step=watch
    )
    return Rendering(zip(video.frames, result.frames, strict=True), result.fps, result.audio)


def _identity(backbone: Backbone, choice: Choice, video: Video, options: Options) -> dict[str, Any]:
    spec = clip_spec(backbone, video, options)
    frames = fit_frames(video.frames, spec.size, options)
    return identity(backbone, choice.checkpoint, frames, spec, options)


def run_invert(job: InvertJob, on_step: OnStep = lambda _: None) -> Outcome:
    """Invert a clip and keep what sampling with ``steps`` steps will ask for.

    Raises:
        UserError: Anything that the user can mend.
    """
    _check_files(job, job.output)
    watch, choice = Stopwatch(on_step), choose(job.backbone, job.model)
    if choice.checkpoint is None:
        raise OptionError(f"{choice.entry.name} has nothing to invert; name a diffusion model by --backbone")
    with _memory_errors():
        backbone = cast("Backbone", _load(job, choice, watch))
        video = source_video(job, backbone.spec)
        trajectory = invert_video(backbone, video, job.options, on_step=watch)
    kept = trajectory.on(backbone.schedule.grid(job.options.steps))
    save_trajectory(job.output, kept, _identity(backbone, choice, video, job.options))
    _write_sidecar(job, choice, watch, {"frames": len(video)})
    return Outcome(job.output, _sidecar_of(job), None, len(video), watch.seconds, ())


class Stopwatch:
    """Passes progress on, and keeps the seconds that each stage took."""

    def __init__(self, on_step: OnStep) -> None:
        self.seconds: dict[str, float] = {}
        self._on_step = on_step
        self._last = time.perf_counter()

    def __call__(self, step: Step) -> None:
        now = time.perf_counter()
        self.seconds[step.stage] = self.seconds.get(step.stage, 0.0) + now - self._last
        self._last = now
        self._on_step(step)


def _aspect_notice(job: EditJob, first_frame: Frame) -> str | None:
    size, clip = Size.of(first_frame), source_span(job).size
    if size.width * clip.height == clip.width * size.height:
        return None
    return f"the edited frame is {size}, of another shape than the clip's {clip}: fitted by {job.options.fit}"


def _sidecar_of(job: Job) -> Path:
    return job.output.with_name(f"{job.output.name}.json")


def _write_sidecar(job: Job, choice: Choice, watch: Stopwatch, about: Mapping[str, Any]) -> None:
    """Everything that is needed to make the output again."""
    inputs = {"clip": job.clip, "first_frame": getattr(job, "first_frame", None)}
    content = {
        "anyv2v": version("anyv2v"),
        "backbone": choice.entry.name,
        "checkpoint": choice.checkpoint,
        "job": asdict(job),
        "sha256": {name: sha256(path) for name, path in inputs.items() if path},
        "seconds": {stage: round(seconds, 3) for stage, seconds in watch.seconds.items()},
        "versions": {name: version(name) for name in LIBRARIES} | {"python": platform.python_version()},
        **about,
    }
    write_text(_sidecar_of(job), json.dumps(content, indent=2, default=str) + "\n")


LIBRARIES = ("torch", "diffusers", "transformers", "numpy", "av", "pillow", "opencv-python-headless")


@contextmanager
def _memory_errors() -> Iterator[None]:
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or re.search("out of memory|allocate memory", str(error)):
            raise OutOfMemory(
                "out of memory; lower --size or --frames, or take a smaller --dtype such as float16"
            ) from error
        raise
