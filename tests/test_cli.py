"""The commands as a person types them."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from fractions import Fraction
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anyv2v import Clip, read_image, write, write_image
from anyv2v.backbones import list_backbones
from clips import beep, film
from conftest import scene
from golden_data import Golden

EDIT = ("edit", "clip.mp4", "--first-frame", "edited.png", "-o", "out.mp4")


@pytest.fixture
def diffusion(tiny: str) -> tuple[object, ...]:
    return ("--backbone", "i2vgen-xl", "--model", tiny, "--steps", 4, "--inversion-steps", 4, "--frames", 3)


def test_help_is_quick() -> None:
    before = os.times()
    words = [sys.executable, "-m", "anyv2v", "--help"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    after = os.times()
    # Seconds of the processor, which other tests at the same time hardly lengthen.
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    assert spent < 0.6
    assert "Edit a video by editing its first frame" in done.stdout


@pytest.mark.parametrize("words", [("--help",), ("edit", "--help"), (*EDIT, "--sheet", "sheet.png", "-q")])
def test_help_and_flow_never_import_torch(job: Path, words: tuple[str, ...]) -> None:
    code = """
import sys
from anyv2v.cli import main
try:
    main()
except SystemExit as end:
    heavy = {"torch", "diffusers", "transformers", "scipy", "matplotlib"} & set(sys.modules)
    sys.exit(end.code or " ".join(heavy) or None)
"""
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_edit_by_flow(job: Path, run) -> None:
    code, out, err = run(*EDIT, "--sheet", "sheet.png")
    assert code == 0
    assert out.split() == ["out.mp4", "sheet.png"]
    assert "optical flow" in err
    assert len(Clip("out.mp4").read()) == 6
    sidecar = json.loads((job / "out.mp4.json").read_text())
    assert sidecar["job"]["first_frame"] == "edited.png"
    assert len(sidecar["sha256"]["clip"]) == 64
    assert sidecar["flow"]["frames"] == 5
    assert "propagate" in sidecar["seconds"]


def test_edit_by_diffusion_from_a_kept_inversion(job: Path, run, diffusion) -> None:
    assert run(*EDIT[:-1], "out", *diffusion, "--quiet")[0] == 0
    assert run("invert", "clip.mp4", "-o", "clip.safetensors", *diffusion, "-q")[0] == 0
    code, out, _ = run(*EDIT[:-1], "again", *diffusion, "--trajectory", "clip.safetensors", "--json")
    assert code == 0
    assert "invert" not in json.loads(out)["seconds"]
    first, again = (Clip(folder).read().frames.astype(int) for folder in ("out", "again"))
    assert np.abs(first - again).max() <= 2


def test_an_inversion_of_something_else_is_refused(job: Path, run, diffusion) -> None:
    assert run("invert", "clip.mp4", "-o", "clip.safetensors", *diffusion, "-q")[0] == 0
    code, _, err = run(*EDIT, *diffusion, "--trajectory", "clip.safetensors", "--start", 0.25)
    assert code == 2
    assert "inversion of something else: frames differ" in err
    other = ("--inversion-prompt", "a cat", "--size", "72x64", "--vae", "sample")
    err = run(*EDIT, *diffusion, "--trajectory", "clip.safetensors", *other)[2]
    assert "size ('crop to 64x64', not 'crop to 72x64'), inversion prompt ('', not 'a cat'), vae" in err
    assert run(*EDIT, *diffusion, "--trajectory", "clip.safetensors", *other, "--dry-run")[2] == err
    kept = ("--trajectory", "clip.safetensors", "--source-branch", "recorded")
    for last in ((), ("--dry-run",)):
        assert "recorded no features" in run(*EDIT, *diffusion, *kept, *last)[2]
    err = run(*EDIT, *diffusion, "--trajectory", "clip.safetensors", "--steps", 8, "--inversion-steps", 8)[2]
    assert "invert the clip with the same number of sampling steps" in err
    assert not Path("out.mp4").exists()


def test_dry_run_tells_the_work(job: Path, run, diffusion) -> None:
    plan = json.loads(run(*EDIT, *diffusion[:4], "--recipe", "paper", "--dry-run", "--json")[1])
    assert (plan["network_calls"], plan["network_rows"]) == (500 + 49, 500 + 3 * 49)
    assert plan["injecting"] == {"conv": 9, "spatial": 9, "temporal": 24, "cross": 0}
    assert plan["memory"]["weights"] > 5e6
    assert plan["frames"] == 6
    assert not Path("out.mp4").exists()
    flow = json.loads(run(*EDIT, "--dry-run", "--json")[1])
    assert (flow["backbone"], flow["network_rows"], flow["output"]) == ("flow", 0, "96x64")


def test_dry_run_counts_what_the_run_makes(job: Path, run, diffusion) -> None:
    words = (*EDIT, *diffusion[:-2], "--duration", 0.5, "--fps", 6)
    assert json.loads(run(*words, "--dry-run", "--json")[1])["frames"] == 3
    assert json.loads(run(*words, "--json")[1])["frames"] == 3
    plan = json.loads(run(*EDIT, *diffusion, "--restore", "--overwrite", "--dry-run", "--json")[1])
    assert (plan["size"], plan["output"], plan["fps"]) == ("64x64", "96x64", 8)
    latents = 4 * 3 * 8 * 8 * 4
    assert plan["memory"]["latents"] in (0, 4 * latents, 5 * latents)  # before, after, and at inversion
    assert sum(plan["memory"].values()) == plan["peak_bytes"] == plan["peaks"][plan["peak_stage"]]


def test_the_paper_keeps_frames_as_they_come(job: Path, run, diffusion) -> None:
    write("clip.mp4", scene(20), 25, overwrite=True)
    words = (*diffusion[:4], "--steps", 2, "--inversion-steps", 2, "-q")
    assert run(*EDIT[:-1], "paper", "--recipe", "paper", *words)[0] == 0
    assert run(*EDIT[:-1], "default", *words)[0] == 0
    sidecars = [json.loads(Path(f"{name}.json").read_text()) for name in ("paper", "default")]
    assert [sidecar["frames"] for sidecar in sidecars] == [16, 7]  # the backbone's number; 0.8 s at 8 fps
    options = sidecars[0]["job"]["options"]
    assert (options["thresholds"], options["frame_rate"], options["vae"]) == ("floor", "keep", "sample")


def test_dry_run_for_a_person(job: Path, run, diffusion) -> None:
    code, out, _ = run(*EDIT, *diffusion, "--dry-run")
    assert code == 0
    assert "network rows" in out
    assert re.search(r"peak +0\.\d\d GB", out)
    assert "peak stage" in out


def test_a_job_file_with_options_over_it(job: Path, run) -> None:
    Path("job.yaml").write_text(
        "clip: clip.mp4\nfirst-frame: edited.png\noutput: from-file.mp4\nframes: 4\ntau-conv: 0.5\n"
    )
    assert run("edit", "--job", "job.yaml", "-o", "out.gif", "-q")[0] == 0
    assert not Path("from-file.mp4").exists()
    assert len(Clip("out.gif").read()) == 4
    assert json.loads(Path("out.gif.json").read_text())["job"]["options"]["tau_conv"] == 0.5


def test_a_sidecar_makes_its_output_again(job: Path, run) -> None:
    assert run(*EDIT[:-1], "out", "--frames", 4, "--fps", "7.5", "--size", "64x64", "-q")[0] == 0
    assert run("edit", "--job", "out.json", "-o", "again", "-q")[0] == 0
    assert np.array_equal(Clip("out").read().frames, Clip("again").read().frames)
    first, again = (json.loads(Path(f"{name}.json").read_text()) for name in ("out", "again"))
    assert first["job"] | {"output": "again"} == again["job"] | {"backbone": "auto"}


def test_what_is_said_takes_the_place_of_all_that_a_sidecar_says_of_it(job: Path, run, diffusion) -> None:
    told = ("--frames", 3, "--sheet", "sheet.png", "-q")
    assert run(*EDIT[:-1], "out", *diffusion, *told)[0] == 0
    made = json.loads(Path("out.json").read_text())["job"]
    again = ("edit", "--job", "out.json", "-o", "again", "--dry-run", "--json")
    plan = json.loads(run(*again, "--recipe", "paper", "--duration", 0.5)[1])
    assert (plan["frames"], plan["network_rows"]) == (4, 500 + 3 * 49)
    assert made["options"]["inversion_steps"] != 500
    assert (
        run("edit", "--job", "out.json", "-o", "by-command", "--command", "cp {input} {output}", "-q")[0] == 0
    )
    assert json.loads(Path("by-command.json").read_text())["job"]["sheet"] is None
    preview = run("edit", "--job", "out.json", "-o", "preview", "--backbone", "flow", "--dry-run", "--json")
    assert json.loads(preview[1])["backbone"] == "flow"


def test_words_that_are_not_read_are_told_of(job: Path, run, diffusion) -> None:
    words = (*EDIT[:-1], "out", *diffusion, "--prompt", "a red cat " * 40)
    assert re.search(r"the prompt is \d+ tokens longer than i2vgen-xl reads", run(*words)[2])


def test_frames_are_counted_at_the_rate_of_the_backbone(job: Path, run, diffusion) -> None:
    write("quick.mp4", scene(12), 24)
    words = ("edit", "quick.mp4", "-o", "out.mp4", *diffusion, "-q")
    code, _, err = run(*words, "--frames", 6, "--command", "touch begun; cp {input} {output}")
    assert (code, "has 4 frames at 8 fps from 0 s on, not 6" in err) == (2, True), err
    assert not Path("begun").exists()
    write("slow.gif", scene(4), 4)
    plan = run(
        "edit", "slow.gif", "-f", "edited.png", "-o", "out", *diffusion, "--frames", 7, "--dry-run", "--json"
    )
    assert json.loads(plan[1])["frames"] == 7


def test_the_picture_to_edit(job: Path, run) -> None:
    assert run("frame", "clip.mp4", "-o", "first.png", "--start", 0.25)[1] == "first.png\n"
    assert np.array_equal(read_image("first.png"), Clip("clip.mp4").read().frames[2])
    assert run("frame", "clip.mp4", "-o", "first.png")[0] == 2
    write("stills", scene(2), 8)
    assert "an input of this job" in run("frame", "stills", "-o", "stills/first.png")[2]


def test_version(run) -> None:
    assert run("--version")[1].strip() == version("anyv2v")


def test_restore_gives_the_size_of_the_source(job: Path, run, diffusion) -> None:
    assert run(*EDIT[:-1], "out", *diffusion, "--restore", "-q")[0] == 0
    edited, source = Clip("out").read().frames, Clip("clip.mp4", frames=3).read().frames
    assert edited.shape == source.shape
    # The net's square lies in the middle; the rest is the source.
    assert np.array_equal(edited[:, :, :16], source[:, :, :16])
    assert np.abs(edited[:, :, 24:72].astype(int) - source[:, :, 24:72]).mean() > 20


def test_an_edited_frame_of_another_shape_is_fitted_and_said_so(job: Path, run) -> None:
    write_image("edited.png", np.zeros((50, 50, 3), np.uint8), overwrite=True)
    code, _, err = run(*EDIT)
    assert code == 0
    assert "the edited frame is 50x50; it was fitted to 96x64 (crop)" in err


def test_listing_and_looking(job: Path, run) -> None:
    listed = json.loads(run("backbones", "--json")[1])
    assert [row["name"] for row in listed] == list(list_backbones())
    assert "hf download ali-vilab/i2vgen-xl" in run("backbones")[1]
    assert json.loads(run("info", "clip.mp4", "--json")[1])["frames"] == 6
    assert "h264" in run("info", "clip.mp4")[1]
    assert "torch" in json.loads(run("doctor", "--json")[1])
    assert "problems" in run("doctor")[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("clip.mp4", "-f", "edited.png", "-o", "clip.mp4"), "an input of this job"),
        (("clip.mp4", "-f", "edited.png", "-o", "out.mp4", "--sheet", "edited.png"), "an input of this job"),
        (("frames/*.png", "-f", "edited.png", "-o", "frames"), "an input of this job"),
        (("clip.mp4", "-f", "frames/00000.png", "-o", "frames"), "an input of this job"),
        (("clip.mp4", "-f", "edited.png", "-o", "out.webp", "--sheet", "out.webp"), "the same name"),
    ],
)
def test_an_input_is_never_replaced(job: Path, run, words: tuple, message: str) -> None:
    write("frames", scene(), 8)
    before = contents(job)
    code, _, err = run("edit", *words, "--overwrite")
    assert (code, message in err) == (2, True), err
    assert contents(job) == before


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_sound_is_kept(job: Path, run) -> None:
    film(Path("loud.mp4"), list(scene()), Fraction(8), sound=beep(0.2, 1))
    assert run("edit", "loud.mp4", "-f", "edited.png", "-o", "out.mp4", "-q")[0] == 0
    assert json.loads(run("info", "out.mp4", "--json")[1])["audio"] == "aac"
    assert "out.gif holds no sound" in run("edit", "loud.mp4", "-f", "edited.png", "-o", "out.gif")[2]


def test_flow_says_what_it_does_not_use(job: Path, run) -> None:
    err = run(*EDIT, "--prompt", "a cat", "--size", "64x64", "--steps", 9, "--low-memory", "--compile")[2]
    assert "flow does not use prompt, steps, size, low memory, compile" in err
    for words in (("--trajectory", "clip.mp4"), ("--backbone", "flow", "--model", ".")):
        code, _, err = run(*EDIT[:-1], "other.mp4", *words)
        assert (code, "flow takes neither --model nor --trajectory" in err) == (2, True), err


def test_verbose_tells_the_seconds(job: Path, run) -> None:
    assert "propagate: " in run(*EDIT, "--verbose")[2]


def test_every_option_of_the_method_has_its_flag(job: Path, run, diffusion) -> None:
    layers = ("--layers-conv", "4,5", "--layers-spatial", "9-11", "--layers-temporal", "")
    quirks = ("--thresholds", "floor", "--vae", "sample", "--source-branch", "always", "--frame-rate", "keep")
    assert run(*EDIT, *diffusion, *layers, *quirks, "--no-restore", "-q")[0] == 0
    options = json.loads(Path("out.mp4.json").read_text())["job"]["options"]
    assert [options[f"layers_{kind}"] for kind in ("conv", "spatial", "temporal")] == [
        [4, 5],
        [9, 10, 11],
        [],
    ]
    assert (options["thresholds"], options["vae"], options["source_branch"]) == ("floor", "sample", "always")


def test_an_interrupt_is_one_line_and_leaves_nothing(job: Path, diffusion) -> None:
    words = [*EDIT, *diffusion[:4], "--steps", 900, "--inversion-steps", 900, "--save-frame", "begun.png"]
    command = [sys.executable, "-m", "anyv2v", *map(str, words)]
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # which what runs the tests may ignore
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heed)
    while process.poll() is None and not (job / "begun.png").exists():
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "anyv2v: interrupted; nothing is left half-written\n")
    assert sorted(path.name for path in job.iterdir()) == ["begun.png", "clip.mp4", "edited.png"]


def one_frame(_: Path) -> None:
    write("clip.mp4", scene(1), 8, overwrite=True)


def empty_clip(_: Path) -> None:
    Path("clip.mp4").write_bytes(b"")


def text_for_a_clip(_: Path) -> None:
    Path("clip.mp4").write_text("not a film")


def truncated(folder: Path) -> None:
    (folder / "clip.mp4").write_bytes((folder / "clip.mp4").read_bytes()[:-500])


def no_clip(folder: Path) -> None:
    (folder / "clip.mp4").unlink()


def no_first_frame(folder: Path) -> None:
    (folder / "edited.png").unlink()


def broken_first_frame(folder: Path) -> None:
    (folder / "edited.png").write_bytes(b"no image")


def output_there(folder: Path) -> None:
    (folder / "out.mp4").write_text("precious")


def no_checkpoint(folder: Path) -> None:
    (folder / "model").mkdir()


def other_checkpoint(folder: Path) -> None:
    (folder / "model").mkdir()
    (folder / "model" / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')


def nothing(_: Path) -> None:
    pass


XL = ("--backbone", "i2vgen-xl")


@pytest.mark.parametrize(
    ("mishap", "words", "message"),
    [
        (no_clip, (), "no such file"),
        (empty_clip, (), "empty"),
        (text_for_a_clip, (), "no video at all"),
        (truncated, (), "clip.mp4"),
        (one_frame, (), "one frame"),
        (nothing, ("--frames", 60), "6 frames"),
        (nothing, ("--start", 60), "from 60 s"),
        (nothing, ("--frames", 3, "--duration", 1), "contradict"),
        (nothing, ("--fps", "fast"), "fps is 'fast'"),
        (no_first_frame, (), "edited.png"),
        (broken_first_frame, (), "edited.png: damaged"),
        (output_there, (), "--overwrite replaces it"),
        (nothing, ("-o", "nowhere/out.mp4"), "there is no folder nowhere"),
        (nothing, ("-o", "out.xyz"), "unknown suffix"),
        (nothing, ("--sheet", "nowhere/sheet.png"), "nowhere"),
        (nothing, ("--sheet", "sheet.foo"), "sheet.foo"),
        (nothing, ("-o", "."), "."),
        (nothing, ("--trajectory", "missing.safetensors"), "missing.safetensors: no such file"),
        (nothing, ("--guidance", "nan"), "guidance is nan"),
        (nothing, ("--tau-conv", "nan"), "tau conv is nan"),
        (nothing, ("--start", "nan"), "start"),
        (nothing, ("--duration", "inf"), "duration"),
        (nothing, ("--fps", "0"), "fps"),
        (nothing, ("--fps", "1e-9"), "fps"),
        (nothing, ("--seed", 2**64), "seed"),
        (nothing, ("--layers-conv", "four"), "layers 'four'"),
        (nothing, ("--steps", "abc"), "--steps"),
        (nothing, ("--no-such-option",), "--no-such-option"),
        (nothing, ("--backbone", "magic"), "no backbone 'magic'; there are flow, i2vgen-xl"),
        (nothing, ("--recipe", "soup"), "no recipe 'soup'"),
        (nothing, ("--tau-conv", 2), "tau conv is 2; it must be 0 to 1"),
        (nothing, ("--guidance", 0.5), "guidance is 0.5; it must be 1 to 1000"),
        (nothing, ("--size", "big"), "not of the form WIDTHxHEIGHT"),
        (nothing, ("--job", "missing.yaml"), "no job file"),
        (nothing, XL, "hf download ali-vilab/i2vgen-xl"),
        (nothing, (*XL, "--model", "nowhere/at/all"), "there is no folder nowhere/at/all"),
        (no_checkpoint, (*XL, "--model", "model"), "model is no checkpoint"),
        (other_checkpoint, (*XL, "--model", "model"), "the checkpoint of a StableDiffusionPipeline"),
        (other_checkpoint, ("--model", "model"), "the checkpoint of a StableDiffusionPipeline"),
        (nothing, ("--model", "nobody/nothing"), "neither a folder nor a known repository"),
        (nothing, ("--model", "ali-vilab/i2vgen-xl"), "hf download ali-vilab/i2vgen-xl"),
    ],
)
def test_mistakes_of_the_user(job: Path, run, mishap, words: tuple, message: str) -> None:
    mishap(job)
    before = contents(job)
    began = time.perf_counter()
    code, out, err = run(*EDIT, *words)
    assert time.perf_counter() - began < 10
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert out == ""
    assert contents(job) == before
    assert message in json.loads(run(*EDIT, *words, "--json")[1])["error"]
    # What only decoding shows, a plan cannot know.
    assert run(*EDIT, *words, "--dry-run")[0] == 2 or mishap in (one_frame, truncated)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--size", "60x64"), "take multiples of 8"),
        (("--device", "cuda:7"), "no device 'cuda:7'"),
        (("--dtype", "float3"), "no dtype 'float3'"),
        (("--inversion-steps", 7), "these do: 4, "),
        (("--skip", 4), "skip is 4; it must be 0 to 3"),
    ],
)
def test_mistakes_with_a_model(job: Path, run, diffusion, words: tuple, message: str) -> None:
    code, _, err = run(*EDIT, *diffusion, *words, "-q")
    assert (code, message in err, err.count("\n")) == (2, True, 1), err
    assert sorted(path.name for path in job.iterdir()) == ["clip.mp4", "edited.png"]


def without_tokenizer(model: Path) -> None:
    shutil.rmtree(model / "tokenizer")


def without_vocabulary(model: Path) -> None:
    (model / "tokenizer/vocab.json").unlink()


def without_preprocessing(model: Path) -> None:
    (model / "feature_extractor/preprocessor_config.json").write_text("{}")


def without_schedule(model: Path) -> None:
    (model / "scheduler/scheduler_config.json").write_text("{}")


def with_another_prediction(model: Path) -> None:
    path = model / "scheduler/scheduler_config.json"
    path.write_text(path.read_text().replace("v_prediction", "w_prediction"))


def with_a_broken_index(model: Path) -> None:
    (model / "model_index.json").write_text("[]")


def with_broken_weights(model: Path) -> None:
    (model / "unet/diffusion_pytorch_model.safetensors").write_bytes(b"no weights")


def without_weights(model: Path) -> None:
    (model / "vae/diffusion_pytorch_model.safetensors").unlink()


@pytest.mark.parametrize(
    "mishap",
    [
        without_tokenizer,
        without_vocabulary,
        without_preprocessing,
        without_schedule,
        with_another_prediction,
        with_a_broken_index,
        with_broken_weights,
        without_weights,
    ],
)
def test_broken_checkpoints(job: Path, run, tiny: str, mishap) -> None:
    shutil.copytree(tiny, "model", copy_function=shutil.copyfile)
    mishap(job / "model")
    code, _, err = run(*EDIT, "--backbone", "i2vgen-xl", "--model", "model")
    assert (code, err.count("\n")) == (2, 1), err


def test_a_checkpoint_that_lacks_weights(job: Path, run, diffusion, tiny: str) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(tiny, "model", copy_function=shutil.copyfile)
    weights = Path("model/unet/diffusion_pytorch_model.safetensors")
    tensors = load_file(weights)
    del tensors["conv_in.weight"]
    save_file(tensors, weights)
    code, _, err = run(*EDIT, "--backbone", "i2vgen-xl", "--model", "model", "-q")
    assert code == 2
    assert "lacks 1 of its weights, among them conv_in.weight" in err


def test_unknown_keys_of_a_job_file(job: Path, run) -> None:
    Path("job.yaml").write_text("tau_convv: 0.5\n")
    code, _, err = run(*EDIT, "--job", "job.yaml")
    assert code == 2
    assert "unknown option 'tau_convv'; did you mean 'tau_conv'?" in err


def test_values_of_the_wrong_kind_in_a_job_file(job: Path, run) -> None:
    Path("job.yaml").write_text("steps: many\n")
    code, _, err = run(*EDIT, "--job", "job.yaml")
    assert code == 2
    assert "steps: input should be a valid integer" in err
    Path("job.yaml").write_text("recipe: [paper]\n")
    assert run(*EDIT, "--job", "job.yaml")[0] == 2


def test_our_own_faults_are_one_line_and_exit_code_1(job: Path, run, monkeypatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr("anyv2v.run.run_edit", fail)
    code, _, err = run(*EDIT)
    assert (code, err.count("\n")) == (1, 1)
    assert "ZeroDivisionError: oh (a fault of ours" in err
    assert "Traceback" in run(*EDIT, "--verbose")[2]
    assert json.loads(run(*EDIT, "--json")[1])["kind"] == "ZeroDivisionError"


@pytest.mark.parametrize("stage", ["track", "paint"])  # each in a thread of its own
def test_a_fault_amid_the_frames_leaves_nothing(job: Path, run, monkeypatch, stage: str) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(f"anyv2v.flow.FlowCarrier.{stage}", fail)
    code, _, err = run(*EDIT)
    assert (code, "ZeroDivisionError: oh" in err) == (1, True)
    assert sorted(path.name for path in job.iterdir()) == ["clip.mp4", "edited.png"]


def test_out_of_memory_says_what_to_lower(job: Path, run, monkeypatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA out of memory. Tried to allocate 20 GiB")

    monkeypatch.setattr("anyv2v.run.load_choice", fail)
    code, _, err = run(*EDIT)
    assert code == 2
    assert "try --low-memory, a smaller --size, a smaller --window" in err


def test_an_interrupted_run_leaves_nothing(job: Path, run, monkeypatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("anyv2v.run.Reel._small", interrupted)
    assert run(*EDIT, "--sheet", "sheet.png")[0] == 130
    assert sorted(path.name for path in job.iterdir()) == ["clip.mp4", "edited.png"]


def test_pictures_in_pictures_out(job: Path, run) -> None:
    write("frames", scene(), 8)
    assert run("edit", "frames", "-f", "edited.png", "-o", "edited", "-q")[0] == 0
    assert run("edit", "frames/*.png", "-f", "edited.png", "-o", "again.mp4", "-q")[0] == 0
    hashes = [
        json.loads(Path(f"{name}.json").read_text())["sha256"]["clip"] for name in ("edited", "again.mp4")
    ]
    assert hashes[0] == hashes[1]
    assert np.array_equal(read_image("edited/00000.png"), np.asarray(Image.open("edited.png")))
    assert len(list(Path("edited").glob("*.png"))) == 6


INVERT = ("invert", "clip.mp4", "-o", "kept.safetensors")
SMALL = ("--size", "64x64", "--frames", "3")


def test_the_paper_s_seine_from_a_kept_inversion(job: Path, run) -> None:
    """A stochastic sampler reads other levels than it visits, and starts from one more."""
    words = ["--model", Golden("seine").checkpoint, "--recipe", "paper", "--steps", "5", *SMALL]
    assert run(*INVERT, *words, "--inversion-steps", "250")[0] == 0
    words += ["--trajectory", "kept.safetensors"]
    assert run(*EDIT, *words, "--dry-run")[0] == 0
    assert run(*EDIT, *words)[0] == 0


def test_an_inversion_may_miss_the_levels_of_skipped_steps(job: Path, run) -> None:
    words = ["--model", Golden("consisti2v").checkpoint, "--inversion-steps", "49", *SMALL]
    assert run(*INVERT, *words)[0] == 0
    assert run(*EDIT, *words, "--trajectory", "kept.safetensors", "--dry-run")[0] == 0


def test_a_start_level_that_inversion_does_not_pass(job: Path, tiny: str, run) -> None:
    words = [*EDIT, "--model", tiny, "--steps", "2", "--inversion-steps", "2", "--start-level"]
    assert "do not pass the start level 7" in run(*words, "7")[2]
    assert "it must be 0 to 999" in run(*words, "5000")[2]
