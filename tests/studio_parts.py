"""What the tests of the studio stand on: a clip with its edited frame, a desk, workers without processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np

from anyv2v import write, write_image
from anyv2v.studio.desk import Desk
from anyv2v.studio.limits import Limits
from anyv2v.studio.request import Request
from anyv2v.studio.worker import Post, Worker
from conftest import scene


class Place:
    """A desk with a clip of six frames or more, 96x64, and its edited first frame on the shelf."""

    def __init__(self, folder: Path, limits: Limits | None = None, count: int = 6, **models: Path) -> None:
        self.frames = scene(count)
        write(folder / "clip.mp4", self.frames, 8)
        write_image(folder / "edited.png", 255 - self.frames[0])
        self.folder = folder
        self.desk = Desk.at(folder / "studio", limits, models)
        self.clip = self.desk.add_clip(folder / "clip.mp4", "walk.mp4").id
        self.edited = self.desk.add_image(folder / "edited.png", "red.png").id

    def flow(self, **changes: Any) -> Request:
        """An edit by optical flow."""
        given = {"clip": self.clip, "first_frame": self.edited, "backbone": "flow"}
        return Request(**given | changes)

    def still(self, **changes: Any) -> Request:
        """An edit of the first frame that takes no time."""
        return self.flow(**{"task": "frame"} | changes)

    def worker(self, lane: str = "quick", name: str = "w") -> Worker:
        return Worker(self.post(lane, name))

    def post(self, lane: str = "quick", name: str = "w") -> Post:
        return Post(
            self.desk.shelf.folder, lane, name, "cpu", models=self.desk.models, limits=self.desk.limits
        )

    def do(self, request: Request) -> str:
        """Submit a job and have it done here and now."""
        name, worker = self.desk.submit(request), self.worker(self.desk.workshop.lane(request))
        job = self.desk.queue.take(self.desk.workshop.lane(request), "w")
        assert job is not None
        assert job.id == name
        worker.do(job)
        return name


@contextmanager
def working(*workers: Worker) -> Iterator[None]:
    """Workers at work in threads of this process."""
    threads = [Thread(target=worker.work) for worker in workers]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for worker in workers:
            worker.leaving.set()
        for thread in threads:
            thread.join()


def noise(shape: tuple[int, ...] = (64, 96, 3)) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, shape, np.uint8)
