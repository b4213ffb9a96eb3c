"""Clips that are longer than a net was made for."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import anyv2v
from anyv2v import Clip, Options, Size, Step, Video, diffuse, write
from anyv2v.backbones.protocol import Backbone
from anyv2v.carry import diffuse_windows
from anyv2v.dry_run import dry_run
from anyv2v.errors import OptionError
from anyv2v.evaluation.sweeping import SweepJob, run_sweep
from anyv2v.job import EditJob, InvertJob
from anyv2v.run import Outcome, run_edit, run_invert
from anyv2v.windows import Seam, count_windows, windows
from conftest import scene

QUICK = Options(steps=2, inversion_steps=2, skip=0, size=Size(32, 32), window=4, overlap=2)


# -- cutting


@given(st.integers(0, 40), st.integers(2, 9), st.data())
def test_windows_are_full_and_lose_no_frame(frames: int, length: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(1, length - 1))
    cut = list(windows((np.full((1, 1, 3), k, np.uint8) for k in range(frames)), length, overlap))
    numbers = [window.frames[:, 0, 0, 0].tolist() for window in cut]
    assert [k for window, shown in zip(cut, numbers, strict=True) for k in shown[window.known :]] == list(
        range(frames)
    )
    assert all(len(shown) == min(length, frames) for shown in numbers)
    for (before, after), window in zip(pairwise(numbers), cut[1:], strict=True):
        assert before[-window.known :] == after[: window.known]
    assert all(window.known == overlap for window in cut[1:-1])
    assert [window.last for window in cut] == [False] * (len(cut) - 1) + [True] * bool(frames)
    assert count_windows(frames, length, overlap) == max(1, len(cut))


def test_frames_are_taken_as_they_are_needed() -> None:
    taken: list[int] = []

    def frames() -> Iterator[np.ndarray]:
        for k in range(100):
            taken.append(k)
            yield np.zeros((1, 1, 3), np.uint8)

    next(windows(frames(), 8, 2))
    assert len(taken) == 8 + 6


def test_a_seam_lays_the_change_over_the_window_s_own_source() -> None:
    sources, edits = torch.randn(2, 1, 4, 5, 16, 16), torch.randn(2, 1, 4, 5, 16, 16)
    seam = Seam()
    assert torch.equal(seam.lay(edits[0], sources[0], 7, 0), edits[0])
    laid = seam.lay(edits[1], sources[1], 7, 2)
    change = edits[0][:, :, -2:] - sources[0][:, :, -2:]
    torch.testing.assert_close(laid[:, :, :2], sources[1][:, :, :2] + change)
    again = seam.lay(edits[0], sources[0], 7, 3)  # what was laid is what the next window goes on from
    torch.testing.assert_close(again[:, :, :3] - sources[0][:, :, :3], (laid - sources[1])[:, :, -3:])


def test_what_known_frames_lack_new_ones_are_given_as_far_as_it_is_coarse() -> None:
    source = torch.zeros(1, 4, 5, 32, 32)
    brighter, finer = torch.ones(1, 4, 5, 32, 32), torch.ones(1, 4, 5, 32, 32)
    finer[..., ::2], finer[..., 1::2] = 1, -1
    for change, given_on in ((brighter, 1.0), (finer, 0.0)):
        seam = Seam()
        seam.lay(change, source, 7, 0)
        fresh = seam.lay(source, source, 7, 2)[:, :, 2:]
        torch.testing.assert_close(fresh, torch.full_like(fresh, given_on))


# -- editing


@pytest.fixture
def video() -> Video:
    return Video(scene(9), Fraction(8))


def edit(backbone: Backbone, video: Video, options: Options, **more: Any) -> np.ndarray:
    edited = 255 - video.frames[0]
    return anyv2v.edit(video, edited, "a cat", backbone=backbone, options=options, **more).frames


@pytest.mark.parametrize(
    "changes", [{}, {"source_branch": "always", "vae": "sample"}, {"sampler": "ddpm", "restore": True}]
)
def test_a_clip_of_one_window_is_edited_at_once(video: Video, i2vgen_xl: Backbone, changes: dict) -> None:
    options = replace(QUICK, window=9, **changes)
    at_once = diffuse(i2vgen_xl, video, 255 - video.frames[0], "a cat", options)
    np.testing.assert_array_equal(edit(i2vgen_xl, video, options), at_once.frames)


@pytest.mark.parametrize("changes", [{}, {"source_branch": "always"}, {"source_branch": "recorded"}])
def test_a_longer_clip_begins_as_its_first_window(video: Video, i2vgen_xl: Backbone, changes: dict) -> None:
    options = replace(QUICK, **changes)
    first = replace(video, frames=video.frames[:4])
    whole = edit(i2vgen_xl, video, options)
    assert len(whole) == len(video)
    np.testing.assert_array_equal(whole[:4], edit(i2vgen_xl, first, options))


def test_a_window_is_told_the_frame_that_the_one_before_made(
    video: Video, i2vgen_xl: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[np.ndarray] = []
    condition = type(i2vgen_xl).condition

    def listen(self: Any, first: np.ndarray, prompt: str, *rest: Any, **more: Any) -> Any:
        if prompt:
            told.append(first)
        return condition(self, first, prompt, *rest, **more)

    monkeypatch.setattr(type(i2vgen_xl), "condition", listen)
    made = edit(i2vgen_xl, video, QUICK)
    starts = [0, 2, 4, 5]
    assert len(told) == len(starts)
    for start, first in list(zip(starts, told, strict=True))[1:]:
        np.testing.assert_array_equal(first, made[start])


def test_windows_agree_where_they_meet(video: Video, i2vgen_xl: Backbone) -> None:
    """At every level a window has the edit's latents of the frames that it shares with the one before."""
    ends: list[torch.Tensor] = []

    def listen(step: Step) -> None:
        if step.stage == "propagate" and step.level < 0:
            ends.append(step.latents)

    edit(i2vgen_xl, video, QUICK, on_step=listen)
    shared = [2, 2, 3]  # the last window slides back
    for (before, after), known in zip(pairwise(ends), shared, strict=True):
        torch.testing.assert_close(after[:, :, :known], before[:, :, -known:], rtol=0, atol=0)
        assert (after[:, :, known:] - before[:, :, known:]).abs().max() > 0.1


def test_steps_are_told_of_all_windows(video: Video, i2vgen_xl: Backbone) -> None:
    told: list[Step] = []
    edit(i2vgen_xl, video, QUICK, on_step=told.append)
    for stage, total in {"encode": 16, "invert": 8, "propagate": 8, "decode": 16}.items():
        steps = [step for step in told if step.stage == stage]
        assert {step.total for step in steps} == {total}, stage
        assert steps[-1].done == total
        assert all(a.done < b.done for a, b in pairwise(steps))


def test_noise_is_drawn_anew_in_every_window(video: Video, i2vgen_xl: Backbone) -> None:
    still = replace(video, frames=np.repeat(video.frames[:1], 9, axis=0))
    ends: list[torch.Tensor] = []

    def listen(step: Step) -> None:
        if step.stage == "propagate" and step.level < 0:
            ends.append(step.latents)

    edit(i2vgen_xl, still, replace(QUICK, noise_share=1.0), on_step=listen)
    assert (ends[1] - ends[0]).abs().max() > 0.1


def test_memory_is_that_of_a_window(i2vgen_xl: Backbone) -> None:
    """The most bytes that tensors hold at a step, whatever the length of the clip."""

    def peak(count: int) -> int:
        held = 0

        def listen(step: Step) -> None:
            nonlocal held
            if step.stage != "propagate":
                return
            gc.collect()  # no more than what is new since freezing
            storages = [each.untyped_storage() for each in gc.get_objects() if type(each) is torch.Tensor]
            held = max(held, sum({each.data_ptr(): each.nbytes() for each in storages}.values()))

        frames = scene(4 + 2 * (count - 1))
        pairs = diffuse_windows(i2vgen_xl, frames, Fraction(8), frames[0], "", QUICK, on_step=listen)
        assert sum(1 for _ in pairs) == len(frames)
        return held

    gc.collect()
    gc.freeze()
    assert peak(10) == peak(3) > 0


def test_an_overlap_is_less_than_a_window(video: Video, i2vgen_xl: Backbone) -> None:
    with pytest.raises(OptionError, match="overlap is 4; it must be 1 to 3"):
        Options(window=4, overlap=4)
    with pytest.raises(OptionError, match="overlap is 16; it must be less than the 16 frames of a window"):
        edit(i2vgen_xl, video, Options(overlap=16))


# -- jobs


@pytest.fixture
def calls(i2vgen_xl: Any) -> Iterator[list[int]]:
    """The rows of each call of the net."""
    seen: list[int] = []
    hook = i2vgen_xl.net.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    yield seen
    hook.remove()


Run = Callable[..., Outcome]


@pytest.fixture
def long(job: Path, tiny: str) -> dict[str, Any]:
    """A clip of nine frames in windows of four."""
    write("clip.mp4", scene(9), 8, overwrite=True)
    return {"clip": Path("clip.mp4"), "backbone": "i2vgen-xl", "model": tiny, "options": QUICK}


@pytest.fixture
def run(long: dict, i2vgen_xl: Backbone, calls: list[int]) -> Run:
    def call(name: str, **more: Any) -> Outcome:
        calls.clear()
        return run_edit(an_edit(long, name, **more), load=lambda *_, **__: i2vgen_xl)

    return call


def an_edit(long: dict, name: str, **more: Any) -> EditJob:
    return EditJob(**(long | {"first_frame": Path("edited.png"), "output": Path(name)} | more))


def facts(outcome: Outcome) -> dict[str, Any]:
    assert outcome.sidecar
    return json.loads(outcome.sidecar.read_text())


@pytest.mark.parametrize("asked", [{"whole": True}, {"duration": 9 / 8}])
def test_a_clip_is_edited_in_windows(run: Run, long: dict, calls: list[int], asked: dict) -> None:
    plan = dry_run(an_edit(long, "out", **asked))
    found = facts(run("out", **asked))
    assert (found["frames"], found["windows"]) == (plan.frames, plan.windows) == (9, 4)
    assert (found["network_calls"], found["network_rows"]) == (len(calls), sum(calls))
    assert (plan.network_calls, plan.network_rows) == (len(calls), sum(calls))
    assert plan.steps == {"invert": 8, "sample": 8}
    assert found["notices"] == plan.notices == []
    assert len(Clip("out").read()) == 9


def test_every_window_s_inversion_is_kept_on_its_own(run: Run, long: dict, calls: list[int]) -> None:
    first = facts(run("first", frames=6))
    plan = dry_run(an_edit(long, "second", whole=True))
    second = facts(run("second", whole=True))  # two windows of four are those of the first edit
    again = facts(run("again", whole=True))
    origins = [one["inversion_from"] for one in (first, second, again)]
    assert origins == ["net", "cache, net", "cache"]
    assert (plan.network_calls, plan.inversion_at_hand) == (second["network_calls"], False)
    assert (again["network_calls"], again["network_rows"]) == (len(calls), sum(calls))
    assert again["network_rows_in_all"] == sum(calls) + 4 * 2
    np.testing.assert_array_equal(Clip("second").read().frames, Clip("again").read().frames)


def test_the_memory_of_a_plan_is_that_of_a_window(long: dict) -> None:
    three, ten = (dry_run(an_edit(long, "out", frames=frames)).memory for frames in (7, 9))
    assert three == ten


def test_who_says_nothing_gets_one_window_and_is_told_of_the_rest(run: Run, long: dict) -> None:
    notice = "the first 4 of 9 frames at 8 fps are edited, and no more; --whole takes all of them"
    assert dry_run(an_edit(long, "out")).notices == [notice]
    outcome = run("out")
    assert (outcome.frames, outcome.notices) == (4, [notice])
    np.testing.assert_array_equal(Clip("out").read().frames, whole_of("begin", run)[:4])


def whole_of(name: str, run: Run) -> np.ndarray:
    run(name, whole=True)
    return Clip(name).read().frames


def test_whole_and_a_number_of_frames_contradict_each_other(long: dict) -> None:
    with pytest.raises(OptionError, match="give one of them"):
        an_edit(long, "out", whole=True, frames=3)


@pytest.mark.parametrize("kind", ["invert", "trajectory", "sweep"])
def test_what_takes_one_window_says_so(run: Run, long: dict, kind: str, monkeypatch, i2vgen_xl) -> None:
    monkeypatch.setattr("anyv2v.run.load_for", lambda *_: i2vgen_xl)
    monkeypatch.setattr("anyv2v.evaluation.sweeping.load_for", lambda *_: i2vgen_xl)
    kept, edited = Path("kept.safetensors"), Path("edited.png")
    run_invert(InvertJob(**long, output=kept))
    with pytest.raises(OptionError, match="give --frames 4, or a larger --window"):
        match kind:
            case "invert":
                run_invert(InvertJob(**long, output=Path("other.safetensors"), frames=5))
            case "trajectory":
                run("out", trajectory=kept, whole=True)
            case "sweep":
                run_sweep(
                    SweepJob(**long, output=Path("out"), first_frame=edited, vary=("skip=0,1",), frames=5)
                )
    assert facts(run("out", trajectory=kept))["windows"] == 1
