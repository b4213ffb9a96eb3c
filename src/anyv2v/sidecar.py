"""The file beside every output that says how to make it again."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from anyv2v.drafts import draft

__all__ = ["files_of", "library_versions", "sha256", "sidecar_of", "write_sidecar"]

LIBRARIES = (
    "anyv2v",
    "torch",
    "diffusers",
    "transformers",
    "numpy",
    "av",
    "pillow",
    "opencv-python-headless",
)


def library_versions(*more: str) -> dict[str, str]:
    """The versions of Python and of what the result depends on."""
    return {"python": platform.python_version()} | {name: _version(name) for name in (*LIBRARIES, *more)}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def sidecar_of(output: Path) -> Path:
    """``out.mp4.json`` for ``out.mp4``."""
    return output.with_name(f"{output.name}.json")


def write_sidecar(output: Path, content: Mapping[str, Any], *, overwrite: bool) -> Path:
    """Write the sidecar of an output, whole or not at all.

    Raises:
        OutputError: It cannot be written.
    """
    path = sidecar_of(output)
    with draft(path, overwrite=overwrite) as temporary:
        temporary.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")
    return path


def files_of(path: Path) -> list[Path]:
    """The file itself, or the files of a folder or a pattern in the order of their names."""
    if path.is_file():
        return [path]
    folder, pattern = (path, "*") if path.is_dir() else (path.parent, path.name)
    return sorted(filter(Path.is_file, folder.glob(pattern)))


def sha256(files: Iterable[Path]) -> str:
    """The hash of files, one after the other."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()
