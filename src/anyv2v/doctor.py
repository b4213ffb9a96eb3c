"""A look at this machine: what the package will find, and what is known to break it."""

from __future__ import annotations

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from anyv2v.backbones import at_hand, list_backbones

__all__ = ["examine"]

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


def examine() -> dict[str, Any]:
    """Facts by name: device, memory, versions, weights, and ``problems``, a sentence each."""
    import torch

    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in (*LIBRARIES, "torchvision")},
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "cores": os.cpu_count(),
        "memory": f"{_memory() / 1e9:.1f} GB",
        "free disk": f"{shutil.disk_usage('.').free / 1e9:.1f} GB",
        "weights": {
            entry.name: "at hand" if at_hand(entry) else "missing" for entry in list_backbones().values()
        },
        "problems": _problems() or "none found",
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _memory() -> int:
    """Of the GPU where there is one, else of the machine, in bytes."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[1]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _problems() -> list[str]:
    found = []
    if _version("torchvision") != "not installed":
        try:
            import torchvision  # noqa: F401
        except Exception as error:  # whatever a torchvision of another build raises
            found.append(
                f"torchvision does not fit this torch ({str(error).splitlines()[0]}) and breaks "
                "transformers; uninstall it, anyv2v does not need it"
            )
    return found
