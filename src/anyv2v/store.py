"""Artefacts that outlive a run: the inversion of a clip, kept for later edits."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from anyv2v.edit import Trajectory
from anyv2v.errors import OptionError, OutputError

if TYPE_CHECKING:
    from anyv2v.backbones.protocol import Backbone, VideoSpec
    from anyv2v.options import Options

__all__ = ["check_free", "identity", "load_trajectory", "save_trajectory", "sha256", "write_text"]


def identity(
    backbone: Backbone, checkpoint: Path | None, frames: NDArray[np.uint8], spec: VideoSpec, options: Options
) -> dict[str, Any]:
    """Everything that an inversion depends on, but for its number of steps.

    Args:
        backbone: The image-to-video model.
        checkpoint: The folder that it was loaded from.
        frames: The source as the backbone sees it, ``[F, H, W, 3]``.
        spec: The clip's size, length and frame rate.
        options: Settings of the run.
    """
    return {
        "backbone": backbone.name,
        "checkpoint": str(checkpoint and checkpoint.resolve()),
        "frames": hashlib.sha256(frames.tobytes()).hexdigest(),
        "size": str(spec.size),
        "fps": str(spec.fps),
        "inversion_prompt": options.inversion_prompt,
        "vae": options.vae if options.vae == "mode" else f"{options.vae} {options.seed}",
    }


def check_free(path: Path, *, overwrite: bool) -> None:
    """See before the work begins that a file can be written.

    Raises:
        OutputError: It is there already, or its folder is missing or not writable.
    """
    if path.exists() and not overwrite:
        raise OutputError(f"{path}: exists already; --overwrite replaces it")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"{path}: the folder {path.parent} is missing, or cannot be written to")


def save_trajectory(path: Path, trajectory: Trajectory, about: Mapping[str, Any]) -> None:
    """Write an inversion as safetensors, whole or not at all; ``about`` is its ``identity``.

    Raises:
        OutputError: The file cannot be written.
    """
    from safetensors.torch import save

    tensors = {str(level): latents.cpu().contiguous() for level, latents in trajectory.latents.items()}
    _replace(path, save(tensors, metadata={"about": json.dumps(about)}))


def load_trajectory(path: Path, about: Mapping[str, Any], device: Any) -> Trajectory:
    """Read an inversion that ``save_trajectory`` wrote.

    Raises:
        OptionError: It is no inversion, or not that of this clip with these settings.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            found = json.loads(file.metadata()["about"])
            latents = {int(level): file.get_tensor(level) for level in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise OptionError(f"{path} is not an inversion that anyv2v wrote") from error
    if differing := [key for key in about if found.get(key) != about[key]]:
        raise OptionError(f"{path} is the inversion of something else: {', '.join(differing)} differ")
    return Trajectory(latents)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    _replace(path, text.encode())


def sha256(path: Path) -> str:
    """The hash of a file, or of the files of a folder or a pattern in the order of their names."""
    digest = hashlib.sha256()
    folder, pattern = (path, "*") if path.is_dir() else (path.parent, path.name)
    for file in [path] if path.is_file() else sorted(filter(Path.is_file, folder.glob(pattern))):
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def _replace(path: Path, content: bytes) -> None:
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = Path(file.name)
            file.write(content)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}") from error
    # A temporary file is private; give it the rights that any new file gets.
    umask = os.umask(0)
    os.umask(umask)
    temporary.chmod(0o666 & ~umask)
    temporary.replace(path)
