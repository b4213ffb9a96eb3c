"""The studio's page, used as a person does in a real browser, with the studio in a process of its own.

With STUDIO_SHOTS=folder every state of the page is written there as a picture.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anyv2v import Clip, write, write_image
from anyv2v.picture import read_image
from conftest import scene

SHOTS = os.environ.get("STUDIO_SHOTS")
LAPTOP = {"width": 1366, "height": 650}  # 1366x768 less what a browser takes
PATIENCE = 60_000  # milliseconds; a model is loaded on the way
NAMELESS = """() => [...document.querySelectorAll("button, input, select, textarea, a[href], [role=slider]")]
    .filter((thing) => thing.offsetParent && !thing.closest("[aria-hidden=true]"))
    .filter((thing) => !(thing.ariaLabel || thing.title || thing.textContent.trim() || thing.labels?.length))
    .map((thing) => thing.outerHTML)"""
STRAY = """() => [...document.querySelectorAll("#run, .transport, .strip, .view")].filter((thing) => {
    const box = thing.getBoundingClientRect();
    return thing.offsetParent && (box.bottom > innerHeight || box.right > innerWidth);
}).map((thing) => thing.className)"""


WATCH = """() => {
    window.told = [];
    const look = () => told.push(document.querySelector(".card .text").textContent);
    new MutationObserver(look).observe(document.querySelector(".cards"), { subtree: true, childList: true });
    look();
}"""


class Studio:
    """A studio with a tiny model, that can be stopped and opened again."""

    def __init__(self, folder: Path, model: str) -> None:
        self.folder = folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.link = f"http://127.0.0.1:{self.port}/"
        places = ["--folder", str(folder / "studio"), "--port", str(self.port), "--model", f"tiny={model}"]
        self.command = [sys.executable, "-m", "anyv2v", "studio", "--no-browser", "--device", "cpu", *places]
        self.frames = scene(12, 128, 64)
        write(folder / "walk.mp4", self.frames, 8)
        write_image(folder / "edited.png", 255 - self.frames[0])

    def open(self) -> None:
        env = {**os.environ, "ANYV2V_CACHE": str(self.folder / "cache"), "OMP_NUM_THREADS": "1"}
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(self.command, env=env, stdout=log, stderr=log)
        while self.process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except OSError:
                time.sleep(0.1)
        pytest.fail((self.folder / "log").read_text())

    def close(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(20)


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory, tiny: str) -> Iterator[Studio]:
    studio = Studio(tmp_path_factory.mktemp("studio"), tiny)
    studio.open()
    yield studio
    studio.close()


class Artist:
    """A person at the page."""

    def __init__(self, browser: Any, studio: Studio, scheme: str = "light") -> None:
        self.studio, self.scheme = studio, scheme
        self.page = browser.new_page(viewport=LAPTOP, color_scheme=scheme)
        self.page.set_default_timeout(PATIENCE)
        self.troubles: list[str] = []
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.troubles.append(str(error)))
        self.page.on("request", self._stay_at_home)
        self.page.goto(studio.link)
        self.page.wait_for_selector("#stage .target")

    def _hear(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.troubles.append(message.text)

    def _stay_at_home(self, request: Any) -> None:
        if not request.url.startswith((self.studio.link, "data:", "blob:")):
            self.troubles.append(request.url)

    def bring(self, name: str, where: str = "#stage") -> None:
        """A file of the studio's folder, to the place for one that is seen."""
        self.page.set_input_files(f"{where} .block[data-gone=false] .drop input", self.studio.folder / name)

    def begin(self) -> None:
        """A clip and its edited first frame, and on to the second stage."""
        self.bring("walk.mp4")
        self.page.wait_for_selector(".strip img")
        self.bring("edited.png", "#inspector")
        self.page.wait_for_selector(".screen[data-side=left]")
        self.click("Next: propagate")
        self.page.wait_for_selector("#run")

    def click(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).click()

    def choose(self, label: str, option: str) -> None:
        self.page.get_by_role("combobox", name=label).click()
        self.page.get_by_role("option", name=option, exact=True).click()

    def run(self, backbone: str, prompt: str = "", steps: int | None = None) -> None:
        """Start a job; its card is the first."""
        before = self.page.locator(".card").count()
        self.choose("Carried by", backbone)
        if prompt:
            self.page.get_by_label("Prompt", exact=True).fill(prompt)
        if steps:
            self.page.get_by_role("button", name="Advanced").click()
            for name in ("steps", "inversion steps"):
                self.page.get_by_label(name, exact=True).fill(str(steps))
        self.page.wait_for_selector("#run:not([disabled])")
        self.click("Run")
        self.page.wait_for_function("n => document.querySelectorAll('.card').length > n", arg=before)

    def reload(self) -> None:
        """The page anew; that gradio complains of what it had under way is no trouble."""
        before = len(self.troubles)
        self.page.reload()
        del self.troubles[before:]

    def wait(self, state: str) -> None:
        """For the newest job to be in a state."""
        self.page.wait_for_selector(f".card:first-child[data-state={state}]")

    def tracks(self) -> list[str]:
        """What can be shown beside the wipe by now."""
        return self.page.locator(".pick.right option:not([disabled])").all_inner_texts()

    def times(self) -> list[float]:
        return self.page.evaluate("[...document.querySelectorAll('video')].map((video) => video.currentTime)")

    def save(self, selector: str, name: str) -> Path:
        with self.page.expect_download() as waiting:
            self.page.locator(selector).first.click()
        waiting.value.save_as(self.studio.folder / name)
        return self.studio.folder / name

    def shoot(self, name: str) -> None:
        if SHOTS:
            self.page.wait_for_timeout(500)
            self.page.screenshot(path=Path(SHOTS) / f"{self.scheme}-{name}.png")

    def leave(self) -> None:
        assert self.page.evaluate(NAMELESS) == []
        assert self.page.evaluate(STRAY) == []
        assert self.troubles == []
        self.page.close()


@pytest.fixture(params=["light", *(["dark"] if SHOTS else [])])
def artist(browser: Any, studio: Studio, request: pytest.FixtureRequest) -> Iterator[Artist]:
    artist = Artist(browser, studio, request.param)
    yield artist
    print(*artist.troubles, (studio.folder / "log").read_text(), sep="\n")  # shown if the test failed
    artist.page.close()


def test_a_clip_and_its_edited_first_frame(artist: Artist) -> None:
    page, studio = artist.page, artist.studio
    artist.shoot("empty")
    (studio.folder / "fake.mp4").write_text("no video at all")
    artist.bring("fake.mp4")
    page.wait_for_selector("#stage .trouble:has-text('fake.mp4')")
    artist.shoot("refused")
    assert "422" in artist.troubles.pop()  # which a browser notes, and no more
    page.evaluate("document.activeElement.blur()")
    artist.bring("walk.mp4")
    page.wait_for_selector(".strip img")
    assert page.inner_text(".masthead .clip").split("\n") == [
        "walk.mp4",
        "128 × 64 · 8 fps · 12 frames · 1.50 s",
    ]

    handle = page.get_by_role("slider", name="Begin of the span")
    handle.focus()
    with page.expect_response("**/frame?start=0.125*"):
        page.keyboard.press("ArrowRight")
    assert page.inner_text(".said") == "0.13 – 1.50 s · 11 frames"
    handle.press("ArrowRight")
    page.wait_for_timeout(260)
    handle.press("ArrowLeft")  # when the span before is told, and not yet answered
    page.wait_for_timeout(1000)
    assert page.inner_text(".said") == "0.13 – 1.50 s · 11 frames"
    link = page.get_by_role("link", name="Download the first frame")
    assert "128 × 64 PNG" in link.inner_text()
    frame = read_image(artist.save("a:has-text('Download the first frame')", "first.png"))
    assert np.array_equal(frame, Clip(studio.folder / "walk.mp4").read().frames[1])

    artist.shoot("clip")
    assert page.get_by_role("button", name="Next: propagate").is_disabled()
    artist.bring("edited.png", "#inspector")
    page.wait_for_selector(".screen[data-side=left]")
    artist.shoot("edited")
    wipe = page.get_by_role("slider", name="Wipe between the two tracks")
    wipe.press("ArrowRight")
    assert wipe.get_attribute("aria-valuenow") == "52"
    artist.leave()


def test_an_editor_with_a_reference_and_a_painted_mask(artist: Artist) -> None:
    page = artist.page
    artist.bring("walk.mp4")
    page.wait_for_selector(".strip img")
    page.get_by_text("Edit it here").click()
    page.wait_for_selector("text=color needs a reference")
    artist.bring("edited.png", "#inspector")
    page.wait_for_selector("#inspector .kept")  # which moves what is below it
    artist.click("Paint a mask")
    page.wait_for_selector(".mask canvas")
    box = page.locator(".mask canvas").bounding_box()
    page.mouse.move(box["x"] + 5, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 4, box["y"] + box["height"] / 2, steps=4)
    page.mouse.up()
    artist.shoot("mask")
    artist.click("Use this mask")
    page.wait_for_selector("text=Remove the mask")
    artist.click("Paint the mask anew")
    page.wait_for_selector(".mask canvas")
    assert page.get_by_role("button", name="Undo").is_disabled()  # nothing is painted yet
    artist.click("Leave")
    artist.click("Edit the frame")
    page.wait_for_selector(".screen[data-side=left]")
    artist.shoot("editor")
    source, edited = (
        page.locator(f"img.screen[data-side={side}]").get_attribute("src") for side in ("left", "right")
    )
    source, edited = (read_image(_fetched(artist, url)).astype(int) for url in (source, edited))
    changed = np.abs(edited - source).max(axis=2) > 8
    assert changed[32, 4:28].mean() > 0.5  # the painted stroke
    assert not changed[:, 64:].any()
    artist.leave()


def _fetched(artist: Artist, url: str) -> Path:
    file = artist.studio.folder / "fetched.png"
    file.write_bytes(artist.page.request.get(artist.studio.link.rstrip("/") + url).body())
    return file


def test_optical_flow_played_and_taken_home(artist: Artist) -> None:
    page, studio = artist.page, artist.studio
    artist.begin()
    artist.run("flow")
    artist.wait("done")
    page.wait_for_selector("video[data-side=right]")
    page.wait_for_function("document.querySelectorAll('video').length === 2")
    for _ in range(3):
        page.wait_for_timeout(250)
        times = artist.times()
        assert max(times) - min(times) < 0.13
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("Space")
    held = artist.times()
    assert held == pytest.approx([held[0]] * 2)
    page.keyboard.press("ArrowRight")
    assert artist.times() == pytest.approx([(int(held[0] * 8) + 1) % 12 / 8 + 1 / 16] * 2)
    artist.shoot("flow")

    video = artist.save(".card:first-child a.video", "result.mp4")
    sidecar = json.loads(artist.save(".card:first-child a.sidecar", "result.json").read_text())
    assert sidecar["backbone"] == "flow"
    result = Clip(video).read()
    assert len(result) == 12
    off = [
        np.abs(result.frames[0].astype(int) - frame).mean()
        for frame in (255 - studio.frames[0], studio.frames[0])
    ]
    assert off[0] < off[1] / 4  # of the edited frame and of the source, which the codec has blurred
    artist.leave()


def test_diffusion_with_a_preview_and_one_that_is_cancelled(artist: Artist) -> None:
    page = artist.page
    artist.begin()
    artist.run("tiny", "a red texture", steps=10)
    page.evaluate(WATCH)
    page.wait_for_selector(".pick.right option[value=preview]:not([disabled])", state="attached")
    artist.wait("done")
    page.wait_for_function("document.querySelector('.pick.right').value === 'result'")
    assert artist.tracks() == ["Source", "Preview", "Result"]
    told = " ".join(page.evaluate("told"))
    assert re.search(r"(Inverting the source|Carrying the edit)\n\d+ of (10|9)\b", told)
    page.get_by_label("Left of the wipe").select_option("preview")
    assert page.locator("video[data-side=left]").get_attribute("aria-label") == "Preview"
    artist.shoot("done")

    for name, count in {"steps": 50, "inversion steps": 500}.items():
        page.get_by_label(name, exact=True).fill(str(count))
    page.get_by_label("Prompt", exact=True).fill("a texture that nobody waits for")
    artist.click("Run")
    page.wait_for_selector(".card:first-child :text('nobody waits')")
    page.wait_for_selector(".note progress[value]")
    artist.shoot("running")
    page.locator(".card:first-child .cancel").click()
    artist.wait("cancelled")
    page.wait_for_selector(".note:has-text('Cancelled')")
    artist.shoot("cancelled")
    page.locator(".card:first-child .remove").click()
    page.wait_for_selector(".card:first-child :text('a red texture')")

    page.locator(".card:first-child .again").click()
    expect = pytest.importorskip("playwright.sync_api").expect
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("a red texture")
    expect(page.get_by_label("inversion steps", exact=True)).to_have_value("10")
    artist.reload()  # the tab knows where it was
    page.wait_for_selector("video[data-side=right]")
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("a red texture")
    assert page.inner_text(".masthead .name") == "walk.mp4"
    artist.leave()


def test_an_answer_that_was_held_back_comes_soon(artist: Artist) -> None:
    """As where gradio closes the stream of answers while something is asked."""
    page, closed = artist.page, 'data: {"msg": "close_stream", "event_id": null}\n\n'
    page.wait_for_timeout(1000)  # all that the page asks at first is answered
    page.route(
        "**/queue/data*", lambda route: route.fulfill(content_type="text/event-stream", body=closed), times=1
    )
    page.get_by_text("Edit it here").click()
    page.get_by_role("combobox", name="Editor").wait_for(timeout=15_000)
    artist.leave()


def test_a_job_outlives_the_server(artist: Artist) -> None:
    page, studio = artist.page, artist.studio
    artist.begin()
    artist.run("tiny", "a texture that is made in two goes", steps=25)
    page.wait_for_selector(".note progress[value]")
    studio.close()
    page.wait_for_selector(".lost")
    artist.shoot("lost")
    studio.open()
    page.wait_for_selector(".lost", state="hidden")
    artist.wait("done")
    page.wait_for_selector("video[data-side=right]")
    artist.shoot("after")
