"""Any pipeline of diffusers that takes a picture and a prompt, as an editor of the first frame.

What a pipeline is given is read off the signature of its call, so that a model that diffusers learns to run
needs nothing here.

Not covered: pipelines that make films, and those that want a second picture derived from the frame, such as
its edges or its depth.
"""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self

import cv2
import numpy as np
import torch
from PIL import Image
from torch import nn

from anyv2v.editors.canvas import Canvas, frame_of
from anyv2v.editors.protocol import Machine, Mask, Request
from anyv2v.errors import CheckpointError, EditorError, OptionError
from anyv2v.picture import Frame, Size
from anyv2v.progress import OnStep, Step, ignore
from anyv2v.weights import configuration, hushed, load_part, loading

__all__ = ["Pipeline", "PipelineSettings", "arguments_of", "unfit"]

LEAST_SIDE, MOST_ASPECT = 64, 7  # FLUX.2 refuses less, and more than 8, to which rounding sides up adds

PICTURE = ("image", "images", "input_images")
REFERENCE = ("image_reference", "example_image")
GIVEN = {*PICTURE, *REFERENCE, "mask_image", "prompt"}
FILM = {"num_frames", "num_videos_per_prompt"}

SEVERAL = {
    "Flux2KleinKVPipeline",
    "Flux2KleinPipeline",
    "Flux2Pipeline",
    "GlmImagePipeline",
    "QwenImage21Pipeline",
    "QwenImageEditPlusPipeline",
    "ZImageOmniPipeline",
}
"""Whose ``image`` may be several that belong together. To others a list is a batch; no signature tells."""

ARGUMENTS = {
    "steps": ("num_inference_steps",),
    "guidance_scale": ("guidance_scale",),
    "image_guidance_scale": ("image_guidance_scale", "img_guidance_scale"),
    "true_cfg_scale": ("true_cfg_scale",),
    "strength": ("strength",),
    "negative_prompt": ("negative_prompt",),
}
"""What the arguments that settings stand for are called."""


@dataclass(frozen=True)
class PipelineSettings:
    """How a pipeline is made and called. What is None is left to the pipeline.

    Attributes:
        steps: Sampling steps, at least 1.
        guidance_scale: How strongly the prompt steers, at least 0.
        image_guidance_scale: How strongly the frame does, at least 0, to models that have such a guidance
            (InstructPix2Pix, arXiv 2211.09800, eq. 3).
        true_cfg_scale: What ``guidance_scale`` is to most, at least 0, to models that took that name for a
            distilled guidance; it needs a negative prompt, of which a blank will do.
        strength: How much of the noise the frame gets where sampling starts from it, above 0 and at most 1.
        negative_prompt: What not to show.
        instruction: The prompt of requests that have none.
        area: Pixels that it works at, at least 4096; the frame's own if None.
        pipeline: The class of diffusers to run the weights with, if not the one they were saved from.
        scheduler: The class of diffusers to sample with, if not the saved one.
        extra: Other arguments of the pipeline's call, by name.

    Raises:
        OptionError: A value is out of its range.
    """

    steps: int | None = None
    guidance_scale: float | None = None
    image_guidance_scale: float | None = None
    true_cfg_scale: float | None = None
    strength: float | None = None
    negative_prompt: str | None = None
    instruction: str = ""
    area: int | None = None
    pipeline: str | None = None
    scheduler: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        least = {"steps": 1, "area": LEAST_SIDE**2}
        for name in ("steps", "area", "guidance_scale", "image_guidance_scale", "true_cfg_scale"):
            value = getattr(self, name)
            if value is not None and not value >= least.get(name, 0):
                raise OptionError(f"{name} is {value:g}; it must be at least {least.get(name, 0)}")
        if self.strength is not None and not 0 < self.strength <= 1:
            raise OptionError(f"strength is {self.strength:g}; it must be above 0 and at most 1")


class Pipeline:
    """See ``Editor``; ``load`` is the way to make one.

    Args:
        pipeline: A pipeline of a class of which ``unfit`` finds nothing to say.
        settings: How it is called.

    Raises:
        OptionError: It has no use for a setting.
    """

    Settings = PipelineSettings

    def __init__(self, pipeline: Any, settings: PipelineSettings) -> None:
        self.pipeline = pipeline
        self.settings = settings
        self.name = type(pipeline).__name__
        self.takes = arguments_of(type(pipeline))
        self.told = _told(type(pipeline), settings)

    @classmethod
    def load(cls, weights: Mapping[str, Path], settings: PipelineSettings, machine: Machine) -> Self:
        """Load a folder in the layout that diffusers saves pipelines in; see ``LoadableEditor``."""
        folder = weights["model"]
        index = configuration(folder, "model_index.json")
        offload = machine.low_memory and machine.device.type == "cuda"
        place = torch.device("cpu") if offload else machine.device
        with hushed(), loading(folder):
            kind = _pipeline_class(folder, settings.pipeline or index.get("_class_name"))
            _told(kind, settings)  # before gigabytes are read
            parts = _parts(folder, index, kind, place, _precision(index, machine.dtype))
            if settings.scheduler:
                parts["scheduler"] = _scheduler(settings.scheduler, parts["scheduler"])
            pipeline = kind(**parts)
        if offload:
            pipeline.enable_model_cpu_offload(device=machine.device)
        return cls(pipeline, settings)

    def edit(self, request: Request, on_step: OnStep = ignore) -> Frame:
        """See ``Editor``.

        Raises:
            OptionError: There are more references than the pipeline takes, or fewer.
            EditorError: The pipeline refuses the request, or gives no picture.
        """
        room = _room(request.frame)
        canvas = Canvas.of(room.padded, self._multiple, self.settings.area)
        arguments = self.arguments(request, room, canvas)
        # Every pipeline has a progress bar, while some have no callback and others call theirs once more.
        self.pipeline.progress_bar = partial(_Bar, on_step)
        try:
            with torch.random.fork_rng(devices=()):
                torch.manual_seed(request.seed)  # OmniGen encodes pictures with noise of no generator
                result = self.pipeline(**arguments)
        except (ValueError, TypeError, AttributeError, KeyError, IndexError) as error:
            reason, *_ = str(error).splitlines() or [type(error).__name__]
            raise EditorError(f"{self.name} cannot do this: {reason}") from error
        return room.lift(canvas.lift(self._picture(result)))

    def arguments(self, request: Request, room: Canvas, canvas: Canvas) -> dict[str, Any]:
        """What the pipeline is called with.

        Args:
            request: What is asked.
            room: Where the frame lies in a picture that the pipeline may be shown.
            canvas: Where that lies in what the pipeline is shown.
        """
        frame = Image.fromarray(canvas.lay(room.lay(request.frame)))
        pictures = self._pictures(frame, [Image.fromarray(picture) for picture in _references(request)])
        size = canvas.padded
        given = {
            **pictures,
            **_masks(request.mask, room, canvas),
            "prompt": self._prompt(request, 1 + len(request.references)),
            "width": size.width,
            "height": size.height,
            # FLUX.1 Kontext and OmniGen would else scale the frame and their result, each by other rules.
            "max_area": size.width * size.height,
            "_auto_resize": False,
            "max_input_image_size": max(size.width, size.height),
            "generator": torch.Generator().manual_seed(request.seed),
            "output_type": "np",
        }
        return {name: value for name, value in given.items() if name in self.takes} | self.told

    @property
    def _multiple(self) -> int:
        """Of the sides of its pictures: transformers group a VAE's latents two by two."""
        return 2 * int(getattr(self.pipeline, "vae_scale_factor", 8))

    def _pictures(self, frame: Image.Image, references: list[Image.Image]) -> dict[str, Any]:
        name = next(name for name in PICTURE if name in self.takes)
        if name != "image" or self.name in SEVERAL:
            return {name: [frame, *references]}
        own = next((name for name in REFERENCE if name in self.takes), None)
        least, most = int(own == "example_image"), int(own is not None)
        if not least <= len(references) <= most:
            count = ("no reference", "one reference")[most]
            raise OptionError(f"{self.name} takes {count}, not {len(references)}")
        return {name: frame} | ({str(own): references[0]} if references else {})

    def _prompt(self, request: Request, pictures: int) -> str:
        prompt = request.instruction or self.settings.instruction
        if "input_images" not in self.takes:
            return prompt
        # OmniGen wants to be told where in its prompt each picture stands.
        places = [f"<img><|image_{index + 1}|></img>" for index in range(pictures)]
        return " ".join([*(place for place in places if place not in prompt), prompt])

    def _picture(self, result: Any) -> Frame:
        """The picture of a result, which is 0..1 and may be all black for other reasons than an edit."""
        if any(getattr(result, "nsfw_content_detected", None) or ()):
            raise EditorError(f"{self.name} holds back what it takes for unsafe; try another seed")
        pictures = getattr(result, "images", None)
        picture = np.asarray(pictures[0] if pictures is not None and len(pictures) else ())
        if picture.ndim != 3 or picture.shape[2] != 3:
            raise EditorError(f"{self.name} gave no picture")
        return frame_of(picture)


class _Bar:
    """What stands in for a pipeline's progress bar, and tells of its steps."""

    def __init__(self, on_step: OnStep, items: Any = (), total: int | None = None) -> None:
        self.on_step = on_step
        self.items = items
        self.total = len(items) if total is None else total
        self.done = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __iter__(self) -> Iterator[Any]:
        for item in self.items:
            yield item
            self.update()

    def update(self) -> None:
        self.done += 1
        self.on_step(Step("edit frame", self.done, self.total))


def arguments_of(kind: type[Any]) -> dict[str, inspect.Parameter]:
    """The arguments of the call of a class, by name."""
    _, *parameters = inspect.signature(kind.__call__).parameters.values()
    variadic = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    return {parameter.name: parameter for parameter in parameters if parameter.kind not in variadic}


def unfit(kind: type[Any]) -> str | None:
    """Why a class of pipelines cannot edit a picture, as the end of a sentence; None if it can."""
    arguments = arguments_of(kind)
    if not arguments.keys() & set(PICTURE):
        return "takes no picture"
    if not arguments.keys() & {"prompt", "example_image"}:
        return "takes no prompt"
    if arguments.keys() & FILM or getattr(arguments.get("output_type"), "default", None) != "pil":
        return "makes no picture"
    wanted = [name for name, argument in arguments.items() if argument.default is argument.empty]
    lacking = {*wanted, *arguments.keys() & {"control_image"}} - GIVEN
    return f"needs {', '.join(sorted(lacking))}" if lacking else None


def _told(kind: type[Any], settings: PipelineSettings) -> dict[str, Any]:
    """What is set, in the names of a class's arguments."""
    arguments = arguments_of(kind)
    if taken := sorted({*GIVEN, "generator", "output_type"} & settings.extra.keys()):
        raise OptionError(f"{', '.join(taken)}: not for --set extra to say")
    told = dict(settings.extra)
    for setting, names in ARGUMENTS.items():
        if (value := getattr(settings, setting)) is not None:
            told[next((name for name in names if name in arguments), setting)] = value
    if unknown := sorted(told.keys() - arguments.keys()):
        raise OptionError(f"{kind.__name__} has no use for {', '.join(unknown)}")
    return told


def _pipeline_class(folder: Path, name: Any) -> Any:
    from diffusers import DiffusionPipeline

    kind = _class("diffusers", name)
    if kind is None or not issubclass(kind, DiffusionPipeline):
        raise CheckpointError(f"{folder}: diffusers has no pipeline {name!r}")
    if reason := unfit(kind):
        raise CheckpointError(f"{folder} is no editor: {name} {reason}")
    return kind


def _scheduler(name: str, saved: Any) -> Any:
    from diffusers import SchedulerMixin

    kind = _class("diffusers", name)
    if kind is None or not issubclass(kind, SchedulerMixin):
        raise OptionError(f"diffusers has no scheduler {name!r}")
    return kind.from_config(saved.config)


def _parts(
    folder: Path, index: Mapping[str, Any], kind: type[Any], device: torch.device, dtype: torch.dtype
) -> dict[str, Any]:
    """What a pipeline is made of, by the names of its constructor's arguments.

    The pipeline's own ``from_pretrained`` makes up weights that are missing, and no longer finds the nets of
    pipelines that diffusers has moved to its deprecated ones.
    """
    held = {**index, "safety_checker": None, "requires_safety_checker": False}
    wanted = inspect.signature(kind).parameters
    lacking = [name for name, part in wanted.items() if part.default is part.empty and name not in held]
    if lacking:
        raise CheckpointError(f"{folder} lacks {', '.join(lacking)}, which {kind.__name__} is made of")
    return {name: _part(folder, name, held[name], kind, device, dtype) for name in wanted if name in held}


def _part(
    folder: Path, name: str, held: Any, kind: type[Any], device: torch.device, dtype: torch.dtype
) -> Any:
    """A net, a tokenizer or the like, of which an index holds library and class; or a plain value."""
    if not isinstance(held, list):
        return held
    library, title = held
    if library is None:
        return None
    # transformers 5 has the feature extractors of older checkpoints under their newer name alone.
    title = title.replace("FeatureExtractor", "ImageProcessor")
    package = library if library in ("diffusers", "transformers") else f"diffusers.pipelines.{library}"
    part = _class(package, title) or _class(kind.__module__.rpartition(".")[0], title)
    if part is None:
        raise CheckpointError(f"{folder}: neither diffusers nor transformers has {library}.{title}")
    if issubclass(part, nn.Module):
        return load_part(part, folder, name, device, dtype)
    return part.from_pretrained(folder / name, local_files_only=True)


def _class(package: str, name: Any) -> Any:
    """The class of that name; None if there is none."""
    with suppress(ImportError, AttributeError, TypeError):
        found = getattr(importlib.import_module(package), name)
        return found if inspect.isclass(found) else None
    return None


def _precision(index: Mapping[str, Any], dtype: torch.dtype) -> torch.dtype:
    """Transformers of flow models were trained in bfloat16, and overflow float16."""
    return torch.bfloat16 if dtype == torch.float16 and "transformer" in index else dtype


def _room(picture: Frame) -> Canvas:
    """A picture's place in one of sides and aspect that every pipeline takes."""
    size = Size.of(picture)
    least = max(LEAST_SIDE, math.ceil(max(size.width, size.height) / MOST_ASPECT))
    return Canvas(size, size, Size(max(size.width, least), max(size.height, least)))


def _masks(mask: Mask | None, room: Canvas, canvas: Canvas) -> dict[str, Image.Image]:
    """A mask under its names; pipelines that call it ``mask_image`` cannot do without."""
    whole = np.ones((room.source.height, room.source.width), bool)
    inside = canvas.lay_mask(room.lay_mask(whole if mask is None else mask))
    picture = Image.fromarray(inside.astype(np.uint8) * 255)
    return {"mask_image": picture} | ({} if mask is None else {"mask": picture})


def _references(request: Request) -> list[Frame]:
    """The references; of the first one its subject alone, if it is known."""
    if not request.references or request.reference_mask is None:
        return list(request.references)
    first, *others = request.references
    return [_cut_out(first, request.reference_mask), *others]


def _cut_out(picture: Frame, mask: Mask) -> Frame:
    """What is in a mask, in the middle of a white square."""
    left, top, width, height = cv2.boundingRect(mask.astype(np.uint8))
    box = np.s_[top : top + height, left : left + width]
    square = np.full((max(width, height), max(width, height), 3), 255, np.uint8)
    y, x = (len(square) - height) // 2, (len(square) - width) // 2
    square[y : y + height, x : x + width][mask[box]] = picture[box][mask[box]]
    return square
