"""Scenes of all kinds and their edits, drawn by seed: a background and up to five objects on their paths.

The numbers are drawn on the CPU, so that a seed is one scene everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from anyv2v.errors import OptionError
from anyv2v.evaluation.drawing import (
    EASES,
    FILTERS,
    PARTICLES,
    PATTERNS,
    SHAPES,
    Camera,
    Dice,
    Layer,
    Path,
    Shape,
    Shear,
    Style,
    Texture,
    Weather,
)

__all__ = ["EDITS", "HELD_OUT", "MOTIONS", "Scene", "edit_scene", "sample_scene"]

EDITS = ("recolour", "retexture", "replace", "add", "remove", "background", "style", "weather")
MOTIONS = ("translation", "rotation", "scaling", "nonrigid", "occlusion", "camera", "fast")
HELD_OUT = ("weather", "scaling")  # an edit and a motion that nothing is ever trained on


@dataclass(frozen=True)
class Scene:
    """What is filmed: layers from back to front, which of them is edited, and what lies over the picture.

    Shadows fall in the direction ``light``, ``shadow`` (0 to 1) dark.
    """

    layers: tuple[Layer, ...]
    main: int
    camera: Camera
    light: complex
    shadow: float
    style: Style | None = None
    weather: Weather | None = None


def sample_scene(motion: str, seed: int) -> Scene:
    """Draw a scene before any edit: all edits of a motion and a seed start from the same clip.

    Raises:
        OptionError: There is no such motion.
    """
    dice = Dice(motion, seed)
    paths = [_path(motion, dice, *_MAIN)]
    others = 2 if motion == "occlusion" else dice.choice(range(4))
    for _ in range(others):
        tries = [_path(motion, dice, *_OTHER, paths[0]) for _ in range(6)]
        paths.append(_loneliest(tries, paths))
    main = dice.choice(range(len(paths)))
    paths.insert(main, paths.pop(0))
    ground = _texture(dice, _muted(dice), 1.2, 3.5)
    back = Layer(None, ground, Path(dice.vector(0, 0.5), size=1.0, angle=0.0), depth=0.35)
    return Scene(
        layers=(back, *(_thing(dice, path) for path in paths)),
        main=1 + main,
        camera=_camera(motion, dice, alone=others == 0),
        light=dice.uniform(0.06, 0.14) * complex(dice.uniform(-1, 1), 1),
        shadow=dice.choice((0.0, 0.25, 0.4)),
    )


def edit_scene(scene: Scene, edit: str, motion: str, seed: int) -> Scene:
    """Draw an edit of ``sample_scene(motion, seed)``; layers that it leaves alone stay the same objects.

    The edit ``nothing`` leaves everything alone.

    Raises:
        OptionError: There is no such edit.
    """
    dice, layers, main = Dice(edit, motion, seed), list(scene.layers), scene.layers[scene.main]
    match edit:
        case "recolour":
            turn = torch.tensor([0, 0, dice.uniform(1.3, 2 * math.pi - 1.3)])
            texture = replace(main.texture, palette=main.texture.palette + turn)
            layers[scene.main] = replace(main, texture=texture)
        case "retexture":
            texture = _texture(dice, _vivid(dice), 1.1, 2.2, but=main.texture.kind)
            layers[scene.main] = replace(main, texture=texture)
        case "replace":
            other = _thing(dice, main.path, but=main.shape)
            texture = dice.choice((main.texture, other.texture))
            layers[scene.main] = replace(main, shape=other.shape, texture=texture)
        case "add":
            tries = [_path(motion, dice, *_ADDED) for _ in range(6)]
            layers.append(_thing(dice, _loneliest(tries, [layer.path for layer in layers[1:]])))
        case "remove":
            layers.remove(main)
        case "background":
            texture = _texture(dice, _muted(dice), 1.2, 3.5, but=layers[0].texture.kind)
            layers[0] = replace(layers[0], texture=texture)
        case "style":
            return replace(scene, style=_style(dice))
        case "weather":
            return replace(scene, weather=_weather(dice))
        case "nothing":
            return scene
        case _:
            raise OptionError(f"there is no edit {edit!r}; there are {', '.join(EDITS)}")
    return replace(scene, layers=tuple(layers))


def _thing(dice: Dice, path: Path, but: Shape | None = None) -> Layer:
    """A shape of another kind than ``but``, with a texture."""
    kind = dice.choice([kind for kind in SHAPES if not but or kind != but.kind])
    shape = Shape(kind, tuple(dice.tensor(4).tolist()))
    return Layer(shape, _texture(dice, _vivid(dice), 1.1, 2.2), path, dice.uniform(0.8, 1.1))


def _texture(dice: Dice, palette: Tensor, low: float, high: float, but: str = "") -> Texture:
    """A pattern of another kind than ``but``, with ``low`` to ``high`` repeats per unit."""
    kind = dice.choice([kind for kind in PATTERNS if kind != but])
    return Texture(kind, palette, dice.vector(low, high), dice.choice((0.0, 0.3, 0.8)), dice.tensor(16, 16))


def _vivid(dice: Dice) -> Tensor:
    """Three colours of a thing, dark to light or back, of hues that go together."""
    hue, turn = dice.uniform(-3.1, 3.1), dice.choice((0.25, -0.4, 0.8, 3.1)) * dice.uniform(0.6, 1.2)
    dark, light = dice.uniform(0.3, 0.5), dice.uniform(0.75, 0.95)
    colours = [
        [dark, dice.uniform(0.08, 0.16), hue],
        [(dark + light) / 2, dice.uniform(0.13, 0.22), hue + turn / 2],
        [light, dice.uniform(0.08, 0.16), hue + turn],
    ]
    return torch.tensor(colours[:: dice.choice((1, -1))])


def _muted(dice: Dice) -> Tensor:
    """Three quieter colours of a background, near to each other."""
    lightness, spread = dice.uniform(0.35, 0.85), dice.uniform(0.06, 0.13)
    chroma, hue, turn = dice.uniform(0.02, 0.09), dice.uniform(-3.1, 3.1), dice.uniform(-0.7, 0.7)
    return torch.tensor([[lightness + i * spread, chroma, hue + i * turn] for i in (-1, 0, 1)])


# How far from the middle of the frame a thing is at its most central, from, to; and its size, from, to.
_MAIN, _ADDED, _OTHER = (0.0, 0.25, 0.36, 0.48), (0.3, 0.5, 0.34, 0.42), (0.3, 0.8, 0.2, 0.36)


def _path(
    motion: str, dice: Dice, near: float, far: float, small: float, large: float, main: Path | None = None
) -> Path:
    """A path of a motion, ``near`` to ``far`` from the middle; ``main`` is what crossing things cross."""
    ease = dice.choice(("steady", "smooth", "faster", "slower"))
    path = Path(dice.vector(near, far), dice.uniform(small, large), dice.uniform(-3, 3), ease=ease)
    match motion:
        case "translation":
            travel = 1j * dice.sign() * dice.uniform(0.5, 0.95) * path.place / abs(path.place)
            return replace(path, place=path.place - travel / 2, travel=travel)
        case "rotation":
            return replace(path, spin=dice.sign() * dice.uniform(1.2, 4), travel=dice.vector(0, 0.15))
        case "scaling":
            growth = dice.sign() * dice.uniform(0.4, 0.75)
            size, ease = path.size * math.exp(-growth / 3), dice.choice(tuple(EASES))
            return replace(path, size=size, growth=growth, ease=ease)
        case "nonrigid":
            return replace(path, shears=tuple(_shear(dice) for _ in range(3)), travel=dice.vector(0, 0.2))
        case "occlusion" if main:
            place, met = main.place + dice.vector(0.75, 1), main.place + main.travel / 2
            travel = 2 * (met + dice.vector(0, 0.15) - place)
            return replace(path, place=place, travel=travel, ease="steady")
        case "occlusion":
            return replace(path, travel=dice.vector(0.1, 0.3))
        case "camera":
            return path
        case "fast":
            return _racing(path, dice)
        case _:
            raise OptionError(f"there is no motion {motion!r}; there are {', '.join(MOTIONS)}")


def _shear(dice: Dice) -> Shear:
    rate = dice.sign() * dice.uniform(3, 8)
    return Shear(dice.vector(1, 1), dice.uniform(0.12, 0.25), dice.uniform(1, 3), rate, dice.uniform(-3, 3))


def _racing(path: Path, dice: Dice) -> Path:
    """Round an ellipse, spinning, at 6 to 12 pixels a frame where a frame is 128 wide."""
    orbit, roundness = dice.vector(0.3, 0.45), dice.sign() * dice.uniform(0.5, 1)
    around = math.pi * abs(orbit) * (1 + abs(roundness))
    turns, spin = dice.uniform(1.4, 2.8) / around, dice.sign() * dice.uniform(1, 5)
    place = path.place / 2 + orbit
    return replace(path, place=place, orbit=orbit, roundness=roundness, turns=turns, spin=spin)


def _loneliest(paths: Sequence[Path], taken: Sequence[Path]) -> Path:
    """The path that starts farthest from the starts of those ``taken``."""
    return max(paths, key=lambda path: min(abs(path.place - other.place) for other in taken))


def _camera(motion: str, dice: Dice, *, alone: bool) -> Camera:
    """Elsewhere than in its own class the camera stands or drifts, and drifts where one thing is alone."""
    if motion == "camera":
        return Camera(dice.vector(0.3, 0.8), dice.uniform(-0.4, 0.4), dice.uniform(-0.3, 0.3))
    drift = 1.0 if alone else dice.choice((0.0, 1.0))
    return Camera(drift * dice.vector(0.2, 0.4), drift * dice.uniform(-0.1, 0.1), 0.0)


def _style(dice: Dice) -> Style:
    hue, turn = dice.uniform(-3.1, 3.1), dice.uniform(1, 5)
    dark = [dice.uniform(0.15, 0.4), dice.uniform(0.06, 0.15), hue]
    light = [0.9, dice.uniform(0.03, 0.12), hue + turn]
    return Style(dice.choice(tuple(FILTERS)), torch.tensor([dark, light]))


def _weather(dice: Dice) -> Weather:
    kind = dice.choice((*PARTICLES, "haze"))
    speed, slant = {"snow": (0.9, 0.5), "rain": (3.5, 0.3), "haze": (0.5, 2.0)}[kind]
    wind = speed * dice.uniform(0.7, 1.3) * complex(slant * dice.uniform(-1, 1), 1)
    return Weather(kind, wind, dice.tensor(2, 40, 3), dice.tensor(4, 4))
