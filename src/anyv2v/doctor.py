"""A look at this machine: what the package will find, and what is known to break it."""

from __future__ import annotations

import os
import shutil
from typing import Any

from anyv2v.backbones import BLIND, at_hand, cuda_devices, list_backbones, sees_gpu
from anyv2v.editors import list_editors
from anyv2v.sidecar import library_versions
from anyv2v.weights import pick_device

__all__ = ["examine"]


def examine() -> dict[str, Any]:
    """Facts by name: versions, device, memory and disk in bytes, weights, ``problems`` in a sentence each."""
    import torch

    known = list_backbones()
    return {
        **library_versions("torchvision"),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else str(pick_device("auto")),
        "cores": os.cpu_count(),
        "memory_bytes": _memory(),
        "free_disk_bytes": shutil.disk_usage(".").free,
        "weights": {name: "at hand" if at_hand(entry) else "missing" for name, entry in known.items()},
        "editors": {
            name: "at hand" if entry.at_hand else "missing" for name, entry in list_editors().items()
        },
        "problems": _problems(),
    }


def _memory() -> int:
    """Of the GPU where there is one, else of the machine, in bytes."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[1]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _problems() -> list[str]:
    blind = [BLIND] if cuda_devices() and not sees_gpu() else []
    return blind + _torchvision()


def _torchvision() -> list[str]:
    try:
        import torchvision  # noqa: F401
    except ModuleNotFoundError:
        return []
    except Exception as error:  # whatever a torchvision of another build raises
        what = str(error).splitlines()[0]
        return [
            f"torchvision does not fit this torch ({what}) and breaks transformers; anyv2v does not need it"
        ]
    return []
