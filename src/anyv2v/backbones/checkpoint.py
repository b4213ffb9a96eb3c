"""Checkpoints in the layout of diffusers: find one, check that it is what it should be, load its parts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from anyv2v.drafts import draft
from anyv2v.errors import CheckpointError, OptionError, WeightsMissing

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from anyv2v.backbones import Entry

__all__ = [
    "configuration",
    "convert",
    "ema_weights",
    "fill",
    "find",
    "load_part",
    "loading",
    "pick_device",
    "pick_dtype",
    "pipeline_of",
    "stable_diffusion",
    "weights_of",
]


def find(entry: Entry, model: str | None) -> Path:
    """The folder of a backbone's checkpoint: a given one, or a repository in the Hugging Face cache.

    Nothing is downloaded, so that no edit starts with a surprise of gigabytes or hangs without a network.
    """
    given = model is not None and Path(model).exists()
    folder = Path(str(model)) if given else _cached(entry, model)
    pipeline = pipeline_of(folder)
    if pipeline not in entry.pipelines:
        needed = " or ".join(entry.pipelines)
        raise CheckpointError(f"{folder} is the checkpoint of a {pipeline}; {entry.name} needs {needed}")
    if lacking := _lacking(folder):
        if given:
            raise CheckpointError(
                f"{folder} is incomplete: there is nothing to load for {', '.join(lacking)}"
            )
        raise _missing(entry, model)
    return folder


def _cached(entry: Entry, model: str | None) -> Path:
    repository = model or entry.repository
    if repository is None:
        raise _missing(entry, model)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, local_files_only=True))
    except HFValidationError:
        raise CheckpointError(f"there is no folder {model}") from None
    except LocalEntryNotFoundError:
        raise _missing(entry, model) from None


def _missing(entry: Entry, model: str | None) -> WeightsMissing:
    repository = model or entry.repository or entry.name
    command = entry.download.replace(str(entry.repository), repository)
    return WeightsMissing(
        f"the weights of {repository} ({entry.gigabytes:g} GB) are not on this machine; "
        f"get them once with: {command}"
    )


def _lacking(folder: Path) -> list[str]:
    """The parts of a pipeline that a checkpoint names but does not hold, as after an interrupted download."""
    if bare := _ema_file(folder):
        folder = stable_diffusion(folder)
    index = configuration(folder, "model_index.json")
    parts = {name: part[1] for name, part in index.items() if isinstance(part, list) and part[0]}
    if bare:  # its net is the one file, and it needs no more of Stable Diffusion than this
        parts = {name: kind for name, kind in parts.items() if name in ("vae", "text_encoder", "tokenizer")}
    nets = {name for name, kind in parts.items() if not kind.endswith(_WITHOUT_WEIGHTS)}
    return [
        name for name in parts if not any((folder / name).glob("*.safetensors" if name in nets else "*.json"))
    ]


_WITHOUT_WEIGHTS = ("Tokenizer", "TokenizerFast", "Scheduler", "Processor", "Extractor")


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


def configuration(folder: Path, name: str) -> dict[str, Any]:
    """A JSON file of a checkpoint.

    Raises:
        CheckpointError: It is missing, or no JSON object.
    """
    try:
        return dict(json.loads((folder / name).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{folder} is no checkpoint: {name} is missing or broken") from error


@contextmanager
def loading(folder: Path) -> Iterator[None]:
    """Say of whatever libraries raise over broken files which checkpoint it is."""
    try:
        yield
    except (OSError, LookupError, TypeError, ValueError, OverflowError) as error:
        what = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{folder} is a broken checkpoint: {what}") from error


def load_part(cls: Any, folder: Path, part: str, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """One net of a checkpoint, ready for inference; its fp16 variant where there is one and it will do.

    Raises:
        CheckpointError: Its files are missing, broken, or lack weights.
    """
    if device.type == "meta":
        return _empty_part(cls, folder, part, dtype)
    try:
        with _without_bars():
            net, report = cls.from_pretrained(
                folder / part,
                variant=_variant(folder / part, dtype),
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                dtype=dtype,
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{folder / part} cannot be loaded: {str(error).splitlines()[0]}") from error
    if missing := sorted(report["missing_keys"]):
        raise CheckpointError(
            f"{folder / part} lacks {len(missing)} of its weights, among them {', '.join(missing[:3])}"
        )
    return net.requires_grad_(False).eval().to(device)  # type: ignore[no-any-return]


@contextmanager
def _without_bars() -> Iterator[None]:
    """transformers draws a bar for each net, into whatever the caller draws."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def weights_of(folder: Path, dtype: torch.dtype) -> dict[str, Tensor]:
    """All weights of a part, by name, as stored; of its fp16 variant where there is one and it will do.

    Raises:
        CheckpointError: They are broken.
    """
    variant = _variant(folder, dtype)
    files = [file for file in folder.glob("*.safetensors") if (".fp16." in file.name) == bool(variant)]
    return {name: weight for file in sorted(files) for name, weight in _load(file).items()}


def ema_weights(folder: Path, device: torch.device) -> dict[str, Tensor]:
    """The weights of SEINE's net, by name; on the meta device their shapes alone.

    Raises:
        CheckpointError: There are none, or they are broken.
    """
    file = _ema_file(folder)
    if file is None:
        raise CheckpointError(f"{folder}: there is neither seine.safetensors nor seine.pt in it")
    weights = _load(file)
    return {name: weight.to(device) for name, weight in weights.items()} if device.type == "meta" else weights


def _load(file: Path) -> dict[str, Tensor]:
    """Weights by name, of a ``.safetensors`` file, or of a pickled one that holds nothing but tensors."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        content = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    except (OSError, RuntimeError, UnpicklingError, SafetensorError) as error:
        raise CheckpointError(f"{file} cannot be read: {str(error).splitlines()[0]}") from error
    while isinstance(content, dict) and (inner := content.keys() & {"ema", "state_dict"}):
        content = content[inner.pop()]  # SEINE's file holds its averaged weights under such a name
    if not isinstance(content, dict) or not any(isinstance(x, torch.Tensor) for x in content.values()):
        raise CheckpointError(f"{file} holds no weights by name")
    return {name: weight for name, weight in content.items() if isinstance(weight, torch.Tensor)}


def fill(net: nn.Module, weights: Mapping[str, Tensor], where: Path) -> None:
    """Give a net on the meta device its weights, every one of them and nothing else.

    Raises:
        CheckpointError: A weight is missing, unknown or of another shape.
    """
    wanted = net.state_dict()
    shapes = {name for name in wanted.keys() & weights.keys() if wanted[name].shape != weights[name].shape}
    for wrong, names in {
        "lacks": wanted.keys() - weights.keys(),
        "does not know what to do with": weights.keys() - wanted.keys(),
        "has other shapes for": shapes,
    }.items():
        if names:
            few = ", ".join(sorted(names)[:3])
            raise CheckpointError(
                f"{where}: {type(net).__name__} {wrong} {len(names)} weights, among them {few}"
            )
    net.load_state_dict(weights, assign=True)


def convert(path: Path) -> list[Path]:
    """Write a pickled file of weights, or all in a folder, once more as safetensors, where these are not yet.

    Raises:
        CheckpointError: There is none, or it holds something else than weights.
        OutputError: The folder cannot be written to.
    """
    from safetensors.torch import save_file

    found = [path] if path.is_file() else sorted(path.rglob("*"))
    pickled = {file: _converted(file) for file in found if file.suffix in (".pt", ".pth", ".bin", ".ckpt")}
    if not pickled:
        raise CheckpointError(f"{path}: there are no pickled weights in it")
    missing = {file: target for file, target in pickled.items() if not target.exists()}
    for file, target in missing.items():
        weights = {name: weight.clone(memory_format=_plain()) for name, weight in _load(file).items()}
        with draft(target, overwrite=False) as temporary:
            save_file(weights, temporary, metadata={"format": "pt"})
    return list(missing.values())


def _converted(file: Path) -> Path:
    """The name that its library looks for: transformers drops ``pytorch_`` in safetensors."""
    return file.with_name(file.name.removeprefix("pytorch_")).with_suffix(".safetensors")


def _plain() -> torch.memory_format:
    import torch

    return torch.contiguous_format


def _variant(folder: Path, dtype: torch.dtype) -> str | None:
    """``fp16`` if there are weights of that variant, and half precision will do or there are no others."""
    names = {path.name for path in folder.glob("*.safetensors")}
    half = {name for name in names if ".fp16." in name}
    return "fp16" if half and (dtype.itemsize == 2 or half == names) else None


def _empty_part(cls: Any, folder: Path, part: str, dtype: torch.dtype) -> nn.Module:
    """The net without its weights: shapes alone, for plans."""
    import torch

    config = configuration(folder, f"{part}/config.json")
    with torch.device("meta"):
        net = cls.from_config(config) if hasattr(cls, "from_config") else cls(cls.config_class(**config))
    return torch.nn.Module.to(net, dtype=dtype).eval()  # type: ignore[no-any-return]


def pick_device(name: str) -> torch.device:
    """The device of that name; ``auto`` takes CUDA, then Apple's, then the CPU.

    Raises:
        OptionError: There is no such device here.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.mps.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise OptionError(f"there is no device {name!r} here") from error
    return torch.device(name)


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype of that name; ``auto`` is float32 on the CPU, where half precision is slow, else float16.

    Raises:
        OptionError: There is no such dtype.
    """
    import torch

    known = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    if name == "auto":
        return torch.float32 if device.type in ("cpu", "meta") else torch.float16
    if name not in known:
        raise OptionError(f"no dtype {name!r}; there are {', '.join(known)}")
    return known[name]
