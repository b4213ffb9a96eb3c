"""The registry: what is chosen, and why."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from anyv2v import list_backbones, load_backbone
from anyv2v.backbones import Entry, at_hand, choose
from anyv2v.errors import OptionError
from anyv2v.flow import Flow

PAPER_PLANE = Entry("paper-plane", "another package's", "anyv2v.flow:Flow")
NOT_FLOW = Entry("flow", "in the place of ours", "anyv2v.flow:Flow")


def test_auto_is_flow_without_a_gpu(monkeypatch) -> None:
    monkeypatch.setattr("anyv2v.backbones.cuda_devices", lambda: 0)
    choice = choose()
    assert choice.entry.name == "flow"
    assert "no CUDA GPU" in str(choice.reason)


def test_auto_leaves_alone_a_gpu_that_is_not_to_be_used(monkeypatch, tiny: str) -> None:
    monkeypatch.setattr("anyv2v.backbones.cuda_devices", lambda: 1)
    monkeypatch.setattr("anyv2v.backbones.sees_gpu", lambda: True)
    monkeypatch.setattr("anyv2v.backbones.checkpoint.find", lambda _entry, _model: Path(tiny))
    assert choose(device="cuda:0").entry.name == "i2vgen-xl"
    choice = choose(device="cpu")
    assert choice.entry.name == "flow"
    assert "on cpu" in str(choice.reason)


def test_auto_is_flow_without_weights_and_says_how_to_get_them(monkeypatch) -> None:
    monkeypatch.setattr("anyv2v.backbones.cuda_devices", lambda: 1)
    choice = choose()
    assert choice.entry.name == "flow"
    assert "hf download ali-vilab/i2vgen-xl" in str(choice.reason)


def test_auto_is_the_diffusion_model_with_both(monkeypatch, tiny: str) -> None:
    monkeypatch.setattr("anyv2v.backbones.cuda_devices", lambda: 1)
    monkeypatch.setattr("anyv2v.backbones.checkpoint.find", lambda _entry, _model: Path(tiny))
    monkeypatch.setattr("anyv2v.backbones.sees_gpu", lambda: True)
    choice = choose()
    assert (choice.entry.name, choice.checkpoint, choice.reason) == ("i2vgen-xl", Path(tiny), None)


def test_auto_is_flow_where_torch_cannot_use_the_gpu(monkeypatch, tiny: str) -> None:
    monkeypatch.setattr("anyv2v.backbones.cuda_devices", lambda: 1)
    monkeypatch.setattr("anyv2v.backbones.checkpoint.find", lambda _entry, _model: Path(tiny))
    choice = choose()
    assert choice.entry.name == "flow"
    assert "built for the CPU" in str(choice.reason)


def test_auto_knows_a_checkpoint_by_its_class(tiny: str) -> None:
    assert choose("auto", tiny).entry.name == "i2vgen-xl"


def test_what_needs_no_weights_is_at_hand() -> None:
    assert at_hand(list_backbones()["flow"])
    assert not at_hand(list_backbones()["i2vgen-xl"])
    assert isinstance(load_backbone("flow"), Flow)


def test_another_package_adds_a_backbone(monkeypatch) -> None:
    points = [
        EntryPoint("paper-plane", "test_backbones:PAPER_PLANE", "anyv2v.backbones"),
        EntryPoint("flow", "test_backbones:NOT_FLOW", "anyv2v.backbones"),
        EntryPoint("broken", "nowhere:ENTRY", "anyv2v.backbones"),
    ]
    monkeypatch.setattr("anyv2v.packages.entry_points", lambda group: points)
    list_backbones.cache_clear()
    try:
        with pytest.warns(UserWarning, match="the backbone 'broken' of another package is left out"):
            found = list_backbones()
        assert list(found) == ["flow", "i2vgen-xl", "consisti2v", "seine", "mini", "paper-plane"]
        assert isinstance(load_backbone("paper-plane"), Flow)
        assert found["flow"].summary != NOT_FLOW.summary
    finally:
        list_backbones.cache_clear()


@pytest.mark.parametrize(("device", "dtype"), [("cuda:9", "auto"), ("abacus", "auto"), ("cpu", "float3")])
def test_devices_and_dtypes_that_are_not_there(tiny: str, device: str, dtype: str) -> None:
    with pytest.raises(OptionError, match="no d"):
        load_backbone("i2vgen-xl", tiny, device=device, dtype=dtype)
