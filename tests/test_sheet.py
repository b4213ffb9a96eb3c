"""Contact sheets: which frames are shown, and where they lie."""

import numpy as np
import pytest

from anyv2v.sheet import PAPER, Reel, contact_sheet, picks


def clip(count: int, height: int = 30, width: int = 40, red: int = 0) -> np.ndarray:
    """Frames of one colour each, uint8 [F, H, W, 3]; the green tells which frame it is."""
    frames = np.zeros((count, height, width, 3), np.uint8)
    frames[..., 0] = red
    frames[..., 1] = (100 + np.arange(count))[:, None, None]
    return frames


@pytest.mark.parametrize("n", [2, 3, 5, 6, 7, 16, 33])
@pytest.mark.parametrize("columns", [2, 3, 6])
def test_picks_spread_from_the_first_frame_to_the_last(n: int, columns: int) -> None:
    chosen = picks(n, columns)
    steps = np.diff(chosen)
    assert chosen[0] == 0 and chosen[-1] == n - 1
    assert len(chosen) == min(n, columns)
    assert steps.min() >= 1 and steps.max() - steps.min() <= 1


def test_picks_of_little() -> None:
    assert picks(0) == []
    assert picks(1) == [0]
    assert picks(9, 1) == [0]


def test_every_row_shows_its_picked_frames_in_order() -> None:
    sheet = contact_sheet({"source": clip(16, red=200), "edit": clip(9, red=90)}, columns=4, tile=64)
    assert sheet.dtype == np.uint8 and sheet.flags.writeable
    for red, count in ((200, 16), (90, 9)):
        row = sheet[(sheet[..., 0] == red) & (sheet[..., 2] == 0)]
        assert list(dict.fromkeys(row[:, 1].tolist())) == [100 + i for i in picks(count, 4)]
        assert len(row) == 4 * 64 * 48


def test_a_tile_keeps_the_aspect_of_its_frame() -> None:
    wide, tall = (contact_sheet({"": clip(1, h, w)}, tile=64) for h, w in ((20, 40), (40, 20)))
    assert tall.shape[0] - wide.shape[0] == 128 - 32
    assert tall.shape[1] == wide.shape[1]


def test_shorter_rows_leave_the_paper_bare() -> None:
    sheet = contact_sheet({"long": clip(6), "short": clip(2)}, tile=64)
    assert sheet[-60, -30].tolist() == list(PAPER)


def test_a_streaming_caller_gets_the_same_sheet() -> None:
    frames = clip(32)
    kept = picks(32)
    whole = contact_sheet({"source": frames}, fps=16)
    assert np.array_equal(whole, contact_sheet({"source": frames[kept]}, fps=16, numbers=kept))
    assert not np.array_equal(whole, contact_sheet({"source": frames[kept]}, fps=16))


@pytest.mark.parametrize("rows", [{}, {"source": []}, {"source": clip(2), "edit": []}])
def test_nothing_to_show(rows: dict[str, list[np.ndarray]]) -> None:
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet(rows)


@pytest.mark.parametrize("length", [1, 7, 64, 65, 1000])
def test_a_reel_of_any_length_stays_short_and_even(length: int) -> None:
    frame = np.zeros((8, 8, 3), np.uint8)
    reel = Reel(limit=8)
    assert sum(1 for _ in reel.watch((frame, frame) for _ in range(length))) == length == reel.count
    kept = list(reel._kept)
    assert kept[0] == 0
    assert len(kept) <= 8
    assert len(set(np.diff(kept))) <= 1
    assert length - kept[-1] <= max(1, 2 * length // 8)


def test_a_reel_that_nobody_asked_for_only_counts() -> None:
    frame = np.zeros((8, 8, 3), np.uint8)
    reel = Reel(limit=0)
    assert len(list(reel.watch([(frame, frame)] * 5))) == reel.count == 5
    assert reel._kept == {}
