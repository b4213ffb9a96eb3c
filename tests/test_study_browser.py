"""The page of the human evaluation, driven as a rater does in a real browser.

With STUDY_SHOTS=folder every state of the page is written there as a picture.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from anyv2v.evaluation.results import Results
from anyv2v.evaluation.study.ballot import UNEDITED, Round
from anyv2v.evaluation.study.server import StudyServer
from anyv2v.evaluation.study.tally import study_report
from study_folder import METHODS, study_folder

SHOTS = os.environ.get("STUDY_SHOTS")
LAPTOP = {"width": 1366, "height": 640}
LETTERS = "abcdef"
FITS = """() => [...document.querySelectorAll(".tile, footer > :not(.gone)")].every((thing) => {
    const box = thing.getBoundingClientRect();
    const inside = box.top >= 0 && box.left >= 0 && box.bottom <= innerHeight && box.right <= innerWidth;
    return inside && (!thing.matches(".tile") || box.width > 180);
}) && document.documentElement.scrollHeight <= innerHeight"""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    entries = {
        "two": ("prompt", 2),
        "three": ("style", 3),
        "four": ("prompt", 4),
        "five": ("subject", 5),
        "six": ("identity", 6),
    }
    return study_folder(tmp_path_factory.mktemp("study") / "results", entries)


@pytest.fixture(scope="module")
def server(results: Results) -> Iterator[StudyServer]:
    with StudyServer(results, port=0, raters=3) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


class Rater:
    """A person at the page, who sees letters alone; of the rounds the test knows what stands behind them."""

    def __init__(self, browser: Any, server: StudyServer, number: int, scheme: str = "light") -> None:
        self.link, self.scheme = server.links[number], scheme
        self.rounds = server.desks[self.link.rsplit("/", 1)[1]].rounds
        self.page = browser.new_page(viewport=LAPTOP, color_scheme=scheme)
        self.troubles: list[str] = []
        self.page.on("console", lambda message: self.troubles.append(message.text))
        self.page.on("pageerror", lambda error: self.troubles.append(str(error)))
        self.page.on("request", self._stay_at_home)
        self.page.goto(self.link)

    def _stay_at_home(self, request: Any) -> None:
        if not request.url.startswith(self.link.partition("/rate/")[0]):
            self.troubles.append(request.url)

    def begin(self) -> None:
        self.page.wait_for_selector("#intro", state="visible")
        self.shoot("intro")
        self.press("Enter")
        self.wait(1)

    def wait(self, number: int) -> None:
        """For the round of this number to be there, or after the last one for the thanks."""
        total = len(self.rounds)
        title = f"{number} of {total}" if number <= total else "Thank you"
        self.page.wait_for_function("title => document.title === title", arg=title)

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def pressed(self, kind: str) -> str:
        """The letters of the edits that are marked so."""
        tiles = self.page.locator(f".clip:has(.{kind}[aria-pressed=true])")
        return "".join(tile.get_attribute("data-letter") for tile in tiles.all())

    def times(self) -> list[float]:
        """Where each clip is, in seconds."""
        return self.page.evaluate("[...document.querySelectorAll('video')].map((video) => video.currentTime)")

    def shoot(self, name: str) -> None:
        if SHOTS:
            self.page.wait_for_timeout(300)  # until colours have changed
            self.page.screenshot(path=Path(SHOTS) / f"{self.scheme}-{name}.png")


def opinion(found: Round) -> tuple[str, str]:
    """The letters of what our rater marks, never the unedited source; and of the best by the alphabet."""
    methods = sorted(set(found.shown) - {UNEDITED})
    marked = [method for method in methods if (METHODS.index(method) + len(found.shown)) % 3]
    letters = dict(zip(found.shown, LETTERS, strict=False))
    return "".join(sorted(letters[method] for method in marked)), letters[methods[0]]


@pytest.mark.parametrize(("number", "scheme"), [(1, "light"), *([(2, "dark")] if SHOTS else [])])
def test_a_study_by_the_keyboard(browser, results, server, number: int, scheme: str) -> None:
    rater = Rater(browser, server, number, scheme)
    rater.begin()
    shown, marked, preferred = Counter[str](), Counter[str](), Counter[str]()
    for k, found in enumerate(rater.rounds, start=1):
        rater.wait(k)
        marks, best = opinion(found)
        assert not any(method in rater.page.content() for method in METHODS)
        assert rater.page.evaluate(FITS), f"{len(found.shown)} edits do not fit"
        rater.press("1", "1", "Enter", *(str(1 + LETTERS.index(letter)) for letter in marks), best)
        assert (rater.pressed("follows"), rater.pressed("best")) == (marks, best)
        if not found.check:
            rater.shoot(f"{len(found.shown)}-{found.slate.entry.task}")
            shown.update(found.shown)
            marked.update(found.letters[letter] for letter in marks)
            preferred[found.letters[best]] += 1
        rater.press("Enter")
    rater.wait(len(rater.rounds) + 1)
    rater.shoot("done")
    assert rater.troubles == []
    rater.page.close()

    report = study_report(results)
    assert (report.raters, report.left_out, report.votes) == (number, 0, 5 * number)
    rows = {row.method: row for row in report.rows if row.task == "all"}
    assert set(rows) == set(METHODS)
    for method, row in rows.items():  # all raters think alike
        assert row.votes == number * shown[method]
        assert row.alignment.mean == pytest.approx(marked[method] / shown[method])
        assert row.preference.mean == pytest.approx(preferred[method] / shown[method])


def test_the_clips_keep_in_step(browser, server) -> None:
    rater = Rater(browser, server, 3)
    rater.begin()
    for _ in range(5):  # beyond the end of the clips, which are a second long
        rater.page.wait_for_timeout(300)
        assert max(rater.times()) - min(rater.times()) < 0.1
    rater.press("Space")
    held = rater.times()
    assert len(set(held)) == 1
    frame = int(held[0] * 8)
    rater.press("ArrowRight")
    assert rater.times() == pytest.approx([((frame + 1) % 8 + 0.5) / 8] * len(held))
    rater.press("ArrowLeft", "ArrowLeft")
    assert rater.times() == pytest.approx([((frame - 1) % 8 + 0.5) / 8] * len(held))
    rater.press("Space")
    rater.page.wait_for_function("[...document.querySelectorAll('video')].every((video) => !video.paused)")
    assert rater.troubles == []
    rater.page.close()


def test_a_study_by_the_mouse_with_mishaps(browser, server) -> None:
    rater = Rater(browser, server, 3, "dark")
    rater.begin()
    page = rater.page
    page.click("#submit", force=True)
    assert "Choose the best one first" in page.inner_text("#hint")
    rater.shoot("nothing-chosen")
    page.click(".clip[data-letter=b] .follows")
    page.click(".clip[data-letter=a] .best")
    page.context.set_offline(True)
    page.click("#submit")
    page.wait_for_selector("#hint.trouble")
    assert "does not answer" in page.inner_text("#hint")
    rater.shoot("offline")
    page.context.set_offline(False)
    page.dblclick("#submit")
    rater.wait(2)
    page.reload()  # a rater comes back where they stopped
    rater.wait(2)
    rater.press("Backspace")
    rater.wait(1)
    assert (rater.pressed("follows"), rater.pressed("best")) == ("b", "a")
    rater.press("2", "b", "Enter")
    rater.wait(2)
    page.click("#back")
    rater.wait(1)
    assert (rater.pressed("follows"), rater.pressed("best")) == ("", "b")
    page.close()
