"""What a person fills in on the page, and the requests that it comes to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Self

from anyv2v.options import Options
from anyv2v.studio.request import Request
from anyv2v.studio.work import Work

if TYPE_CHECKING:
    from anyv2v.studio.desk import BackboneFacts, EditorFacts, Setting

__all__ = ["BY_EDITOR", "BY_HAND", "Form"]

BY_HAND, BY_EDITOR = "Edit it elsewhere", "Edit it here"


@dataclass(frozen=True)
class Form:
    """The fields of the page.

    Attributes:
        way: How the first frame is edited, ``BY_HAND`` or ``BY_EDITOR``.
        editor: What edits it here.
        instruction: What that is told.
        candidates: How many first frames it makes.
        editor_seed: Seeds it.
        backbone: What carries the edit through the clip.
        prompt: What the edited clip shows.
        structure: See ``Request``.
        motion: See ``Request``.
        seed: Seeds everything random.
        preview: Whether optical flow is to show something at once.
        recipe: The options that the others start from.
        advanced: Options by name.
    """

    way: str = BY_HAND
    editor: str = ""
    instruction: str = ""
    candidates: int = 4
    editor_seed: int = Options.seed
    backbone: str = "flow"
    prompt: str = ""
    structure: float = 0.5
    motion: float = 0.5
    seed: int = Options.seed
    preview: bool = True
    recipe: str = "default"
    advanced: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, values: Sequence[Any], options: Sequence[str]) -> Self:
        """From the values of the fields, those of the options last; what is emptied is as at first."""
        names = [f.name for f in fields(cls)[:-1]]
        plain = {name: value for name, value in zip(names, values, strict=False) if value is not None}
        return cls(**plain, advanced=dict(zip(options, values[len(names) :], strict=True)))

    @property
    def values(self) -> list[Any]:
        """What ``read`` reads."""
        plain = [getattr(self, f.name) for f in fields(self)[:-1]]
        return [*plain, *self.advanced.values()]

    def frame_request(self, work: Work, editor: EditorFacts, clip: str) -> Request:
        """To edit the first frame of the work's clip, of that name."""
        able = {*editor.needs, *editor.takes}
        instruction = self.instruction if "instruction" in able else ""
        return Request(
            task="frame",
            clip=work.clip or "",
            start=work.start,
            editor=self.editor,
            instruction=instruction,
            references=work.references if "reference" in able else (),
            mask=work.mask,
            candidates=int(self.candidates) if editor.seeded else 1,
            seed=int(self.editor_seed),
            title=instruction or clip,
        )

    def edit_request(
        self, work: Work, backbone: BackboneFacts, settings: Sequence[Setting], clip: str
    ) -> Request:
        """To carry the edited first frame through the span of the work's clip, of that name."""
        prompt = "" if backbone.quick else self.prompt  # which has no use for one
        return Request(
            clip=work.clip or "",
            start=work.start,
            duration=work.end - work.start,
            first_frame=work.first,
            backbone=self.backbone,
            prompt=prompt,
            structure=self.structure,
            motion=self.motion,
            seed=int(self.seed),
            recipe=self.recipe,
            advanced={
                one.name: self.advanced[one.name]
                for one in settings
                if not one.stands(self.advanced.get(one.name))
            },
            title=prompt or clip,
        )

    def filled(self, request: Request, settings: Sequence[Setting]) -> Form:
        """This form as it was filled in for a request."""
        edited = replace(
            self,
            way=BY_EDITOR,
            editor=request.editor or self.editor,
            instruction=request.instruction,
            candidates=request.candidates,
            editor_seed=request.seed,
        )
        if request.task == "frame":
            return edited
        return replace(
            edited if request.editor else self,
            backbone=request.backbone,
            prompt=request.prompt,
            structure=request.structure,
            motion=request.motion,
            seed=request.seed,
            recipe=request.recipe,
            advanced={one.name: request.advanced.get(one.name, one.default) for one in settings},
        )
