"""Nets under ``torch.compile``: our own whole, and every backbone in regions without taps."""

from __future__ import annotations

import shutil
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from anyv2v import FeatureBank, Options, invert, load_backbone, propagate
from anyv2v.backbones.consisti2v import ConsistI2V
from anyv2v.backbones.seine import SEINE
from anyv2v.compiling import compile_regions, regions
from anyv2v.models.consisti2v import ConsistI2VConfig, ConsistI2VUNet
from anyv2v.models.seine import Config, SEINEUNet
from golden_data import Golden

BRANCHES = 3
pytestmark = [
    pytest.mark.skipif(
        not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="there is no C++ compiler"
    ),
    pytest.mark.filterwarnings("ignore"),  # of the compiler's own
]


def consisti2v() -> tuple[nn.Module, tuple[Tensor, ...]]:
    config = ConsistI2VConfig(
        block_out_channels=(32, 32),
        attention_head_dim=(2, 2),
        cross_attention_dim=16,
        norm_num_groups=8,
        layers_per_block=1,
    )
    first, stride = torch.randn(BRANCHES, 4, 1, 4, 4), torch.tensor([3])
    return ConsistI2VUNet(config), (*clip(4), torch.randn(BRANCHES, 5, 16), first, stride)


def seine() -> tuple[nn.Module, tuple[Tensor, ...]]:
    net = SEINEUNet(Config(widths=(32, 32), heads=(1, 1), text_width=16, groups=8))
    return net, (*clip(9), torch.randn(BRANCHES, 5, 16))


def clip(channels: int) -> tuple[Tensor, Tensor]:
    return torch.randn(BRANCHES, channels, 3, 4, 4), torch.tensor(501)


@pytest.mark.parametrize(("build", "taps"), [(consisti2v, ConsistI2V.taps), (seine, SEINE.taps)])
@torch.no_grad()
def test_compiled_whole_with_injection(build, taps) -> None:
    torch.manual_seed(0)
    net, call = build()
    names = [name for name, _ in net.named_modules()]
    there = [tap for tap in taps if any(fnmatchcase(name, tap.path) for name in names)]
    assert {tap.kind for tap in there} == {"conv", "spatial", "temporal", "cross"}
    bank, untouched = FeatureBank(net.eval(), there), net(*call)
    with bank.pairing(bank.taps, groups=BRANCHES):
        eager = net(*call)
        compiled = torch.compile(net, fullgraph=True)(*call)
    torch.testing.assert_close(compiled, eager, atol=1e-5, rtol=0)
    assert (eager - untouched).abs().max() > 1e-3


def tiny(name: str) -> Any:
    return load_backbone(name, Golden(name).checkpoint, device="cpu")


@pytest.mark.parametrize("name", ["i2vgen-xl", "consisti2v", "seine"])
def test_regions_hold_no_tap_and_do_not_overlap(name: str) -> None:
    backbone = tiny(name)
    parts = [module for region in regions(backbone.net, backbone.bank) for module in region.modules()]
    assert len(parts) == len(set(parts))
    tapped = [path for tap in backbone.bank.taps for path in backbone.bank.modules(tap)]
    assert not set(parts) & {backbone.net.get_submodule(path) for path in tapped}
    inside = sum(weight.numel() for part in set(parts) for weight in part.parameters(recurse=False))
    assert inside > 0.5 * sum(weight.numel() for weight in backbone.net.parameters())


@torch.no_grad()
def test_injection_compiles_nothing_anew() -> None:
    """Modes, thresholds and deep layers may change; only a new shape costs anything."""
    torch._dynamo.reset()
    backbone = tiny("i2vgen-xl")
    spec = replace(backbone.spec, frames=2)
    frames = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8).numpy()
    options = Options(steps=3, inversion_steps=3, tau_conv=0.4, tau_spatial=0.4, tau_temporal=0.7, guidance=2)
    source, edit = (backbone.condition(frames[k], "a cat", spec, o) for k, o in ((0, None), (1, options)))
    z0 = backbone.encode(frames)

    def edited(**changes: Any) -> Tensor:
        own = replace(options, **changes)
        return propagate(backbone, invert(backbone, z0, source, own), source, edit, own)

    eager = edited()
    compile_regions(backbone.net, backbone.bank, backend="eager")
    compiled, graphs = edited(), counters["stats"]["unique_graphs"]
    torch.testing.assert_close(compiled, eager, atol=1e-4, rtol=0)
    assert 0 < graphs < len(regions(backbone.net, backbone.bank))
    edited(tau_conv=1.0, tau_spatial=0.7, tau_temporal=0.0, source_branch="recorded", inversion="uni")
    edited(tau_conv=0.0, tau_spatial=0.0, tau_temporal=0.0, deep_every=2)
    assert counters["stats"]["unique_graphs"] == graphs
