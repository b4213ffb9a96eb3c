"""The demo clip: a balloon crosses a mountain lake, and its edit: another silk, a later hour.

    python examples/demo/render.py [--truth PATH]

writes `clip.mp4` and `edited.png` (the edit of the first frame) beside this file. Every shape is a quadric,
met by each ray in closed form, so numpy alone draws the clip, in a minute or two and always the same.
Because the scene is known, so is the answer: `--truth` renders the whole edited video, which is what an ideal
propagation of `edited.png` would find.

Points, directions and colours are [3, N], one column a ray; light is linear until `develop`.
"""

import argparse
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image

from anyv2v import write

HERE = Path(__file__).parent
SIZE, FRAMES, FPS, SAMPLES = 512, 32, 16, 2
WATER, SKY = -1, -2  # what a ray can meet besides a solid
LATTICE = np.random.default_rng(7).random((256, 256), dtype=np.float32)

Array = np.ndarray
Pattern = Callable[[Array, Array], Array]  # (gore, height) -> colour
# (point from the centre, in the world, normal) -> (albedo, normal)
Paint = Callable[..., tuple[Array, Array]]


# --- Small mathematics ----------------------------------------------------------------------------


def column(*values: float) -> Array:
    return np.array(values, np.float32)[:, None]


def rgb(code: str) -> Array:
    return (column(*bytes.fromhex(code)) / 255) ** 2.2


def mix(a: Array, b: Array, k: Array) -> Array:
    return a + (b - a) * k


def smooth(low: float, high: float, x: Array) -> Array:
    k = np.clip((x - low) / (high - low), 0, 1)
    return k * k * (3 - 2 * k)


def dot(a: Array, b: Array) -> Array:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def unit(a: Array) -> Array:
    return a / np.sqrt(dot(a, a))


def noise(x: Array, y: Array) -> Array:
    """Smooth noise in [0, 1] with features of size one."""
    i, j = np.floor(x).astype(np.int32), np.floor(y).astype(np.int32)
    u, v = smooth(0, 1, x - i), smooth(0, 1, y - j)
    a, b, c, d = (LATTICE[(i + di) & 255, (j + dj) & 255] for dj in (0, 1) for di in (0, 1))
    return mix(mix(a, b, u), mix(c, d, u), v)


def fbm(x: Array, y: Array, octaves: int = 4) -> Array:
    return sum(noise(x * 2**k + 17 * k, y * 2**k + 31 * k) / 2 ** (k + 1) for k in range(octaves))


# --- Solids ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Solid:
    """The quadric `square . p^2 + slope p_y + level = 0` for low < p_y < high, p measured from `centre`."""

    paint: Paint
    centre: Array
    square: Array
    slope: float
    level: float
    low: float
    high: float

    def near(self, o: Array, d: Array) -> Array:
        """Indices of the rays that pass the bounding sphere."""
        y = np.array(
            [self.low, np.clip(0, self.low, self.high), self.high]
        )  # one of them is the widest place
        girth2 = np.max(-(self.level + self.slope * y + self.square[1] * y**2)) / np.min(self.square[::2])
        radius = np.sqrt(girth2 + (self.high - self.low) ** 2 / 4)
        p = self.centre + column(0, (self.low + self.high) / 2, 0) - o
        ahead = dot(p, d)
        return np.flatnonzero((dot(p, p) - ahead**2 < radius**2) & (ahead > -radius))

    def meet(self, o: Array, d: Array) -> Array:
        """The distance along each ray, infinite where it misses."""
        p = o - self.centre
        a = dot(self.square, d * d)
        b = dot(self.square * p, d) + self.slope / 2 * d[1]
        c = dot(self.square, p * p) + self.slope * p[1] + self.level
        root, found = np.sqrt(np.maximum(b * b - a * c, 0)), np.inf
        for t in ((-b - root) / a, (-b + root) / a):
            y = p[1] + t * d[1]
            valid = (root > 0) & (t > 1e-3) & (y > self.low) & (y < self.high)
            found = np.where(valid, np.minimum(found, t), found)
        return found

    def normal(self, p: Array) -> Array:
        return unit(2 * self.square * p + column(0, self.slope, 0))


def ellipsoid(paint: Paint, centre: Array, radii: Array, low: float = -1.0) -> Solid:
    ry = float(radii[1, 0])
    return Solid(paint, centre, radii**-2, 0, -1, low * ry, ry)


def cone(
    paint: Paint, foot: Array, apex: float, width: float, low: float, high: float, tip: float = 0.0
) -> Solid:
    """An upright cone, its apex at height `apex` and as wide as `width` one below; `tip` rounds it off."""
    w = width**2
    return Solid(paint, foot, column(1, -w, 1), 2 * w * apex, w * (tip**2 - apex**2), low, high)


def tube(paint: Paint, foot: Array, radius: float, low: float, high: float) -> Solid:
    return Solid(paint, foot, column(1, 0, 1), 0, -(radius**2), low, high)


def trace(solids: list[Solid], o: Array, d: Array) -> tuple[Array, Array]:
    """The nearest solid along each ray: its distance and its index. One origin or direction may serve all."""
    count = max(o.shape[1], d.shape[1])
    depth, which = np.full(count, np.inf, np.float32), np.full(count, SKY)
    for index, solid in enumerate(solids):
        rays = solid.near(o, d)
        t = solid.meet(*(a if a.shape[1] == 1 else a[:, rays] for a in (o, d)))
        nearer = t < depth[rays]
        depth[rays[nearer]], which[rays[nearer]] = t[nearer], index
    return depth, which


# --- Paints ---------------------------------------------------------------------------------------


def stripes(gore: Array, height: Array) -> Array:
    """The silk of the source: red and cream gores, a zigzag of yellow and blue."""
    zigzag = np.abs(height - 0.1 - 0.16 * np.abs(2 * (gore % 1) - 1))
    colour = np.where(gore % 2 < 1, rgb("d8342f"), rgb("f8ead0"))
    colour = np.where((zigzag < 0.2) | (height > 0.86), rgb("1f4d93"), colour)
    return np.where(zigzag < 0.085, rgb("f9bd3c"), colour)


def stars(gore: Array, height: Array) -> Array:
    """The silk of the edit: two blues of the sea, golden hoops and golden stars."""
    gold = (np.abs(np.abs(height - 0.08) - 0.34) < 0.035) | (height > 0.86)
    for row, size in ((0.08, 0.24), (0.6, 0.13)):
        across = (gore % 2 - 1) * 0.39 * np.sqrt(1 - row * row)
        gold |= star(across, height - row, size)
    return np.where(gold, rgb("f7b733"), np.where(gore % 2 < 1, rgb("0b6f78"), rgb("14939a")))


def star(x: Array, y: Array, size: float) -> Array:
    """Inside a five-pointed star: fold the plane to half an arm, where the outline is one straight edge."""
    angle = np.abs((np.arctan2(x, y) + np.pi / 5) % (2 * np.pi / 5) - np.pi / 5)
    across, along = np.hypot(x, y) * np.sin(angle), np.hypot(x, y) * np.cos(angle)
    notch = 0.42 * size * np.exp(1j * np.pi / 5)
    return across * (size - notch.real) < (size - along) * notch.imag


def pennants(gore: Array, _height: Array) -> Array:
    """The silk of the balloon far behind, which no edit touches."""
    return np.where(gore % 2 < 1, rgb("f6b73c"), rgb("f7eed8"))


def silk(pattern: Pattern, size: float, turn: float, p: Array, _: Array, n: Array) -> tuple[Array, Array]:
    """Sixteen gores, each a cushion between two seams, turned about the axis of the balloon."""
    around = np.arctan2(p[0], -p[2])
    gore = (around + turn) * 8 / np.pi
    swell = (gore % 1 - 0.5) * np.stack([np.cos(around), 0 * around, np.sin(around)])
    seam = smooth(0.5, 0.44, np.abs(gore % 1 - 0.5)) * smooth(0.5, 0.4, np.abs(p[1] * 4 % 1 - 0.5)) ** 0.4
    weave = (0.8 + 0.4 * fbm(gore * 7, p[1] * 12, 3)) * (0.6 + 0.4 * seam)
    return pattern(gore, p[1] / size) * weave, unit(n + 0.5 * swell)


def wicker(p: Array, _world: Array, n: Array) -> tuple[Array, Array]:
    around = np.arctan2(p[0], p[2]) * 6
    weave = np.sin(around * np.pi) * np.sin(p[1] * 22 + np.pi * (np.floor(around) % 2))
    return rgb("a9692f") * (0.75 + 0.35 * weave), n


def fields(_p: Array, world: Array, n: Array) -> tuple[Array, Array]:
    """A patchwork of crops with furrows and hedges, and a beach at the water."""
    x, y, z = world
    u, v = x + 1.2 * fbm(x * 0.4, z * 0.4), z * 0.8 + 1.2 * fbm(x * 0.4 + 9, z * 0.4)
    lot = LATTICE[np.floor(u).astype(int) & 255, np.floor(v).astype(int) & 255]
    furrow = np.sin(22 * (u * np.cos(9 * lot) + v * np.sin(9 * lot)))
    colour = CROPS[:, (lot * 6).astype(int)] * (0.9 + 0.2 * furrow) * (0.7 + 0.6 * fbm(x * 5, z * 5))
    hedge = smooth(0.44, 0.47, np.maximum(np.abs(u % 1 - 0.5), np.abs(v % 1 - 0.5)))
    beach = smooth(0.22, 0.1, y + 0.2 * (fbm(x * 2, z * 2) - 0.5))
    sand = rgb("e3cf9c") * (0.8 + 0.4 * fbm(x * 6, z * 6))
    return mix(mix(colour, rgb("35682f"), hedge * 0.8), sand, beach), n


def pine(p: Array, world: Array, n: Array) -> tuple[Array, Array]:
    around, up = np.arctan2(p[0], p[2]) * 11, p[1] * 7 + world[2]
    tuft, beside = fbm(around, up), fbm(around + 0.5, up + 0.2)
    return mix(rgb("1d4a40"), rgb("7ba05c"), smooth(0.2, 0.85, tuft)), unit(n + 1.5 * (tuft - beside))


def rock(p: Array, world: Array, n: Array) -> tuple[Array, Array]:
    """Ridged stone under snow."""
    u, v = world[0] * 0.55, world[1] * 0.4 + world[2] * 0.3
    ridge, beside = fbm(u, v), fbm(u + 0.15, v)
    snow = smooth(-0.3, 0.3, p[1] - 4.6 + 5 * (ridge - 0.5))
    bent = unit(n + (beside - ridge) * column(-5, 1.5, 1))
    return mix(rgb("6f7f96") * (0.6 + 0.8 * ridge), rgb("ffffff"), snow), bent


def plain(code: str) -> Paint:
    return lambda p, _world, n: (rgb(code) + 0 * p, n)


# --- The scene ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Look:
    """All that the edit changes: the light of the hour and the silk of the balloon."""

    sun: Array
    ambient: Array
    zenith: Array
    horizon: Array
    cloud: Array
    silk: Pattern


@dataclass(frozen=True)
class Scene:
    """One moment of the clip under one look."""

    look: Look
    solids: list[Solid]
    sun: Array  # its direction; its colour is the look's
    t: float


NOON = Look(
    rgb("fff0d6") * 1.45, rgb("8fb9ee") * 0.42, rgb("1a62b8"), rgb("9fcdea"), rgb("fbfcff") * 1.35, stripes
)
GOLDEN = Look(
    rgb("ffb878") * 1.6, rgb("a08cc8") * 0.42, rgb("4a62ac"), rgb("ffae62") * 1.2, rgb("ffd2a8") * 1.45, stars
)
SUN = column(-0.62, 0.50, -0.60)
CROPS = np.hstack([rgb(code) for code in ("7fae3f", "a9c356", "5b9440", "d9c463", "92b84a", "c7a651")])
ROPE, WALL, ROOF = plain("5b4630"), plain("f4ecdc"), plain("c0452f")
HILLS = [
    ellipsoid(fields, column(-7.5, -1.6, 7.0), column(6.2, 3.6, 4.0), 0.0),
    ellipsoid(fields, column(8.5, -1.5, 9.0), column(7.0, 3.9, 4.5), 0.0),
    ellipsoid(fields, column(1.5, -1.0, 17.0), column(9.0, 2.6, 4.0), 0.0),
    ellipsoid(fields, column(-14.0, -1.0, 18.0), column(10.0, 4.0, 5.0), 0.0),
    ellipsoid(fields, column(3.5, -1.5, -3.2), column(2.3, 2.0, 2.0), 0.0),
]
PINES = [(2.15, -3.3, 2.9), (2.75, -2.6, 3.6), (2.3, -3.75, 1.5), (2.9, -4.2, 1.2)]  # x, z, height
PEAKS = [(-13.0, 34.0, 8.5), (-4.5, 38.0, 10.5), (6.0, 36.0, 8.0), (15.0, 35.0, 10.0), (23.0, 33.0, 8.0)]


def balloon(pattern: Pattern, centre: Array, size: float, turn: float) -> list[Solid]:
    """A sphere and the cone that touches it, four ropes and a basket."""
    cloth = partial(silk, pattern, size, turn)
    apex, mouth, rim = -1.42 * size, -1.14 * size, 0.2 * size
    touch, width = size**2 / apex, (1.42**2 - 1) ** -0.5
    corners = np.pi * (np.arange(4) / 2 + 0.25) - turn
    ropes = [centre + column(rim * np.cos(a), 0, rim * np.sin(a)) for a in corners]
    return [
        ellipsoid(cloth, centre, column(size, size, size), touch / size),
        cone(cloth, centre, apex, width, mouth, touch),
        *(tube(ROPE, foot, 0.014 * size, 1.2 * mouth, mouth) for foot in ropes),
        tube(wicker, centre, 1.06 * rim, -1.58 * size, -1.37 * size),
    ]


def tree(foot: Array, h: float) -> list[Solid]:
    tiers = [(0.07, 0.62, 0.34), (0.36, 0.84, 0.31), (0.60, 1.00, 0.28)]
    skirts = [cone(pine, foot, top * h, width, low * h, top * h, 0.03 * h) for low, top, width in tiers]
    return [tube(ROPE, foot, 0.035 * h, -0.2 * h, 0.15 * h), *skirts]


def ground(x: float, z: float) -> Array:
    """The point of the hills above (x, z), infinitely low over the lake."""
    return column(x, 9 - trace(HILLS, column(x, 9, z), column(0, -1, 0))[0].item(), z)


def landscape() -> list[Solid]:
    peaks = [cone(rock, column(x, -1, z), h, 0.95, 0.0, h, 0.6) for x, z, h in PEAKS]
    grove = np.random.default_rng(11).uniform((-14, 4.5, 0.65), (14, 17, 1.15), (60, 3)).tolist()
    trees = [tree(ground(x, z), h) for x, z, h in [*grove, *PINES] if ground(x, z)[1] > 0.1]
    hut = ground(-5.1, 5.6)
    walls, roof = tube(WALL, hut, 0.3, -0.3, 1.0), cone(ROOF, hut, 1.65, 0.62, 0.98, 1.65)
    return [*HILLS, *peaks, *chain.from_iterable(trees), walls, roof]


LAND = landscape()


def scene(look: Look, t: float, sun: Array) -> Scene:
    """The world at time t of the clip, from 0 to 1."""
    hero = column(-0.7 + 2.5 * t, 3.75 + 0.55 * np.sin(1.6 * t), 5.0 - 0.6 * t)
    friend = column(2.3 - 0.9 * t, 4.3 + 0.5 * t, 22.0)
    balloons = balloon(look.silk, hero, 1.9, 0.3 + 0.15 * t) + balloon(pennants, friend, 1.1, 0.2 * t)
    return Scene(look, LAND + balloons, sun, t)


def camera(t: float) -> tuple[Array, Array]:
    """The eye [3, 1] and its axes [3, 3] (right, up, ahead): a slow slide to the right."""
    eye = column(-0.35 + 0.7 * t, 1.35 + 0.12 * t, -9.0)
    ahead = unit(column(0.1, 2.0, 6.0) - eye)
    right = unit(np.cross(column(0, 1, 0), ahead, axis=0))
    return eye, np.hstack([right, np.cross(ahead, right, axis=0), ahead])


# --- Light ----------------------------------------------------------------------------------------


def sky(scene: Scene, d: Array) -> Array:
    """A gradient, and clouds that are bright on the side of the sun."""
    look, up = scene.look, np.maximum(d[1], 0)
    colour = mix(look.horizon, look.zenith, smooth(-0.05, 0.55, up) ** 0.7)
    u, v = np.arctan2(d[0], d[2]) * 3.2 + 0.04 * scene.t, up * 6.5
    puff, sunward = fbm(u + 3.7, v + 1.2, 6), fbm(u + 3.62, v + 1.32, 6)
    relief = np.clip(0.86 + 2.4 * (puff - sunward), 0.55, 1.15)
    cover = 0.92 * smooth(0.52, 0.66, puff) * smooth(0.02, 0.2, up)
    return mix(colour, look.cloud * mix(look.zenith + 0.35, column(1, 1, 1), relief), cover)


def shade(scene: Scene, which: Array, world: Array, d: Array) -> Array:
    """Sunlight with shadows, the light of the sky, and what the ground throws back."""
    albedo, n, out = np.empty_like(world), np.empty_like(world), np.empty_like(world)
    for index in np.unique(which):
        mine, solid = which == index, scene.solids[index]
        p = world[:, mine] - solid.centre
        out[:, mine] = solid.normal(p)
        out[:, mine] *= -np.sign(dot(out[:, mine], d[:, mine]))
        albedo[:, mine], n[:, mine] = solid.paint(p, world[:, mine], out[:, mine])
    lit = np.isinf(trace(scene.solids, world + 0.01 * out, scene.sun)[0])
    direct = lit * np.maximum(dot(n, scene.sun), 0) + 0.06 * (1 - n[1])
    return albedo * (scene.look.sun * direct + scene.look.ambient * (0.7 + 0.3 * n[1]))


def water(scene: Scene, _which: Array, world: Array, d: Array) -> Array:
    """A mirror bent by small waves, over a depth of its own colour."""
    x, _, z = world
    wave = [fbm(x * 1.3 + a, z * 3.2 + a - 1.2 * scene.t, 3) - 0.44 for a in (0, 40)]
    calm = 0.05 / (1 + 0.06 * (z + 9))
    n = unit(np.stack([calm * wave[0], np.ones_like(x), calm * wave[1]]))
    seen = d - 2 * dot(d, n) * n
    seen[1] = np.abs(seen[1])
    fresnel = 0.1 + 0.9 * (1 + np.clip(dot(d, n), -1, 0)) ** 3.5
    return mix(rgb("1d6a78") * scene.look.ambient * 1.2, radiance(scene, world, seen), fresnel)


def radiance(scene: Scene, o: Array, d: Array) -> Array:
    """The light that comes back along each ray."""
    depth, which = trace(scene.solids, o, d)
    lake = np.where(d[1] < 0, o[1] / np.maximum(-d[1], 1e-4), np.inf)
    which = np.where(lake < depth, WATER, which)
    depth = np.minimum(lake, depth)
    world, colour = o + np.where(which == SKY, 0, depth) * d, np.empty_like(d)
    colour[:, which == SKY] = sky(scene, d[:, which == SKY])
    for rays, light in ((which >= 0, shade), (which == WATER, water)):
        if rays.any():  # mirrored rays never meet the lake again, which ends the recursion
            near = light(scene, which[rays], world[:, rays], d[:, rays])
            clear = np.exp(-((depth[rays] / 55) ** 2))
            colour[:, rays] = mix(scene.look.horizon * 0.92, near, clear)
    return colour


# --- The film -------------------------------------------------------------------------------------


def develop(light: Array) -> Array:
    """Linear light to 8 bits, by a shoulder that keeps the highlights."""
    tone = light * (2.51 * light + 0.03) / (light * (2.43 * light + 0.59) + 0.14)
    return (np.clip(tone, 0, 1) ** (1 / 2.2) * 255 + 0.5).astype(np.uint8)


def render(look: Look, index: int, size: int = SIZE) -> Array:
    """Frame `index` of the clip under a look, uint8 [size, size, 3]."""
    t, side = index / (FRAMES - 1), np.arange(size)
    eye, axes = camera(t)
    light = np.zeros((3, size, size), np.float32)
    for dy, dx in np.ndindex(SAMPLES, SAMPLES):
        shift = (np.array([dy, dx]) + 0.5) / SAMPLES
        sun = unit(SUN + 0.02 * column(shift[0], 0, shift[1]))  # a disc, so its shadows are soft
        world = scene(look, t, sun)
        for rows in np.array_split(side, size // 64):  # strips that fit the cache
            y, x = np.meshgrid(rows + shift[0], side + shift[1], indexing="ij")
            plane = [x.ravel() * 2 / size - 1, 1 - y.ravel() * 2 / size, np.full(x.size, 2.35)]
            d = unit(axes @ np.array(plane, np.float32))
            light[:, rows] += radiance(world, eye, d).reshape(3, -1, size)
    return develop(light / SAMPLES**2).transpose(1, 2, 0)


def film(look: Look) -> Iterable[Array]:
    """All frames, drawn by all cores."""
    with ProcessPoolExecutor() as pool:
        yield from pool.map(partial(render, look), range(FRAMES))


def main() -> None:
    parser = argparse.ArgumentParser(description="Render the demo clip and the edit of its first frame.")
    parser.add_argument("--truth", type=Path, help="also render the whole edited video to this path")
    options = parser.parse_args()
    write(HERE / "clip.mp4", film(NOON), FPS, overwrite=True)
    Image.fromarray(render(GOLDEN, 0)).save(HERE / "edited.png", optimize=True)
    if options.truth:
        write(options.truth, film(GOLDEN), FPS, overwrite=True)


if __name__ == "__main__":
    main()
