"""Evaluation on a dataset: manifests, cells that resume, statistics, tables, the page."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import data

from anyv2v import Clip, write, write_image
from anyv2v.errors import OptionError
from anyv2v.evaluation.cells import plans, run_cells
from anyv2v.evaluation.judges import Judges
from anyv2v.evaluation.manifest import read_manifest
from anyv2v.evaluation.propagation import Estimate
from anyv2v.evaluation.results import Results
from anyv2v.evaluation.scoring import Score, read_scores, score
from anyv2v.evaluation.statistics import bootstrapped, holm, paired_p
from anyv2v.evaluation.tables import Column, Table, as_csv, as_latex, as_markdown, as_rich, column
from conftest import scene

MEDIA = Path(os.environ.get("ANYV2V_GOLDEN", "nowhere")).parent / "media"


# -- manifests


def manifest(folder: Path, text: str, name: str = "m.jsonl") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_manifest_is_lines_of_json_or_a_list_in_yaml(tmp_path) -> None:
    lines = manifest(
        tmp_path, '{"task": "prompt", "clip": "a.mp4", "first-frame": "e.png", "prompt": "x"}\n\n'
    )
    listed = manifest(
        tmp_path, "- task: prompt\n  clip: a.mp4\n  first_frame: e.png\n  prompt: x\n", "m.yaml"
    )
    assert read_manifest(lines) == read_manifest(listed)
    (entry,) = read_manifest(lines)
    assert (entry.name, entry.task, entry.prompt) == ("a", "prompt", "x")
    assert entry.settings["clip"] == str(tmp_path / "a.mp4")
    assert entry.settings["first_frame"] == str(tmp_path / "e.png")


GOOD = '{"task": "style", "clip": "a.mp4", "editor": "color", "reference": "r.png"}\n'


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", r"m.jsonl:3: no JSON: .* at column 2"),
        ("[]", r"m.jsonl:3: an entry must hold settings by name"),
        ('{"clip": "b.mp4", "editor": "color"}', r"m.jsonl:3: task is None; it must be one of prompt, style"),
        ('{"task": "prompt", "editor": "color"}', r"m.jsonl:3: clip is missing"),
        ('{"task": "prompt", "clip": "b.mp4"}', r"m.jsonl:3: first_frame is missing; or name an editor"),
        (
            '{"task": "prompt", "clip": "b.mp4", "editor": "x", "stepps": 3}',
            "m.jsonl:3: .*did you mean 'steps'",
        ),
        ('{"task": "prompt", "clip": "b.mp4", "editor": "x", "steps": "few"}', r"m.jsonl:3: steps: input"),
        ('{"task": "prompt", "clip": "b.mp4", "editor": "x", "backbone": "flow"}', "m.jsonl:3: .*decides"),
        ('{"task": "prompt", "clip": "b.mp4", "editor": "x", "name": "../b"}', "m.jsonl:3: name '../b'"),
        (GOOD.strip(), r"m.jsonl:3: there is a 'a' already"),
    ],
)
def test_a_wrong_entry_is_named_by_its_line(tmp_path, line: str, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        read_manifest(manifest(tmp_path, f"{GOOD}\n{line}\n"))


def test_a_wrong_entry_in_yaml_is_named_by_its_line(tmp_path) -> None:
    text = "- task: prompt\n  clip: a.mp4\n  editor: x\n\n- task: none\n  clip: b.mp4\n"
    with pytest.raises(OptionError, match=r"m.yaml:5: task is 'none'"):
        read_manifest(manifest(tmp_path, text, "m.yaml"))
    with pytest.raises(OptionError, match=r"m.yaml:2: no YAML"):
        read_manifest(manifest(tmp_path, "- a: b\n c", "m.yaml"))
    with pytest.raises(OptionError, match=r"m.yaml:1: must be a list"):
        read_manifest(manifest(tmp_path, "a: b", "m.yaml"))
    with pytest.raises(OptionError, match="there is no entry in it"):
        read_manifest(manifest(tmp_path, "\n"))


# -- methods


def test_methods_are_backbones_and_their_variants(tmp_path) -> None:
    (tmp_path / "v.yaml").write_text("soft: {tau_temporal: 0.2}\n")
    texts = ["ablations", "late:skip=0,tau-conv=0.1", str(tmp_path / "v.yaml")]
    found = {plan.name: plan.settings for plan in plans(["flow", "seine"], texts, "there", steps=5)}
    assert list(found) == [
        "flow",
        "seine",
        "seine+no-temporal",
        "seine+no-injection",
        "seine+no-inversion",
        "seine+late",
        "seine+soft",
    ]
    assert found["flow"] == {"backbone": "flow", "steps": 5}
    assert found["seine+late"] == {
        "backbone": "seine",
        "steps": 5,
        "model": "there",
        "skip": "0",
        "tau_conv": "0.1",
    }
    assert found["seine+no-temporal"]["tau_temporal"] == 0.0
    with pytest.raises(OptionError, match="no backbone 'foo'"):
        plans(["flow", "foo"])
    for wrong in ("late", "late:skip", "a/b:skip=1"):
        with pytest.raises(OptionError, match="not of the form"):
            plans(["seine"], [wrong])
    with pytest.raises(OptionError, match="holds no settings"):
        plans(["seine"], ["none.yaml"])


# -- two methods over three entries, from the command line


CLIPS = {"couple": "prompt", "man-walking": "style", "old-man-exercising": "style"}


@pytest.fixture
def dataset(tmp_path, monkeypatch) -> Path:
    """Three clips of a camera that pans over photographs."""
    monkeypatch.chdir(tmp_path)
    write_image(tmp_path / "dusk.png", (scene(1)[0] * [1.0, 0.7, 0.4]).astype(np.uint8))
    for name, photo in zip(CLIPS, (data.astronaut, data.coffee, data.cat), strict=True):
        wide = photo()[::2, ::2]
        write(tmp_path / f"{name}.mp4", [wide[10:138, 2 * k : 2 * k + 128] for k in range(16)], 8)
    same = {"editor": "color", "reference": "dusk.png", "prompt": "dusk", "size": "64x64"}
    lines = [{"task": task, "clip": f"{name}.mp4", **same} for name, task in CLIPS.items()]
    return manifest(tmp_path, "\n".join(map(json.dumps, lines)))


@pytest.fixture
def filmed(dataset) -> Path:
    """The same three of real footage, where that is at hand."""
    for name in CLIPS:
        if (clip := MEDIA / f"{name}.mp4").exists():
            shutil.copy(clip, dataset.parent)
    return dataset


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*/*.mp4")}


def test_from_a_manifest_to_the_page(filmed, tiny: str, run) -> None:
    words = ["eval", "run", "m.jsonl", "-o", "results", "--backbones", "flow,i2vgen-xl", "--model", tiny]
    words += ["--steps", "2", "--inversion-steps", "2"]
    killed = subprocess.Popen([sys.executable, "-m", "anyv2v", *words], stderr=subprocess.DEVNULL)
    done = Path("results/flow/man-walking.mp4.json")
    deadline = time.monotonic() + 60
    while not done.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    before = {path: path.stat().st_mtime_ns for path in Path("results").glob("*/*.mp4.json")}
    assert done in before
    assert len(before) < 6

    code, out, err = run(*words)
    assert (code, err) == (0, "")
    assert re.fullmatch(r"\d made, [1-5] kept, 0 failed\n", out)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    results = Results(Path("results"))
    assert results.methods == ["flow", "i2vgen-xl"]
    clips = [results.edited(method, entry) for method, entry in product(results.methods, results.entries)]
    assert len(clips) == 6

    Path("results/theirs").mkdir()
    write("results/theirs/couple.mp4", Clip("results/inputs/couple.mp4"), 8)
    metrics = "warping_error,sharpness,clip_image"
    code, out, err = run("eval", "score", "results", "--metrics", metrics)
    assert (code, out) == (0, "results/scores.json\n"), err
    scores = read_scores(Path("results"))
    assert len(scores) == 7
    assert all("clip-vit-large-patch14" in score.missing["clip_image"] for score in scores)
    assert next(s for s in scores if s.method == "theirs").metrics["warping_error"] >= 0

    shown = ["--metrics", "warping_error,clip_image", "--format", "markdown"]
    code, out, _ = run("eval", "table", "results", *shown)
    assert code == 0
    assert "Reference-based style transfer, 2 clips" in out
    assert re.search(r"\| theirs \| .* \| n/a \|", out)
    code, out, err = run("eval", "report", "results")
    assert (code, out) == (0, "results/report.html\n"), err
    page = Path("results/report.html").read_text()
    assert page.count("<video") == 3 + 7
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert len(page) < 5e6


def test_a_failed_cell_is_told_and_does_not_stop_the_others(dataset, run) -> None:
    Path("couple.mp4").write_bytes(b"no film")
    code, out, err = run("eval", "run", "m.jsonl", "-o", "results")
    assert code == 1
    assert out == "2 made, 0 kept, 1 failed\n"
    assert err.startswith("anyv2v: flow, couple: ")
    shutil.copy("man-walking.mp4", "couple.mp4")
    code, out, _ = run("eval", "run", "m.jsonl", "-o", "results")
    assert (code, out) == (0, "1 made, 2 kept, 0 failed\n")


def judged(folder: Path = Path("results"), **known) -> dict[tuple[str, str], Score]:
    names = ["warping_error", "motion_fidelity", "first_frame", "network_rows"]
    found = score(Results(folder), Judges("cpu"), names, **known)
    return {(one.method, one.entry): one for one in found}


def test_a_bad_clip_is_told_and_the_others_are_scored(dataset) -> None:
    list(run_cells(read_manifest(dataset), plans(["flow"]), Path("results")))
    Path("results/broken").mkdir()
    Path("results/broken/couple.mp4").write_bytes(b"junk")
    found = judged()
    assert "damaged" in found["broken", "couple"].missing["warping_error"]
    assert len(found) == 4
    assert all(one.metrics["motion_fidelity"] > 0.5 for one in found.values() if one.method == "flow")


def test_a_score_is_kept_as_long_as_all_that_it_says_is_true(dataset) -> None:
    list(run_cells(read_manifest(dataset), plans(["flow"]), Path("results")))
    first = judged()
    marked = [replace(one, metrics={**one.metrics, "warping_error": 1e6}) for one in first.values()]
    assert judged(known=marked)["flow", "couple"].metrics["warping_error"] == 1e6
    write_image("results/inputs/couple.png", scene(1)[0], overwrite=True)
    again = judged(known=marked)
    assert again["flow", "couple"].metrics["warping_error"] < 255
    assert again["flow", "man-walking"].metrics["warping_error"] == 1e6
    told = Path("results/manifest.jsonl")
    told.write_text(told.read_text().replace('"prompt": "dusk"', '"instruction": "dusk", "start": 0.5'))
    assert judged(known=marked)["flow", "man-walking"].metrics["warping_error"] < 255


def test_a_score_goes_with_its_clip(dataset, run) -> None:
    list(run_cells(read_manifest(dataset)[:1], plans(["flow"]), Path("results")))
    shutil.copytree("results/flow", "results/theirs")
    for methods in (["flow", "theirs"], ["theirs"]):
        assert run("eval", "score", "results", "--metrics", "sharpness")[0] == 0
        assert [one.method for one in read_scores(Path("results"))] == methods
        shutil.rmtree("results/flow", ignore_errors=True)


def test_clips_of_other_tools_are_scored_anew_when_their_source_changes(dataset) -> None:
    list(run_cells(read_manifest(dataset)[:1], plans(["flow"]), Path("results")))
    shutil.move("results/flow", "results/theirs")
    shutil.rmtree("results/inputs")
    first = judged()["theirs", "couple"].clip
    shutil.copy("man-walking.mp4", "couple.mp4")
    assert judged()["theirs", "couple"].clip != first


def test_frames_are_paired_by_number_where_there_are_as_many(dataset) -> None:
    list(run_cells(read_manifest(dataset)[:1], plans(["flow"]), Path("results")))
    clip = Clip("results/flow/couple.mp4").read()
    Path("results/twice-as-fast").mkdir()
    write("results/twice-as-fast/couple.mp4", clip.frames, 2 * clip.fps)
    found = judged()
    ours, theirs = (found[method, "couple"].metrics for method in ("flow", "twice-as-fast"))
    assert theirs["warping_error"] == pytest.approx(ours["warping_error"], abs=0.2)


def test_the_whole_edit_is_counted_where_the_inversion_was_at_hand(dataset, tiny: str) -> None:
    settings = {"steps": 3, "inversion_steps": 3}
    methods = plans(["i2vgen-xl"], ["late:tau_conv=0"], tiny, **settings)
    list(run_cells(read_manifest(dataset)[:1], methods, Path("results")))
    found = judged()
    rows = [found[method.name, "couple"].metrics["network_rows"] for method in methods]
    assert rows[0] == rows[1] > 3


def test_clips_of_other_tools_are_not_replaced(dataset) -> None:
    Path("results/flow").mkdir(parents=True)
    Path("results/flow/couple.mp4").write_bytes(b"theirs")
    (cell,) = run_cells(read_manifest(dataset)[:1], plans(["flow"]), Path("results"))
    assert "was made by something else" in cell.error
    assert Path("results/flow/couple.mp4").read_bytes() == b"theirs"


def test_a_changed_input_is_not_passed_off_as_done(dataset) -> None:
    entries = read_manifest(dataset)[:1]
    list(run_cells(entries, plans(["flow"]), Path("results")))
    states = [cell.state for cell in run_cells(entries, plans(["flow"]), Path("results").resolve())]
    assert states == ["kept"]  # by another path of the folder
    write_image("dusk.png", scene(1)[0], overwrite=True)
    (cell,) = run_cells(entries, plans(["flow"]), Path("results"))
    assert "reference 1 changed since the results were made" in cell.error


def test_what_was_made_with_other_settings_is_not_passed_off(dataset) -> None:
    entries = read_manifest(dataset)[:1]
    assert [cell.state for cell in run_cells(entries, plans(["flow"]), Path("results"))] == ["made"]
    (cell,) = run_cells(entries, plans(["flow"], steps=7), Path("results"))
    assert cell.state == "failed"
    assert "was made with other settings" in cell.error
    changed = dataset.read_text().replace('"dusk"', '"dawn"')
    with pytest.raises(OptionError, match="holds results of another 'couple'"):
        list(run_cells(read_manifest(manifest(dataset.parent, changed)), plans(["flow"]), Path("results")))
    (entry,) = entries
    with pytest.raises(OptionError, match="holds results of another 'couple'"):  # which would be one file
        list(run_cells([replace(entry, name="Couple")], plans(["flow"]), Path("results")))


def test_an_entry_takes_what_the_command_takes(dataset) -> None:
    line = {"task": "style", "clip": "couple.mp4", "editor": "color", "reference": "dusk.png", "whole": True}
    path = manifest(dataset.parent, json.dumps({**line, "set": {"strength": 0.25}}))
    methods = plans(["flow"], low_memory=True)
    assert [cell.error for cell in run_cells(read_manifest(path), methods, Path("results"))] == [""]
    film, first = (json.loads(file.read_text()) for file in sorted(Path("results").glob("*/*.json")))
    assert first["job"]["editor_settings"] == {"strength": 0.25}
    assert first["job"]["low_memory"] is film["job"]["low_memory"] is True
    assert film["frames"] == 16


# -- statistics


def test_the_bootstrap_s_interval_holds_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    held = [(e := bootstrapped(rng.normal(3, 1, 15))).low <= 3 <= e.high for _ in range(100)]
    assert 85 <= sum(held) <= 100


def test_without_spread_there_is_no_interval() -> None:
    assert bootstrapped([2.0]) == bootstrapped([2.0, 2.0]) == Estimate(2.0, 2.0, 2.0)


def test_the_paired_test_counts_signs() -> None:
    # Of the 16 signs that four differences may have, two are as extreme as all alike.
    assert paired_p([1, 2, 3, 4], [2, 3, 4, 5]) == pytest.approx(2 / 16)
    assert paired_p([1, 2], [1, 2]) == paired_p([1], [2]) == 1.0


@settings(deadline=None, max_examples=40)
@given(st.dictionaries(st.text(min_size=1, max_size=3), st.floats(0, 1), min_size=1, max_size=6))
def test_holm_corrects_upwards_and_keeps_the_order(p_values: dict[str, float]) -> None:
    corrected = holm(p_values)
    assert all(p <= corrected[name] <= 1 for name, p in p_values.items())
    order = sorted(p_values, key=p_values.__getitem__)
    assert [corrected[name] for name in order] == sorted(corrected.values())
    assert min(corrected.values()) == pytest.approx(min(1.0, min(p_values.values()) * len(p_values)))


# -- tables


def scored(method: str, values: list[float]) -> list[Score]:
    return [Score(method, f"e{k}", "prompt", "", {"m": value}, {}) for k, value in enumerate(values)]


@pytest.fixture
def table() -> Table:
    rng = np.random.default_rng(0)
    base = rng.normal(0.5, 0.1, 12)
    near = list(base + 0.2 + 0.02 * rng.standard_normal(12))
    scores = [*scored("a & b", list(base)), *scored("best", list(base + 0.21)), *scored("near", near)]
    score, error = column("score", "higher", scores, "m"), column("error", "lower", scores, "m")
    return Table("T", ["a & b", "best", "near"], [score, error, Column("none", "higher", {}, note="why")])


def test_best_and_second_are_marked_both_ways(table) -> None:
    score, error, _ = table.columns
    assert score.order[0] == error.order[-1]
    assert "a & b" in score.unlike
    text = as_markdown(table)
    rows = {cells[1].strip(): cells for line in text.splitlines() if (cells := line.split("|"))[1:]}
    assert "**" in rows["best"][2] and "<u>" in rows["near"][2] and "**" in rows["a & b"][3]
    assert "†" in rows["a & b"][2]
    assert "n/a" in rows["best"][4] and "none: n/a, as why" in text


def test_every_form_holds_the_same_numbers(table) -> None:
    mean = f"{table.columns[0].cells['best'].mean:.3f}"
    latex = as_latex(table)
    assert mean in as_markdown(table) and mean in latex
    assert r"a \& b" in latex and r"\textbf{" in latex and r"\underline{" in latex
    assert latex.count(r"\\") == 4
    parsed = [line.split(",") for line in as_csv(table).splitlines()]
    assert parsed[2][:2] == ["T", "best"]
    assert float(parsed[2][2]) == pytest.approx(float(mean), abs=1e-3)
    shown = as_rich(table)
    assert (shown.row_count, len(shown.columns)) == (3, 3)
    assert "none: n/a, as why" in shown.caption


def test_a_method_counts_by_the_clips_that_both_have() -> None:
    scores = [*scored("a", [1.0, 2.0, 9.0]), *scored("b", [1.0, 2.0])]
    found = column("m", "higher", scores, "m")
    assert found.cells["a"].mean == found.cells["b"].mean == 1.5
    assert found.place("a") == found.place("b") == 0
    assert found.unlike == frozenset()
    apart = column("m", "higher", [*scored("a", [1.0]), replace(scored("b", [3.0])[0], entry="other")], "m")
    assert (apart.cells["a"].mean, apart.cells["b"].mean) == (1, 3)
    assert apart.place("b") == apart.place("a") == 2  # there is no best of clips that differ
