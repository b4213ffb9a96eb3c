"""What a rendered scene shows, in the words of a small grammar."""

from __future__ import annotations

import math

from anyv2v.evaluation.drawing import Texture
from anyv2v.evaluation.scenes import Scene

__all__ = ["describe"]


def describe(scene: Scene, motion: str) -> str:
    """A caption, as in ``a red striped star and a ring, turning, before blue clouds, duotone``."""
    back, *things = sorted(scene.layers, key=lambda layer: (layer.shape is not None, -layer.path.size))
    names = [f"a {thing.shape.kind}" for thing in things if thing.shape] or ["nothing"]
    if things:
        names[0] = names[0].replace("a", f"a {_look(things[0].texture)}", 1)
    words = [" and ".join(names), DOES[motion], f"before {_look(back.texture)}"]
    words += [over.kind for over in (scene.style, scene.weather) if over]
    return ", ".join(words)


DOES = {
    "translation": "moving",
    "rotation": "turning",
    "scaling": "growing",
    "nonrigid": "wobbling",
    "occlusion": "crossing",
    "camera": "standing",
    "fast": "racing",
}

HUES = ("red", "orange", "yellow", "green", "cyan", "blue", "violet", "pink")  # OKLCH, from half a radian on


def _look(texture: Texture) -> str:
    """The colour between a texture's darkest and lightest, and its pattern."""
    lightness, chroma, hue = texture.palette[1].tolist()
    place = round((hue - 0.5) / (2 * math.pi) * len(HUES))
    colour = "gray" if chroma < 0.03 else HUES[place % len(HUES)]
    return f"{'dark ' if lightness < 0.5 else ''}{colour} {texture.kind}"
