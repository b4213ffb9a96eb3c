"""One page of HTML for a folder of results: tables, plots, and every clip's videos in step beside each other.

It needs no other file and no network, and can be opened from disk.
"""

from __future__ import annotations

import base64
import html
import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anyv2v.drafts import draft
from anyv2v.errors import VideoError
from anyv2v.evaluation.manifest import Entry
from anyv2v.evaluation.report import STYLE
from anyv2v.evaluation.results import Results
from anyv2v.evaluation.tables import Column, Table, cell_of, notes_of
from anyv2v.picture import Fit, Frame, Size, read_image
from anyv2v.video import Clip
from anyv2v.writing import write

__all__ = ["write_page"]

WIDTH, CRF = 256, 30  # pixels and quality of a clip: some 30 kB for 16 frames


def write_page(path: Path, results: Results, tables: Sequence[Table], *, overwrite: bool) -> None:
    """Write the page, whole or not at all.

    Raises:
        OutputError: It is there already, or cannot be written.
    """
    parts = [_table(table) + _plots(table) for table in tables]
    parts += [_clips(results, entry) for entry in results.entries]
    text = (
        f"<!doctype html><meta charset=utf-8><title>Evaluation</title>{STYLE}{LOOK}{''.join(parts)}{SYNC}\n"
    )
    with draft(path, overwrite=overwrite) as temporary:
        temporary.write_text(text, encoding="utf-8")


LOOK = """<style>
b { font-weight: 700; } u { text-underline-offset: .2em; }
.clips { display: flex; flex-wrap: wrap; gap: .75rem; }
figure { margin: 0; width: 256px; } figcaption { font-size: .85rem; overflow-wrap: anywhere; }
video, figure img { width: 100%; display: block; border-radius: 4px; }
.plots { display: flex; flex-wrap: wrap; gap: 1rem; }
.plots img { background: #fff; border-radius: 4px; }
.wide { overflow-x: auto; font-size: .85rem; margin-bottom: .5rem; }
p.note { font-size: .85rem; opacity: .8; margin: .25rem 0; }
</style>"""

# The clips of an entry follow the first: they start together, loop together, and any seek moves all.
SYNC = """<script>
for (const row of document.querySelectorAll('.clips')) {
  const clips = [...row.querySelectorAll('video')], lead = clips[0];
  if (!lead) continue;
  const align = () => clips.forEach(c => { if (Math.abs(c.currentTime - lead.currentTime) > .06)
    c.currentTime = Math.min(lead.currentTime, c.duration || 0); });
  const play = () => clips.forEach(c => { c.currentTime = 0; c.play().catch(() => {}); });
  lead.addEventListener('ended', play);
  lead.addEventListener('timeupdate', align);
  const stop = () => clips.forEach(c => c.pause()), go = () => clips.forEach(c => c.play());
  row.addEventListener('click', () => lead.paused ? go() : stop());
  new IntersectionObserver(([seen]) => seen.isIntersecting ? play() : stop()).observe(row);
}
</script>"""


def _table(table: Table) -> str:
    def mark(number: str, place: int) -> str:
        return (f"<b>{number}</b>", f"<u>{number}</u>", number)[min(place, 2)]

    heads = "".join(f"<th>{html.escape(head)}</th>" for head in ("method", *(c.head for c in table.columns)))
    rows = "".join(
        f"<tr><td>{html.escape(method)}</td>"
        + "".join(f"<td>{cell_of(found, method, mark, '†')}</td>" for found in table.columns)
        + "</tr>"
        for method in table.methods
    )
    notes = "".join(f"<p class=note>{html.escape(note)}</p>" for note in notes_of(table))
    grid = f'<div class="wide"><table><tr>{heads}</tr>{rows}</table></div>'
    return f"<h2>{html.escape(table.title)}</h2>{grid}{notes}"


def _plots(table: Table) -> str:
    drawn = [_plot(found, table.methods) for found in table.columns if found.cells]
    return f'<div class="plots">{"".join(drawn)}</div>'


def _plot(found: Column, methods: Sequence[str]) -> str:
    """Means with their intervals, a line for each method."""
    from matplotlib.figure import Figure

    shown = [method for method in methods if method in found.cells][::-1]
    figure = Figure(figsize=(3.6, 0.7 + 0.32 * len(shown)), layout="constrained")
    axes: Any = figure.subplots()
    for height, method in enumerate(shown):
        cell = found.cells[method]
        colour = "#d1495b" if method == found.order[0] else "#30638e"
        axes.plot([cell.low, cell.high], [height, height], color=colour, alpha=0.5, linewidth=2)
        axes.plot([cell.mean], [height], "o", color=colour)
    axes.set_yticks(range(len(shown)), shown, fontsize=8)
    axes.set_ylim(-0.6, len(shown) - 0.4)
    axes.set_title(found.head, fontsize=9, loc="left")
    axes.grid(axis="x", alpha=0.25)
    axes.tick_params(labelsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return f'<img alt="{html.escape(found.title)}" src="{_data("image/png", buffer.getvalue())}">'


def _clips(results: Results, entry: Entry) -> str:
    """The source, the edited first frame, the reference, and what each method made."""
    named = {"source": results.source(entry)}
    named |= {method: path for method in results.methods if (path := results.clip(method, entry))}
    figures = [_video(name, path) for name, path in named.items() if path.is_file()]
    stills = {"edited first frame": results.first_frame(entry), "reference": results.reference(entry)}
    figures[1:1] = [_still(name, path) for name, path in stills.items() if path and path.is_file()]
    about = html.escape(f"{entry.task}: {entry.text}" if entry.text else entry.task)
    title = f"<h3>{html.escape(entry.name)}</h3><p>{about}</p>"
    return f'{title}<div class="clips">{"".join(figures)}</div>'


def _figure(inner: str, name: str) -> str:
    return f"<figure>{inner}<figcaption>{html.escape(name)}</figcaption></figure>"


def _video(name: str, path: Path) -> str:
    try:
        clip = Clip(path)
        _ = clip.rate
    except VideoError as error:
        return _figure(html.escape(str(error)), name)
    with tempfile.TemporaryDirectory(prefix="anyv2v-") as folder:
        small = write(Path(folder) / "clip.mp4", map(_small, clip), clip.rate, crf=CRF)
        data = _data("video/mp4", small.read_bytes())
    return _figure(f'<video muted playsinline preload="auto" src="{data}"></video>', name)


def _still(name: str, path: Path) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(_small(read_image(path))).save(buffer, "JPEG", quality=85)
    return _figure(f'<img alt="" src="{_data("image/jpeg", buffer.getvalue())}">', name)


def _small(frame: Frame) -> Frame:
    size = Size.of(frame)
    height = max(2, round(WIDTH * size.height / size.width / 2) * 2)
    return Fit(size, Size(WIDTH, height), "stretch").apply(frame)


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
