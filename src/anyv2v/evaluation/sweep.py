"""How a result depends on one option, with truth: the paper's Figures 7 and 8, an inversion's length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from anyv2v.drafts import draft
from anyv2v.errors import OptionError
from anyv2v.evaluation.propagation import Estimate, Row, Score, summarise
from anyv2v.options import Options

__all__ = ["SWEPT", "Knob", "knobs_of", "turned", "write_plot"]

SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
SWEPT: Mapping[str, Sequence[float]] = {
    "tau_conv": SHARES,
    "tau_spatial": SHARES,
    "tau_temporal": SHARES,
}
"""What is swept unless told otherwise."""


@dataclass(frozen=True)
class Knob:
    """A value of an option, all others being as they are."""

    option: str
    value: float

    @property
    def name(self) -> str:
        """As it is written on the command line."""
        return f"{self.option}={self.value:g}"

    def turn(self, options: Options) -> Options:
        """The options with it. An inversion of few steps is sampled with as few."""
        change: dict[str, Any] = {self.option: self.value}
        changed = replace(options, **change)
        return replace(changed, steps=min(changed.steps, changed.inversion_steps))


def knobs_of(settings: Sequence[str]) -> list[Knob]:
    """Read ``tau_conv=0,0.2,1``, an option each; nothing for ``SWEPT``.

    Raises:
        OptionError: A setting is of another form, or no number that can be varied.
    """
    if not settings:
        return [Knob(option, value) for option, values in SWEPT.items() for value in values]
    return [knob for setting in settings for knob in _knobs(setting)]


def _knobs(setting: str) -> list[Knob]:
    option, _, values = setting.partition("=")
    option = option.replace("-", "_")
    kind: Any = type(getattr(Options(), option, None))
    try:
        knobs = [Knob(option, kind(value)) for value in values.split(",")]
    except (TypeError, ValueError):
        knobs = []
    if kind not in (int, float) or not knobs:
        raise OptionError(f"{setting!r} is not of the form tau_temporal=0,0.5,1")
    return knobs


def turned(knobs: Sequence[Knob], options: Options) -> dict[str, Options]:
    """The options with each value, by what is added to a method's name."""
    return {f", {knob.name}": knob.turn(options) for knob in knobs}


CURVES = {"psnr_edit": ("in the edit", "#d1495b"), "psnr_rest": ("outside", "#30638e")}


def write_plot(path: Path, scores: Sequence[Score], knobs: Sequence[Knob], *, overwrite: bool) -> None:
    """A curve for each option that was varied, against the methods that know nothing of it.

    Raises:
        OutputError: The file cannot be written.
    """
    from matplotlib.figure import Figure

    rows = {row.method: row for row in summarise(scores)}
    of_knob = {knob: row for knob in knobs for name, row in rows.items() if name.endswith(f", {knob.name}")}
    others = [row for row in rows.values() if row not in of_knob.values()]
    options = list(dict.fromkeys(knob.option for knob in knobs))
    figure = Figure(figsize=(4.2 * len(options), 3.6), layout="constrained")
    axes = figure.subplots(1, len(options), sharey=True, squeeze=False)[0]
    for place, option in zip(axes, options, strict=True):
        points = {knob.value: row for knob, row in of_knob.items() if knob.option == option}
        for metric, look in CURVES.items():
            _curve(place, {x: found for x, row in points.items() if (found := row.metrics[metric])}, *look)
        _levels(place, others)
        _axis(place, option, sorted(points))
    axes[0].set_ylabel("PSNR to the truth, dB")
    axes[-1].legend(fontsize=7)
    with draft(path, overwrite=overwrite) as temporary:
        figure.savefig(temporary, format="png", dpi=130)


def _curve(axes: Any, points: Mapping[float, Estimate], name: str, colour: str) -> None:
    x = sorted(points)
    low, high = [points[value].low for value in x], [points[value].high for value in x]
    axes.plot(x, [points[value].mean for value in x], "o-", color=colour, label=name, markersize=3.5)
    axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)


def _levels(axes: Any, rows: Sequence[Row]) -> None:
    """Lines for what does not depend on the option, in the edit if there is one."""
    for row, style in zip(rows, (":", "--", "-.", (0, (1, 4))), strict=False):
        where = "psnr_edit" if row.metrics["psnr_edit"] else "psnr"
        if found := row.metrics[where]:
            axes.axhline(found.mean, linestyle=style, color="#777", linewidth=1, label=row.method)


def _axis(axes: Any, option: str, values: Sequence[float]) -> None:
    if values[-1] > 1:
        axes.set_xscale("log")
        axes.set_xticks(values, [f"{value:g}" for value in values])
        axes.minorticks_off()
    axes.set_xlabel(option.replace("_", " "))
    axes.grid(alpha=0.25)
