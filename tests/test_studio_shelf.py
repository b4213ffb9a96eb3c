"""The shelf: what people bring is named by its content, looked at before it is decoded, and never trusted."""

from __future__ import annotations

import io
import os
import struct
import time
import zlib
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anyv2v import read_image, write
from anyv2v.errors import ImageError, OptionError, OutputError, UserError, VideoError
from anyv2v.film import probe
from anyv2v.studio.limits import Limits, TooLarge, TooSlow, Unknown
from anyv2v.studio.shelf import Shelf, studio_folder
from anyv2v.video import Clip
from clips import film, number, numbered
from conftest import scene

LIMITS = Limits(upload_bytes=2_000_000, seconds=5, side=256, frames=100)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "studio", LIMITS)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty numbered frames at 10 fps."""
    return film(tmp_path_factory.mktemp("film") / "clip.mp4", [numbered(k) for k in range(20)], Fraction(10))


def files(shelf: Shelf) -> list[str]:
    return sorted(
        path.relative_to(shelf.folder).as_posix() for path in shelf.folder.rglob("*") if path.is_file()
    )


# -- what is taken in


def test_a_clip_is_named_by_its_content(shelf: Shelf, clip: Path) -> None:
    facts = shelf.add_clip(clip, "walk.mp4")
    assert (facts.name, facts.size, facts.fps, facts.frames, facts.seconds) == (
        "walk.mp4",
        "64x48",
        10,
        20,
        2,
    )
    assert (facts.kind, facts.audio, facts.bytes) == ("mp4", False, clip.stat().st_size)
    assert files(shelf) == [f"clips/{facts.id}.json", f"clips/{facts.id}.mp4"]
    assert shelf.clip_file(facts.id).read_bytes() == clip.read_bytes()
    with clip.open("rb") as stream:
        again = shelf.add_clip(stream, "the same")
    assert (again.id, shelf.clip(facts.id).name) == (facts.id, "the same")


@pytest.mark.parametrize("kind", ["gif", "webp", "mkv", "avi", "ts", "mp4"])
def test_every_kind_the_reader_takes_whatever_it_is_called(shelf: Shelf, tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"clip.{kind}"
    if kind in ("gif", "webp"):
        write(path, scene(), 8)
    else:
        film(path, list(scene()))
    facts = shelf.add_clip(path, "holiday.docx")
    assert (facts.kind, facts.size) == (kind, "96x64")
    assert len(list(Clip(shelf.clip_file(facts.id)))) == 6
    assert len(list(Clip(shelf.film(facts.id)))) == 6
    assert probe(shelf.film(facts.id)).codec in ("h264", "vp9")


def test_the_copy_that_is_played_is_as_long_as_the_clip_however_few_frames_a_job_may_edit(
    tmp_path: Path,
) -> None:
    shelf = Shelf(tmp_path / "studio", Limits(frames=2))
    film(tmp_path / "clip.avi", list(scene()))
    facts = shelf.add_clip(tmp_path / "clip.avi", "clip.avi")
    assert len(list(Clip(shelf.film(facts.id)))) == 6


@pytest.mark.parametrize(
    ("mode", "suffix", "kept"),
    [
        ("RGB", "jpg", "RGB"),
        ("RGBA", "png", "RGBA"),
        ("L", "bmp", "RGB"),
        ("P", "gif", "RGB"),
        ("LA", "png", "RGBA"),
        ("I;16", "png", "RGB"),
        ("CMYK", "tiff", "RGB"),
    ],
)
def test_pictures_are_written_anew(shelf: Shelf, tmp_path: Path, mode: str, suffix: str, kept: str) -> None:
    picture = Image.new(mode, (40, 30))
    picture.save(tmp_path / f"p.{suffix}")
    facts = shelf.add_image(tmp_path / f"p.{suffix}", "me.png")
    with Image.open(shelf.image_file(facts.id)) as image:
        assert (image.format, image.mode, image.size) == ("PNG", kept, (40, 30))


def test_a_picture_is_upright_and_keeps_no_secrets(shelf: Shelf, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "where I live"
    Image.new("RGB", (40, 30)).save(tmp_path / "p.jpg", exif=exif)
    facts = shelf.add_image(tmp_path / "p.jpg", "me.jpg")
    assert facts.size == "30x40"
    assert b"where I live" not in shelf.image_file(facts.id).read_bytes()


# -- what is refused


def png_of(width: int, height: int) -> bytes:
    """A PNG of so many pixels that holds none of them."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    )


def gif_of(width: int, height: int) -> bytes:
    return (
        b"GIF89a"
        + struct.pack("<HH", width, height)
        + b"\x00\x00\x00,\x00\x00\x00\x00"
        + b"\x01\x00\x01\x00\x00\x02\x02D\x01\x00;"
    )


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A film of 640x16, larger than the tests' studio takes."""
    return film(tmp_path_factory.mktemp("wide") / "wide.mp4", [np.zeros((16, 640, 3), np.uint8)] * 3)


def boxed(path: Path, width: int) -> bytes:
    """An mp4 whose container says another width than its pictures have: ISO/IEC 14496-12, 8.5.2."""
    data = bytearray(path.read_bytes())
    at = data.index(b"avc1", data.index(b"stsd")) + 4 + 24
    struct.pack_into(">H", data, at, width)
    return bytes(data)


def refused(
    shelf: Shelf, content: bytes, error: type[UserError], message: str, *, image: bool = False
) -> None:
    """It is refused soon, by a sentence that shows no place of this machine, and nothing of it is left."""
    began, before = time.monotonic(), files(shelf)
    with pytest.raises(error, match=message) as caught:
        (shelf.add_image if image else shelf.add_clip)(io.BytesIO(content), "mine.mp4")
    assert time.monotonic() - began < 5
    assert str(shelf.folder) not in str(caught.value)
    assert "incoming" not in str(caught.value)
    assert files(shelf) == before


def test_a_bomb_is_refused_before_it_goes_off(shelf: Shelf, wide: Path) -> None:
    refused(shelf, wide.read_bytes(), TooLarge, "mine.mp4 is 640x16, more than 256 pixels a side")
    refused(shelf, boxed(wide, 64000), TooLarge, "pixels a side")
    refused(shelf, boxed(wide, 64), TooLarge, "pixels a side")
    refused(shelf, gif_of(65535, 65535), TooLarge, "pixels")
    refused(shelf, gif_of(300, 20), TooLarge, "mine.mp4 is 300x20")


@pytest.mark.parametrize(("width", "height"), [(60000, 60000), (10000, 10000), (257, 1)])
def test_a_picture_that_declares_too_much(shelf: Shelf, width: int, height: int) -> None:
    refused(shelf, png_of(width, height), TooLarge, "pixels", image=True)


def test_a_long_film_and_a_long_animation(shelf: Shelf, clip: Path, tmp_path: Path, monkeypatch) -> None:
    short = Shelf(tmp_path / "other", Limits(seconds=1.5))
    refused(short, clip.read_bytes(), VideoError, "lasts 2 s, more than 1.5 s; cut it first")
    write(tmp_path / "a.gif", scene(6), 8)
    monkeypatch.setattr("anyv2v.studio.shelf.ANIMATED_PIXELS", 5 * 96 * 64)
    refused(shelf, (tmp_path / "a.gif").read_bytes(), TooLarge, "has 6 pictures of 96x64")
    monkeypatch.setattr("anyv2v.studio.shelf.ANIMATED_BYTES", 1000)
    refused(shelf, (tmp_path / "a.gif").read_bytes(), TooLarge, "of more than 0.001 MB; make it a film")


def test_a_playlist_opens_no_other_file(shelf: Shelf, clip: Path) -> None:
    secret = f"file://{clip}"
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{secret}\n#EXT-X-ENDLIST\n"
    refused(shelf, playlist.encode(), VideoError, "no video at all")
    refused(shelf, f"ffconcat version 1.0\nfile '{clip}'\n".encode(), VideoError, "no video at all")


def test_a_wrong_kind_with_a_right_name(shelf: Shelf, clip: Path, tmp_path: Path) -> None:
    write(tmp_path / "p.gif", scene(1), 8)
    for content in (
        b"",
        b"hello",
        os.urandom(5000),
        b"%PDF-1.7\n%%EOF",
        png_of(10, 10),
        clip.read_bytes()[:400],
    ):
        refused(shelf, content, VideoError, "mine.mp4")
    for content in (b"", b"hello", clip.read_bytes(), png_of(10, 10), b"%!PS-Adobe-3.0 EPSF-3.0\n"):
        refused(shelf, content, ImageError, "mine.mp4", image=True)


def test_sound_alone_is_no_clip(shelf: Shelf, tmp_path: Path) -> None:
    import av

    with av.open(tmp_path / "sound.mp4", "w") as container:
        stream = container.add_stream("aac", rate=48000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.rate = 48000
        container.mux([*stream.encode(frame), *stream.encode(None)])
    refused(shelf, (tmp_path / "sound.mp4").read_bytes(), VideoError, "has no video stream")


def test_what_is_too_large_or_too_slow_stops_arriving(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "studio", Limits(upload_bytes=1000))
    refused(shelf, b"x" * 1001, TooLarge, "larger than 0.001 MB")
    shelf = Shelf(tmp_path / "studio", Limits(upload_seconds=1e-9))
    refused(shelf, b"x", TooSlow, "did not arrive within")


def test_what_cannot_be_read_or_kept(shelf: Shelf, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="is a directory"):
        shelf.add_clip(tmp_path, "folder")
    with pytest.raises(OptionError, match="no such file"):
        shelf.add_image(tmp_path / "none.png", "none")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be made"):
        Shelf(tmp_path / "file")


TRICKS = [
    "../../../etc/passwd",
    "/etc/passwd",
    "..\\..\\windows\\system32\\config",
    "C:\\autoexec.bat",
    "a\x00b.mp4",
    "\u202egnp.exe",
    "\ud800",
    "con\u0300\u0301.mp4",
    "．．／．．／etc",
    "~root",
    "-rf",
    "x" * 5000,
    "%2e%2e%2fpasswd",
    "",
    "..",
    "🎬.mp4",
]


@pytest.mark.parametrize("name", TRICKS)
def test_a_name_is_only_ever_shown(shelf: Shelf, clip: Path, tmp_path: Path, name: str) -> None:
    facts = shelf.add_clip(clip, name)
    assert files(shelf) == [f"clips/{facts.id}.json", f"clips/{facts.id}.mp4"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["studio"]
    assert 0 < len(facts.name) <= 80
    assert facts.name.isprintable()
    assert not set("/\\\x00") & set(facts.name)


@pytest.mark.parametrize("name", [*TRICKS, "0" * 32, "A" * 32, "0" * 31 + "/", "." * 32, "٣" * 32])
def test_an_id_is_never_a_path(shelf: Shelf, tmp_path: Path, name: str) -> None:
    (tmp_path / "studio" / "clips.json").write_text("{}")
    for look in (
        shelf.clip,
        shelf.image,
        shelf.clip_file,
        shelf.image_file,
        shelf.film,
        shelf.strip,
        shelf.first_frame,
    ):
        with pytest.raises(Unknown, match="there is no such"):
            look(name)
    with pytest.raises(Unknown):
        shelf.job_folder(name)


# -- looks


def test_the_strip_and_the_first_frame(shelf: Shelf, clip: Path, monkeypatch) -> None:
    name = shelf.add_clip(clip, "clip").id
    strip = shelf.strip(name, 5)
    assert [thumbnail.seconds for thumbnail in strip] == pytest.approx([0, 0.4, 0.8, 1.2, 1.6])
    assert [number(read_image(thumbnail.file)) for thumbnail in strip] == [0, 4, 8, 12, 16]
    monkeypatch.setattr("anyv2v.studio.shelf.WHOLE", 0)  # as a long clip is looked through
    assert [number(read_image(thumbnail.file)) for thumbnail in shelf.strip(name, 4)] == [0, 5, 10, 15]
    assert number(read_image(shelf.first_frame(name, 0.7))) == 7
    assert shelf.first_frame(name, 0.7).suffix == ".png"
    with pytest.raises(VideoError, match=r"^clip: has 0 frames at 10 fps from 9 s on"):
        shelf.first_frame(name, 9)


# -- order


def test_what_nobody_needs_is_cleared_away_in_time(shelf: Shelf, clip: Path, tmp_path: Path) -> None:
    used, unused = shelf.add_clip(clip, "used"), shelf.add_image(_dot(tmp_path), "unused")
    shelf.strip(used.id, 2)
    (shelf.folder / "incoming" / "left").write_bytes(b"x")
    (shelf.folder / "jobs" / ("a" * 16)).mkdir()
    (shelf.folder / "jobs" / ("b" * 16)).mkdir()
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    (shelf.folder / "jobs" / "link").symlink_to(precious)
    assert shelf.clean({used.id}, {"a" * 16}) == []
    shelf.clean({used.id}, {"a" * 16}, older=-1)
    assert [path.name for path in (shelf.folder / "jobs").iterdir()] == ["a" * 16]
    assert not any((shelf.folder / "incoming").iterdir())
    assert shelf.clip_file(used.id).exists()
    assert (shelf.folder / "looks" / used.id).exists()
    assert (precious / "file").exists()
    with pytest.raises(Unknown, match="cleared away"):
        shelf.image(unused.id)


def test_what_is_in_use_stays(shelf: Shelf, clip: Path, tmp_path: Path) -> None:
    film, picture = shelf.add_clip(clip, "open"), shelf.add_image(_dot(tmp_path), "painted")
    for path in [*(shelf.folder / "clips").iterdir(), *(shelf.folder / "images").iterdir()]:
        os.utime(path, (0, 0))
    shelf.clip(film.id)
    shelf.image_file(picture.id)
    assert shelf.clean(set(), set()) == []


def test_a_clip_that_does_not_say_how_long_it_is(shelf: Shelf, tmp_path: Path) -> None:
    live = film(tmp_path / "in.mkv", [numbered(k) for k in range(40)], container_options={"live": "1"})
    assert Clip(live).info.duration is None
    facts = shelf.add_clip(live, "from a camera")
    assert (facts.frames, facts.seconds) == (40, pytest.approx(40 / facts.fps, rel=0.05))


def _dot(folder: Path) -> Path:
    Image.new("RGB", (2, 2)).save(folder / "dot.png")
    return folder / "dot.png"


def test_messages_speak_of_people_s_own_names(shelf: Shelf, clip: Path) -> None:
    facts = shelf.add_clip(clip, "my \\1 walk.mp4")
    said = shelf.spoken(f"{shelf.clip_file(facts.id)}: is bad; see {shelf.folder}/jobs/x", facts)
    assert said == "1 walk.mp4: is bad; see jobs/x"


def test_where_the_studio_is(monkeypatch, tmp_path: Path) -> None:
    for name in ("ANYV2V_STUDIO", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert studio_folder() == Path.home() / ".local/share/anyv2v/studio"
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert studio_folder() == tmp_path / "anyv2v/studio"
    monkeypatch.setenv("ANYV2V_STUDIO", "elsewhere")
    assert studio_folder() == Path("elsewhere")


@pytest.mark.parametrize("name", ["upload_bytes", "seconds", "side", "frames", "queued", "kept"])
def test_limits_that_let_nothing_through(name: str) -> None:
    with pytest.raises(OptionError, match=f"the limit of {name.replace('_', ' ')} is 0"):
        Limits(**{name: 0})
