"""The page's own parts: what gradio has none of, each a small script that draws what Python tells it."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import gradio as gr

__all__ = ["part"]


def part(name: str, value: Any = None, label: str | None = None) -> gr.HTML:
    """A part of the page; its events are those that its script triggers.

    Args:
        name: The script ``scripts/NAME.js``, which says what a value holds.
        value: What it shows first.
        label: What a screen reader calls it.
    """
    region = f' role="region" aria-label="{label}"' if label else ""
    return gr.HTML(
        value,
        html_template=f'<div class="{name}"{region}></div>',
        js_on_load=_script("tools") + _script(name),
        apply_default_css=False,
        elem_classes=["part"],
    )


def _script(name: str) -> str:
    return files(__package__).joinpath("scripts", f"{name}.js").read_text()
