"""The desk and the workers: what is asked becomes a job, and every job ends, whatever befalls its worker."""

from __future__ import annotations

import gc
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from anyv2v import Clip, Options, read_image, write_image
from anyv2v.editors import EditorEntry, list_editors
from anyv2v.errors import OptionError, VideoError, WeightsMissing
from anyv2v.film import probe
from anyv2v.progress import Step
from anyv2v.studio.desk import Desk
from anyv2v.studio.limits import Limits, TooLarge, TooMany, Unknown
from anyv2v.studio.queue import Job
from anyv2v.studio.request import ADVANCED, Request, thresholds
from anyv2v.studio.worker import Reporter, Worker
from studio_parts import Place, working

QUICK = {"steps": 3, "inversion_steps": 3, "skip": 0, "size": "32x32"}
LONG = {"steps": 900, "inversion_steps": 900}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def tiny_place(tmp_path: Path, tiny: str) -> Place:
    """A studio with a tiny checkpoint of I2VGen-XL that its operator has named."""
    return Place(tmp_path, tiny=Path(tiny))


def diffusion(place: Place, **changes: Any) -> Request:
    given = {"backbone": "tiny", "prompt": "a fox", "advanced": QUICK}
    length = {} if "duration" in changes else {"frames": 4}
    return place.flow(**given | length | changes)


def until(true: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.02)


# -- what is asked


@pytest.mark.parametrize(("wish", "share"), [(0, 0), (0.25, 0.5), (0.5, 1), (1, None)])
def test_wishes_become_thresholds(wish: float, share: float | None) -> None:
    own = Options(tau_conv=0.2, tau_spatial=0.3, tau_temporal=0.6)
    expected = [1.0 if share is None else tau * share for tau in (0.2, 0.3, 0.6)]
    assert list(thresholds(own, wish, wish).values()) == pytest.approx(expected)


def test_the_wishes_are_of_two_things(tiny_place: Place) -> None:
    request = diffusion(tiny_place, structure=1.0, motion=0.0)
    options = tiny_place.desk.workshop.job(request, tiny_place.folder).options
    assert (options.tau_conv, options.tau_spatial, options.tau_temporal) == (1, 1, 0)
    given = replace(request, advanced={**QUICK, "tau_conv": 0.4, "layers_conv": "4,6-7", "restore": True})
    options = tiny_place.desk.workshop.job(given, tiny_place.folder).options
    assert (options.tau_conv, options.layers_conv, options.restore) == (0.4, (4, 6, 7), True)


def test_lanes(tiny_place: Place) -> None:
    lane = tiny_place.desk.workshop.lane
    assert lane(tiny_place.flow()) == "quick"
    assert lane(tiny_place.flow(editor="color")) == "quick"
    assert lane(tiny_place.still(editor="color")) == "quick"
    assert lane(tiny_place.flow(editor="instruct-pix2pix")) == "device"
    assert lane(tiny_place.still(editor="instruct-pix2pix")) == "device"
    assert lane(diffusion(tiny_place)) == "device"
    unnamed = tiny_place.desk.job(tiny_place.desk.submit(tiny_place.flow(backbone="auto")))
    assert (unnamed.backbone, unnamed.lane) == ("flow", "quick")  # without a GPU


BARE = {"task": "frame", "first_frame": None}
TINY = {"backbone": "tiny", "frames": 2}
REFUSED = {
    "no first frame": ({"first_frame": None}, OptionError, "bring one, or choose an editor"),
    "a command": ({**BARE, "editor": "command"}, OptionError, "not for the studio"),
    "an unknown editor": ({**BARE, "editor": "../x"}, OptionError, "no editor '../x'"),
    "an editor without its input": ({**BARE, "editor": "color"}, OptionError, "color needs"),
    "an editor without weights": (
        {**BARE, "editor": "instruct-pix2pix", "instruction": "snow"},
        WeightsMissing,
        "are not on this machine",
    ),
    "a path for a backbone": ({"backbone": "/etc"}, OptionError, "no backbone '/etc'; there are flow"),
    "a repository for a backbone": ({"backbone": "evil/model"}, OptionError, "no backbone"),
    "a backbone without weights": ({"backbone": "i2vgen-xl"}, WeightsMissing, "are not on this machine"),
    "a parent that is not there": ({"parent": "../x"}, Unknown, "no such job"),
    "a path for a clip": ({"clip": "../../clip.mp4"}, Unknown, "no such clip"),
    "a path for a picture": ({"first_frame": "/etc/passwd"}, Unknown, "no such picture"),
    "a path for a mask": ({"mask": "edited.png"}, Unknown, "no such picture"),
    "too many frames": ({"frames": 8}, VideoError, r"^walk.mp4: has 6 frames"),
    "more frames than may be": (
        {"frames": 6, "limit": 5},
        OptionError,
        "6 frames are more than the 5 of one",
    ),
    "the whole of too long a clip": ({"limit": 5}, OptionError, "6 frames are more than the 5 of one job"),
    "a span that is not there": ({"start": 9.0, "frames": 2}, VideoError, r"^walk.mp4: has 0 frames"),
    "no number": ({"start": float("nan"), "frames": 2}, OptionError, "start nan"),
    "two lengths": ({"frames": 2, "duration": 0.3}, OptionError, "contradict each other"),
    "a wish too far": ({"structure": 1.1}, OptionError, "structure is 1.1; it must be 0 to 1"),
    "an unknown recipe": ({**TINY, "recipe": "x"}, OptionError, "no recipe 'x'"),
    "too long a text": ({"prompt": "x" * 2001}, OptionError, "a text of 2001 letters is too long"),
    "a path as an option": ({"advanced": {"model": "/etc"}}, OptionError, "no advanced option 'model'"),
    "a list as an option": ({"advanced": {"steps": [1]}}, OptionError, "must be a text or a number"),
    "too much memory": ({"advanced": {"layers_conv": "0-999999999"}}, OptionError, "not of the form"),
    "too large a size": ({"advanced": {"size": "9999x9999"}}, TooLarge, "pixels a side"),
    "too long an option": ({"advanced": {"negative_prompt": "x" * 2001}}, OptionError, "longer than 2000"),
    "steps without end": ({**TINY, "advanced": {"steps": 10**6}}, OptionError, "steps is"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_done_is_refused_at_once(tmp_path: Path, tiny: str, case: str) -> None:
    changes, error, message = REFUSED[case]
    asked = {key: value for key, value in changes.items() if key != "limit"}
    place = Place(tmp_path, Limits(frames=changes.get("limit", 100)), tiny=Path(tiny))
    with pytest.raises(error, match=message) as caught:
        place.desk.submit(place.flow(**asked))
    assert str(place.desk.shelf.folder) not in str(caught.value)
    assert place.desk.jobs() == []


@pytest.mark.parametrize(
    ("editor", "references", "instruction", "said"),
    [
        ("color", 0, "", "color needs a reference"),
        ("anydoor", 1, "", "anydoor needs a reference with a transparent background"),
        ("instruct-pix2pix", 0, "", "instruct-pix2pix needs an instruction"),
        ("color", 1, "snow", "color has no use for an instruction"),
        ("color", 2, "", "color takes 1 of the references, not 2"),
    ],
)
def test_what_is_missing_is_said_in_the_studio_s_words(
    place: Place, editor: str, references: int, instruction: str, said: str
) -> None:
    given = {"references": (place.edited,) * references, "mask": place.edited, "instruction": instruction}
    with pytest.raises(OptionError, match=f"^{said}$"):
        place.desk.submit(place.still(first_frame=None, editor=editor, **given))


def test_a_full_queue(tmp_path: Path) -> None:
    place = Place(tmp_path, Limits(queued=2))
    for _ in range(2):
        place.desk.submit(place.flow())
    with pytest.raises(TooMany, match="2 jobs wait already"):
        place.desk.submit(place.flow())


def test_what_there_is_to_choose_from(tiny_place: Place) -> None:
    desk = tiny_place.desk
    backbones = {facts.name: facts for facts in desk.backbones()}
    assert backbones["flow"].quick
    assert backbones["tiny"].ready
    assert not backbones["i2vgen-xl"].ready
    assert backbones["i2vgen-xl"].get.startswith("hf download")
    names = [facts.name for facts in desk.editors()]
    assert names[:2] == ["image", "color"]
    assert "command" not in names
    settings = {setting.name: setting for setting in desk.advanced("consisti2v")}
    assert set(settings) == set(ADVANCED)
    assert (settings["guidance"].default, settings["sampler"].choices) == (35.0, ("ddim", "ddpm"))
    assert all(setting.meaning.endswith((".", "none")) for setting in settings.values())


def test_a_backbone_of_the_registry_takes_the_operator_s_checkpoint(tmp_path: Path, tiny: str) -> None:
    place = Place(tmp_path, **{"i2vgen-xl": Path(tiny)})
    job = place.desk.workshop.job(diffusion(place, backbone="i2vgen-xl"), tmp_path)
    assert (job.backbone, job.model) == ("i2vgen-xl", tiny)
    assert next(facts.ready for facts in place.desk.backbones() if facts.name == "i2vgen-xl")


# -- what is done


def test_an_edit_by_flow_from_end_to_end(place: Place) -> None:
    name = place.do(place.flow(title="paint it\u202e red"))
    job, files = place.desk.job(name), place.desk.files(name)
    assert (job.state, job.frames, job.message, job.title) == ("done", 6, "", "paint it red")
    assert len(list(Clip(files.result))) == len(list(Clip(files.source))) == 6
    assert probe(files.result).fps == probe(files.source).fps == 8
    np.testing.assert_allclose(read_image(files.frame), 255 - place.frames[0], atol=1)
    assert read_image(files.thumbnail).shape == (64, 96, 3)
    assert files.sheet.exists()
    said = files.sidecar.read_text()
    assert str(place.desk.shelf.folder) not in said
    assert json.loads(said)["job"]["clip"] == f"clips/{place.clip}.mp4"


def test_the_source_is_in_step_with_the_result(tiny_place: Place) -> None:
    request = diffusion(tiny_place, start=0.25, duration=0.5, advanced={**QUICK, "fit": "letterbox"})
    files = tiny_place.desk.files(tiny_place.do(request))
    result, source = list(Clip(files.result)), list(Clip(files.source))
    assert len(result) == len(source) == 4
    assert result[0].shape == source[0].shape == (32, 32, 3)
    assert source[0][:4].max() < 30  # the bar of the letterbox
    np.testing.assert_allclose(source[0][8:24].mean(), tiny_place.frames[2].mean(), atol=12)


def test_edit_again_takes_the_cached_inversion_and_the_loaded_model(tiny_place: Place, monkeypatch) -> None:
    desk, loads = tiny_place.desk, []
    worker = tiny_place.worker("device")
    real = worker._load
    monkeypatch.setattr(
        worker, "_load", lambda *given, **more: loads.append(real(*given, **more)) or loads[-1]
    )
    first = desk.submit(diffusion(tiny_place))
    worker.do(desk.queue.take("device", "w"))
    again = desk.submit(replace(desk.again(first), prompt="a wolf"))
    worker.do(desk.queue.take("device", "w"))
    assert [desk.job(name).state for name in (first, again)] == ["done", "done"]
    origins = [json.loads(desk.files(name).sidecar.read_text())["inversion_from"] for name in (first, again)]
    assert origins == ["net", "cache"]
    assert loads[0] is loads[1]
    assert desk.job(again).request.prompt == "a wolf"
    monkeypatch.setattr("anyv2v.studio.worker.fingerprint", lambda path: "trained on")
    desk.submit(desk.again(first))
    worker.do(desk.queue.take("device", "w"))
    assert loads[2] is not loads[1]
    assert set(desk.job(first).seconds) >= {"load", "invert", "propagate", "decode"}


def test_a_preview_beside_a_job(tiny_place: Place) -> None:
    desk = tiny_place.desk
    name = desk.submit(diffusion(tiny_place))
    preview = desk.job(desk.preview(name))
    assert (preview.lane, preview.parent, preview.backbone) == ("quick", name, "flow")
    assert desk.preview(preview.id) is None
    assert desk.preview(desk.submit(tiny_place.still())) is None
    assert (
        desk.preview(
            desk.submit(
                diffusion(tiny_place, first_frame=None, editor="color", references=(tiny_place.edited,))
            )
        )
        is None
    )
    with working(tiny_place.worker("quick", "q")):
        until(lambda: desk.job(preview.id).state == "done")
    assert desk.job(name).state == "queued"


def test_an_edited_first_frame_is_taken_on(place: Place) -> None:
    mask = np.zeros((64, 96), np.uint8)
    mask[:, :48] = 255
    write_image(place.folder / "mask.png", np.repeat(mask[..., None], 3, 2))
    given = {
        "mask": place.desk.add_image(place.folder / "mask.png", "mask").id,
        "references": (place.edited,),
    }
    name = place.do(place.still(first_frame=None, editor="color", **given))
    files = place.desk.files(name)
    assert files.result == files.frame
    taken = place.desk.take_frame(name)
    frame = read_image(place.desk.image_file(taken.id))
    np.testing.assert_array_equal(frame, read_image(files.frame))
    np.testing.assert_array_equal(frame[:, 60:], next(iter(Clip(place.folder / "clip.mp4")))[:, 60:])
    with pytest.raises(Unknown, match="no such first frame"):
        place.desk.take_frame(name, 2)


class Noise:
    """An editor that adds noise by its seed."""

    Settings = dataclass(frozen=True)(type("Nothing", (), {}))
    runs = 0

    @classmethod
    def load(cls, *_: object) -> Noise:
        return cls()

    def edit(self, request: Any, _: Any) -> np.ndarray:
        type(self).runs += 1
        noisy = request.frame + np.random.default_rng(request.seed).normal(0, 9, request.frame.shape)
        return np.clip(noisy, 0, 255).astype(np.uint8)


def test_candidates_are_files_of_their_own_and_none_is_made_twice(place: Place, monkeypatch) -> None:
    Noise.runs = 0
    known = {**list_editors(), "noise": EditorEntry("noise", "any", "a test", f"{__name__}:Noise")}
    monkeypatch.setattr("anyv2v.editors.list_editors", lambda: known)
    name = place.do(place.still(first_frame=None, editor="noise", candidates=3, seed=5))
    files = place.desk.files(name)
    assert place.desk.job(name).state == "done"
    assert Noise.runs == 3
    assert [one.place for one in files.candidates] == [1, 2, 3]
    assert sorted((one.number, one.seed) for one in files.candidates) == [(1, 5), (2, 6), (3, 7)]
    np.testing.assert_array_equal(read_image(files.candidates[0].file), read_image(files.result))
    assert len({one.file.read_bytes() for one in files.candidates}) == 3
    assert files.sheet.exists()
    taken = place.desk.take_frame(name, files.candidates[1].number)
    np.testing.assert_array_equal(
        read_image(place.desk.image_file(taken.id)), read_image(files.candidates[1].file)
    )


def test_a_job_that_cannot_be_done_says_why_and_the_next_one_is_done(
    place: Place, monkeypatch, capfd
) -> None:
    desk = place.desk
    bad, worse, good = (desk.submit(place.flow()) for _ in range(3))
    desk.shelf.clip_file(place.clip).write_bytes(b"damaged meanwhile")
    worker = place.worker()
    worker.do(desk.queue.take("quick", "w"))
    assert (desk.job(bad).state, desk.job(bad).message) == ("failed", "walk.mp4: damaged, or no video at all")
    place.desk.add_clip(place.folder / "clip.mp4", "walk.mp4")
    with monkeypatch.context() as patch:
        patch.setattr("anyv2v.studio.worker.run_edit", lambda *_: 1 / 0)
        worker.do(desk.queue.take("quick", "w"))
    assert desk.job(worse).message == "ZeroDivisionError: division by zero (a fault of ours)"
    assert "ZeroDivisionError" in capfd.readouterr().err
    worker.do(desk.queue.take("quick", "w"))
    assert desk.job(good).state == "done"


# -- progress and cancelling


def test_progress_tells_the_time_left(place: Place, monkeypatch) -> None:
    desk, clock = place.desk, SimpleNamespace(now=100.0)
    monkeypatch.setattr("anyv2v.studio.worker.time", SimpleNamespace(monotonic=lambda: clock.now))
    name = desk.submit(place.flow())
    desk.queue.take("quick", "w")
    report, told = Reporter(desk.queue, name, "w", Event()), []
    for done in range(5):
        report(Step("invert", done, 10))
        told.append((desk.job(name).done, desk.job(name).left_seconds))
        clock.now += 2
    assert told == [(0, None), (1, 18), (2, 16), (3, 14), (4, 12)]
    clock.now -= 1.9
    report(Step("invert", 5, 10))  # too soon after the one before
    assert desk.job(name).done == 4


def test_cancelling_frees_the_device_soon(tiny_place: Place) -> None:
    desk = tiny_place.desk
    name = desk.submit(diffusion(tiny_place, advanced={**QUICK, **LONG}))
    worker = tiny_place.worker("device")
    with working(worker):
        until(lambda: desk.job(name).stage == "invert" and desk.job(name).done > 3)
        desk.cancel(name)
        assert desk.job(name).state == "cancelled"
        until(lambda: not desk.job(name).stopping, 10)
        assert worker._model is None
        after = desk.submit(tiny_place.flow())
    assert desk.files(name).result is None
    assert not [path for path in desk.shelf.job_folder(name).iterdir() if path.name.startswith(".")]
    desk.remove(name)
    assert not desk.shelf.job_folder(name).exists()
    assert desk.job(after).state == "queued"


def test_a_worker_that_is_told_to_leave_puts_its_job_back(tiny_place: Place) -> None:
    desk = tiny_place.desk
    name = desk.submit(diffusion(tiny_place, advanced={**QUICK, **LONG}))
    with working(tiny_place.worker("device")):
        until(lambda: desk.job(name).stage == "invert")
    assert (desk.job(name).state, desk.job(name).tries) == ("queued", 0)


def test_an_idle_worker_gives_up_its_model(tiny_place: Place, monkeypatch) -> None:
    monkeypatch.setattr("anyv2v.studio.worker.IDLE", 0.0)
    worker = tiny_place.worker("device")
    worker._model = ((), object())
    with working(worker):
        until(lambda: worker._model is None)


# -- order


def test_old_jobs_make_room_and_files_that_nobody_needs_go(tmp_path: Path, monkeypatch) -> None:
    place = Place(tmp_path, Limits(kept=1))
    desk = place.desk
    old, new = place.do(place.flow()), place.do(place.still())
    desk.clean()
    assert [job.id for job in desk.jobs()] == [new]
    assert not desk.shelf.job_folder(old).exists()
    assert desk.shelf.job_folder(new).exists()
    assert desk.clip(place.clip)


# -- many, and murder


def test_fifty_jobs_of_five_clients_at_three_workers(place: Place, monkeypatch) -> None:
    from concurrent.futures import ThreadPoolExecutor

    done: list[str] = []
    real = Worker.do
    monkeypatch.setattr("anyv2v.still.free", lambda: None)  # of all that the tests hold, it takes long
    monkeypatch.setattr(Worker, "do", lambda self, job: (done.append(job.id), real(self, job))[1])
    with working(*(place.worker(name=f"w{k}") for k in range(3))):
        with ThreadPoolExecutor(5) as clients:
            names = list(clients.map(lambda k: place.desk.submit(place.still(seed=k)), range(50)))
        until(lambda: place.desk.queue.list(limit=1)[0].state == "done" and len(done) >= 50)
        until(lambda: all(job.state == "done" for job in place.desk.jobs(limit=100)))
    assert Counter(done) == Counter(names)
    for name in names:
        np.testing.assert_array_equal(read_image(place.desk.files(name).result), 255 - place.frames[0])


# What a worker's process runs; a function of this file would have it import all that the tests do.
WORK = """
from anyv2v.studio.worker import Post, Worker
Worker(Post.of(post)).work()
"""


def test_whenever_a_worker_is_killed_every_job_ends(place: Place) -> None:
    desk, chance = place.desk, random.Random(3)
    names = [desk.submit(place.flow(duration=0.5)) for _ in range(8)]
    processes = get_context("forkserver")
    processes.set_forkserver_preload(["anyv2v.studio.worker", "anyv2v.flow"])
    killed = 0
    while killed < 10:
        name = f"w{killed}"
        process = processes.Process(target=exec, args=(WORK, {"post": place.post(name=name).text}))
        process.start()
        until(lambda name=name: any(job.worker == name for job in desk.queue.list()) or _ended(desk))
        if _ended(desk):
            names += [desk.submit(place.flow(duration=0.5)) for _ in range(4)]
        time.sleep(chance.uniform(0, 0.5))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        process.close()
        desk.queue.bury(name)
        killed += 1
    with working(place.worker(name="last")):
        until(lambda: _ended(desk))
    jobs = [desk.job(name) for name in names]
    assert {job.state for job in jobs} <= {"done", "failed"}
    assert any(job.tries > 1 for job in jobs)
    for job in jobs:
        files = desk.files(job.id)
        if job.state == "done":
            assert len(list(Clip(files.result))) == 4
            assert not [path for path in files.result.parent.iterdir() if path.name.startswith(".")]
        else:
            assert job.message == "the worker died 3 times while it ran"


def _ended(desk: Desk) -> bool:
    return all(job.state in ("done", "failed") for job in desk.queue.list(limit=100))


def test_memory_stays_flat(place: Place) -> None:
    """A hundred jobs are measured by hand; of twelve the later ones must hold no more."""
    worker, held = place.worker(), []
    for _ in range(12):
        place.desk.submit(place.flow(duration=0.3))
        job = place.desk.queue.take("quick", "w")
        assert isinstance(job, Job)
        worker.do(job)
        gc.collect()
        held.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6)
    assert held[-1] - held[3] < 10
