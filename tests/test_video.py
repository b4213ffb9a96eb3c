"""Video in and out, on tiny clips that are built here."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tracemalloc
from collections.abc import Callable, Iterator
from fractions import Fraction
from math import inf, nan
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import numpy as np
import pytest
from av.stream import Disposition
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.GifImagePlugin import GifImageFile

from anyv2v import drafts
from anyv2v import film as films
from anyv2v.drafts import draft
from anyv2v.errors import ImageError, OptionError, OutputError, UserError, VideoError
from anyv2v.film import probe
from anyv2v.picture import Fit, Size, check_image_suffix, read_image, write_image
from anyv2v.video import AudioTrack, Clip, Video
from anyv2v.writing import check_output, write
from clips import beep, film, listen, number, numbered, onset, smooth, turn

FPS = Fraction(25)
BT709, BT601 = 1, 5
few = settings(max_examples=12, deadline=None)
rates = st.sampled_from([Fraction(8), Fraction(12), Fraction(24), Fraction(25), Fraction(30000, 1001)])
sides = st.integers(24, 50)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(1e-9, np.mean((a.astype(float) - b) ** 2))))


def numbers(clip: Clip) -> list[int]:
    return [number(frame) for frame in clip]


def names(folder: Path) -> list[str]:
    """All that is there, the hidden too."""
    return sorted(path.name for path in folder.iterdir())


def one_line(error: pytest.ExceptionInfo[UserError], path: Path) -> bool:
    return str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frames 0 to 99 at 25 fps, with key frames every 12 and B-frames between; a beep at 1.5 s."""
    path = tmp_path_factory.mktemp("counted") / "counted.mp4"
    return film(path, [numbered(k) for k in range(100)], FPS, options={"g": "12"}, sound=beep(1.5, 4.0))


# -- what is written can be read


@few
@given(
    st.sampled_from([(".mp4", 32), (".gif", 28), (".webp", 32), ("", 100)]),
    st.integers(1, 9),
    sides,
    sides,
    rates,
)
def test_round_trip(target: tuple[str, int], n: int, width: int, height: int, fps: Fraction) -> None:
    suffix, decibels = target
    frames = np.stack([smooth(k, width, height) for k in range(n)])
    with TemporaryDirectory() as folder:
        path = write(Path(folder) / f"out{suffix}", frames, fps)
        clip = Clip(path) if suffix else Clip(path, fps=fps)
        got = clip.read().frames
    if suffix == ".mp4":
        assert got.shape[1:3] == (height + height % 2, width + width % 2)
        got = got[:, :height, :width]
    assert len(got) == n == clip.info.frames
    assert psnr(got, frames) > decibels


@few
@given(st.sampled_from([".mp4", ".gif", ".webp"]), st.integers(12, 30), rates)
def test_every_frame_comes_once_at_its_own_rate(suffix: str, n: int, fps: Fraction) -> None:
    with TemporaryDirectory() as folder:
        clip = Clip(write(Path(folder) / f"out{suffix}", map(numbered, range(n)), fps))
        assert numbers(clip) == list(range(n))
    assert float(clip.rate) == pytest.approx(float(fps), rel=0.01)


@pytest.mark.parametrize(
    ("suffix", "codec"), [("mkv", "libx264"), ("webm", "libvpx-vp9"), ("mov", "libx264"), ("avi", "mpeg4")]
)
def test_films_of_other_containers(tmp_path: Path, suffix: str, codec: str) -> None:
    fps = Fraction(24000, 1001)
    clip = Clip(film(tmp_path / f"in.{suffix}", [numbered(k) for k in range(30)], fps, codec=codec))
    assert numbers(clip) == list(range(30))
    assert clip.rate == fps


def test_a_lasting_rate_survives_the_rounding_of_animations(tmp_path: Path) -> None:
    for suffix in ("gif", "webp"):
        assert probe(write(tmp_path / f"out.{suffix}", map(numbered, range(16)), Fraction(8))).fps == 8


def test_info(counted: Path) -> None:
    info = probe(counted)
    assert (info.width, info.height, info.fps, info.frames, info.duration) == (64, 48, 25, 100, 4.0)
    assert (info.codec, info.pixel_format, info.audio, info.rotation) == ("h264", "yuv420p", "aac", 0)
    assert "mp4" in info.container
    assert str(info.size) == "64x48"


# -- time


@few
@given(st.integers(0, 90), st.integers(1, 10))
def test_frames_from_any_start(counted: Path, first: int, n: int) -> None:
    assert numbers(Clip(counted, start=first / 25, frames=n)) == list(range(first, first + n))


def test_duration_is_an_upper_bound(counted: Path) -> None:
    assert numbers(Clip(counted, start=1.0, duration=0.2)) == [25, 26, 27, 28, 29]
    assert numbers(Clip(counted, start=3.8, duration=9.0)) == [95, 96, 97, 98, 99]


def test_other_rates_show_what_is_on_screen(counted: Path) -> None:
    slow = Clip(counted, fps=Fraction(8))
    assert numbers(slow) == [k * 25 // 8 for k in range(32)]
    assert numbers(Clip(counted, frames=6, fps=Fraction(50))) == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("name", ["gaps.mkv", "gaps.mp4"])
@few
@given(gaps=st.lists(st.integers(2, 30), min_size=2, max_size=12), start=st.integers(0, 20))
def test_uneven_times(name: str, gaps: list[int], start: int) -> None:
    """Pictures at multiples of 20 ms, read at 50 fps: a picture is on until the next one comes."""
    onsets = np.cumsum([0, *gaps])
    expected = [int(np.searchsorted(onsets, t, side="right")) - 1 for t in range(onsets[-1] + 1)]
    frames = [numbered(k) for k in range(len(onsets))]
    with TemporaryDirectory() as folder:
        times = [Fraction(int(t), 50) for t in onsets]
        path = film(Path(folder) / name, frames, Fraction(50), times=times, options={"bf": "0"})
        assert numbers(Clip(path, fps=Fraction(50)))[: len(expected)] == expected
        first = min(start, onsets[-1])
        assert numbers(Clip(path, start=first / 50, frames=1, fps=Fraction(50))) == [expected[first]]


def test_spans_that_are_not_there(counted: Path) -> None:
    with pytest.raises(VideoError, match=r"has 5 frames at 25 fps from 3\.8 s on, not 16"):
        Clip(counted, start=3.8, frames=16).read()
    with pytest.raises(VideoError, match="has 0 frames at 25 fps from 99 s on, not one"):
        Clip(counted, start=99).read()


@pytest.mark.parametrize("suffix", ["mkv", "ts", "gif", "webp", ""])
def test_start_past_the_end(tmp_path: Path, suffix: str) -> None:
    path, frames = tmp_path / f"in.{suffix}".rstrip("."), [numbered(k) for k in range(10)]
    film(path, frames) if suffix in ("mkv", "ts") else write(path, frames, FPS)
    with pytest.raises(VideoError, match="has 0 frames"):
        Clip(path, start=9.0).read()


@pytest.mark.parametrize(
    "options",
    [
        {"frames": 2, "duration": 1.0},
        {"frames": 0},
        *({"start": value} for value in (-1.0, nan, inf, 1e300)),
        *({"duration": value} for value in (0.0, -1.0, nan, inf, 1e300)),
        *({"fps": value} for value in (0, 0.0, Fraction(0), -8, nan, inf, -inf, 0.009, 1001)),
    ],
)
def test_options_out_of_range(options: dict[str, float]) -> None:
    with pytest.raises(OptionError, match=rf"^{next(iter(options))}\b.*$"):
        Clip("in.mp4", **options)


def test_options_at_the_edge_of_their_range() -> None:
    assert Clip("in.mp4", start=0, frames=1, fps=0.01).rate == Fraction(1, 100)
    assert Clip("in.mp4", duration=1e-9, fps=1000).rate == 1000


SPANS = [
    {},
    {"start": 0.3},
    {"start": 0.3, "duration": 0.5},
    {"duration": 99.0},
    {"duration": 0.001},
    {"start": 0.2, "frames": 7},
    {"fps": 12.5},
    {"start": 0.41, "fps": Fraction(10)},
    {"fps": Fraction(50)},
    {"start": 0.2, "duration": 0.7, "fps": Fraction(30000, 1001)},
]


@pytest.mark.parametrize("fps", [Fraction(24000, 1001), Fraction(25), Fraction(60)])
@pytest.mark.parametrize("name", ["in.mp4", "in.mkv", "in.gif", "in.webp", "in"])
def test_the_number_of_frames_is_known_before(tmp_path: Path, name: str, fps: Fraction) -> None:
    record = film if name in ("in.mp4", "in.mkv") else write
    path = record(tmp_path / name, [numbered(k) for k in range(40)], fps)
    for span in SPANS:
        clip = Clip(path, **span)
        assert clip.expected == len(list(clip)), span
    assert Clip(path, start=99.0).expected == 0
    assert Clip(path, start=clip.info.duration - 0.2, frames=40).expected < 40


def test_a_container_may_not_say_how_long_it_is(tmp_path: Path) -> None:
    path = film(tmp_path / "in.mkv", [numbered(k) for k in range(9)], container_options={"live": "1"})
    assert Clip(path).info.frames is Clip(path).info.duration is Clip(path).expected is None
    assert Clip(path, duration=0.2).expected is None
    assert Clip(path, frames=3).expected == 3


# -- pixels


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation(tmp_path: Path, degrees: int) -> None:
    stored = np.zeros((48, 64, 3), np.uint8)
    stored[:24, :32] = 255  # bright at the top left
    path = turn(film(tmp_path / "in.mp4", [stored, stored]), degrees)
    upright = next(iter(Clip(path)))
    corners = {"top right": (8, -8), "bottom right": (-8, -8), "bottom left": (-8, 8), "top left": (8, 8)}
    bright = [name for name, at in corners.items() if upright[at].min() > 200]
    assert bright == [list(corners)[degrees // 90 - 1]]
    info = probe(path)
    assert Size.of(upright) == info.size == (Size(64, 48) if degrees == 180 else Size(48, 64))
    assert info.rotation == 360 - degrees


SATURATED = [
    (255, 0, 0),
    (0, 255, 0),
    (0, 0, 255),
    (255, 255, 0),
    (0, 255, 255),
    (255, 0, 255),
    (200, 30, 90),
]


@pytest.mark.parametrize(
    ("matrix", "tagged", "height"),
    [(BT709, True, 32), (BT601, True, 720), (BT601, False, 32), (BT709, False, 720)],
)
def test_colours_by_the_matrix_of_the_stream(tmp_path: Path, matrix: int, tagged: bool, height: int) -> None:
    """By its tag; without one, by the convention that 720 lines and more are bt709."""
    flat = [np.full((height, 32, 3), colour, np.uint8) for colour in SATURATED]
    path = film(tmp_path / "in.mp4", flat, options={"qp": "0"}, matrix=matrix, tagged=tagged)
    got = Clip(path).read().frames.astype(int)
    assert np.abs(got - np.stack(flat)).max() <= 3


def test_mp4_is_bt709_in_fact_and_by_its_tags(tmp_path: Path) -> None:
    path = write(tmp_path / "out.mp4", [np.full((32, 32, 3), colour, np.uint8) for colour in SATURATED], FPS)
    with av.open(path) as container:
        context = container.streams.video[0].codec_context
        tags = context.colorspace, context.color_primaries, context.color_trc, context.color_range
        stored = [frame.to_ndarray()[[5, 34, 42], 5] for frame in container.decode(video=0)]
    assert tags == (1, 1, 1, 1)  # bt709 three times, limited range (ITU-T H.273)
    red, green, blue = np.transpose(SATURATED) / 255
    luma = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    expected = 16 + 219 * luma, 128 + 224 * (blue - luma) / 1.8556, 128 + 224 * (red - luma) / 1.5748
    assert np.abs(np.array(stored) - np.transpose(expected)).max() <= 2


def test_mp4_starts_before_it_has_all_come(tmp_path: Path) -> None:
    data = write(tmp_path / "out.mp4", map(numbered, range(3)), FPS).read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


@pytest.mark.parametrize(("milliseconds", "rate"), [(10, 100), (20, 50), (30, Fraction(100, 3)), (40, 25)])
def test_animations_whose_pictures_last_alike(tmp_path: Path, milliseconds: int, rate: Fraction) -> None:
    pictures = [Image.fromarray(numbered(k)) for k in range(10)]
    first, *others = pictures
    first.save(tmp_path / "in.gif", save_all=True, append_images=others, duration=milliseconds)
    clip = Clip(tmp_path / "in.gif")
    assert (clip.rate, numbers(clip)) == (rate, list(range(10)))


def test_an_animation_quicker_than_its_clock(tmp_path: Path) -> None:
    first, second = (Image.fromarray(numbered(k)) for k in range(2))
    first.save(tmp_path / "in.webp", save_all=True, append_images=[second], duration=1)
    assert Clip(tmp_path / "in.webp").rate > 100


def test_a_film_that_changes_its_size(tmp_path: Path) -> None:
    """As one that is recorded live may; players scale it."""
    with av.open(tmp_path / "in.mkv", "w") as container:
        stream = container.add_stream("mjpeg", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for k, (height, width) in enumerate([(48, 64), (24, 32)]):
            encoder = av.CodecContext.create("mjpeg", "w")
            encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuvj420p"
            encoder.time_base = 1 / FPS
            picture = av.VideoFrame.from_ndarray(np.full((height, width, 3), 200, np.uint8))
            picture = picture.reformat(format="yuvj420p")
            picture.pts, picture.time_base = k, 1 / FPS
            for packet in encoder.encode(picture):
                packet.stream, packet.pts, packet.dts = stream, k, k
                container.mux(packet)
    assert Clip(tmp_path / "in.mkv").read().frames.shape == (2, 48, 64, 3)


def test_sound_that_nothing_can_decode(tmp_path: Path) -> None:
    whole = film(tmp_path / "in.mkv", [numbered(k) for k in range(9)], sound=beep(0.1, 0.3)).read_bytes()
    (tmp_path / "odd.mkv").write_bytes(whole.replace(b"A_AAC", b"A_XYZ"))
    clip = Clip(tmp_path / "odd.mkv")
    assert (clip.info.audio, clip.audio, len(list(clip))) == (None, None, 9)


def test_animations_that_others_made(tmp_path: Path) -> None:
    images = [Image.fromarray(numbered(k)) for k in range(5)]
    durations = [100, 100, 300, 100, 200]
    for name in ("in.gif", "in.webp"):
        images[0].save(tmp_path / name, save_all=True, append_images=images[1:], duration=durations)
        assert numbers(Clip(tmp_path / name, fps=Fraction(10))) == [0, 1, 2, 2, 2, 3, 4, 4]
        assert numbers(Clip(tmp_path / name, start=0.4, frames=2, fps=Fraction(10))) == [2, 3]


# -- images


def test_folders_and_patterns_in_natural_order(tmp_path: Path) -> None:
    for k in (10, 9, 2, 1):
        write_image(tmp_path / f"{k}.png", numbered(k))
    (tmp_path / "notes.txt").write_text("no image")
    assert numbers(Clip(tmp_path)) == [1, 2, 9, 10]
    assert numbers(Clip(tmp_path / "*.png", start=0.25)) == [9, 10]
    assert numbers(Clip(tmp_path, fps=Fraction(24))) == [1, 2, 9, 10]
    assert numbers(Clip(tmp_path / "9.png", fps=Fraction(24))) == [9]
    assert probe(tmp_path).fps == 8


def test_images_of_two_sizes(tmp_path: Path) -> None:
    write_image(tmp_path / "1.png", numbered(1))
    write_image(tmp_path / "2.png", numbered(2, 32, 32))
    with pytest.raises(VideoError, match=r"2\.png: is 32x32, but the first image is 64x48"):
        Clip(tmp_path).read()


def test_image_upright_on_white_in_8_bits(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise by 90 degrees
    Image.fromarray(numbered(5)).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "turned.png"), np.rot90(numbered(5), -1))
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (read_image(tmp_path / "clear.png") == 255).all()
    Image.fromarray(np.full((4, 4), 32768, np.uint16)).save(tmp_path / "deep.png")
    assert (read_image(tmp_path / "deep.png") == 128).all()


def test_image_round_trip(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read_image(write_image(tmp_path / "a.png", numbered(7))), numbered(7))
    assert psnr(read_image(write_image(tmp_path / "a.jpg", smooth(1, 32, 32))), smooth(1, 32, 32)) > 35


def test_images_are_replaced_only_if_allowed(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png", numbered(7))
    with pytest.raises(OutputError, match=r"a\.png: exists already; --overwrite"):
        write_image(path, numbered(8))
    assert number(read_image(path)) == 7
    write_image(path, numbered(9), overwrite=True)
    np.testing.assert_array_equal(read_image(path), numbered(9))
    assert names(tmp_path) == ["a.png"]


def test_images_that_their_format_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        write_image(tmp_path / "wide.webp", np.zeros((1, 17000, 3), np.uint8))
    assert names(tmp_path) == []


def test_a_link_to_nowhere_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to(tmp_path / "none")
    with pytest.raises(OutputError, match="exists already"):
        drafts.check_file(tmp_path / "a.png", overwrite=False)


def test_suffixes_of_images() -> None:
    assert check_image_suffix("a.PNG") == Path("a.PNG")
    for name in ("a.mp4", "a.foo", "png"):
        for refuse in (check_image_suffix, lambda name: write_image(name, numbered(7))):
            with pytest.raises(OutputError, match=r"unknown suffix; use one of \.bmp") as error:
                refuse(name)
            assert one_line(error, Path(name))


def test_an_image_of_far_too_many_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_image(tmp_path / "a.png", smooth(1, 50, 50))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ImageError, match="more pixels than a picture should have"):
        read_image(path)
    write(tmp_path / "a.gif", [smooth(1, 50, 50)] * 2, FPS)
    with pytest.raises(VideoError, match="more pixels than a picture should have"):
        probe(tmp_path / "a.gif")


def test_images_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    whole = write_image(tmp_path / "whole.png", smooth(1, 50, 50)).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    for name in ("missing.png", "text.png", "cut.png", "."):
        with pytest.raises(ImageError) as error:
            read_image(tmp_path / name)
        assert one_line(error, tmp_path / name)


# -- files that are no video, or no longer one


def _cut(path: Path, share: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def _noise(n: int) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 255, (n, 48, 64, 3), np.uint8))


BROKEN: dict[str, tuple[str, Callable[[Path], object]]] = {
    "missing": ("in.mp4", lambda path: path),
    "empty": ("in.mp4", lambda path: path.touch()),
    "text": ("in.mp4", lambda path: path.write_text("no video\n" * 400)),
    "folder without images": ("in", lambda path: path.mkdir()),
    "pattern without images": ("*.png", lambda path: path),
    "text as gif": ("in.gif", lambda path: path.write_text("no video\n" * 400)),
    "index missing": ("in.mp4", lambda path: _cut(film(path, _noise(20)), 0.9)),
    "mp4 cut": (
        "in.mp4",
        lambda p: _cut(film(p, _noise(50), container_options={"movflags": "faststart"}), 0.6),
    ),
    "mkv cut": ("in.mkv", lambda path: _cut(film(path, _noise(50)), 0.6)),
    "webm cut": ("in.webm", lambda path: _cut(film(path, _noise(50), codec="libvpx-vp9"), 0.6)),
    "gif cut": ("in.gif", lambda path: _cut(write(path, _noise(9), FPS), 0.6)),
    "webp cut": ("in.webp", lambda path: _cut(write(path, _noise(9), FPS), 0.6)),
}


@pytest.mark.parametrize("case", BROKEN)
def test_clips_that_cannot_be_read(tmp_path: Path, case: str) -> None:
    name, spoil = BROKEN[case]
    spoil(tmp_path / name)
    with pytest.raises(VideoError) as error:
        Clip(tmp_path / name).read()
    assert one_line(error, tmp_path / name)


def test_sound_is_no_video_not_even_with_a_cover(tmp_path: Path) -> None:
    with av.open(tmp_path / "in.mp3", "w") as container:
        stream = container.add_stream("libmp3lame", rate=48000, layout="mono")
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        container.mux(cover.encode(av.VideoFrame.from_ndarray(numbered(0)).reformat(format="yuvj420p")))
        sound = av.AudioFrame.from_ndarray(beep(0, 1)[None], format="fltp", layout="mono")
        sound.rate = 48000
        container.mux([*stream.encode(sound), *stream.encode(None)])
    with pytest.raises(VideoError, match=r"in\.mp3: has no video stream"):
        probe(tmp_path / "in.mp3")


def test_video_holds_rgb_frames() -> None:
    assert Video(np.zeros((2, 4, 6, 3), np.uint8), FPS).size == Size(6, 4)
    for shape, dtype in (((4, 6, 3), np.uint8), ((2, 4, 6, 1), np.uint8), ((2, 4, 6, 3), np.float32)):
        with pytest.raises(VideoError, match="a video is"):
            Video(np.zeros(shape, dtype), FPS)


# -- sound


def test_sound_stays_in_step(tmp_path: Path, counted: Path) -> None:
    clip = Clip(counted)
    heard = listen(write(tmp_path / "out.mp4", clip, clip.rate, clip.audio))
    assert onset(heard) == pytest.approx(1.5, abs=0.002)
    assert np.abs(heard).max() == pytest.approx(0.5, abs=0.05)
    assert len(heard) / 48000 == pytest.approx(4.0, abs=0.03)


@few
@given(start=st.integers(0, 70), n=st.integers(1, 30))
def test_sound_is_cut_to_the_span(counted: Path, start: int, n: int) -> None:
    clip = Clip(counted, start=start / 25, frames=n)
    with TemporaryDirectory() as folder:
        path = write(Path(folder) / "out.mp4", clip, clip.rate, clip.audio)
        heard = listen(path)
        assert probe(path).frames == n
    assert len(heard) / 48000 == pytest.approx(n / 25, abs=0.03)  # AAC counts in blocks of 21 ms
    if start / 25 < 1.49 < (start + n) / 25 - 0.02:
        assert onset(heard) == pytest.approx(1.5 - start / 25, abs=0.002)


@pytest.mark.parametrize("suffix", ["mkv", "mov"])
def test_sound_of_other_containers(tmp_path: Path, suffix: str) -> None:
    frames = [numbered(k) for k in range(50)]
    clip = Clip(film(tmp_path / f"in.{suffix}", frames, sound=beep(1.0, 2.0)), start=0.4)
    heard = listen(write(tmp_path / "out.mp4", clip, clip.rate, clip.audio))
    assert onset(heard) == pytest.approx(0.6, abs=0.02)


def test_sound_of_its_own_length(tmp_path: Path, counted: Path) -> None:
    frames = [numbered(k) for k in range(50)]
    short = listen(write(tmp_path / "short.mp4", frames, FPS, AudioTrack(counted, 1.0, duration=0.7)))
    assert len(short) / 48000 == pytest.approx(0.7, abs=0.03)
    ends = listen(write(tmp_path / "ends.mp4", frames, FPS, AudioTrack(counted, start=3.0)))
    assert len(ends) / 48000 == pytest.approx(1.0, abs=0.03)


def test_formats_without_sound_drop_it(tmp_path: Path, counted: Path) -> None:
    clip = Clip(counted, frames=2)
    assert Clip(write(tmp_path / "out.gif", clip, clip.rate, clip.audio)).audio is None
    assert Clip(write(tmp_path / "out", clip, clip.rate, clip.audio)).audio is None


# -- outputs


def test_outputs_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "taken.mp4").touch()
    (tmp_path / "mixed").mkdir()
    (tmp_path / "mixed" / "thesis.txt").touch()
    for name, message in {
        "out.avi": "unknown suffix",
        "missing/out.mp4": "there is no folder",
        "file/out.mp4": "there is no folder",
        "file": "is a file",
        "folder.mp4": "is a folder",
        "taken.mp4": "--overwrite",
        "mixed": "--overwrite",
    }.items():
        with pytest.raises(OutputError, match=message) as error:
            check_output(tmp_path / name)
        assert one_line(error, tmp_path / name)
    with pytest.raises(OutputError, match="other files than frames"):
        check_output(tmp_path / "mixed", overwrite=True)


def test_outputs_have_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in (".", "", "..", "/"):
        for refuse in (check_output, lambda path: write(path, [numbered(0)], FPS, overwrite=True)):
            with pytest.raises(OutputError, match="is no name for an output"):
                refuse(path)
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["out.mp4", "out.gif", "out.webp", "out"])
def test_overwrite(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, map(numbered, range(3)), FPS)
    with pytest.raises(OutputError, match="exists already"):
        write(tmp_path / name, map(numbered, range(2)), FPS)
    write(tmp_path / name, map(numbered, range(2)), FPS, overwrite=True)
    assert numbers(Clip(tmp_path / name)) == [0, 1]
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["out.mp4", "out.gif", "out.webp", "out"])
@pytest.mark.parametrize("good", [0, 3])
def test_interruption_leaves_nothing(tmp_path: Path, name: str, good: int) -> None:
    def interrupted() -> Iterator[np.ndarray]:
        yield from map(numbered, range(good))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / name, interrupted(), FPS)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_vanishes(tmp_path: Path) -> None:
    def frames() -> Iterator[np.ndarray]:
        yield from map(numbered, range(3))
        shutil.rmtree(tmp_path / "disk")

    (tmp_path / "disk").mkdir()
    with pytest.raises(OutputError, match=r"out\.mp4: cannot be written"):
        write(tmp_path / "disk" / "out.mp4", frames(), FPS)


# -- drafts


def make(path: Path, content: str) -> None:
    """A file, or without a suffix a folder with one frame, that holds this."""
    if not path.suffix:
        path.mkdir()
        path /= "00000.png"
    path.write_text(content)


def held(path: Path) -> str:
    return (path if path.suffix else path / "00000.png").read_text()


kinds = pytest.mark.parametrize("name", ["out.json", "out"])


@kinds
def test_a_draft_is_published_whole(tmp_path: Path, name: str) -> None:
    for content, overwrite in (("first", False), ("second", True)):
        with draft(tmp_path / name, overwrite=overwrite) as temporary:
            make(temporary, content)
            assert temporary.parent == tmp_path
            assert temporary.name.startswith(".")
            assert content == "second" or not (tmp_path / name).exists()
        assert held(tmp_path / name) == content
        assert names(tmp_path) == [name]


@kinds
@pytest.mark.parametrize("failure", [KeyboardInterrupt, ValueError])
def test_a_failed_draft_leaves_no_trace(tmp_path: Path, name: str, failure: type[BaseException]) -> None:
    make(tmp_path / name, "old")
    with pytest.raises(failure), draft(tmp_path / name, overwrite=True) as temporary:
        make(temporary, "new")
        raise failure
    assert names(tmp_path) == [name]
    assert held(tmp_path / name) == "old"


@kinds
@pytest.mark.parametrize("checked", [True, False])
def test_what_came_meanwhile_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, checked: bool
) -> None:
    """Even if it came just after the check."""
    if not checked:
        monkeypatch.setattr(drafts, "check_replaceable", lambda *_: None)
    message = "exists already" if checked else "cannot be written"
    with (
        pytest.raises(OutputError, match=f"{name}: {message}"),
        draft(tmp_path / name, overwrite=False) as temporary,
    ):
        make(temporary, "mine")
        make(tmp_path / name, "theirs")
    assert names(tmp_path) == [name]
    assert held(tmp_path / name) == "theirs"


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write(tmp_path / "out", map(numbered, range(2)), FPS)
    assert numbers(Clip(tmp_path / "out")) == [0, 1]


def test_a_folder_that_came_to_hold_more_than_frames_stays(tmp_path: Path) -> None:
    def frames() -> Iterator[np.ndarray]:
        yield numbered(1)
        (tmp_path / "out" / "thesis.txt").touch()

    write(tmp_path / "out", [numbered(0)], FPS)
    with pytest.raises(OutputError, match="other files than frames"):
        write(tmp_path / "out", frames(), FPS, overwrite=True)
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["00000.png", "thesis.txt"]


@kinds
def test_a_file_is_no_folder(tmp_path: Path, name: str) -> None:
    other = tmp_path / name
    with pytest.raises(OutputError, match="use another name"), draft(other, overwrite=True) as temporary:
        make(temporary, "mine")
        (Path.mkdir if other.suffix else Path.touch)(other)
    assert names(tmp_path) == [name]


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("step", ["aside", "into place"])
def test_an_interruption_between_two_folders_loses_neither(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, late: bool
) -> None:
    rename = Path.rename

    def interrupted(self: Path, target: Path) -> Path:
        if (self.name == "out") != (step == "aside"):
            return rename(self, target)
        monkeypatch.setattr(Path, "rename", rename)
        if late:
            rename(self, target)
        raise KeyboardInterrupt

    make(tmp_path / "out", "old")
    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), draft(tmp_path / "out", overwrite=True) as temporary:
        make(temporary, "new")
    assert names(tmp_path) == ["out"]
    assert held(tmp_path / "out") == ("new" if late and step == "into place" else "old")


def test_disks_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(source: Path, target: Path) -> None:
        if target.name == "taken.json":
            target.write_text("theirs")
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", link)
    with draft(tmp_path / "out.json", overwrite=False) as temporary:
        temporary.write_text("mine")
    with (
        pytest.raises(OutputError, match="cannot be written"),
        draft(tmp_path / "taken.json", overwrite=False) as temporary,
    ):
        temporary.write_text("mine")
    assert names(tmp_path) == ["out.json", "taken.json"]
    assert [held(tmp_path / name) for name in names(tmp_path)] == ["mine", "theirs"]


def test_a_link_to_nowhere_is_something(tmp_path: Path) -> None:
    (tmp_path / "out.mp4").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OutputError, match="exists already"):
        check_output(tmp_path / "out.mp4")
    write(tmp_path / "out.mp4", [numbered(3)], FPS, overwrite=True)
    assert names(tmp_path) == ["out.mp4"]


@pytest.mark.parametrize("parent", ["missing", "file"])
def test_drafts_in_no_folder(tmp_path: Path, parent: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"a\.png: cannot be written") as error:
        write_image(tmp_path / parent / "a.png", numbered(0))
    assert one_line(error, tmp_path / parent / "a.png")


def test_a_clip_can_replace_itself(tmp_path: Path) -> None:
    path = write(tmp_path / "out.mp4", map(numbered, range(6)), FPS)
    write(path, Clip(path, start=0.08), FPS, overwrite=True)
    assert numbers(Clip(path)) == [2, 3, 4, 5]


# -- memory


def test_reading_stops_with_the_last_frame_asked_for(counted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    converted: list[object] = []
    develop = films._upright_rgb
    monkeypatch.setattr(films, "_upright_rgb", lambda *given: converted.append(given) or develop(*given))
    clip = Clip(counted, start=2.0, frames=3)
    assert numbers(clip) == [50, 51, 52]
    assert len(converted) == 3


def test_animations_are_decoded_for_their_times_and_for_their_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[object] = []
    load_end = GifImageFile.load_end
    monkeypatch.setattr(GifImageFile, "load_end", lambda image: decoded.append(image) or load_end(image))
    clip = Clip(write(tmp_path / "in.gif", map(numbered, range(9)), FPS))
    assert clip.info is clip.info
    assert clip.size == Size(64, 48)
    assert clip.expected == 9
    assert len(decoded) == 9 + 1  # the first once more, for its size
    assert numbers(clip) == list(range(9))
    assert len(decoded) == 9 + 9


@pytest.mark.parametrize("suffix", [".mp4", ""])
def test_memory_does_not_grow_with_length(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"in{suffix}", (smooth(k, 256, 256) for k in range(60)), FPS)
    tracemalloc.start()
    write(tmp_path / "out.mp4", Clip(path), FPS)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 12 * 256 * 256 * 3


@pytest.mark.parametrize("name", ["out.mp4", "out.gif", "out.webp", "out"])
def test_frames_are_taken_one_by_one(tmp_path: Path, name: str) -> None:
    taken = 0

    def frames() -> Iterator[np.ndarray]:
        nonlocal taken
        for taken in range(1, 6):
            yield numbered(taken)

    source = frames()
    write(tmp_path / name, (next(source) for _ in range(2)), FPS)
    assert taken == 2


# -- fitting

sizes = st.builds(Size, st.integers(1, 90), st.integers(1, 90))
modes = st.sampled_from(["crop", "letterbox", "stretch"])


def random_frame(size: Size) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (size.height, size.width, 3), np.uint8)


@settings(max_examples=60, deadline=None)
@given(sizes, sizes, modes)
def test_fit_gives_the_sizes_asked_for(source: Size, target: Size, mode: str) -> None:
    fit, frame = Fit(source, target, mode), random_frame(source)
    laid = fit.apply(frame)
    assert Size.of(laid) == target
    assert Size.of(fit.undo(laid, frame)) == source


@few
@given(sizes, modes)
def test_fit_of_one_size_changes_nothing(size: Size, mode: str) -> None:
    fit, frame = Fit(size, size, mode), random_frame(size)
    np.testing.assert_array_equal(fit.apply(frame), frame)
    np.testing.assert_array_equal(fit.undo(frame, np.zeros_like(frame)), frame)


@few
@given(sizes, sizes)
def test_stretch_is_pillows_lanczos(source: Size, target: Size) -> None:
    frame = random_frame(source)
    expected = Image.fromarray(frame).resize((target.width, target.height), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(Fit(source, target, "stretch").apply(frame), np.asarray(expected))


@few
@given(st.builds(Size, st.integers(40, 90), st.integers(40, 90)), modes)
def test_fit_and_back(source: Size, mode: str) -> None:
    fit, frame = Fit(source, Size(96, 96), mode), smooth(3, source.width, source.height)
    assert psnr(fit.undo(fit.apply(frame), frame), frame) > 35


@pytest.mark.parametrize(
    ("mode", "shape"), [("crop", (20, 20)), ("letterbox", (10, 10)), ("stretch", (20, 10))]
)
def test_fit_keeps_the_aspect_unless_stretched(mode: str, shape: tuple[int, int]) -> None:
    """A grey square in the middle of a wide frame."""
    frame = np.full((40, 80, 3), 60, np.uint8)
    frame[10:30, 30:50] = 200
    bright = Fit(Size(80, 40), Size(40, 40), mode).apply(frame)[:, :, 0] > 130
    rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
    assert (len(rows), len(columns)) == shape


def test_crop_is_laid_back_without_a_hard_edge() -> None:
    fit, source = Fit(Size(200, 100), Size(100, 100)), np.zeros((100, 200, 3), np.uint8)
    laid = fit.undo(np.full((100, 100, 3), 200, np.uint8), source)[:, :, 0].astype(int)
    assert (laid[:, :50] == 0).all()
    assert (laid[:, 150:] == 0).all()
    assert (laid[:, 70:130] == 200).all()
    assert np.abs(np.diff(laid, axis=1)).max() <= 20
    assert (laid == laid[0]).all()  # top and bottom are the picture's own borders


def test_letterbox_has_black_bars() -> None:
    laid = Fit(Size(80, 40), Size(40, 40), "letterbox").apply(np.full((40, 80, 3), 255, np.uint8))
    assert (laid[:10] == 0).all()
    assert (laid[10:30] == 255).all()
    assert (laid[30:] == 0).all()


def test_size_has_a_written_form() -> None:
    assert str(Size.parse(" 512X320 ")) == "512x320"
    for text in ("512", "0x512", "512x", "512x-3", "a x b"):
        with pytest.raises(OptionError, match=re.escape(repr(text))):
            Size.parse(text)


@pytest.mark.parametrize("name", ["out.mp4", "out.gif", "out"])
def test_without_frames_there_is_no_video(tmp_path: Path, name: str) -> None:
    with pytest.raises(VideoError, match="there are no frames to write"):
        write(tmp_path / name, [], 8)
    assert not list(tmp_path.iterdir())
