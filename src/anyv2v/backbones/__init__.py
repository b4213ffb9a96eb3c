"""The registry of backbones: what can carry an edit through a clip, and where its weights are.

Nothing heavy is imported here; a backbone's own module is imported when it is loaded. Another package adds a
backbone with an entry point in the group ``anyv2v.backbones`` that names an ``Entry``.
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from anyv2v.errors import CheckpointError, OptionError, UserError
from anyv2v.options import RECIPES, Options
from anyv2v.packages import brought
from anyv2v.weights import Weights

if TYPE_CHECKING:
    from anyv2v.backbones.protocol import Backbone
    from anyv2v.flow import Carried
    from anyv2v.picture import Frame

__all__ = [
    "Carrier",
    "Choice",
    "Entry",
    "at_hand",
    "choose",
    "list_backbones",
    "load_backbone",
    "load_choice",
    "recipe",
]


@runtime_checkable
class Carrier(Protocol):
    """What carries an edit in pixels, without latents; optical flow is one."""

    def carry(self, frames: Iterable[Frame], edited_first: Frame) -> Carried:
        """Carry an edited first frame through frames of its size."""
        ...


@dataclass(frozen=True)
class Entry:
    """What the registry knows of a backbone before it is loaded.

    Attributes:
        name: The name on the command line.
        summary: One line for a person.
        target: ``module:Class``. A class with a checkpoint has ``load(folder, device, dtype)``.
        pipelines: What ``model_index.json`` may call its checkpoints' class; nothing if it needs no weights.
        weights: Where its weights are published.
        recipes: Named options; ``default`` is what it is at its best with.
    """

    name: str
    summary: str
    target: str
    pipelines: tuple[str, ...] = ()
    weights: Weights | None = None
    recipes: Mapping[str, Options] = field(default_factory=lambda: RECIPES)


def _recipes(paper: Mapping[str, Any] = MappingProxyType({}), **own: Any) -> Mapping[str, Options]:
    """I2VGen-XL's recipes with a backbone's own settings, and what of the reference's is a quirk of it."""
    recipes = {name: replace(options, **own) for name, options in RECIPES.items()}
    return recipes | {"paper": replace(recipes["paper"], **paper)}


_SEINE = (
    "hf download Vchitect/SEINE seine.pt --local-dir seine && "
    'hf download CompVis/stable-diffusion-v1-4 --include "*.json" --include "*.txt" '
    '--include "vae/*.safetensors" --include "text_encoder/*.safetensors" '
    "--local-dir seine/stable-diffusion-v1-4, and then: --model seine"
)

_BUILT_IN = (
    Entry(
        "flow",
        "optical flow: no model, any machine, seconds",
        "anyv2v.flow:Flow",
    ),
    Entry(
        "i2vgen-xl",
        "I2VGen-XL, the paper's most robust model (arXiv 2311.04145)",
        "anyv2v.backbones.i2vgen_xl:I2VGenXL",
        pipelines=("I2VGenXLPipeline",),
        weights=Weights("ali-vilab/i2vgen-xl", 5.0, "MIT", ("*.json", "*.txt", "*.fp16.safetensors")),
    ),
    Entry(
        "consisti2v",
        "ConsistI2V, which looks back at the first frame (arXiv 2402.04324)",
        "anyv2v.backbones.consisti2v:ConsistI2V",
        pipelines=("ConditionalAnimationPipeline", "ConditionalVideoEditingPipeline"),
        weights=Weights("TIGER-Lab/ConsistI2V", 7.0, "MIT", ("*.json", "*.txt", "*.safetensors")),
        recipes=_recipes(guidance=35.0, skip=4, paper={"source_frame": "edited"}),
    ),
    Entry(
        "seine",
        "SEINE, which fills in what a mask leaves open (arXiv 2310.20700)",
        "anyv2v.backbones.seine:SEINE",
        pipelines=("SEINE",),
        weights=Weights("Vchitect/SEINE", 5.0, "Apache-2.0, CreativeML Open RAIL-M", commands=_SEINE),
        recipes=_recipes(guidance=4.0, skip=0, paper={"sampler": "ddpm", "start_level": 997}),
    ),
    Entry(
        "mini",
        "a small I2VGen-XL for rendered clips, 64 x 64: the method on any machine, nothing to download",
        "anyv2v.backbones.mini:Mini",
        pipelines=("AnyV2VMini", "I2VGenXLPipeline"),
        weights=Weights(None, 0.03, "MIT", shipped=Path(__file__).parent / "mini_weights"),
        recipes=_recipes(guidance=1.0, skip=0),
    ),
)


@cache
def list_backbones() -> Mapping[str, Entry]:
    """Every backbone by name: the built-in ones and those of other packages."""
    ours = {entry.name: entry for entry in _BUILT_IN}
    others = {entry.name: entry for entry in brought("anyv2v.backbones", Entry)}
    # What another package calls by the name of one of ours does not take its place.
    return MappingProxyType(ours | others | ours)


@dataclass(frozen=True)
class Choice:
    """A backbone that was chosen, the folder of its checkpoint, and why, if the choice was ours."""

    entry: Entry
    checkpoint: Path | None = None
    reason: str | None = None


def choose(name: str = "auto", model: str | None = None, device: str = "auto") -> Choice:
    """Find a backbone and its weights, without loading anything.

    Args:
        name: A name in the registry. ``auto`` is the backbone of the checkpoint ``model``, if one is given;
            else I2VGen-XL where there is a CUDA GPU and its weights, else optical flow.
        model: A folder, or a Hugging Face repository that was downloaded.
        device: Where it will work, see ``load_backbone``; on others than CUDA GPUs ``auto`` is optical flow.

    Raises:
        OptionError: There is no such backbone.
        CheckpointError: ``model`` is no checkpoint, or that of another model.
        WeightsMissing: The weights are not on this machine.
    """
    from anyv2v.backbones.checkpoint import find

    if name == "auto":
        if model is None:
            return _best_on(device)
        name = _name_for(model)
    if name not in list_backbones():
        raise OptionError(f"no backbone {name!r}; there are {', '.join(list_backbones())}")
    entry = list_backbones()[name]
    return Choice(entry, find(entry, model) if entry.weights else None)


def recipe(name: str = "default", backbone: str = "auto", model: str | None = None) -> Options:
    """The options of a named recipe.

    Args:
        name: ``default`` does what is right; ``paper`` keeps every quirk of the reference that changes its
            numbers; ``fast`` asks the net for least.
        backbone: Whose; one that is not in the registry takes I2VGen-XL's, the paper's.
        model: See ``choose``.

    Raises:
        OptionError: There is no such recipe.
        CheckpointError: ``model`` is no checkpoint.
    """
    if backbone == "auto" and model is not None:
        backbone = _name_for(model)
    entry = list_backbones().get(backbone)
    recipes = entry.recipes if entry else RECIPES
    if str(name) not in recipes:
        raise OptionError(f"no recipe {name!r}; there are {', '.join(recipes)}")
    return recipes[name]


def load_backbone(
    name: str = "auto",
    model: str | None = None,
    *,
    device: str = "auto",
    dtype: str = "auto",
    low_memory: bool = False,
    compiled: bool = False,
) -> Backbone | Carrier:
    """Load a backbone.

    Args:
        name: See ``choose``.
        model: See ``choose``.
        device: ``cuda``, ``cuda:1``, ``mps``, ``cpu``; ``auto`` takes the best there is. On ``meta`` the nets
            have shapes and no weights.
        dtype: ``float32``, ``float16``, ``bfloat16``; ``auto`` is float32 on the CPU, else float16.
        low_memory: Keep on a GPU only the part that works: the net, the VAE, or an encoder; and do the
            net's work in parts.
        compiled: Have layers of the net compiled as they are first called: minutes once, each run faster.

    Raises:
        OptionError: There is no such backbone, device or dtype.
        CheckpointError: ``model`` is no checkpoint, the checkpoint of another model, or an incomplete one.
        WeightsMissing: The weights are not on this machine.
    """
    return load_choice(
        choose(name, model, device), device=device, dtype=dtype, low_memory=low_memory, compiled=compiled
    )


def load_choice(
    choice: Choice,
    *,
    device: str = "auto",
    dtype: str = "auto",
    low_memory: bool = False,
    compiled: bool = False,
) -> Backbone | Carrier:
    """Load what ``choose`` found."""
    module, _, attribute = choice.entry.target.partition(":")
    target = getattr(importlib.import_module(module), attribute)
    if choice.checkpoint is None:
        return target()  # type: ignore[no-any-return]
    load = partial(_visitor, target) if low_memory else target.load
    backbone: Backbone = load(choice.checkpoint, device, dtype)
    if compiled:
        from anyv2v.compiling import compile_regions

        compile_regions(backbone.net, backbone.bank)
    return backbone


def _visitor(target: Any, checkpoint: Path, device: str, dtype: str) -> Backbone:
    """A backbone that works in parts, and waits in the host's memory, which on the CPU is where it works."""
    from anyv2v.backbones.chunking import spare
    from anyv2v.weights import pick_device, pick_dtype

    place = pick_device(device)
    home = place if place.type == "meta" else "cpu"
    backbone: Backbone = target.load(
        checkpoint, str(home), str(pick_dtype(dtype, place)).removeprefix("torch.")
    )
    spare(backbone.net, backbone.bank, backbone.deep)
    if place.type not in ("cpu", "meta"):
        backbone.visit(place)
    return backbone


def _name_for(model: str) -> str:
    """The backbone that a checkpoint was made for."""
    from anyv2v.backbones.checkpoint import pipeline_of

    pipeline = pipeline_of(Path(model)) if Path(model).exists() else None
    for entry in list_backbones().values():
        if pipeline in entry.pipelines or (entry.weights and entry.weights.repository == model):
            return entry.name
    what = f"the checkpoint of a {pipeline}" if pipeline else "neither a folder nor a known repository"
    raise CheckpointError(f"{model} is {what}; name its backbone")


def _best_on(device: str) -> Choice:
    from anyv2v.backbones.checkpoint import find

    flow, diffusion = list_backbones()["flow"], list_backbones()["i2vgen-xl"]
    if device not in ("auto", "meta") and not device.startswith("cuda"):
        return Choice(flow, reason=f"optical flow carries the edit, as it is the quick one on {device}")
    if not cuda_devices():
        return Choice(
            flow,
            reason="optical flow carries the edit, as there is no CUDA GPU; "
            f"how to get the paper's model: anyv2v backbones (--backbone {diffusion.name})",
        )
    try:
        found = find(diffusion, None)
    except UserError as missing:
        return Choice(flow, reason=f"optical flow carries the edit: {missing}")
    if not sees_gpu():
        return Choice(flow, reason=f"optical flow carries the edit: {BLIND}")
    return Choice(diffusion, found)


def at_hand(entry: Entry) -> bool:
    """Whether a backbone could be loaded here without a download."""
    from anyv2v.backbones.checkpoint import find

    try:
        return entry.weights is None or bool(find(entry, None))
    except UserError:
        return False


def cuda_devices() -> int:
    """The number of CUDA GPUs, asked of the driver, so that torch need not be imported."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int()
    found = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
    return count.value if found else 0


BLIND = "the installed torch cannot use the GPU: it is built for the CPU, or the driver is older than it"


def sees_gpu() -> bool:
    """Whether torch can use what ``cuda_devices`` counts."""
    import torch

    return torch.cuda.is_available()
