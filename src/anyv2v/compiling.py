"""``torch.compile`` for a net whose features are tapped: in regions where no tap is.

Hooks do not choose which compiled code runs, so layers of one class would share the taps of the first; and
code around a tap would be compiled anew for each of its modes. A region has neither. Layers of equal shapes
share what is compiled. Not covered: what stands around the taps, and capturing a whole step as a graph.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from anyv2v.deep import DeepLayer
from anyv2v.features import FeatureBank

__all__ = ["compile_regions", "regions"]

SHAPES = 64
"""How often one class of layer may be compiled: its widths, sizes and numbers of rows."""


def compile_regions(net: nn.Module, bank: FeatureBank, backend: str = "inductor") -> None:
    """Have the regions of a net compiled when they are first called with a new shape.

    Args:
        net: A net in the layout of Stable Diffusion.
        bank: Its taps.
        backend: See ``torch.compile``.
    """
    torch._dynamo.config.recompile_limit = SHAPES
    for region in regions(net, bank):
        forward = region.forward
        layer = forward if isinstance(forward, DeepLayer) else region  # whether it computes is not compiled
        layer.forward = torch.compile(layer.forward, backend=backend, dynamic=False)


def regions(net: nn.Module, bank: FeatureBank) -> list[nn.Module]:
    """The largest parts of its blocks that hold no tapped module, single layers apart."""
    tapped = {net.get_submodule(path) for tap in bank.taps for path in bank.modules(tap)}
    blocks = [net.get_submodule(path) for path in _blocks(net)]
    return [region for block in blocks for part in block.children() for region in _within(part, tapped)]


def _blocks(net: nn.Module) -> Iterator[str]:
    for name, _ in net.named_modules():
        if name == "mid_block" or (name.startswith(("down_blocks.", "up_blocks.")) and name.count(".") == 1):
            yield name


def _within(module: nn.Module, tapped: set[nn.Module]) -> Iterator[nn.Module]:
    children = list(module.children())
    if tapped & set(module.modules()) or isinstance(module, nn.ModuleList | nn.Sequential):
        for child in children:
            yield from _within(child, tapped)
    elif children:
        yield module
