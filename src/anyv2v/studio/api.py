"""The studio over HTTP: everything below /api, described at /api/openapi.json.

Ids are looked up, names are only shown: nothing that a client sends is ever a path. Every error is JSON,
``{"detail": "one sentence"}``.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Query
from fastapi import Request as HTTPRequest
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from pydantic import BaseModel

from anyv2v.errors import AnyV2VError, OutputError, UserError
from anyv2v.studio.desk import BackboneFacts, Desk, EditorFacts, JobFacts, Setting
from anyv2v.studio.limits import Limits, TooLarge, TooMany, TooSlow, Unknown
from anyv2v.studio.queue import ENDED
from anyv2v.studio.request import Request
from anyv2v.studio.shelf import ClipFacts, ImageFacts, Incoming

__all__ = ["create_api"]

STATUS = {Unknown: 404, TooLarge: 413, TooSlow: 408, TooMany: 429, OutputError: 503, UserError: 422}
"""The first that fits; what is none of them is a fault of ours."""

KINDS = {
    ".mp4": "video/mp4",
    ".mkv": "video/webm",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".json": "application/json",
}
GLANCE = 0.3  # seconds between two looks at a job that somebody watches
SILENCE = 15.0  # seconds after which a word keeps the connection open


class Problem(BaseModel):
    """What went wrong, in a sentence."""

    detail: str


@dataclass(frozen=True)
class Submitted:
    """The id of a job that was submitted, and of its preview."""

    id: str
    preview: str | None = None


@dataclass(frozen=True)
class Health:
    """That the studio is there, how many jobs wait or run, and what it takes."""

    status: str
    queued: int
    running: int
    limits: Limits


PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem} for status in (400, 401, 403, 404, 408, 413, 422, 429, 503)
}
BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}
Name = Annotated[str, Query(max_length=1000, description="What to call it; only ever shown.")]
Start = Annotated[float, Query(ge=0, le=1e6, description="Seconds.")]


def create_api(desk: Desk) -> FastAPI:
    """The app, without a page yet."""
    about = "Edit a video by editing its first frame. Bring a clip and a picture, submit a job, watch it."
    app = FastAPI(
        title="anyv2v studio",
        description=about,
        openapi_url="/api/openapi.json",
        docs_url=None,  # its page would be fetched from elsewhere
        redoc_url=None,
    )
    for router in (_things(desk), _jobs(desk), _files(desk)):
        app.include_router(router, prefix="/api", responses=PROBLEMS)
    app.add_exception_handler(AnyV2VError, _told)
    app.add_exception_handler(RequestValidationError, _misread)
    return app


async def _told(_: HTTPRequest, error: Exception) -> JSONResponse:
    status = next((status for kind, status in STATUS.items() if isinstance(error, kind)), 500)
    return JSONResponse({"detail": " ".join(str(error).split())}, status)


async def _misread(_: HTTPRequest, error: Exception) -> JSONResponse:
    """One sentence of the first thing that does not fit."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = " ".join(str(part) for part in first["loc"] if part != "body") or "the body"
    said = str(first["msg"])
    sentence = f"{where}: {said[:1].lower()}{said[1:]}"
    return JSONResponse({"detail": sentence.encode("utf-8", "replace").decode()}, 422)


def _things(desk: Desk) -> APIRouter:
    """Clips, pictures, and what there is to choose from."""
    router = APIRouter()

    @router.post("/clips", status_code=201, openapi_extra=BODY)
    async def add_clip(http: HTTPRequest, name: Name = "clip") -> ClipFacts:
        """Bring a clip: the body is the file."""
        with desk.shelf.incoming() as arriving:
            await _receive(http, arriving, desk.limits)
            return await run_in_threadpool(desk.shelf.take_clip, arriving, name)

    @router.post("/images", status_code=201, openapi_extra=BODY)
    async def add_image(http: HTTPRequest, name: Name = "picture") -> ImageFacts:
        """Bring a picture, as an edited first frame, a reference or a mask: the body is the file."""
        with desk.shelf.incoming() as arriving:
            await _receive(http, arriving, desk.limits)
            return await run_in_threadpool(desk.shelf.take_image, arriving, name)

    @router.get("/clips/{name}")
    def clip(name: str) -> ClipFacts:
        """What is known of a clip."""
        return desk.clip(name)

    @router.get("/images/{name}")
    def image(name: str) -> ImageFacts:
        """What is known of a picture."""
        return desk.image(name)

    @router.get("/editors")
    def editors() -> list[EditorFacts]:
        """What can edit a first frame."""
        return desk.editors()

    @router.get("/backbones")
    def backbones() -> list[BackboneFacts]:
        """What can carry an edit through a clip."""
        return desk.backbones()

    @router.get("/options")
    def options(backbone: str = "auto", recipe: str = "default") -> list[Setting]:
        """What ``advanced`` of a request may hold, with a recipe's values."""
        return desk.advanced(backbone, recipe)

    @router.get("/health")
    def health() -> Health:
        """Whether the studio is there, and how busy."""
        states = [job.state for job in desk.queue.list(limit=-1)]
        return Health("ok", states.count("queued"), states.count("running"), desk.limits)

    return router


async def _receive(http: HTTPRequest, arriving: Incoming, limits: Limits) -> None:
    """The body of a request, as far as the limits allow."""
    announced = http.headers.get("content-length", "0")
    limits.check_bytes(int(announced) if announced.isascii() and announced.isdigit() else 0)
    try:
        async with asyncio.timeout(limits.upload_seconds):
            async for piece in http.stream():
                arriving.take(piece)
    except TimeoutError:
        raise TooSlow(f"the file did not arrive within {limits.upload_seconds:g} s") from None


def _jobs(desk: Desk) -> APIRouter:
    router = APIRouter(prefix="/jobs")

    @router.post("", status_code=201)
    def submit(request: Request, preview: bool = False) -> Submitted:
        """Submit a job; with ``preview``, the same by optical flow beside it, if that can be."""
        submitted = Submitted(desk.submit(request))
        if preview:
            with suppress(UserError):  # of the job itself nothing is wrong: it is in the queue
                submitted = replace(submitted, preview=desk.preview(submitted.id))
        return submitted

    @router.get("")
    def jobs(
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
        before: Annotated[int | None, Query(ge=0, le=2**62, description="A job's number.")] = None,
    ) -> list[JobFacts]:
        """Jobs, the newest first."""
        return desk.jobs(limit, before)

    @router.get("/{name}")
    def job(name: str) -> JobFacts:
        """How a job stands."""
        return desk.job(name)

    @router.get("/{name}/events", response_class=StreamingResponse, responses={200: {"content": EVENTS}})
    def events(name: str) -> StreamingResponse:
        """How a job stands, whenever that changes, until it has ended: server-sent events of job objects."""
        desk.job(name)
        return StreamingResponse(_watched(desk, name), media_type="text/event-stream", headers=FRESH)

    @router.post("/{name}/cancel")
    def cancel(name: str) -> JobFacts:
        """Cancel a job; what has ended stays as it is."""
        desk.cancel(name)
        return desk.job(name)

    @router.delete("/{name}", status_code=204)
    def remove(name: str) -> None:
        """Forget a job that has ended, and what it made."""
        desk.remove(name)

    return router


EVENTS = {"text/event-stream": {"schema": {"type": "string"}}}
FRESH = {"Cache-Control": "no-store"}


async def _watched(desk: Desk, name: str) -> AsyncIterator[str]:
    told, quiet = None, 0.0
    while True:
        try:
            facts = await run_in_threadpool(desk.job, name)
        except Unknown:  # it was removed
            return
        if facts != told:
            told, quiet = facts, 0.0
            yield f"data: {json.dumps(asdict(facts))}\n\n"
        elif quiet > SILENCE:
            quiet = 0.0
            yield ": still there\n\n"
        if facts.state in ENDED:
            return
        await asyncio.sleep(GLANCE)
        quiet += GLANCE


def _files(desk: Desk) -> APIRouter:
    """What was brought, and what was made of it."""
    router = APIRouter(default_response_class=FileResponse)

    @router.get("/clips/{name}/film", responses=_of("video/mp4"))
    def film(name: str) -> FileResponse:
        """The clip, as browsers play it."""
        return _sent(desk.film(name))

    @router.get("/clips/{name}/frame", responses=_of("image/png"))
    def frame(name: str, start: Start = 0.0) -> FileResponse:
        """The picture at a time: the first frame, to be edited."""
        return _sent(desk.first_frame(name, start))

    @router.get("/clips/{name}/strip/{number}", responses=_of("image/jpeg"))
    def strip(name: str, number: int, count: Annotated[int, Query(ge=1, le=48)] = 12) -> FileResponse:
        """One of ``count`` small pictures that are evenly spread over the clip, from 0."""
        thumbnails = dict(enumerate(desk.strip(name, count)))
        if number not in thumbnails:
            raise Unknown(f"there are thumbnails 0 to {len(thumbnails) - 1}")
        return _sent(thumbnails[number].file)

    @router.get("/images/{name}/file", responses=_of("image/png"))
    def picture(name: str) -> FileResponse:
        """A picture."""
        return _sent(desk.image_file(name))

    @router.get("/jobs/{name}/candidates/{number}", responses=_of("image/png"))
    def candidate(name: str, number: int) -> FileResponse:
        """One of several first frames."""
        return _sent(next((one.file for one in desk.files(name).candidates if one.number == number), None))

    @router.get("/jobs/{name}/result", responses=_of("video/mp4", "image/png"))
    def result(name: str, download: bool = False) -> FileResponse:
        """The edited clip, or first frame."""
        return _sent(desk.files(name).result, f"anyv2v-{name}" if download else None)

    @router.get("/jobs/{name}/sidecar", responses=_of("application/json"))
    def sidecar(name: str, download: bool = False) -> FileResponse:
        """What is needed to make the result again."""
        return _sent(desk.files(name).sidecar, f"anyv2v-{name}" if download else None)

    @router.get("/jobs/{name}/sheet", responses=_of("image/png"))
    def sheet(name: str) -> FileResponse:
        """Source and edit side by side; of several first frames, all."""
        return _sent(desk.files(name).sheet)

    @router.get("/jobs/{name}/thumbnail", responses=_of("image/jpeg"))
    def thumbnail(name: str) -> FileResponse:
        """A small picture of the result."""
        return _sent(desk.files(name).thumbnail)

    @router.get("/jobs/{name}/frame", responses=_of("image/png"))
    def edited_frame(name: str) -> FileResponse:
        """The edited first frame."""
        return _sent(desk.files(name).frame)

    @router.get("/jobs/{name}/source", responses=_of("video/mp4"))
    def source(name: str) -> FileResponse:
        """The source's frames in step with the result."""
        return _sent(desk.files(name).source)

    return router


def _of(*kinds: str) -> dict[int | str, dict[str, Any]]:
    """What a route for files answers."""
    return {200: {"content": {kind: {"schema": {"type": "string", "format": "binary"}} for kind in kinds}}}


def _sent(file: Path | None, name: str | None = None) -> FileResponse:
    if file is None:
        raise Unknown("the job has made no such file, or not yet")
    kind = KINDS.get(file.suffix, "application/octet-stream")
    return FileResponse(file, media_type=kind, filename=name and f"{name}{file.suffix}", headers=SAME)


SAME = {"Cache-Control": "private, no-cache"}  # a job that is taken up again makes its files anew
