"""Scores of an edited clip against the true one: frames uint8 ``[F, H, W, 3]``, region bool ``[F, H, W]``."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["bounded_psnr", "first_frame_adherence", "psnr", "ssim", "warping_error"]

Frames = NDArray[np.uint8]
Region = NDArray[np.bool_]


def psnr(frames: Frames, truth: Frames, region: Region | None = None) -> float:
    """Peak signal-to-noise ratio in dB, higher is better; over ``region`` if one is given.

    Returns:
        Infinity for what is equal, NaN where the region is empty.
    """
    error = np.square(frames.astype(np.float32) - truth).mean(axis=-1)
    chosen = error if region is None else error[region]
    if chosen.size == 0:
        return float("nan")
    mean = float(chosen.mean())
    return 10 * math.log10(255**2 / mean) if mean else math.inf


MOST = 100.0  # dB; a single level in one pixel of a million is 108


def bounded_psnr(frames: Frames, truth: Frames, region: Region | None = None) -> float:
    """The same, but at most 100 dB: one infinite score would leave no mean and no interval of many."""
    return min(psnr(frames, truth, region), MOST)  # in this order, which keeps a NaN


def ssim(frames: Frames, truth: Frames, region: Region | None = None) -> float:
    """Structural similarity (Wang et al., 2004), -1 to 1, higher is better; over ``region`` if one is given.

    The mean over frames, colours and pixels, with the paper's Gaussian window.
    """
    from skimage.metrics import structural_similarity

    maps = [
        structural_similarity(
            ours, theirs, channel_axis=-1, gaussian_weights=True, sigma=1.5, data_range=255, full=True
        )[1].mean(axis=-1)
        for ours, theirs in zip(frames, truth, strict=True)
    ]
    chosen = np.stack(maps) if region is None else np.stack(maps)[region]
    return float(chosen.mean()) if chosen.size else float("nan")


def first_frame_adherence(frames: Frames, edited_first: NDArray[np.uint8]) -> float:
    """PSNR in dB, at most 100, of the first frame against the one that was asked for, higher is better."""
    return bounded_psnr(frames[:1], edited_first[None])


def warping_error(frames: Frames, flow: NDArray[np.float32], visible: Region) -> float:
    """Mean absolute change along the known motion, in levels 0 to 255, lower is better (Lai et al., 2018).

    Args:
        frames: The clip.
        flow: Where each pixel of frame k + 1 was in frame k: an offset in pixels, ``[F - 1, H, W, 2]``.
        visible: Where it was visible there, ``[F - 1, H, W]``.
    """
    height, width = frames.shape[1:3]
    grid = np.dstack(np.meshgrid(np.arange(width), np.arange(height))).astype(np.float32)
    errors = [
        np.abs(cv2.remap(before, grid + offset, None, cv2.INTER_LINEAR).astype(np.float32) - after)[seen]
        for before, after, offset, seen in zip(frames[:-1], frames[1:], flow, visible, strict=True)
    ]
    return float(np.concatenate(errors).mean())
