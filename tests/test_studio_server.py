"""The studio as an operator runs it: killed processes, a server that comes back, the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from anyv2v import Clip
from anyv2v.errors import OptionError
from anyv2v.studio.limits import Limits
from anyv2v.studio.server import Address
from anyv2v.studio.supervisor import supervised
from anyv2v.studio.worker import Post
from studio_parts import Place

pytest.importorskip("gradio")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def until(true: Callable[[], Any], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.05)


# -- workers


def test_a_post_survives_the_command_line() -> None:
    post = Post(Path("/a b"), "quick", "w", "cuda:1", True, {"mini": Path("out")}, Limits(frames=3))
    assert Post.of(post.text) == post


def test_killed_and_hanging_workers_are_replaced(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("anyv2v.studio.supervisor.GRACE", 0.5)
    place = Place(tmp_path, count=50)
    desk = place.desk
    killed, hung, last = (desk.submit(place.flow(frames=frames)) for frames in (50, 50, 2))
    with supervised(desk, place.post()) as lanes:
        first = lanes["quick"].process
        until(lambda: desk.job(killed).stage)
        first.kill()
        until(lambda: lanes["quick"].process is not first)
        second = lanes["quick"].process
        until(lambda: desk.job(hung).stage)
        with desk.queue._opened():  # so that it does not have the file's lock
            os.kill(second.pid, signal.SIGSTOP)  # it neither beats nor ends
        desk.cancel(hung)
        assert desk.job(hung).stopping
        until(lambda: desk.job(last).state == "done")
    assert (desk.job(killed).state, desk.job(killed).tries) == ("done", 2)
    assert (desk.job(hung).state, desk.job(hung).stopping) == ("cancelled", False)


def test_when_the_server_ends_its_jobs_wait_for_the_next_one(place: Place) -> None:
    desk = place.desk
    names = [desk.submit(place.flow()) for _ in range(3)]
    with supervised(desk, place.post()):
        until(lambda: any(job.state == "running" for job in desk.jobs()))
    states = [desk.job(name).state for name in names]
    assert "running" not in states
    assert "queued" in states
    assert all(desk.job(name).tries == (state == "done") for name, state in zip(names, states, strict=True))
    with supervised(desk, place.post()):
        until(lambda: all(desk.job(name).state == "done" for name in names))
    assert {desk.job(name).tries for name in names} == {1}


# -- the server


@contextmanager
def opened(folder: Path, *words: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """``anyv2v studio``, and its address once it answers."""
    line = [
        sys.executable,
        "-m",
        "anyv2v",
        "studio",
        "--no-browser",
        "--port",
        "0",
        "--folder",
        str(folder),
        *words,
    ]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            yield server, server.stdout.readline().strip()
        finally:
            server.terminate()


def ask(address: str, path: str, content: Any = None) -> Any:
    body = None if content is None else json.dumps(content).encode()
    headers = {"Content-Type": "application/json"}
    with urlopen(Request(f"{address}{path}", body, headers), timeout=120) as answer:
        return json.loads(answer.read()) if path.startswith("api") else answer.read()


def children(process: int) -> list[int]:
    tasks = Path(f"/proc/{process}/task/{process}/children")
    return [int(child) for child in tasks.read_text().split()]


def test_a_server_that_is_killed_comes_back_and_the_job_is_done(tmp_path: Path) -> None:
    place = Place(tmp_path, count=300)
    folder = place.desk.shelf.folder
    with opened(folder) as (server, address):
        assert address.startswith("http://127.0.0.1:")
        assert b"anyv2v studio" in ask(address, "")
        for file in ("/etc/passwd", folder / "queue.db", "pyproject.toml", "https://example.org/", "../x"):
            with pytest.raises(HTTPError, match="403"):
                ask(address, f"gradio_api/file={file}")
        second = subprocess.run(server.args, capture_output=True, text=True, check=False)
        assert (second.returncode, "is open already, at http://127.0.0.1:" in second.stderr) == (2, True)
        assert "token" not in (folder / "server").read_text()
        workers = children(server.pid)
        assert len(workers) == 2
        asked = {"clip": place.clip, "first_frame": place.edited, "backbone": "flow"}
        name = ask(address, "api/jobs", asked)["id"]
        until(lambda: ask(address, f"api/jobs/{name}")["stage"] == "propagate")
        server.kill()
        server.wait()
        until(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))
    tried = place.desk.job(name).tries
    with opened(folder) as (server, address):
        until(lambda: ask(address, f"api/jobs/{name}")["state"] == "done")
        server.send_signal(signal.SIGINT)
        assert server.wait(60) == 0
    assert place.desk.job(name).tries == tried + 1 == 2
    assert len(list(Clip(place.desk.files(name).result))) == 300


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--port", "99999999"], "port is 99999999; it must be 0 to 65535"),
        (["--host", "no.such.host.invalid"], "cannot listen at no.such.host.invalid"),
        (["--token", "short"], "the token must be 8 to 200"),
        (["--model", "mini"], "model 'mini': not of the form name=folder"),
        (["--model", "mini=/no/such/folder"], "with a folder that is there"),
        (["--model", "mine=."], "is no checkpoint: model_index.json is missing"),
        (["--model", "color=."], "color has no weights"),
        (["--queued", "0"], "the limit of queued is 0"),
    ],
)
def test_a_server_that_cannot_begin_says_why(run, tmp_path: Path, words: list[str], said: str) -> None:
    code, _, err = run("studio", "--no-browser", "--folder", tmp_path, *words)
    assert code == 2
    assert said in err


def test_off_loopback_there_is_always_a_token() -> None:
    assert Address("127.0.0.1").token is None
    assert Address("127.0.0.1", token="a-token-of-mine").token == "a-token-of-mine"
    drawn = {Address("0.0.0.0").token for _ in range(5)}
    assert len(drawn) == 5
    assert min(map(len, drawn)) > 16
    for token in ("", "semi;colon-and", "new\nline-new-line"):
        with pytest.raises(OptionError, match="the token must be"):
            Address("0.0.0.0", token=token)


# -- the queue at the terminal


def test_jobs_at_the_terminal(place: Place, run, monkeypatch) -> None:
    monkeypatch.setenv("ANYV2V_STUDIO", str(place.desk.shelf.folder))
    monkeypatch.chdir(place.folder)
    assert "there are no jobs" in run("jobs", "ls")[2]
    code, out, _ = run(
        "jobs", "submit", "clip.mp4", "--first-frame", "edited.png", "--backbone", "flow", "--frames", 3
    )
    name = out.strip()
    assert (code, place.desk.job(name).request.frames) == (0, 3)
    assert "queued, 1" in run("jobs", "ls")[1]
    assert json.loads(run("jobs", "ls", "--json")[1])[0]["id"] == name
    assert "cancel it first" in run("jobs", "rm", name)[2]
    worker = place.worker()
    worker.do(place.desk.queue.take("quick", "w"))
    assert run("jobs", "watch", name)[1].strip() == str(place.desk.files(name).result)
    shown = json.loads(run("jobs", "show", name[:6], "--json")[1])
    assert (shown["state"], shown["files"]["result"]) == ("done", str(place.desk.files(name).result))
    assert "result.mp4" in run("jobs", "show", name)[1]
    other = place.desk.submit(place.flow())
    assert run("jobs", "cancel", other)[1].strip() == f"{other} cancelled"
    assert run("jobs", "rm", name, other)[0] == 0
    assert place.desk.jobs() == []


def test_a_job_that_failed_is_an_error_to_who_watches_it(place: Place, run) -> None:
    name = place.desk.submit(place.flow())
    place.desk.queue.take("quick", "w")
    place.desk.queue.fail(name, "w", "a reason")
    code, _, err = run("jobs", "watch", name, "--folder", place.desk.shelf.folder)
    assert (code, err.strip().splitlines()[-1]) == (2, f"anyv2v: job {name} failed: a reason")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["show", "nothing"], "no jobs begin with 'nothing'"),
        (["submit"], "CLIP is missing"),
        (["submit", "clip.mp4"], "bring one, or choose an editor"),
        (["submit", "none.mp4", "-f", "edited.png"], "none.mp4: no such file"),
    ],
)
def test_mistakes_at_the_terminal(place: Place, run, monkeypatch, words: list[str], said: str) -> None:
    monkeypatch.chdir(place.folder)
    code, _, err = run("jobs", *words, "--folder", place.folder / "studio")
    assert code == 2
    assert said in err


def test_the_queue_at_the_terminal_needs_neither_torch_nor_gradio(place: Place) -> None:
    code = (
        "import sys; from anyv2v.cli import app; app(['jobs', 'ls'], standalone_mode=False);"
        "sys.exit(bool({'torch', 'gradio', 'fastapi', 'uvicorn'} & sys.modules.keys()))"
    )
    place.desk.submit(place.flow())
    environment = {**os.environ, "ANYV2V_STUDIO": str(place.desk.shelf.folder)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, "queued, 1" in done.stdout) == (0, True), done.stderr
