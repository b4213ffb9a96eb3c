"""Tables of methods by metrics for the terminal, Markdown, LaTeX, CSV; best in bold, second underlined."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from anyv2v.errors import OptionError
from anyv2v.evaluation.propagation import Estimate
from anyv2v.evaluation.statistics import bootstrapped, holm, paired_p

if TYPE_CHECKING:
    from rich.table import Table as RichTable

    from anyv2v.evaluation.scoring import Score

__all__ = [
    "Column",
    "Table",
    "as_csv",
    "as_latex",
    "as_markdown",
    "as_rich",
    "cell_of",
    "column",
    "notes_of",
    "rendered",
]

LEVEL = 0.05  # of significance


@dataclass(frozen=True)
class Column:
    """One metric of every method.

    Attributes:
        title: What it is called.
        better: Which way is better.
        cells: Estimate by method; a method without one has none.
        unlike: Methods that differ from the best one, by the paired permutation test with Holm's correction.
        digits: After the point.
        note: Why there are no numbers, if there are none at all.
        common: Whether the means are over the same clips.
    """

    title: str
    better: Literal["higher", "lower"]
    cells: Mapping[str, Estimate]
    unlike: frozenset[str] = frozenset()
    digits: int = 3
    note: str = ""
    common: bool = True

    @property
    def order(self) -> list[str]:
        """The methods, best first."""
        sign = -1 if self.better == "higher" else 1
        return sorted(self.cells, key=lambda method: sign * self.cells[method].mean)

    def place(self, method: str) -> int:
        """How many methods are better, 0 for the best; 2 where there is nothing to compare."""
        if method not in self.cells or len(self.cells) < 2 or not self.common:
            return 2
        sign, mine = (-1 if self.better == "higher" else 1), self.cells[method].mean
        return sum(sign * other.mean < sign * mine for other in self.cells.values())

    @property
    def head(self) -> str:
        """The title with an arrow to where better is."""
        return f"{self.title} {'↑' if self.better == 'higher' else '↓'}"


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        title: What it is called.
        methods: Its rows.
        columns: Its columns.
        notes: What stands below.
    """

    title: str
    methods: Sequence[str]
    columns: Sequence[Column]
    notes: Sequence[str] = field(default_factory=list)


def column(title: str, better: Literal["higher", "lower"], scores: Sequence[Score], metric: str) -> Column:
    """A metric's column: bootstrapped means over the clips of all methods, and who differs from the best.

    Methods that have no clip in common count by their own.
    """
    values: dict[str, dict[str, float]] = {}
    reasons = set()
    for score in scores:
        if math.isfinite(found := score.metrics.get(metric, math.nan)):
            values.setdefault(score.method, {})[score.entry] = found
        reasons |= {score.missing[metric].removeprefix("n/a: ")} if metric in score.missing else set()
    shared = set.intersection(*map(set, values.values())) if values else set()
    counted = {
        method: [found[entry] for entry in found if entry in shared] or list(found.values())
        for method, found in values.items()
    }
    cells = {method: bootstrapped(found) for method, found in counted.items()}
    largest = max((abs(cell.mean) for cell in cells.values()), default=0.0)
    digits = 0 if largest >= 1000 else 1 if largest >= 10 else 2 if largest >= 2 else 3
    note = "" if cells else "; ".join(sorted(reasons))
    made = Column(title, better, cells, digits=digits, note=note, common=bool(shared))
    return replace(made, unlike=_unlike(made, values))


def _unlike(made: Column, values: Mapping[str, Mapping[str, float]]) -> frozenset[str]:
    if not made.order or not made.common:
        return frozenset()
    best, *others = made.order
    p_values = {}
    for method in others:
        both = sorted(values[best].keys() & values[method].keys())
        p_values[method] = paired_p([values[best][e] for e in both], [values[method][e] for e in both])
    return frozenset(method for method, p in holm(p_values).items() if p < LEVEL)


Mark = Callable[[str, int], str]  # a number and its place (0 is best) to what is written


def _grid(table: Table, mark: Mark, dagger: str = "†") -> list[list[str]]:
    """The cells as texts: mean and half of the interval, marked by their place."""
    return [
        [method, *(cell_of(found, method, mark, dagger) for found in table.columns)]
        for method in table.methods
    ]


def cell_of(found: Column, method: str, mark: Mark, dagger: str) -> str:
    if method not in found.cells:
        return "n/a" if found.note else "-"
    cell = found.cells[method]
    half = (cell.high - cell.low) / 2
    number = f"{cell.mean:.{found.digits}f}" + (f" ±{half:.{found.digits}f}" if half else "")
    return mark(number, found.place(method)) + (dagger if method in found.unlike else "")


def notes_of(table: Table) -> list[str]:
    absent: dict[str, list[str]] = {}
    for found in table.columns:
        if found.note:
            absent.setdefault(found.note, []).append(found.title)
    notes = [f"{', '.join(titles)}: n/a, as {reason}" for reason, titles in absent.items()]
    if any(found.unlike for found in table.columns):
        notes.append(f"† differs from the best (p < {LEVEL:g}, paired permutation test, Holm's correction)")
    return [*table.notes, *notes]


def as_rich(table: Table) -> RichTable:
    """For the terminal; what no method has a number of stands below alone."""
    from rich.table import Table as RichTable
    from rich.text import Text

    columns = [found for found in table.columns if found.cells] or table.columns
    shown = RichTable(
        title=table.title, title_justify="left", caption="\n".join(notes_of(table)), caption_justify="left"
    )
    shown.add_column("method", no_wrap=True)
    for found in columns:
        shown.add_column(found.head, justify="right", overflow="fold")
    for method in table.methods:
        cells = [
            Text(cell_of(found, method, lambda number, _: number, "†"), _style(found, method))
            for found in columns
        ]
        shown.add_row(Text(method), *cells)
    return shown


def _style(found: Column, method: str) -> str:
    return ("bold", "underline", "")[min(found.place(method), 2)]


def as_markdown(table: Table) -> str:
    """For a page; GitHub has no underline but its HTML."""

    def mark(number: str, place: int) -> str:
        return (f"**{number}**", f"<u>{number}</u>", number)[min(place, 2)]

    heads = ["method", *(found.head for found in table.columns)]
    lines = [f"**{table.title}**", "", _bars(heads), _bars(["---", *("---:" for _ in table.columns)])]
    lines += [_bars(row) for row in _grid(table, mark)]
    return "\n".join([*lines, "", *notes_of(table)]).rstrip() + "\n"


def _bars(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def as_latex(table: Table) -> str:
    """For a paper; it needs the package booktabs."""

    def mark(number: str, place: int) -> str:
        plain = number.replace("±", r"$\pm$")
        return (rf"\textbf{{{plain}}}", rf"\underline{{{plain}}}", plain)[min(place, 2)]

    arrows = {"higher": r"$\uparrow$", "lower": r"$\downarrow$"}
    heads = ["Method", *(f"{_escaped(found.title)} {arrows[found.better]}" for found in table.columns)]
    rows = [[_escaped(method), *cells] for method, *cells in _grid(table, mark, r"$^\dagger$")]
    body = [" & ".join(row) + r" \\" for row in rows]
    notes = [_escaped(note).replace("†", r"$^\dagger$") for note in notes_of(table)]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{' '.join([_escaped(table.title) + '.', *notes])}}}",
            rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}",
            r"\toprule",
            " & ".join(heads) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _escaped(text: str) -> str:
    for sign in "&%$#_{}":
        text = text.replace(sign, rf"\{sign}")
    return text.replace("<", "$<$").replace(">", "$>$")


def as_csv(table: Table) -> str:
    """For a spreadsheet: mean, and both ends of the interval."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["table", "method", *(f"{c.title}{end}" for c in table.columns for end in ("", " low", " high"))]
    )
    for method in table.methods:
        cells = (found.cells.get(method) for found in table.columns)
        numbers = [(c.mean, c.low, c.high) if c else ("", "", "") for c in cells]
        writer.writerow([table.title, method, *(number for triple in numbers for number in triple)])
    return out.getvalue()


FORMATS: Mapping[str, Callable[[Table], str]] = {
    "markdown": as_markdown,
    "latex": as_latex,
    "csv": as_csv,
}


def rendered(table: Table, form: str) -> str:
    """A table as text: ``markdown``, ``latex`` or ``csv``.

    Raises:
        OptionError: There is no such form.
    """
    if form not in FORMATS:
        raise OptionError(f"no form {form!r}; there are {', '.join(FORMATS)}")
    return FORMATS[form](table)
