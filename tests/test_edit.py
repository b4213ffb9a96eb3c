"""The function that a Python user calls, without a command line around it."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

import anyv2v
from anyv2v import Options, Size, Step, Video, recipe
from anyv2v.backbones.protocol import Backbone
from anyv2v.errors import OptionError, VideoError
from anyv2v.store import identity
from conftest import scene

QUICK = Options(steps=2, inversion_steps=2)


@pytest.fixture
def video() -> Video:
    return Video(scene(3), Fraction(25))


def test_flow(video: Video) -> None:
    steps: list[Step] = []
    result = anyv2v.edit(video, 255 - video.frames[0], backbone="flow", on_step=steps.append)
    assert result.frames.shape == video.frames.shape
    assert np.array_equal(result.frames[0], 255 - video.frames[0])
    assert [(step.stage, step.done, step.total) for step in steps] == [("propagate", k, 3) for k in (1, 2, 3)]


def test_an_edited_frame_of_another_size_is_fitted(video: Video, i2vgen_xl: Backbone) -> None:
    edited = np.zeros((20, 30, 3), np.uint8)
    assert anyv2v.edit(video, edited, backbone="flow").size == Size(96, 64)
    assert anyv2v.edit(video, edited, backbone=i2vgen_xl, options=QUICK).size == Size(64, 64)


def test_every_stage_reports(video: Video, i2vgen_xl: Backbone) -> None:
    steps: list[Step] = []
    anyv2v.edit(video, video.frames[0], "a cat", backbone=i2vgen_xl, options=QUICK, on_step=steps.append)
    last = {step.stage: (step.done, step.total) for step in steps}
    assert last == {"encode": (3, 3), "invert": (2, 2), "propagate": (1, 1), "decode": (3, 3)}


def test_one_frame_is_nothing_to_carry_an_edit_to(video: Video) -> None:
    with pytest.raises(VideoError, match="one frame"):
        anyv2v.edit(Video(video.frames[:1], video.fps), video.frames[0], backbone="flow")


def test_levels_are_checked_before_the_work(video: Video, i2vgen_xl: Backbone) -> None:
    steps: list[Step] = []
    with pytest.raises(OptionError, match="do not pass all levels"):
        anyv2v.edit(
            video,
            video.frames[0],
            backbone=i2vgen_xl,
            options=Options(steps=10, inversion_steps=7),
            on_step=steps.append,
        )
    assert steps == []


def test_frames_that_keep_their_own_time_lose_their_sound(video: Video, i2vgen_xl: Backbone) -> None:
    options = replace(recipe("paper"), steps=2, inversion_steps=2)
    loud = replace(video, audio=anyv2v.AudioTrack("film.mp4"))
    kept = anyv2v.edit(loud, video.frames[0], backbone=i2vgen_xl, options=options)
    assert (kept.fps, kept.audio) == (8, None)
    resampled = anyv2v.edit(loud, video.frames[0], backbone=i2vgen_xl, options=QUICK)
    assert (resampled.fps, resampled.audio) == (25, loud.audio)


def test_noise_in_the_start_is_drawn_from_the_seed(video: Video, i2vgen_xl: Backbone) -> None:
    def edit(**changes: object) -> np.ndarray:
        options = replace(QUICK, **changes)
        return anyv2v.edit(video, video.frames[0], backbone=i2vgen_xl, options=options).frames.astype(int)

    noisy = edit(noise_share=0.5, seed=1)
    assert np.abs(noisy - edit(noise_share=0.5, seed=1)).max() <= 2
    assert np.abs(noisy - edit(noise_share=0.5, seed=2)).mean() > 1
    assert np.abs(noisy - edit()).mean() > 1


@pytest.mark.parametrize(
    "change",
    [{"inversion_prompt": "a cat"}, {"fit": "stretch"}, {"size": Size(72, 64)}, {"vae": "sample"}],
)
def test_an_inversion_is_known_by_all_that_it_depends_on(
    video: Video, i2vgen_xl: Backbone, change: dict
) -> None:
    known = identity(i2vgen_xl, None, video, QUICK)
    assert known == identity(i2vgen_xl, None, video, replace(QUICK, guidance=1, tau_conv=1))
    assert known != identity(i2vgen_xl, None, video, replace(QUICK, **change))
    assert known != identity(i2vgen_xl, None, replace(video, fps=Fraction(8)), QUICK)
    assert known != identity(i2vgen_xl, None, replace(video, frames=255 - video.frames), QUICK)


def test_features_that_a_failed_edit_left_behind_are_not_injected(video: Video, i2vgen_xl: Backbone) -> None:
    def edit() -> np.ndarray:
        options = replace(QUICK, tau_temporal=1.0)
        return anyv2v.edit(video, 255 - video.frames[0], backbone=i2vgen_xl, options=options).frames

    clean, bank = edit(), i2vgen_xl.bank
    with bank.recording(bank.taps):
        spec = replace(i2vgen_xl.spec, frames=3)
        told = i2vgen_xl.condition(255 - video.frames[0], "", spec)
        i2vgen_xl.denoise(1 + 0 * told.tensors["image_latents"], 1, told)
    assert np.array_equal(edit(), clean)
