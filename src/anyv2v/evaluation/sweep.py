"""How a result depends on options: the paper's Figures 7 and 8, an inversion's length, any other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import reduce
from itertools import product
from pathlib import Path
from typing import Any

from anyv2v.drafts import draft
from anyv2v.errors import OptionError
from anyv2v.evaluation.metrics import MOST
from anyv2v.evaluation.propagation import Estimate, Row, Score, summarise
from anyv2v.job import InvertJob, read_settings
from anyv2v.options import Options

__all__ = ["SWEPT", "Knob", "knobs_of", "trials", "turned", "write_plot"]

SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
SWEPT: Mapping[str, Sequence[float]] = {
    "tau_conv": SHARES,
    "tau_spatial": SHARES,
    "tau_temporal": SHARES,
}
"""What is swept unless told otherwise."""


@dataclass(frozen=True)
class Knob:
    """A value of an option, all others being as they are.

    Attributes:
        option: Its name.
        value: What ``Options`` holds of it.
        written: What a person writes for it.
    """

    option: str
    value: Any
    written: str

    @property
    def name(self) -> str:
        """As it is written on the command line."""
        return f"{self.option}={self.written}"

    @property
    def is_number(self) -> bool:
        """Whether values of the option have distances from each other."""
        return type(self.value) in (int, float)

    def turn(self, options: Options) -> Options:
        """The options with it. An inversion of few steps is sampled with as few."""
        change: dict[str, Any] = {self.option: self.value}
        if self.option == "inversion_steps":
            change["steps"] = min(options.steps, self.value)
        return replace(options, **change)


def knobs_of(settings: Sequence[str]) -> list[Knob]:
    """Read ``tau_conv=0,0.2,1`` or ``layers_conv=4;4,7;4-11``, an option each; nothing for ``SWEPT``.

    Values are written as on the command line and in a job's file, with ``;`` between them if there is one.

    Raises:
        OptionError: A setting is of another form, or none of ``Options``.
    """
    if not settings:
        return [Knob(option, value, f"{value:g}") for option, values in SWEPT.items() for value in values]
    return [knob for setting in settings for knob in _knobs(setting)]


def _knobs(setting: str) -> list[Knob]:
    option, equals, values = setting.partition("=")
    option = option.strip().replace("-", "_")
    written = [text.strip() for text in values.split(";" if ";" in values else ",")]
    form = f"{setting!r} is not of the form tau_temporal=0,0.5,1"
    if not equals or option not in {field.name for field in fields(Options)}:
        raise OptionError(form)
    try:
        return [Knob(option, _value(option, text), text) for text in written]
    except OptionError as error:
        raise OptionError(f"{form}: {error}") from error


def _value(option: str, text: str) -> Any:
    """What a job makes of an option. Steps and skip are such that neither is in the other's way."""
    free = {"clip": "any", "output": "any", "steps": 1000, "skip": 0}
    value = getattr(read_settings(InvertJob, free | {option: text}).options, option)
    if isinstance(value, bool) and text not in ("true", "false"):
        raise OptionError(f"{option} is true or false")
    return value


def trials(knobs: Sequence[Knob], options: Options, *, grid: bool = False) -> dict[str, Options]:
    """The options with each value, or with each combination of the values of all options, by their names.

    Raises:
        OptionError: A value is out of its range.
    """
    of_option: dict[str, list[Knob]] = {}
    for knob in knobs:
        of_option.setdefault(knob.option, []).append(knob)
    chosen = product(*of_option.values()) if grid else ((knob,) for knob in knobs)
    return {
        ", ".join(knob.name for knob in some): reduce(lambda turned, knob: knob.turn(turned), some, options)
        for some in chosen
    }


def turned(knobs: Sequence[Knob], options: Options) -> dict[str, Options]:
    """The options with each value, by what is added to a method's name."""
    return {f", {name}": changed for name, changed in trials(knobs, options).items()}


CURVES = {"psnr_edit": ("in the edit", "#d1495b"), "psnr_rest": ("outside", "#30638e")}
UNEDITED = {"psnr": ("given back", "#30638e")}


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
    curves = CURVES if any(row.metrics["psnr_edit"] for row in of_knob.values()) else UNEDITED
    axes = figure.subplots(1, len(options), sharey=True, squeeze=False)[0]
    for place, option in zip(axes, options, strict=True):
        at = _places([knob for knob in of_knob if knob.option == option])
        points = {x: of_knob[knob] for x, knob in at.items()}
        for metric, look in curves.items():
            if measured := {x: found for x, row in points.items() if (found := row.metrics[metric])}:
                _curve(place, measured, *look)
        _levels(place, others)
        _axis(place, at)
    axes[0].set_ylabel("PSNR to the truth, dB")
    axes[-1].legend(fontsize=7)
    with draft(path, overwrite=overwrite) as temporary:
        figure.savefig(temporary, format="png", dpi=130)


def _places(knobs: Sequence[Knob]) -> dict[float, Knob]:
    """Where the values of an option are on its axis: numbers at their place, words in the order given."""
    if all(knob.is_number for knob in knobs):
        return {knob.value: knob for knob in sorted(knobs, key=lambda knob: knob.value)}
    return {float(rank): knob for rank, knob in enumerate(knobs)}


def _curve(axes: Any, points: Mapping[float, Estimate], name: str, colour: str) -> None:
    x = sorted(points)
    low, high = [points[value].low for value in x], [points[value].high for value in x]
    axes.plot(x, [points[value].mean for value in x], "o-", color=colour, label=name, markersize=3.5)
    axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)


def _levels(axes: Any, rows: Sequence[Row]) -> None:
    """Lines for what does not depend on the option, in the edit if there is one; not for the truth itself."""
    for row, style in zip(rows, (":", "--", "-.", (0, (1, 4))), strict=False):
        where = "psnr_edit" if row.metrics["psnr_edit"] else "psnr"
        if (found := row.metrics[where]) and found.mean < MOST:
            axes.axhline(found.mean, linestyle=style, color="#777", linewidth=1, label=row.method)


def _axis(axes: Any, at: Mapping[float, Knob]) -> None:
    low, high, knob = min(at), max(at), next(iter(at.values()))
    if knob.is_number and low > 0 and high > 1:
        axes.set_xscale("log")
        axes.minorticks_off()
    if not knob.is_number or high > 1:
        axes.set_xticks(list(at), [knob.written for knob in at.values()])
    axes.set_xlabel(knob.option.replace("_", " "))
    axes.grid(alpha=0.25)
