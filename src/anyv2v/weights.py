"""Weights: where they are published, whether they are here, nets filled with them; device and dtype."""

from __future__ import annotations

import json
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any
from zipfile import is_zipfile

from anyv2v.drafts import draft
from anyv2v.errors import CheckpointError, OptionError, UserError, WeightsMissing

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

__all__ = [
    "Weights",
    "configuration",
    "convert",
    "fill",
    "hushed",
    "load_part",
    "loading",
    "parts_without_files",
    "pick_device",
    "pick_dtype",
    "read_weights",
    "save_tensors",
    "weights_missing",
    "weights_of",
]


@dataclass(frozen=True)
class Weights:
    """Weights as somebody published them.

    Nothing is ever downloaded here, so that no edit starts with a surprise of gigabytes, or hangs without a
    network.

    Attributes:
        repository: Where, on Hugging Face; nothing if they are not there.
        gigabytes: What they weigh.
        licence: What they may be used for, in the words of their publishers.
        files: Glob patterns of the files that are needed of the repository.
        commands: What brings them, where it is not ``hf download`` of the repository.
        role: What a model of several checkpoints calls this one.
        commercial: Whether the licence lets people earn money with them.
        shipped: Where they are, if a package brings them along.
    """

    repository: str | None
    gigabytes: float
    licence: str
    files: tuple[str, ...] = ()
    commands: str | None = None
    role: str = "model"
    commercial: bool = True
    shipped: Path | None = None

    @property
    def download(self) -> str:
        """The command that brings them to this machine; none where a package has."""
        if self.shipped:
            return ""
        return self.commands or f"hf download {self.repository}" + "".join(
            f' --include "{glob}"' for glob in self.files
        )

    @property
    def size(self) -> str:
        """Gigabytes, if they are known."""
        return f"{self.gigabytes:g} GB, " if self.gigabytes else ""

    @property
    def terms(self) -> str:
        """The licence in a few words, with what it forbids."""
        return self.licence if self.commercial else f"{self.licence}: NOT for commercial use"

    def folder(self, given: str | None = None) -> Path:
        """Where they are: in a folder (or file) that was given, or in the Hugging Face cache.

        Args:
            given: A path, or another repository of the same layout.

        Raises:
            WeightsMissing: They are not on this machine; the message says how to get them.
            CheckpointError: ``given`` is neither.
        """
        if given is not None and Path(given).exists():
            return Path(given)
        if given is None and self.shipped:
            return self.shipped
        repository = given or self.repository
        if repository is None:
            raise weights_missing([self])
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

        try:
            return Path(snapshot_download(repository, local_files_only=True))
        except HFValidationError:
            raise CheckpointError(f"there is no folder {given}") from None
        except LocalEntryNotFoundError:
            missing = weights_missing([self.of(given)])
            raise type(missing)(
                f"{missing}; nor is there a folder {given}" if given else f"{missing}"
            ) from None

    def whole_folder(self, given: str | None = None) -> Path:
        """The same, seen to hold every file that is needed.

        Raises:
            WeightsMissing: They are not on this machine, or not all of them.
            CheckpointError: ``given`` is neither a folder nor a repository, or lacks files.
        """
        folder = self.folder(given)
        if (folder / "model_index.json").exists():
            lacking = parts_without_files(folder)
        else:
            names = [path.relative_to(folder).as_posix() for path in folder.rglob("*")]
            lacking = [glob for glob in self.files if not any(fnmatch(name, glob) for name in names)]
        if lacking and folder.is_dir():
            raise self.incomplete(folder, given, lacking)
        return folder

    def incomplete(self, folder: Path, given: str | None, lacking: list[str]) -> UserError:
        """What to say of a folder that lacks parts: of the cache, that they are still to be downloaded."""
        if given is not None and Path(given).exists():
            return CheckpointError(
                f"{folder} is incomplete: there is nothing to load for {', '.join(lacking)}"
            )
        return weights_missing([self.of(given)])

    def of(self, given: str | None) -> Weights:
        """The same in another repository, if one is given: of that nobody here knows size and licence."""
        if given is None or given == self.repository:
            return self
        return replace(self, repository=given, gigabytes=0.0, licence="licence: see its page", commands=None)


def weights_missing(absent: Sequence[Weights]) -> WeightsMissing:
    """What to say where weights are not on this machine."""
    what = " and ".join(f"{w.repository or 'this model'} ({w.size}{w.terms})" for w in absent)
    commands = " && ".join(w.download for w in absent)
    return WeightsMissing(f"the weights of {what} are not on this machine; get them once with: {commands}")


def parts_without_files(folder: Path, needed: Container[str] | None = None) -> list[str]:
    """The parts that a pipeline's folder names, or those of them that are needed, and does not hold."""
    index = configuration(folder, "model_index.json")
    parts = {name: part[1] for name, part in index.items() if isinstance(part, list) and part[0]}
    if needed is not None:
        parts = {name: kind for name, kind in parts.items() if name in needed}
    parts = {name: kind for name, kind in parts.items() if not kind.endswith("SafetyChecker")}
    nets = {name for name in parts if (folder / name / "config.json").exists()}  # as no tokenizer has
    return [
        name for name in parts if not any((folder / name).glob("*.safetensors" if name in nets else "*.json"))
    ]


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
    from safetensors import SafetensorError

    try:
        with hushed():
            net, report = cls.from_pretrained(
                folder / part,
                variant=_variant(folder / part, dtype),
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                dtype=dtype,
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{folder / part} cannot be loaded: {str(error).splitlines()[0]}") from error
    if missing := sorted(report["missing_keys"]):
        raise CheckpointError(
            f"{folder / part} lacks {len(missing)} of its weights, among them {', '.join(missing[:3])}"
        )
    return net.requires_grad_(False).eval().to(device)  # type: ignore[no-any-return]


@contextmanager
def hushed() -> Iterator[None]:
    """Without the bars of diffusers and transformers, and without their remarks on what is meant so."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    libraries = (of_diffusers, of_transformers)
    before = [(library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, (verbosity, bars) in zip(libraries, before, strict=True):
            library.set_verbosity(verbosity)
            if bars:
                library.enable_progress_bar()


def weights_of(folder: Path, dtype: torch.dtype) -> dict[str, Tensor]:
    """All weights of a part, by name, as stored; of its fp16 variant where there is one and it will do.

    Raises:
        CheckpointError: They are broken.
    """
    variant = _variant(folder, dtype)
    files = [file for file in folder.glob("*.safetensors") if (".fp16." in file.name) == bool(variant)]
    return {name: weight for file in sorted(files) for name, weight in read_weights(file).items()}


def read_weights(file: Path) -> dict[str, Tensor]:
    """Weights by name, of a ``.safetensors`` file, or of a pickled one that holds nothing but tensors."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        mapped = is_zipfile(file)  # as torch has written them since 1.6
        content = torch.load(file, map_location="cpu", mmap=mapped, weights_only=True)
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
    found = [path] if path.is_file() else sorted(path.rglob("*"))
    pickled = {file: _converted(file) for file in found if file.suffix in (".pt", ".pth", ".bin", ".ckpt")}
    if not pickled:
        raise CheckpointError(f"{path}: there are no pickled weights in it")
    missing = {file: target for file, target in pickled.items() if not target.exists()}
    for file, target in missing.items():
        weights = {name: weight.clone(memory_format=_plain()) for name, weight in read_weights(file).items()}
        save_tensors(target, weights, {"format": "pt"}, overwrite=False)
    return list(missing.values())


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], *, overwrite: bool
) -> None:
    """Write tensors as safetensors, whole or not at all.

    Raises:
        OutputError: The file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with draft(path, overwrite=overwrite) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode
        try:
            save_file(dict(tensors), temporary, metadata=dict(metadata))
        except SafetensorError as error:  # a full disk, among others
            raise OSError(str(error)) from error
        temporary.chmod(mode)  # it makes files that are their owner's alone


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
        raise OptionError(f"there is no device {name!r} here: {str(error).splitlines()[0]}") from error
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
