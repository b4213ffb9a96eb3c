"""Rendered scenes, whose true edit is known, tell how well optical flow carries an edit."""

from collections.abc import Callable

import cv2
import numpy as np

from anyv2v.flow import Flow, FlowReport

SIZE = 160
Look = Callable[[np.ndarray], np.ndarray]


def texture(seed: int, size: int = 2 * SIZE) -> np.ndarray:
    """Smooth coloured noise with detail at several scales, float32 0..1."""
    rng = np.random.default_rng(seed)
    scales = [cv2.GaussianBlur(rng.standard_normal((size, size, 3)), (0, 0), s) * s for s in (1.2, 3, 9)]
    return (0.5 + 0.18 * sum(scales)).clip(0.05, 0.95).astype(np.float32)


def shift(image: np.ndarray, x: float, y: float) -> np.ndarray:
    """A window on a larger image, at a subpixel place."""
    matrix = np.float32([[1, 0, SIZE / 2 + x], [0, 1, SIZE / 2 + y]])
    return cv2.warpAffine(image, matrix, (SIZE, SIZE), flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP)


def disc(radius: float) -> np.ndarray:
    y, x = np.mgrid[: 2 * SIZE, : 2 * SIZE] - SIZE + 0.5
    return np.clip(radius - np.hypot(x, y) + 0.5, 0, 1).astype(np.float32)[..., None]


def to_bytes(image: np.ndarray) -> np.ndarray:
    return np.rint(image.clip(0, 1) * 255).astype(np.uint8)


def same(image: np.ndarray) -> np.ndarray:
    return image


def redder(image: np.ndarray) -> np.ndarray:
    return image * np.float32([1, 0.3, 0.3]) + np.float32([0.15, 0, 0])


def dusk(image: np.ndarray) -> np.ndarray:
    return image @ np.float32([[0.5, 0.1, 0.1], [0.1, 0.5, 0.1], [0.1, 0.2, 0.7]]) + np.float32([0, 0, 0.1])


def scene(
    frames: int,
    thing: tuple[float, float] = (0, 0),
    camera: tuple[float, float] = (0, 0),
    look: Look = same,
    world_look: Look = same,
    radius: float = 32,
) -> tuple[np.ndarray, np.ndarray]:
    """A textured disc over a textured background, speeds in pixels per frame; and the mask of the disc."""
    body, world, outline = look(texture(1)), world_look(texture(2)), disc(radius)
    pictures, masks = [], []
    for k in range(frames):
        alpha = shift(outline, -k * thing[0], -k * thing[1])[..., None]
        inner, outer = shift(body, -k * thing[0], -k * thing[1]), shift(world, k * camera[0], k * camera[1])
        pictures.append(to_bytes(alpha * inner + (1 - alpha) * outer))
        masks.append(alpha[..., 0] > 0.5)
    return np.stack(pictures), np.stack(masks)


def carry(frames: np.ndarray, edited_first: np.ndarray) -> tuple[np.ndarray, FlowReport]:
    carried = Flow().carry(frames, edited_first)
    return np.stack(list(carried)), carried.report


def psnr(a: np.ndarray, b: np.ndarray, where: np.ndarray) -> float:
    error = (a.astype(np.float64) - b)[where]
    return float(10 * np.log10(255**2 / max((error**2).mean(), 1e-9)))
