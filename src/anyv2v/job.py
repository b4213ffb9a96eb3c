"""A job: which files, which backbone, which options. Every front end makes one; ``run`` does it.

A job is read from flat settings, with the same keys on the command line and in a YAML file.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

from anyv2v.backbones import recipe
from anyv2v.errors import OptionError
from anyv2v.options import Options
from anyv2v.video import Clip, Size

__all__ = ["EditJob", "InvertJob", "Job", "read_settings"]


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

    @property
    def span(self) -> Clip:
        """The span of the clip that was asked for, nothing of it decoded yet."""
        return Clip(self.clip, start=self.start, frames=self.frames, duration=self.duration, fps=self.fps)


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


J = TypeVar("J", bound=Job)


def read_settings(kind: type[J], settings: Mapping[str, Any]) -> J:
    """Make a job of flat settings: keys of the job and of its options, any of them with ``-`` or ``_``.

    Raises:
        OptionError: A key is unknown or missing, or a value does not fit it.
    """
    from pydantic import TypeAdapter, ValidationError

    settings = {key: _parsed(key, value) for key, value in _underscored(settings).items()}
    of_job = {f.name for f in fields(kind)} - {"options"}
    of_options = {f.name for f in fields(Options)}
    for key in settings.keys() - of_job - of_options:
        close = difflib.get_close_matches(key, of_job | of_options, n=1)
        raise OptionError(f"unknown option {key!r}" + (f"; did you mean {close[0]!r}?" if close else ""))
    model = settings.get("model")
    base = recipe(
        settings.get("recipe", "default"), str(settings.get("backbone", "auto")), model and str(model)
    )
    job = {key: settings[key] for key in settings.keys() & of_job}
    options = {name: settings.get(name, getattr(base, name)) for name in of_options}
    try:
        return TypeAdapter(kind).validate_python({**job, "options": options})
    except ValidationError as error:
        first = error.errors()[0]
        where = " ".join(str(part) for part in first["loc"] if part != "options").replace("_", " ")
        raise OptionError(f"{where}: {first['msg'][0].lower()}{first['msg'][1:]}") from error


def _underscored(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {str(key).replace("-", "_"): value for key, value in settings.items()}


def _parsed(key: str, value: Any) -> Any:
    """Values that have a notation of their own: 512x320, 30000/1001, 4-11."""
    if key == "size" and isinstance(value, str):
        return Size.parse(value)
    if key == "fps" and value is not None:
        return _rate(value)
    if key.startswith("layers_") and isinstance(value, str | int):
        return _layers(str(value))
    return value


def _rate(value: str | float) -> Fraction:
    try:
        return Fraction(str(value))
    except (ValueError, ZeroDivisionError):
        raise OptionError(f"fps is {value!r}; it must be a number such as 8, 23.976 or 30000/1001") from None


def _layers(text: str) -> tuple[int, ...]:
    """``4``, ``4,7`` or ``4-11``; nothing for none."""
    if not re.fullmatch(r"(\d+(-\d+)?(,\d+(-\d+)?)*)?", text):
        raise OptionError(f"layers {text!r}: not of the form 4, 4,7 or 4-11")
    ends = [part.split("-") for part in text.split(",") if part]
    return tuple(layer for end in ends for layer in range(int(end[0]), int(end[-1]) + 1))
