"""Low-memory mode: the same results in parts, and features that wait in the host's memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from anyv2v import Options, Size, invert, load_backbone, propagate, recipe
from anyv2v.backbones.chunking import spare
from anyv2v.backbones.protocol import Backbone
from anyv2v.errors import OptionError
from anyv2v.fitting import recorded_taps
from anyv2v.footprint import metering
from anyv2v.host import Cuda, Fetch, Shelf, memory_limit, standing_in
from benchmarks.full_size import i2vgen_xl as published
from test_contract import checkpoint

CPU = torch.device("cpu")


@dataclass
class Pretended:
    """The memory of a device that is not there."""

    limit: float
    now: int = 0
    peak: int = 0

    def forget(self) -> None: ...


def edit(backbone: Backbone, options: Options) -> Tensor:
    """The latents of an edit of two blank clips."""
    z0 = torch.randn(1, 4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    frame = np.full((64, 64, 3), 90, np.uint8)
    spec = replace(backbone.spec, size=Size(64, 64), frames=3)
    source = backbone.condition(frame, "", spec)
    told = backbone.condition(255 - frame, "a blue cat", spec, options)
    return propagate(backbone, invert(backbone, z0, source, options), source, told, options)


OPTIONS = replace(recipe("fast"), steps=4, inversion_steps=4, skip=0)


@pytest.mark.parametrize(
    ("limit", "host", "like"),
    [(1e12, 0, "recorded"), (0, 1e12, "recorded"), (0, 0, "injecting")],
    ids=["device", "host", "recompute"],
)
def test_where_features_wait_changes_nothing(
    i2vgen_xl: Backbone, limit: float, host: float, like: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is room for none the source is denoised again, as if none had been asked for."""
    monkeypatch.setattr("anyv2v.host._host_memory", lambda: host)
    with standing_in(Pretended(limit)):
        found = edit(i2vgen_xl, OPTIONS)
    assert torch.equal(found, edit(i2vgen_xl, replace(OPTIONS, source_branch=like)))


def test_the_host_fills_up_and_then_nothing_is_kept(i2vgen_xl: Backbone, monkeypatch) -> None:
    """What is pinned takes a power of two."""
    monkeypatch.setattr("anyv2v.host._host_memory", lambda: 2 * 512)
    with standing_in(Pretended(limit=0)):
        shelf = Shelf(i2vgen_xl, rows=2, wanted=())
        kept = [bool(shelf.put({"q": torch.zeros(50)})) for _ in range(3)]
    assert kept == [True, True, False]


def test_a_level_takes_its_place_once_however_often_it_is_asked_for(i2vgen_xl: Backbone, monkeypatch) -> None:
    put: list[int] = []

    def count(_shelf: Shelf, features: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        put.append(len(features))
        return features

    monkeypatch.setattr(Shelf, "put", count)
    edit(i2vgen_xl, replace(OPTIONS, inversion="fixed-point", inversion_iterations=2))
    assert len(put) == len(recorded_taps(i2vgen_xl, OPTIONS))


def test_the_most_is_held_in_mind_when_the_peak_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a GPU that is not there; whose own counter knows one peak alone."""
    peak = iter([5, 5, 3, 3, 8])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _device: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _device: next(peak))
    memory = Cuda(torch.device("cuda"))
    memory.forget()
    assert memory.most == 5
    assert memory.most == 5
    memory.begin()
    assert memory.most == 8


def test_the_device_keeps_room_for_the_work(i2vgen_xl: Backbone) -> None:
    """For two rows of what one held in passing, 300 bytes, and two levels of as many features as any has."""
    features, taps = {"q": torch.zeros(50)}, i2vgen_xl.bank.taps[:1]
    most = 5 * len(i2vgen_xl.bank.modules(taps[0]))
    needed = 1000 + 2 * 300 + 2 * most * 200
    for limit, place_found in ((needed + 200, "device"), (needed + 199, "host")):
        with standing_in(Pretended(limit, now=1200, peak=1300)):
            kept = Shelf(i2vgen_xl, 2, [taps, 5 * taps]).put(features)
        assert (kept is features) == (place_found == "device")


def test_the_next_level_is_on_its_way_while_one_is_in_use() -> None:
    asked: list[int] = []

    def features_at(level: int) -> dict[str, Tensor]:
        asked.append(level)
        return {"q": torch.full((2,), level)}

    fetch = Fetch(features_at, (9, 5, 1), CPU)
    for level, so_far in ((9, [9, 5]), (5, [9, 5, 1]), (1, [9, 5, 1])):
        assert fetch(level)["q"].tolist() == [level] * 2
        assert asked == so_far


def test_a_limit_is_a_number_of_gigabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert memory_limit() == math.inf
    monkeypatch.setenv("ANYV2V_MEMORY_LIMIT", "11.5")
    assert memory_limit() == 11.5e9
    for wrong in ("0", "a lot", "nan"):
        monkeypatch.setenv("ANYV2V_MEMORY_LIMIT", wrong)
        with pytest.raises(OptionError, match="must be a number of GB"):
            memory_limit()


@pytest.mark.parametrize("name", ["i2vgen-xl", "consisti2v", "seine"])
@pytest.mark.parametrize("source_branch", ["recorded", "always"])
def test_work_in_parts_gives_the_same(name: str, source_branch: str) -> None:
    """One call to rounding, an edit to what random nets on few pixels make of that."""
    pair = [load_backbone(name, checkpoint(name), device="cpu", low_memory=low) for low in (False, True)]
    options = replace(OPTIONS, source_branch=source_branch, guidance=2)
    spec = replace(pair[0].spec, size=Size(64, 64), frames=3)
    told = pair[0].condition(np.full((64, 64, 3), 90, np.uint8), "a blue cat", spec, options)
    z = torch.randn(2, 4, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    for tolerance, outs in (
        (1e-5, [backbone.denoise(z, 501, told) for backbone in pair]),
        (1e-3, [edit(backbone, options) for backbone in pair]),
    ):
        torch.testing.assert_close(*outs, atol=tolerance * outs[0].std().item(), rtol=0)


def test_deep_layers_answer_each_row_as_they_last_did() -> None:
    pair = [
        load_backbone("seine", checkpoint("seine"), device="cpu", low_memory=low) for low in (False, True)
    ]
    expected, found = (edit(backbone, replace(OPTIONS, deep_every=3, guidance=2)) for backbone in pair)
    torch.testing.assert_close(found, expected, atol=1e-3 * expected.std().item(), rtol=0)


def test_work_in_parts_is_done_row_by_row_and_holds_less() -> None:
    held: dict[bool, int] = {}
    rows: dict[bool, set[int]] = {}
    for low in (False, True):
        hollow = published(0.2, "meta", torch.float32)
        if low:
            spare(hollow.net, hollow.bank, hollow.deep)
        seen = rows[low] = set()
        hollow.net.conv_in.register_forward_pre_hook(lambda _, args, seen=seen: seen.add(len(args[0])))
        spec = replace(hollow.spec, size=Size(256, 256))
        told = hollow.condition(np.zeros((256, 256, 3), np.uint8), "", spec, Options())
        with metering(hollow.device) as meter:
            hollow.denoise(torch.empty(2, 4, 16, 32, 32, device="meta"), 1, told)
        held[low] = meter.peak
    assert rows == {False: {32}, True: {16}}
    assert held[True] < 0.4 * held[False]
