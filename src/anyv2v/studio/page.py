"""The studio's page: a clip, its edited first frame, and what became of the two, on one screen.

A tab has a ``Work``. Whatever a person does changes the work, and then the page is shown anew
from the work and the desk; what comes out the same stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from html import escape
from typing import Any

import gradio as gr

from anyv2v.errors import UserError
from anyv2v.studio import showing
from anyv2v.studio.desk import BackboneFacts, Desk, EditorFacts, JobFacts, Setting
from anyv2v.studio.form import BY_EDITOR, BY_HAND, Form
from anyv2v.studio.look import look
from anyv2v.studio.parts import part
from anyv2v.studio.work import Work

__all__ = ["look", "page"]

SPAN = 2.0
"""Seconds that are taken of a longer clip at first: what the paper's models are made for."""

SECRET = "anyv2v-studio-01"  # what a tab works on is no secret; a random one would forget it with the server


@dataclass(frozen=True)
class _Turn:
    """What a person does something to: the work and the form as they are, and what is known of the deed."""

    work: Work
    form: Form
    event: Any

    def now(self, **changes: Any) -> Work:
        """The work, changed."""
        return replace(self.work, **{"trouble": "", **changes})


Act = Callable[[_Turn], Work | tuple[Work, Form]]
"""What a person does: it makes the next work, and maybe the next form."""


def page(desk: Desk) -> gr.Blocks:
    """The page of a desk. Mount it with the keywords of ``look``."""
    blocks = gr.Blocks(title="anyv2v studio", fill_width=True, analytics_enabled=False)
    with blocks:
        _Page(desk, blocks)
    return blocks


class _Page:
    """The components, and what they do."""

    def __init__(self, desk: Desk, blocks: gr.Blocks) -> None:
        self.desk, self.blocks = desk, blocks
        self.editors = {facts.name: facts for facts in desk.editors() if facts.name != "image"}
        self.backbones = {facts.name: facts for facts in desk.backbones()}
        self.form = Form(
            editor=next(iter(self.editors)),
            backbone=desk.usual_backbone,
            advanced={setting.name: setting.default for setting in desk.advanced()},
        )
        recipes = [(facts.name, recipe) for facts in self.backbones.values() for recipe in facts.recipes]
        self.settings = [setting for recipe in recipes for setting in desk.advanced(*recipe)]
        self._lay()
        self._wire()

    # ---- layout

    def _lay(self) -> None:
        self.held = gr.State(None)  # the work; the copy in the browser outlives a reload, and the server
        self.work = gr.BrowserState({}, storage_key="anyv2v-work", secret=SECRET)
        self.kept = gr.BrowserState([], storage_key="anyv2v-form", secret=SECRET)
        self.head = part("masthead")
        with gr.Row(elem_id="desk"):
            with gr.Column(elem_id="history"):
                self.jobs = part("jobs", label="Jobs", asks=_revision(self.desk))
            with gr.Column(elem_id="stage"):
                self.clip = part("drop", label="Your clip")
                self.player = part("player", label="Player")
                self.mask = part("mask", label="Mask")
                self.gallery = part("candidates")
                self.strip = part("strip", label="Span of the clip")
            with gr.Column(elem_id="inspector"):
                with gr.Tabs(selected="frame", elem_id="stages") as self.tabs:
                    with gr.Tab("1 · First frame", id="frame") as self.frame_tab:
                        self._lay_frame()
                    with gr.Tab("2 · Propagate", id="propagate") as self.propagate_tab:
                        self._lay_propagation()
                self._lay_foot()

    def _lay_frame(self) -> None:
        form = self.form
        self.way = gr.Radio([BY_HAND, BY_EDITOR], value=form.way, show_label=False, elem_classes=["segments"])
        with gr.Column(elem_classes=["pane"]) as self.by_hand:
            self.save = _html()
            self.edited = part("drop", label="The edited first frame")
        with gr.Column(elem_classes=["pane", "tight"], visible=False) as self.by_editor:
            self.editor = gr.Dropdown(_choices(self.editors), value=form.editor, label="Editor")
            self.editor_about = _html()
            self.instruction = gr.Textbox(label="Instruction", lines=2, placeholder="Turn the balloon green")
            self.references = part("drop", label="References")
            with gr.Row(elem_classes=["pair"]):
                self.paint = gr.Button("Paint a mask", size="sm")
                self.unmask = gr.Button("Remove the mask", size="sm", visible=False)
            with gr.Row(elem_classes=["pair"]) as self.several:
                self.candidates = gr.Number(form.candidates, precision=0, label="Candidates")
                self.editor_seed = gr.Number(form.editor_seed, precision=0, label="Seed")

    def _lay_propagation(self) -> None:
        form = self.form
        self.backbone = gr.Dropdown(_choices(self.backbones), value=form.backbone, label="Carried by")
        self.backbone_about = _html()
        with gr.Column(elem_classes=["pane"]) as self.diffusion:
            self.prompt = gr.Textbox(
                label="Prompt", lines=2, placeholder="What the edited clip shows: a green balloon over a lake"
            )
            self.structure = _wish("Follow the source's structure")
            self.motion = _wish("Follow the source's motion")
            with gr.Row(elem_classes=["pair"]):
                self.seed = gr.Number(form.seed, precision=0, label="Seed")
                self.preview = gr.Checkbox(form.preview, label="Flow preview at once")
            with gr.Accordion("Advanced", open=False, elem_id="advanced"):
                about = "The settings that all others start from"
                self.recipe = gr.Dropdown(["default"], value="default", label="recipe", info=about)
                self.advanced = [_field(setting) for setting in self.desk.advanced()]

    def _lay_foot(self) -> None:
        with gr.Column(elem_id="foot"):
            self.hint = _html()
            with gr.Row(elem_classes=["pair"]):
                self.make = gr.Button("Edit the frame", variant="primary", visible=False)
                self.next = gr.Button("Next: propagate", variant="primary")
            self.run = gr.Button("Run", variant="primary", visible=False, elem_id="run")

    # ---- what leads to what

    def _wire(self) -> None:
        self.blocks.load(self._begin, [self.work, self.kept], self._outputs, **QUIETLY)
        self._on(self.jobs.changed, lambda turn: turn.work)
        self.jobs.nudge(lambda: None, **QUIETLY)
        self._on(self.clip.done, self._take_clip)
        self._on(self.head.fresh, lambda _turn: Work())
        self._on(self.strip.span, self._take_span)
        self._on(self.edited.done, lambda turn: _with_first(turn.work, turn.event.id))
        self._on(self.edited.remove, lambda turn: _with_first(turn.work, None))
        self._on(self.references.done, _with_reference)
        self._on(self.references.remove, _without_reference)
        self._on(self.paint.click, lambda turn: turn.now(painting=True))
        self._on(self.unmask.click, lambda turn: turn.now(mask=None))
        self._on(self.mask.leave, lambda turn: turn.now(painting=False))
        self._on(self.mask.done, lambda turn: turn.now(painting=False, mask=turn.event.id))
        self._on(self.gallery.choose, self._choose)
        self._on(self.next.click, lambda turn: turn.now(tab="propagate", painting=False))
        self._on(self.frame_tab.select, lambda turn: turn.now(), tab="frame")
        self._on(self.propagate_tab.select, lambda turn: turn.now(), tab="propagate", painting=False)
        for field in (self.way, self.editor):
            self._on(field.input, lambda turn: turn.work)
        self._on(self.instruction.input, lambda turn: turn.work, mode="always_last")  # or a letter each
        for field in (self.backbone, self.recipe):
            self._on(field.input, self._choose_method)
        self._on(self.make.click, self._make)
        self._on(self.run.click, self._run)
        self._on(self.jobs.open, lambda turn: self._open(turn.event.id))
        self._on(self.jobs.again, self._again)
        self._on(self.jobs.cancel, lambda turn: self._each(turn, self.desk.cancel))
        self._on(self.jobs.remove, lambda turn: self._each(turn, self.desk.remove))
        for field in self._fields:  # the form outlives a reload as well
            moment = field.blur if isinstance(field, gr.Textbox | gr.Number) else field.change
            moment(None, self._fields, self.kept, js="(...values) => [values]", show_progress="hidden")

    @property
    def _fields(self) -> list[Any]:
        """The fields of the form, in its order."""
        frame = [self.way, self.editor, self.instruction, self.candidates, self.editor_seed]
        method = [
            self.backbone,
            self.prompt,
            self.structure,
            self.motion,
            self.seed,
            self.preview,
            self.recipe,
        ]
        return [*frame, *method, *self.advanced]

    def _on(self, event: Any, act: Act, mode: str = "multiple", **here: Any) -> None:
        """Let an event do something, and show what has come of it; ``here`` is where a person is by now."""

        def run(event: gr.EventData, held: Work | None, kept: Any, *values: Any) -> Any:
            if here and held is None:  # the page is being laid, and nobody has gone there
                return gr.skip()
            return self._after(act, replace(held or Work.read(kept), **here), values, event)

        event(run, [self.held, self.work, *self._fields], self._outputs, **QUIETLY | {"trigger_mode": mode})

    @property
    def _outputs(self) -> list[Any]:
        return list(dict.fromkeys([*self._shown(Work(), self.form), self.kept, *self._fields]))

    def _after(self, act: Act, work: Work, values: Sequence[Any], event: Any) -> dict[Any, Any]:
        """Do something; then the page, and the form if it is to change."""
        turn = _Turn(work, Form.read(values, list(self.form.advanced)), event)
        try:
            after = act(turn)
        except UserError as error:
            after = turn.now(trouble=_sentence(error))
        page = self._shown(after, turn.form) if isinstance(after, Work) else self._filled(*after, turn)
        # A tab that is selected tells of it, and so would undo what a person has selected since.
        if event is not None and page[self.held].tab == work.tab:
            del page[self.tabs]
        return page

    def _filled(self, work: Work, form: Form, turn: _Turn) -> dict[Any, Any]:
        """The page with a form that has changed."""
        page = self._shown(work, form)
        for field, value, old in zip(self._fields, form.values, turn.form.values, strict=True):
            # What is as it was stays untouched: a person may be typing there. A new tab has nothing yet.
            if turn.event is None or value != old:
                page[field] = {**page.get(field, gr.update()), "value": value}
        return page | {self.kept: form.values}

    # ---- what a person does

    def _begin(self, kept: Any, values: Any) -> dict[Any, Any]:
        """A tab that was opened anew: as it was left."""
        known = values if len(values or []) == len(self._fields) else self.form.values
        return self._after(lambda turn: (turn.work, self._known(turn.form)), Work.read(kept), known, None)

    def _known(self, form: Form) -> Form:
        """A form of another day, or of a program's request: with an editor and a backbone that are here."""
        editor = form.editor if form.editor in self.editors else self.form.editor
        backbone = form.backbone if form.backbone in self.backbones else self.form.backbone
        return replace(form, editor=editor, backbone=backbone)

    def _take_clip(self, turn: _Turn) -> Work:
        long = showing.length(self.desk.clip(turn.event.id))
        return Work(clip=turn.event.id, end=long if long <= 1.5 * SPAN else SPAN)

    def _take_span(self, turn: _Turn) -> Work:
        moved = turn.now(start=turn.event.start, end=turn.event.end, open=None)
        return moved if moved.start == turn.work.start else replace(_with_first(moved, None), mask=None)

    def _choose(self, turn: _Turn) -> Work:
        image = self.desk.take_frame(turn.work.made or "", turn.event.number)
        return turn.now(first=image.id, chosen=turn.event.number, open=None)

    def _choose_method(self, turn: _Turn) -> tuple[Work, Form]:
        form = turn.form
        recipe = form.recipe if form.recipe in self.backbones[form.backbone].recipes else "default"
        options = {one.name: one.default for one in self.desk.advanced(form.backbone, recipe)}
        standing = {one.name for one in self.settings if one.stands(form.advanced[one.name])}
        own = {name: value for name, value in form.advanced.items() if name not in standing}
        return turn.work, replace(form, recipe=recipe, advanced=options | own)

    def _make(self, turn: _Turn) -> Work:
        editor, clip = self.editors[turn.form.editor], self.desk.clip(turn.work.clip or "")
        made = self.desk.submit(turn.form.frame_request(turn.work, editor, clip.name))
        return turn.now(made=made, first=None, chosen=None, open=None)

    def _run(self, turn: _Turn) -> Work:
        form, clip = turn.form, self.desk.clip(turn.work.clip or "")
        settings = self.desk.advanced(form.backbone, form.recipe)
        backbone = self.backbones[form.backbone]
        job = self.desk.submit(form.edit_request(turn.work, backbone, settings, clip.name))
        if form.preview:
            with suppress(UserError):  # the queue is full; the job itself is in it
                self.desk.preview(job)
        return turn.now(open=job)

    def _open(self, name: str) -> Work:
        """What a job worked on."""
        job = self.desk.job(name)
        request = job.request
        clip = self.desk.clip(request.clip)
        frames = request.frames or (job.frames if request.task == "edit" else 0)
        seconds = request.duration or frames / self.desk.pace(request)[0]
        end = request.start + (seconds or showing.length(clip) - request.start)
        work = Work(clip.id, request.start, end, references=request.references, mask=request.mask)
        if request.task == "frame":
            return replace(work, made=name)
        return replace(work, first=request.first_frame, open=name, tab="propagate")

    def _again(self, turn: _Turn) -> tuple[Work, Form]:
        name = turn.event.id
        request, work = self.desk.again(name), self._open(name)
        made = request.task == "edit" and request.first_frame is None and self.desk.files(name).frame
        if made:  # by an editor, on the way
            work = replace(work, first=self.desk.take_frame(name).id)
        settings = self.desk.advanced(request.backbone, request.recipe)
        return work, self._known(turn.form.filled(request, settings))

    def _each(self, turn: _Turn, act: Callable[[str], None]) -> Work:
        """To a job, and to the preview that belongs to it."""
        name = turn.event.id
        for job in self.desk.jobs(limit=-1):
            if job.parent == name:
                with suppress(UserError):  # it has ended, or has not
                    act(job.id)
        act(name)
        return turn.work

    # ---- what is shown

    def _shown(self, work: Work, form: Form) -> dict[Any, Any]:
        """All of the page but the fields of the form."""
        jobs = self.desk.jobs(limit=-1)
        try:
            work = self._settled(work, jobs)
            return self._of(work, form, jobs)
        except UserError as error:  # what it worked on is gone
            return self._of(Work(trouble=_sentence(error)), form, jobs)

    def _settled(self, work: Work, jobs: Sequence[JobFacts]) -> Work:
        """What is gone is let go; of the candidates that have come the best is taken."""
        by_id = {job.id: job for job in jobs}
        work = replace(work, open=work.open if work.open in by_id else None)
        made = by_id.get(work.made or "")
        if made is None or made.state != "done" or work.first:
            return replace(work, made=work.made if made else None)
        best = next(iter(self.desk.files(made.id).candidates), None)
        number = best.number if best else None
        return replace(work, first=self.desk.take_frame(made.id, number).id, chosen=number)

    def _of(self, work: Work, form: Form, jobs: Sequence[JobFacts]) -> dict[Any, Any]:
        parts = {
            self.held: work,
            self.work: work.kept(),
            self.head: showing.facts(self.desk, work),
            self.jobs: showing.cards(work, jobs),
            self.clip: None if work.clip else CLIP_WANTED,
            self.player: showing.player(self.desk, work, jobs),
            self.mask: showing.mask(work),
            self.strip: showing.strip(self.desk, work),
            self.gallery: showing.candidates(self.desk, work),
        }
        return parts | self._frame_of(work, form) | self._method_of(form) | self._foot_of(work, form)

    def _frame_of(self, work: Work, form: Form) -> dict[Any, Any]:
        facts, here = self.editors[form.editor], form.way == BY_EDITOR
        able = {*facts.needs, *facts.takes}
        return {
            self.tabs: gr.update(selected=work.tab),
            self.by_hand: gr.update(visible=not here),
            self.by_editor: gr.update(visible=here),
            self.save: self._save(work),
            self.edited: showing.edited(self.desk, work),
            self.editor_about: _about(facts),
            self.instruction: gr.update(visible="instruction" in able),
            self.references: showing.references(work, facts.references) if "reference" in able else None,
            self.paint: gr.update(
                value="Paint the mask anew" if work.mask else "Paint a mask", interactive=bool(work.clip)
            ),
            self.unmask: gr.update(visible=bool(work.mask)),
            self.several: gr.update(visible=facts.seeded),
        }

    def _method_of(self, form: Form) -> dict[Any, Any]:
        facts = self.backbones[form.backbone]
        return {
            self.backbone_about: _about(facts),
            self.diffusion: gr.update(visible=not facts.quick),
            self.recipe: gr.update(choices=list(facts.recipes)),
        }

    def _foot_of(self, work: Work, form: Form) -> dict[Any, Any]:
        first, here = work.tab == "frame", form.way == BY_EDITOR
        hint = _hint(work, form, self.editors[form.editor], self.backbones[form.backbone])
        able = work.clip is not None and not hint
        said = work.trouble or hint
        return {
            self.hint: gr.update(value=_said(said, bool(work.trouble)), visible=bool(said)),
            self.make: gr.update(
                visible=first and here, interactive=able, variant="secondary" if work.first else "primary"
            ),
            self.next: gr.update(
                visible=first, interactive=bool(work.first), variant="primary" if work.first else "secondary"
            ),
            self.run: gr.update(visible=not first, interactive=able),
        }

    def _save(self, work: Work) -> str:
        if work.clip is None:
            return ""
        clip = self.desk.clip(work.clip)
        size = f"{clip.width} × {clip.height} PNG"
        url = escape(showing.first_frame(work))
        link = f'<a class="plain framed" href="{url}" download="first-frame.png">'
        return f"{link}Download the first frame <small>{size}</small></a>"


# ---- small things

QUIETLY: dict[str, Any] = {
    "show_progress": "hidden",
    "concurrency_id": "page",  # one thing after the other, each knowing what the last has done
    "concurrency_limit": 1,
    "trigger_mode": "multiple",
    "api_visibility": "private",
    "preprocess": False,  # which would refuse all for one field; the request says what is wrong with it
}

CLIP_WANTED = {
    "to": "/api/clips",
    "accept": "video/*,image/*",
    "title": "Drop a clip",
    "hint": "or click here to choose one",
    "shape": "film",
}


def _revision(desk: Desk) -> Callable[[Any], int]:
    def revision(_: Any) -> int:
        """Another whenever any job has changed."""
        return desk.revision()

    return revision


def _html() -> gr.HTML:
    return gr.HTML(apply_default_css=False)


def _wish(label: str) -> gr.Slider:
    return gr.Slider(0, 1, value=0.5, step=0.05, label=label, buttons=[])


def _field(setting: Setting) -> Any:
    """The field for an option."""
    about: dict[str, Any] = {"label": setting.name.replace("_", " "), "info": setting.meaning}
    default = setting.default
    if setting.choices:
        return gr.Dropdown(list(setting.choices), value=default, **about)
    if isinstance(default, bool):
        return gr.Checkbox(default, **about)
    if isinstance(default, int | float):
        return gr.Number(default, precision=0 if isinstance(default, int) else None, **about)
    return gr.Textbox(default, max_lines=3, **about)


def _choices(known: dict[str, Any]) -> list[tuple[str, str]]:
    return [(name if facts.ready else f"{name} (not on this machine)", name) for name, facts in known.items()]


def _about(facts: EditorFacts | BackboneFacts) -> str:
    """What it is; and if it is not there, how to get it."""
    get = "" if facts.ready else f'<p>To get it: <code tabindex="0">{escape(facts.get)}</code></p>'
    return f'<div class="about"><p>{escape(_sentence(facts.summary))}</p>{get}</div>'


def _hint(work: Work, form: Form, editor: EditorFacts, backbone: BackboneFacts) -> str:
    """What is still missing before the button of a stage does something."""
    if work.clip is None:
        return "Begin with a clip."
    if work.tab == "propagate":
        wants = "Edit the first frame first." if work.first is None else ""
        return wants or ("" if backbone.ready else f"{backbone.name} is not on this machine.")
    if form.way == BY_HAND:
        return ""
    return f"{editor.name} is not on this machine." if not editor.ready else _lacking(work, form, editor)


def _lacking(work: Work, form: Form, editor: EditorFacts) -> str:
    given = {"an instruction": form.instruction, "a reference": work.references, "a mask": work.mask}
    lacking = [what for what, there in given.items() if what.split()[1] in editor.needs and not there]
    return f"{editor.name} needs {' and '.join(lacking)}." if lacking else ""


def _said(text: str, trouble: bool) -> str:
    return f'<p class="{"trouble" if trouble else "hint"}" role="status">{escape(text)}</p>'


def _sentence(text: object) -> str:
    text = str(text)
    return f"{text[:1].upper()}{text[1:]}"


def _with_first(work: Work, image: str | None) -> Work:
    return replace(work, first=image, made=None, chosen=None, open=None)


def _with_reference(turn: _Turn) -> Work:
    return turn.now(references=tuple(dict.fromkeys((*turn.work.references, turn.event.id))))


def _without_reference(turn: _Turn) -> Work:
    return turn.now(references=tuple(one for one in turn.work.references if one != turn.event.id))
