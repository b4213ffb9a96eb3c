from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from anyv2v import FeatureBank, InjectionPlan, Options, Tap
from anyv2v.errors import OptionError, TapError

DOUBLE = Tap("body.0", "conv", 4)
QUERY = Tap("body.[12]", "spatial", 5)


class Net(nn.Module):
    """Three linear layers, of which the last runs only when it is asked to."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.ModuleList(nn.Linear(3, 3) for _ in range(3))

    def forward(self, x: torch.Tensor, whole: bool = True) -> torch.Tensor:
        for layer in self.body if whole else self.body[:2]:
            x = layer(x).tanh()
        return x


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()


def test_injection_makes_every_branch_equal_to_the_source(net: Net) -> None:
    bank = FeatureBank(net, [DOUBLE, QUERY])
    source, edit = torch.randn(4, 3), torch.randn(8, 3)
    with bank.recording([QUERY]):
        expected = net(source)
    with bank.injecting([QUERY]):
        assert torch.equal(net(edit), expected.repeat(2, 1))
    assert bank.features() == {}  # a gigabyte of a full-size net, and of no more use


def test_pairing_is_recording_and_injecting_in_one_batch(net: Net) -> None:
    bank = FeatureBank(net, [DOUBLE, QUERY])
    source, edit = torch.randn(4, 3), torch.randn(8, 3)
    with bank.recording([DOUBLE]):
        alone = net(source)
    with bank.injecting([DOUBLE]):
        injected = net(edit)
    with bank.pairing([DOUBLE], groups=3):
        together = net(torch.cat([source, edit]))
    torch.testing.assert_close(together, torch.cat([alone, injected]))


def test_nothing_happens_outside_a_mode(net: Net) -> None:
    x = torch.randn(2, 3)
    before = net(x)
    bank = FeatureBank(net, [DOUBLE])
    with bank.recording([DOUBLE]):
        assert torch.equal(net(x), before)
    assert torch.equal(net(x), before)
    assert list(bank.features()) == ["body.0"]


def test_a_mode_ends_when_the_net_fails(net: Net) -> None:
    bank = FeatureBank(net, [DOUBLE])
    with pytest.raises(RuntimeError, match="shapes"), bank.recording([DOUBLE]):
        net(torch.randn(2, 7))
    assert torch.isfinite(net(torch.randn(2, 3))).all()
    assert bank.features() == {}
    with bank.recording([DOUBLE]):
        net(torch.randn(2, 3))
    with pytest.raises(RuntimeError, match="shapes"), bank.injecting([DOUBLE]):
        net(torch.randn(2, 7))
    assert bank.features() == {}


def test_features_of_another_precision_are_injected_in_the_net_s(net: Net) -> None:
    bank = FeatureBank(net, [DOUBLE])
    with bank.recording([DOUBLE]):
        net(torch.randn(2, 3))
    bank.give({path: feature.half() for path, feature in bank.take().items()})
    with bank.injecting([DOUBLE]):
        assert net(torch.randn(2, 3)).dtype == torch.float32


def test_a_path_that_matches_nothing_is_an_error(net: Net) -> None:
    with pytest.raises(TapError, match="no module of Net matches head"):
        FeatureBank(net, [Tap("head", "conv", 0)])


def test_a_tap_that_did_not_fire_is_an_error(net: Net) -> None:
    bank = FeatureBank(net, [QUERY])
    with (
        pytest.raises(TapError, match=r"1 active taps did not fire, the first is body\.2"),
        bank.recording([QUERY]),
    ):
        net(torch.randn(2, 3), whole=False)


def test_injecting_what_was_not_recorded_is_an_error(net: Net) -> None:
    bank = FeatureBank(net, [DOUBLE])
    with pytest.raises(TapError, match="nothing was recorded"), bank.injecting([DOUBLE]):
        net(torch.randn(2, 3))


@pytest.mark.parametrize(("thresholds", "count"), [("floor", 28), ("round", 29)])
def test_thresholds_of_products_that_floats_miss(thresholds: str, count: int) -> None:
    options = Options(steps=50, tau_conv=0.58, layers_spatial=(), layers_temporal=(), thresholds=thresholds)
    plan = InjectionPlan.of([DOUBLE], options)
    assert [bool(plan.active(step)) for step in range(50)].count(True) == count


def test_layers_choose_the_taps() -> None:
    options = Options(layers_conv=(4,), layers_spatial=(), layers_temporal=())
    assert InjectionPlan.of([DOUBLE, QUERY], options).taps == (DOUBLE,)
    with pytest.raises(OptionError, match="no conv feature in decoder layer 7"):
        InjectionPlan.of([DOUBLE, QUERY], replace(options, layers_conv=(4, 7)))
