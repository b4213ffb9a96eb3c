"""How the page looks: gradio's theme, told in the colours of page.css, which has a light and a dark set."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import gradio as gr

__all__ = ["look"]

PAPER = {"light": "#f4f3ef", "dark": "#141518"}
INK = {"light": "#22252b", "dark": "#e9e9e5"}


def look() -> dict[str, Any]:
    """What ``gradio.mount_gradio_app`` is to be told so that the page looks like itself."""
    return {
        "theme": _theme(),
        "css": files(__package__).joinpath("page.css").read_text(),
        "head": '<meta name="color-scheme" content="light dark">',
        "footer_links": [],
        "run_history": False,
        "ssr_mode": False,
        "max_file_size": 1,  # gradio takes no files: the page sends them to the API, which has limits
    }


def _theme() -> gr.themes.Base:
    sans: list[Any] = [gr.themes.LocalFont("IBM Plex Sans", weights=(400, 700)), "system-ui", "sans-serif"]
    mono: list[Any] = [gr.themes.LocalFont("IBM Plex Mono", weights=(400,)), "ui-monospace", "monospace"]
    theme = gr.themes.Base(
        font=sans, font_mono=mono, text_size=gr.themes.sizes.text_sm, spacing_size=gr.themes.sizes.spacing_sm
    )
    ground = {
        "body_background_fill": PAPER["light"],
        "body_background_fill_dark": PAPER["dark"],
        "body_text_color": INK["light"],
        "body_text_color_dark": INK["dark"],
    }
    darkened = {f"{name}_dark": value for name, value in COLOURS.items() if hasattr(theme, f"{name}_dark")}
    return theme.set(**ground, **COLOURS, **darkened, **SHAPES)


# The variables of page.css, which has them for light and for dark.
COLOURS = {
    "background_fill_primary": "var(--card)",
    "background_fill_secondary": "var(--paper)",
    "block_background_fill": "transparent",
    "block_border_color": "transparent",
    "block_info_text_color": "var(--faint)",
    "block_label_text_color": "var(--ink)",
    "block_title_text_color": "var(--ink)",
    "body_text_color_subdued": "var(--faint)",
    "border_color_accent": "var(--accent)",
    "border_color_primary": "var(--line)",
    "button_primary_background_fill": "var(--accent)",
    "button_primary_background_fill_hover": "var(--accent-strong)",
    "button_primary_border_color": "var(--accent)",
    "button_primary_text_color": "var(--on)",
    "button_secondary_background_fill": "var(--card)",
    "button_secondary_background_fill_hover": "var(--hover)",
    "button_secondary_border_color": "var(--line)",
    "button_secondary_text_color": "var(--ink)",
    "checkbox_background_color": "var(--field)",
    "checkbox_background_color_selected": "var(--accent)",
    "checkbox_border_color": "var(--line)",
    "checkbox_border_color_selected": "var(--accent)",
    "checkbox_label_background_fill": "var(--field)",
    "checkbox_label_background_fill_selected": "var(--card)",
    "color_accent": "var(--accent)",
    "color_accent_soft": "var(--hover)",
    "input_background_fill": "var(--field)",
    "input_border_color": "var(--line)",
    "input_border_color_focus": "var(--accent)",
    "input_placeholder_color": "var(--faint)",
    "loader_color": "var(--accent)",
    "panel_background_fill": "transparent",
    "slider_color": "var(--accent)",
}
SHAPES = {
    "block_border_width": "0px",
    "block_padding": "0px",
    "block_radius": "8px",
    "block_shadow": "none",
    "block_title_text_weight": "600",
    "block_title_text_size": "*text_sm",
    "button_large_radius": "8px",
    "button_primary_shadow": "none",
    "button_secondary_shadow": "none",
    "container_radius": "8px",
    "form_gap_width": "0px",
    "input_border_width": "1px",
    "input_radius": "8px",
    "input_shadow": "none",
    "input_shadow_focus": "none",
    "layout_gap": "12px",
}
