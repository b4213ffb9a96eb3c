"""Where recorded features wait from inversion to sampling: on the device, in the host's memory, or nowhere.

A full-size net makes 0.85 GB of them at a step. Copies run beside the work. Not covered: disks.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from anyv2v.errors import OptionError

if TYPE_CHECKING:
    from torch import Tensor, device
    from torch.cuda import Stream

    from anyv2v.backbones.protocol import Backbone
    from anyv2v.features import Tap

__all__ = ["LOW_MEMORY", "Fetch", "Memory", "Shelf", "gpu", "memory_of", "pinned", "standing_in"]

Features = Mapping[str, "Tensor"]

LOW_MEMORY = 6e9
"""Bytes that an edit in low-memory mode is meant to hold on its device at most."""


class Memory(Protocol):
    """The memory of a device, in bytes.

    Attributes:
        now: What is held.
        peak: The most that was held since it was last forgotten.
        limit: What may be held.
    """

    @property
    def now(self) -> int: ...
    @property
    def peak(self) -> int: ...
    @property
    def limit(self) -> float: ...
    def forget(self) -> None: ...


class Cuda:
    """See ``Memory``; the limit is ``ANYV2V_MEMORY_LIMIT`` in GB, else what others have left free."""

    def __init__(self, device: device) -> None:
        self._device = device
        self._before = 0  # the most that was held before the peak was last forgotten

    @property
    def now(self) -> int:
        import torch

        return torch.cuda.memory_allocated(self._device)

    @property
    def peak(self) -> int:
        import torch

        return torch.cuda.max_memory_allocated(self._device)

    def forget(self) -> None:
        import torch

        self._before = self.most
        torch.cuda.reset_peak_memory_stats(self._device)

    @property
    def most(self) -> int:
        """The most that was held since ``begin``."""
        return max(self._before, self.peak)

    def begin(self) -> None:
        """Forget the peak, and what was held before."""
        self.forget()
        self._before = 0

    @property
    def limit(self) -> float:
        import torch

        free = torch.cuda.mem_get_info(self._device)[0] + torch.cuda.memory_reserved(self._device)
        return min(memory_limit(), free)


def memory_limit() -> float:
    """How many bytes of a GPU to fill with recorded features, beside what the model and its work need there.

    That is ``ANYV2V_MEMORY_LIMIT`` in GB for all together, else all there are.

    Raises:
        OptionError: The variable holds something else than a number above 0.
    """
    text = os.environ.get("ANYV2V_MEMORY_LIMIT") or "inf"
    with suppress(ValueError):
        if (gigabytes := float(text)) > 0:
            return gigabytes * 1e9
    raise OptionError(f"ANYV2V_MEMORY_LIMIT is {text!r}; it must be a number of GB, such as 12")


_standing_in: ContextVar[Memory | None] = ContextVar("memory", default=None)


@contextmanager
def standing_in(memory: Memory) -> Iterator[None]:
    """Have another memory in place of the device's: in a rehearsal, where there is none."""
    token = _standing_in.set(memory)
    try:
        yield
    finally:
        _standing_in.reset(token)


@cache
def gpu(device: device) -> Cuda | None:
    """The memory of a GPU; nothing for another device."""
    return Cuda(device) if device.type == "cuda" else None


def memory_of(device: device) -> Memory | None:
    """The memory of a device; nothing if it is the host's."""
    return _standing_in.get() or gpu(device)


class Shelf:
    """Puts the features of one level after another where they can wait.

    Args:
        backbone: Whose they are, and whose device is to have room for its work.
        rows: Of the largest batch that the net will see; from here on, so far, it sees one.
        wanted: The taps of each level that features will be taken at.
    """

    def __init__(self, backbone: Backbone, rows: int, wanted: Iterable[Sequence[Tap]]) -> None:
        self._device, self._rows = backbone.device, rows
        counts = [sum(len(backbone.bank.modules(tap)) for tap in taps) for taps in wanted]
        self._most, self._passing = max(counts, default=0), 0
        self._host = _host_memory() / 2
        self._memory = memory_of(backbone.device)
        if self._memory is not None:
            self._memory.forget()
            self._limit = min(LOW_MEMORY if backbone.low_memory else float("inf"), self._memory.limit)

    def put(self, features: Features) -> Features:
        """The same features, on the device or in the host's memory; none of them if neither has room."""
        if self._memory is None:
            return features
        if self._has_room(sum(feature.nbytes for feature in features.values()), len(features)):
            return features
        taken = sum(map(_pinned_bytes, features.values()))
        if taken > self._host:
            return {}
        self._host -= taken
        return {path: _sent(feature) for path, feature in features.items()}

    def _has_room(self, size: int, count: int) -> bool:
        """Whether the device has, beside what the net will hold in passing, and two levels on their way back.

        These may be larger, as noisier levels, which come later, have more features; and in passing it holds
        most where all of its layers compute.
        """
        assert self._memory is not None
        before, largest = self._memory.now - size, size / count * self._most
        self._passing = max(self._passing, self._memory.peak - before)
        return before + size + self._rows * self._passing + 2 * largest <= self._limit

    def settle(self) -> None:
        """Wait until all copies are made."""
        if self._device.type == "cuda":
            _side(self._device.index).synchronize()


class Fetch:
    """Brings features back to the device, those of the next level while these are in use.

    Args:
        features_at: Those of a level, wherever they are.
        levels: In the order in which they will be asked for.
        device: Where they are wanted.
    """

    def __init__(self, features_at: Callable[[int], Features], levels: Iterable[int], device: device) -> None:
        self._features_at, self._device = features_at, device
        self._next = dict(pairwise(levels))
        self._coming: dict[int, Features] = {}

    def __call__(self, level: int) -> Features:
        """Those of a level, on the device."""
        here = self._coming.pop(level, None) or self._brought(level)
        self._arrive(here)
        if (after := self._next.get(level)) is not None:
            self._coming[after] = self._brought(after)
        return here

    def _brought(self, level: int) -> Features:
        found = self._features_at(level)
        if self._device.type != "cuda":
            return {path: feature.to(self._device) for path, feature in found.items()}
        import torch

        with torch.cuda.stream(_side(self._device.index)):
            return {path: feature.to(self._device, non_blocking=True) for path, feature in found.items()}

    def _arrive(self, features: Features) -> None:
        if self._device.type != "cuda":
            return
        import torch

        current = torch.cuda.current_stream(self._device)
        current.wait_stream(_side(self._device.index))
        for feature in features.values():
            feature.record_stream(current)


def pinned(tensor: Tensor, device: device | str) -> Tensor:
    """A copy in the host's memory; for a GPU one that it can fetch while it works."""
    import torch

    here = torch.empty_like(tensor, device="cpu", pin_memory=torch.device(device).type == "cuda")
    return here.copy_(tensor)


def _sent(feature: Tensor) -> Tensor:
    """Its copy in the host's memory, once ``Shelf.settle`` has been called."""
    if not feature.is_cuda:
        return feature.to("cpu")
    import torch

    here, side = torch.empty_like(feature, device="cpu", pin_memory=True), _side(feature.device.index)
    side.wait_stream(torch.cuda.current_stream(feature.device))
    with torch.cuda.stream(side):
        here.copy_(feature, non_blocking=True)
    feature.record_stream(side)
    return here


def _side(index: int | None) -> Stream:
    """Where the copies of a GPU run; without a number, of the current one."""
    import torch

    return _stream(torch.cuda.current_device() if index is None else index)


@cache
def _stream(index: int) -> Stream:
    import torch

    return torch.cuda.Stream(index)  # type: ignore[no-untyped-call]


def _pinned_bytes(feature: Tensor) -> int:
    """PyTorch rounds what it pins up to a power of two."""
    return 1 << (feature.nbytes - 1).bit_length()


def _host_memory() -> int:
    """Bytes of the machine's memory, or of the part that its container may have."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):  # no such file, or "max"
        whole = min(whole, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return whole
