"""Rendered scenes, whose true edit is known, tell how well optical flow carries an edit."""

import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from anyv2v.errors import ImageError, OptionError
from anyv2v.flow import Flow, FlowCarrier, FlowReport

SIZE = 160
Look = Callable[[np.ndarray], np.ndarray]


def texture(seed: int, size: int = 2 * SIZE) -> np.ndarray:
    """Smooth coloured noise with detail at several scales, float32 0..1."""
    rng = np.random.default_rng(seed)
    scales = [cv2.GaussianBlur(rng.standard_normal((size, size, 3)), (0, 0), s) * s for s in (1.2, 3, 9)]
    return (0.5 + 0.18 * sum(scales)).clip(0.05, 0.95).astype(np.float32)


def shift(image: np.ndarray, x: float, y: float) -> np.ndarray:
    """A window on a larger image, at a subpixel place."""
    matrix = np.float32([[1, 0, SIZE / 2 + x], [0, 1, SIZE / 2 + y]])
    return cv2.warpAffine(image, matrix, (SIZE, SIZE), flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP)


def disc(radius: float) -> np.ndarray:
    y, x = np.mgrid[: 2 * SIZE, : 2 * SIZE] - SIZE + 0.5
    return np.clip(radius - np.hypot(x, y) + 0.5, 0, 1).astype(np.float32)[..., None]


def to_bytes(image: np.ndarray) -> np.ndarray:
    return np.rint(image.clip(0, 1) * 255).astype(np.uint8)


def same(image: np.ndarray) -> np.ndarray:
    return image


def redder(image: np.ndarray) -> np.ndarray:
    return image * np.float32([1, 0.3, 0.3]) + np.float32([0.15, 0, 0])


def dusk(image: np.ndarray) -> np.ndarray:
    return image @ np.float32([[0.5, 0.1, 0.1], [0.1, 0.5, 0.1], [0.1, 0.2, 0.7]]) + np.float32([0, 0, 0.1])


def scene(
    frames: int,
    thing: tuple[float, float] = (0, 0),
    camera: tuple[float, float] = (0, 0),
    look: Look = same,
    world_look: Look = same,
    radius: float = 32,
) -> tuple[np.ndarray, np.ndarray]:
    """A textured disc over a textured background, speeds in pixels per frame; and the mask of the disc."""
    body, world, outline = look(texture(1)), world_look(texture(2)), disc(radius)
    pictures, masks = [], []
    for k in range(frames):
        alpha = shift(outline, -k * thing[0], -k * thing[1])[..., None]
        inner, outer = shift(body, -k * thing[0], -k * thing[1]), shift(world, k * camera[0], k * camera[1])
        pictures.append(to_bytes(alpha * inner + (1 - alpha) * outer))
        masks.append(alpha[..., 0] > 0.5)
    return np.stack(pictures), np.stack(masks)


def carry(frames: np.ndarray, edited_first: np.ndarray) -> tuple[np.ndarray, FlowReport]:
    carried = Flow().carry(frames, edited_first)
    return np.stack(list(carried)), carried.report


def psnr(a: np.ndarray, b: np.ndarray, where: np.ndarray) -> float:
    error = (a.astype(np.float64) - b)[where]
    return float(10 * np.log10(255**2 / max((error**2).mean(), 1e-9)))


def beats(frames: np.ndarray, truth: np.ndarray, where: np.ndarray) -> tuple[float, float]:
    """PSNR of the result, and of the better of "nothing was edited" and "the first frame, frozen"."""
    result, _ = carry(frames, truth[0])
    frozen = np.broadcast_to(truth[0], truth.shape)
    score, idle, still = (psnr(x[1:], truth[1:], where[1:]) for x in (result, frames, frozen))
    return score, max(idle, still)


MOTIONS = {
    "slow": {"thing": (1.3, 0.7)},
    "quick": {"thing": (3.3, 1.7)},
    "against the camera": {"thing": (2.6, 0.0), "camera": (-1.5, 0.8)},
}


@pytest.mark.parametrize("motion", MOTIONS.values(), ids=MOTIONS)
def test_a_recoloured_thing_keeps_its_colour(motion: dict) -> None:
    (frames, mask), (truth, _) = scene(8, **motion), scene(8, **motion, look=redder)
    score, idle = beats(frames, truth, mask)
    assert score > 28
    assert score > idle + 10
    everywhere, idle = beats(frames, truth, np.ones_like(mask))
    assert everywhere > 29
    assert everywhere > idle + 6


def test_a_replaced_surface_moves_with_the_thing() -> None:
    def other(_: np.ndarray) -> np.ndarray:
        return texture(7)

    (frames, mask), (truth, _) = scene(8, thing=(2.3, 1.2)), scene(8, thing=(2.3, 1.2), look=other)
    score, idle = beats(frames, truth, mask)
    assert score > max(30, idle + 8)


def test_a_restyled_picture_fills_what_a_pan_reveals() -> None:
    camera = {"camera": (2.6, 1.3)}
    frames, _ = scene(8, **camera)
    truth, _ = scene(8, **camera, look=dusk, world_look=dusk)
    score, idle = beats(frames, truth, np.ones(frames.shape[:3], bool))
    assert score > max(36, idle + 10)


def test_a_change_of_light_reaches_new_content() -> None:
    frames, mask = scene(2)
    edited = frames[0].copy()
    edited[mask[0]] = to_bytes(shift(texture(7), 0, 0))[mask[0]]
    darker = (frames[1] * 0.8).round().astype(np.uint8)
    result, _ = carry(np.stack([frames[0], darker]), edited)
    assert psnr(result[1:], edited[None] * 0.8, mask[1:]) > 30


def hat(frames: np.ndarray, speed: float) -> np.ndarray:
    """A checkered piece drawn over the upper edge of the disc and the background, moving along."""
    y, x = np.mgrid[:SIZE, :SIZE]
    worn = frames.copy()
    for k, picture in enumerate(worn):
        u, v = x - SIZE / 2 - k * speed, y - (SIZE / 2 - 36)
        checks = np.where((u // 6 + v // 6) % 2 == 0, 250, 190)[..., None] * np.array([1, 1, 0.1])
        inside = (abs(u) < 14) & (abs(v) < 16)
        picture[inside] = checks[inside].astype(np.uint8)
    return worn


def test_a_hat_rides_on_its_head() -> None:
    frames, _ = scene(9, thing=(3.0, 0.0))
    worn = hat(frames, 3.0)
    result, _ = carry(frames, worn[0])
    drawn = np.abs(worn.astype(int) - frames).max(axis=3) > 60
    assert psnr(result[-1], worn[-1], drawn[-1]) > 18
    left = drawn[0] & ~drawn[-1]
    assert psnr(result[-1], frames[-1], left) > psnr(worn[0], frames[-1], left) + 10


@pytest.mark.parametrize(("height", "width"), [(8, 64), (15, 64), (64, 8)])
def test_what_is_too_small_is_refused(height: int, width: int) -> None:
    frames = np.zeros((2, height, width, 3), np.uint8)
    with pytest.raises(ImageError, match="optical flow needs 16 pixels a side"):
        list(Flow().carry(frames, frames[0]))


def test_an_unedited_first_frame_gives_back_the_source() -> None:
    frames, _ = scene(5, thing=(3.3, 1.7), camera=(0.7, 0))
    result, report = carry(frames, frames[0])
    np.testing.assert_array_equal(result, frames)
    assert report.warning is None


@settings(max_examples=10, deadline=None)
@given(arrays.arrays(np.uint8, (2, 8, 12, 3)), st.integers(64, 120), st.integers(64, 120))
def test_a_still_clip_gives_back_any_edit(blocks: np.ndarray, height: int, width: int) -> None:
    source, edited = (cv2.resize(b, (width, height), interpolation=cv2.INTER_CUBIC) for b in blocks)
    result, report = carry(np.stack([source] * 3), edited)
    assert np.abs(result.astype(int) - edited).max() <= 2
    assert report.guessed < 0.02


def test_the_first_item_is_the_edit_itself() -> None:
    frames, _ = scene(2)
    edited = 255 - frames[0]
    pairs = list(Flow().carry(iter(frames), edited).pairs())
    assert pairs[0][1] is edited
    assert [source is frame for (source, _), frame in zip(pairs, frames, strict=True)]
    assert list(Flow().carry([], edited)) == []


@pytest.mark.parametrize("size", [(64, 64), (97, 131), (300, 90), (540, 960)])
def test_any_size(size: tuple[int, int]) -> None:
    frame = cv2.resize(to_bytes(texture(3)), size[::-1])
    moved = np.roll(frame, 2, axis=1)
    result = FlowCarrier(frame, 255 - frame)(moved)
    assert result.shape == frame.shape
    assert result.dtype == np.uint8
    assert psnr(result, 255 - moved, np.ones(size, bool)) > 25


def test_no_frame_is_kept_longer_than_it_is_needed() -> None:
    source = to_bytes(shift(texture(1), 0, 0))
    seen: list[weakref.ref[np.ndarray]] = []

    def film() -> Iterator[np.ndarray]:
        for k in range(12):
            frame = np.roll(source, k, axis=1).copy()
            seen.append(weakref.ref(frame))
            yield frame

    kept = [sum(frame() is not None for frame in seen) for _ in Flow().carry(film(), 255 - source)]
    assert max(kept) <= 4  # the first one, today's, and two that come


def test_it_is_deterministic_and_leaves_its_input_alone() -> None:
    frames, _ = scene(4, thing=(2.3, 0))
    edited = 255 - frames[0]
    before = frames.copy()
    once, again = carry(frames, edited)[0], carry(frames, edited)[0]
    np.testing.assert_array_equal(once, again)
    np.testing.assert_array_equal(frames, before)


def test_the_report_sees_an_occlusion() -> None:
    frames, _ = scene(6)
    covered = frames.copy()
    for k in range(1, 6):
        covered[k, :, : 16 * k] = to_bytes(texture(9))[:SIZE, : 16 * k]
    painted = to_bytes(texture(42))[:SIZE, :SIZE]
    clear, hidden = (carry(clip, painted)[1] for clip in (frames, covered))
    assert clear.guessed < 0.01
    assert 0.2 < hidden.guessed_in_edit < 0.4  # the true share is 0.3
    assert (hidden.frames, hidden.worst_frame) == (5, 5)
    assert 0.2 < hidden.worst < 0.5  # half is hidden, and colours explain a part of the edit


def test_a_clip_without_matches_warns() -> None:
    strangers = np.stack([to_bytes(shift(texture(seed), 0, 0)) for seed in range(10, 14)])
    _, report = carry(strangers, to_bytes(shift(texture(42), 0, 0)))
    assert report.guessed > 0.8
    assert report.warning is not None
    assert f"{report.doubtful:.0%}" in report.warning
    assert replace(report, doubtful=0.1, worst=0.2).warning is None


def test_a_grade_needs_no_motion() -> None:
    """One map of colours explains the edit, so even frames without a match are graded right."""
    strangers = np.stack([to_bytes(shift(texture(seed), 0, 0)) for seed in range(10, 14)])
    truth = (strangers * [0.9, 0.8, 0.6] + [20, 0, 30]).astype(np.uint8)
    edited, report = carry(strangers, truth[0])
    assert np.abs(np.stack(edited).astype(int) - truth).mean() < 2
    assert report.warning is None


def test_nothing_drawn_nothing_reported() -> None:
    assert Flow().carry([], np.zeros((64, 64, 3), np.uint8)).report == FlowReport()


def test_sizes_must_agree() -> None:
    frames, _ = scene(1)
    with pytest.raises(ImageError, match="80x160, the clip 160x160"):
        list(Flow().carry(frames, frames[0, :, :80]))


def test_detail_has_a_floor() -> None:
    with pytest.raises(OptionError, match="at least 64"):
        Flow(detail=16)
