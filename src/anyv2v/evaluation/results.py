"""A folder of results: ``METHOD/ENTRY.mp4`` by any method at all, and beside them what they were made of.

results/manifest.jsonl            the entries
results/inputs/ENTRY.mp4          the source, as every method saw it
results/inputs/ENTRY.png          its edited first frame
results/inputs/ENTRY.reference.png
results/METHOD/ENTRY.mp4          an edited clip; another tool's need no more than this
results/scores.json               what ``eval score`` found
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import islice, product
from pathlib import Path
from typing import Any

import numpy as np

from anyv2v.editors.masks import read_mask
from anyv2v.editors.protocol import Mask
from anyv2v.errors import OptionError
from anyv2v.evaluation.manifest import Entry, read_manifest
from anyv2v.picture import Fit, Frame, Size, read_image
from anyv2v.sidecar import sidecar_of
from anyv2v.video import Clip, Video

__all__ = ["INPUTS", "MANIFEST", "SCORES", "Results"]

INPUTS, MANIFEST, SCORES = "inputs", "manifest.jsonl", "scores.json"
CLIPS = (".mp4", ".webm", ".mov", ".mkv", ".gif")


@dataclass(frozen=True)
class Results:
    """A folder of results.

    Attributes:
        folder: The folder.
    """

    folder: Path

    @cached_property
    def entries(self) -> list[Entry]:
        """Its entries.

        Raises:
            OptionError: It has no manifest, or a broken one.
        """
        if not (self.folder / MANIFEST).is_file():
            raise OptionError(
                f"{self.folder}: there is no {MANIFEST} in it, which says what was to be edited"
            )
        return read_manifest(self.folder / MANIFEST)

    @property
    def methods(self) -> list[str]:
        """The methods that have results: folders that hold a clip of an entry, by name."""
        entries = self.entries
        folders = sorted(path.name for path in self.folder.iterdir() if path.is_dir())
        return [name for name in folders if name != INPUTS and any(self.clip(name, e) for e in entries)]

    def clip(self, method: str, entry: Entry) -> Path | None:
        """The edited clip, if the method has made it."""
        found = (self.folder / method / f"{entry.name}{suffix}" for suffix in CLIPS)
        return next((path for path in found if path.is_file()), None)

    def clips(self) -> Iterator[tuple[str, Entry, Path]]:
        """Every edited clip that there is, with its method and its entry."""
        for method, entry in product(self.methods, self.entries):
            if path := self.clip(method, entry):
                yield method, entry, path

    def output(self, method: str, entry: Entry) -> Path:
        """Where a method of ours puts its clip."""
        return self.folder / method / f"{entry.name}.mp4"

    def source(self, entry: Entry) -> Path:
        """The source as it was edited; it may still be to be made."""
        return self.folder / INPUTS / f"{entry.name}.mp4"

    def first_frame(self, entry: Entry) -> Path:
        """The edited first frame; it may still be to be made."""
        return self.folder / INPUTS / f"{entry.name}.png"

    def compared_to(self, entry: Entry) -> Path:
        """The source that clips are compared to: as it was edited, else the entry's own."""
        made = self.source(entry)
        return made if made.is_file() else Path(str(entry.settings["clip"]))

    def wanted(self, entry: Entry) -> Path | None:
        """The edited first frame that clips are to begin with, if it is at hand."""
        found = (self.first_frame(entry), Path(str(entry.settings.get("first_frame", ""))))
        return next((path for path in found if path.is_file()), None)

    def reference(self, entry: Entry) -> Path | None:
        """The picture of the style, subject or face that was wanted, if the entry has one."""
        path = self.folder / INPUTS / f"{entry.name}.reference.png"
        return path if path.is_file() else None

    def sidecar(self, method: str, entry: Entry, suffix: str = ".mp4") -> dict[str, Any]:
        """What a method of ours says of its clip; nothing of other tools'."""
        path = sidecar_of(self.folder / method / f"{entry.name}{suffix}")
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return {}

    def edited(self, method: str, entry: Entry) -> Video:
        """The edited clip.

        Raises:
            VideoError: It is missing or cannot be read.
        """
        return Clip(self.clip(method, entry) or self.output(method, entry)).read()

    def source_like(self, entry: Entry, edited: Video) -> Video:
        """The source at the size of an edited clip, frame by frame if it has as many, else at the same times.

        It is no longer than the shorter of the two.

        Raises:
            VideoError: The source cannot be read.
        """
        path = self.compared_to(entry)
        own = path != self.source(entry)
        start = float(entry.settings.get("start", 0.0)) if own else 0.0
        clip = Clip(path, start=start)
        if own or clip.expected != len(edited):
            clip = Clip(path, start=start, fps=edited.fps)
        fit = Fit(clip.size, edited.size, entry.settings.get("fit", "crop"))
        frames = [fit.apply(frame) for frame in islice(clip, len(edited))]
        return Video(np.stack(frames), Fraction(edited.fps), None)

    def mask(self, entry: Entry, size: Size) -> Mask | None:
        """Where the first frame was allowed to change, if the entry says so."""
        if not (path := entry.settings.get("mask")):
            return None
        whole = read_mask(Path(str(path)), Clip(str(entry.settings["clip"])).size)
        shown = np.repeat(np.where(whole, 255, 0).astype(np.uint8)[..., None], 3, axis=-1)
        fit = Fit(Size.of(shown), size, entry.settings.get("fit", "crop"))
        return np.asarray(fit.apply(shown)[..., 0] > 127)

    def edited_first(self, entry: Entry, size: Size) -> Frame | None:
        """The edited first frame at this size, if it is at hand."""
        if path := self.wanted(entry):
            frame = read_image(path)
            return Fit(Size.of(frame), size, entry.settings.get("fit", "crop")).apply(frame)
        return None
