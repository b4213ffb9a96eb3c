"""What rendered scenes are made of: shapes, textures, paths, cameras, layers, weather and style.

Points of the plane are complex numbers, x to the right and y down; the frame is the square from -1 - 1j to
1 + 1j, and a similarity is z -> a z + b. Time is 1 at frame 15, or at the last frame of a longer clip. The
light is painted on and turns with its object, so that a point keeps its colour and the flow can be checked by
warping.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TypeVar

import torch
import torch.nn.functional as F  # noqa: N812 - its name everywhere
from torch import Tensor

T = TypeVar("T")
Knobs = Sequence[float]  # numbers in 0..1 that tell two shapes of a kind apart
Noise = Callable[[Tensor], Tensor]


class Dice:
    """Draws from a generator of its own on the CPU, seeded by ``key``."""

    def __init__(self, *key: object) -> None:
        digest = blake2b(repr(key).encode(), digest_size=7).digest()
        self._generator = torch.Generator().manual_seed(int.from_bytes(digest))

    def tensor(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self._generator)

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * self.tensor().item()

    def choice(self, options: Sequence[T]) -> T:
        return options[int(torch.randint(len(options), (), generator=self._generator))]

    def sign(self) -> float:
        return self.choice((-1.0, 1.0))

    def vector(self, low: float, high: float) -> complex:
        """A vector of any direction, its length in the span given."""
        angle = self.uniform(-math.pi, math.pi)
        return self.uniform(low, high) * complex(math.cos(angle), math.sin(angle))


# The plane


def square(n: int, reach: float, device: torch.device) -> Tensor:
    """The middles of ``n`` by ``n`` cells of the square from ``-reach`` to ``reach``, complex ``[n, n]``."""
    axis = (torch.arange(n, device=device) + 0.5) * (2 * reach / n) - reach
    return torch.complex(*torch.meshgrid(axis, axis, indexing="xy"))


def sample(image: Tensor, p: Tensor, padding: str = "border", mode: str = "bilinear") -> Tensor:
    """An image ``[C, n, n]`` of the square from -1 - 1j to 1 + 1j at points ``[..., W]``: ``[C, ..., W]``."""
    grid = torch.view_as_real(p).reshape(1, -1, p.shape[-1], 2)
    return F.grid_sample(image[None], grid, mode, padding, align_corners=False).reshape(len(image), *p.shape)


def _periodic(tile: Tensor, p: Tensor, mode: str = "bilinear") -> Tensor:
    """A tile ``[n, n]`` that fills the unit square and repeats, at points ``[..., W]``."""
    n, margin = len(tile), 2  # a cubic reaches two cells far
    padded = F.pad(tile[None, None], (margin,) * 4, mode="circular")[0]
    place = torch.view_as_complex(torch.view_as_real(p).remainder(1) - 0.5)
    return sample(padded, place * (2 * n / (n + 2 * margin)), mode=mode)[0]


# What things look like


@dataclass(frozen=True)
class Shape:
    """A silhouette of about unit radius; ``kind`` is a key of ``SHAPES``."""

    kind: str
    knobs: tuple[float, ...]

    def distance(self, n: int, reach: float, device: torch.device) -> Tensor:
        """Signed distance to the border, right near it, negative inside: ``[n, n]``."""
        level = SHAPES[self.kind](square(n, reach, device), self.knobs)
        slopes = torch.gradient(level, spacing=2 * reach / n)
        return level / torch.hypot(*slopes).clamp(min=0.3)


def _box(q: Tensor, width: float, height: float, corner: float) -> Tensor:
    outside = torch.complex((q.real.abs() - width + corner).relu(), (q.imag.abs() - height + corner).relu())
    inside = torch.maximum(q.real.abs() - width, q.imag.abs() - height).clamp(max=-corner) + corner
    return outside.abs() + inside - corner


def _cross(q: Tensor, width: float) -> Tensor:
    return torch.minimum(_box(q, 1, width, 0.1), _box(q, width, 1, 0.1))


def _polygon(q: Tensor, sides: int) -> Tensor:
    sector = 2 * math.pi / sides
    folded = (q.angle() + math.pi / 2).remainder(sector) - sector / 2
    return q.abs() * folded.cos() - math.sqrt(2.4 / sides / math.tan(sector / 2))


def _star(q: Tensor, points: int, depth: float) -> Tensor:
    spike = ((q.angle() + math.pi / 2) * points / 2 / math.pi).remainder(1).sub(0.5).abs() * 2
    return q.abs() - 1.15 + depth * (1 - spike)


def _heart(q: Tensor) -> Tensor:
    x, y = 1.12 * q.real, 0.25 - 1.12 * q.imag
    return torch.hypot(x, y - x.abs() ** (2 / 3)) - 1


def _blob(q: Tensor, knobs: Knobs) -> Tensor:
    swell = [0.16 * knob * torch.cos(j * (q.angle() + 7 * knob)) for j, knob in enumerate(knobs, start=2)]
    return q.abs() - 0.9 - torch.stack(swell).sum(0)


# Level sets, negative inside. Their areas are alike, so that a size means the same for every kind.
SHAPES: Mapping[str, Callable[[Tensor, Knobs], Tensor]] = {
    "disc": lambda q, _: q.abs() - 0.9,
    "box": lambda q, k: _box(q, 0.9, 0.6 + 0.3 * k[0], 0.1 + 0.3 * k[1]),
    "polygon": lambda q, k: _polygon(q, 3 + int(4 * k[0])),
    "star": lambda q, k: _star(q, 5 + int(4 * k[0]), 0.45 + 0.15 * k[1]),
    "flower": lambda q, k: q.abs() - 0.9 - 0.18 * torch.cos((4 + int(4 * k[0])) * q.angle()),
    "gear": lambda q, k: q.abs() - 0.9 - 0.1 * torch.tanh(3 * torch.cos((7 + int(4 * k[0])) * q.angle())),
    "ring": lambda q, k: (q.abs() - 0.75).abs() - 0.24 - 0.06 * k[0],
    "heart": lambda q, _: _heart(q),
    "blob": _blob,
    "capsule": lambda q, k: (q - q.real.clamp(-0.7, 0.7)).abs() - 0.45 - 0.1 * k[0],
    "crescent": lambda q, k: torch.maximum(q.abs() - 1.05, 0.72 - (q - 0.6 - 0.2 * k[0]).abs()),
    "cross": lambda q, k: _cross(q, 0.36 + 0.1 * k[0]),
}


@dataclass(frozen=True)
class Texture:
    """A pattern in three colours."""

    kind: str  # a key of PATTERNS
    palette: Tensor  # lightness 0..1, chroma 0..0.3 and hue in radians (OKLCH) of each colour, [3, 3]
    scale: complex  # repeats per unit of length, and their direction
    warp: float  # how far noise bends the pattern, in repeats
    lattice: Tensor  # the noise at its nodes, 0..1, [16, 16]

    def paint(self, q: Tensor) -> Tensor:
        """The colours at points ``[...]``: RGB in 0..1, ``[3, ...]``."""
        noise = _fractal(self.lattice.to(q.device))
        p = q * self.scale
        value = PATTERNS[self.kind](p + self.warp * (noise(p / 2) - 0.5), noise)
        value = (value + 0.5 * (noise(2.7 * p + 5) - 0.5)).clamp(0, 1)
        shares = torch.stack([(1 - 2 * value).relu(), 1 - (2 * value - 1).abs(), (2 * value - 1).relu()])
        return torch.einsum("kc,k...->c...", _rgb(self.palette.to(q.device)), shares)


def _fractal(lattice: Tensor) -> Noise:
    """Value noise of three octaves, about 0..1, its coarsest bumps one unit apart."""

    def noise(p: Tensor) -> Tensor:
        octaves = [_periodic(lattice, (2**o * p + 3 * o) / len(lattice), "bicubic") / 2**o for o in range(3)]
        return (torch.stack(octaves).sum(0) / 1.75 - 0.5) * 1.5 + 0.5

    return noise


def _wave(x: Tensor) -> Tensor:
    return 0.5 + 0.5 * torch.sin(2 * math.pi * x)


def _bars(x: Tensor) -> Tensor:
    """A square wave of period one with soft flanks."""
    return 0.5 + 0.5 * torch.tanh(3 * torch.sin(2 * math.pi * x))


def _cells(p: Tensor) -> Tensor:
    """The middle of the unit square that a point is in, with soft steps between squares."""
    p = torch.view_as_real(p)
    return torch.view_as_complex(p.floor() + 0.5 + 0.5 * torch.tanh(9 * (p.remainder(1) - 0.5)))


def _dots(p: Tensor) -> Tensor:
    p = torch.view_as_complex(torch.view_as_real(p).remainder(1) - 0.5)
    return 0.5 + 0.5 * torch.tanh(12 * (p.abs() - 0.3))


PATTERNS: Mapping[str, Callable[[Tensor, Noise], Tensor]] = {
    "clouds": lambda p, noise: 1.4 * noise(p) - 0.2,
    "marble": lambda p, noise: _wave(p.real / 2 + 1.5 * noise(p / 2)),
    "wood": lambda p, noise: _wave(torch.complex(p.real, p.imag / 5).abs() + 0.6 * noise(p / 2)),
    "stripes": lambda p, _: _bars(p.real),
    "zigzag": lambda p, _: _bars(p.real + (p.imag.remainder(1) - 0.5).abs()),
    "checks": lambda p, _: 0.5 + 2 * (_bars(p.real / 2) - 0.5) * (_bars(p.imag / 2) - 0.5),
    "plaid": lambda p, _: (_bars(p.real / 2) + _bars(p.imag / 2)) / 2,
    "dots": lambda p, _: _dots(p),
    "rings": lambda p, _: _bars(p.abs()),
    "patches": lambda p, noise: noise(_cells(p)),
    "gradient": lambda p, noise: 0.5 + p.real / 5 + 0.5 * (noise(p) - 0.5),
}


def _rgb(lch: Tensor) -> Tensor:
    """OKLCH ``[..., 3]`` to RGB in 0..1 (Ottosson, "A perceptual color space for image processing", 2020)."""
    lightness, chroma, hue = lch.unbind(-1)
    lab = torch.stack([lightness, chroma * hue.cos(), chroma * hue.sin()], dim=-1)
    return ((lab @ lab.new_tensor(_LMS).T) ** 3 @ lab.new_tensor(_LINEAR).T).clamp(0, 1) ** (1 / 2.2)


_LMS = ((1, 0.3963, 0.2158), (1, -0.1056, -0.0639), (1, -0.0895, -1.2915))
_LINEAR = ((4.0767, -3.3077, 0.2310), (-1.2684, 2.6098, -0.3413), (-0.0042, -0.7034, 1.7076))


# How things move


@dataclass(frozen=True)
class Shear:
    """A wave that runs through an object and moves its points across; its opposite undoes it exactly."""

    along: complex  # of unit length
    amplitude: float
    wavenumber: float
    rate: float
    phase: float

    def shift(self, q: Tensor, t: Tensor) -> Tensor:
        """How far points are moved: never along the wave, so it is the same before and after."""
        run = q.real * self.along.real + q.imag * self.along.imag
        height = self.amplitude * torch.sin(self.wavenumber * run + self.rate * t + self.phase)
        return height * (1j * self.along)


@dataclass(frozen=True)
class Path:
    """Where an object is, how large and how turned, over time."""

    place: complex  # its centre at time 0
    size: float  # its radius at time 0
    angle: float  # how it is turned at time 0, in radians
    travel: complex = 0j  # how far it goes
    spin: float = 0.0  # how far it turns, in radians
    growth: float = 0.0  # the logarithm of how much it grows
    ease: str = "steady"  # how these three go on, a key of EASES
    orbit: complex = 0j  # from the centre of an ellipse to its place
    roundness: float = 1.0  # the ratio of the ellipse's axes, negative for the other sense
    turns: float = 0.0  # how often it goes round
    shears: tuple[Shear, ...] = ()  # what bends it, in order

    def pose(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The similarity ``a, b`` from the object to the world."""
        done, phase = EASES[self.ease](t), 2 * math.pi * self.turns * t
        a = self.size * torch.exp(done * complex(self.growth, self.spin) + 1j * self.angle)
        circled = self.orbit * torch.complex(phase.cos() - 1, self.roundness * phase.sin())
        return a, self.place + self.travel * done + circled


EASES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "steady": lambda t: t,
    "smooth": lambda t: t - torch.sin(2 * math.pi * t) / 8,
    "faster": lambda t: (t + t * t) / 2,
    "slower": lambda t: (3 * t - t * t) / 2,
    "return": lambda t: torch.sin(math.pi * t) ** 2,
}


@dataclass(frozen=True)
class Camera:
    """A pan, a zoom and a roll about the middle of the clip; what is deep moves less."""

    pan: complex  # how far things of depth 1 go
    zoom: float  # the logarithm of how much they grow
    roll: float  # how far everything turns, in radians

    def pose(self, t: Tensor, depth: float) -> tuple[Tensor, Tensor]:
        """The similarity ``a, b`` from the world to the frame at a depth: 0 is infinitely far."""
        done = t - 0.5
        return torch.exp(done * complex(depth * self.zoom, self.roll)), depth * self.pan * done


@dataclass(frozen=True, eq=False)
class Layer:
    """A thing of a scene; the background has no shape. Two scenes may share layers."""

    shape: Shape | None
    texture: Texture
    path: Path
    depth: float = 1.0

    @property
    def reach(self) -> float:
        """How far its sprite extends from its centre."""
        return 1.6 if self.shape else 2.2

    def pose(self, camera: Camera, t: Tensor) -> tuple[Tensor, Tensor]:
        """The similarity ``a, b`` from the object to the frame."""
        (a, b), (view_a, view_b) = self.path.pose(t), camera.pose(t, self.depth)
        return view_a * a, view_a * b + view_b

    def to_frame(self, q: Tensor, camera: Camera, t: Tensor) -> Tensor:
        """Where its points ``q`` are in the frame at times ``t``."""
        for shear in self.path.shears:
            q = q + shear.shift(q, t)
        a, b = self.pose(camera, t)
        return a * q + b

    def from_frame(self, p: Tensor, camera: Camera, t: Tensor) -> Tensor:
        """Which of its points are at ``p`` in the frame at times ``t``."""
        a, b = self.pose(camera, t)
        q = (p - b) / a
        for shear in reversed(self.path.shears):
            q = q - shear.shift(q, t)
        return q

    def bake(self, n: int, device: torch.device) -> Tensor:
        """Its sprite ``[5, n, n]``: RGB, signed distance, soft silhouette."""
        q = square(n, self.reach, device)
        colour = self.texture.paint(q)
        if not self.shape:
            return torch.cat([colour, torch.full_like(colour[:1], -9.0), torch.zeros_like(colour[:1])])
        distance = self.shape.distance(n, self.reach, device)
        light = 1.15 - 0.25 * (q + 0.3 + 0.4j).abs()
        rim = 1 - 0.4 * torch.exp(-((distance / 0.09) ** 2))
        return torch.cat([colour * light * rim, distance[None], _blurred((distance < 0).float(), n // 16)])


def _blurred(mask: Tensor, radius: int) -> Tensor:
    """``[n, n] -> [1, n, n]``."""
    for _ in range(2):
        mask = F.avg_pool2d(mask.view(1, *mask.shape[-2:]), 2 * radius + 1, 1, radius)
    return mask


# What lies over everything


@dataclass(frozen=True)
class Weather:
    """Two sheets of snow, rain or haze that drift over everything, the far one slower."""

    kind: str  # a key of PARTICLES, or haze
    wind: complex  # how far the near sheet drifts
    particles: Tensor  # x, y and size of the flakes or drops of each sheet, 0..1, [2, N, 3]
    lattice: Tensor  # the noise that haze is made of, at its nodes, 0..1, [4, 4]

    def cover(self, colour: Tensor, points: Tensor, t: Tensor) -> Tensor:
        """Lay it over RGB frames ``[3, F, H, W]`` in 0..1."""
        colour = torch.lerp(colour, 0.3 + 0.5 * colour.mean(0), 0.3)
        for particles, nearness in zip(self.particles.to(points.device), (0.6, 1.0), strict=True):
            tile = self._tile(square(points.shape[-1], 1, points.device), particles, nearness)
            cover = _periodic(tile, (points - nearness * self.wind * t) / 2)
            colour = torch.lerp(colour, torch.ones_like(colour), cover)
        return colour

    def _tile(self, p: Tensor, particles: Tensor, nearness: float) -> Tensor:
        """How much of what is behind a sheet hides at points ``[n, n]``; it repeats from frame to frame."""
        if self.kind == "haze":
            noise = _fractal(self.lattice.to(p.device))
            return (1.6 * noise(2 * p + 9 * nearness) - 0.5).clamp(0, 1) * 0.4
        x, y, size = (particles * 2 - 1)[..., None, None].unbind(1)
        away = torch.view_as_real(p - torch.complex(x, y) - 1 - 1j).remainder(2) - 1
        distance = PARTICLES[self.kind](torch.view_as_complex(away), self.wind / abs(self.wind))
        radius = nearness * (2 + size) * 0.012
        return (0.9 - 0.5 * distance / radius).clamp(0, 0.8).amax(0)


# How far points are from a particle at 0, given the wind's direction.
PARTICLES: Mapping[str, Callable[[Tensor, complex], Tensor]] = {
    "snow": lambda q, _: q.abs(),
    "rain": lambda q, wind: 1.3 * (q - (q * wind.conjugate()).real.clamp(-0.09, 0.09) * wind).abs(),
}


@dataclass(frozen=True)
class Style:
    """A filter that looks at one pixel at a time."""

    kind: str  # a key of FILTERS
    inks: Tensor  # a dark and a light colour, OKLCH, [2, 3]

    def apply(self, colour: Tensor) -> Tensor:
        """Filter RGB frames ``[3, F, H, W]`` in 0..1."""
        inks = _rgb(self.inks.to(colour.device))[..., None, None, None]
        luma = 0.299 * colour[:1] + 0.587 * colour[1:2] + 0.114 * colour[2:]
        return FILTERS[self.kind](colour, luma, inks).clamp(0, 1)


# Of the colour, its luma and the two inks.
FILTERS: Mapping[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "duotone": lambda _x, y, inks: torch.lerp(inks[0], inks[1], (1.3 * y - 0.15).clamp(0, 1)),
    "posterise": lambda x, _y, _inks: (3 * x - torch.sin(6 * math.pi * x) / 6.5) * 0.42 - 0.12,
    "grade": lambda x, _y, inks: 1.05 * x ** (0.5 + 2 * (1 - inks[1])),
    "dusk": lambda x, y, inks: (x + y) * (0.2 + 0.5 * inks[0]),
    "negative": lambda x, _y, inks: torch.lerp(1 - x, inks[1], 0.15),
    "solarise": lambda x, y, inks: 0.6 * (1 - (2 * x - 1).abs()) + 0.4 * torch.lerp(inks[0], inks[1], y),
    "faded": lambda x, y, inks: 0.1 + 0.2 * x + 0.4 * y + 0.3 * inks[1],
}
