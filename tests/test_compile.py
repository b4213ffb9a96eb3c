"""The nets of our own under ``torch.compile``, whole and with injection on."""

from __future__ import annotations

import shutil
from fnmatch import fnmatchcase

import pytest
import torch
from torch import Tensor, nn

from anyv2v import FeatureBank
from anyv2v.backbones.consisti2v import ConsistI2V
from anyv2v.backbones.seine import SEINE
from anyv2v.models.consisti2v import ConsistI2VConfig, ConsistI2VUNet
from anyv2v.models.seine import Config, SEINEUNet

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
