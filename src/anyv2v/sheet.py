"""Contact sheets: clips under each other in one picture, each a row that is read from left to right.

A sheet is laid from frames that are already decoded; a ``Reel`` keeps the few that it needs of a stream.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from anyv2v.picture import Fit, Frame, Size

__all__ = ["Reel", "contact_sheet", "gallery", "picks"]

Colour: TypeAlias = tuple[int, int, int]

PAPER: Colour = (19, 20, 23)
INK: Colour = (236, 236, 232)
FAINT: Colour = (150, 153, 160)


def picks(n: int, columns: int = 6) -> list[int]:
    """Indices of the frames that a sheet shows of n: evenly spread, the first and the last among them.

    A clip of no more frames than columns is shown whole.
    """
    count = min(n, columns)
    return [round(i * (n - 1) / max(count - 1, 1)) for i in range(count)]


def contact_sheet(
    rows: Mapping[str, Sequence[Frame] | Frame],
    *,
    columns: int = 6,
    tile: int = 224,
    fps: float | None = None,
    numbers: Sequence[int] | None = None,
) -> Frame:
    """Lay clips under each other, each under its name, and the frames' numbers under the last.

    Args:
        rows: for each name its frames, uint8 [F, H, W, 3] or a sequence of [H, W, 3]. Lengths and sizes may
            differ between rows; each clip is spread over the columns by itself.
        columns: how many frames of each clip to show.
        tile: the width of a frame on the sheet, in pixels; its height follows its aspect.
        fps: writes times in place of frame numbers.
        numbers: what to write below, where the rows hold only the ``picks`` of a longer clip.

    Returns:
        The sheet, uint8 [H, W, 3].
    """
    shown = {name: [frames[i] for i in picks(len(frames), columns)] for name, frames in rows.items()}
    if not shown or not all(shown.values()):
        raise ValueError("a contact sheet needs at least one row, and at least one frame in each")
    if numbers is None:
        numbers = picks(max(map(len, rows.values())), columns)
    below = [str(i) if fps is None else f"{i / fps:.2f} s" for i in numbers]
    grid = _Grid(max(map(len, shown.values())), tile)
    bands = [band for name, frames in shown.items() for band in (grid.line([name], INK), grid.strip(frames))]
    return np.vstack([*bands, grid.line(below, FAINT)])


def gallery(pictures: Mapping[str, Frame], *, columns: int = 4, tile: int = 320) -> Frame:
    """Lay pictures ``[H, W, 3]`` beside each other, each under its title, in as many rows as it takes.

    Args:
        pictures: by title; sizes may differ.
        columns: how many stand in a row.
        tile: the width of a picture on the sheet, in pixels.

    Returns:
        The sheet, uint8 [H, W, 3].
    """
    grid = _Grid(min(columns, len(pictures)), tile)
    titles, bands = list(pictures), []
    for start in range(0, len(titles), columns):
        row = titles[start : start + columns]
        bands += [grid.line(row, INK), grid.strip([pictures[title] for title in row])]
    return np.vstack([*bands, np.asarray(grid.blank(2 * grid.gap))])


@dataclass(frozen=True)
class _Grid:
    """The columns that all bands of a sheet share."""

    columns: int
    tile: int

    @property
    def gap(self) -> int:
        return max(2, self.tile // 56)

    def left(self, column: int) -> int:
        """Where a column begins; the margin is two gaps."""
        return 2 * self.gap + column * (self.tile + self.gap)

    def blank(self, height: int) -> Image.Image:
        return Image.new("RGB", (self.left(self.columns) + self.gap, height), PAPER)

    def line(self, texts: Sequence[str], ink: Colour) -> Frame:
        """A band of type, a text for each column."""
        band = self.blank(max(18, self.tile // 7))
        font = ImageFont.load_default(band.height * 0.5)
        for column, text in enumerate(texts):
            ImageDraw.Draw(band).text((self.left(column), band.height // 2), text, ink, font, anchor="lm")
        return np.asarray(band)

    def strip(self, frames: Sequence[Frame]) -> Frame:
        """A band of pictures [H, W, 3], each scaled to the width of its column."""
        tiles = [self.scaled(Image.fromarray(np.ascontiguousarray(frame))) for frame in frames]
        band = self.blank(max(tile.height for tile in tiles))
        for column, tile in enumerate(tiles):
            band.paste(tile, (self.left(column), 0))
        return np.asarray(band)

    def scaled(self, picture: Image.Image) -> Image.Image:
        height = max(1, round(self.tile * picture.height / picture.width))
        return picture.resize((self.tile, height), Image.Resampling.LANCZOS)


class Reel:
    """Small pictures of a clip that streams by, evenly spread over it however long it gets.

    Args:
        limit: How many pairs to keep at most; 0 only counts.
    """

    WIDTH = 448  # pixels, twice a tile

    def __init__(self, limit: int = 64) -> None:
        self.count = 0
        self._limit = limit
        self._stride = 1
        self._kept: dict[int, tuple[Frame, Frame]] = {}

    def watch(self, pairs: Iterable[tuple[Frame, Frame]]) -> Iterator[Frame]:
        """Pass the edited frames on, and keep some of the pairs."""
        for self.count, (source, edited) in enumerate(pairs, start=1):
            if self._limit and (self.count - 1) % self._stride == 0:
                self._keep(self.count - 1, source, edited)
            yield edited

    def _keep(self, number: int, source: Frame, edited: Frame) -> None:
        self._kept[number] = self._small(source), self._small(edited)
        if len(self._kept) > self._limit:
            self._stride *= 2
            self._kept = {n: pair for n, pair in self._kept.items() if n % self._stride == 0}

    def _small(self, frame: Frame) -> Frame:
        size = Size.of(frame)
        return Fit(size, Size(self.WIDTH, round(size.height * self.WIDTH / size.width))).apply(frame)

    def sheet(self, fps: Fraction) -> Frame:
        """Source over edit, the times under them: ``[H, W, 3]``."""
        shown = picks(len(self._kept))
        numbers = [list(self._kept)[i] for i in shown]
        rows = {"source": [self._kept[n][0] for n in numbers], "edit": [self._kept[n][1] for n in numbers]}
        return contact_sheet(rows, numbers=numbers, fps=float(fps))
