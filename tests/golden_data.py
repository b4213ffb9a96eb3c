"""Golden numbers: computed by the unmodified reference code on tiny random nets.

``tests/golden`` holds a subset of every kind of case; ``ANYV2V_GOLDEN`` may name a folder with the whole set.
"""

from __future__ import annotations

import json
import lzma
import os
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

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
        return self.entry["params"]

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
        self.cases = {entry["name"]: Case(self.folder, entry) for entry in manifest["cases"]}
        self.tolerance: dict[str, float] = manifest["suggested_tolerances"]

    @property
    def checkpoint(self) -> str:
        return str(self.folder / "checkpoint")

    def kind(self, kind: str) -> list[Case]:
        return [case for case in self.cases.values() if case.entry["kind"] == kind]


def assert_close(ours: Tensor, theirs: Tensor, atol: float) -> None:
    torch.testing.assert_close(ours, theirs, atol=atol, rtol=0)
