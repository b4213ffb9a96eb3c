"""What a person asks of the studio, by ids and names; and the settings of a job that this comes to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, get_type_hints

from anyv2v.backbones import choose, list_backbones, recipe
from anyv2v.editors import EditorEntry, choose_editor, editor_named, list_editors
from anyv2v.errors import OptionError
from anyv2v.job import EditJob, FrameJob, read_settings
from anyv2v.options import Options
from anyv2v.picture import Size
from anyv2v.studio.limits import Limits
from anyv2v.studio.shelf import Shelf
from anyv2v.video import Clip

__all__ = ["ADVANCED", "Lane", "Models", "Request", "Workshop", "thresholds"]

Lane = Literal["quick", "device"]

Models = Mapping[str, Path]
"""Checkpoints that the operator named: by a backbone's or an editor's name, or by any other."""

ADVANCED = tuple(f.name for f in fields(Options) if f.name != "seed")
"""Options that a request may set besides: all, for none of them names a file."""

LONGEST = 2000  # letters of a text
LAYERS = re.compile(r"(\d{1,2}(-\d{1,2})?(,\d{1,2}(-\d{1,2})?)*)?")  # a longer range could fill the memory


@dataclass(frozen=True, kw_only=True)
class Request:
    """An edit of a clip, or of its first frame alone.

    Attributes:
        task: ``edit`` makes a clip, ``frame`` edited first frames.
        clip: The id of a clip.
        start: Seconds to leave out at the beginning.
        frames: Number of frames; if left out the backbone's own, and for optical flow all there are.
        duration: Seconds, instead of ``frames``.
        first_frame: The id of a picture: the edited first frame.
        editor: What edits the first frame, if it was not edited elsewhere.
        instruction: What the editor is told.
        references: Ids of pictures that the editor is shown.
        mask: The id of a picture of where the frame may change: white, or opaque.
        candidates: How many first frames to make.
        backbone: What carries the edit: a name in the list of backbones.
        prompt: What the edited clip shows.
        structure: How closely the source's structure is followed, 0 to 1; at 0.5 as the recipe does.
        motion: The same of its motion.
        seed: Seeds everything random.
        recipe: A named recipe of the backbone.
        advanced: Options by name, before the recipe and before ``structure`` and ``motion``.
        title: What to call the job.
        parent: The id of the job that this is submitted beside.
    """

    clip: str
    task: Literal["edit", "frame"] = "edit"
    start: float = 0.0
    frames: int | None = None
    duration: float | None = None
    first_frame: str | None = None
    editor: str | None = None
    instruction: str = ""
    references: tuple[str, ...] = ()
    mask: str | None = None
    candidates: int = 1
    backbone: str = "auto"
    prompt: str = ""
    structure: float = 0.5
    motion: float = 0.5
    seed: int = Options.seed
    recipe: str = "default"
    advanced: Mapping[str, Any] = field(default_factory=dict)
    title: str = ""
    parent: str | None = None

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Request:
        """The request that a job was submitted with."""
        return cls(**{**settings, "references": tuple(settings["references"])})

    @property
    def settings(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return asdict(self)

    @property
    def pictures(self) -> list[str]:
        """The ids of all pictures that it needs."""
        return [*filter(None, (self.first_frame, self.mask)), *self.references]


@dataclass(frozen=True)
class Workshop:
    """Where requests become jobs.

    Attributes:
        shelf: Where ids are files.
        limits: What a request may ask for.
        models: Checkpoints that the operator named; no request names another.
        device: Where jobs are done, see ``load_backbone``.
    """

    shelf: Shelf
    limits: Limits
    models: Models = field(default_factory=dict)
    device: str = "auto"

    def job(self, request: Request, folder: Path) -> EditJob | FrameJob:
        """The job that a request comes to, whose results go into a folder.

        Raises:
            UserError: It cannot be done, or asks for too much.
        """
        self._check(request)
        if request.task == "frame":
            return read_settings(FrameJob, self._still(request) | {"output": folder / "result.png"})
        files = {"output": "result.mp4", "sheet": "sheet.png", "save_frame": "frame.png"}
        outputs = {what: folder / name for what, name in files.items()}
        how = self._still(request) | self._method(request) | self._span(request)
        return read_settings(EditJob, how | outputs)

    def check_models(self) -> None:
        """See that what the operator named is what it should be. Raises UserError."""
        for name, model in self.models.items():
            if name in list_editors():
                choose_editor(name, {"": str(model)})
            else:
                self.backbone(name)

    def lane(self, request: Request) -> Lane:
        """Which workers do it: what needs no model is not to wait for what does."""
        instant = request.editor is None or self.editor(request.editor).instant
        return "quick" if instant and (request.task == "frame" or self.carrier(request)) else "device"

    def carrier(self, request: Request) -> bool:
        """Whether a backbone without a checkpoint carries the edit."""
        name, model = self.backbone(request.backbone)
        return model is None and list_backbones()[name].weights is None

    def backbone(self, name: str) -> tuple[str, Path | None]:
        """The registry's name of a backbone, and its checkpoint if the operator named one.

        Raises:
            UserError: There is none.
        """
        if name in self.models and name not in list_editors():
            model = self.models[name]
            return choose(name if name in list_backbones() else "auto", str(model)).entry.name, model
        if name not in ("auto", *list_backbones()):
            own = [other for other in self.models if other not in (*list_editors(), *list_backbones())]
            raise OptionError(f"no backbone {name!r}; there are {', '.join([*list_backbones(), *own])}")
        return (choose(device=self.device).entry.name if name == "auto" else name), None

    def editor(self, name: str) -> EditorEntry:
        """An editor that a request may name: not the one that runs commands. Raises OptionError."""
        if name == "command":
            raise OptionError("the editor command runs programs, so it is not for the studio")
        return editor_named(name)

    def _check(self, request: Request) -> None:
        if request.editor is None and request.first_frame is None:
            raise OptionError("there is no edited first frame; bring one, or choose an editor")
        for text in (request.instruction, request.prompt):
            if len(text) > LONGEST:
                raise OptionError(f"a text of {len(text)} letters is too long; there may be {LONGEST}")
        for name in ("structure", "motion"):
            if not 0 <= getattr(request, name) <= 1:
                raise OptionError(f"{name} is {getattr(request, name):g}; it must be 0 to 1")
        for name, value in request.advanced.items():
            _check_advanced(name, value, self.limits)

    def _still(self, request: Request) -> dict[str, Any]:
        """The settings of both kinds of job: those of the first frame."""
        shelf, models = self.shelf, self.models
        editor = request.editor and self.editor(request.editor).name
        return {
            "clip": shelf.clip_file(request.clip),
            "start": request.start,
            "first_frame": request.first_frame and shelf.image_file(request.first_frame),
            "editor": editor,
            "editor_model": {"": str(models[editor])} if editor and editor in models else {},
            "instruction": request.instruction,
            "reference": [shelf.image_file(name) for name in request.references],
            "mask": request.mask and shelf.image_file(request.mask),
            "candidates": request.candidates,
            "seed": request.seed,
            "overwrite": True,
        }

    def _method(self, request: Request) -> dict[str, Any]:
        """The settings of propagation. Optical flow is not told what it has no use for."""
        name, model = self.backbone(request.backbone)
        if self.carrier(request):
            seeded = request.editor is not None and self.editor(request.editor).seeded
            return {"backbone": name} | ({} if seeded else {"seed": Options.seed})
        own = recipe(request.recipe, name)
        return {
            "backbone": name,
            "model": model and str(model),
            "recipe": request.recipe,
            "prompt": request.prompt,
            **thresholds(own, request.structure, request.motion),
            **request.advanced,
        }

    def _span(self, request: Request) -> dict[str, Any]:
        """Which frames. Where a container lies about its length, flow stops at the limit all the same."""
        given = {"frames": request.frames, "duration": request.duration}
        whole = self.carrier(request) and not any(given.values())
        clip = Clip(self.shelf.clip_file(request.clip), request.start, **given)  # type: ignore[arg-type]
        if whole or any(given.values()):
            self.limits.check_frames(clip.expected or 0)
        return {"frames": None, "duration": float(self.limits.frames / clip.rate)} if whole else given


def thresholds(own: Options, structure: float, motion: float) -> dict[str, float]:
    """The shares of steps that inject features, of two wishes from 0 to 1.

    Structure is in the convolution feature and in spatial attention, motion in temporal attention (section
    4.4). A wish of 0 injects nowhere, 0.5 where the recipe does, 1 at every step, and in between linearly.
    """
    wishes = {"tau_conv": structure, "tau_spatial": structure, "tau_temporal": motion}
    return {name: round(_bent(getattr(own, name), wish), 4) for name, wish in wishes.items()}


def _bent(middle: float, wish: float) -> float:
    return middle * 2 * wish if wish < 0.5 else middle + (1 - middle) * (2 * wish - 1)


def _check_advanced(name: str, value: Any, limits: Limits) -> None:
    if name not in ADVANCED:
        raise OptionError(f"no advanced option {name!r}; there are {', '.join(ADVANCED)}")
    if not isinstance(value, str | int | float | None):
        raise OptionError(f"{name.replace('_', ' ')} must be a text or a number")
    if isinstance(value, str) and len(value) > LONGEST:
        raise OptionError(f"{name.replace('_', ' ')} is longer than {LONGEST} letters")
    if name.startswith("layers_") and not LAYERS.fullmatch(str(value)):
        raise OptionError(f"{name.replace('_', ' ')} {value!r}: not of the form 4, 4,7 or 4-11")
    if name == "size" and isinstance(value, str):
        size = Size.parse(value)
        limits.check_size("the size asked for", size.width, size.height)


def choices(name: str) -> tuple[str, ...]:
    """What an option can be, if it is one of a few words."""
    kind = get_type_hints(Options)[name]
    return tuple(getattr(kind, "__args__", ())) if getattr(kind, "__origin__", None) is Literal else ()
