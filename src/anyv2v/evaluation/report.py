"""What a benchmark found: tables for the terminal, JSON for machines, a page with pictures for people."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.table import Table

from anyv2v.drafts import draft
from anyv2v.evaluation.methods import Result
from anyv2v.evaluation.propagation import METRICS, Case, Estimate, Row, Score, summarise
from anyv2v.sheet import contact_sheet

__all__ = ["Gallery", "page", "tables", "write_reports"]

TITLES = {
    "psnr": "PSNR dB",
    "psnr_edit": "in edit dB",
    "psnr_rest": "outside dB",
    "ssim": "SSIM",
    "ssim_edit": "in edit SSIM",
    "ssim_rest": "outside SSIM",
    "first_frame": "1st frame dB",
    "warp": "warp error",
}
HEADS = ("method", "edit", "motion", *(TITLES[name] for name in METRICS), "s", "net rows", "clips")


MAIN = ("psnr", "psnr_edit", "psnr_rest", "ssim_edit", "warp")
VIEWS: Mapping[str, Sequence[str]] = {"all": (), "by edit": ("edit",), "by motion": ("motion",)}


def tables(scores: Sequence[Score]) -> Iterator[Table]:
    """The main scores for the terminal: over all clips, by edit, by motion; ± is half the 95 % interval."""
    for title, by in VIEWS.items():
        shown = Table(title=title, title_justify="left")
        for name in ("class", "method"):
            shown.add_column(name, no_wrap=True)
        for name in (*(TITLES[name] for name in MAIN), "s", "net rows", "clips"):
            shown.add_column(name, justify="right", no_wrap=True)
        for row in summarise(scores, by=by):
            label = next((name for name in (row.edit, row.motion) if name != "all"), "all")
            shown.add_row(label, row.method, *_numbers(row, MAIN), *_costs(row))
        yield shown


def _cells(row: Row) -> list[str]:
    return [row.method, row.edit, row.motion, *_numbers(row, METRICS), *_costs(row)]


def _numbers(row: Row, names: Sequence[str]) -> list[str]:
    return [_number(row.metrics[name], 3 if name.startswith("ssim") else 1) for name in names]


def _costs(row: Row) -> list[str]:
    return [f"{row.seconds:.2f}", f"{row.network_rows:.0f}", str(row.seeds)]


def _number(found: Estimate | None, digits: int) -> str:
    if found is None:
        return "-"
    return f"{found.mean:.{digits}f} ±{found.high - found.mean:.{digits}f}"


def write_reports(
    scores: Sequence[Score],
    gallery: Gallery,
    json_file: Path | None,
    html_file: Path | None,
    *,
    overwrite: bool,
) -> None:
    """Write the files that were asked for, whole or not at all.

    Raises:
        OutputError: One is there already, or cannot be written.
    """
    if json_file:
        rows = [asdict(row) for row in summarise(scores, by=("edit", "motion"))]
        _write(json_file, json.dumps({"rows": rows}, indent=1) + "\n", overwrite)
    if html_file:
        _write(html_file, page(scores, gallery), overwrite)


def _write(path: Path, text: str, overwrite: bool) -> None:
    with draft(path, overwrite=overwrite) as temporary:
        temporary.write_text(text, encoding="utf-8")


class Gallery:
    """Clips to look at: of each edit the first one that comes with its own motion."""

    def __init__(self) -> None:
        self.clips: dict[str, dict[str, NDArray[np.uint8]]] = {}
        self._motions: set[str] = set()

    def see(self, case: Case, score: Score, result: Result) -> None:
        """Keep a result if its case is one to show."""
        name = f"{case.edit}, {case.motion}"
        fresh = case.motion not in self._motions and not any(key.startswith(case.edit) for key in self.clips)
        if case.seed == 0 and (fresh or name in self.clips):
            self._motions.add(case.motion)
            clips = self.clips.setdefault(name, {"source": case.task.source, "truth": case.task.truth})
            clips[score.method] = result.frames


def page(scores: Sequence[Score], gallery: Gallery) -> str:
    """A page of HTML that needs no other file: tables, and a contact sheet of each clip of the gallery."""
    grids = [f"<h2>{name}</h2>{_grid(summarise(scores, by=by))}" for name, by in VIEWS.items()]
    sheets = [f"<h2>{name}</h2>{_image(contact_sheet(rows))}" for name, rows in gallery.clips.items()]
    return f"<!doctype html><meta charset=utf-8><title>Propagation</title>{STYLE}{''.join(grids + sheets)}\n"


STYLE = """<style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 90rem; padding: 0 1rem;
       color-scheme: light dark; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .75rem; text-align: right; border-bottom: 1px solid #8884; white-space: nowrap; }
th:nth-child(-n+3), td:nth-child(-n+3) { text-align: left; }
img { max-width: 100%; }
</style>"""


def _grid(rows: Sequence[Row]) -> str:
    lines = [_line("th", HEADS), *(_line("td", _cells(row)) for row in rows)]
    return f"<table>{''.join(lines)}</table>"


def _line(tag: str, cells: Iterable[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"


def _image(sheet: NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, "JPEG", quality=85)
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}">'
