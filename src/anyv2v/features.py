"""Injection of source features: what the paper takes from the net, and puts back (sections 4.3 and 4.4).

Every feature of the paper is the output of a leaf module: the convolution before the residual is added, and
the query and key projections of self-attention. So forward hooks on those modules are the whole mechanism.
They are installed once for the life of a net (``torch.compile`` ignores hooks that come later) and are
steered by an attribute.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from torch import Tensor, nn

from anyv2v.deep import Mode as DeepMode
from anyv2v.deep import is_deep, resting_steps
from anyv2v.errors import OptionError, TapError
from anyv2v.options import Options

__all__ = ["FeatureBank", "InjectionPlan", "Kind", "Tap"]

Kind = Literal["conv", "spatial", "temporal", "cross"]
Mode = Literal["off", "record", "inject", "pair"]


@dataclass(frozen=True)
class Tap:
    """One place where a feature is taken and put back.

    Attributes:
        path: A glob on the net's module names. Each module's output has the batch as the slow part of its
            first axis: ``[B * anything, ...]``.
        kind: Which threshold governs it.
        layer: The decoder layer in the paper's count, from 0.
    """

    path: str
    kind: Kind
    layer: int


@dataclass(frozen=True)
class InjectionPlan:
    """Which taps inject at which step.

    Attributes:
        taps: The taps in use.
        until: By kind, the number of steps that inject, counted from the noisiest step of the full schedule.
            Steps that are skipped at the noisy end count too, so a threshold always means a noise level.
        resting: The steps at which deep layers do not compute: see ``anyv2v.deep``.
    """

    taps: tuple[Tap, ...]
    until: Mapping[Kind, int]
    resting: frozenset[int] = frozenset()

    @classmethod
    def of(cls, taps: Sequence[Tap], options: Options) -> InjectionPlan:
        """The plan that ``options`` describe for a backbone's ``taps``.

        Temporal attention is injected long after all else, while the deep layers change little already.

        Raises:
            OptionError: A layer is asked for that has no tap of its kind.
        """
        layers: dict[Kind, tuple[int, ...]] = {
            "conv": options.layers_conv,
            "spatial": options.layers_spatial,
            "temporal": options.layers_temporal,
            "cross": options.layers_cross,
        }
        taus: dict[Kind, float] = {
            "conv": options.tau_conv,
            "spatial": options.tau_spatial,
            "temporal": options.tau_temporal,
            "cross": options.tau_cross,
        }
        for kind, wanted in layers.items():
            there = {tap.layer for tap in taps if tap.kind == kind}
            if taus[kind] > 0 and (missing := set(wanted) - there):
                raise OptionError(f"this backbone has no {kind} feature in decoder layer {min(missing)}")
        used = tuple(tap for tap in taps if tap.layer in layers[tap.kind])
        until = {kind: options.count(tau) for kind, tau in taus.items()}
        whole = max((until[tap.kind] for tap in used if tap.kind != "temporal"), default=0)
        return cls(used, until, resting_steps(whole, options))

    def active(self, step: int) -> tuple[Tap, ...]:
        """The taps that inject at ``step``, counted from 0 at the noisiest step of the full schedule."""
        awake = (tap for tap in self.taps if not (step in self.resting and is_deep(tap.path)))
        return tuple(tap for tap in awake if step < self.until[tap.kind])

    def mode(self, step: int) -> DeepMode:
        """What the deep layers do at ``step``."""
        if not self.resting:
            return "compute"
        return "reuse" if step in self.resting else "keep"


class FeatureBank:
    """Records features of the source and injects them into the edit.

    Args:
        net: The net to listen to. Its hooks stay for its life.
        taps: Every tap that may ever be used; also an attribute.

    Raises:
        TapError: A tap matches no module of the net.
    """

    def __init__(self, net: nn.Module, taps: Sequence[Tap]) -> None:
        self.taps = tuple(taps)
        self._probes = {tap: _probes(net, tap) for tap in taps}

    def plan(self, options: Options) -> InjectionPlan:
        """The plan that ``options`` describe: see ``InjectionPlan.of``."""
        return InjectionPlan.of(self.taps, options)

    @contextmanager
    def recording(self, taps: Sequence[Tap]) -> Iterator[None]:
        """Keep the features of a batch that holds the source alone."""
        with self._mode("record", taps):
            yield

    @contextmanager
    def injecting(self, taps: Sequence[Tap]) -> Iterator[None]:
        """Replace the features of every branch of a batch by the recorded ones, and let go of these."""
        try:
            with self._mode("inject", taps):
                yield
        finally:
            self.clear()

    @contextmanager
    def pairing(self, taps: Sequence[Tap], groups: int) -> Iterator[None]:
        """Replace the features of all branches by those of the first, in a batch of ``groups`` branches."""
        for tap in taps:
            for probe in self._probes[tap]:
                probe.groups = groups
        with self._mode("pair", taps):
            yield

    def take(self) -> dict[str, Tensor]:
        """The recorded features, as ``features`` has them, and forget them: they are the caller's to keep."""
        taken = self.features()
        self.clear()
        return taken

    def give(self, features: Mapping[str, Tensor]) -> None:
        """Have ``injecting`` put back features that ``take`` took."""
        for probe in self._all():
            probe.feature = features.get(probe.path)

    def clear(self) -> None:
        """Forget what was recorded: of a full-size net it is a gigabyte."""
        for probe in self._all():
            probe.feature = None

    def features(self) -> dict[str, Tensor]:
        """The recorded features by module name, each ``[anything, ...]`` for a batch of one."""
        return {probe.path: probe.feature for probe in self._all() if probe.feature is not None}

    @property
    def doing(self) -> dict[str, Mode]:
        """What is being done now, by module name; nothing where nothing is."""
        return {probe.path: probe.mode for probe in self._all() if probe.mode != "off"}

    def modules(self, tap: Tap) -> tuple[str, ...]:
        """The names of the modules that ``tap`` stands for."""
        return tuple(probe.path for probe in self._probes[tap])

    def _all(self) -> Iterator[_Probe]:
        return (probe for probes in self._probes.values() for probe in probes)

    @contextmanager
    def _mode(self, mode: Mode, taps: Sequence[Tap]) -> Iterator[None]:
        probes = [probe for tap in taps for probe in self._probes[tap]]
        for probe in probes:
            probe.mode, probe.fired = mode, False
        try:
            yield
        finally:
            for probe in probes:
                probe.mode = "off"
        if silent := [probe.path for probe in probes if not probe.fired]:
            raise TapError(f"{len(silent)} active taps did not fire, the first is {silent[0]}")


class _Probe:
    """The forward hook of one module."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.mode: Mode = "off"
        self.groups = 1
        self.fired = False
        self.feature: Tensor | None = None

    def __call__(self, _module: nn.Module, _args: object, output: Tensor) -> Tensor:
        if self.mode == "off":
            return output
        self.fired = True
        if self.mode == "record":
            self.feature = output
            return output
        if self.mode == "pair":
            return _spread(output[: len(output) // self.groups], output)
        if self.feature is None:
            raise TapError(f"nothing was recorded for {self.path}")
        return _spread(self.feature, output)


def _spread(feature: Tensor, output: Tensor) -> Tensor:
    """The source's feature, of whatever precision, for every branch: ``[n, ...] -> [B * n, ...]``."""
    branches = len(output) // len(feature)
    return feature.expand(branches, *feature.shape).flatten(0, 1).to(output.dtype)


def _probes(net: nn.Module, tap: Tap) -> tuple[_Probe, ...]:
    modules = {path: module for path, module in net.named_modules() if fnmatchcase(path, tap.path)}
    if not modules:
        raise TapError(f"no module of {type(net).__name__} matches {tap.path}")
    probes = {path: _Probe(path) for path in modules}
    for path, module in modules.items():
        module.register_forward_hook(probes[path])
    return tuple(probes.values())
