"""What the parts of the page show of a desk: plain values, as the scripts of the parts have them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from anyv2v.studio.work import Work

if TYPE_CHECKING:
    from anyv2v.studio.desk import Desk, JobFacts
    from anyv2v.studio.shelf import ClipFacts

__all__ = [
    "candidates",
    "cards",
    "edited",
    "facts",
    "first_frame",
    "length",
    "mask",
    "player",
    "references",
    "standing",
    "strip",
]

Value = dict[str, Any] | None

STAGES: Mapping[str, str] = {
    "load": "Loading the model",
    "load editor": "Loading the editor",
    "edit frame": "Editing the frame",
    "encode": "Reading the clip",
    "invert": "Inverting the source",
    "propagate": "Carrying the edit",
    "decode": "Painting the frames",
    "finish": "Writing the file",
}


def length(clip: ClipFacts) -> float:
    """Seconds of a clip, as far as its file says."""
    return clip.seconds or (clip.frames or clip.fps) / clip.fps


def facts(desk: Desk, work: Work) -> dict[str, Any]:
    """The clip's name, and what a person wants to know of it."""
    if work.clip is None:
        return {"name": "", "facts": []}
    clip = desk.clip(work.clip)
    counted = [f"{clip.frames} frames"] if clip.frames else []
    sound = ["with sound"] if clip.audio else []
    size = f"{clip.width} × {clip.height}"
    return {
        "name": clip.name,
        "facts": [size, f"{clip.fps:g} fps", *counted, f"{length(clip):.2f} s", *sound],
    }


def strip(desk: Desk, work: Work) -> Value:
    """The clip as a strip, and its span."""
    if work.clip is None:
        return None
    clip = desk.clip(work.clip)
    urls = [f"/api/clips/{clip.id}/strip/{k}" for k in range(len(desk.strip(clip.id)))]
    span = {"start": work.start, "end": work.end}
    return {"clip": clip.id, "thumbnails": urls, "seconds": length(clip), "fps": clip.fps, **span}


def first_frame(work: Work) -> str:
    """The address of the source's first frame."""
    return f"/api/clips/{work.clip}/frame?start={work.start:.6f}"


def mask(work: Work) -> Value:
    """The frame to paint a mask on."""
    return {"frame": first_frame(work), "to": "/api/images"} if work.clip and work.painting else None


def edited(desk: Desk, work: Work) -> Value:
    """Where the edited first frame goes, or the one that is there."""
    if work.clip is None:
        return None
    clip = desk.clip(work.clip)
    return {
        "to": None if work.first else "/api/images",
        "accept": "image/*",
        "title": "Drop the edited frame",
        "hint": f"{clip.width} × {clip.height}, or near it",
        "shape": "picture",
        "have": [_kept(desk, work.first, clip)] if work.first else [],
    }


def _kept(desk: Desk, name: str, clip: ClipFacts) -> dict[str, str]:
    """The edited first frame, and what becomes of it if it is of another shape than the clip."""
    image = desk.image(name)
    shape, wanted = image.width / image.height, clip.width / clip.height
    remark = " · its edges will be cut to the clip's shape" if abs(shape / wanted - 1) > 0.02 else ""
    return {
        "id": name,
        "url": f"/api/images/{name}/file",
        "caption": f"{image.width} × {image.height}{remark}",
    }


def references(work: Work, most: int) -> dict[str, Any]:
    """Where references go, and those that are there."""
    return {
        "to": "/api/images" if len(work.references) < most else None,
        "accept": "image/*",
        "title": "Drop a reference",
        "hint": "the style, subject or face" if most == 1 else f"up to {most}",
        "shape": "picture",
        "have": [{"id": image, "url": f"/api/images/{image}/file"} for image in work.references],
    }


def candidates(desk: Desk, work: Work) -> Value:
    """The edited first frames to choose from, if there are several."""
    if work.made is None or work.tab != "frame" or work.painting:
        return None
    found = [
        {
            "number": one.number,
            "place": one.place,
            "seed": one.seed,
            "url": f"/api/jobs/{work.made}/candidates/{one.number}",
        }
        for one in desk.files(work.made).candidates
    ]
    return {"chosen": work.chosen, "candidates": found}


# ---- the player


def player(desk: Desk, work: Work, jobs: Sequence[JobFacts]) -> Value:
    """What the player shows: stills while the first frame is edited, else films."""
    if work.clip is None or work.painting:
        return None
    shown = next((job for job in jobs if job.id == work.open), None)
    if work.tab == "frame":
        return _stills(work, next((job for job in jobs if job.id == work.made), None))
    return _source(desk, work) if shown is None else _films(desk, work, shown, jobs)


def _stills(work: Work, made: JobFacts | None) -> Value:
    source = {"name": "source", "label": "First frame", "url": first_frame(work), "still": True}
    edited = {"name": "edited", "label": "Edited", "still": True}
    there = [edited | {"url": f"/api/images/{work.first}/file"}] if work.first else []
    return {
        "key": f"{work.clip} {work.start}",
        "left": "source",
        "right": "edited",
        "tracks": [source, *there],
        "note": _note(made) if made and not work.first else None,
    }


def _source(desk: Desk, work: Work) -> Value:
    clip = desk.clip(work.clip or "")
    return {
        "key": f"{work.clip} {work.start} {work.end}",
        "fps": clip.fps,
        "seconds": work.end - work.start,
        "left": "source",
        "right": "source",
        "tracks": [_source_film(work)],
    }


def _source_film(work: Work) -> dict[str, Any]:
    return {"name": "source", "label": "Source", "url": f"/api/clips/{work.clip}/film", "start": work.start}


def _films(desk: Desk, work: Work, job: JobFacts, jobs: Sequence[JobFacts]) -> Value:
    """The source, the preview and the result, as far as they are there."""
    preview = next((other for other in jobs if other.parent == job.id), None)
    there = [other for other in (job, preview) if other and other.state == "done"]
    tracks = [_result("preview", "Preview", preview)] if preview else []
    tracks.append(_result("result", "Result", job))
    # Where a job is done, the source is there in step with it, frame by frame.
    own = {"name": "source", "label": "Source", "url": f"/api/jobs/{there[0].id}/source"} if there else None
    fps, seconds = _pace(desk, work, there)
    return {
        "key": job.id,
        "fps": fps,
        "seconds": seconds,
        "left": "source",
        "right": "result",
        "tracks": [own or _source_film(work), *tracks],
        "note": _note(job),
    }


def _pace(desk: Desk, work: Work, there: Sequence[JobFacts]) -> tuple[float, float]:
    """Frames in a second, and seconds."""
    if there and there[0].frames:
        fps = desk.pace(there[0].request)[1]
        return fps, there[0].frames / fps
    return desk.clip(work.clip or "").fps, work.end - work.start


def _result(name: str, label: str, job: JobFacts) -> dict[str, Any]:
    url = f"/api/jobs/{job.id}/result" if job.state == "done" else None
    return {"name": name, "label": label, "url": url, "text": standing(job)}


def _note(job: JobFacts) -> Value:
    """What the player says over its picture of a job that has not ended well."""
    if job.state == "done":
        return None
    titles = {"queued": "Waiting", "failed": "It did not work", "cancelled": "Cancelled"}
    title = titles.get(job.state) or STAGES.get(job.stage, "Starting")
    text = {
        "failed": job.message,
        "cancelled": "Nothing of it is lost but its time: edit it again from the list.",
    }
    return {
        "title": title,
        "text": text.get(job.state) or standing(job, stage=False),
        "share": _share(job),
        "bad": job.state == "failed",
    }


# ---- jobs


def cards(work: Work, jobs: Sequence[JobFacts]) -> dict[str, Any]:
    """The queue and the history. A preview stands in its job's card."""
    ids = {job.id for job in jobs}
    busy = {name for job in jobs if _going(job) for name in (job.id, job.parent)}
    shown = [_card(job, job.id not in busy) for job in jobs if job.parent not in ids]
    return {"open": work.open or work.made, "jobs": shown}


def _going(job: JobFacts) -> bool:
    return job.stopping or job.state in ("queued", "running")


def _card(job: JobFacts, free: bool) -> dict[str, Any]:
    place, done = f"/api/jobs/{job.id}", job.state == "done"
    return {
        "id": job.id,
        "title": job.title,
        "state": job.state,
        "text": standing(job),
        "share": _share(job),
        "thumbnail": f"{place}/thumbnail" if done else f"/api/clips/{job.request.clip}/strip/0",
        "video": f"{place}/result" if done else None,
        "sidecar": f"{place}/sidecar" if done else None,
        "free": free,
    }


def _share(job: JobFacts) -> float | None:
    return job.done / job.total if job.state == "running" and job.done else None


def standing(job: JobFacts, stage: bool = True) -> str:
    """How a job stands, in a few words."""
    if job.stopping:
        return "stopping"
    if job.state == "queued":
        return "next in line" if job.position == 1 else f"number {job.position} in line"
    if job.state == "running":
        return _running(job, stage)
    if job.state == "failed":
        return job.message
    who = (job.editor if job.task == "frame" else job.backbone) or ""
    return " · ".join(filter(None, ["cancelled" if job.state == "cancelled" else who, ago(job.ended)]))


def _running(job: JobFacts, stage: bool) -> str:
    name = [STAGES.get(job.stage, "Starting")] if stage else []
    counted = [f"{job.done} of {job.total}"] if job.total > 1 else []
    left = [f"{lasting(job.left_seconds)} left"] if job.left_seconds else []
    return "\n".join([*name, " · ".join([*counted, *left])]).strip() or "a moment"


def lasting(seconds: float) -> str:
    """A time as a person says it."""
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def ago(moment: float | None) -> str:
    """How long ago something was."""
    if moment is None:
        return ""
    passed = time.time() - moment
    if passed < 60:
        return "just now"
    return f"{lasting(passed)} ago" if passed < 86400 else time.strftime("%d %b", time.localtime(moment))
