"""Small folders of results to be rated."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from anyv2v import write, write_image
from anyv2v.evaluation.manifest import Entry, write_manifest
from anyv2v.evaluation.results import Results

# In the order of the alphabet, and such that no file holds them by chance.
METHODS = ("aardvark-net", "bumblebee-flow", "chameleon-v2v", "dromedary-t2v", "echidna-xl", "flamingo-edit")
FPS = 8


def moving(red: int, green: int, frames: int = 8) -> np.ndarray:
    """A bright square that crosses a plain: ``[F, 48, 64, 3]``."""
    clip = np.empty((frames, 48, 64, 3), np.uint8)
    clip[:] = red, green, 90
    for k in range(frames):
        clip[k, 16:32, 6 * k : 6 * k + 16] = 240
    return clip


def study_folder(folder: Path, entries: dict[str, tuple[str, int]]) -> Results:
    """Results for entries by name, each of a task, and made by so many of the methods."""
    for name in ("inputs", *METHODS):
        (folder / name).mkdir(parents=True)
    for k, (name, (task, count)) in enumerate(entries.items()):
        write(folder / "inputs" / f"{name}.mp4", moving(20 * k % 256, 40), FPS)
        if task != "prompt":
            write_image(folder / "inputs" / f"{name}.reference.png", moving(200, 60)[0])
        for number, method in enumerate(METHODS[:count]):
            write(folder / method / f"{name}.mp4", moving(20 * k % 256, 70 + 30 * number), FPS)
    write_manifest(folder / "manifest.jsonl", [_entry(name, task) for name, (task, _) in entries.items()])
    return Results(folder)


def _entry(name: str, task: str) -> Entry:
    settings = {
        "clip": f"/clips/{name}.mp4",
        "first_frame": f"/clips/{name}.png",
        "prompt": f"{name} squares",
    }
    return Entry(name, task, settings)
