"""The command line: one command is one function."""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

import anyv2v.flags as flags
from anyv2v.cli_cache import cache
from anyv2v.cli_evaluation import bench, evaluation, inspect, study, sweep_clip
from anyv2v.cli_studio import jobs, studio
from anyv2v.errors import AnyV2VError
from anyv2v.terminal import do, print_json, screen, settings_of_line, show

app = typer.Typer(
    help="Edit a video by editing its first frame.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


@app.command()
@flags.taking(
    clip=flags.Source,
    **flags.FIRST_STAGE,
    save_frame=flags.SaveFrame,
    output=flags.VideoFile,
    **flags.WORDS,
    sheet=flags.Sheet,
    trajectory=flags.Trajectory,
    cache=flags.Cache,
    overwrite=flags.Overwrite,
    **flags.SPAN,
    whole=flags.Whole,
    overlap=flags.Overlap,
    restore=flags.Restore,
    **flags.MODEL,
    **flags.INVERSION,
    **flags.SAMPLING,
    **flags.COMPUTER,
    dry_run=flags.DryRun,
    **flags.TALKING,
)
def edit(**given: Any) -> None:
    """Edit a clip's first frame, or take an edited one, and carry that through the clip."""
    from anyv2v.job import EditJob, read_settings

    if given["dry_run"]:
        from anyv2v.dry_run import dry_run

        show(asdict(dry_run(read_settings(EditJob, settings_of_line(given)))), given["as_json"])
        return
    from anyv2v.run import run_edit

    do(EditJob, run_edit, given)


@app.command("edit-frame")
@flags.taking(
    clip=flags.Source,
    output=flags.ImageFile,
    **flags.FIRST_STAGE,
    seed=flags.Seed,
    start=flags.Start,
    overwrite=flags.Overwrite,
    **flags.COMPUTER,
    **flags.TALKING,
)
def edit_frame(**given: Any) -> None:
    """Edit the first frame of a clip, and write that frame alone: the first of the two stages of `edit`."""
    from anyv2v.job import FrameJob
    from anyv2v.run import run_frame

    do(FrameJob, run_frame, given)


@app.command()
def editors(
    name: Annotated[str | None, typer.Argument(help="One of them, to be told all about.")] = None,
    as_json: flags.Json = False,
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
        print_json(rows)
    elif name:
        show(rows[0] | {"settings": settings_of(editor_named(name))}, as_json)
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
@flags.taking(
    clip=flags.Source,
    output=flags.TensorFile,
    overwrite=flags.Overwrite,
    **flags.SPAN,
    **flags.MODEL,
    **flags.INVERSION,
    **flags.COMPUTER,
    **flags.TALKING,
)
def invert(**given: Any) -> None:
    """Keep a clip's inversion, so that later edits of it skip that work: `anyv2v edit --trajectory`."""
    from anyv2v.job import InvertJob
    from anyv2v.run import run_invert

    do(InvertJob, run_invert, given)


@app.command()
def backbones(as_json: flags.Json = False) -> None:
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
        print_json(rows)
        return
    for row in rows:
        state = "ready" if row["at_hand"] else f"{row['gigabytes']:g} GB to get: {row['download']}"
        print(f"{row['name']:<12} {row['summary']}\n{'':<12} {state}")


@app.command()
def convert(
    folder: Annotated[Path, typer.Argument(help="A file or folder of .pt or .bin weights.")],
    as_json: flags.Json = False,
) -> None:
    """Write pickled weights once more as safetensors, which load faster and cannot run code."""
    from anyv2v.weights import convert as convert_folder

    written = convert_folder(folder)
    if as_json:
        print_json({"written": written})
        return
    for path in written:
        print(path)


@app.command()
def frame(
    clip: Annotated[Path, typer.Argument(help="A video.")],
    output: Annotated[Path, flags.option(flags.EDIT, "An image, as first.png.", "--output", "-o")],
    start: flags.Start = 0.0,
    overwrite: flags.Overwrite = False,
) -> None:
    """Write the first frame of a clip, or of what follows --start: the picture to edit."""
    from anyv2v.checks import check_apart
    from anyv2v.drafts import check_file
    from anyv2v.picture import write_image
    from anyv2v.video import Clip

    check_file(output, overwrite=bool(overwrite))
    check_apart({"clip": clip}, [output])
    print(write_image(output, next(iter(Clip(clip, start=start or 0.0))), overwrite=bool(overwrite)))


@app.command()
def info(clip: Annotated[Path, typer.Argument(help="A video.")], as_json: flags.Json = False) -> None:
    """Say what a clip is: size, length, frame rate, codecs."""
    from anyv2v.film import probe

    show(asdict(probe(clip)), as_json)


@app.command()
def doctor(as_json: flags.Json = False) -> None:
    """Look at this machine: device, memory, versions, weights at hand, and what is known to break."""
    from anyv2v.doctor import examine

    show(examine(), as_json)


app.command()(inspect)
app.command("sweep")(sweep_clip)
app.command()(studio)
app.add_typer(jobs, name="jobs")
app.add_typer(bench, name="bench")
app.add_typer(evaluation, name="eval")
app.add_typer(study, name="study")
app.add_typer(cache, name="cache")


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Edit a video by editing its first frame."""
    if version:
        from importlib.metadata import version as version_of

        print(version_of("anyv2v"))
        raise typer.Exit


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
        print_json({"error": message, "kind": type(error).__name__})
    if message:  # there is none where help was shown
        print("anyv2v: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(code)
