"""The commands that measure: on rendered truth, on datasets, by people, and looks inside."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import anyv2v.flags as flags
from anyv2v.errors import OptionError
from anyv2v.terminal import among, do, print_json, print_table, progress, screen

if TYPE_CHECKING:
    from anyv2v.evaluation.methods import Method, Result
    from anyv2v.evaluation.propagation import Case
    from anyv2v.evaluation.propagation import Score as TruthScore
    from anyv2v.evaluation.scoring import Score

bench = typer.Typer(help="Measure, with truth to measure against.", no_args_is_help=True)


@bench.command()
def propagation(
    backbones: Annotated[str, flags.option(flags.METHOD, "Names, with commas.")] = "flow",
    model: flags.Model = None,
    recipes: Annotated[
        str, flags.option(flags.METHOD, "Recipes of diffusion backbones, with commas.")
    ] = "default",
    ablations: Annotated[bool, flags.option(flags.METHOD, "Also without each part of the method.")] = False,
    seeds: flags.Seeds = 1,
    edits: flags.Edits = None,
    motions: flags.Motions = None,
    clips: flags.Clips = None,
    side: flags.Side = None,
    frames: flags.Length = None,
    json_file: flags.JsonFile = None,
    html_file: Annotated[
        Path | None, flags.option(flags.TALK, "Write a page with pictures.", "--html")
    ] = None,
    overwrite: flags.Overwrite = False,
    device: flags.Device = None,
    quiet: flags.Quiet = False,
) -> None:
    """Carry edits whose true result is known, and score how near each method comes."""
    _check_scoring(json_file, html_file, overwrite=overwrite)
    from anyv2v.evaluation.methods import ablated, methods
    from anyv2v.evaluation.report import Gallery, tables, write_reports

    classes = _classes(edits, motions, clips)
    variations = ablated if ablations else None
    named = recipes.split(",")
    rows = methods(backbones.split(","), model, variations, recipes=named, device=device or "auto")
    gallery, scores = Gallery(), []
    try:
        for case, score, result in _scored(rows, seeds, *classes, clips, side, frames, quiet):
            gallery.see(case, score, result)
            scores.append(score)
    finally:  # what was scored stays scored, whatever interrupts
        if scores:
            write_reports(scores, gallery, json_file, html_file, overwrite=bool(overwrite))
    for table in () if quiet else tables(scores):
        print_table(table)


@bench.command()
def sweep(
    backbone: Annotated[str, flags.option(flags.METHOD, "What carries the edit.")] = "mini",
    model: flags.Model = None,
    vary: Annotated[
        list[str] | None,
        flags.option(flags.METHOD, "An option and its values, as tau_temporal=0,0.5,1. Default: each tau."),
    ] = None,
    recipe: flags.Recipe = None,
    seeds: flags.Seeds = 1,
    edits: flags.Edits = None,
    motions: flags.Motions = None,
    clips: flags.Clips = None,
    side: flags.Side = None,
    frames: flags.Length = None,
    plot: Annotated[Path | None, flags.option(flags.TALK, "Draw the curves, as a PNG.")] = None,
    json_file: flags.JsonFile = None,
    overwrite: flags.Overwrite = False,
    device: flags.Device = None,
    quiet: flags.Quiet = False,
) -> None:
    """Vary one option after the other, and score each value: the paper's Figures 7 and 8, with truth.

    `--edits nothing` reconstructs the source, as for inversion_steps=10,50,500.
    """
    _check_scoring(plot, json_file, overwrite=overwrite)
    from anyv2v.backbones import list_backbones
    from anyv2v.evaluation.methods import methods
    from anyv2v.evaluation.report import Gallery, tables, write_reports
    from anyv2v.evaluation.sweep import knobs_of, turned, write_plot

    if (entry := list_backbones().get(backbone)) and not entry.pipelines:
        raise OptionError(f"{backbone} has no options to vary; name a diffusion model")
    classes, knobs = _classes(edits, motions, clips), knobs_of(vary or [])
    variations, recipes = partial(turned, knobs), [recipe or "default"]
    rows = methods([backbone], model, variations, recipes=recipes, device=device or "auto")
    scores = [score for _, score, _ in _scored(rows, seeds, *classes, clips, side, frames, quiet)]
    write_reports(scores, Gallery(), json_file, None, overwrite=bool(overwrite))
    if plot:
        write_plot(plot, scores, knobs, overwrite=bool(overwrite))
    if not quiet:
        print_table(next(tables(scores)))


evaluation = typer.Typer(help="Compare methods on a dataset: the paper's tables.", no_args_is_help=True)


@evaluation.command("run")
def eval_run(
    manifest: Annotated[Path, typer.Argument(help="JSON Lines or YAML: an edit each.", show_default=False)],
    output: Annotated[Path, flags.option(flags.EDIT, "A folder of results.", "--output", "-o")],
    backbones: Annotated[str, flags.option(flags.METHOD, "Names, with commas.")] = "flow",
    variants: Annotated[
        list[str] | None,
        flags.option(flags.METHOD, "ablations, a YAML file, or name:option=value,...; may be repeated."),
    ] = None,
    model: flags.Model = None,
    recipe: flags.Recipe = None,
    steps: flags.Steps = None,
    inversion_steps: flags.InversionSteps = None,
    device: flags.Device = None,
    dtype: flags.Dtype = None,
    low_memory: flags.LowMemory = None,
    quiet: flags.Quiet = False,
    as_json: flags.Json = False,
) -> None:
    """Edit every entry by every method. What is done already stays; what fails does not stop the others."""
    names = ("recipe", "steps", "inversion_steps", "device", "dtype", "low_memory")
    settings = {name: value for name, value in locals().items() if name in names and value is not None}
    from anyv2v.evaluation.cells import plans, run_cells
    from anyv2v.evaluation.manifest import read_manifest

    entries, methods = read_manifest(manifest), plans(backbones.split(","), variants or [], model, **settings)
    with progress(quiet or as_json) as on_step:
        cells = list(run_cells(entries, methods, output, on_step=on_step))
    if as_json:
        print_json([asdict(cell) for cell in cells])
    elif not quiet:
        states = [cell.state for cell in cells]
        print(", ".join(f"{states.count(state)} {state}" for state in ("made", "kept", "failed")))
    failed = [cell for cell in cells if cell.state == "failed"]
    for cell in failed:
        print(f"anyv2v: {cell.method}, {cell.entry}: {' '.join(cell.error.split())}", file=sys.stderr)
    raise typer.Exit(1 if failed else 0)


@evaluation.command("score")
def eval_score(
    folder: flags.Folder,
    metrics: Annotated[str | None, flags.option(flags.METHOD, "Names, with commas. Default: all.")] = None,
    judge: flags.JudgeModels = None,
    device: flags.Device = None,
    quiet: flags.Quiet = False,
) -> None:
    """Score every clip in a folder of results, by whatever method; clips that were scored before are kept."""
    _check_scoring(overwrite=True)
    from rich.progress import track

    from anyv2v.evaluation.judges import Judges
    from anyv2v.evaluation.results import Results
    from anyv2v.evaluation.scoring import read_scores, score, write_scores

    if wrong := [text for text in judge or [] if "=" not in text]:
        raise OptionError(f"judge {wrong[0]!r}: not of the form role=folder")
    results, models = Results(folder), dict(text.split("=", 1) for text in judge or [])
    judges = Judges(device or "auto", models)
    known = read_scores(folder)
    found = score(results, judges, metrics.split(",") if metrics else None, known)
    total = len(list(results.clips()))
    silent = quiet or not screen.is_terminal
    scores: list[Score] = []
    try:
        scores.extend(track(found, "score", total, console=screen, disable=silent))
    finally:  # what was scored stays scored, whatever interrupts
        done = {(one.method, one.entry) for one in scores}
        there = {(method, entry.name) for method, entry, _ in results.clips()}
        rest = [one for one in known if (one.method, one.entry) in there - done]
        path = write_scores(folder, [*scores, *rest])
    print(path)


@evaluation.command("table")
def eval_table(
    folder: flags.Folder,
    paper: Annotated[int | None, flags.option(flags.METHOD, "As the paper's table 1, 2 or 3.")] = None,
    metrics: Annotated[str | None, flags.option(flags.METHOD, "Names, with commas. Default: all.")] = None,
    tasks: Annotated[str | None, flags.option(flags.METHOD, "Tasks, with commas. Default: all.")] = None,
    form: Annotated[
        str | None, flags.option(flags.TALK, "markdown, latex or csv; else for the terminal.", "--format")
    ] = None,
) -> None:
    """Methods by metrics, with intervals and tests: best in bold, second underlined."""
    _check_scoring(overwrite=True)
    from anyv2v.evaluation.tables import as_rich, rendered
    from anyv2v.evaluation.views import tables_of

    for table in tables_of(folder, paper, metrics and metrics.split(","), tasks and tasks.split(",")):
        if form:
            print(rendered(table, form))
        else:
            print_table(as_rich(table))


@evaluation.command("report")
def eval_report(
    folder: flags.Folder,
    output: Annotated[
        Path | None, flags.option(flags.EDIT, "A page of HTML. Default: report.html in it.", "--output", "-o")
    ] = None,
    overwrite: flags.Overwrite = False,
) -> None:
    """Write one page: tables, plots, and the clips of every entry beside each other, in step."""
    path, overwrite = output or folder / "report.html", overwrite or output is None
    _check_scoring(path, overwrite=overwrite)
    from anyv2v.evaluation.page import write_page
    from anyv2v.evaluation.results import Results
    from anyv2v.evaluation.views import tables_of

    write_page(path, Results(folder), tables_of(folder), overwrite=bool(overwrite))
    print(path)


def _check_scoring(*files: Path | None, overwrite: bool | None) -> None:
    """See before the work begins that scores can be made and written."""
    if find_spec("skimage") is None or find_spec("matplotlib") is None:
        raise OptionError("scores need more libraries: pip install 'anyv2v[eval]'")
    from anyv2v.drafts import check_file

    for path in filter(None, files):
        check_file(path, overwrite=bool(overwrite))


def _classes(
    edits: str | None, motions: str | None, clips: Path | None
) -> tuple[Sequence[str], Sequence[str]]:
    """Those that were asked for; they, or the clips in their place, are seen to be there before all else."""
    from anyv2v.evaluation.propagation import real_clips
    from anyv2v.evaluation.scenes import EDITS, MOTIONS

    if clips:
        real_clips(clips)
    return among(edits, EDITS, "nothing"), among(motions, MOTIONS)


def _scored(
    rows: Sequence[Method],
    seeds: int,
    edits: Sequence[str],
    motions: Sequence[str],
    clips: Path | None,
    side: int | None,
    frames: int | None,
    quiet: bool,
) -> Iterator[tuple[Case, TruthScore, Result]]:
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


study = typer.Typer(help="Have people rate edits, blind and side by side.", no_args_is_help=True)


@study.command()
def serve(
    folder: flags.Folder,
    raters: Annotated[
        int, flags.option(flags.TALK, "How many people rate; those who have a link keep it.")
    ] = 1,
    host: Annotated[
        str, flags.option(flags.TALK, "Where to listen. Default: for this machine alone.")
    ] = "127.0.0.1",
    port: Annotated[int, flags.option(flags.TALK, "The port; 0 takes a free one. Default: 8000.")] = 8000,
) -> None:
    """Serve the page that edits are rated on, and print a link for each rater, until Ctrl-C."""
    from anyv2v.evaluation.results import Results
    from anyv2v.evaluation.study.server import StudyServer

    with StudyServer(Results(folder), host, port, raters) as server:
        for number, link in server.links.items():
            print(f"rater {number}: {link}", flush=True)
        with suppress(KeyboardInterrupt):
            server.serve_forever()


@study.command()
def report(folder: flags.Folder, as_json: flags.Json = False) -> None:
    """Say what the votes say: alignment and preference of every method, and whether the raters agree."""
    from anyv2v.evaluation.results import Results
    from anyv2v.evaluation.study.tally import study_report, study_table

    found = study_report(Results(folder))
    if as_json:
        print_json(found.as_dict())
    else:
        print_table(study_table(found))


@flags.taking(
    clip=flags.Source,
    output=flags.ImageFile,
    side=Annotated[
        str | None, flags.option(flags.LOOK, "source, or edit, which needs a first frame. Default: source.")
    ],
    kinds=Annotated[
        str | None, flags.option(flags.LOOK, "Of conv, spatial, temporal, frames. Default: the first three.")
    ],
    layers_at=Annotated[
        str | None, flags.option(flags.LOOK, "Decoder layers, as 4,7 or 4-11. Default: 4,7,11.", "--layers")
    ],
    steps_at=Annotated[str | None, flags.option(flags.LOOK, "Steps from 1, as 1,10,25,50. Default: four.")],
    frames_at=Annotated[
        str | None, flags.option(flags.LOOK, "Frames from 0, as 0,7. Default: the middle one.")
    ],
    first_frame=flags.FirstFrame,
    **flags.WORDS,
    overwrite=flags.Overwrite,
    **flags.SPAN,
    **flags.MODEL,
    **flags.INVERSION,
    **flags.SAMPLING,
    **flags.COMPUTER,
    **flags.TALKING,
)
def inspect(**given: Any) -> None:
    """Show what the net sees: features and attention by decoder layer and step, as the paper's Figure 6."""
    from anyv2v.evaluation.inspecting import InspectJob, run_inspect

    do(InspectJob, run_inspect, given)


@flags.taking(
    clip=flags.Source,
    output=Annotated[
        Path | None, flags.option(flags.EDIT, "An image for the sheet alone, or a folder.", "--output", "-o")
    ],
    vary=Annotated[
        list[str] | None,
        flags.option(
            flags.LOOK, "An option and its values, as tau_temporal=0,0.5 or layers_conv=4;4-6; repeatable."
        ),
    ],
    grid=Annotated[bool | None, flags.option(flags.LOOK, "Combine the values of all options.", "--grid")],
    first_frame=flags.FirstFrame,
    **flags.WORDS,
    overwrite=flags.Overwrite,
    **flags.SPAN,
    restore=flags.Restore,
    **flags.MODEL,
    **flags.INVERSION,
    **flags.SAMPLING,
    **flags.COMPUTER,
    **flags.TALKING,
)
def sweep_clip(**given: Any) -> None:
    """Edit a clip with several values of options: a sheet with a row for each, and a table of scores."""
    from anyv2v.evaluation.sweeping import SweepJob, run_sweep

    do(SweepJob, run_sweep, given)
