"""The desk: all that a person can ask of the studio, by its page, its API or the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, get_args

import anyv2v.flags as flags
from anyv2v.backbones import at_hand, list_backbones, recipe
from anyv2v.editors import list_editors
from anyv2v.editors.entry import Input
from anyv2v.errors import OptionError, UserError
from anyv2v.job import EditJob
from anyv2v.studio.limits import Limits, Unknown
from anyv2v.studio.queue import Job, Queue, State
from anyv2v.studio.request import ADVANCED, Models, Request, Workshop, choices
from anyv2v.studio.shelf import ClipFacts, ImageFacts, Shelf, Thumbnail, cleaned, remove

__all__ = [
    "BackboneFacts",
    "Candidate",
    "Desk",
    "EditorFacts",
    "JobFacts",
    "JobFiles",
    "Setting",
]


DIFFUSED = 8.0
"""Frames in a second of what the diffusion models make, all of them."""


@dataclass(frozen=True)
class EditorFacts:
    """What a person should know of an editor; ``get`` is the command that brings its weights."""

    name: str
    task: str
    summary: str
    needs: tuple[Input, ...]
    takes: tuple[Input, ...]
    references: int
    seeded: bool
    instant: bool
    ready: bool
    get: str
    licences: tuple[str, ...]


@dataclass(frozen=True)
class BackboneFacts:
    """The same of a backbone; a ``quick`` one needs no model."""

    name: str
    summary: str
    quick: bool
    ready: bool
    get: str
    licence: str
    recipes: tuple[str, ...]


@dataclass(frozen=True)
class Setting:
    """An option that a request may set: its meaning in a line, what it is otherwise, what it can be."""

    name: str
    meaning: str
    default: str | int | float | bool | None
    choices: tuple[str, ...] = ()

    def stands(self, value: Any) -> bool:
        """Whether a field of this value, which may be emptied, leaves it at the default."""
        return value in (None, self.default, "" if self.default is None else self.default)


@dataclass(frozen=True)
class JobFacts:
    """A job as a person sees it.

    Attributes:
        id: Its id.
        number: Its place among all that were ever submitted.
        task: ``edit`` or ``frame``.
        state: ``queued``, ``running``, ``done``, ``failed``, ``cancelled``.
        title: What it is called.
        lane: ``quick`` or ``device``.
        parent: The job that it was submitted beside.
        backbone: What carries the edit.
        editor: What edits the first frame.
        created: When it was submitted, in seconds since 1970.
        started: When it began.
        ended: When it ended.
        stage: What is being done.
        done: Steps of the stage that are finished.
        total: Steps that the stage has.
        left_seconds: What is left of the stage.
        position: How many of its lane are to begin before it ends to wait, itself among them.
        message: Why it failed.
        notices: What a person should know, a sentence each.
        seconds: The time that each stage took.
        frames: How many frames there are in the result.
        tries: How often it was begun.
        stopping: It is cancelled, but the device is not free of it yet.
        request: What was asked for.
    """

    id: str
    number: int
    task: str
    state: State
    title: str
    lane: str
    parent: str | None
    backbone: str
    editor: str | None
    created: float
    started: float | None
    ended: float | None
    stage: str
    done: int
    total: int
    left_seconds: float | None
    position: int | None
    message: str
    notices: Sequence[str]
    seconds: Mapping[str, float]
    frames: int
    tries: int
    stopping: bool
    request: Request


@dataclass(frozen=True)
class Candidate:
    """One of several first frames; the best has place 1."""

    number: int
    place: int
    seed: int
    file: Path


@dataclass(frozen=True)
class JobFiles:
    """What a job made.

    Attributes:
        result: The clip, or the first frame.
        sidecar: What is needed to make it again.
        sheet: Source and edit side by side, or all candidates.
        thumbnail: A small picture of it.
        frame: The edited first frame.
        source: The source's frames in step with the result.
        candidates: The first frames to choose from, the best first.
    """

    result: Path | None = None
    sidecar: Path | None = None
    sheet: Path | None = None
    thumbnail: Path | None = None
    frame: Path | None = None
    source: Path | None = None
    candidates: tuple[Candidate, ...] = ()


@dataclass(frozen=True)
class Desk:
    """The desk. Threads may share it.

    Attributes:
        shelf: The files.
        queue: The jobs.
        limits: What may be asked for.
        models: Checkpoints that the operator named.
        device: Where jobs are done, see ``load_backbone``.
    """

    shelf: Shelf
    queue: Queue
    limits: Limits
    models: Models = field(default_factory=dict)
    device: str = "auto"

    @classmethod
    def at(
        cls,
        folder: Path,
        limits: Limits | None = None,
        models: Models = MappingProxyType({}),
        device: str = "auto",
    ) -> Desk:
        """The desk of a folder, which is made if it is not there. Raises OutputError."""
        limits = limits or Limits()
        return cls(Shelf(folder, limits), Queue(folder / "queue.db"), limits, models, device)

    @property
    def workshop(self) -> Workshop:
        """Where requests become jobs."""
        return Workshop(self.shelf, self.limits, self.models, self.device)

    # -- clips and pictures

    def add_clip(self, source: Path | IO[bytes], name: str) -> ClipFacts:
        """See ``Shelf``."""
        return self.shelf.add_clip(source, name)

    def add_image(self, source: Path | IO[bytes], name: str) -> ImageFacts:
        """See ``Shelf``."""
        return self.shelf.add_image(source, name)

    def clip(self, name: str) -> ClipFacts:
        """See ``Shelf``."""
        return self.shelf.clip(name)

    def image(self, name: str) -> ImageFacts:
        """See ``Shelf``."""
        return self.shelf.image(name)

    def image_file(self, name: str) -> Path:
        """See ``Shelf``."""
        return self.shelf.image_file(name)

    def film(self, name: str) -> Path:
        """See ``Shelf``."""
        return self.shelf.film(name)

    def strip(self, name: str, count: int = 12) -> list[Thumbnail]:
        """See ``Shelf``."""
        return self.shelf.strip(name, count)

    def first_frame(self, name: str, start: float = 0.0) -> Path:
        """See ``Shelf``."""
        return self.shelf.first_frame(name, start)

    # -- what there is to choose from

    def editors(self) -> list[EditorFacts]:
        """What can edit a first frame here; those that are ready come first."""
        known = [
            EditorFacts(
                entry.name,
                entry.task,
                entry.summary,
                entry.needs,
                entry.takes,
                entry.references,
                entry.seeded,
                entry.instant,
                entry.name in self.models or entry.at_hand,
                entry.download,
                tuple(dict.fromkeys(weights.terms for weights in entry.weights)),
            )
            for entry in list_editors().values()
            if entry.name != "command"  # which runs programs
        ]
        return sorted(known, key=lambda facts: not facts.ready)

    def backbones(self) -> list[BackboneFacts]:
        """What can carry an edit here; those that are ready come first."""
        known = [
            BackboneFacts(
                entry.name,
                entry.summary,
                entry.weights is None,
                entry.name in self.models or at_hand(entry),
                entry.weights.download if entry.weights else "",
                entry.weights.terms if entry.weights else "",
                tuple(entry.recipes),
            )
            for entry in list_backbones().values()
        ]
        return sorted([*known, *self._own_backbones()], key=lambda facts: not facts.ready)

    @property
    def usual_backbone(self) -> str:
        """What carries an edit if nobody says: the first checkpoint named here, else what ``auto`` finds."""
        named = (name for name in self.models if name not in list_editors())
        return next(named, self.workshop.backbone("auto")[0])

    def _own_backbones(self) -> list[BackboneFacts]:
        """Checkpoints by names that no registry knows."""
        own = [name for name in self.models if name not in {*list_backbones(), *list_editors()}]
        entries = {name: list_backbones()[self.workshop.backbone(name)[0]] for name in own}
        return [
            BackboneFacts(name, entry.summary, False, True, "", "", tuple(entry.recipes))
            for name, entry in entries.items()
        ]

    def advanced(self, backbone: str = "auto", name: str = "default") -> list[Setting]:
        """The options that a request may set besides, as a backbone's recipe has them. Raises OptionError."""
        own, meanings = recipe(name, self.workshop.backbone(backbone)[0]), _meanings()
        return [
            Setting(option, meanings[option], _shown(getattr(own, option)), choices(option))
            for option in ADVANCED
        ]

    # -- jobs

    def submit(self, request: Request) -> str:
        """Ask for a job.

        Returns:
            Its id.

        Raises:
            TooMany: As many jobs wait as may.
            UserError: It cannot be done.
        """
        from anyv2v.checks import check, check_files
        from anyv2v.still import check_still

        try:
            job = self.workshop.job(request, self.shelf.folder / "jobs")
            check(job) if isinstance(job, EditJob) else check_files(job)
            check_still(job)
        except UserError as error:
            raise type(error)(self.spoken(str(error), request)) from error
        if request.parent is not None:
            self.queue.get(request.parent)
        title = cleaned(request.title) or cleaned(request.instruction or request.prompt)
        request = replace(request, title=title or self.clip(request.clip).name)
        if request.backbone == "auto":  # which may be another by the time that the job is done
            request = replace(request, backbone=self.workshop.backbone("auto")[0])
        lane, most = self.workshop.lane(request), self.limits.queued
        return self.queue.submit(request.settings, lane, request.title, request.parent, most)

    def spoken(self, message: str, request: Request) -> str:
        """A message with people's own names for their files, and without options that they have not."""
        for option, word in WORDS.items():
            message = message.replace(option, word)
        facts: list[ImageFacts] = []
        for look, names in ((self.clip, [request.clip]), (self.image, request.pictures)):
            for name in names:
                with suppress(Unknown):  # which may be what the message says
                    facts.append(look(name))
        return self.shelf.spoken(message, *facts)

    def preview(self, name: str) -> str | None:
        """Ask for the same edit by optical flow, to be seen while the job waits or runs.

        Returns:
            The id of its job; nothing if the job is of optical flow itself, or has no edited first frame yet.
        """
        request = self.again(name)
        if request.task == "frame" or self.workshop.carrier(request):
            return None
        if request.first_frame is None:
            if self.files(name).frame is None:
                return None
            request = replace(request, first_frame=self.take_frame(name).id, mask=None)
        edited = replace(request, editor=None, instruction="", references=(), candidates=1)
        if request.frames:  # which are some of the clip's, at the rate of the backbone
            edited = replace(edited, frames=None, duration=request.frames / self.pace(request)[0])
        return self.submit(replace(edited, backbone="flow", parent=name, title=f"{request.title}, preview"))

    def jobs(self, limit: int = 50, before: int | None = None) -> list[JobFacts]:
        """Jobs, the newest first; with ``before``, those of smaller numbers."""
        return [self._told(job) for job in self.queue.list(limit, before)]

    def job(self, name: str) -> JobFacts:
        """A job. Raises Unknown."""
        return self._told(self.queue.get(name))

    def pace(self, request: Request) -> tuple[float, float]:
        """Frames of the clip that a job takes in a second, and those that it shows in one."""
        clip, entry = self.clip(request.clip), list_backbones().get(request.backbone)
        if entry is not None and entry.weights is None:
            return clip.fps, clip.fps
        usual = recipe(request.recipe, request.backbone).frame_rate
        keeps = request.advanced.get("frame_rate", usual) == "keep"
        return clip.fps if keeps else DIFFUSED, DIFFUSED

    def revision(self) -> int:
        """A number that changes whenever any job does."""
        return self.queue.revision()

    def _told(self, job: Job) -> JobFacts:
        request, came = Request.of(job.settings), job.outcome
        return JobFacts(
            task=request.task,
            backbone=request.backbone,
            editor=request.editor,
            position=self.queue.position(job) if job.state == "queued" else None,
            notices=came.get("notices", []),
            seconds=came.get("seconds", {}),
            frames=came.get("frames", 0),
            stopping=job.state == "cancelled" and job.worker is not None,
            request=request,
            **{name: getattr(job, name) for name in _SAME},
        )

    def cancel(self, name: str) -> None:
        """Cancel a job that waits or runs; what has ended stays as it is. Raises Unknown."""
        self.queue.cancel(name)

    def remove(self, name: str) -> None:
        """Forget a job that has ended, and what it made. Raises Unknown, OptionError."""
        if not self.queue.remove(name):
            raise OptionError("the job waits, runs or is just stopping; cancel it first")
        remove(self.shelf.job_folder(name))

    def again(self, name: str) -> Request:
        """What a job was asked for, to change it and ask again. Raises Unknown."""
        return replace(Request.of(self.queue.get(name).settings), parent=None)

    def files(self, name: str) -> JobFiles:
        """What a job has made so far. Raises Unknown."""
        job = self.queue.get(name)
        folder, of_frame = self.shelf.job_folder(name), job.settings["task"] == "frame"
        result = "result.png" if of_frame else "result.mp4"
        names = {
            "result": result,
            "sidecar": f"{result}.json",
            "sheet": "result.png.candidates.png" if of_frame else "sheet.png",
            "thumbnail": "thumbnail.jpg",
            "frame": "result.png" if of_frame else "frame.png",
            "source": "source.mp4",
        }
        there = {what: folder / file for what, file in names.items() if (folder / file).exists()}
        several = [
            Candidate(one["number"], one["place"], one["seed"], folder / f"candidate-{one['number']}.png")
            for one in job.outcome.get("candidates", [])
        ]
        return JobFiles(**there, candidates=tuple(sorted(several, key=lambda one: one.place)))

    def take_frame(self, name: str, candidate: int | None = None) -> ImageFacts:
        """Put a job's edited first frame, or one of its candidates, among the pictures. Raises UserError."""
        files, title = self.files(name), self.queue.get(name).title
        if candidate is None and files.frame:
            return self.add_image(files.frame, title)
        for one in files.candidates:
            if one.number == candidate:
                return self.add_image(one.file, f"{title}, candidate {candidate}")
        raise Unknown("the job has made no such first frame")

    # -- order

    def clean(self) -> None:
        """Forget the oldest jobs, and remove what no job needs."""
        for job in self.queue.outlived(self.limits.kept):
            with suppress(UserError):  # another was quicker
                self.remove(job.id)
        jobs = self.queue.list(limit=-1)
        requests = [Request.of(job.settings) for job in jobs]
        used = {name for request in requests for name in (request.clip, *request.pictures)}
        self.shelf.clean(used, {job.id for job in jobs})


WORDS = {  # the longer ones come first
    "--candidates and --pick": "candidates",
    " of --reference,": " of the references,",
    "--reference-mask": "a reference with a transparent background",
    "--reference": "a reference",
    "--mask": "a mask",
    "--instruction": "an instruction",
    "--prompt": "a prompt",
}
"""What the command line's options are here."""

_SAME = {f.name for f in fields(JobFacts)} & {f.name for f in fields(Job)}


def _meanings() -> dict[str, str]:
    """What the command line says of each option."""
    own = {"restore": flags.Restore, "overlap": flags.Overlap}
    known = flags.INVERSION | flags.SAMPLING | flags.WORDS | flags.SPAN | own
    return {name: get_args(flag)[1].help for name, flag in known.items()}


def _shown(value: Any) -> Any:
    """A setting as a form holds it."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return value if value is None or isinstance(value, str | int | float) else str(value)
