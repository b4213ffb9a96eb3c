"""Varying options on a real clip: which edits are made, from which inversions, and what is written."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from anyv2v import Clip, Options, Size, Video, diffuse, load_backbone, read_image
from anyv2v.backbones.protocol import Backbone
from anyv2v.dry_run import cost
from anyv2v.errors import OptionError, OutputError
from anyv2v.evaluation import sweeping
from anyv2v.evaluation.propagation import METRICS, Score
from anyv2v.evaluation.sweep import Knob, knobs_of, trials, turned, write_plot
from anyv2v.evaluation.sweeping import SweepJob, run_sweep, sweep
from anyv2v.job import read_settings
from anyv2v.progress import Step
from conftest import scene
from golden_data import Golden

SIZE = Size(32, 32)
QUICK = Options(steps=2, inversion_steps=2, size=SIZE, skip=0, guidance=1.0)


@pytest.fixture
def video() -> Video:
    return Video(scene(3, 32, 32), Fraction(8))


@contextmanager
def counting(backbone: Backbone) -> Iterator[list[int]]:
    """Rows of each call of the net."""
    rows: list[int] = []
    hook = backbone.net.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    yield rows
    hook.remove()


@pytest.mark.parametrize(
    ("words", "values"),
    [
        ("sampler=ddim,ddpm", ["ddim", "ddpm"]),
        ("restore=true, false", [True, False]),
        ("layers-conv=4;4-6,9;", [(4,), (4, 5, 6, 9), ()]),
        ("size=32x32,48x32", [Size(32, 32), Size(48, 32)]),
        ("inversion_prompt=a cat, asleep;a dog", ["a cat, asleep", "a dog"]),
        ("steps=1,1000", [1, 1000]),
        ("skip=0,900", [0, 900]),
        ("start_level=997", [997]),
    ],
)
def test_any_option_can_be_varied(words: str, values: list[object]) -> None:
    assert [knob.value for knob in knobs_of([words])] == values


def test_names_are_as_written_and_do_not_collapse() -> None:
    knobs = knobs_of(["seed=12345678,12345679", "tau_conv=0.1234567,0.1234568", "layers_conv=4-6;4"])
    assert [knob.name for knob in knobs] == [
        "seed=12345678",
        "seed=12345679",
        "tau_conv=0.1234567",
        "tau_conv=0.1234568",
        "layers_conv=4-6",
        "layers_conv=4",
    ]
    assert len(turned(knobs, Options())) == 6


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("sampler=euler", "input should be 'ddim'"),
        ("tau_conv=2", "it must be 0 to 1"),
        ("layers_conv=four", "4-11"),
        ("restore=perhaps", "restore: input should be a valid boolean"),
        ("restore=1", "true or false"),
        ("clip=a.mp4", "not of the form"),
        ("sampler", "not of the form"),
    ],
)
def test_what_cannot_be_varied(words: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        knobs_of([words])


def test_one_option_at_a_time_or_all_combinations() -> None:
    knobs = knobs_of(["tau_conv=0,1", "seed=1", "inversion_steps=10"])
    assert trials(knobs, Options()) == {
        "tau_conv=0": Options(tau_conv=0.0),
        "tau_conv=1": Options(tau_conv=1.0),
        "seed=1": Options(seed=1),
        "inversion_steps=10": Options(inversion_steps=10, steps=10),
    }
    both = {"seed": 1, "inversion_steps": 10, "steps": 10}
    assert trials(knobs, Options(), grid=True) == {
        "tau_conv=0, seed=1, inversion_steps=10": Options(tau_conv=0.0, **both),
        "tau_conv=1, seed=1, inversion_steps=10": Options(tau_conv=1.0, **both),
    }


@pytest.mark.parametrize("name", ["i2vgen-xl", "consisti2v", "seine", "mini"])
def test_an_inversion_is_made_once_for_all_that_it_serves(name: str, video: Video) -> None:
    checkpoint = Golden({"mini": "i2vgen-xl"}.get(name, name)).checkpoint
    backbone = load_backbone(name, checkpoint, device="cpu")
    words = ["tau_conv=0,0.2,1", "sampler=ddim,ddpm", "guidance=1,3", "inversion_steps=2,4"]
    options = trials(knobs_of(words), QUICK)
    steps: list[Step] = []
    with counting(backbone) as rows:
        made = sweep(backbone, video, 255 - video.frames[0], "a cat", options, on_step=steps.append)
    different = set(options.values())
    assert len(different) == 6 < len(options) == len(made)
    sampling = sum(cost(backbone, one, inverted=True).rows for one in different)
    assert sum(rows) == 2 + 4 + sampling
    assert [step.done for step in steps if step.stage == "sweep"] == [1, 2, 3, 4, 5, 6]
    assert made["tau_conv=0.2"] is made["sampler=ddim"]
    assert all(made[trial].options == one for trial, one in options.items())
    assert not np.array_equal(made["tau_conv=0"].result.frames, made["sampler=ddpm"].result.frames)


def test_a_trial_is_the_edit_itself(i2vgen_xl: Backbone, video: Video) -> None:
    edited = 255 - video.frames[0]
    made = sweep(i2vgen_xl, video, edited, "a cat", trials(knobs_of(["vae=mode,sample"]), QUICK))
    for vae in ("mode", "sample"):
        alone = diffuse(i2vgen_xl, video, edited, "a cat", replace(QUICK, vae=vae))
        np.testing.assert_array_equal(made[f"vae={vae}"].result.frames, alone.frames)


@pytest.mark.parametrize(
    "words", ["layers_conv=4;40", "inversion_steps=2,3", "size=32x32,31x32", "frame_init=none,gaussian"]
)
def test_all_values_are_looked_at_before_the_work(i2vgen_xl: Backbone, video: Video, words: str) -> None:
    options = trials(knobs_of([words]), replace(QUICK, steps=2))
    with counting(i2vgen_xl) as rows, pytest.raises(OptionError):
        sweep(i2vgen_xl, video, video.frames[0], "", options)
    assert rows == []


@pytest.fixture
def settings(job: Path, tiny: str) -> dict[str, object]:
    return {
        "clip": "clip.mp4",
        "first_frame": "edited.png",
        "output": "sheet.png",
        "backbone": "i2vgen-xl",
        "model": tiny,
        "frames": 3,
        "size": "32x32",
        "steps": 2,
        "inversion_steps": 2,
        "vary": ["tau_temporal=0,1", "sampler=ddpm"],
    }


TRIALS = ["tau_temporal=0", "tau_temporal=1", "sampler=ddpm"]


def test_a_sheet_with_a_row_for_each_value_and_its_tables(
    settings: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: dict[str, np.ndarray] = {}
    lay = sweeping.contact_sheet
    monkeypatch.setattr(
        sweeping, "contact_sheet", lambda shown, **how: rows.update(shown) or lay(shown, **how)
    )
    outcome = run_sweep(read_settings(SweepJob, settings))
    assert list(rows) == ["source", *TRIALS]
    assert {frames.shape for frames in rows.values()} == {(3, 32, 32, 3)}
    assert (outcome.output, outcome.sheet) == (Path("sheet.png"), None)
    assert read_image("sheet.png").shape[0] > 4 * 224
    written = {path.name for path in Path().glob("sheet*")}
    assert written == {"sheet.png", "sheet.csv", "sheet.md", "sheet.png.json"}
    with Path("sheet.csv").open(encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert [row["trial"] for row in table] == TRIALS
    for row in table:
        assert 0 < float(row["source_psnr"]) < 60
        assert float(row["seconds"]) > 0
    head, _, *lines = Path("sheet.md").read_text().splitlines()
    assert "source dB" in head and "warp error" in head
    assert [line.split(" | ")[0] for line in lines] == [f"| {name}" for name in TRIALS]
    sidecar = json.loads(Path("sheet.png.json").read_text())
    assert list(sidecar["scores"]) == TRIALS
    assert len(sidecar["sha256"]["first_frame"]) == 64


def test_a_folder_holds_the_clips_too(settings: dict[str, object]) -> None:
    more = {"output": "out", "grid": True, "vary": ["tau_conv=0,1", "negative_prompt=a/b: c"]}
    outcome = run_sweep(read_settings(SweepJob, settings | more))
    assert outcome.sheet == Path("out/sheet.png")
    assert sorted(path.name for path in Path("out").iterdir()) == [
        "01-tau_conv=0,_negative_prompt=a_b_c.mp4",
        "02-tau_conv=1,_negative_prompt=a_b_c.mp4",
        "sheet.csv",
        "sheet.md",
        "sheet.png",
    ]
    assert len(Clip("out/02-tau_conv=1,_negative_prompt=a_b_c.mp4").read()) == 3
    with pytest.raises(OutputError, match="is a folder"):
        run_sweep(read_settings(SweepJob, settings | more | {"overwrite": True}))


def test_edits_of_other_sizes_are_compared_at_theirs(settings: dict[str, object]) -> None:
    more = {"vary": ["restore=false,true", "size=48x32"]}
    assert run_sweep(read_settings(SweepJob, settings | more)).frames == 3
    scores = json.loads(Path("sheet.png.json").read_text())["scores"]
    assert all(isinstance(found["source_psnr"], float) for found in scores.values())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"backbone": "flow", "model": None}, OptionError, "name a diffusion model by --backbone"),
        ({"vary": None}, OptionError, "vary"),
        ({"vary": ["soup=1"]}, OptionError, "not of the form"),
        ({"first_frame": None}, OptionError, "--first-frame is missing"),
        ({"output": "sheet.mp4"}, OutputError, "unknown suffix"),
        ({"output": "taken.png"}, OutputError, "taken.csv: exists already"),
        ({"output": "edited.png", "overwrite": True}, OutputError, "would replace edited.png"),
        ({"vary": ["tau_conv=0", "layers_conv=40"]}, OptionError, "layer 40"),
    ],
)
def test_mistakes(
    settings: dict[str, object], change: dict[str, object], error: type[Exception], message: str
) -> None:
    Path("taken.csv").touch()
    before = set(Path().iterdir())
    given = {key: value for key, value in (settings | change).items() if value is not None}
    with pytest.raises(error, match=message):
        run_sweep(read_settings(SweepJob, given))
    assert set(Path().iterdir()) == before


def test_a_plot_of_words_and_of_numbers_from_nothing(tmp_path: Path) -> None:
    knobs = knobs_of(["sampler=ddim,ddpm", "skip=0,4", "layers_conv=4;4-11", "seed=1,20"])
    scores = [
        Score(f"net, {knob.name}", "style", "zoom", 0, dict.fromkeys(METRICS, 20.0 + k), 1.0, 1, None)
        for k, knob in enumerate(knobs)
    ]
    write_plot(tmp_path / "plot.png", scores, knobs, overwrite=False)
    picture = read_image(tmp_path / "plot.png")
    assert picture.shape[1] > 3 * picture.shape[0]
    assert [Knob("skip", 0, "0").is_number, Knob("restore", True, "true").is_number] == [True, False]
