"""InstantStyle (Wang et al., arXiv 2404.02733) as an editor: the frame in the style of the reference.

It is SDXL with an IP-Adapter that acts in the one block where the style is made, and a ControlNet that keeps
the frame's contours.

Not covered: its subtraction of the reference's content, which takes an adapter on the text encoder's CLIP.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import cv2
from PIL import Image

from anyv2v.editors.canvas import Canvas
from anyv2v.editors.protocol import Machine, Request
from anyv2v.editors.sdxl import MULTIPLE, SDXLSettings, load_pipeline, paint
from anyv2v.options import within
from anyv2v.picture import Frame, Size
from anyv2v.progress import OnStep, ignore

__all__ = ["InstantStyle", "InstantStyleSettings", "edges"]


@dataclass(frozen=True)
class InstantStyleSettings(SDXLSettings):
    """See ``SDXLSettings`` for the rest.

    Attributes:
        style_scale: How strongly the reference's style acts, 0 to 2.
        layout_scale: How strongly its layout acts, 0 to 2; none leaves the layout to the frame.
        structure_scale: How strongly the frame's contours act, 0 to 2.
        edge_low: Where contours end, in the gradient of Canny's detector, 0 to 1000.
        edge_high: Where they begin, 0 to 1000; higher values keep fewer of them.
    """

    style_scale: float = 1.0
    layout_scale: float = 0.0
    structure_scale: float = 0.6
    edge_low: float = 50.0
    edge_high: float = 200.0

    def __post_init__(self) -> None:
        super().__post_init__()
        within(self, 0, 2, "style_scale", "layout_scale", "structure_scale")
        within(self, 0, 1000, "edge_low", "edge_high")


class InstantStyle:
    """See ``Editor``. The instruction says what the result shows, without its style.

    Of a reference the central square counts; of several, the style is something in between.

    Args:
        pipe: SDXL with an IP-Adapter and a ControlNet for Canny's edges.
        settings: What a user set.
    """

    Settings = InstantStyleSettings

    def __init__(self, pipe: Any, settings: InstantStyleSettings) -> None:
        self.pipe = pipe
        self.settings = settings

    @classmethod
    def load(cls, weights: Mapping[str, Path], settings: InstantStyleSettings, machine: Machine) -> Self:
        """See ``LoadableEditor``; the roles are ``sdxl``, ``adapter`` and ``structure``."""
        pipe = load_pipeline(
            weights["sdxl"],
            weights["structure"],
            weights["adapter"] / "sdxl_models" / "ip-adapter_sdxl_vit-h.safetensors",
            machine,
            from_noise=settings.strength == 1,
            image_encoder=weights["adapter"] / "models" / "image_encoder",
        )
        pipe.set_ip_adapter_scale(
            {
                "up": {"block_0": [0.0, settings.style_scale, 0.0]},
                "down": {"block_2": [0.0, settings.layout_scale]},
            }
        )
        return cls(pipe, settings)

    def edit(self, request: Request, on_step: OnStep = ignore) -> Frame:
        """See ``Editor``."""
        settings = self.settings
        canvas = Canvas.of(Size.of(request.frame), MULTIPLE, settings.side**2)
        frame = canvas.lay(request.frame)
        picture = paint(
            self.pipe,
            frame,
            edges(frame, settings.edge_low, settings.edge_high),
            request,
            settings,
            on_step,
            ip_adapter_image=[[Image.fromarray(picture) for picture in request.references]],
            controlnet_conditioning_scale=settings.structure_scale,
        )
        return canvas.lift(picture)


def edges(frame: Frame, low: float, high: float) -> Frame:
    """Canny's edges, white on black: ``[H, W, 3]``."""
    drawing: Frame = cv2.cvtColor(cv2.Canny(frame, low, high), cv2.COLOR_GRAY2RGB)
    return drawing
