"""Artefacts that outlive a run: the inversion of a clip, and edited first frames, kept for later edits."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from anyv2v.cache import Kept, file_of, keeping, key_of, touch
from anyv2v.edit import Trajectory
from anyv2v.errors import ImageError, OptionError
from anyv2v.fitting import clip_spec, inversion_modes
from anyv2v.host import pinned
from anyv2v.picture import Frame, read_image, write_image
from anyv2v.sidecar import library_versions
from anyv2v.video import Video
from anyv2v.weights import save_tensors

if TYPE_CHECKING:
    from torch import Tensor

    from anyv2v.backbones.protocol import Backbone
    from anyv2v.editors import EditorChoice
    from anyv2v.editors.protocol import Request
    from anyv2v.options import Options

__all__ = [
    "fingerprint",
    "frame_key",
    "identity",
    "inversion_key",
    "keep_frame",
    "keep_inversion",
    "kept_frame",
    "kept_inversion",
    "load_trajectory",
    "save_trajectory",
    "subject_of",
]


def identity(backbone: Backbone, checkpoint: Path | None, video: Video, options: Options) -> dict[str, str]:
    """Everything that an inversion depends on, but for its number of steps.

    Args:
        backbone: The image-to-video model.
        checkpoint: The folder that it was loaded from.
        video: The source.
        options: Settings of the run.
    """
    spec = clip_spec(backbone, video, options)
    iterations = options.inversion_iterations if options.inversion == "fixed-point" else ""
    modes = inversion_modes(backbone, options)
    whole = [level for level, mode in modes.items() if mode != "reuse"]
    some = f"computed at {len(whole)} of {len(modes)} levels, {key_of({'levels': whole})[:8]}"
    return {
        "backbone": backbone.name,
        "checkpoint": str(checkpoint and checkpoint.resolve()),
        "number of frames": str(len(video)),
        "frames": hashlib.sha256(video.frames.tobytes()).hexdigest(),
        "size": f"{options.fit} to {spec.size}",
        "fps": str(spec.fps),
        "inversion": f"{options.inversion} {iterations}".strip(),
        "deep layers": some if len(whole) < len(modes) else "computed",
        "inversion prompt": options.inversion_prompt,
        "vae": options.vae if options.vae == "mode" else f"{options.vae} {options.seed}",
    }


def save_trajectory(
    path: Path, trajectory: Trajectory, about: Mapping[str, str], steps: int, *, overwrite: bool
) -> None:
    """Write an inversion of ``steps`` steps, with its ``identity``, as safetensors, whole or not at all.

    Raises:
        OutputError: The file cannot be written.
    """
    tensors = {name: tensor.cpu().contiguous() for name, tensor in _tensors(trajectory).items()}
    metadata = {"identity": json.dumps(about), "inversion_steps": str(steps), "sha256": _sum(tensors)}
    save_tensors(path, tensors, metadata, overwrite=overwrite)


def _tensors(trajectory: Trajectory) -> dict[str, Tensor]:
    """Its tensors by a name each: the level, and of a feature the module that it is of."""
    features = {
        f"{level} {module}": feature
        for level, by_module in trajectory.features.items()
        for module, feature in by_module.items()
    }
    return {str(level): latents for level, latents in trajectory.latents.items()} | features


def _trajectory(tensors: Mapping[str, Tensor]) -> Trajectory:
    latents: dict[int, Tensor] = {}
    features: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        level, _, module = name.partition(" ")
        if module:
            features.setdefault(int(level), {})[module] = tensor
        else:
            latents[int(level)] = tensor
    return Trajectory(latents, features)


def _sum(tensors: Mapping[str, Tensor]) -> str:
    """A hash of names, shapes and numbers: the format has none of its own."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def load_trajectory(path: Path, about: Mapping[str, str], device: Any) -> tuple[Trajectory, int]:
    """Read an inversion that ``save_trajectory`` wrote, and the number of its steps.

    Its latents come to the device; its features wait in the host's memory.

    Raises:
        OptionError: It is no inversion, a damaged one, or not that of this clip with these settings.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            said = file.metadata()
            found, steps, digest = json.loads(said["identity"]), int(said["inversion_steps"]), said["sha256"]
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise OptionError(f"{path} is not an inversion that anyv2v wrote") from error
    if differing := [key for key in about if found.get(key) != about[key]]:
        said = (
            key if key == "frames" else f"{key} ({found.get(key)!r}, not {about[key]!r})" for key in differing
        )
        raise OptionError(f"{path} is the inversion of something else: {', '.join(said)} differ")
    if _sum(tensors) != digest:
        raise OptionError(f"{path} is damaged; invert the clip again")
    # Copies, aligned as fresh results are: of a file's own alignment some kernels round differently.
    held = _trajectory({name: pinned(tensor, device) for name, tensor in tensors.items()})
    return Trajectory({level: z.to(device) for level, z in held.latents.items()}, held.features), steps


def inversion_key(backbone: Backbone, checkpoint: Path, about: Mapping[str, str], steps: int) -> str:
    """A name for everything that an inversion depends on, but for the machine.

    Args:
        backbone: The image-to-video model.
        checkpoint: The folder that it was loaded from; trained anew, it gives other names.
        about: The ``identity`` of the inversion.
        steps: Inversion steps.
    """
    more = {
        "steps": steps,
        "dtype": str(next(backbone.net.parameters()).dtype),
        "files": fingerprint(checkpoint),
        "anyv2v": library_versions()["anyv2v"],
    }
    return key_of({**about, **more})


def fingerprint(path: Path) -> list[tuple[str, int, int]]:
    """Names, sizes and times of a checkpoint's files: what can be known of gigabytes in no time."""
    path = path.resolve()
    files = [path] if path.is_file() else sorted(filter(Path.is_file, path.rglob("*")))
    return [_facts(file) for file in files]


def _facts(file: Path) -> tuple[str, int, int]:
    fact = file.stat()
    return str(file), fact.st_size, fact.st_mtime_ns


def kept_inversion(key: str, about: Mapping[str, str], device: Any) -> Trajectory | None:
    """An inversion that was kept; nothing if there is none, or it is damaged."""
    file = file_of("inversions", key)
    try:
        trajectory, _ = load_trajectory(file, about, device)
    except OptionError:
        return None
    touch(file)
    return trajectory


def keep_inversion(key: str, trajectory: Trajectory, about: Mapping[str, str], steps: int) -> None:
    """Keep an inversion, whole or not at all. Raises UserError."""
    with keeping("inversions", key) as file:
        save_trajectory(file, trajectory, about, steps, overwrite=True)


def frame_key(choice: EditorChoice, request: Request, dtype: str = "auto") -> str:
    """A name for everything that an edited first frame depends on, but for the machine.

    Args:
        choice: The editor. Changed code of it, and changed weights, give other names.
        request: What it is asked.
        dtype: What it computes in.
    """
    versions = library_versions()
    libraries = ("anyv2v", "torch", "diffusers", "transformers") if choice.weights else ("anyv2v",)
    pictures = [request.frame, *request.references, request.reference_mask, request.mask]
    kind, settings = type(choice.settings), choice.settings
    counted = [f.name for f in fields(kind) if f.metadata.get("result", True)]
    content = {
        "editor": choice.entry.name,
        "code": [*(versions.get(name) for name in libraries), *_facts(Path(inspect.getfile(kind)))],
        "weights": {role: [str(path.resolve()), fingerprint(path)] for role, path in choice.weights.items()},
        "files": [_facts(file) for file in getattr(settings, "files", ())],
        "settings": {name: getattr(settings, name) for name in counted},
        "instruction": request.instruction,
        "pictures": [_digest(picture) for picture in pictures],
        "seed": request.seed if choice.entry.seeded else None,
        "dtype": dtype,
    }
    return key_of(content)


def _digest(array: NDArray[Any] | None) -> str | None:
    if array is None:
        return None
    return f"{array.shape} {hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()}"


def kept_frame(key: str) -> Frame | None:
    """An edited first frame that was kept, ``[H, W, 3]``; nothing if there is none, or it is damaged."""
    file = file_of("frames", key)
    try:
        frame = read_image(file)
    except ImageError:
        return None
    touch(file)
    return frame


def keep_frame(key: str, frame: Frame) -> None:
    """Keep an edited first frame, whole or not at all. Raises UserError."""
    with keeping("frames", key) as file:
        write_image(file, frame, overwrite=True)


def subject_of(kept: Kept) -> str:
    """What something that is kept is of, in a few words; clips themselves are known by their hash alone."""
    try:
        return _of_inversion(kept.file) if kept.kind == "inversions" else _of_frame(kept.file)
    except Exception:  # whatever a damaged file makes the libraries raise
        return "damaged"


def _of_inversion(file: Path) -> str:
    from safetensors import safe_open

    with safe_open(file, framework="np") as content:
        said = content.metadata()
    about = json.loads(said["identity"])
    frames, steps = about["number of frames"], said["inversion_steps"]
    return f"{about['backbone']}, {about['size']}, {frames} frames, {steps} steps of {about['inversion']}"


def _of_frame(file: Path) -> str:
    from PIL import Image

    with Image.open(file) as image:
        return f"{image.width}x{image.height}"
