"""The page's own parts: what gradio has none of, each a small script that draws what Python tells it."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from typing import Any

import gradio as gr

__all__ = ["part"]


def part(name: str, label: str | None = None, asks: Callable[[Any], Any] | None = None) -> gr.HTML:
    """A part of the page; its events are those that its script triggers.

    Args:
        name: The script ``scripts/NAME.js``, which says what a value holds.
        label: What a screen reader calls it.
        asks: What its script may ask of Python at any time.
    """
    region = f' role="region" aria-label="{label}"' if label else ""
    return gr.HTML(
        html_template=f'<div class="{name}"{region}></div>',
        js_on_load=_script("tools") + _script(name),
        apply_default_css=False,
        server_functions=[asks] if asks else None,
        elem_classes=["part", f"part-{name}"],
    )


def _script(name: str) -> str:
    return files(__package__).joinpath("scripts", f"{name}.js").read_text()
