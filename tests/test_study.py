"""The human evaluation without a browser: what is shown, what is kept, what is counted."""

from __future__ import annotations

import http.client
import io
import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist
from threading import Thread
from typing import Any

import pytest
from rich.console import Console

from anyv2v import Clip, read_image, write, write_image
from anyv2v.errors import OptionError, OutputError
from anyv2v.evaluation.manifest import write_manifest
from anyv2v.evaluation.results import Results
from anyv2v.evaluation.study.ballot import LETTERS, UNEDITED, Round, ballot
from anyv2v.evaluation.study.server import StudyServer
from anyv2v.evaluation.study.slates import slates
from anyv2v.evaluation.study.tally import (
    fleiss_kappa,
    krippendorff_alpha,
    study_report,
    study_table,
    tally,
    wilson,
)
from anyv2v.evaluation.study.votes import VOTES, Vote, Votes
from anyv2v.film import probe
from clips import film
from study_folder import FPS, METHODS, moving, study_folder


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Six entries of three methods; tests may only read it."""
    names = {f"entry{k}": ("prompt", 3) for k in range(4)}
    folder = tmp_path_factory.mktemp("study") / "results"
    return study_folder(folder, {**names, "styled": ("style", 3), "replaced": ("subject", 2)})


# ---- coefficients


def spread(tables: str) -> list[list[int]]:
    """Subjects from a table of how many raters chose each category, in hexadecimal digits."""
    return [[k for k, n in enumerate(row) for _ in range(int(n, 16))] for row in tables.split()]


PSYCHIATRISTS = """
    00060 03003 01401 00006 03030 20400 00402 20310 20040 00006 10050 11040 03300 10050 02031
    00501 30012 51000 02040 10203 00006 01050 02013 20040 10041 05010 40002 02040 10500 00006"""
FOURTEEN = "0000e 02642 00356 03920 22811 77000 32630 25322 65210 02237"


@pytest.mark.parametrize(("table", "kappa"), [(PSYCHIATRISTS, 0.430), (FOURTEEN, 0.210)])
def test_fleiss_kappa_as_published(table: str, kappa: float) -> None:
    """Fleiss (1971): 30 patients, 6 psychiatrists, 5 diagnoses; and 10 subjects of 14 raters."""
    assert fleiss_kappa(spread(table)) == pytest.approx(kappa, abs=5e-4)


@pytest.mark.parametrize(
    ("observers", "alpha"),
    [
        (("aabbdcccedda", "babbbccceddd"), 0.692),
        (("123321412...", "1233224125.3", ".3332342251.", "12332441251."), 0.743),
    ],
)
def test_krippendorff_alpha_as_published(observers: Sequence[str], alpha: float) -> None:
    """Krippendorff (2011), sections B and C: nominal data of two observers, and of four with gaps."""
    units = [[value for value in unit if value != "."] for unit in zip(*observers, strict=True)]
    assert krippendorff_alpha(units) == pytest.approx(alpha, abs=5e-4)


@pytest.mark.parametrize("coefficient", [fleiss_kappa, krippendorff_alpha])
def test_agreement_at_its_ends(coefficient: Any) -> None:
    assert coefficient(["aaa", "bbb", "c"]) == 1
    assert coefficient(["ab", "ba", "ab"]) < 0
    assert coefficient(["aa", "a"]) is None
    assert coefficient(["a", "b"]) is None
    assert coefficient([]) is None


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (3, 10), (10, 10), (81, 263), (1, 1)])
def test_wilson_solves_its_equation(successes: int, trials: int) -> None:
    """Both ends are the shares that lie z standard errors, at their own rate, from what was seen."""
    found, z = wilson(successes, trials), NormalDist().inv_cdf(0.975)
    assert found.mean == successes / trials
    for end in (found.low, found.high):
        assert (found.mean - end) ** 2 == pytest.approx(z**2 * end * (1 - end) / trials, abs=1e-12)
    assert 0 <= found.low < found.high <= 1


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_as_published(successes: int, trials: int, low: float, high: float) -> None:
    """Newcombe (1998), Table I, method 3."""
    found = wilson(successes, trials)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)


# ---- counting


def voted(rater: int, entry: str, aligned: str, favourite: str, shown: str = "abc", **more: Any) -> Vote:
    return Vote(rater, entry, more.pop("task", "prompt"), tuple(shown), tuple(aligned), favourite, **more)


def test_shares_by_hand() -> None:
    votes = [
        voted(1, "one", "ab", "a"),
        voted(2, "one", "a", "a"),
        voted(3, "one", "ab", "b"),
        voted(1, "two", "", "a", shown="ab"),  # c has not made it
        voted(1, "face", "c", "c", task="identity"),
    ]
    report = tally(votes)
    counts = {
        (row.task, row.method): (row.alignment.mean, row.preference.mean, row.votes, row.raters)
        for row in report.rows
    }
    assert counts == {
        ("prompt", "a"): (3 / 4, 3 / 4, 4, 3),
        ("prompt", "b"): (2 / 4, 1 / 4, 4, 3),
        ("prompt", "c"): (0, 0, 3, 3),
        ("identity", "a"): (0, 0, 1, 1),
        ("identity", "b"): (0, 0, 1, 1),
        ("identity", "c"): (1, 1, 1, 1),
        ("all", "a"): (3 / 5, 3 / 5, 5, 3),
        ("all", "b"): (2 / 5, 1 / 5, 5, 3),
        ("all", "c"): (1 / 4, 1 / 4, 4, 3),
    }
    assert (report.votes, report.raters, report.left_out) == (5, 3, 0)
    prompt, identity, _ = report.agreement
    assert prompt.preference == pytest.approx(fleiss_kappa(["aab"]))
    assert prompt.alignment == pytest.approx(krippendorff_alpha([[1, 1, 1], [1, 0, 1], [0, 0, 0]]))
    assert (identity.alignment, identity.preference) == (None, None)


@pytest.mark.parametrize(("failed", "counts"), [(0, True), (1, True), (2, False), (3, False)])
def test_raters_who_fail_more_than_a_third_of_their_checks_are_left_out(failed: int, counts: bool) -> None:
    def check(k: int) -> Vote:
        fooled = (UNEDITED, "a") if k < failed else ("a",)
        return Vote(1, f"entry{k}", "prompt", (UNEDITED, "a", "b"), fooled, UNEDITED, check=True)

    report = tally([voted(1, "one", "a", "a"), voted(2, "one", "b", "b"), *map(check, range(3))])
    assert (report.raters, report.left_out, report.votes) == ((2, 0, 2) if counts else (1, 1, 1))
    assert {row.method: row.votes for row in report.rows} == dict.fromkeys("abc", 1 + counts)


def test_a_report_for_people_and_machines() -> None:
    report = tally([voted(1, "one", "ab", "a"), voted(2, "one", "a", "b")])
    again = json.loads(json.dumps(report.as_dict()))
    assert again["rows"][0]["alignment"]["mean"] == 1
    assert again["agreement"][0]["preference"] == report.agreement[0].preference
    screen = io.StringIO()
    Console(width=120, file=screen).print(study_table(report))
    text = screen.getvalue()
    assert "50.0 [9.5, 90.5]" in text
    assert "(Krippendorff's alpha): prompt 0.44" in text
    assert "votes: 2, raters: 2; inattentive raters left out: 0" in text


# ---- votes


def test_a_double_click_counts_once_and_the_last_vote_holds(tmp_path: Path) -> None:
    votes = Votes(tmp_path / "votes.db")
    votes.raters(at_least=2)
    first, other = voted(1, "one", "a", "a"), voted(2, "one", "", "c")
    for vote in (first, first, other, replace(first, check=True), replace(first, favourite="b")):
        votes.save(vote)
    assert votes.read() == [replace(first, favourite="b"), replace(first, check=True), other]
    assert votes.read(2) == [other]


def test_tokens_stay_when_raters_come(tmp_path: Path) -> None:
    votes = Votes(tmp_path / "votes.db")
    two = votes.raters(at_least=2)
    assert votes.raters() == two
    five = votes.raters(at_least=5)
    assert list(five.values()) == [1, 2, 3, 4, 5]
    assert five.items() > two.items()
    assert min(map(len, five)) >= 20


def test_a_file_that_holds_no_votes(tmp_path: Path) -> None:
    (tmp_path / "votes.db").write_text("notes of mine, long enough for a header of a database")
    with pytest.raises(OutputError, match=r"votes\.db: cannot keep votes"):
        Votes(tmp_path / "votes.db").raters()


def test_votes_are_synced_to_the_disk(tmp_path: Path) -> None:
    with Votes(tmp_path / "votes.db")._opened() as base:
        assert base.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert base.execute("PRAGMA synchronous").fetchone() == (2,)


# ---- rounds


def test_every_entry_comes_once_in_an_order_of_the_raters_own(results: Results) -> None:
    rows = slates(results)
    ones, others = ballot(rows, "one"), ballot(rows, "other")
    for rounds in (ones, others):
        real = [found for found in rounds if not found.check]
        assert sorted(found.slate.entry.name for found in real) == sorted(e.name for e in results.entries)
        assert all(set(found.shown) == set(found.slate.clips) for found in real)
    assert [found.key for found in ones] != [found.key for found in others]
    assert ballot(rows, "one") == ones
    assert len({found.id for found in ones + others}) == len(ones + others)


def test_methods_take_every_place(results: Results) -> None:
    """With blinding all letters are as likely for all methods."""
    rows = [row for row in slates(results) if len(row.clips) == 3]
    counts = dict.fromkeys(((method, place) for method in METHODS[:3] for place in range(3)), 0)
    for rater in range(60):
        for found in ballot(rows, str(rater)):
            if not found.check:
                for place, method in enumerate(found.shown):
                    counts[method, place] += 1
    assert all(75 <= count <= 125 for count in counts.values())  # 300 rounds, standard deviation 8


@pytest.mark.parametrize(("entries", "checks"), [(1, 1), (2, 2), (3, 3), (6, 3), (24, 3), (89, 11)])
def test_checks_repeat_what_was_rated_with_the_source_in_it(
    results: Results, entries: int, checks: int
) -> None:
    row = slates(results)[0]
    rows = [replace(row, entry=replace(row.entry, name=f"{k}")) for k in range(entries)]
    rounds = ballot(rows, "token")
    seen: list[Round] = []
    for found in rounds:
        if found.check:
            (original,) = (other for other in seen if other.key == (found.slate.entry.name, False))
            assert found.shown.count(UNEDITED) == 1
            assert set(found.shown) < {UNEDITED, *original.shown}
            assert len(found.shown) == len(original.shown)
            unedited = LETTERS[found.shown.index(UNEDITED)]
            assert found.media[unedited] == found.media["source"]
            assert found.media_id(unedited) != found.media_id("source")
        seen.append(found)
    assert sum(found.check for found in rounds) == checks
    assert len({found.key for found in rounds}) == len(rounds) == entries + checks


def test_a_new_entry_moves_no_other_round(results: Results) -> None:
    rows = slates(results)
    before = [found.id for found in ballot(rows[1:], "token") if not found.check]
    after = [found.id for found in ballot(rows, "token") if not found.check]
    assert [found for found in after if found in before] == before


def test_more_clips_than_letters(results: Results) -> None:
    row = slates(results)[0]
    many = replace(row, clips={str(k): row.source for k in range(10)})
    with pytest.raises(OptionError, match="has 10 clips; 9 can be compared"):
        ballot([many], "token")


# ---- clips


def test_what_no_browser_plays_is_copied(tmp_path: Path) -> None:
    results = study_folder(tmp_path / "results", {"one": ("style", 2), "alone": ("prompt", 1)})
    (results.folder / "inputs" / "one.reference.png").unlink()
    write_image(results.folder / "inputs" / "one.png", moving(9, 9)[0])
    gif, old = results.folder / METHODS[2] / "one.gif", results.folder / METHODS[3] / "one.mp4"
    write(gif, moving(99, 99), FPS)
    film(old, list(moving(50, 99)), codec="mpeg4")
    (found,) = slates(results)  # what a single method has made cannot be compared
    assert found.reference == results.folder / "inputs" / "one.png"
    assert list(found.clips) == list(METHODS[:4])
    for path in found.clips.values():
        info = probe(path)
        assert (path.suffix, info.codec, info.pixel_format, info.frames) == (".mp4", "h264", "yuv420p", 8)
    assert found.clips[METHODS[0]] == results.folder / METHODS[0] / "one.mp4"
    assert "study" not in results.methods
    assert slates(results) == [found]


def test_inputs_are_made_where_other_tools_were_at_work_alone(tmp_path: Path) -> None:
    results = study_folder(tmp_path / "results", {"one": ("identity", 2)})
    for path in (results.folder / "inputs").iterdir():
        path.unlink()
    source, edited = tmp_path / "source.mp4", tmp_path / "edited.png"
    write(source, moving(0, 0, 20), FPS)
    (entry,) = results.entries
    entry = replace(entry, settings={**entry.settings, "clip": str(source), "first_frame": str(edited)})
    write_manifest(results.folder / "manifest.jsonl", [entry])
    results = Results(results.folder)
    with pytest.raises(OptionError, match="'one' has no reference and no edited first frame"):
        slates(results)
    write_image(edited, moving(7, 7)[0])
    (found,) = slates(results)
    assert len(Clip(found.source).read()) == 8
    assert found.reference is not None
    assert (read_image(found.reference) == moving(7, 7)[0]).all()


def test_nothing_to_compare(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="there is nothing to compare"):
        slates(study_folder(tmp_path / "results", {"one": ("prompt", 1)}))


def test_a_report_before_any_vote(results: Results, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="nobody has voted yet"):
        study_report(Results(tmp_path))


# ---- the server


@pytest.fixture(scope="module")
def server(results: Results) -> Iterator[StudyServer]:
    with StudyServer(results, port=0, raters=4) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


class Client:
    """Asks a server as a page does; paths go out as they are."""

    def __init__(self, link: str) -> None:
        self.host, _, path = link.removeprefix("http://").partition("/")
        self.home = f"/{path}"

    def ask(self, path: str, method: str = "GET", body: Any = None, **headers: str) -> tuple[int, Any, bytes]:
        connection = http.client.HTTPConnection(self.host, timeout=10)
        text = body if body is None or isinstance(body, str) else json.dumps(body)
        connection.request(method, path, text, headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, answer.headers, content

    def json(self, path: str, method: str = "GET", body: Any = None) -> Any:
        status, _, content = self.ask(self.home + path, method, body)
        assert status == 200, content
        return json.loads(content)


@pytest.fixture
def client(server: StudyServer) -> Client:
    return Client(server.links[1])


def test_it_listens_to_this_machine_alone(server: StudyServer) -> None:
    assert server.server_address[0] == "127.0.0.1"
    assert list(server.links) == [1, 2, 3, 4]
    assert len(set(server.links.values())) == 4


def test_nothing_that_is_sent_tells_of_methods_or_checks(server: StudyServer) -> None:
    client = Client(server.links[4])
    paths = ["/page.css", "/page.js", "/icon.svg", client.home]
    sent: list[bytes] = []
    sheet = client.json("/round")
    keys = set(sheet)
    for number in range(sheet["total"]):
        assert sheet["number"] == number
        assert set(sheet) == keys
        sent.append(json.dumps(sheet).encode())
        paths += [f"{client.home}/media/{name}" for name in sheet["media"].values()]
        sheet = client.json(f"/round/{sheet['id']}", "POST", {"aligned": [], "favourite": "a"})
    assert sheet["done"]
    for path in paths:
        status, headers, content = client.ask(path)
        assert status == 200
        assert headers["Content-Security-Policy"].startswith("default-src 'self';")
        sent += [content, str(headers).encode(), path.encode()]
    for method in METHODS:
        assert not any(method.encode() in part for part in sent)


def test_a_vote_comes_back_and_the_next_round_waits(server: StudyServer) -> None:
    client = Client(server.links[2])
    first = client.json("/round")
    assert (first["number"], first["total"], first["previous"], first["vote"]) == (0, 9, None, None)
    marks = {"aligned": ["b", "a"], "favourite": "b"}
    with ThreadPoolExecutor(4) as clicks:
        answers = list(clicks.map(lambda _: client.json(f"/round/{first['id']}", "POST", marks), range(8)))
    assert all(answer == answers[0] for answer in answers)
    second = answers[0]
    assert (second["number"], second["previous"]) == (1, first["id"])
    assert client.json("/round") == second
    assert client.json(f"/round/{first['id']}")["vote"] == {"aligned": ["a", "b"], "favourite": "b"}
    (vote,) = server.desks[client.home.rpartition("/")[2]].votes.read(2)
    found = server.desks[client.home.rpartition("/")[2]].rounds[0]
    assert vote.aligned == found.shown[:2]
    assert vote.favourite == found.shown[1]


@pytest.mark.parametrize(
    "body",
    [
        "",
        "no JSON",
        "[]",
        "7",
        {},
        {"aligned": ["a"]},
        {"aligned": ["a"], "favourite": None},
        {"aligned": ["a"], "favourite": []},
        {"aligned": ["z"], "favourite": "a"},
        {"aligned": 3, "favourite": "a"},
        {"aligned": [METHODS[0]], "favourite": METHODS[0]},
        {"aligned": [], "favourite": "a", "more": "x" * 5000},
    ],
)
def test_nonsense_is_no_vote(client: Client, body: Any) -> None:
    name = client.json("/round")["id"]
    assert client.ask(f"{client.home}/round/{name}", "POST", body)[0] == 400
    assert client.json("/round")["id"] == name


def test_a_page_older_than_the_study(client: Client) -> None:
    status, _, content = client.ask(f"{client.home}/round/gone", "POST", {"aligned": [], "favourite": "a"})
    assert status == 409
    assert b"load the page again" in content


@pytest.mark.parametrize("path", ["", "/round", "/round/x", "/media/x"])
@pytest.mark.parametrize("token", ["", "x", "..", "%2e%2e"])
def test_an_unknown_link(client: Client, token: str, path: str) -> None:
    status, _, content = client.ask(f"/rate/{token}{path}")
    assert status == 403
    assert b"not known" in content


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/../manifest.jsonl",
        "/%2e%2e/manifest.jsonl",
        "//etc/passwd",
        "/page.html/../manifest.jsonl",
        "/server.py",
        "/study/votes.db",
        "{home}/media/../../manifest.jsonl",
        "{home}/media/..%2f..%2fmanifest.jsonl",
        "{home}/media/%2e%2e/%2e%2e/manifest.jsonl",
        "{home}/media//etc/passwd",
        "{home}/media/%2fetc%2fpasswd",
        "{home}/media/{folder}/manifest.jsonl",
        "{home}/media/",
        "{home}/media/a",
        "{home}/media/%00",
        "{home}/",
    ],
)
def test_no_path_leads_to_a_file(client: Client, results: Results, path: str) -> None:
    status, _, content = client.ask(path.format(home=client.home, folder=results.folder))
    assert (status, content) == (404, b"There is nothing here.")


def test_media_belong_to_their_rater(server: StudyServer, client: Client) -> None:
    name = client.json("/round")["media"]["source"]
    assert client.ask(f"{client.home}/media/{name}")[0] == 200
    assert client.ask(f"{Client(server.links[3]).home}/media/{name}")[0] == 404


@pytest.mark.parametrize(
    ("wanted", "span"),
    [
        ("bytes=0-", (0, None)),
        ("bytes=0-99", (0, 100)),
        ("bytes=100-100", (100, 101)),
        ("bytes=500-999999", (500, None)),
        ("bytes=-40", (-40, None)),
        ("bytes=-999999", (0, None)),
    ],
)
def test_a_range_of_a_clip(
    server: StudyServer, client: Client, wanted: str, span: tuple[int, int | None]
) -> None:
    name = client.json("/round")["media"]["a"]
    whole = server.desks[client.home.rpartition("/")[2]].media[name].read_bytes()
    status, headers, content = client.ask(f"{client.home}/media/{name}", Range=wanted)
    assert status == 206
    assert content == whole[slice(*span)]
    start = range(len(whole))[slice(*span)].start
    assert headers["Content-Range"] == f"bytes {start}-{start + len(content) - 1}/{len(whole)}"
    assert headers["Content-Type"] == "video/mp4"


@pytest.mark.parametrize("wanted", ["bytes=999999-", "bytes=-0", "bytes=9-3"])
def test_a_range_beyond_a_clip(client: Client, wanted: str) -> None:
    name = client.json("/round")["media"]["a"]
    status, headers, content = client.ask(f"{client.home}/media/{name}", Range=wanted)
    assert (status, content) == (416, b"")
    assert headers["Content-Range"].startswith("bytes */")


@pytest.mark.parametrize("wanted", [None, "bytes=-", "bytes=0-1,5-6", "frames=0-1", "bytes=a-b"])
def test_a_whole_clip(client: Client, wanted: str | None) -> None:
    name = client.json("/round")["media"]["a"]
    status, headers, content = client.ask(
        f"{client.home}/media/{name}", **({"Range": wanted} if wanted else {})
    )
    assert (status, headers["Accept-Ranges"]) == (200, "bytes")
    assert len(content) == int(headers["Content-Length"])
    length = client.ask(f"{client.home}/media/{name}", "HEAD")[1]["Content-Length"]
    assert length == headers["Content-Length"]


def test_a_vote_that_cannot_be_kept_is_not_acknowledged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = study_folder(tmp_path / "results", {"one": ("prompt", 2)})
    with StudyServer(results, port=0) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        client = Client(server.links[1])
        name = client.json("/round")["id"]
        with sqlite3.connect(results.folder / VOTES) as base:
            base.execute("DROP TABLE vote")
            base.execute("CREATE TABLE vote (full)")
        base.close()
        status, _, content = client.ask(
            f"{client.home}/round/{name}", "POST", {"aligned": [], "favourite": "a"}
        )
        assert (status, content) == (500, b"The vote could not be kept; please try again.")
        assert "cannot keep votes" in capsys.readouterr().err
        server.shutdown()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    results = study_folder(tmp_path / "results", {"one": ("prompt", 2)})
    (results.folder / "study").write_text("in the way")
    with pytest.raises(OutputError, match="study: cannot be made: File exists"):
        StudyServer(results, port=0)


def test_an_address_that_cannot_be_had(results: Results, server: StudyServer) -> None:
    with pytest.raises(OptionError, match=r"cannot listen at 127\.0\.0\.1:\d+: .*port 0 takes a free one"):
        StudyServer(results, port=server.server_port)


SERVE = """
import sys
from pathlib import Path
from anyv2v.evaluation.results import Results
from anyv2v.evaluation.study.server import StudyServer
server = StudyServer(Results(Path(sys.argv[1])), port=0, raters=4)
print(*server.links.values(), flush=True)
server.serve_forever()
"""


def test_no_acknowledged_vote_is_lost_when_the_server_is_killed(tmp_path: Path) -> None:
    results = study_folder(tmp_path / "results", {f"entry{k}": ("prompt", 3) for k in range(8)})
    acknowledged: list[tuple[int, int, str]] = []
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, results.folder], stdout=subprocess.PIPE, text=True
    )
    with process, ThreadPoolExecutor(4) as raters:
        links = process.stdout.readline().split()

        def rate(number: int) -> None:
            client = Client(links[number])
            sheet = client.json("/round")
            while "id" in sheet:
                favourite = "abc"[len(acknowledged) % 3]
                answer = client.json(
                    f"/round/{sheet['id']}", "POST", {"aligned": [favourite], "favourite": favourite}
                )
                acknowledged.append((number + 1, sheet["number"], favourite))
                if len(acknowledged) >= 14:
                    process.send_signal(signal.SIGKILL)  # while others are in the middle of theirs
                sheet = answer

        outcomes = [raters.submit(rate, number) for number in range(4)]
        assert any(outcome.exception() for outcome in outcomes)
    assert 14 <= len(acknowledged) < 4 * 11

    with StudyServer(results, port=0, raters=4) as server:
        assert [link.rpartition("/")[2] for link in links] == list(server.desks)
        desks = {desk.rater: desk for desk in server.desks.values()}
    kept = {(vote.rater, vote.entry, vote.check): vote for vote in Votes(results.folder / VOTES).read()}
    for rater, number, favourite in acknowledged:
        found = desks[rater].rounds[number]
        vote = kept[(rater, *found.key)]
        assert vote.favourite == found.letters[favourite]
        assert vote.aligned == (found.letters[favourite],)
    assert len(acknowledged) <= len(kept) <= len(acknowledged) + 4
