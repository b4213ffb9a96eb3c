"""Memory: what is foretold on the meta device, what tensors hold, and what the operating system saw."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from anyv2v import Options, Video, diffuse, load_backbone, recipe
from anyv2v.backbones.chunking import spare
from anyv2v.backbones.protocol import Backbone, VideoSpec
from anyv2v.carry import diffuse_windows
from anyv2v.footprint import Footprint, metering, rehearse
from anyv2v.host import LOW_MEMORY
from benchmarks.full_size import i2vgen_xl
from test_contract import checkpoint

CPU, META = torch.device("cpu"), torch.device("meta")


def test_what_lives_is_counted_once() -> None:
    with metering(META, held=7) as meter:
        x = torch.empty(10, 10, device="meta")
        assert meter.now == 7 + 400
        y = x.t()[3:].add_(1)  # the same bytes
        del x
        assert meter.now == 7 + 400
        z = y * 2
        del y
        assert (meter.now, meter.peak) == (7 + z.nbytes, 7 + 400 + z.nbytes)
        torch.empty(10)  # elsewhere
        assert meter.now == 7 + z.nbytes
    assert meter.peak == 7 + 400 + z.nbytes


def test_numbers_are_not_taken_for_shapes() -> None:
    with metering(META):
        assert [torch.tensor(value).item() for value in (1.0, 2.0)] == [1.0, 2.0]
        assert not torch.equal(torch.zeros(2), torch.ones(2))
        assert torch.equal(torch.zeros(2), torch.zeros(2))


@pytest.mark.parametrize("device", [CPU, META])
@torch.no_grad()
def test_attention_lays_out_no_table_of_all_pairs(device: torch.device) -> None:
    q = torch.empty(2, 4, 512, 16, device=device)
    with metering(device) as meter:
        out = scaled_dot_product_attention(q, q, q)
    assert out.nbytes <= meter.peak < 1.1 * out.nbytes


@torch.no_grad()
def test_a_convolution_lays_its_channels_last() -> None:
    x = torch.empty(1, 8, 32, 32, device="meta")
    with torch.device("meta"):
        conv = nn.Conv2d(8, 4, 3, padding=1)
    with metering(META) as meter:
        out = conv(x)
    assert (meter.now, meter.peak) == (out.nbytes, x.nbytes + 2 * out.nbytes)


CASES = [("i2vgen-xl", "fast"), ("consisti2v", "default"), ("seine", "paper")]


def short(name: str, recipe_name: str, backbone: Backbone) -> tuple[Options, VideoSpec]:
    """A recipe in so few steps that it is quick and has every kind of step."""
    options = replace(
        recipe(recipe_name, backbone=name), steps=5, inversion_steps=5, skip=0, start_level=None
    )
    return options, replace(backbone.spec, frames=4)


@cache
def foretell(name: str, recipe_name: str, **settings: bool) -> Footprint:
    hollow = load_backbone(name, checkpoint(name), device="meta")
    options, spec = short(name, recipe_name, hollow)
    return rehearse(hollow, spec, options, **settings)


@pytest.mark.parametrize(("name", "recipe_name"), CASES)
def test_what_is_foretold_is_what_tensors_hold(name: str, recipe_name: str) -> None:
    """On the CPU, in the edit itself, and stage by stage."""
    backbone = load_backbone(name, checkpoint(name), device="cpu")
    options, spec = short(name, recipe_name, backbone)
    foretold = foretell(name, recipe_name)
    video = Video(np.zeros((4, spec.size.height, spec.size.width, 3), np.uint8), spec.fps)
    peaks: dict[str, int] = {}
    with metering(CPU, foretold.weights) as meter:

        def lap(step) -> None:
            peaks[step.stage] = max(peaks.get(step.stage, 0), meter.peak)
            meter.peak = meter.now

        diffuse(backbone, video, video.frames[0], "", options, on_step=lap)
    held = {stage: peak - foretold.weights for stage, peak in peaks.items()}
    assert {stage: peak - foretold.weights for stage, peak in foretold.peaks.items()} == pytest.approx(
        held, rel=0.05
    )


@pytest.mark.parametrize(("name", "recipe_name"), CASES[:1])
def test_a_call_that_is_known_holds_what_it_held_before(name: str, recipe_name: str, monkeypatch) -> None:
    known = foretell(name, recipe_name)
    monkeypatch.setattr("anyv2v.footprint._Known", lambda net, *_: net.forward)
    assert foretell.__wrapped__(name, recipe_name) == known


def test_deep_layers_rest_first_in_sampling_though_their_calls_are_known() -> None:
    """Nothing is injected, and of two steps one row each; the inversion made the same two calls."""
    backbone = load_backbone("i2vgen-xl", checkpoint("i2vgen-xl"), device="meta")
    nothing = {"tau_conv": 0, "tau_spatial": 0, "tau_temporal": 0, "guidance": 1, "skip": 0}
    options = Options(steps=2, inversion_steps=2, deep_every=2, **nothing)
    foretold = rehearse(backbone, replace(backbone.spec, frames=4), options, windows=2)
    assert foretold.peaks["propagate"] > foretold.weights


@pytest.mark.parametrize("name", ["i2vgen-xl"])
def test_with_little_memory_one_part_is_there(name: str) -> None:
    parts = [
        sum(w.nbytes for w in (*part.parameters(), *part.buffers()))
        for part in load_backbone(name, checkpoint(name), device="meta").parts
    ]
    whole, low = foretell(name, "fast"), foretell(name, "fast", low_memory=True)
    assert (whole.weights, low.weights in parts) == (sum(parts), True)
    assert low.peak == whole.peak - whole.weights + low.weights


@pytest.mark.parametrize("name", ["i2vgen-xl"])
def test_an_inversion_at_hand_is_not_made_again(name: str) -> None:
    second = foretell(name, "fast", inverted=True)
    assert set(second.peaks) == {"propagate", "decode"}
    assert second.features == foretell(name, "fast").features > 0


@pytest.mark.parametrize(("low_memory", "budget"), [(True, LOW_MEMORY), (False, 12e9)])
def test_the_published_net_stays_within_its_budget(low_memory: bool, budget: float, monkeypatch) -> None:
    """I2VGen-XL in half precision, 16 frames of 512 x 512, by the recipe with 10 GB of features."""
    monkeypatch.setattr("anyv2v.host._host_memory", lambda: 64e9)
    hollow = i2vgen_xl(device="meta")
    if low_memory:
        spare(hollow.net, hollow.bank, hollow.deep)
    limit = math.inf if low_memory else budget
    foretold = rehearse(hollow, hollow.spec, recipe("fast"), low_memory=low_memory, limit=limit)
    assert foretold.peak < budget
    assert foretold.features + foretold.waiting == pytest.approx(9.91e9, rel=0.001)
    assert foretold.stage == "propagate"


def test_a_window_that_goes_on_from_another_holds_what_that_left() -> None:
    backbone = load_backbone("i2vgen-xl", checkpoint("i2vgen-xl"), device="cpu")
    options, spec = short("i2vgen-xl", "default", backbone)
    options = replace(options, window=4, overlap=2)
    hollow = load_backbone("i2vgen-xl", checkpoint("i2vgen-xl"), device="meta")
    foretold = rehearse(hollow, spec, options, windows=3)
    frames = np.zeros((8, spec.size.height, spec.size.width, 3), np.uint8)
    with metering(CPU, foretold.weights) as meter:
        for _ in diffuse_windows(backbone, frames, spec.fps, frames[0], "", options):
            pass
    held = foretold.peak - foretold.weights
    assert held == pytest.approx(meter.peak - foretold.weights, rel=0.02)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the operating system does not say")
@pytest.mark.parametrize("recipe_name", ["fast"])
def test_what_is_foretold_is_what_the_operating_system_saw(recipe_name: str) -> None:
    """Of a net so wide that it counts; without its weights, which would hide an error."""
    words = [sys.executable, "-m", "tests.peak_of", "0.2", "128", "4", recipe_name, "2"]
    env = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}  # what is freed goes back at once
    done = subprocess.run(
        words, env=env, capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent
    )
    found = json.loads(done.stdout)
    passing = {key: found[key] - found["weights"] for key in ("foretold", "measured")}
    assert passing["measured"] > 8e7
    assert passing["foretold"] == pytest.approx(passing["measured"], rel=0.15)
