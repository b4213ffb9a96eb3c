from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyv2v import Options, load_backbone, read_image, write
from anyv2v.errors import OptionError, VideoError
from anyv2v.evaluation.methods import ABLATIONS, Diffusion, Method, Result, Task, ablated, methods
from anyv2v.evaluation.metrics import bounded_psnr, first_frame_adherence, psnr, ssim, warping_error
from anyv2v.evaluation.propagation import METRICS, estimate, real_cases, rendered_cases, run, summarise
from anyv2v.evaluation.sweep import knobs_of, turned
from anyv2v.fitting import cost
from conftest import scene

HALF = np.zeros((6, 64, 96), bool)
HALF[:, :, :48] = True


def test_psnr_by_its_definition() -> None:
    black, grey = np.zeros((2, 4, 4, 3), np.uint8), np.full((2, 4, 4, 3), 51, np.uint8)
    assert psnr(grey, black) == pytest.approx(20 * math.log10(255 / 51), abs=1e-4)
    assert psnr(black, black) == math.inf
    assert bounded_psnr(black, black) == 100
    assert math.isnan(psnr(grey, black, np.zeros((2, 4, 4), bool)))


def test_regions_are_scored_apart() -> None:
    truth = scene()
    frames = truth.copy()
    frames[:, :, :48] = 255 - frames[:, :, :48]
    assert psnr(frames, truth, HALF) < 12
    assert psnr(frames, truth, ~HALF) == math.inf
    assert ssim(frames, truth, HALF) < 0.2
    assert ssim(truth, truth) == pytest.approx(1)


def test_first_frame_adherence_looks_at_the_first_frame_alone() -> None:
    frames = scene()
    assert first_frame_adherence(frames, frames[0]) == 100
    assert first_frame_adherence(frames[::-1], frames[0]) < 20


def test_warping_error_is_nothing_along_the_true_motion() -> None:
    frames = scene(shift=2)
    flow = np.full((5, 64, 96, 2), (2.0, 0.0), np.float32)  # the picture moves to the left
    seen = np.ones((5, 64, 96), bool)
    seen[:, :, -4:] = False
    assert warping_error(frames, flow, seen) < 0.5
    assert warping_error(frames, 0 * flow, seen) > 10


@settings(deadline=None)  # the first call imports scipy
@given(st.lists(st.floats(-100, 100), min_size=2, max_size=9))
def test_an_interval_holds_its_mean(values: list[float]) -> None:
    found = estimate([*values, float("nan")])
    assert found is not None
    assert found.low <= found.mean + 1e-9
    assert found.mean <= found.high + 1e-9


def test_an_interval_by_the_book() -> None:
    found = estimate([1.0, 2.0, 3.0])
    assert found is not None
    assert (found.mean, found.high - found.mean) == (2, pytest.approx(4.303 / math.sqrt(3), abs=1e-3))
    assert estimate([float("nan")]) is None


def test_the_truth_beats_everything() -> None:
    def knows(task: object) -> Result:
        return Result(task.truth)

    rows = [Method("truth", knows), *methods(["flow"])]
    cases = rendered_cases(2, ["recolour"], ["translation"])
    scores = [score for _, score, _ in run(rows, cases)]
    table = {row.method: row for row in summarise(scores)}
    assert list(table) == ["truth", "source", "frozen frame", "flow"]
    edit = {name: row.metrics["psnr_edit"].mean for name, row in table.items()}
    assert edit["truth"] == 100
    assert edit["flow"] > max(edit["source"], edit["frozen frame"]) + 3
    assert table["flow"].metrics["first_frame"].mean == 100
    assert table["flow"].seeds == 2


@pytest.mark.parametrize("name", ["i2vgen-xl", "auto"])
def test_ablations_of_a_diffusion_backbone(tiny: str, name: str) -> None:
    rows = methods([name], tiny, ablated, device="cpu")
    assert [row.name for row in rows[2:]] == [
        "i2vgen-xl, its VAE alone",
        *("i2vgen-xl" + a for a in ABLATIONS),
    ]


def test_recipes_of_a_diffusion_backbone(tiny: str) -> None:
    rows = methods(["i2vgen-xl"], tiny, recipes=["paper", "default"], device="cpu")
    assert [row.name for row in rows[3:]] == ["i2vgen-xl, paper", "i2vgen-xl"]
    with pytest.raises(OptionError, match="quick"):
        methods(["i2vgen-xl"], tiny, recipes=["quick"], device="cpu")


def test_real_clips_have_a_true_edit_too(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="no clip"):
        list(real_cases(tmp_path))
    with pytest.raises(VideoError, match="there is no clip in it"):
        list(real_cases(tmp_path / "nowhere"))
    write(tmp_path / "a.mp4", scene(1), 8)
    with pytest.raises(VideoError, match=r"a.mp4: has one frame at 8 fps"):
        list(real_cases(tmp_path))
    write(tmp_path / "a.mp4", scene(), 8, overwrite=True)
    cases = list(real_cases(tmp_path, side=64))
    assert [case.edit for case in cases] == ["grade", "posterise", "sketch"]
    for case in cases:
        assert case.task.truth.shape == (6, 64, 64, 3)
        assert np.abs(case.task.truth.astype(int) - case.task.source).mean() > 5


def test_the_command(tmp_path: Path, monkeypatch, capsys) -> None:
    from anyv2v import cli

    monkeypatch.chdir(tmp_path)
    words = "bench propagation --backbones flow --edits recolour,style --motions translation"
    words += " --json b.json --html b.html"
    monkeypatch.setattr("sys.argv", ["anyv2v", *words.split()])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code
    assert "frozen frame" in capsys.readouterr().out
    rows = json.loads(Path("b.json").read_text())["rows"]
    assert len(rows) == 3 * 2
    assert set(rows[0]["metrics"]) == set(METRICS)
    page = Path("b.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 1  # the motion is shown once
    assert not re.search(r"(src|href)=[\"']?http", page)
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    assert "b.json: exists already" in capsys.readouterr().err


def test_flow_has_nothing_to_sweep(run) -> None:
    code, _, err = run("bench", "sweep", "--backbone", "flow")
    assert (code, "flow has no options to vary" in err) == (2, True)


def test_knobs_are_read_from_words() -> None:
    knobs = knobs_of(["tau-conv=0,0.5", "inversion_steps=10"])
    assert [knob.name for knob in knobs] == ["tau_conv=0", "tau_conv=0.5", "inversion_steps=10"]
    assert turned(knobs, Options()) == {
        ", tau_conv=0": Options(tau_conv=0),
        ", tau_conv=0.5": Options(tau_conv=0.5),
        ", inversion_steps=10": Options(inversion_steps=10, steps=10),
    }
    assert {knob.option for knob in knobs_of([])} == {"tau_conv", "tau_spatial", "tau_temporal"}


@pytest.mark.parametrize("words", ["tau_conv", "tau_conv=", "tau_conv=much", "soup=1", "fit=1", "restore=1"])
def test_knobs_that_cannot_be_turned(words: str) -> None:
    with pytest.raises(OptionError, match="not of the form"):
        knobs_of([words])


def test_the_sweep(tmp_path: Path, tiny: str, monkeypatch, capsys) -> None:
    from anyv2v import cli

    monkeypatch.chdir(tmp_path)
    words = f"bench sweep --backbone i2vgen-xl --recipe fast --model {tiny} --vary inversion_steps=2,3"
    words += " --edits nothing --motions translation --side 32 --frames 3 --json s.json --plot s.png"
    monkeypatch.setattr("sys.argv", ["anyv2v", *words.split()])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code
    assert "inversion_steps=3" in capsys.readouterr().out
    rows = {row["method"]: row for row in json.loads(Path("s.json").read_text())["rows"]}
    assert rows["source"]["metrics"]["psnr"]["mean"] == 100  # nothing is edited
    assert rows["source"]["metrics"]["psnr_edit"] is None
    assert rows["i2vgen-xl, fast, inversion_steps=3"]["network_rows"] > rows["source"]["network_rows"]
    assert read_image(Path("s.png")).shape[0] > 100


def test_an_inversion_serves_all_edits_of_a_clip_and_is_paid_by_each(tiny: str) -> None:
    backbone = load_backbone("i2vgen-xl", tiny, device="cpu")
    calls: list[int] = []
    backbone.net.register_forward_pre_hook(lambda _, args: calls.append(len(args[0])))
    frames = scene(3, 32, 32)
    options = Options(steps=2, inversion_steps=2, guidance=1)
    diffusion = Diffusion(backbone)
    first, second = (diffusion.run(options, Task(frames, truth)) for truth in (255 - frames, frames))
    foretold = cost(backbone, options).rows
    assert first.network_rows == second.network_rows == foretold
    assert sum(calls) == 2 * foretold - options.inversion_steps
    assert not np.array_equal(first.frames, second.frames)
