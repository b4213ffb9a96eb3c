"""The command line: one command is one function."""

from __future__ import annotations

import json
import signal
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from fractions import Fraction
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from typer.exceptions import TyperException

from anyv2v.errors import AnyV2VError, OptionError

if TYPE_CHECKING:
    from rich.table import Table

    from anyv2v.evaluation.methods import Method, Result
    from anyv2v.evaluation.propagation import Case, Score
    from anyv2v.progress import OnStep

app = typer.Typer(
    help="Edit a video by editing its first frame.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
screen = Console(stderr=True, highlight=False)

CLIP = "Clip"
EDIT = "Edit"
STILL = "First frame"
METHOD = "Method (the paper's settings unless told otherwise)"
DETAIL = "Details of the method: see docs/parity.md"
MACHINE = "Machine"
TALK = "Output to the terminal"


def _option(panel: str, text: str, *names: str) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel, show_default=False)


Source = Annotated[
    Path | None, typer.Argument(help="The source video, or a folder of images.", show_default=False)
]
JobFile = Annotated[
    Path | None,
    _option(TALK, "A YAML file of these options, or a sidecar; options given here win.", "--job"),
]
FirstFrame = Annotated[
    Path | None, _option(STILL, "The edited first frame, if it was made elsewhere.", "--first-frame", "-f")
]
Editor = Annotated[str | None, _option(STILL, "What edits the first frame: see `anyv2v editors`.")]
Command = Annotated[
    str | None,
    _option(STILL, "A program as editor, as 'prog {input} {output}'; also {instruction} {reference} {mask}."),
]
Instruction = Annotated[str | None, _option(STILL, "What to do to the first frame.", "--instruction", "-i")]
Reference = Annotated[
    list[Path] | None, _option(STILL, "A picture of the style, subject or face; may be repeated.")
]
ReferenceMask = Annotated[Path | None, _option(STILL, "The subject in it; else where it is opaque.")]
Mask = Annotated[Path | None, _option(STILL, "Where the frame may change: white, or opaque.")]
MaskPoint = Annotated[
    list[str] | None, _option(STILL, "x,y on what may change, cut out by SAM 2; may be repeated.")
]
MaskBox = Annotated[str | None, _option(STILL, "left,top,right,bottom around it, likewise.")]
Feather = Annotated[float | None, _option(STILL, "Pixels over which the edit comes in at the mask's edge.")]
EditorModel = Annotated[
    list[str] | None,
    _option(STILL, "A folder or repository of its weights, or role=folder; may be repeated."),
]
EditorSettings = Annotated[
    list[str] | None, _option(STILL, "One of its own settings, as steps=30; may be repeated.", "--set")
]
Candidates = Annotated[int | None, _option(STILL, "Make so many first frames, and rank them on a sheet.")]
Pick = Annotated[
    str | None, _option(STILL, "best, the number of a candidate, or ask: stop with the sheet. Default: best.")
]
LowMemory = Annotated[
    bool | None, _option(MACHINE, "Keep on the device only the part of a model that works.", "--low-memory")
]
Backbone = Annotated[
    str | None, _option(METHOD, "What carries the edit: see `anyv2v backbones`. Default: auto.")
]
Model = Annotated[str | None, _option(METHOD, "A checkpoint's folder, or a Hugging Face repository.")]
Recipe = Annotated[str | None, _option(METHOD, "default, or paper: the reference's exact schedule.")]
Steps = Annotated[int | None, _option(METHOD, "Sampling steps.")]
InversionSteps = Annotated[int | None, _option(METHOD, "DDIM inversion steps.")]
InversionPrompt = Annotated[str | None, _option(METHOD, "Text of the source; empty in the paper.")]
Guidance = Annotated[float | None, _option(METHOD, "Classifier-free guidance scale; 1 turns it off.")]
ImageGuidance = Annotated[float | None, _option(METHOD, "The same for the first frame, in ConsistI2V.")]
GuidanceRescale = Annotated[
    float | None, _option(DETAIL, "How far guidance is kept from raising the contrast, 0 to 1.")
]
TauConv = Annotated[float | None, _option(METHOD, "Share of steps that inject the convolution feature.")]
TauSpatial = Annotated[float | None, _option(METHOD, "Share of steps that inject spatial attention.")]
TauTemporal = Annotated[float | None, _option(METHOD, "Share of steps that inject temporal attention.")]
TauCross = Annotated[float | None, _option(METHOD, "Share of steps that inject attention to the text.")]
Skip = Annotated[int | None, _option(METHOD, "Steps left out at the noisy end.")]
FrameInit = Annotated[
    str | None, _option(DETAIL, "ConsistI2V starts with the edited first frame's layout: none, gaussian.")
]
NoiseShare = Annotated[float | None, _option(METHOD, "Share of random noise mixed into the start, 0 to 1.")]
Seed = Annotated[int | None, _option(METHOD, "Seeds everything random.")]
LayersConv = Annotated[str | None, _option(DETAIL, "Decoder layers, as 4 or 4,7 or 4-11.")]
LayersSpatial = Annotated[str | None, _option(DETAIL, "Decoder layers, as 4-11.")]
LayersTemporal = Annotated[str | None, _option(DETAIL, "Decoder layers, as 4-11.")]
LayersCross = Annotated[str | None, _option(DETAIL, "Decoder layers, as 4-11.")]
Sampler = Annotated[str | None, _option(DETAIL, "ddim, or ddpm: fresh noise at every step.")]
StartLevel = Annotated[int | None, _option(DETAIL, "Noise level of the source to start from.")]
SourceFrame = Annotated[str | None, _option(DETAIL, "What the source is told to begin with: source, edited.")]
Thresholds = Annotated[str | None, _option(DETAIL, "round or floor: how a share becomes a number of steps.")]
Vae = Annotated[str | None, _option(DETAIL, "mode or sample: what is taken of the VAE's posterior.")]
SourceBranch = Annotated[str | None, _option(DETAIL, "injecting or always: when the source is denoised.")]
FrameRate = Annotated[str | None, _option(DETAIL, "resample or keep: how frames meet the backbone's rate.")]
Start = Annotated[float | None, _option(CLIP, "Seconds to leave out at the beginning.")]
Frames = Annotated[int | None, _option(CLIP, "Number of frames.")]
Duration = Annotated[float | None, _option(CLIP, "Seconds, instead of --frames.")]
Fps = Annotated[str | None, _option(CLIP, "Frames per second, as 8 or 30000/1001.")]
SizeOption = Annotated[str | None, _option(CLIP, "Size that the backbone works at, as 512x320.", "--size")]
FitOption = Annotated[
    str | None, _option(CLIP, "crop, letterbox or stretch: how frames are laid into that size.", "--fit")
]
Restore = Annotated[bool | None, _option(CLIP, "Put the result back at the source's size.")]
Device = Annotated[str | None, _option(MACHINE, "cuda, cuda:1, mps or cpu. Default: the best there is.")]
Dtype = Annotated[str | None, _option(MACHINE, "float32, float16 or bfloat16. Default: by the device.")]
Overwrite = Annotated[bool | None, _option(EDIT, "Replace outputs that are there already.")]
Quiet = Annotated[bool, _option(TALK, "Say nothing but errors.", "--quiet", "-q")]
Verbose = Annotated[bool, _option(TALK, "Say more, and show tracebacks.", "--verbose", "-v")]
Json = Annotated[bool, _option(TALK, "Print one JSON object.", "--json")]


@app.command()
def edit(
    clip: Source = None,
    first_frame: FirstFrame = None,
    editor: Editor = None,
    command: Command = None,
    instruction: Instruction = None,
    reference: Reference = None,
    reference_mask: ReferenceMask = None,
    mask: Mask = None,
    mask_point: MaskPoint = None,
    mask_box: MaskBox = None,
    feather: Feather = None,
    editor_model: EditorModel = None,
    editor_settings: EditorSettings = None,
    candidates: Candidates = None,
    pick: Pick = None,
    save_frame: Annotated[Path | None, _option(STILL, "Also write the edited first frame.")] = None,
    output: Annotated[
        Path | None, _option(EDIT, "mp4, gif, webp, or a folder for PNGs.", "--output", "-o")
    ] = None,
    prompt: Annotated[str | None, _option(EDIT, "What the edited clip shows.", "--prompt", "-p")] = None,
    negative_prompt: Annotated[
        str | None, _option(EDIT, "What it must not show. Default: the paper's.")
    ] = None,
    sheet: Annotated[Path | None, _option(EDIT, "Also write a contact sheet of source and edit.")] = None,
    trajectory: Annotated[Path | None, _option(EDIT, "An inversion that `anyv2v invert` kept.")] = None,
    overwrite: Overwrite = None,
    start: Start = None,
    frames: Frames = None,
    duration: Duration = None,
    fps: Fps = None,
    size: SizeOption = None,
    fit: FitOption = None,
    restore: Restore = None,
    backbone: Backbone = None,
    model: Model = None,
    recipe: Recipe = None,
    steps: Steps = None,
    inversion_steps: InversionSteps = None,
    inversion_prompt: InversionPrompt = None,
    guidance: Guidance = None,
    image_guidance: ImageGuidance = None,
    guidance_rescale: GuidanceRescale = None,
    tau_conv: TauConv = None,
    tau_spatial: TauSpatial = None,
    tau_temporal: TauTemporal = None,
    tau_cross: TauCross = None,
    skip: Skip = None,
    noise_share: NoiseShare = None,
    frame_init: FrameInit = None,
    seed: Seed = None,
    layers_conv: LayersConv = None,
    layers_spatial: LayersSpatial = None,
    layers_temporal: LayersTemporal = None,
    layers_cross: LayersCross = None,
    sampler: Sampler = None,
    start_level: StartLevel = None,
    source_frame: SourceFrame = None,
    thresholds: Thresholds = None,
    vae: Vae = None,
    source_branch: SourceBranch = None,
    frame_rate: FrameRate = None,
    device: Device = None,
    dtype: Dtype = None,
    low_memory: LowMemory = None,
    job: JobFile = None,
    dry_run: Annotated[bool, _option(TALK, "Print the plan and stop.", "--dry-run")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Edit a clip's first frame, or take an edited one, and carry that through the clip."""
    settings = _settings(locals())
    from anyv2v.job import EditJob, read_settings

    task = read_settings(EditJob, settings)
    if dry_run:
        from anyv2v.dry_run import dry_run as foresee

        _show(asdict(foresee(task)), as_json)
        return
    from anyv2v.run import run_edit

    with _progress(quiet or as_json) as on_step:
        outcome = run_edit(task, on_step)
    _show_outcome(asdict(outcome), quiet, verbose, as_json)


@app.command("edit-frame")
def edit_frame(
    clip: Source = None,
    output: Annotated[Path | None, _option(EDIT, "An image, as edited.png.", "--output", "-o")] = None,
    editor: Editor = None,
    command: Command = None,
    instruction: Instruction = None,
    reference: Reference = None,
    reference_mask: ReferenceMask = None,
    first_frame: FirstFrame = None,
    mask: Mask = None,
    mask_point: MaskPoint = None,
    mask_box: MaskBox = None,
    feather: Feather = None,
    editor_model: EditorModel = None,
    editor_settings: EditorSettings = None,
    candidates: Candidates = None,
    pick: Pick = None,
    seed: Seed = None,
    start: Start = None,
    overwrite: Overwrite = None,
    device: Device = None,
    dtype: Dtype = None,
    low_memory: LowMemory = None,
    job: JobFile = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Edit the first frame of a clip, and write that frame alone: the first of the two stages of `edit`."""
    settings = _settings(locals())
    from anyv2v.job import FrameJob, read_settings
    from anyv2v.run import run_frame

    with _progress(quiet or as_json) as on_step:
        outcome = run_frame(read_settings(FrameJob, settings), on_step)
    _show_outcome(asdict(outcome), quiet, verbose, as_json)


@app.command()
def editors(
    name: Annotated[str | None, typer.Argument(help="One of them, to be told all about.")] = None,
    as_json: Json = False,
) -> None:
    """List what can edit a first frame: what each needs, its weights and licence, whether it is at hand."""
    from anyv2v.editors import editor_named, list_editors, settings_of

    known = [editor_named(name)] if name else list_editors().values()
    rows = [
        {
            "name": entry.name,
            "task": entry.task,
            "summary": entry.summary,
            "needs": list(entry.needs),
            "takes": list(entry.takes),
            "at_hand": entry.at_hand,
            "gigabytes": sum(weights.gigabytes for weights in entry.weights),
            "licences": list(dict.fromkeys(weights.terms for weights in entry.weights)),
            "get": entry.download,
        }
        for entry in known
    ]
    if as_json:
        _print_json(rows)
    elif name:
        _show(rows[0] | {"settings": settings_of(editor_named(name))}, as_json)
    else:
        print("\n".join(_editor_line(row) for row in rows))
        screen.print("all about one, and the command that gets its weights: anyv2v editors NAME")


def _editor_line(row: Mapping[str, Any]) -> str:
    """What `editors` says of one among others."""
    needs = " ".join(f"--{what.replace(' ', '-')}" for what in row["needs"])
    to_get = f"{row['gigabytes']:.3g} GB to get" if row["gigabytes"] else "and --editor-model"
    state = "ready" if row["at_hand"] else to_get
    about = "; ".join([f"needs {needs}" if needs else "needs nothing", state, *row["licences"]])
    return f"{row['name']:<22}{row['task']:<10}{row['summary']}\n{'':<32}{about}"


@app.command()
def invert(
    clip: Source = None,
    output: Annotated[Path | None, _option(EDIT, "A .safetensors file.", "--output", "-o")] = None,
    overwrite: Overwrite = None,
    start: Start = None,
    frames: Frames = None,
    duration: Duration = None,
    fps: Fps = None,
    size: SizeOption = None,
    fit: FitOption = None,
    backbone: Backbone = None,
    model: Model = None,
    recipe: Recipe = None,
    steps: Steps = None,
    inversion_steps: InversionSteps = None,
    inversion_prompt: InversionPrompt = None,
    seed: Seed = None,
    vae: Vae = None,
    sampler: Sampler = None,
    start_level: StartLevel = None,
    frame_rate: FrameRate = None,
    device: Device = None,
    dtype: Dtype = None,
    low_memory: LowMemory = None,
    job: JobFile = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Keep a clip's inversion, so that later edits of it skip that work: `anyv2v edit --trajectory`."""
    settings = _settings(locals())
    from anyv2v.job import InvertJob, read_settings
    from anyv2v.run import run_invert

    with _progress(quiet or as_json) as on_step:
        outcome = run_invert(read_settings(InvertJob, settings), on_step)
    _show_outcome(asdict(outcome), quiet, verbose, as_json)


@app.command()
def backbones(as_json: Json = False) -> None:
    """List what can carry an edit, and whether its weights are at hand."""
    from anyv2v.backbones import at_hand, list_backbones

    rows = [
        {
            "name": entry.name,
            "summary": entry.summary,
            "at_hand": at_hand(entry),
            "gigabytes": entry.weights.gigabytes if entry.weights else 0.0,
            "licence": entry.weights.terms if entry.weights else None,
            "download": entry.weights.download if entry.weights else None,
        }
        for entry in list_backbones().values()
    ]
    if as_json:
        _print_json(rows)
        return
    for row in rows:
        state = "ready" if row["at_hand"] else f"{row['gigabytes']:g} GB to get: {row['download']}"
        print(f"{row['name']:<12} {row['summary']}\n{'':<12} {state}")


@app.command()
def convert(
    folder: Annotated[Path, typer.Argument(help="A file or folder of .pt or .bin weights.")],
    as_json: Json = False,
) -> None:
    """Write pickled weights once more as safetensors, which load faster and cannot run code."""
    from anyv2v.weights import convert as convert_folder

    written = convert_folder(folder)
    if as_json:
        _print_json({"written": written})
        return
    for path in written:
        print(path)


@app.command()
def frame(
    clip: Annotated[Path, typer.Argument(help="A video.")],
    output: Annotated[Path, _option(EDIT, "An image, as first.png.", "--output", "-o")],
    start: Start = 0.0,
    overwrite: Overwrite = False,
) -> None:
    """Write the first frame of a clip, or of what follows --start: the picture to edit."""
    from anyv2v.drafts import check_file
    from anyv2v.video import Clip, write_image

    check_file(output, overwrite=bool(overwrite))
    print(write_image(output, next(iter(Clip(clip, start=start or 0.0))), overwrite=bool(overwrite)))


@app.command()
def info(clip: Annotated[Path, typer.Argument(help="A video.")], as_json: Json = False) -> None:
    """Say what a clip is: size, length, frame rate, codecs."""
    from anyv2v.video import probe

    _show(asdict(probe(clip)), as_json)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Look at this machine: device, memory, versions, weights at hand, and what is known to break."""
    from anyv2v.doctor import examine

    _show(examine(), as_json)


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Edit a video by editing its first frame."""
    if version:
        from importlib.metadata import version as version_of

        print(version_of("anyv2v"))
        raise typer.Exit


bench = typer.Typer(help="Measure, with truth to measure against.", no_args_is_help=True)
app.add_typer(bench, name="bench")


Seeds = Annotated[int, _option(CLIP, "Clips of each class.")]
Edits = Annotated[str | None, _option(CLIP, "Classes of edits, with commas. Default: all.")]
Motions = Annotated[str | None, _option(CLIP, "Classes of motions, with commas. Default: all.")]
Clips = Annotated[Path | None, _option(CLIP, "A folder of real clips, edited by filters.")]
Side = Annotated[int | None, _option(CLIP, "Pixels. Default: what suits the models, else 128.")]
Length = Annotated[int | None, _option(CLIP, "Frames. Default: what suits the models, else 16.", "--frames")]
JsonFile = Annotated[Path | None, _option(TALK, "Write the rows as JSON.", "--json")]


@bench.command()
def propagation(
    backbones: Annotated[str, _option(METHOD, "Names, with commas.")] = "flow",
    model: Model = None,
    ablations: Annotated[bool, _option(METHOD, "Also without each part of the method.")] = False,
    seeds: Seeds = 1,
    edits: Edits = None,
    motions: Motions = None,
    clips: Clips = None,
    side: Side = None,
    frames: Length = None,
    json_file: JsonFile = None,
    html_file: Annotated[Path | None, _option(TALK, "Write a page with pictures.", "--html")] = None,
    overwrite: Overwrite = False,
    device: Device = None,
    quiet: Quiet = False,
) -> None:
    """Carry edits whose true result is known, and score how near each method comes."""
    _check_bench(json_file, html_file, overwrite=overwrite)
    from anyv2v.evaluation.methods import ablated, methods
    from anyv2v.evaluation.report import Gallery, tables, write_reports

    classes = _classes(edits, motions)
    variations = ablated if ablations else None
    rows = methods(backbones.split(","), model, variations, device=device or "auto")
    gallery, scores = Gallery(), []
    for case, score, result in _scored(rows, seeds, *classes, clips, side, frames, quiet):
        gallery.see(case, score, result)
        scores.append(score)
    write_reports(scores, gallery, json_file, html_file, overwrite=bool(overwrite))
    for table in () if quiet else tables(scores):
        _print_table(table)


@bench.command()
def sweep(
    backbone: Annotated[str, _option(METHOD, "What carries the edit.")] = "mini",
    model: Model = None,
    vary: Annotated[
        list[str] | None,
        _option(METHOD, "An option and its values, as tau_temporal=0,0.5,1. Default: each tau."),
    ] = None,
    seeds: Seeds = 1,
    edits: Edits = None,
    motions: Motions = None,
    clips: Clips = None,
    side: Side = None,
    frames: Length = None,
    plot: Annotated[Path | None, _option(TALK, "Draw the curves, as a PNG.")] = None,
    json_file: JsonFile = None,
    overwrite: Overwrite = False,
    device: Device = None,
    quiet: Quiet = False,
) -> None:
    """Vary one option after the other, and score each value: the paper's Figures 7 and 8, with truth.

    `--edits nothing` reconstructs the source, as for inversion_steps=10,50,500.
    """
    _check_bench(plot, json_file, overwrite=overwrite)
    from anyv2v.evaluation.methods import methods
    from anyv2v.evaluation.report import Gallery, tables, write_reports
    from anyv2v.evaluation.sweep import knobs_of, turned, write_plot

    classes, knobs = _classes(edits, motions), knobs_of(vary or [])
    rows = methods([backbone], model, partial(turned, knobs), device=device or "auto")
    scores = [score for _, score, _ in _scored(rows, seeds, *classes, clips, side, frames, quiet)]
    write_reports(scores, Gallery(), json_file, None, overwrite=bool(overwrite))
    if plot:
        write_plot(plot, scores, knobs, overwrite=bool(overwrite))
    if not quiet:
        _print_table(next(tables(scores)))


evaluation = typer.Typer(help="Compare methods on a dataset: the paper's tables.", no_args_is_help=True)
app.add_typer(evaluation, name="eval")

Folder = Annotated[Path, typer.Argument(help="A folder of results: METHOD/ENTRY.mp4.", show_default=False)]
JudgeModels = Annotated[
    list[str] | None, _option(MACHINE, "Weights of a judge, as clip=folder; may be repeated.", "--judge")
]


@evaluation.command("run")
def eval_run(
    manifest: Annotated[Path, typer.Argument(help="JSON Lines or YAML: an edit each.", show_default=False)],
    output: Annotated[Path, _option(EDIT, "A folder of results.", "--output", "-o")],
    backbones: Annotated[str, _option(METHOD, "Names, with commas.")] = "flow",
    variants: Annotated[
        list[str] | None,
        _option(METHOD, "ablations, a YAML file, or name:option=value,...; may be repeated."),
    ] = None,
    model: Model = None,
    recipe: Recipe = None,
    steps: Steps = None,
    inversion_steps: InversionSteps = None,
    device: Device = None,
    dtype: Dtype = None,
    low_memory: LowMemory = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Edit every entry by every method. What is done already stays; what fails does not stop the others."""
    names = ("recipe", "steps", "inversion_steps", "device", "dtype", "low_memory")
    settings = {name: value for name, value in locals().items() if name in names and value is not None}
    from anyv2v.evaluation.cells import plans, run_cells
    from anyv2v.evaluation.manifest import read_manifest

    entries, methods = read_manifest(manifest), plans(backbones.split(","), variants or [], model, **settings)
    with _progress(quiet or as_json) as on_step:
        cells = list(run_cells(entries, methods, output, on_step=on_step))
    if as_json:
        _print_json([asdict(cell) for cell in cells])
    elif not quiet:
        states = [cell.state for cell in cells]
        print(", ".join(f"{states.count(state)} {state}" for state in ("made", "kept", "failed")))
    failed = [cell for cell in cells if cell.state == "failed"]
    for cell in failed:
        print(f"anyv2v: {cell.method}, {cell.entry}: {' '.join(cell.error.split())}", file=sys.stderr)
    raise typer.Exit(1 if failed else 0)


@evaluation.command("score")
def eval_score(
    folder: Folder,
    metrics: Annotated[str | None, _option(METHOD, "Names, with commas. Default: all.")] = None,
    judge: JudgeModels = None,
    device: Device = None,
    quiet: Quiet = False,
) -> None:
    """Score every clip in a folder of results, by whatever method; clips that were scored before are kept."""
    _check_bench(overwrite=True)
    from rich.progress import track

    from anyv2v.evaluation.judges import Judges
    from anyv2v.evaluation.results import Results
    from anyv2v.evaluation.scoring import read_scores, score, write_scores

    results, models = Results(folder), dict(text.split("=", 1) for text in judge or [])
    judges = Judges(device or "auto", models)
    found = score(results, judges, metrics.split(",") if metrics else None, read_scores(folder))
    total = len(results.methods) * len(results.entries)
    silent = quiet or not screen.is_terminal
    print(write_scores(folder, list(track(found, "score", total, console=screen, disable=silent))))


@evaluation.command("table")
def eval_table(
    folder: Folder,
    paper: Annotated[int | None, _option(METHOD, "As the paper's table 1, 2 or 3.")] = None,
    metrics: Annotated[str | None, _option(METHOD, "Names, with commas. Default: all.")] = None,
    tasks: Annotated[str | None, _option(METHOD, "Tasks, with commas. Default: all.")] = None,
    form: Annotated[
        str | None, _option(TALK, "markdown, latex or csv; else for the terminal.", "--format")
    ] = None,
) -> None:
    """Methods by metrics, with intervals and tests: best in bold, second underlined."""
    _check_bench(overwrite=True)
    from anyv2v.evaluation.tables import as_rich, rendered
    from anyv2v.evaluation.views import tables_of

    for table in tables_of(folder, paper, metrics and metrics.split(","), tasks and tasks.split(",")):
        if form:
            print(rendered(table, form))
        else:
            _print_table(as_rich(table))


@evaluation.command("report")
def eval_report(
    folder: Folder,
    output: Annotated[
        Path | None, _option(EDIT, "A page of HTML. Default: report.html in it.", "--output", "-o")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write one page: tables, plots, and the clips of every entry beside each other, in step."""
    path = output or folder / "report.html"
    _check_bench(path, overwrite=overwrite)
    from anyv2v.evaluation.page import write_page
    from anyv2v.evaluation.results import Results
    from anyv2v.evaluation.views import tables_of

    write_page(path, Results(folder), tables_of(folder), overwrite=bool(overwrite))
    print(path)


def _check_bench(*files: Path | None, overwrite: bool | None) -> None:
    """See before the work begins that scores can be made and written."""
    if find_spec("skimage") is None or find_spec("matplotlib") is None:
        raise OptionError("scores need more libraries: pip install 'anyv2v[eval]'")
    from anyv2v.drafts import check_file

    for path in filter(None, files):
        check_file(path, overwrite=bool(overwrite))


def _classes(edits: str | None, motions: str | None) -> tuple[Sequence[str], Sequence[str]]:
    from anyv2v.evaluation.scenes import EDITS, MOTIONS

    return _among(edits, EDITS, "nothing"), _among(motions, MOTIONS)


def _scored(
    rows: Sequence[Method],
    seeds: int,
    edits: Sequence[str],
    motions: Sequence[str],
    clips: Path | None,
    side: int | None,
    frames: int | None,
    quiet: bool,
) -> Iterator[tuple[Case, Score, Result]]:
    """Put every method to every case, under a bar."""
    from rich.progress import track

    from anyv2v.evaluation.methods import clip_for
    from anyv2v.evaluation.propagation import real_cases, rendered_cases, run

    suits = clip_for(rows)
    shape = {"side": side or suits[0], "frames": frames or suits[1]}
    cases = real_cases(clips, **shape) if clips else rendered_cases(seeds, edits, motions, **shape)
    total = None if clips else len(rows) * seeds * len(edits) * len(motions)
    silent = quiet or not screen.is_terminal
    yield from track(run(rows, cases), "bench", total, console=screen, disable=silent)


def _print_table(table: Table) -> None:
    Console(highlight=False, width=None if sys.stdout.isatty() else 160).print(table)


def _among(names: str | None, known: Sequence[str], *special: str) -> Sequence[str]:
    """Those asked for of what is known; all of it, but for what is special, if none was."""
    chosen = names.split(",") if names else known
    for name in chosen:
        if name not in (*known, *special):
            raise OptionError(f"no class {name!r}; there are {', '.join(known)}")
    return chosen


def main() -> None:
    """Run the command line: exit code 2 for the user's mistakes, 1 for ours, each in one line."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code = app(standalone_mode=False)
    except AnyV2VError as error:
        _fail(error, error.exit_code, str(error))
    except TyperException as error:
        _fail(error, 2, error.format_message())
    except KeyboardInterrupt as error:
        _fail(error, INTERRUPTED, "interrupted; nothing is left half-written")
    except Exception as error:  # the last line of defence: a person gets a line, not a traceback
        _fail(error, 1, f"{type(error).__name__}: {error} (a fault of ours; --verbose shows where)")
    if code == INTERRUPTED:  # typer turns an interrupt into a silent exit
        _fail(KeyboardInterrupt(), code, "interrupted; nothing is left half-written")
    sys.exit(code)


INTERRUPTED = 130


def _fail(error: BaseException, code: int, message: str) -> None:
    # The error may lie in the options themselves, so these two are looked for by hand.
    if "--verbose" in sys.argv or "-v" in sys.argv:
        traceback.print_exception(error)
    if "--json" in sys.argv:
        _print_json({"error": message, "kind": type(error).__name__})
    if message:  # there is none where help was shown
        print("anyv2v: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(code)


NOT_SETTINGS = {"job", "dry_run", "quiet", "verbose", "as_json"}


def _settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """The job file's settings under those that were given on the command line."""
    settings = _read_job(given["job"]) if given["job"] else {}
    settings |= {key: value for key, value in given.items() if value is not None and key not in NOT_SETTINGS}
    for key, name in {"clip": "CLIP", "output": "--output"}.items():
        if key in given and key not in settings:
            raise OptionError(f"{name} is missing")
    return settings


def _read_job(path: Path) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise OptionError(f"{path} is no job file: {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict):
        raise OptionError(f"{path} is no job file: it must hold options as keys")
    settings = {str(key).replace("-", "_"): value for key, value in content.items()}
    return _of_sidecar(settings) if isinstance(settings.get("job"), dict) else settings


def _of_sidecar(sidecar: dict[str, Any]) -> dict[str, Any]:
    """The settings that a sidecar's output was made with."""
    job = {key: value for key, value in sidecar["job"].items() if key not in ("options", "overwrite")}
    options: dict[str, Any] = sidecar["job"]["options"]
    given = {key: value for key, value in job.items() if value is not None}
    return given | options | {"backbone": sidecar["backbone"]}


@contextmanager
def _progress(silent: bool) -> Iterator[OnStep]:
    """A bar for each stage with the step and the time left."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from anyv2v.progress import Step

    columns = TextColumn("{task.description:<10}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=screen, disable=silent or not screen.is_terminal) as bars:
        tasks: dict[str, Any] = {}

        def on_step(step: Step) -> None:
            if step.stage not in tasks:
                tasks[step.stage] = bars.add_task(step.stage)
            bars.update(tasks[step.stage], completed=step.done, total=step.total)

        yield on_step


def _show_outcome(outcome: dict[str, Any], quiet: bool, verbose: bool, as_json: bool) -> None:
    if as_json:
        _print_json(outcome)
    if as_json or quiet:
        return
    for notice in outcome["notices"]:
        screen.print(f"note: {notice}", soft_wrap=True)
    if verbose:
        for stage, seconds in outcome["seconds"].items():
            screen.print(f"{stage}: {seconds:.1f} s")
    for path in filter(None, (outcome["output"], outcome["sheet"], outcome["candidates"])):
        print(path)


def _print_json(content: Any) -> None:
    print(json.dumps(content, indent=2, default=lambda x: float(x) if isinstance(x, Fraction) else str(x)))


def _show(facts: Mapping[str, Any], as_json: bool) -> None:
    """Facts by name, for a machine or for a person."""
    if as_json:
        _print_json(facts)
        return
    for name, value in facts.items():
        print(f"{name.removesuffix('_bytes').replace('_', ' '):<22} {_readable(name, value)}")


def _readable(name: str, value: Any) -> str:
    if isinstance(value, Mapping):
        unit = "_bytes" if name == "memory" else ""
        return ", ".join(f"{key} {_readable(unit, item)}" for key, item in value.items()) or "-"
    if isinstance(value, list):
        return "; ".join(value) or "none"
    if name.endswith("_bytes"):
        return f"{value / 1e9:.2f} GB"
    return "-" if value is None else str(value)
