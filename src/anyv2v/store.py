"""Artefacts that outlive a run: the inversion of a clip, and edited first frames, kept for later edits."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from anyv2v.drafts import draft
from anyv2v.edit import Trajectory
from anyv2v.errors import ImageError, OptionError
from anyv2v.fitting import clip_spec
from anyv2v.video import Frame, Video, read_image, write_image

if TYPE_CHECKING:
    from anyv2v.backbones.protocol import Backbone
    from anyv2v.editors import EditorChoice
    from anyv2v.editors.protocol import Request
    from anyv2v.options import Options

__all__ = [
    "cache_folder",
    "frame_key",
    "identity",
    "keep_frame",
    "kept_frame",
    "load_trajectory",
    "save_trajectory",
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
    return {
        "backbone": backbone.name,
        "checkpoint": str(checkpoint and checkpoint.resolve()),
        "number of frames": str(len(video)),
        "frames": hashlib.sha256(video.frames.tobytes()).hexdigest(),
        "size": f"{options.fit} to {spec.size}",
        "fps": str(spec.fps),
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
    from safetensors.torch import save

    tensors = {str(level): latents.cpu().contiguous() for level, latents in trajectory.latents.items()}
    metadata = {"identity": json.dumps(about), "inversion_steps": str(steps)}
    with draft(path, overwrite=overwrite) as temporary:
        temporary.write_bytes(save(tensors, metadata=metadata))


def load_trajectory(path: Path, about: Mapping[str, str], device: Any) -> tuple[Trajectory, int]:
    """Read an inversion that ``save_trajectory`` wrote, and the number of its steps.

    Raises:
        OptionError: It is no inversion, or not that of this clip with these settings.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            found, steps = json.loads(file.metadata()["identity"]), int(file.metadata()["inversion_steps"])
            latents = {int(level): file.get_tensor(level) for level in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise OptionError(f"{path} is not an inversion that anyv2v wrote") from error
    if differing := [key for key in about if found.get(key) != about[key]]:
        raise OptionError(f"{path} is the inversion of something else: {', '.join(differing)} differ")
    return Trajectory(latents), steps


def cache_folder() -> Path:
    """Where what was once made is kept: ``ANYV2V_CACHE``, else ``anyv2v`` in the user's cache folder."""
    if named := os.environ.get("ANYV2V_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "anyv2v"


def frame_key(choice: EditorChoice, request: Request) -> str:
    """A name for everything that an edited first frame depends on, but for the machine."""
    pictures = [request.frame, *request.references, request.reference_mask, request.mask]
    content = {
        "editor": choice.entry.name,
        "weights": {role: str(path.resolve()) for role, path in choice.weights.items()},
        "settings": asdict(choice.settings),
        "instruction": request.instruction,
        "pictures": [_digest(picture) for picture in pictures],
        "seed": request.seed,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def _digest(array: NDArray[Any] | None) -> str | None:
    if array is None:
        return None
    return f"{array.shape} {hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()}"


def kept_frame(key: str) -> Frame | None:
    """An edited first frame that was kept, ``[H, W, 3]``; nothing if there is none, or it is damaged."""
    try:
        return read_image(_frame_file(key))
    except ImageError:
        return None


def keep_frame(key: str, frame: Frame) -> None:
    """Keep an edited first frame, whole or not at all. Raises OutputError."""
    file = _frame_file(key)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_image(file, frame)


def _frame_file(key: str) -> Path:
    return cache_folder() / "frames" / f"{key}.png"
