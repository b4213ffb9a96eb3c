"""What there is to rate: an entry's clips side by side, each in a form that every browser plays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from anyv2v.errors import OptionError, OutputError
from anyv2v.evaluation.manifest import Entry
from anyv2v.evaluation.results import Results
from anyv2v.film import probe
from anyv2v.picture import Size, write_image
from anyv2v.video import Clip
from anyv2v.writing import write

__all__ = ["STUDY", "Slate", "roomy", "slates"]

STUDY = "study"
"""The folder in the results that the study keeps its own files in."""


@dataclass(frozen=True)
class Slate:
    """An entry, ready to be shown.

    Attributes:
        entry: What was to be edited.
        source: The unedited clip.
        reference: The picture to follow; none where a prompt says what was wanted.
        clips: The edited clips by method, two or more.
        fps: Frames per second of the source.
    """

    entry: Entry
    source: Path
    reference: Path | None
    clips: Mapping[str, Path]
    fps: Fraction


def slates(results: Results) -> list[Slate]:
    """The entries that two methods or more have made. Clips in other forms are copied as mp4 to ``study/``.

    Raises:
        OptionError: There is no such entry, or a picture to follow is missing.
        VideoError: A clip cannot be read.
        OutputError: A copy cannot be written.
    """
    methods = results.methods
    made = [(entry, _clips(results, entry, methods)) for entry in results.entries]
    found = [_slate(results, entry, clips) for entry, clips in made if len(clips) > 1]
    if not found:
        raise OptionError(
            f"{results.folder}: there is nothing to compare; two methods must have made an entry"
        )
    return found


def _clips(results: Results, entry: Entry, methods: Sequence[str]) -> dict[str, Path]:
    return {method: path for method in methods if (path := results.clip(method, entry))}


def _slate(results: Results, entry: Entry, clips: Mapping[str, Path]) -> Slate:
    source = _source(results, entry, next(iter(clips)))
    shown = {method: _playable(results, method, entry, path) for method, path in clips.items()}
    info = probe(source)
    reference = None if entry.task == "prompt" else _reference(results, entry, info.size)
    return Slate(entry, source, reference, shown, info.fps)


def _source(results: Results, entry: Entry, method: str) -> Path:
    """The source as it was edited; where only other tools were at work, as the first of them saw it."""
    path = results.source(entry)
    if path.is_file():
        return path
    copy = _copy(results, path)
    if not copy.is_file():
        video = results.source_like(entry, results.edited(method, entry))
        write(copy, video.frames, video.fps)
    return copy


def _playable(results: Results, method: str, entry: Entry, path: Path) -> Path:
    """A clip that browsers play: they all know H.264 in mp4, and a common form tells nothing of a method."""
    info = probe(path)
    if (path.suffix, info.codec, info.pixel_format) == (".mp4", "h264", "yuv420p"):
        return path
    copy = _copy(results, results.output(method, entry))
    if not copy.is_file() or copy.stat().st_mtime < path.stat().st_mtime:
        clip = Clip(path)
        write(copy, clip, clip.rate, overwrite=True)
    return copy


def _reference(results: Results, entry: Entry, size: Size) -> Path:
    """The picture of what was wanted; the edited first frame shows it too."""
    if path := results.reference(entry):
        return path
    if results.first_frame(entry).is_file():
        return results.first_frame(entry)
    if (frame := results.edited_first(entry, size)) is None:
        raise OptionError(
            f"{results.folder}: {entry.name!r} has no reference and no edited first frame to be rated by"
        )
    return write_image(_copy(results, results.first_frame(entry)), frame, overwrite=True)


def _copy(results: Results, path: Path) -> Path:
    """Where a copy of a file of the results is kept."""
    return roomy(results.folder / STUDY / path.relative_to(results.folder))


def roomy(path: Path) -> Path:
    """The path, now that there is a folder for it. Raises OutputError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path.parent}: cannot be made: {error.strerror}") from error
    return path
