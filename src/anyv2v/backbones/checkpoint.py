"""Checkpoints of backbones: find one, and check that it is what it should be and whole."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from anyv2v.errors import CheckpointError
from anyv2v.weights import configuration, parts_without_files, read_weights

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from anyv2v.backbones import Entry

__all__ = ["ema_weights", "find", "pipeline_of", "stable_diffusion"]


def find(entry: Entry, model: str | None) -> Path:
    """The folder of a backbone's checkpoint: a given one, or a repository in the Hugging Face cache."""
    assert entry.weights is not None
    folder = entry.weights.folder(model)
    pipeline = pipeline_of(folder)
    if pipeline not in entry.pipelines:
        needed = " or ".join(entry.pipelines)
        raise CheckpointError(f"{folder} is the checkpoint of a {pipeline}; {entry.name} needs {needed}")
    if lacking := _lacking(folder):
        raise entry.weights.incomplete(folder, model, lacking)
    return folder


def _lacking(folder: Path) -> list[str]:
    """The parts of a pipeline that a checkpoint names but does not hold, as after an interrupted download."""
    if _ema_file(folder):  # its net is the one file, and it needs no more of Stable Diffusion than this
        return parts_without_files(stable_diffusion(folder), ("vae", "text_encoder", "tokenizer"))
    return parts_without_files(folder)


def pipeline_of(folder: Path) -> str:
    """The class of the pipeline that a checkpoint was saved from.

    Raises:
        CheckpointError: The folder is no checkpoint in diffusers' layout.
    """
    if _ema_file(folder):
        return "SEINE"  # one file cannot name the class of a pipeline
    index = configuration(folder, "model_index.json")
    return str(index.get("_class_name", "nameless pipeline"))


def _ema_file(folder: Path) -> Path | None:
    """SEINE's net: as published, or better as ``convert`` left it."""
    return next(
        (folder / name for name in ("seine.safetensors", "seine.pt") if (folder / name).exists()), None
    )


def stable_diffusion(folder: Path) -> Path:
    """The Stable Diffusion folder within a checkpoint of SEINE.

    Raises:
        CheckpointError: There is none.
    """
    for index in sorted(folder.glob("*/model_index.json")):
        return index.parent
    raise CheckpointError(f"{folder}: there is no Stable Diffusion v1-4 folder in it, which SEINE builds on")


def ema_weights(folder: Path, device: torch.device) -> dict[str, Tensor]:
    """The weights of SEINE's net, by name; on the meta device their shapes alone.

    Raises:
        CheckpointError: There are none, or they are broken.
    """
    file = _ema_file(folder)
    if file is None:
        raise CheckpointError(f"{folder}: there is neither seine.safetensors nor seine.pt in it")
    weights = read_weights(file)
    return {name: weight.to(device) for name, weight in weights.items()} if device.type == "meta" else weights
