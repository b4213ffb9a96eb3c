"""How much memory an edit will hold, found by going through it on the meta device, where nothing is computed.

What counts are the bytes of tensors while they live, as ``torch.cuda.max_memory_allocated`` has them. Not
counted: CUDA's own context, and what an allocator holds back for later.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from anyv2v.backbones.protocol import Backbone, VideoSpec
from anyv2v.carry import diffuse_windows, invert_video
from anyv2v.edit import Trajectory
from anyv2v.fitting import window_for
from anyv2v.host import standing_in
from anyv2v.options import Options
from anyv2v.progress import OnStep, Step
from anyv2v.source import of_use
from anyv2v.video import Video

__all__ = ["Footprint", "Meter", "metering", "rehearse"]

aten = torch.ops.aten
META = torch.device("meta")


@dataclass(frozen=True)
class Footprint:
    """The memory of an edit on its device, in bytes.

    Attributes:
        peaks: The most that each stage holds.
        stage: The one that holds most.
        weights: There at that stage, as what follows.
        features: Recorded while the clip was inverted.
        latents: Of the inversion.
        waiting: Features in the host's memory.
    """

    peaks: Mapping[str, int]
    stage: str
    weights: int
    features: int
    latents: int
    waiting: int

    @property
    def peak(self) -> int:
        """The most that is held at once."""
        return self.peaks[self.stage]

    @property
    def passing(self) -> int:
        """What layers hold of the peak while they work."""
        return self.peak - self.weights - self.features - self.latents


class Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of tensors that are made on a device, from when they are made until they are freed.

    Args:
        device: What lives elsewhere is not counted.
        held: Bytes that are there from the start.
        limit: Bytes that there may be.

    Attributes:
        now: Bytes that are held.
        peak: The most that were held since it was last set.
    """

    def __init__(self, device: torch.device, held: int = 0, limit: float = math.inf) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = held
        self.limit = limit
        self._device = device
        self._live: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        self._made: dict[Hashable, Any] = {}

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is aten._to_copy.default and args[0].is_meta and kwargs.get("device", META) != META:
            return _blank(args[0], kwargs.get("dtype"))
        out = self._out(func, args, kwargs)
        if func is aten.convolution.default:  # cuDNN and oneDNN lay channels last first, and back at the end
            self.passing(args[0].nbytes + out.nbytes)
        return out

    def _out(self, func: Any, args: Any, kwargs: Any) -> Any:
        """What a function makes, or is given. Torch takes its time to find a shape, so each is found once."""
        told = *args, *kwargs.items()
        kind = func, _kind(told)
        if kind in self._made:
            out = _alike(self._made[kind])
            made = self._storages(out)
        else:
            given = {id(storage) for storage in self._storages(told)}
            out = func(*args, **kwargs)
            made = [storage for storage in self._storages(out) if id(storage) not in given]
            if self._device == META and 0 < len(made) == len(list(_tensors(out))):
                self._made[kind] = _alike(out)
        for storage in made:
            self._hold(storage)
        return out

    def forget(self) -> None:
        """Nothing: in a rehearsal the peak begins anew at every step (``_Stages``)."""

    def passing(self, size: int) -> None:
        """Count bytes that are held for a moment."""
        self.peak = max(self.peak, self.now + size)

    def _storages(self, found: Any) -> list[torch.UntypedStorage]:
        kind = self._device.type
        return [tensor.untyped_storage() for tensor in _tensors(found) if tensor.device.type == kind]

    def _hold(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        if key not in self._live:
            self._live[key] = weakref.ref(storage, lambda _: self._free(key, size))
            self.now += size
            self.passing(0)

    def _free(self, key: int, size: int) -> None:
        del self._live[key]
        self.now -= size


def _kind(given: Any) -> Hashable:
    """What of an argument decides the shape of a result."""
    if isinstance(given, Tensor):
        return given.shape, given.stride(), given.dtype, given.device
    if isinstance(given, list | tuple):
        return tuple(map(_kind, given))
    return type(given), given


def _tensors(found: Any) -> Iterator[Tensor]:
    """What torch's own way through trees would give, in a tenth of the time."""
    if isinstance(found, Tensor):
        yield found
    elif isinstance(found, list | tuple):
        for one in found:
            yield from _tensors(one)


def _alike(found: Any) -> Any:
    """New tensors on the meta device, laid out as others are."""
    if isinstance(found, Tensor):
        return torch.empty_strided(found.shape, found.stride(), dtype=found.dtype, device=META)
    return type(found)(map(_alike, found)) if isinstance(found, list | tuple) else found


class _FusedAttention(TorchFunctionMode):
    """Attention without the table of all pairs of tokens, as CUDA's and the CPU's kernels have it.

    The meta device alone would lay that table out. What the fused kernels hold is their result and one number
    for each query, which all of them have in common.
    """

    def __torch_function__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is scaled_dot_product_attention and args[0].is_meta:
            return aten._scaled_dot_product_flash_attention_for_cpu(*args[:3])[0]
        return func(*args, **(kwargs or {}))


@contextmanager
def metering(device: torch.device, held: int = 0, limit: float = math.inf) -> Iterator[Meter]:
    """Count what is made on a device within, and go by that count; see ``Meter``."""
    with _FusedAttention(), Meter(device, held, limit) as meter, standing_in(meter):
        yield meter


def rehearse(
    backbone: Backbone,
    spec: VideoSpec,
    options: Options,
    *,
    windows: int = 1,
    low_memory: bool = False,
    inverted: bool = False,
    limit: float = math.inf,
) -> Footprint:
    """Go through a whole edit and see what it holds, stage by stage.

    Args:
        backbone: On the meta device; it is of no other use afterwards.
        spec: A window of the clip.
        windows: How many there are; all but the first hold the same.
        options: Settings of the edit.
        low_memory: Have one part of the model there at a time.
        inverted: The clip's inversion is at hand.
        limit: Bytes that there may be on the device.
    """
    count = spec.frames
    options = replace(options, size=spec.size, restore=False, window=count)
    if windows > 1:
        count += count - window_for(backbone, options)[1]
    else:
        options = replace(options, overlap=None)
    blank = np.zeros((count, spec.size.height, spec.size.width, 3), np.uint8)
    held = 0 if low_memory else sum(map(_weights, backbone.parts))
    with metering(META, held, limit) as meter:
        if low_memory:
            for part in backbone.parts:
                part.to("cpu")
            backbone.visit(META)
        for net in (backbone.net, *_halves(backbone)):
            net.forward = _Known(net, backbone, meter)
        stages, sizes = _Stages(meter, backbone.parts), dict[str, tuple[int, int, int]]()

        def inversion(video: Video, on_step: OnStep) -> Trajectory:
            made = invert_video(backbone, video, options, on_step=on_step)
            kept = of_use(made, backbone, options)
            sizes.update(invert=_sizes(made), propagate=_sizes(kept))
            if inverted:
                stages.peaks.clear()
            return kept

        shown = diffuse_windows(
            backbone, blank, spec.fps, blank[0], "", options, inverted=inversion, on_step=stages
        )
        for _ in shown:
            pass
    stage = max(stages.peaks, key=stages.peaks.__getitem__)
    features, latents, _ = sizes.get(stage, (0, 0, 0))
    return Footprint(
        stages.peaks, stage, stages.weights[stage], features, latents, waiting=sizes["propagate"][2]
    )


def _halves(backbone: Backbone) -> Iterator[nn.Module]:
    """The encoder and the decoder of a VAE, which sees every frame alone."""
    for part in backbone.parts:
        children = dict(part.named_children())
        if {"encoder", "decoder"} <= children.keys():
            yield from (children["encoder"], children["decoder"])


def _weights(part: nn.Module) -> int:
    """Bytes of its weights, wherever they are."""
    return sum(tensor.nbytes for tensor in (*part.parameters(), *part.buffers()))


def _sizes(trajectory: Trajectory) -> tuple[int, int, int]:
    """Bytes of features and of latents on the device, and of features in the host's memory."""
    features = [feature for level in trajectory.features.values() for feature in level.values()]
    here, everywhere = _bytes(features), sum(feature.nbytes for feature in features)
    return here, _bytes(trajectory.latents.values()), everywhere - here


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors if tensor.is_meta)


class _Stages:
    """Hears where the work stands, and notes the most that each stage held, and its weights."""

    def __init__(self, meter: Meter, parts: Sequence[nn.Module]) -> None:
        self.peaks: dict[str, int] = {}
        self.weights: dict[str, int] = {}
        self._meter, self._parts = meter, {part: _weights(part) for part in parts}

    def __call__(self, step: Step) -> None:
        self.peaks[step.stage] = max(self.peaks.get(step.stage, 0), self._meter.peak)
        self.weights[step.stage] = sum(
            size for part, size in self._parts.items() if next(part.parameters()).is_meta
        )
        self._meter.peak = self._meter.now


@dataclass(frozen=True)
class _Call:
    """What a net did: the bytes it held in passing, its result, and what was given to tapped modules."""

    passing: int
    out: Any
    inputs: Mapping[nn.Module, Tensor]

    def again(self, meter: Meter) -> Any:
        meter.passing(self.passing)
        for module, given in self.inputs.items():
            module(_fresh(given))
        return tree_map_only(Tensor, _fresh, self.out)


class _Known:
    """The ``forward`` of a net that is asked for the same again and again: what it did once it does again.

    Args:
        net: The net; of calls that are known only the modules that features are taken from run.
        backbone: Whose bank takes them.
        meter: Is told what a call held.
    """

    def __init__(self, net: nn.Module, backbone: Backbone, meter: Meter) -> None:
        self._net, self._bank, self._deep, self._meter = net, backbone.bank, backbone.deep, meter
        self._forward = net.forward
        self._calls: dict[Hashable, _Call] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        shapes = tuple(leaf.shape for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
        kind = shapes, tuple(self._bank.doing.items()), self._deep.doing
        keeps = self._deep.doing == "keep"
        if kind in self._calls and (self._deep.holds or not keeps):
            if keeps:
                self._deep.repeat(lambda out: tree_map_only(Tensor, torch.empty_like, out))
            return self._calls[kind].again(self._meter)
        before, peak = self._meter.now, self._meter.peak
        self._meter.peak = before
        with _inputs(map(self._net.get_submodule, self._bank.doing)) as inputs:
            out = self._forward(*args, **kwargs)
        self._calls[kind] = _Call(self._meter.peak - before, tree_map_only(Tensor, _blank, out), inputs)
        self._meter.passing(0)
        self._meter.peak = max(peak, self._meter.peak)
        return out


@contextmanager
def _inputs(modules: Iterable[nn.Module]) -> Iterator[dict[nn.Module, Tensor]]:
    """What modules are given within, as blanks."""
    found: dict[nn.Module, Tensor] = {}

    def note(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        found[module] = _blank(args[0])

    hooks = [module.register_forward_pre_hook(note) for module in modules]
    yield found
    for hook in hooks:
        hook.remove()


def _blank(tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Its shape, in the host's memory, of which it takes none."""
    return torch.zeros((), dtype=dtype or tensor.dtype).expand(tensor.shape)


def _fresh(blank: Tensor) -> Tensor:
    """A tensor of that shape on the meta device."""
    return torch.empty(blank.shape, dtype=blank.dtype, device="meta")
