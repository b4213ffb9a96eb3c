"""The commands of the studio: the page itself, and its queue at the terminal."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import anyv2v.flags as flags
from anyv2v.errors import OptionError, UserError
from anyv2v.terminal import print_json, print_table, screen, show

if TYPE_CHECKING:
    from anyv2v.studio.desk import Desk, JobFacts

__all__ = ["jobs", "studio"]

HERE = "Where"
LIMITS = "Limits"

Folder = Annotated[
    Path | None,
    flags.option(
        HERE, "Where clips, jobs and results are kept. Default: ANYV2V_STUDIO, else the user's data."
    ),
]
Name = Annotated[str, typer.Argument(help="A job, by its id or the beginning of it.", show_default=False)]


def studio(
    host: Annotated[
        str, typer.Option(help="The address to listen at; another than this machine's demands a token.")
    ] = "127.0.0.1",
    port: Annotated[int | None, flags.option(HERE, "The port. Default: 7860, or a free one.")] = None,
    token: Annotated[
        str | None, typer.Option(envvar="ANYV2V_STUDIO_TOKEN", help="What visitors must bring.")
    ] = None,
    folder: Folder = None,
    browser: Annotated[bool, typer.Option(help="Open the page in a browser.")] = True,
    model: Annotated[
        list[str] | None,
        flags.option(flags.MACHINE, "A checkpoint that may be chosen, as mini=FOLDER; may be repeated."),
    ] = None,
    device: flags.Device = None,
    low_memory: flags.LowMemory = False,
    upload_mb: Annotated[float, typer.Option(help="Size of a file.", rich_help_panel=LIMITS)] = 1000.0,
    seconds: Annotated[float, typer.Option(help="Length of a clip.", rich_help_panel=LIMITS)] = 600.0,
    side: Annotated[int, typer.Option(help="Pixels of a clip's longer side.", rich_help_panel=LIMITS)] = 4096,
    frames: Annotated[int, typer.Option(help="Frames of one job.", rich_help_panel=LIMITS)] = 1800,
    queued: Annotated[int, typer.Option(help="Jobs that may wait.", rich_help_panel=LIMITS)] = 100,
    kept: Annotated[int, typer.Option(help="Ended jobs that are kept.", rich_help_panel=LIMITS)] = 200,
) -> None:
    """Open the studio: the whole method in a browser, on this machine, until it is interrupted."""
    _check_installed()
    from anyv2v.studio.limits import Limits
    from anyv2v.studio.server import Address, serve
    from anyv2v.studio.worker import Post

    limits = Limits(int(upload_mb * 1e6), seconds=seconds, side=side, frames=frames, queued=queued, kept=kept)
    place, slim = device or "auto", bool(low_memory)
    desk = _desk(folder, limits, _models(model or []), place)
    desk.workshop.check_models()
    post = Post(desk.shelf.folder, device=place, low_memory=slim, models=desk.models, limits=limits)
    serve(desk, Address(host, port, token), post, lambda link: _welcome(link, browser))


def _check_installed() -> None:
    from importlib.util import find_spec

    if missing := [name for name in ("gradio", "fastapi", "uvicorn") if find_spec(name) is None]:
        raise OptionError(f"the studio needs {', '.join(missing)}: pip install 'anyv2v[studio]'")


def _models(given: Sequence[str]) -> dict[str, Path]:
    """Folders by name. Raises OptionError."""
    models = {}
    for text in given:
        name, _, folder = text.partition("=")
        path = Path(folder).expanduser().absolute()
        if not name or not folder or not path.exists():
            raise OptionError(f"model {text!r}: not of the form name=folder, with a folder that is there")
        models[name] = path
    return models


def _welcome(link: str, browser: bool) -> None:
    import webbrowser

    print(link, flush=True)
    screen.print("the studio is open until you press Ctrl-C; its jobs go on when it opens again")
    if browser:
        webbrowser.open(link)


def _desk(folder: Path | None, limits: Any = None, models: Any = None, device: str = "auto") -> Desk:
    from anyv2v.studio.desk import Desk
    from anyv2v.studio.shelf import studio_folder

    return Desk.at((folder or studio_folder()).expanduser().absolute(), limits, models or {}, device)


jobs = typer.Typer(help="Look after the studio's jobs, whether it is open or not.", no_args_is_help=True)


@jobs.command("ls")
def list_jobs(
    folder: Folder = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many, the newest first.")] = 20,
    as_json: flags.Json = False,
) -> None:
    """List jobs, the newest first."""
    found = _desk(folder).jobs(limit)
    if as_json:
        print_json([asdict(job) for job in found])
    elif found:
        _print(found)
    else:
        screen.print("there are no jobs")


def _print(found: Sequence[JobFacts]) -> None:
    from rich.table import Table

    table = Table("id", "state", "what", "by", "submitted")
    for job in found:
        submitted = datetime.fromtimestamp(job.created).strftime("%Y-%m-%d %H:%M")
        table.add_row(
            job.id, _state(job), job.title, job.editor if job.task == "frame" else job.backbone, submitted
        )
    print_table(table)


def _state(job: JobFacts) -> str:
    """How a job stands, in a few words."""
    if job.state == "queued":
        return f"queued, {job.position}"
    if job.state == "running" and job.total:
        left = "" if job.left_seconds is None else f", {job.left_seconds:.0f} s left"
        return f"{job.stage} {job.done}/{job.total}{left}"
    return "stopping" if job.stopping else job.state


@jobs.command("show")
def show_job(name: Name, folder: Folder = None, as_json: flags.Json = False) -> None:
    """All about a job: what was asked, how it stands, and where its files are."""
    desk = _desk(folder)
    job = _named(desk, name)
    files = {what: str(path) for what, path in vars(desk.files(job.id)).items() if isinstance(path, Path)}
    if as_json:
        print_json(asdict(job) | {"files": files})
        return
    about = {"id": job.id, "title": job.title, "state": _state(job), "message": job.message or None}
    show({**about, "notices": list(job.notices), "seconds": dict(job.seconds), **files}, as_json)


@jobs.command("watch")
def watch_job(name: Name, folder: Folder = None) -> None:
    """Show how a job comes along until it has ended; a job that failed gives exit code 2."""
    from anyv2v.progress import Step
    from anyv2v.studio.queue import ENDED
    from anyv2v.terminal import progress

    desk = _desk(folder)
    job = _named(desk, name)
    with progress(silent=False) as on_step:
        while job.state not in ENDED:
            if job.total:
                on_step(Step(job.stage, job.done, job.total))
            time.sleep(GLANCE)
            job = desk.job(job.id)
    if job.state == "failed":
        raise UserError(f"job {job.id} failed: {job.message}")
    print(desk.files(job.id).result or job.state)


GLANCE = 0.5  # seconds between two looks at a job


@jobs.command("cancel")
def cancel_job(name: Name, folder: Folder = None) -> None:
    """Cancel a job that waits or runs."""
    desk = _desk(folder)
    job = _named(desk, name)
    desk.cancel(job.id)
    print(f"{job.id} {desk.job(job.id).state}")


@jobs.command("rm")
def remove_jobs(
    names: Annotated[list[str], typer.Argument(help="Jobs that have ended.", show_default=False)],
    folder: Folder = None,
) -> None:
    """Forget jobs that have ended, and remove what they made."""
    desk = _desk(folder)
    for name in names:
        job = _named(desk, name)
        desk.remove(job.id)
        print(f"{job.id} removed")


@jobs.command("submit")
@flags.taking(
    clip=Annotated[Path | None, typer.Argument(help="The source video.", show_default=False)],
    **{
        name: flags.FIRST_STAGE[name]
        for name in ("first_frame", "editor", "instruction", "reference", "mask")
    },
    prompt=flags.Prompt,
    **{name: flags.SPAN[name] for name in ("start", "frames", "duration")},
    backbone=flags.Backbone,
    recipe=flags.Recipe,
    seed=flags.Seed,
)
def submit_job(folder: Folder = None, **given: Any) -> None:
    """Give the studio a job, which it does when it is open; prints the job's id."""
    from anyv2v.studio.request import Request

    if given["clip"] is None:
        raise OptionError("CLIP is missing")
    desk = _desk(folder)
    files = {name: given.pop(name) for name in ("clip", "first_frame", "mask", "reference")}
    asked = {name: value for name, value in given.items() if value is not None}
    for name in ("first_frame", "mask"):
        if path := files[name]:
            asked[name] = desk.add_image(path, path.name).id
    asked["references"] = tuple(
        desk.add_image(Path(path), Path(path).name).id for path in files["reference"] or ()
    )
    print(desk.submit(Request(clip=desk.add_clip(files["clip"], files["clip"].name).id, **asked)))


def _named(desk: Desk, name: str) -> JobFacts:
    """The one job whose id begins so. Raises OptionError."""
    found = [job.id for job in desk.queue.list(limit=-1) if name and job.id.startswith(name)]
    if len(found) != 1:
        raise OptionError(f"{len(found) or 'no'} jobs begin with {name!r}; see anyv2v jobs ls")
    return desk.job(found[0])
