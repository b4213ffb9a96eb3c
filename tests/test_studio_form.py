"""What the page's Python makes of fields and events, without a browser."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from anyv2v import load_backbone, write
from anyv2v.studio import showing
from anyv2v.studio.desk import DIFFUSED, Desk
from anyv2v.studio.form import BY_EDITOR, Form
from anyv2v.studio.page import _Page, _with_reference, _without_reference
from anyv2v.studio.request import Request
from anyv2v.studio.work import Work
from conftest import scene
from golden_data import Golden
from studio_parts import Place


@pytest.fixture
def place(tmp_path: Path, tiny: str) -> Place:
    return Place(tmp_path, tiny=Path(tiny))


@pytest.fixture
def laid(place: Place) -> _Page:
    async def lay() -> _Page:  # where no loop runs gradio would leave one open
        with gr.Blocks() as blocks:
            return _Page(place.desk, blocks)

    return asyncio.run(lay())


def do(laid: _Page, act: Any, work: Work, form: Form | None = None, **event: Any) -> dict[Any, Any]:
    """What the page answers to a deed."""
    return laid._after(act, work, (form or laid.form).values, SimpleNamespace(**event))


def ended(desk: Desk, request: Request, frames: int = 0) -> str:
    """A job that is done, by nobody."""
    name = desk.queue.submit(request.settings, "quick", "a title")
    desk.queue.take("quick", "w")
    desk.queue.finish(name, "w", {"frames": frames})
    return name


def values(laid: _Page, answer: dict[Any, Any], *names: str) -> list[Any]:
    return [answer[getattr(laid, name)]["value"] for name in names]


def test_edit_again_fills_in_fields_that_are_changed_otherwise_too(laid: _Page, place: Place) -> None:
    name = ended(place.desk, place.still(editor="instruct-pix2pix", instruction="snow"))
    answer = do(laid, laid._again, Work(), id=name)
    assert values(laid, answer, "way", "instruction") == [BY_EDITOR, "snow"]
    assert answer[laid.instruction]["visible"]
    name = ended(place.desk, place.flow(backbone="tiny", recipe="fast", prompt="a fox"))
    answer = do(laid, laid._again, Work(), id=name)
    assert values(laid, answer, "recipe", "prompt") == ["fast", "a fox"]
    assert "fast" in answer[laid.recipe]["choices"]


def test_edit_again_of_a_job_whose_editor_did_not_get_that_far(laid: _Page, place: Place) -> None:
    request = place.flow(first_frame=None, editor="instruct-pix2pix", instruction="snow")
    answer = do(laid, laid._again, Work(), id=ended(place.desk, request))
    assert values(laid, answer, "way", "editor", "instruction") == [BY_EDITOR, "instruct-pix2pix", "snow"]


def test_a_tab_that_is_opened_anew_is_as_it_was_left(laid: _Page) -> None:
    left = replace(laid.form, backbone="tiny", recipe="fast", instruction="snow")
    answer = laid._begin(Work(tab="propagate").kept(), left.values)
    assert values(laid, answer, "recipe", "instruction") == ["fast", "snow"]
    assert answer[laid.tabs]["selected"] == "propagate"


ODD = {"candidates": 70, "seed": -1, "structure": 1.4, "recipe": "fast", "editor_seed": None}


def test_no_field_can_stop_the_page(laid: _Page) -> None:
    """gradio would answer with an error of its own whatever was done."""
    entries = [entry for entry in laid.blocks.fns.values() if laid.candidates in entry.inputs and entry.fn]
    assert len(entries) > 20
    given = [ODD.get(name) for name in Form.__dataclass_fields__][:-1]
    for entry in entries:
        sent = [None, {}, *given, *[None] * (len(entry.inputs) - len(given) - 2)]
        assert asyncio.run(laid.blocks.preprocess_data(entry, sent, None))[2:] == sent[2:]


def test_an_emptied_field_is_as_at_first(laid: _Page, place: Place) -> None:
    form = Form.read([None] * len(laid.form.values), list(laid.form.advanced))
    editor, work = replace(laid.editors["color"], seeded=True), Work(place.clip, end=0.5)
    asked = form.frame_request(work, editor, "walk.mp4")
    assert (asked.candidates, asked.seed) == (Form.candidates, Form.editor_seed)
    settings = place.desk.advanced("tiny")
    asked = form.edit_request(work, laid.backbones["tiny"], settings, "walk.mp4")
    assert (asked.seed, asked.structure, asked.advanced) == (Form.seed, Form.structure, {})


def test_a_number_that_cannot_be_is_said_on_the_page(laid: _Page, place: Place) -> None:
    work = Work(place.clip, end=0.7, references=(place.edited,))
    answer = do(laid, laid._make, work, replace(laid.form, editor="color", editor_seed=-1))
    assert answer[laid.held].trouble.startswith("Seed is -1; it must be 0 to")
    assert "Seed is -1" in answer[laid.hint]["value"]


def test_what_was_set_under_advanced_outlives_another_recipe(laid: _Page) -> None:
    form = replace(laid.form, advanced=laid.form.advanced | {"steps": 7})
    answer = do(laid, laid._choose_method, Work(), replace(form, recipe="paper"))
    given = dict(zip(laid.form.advanced, laid.advanced, strict=True))
    assert given["steps"] not in answer
    assert answer[given["frame_rate"]]["value"] == "keep"
    before = Form.read(answer[laid.kept], list(form.advanced))
    answer = do(laid, laid._choose_method, Work(), replace(before, recipe="default"))
    assert answer[given["frame_rate"]]["value"] == "resample"


# -- tabs


def told_of_tab(laid: _Page, event: Any, held: Work | None) -> Any:
    """The answer to gradio's event of a part."""
    (entry,) = [entry for entry in laid.blocks.fns.values() if (event._id, "select") in entry.targets]
    return entry.fn(SimpleNamespace(), held, {}, *laid.form.values)


def test_a_tab_is_selected_only_where_the_person_is_not(laid: _Page) -> None:
    work = Work(tab="frame")
    assert laid.tabs not in do(laid, lambda turn: turn.work, work)
    assert do(laid, lambda turn: turn.now(tab="propagate"), work)[laid.tabs]["selected"] == "propagate"
    answer = told_of_tab(laid, laid.propagate_tab, work)
    assert (answer[laid.held].tab, laid.tabs in answer) == ("propagate", False)


def test_a_page_that_is_being_laid_goes_to_no_tab(laid: _Page) -> None:
    assert told_of_tab(laid, laid.frame_tab, None) == gr.skip()


# -- what a job worked on


@pytest.mark.parametrize(
    ("changes", "frames", "span"),
    [
        ({"duration": 0.5}, 4, (0.25, 0.75)),
        ({"frames": 3}, 3, (0.25, 0.5)),  # at the clip's 12 frames a second
        ({}, 6, (0.25, 0.75)),
        ({"backbone": "tiny", "frames": 2}, 0, (0.25, 0.5)),  # at the model's 8
        ({"backbone": "tiny"}, 2, (0.25, 0.5)),
        ({"backbone": "tiny", "recipe": "paper"}, 3, (0.25, 0.5)),  # which takes frames as they come
        ({"backbone": "gone", "frames": 2}, 2, (0.25, 0.5)),
    ],
)
def test_a_job_is_opened_with_its_own_span(
    laid: _Page, place: Place, changes: dict[str, Any], frames: int, span: tuple[float, float]
) -> None:
    name = ended(place.desk, place.flow(clip=fast(place), start=0.25, **changes), frames)
    work = laid._open(name)
    assert (work.start, work.end) == pytest.approx(span)


def fast(place: Place) -> str:
    """A clip of 12 frames a second."""
    write(place.folder / "fast.mp4", scene(12), 12)
    return place.desk.add_clip(place.folder / "fast.mp4", "fast.mp4").id


def test_the_player_goes_at_the_result_s_pace(laid: _Page, place: Place) -> None:
    name = ended(place.desk, place.flow(clip=fast(place), backbone="tiny", recipe="paper"), 6)
    shown = showing.player(place.desk, laid._open(name), place.desk.jobs())
    assert (shown["fps"], shown["seconds"]) == (8, 0.75)


@pytest.mark.parametrize("name", ["i2vgen-xl", "seine", "consisti2v"])
def test_all_diffusion_models_are_of_one_pace(name: str) -> None:
    backbone = load_backbone(name, Golden(name).checkpoint, device="meta", dtype="float32")
    assert backbone.spec.fps == DIFFUSED


def test_all_jobs_stand_on_the_page(laid: _Page, place: Place) -> None:
    names = [place.desk.queue.submit(place.flow().settings, "quick", "a title") for _ in range(60)]
    cards = do(laid, lambda turn: turn.work, Work())[laid.jobs]["jobs"]
    assert [card["id"] for card in cards] == names[::-1]


# -- what an editor is given


def test_what_an_editor_lacks_is_said_below_the_form(laid: _Page, place: Place, monkeypatch) -> None:
    needy = replace(laid.editors["color"], needs=("instruction", "reference", "reference mask", "mask"))
    monkeypatch.setitem(laid.editors, "color", needy)
    form = replace(laid.form, way=BY_EDITOR, editor="color")
    said = do(laid, lambda turn: turn.work, Work(place.clip, end=0.7), form)[laid.hint]["value"]
    assert "color needs an instruction and a reference and a mask." in said
    work, form = Work(place.clip, references=("r",), mask="m"), replace(form, instruction="snow")
    assert not do(laid, lambda turn: turn.work, work, form)[laid.hint]["value"].count("needs")


def test_a_reference_is_there_once_and_removed_once(laid: _Page) -> None:
    work = Work(references=("a", "b"))
    for _ in range(2):  # a double click
        work = do(laid, _without_reference, work, id="a")[laid.held]
    assert work.references == ("b",)
    for _ in range(2):
        work = do(laid, _with_reference, work, id="a")[laid.held]
    assert work.references == ("b", "a")
