"""Edit a video by editing its first frame (AnyV2V, arXiv 2403.14468).

    video = anyv2v.Clip("clip.mp4", frames=16, fps=8).read()
    edited = anyv2v.read_image("edited.png")
    result = anyv2v.edit(video, edited, "a man in a red shirt", backbone="i2vgen-xl")
    anyv2v.write("out.mp4", result.frames, result.fps, result.audio)

Names that need torch are imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from anyv2v.backbones import Carrier, list_backbones, load_backbone, recipe
from anyv2v.carry import diffuse, edit, invert_video
from anyv2v.edit import Trajectory, invert, propagate
from anyv2v.editors import EditorEntry, list_editors, load_editor
from anyv2v.editors.protocol import Editor, Request
from anyv2v.errors import AnyV2VError, UserError
from anyv2v.film import VideoInfo, probe
from anyv2v.fitting import clip_spec, fit_frame, fit_frames
from anyv2v.options import NEGATIVE_PROMPT, RECIPES, Options
from anyv2v.picture import Fit, Size, read_image, write_image
from anyv2v.progress import Step
from anyv2v.video import AudioTrack, Clip, Video
from anyv2v.writing import write

if TYPE_CHECKING:
    from anyv2v.backbones.protocol import Backbone, Condition, VideoSpec
    from anyv2v.features import FeatureBank, InjectionPlan, Tap
    from anyv2v.schedule import DDIM, Schedule

__version__ = "0.1.0"

_LAZY = {
    "Backbone": "anyv2v.backbones.protocol",
    "Condition": "anyv2v.backbones.protocol",
    "DDIM": "anyv2v.schedule",
    "FeatureBank": "anyv2v.features",
    "InjectionPlan": "anyv2v.features",
    "Schedule": "anyv2v.schedule",
    "Tap": "anyv2v.features",
    "VideoSpec": "anyv2v.backbones.protocol",
}

__all__ = [
    "DDIM",
    "NEGATIVE_PROMPT",
    "RECIPES",
    "AnyV2VError",
    "AudioTrack",
    "Backbone",
    "Carrier",
    "Clip",
    "Condition",
    "Editor",
    "EditorEntry",
    "FeatureBank",
    "Fit",
    "InjectionPlan",
    "Options",
    "Request",
    "Schedule",
    "Size",
    "Step",
    "Tap",
    "Trajectory",
    "UserError",
    "Video",
    "VideoInfo",
    "VideoSpec",
    "clip_spec",
    "diffuse",
    "edit",
    "fit_frame",
    "fit_frames",
    "invert",
    "invert_video",
    "list_backbones",
    "list_editors",
    "load_backbone",
    "load_editor",
    "probe",
    "propagate",
    "read_image",
    "recipe",
    "write",
    "write_image",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
