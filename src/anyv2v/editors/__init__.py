"""The registry of editors: what can change a first frame, what each needs, and where its weights are.

Nothing heavy is imported here; an editor's own module is imported when it is loaded. Another package adds an
editor with an entry point in the group ``anyv2v.editors`` that names an ``EditorEntry``.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from anyv2v.errors import OptionError, UserError, WeightsMissing
from anyv2v.weights import Weights, weights_missing

if TYPE_CHECKING:
    from anyv2v.editors.protocol import Editor

__all__ = [
    "EditorChoice",
    "EditorEntry",
    "Input",
    "check_inputs",
    "choose_editor",
    "list_editors",
    "load_editor",
    "load_editor_choice",
]

Input = Literal["first frame", "command", "instruction", "reference", "reference mask", "mask"]


@dataclass(frozen=True)
class EditorEntry:
    """What the registry knows of an editor before it is loaded.

    Attributes:
        name: The name on the command line.
        task: Which of the paper's tasks it does: ``any``, ``prompt``, ``style``, ``subject``, ``identity``.
        summary: One line for a person.
        target: ``module:Class`` of a ``LoadableEditor``.
        needs: What it cannot do without.
        takes: What it can use besides.
        weights: Where its weights are published.
        settings: Its own defaults for settings of its class.
        modules: What must be installed besides, by name of import.
        extra: The extra of this package that installs them.
        repeatable: Whether the same request always gives the same picture, so that it need not run again.
        places: Whether it keeps to the mask by itself, so that nothing of its result is cut off.
    """

    name: str
    task: Literal["any", "prompt", "style", "subject", "identity"]
    summary: str
    target: str
    needs: tuple[Input, ...] = ()
    takes: tuple[Input, ...] = ()
    weights: tuple[Weights, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    modules: tuple[str, ...] = ()
    extra: str | None = None
    repeatable: bool = True
    places: bool = False

    @property
    def download(self) -> str:
        """The commands that bring what it lacks to this machine."""
        install = [f"pip install 'anyv2v[{self.extra}]'"] if self.extra else []
        return " && ".join([*install, *(weights.download for weights in self.weights)])

    @property
    def at_hand(self) -> bool:
        """Whether it could be loaded here without a download."""
        try:
            _check_installed(self)
            return bool([weights.whole_folder() for weights in self.weights]) or not self.weights
        except UserError:
            return False


_SDXL = Weights(
    "stabilityai/stable-diffusion-xl-base-1.0",
    6.9,
    "CreativeML Open RAIL++-M",
    files=(
        "model_index.json",
        "scheduler/*",
        "tokenizer*/*",
        "text_encoder*/config.json",
        "text_encoder*/*.fp16.safetensors",
        "unet/config.json",
        "unet/*.fp16.safetensors",
        "vae/config.json",
        "vae/*.fp16.safetensors",
    ),
    role="sdxl",
)

_BUILT_IN: tuple[EditorEntry, ...] = (
    EditorEntry(
        "image",
        "any",
        "a picture that was edited elsewhere, by hand or by any program",
        "anyv2v.editors.image:Image",
        needs=("first frame",),
        repeatable=False,
    ),
    EditorEntry(
        "command",
        "any",
        "any program that reads a picture and writes one",
        "anyv2v.editors.command:Command",
        needs=("command",),
        takes=("instruction", "reference"),
        repeatable=False,
    ),
    EditorEntry(
        "color",
        "style",
        "the colours of a reference, at once and without a model",
        "anyv2v.editors.color:Color",
        needs=("reference",),
        takes=("reference mask",),
    ),
    EditorEntry(
        "instant-style",
        "style",
        "InstantStyle: the frame in the style of the reference, its contours kept",
        "anyv2v.editors.instant_style:InstantStyle",
        needs=("reference",),
        takes=("instruction",),
        weights=(
            _SDXL,
            Weights(
                "h94/IP-Adapter",
                3.2,
                "Apache-2.0",
                files=(
                    "sdxl_models/ip-adapter_sdxl_vit-h.safetensors",
                    "models/image_encoder/config.json",
                    "models/image_encoder/model.safetensors",
                ),
                role="adapter",
            ),
            Weights(
                "diffusers/controlnet-canny-sdxl-1.0",
                2.5,
                "CreativeML Open RAIL++-M",
                files=("config.json", "diffusion_pytorch_model.fp16.safetensors"),
                role="structure",
            ),
        ),
    ),
    EditorEntry(
        "anydoor",
        "subject",
        "AnyDoor: puts the subject of the reference where the mask is",
        "anyv2v.editors.anydoor:AnyDoor",
        needs=("reference", "reference mask", "mask"),
        weights=(
            Weights(
                "xichenhku/AnyDoor",
                16.8,
                "no licence is stated; made from Stable Diffusion 2.1 (Open RAIL++-M) and DINOv2",
                commands='hf download xichenhku/AnyDoor "epoch=1-step=8687.ckpt" --repo-type space '
                "--local-dir anydoor, and then: --editor-model anydoor",
                commercial=False,
            ),
        ),
        places=True,
    ),
    EditorEntry(
        "instant-id",
        "identity",
        "InstantID: the face of the frame becomes that of the reference",
        "anyv2v.editors.instant_id:InstantID",
        needs=("reference",),
        takes=("instruction",),
        weights=(
            _SDXL,
            Weights(
                "InstantX/InstantID",
                4.2,
                "Apache-2.0 by its card, research only by its README",
                files=("ControlNetModel/*", "ip-adapter.bin"),
                role="identity",
                commercial=False,
            ),
            Weights(
                "DIAMONIK7777/antelopev2",
                0.3,
                "insightface's models, for research only",
                files=("scrfd_10g_bnkps.onnx", "glintr100.onnx"),
                role="faces",
                commercial=False,
            ),
        ),
        modules=("insightface", "onnxruntime"),
        extra="identity",
    ),
)


@cache
def list_editors() -> Mapping[str, EditorEntry]:
    """Every editor by name: the built-in ones and those of other packages."""
    others = (point.load() for point in entry_points(group="anyv2v.editors"))
    return MappingProxyType({entry.name: entry for entry in (*_BUILT_IN, *others)})


@dataclass(frozen=True)
class EditorChoice:
    """An editor that was chosen, with its settings and the folders of its weights."""

    entry: EditorEntry
    settings: Any
    weights: Mapping[str, Path]


def choose_editor(
    name: str,
    models: Mapping[str, str] = MappingProxyType({}),
    settings: Mapping[str, Any] = MappingProxyType({}),
) -> EditorChoice:
    """Find an editor and its weights, without loading anything.

    Args:
        name: A name in the registry.
        models: Folders or repositories to take in place of the published ones, by role; the empty role is
            the first.
        settings: What the user set, by name; values may be texts.

    Raises:
        OptionError: There is no such editor, role or setting, or a value that does not fit it.
        WeightsMissing: The weights are not on this machine; the message says how to get them.
        CheckpointError: What ``models`` names is no checkpoint.
    """
    if name not in list_editors():
        raise OptionError(f"no editor {name!r}; there are {', '.join(list_editors())}")
    entry = list_editors()[name]
    _check_installed(entry)
    return EditorChoice(entry, _settings(entry, settings), _folders(entry, models))


def check_inputs(entry: EditorEntry, given: set[Input]) -> None:
    """See before anything is loaded that an editor gets what it needs.

    Raises:
        OptionError: It does not, or gets what it has no use for.
    """
    if lacking := [what for what in entry.needs if what not in given]:
        raise OptionError(f"{entry.name} needs {_options(lacking)}")
    # A mask limits whatever an editor does, so each has a use for one.
    if unused := sorted(given - {*entry.needs, *entry.takes, "mask"}):
        raise OptionError(f"{entry.name} has no use for {_options(unused)}")


def _options(inputs: list[Input] | list[str]) -> str:
    return " and ".join(f"--{what.replace(' ', '-')}" for what in inputs)


def load_editor(
    name: str,
    models: Mapping[str, str] = MappingProxyType({}),
    *,
    device: str = "auto",
    dtype: str = "auto",
    low_memory: bool = False,
    **settings: Any,
) -> Editor:
    """Load an editor.

    Args:
        name: See ``choose_editor``.
        models: See ``choose_editor``.
        device: See ``load_backbone``.
        dtype: ``float32``, ``float16``, ``bfloat16``; ``auto`` is float32 on the CPU, else bfloat16 where
            the editor was trained in it, else float16.
        low_memory: Keep on the device only the part that works.
        settings: The editor's own.

    Raises:
        UserError: See ``choose_editor``.
    """
    return load_editor_choice(
        choose_editor(name, models, settings), device=device, dtype=dtype, low_memory=low_memory
    )


def load_editor_choice(
    choice: EditorChoice, *, device: str = "auto", dtype: str = "auto", low_memory: bool = False
) -> Editor:
    """Load what ``choose_editor`` found."""
    from anyv2v.editors.protocol import Machine
    from anyv2v.weights import pick_device, pick_dtype

    place = pick_device(device)
    machine = Machine(place, pick_dtype(dtype, place), low_memory)
    return _class_of(choice.entry).load(choice.weights, choice.settings, machine)  # type: ignore[no-any-return]


def _class_of(entry: EditorEntry) -> Any:
    module, _, name = entry.target.partition(":")
    return getattr(importlib.import_module(module), name)


def _check_installed(entry: EditorEntry) -> None:
    if missing := [module for module in entry.modules if find_spec(module) is None]:
        raise OptionError(f"{entry.name} needs {', '.join(missing)}: pip install 'anyv2v[{entry.extra}]'")


def _folders(entry: EditorEntry, models: Mapping[str, str]) -> dict[str, Path]:
    """The folder or file of each of an editor's weights, by role."""
    roles = [weights.role for weights in entry.weights]
    given = {role or (roles[0] if roles else ""): model for role, model in models.items()}
    for role in given.keys() - set(roles):
        known = f"; there are {', '.join(roles)}" if roles else ""
        raise OptionError(f"{entry.name} has no model {role!r}{known}")
    found, absent = {}, []
    for weights in entry.weights:
        try:
            found[weights.role] = weights.whole_folder(given.get(weights.role))
        except WeightsMissing:
            absent.append(weights.of(given.get(weights.role)))
    if absent:
        raise weights_missing(absent)
    return found


def _settings(entry: EditorEntry, given: Mapping[str, Any]) -> Any:
    """An editor's settings: its class's defaults, its entry's, and the user's."""
    from pydantic import TypeAdapter, ValidationError

    kind = _class_of(entry).Settings
    known = [f.name for f in fields(kind)]
    for name in given.keys() - set(known):
        raise OptionError(f"{entry.name} has no setting {name!r}; there are {', '.join(known) or 'none'}")
    try:
        return TypeAdapter(kind).validate_python({**entry.settings, **given})
    except ValidationError as error:
        first = error.errors()[0]
        where = " ".join(map(str, first["loc"]))
        raise OptionError(f"{entry.name}, {where}: {first['msg'][0].lower()}{first['msg'][1:]}") from error
