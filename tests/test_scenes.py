"""The rendered clips: what is claimed of them as truth is true."""

from __future__ import annotations

from dataclasses import astuple, replace
from functools import cache

import cv2
import numpy as np
import pytest
import torch

from anyv2v.errors import OptionError
from anyv2v.evaluation.filming import Pair, render, render_pair
from anyv2v.evaluation.scenes import EDITS, HELD_OUT, MOTIONS, edit_scene, sample_scene

SIZE, FRAMES = 64, 8
LOCAL = [edit for edit in EDITS if edit not in ("style", "weather")]

every_edit = pytest.mark.parametrize("edit", EDITS)
every_motion = pytest.mark.parametrize("motion", MOTIONS)
some_seeds = pytest.mark.parametrize("seed", range(2))


@cache
def pair(edit: str, motion: str, seed: int = 0) -> Pair:
    return render_pair(edit, motion, seed, size=SIZE, frames=FRAMES)


def warped(frame: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Frame k brought to frame k + 1."""
    y, x = np.mgrid[:SIZE, :SIZE].astype(np.float32)
    return cv2.remap(
        frame, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )


def difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """How far colours are apart, in levels, ``[...]``."""
    return np.abs(a.astype(float) - b).mean(-1)


@every_edit
@every_motion
def test_a_pair_has_its_shapes_and_types(edit: str, motion: str) -> None:
    p = pair(edit, motion)
    clip, steps = (FRAMES, SIZE, SIZE), (FRAMES - 1, SIZE, SIZE)
    assert (p.source.shape, p.source.dtype) == ((*clip, 3), np.uint8)
    assert (p.target.shape, p.target.dtype) == ((*clip, 3), np.uint8)
    assert (p.region.shape, p.region.dtype) == (clip, bool)
    assert (p.flow.shape, p.flow.dtype) == ((*steps, 2), np.float32)
    assert (p.visible.shape, p.visible.dtype) == (steps, bool)
    assert (p.edit, p.motion, p.seed) == (edit, motion, 0)


@every_edit
def test_a_seed_means_the_same_bytes(edit: str) -> None:
    again = render_pair(edit, "nonrigid", 0, size=SIZE, frames=FRAMES)
    for one, other in zip(astuple(pair(edit, "nonrigid")), astuple(again), strict=True):
        assert np.array_equal(one, other)


@every_edit
@every_motion
def test_seeds_differ(edit: str, motion: str) -> None:
    one, other = pair(edit, motion, 0), pair(edit, motion, 1)
    assert difference(one.source, other.source).mean() > 5
    assert difference(one.target, other.target).mean() > 5


@every_motion
def test_all_edits_of_a_seed_start_from_one_clip(motion: str) -> None:
    assert all(np.array_equal(pair(edit, motion).source, pair("recolour", motion).source) for edit in EDITS)


@some_seeds
@every_edit
@every_motion
def test_the_edit_is_seen_in_the_first_frame(edit: str, motion: str, seed: int) -> None:
    p = pair(edit, motion, seed)
    assert p.region[0].mean() > 0.04
    assert difference(p.source, p.target)[p.region].mean() > 4


@some_seeds
@pytest.mark.parametrize("edit", LOCAL)
@every_motion
def test_outside_the_region_nothing_changes(edit: str, motion: str, seed: int) -> None:
    p = pair(edit, motion, seed)
    assert not p.region.all()
    assert difference(p.source, p.target)[~p.region].max() <= 1


@pytest.mark.parametrize("edit", ["style", "weather"])
def test_an_edit_of_the_picture_is_everywhere(edit: str) -> None:
    assert pair(edit, "camera").region.all()


@some_seeds
@pytest.mark.parametrize("edit", [edit for edit in EDITS if edit != "weather"])
@every_motion
def test_the_flow_brings_a_frame_to_the_next(edit: str, motion: str, seed: int) -> None:
    p = pair(edit, motion, seed)
    carried = np.stack([warped(*step) for step in zip(p.target[:-1], p.flow, strict=True)])
    assert p.visible.mean() > 0.5
    assert difference(carried, p.target[1:])[p.visible].mean() < 4  # the texture lost in interpolation


@every_motion
def test_another_flow_does_not(motion: str) -> None:
    p = pair("recolour", motion)
    moving = p.visible & (np.linalg.norm(p.flow, axis=-1) > 1)
    right, wrong = (
        np.stack([warped(*step) for step in zip(p.target[:-1], flow, strict=True)])
        for flow in (p.flow, -p.flow)
    )
    error = [difference(carried, p.target[1:])[moving].mean() for carried in (right, wrong)]
    assert error[0] < error[1] / 4


@every_motion
def test_the_flow_under_weather_is_that_of_the_scene(motion: str) -> None:
    calm, snowed = pair("style", motion), pair("weather", motion)
    assert np.array_equal(calm.flow, snowed.flow)
    assert np.array_equal(calm.visible, snowed.visible)


def test_a_thing_that_was_hidden_is_not_visible() -> None:
    """Where something is uncovered, the frame before shows another thing at the place it came from."""
    p = pair("style", "occlusion")
    carried = np.stack([warped(*step) for step in zip(p.target[:-1], p.flow, strict=True)])
    wrong = difference(carried, p.target[1:]) > 40
    assert wrong.any()
    assert not (wrong & p.visible).mean() > wrong.mean() / 10


@some_seeds
@pytest.mark.parametrize("edit", [edit for edit in EDITS if edit != "remove"])
@every_motion
def test_things_move(edit: str, motion: str, seed: int) -> None:
    speed = np.linalg.norm(pair(edit, motion, seed).flow, axis=-1)
    assert speed.max() > 0.4
    assert speed.mean() > 0.02


@some_seeds
def test_fast_things_are_fast(seed: int) -> None:
    p = render_pair("recolour", "fast", seed)
    speed = np.linalg.norm(p.flow, axis=-1)[p.region[1:]]
    assert 3 < np.median(speed) < 15


@some_seeds
@every_motion
def test_a_style_is_one_function_of_the_colour(motion: str, seed: int) -> None:
    p = pair("style", motion, seed)
    colours, index = np.unique(p.source.reshape(-1, 3), axis=0, return_inverse=True)
    styled = np.zeros_like(colours)
    styled[index] = p.target.reshape(-1, 3)
    assert np.array_equal(styled[index], p.target.reshape(-1, 3))


def test_a_recolouring_keeps_the_lightness() -> None:
    p = pair("recolour", "translation")
    luma = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(float) for frame in (p.source[0], p.target[0])]
    assert np.corrcoef(luma[0][p.region[0]], luma[1][p.region[0]])[0, 1] > 0.8


def test_a_short_clip_is_the_beginning_of_a_long_one() -> None:
    assert np.array_equal(
        pair("add", "fast").target[:3], render_pair("add", "fast", 0, size=SIZE, frames=3).target
    )


@every_edit
def test_a_scene_filmed_alone_is_the_one_of_the_pair(edit: str) -> None:
    scene = edit_scene(sample_scene("camera", 0), edit, "camera", 0)
    clip = render(scene, size=SIZE, frames=FRAMES)
    assert np.array_equal(clip.movedim(0, -1).numpy(), pair(edit, "camera").target)


def test_a_scene_is_filmed_on_the_device_asked_for() -> None:
    """The meta device computes nothing, but tensors of two devices still do not mix."""
    scene = sample_scene("nonrigid", 0)
    weather, style = (edit_scene(scene, edit, "nonrigid", 0) for edit in ("weather", "style"))
    clip = render(replace(weather, style=style.style), size=16, frames=2, device="meta")
    assert clip.device == torch.device("meta")


def test_an_edit_or_motion_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(OptionError, match=r"no edit 'repaint'.*recolour"):
        render_pair("repaint", "camera", 0)
    with pytest.raises(OptionError, match=r"no motion 'jump'.*translation"):
        render_pair("recolour", "jump", 0)


def test_one_edit_and_one_motion_are_held_out() -> None:
    assert HELD_OUT[0] in EDITS
    assert HELD_OUT[1] in MOTIONS
