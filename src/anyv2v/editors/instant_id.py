"""InstantID (Wang et al., arXiv 2401.07519) as an editor: the frame's face becomes that of the reference.

It is SDXL with an IP-Adapter that attends to the face, and a ControlNet that sees the face's five points and
attends to it too, in place of the text.

Not covered: its second ControlNet for depth, and its limiting both to the box of the face.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from anyv2v.editors.canvas import Canvas
from anyv2v.editors.faces import Analyser, Face, analyse, draw_points
from anyv2v.editors.protocol import Machine, Request
from anyv2v.editors.sdxl import MULTIPLE, SDXLSettings, load_pipeline, paint
from anyv2v.errors import CheckpointError, EditorError
from anyv2v.options import within
from anyv2v.picture import Frame, Size
from anyv2v.progress import OnStep, ignore

__all__ = ["InstantID", "InstantIDSettings", "face_tokens", "stretched", "wearing"]


@dataclass(frozen=True)
class InstantIDSettings(SDXLSettings):
    """See ``SDXLSettings`` for the rest.

    Attributes:
        strength: See ``SDXLSettings``. Less than 1 by default, so that what surrounds the face stays.
        identity_scale: How strongly the picture attends to the face, 0 to 2. More is more alike; less leaves
            more to the prompt, and helps against glaring colours.
        pose_scale: How strongly the face's points and the face act through the ControlNet, 0 to 2.
        fit: ``pad`` scales the frame as a whole and mirrors it out to sides that are multiples of 64, so that
            nothing is distorted; ``stretch`` is the authors' way to sizes of at most 1280, which takes up to
            63 pixels off a side and knows no ``side``.
    """

    strength: float = 0.85
    identity_scale: float = 0.8
    pose_scale: float = 0.8
    fit: Literal["pad", "stretch"] = "pad"

    def __post_init__(self) -> None:
        super().__post_init__()
        within(self, 0, 2, "identity_scale", "pose_scale")


class InstantID:
    """See ``Editor``. Several references are several pictures of one person.

    Args:
        pipe: SDXL with InstantID's adapter and ControlNet.
        faces: Finds the largest face of a picture.
        settings: What a user set.
    """

    Settings = InstantIDSettings

    def __init__(self, pipe: Any, faces: Analyser, settings: InstantIDSettings) -> None:
        self.pipe = pipe
        self.faces = faces
        self.settings = settings

    @classmethod
    def load(cls, weights: Mapping[str, Path], settings: InstantIDSettings, machine: Machine) -> Self:
        """See ``LoadableEditor``; the roles are ``sdxl``, ``identity`` and ``faces``."""
        folder = weights["identity"]
        pipe = load_pipeline(
            weights["sdxl"],
            folder / "ControlNetModel",
            _adapter(folder),
            machine,
            from_noise=settings.strength == 1,
        )
        pipe.set_ip_adapter_scale(settings.identity_scale)
        return cls(pipe, analyse(weights["faces"]), settings)

    def edit(self, request: Request, on_step: OnStep = ignore) -> Frame:
        """See ``Editor``.

        Raises:
            EditorError: There is no face in the frame or in a reference.
        """
        settings, canvas = self.settings, self._canvas(Size.of(request.frame))
        frame = canvas.lay(request.frame)
        points = self._face(frame, "the video's first frame").points
        faces = [self._face(shown, f"reference {k}") for k, shown in enumerate(request.references, 1)]
        person = torch.from_numpy(np.stack([face.embedding for face in faces]))
        with wearing(self.pipe, person, guided=settings.guidance_scale > 1) as embeddings:
            picture = paint(
                self.pipe,
                frame,
                draw_points(points, canvas.padded),
                request,
                settings,
                on_step,
                ip_adapter_image_embeds=[embeddings],
                controlnet_conditioning_scale=settings.pose_scale,
            )
        return canvas.lift(picture)

    def _canvas(self, source: Size) -> Canvas:
        if self.settings.fit == "pad":
            return Canvas.of(source, MULTIPLE, self.settings.side**2)
        size = stretched(source)
        return Canvas(source, size, size)

    def _face(self, picture: Frame, where: str) -> Face:
        if face := self.faces(picture):
            return face
        raise EditorError(
            f"there is no face in {where}; take one that shows a face, large and from the front"
        )


def _adapter(folder: Path) -> Path:
    for name in ("ip-adapter.safetensors", "ip-adapter.bin"):
        if (folder / name).exists():
            return folder / name
    raise CheckpointError(f"{folder} is no checkpoint of InstantID: ip-adapter.bin is missing")


def stretched(source: Size, short: int = 1024, long: int = 1280, multiple: int = MULTIPLE) -> Size:
    """The size at which InstantID's authors work: its longer side is ``long``, or the multiple below.

    Args:
        source: Of the picture.
        short: What its shorter side is scaled to at first.
        long: What its longer side is scaled to then.
        multiple: What each side is cut down to a multiple of.
    """
    width, height = _scaled(source, short / min(source.width, source.height))
    width, height = _scaled(Size(width, height), long / max(width, height))
    return Size(width // multiple * multiple, height // multiple * multiple)


def _scaled(size: Size, ratio: float) -> tuple[int, int]:
    return round(size.width * ratio), round(size.height * ratio)


@contextmanager
def wearing(pipe: Any, person: Tensor, *, guided: bool) -> Iterator[Tensor]:
    """Have the ControlNet attend to a face in place of the text.

    Args:
        pipe: SDXL with InstantID's adapter and ControlNet.
        person: Embeddings of one or more pictures of a face, ``[n, 512]``.
        guided: Whether there is guidance, and so a negative half.

    Yields:
        The embeddings as the pipeline's ``ip_adapter_image_embeds`` has them, ``[halves, 1, n, 512]``.
    """
    face = person.to(pipe.unet.device, pipe.unet.dtype)[None, None]
    halves = torch.cat([torch.zeros_like(face), face]) if guided else face
    tokens = face_tokens(pipe.unet, halves.flatten(0, 1))

    def swap(_net: Any, inputs: tuple[Any, ...], told: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        rows = tokens[-1:] if told["guess_mode"] else tokens  # which leaves the negative half out
        repeated = rows.repeat_interleave(len(inputs[0]) // len(rows), dim=0)
        return inputs, {**told, "encoder_hidden_states": repeated.to(inputs[0])}

    hook = pipe.controlnet.register_forward_pre_hook(swap, with_kwargs=True)
    try:
        yield halves
    finally:
        hook.remove()


@torch.no_grad()
def face_tokens(unet: Any, faces: Tensor) -> Tensor:
    """What stands for faces in attention: ``[rows, n, 512] -> [rows, 16, D]``.

    The zeros of a negative half go through it as well, and do not stay zeros.
    """
    tokens: Tensor = unet.encoder_hid_proj.image_projection_layers[0](faces)
    return tokens
