"""Editors of the first frame: the registry, those without a model, masks, ranking, and stage 1 as a whole."""

from __future__ import annotations

import os
import shlex
import sys
import time
import tomllib
import weakref
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anyv2v import Size, read_image, write_image
from anyv2v.editors import (
    EditorEntry,
    check_inputs,
    choose_editor,
    list_editors,
    load_editor,
)
from anyv2v.editors.canvas import Canvas, limited
from anyv2v.editors.masks import alpha_of, read_mask
from anyv2v.editors.protocol import Request
from anyv2v.editors.ranking import Score, ranked, score
from anyv2v.errors import EditorError, ImageError, OptionError, UserError
from anyv2v.job import FrameJob, read_settings
from anyv2v.run import run_frame
from conftest import scene

FRAME = scene(1, 68, 100)[0][:97, :65]
PYTHON = shlex.quote(sys.executable)
INVERT = f"{PYTHON} -c " + shlex.quote(
    "import sys; from PIL import Image, ImageOps; ImageOps.invert(Image.open(sys.argv[1])).save(sys.argv[2])"
)


# -- the registry


@pytest.mark.parametrize("name", list_editors())
def test_every_entry_is_whole(name: str) -> None:
    entry = list_editors()[name]
    assert entry.name == name
    assert entry.summary
    assert all(weights.licence for weights in entry.weights)
    assert all(weights.gigabytes > 0 for weights in entry.weights if weights.repository)
    roles = [weights.role for weights in entry.weights]
    assert len(set(roles)) == len(roles)


@pytest.mark.parametrize("name", [name for name, entry in list_editors().items() if entry.weights])
def test_weights_that_are_absent_are_named_with_licence_and_command(name: str) -> None:
    entry = list_editors()[name]
    known = replace(entry, modules=())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("anyv2v.editors.list_editors", lambda: {name: known})
        with pytest.raises(UserError) as raised:
            choose_editor(name)
    published = [weights for weights in entry.weights if weights.repository]
    for told in published[:1]:
        assert str(told.repository) in str(raised.value)
        assert f"{told.gigabytes:g} GB" in str(raised.value)
        assert told.licence in str(raised.value)
        assert told.commercial or "NOT for commercial use" in str(raised.value)


def test_an_unknown_editor_setting_or_model_is_named() -> None:
    with pytest.raises(OptionError, match="no editor 'none'; there are image, command"):
        choose_editor("none")
    with pytest.raises(OptionError, match="color has no setting 'size'; there are method, strength"):
        choose_editor("color", settings={"size": 3})
    with pytest.raises(OptionError, match="color, strength: input should be a valid number"):
        choose_editor("color", settings={"strength": "much"})
    with pytest.raises(OptionError, match="strength is 2; it must be 0 to 1"):
        choose_editor("color", settings={"strength": "2"})
    with pytest.raises(OptionError, match="color has no weights"):
        choose_editor("color", {"": "somewhere"})


def test_settings_of_several_values_have_a_notation(tmp_path) -> None:
    models = {"": str(tmp_path)}
    (tmp_path / "model.safetensors").touch()
    chosen = choose_editor("style-transfer", models, {"style_layers": "conv1_1,conv2_1", "steps": "7"})
    assert (chosen.settings.style_layers, chosen.settings.steps) == (("conv1_1", "conv2_1"), 7)
    (tmp_path / "model_index.json").write_text("{}")
    chosen = choose_editor("diffusers", models, {"extra": '{"eta": 0.5}'})
    assert chosen.settings.extra == {"eta": 0.5}
    with pytest.raises(OptionError, match="extra is no JSON object"):
        choose_editor("diffusers", models, {"extra": "eta=0.5"})


def test_what_is_missing_or_of_no_use_is_said() -> None:
    entry = EditorEntry("x", "subject", "a test", "none:None", needs=("reference", "mask"))
    with pytest.raises(OptionError, match="x needs --reference and --mask"):
        check_inputs(entry, set())
    with pytest.raises(OptionError, match="x has no use for --instruction"):
        check_inputs(entry, {"reference", "mask", "instruction"})
    check_inputs(entry, {"reference", "mask"})


def test_a_missing_library_names_the_extra() -> None:
    entry = EditorEntry("x", "any", "a test", "none:None", modules=("nowhere",), extra="more")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("anyv2v.editors.list_editors", lambda: {"x": entry})
        with pytest.raises(OptionError, match=r"x needs nowhere: pip install 'anyv2v\[more\]'"):
            choose_editor("x")
    assert not entry.at_hand


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """The example package as an installer leaves it: its module, and the entry points of its pyproject."""
    example = Path(__file__).parents[1] / "examples" / "editor-package"
    project = tomllib.loads((example / "pyproject.toml").read_text())["project"]
    info = tmp_path / "site" / "anyv2v_poster-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Name: {project['name']}\nVersion: {project['version']}\n")
    lines = [f"{name} = {target}" for name, target in project["entry-points"]["anyv2v.editors"].items()]
    (info / "entry_points.txt").write_text("\n".join(["[anyv2v.editors]", *lines]))
    monkeypatch.syspath_prepend(info.parent)
    monkeypatch.syspath_prepend(example)
    list_editors.cache_clear()
    yield
    list_editors.cache_clear()


@pytest.mark.usefixtures("installed")
def test_another_package_adds_an_editor(job) -> None:
    assert "poster" in {point.name for point in entry_points(group="anyv2v.editors")}
    run_frame(frame_job(job, editor="poster", editor_settings={"levels": "2"}))
    assert set(np.unique(read_image(job / "out.png"))) == {0, 255}


# -- canvas and masks


@settings(deadline=None, max_examples=60)
@given(
    width=st.integers(1, 200),
    height=st.integers(1, 200),
    multiple=st.sampled_from([1, 8, 16, 64]),
    area=st.sampled_from([None, 64 * 64, 128 * 128]),
)
def test_a_canvas_gives_any_frame_back(width: int, height: int, multiple: int, area: int | None) -> None:
    canvas = Canvas.of(Size(width, height), multiple, area)
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    frame = np.stack([x, y, 255 - x], axis=-1).astype(np.uint8)
    laid = canvas.lay(frame)
    assert laid.shape[0] % multiple == laid.shape[1] % multiple == 0
    back = canvas.lift(laid)
    assert back.shape == frame.shape
    if area is None:
        np.testing.assert_array_equal(back, frame)


def test_a_canvas_pads_and_never_stretches() -> None:
    canvas = Canvas.of(Size(65, 97), 16)
    assert canvas.padded == Size(80, 112)
    laid = canvas.lay(FRAME)
    np.testing.assert_array_equal(laid[:97, :65], FRAME)
    np.testing.assert_array_equal(laid[:97, 65], FRAME[:, 63])  # mirrored about the last column
    mask = np.ones(FRAME.shape[:2], bool)
    assert canvas.lay_mask(mask).sum() == mask.sum()


def test_a_canvas_takes_a_picture_that_came_back_at_another_size() -> None:
    canvas = Canvas.of(Size(60, 90), 8)
    smooth = cv2.GaussianBlur(FRAME[:90, :60], (0, 0), 4)
    twice = cv2.resize(canvas.lay(smooth), None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    assert np.abs(canvas.lift(twice).astype(int) - smooth).max() <= 4


@settings(deadline=None, max_examples=30)
@given(feather=st.floats(0, 40), left=st.integers(0, 60), top=st.integers(0, 90))
def test_an_edit_is_seen_within_its_mask_only(feather: float, left: int, top: int) -> None:
    mask = np.zeros(FRAME.shape[:2], bool)
    mask[top : top + 40, left : left + 30] = True
    result = limited(FRAME, 255 - FRAME, mask, feather)
    np.testing.assert_array_equal(result[~mask], FRAME[~mask])
    assert (result[mask] != FRAME[mask]).any()


def test_a_thin_mask_still_shows_the_edit() -> None:
    mask = np.zeros(FRAME.shape[:2], bool)
    mask[:, 30:33], mask[:, 40:60] = True, True
    result = limited(FRAME, 255 - FRAME, mask, feather=6)
    np.testing.assert_array_equal(result[:, 31], 255 - FRAME[:, 31])


def test_a_mask_may_reach_the_border_without_a_seam() -> None:
    mask = np.zeros(FRAME.shape[:2], bool)
    mask[:, :40] = True
    result = limited(FRAME, 255 - FRAME, mask, feather=10)
    np.testing.assert_array_equal(result[:, :30], 255 - FRAME[:, :30])  # full strength up to the border


def test_masks_are_read_from_white_or_from_alpha(tmp_path) -> None:
    from PIL import Image

    grey = np.zeros((48, 32), np.uint8)
    grey[10:20, 5:15] = 255
    Image.fromarray(grey).save(tmp_path / "white.png")
    colour = np.full((48, 32, 3), 7, np.uint8)
    Image.fromarray(np.dstack([colour, grey])).save(tmp_path / "alpha.png")
    write_image(tmp_path / "opaque.png", colour)
    for name in ("white.png", "alpha.png"):
        mask = read_mask(tmp_path / name, Size(32, 48))
        np.testing.assert_array_equal(mask, grey > 0)
        assert read_mask(tmp_path / name, Size(64, 96)).sum() == 4 * mask.sum()
    assert alpha_of(tmp_path / "opaque.png") is None
    write_image(tmp_path / "small.png", np.full((169, 300, 3), 255, np.uint8))
    assert read_mask(tmp_path / "small.png", Size(1920, 1080)).all()  # whose height is rounded
    with pytest.raises(ImageError, match="is 32x48, which is not the shape of what it masks"):
        read_mask(tmp_path / "white.png", Size(48, 48))
    with pytest.raises(ImageError, match="the mask is empty"):
        read_mask(tmp_path / "opaque.png", Size(32, 48))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.fromarray(np.dstack([colour, grey])).save(tmp_path / "turned.png", exif=exif)
    assert alpha_of(tmp_path / "turned.png").shape == (32, 48)


# -- editors without a model


def test_image_is_cropped_to_the_frame(tmp_path) -> None:
    write_image(tmp_path / "wide.png", np.repeat(FRAME, 2, axis=1))
    edited = load_editor("image", file=tmp_path / "wide.png").edit(Request(FRAME))
    assert edited.shape == FRAME.shape


def test_a_grey_picture_has_no_colours_to_stretch() -> None:
    grey = np.repeat(np.tile(np.arange(256, dtype=np.uint8), (16, 1))[..., None], 3, axis=2)
    sunset = np.zeros((16, 16, 3), np.uint8)
    sunset[:8], sunset[8:] = (250, 120, 40), (40, 10, 80)
    graded = load_editor("color").edit(Request(grey, references=(sunset,))).astype(int)
    steps = np.abs(np.diff(graded, axis=1))
    assert steps.max() <= 6


@pytest.mark.parametrize("method", ["reinhard", "histogram"])
def test_color_takes_over_the_colours_of_the_reference(method: str) -> None:
    reference = np.clip(FRAME[..., ::-1] * 0.5 + [60, 20, 0], 0, 255).astype(np.uint8)
    edited = load_editor("color", method=method).edit(Request(FRAME, references=(reference,)))
    before, after = (np.abs(x.mean((0, 1)) - reference.mean((0, 1))).max() for x in (FRAME, edited))
    assert after < 4 < before


@pytest.mark.parametrize("method", ["reinhard", "histogram"])
def test_color_leaves_a_frame_that_has_these_colours(method: str) -> None:
    edited = load_editor("color", method=method).edit(Request(FRAME, references=(FRAME[::-1].copy(),)))
    assert np.abs(edited.astype(int) - FRAME).max() <= 1
    unlike = load_editor("color", method=method, strength=0.0).edit(Request(FRAME, references=(255 - FRAME,)))
    np.testing.assert_array_equal(unlike, FRAME)


def test_color_matches_what_the_masks_hold() -> None:
    frame = FRAME.copy()
    mask = np.zeros(frame.shape[:2], bool)
    mask[:40] = True
    frame[~mask] = (255, 0, 0)
    edited = load_editor("color").edit(Request(frame, references=(255 - FRAME[:40],), mask=mask))
    assert np.abs(edited[mask].mean(0) - (255 - FRAME[:40]).mean((0, 1))).max() < 5


def command(line: str, **more) -> np.ndarray:
    request = Request(FRAME, "make it night; $HOME", seed=7, **more)
    return load_editor("command", command=line).edit(request)


def test_command_runs_a_program_on_files() -> None:
    edited = command(f"{INVERT} {{input}} {{output}}")
    np.testing.assert_array_equal(edited, 255 - FRAME)


def test_command_passes_texts_as_they_are_and_no_shell_sees_them(tmp_path) -> None:
    script = tmp_path / "note.py"
    script.write_text(
        "import sys, pathlib, shutil; pathlib.Path(sys.argv[1]).write_text('|'.join(sys.argv[4:]))\n"
        "shutil.copy(sys.argv[2], sys.argv[3])"
    )
    files = f"{PYTHON} {script} {tmp_path / 'said'} {{input}} {{output}}"
    command(files + " {instruction} --seed={seed} {braces}")
    assert (tmp_path / "said").read_text() == "make it night; $HOME|--seed=7|{braces}"


def test_command_hands_over_reference_and_mask() -> None:
    mask = np.zeros(FRAME.shape[:2], bool)
    mask[:30] = True
    reference = 255 - FRAME
    copy = f"{PYTHON} -c 'import shutil,sys; shutil.copy(*sys.argv[1:])'"
    seen = command(copy + " {mask} {output}", mask=mask)
    np.testing.assert_array_equal(seen[..., 0] > 0, mask)
    seen = command(copy + " {reference} {output}", references=(reference,))
    np.testing.assert_array_equal(seen, reference)
    with pytest.raises(OptionError, match=r"asks for \{reference\}: give --reference"):
        command("cp {reference} {output}")


@pytest.mark.parametrize(
    ("line", "error", "said"),
    [
        ("cp {input} elsewhere", OptionError, "needs {output}"),
        ("cp '{output}", OptionError, "cannot be read: no closing quotation"),
        ("no-such-program {output}", EditorError, "'no-such-program' cannot be run: no such file"),
        (
            f"{PYTHON} -c 'raise SystemExit(\"no paint left\")' {{output}}",
            EditorError,
            r"failed \(1\): no paint left",
        ),
        (
            f"{PYTHON} -c 'print(1); print(\"all gone\"); exit(3)' {{output}}",
            EditorError,
            "failed .3.: all gone",
        ),
        ("true {output}", EditorError, "wrote no picture to {output}"),
        ("touch {output}", EditorError, "wrote no picture to {output}"),
    ],
)
def test_command_says_what_went_wrong(line: str, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        command(line)


def test_command_must_keep_the_shape(tmp_path) -> None:
    write_image(tmp_path / "wide.png", np.repeat(FRAME, 2, axis=1))
    write_image(tmp_path / "twice.png", cv2.resize(FRAME, None, fx=2, fy=2))
    assert command(f"cp {tmp_path / 'twice.png'} {{output}}").shape == FRAME.shape
    with pytest.raises(EditorError, match="cp made 130x97 of a frame of 65x97; it must keep the shape"):
        command(f"cp {tmp_path / 'wide.png'} {{output}}")


def test_command_need_not_wait_for_what_it_leaves_running() -> None:
    began = time.monotonic()
    edited = command("sh -c 'cp {input} {output}; sleep 30 &'")
    np.testing.assert_array_equal(edited, FRAME)
    assert time.monotonic() - began < 10


def test_command_is_stopped_with_everything_it_began(tmp_path) -> None:
    note, script = tmp_path / "child", tmp_path / "parent.py"
    script.write_text(
        "import subprocess, time\n"
        f"open({str(note)!r}, 'w').write(str(subprocess.Popen(['sleep', '60']).pid))\n"
        "time.sleep(60)"
    )
    blocking = f"{PYTHON} {script} {{output}}"
    editor = load_editor("command", command=blocking, timeout=3.0)
    with pytest.raises(EditorError, match="was stopped after 3 s"):
        editor.edit(Request(FRAME))
    status, deadline = Path(f"/proc/{note.read_text()}/status"), time.monotonic() + 5
    while status.exists() and "Z (zombie)" not in status.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# -- ranking


def test_each_score_falls_with_what_it_measures() -> None:
    moved = np.roll(FRAME, 9, axis=1)
    blurred = cv2.GaussianBlur(FRAME, (0, 0), 3)
    noisy = np.clip(FRAME + np.random.default_rng(0).normal(0, 25, FRAME.shape), 0, 255).astype(np.uint8)
    good = score(FRAME, 255 - FRAME)
    assert good == Score(1.0, pytest.approx(1.0, abs=1e-3), pytest.approx(1.0, abs=0.05))
    assert score(FRAME, moved).structure < 0.9
    assert score(FRAME, blurred).sharpness < 0.2
    assert score(FRAME, FRAME).changed == 0
    assert score(FRAME, np.clip(FRAME, 0, 253) + np.uint8(2)).changed < 0.1
    smooth = cv2.GaussianBlur(FRAME, (0, 0), 6)
    grainy = np.clip(smooth + np.random.default_rng(0).normal(0, 25, FRAME.shape), 0, 255).astype(np.uint8)
    assert score(smooth, grainy).sharpness < 0.1  # noise is no detail
    assert score(FRAME, noisy).changed < 0.6


def test_structure_counts_outside_the_mask_only() -> None:
    mask = np.zeros(FRAME.shape[:2], bool)
    mask[:50] = True
    inside, outside = FRAME.copy(), FRAME.copy()
    inside[:44], outside[56:] = 128, 128
    assert score(FRAME, inside, mask).structure > 0.99 > score(FRAME, outside, mask).structure


def test_ranking_puts_the_best_first_and_what_did_nothing_last() -> None:
    scores = [Score(1, 0.2, 0.5), Score(0, 1.0, 1.0), Score(1, 0.9, 0.5, 0.3), Score(1, 0.9, 0.5, 0.1)]
    assert ranked(scores) == [2, 3, 0, 1]


class FakeClip:
    """Pictures are told apart by how red they are, texts by whether they say red."""

    def pictures(self, frames) -> torch.Tensor:
        return torch.tensor([[frame[..., 0].mean(), frame[..., 1].mean()] for frame in frames])

    def texts(self, texts) -> torch.Tensor:
        return torch.tensor([[float("red" in text), float("green" in text)] for text in texts])


def test_alignment_is_the_cosine_of_two_ways() -> None:
    red = FRAME.copy()
    red[..., 0] = 255
    aligned = score(FRAME, red, clip=FakeClip(), text="a red one").alignment
    assert aligned == pytest.approx(1.0, abs=1e-5)
    assert score(FRAME, red, clip=FakeClip(), text="a green one").alignment == pytest.approx(0.0, abs=1e-5)
    assert score(FRAME, red, clip=FakeClip()).alignment == 0.0


# -- stage 1 as a whole


@dataclass(frozen=True)
class Nothing:
    """No settings."""


class Noise:
    """Adds noise by the seed, and counts its work."""

    Settings = Nothing
    runs = 0

    @classmethod
    def load(cls, *_):
        return cls()

    def edit(self, request, _):
        type(self).runs += 1
        noise = np.random.default_rng(request.seed).normal(0, request.seed, request.frame.shape)
        return np.clip(request.frame + noise, 0, 255).astype(np.uint8)


@pytest.fixture
def noise(monkeypatch):
    Noise.runs = 0
    entry = EditorEntry("noise", "any", "a test", f"{__name__}:Noise")
    known = {**list_editors(), "noise": entry}
    monkeypatch.setattr("anyv2v.editors.list_editors", lambda: known)
    return Noise


def test_an_editor_is_gone_when_its_pictures_are_made(job, monkeypatch) -> None:
    """Though something in it refers to itself, as networks do: the next model needs its memory."""

    class Circular:
        def __init__(self) -> None:
            self.own = self

        def edit(self, request: Request, _on_step) -> np.ndarray:
            return 255 - request.frame

    editors = [Circular()]
    gone = weakref.ref(editors[0])
    monkeypatch.setattr("anyv2v.still.load_editor_choice", lambda *_, **__: editors.pop())
    run_frame(frame_job(job, editor="color", reference=(job / "edited.png",)))
    assert gone() is None


def frame_job(job: Path, **more) -> FrameJob:
    known = {"clip": job / "clip.mp4", "output": job / "out.png", "editor": "noise", "seed": 5}
    return FrameJob(**(known | more))


def test_a_frame_is_edited_once_and_kept(job, noise) -> None:
    assert run_frame(frame_job(job)).notices == []
    again = run_frame(frame_job(job, output=job / "again.png"))
    assert again.notices == ["the edited first frame was kept from before; --fresh makes it anew"]
    assert noise.runs == 1
    np.testing.assert_array_equal(read_image(job / "out.png"), read_image(job / "again.png"))
    run_frame(frame_job(job, output=job / "other.png", seed=6))
    assert noise.runs == 2
    run_frame(frame_job(job, output=job / "fresh.png", fresh=True))
    assert noise.runs == 3
    run_frame(frame_job(job, output=job / "half.png", dtype="bfloat16"))
    assert noise.runs == 4


def test_a_script_may_be_long(job) -> None:
    line = f"{PYTHON} -c 'import shutil,sys; shutil.copy(*sys.argv[1:]) # {'x' * 5000}' {{input}} {{output}}"
    run_frame(FrameJob(clip=job / "clip.mp4", output=job / "out.png", command=line))
    assert (job / "out.png").exists()


def test_a_changed_program_is_another_editor(job) -> None:
    script = job / "edit.py"
    line = f"{PYTHON} {script} {{input}} {{output}}"
    for k, change in enumerate(("255 - x", "x // 2")):
        script.write_text(
            "import sys, numpy as np; from PIL import Image\n"
            f"x = np.asarray(Image.open(sys.argv[1])); Image.fromarray({change}).save(sys.argv[2])"
        )
        run_frame(FrameJob(clip=job / "clip.mp4", output=job / f"{k}.png", command=line))
    assert (read_image(job / "0.png") != read_image(job / "1.png")).any()


def test_without_a_place_to_keep_it_the_work_is_not_lost(job, noise, cache) -> None:
    cache.write_text("a file where the folder would be")
    outcome = run_frame(frame_job(job))
    assert outcome.output.exists()
    assert "was not kept" in outcome.notices[0]


def test_a_damaged_frame_in_the_cache_is_made_again(job, noise, cache) -> None:
    run_frame(frame_job(job))
    (kept,) = (cache / "frames").iterdir()
    kept.write_bytes(kept.read_bytes()[:100])
    run_frame(frame_job(job, output=job / "again.png"))
    assert noise.runs == 2
    np.testing.assert_array_equal(read_image(job / "out.png"), read_image(job / "again.png"))


def test_candidates_are_ranked_on_a_sheet_and_one_can_be_picked_later(job, noise) -> None:
    outcome = run_frame(frame_job(job, candidates=4, pick="ask"))
    assert outcome.output is None
    assert outcome.candidates == job / "out.png.candidates.png"
    assert read_image(outcome.candidates).shape[0] > 300
    assert "ranked without CLIP" in outcome.notices[0]
    assert not (job / "out.png").exists()
    assert noise.runs == 4
    run_frame(frame_job(job, pick=3))
    assert noise.runs == 4  # from the store
    run_frame(frame_job(job, output=job / "alone.png", seed=7))
    np.testing.assert_array_equal(read_image(job / "out.png"), read_image(job / "alone.png"))


def test_the_best_candidate_is_taken_and_the_sidecar_says_why(job, noise) -> None:
    import json

    outcome = run_frame(frame_job(job, candidates=3))
    said = json.loads(outcome.sidecar.read_text())
    best = next(row for row in said["candidates"] if row["place"] == 1)
    assert said["editor_seed"] == best["seed"]
    run_frame(frame_job(job, output=job / "alone.png", seed=best["seed"]))
    np.testing.assert_array_equal(read_image(outcome.output), read_image(job / "alone.png"))


def test_a_mask_limits_any_editor(job, noise) -> None:
    frame = read_image(run_frame(frame_job(job, seed=0, output=job / "source.png")).output)  # noise of 0
    mask = np.zeros(frame.shape, np.uint8)
    mask[:30] = 255
    write_image(job / "mask.png", mask)
    run_frame(frame_job(job, mask=job / "mask.png", seed=9))
    edited = read_image(job / "out.png")
    np.testing.assert_array_equal(edited[30:], frame[30:])
    assert (edited[:30] != frame[:30]).any()


def test_an_editor_that_breaks_its_promise_is_named(job, noise, monkeypatch) -> None:
    for wrong in (lambda frame: frame[1:], lambda frame: frame / 255):
        monkeypatch.setattr(noise, "edit", lambda _, request, on_step, wrong=wrong: wrong(request.frame))
        with pytest.raises(EditorError, match="noise breaks an editor's promise"):
            run_frame(frame_job(job))
    assert not (job / "out.png").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"editor": None}, "--first-frame is missing; or name an editor by --editor"),
        ({"first_frame": Path("edited.png")}, "--first-frame and --editor noise contradict each other"),
        ({"command": "cp {input} {output}"}, "--command and --editor noise contradict each other"),
        ({"editor": "color"}, "color needs --reference"),
        ({"editor": "command"}, "command needs --command"),
        ({"candidates": 65}, "candidates is 65; it must be 1 to 64"),
        ({"pick": 0}, "pick is 0"),
        ({"pick": 4, "candidates": 3}, "pick is 4; it must be 1 to 3"),
        ({"pick": "ask"}, "there is but one candidate to ask about"),
        ({"feather": 1.0}, "there is no mask to feather"),
        ({"feather": -1.0, "mask": Path("m.png")}, "feather is -1"),
        ({"reference_mask": Path("m.png")}, "there is no reference for the reference mask"),
        ({"seed": -3}, "seed is -3"),
        ({"editor": "color", "reference": (Path("edited.png"),) * 2}, "color takes 1 of --reference, not 2"),
        (
            {"editor": "color", "reference": (Path("edited.png"),), "candidates": 2},
            "color always makes the same",
        ),
        ({"editor_model": {"clip": "/nowhere/at/all"}}, "there is no folder /nowhere/at/all"),
        ({"mask": Path("edited.png"), "clip": Path("other.mp4")}, "no such file"),
        ({"mask": Path("m.png"), "mask_point": ((1, 2),)}, "contradict each other: give one"),
        ({"mask_point": ((1, 2),)}, "facebook/sam2.1-hiera-tiny"),
        ({"reference": (Path("none.png"),)}, "none.png"),
        ({"output": Path("out.mp4")}, "unknown suffix"),
    ],
)
def test_what_cannot_run_is_said_before_it_runs(job, noise, more, said: str) -> None:
    with pytest.raises(UserError, match=said.replace("(", r"\(")):
        run_frame(frame_job(job, **more))
    assert noise.runs == 0


def test_settings_have_their_notation() -> None:
    flat = {
        "clip": "clip.mp4",
        "output": "out.png",
        "editor-model": ["base=here", "there"],
        "editor_settings": ["image-scale=2", "text=a=b"],
        "mask_point": ["3,4", "5,6"],
        "mask_box": "1,2,30,40",
        "pick": "3",
    }
    task = read_settings(FrameJob, flat)
    assert task.editor_model == {"base": "here", "": "there"}
    assert task.editor_settings == {"image_scale": "2", "text": "a=b"}
    assert task.mask_point == ((3, 4), (5, 6))
    assert task.mask_box == (1, 2, 30, 40)
    assert task.pick == 3
    wrong = {"mask_point": ["3"], "mask_box": "1,2", "editor_settings": ["x"], "pick": "worst"}
    for key, value in wrong.items():
        with pytest.raises(OptionError):
            read_settings(FrameJob, flat | {key: value})
    file = "anydoor/epoch=1-step=8687.ckpt"  # as it is published
    assert read_settings(FrameJob, flat | {"editor_model": file}).editor_model == {"": file}
    listed = {"set": "a=1", "mask_point": [10, 20], "mask_box": [1, 2, 3, 4], "editor_model": "there"}
    task = read_settings(FrameJob, {"clip": "c", "output": "o", **listed})
    assert (task.mask_point, task.mask_box) == (((10, 20),), (1, 2, 3, 4))
    assert (task.editor_settings, task.editor_model) == ({"a": "1"}, {"": "there"})
    for wrong_type in (5, [5], {"x": 1}):
        with pytest.raises(OptionError):
            read_settings(FrameJob, flat | {"mask_point": wrong_type})


def test_a_transparent_reference_is_one_for_any_editor(job) -> None:
    from PIL import Image

    alpha = np.zeros((64, 96), np.uint8)
    alpha[:30] = 255
    Image.fromarray(np.dstack([read_image(job / "edited.png"), alpha])).save(job / "cut.png")
    line = f"{PYTHON} -c 'import shutil,sys; shutil.copy(*sys.argv[1:])' {{reference}} {{output}}"
    run_frame(
        FrameJob(clip=job / "clip.mp4", output=job / "out.png", command=line, reference=(job / "cut.png",))
    )
    assert read_image(job / "out.png").shape == (64, 96, 3)


def test_an_edit_is_made_again_from_its_sidecar(job, monkeypatch, capsys) -> None:
    from anyv2v import cli

    first = ["edit-frame", "clip.mp4", "--editor", "color", "--reference", "edited.png", "-o", "a.png"]
    for words in (first, ["edit-frame", "--job", "a.png.json", "-o", "b.png"]):
        monkeypatch.setattr("sys.argv", ["anyv2v", *words])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert not end.value.code, capsys.readouterr().err
    np.testing.assert_array_equal(read_image(job / "a.png"), read_image(job / "b.png"))


def test_a_broken_package_breaks_nothing_else(tmp_path, monkeypatch) -> None:
    info = tmp_path / "broken-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: broken\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[anyv2v.editors]\nbroken = nowhere:ENTRY\nnumber = math:pi\n")
    monkeypatch.syspath_prepend(tmp_path)
    list_editors.cache_clear()
    with pytest.warns(UserWarning, match="of another package is left out"):
        assert "color" in list_editors()
    assert "broken" not in list_editors()
    list_editors.cache_clear()


def test_listing_does_not_import_torch() -> None:
    import subprocess

    code = "import sys, anyv2v.editors as e; e.list_editors(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=os.environ, check=False).returncode == 0
