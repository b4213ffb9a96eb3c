"""A worker: one process that does the jobs of a lane, one after the other, and keeps its model loaded.

    python -m anyv2v.studio.worker '{"folder": "...", "lane": "quick", "name": "..."}'

It ends when its standard input does, so that it does not outlive the server that started it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

from anyv2v.backbones import Choice, load_choice
from anyv2v.drafts import draft
from anyv2v.editors import editor_named
from anyv2v.errors import UserError
from anyv2v.film import probe
from anyv2v.job import EditJob, FrameJob
from anyv2v.picture import Fit, Size, read_image, write_image
from anyv2v.progress import OnStep, Step
from anyv2v.run import Outcome, run_edit, run_frame
from anyv2v.still import free
from anyv2v.store import fingerprint
from anyv2v.studio.desk import Desk
from anyv2v.studio.limits import Limits
from anyv2v.studio.queue import LEASE, Job, Queue
from anyv2v.studio.request import Request
from anyv2v.studio.shelf import remove, small
from anyv2v.video import Clip
from anyv2v.writing import write

if TYPE_CHECKING:
    from anyv2v.backbones import Carrier
    from anyv2v.backbones.protocol import Backbone

__all__ = ["Post", "Stopped", "Worker"]

PAUSE = 0.2  # seconds between two looks for a job, or for a reason to stop one
BEAT = LEASE / 5
IDLE = 300.0  # seconds without a job after which the model is given up
REPORT = 0.5  # seconds between two reports on the same stage
THUMBNAIL = 180  # pixels high


class Stopped(Exception):  # noqa: N818 - reads as what happened
    """The job is cancelled, or its worker is to leave."""


@dataclass(frozen=True)
class Post:
    """Where a worker works.

    Attributes:
        folder: The studio's.
        lane: Which jobs it does; its supervisor says.
        name: What the queue calls it; its supervisor says.
        device: See ``load_backbone``.
        low_memory: See ``load_backbone``.
        models: See ``Desk``.
        limits: See ``Desk``.
    """

    folder: Path
    lane: str = ""
    name: str = ""
    device: str = "auto"
    low_memory: bool = False
    models: Mapping[str, Path] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)

    @property
    def text(self) -> str:
        """As a command line can hold it."""
        models = {name: str(path) for name, path in self.models.items()}
        return json.dumps(
            vars(self) | {"folder": str(self.folder), "models": models, "limits": vars(self.limits)}
        )

    @classmethod
    def of(cls, text: str) -> Post:
        """The post that ``text`` describes."""
        told = json.loads(text)
        models = {name: Path(path) for name, path in told["models"].items()}
        return cls(
            **told | {"folder": Path(told["folder"]), "models": models, "limits": Limits(**told["limits"])}
        )


class Worker:
    """Does jobs.

    Attributes:
        leaving: To be set when it is to stop what it does, and leave.
    """

    def __init__(self, post: Post) -> None:
        self.leaving = Event()
        self._post, self._desk = post, Desk.at(post.folder, post.limits, post.models, post.device)
        self._queue = self._desk.queue
        self._model: tuple[Any, Backbone | Carrier] | None = None

    def work(self) -> None:
        """Do jobs until it is time to leave."""
        last = time.monotonic()
        while not self.leaving.is_set():
            if job := self._queue.take(self._post.lane, self._post.name):
                self.do(job)
                last = time.monotonic()
            elif self._model and time.monotonic() - last > IDLE:
                self._give_up_model()
            else:
                self.leaving.wait(PAUSE)

    def do(self, job: Job) -> None:
        """Do a job, whatever comes of it."""
        try:
            with beating(self._queue, job, self._post.name, self.leaving) as on_step:
                outcome = self._done(job, on_step)
            self._queue.finish(job.id, self._post.name, outcome)
        except Stopped:
            self._model = None  # the device is to be free, not only idle
        except UserError as error:
            message = self._desk.spoken(str(error), Request.of(job.settings))
            self._queue.fail(job.id, self._post.name, message)
        except Exception as error:  # the next job is to be done whatever this one raised
            traceback.print_exception(error)
            self._queue.fail(job.id, self._post.name, f"{type(error).__name__}: {error} (a fault of ours)")
        finally:
            self._queue.let_go(self._post.name)
            if self._post.lane == "device":
                free()

    def _done(self, job: Job, on_step: OnStep) -> dict[str, Any]:
        """Do it, and say what came of it."""
        request, folder = Request.of(job.settings), self._desk.shelf.job_folder(job.id)
        remove(folder)  # what a worker that was killed has left
        folder.mkdir()
        work = self._placed(self._desk.workshop.job(request, folder))
        if work.editor and not editor_named(work.editor).instant:
            self._give_up_model()  # it would be in the editor's way
        if isinstance(work, FrameJob):
            outcome = run_frame(work, on_step)
            candidates = self._candidates(work, on_step)
        else:
            outcome, candidates = run_edit(work, on_step, self._load), []
            film_source(work, self._desk.workshop.carrier(request), outcome, on_step)
        self._finish(outcome, folder)
        notices = [self._desk.spoken(notice, request) for notice in outcome.notices]
        told = {"frames": outcome.frames, "seconds": outcome.seconds, "notices": notices}
        return told | {"candidates": candidates}

    def _placed(self, work: EditJob | FrameJob) -> EditJob | FrameJob:
        """The job on the machine that the operator named; what is quick leaves the device alone."""
        if self._post.lane == "quick":
            return replace(work, device="cpu")
        return replace(work, device=self._post.device, low_memory=self._post.low_memory)

    def _candidates(self, work: FrameJob, on_step: OnStep) -> list[dict[str, Any]]:
        """Each of several first frames in a file of its own: they are kept, so that none is made again."""
        if work.candidates == 1:
            return []
        sidecar = json.loads(work.output.with_name(f"{work.output.name}.json").read_text(encoding="utf-8"))
        for one in sidecar["candidates"]:
            number = one["number"]
            run_frame(
                replace(work, pick=number, output=work.output.with_name(f"candidate-{number}.png")), on_step
            )
        return [{key: one[key] for key in ("number", "place", "seed")} for one in sidecar["candidates"]]

    def _finish(self, outcome: Outcome, folder: Path) -> None:
        """A thumbnail; and in the sidecar the studio's files by what they are called within its folder."""
        assert outcome.output is not None
        assert outcome.sidecar is not None
        film = outcome.output.suffix == ".mp4"
        first = next(iter(Clip(outcome.output))) if film else read_image(outcome.output)
        write_image(folder / "thumbnail.jpg", small(first, THUMBNAIL), overwrite=True)
        told = outcome.sidecar.read_text(encoding="utf-8").replace(f"{self._desk.shelf.folder}/", "")
        with draft(outcome.sidecar, overwrite=True) as temporary:
            temporary.write_text(told, encoding="utf-8")

    def _load(self, choice: Choice, **machine: Any) -> Backbone | Carrier:
        """As ``load_choice``, but for the model of the job before, which is there already."""
        files = choice.checkpoint and fingerprint(choice.checkpoint)  # it may be in training
        key = (choice.entry.name, choice.checkpoint, files, *machine.items())
        if self._model is None or self._model[0] != key:
            self._give_up_model()
            self._model = key, load_choice(choice, **machine)
        return self._model[1]

    def _give_up_model(self) -> None:
        if self._model:
            self._model = None
            free()


@contextmanager
def beating(queue: Queue, job: Job, worker: str, leaving: Event) -> Iterator[OnStep]:
    """Show signs of life while a job is done; what it gives takes the steps, and raises Stopped in time."""
    over, stop = Event(), Event()

    def beat() -> None:
        last = time.monotonic()
        while not over.wait(PAUSE):
            with suppress(UserError):  # the queue is out of reach for a moment; the lease lasts for some
                if leaving.is_set() or not queue.holds(job.id, worker):
                    stop.set()
                if time.monotonic() - last > BEAT:
                    queue.beat(job.id, worker)
                    last = time.monotonic()

    thread = Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield Reporter(queue, job.id, worker, stop)
    finally:
        over.set()
        thread.join()


class Reporter:
    """Takes the steps of a job: tells the queue of them, not too often, and raises Stopped in time."""

    def __init__(self, queue: Queue, name: str, worker: str, stop: Event) -> None:
        self._queue, self._name, self._worker, self._stop = queue, name, worker, stop
        self._stage, self._since, self._told, self._first = "", 0.0, 0.0, 0

    def __call__(self, step: Step) -> None:
        if self._stop.is_set():
            raise Stopped
        now = time.monotonic()
        if step.stage != self._stage:
            self._stage, self._since, self._first, self._told = step.stage, now, step.done, 0.0
        if now - self._told > REPORT:
            self._told = now
            self._queue.report(
                self._name, self._worker, step.stage, step.done, step.total, self._left(step, now)
            )

    def _left(self, step: Step, now: float) -> float | None:
        """Seconds that are left of a stage, by the pace since its first step."""
        steps = step.done - self._first
        return (now - self._since) / steps * (step.total - step.done) if steps else None


def film_source(work: EditJob, carried: bool, outcome: Outcome, on_step: OnStep) -> None:
    """The source's frames in step with the result and of its size, to be played beside it."""
    info = probe(work.output)
    keeps = carried or work.options.frame_rate == "keep"
    clip = Clip(work.clip, start=work.start, fps=None if keeps else info.fps)
    fit = Fit(clip.size, Size(info.width, info.height), work.options.fit)

    def frames() -> Iterator[Any]:
        for done, frame in enumerate(islice(clip, outcome.frames), start=1):
            on_step(Step("finish", done, outcome.frames))
            yield fit.apply(frame)

    write(work.output.with_name("source.mp4"), frames(), info.fps, overwrite=True, crf=23)


def main() -> None:
    """Work at the post that the command line names."""
    worker = Worker(Post.of(sys.argv[1]))
    signal.signal(signal.SIGTERM, lambda *_: worker.leaving.set())
    Thread(target=_leave_with_server, daemon=True).start()
    worker.work()


def _leave_with_server() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
