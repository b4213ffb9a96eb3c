"""What is kept for later edits: inversions by their content, least recently used first to go."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError
from typer.testing import CliRunner

from anyv2v import Clip, Options, Size, Trajectory, Video, read_image
from anyv2v.cache import Kept, cache_limit, file_of, keeping, kept, key_of, prune, touch
from anyv2v.cli_cache import cache as commands
from anyv2v.dry_run import dry_run
from anyv2v.errors import OptionError, OutputError
from anyv2v.evaluation.cells import plans, run_cells
from anyv2v.evaluation.manifest import Entry
from anyv2v.job import EditJob, InvertJob
from anyv2v.run import Outcome, run_edit, run_invert
from anyv2v.source import SHARE
from anyv2v.store import (
    identity,
    inversion_key,
    keep_frame,
    keep_inversion,
    kept_frame,
    kept_inversion,
    load_trajectory,
    save_trajectory,
)
from conftest import scene

QUICK = Options(steps=4, inversion_steps=4, size=Size(32, 32))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("ANYV2V_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ANYV2V_CACHE_LIMIT", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def calls(i2vgen_xl) -> Iterator[list[int]]:
    """The rows of each call of the net."""
    seen: list[int] = []
    hook = i2vgen_xl.net.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    yield seen
    hook.remove()


Edit = Callable[..., Outcome]


@pytest.fixture
def edit(job: Path, tiny: str, i2vgen_xl, calls) -> Edit:
    """Edit the clip into a folder of that name; ``calls`` holds what that took."""

    def run(name: str, **more: Any) -> Outcome:
        calls.clear()
        return run_edit(an_edit(name, tiny, **more), load=lambda *_, **__: i2vgen_xl)

    return run


def an_edit(name: str, tiny: str, **more: Any) -> EditJob:
    known = {"backbone": "i2vgen-xl", "model": tiny, "frames": 2, "options": QUICK}
    return EditJob(
        **({"clip": Path("clip.mp4"), "first_frame": Path("edited.png"), "output": Path(name)} | known | more)
    )


def frames(name: str) -> np.ndarray:
    return Clip(name).read().frames


def facts(outcome: Outcome) -> dict[str, Any]:
    assert outcome.sidecar
    return json.loads(outcome.sidecar.read_text())


# -- edits


@pytest.mark.parametrize("branch", ["injecting", "always", "recorded"])
def test_a_second_edit_does_not_invert_and_is_the_same_bit_by_bit(
    edit: Edit, calls, tiny, branch: str
) -> None:
    options = replace(QUICK, source_branch=branch, vae="sample")
    first, cost = facts(edit("first", options=options)), len(calls)
    second = facts(edit("second", options=options))
    assert (first["inversion_from"], second["inversion_from"]) == ("net", "cache")
    assert cost - len(calls) == 4
    assert (first["network_calls"], second["network_calls"]) == (cost, len(calls))
    assert second["network_rows"] == sum(calls)
    assert {"encode", "invert"} <= first["seconds"].keys()
    assert not {"encode", "invert"} & second["seconds"].keys()
    np.testing.assert_array_equal(frames("first"), frames("second"))


def test_it_is_the_same_as_from_a_kept_file(edit: Edit, tiny, i2vgen_xl, monkeypatch) -> None:
    edit("first")
    edit("cached")
    known = {"backbone": "i2vgen-xl", "model": tiny, "frames": 2, "options": QUICK}
    monkeypatch.setattr("anyv2v.run.load_for", lambda *_: i2vgen_xl)
    run_invert(InvertJob(clip=Path("clip.mp4"), output=Path("kept.safetensors"), **known))
    assert facts(edit("file", trajectory=Path("kept.safetensors")))["inversion_from"] == "file"
    np.testing.assert_array_equal(frames("cached"), frames("file"))


@pytest.mark.parametrize("length", range(1, 65, 8))
def test_what_was_read_lies_in_memory_as_what_was_made(tmp_path, length: int) -> None:
    """Kernels round by alignment, and where numbers lie in a file depends on the length of its header."""
    about = {"checkpoint": "x" * length}
    save_trajectory(tmp_path / "kept", Trajectory({7: torch.ones(3)}), about, 1, overwrite=False)
    trajectory, _ = load_trajectory(tmp_path / "kept", about, "cpu")
    assert trajectory.at(7).data_ptr() % 64 == 0


def test_an_inversion_may_be_read_by_whoever_may_read_any_file(tmp_path) -> None:
    save_trajectory(tmp_path / "kept", Trajectory({7: torch.ones(3)}), {}, 1, overwrite=False)
    (tmp_path / "other").touch()
    assert (tmp_path / "kept").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_other_edits_of_the_clip_share_the_inversion(edit: Edit, calls) -> None:
    edit("first")
    other = replace(QUICK, skip=0, guidance=2.0, tau_conv=1.0, source_frame="edited")
    assert facts(edit("other", options=other, prompt="a cat"))["inversion_from"] == "cache"


def test_levels_that_other_steps_ask_for_join_those_that_are_kept(edit: Edit) -> None:
    five, two = (replace(QUICK, inversion_steps=10, steps=steps, skip=0) for steps in (5, 2))
    origins = [
        facts(edit(f"edit {k}", options=options))["inversion_from"]
        for k, options in enumerate((five, two, five, two))
    ]
    assert origins == ["net", "net", "cache", "cache"]
    assert len(kept()) == 1


def test_features_that_other_thresholds_ask_for_join_those_that_are_kept(edit: Edit) -> None:
    few, more = (replace(QUICK, source_branch="recorded", tau_temporal=tau) for tau in (0.5, 1.0))
    origins = [
        facts(edit(f"edit {k}", options=options))["inversion_from"]
        for k, options in enumerate((few, more, few, more))
    ]
    assert origins == ["net", "net", "cache", "cache"]


def test_features_that_fit_stay_though_others_do_not(edit: Edit, cache: Path, monkeypatch) -> None:
    few, more = (replace(QUICK, source_branch="recorded", tau_temporal=tau) for tau in (0.5, 1.0))
    edit("few", options=few)
    (kept,) = (cache / "inversions").glob("*.safetensors")
    monkeypatch.setenv("ANYV2V_CACHE_LIMIT", str(SHARE * 1.1 * kept.stat().st_size / 1e9))
    (notice,) = edit("more", options=more).notices
    assert "GB of features were not kept" in notice
    assert facts(edit("few again", options=few))["inversion_from"] == "cache"


def test_features_that_are_too_large_are_not_kept(edit: Edit, monkeypatch) -> None:
    monkeypatch.setenv("ANYV2V_CACHE_LIMIT", "1e-5")
    recorded = replace(QUICK, source_branch="recorded")
    (notice,) = edit("first", options=recorded).notices
    assert "GB of features were not kept" in notice
    assert facts(edit("again", options=recorded))["inversion_from"] == "net"
    assert facts(edit("alone"))["inversion_from"] == "cache"  # their latents are there


def test_without_the_cache_nothing_is_taken_and_nothing_kept(edit: Edit) -> None:
    edit("first")
    before = kept()
    assert facts(edit("second", cache=False))["inversion_from"] == "net"
    assert kept() == before


def test_a_dry_run_says_that_the_inversion_is_at_hand(edit: Edit, calls, tiny) -> None:
    before = dry_run(an_edit("out", tiny))
    edit("first")
    after = dry_run(an_edit("out", tiny))
    assert (before.inversion_at_hand, after.inversion_at_hand) == (False, True)
    assert (before.network_calls, before.steps["invert"]) == (len(calls), 4)
    edit("second")
    assert (after.network_calls, after.network_rows, after.steps["invert"]) == (len(calls), sum(calls), 0)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-10] ^= 1
    file.write_bytes(content)


def empty(file: Path) -> None:
    file.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, flip, empty])
def test_a_damaged_inversion_is_found(damage: Callable[[Path], None]) -> None:
    keep_inversion("a", LATENTS, ABOUT, 4)
    damage(file_of("inversions", "a"))
    assert kept_inversion("a", ABOUT, "cpu") is None


def test_a_damaged_inversion_is_made_again(edit: Edit) -> None:
    edit("first")
    (one,) = kept()
    cut(one.file)
    assert facts(edit("second"))["inversion_from"] == "net"
    np.testing.assert_array_equal(frames("first"), frames("second"))
    assert facts(edit("third"))["inversion_from"] == "cache"


def test_a_cache_that_cannot_be_made_is_but_a_notice(edit: Edit, cache: Path) -> None:
    cache.write_text("in the way")
    outcome = edit("out")
    assert f"the inversion was not kept for later edits: {cache}" in outcome.notices[-1]
    assert facts(outcome)["notices"] == outcome.notices
    assert len(frames("out")) == 2


def test_a_wrong_limit_is_but_a_notice_of_an_edit(edit: Edit, monkeypatch) -> None:
    monkeypatch.setenv("ANYV2V_CACHE_LIMIT", "much")
    assert "not kept for later edits: ANYV2V_CACHE_LIMIT is 'much'" in edit("out").notices[-1]


def test_a_folder_that_may_only_be_read_still_serves(edit: Edit, monkeypatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    def refuse_to_save(*_: object, **__: object) -> None:
        raise SafetensorError(os.strerror(errno.EROFS))

    edit("first")
    monkeypatch.setattr("safetensors.torch.save_file", refuse_to_save)  # as root no folder is read-only
    monkeypatch.setattr(os, "utime", refuse)
    assert facts(edit("second"))["inversion_from"] == "cache"
    other = edit("third", options=replace(QUICK, inversion_prompt="a cat"))
    assert "not kept for later edits" in other.notices[-1]
    assert "Read-only file system" in other.notices[-1]


def test_variants_of_a_method_share_the_inversion(job: Path, tiny, i2vgen_xl, calls, monkeypatch) -> None:
    monkeypatch.setattr("anyv2v.evaluation.cells.load_choice", lambda *_, **__: i2vgen_xl)
    words = {"clip": str(job / "clip.mp4"), "first_frame": str(job / "edited.png"), "frames": 2}
    methods = plans(
        ["i2vgen-xl"], ["late:tau_temporal=0,tau_conv=0"], tiny, steps=4, inversion_steps=4, size="32x32"
    )
    cells = list(run_cells([Entry("one", "prompt", words)], methods, job / "results"))
    assert [cell.state for cell in cells] == ["made", "made"], cells
    made = [json.loads(file.read_text()) for file in sorted((job / "results").rglob("one.mp4.json"))]
    assert sorted(one["inversion_from"] for one in made) == ["cache", "net"]
    assert sum(one["network_calls"] for one in made) == len(calls)


# -- keys


VIDEO = Video(scene(3), Fraction(8))


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    (tmp_path / "model" / "unet").mkdir(parents=True)
    (tmp_path / "model" / "unet" / "weights.safetensors").write_bytes(b"weights")
    return tmp_path / "model"


def key(backbone, checkpoint: Path, video: Video = VIDEO, options: Options = QUICK) -> str:
    about = identity(backbone, checkpoint, video, options)
    return inversion_key(backbone, checkpoint, about, options.inversion_steps)


@pytest.mark.parametrize(
    "change",
    [
        {"inversion_steps": 8},
        {"inversion": "ddim"},
        {"inversion": "fixed-point"},
        {"inversion": "fixed-point", "inversion_iterations": 3},
        {"inversion_prompt": "a cat"},
        {"vae": "sample"},
        {"vae": "sample", "seed": 1},
        {"fit": "stretch"},
        {"size": Size(72, 64)},
        {"frame_rate": "keep"},
    ],
    ids=lambda change: " ".join(f"{name}={value}" for name, value in change.items()),
)
def test_what_changes_an_inversion_changes_its_key(i2vgen_xl, checkpoint, change: dict[str, Any]) -> None:
    video = replace(VIDEO, fps=Fraction(10))  # not the backbone's own
    known = [key(i2vgen_xl, checkpoint, video, QUICK)]
    if len(change) > 1:
        known.append(key(i2vgen_xl, checkpoint, video, replace(QUICK, **dict([next(iter(change.items()))]))))
    assert key(i2vgen_xl, checkpoint, video, replace(QUICK, **change)) not in known


def test_clip_checkpoint_and_precision_change_the_key(i2vgen_xl, checkpoint, monkeypatch) -> None:
    known = key(i2vgen_xl, checkpoint)
    assert known != key(i2vgen_xl, checkpoint, replace(VIDEO, frames=255 - VIDEO.frames))
    assert known != key(i2vgen_xl, checkpoint, replace(VIDEO, fps=Fraction(9)))
    assert known != key(i2vgen_xl, checkpoint, replace(VIDEO, frames=VIDEO.frames[:2]))
    file = checkpoint / "unet" / "weights.safetensors"
    os.utime(file, ns=(1, 1))  # trained anew
    retrained = key(i2vgen_xl, checkpoint)
    file.rename(file.with_name("other.safetensors"))
    elsewhere = checkpoint.rename(checkpoint.with_name("other"))
    keys = {known, retrained, key(i2vgen_xl, elsewhere)}
    half = torch.nn.Linear(1, 1).half()
    monkeypatch.setattr(i2vgen_xl, "net", half)
    assert len(keys | {key(i2vgen_xl, elsewhere)}) == 4


def test_a_checkpoint_has_one_key_however_it_is_named(i2vgen_xl, checkpoint, monkeypatch) -> None:
    monkeypatch.chdir(checkpoint.parent)
    assert key(i2vgen_xl, Path("model")) == key(i2vgen_xl, checkpoint)


def test_what_changes_the_edit_alone_leaves_the_key(i2vgen_xl, checkpoint) -> None:
    other = replace(QUICK, steps=2, guidance=1.0, tau_conv=1.0, skip=0, seed=1, restore=True)
    assert key(i2vgen_xl, checkpoint) == key(i2vgen_xl, checkpoint, options=other)


CONTENT = st.dictionaries(st.text(max_size=9), st.one_of(st.integers(), st.text(max_size=9), st.none()))


@given(CONTENT, st.randoms(use_true_random=False))
def test_equal_contents_have_equal_keys(content: dict[str, Any], random) -> None:
    names = list(content)
    random.shuffle(names)
    assert key_of({name: content[name] for name in names}) == key_of(content)


@given(CONTENT, CONTENT)
def test_different_contents_have_different_keys(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert (key_of(one) == key_of(other)) == (one == other)


# -- the folder


LATENTS = Trajectory({1: torch.arange(24.0).reshape(1, 2, 3, 2, 2), -1: torch.ones(1, 2, 3, 2, 2)})
ABOUT = {"backbone": "mini", "size": "crop to 16x16", "number of frames": "3", "inversion": "ddim"}


def fill(count: int) -> list[Path]:
    """Frames of one size, each used a minute after the other."""
    began, files = time.time() - 3600.0, [file_of("frames", f"{k}") for k in range(count)]
    for k, file in enumerate(files):
        keep_frame(f"{k}", scene(1)[0])
        os.utime(file, (began + 60 * k,) * 2)
    return files


def left() -> list[str]:
    return [one.file.stem for one in kept()]


def test_what_is_kept_comes_back(cache: Path) -> None:
    recorded = replace(LATENTS, features={1: {"unet.up.0": torch.ones(2, 3, dtype=torch.bfloat16)}})
    keep_inversion("a", recorded, ABOUT, 4)
    back = kept_inversion("a", ABOUT, "cpu")
    assert back
    assert back.latents.keys() == {1, -1}
    assert torch.equal(back.at(1), LATENTS.at(1))
    assert torch.equal(back.features_at(1)["unet.up.0"], recorded.features_at(1)["unet.up.0"])
    assert kept_inversion("a", ABOUT | {"size": "crop to 8x8"}, "cpu") is None
    assert kept_inversion("b", ABOUT, "cpu") is None
    assert [path.name for path in (cache / "inversions").iterdir()] == ["a.safetensors"]


def test_the_least_recently_used_goes_first(monkeypatch) -> None:
    files = fill(4)
    size = files[0].stat().st_size
    assert kept_frame("0") is not None  # so it is used last
    assert left() == ["1", "2", "3", "0"]
    monkeypatch.setenv("ANYV2V_CACHE_LIMIT", str(3.5 * size / 1e9))
    keep_frame("4", scene(1)[0])
    assert left() == ["3", "0", "4"]


def test_what_was_just_written_stays_whatever_the_limit(monkeypatch) -> None:
    fill(2)
    monkeypatch.setenv("ANYV2V_CACHE_LIMIT", "0")
    keep_inversion("new", LATENTS, ABOUT, 4)
    assert left() == ["new"]


def test_a_write_that_fails_costs_nothing_that_was_kept(monkeypatch) -> None:
    fill(2)
    monkeypatch.setenv("ANYV2V_CACHE_LIMIT", "0")
    with pytest.raises(OutputError), keeping("frames", "new"):
        raise OutputError("no room")
    assert left() == ["0", "1"]


def test_an_entry_that_vanishes_is_no_trouble(monkeypatch) -> None:
    files = fill(2)
    ghosts = [Kept("frames", file, 10, 0.0) for file in files]
    files[0].unlink()
    monkeypatch.setattr("anyv2v.cache.kept", lambda: ghosts)
    assert len(prune(limit=0)) == 2
    touch(files[0])
    assert not any(file.exists() for file in files)


def test_drafts_of_killed_processes_are_swept_and_others_not(cache: Path) -> None:
    fill(1)
    old, new = (cache / "frames" / f".{name}-key.png" for name in ("killed", "working"))
    for file in (old, new):
        file.touch()
    os.utime(old, (1, 1))
    assert left() == ["0"]
    prune()
    assert (old.exists(), new.exists()) == (False, True)


@pytest.mark.parametrize("text", ["much", "-1", "nan"])
def test_a_limit_that_is_none_is_said(monkeypatch, text: str) -> None:
    monkeypatch.setenv("ANYV2V_CACHE_LIMIT", text)
    with pytest.raises(OptionError, match="must be a number of GB"):
        cache_limit()


RACE = """
import sys, torch
from anyv2v import Trajectory
from anyv2v.store import keep_inversion, kept_inversion

about, found = {"backbone": "mini"}, 0
print("ready", flush=True)
sys.stdin.readline()
for turn in range(200):
    number = turn // 2 % 5
    key = str(number)
    held = kept_inversion(key, about, "cpu")
    if held is None:
        keep_inversion(key, Trajectory({0: torch.full((1, 4, 2, 16, 16), float(number))}), about, 4)
    else:
        found += 1
        assert (held.at(0) == number).all()
print(found)
"""


def test_two_processes_at_once(cache: Path, monkeypatch) -> None:
    monkeypatch.setenv("ANYV2V_CACHE_LIMIT", str(30e3 / 1e9))  # room for three of five
    command = [sys.executable, "-c", RACE]
    pipe = subprocess.PIPE
    both = [subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) for _ in range(2)]
    for process in both:
        assert process.stdout.readline() == "ready\n"
    ended = [process.communicate("go\n", timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], ended
    assert all(int(out) > 0 for out, _ in ended)
    assert all(path.suffix == ".safetensors" and path.name[0] != "." for path in cache.rglob("*.*"))


# -- commands


def say(*words: str) -> str:
    done = CliRunner().invoke(commands, words, env={"COLUMNS": "160"})
    assert done.exit_code == 0, done.output
    return done.stdout


def test_listing_what_is_kept(cache: Path) -> None:
    assert json.loads(say("ls", "--json")) == []
    fill(1)
    keep_inversion("a", LATENTS, ABOUT, 4)
    keep_inversion("b", LATENTS, ABOUT, 4)
    cut(file_of("inversions", "b"))
    rows = json.loads(say("ls", "--json"))
    assert [(row["kind"], row["of"]) for row in rows] == [
        ("frames", "96x64"),
        ("inversions", "mini, crop to 16x16, 3 frames, 4 steps of ddim"),
        ("inversions", "damaged"),
    ]
    assert rows[1]["bytes"] == Path(rows[1]["file"]).stat().st_size
    text = say("ls")
    assert "mini, crop to 16x16, 3 frames, 4 steps of ddim" in text
    assert "bytes" in text or "kB" in text


@pytest.mark.parametrize(
    ("words", "stay"),
    [
        ((), ["0", "1", "2"]),
        (("--limit", "0.000003"), ["2"]),
        (("--older", str(3500 / 86400)), ["2"]),
        (("--all",), []),
    ],
)
def test_pruning(words: tuple[str, ...], stay: list[str]) -> None:
    files = fill(3)
    assert files[0].stat().st_size == 1920
    said = json.loads(say("prune", *words, "--json"))
    assert left() == stay
    assert [Path(file).stem for file in said["left"]] == stay
    assert len(said["removed"]) == 3 - len(stay)
    assert f"0 removed, 0 bytes; {len(stay)} left" in say("prune", *words)


def test_frames_are_read_as_they_were(cache: Path) -> None:
    keep_frame("a", scene(1)[0])
    np.testing.assert_array_equal(kept_frame("a"), read_image(file_of("frames", "a")))
