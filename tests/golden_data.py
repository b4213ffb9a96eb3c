"""Golden numbers: computed by the unmodified reference code on tiny random nets.

``tests/golden`` holds a subset of every kind of case; ``ANYV2V_GOLDEN`` may name a folder with the whole set.
"""

from __future__ import annotations

import atexit
import json
import lzma
import os
import shutil
import tempfile
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, load_file
from torch import Tensor

from anyv2v.backbones.protocol import Condition

ROOT = Path(os.environ.get("ANYV2V_GOLDEN") or Path(__file__).parent / "golden")


@dataclass(frozen=True)
class Case:
    """One case of a backbone's golden set; a subset may hold fewer tensors than the whole."""

    folder: Path
    entry: dict[str, Any]

    @property
    def params(self) -> dict[str, Any]:
        return self.entry.get("params", self.entry)

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        return read(self.folder / self.entry["file"], f"{self.entry['name']}/")

    def condition(self, prefix: str = "cond.") -> Condition:
        """The conditions of all branches, as the net got them."""
        names = ("encoder_hidden_states", "image_embeddings", "image_latents", "fps")
        return Condition({name: self.tensors[prefix + name] for name in names})

    def frames(self, name: str) -> Any:
        return self.tensors[name].numpy()


def read(file: Path, prefix: str) -> dict[str, Tensor]:
    """A case's tensors: from a file of its own, or from one that holds every case under its name."""
    if file.suffix != ".xz":
        return load_file(file)
    return {
        name.removeprefix(prefix): tensor for name, tensor in unpack(file).items() if name.startswith(prefix)
    }


@cache
def unpack(file: Path) -> dict[str, Tensor]:
    return load(lzma.decompress(file.read_bytes()))


class Golden:
    """The golden set of one backbone."""

    def __init__(self, backbone: str) -> None:
        self.folder = ROOT / backbone
        manifest = json.loads((self.folder / "manifest.json").read_text())
        cases = manifest["cases"]
        entries = [{"name": name} | cases[name] for name in cases] if isinstance(cases, dict) else cases
        self.cases = {entry["name"]: Case(self.folder, entry) for entry in entries}
        self.tolerance: dict[str, Any] = next((manifest[key] for key in manifest if "tolerances" in key), {})

    @property
    def checkpoint(self) -> str:
        return str(unpacked(self.folder / "checkpoint"))

    @property
    def published(self) -> dict[str, Any]:
        """Every key and shape of the full-size net."""
        path = self.folder / "state_dict_keys.json"
        return json.loads(path.read_text() if path.exists() else lzma.open(f"{path}.xz").read())

    def kind(self, kind: str) -> list[Case]:
        return [case for case in self.cases.values() if case.entry["kind"] == kind]


@cache
def unpacked(checkpoint: Path) -> Path:
    """The folder of a checkpoint as it is published; it is gone when the tests are.

    Here weights may be compressed, and SEINE's have other names, twice.
    """
    if not any(checkpoint.rglob("*.xz")) and not (checkpoint / "seine_ema.safetensors").exists():
        return checkpoint
    temporary = Path(tempfile.mkdtemp(prefix="anyv2v-golden-"))
    atexit.register(shutil.rmtree, temporary)
    twice = shutil.ignore_patterns("*.pt", "*.bin")
    return Path(
        shutil.copytree(checkpoint, temporary / "checkpoint", ignore=twice, copy_function=unpack_file)
    )


def unpack_file(source: str, target: str) -> None:
    target = target.replace("seine_ema", "seine")
    if source.endswith(".xz"):
        Path(target.removesuffix(".xz")).write_bytes(lzma.decompress(Path(source).read_bytes()))
    else:
        shutil.copyfile(source, target)


def assert_near(ours: Tensor, theirs: Tensor, rtol: float) -> None:
    """Close as a whole: the distance in units of their norm."""
    assert ours.shape == theirs.shape
    assert torch.linalg.vector_norm(ours - theirs) <= rtol * torch.linalg.vector_norm(theirs)


def assert_close(ours: Tensor, theirs: Tensor, atol: float) -> None:
    torch.testing.assert_close(ours, theirs, atol=atol, rtol=0)


def assert_within(ours: Tensor, theirs: Tensor, atol: float) -> None:
    """Close everywhere: the distance in units of their standard deviation."""
    assert_close(ours, theirs, atol * theirs.std().item())


def assert_levels(ours: np.ndarray, theirs: np.ndarray, most: int) -> None:
    """Frames in uint8 that differ by no more than ``most`` grey levels."""
    assert ours.shape == theirs.shape
    assert np.abs(ours.astype(int) - theirs).max() <= most


def named(cases: list[Case]) -> pytest.MarkDecorator:
    assert cases
    return pytest.mark.parametrize("case", cases, ids=[case.entry["name"] for case in cases])
