"""A job: which files, which backbone, which options. Every front end makes one; ``run`` does it.

A job is read from flat settings, with the same keys on the command line and in a YAML file.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

from anyv2v.backbones import recipe
from anyv2v.errors import OptionError
from anyv2v.options import Options
from anyv2v.picture import Size
from anyv2v.video import Clip

__all__ = [
    "EditJob",
    "FrameJob",
    "InvertJob",
    "Job",
    "StillJob",
    "TrialJob",
    "VideoJob",
    "read_settings",
    "underscored",
]


@dataclass(frozen=True, kw_only=True)
class Job:
    """A place in a clip where work begins, what computes, and where the result goes.

    Attributes:
        clip: The source video.
        output: The file to write.
        start: Seconds to leave out at the beginning.
        device: See ``load_backbone``.
        dtype: See ``load_backbone``.
        low_memory: Keep on the device only the part of a model that works.
        overwrite: Replace outputs that are there already.
    """

    clip: Path
    output: Path
    start: float = 0.0
    device: str = "auto"
    dtype: str = "auto"
    low_memory: bool = False
    overwrite: bool = False

    @property
    def span(self) -> Clip:
        """The span of the clip that was asked for, nothing of it decoded yet."""
        return Clip(self.clip, start=self.start)


@dataclass(frozen=True, kw_only=True)
class VideoJob(Job):
    """The span of a clip, and what works on it.

    Attributes:
        backbone: A name in the registry, or ``auto``.
        model: A checkpoint's folder, or a Hugging Face repository.
        frames: Number of frames; if left out those of a window, and for optical flow all there are.
        duration: Seconds, instead of ``frames``.
        fps: Frames per second; if left out the backbone's own, and for optical flow the clip's.
        compile: Have layers of the net compiled: see ``load_backbone``.
        recipe: The named recipe that ``options`` started from.
        options: Settings of the diffusion stage.
    """

    backbone: str = "auto"
    model: str | None = None
    frames: int | None = None
    duration: float | None = None
    fps: Fraction | None = None
    compile: bool = False
    recipe: str = "default"
    options: Options = Options()

    @property
    def span(self) -> Clip:
        """See ``Job``."""
        return Clip(self.clip, start=self.start, frames=self.frames, duration=self.duration, fps=self.fps)


@dataclass(frozen=True, kw_only=True)
class InvertJob(VideoJob):
    """Keep the inversion of a clip, for later edits, in a ``.safetensors`` file."""


@dataclass(frozen=True, kw_only=True)
class StillJob(Job):
    """Edit the first frame of a clip: the paper's first stage.

    Attributes:
        first_frame: The edited first frame, if it was made elsewhere.
        editor: A name in the registry of editors; left out where ``first_frame`` or ``command`` says enough.
        command: The command line of the editor ``command``.
        instruction: What to do, or what the result shows.
        reference: Pictures of the style, subject or face that is wanted.
        reference_mask: The subject in the first of them; where it is opaque, if left out.
        mask: A picture of where the frame may change: white, or opaque.
        mask_point: Pixels (x, y) on what may change, for SAM 2 to cut out.
        mask_box: The same by a box: left, top, right, bottom.
        feather: Pixels from the mask's edge inwards over which the edit comes in; 6 if left out, and never
            more than half of the mask's depth.
        editor_model: Folders or repositories of the editor's weights, by role.
        editor_settings: The editor's own settings, by name.
        candidates: How many first frames to make, from as many seeds.
        pick: Which to take: ``best``, the number of one, or ``ask``, which stops with a sheet of them.
        fresh: Edit the first frame anew, even if the same edit was kept.
    """

    first_frame: Path | None = None
    editor: str | None = None
    command: str | None = None
    instruction: str = ""
    reference: tuple[Path, ...] = ()
    reference_mask: Path | None = None
    mask: Path | None = None
    mask_point: tuple[tuple[int, int], ...] = ()
    mask_box: tuple[int, int, int, int] | None = None
    feather: float | None = None
    editor_model: Mapping[str, str] = field(default_factory=dict)
    editor_settings: Mapping[str, Any] = field(default_factory=dict)
    candidates: int = 1
    pick: int | Literal["best", "ask"] = "best"
    fresh: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.candidates <= 64:
            raise OptionError(f"candidates is {self.candidates}; it must be 1 to 64")
        most = self.candidates if self.candidates > 1 else 64  # later it is enough to name the one
        if isinstance(self.pick, int) and not 1 <= self.pick <= most:
            raise OptionError(f"pick is {self.pick}; it must be 1 to {most}, best or ask")
        if self.pick == "ask" and self.candidates == 1:
            raise OptionError("there is but one candidate to ask about; give --candidates")
        if self.feather is not None and not 0 <= self.feather <= 1000:
            raise OptionError(f"feather is {self.feather:g}; it must be 0 to 1000 pixels")
        masked = bool(self.mask_point or self.mask_box)
        if self.mask and masked:
            raise OptionError("a mask and a point or box of one contradict each other: give one of them")
        if self.feather is not None and not (self.mask or masked):
            raise OptionError("there is no mask to feather; give --mask")
        if self.reference_mask and not self.reference:
            raise OptionError("there is no reference for the reference mask; give --reference")

    @property
    def first_seed(self) -> int:
        """The seed of the first candidate; the others follow it."""
        raise NotImplementedError

    @property
    def text(self) -> str:
        """What the edit shows, as far as a person said."""
        return self.instruction


@dataclass(frozen=True, kw_only=True)
class FrameJob(StillJob):
    """Edit the first frame of a clip, and write that frame alone.

    Attributes:
        seed: Seeds everything random.
    """

    seed: int = Options.seed

    def __post_init__(self) -> None:
        super().__post_init__()
        replace(Options(), seed=self.seed)  # which knows its range

    @property
    def first_seed(self) -> int:
        """See ``StillJob``."""
        return self.seed


@dataclass(frozen=True, kw_only=True)
class TrialJob(VideoJob, StillJob):
    """Edit a clip by both stages, whatever is kept of it.

    Attributes:
        prompt: What the edited clip shows.
    """

    prompt: str = ""

    @property
    def first_seed(self) -> int:
        """See ``StillJob``."""
        return self.options.seed

    @property
    def text(self) -> str:
        """See ``StillJob``."""
        return self.prompt or self.instruction


@dataclass(frozen=True, kw_only=True)
class EditJob(TrialJob):
    """Edit a clip.

    Attributes:
        whole: Edit all frames there are, however many.
        trajectory: An inversion of the clip, of one window, that ``anyv2v invert`` kept.
        sheet: Where to put a contact sheet of source and edit, if anywhere.
        save_frame: Where to put the edited first frame, if anywhere.
        cache: Take the clip's inversion from the cache if it is there, and else keep it.
    """

    whole: bool = False
    trajectory: Path | None = None
    sheet: Path | None = None
    save_frame: Path | None = None
    cache: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.whole and (self.frames or self.duration):
            raise OptionError("whole and frames or duration contradict each other: give one of them")


J = TypeVar("J", bound=Job)


def read_settings(kind: type[J], settings: Mapping[str, Any]) -> J:
    """Make a job of flat settings: keys of the job and of its options, any of them with ``-`` or ``_``.

    Raises:
        OptionError: A key is unknown or missing, or a value does not fit it.
    """
    from pydantic import ValidationError

    settings = {key: _parsed(key, value) for key, value in underscored(settings).items()}
    of_job = {f.name for f in fields(kind)} - {"options"}
    of_options = {f.name for f in fields(Options)} if issubclass(kind, VideoJob) else set()
    for key in settings.keys() - of_job - of_options:
        close = difflib.get_close_matches(key, of_job | of_options, n=1)
        raise OptionError(f"unknown option {key!r}" + (f"; did you mean {close[0]!r}?" if close else ""))
    job = {key: settings[key] for key in settings.keys() & of_job}
    try:
        read: J = _reader(kind).validate_python(job | _options(settings, of_options))  # type: ignore[arg-type]
        return read
    except ValidationError as error:
        first = error.errors()[0]
        where = " ".join(str(part) for part in first["loc"] if part != "options").replace("_", " ")
        raise OptionError(f"{where}: {first['msg'][0].lower()}{first['msg'][1:]}") from error


@cache
def _reader(kind: Any) -> Any:
    """Made once of each kind, for that takes longer than reading."""
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _options(settings: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
    """The options of a job that has any: those of its recipe, and over them what is set."""
    if not names:
        return {}
    model = settings.get("model")
    base = recipe(
        settings.get("recipe", "default"), str(settings.get("backbone", "auto")), model and str(model)
    )
    return {"options": {name: settings.get(name, getattr(base, name)) for name in names}}


def underscored(settings: Mapping[Any, Any]) -> dict[str, Any]:
    """Settings by the names that jobs have for them."""
    named = {str(key).replace("-", "_"): value for key, value in settings.items()}
    return {"editor_settings" if key == "set" else key: value for key, value in named.items()}


def _parsed(key: str, value: Any) -> Any:
    """Values that have a notation of their own: 512x320, 30000/1001, 4-11."""
    if key == "size" and isinstance(value, str):
        return Size.parse(value)
    if key == "fps" and value is not None:
        return _rate(value)
    if key.startswith("layers_") and isinstance(value, str | int):
        return _layers(str(value))
    if key in ("editor_model", "editor_settings") and not isinstance(value, Mapping):
        return _pairs(key, value if isinstance(value, list) else [value])
    if key == "mask_point" and value != []:
        several = isinstance(value, list) and not all(isinstance(number, int) for number in value)
        return [_numbers(key, point, 2) for point in (value if several else [value])]
    if key == "mask_box" and value is not None:
        return _numbers(key, value, 4)
    if key == "pick" and not (isinstance(value, int) or str(value).isdecimal() or value in ("best", "ask")):
        raise OptionError(f"pick is {value!r}; it must be the number of a candidate, best or ask")
    if key == "reference" and isinstance(value, str | Path):
        return [value]
    return value


def _pairs(key: str, texts: Iterable[Any]) -> dict[str, str]:
    """``name=value`` each; of a model the name may be left out."""
    if key == "editor_model":
        return dict(_model(str(text)) for text in texts)
    pairs = [str(text).partition("=") for text in texts]
    for name, equals, _ in pairs:
        if not equals:
            raise OptionError(f"setting {name!r}: not of the form name=value")
    return {name.replace("-", "_"): value for name, _, value in pairs}


def _model(text: str) -> tuple[str, str]:
    """A role and its model, whose path may hold an equals sign too."""
    role, equals, model = text.partition("=")
    return (role, model) if equals and role.isidentifier() else ("", text)


def _numbers(key: str, value: Any, count: int) -> list[int]:
    """Whole numbers with commas between them, or a list of them."""
    text = ",".join(map(str, value)) if isinstance(value, list | tuple) else value
    if not re.fullmatch(rf"\d+(,\d+){{{count - 1}}}", str(text)):
        form = ",".join("xyxy"[:count])
        raise OptionError(f"{key.replace('_', ' ')} {text!r}: not of the form {form} in whole pixels")
    return [int(number) for number in str(text).split(",")]


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
