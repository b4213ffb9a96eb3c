"""What can be said on the command line: each option once, with its help."""

from __future__ import annotations

from collections.abc import Callable
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import typer

CLIP = "Clip"
EDIT = "Edit"
STILL = "First frame"
METHOD = "Method (the paper's settings, but for the inversion, unless told otherwise)"
DETAIL = "Details of the method: see docs/parity.md"
MACHINE = "Machine"
TALK = "Output to the terminal"
LOOK = "What to look at"


def option(panel: str, text: str, *names: str) -> Any:
    """An option without a default to show, in a panel of the help."""
    return typer.Option(*names, help=text, rich_help_panel=panel, show_default=False)


Source = Annotated[
    Path | None, typer.Argument(help="The source video, or a folder of images.", show_default=False)
]
JobFile = Annotated[
    Path | None,
    option(TALK, "A YAML file of these options, or a sidecar; options given here win.", "--job"),
]
FirstFrame = Annotated[
    Path | None, option(STILL, "The edited first frame, if it was made elsewhere.", "--first-frame", "-f")
]
Editor = Annotated[str | None, option(STILL, "What edits the first frame: see `anyv2v editors`.")]
Command = Annotated[
    str | None,
    option(STILL, "A program as editor, as 'prog {input} {output}'; also {instruction} {reference} {mask}."),
]
Instruction = Annotated[str | None, option(STILL, "What to do to the first frame.", "--instruction", "-i")]
Reference = Annotated[
    list[Path] | None, option(STILL, "A picture of the style, subject or face; may be repeated.")
]
ReferenceMask = Annotated[Path | None, option(STILL, "The subject in it; else where it is opaque.")]
Mask = Annotated[Path | None, option(STILL, "Where the frame may change: white, or opaque.")]
MaskPoint = Annotated[
    list[str] | None, option(STILL, "x,y on what may change, cut out by SAM 2; may be repeated.")
]
MaskBox = Annotated[str | None, option(STILL, "left,top,right,bottom around it, likewise.")]
Feather = Annotated[float | None, option(STILL, "Pixels over which the edit comes in at the mask's edge.")]
EditorModel = Annotated[
    list[str] | None,
    option(STILL, "A folder or repository of its weights, or role=folder; may be repeated."),
]
EditorSettings = Annotated[
    list[str] | None, option(STILL, "One of its own settings, as steps=30; may be repeated.", "--set")
]
Candidates = Annotated[int | None, option(STILL, "Make so many first frames, and rank them on a sheet.")]
Pick = Annotated[
    str | None, option(STILL, "best, the number of a candidate, or ask: stop with the sheet. Default: best.")
]
LowMemory = Annotated[
    bool | None,
    option(
        MACHINE, "Keep on the device only the part of a model that works, and work in parts.", "--low-memory"
    ),
]
Compile = Annotated[
    bool | None,
    option(MACHINE, "Compile layers of the net: minutes once, then faster on a GPU.", "--compile"),
]
Backbone = Annotated[
    str | None, option(METHOD, "What carries the edit: see `anyv2v backbones`. Default: auto.")
]
Model = Annotated[str | None, option(METHOD, "A checkpoint's folder, or a Hugging Face repository.")]
Recipe = Annotated[str | None, option(METHOD, "default, fast, or paper: the reference's exact schedule.")]
Steps = Annotated[int | None, option(METHOD, "Sampling steps.")]
InversionSteps = Annotated[int | None, option(METHOD, "Inversion steps.")]
Inversion = Annotated[
    str | None, option(METHOD, "ddim, uni, fixed-point or midpoint: how the source is inverted.")
]
InversionIterations = Annotated[int | None, option(DETAIL, "Calls of the net a step of fixed-point.")]
InversionPrompt = Annotated[str | None, option(METHOD, "Text of the source; empty in the paper.")]
Guidance = Annotated[float | None, option(METHOD, "Classifier-free guidance scale; 1 turns it off.")]
ImageGuidance = Annotated[float | None, option(METHOD, "The same for the first frame, in ConsistI2V.")]
GuidanceRescale = Annotated[
    float | None, option(DETAIL, "How far guidance is kept from raising the contrast, 0 to 1.")
]
GuidanceUntil = Annotated[float | None, option(DETAIL, "Share of steps that are guided, 0 to 1.")]
DeepEvery = Annotated[
    int | None,
    option(DETAIL, "At cleaner levels, compute all layers but the last at one step in so many."),
]
TauConv = Annotated[float | None, option(METHOD, "Share of steps that inject the convolution feature.")]
TauSpatial = Annotated[float | None, option(METHOD, "Share of steps that inject spatial attention.")]
TauTemporal = Annotated[float | None, option(METHOD, "Share of steps that inject temporal attention.")]
TauCross = Annotated[float | None, option(METHOD, "Share of steps that inject attention to the text.")]
Skip = Annotated[int | None, option(METHOD, "Steps left out at the noisy end.")]
FrameInit = Annotated[
    str | None,
    option(
        DETAIL,
        "ConsistI2V starts with the edited first frame's layout: none, gaussian, butterworth, ideal or box.",
    ),
]
NoiseShare = Annotated[float | None, option(METHOD, "Share of random noise mixed into the start, 0 to 1.")]
Seed = Annotated[int | None, option(METHOD, "Seeds everything random.")]
LayersConv = Annotated[str | None, option(DETAIL, "Decoder layers, as 4 or 4,7 or 4-11.")]
LayersSpatial = Annotated[str | None, option(DETAIL, "Decoder layers, as 4-11.")]
LayersTemporal = Annotated[str | None, option(DETAIL, "Decoder layers, as 4-11.")]
LayersCross = Annotated[str | None, option(DETAIL, "Decoder layers, as 4-11.")]
Sampler = Annotated[str | None, option(DETAIL, "ddim, or ddpm: fresh noise at every step.")]
StartLevel = Annotated[int | None, option(DETAIL, "Noise level of the source to start from.")]
SourceFrame = Annotated[str | None, option(DETAIL, "What the source is told to begin with: source, edited.")]
Thresholds = Annotated[str | None, option(DETAIL, "round or floor: how a share becomes a number of steps.")]
Vae = Annotated[str | None, option(DETAIL, "mode or sample: what is taken of the VAE's posterior.")]
SourceBranch = Annotated[
    str | None,
    option(DETAIL, "injecting, always, or recorded, so never: when the source is denoised."),
]
FrameRate = Annotated[str | None, option(DETAIL, "resample or keep: how frames meet the backbone's rate.")]
Start = Annotated[float | None, option(CLIP, "Seconds to leave out at the beginning.")]
Frames = Annotated[
    int | None, option(CLIP, "Number of frames. Default: one window of a diffusion backbone, all by flow.")
]
Whole = Annotated[bool | None, option(CLIP, "Edit the whole clip, however long, in windows.", "--whole")]
Window = Annotated[int | None, option(CLIP, "Frames edited at once. Default: the backbone's own number.")]
Overlap = Annotated[
    int | None, option(CLIP, "Frames that two windows share. Default: a quarter of a window.")
]
Duration = Annotated[float | None, option(CLIP, "Seconds, instead of --frames.")]
Fps = Annotated[str | None, option(CLIP, "Frames per second, as 8 or 30000/1001.")]
SizeOption = Annotated[str | None, option(CLIP, "Size that the backbone works at, as 512x320.", "--size")]
FitOption = Annotated[
    str | None, option(CLIP, "crop, letterbox or stretch: how frames are laid into that size.", "--fit")
]
Restore = Annotated[bool | None, option(CLIP, "Put the result back at the source's size.")]
Device = Annotated[str | None, option(MACHINE, "cuda, cuda:1, mps or cpu. Default: the best there is.")]
Dtype = Annotated[str | None, option(MACHINE, "float32, float16 or bfloat16. Default: by the device.")]
Overwrite = Annotated[bool | None, option(EDIT, "Replace outputs that are there already.")]
Quiet = Annotated[bool, option(TALK, "Say nothing but errors.", "--quiet", "-q")]
Verbose = Annotated[bool, option(TALK, "Say more, and show tracebacks.", "--verbose", "-v")]
Json = Annotated[bool, option(TALK, "Print one JSON object.", "--json")]

Seeds = Annotated[int, option(CLIP, "Clips of each class.")]
Edits = Annotated[str | None, option(CLIP, "Classes of edits, with commas. Default: all.")]
Motions = Annotated[str | None, option(CLIP, "Classes of motions, with commas. Default: all.")]
Clips = Annotated[Path | None, option(CLIP, "A folder of real clips, edited by filters.")]
Side = Annotated[int | None, option(CLIP, "Pixels. Default: what suits the models, else 128.")]
Length = Annotated[int | None, option(CLIP, "Frames. Default: what suits the models, else 16.", "--frames")]
JsonFile = Annotated[Path | None, option(TALK, "Write the rows as JSON.", "--json")]

Folder = Annotated[Path, typer.Argument(help="A folder of results: METHOD/ENTRY.mp4.", show_default=False)]
JudgeModels = Annotated[
    list[str] | None, option(MACHINE, "Weights of a judge, as clip=folder; may be repeated.", "--judge")
]

Prompt = Annotated[str | None, option(EDIT, "What the edited clip shows.", "--prompt", "-p")]
NegativePrompt = Annotated[str | None, option(EDIT, "What it must not show. Default: the paper's.")]
VideoFile = Annotated[Path | None, option(EDIT, "mp4, gif, webp, or a folder for PNGs.", "--output", "-o")]
ImageFile = Annotated[Path | None, option(EDIT, "An image, as out.png.", "--output", "-o")]
TensorFile = Annotated[Path | None, option(EDIT, "A .safetensors file.", "--output", "-o")]
Sheet = Annotated[Path | None, option(EDIT, "Also write a contact sheet of source and edit.")]
Trajectory = Annotated[Path | None, option(EDIT, "An inversion that `anyv2v invert` kept.")]
Cache = Annotated[
    bool | None, option(MACHINE, "Take the clip's inversion from the cache, or keep it there. Default: yes.")
]
SaveFrame = Annotated[Path | None, option(STILL, "Also write the edited first frame.")]
DryRun = Annotated[bool, option(TALK, "Print the plan and stop.", "--dry-run")]

Fresh = Annotated[
    bool | None, option(STILL, "Edit the first frame anew, even if the same edit was kept.", "--fresh")
]

FIRST_STAGE = {
    "first_frame": FirstFrame,
    "editor": Editor,
    "command": Command,
    "instruction": Instruction,
    "reference": Reference,
    "reference_mask": ReferenceMask,
    "mask": Mask,
    "mask_point": MaskPoint,
    "mask_box": MaskBox,
    "feather": Feather,
    "editor_model": EditorModel,
    "editor_settings": EditorSettings,
    "candidates": Candidates,
    "pick": Pick,
    "fresh": Fresh,
}
WORDS = {"prompt": Prompt, "negative_prompt": NegativePrompt}
SPAN = {
    "start": Start,
    "frames": Frames,
    "duration": Duration,
    "fps": Fps,
    "window": Window,
    "size": SizeOption,
    "fit": FitOption,
}
MODEL = {"backbone": Backbone, "model": Model, "recipe": Recipe, "compile": Compile}
INVERSION = {
    "steps": Steps,
    "inversion_steps": InversionSteps,
    "inversion": Inversion,
    "inversion_iterations": InversionIterations,
    "inversion_prompt": InversionPrompt,
    "seed": Seed,
    "vae": Vae,
    "sampler": Sampler,
    "start_level": StartLevel,
    "frame_rate": FrameRate,
}
SAMPLING = {
    "guidance": Guidance,
    "image_guidance": ImageGuidance,
    "guidance_rescale": GuidanceRescale,
    "guidance_until": GuidanceUntil,
    "tau_conv": TauConv,
    "tau_spatial": TauSpatial,
    "tau_temporal": TauTemporal,
    "tau_cross": TauCross,
    "skip": Skip,
    "noise_share": NoiseShare,
    "frame_init": FrameInit,
    "layers_conv": LayersConv,
    "layers_spatial": LayersSpatial,
    "layers_temporal": LayersTemporal,
    "layers_cross": LayersCross,
    "source_frame": SourceFrame,
    "thresholds": Thresholds,
    "source_branch": SourceBranch,
    "deep_every": DeepEvery,
}
COMPUTER = {"device": Device, "dtype": Dtype, "low_memory": LowMemory}
TALKING = {"job": JobFile, "quiet": Quiet, "verbose": Verbose, "as_json": Json}

C = TypeVar("C", bound=Callable[..., Any])


def taking(**flags: Any) -> Callable[[C], C]:
    """Give a command these options by name, in place of its catch-all; what is not said is None or False."""

    def give(command: C) -> C:
        own = [p for p in signature(command, eval_str=True).parameters.values() if p.kind != p.VAR_KEYWORD]
        taken = [
            Parameter(
                name,
                Parameter.KEYWORD_ONLY,
                default=False if get_args(flag)[0] is bool else None,
                annotation=flag,
            )
            for name, flag in flags.items()
        ]
        command.__signature__ = Signature([*own, *taken])  # type: ignore[attr-defined]
        return command

    return give
