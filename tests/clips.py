"""Tiny clips for tests, written without the code under test."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

BITS, HERTZ = 8, 48_000


def numbered(k: int, width: int = 64, height: int = 48) -> np.ndarray:
    """A frame [H, W, 3] that shows k, 0..255, as eight black or white bars, which any codec keeps."""
    bits = [(k >> bit & 1) * 255 for bit in range(BITS)]
    row = np.asarray(bits, np.uint8)[np.arange(width) * BITS // width]
    return np.broadcast_to(row[None, :, None], (height, width, 3)).copy()


def number(frame: np.ndarray) -> int:
    """The k that a numbered frame shows."""
    height, width, _ = frame.shape
    bars = frame[height // 2, (2 * np.arange(BITS) + 1) * width // (2 * BITS), 1]
    return int(sum(1 << bit for bit, bar in enumerate(bars) if bar > 127))


def smooth(k: int, width: int, height: int) -> np.ndarray:
    """A colourful frame [H, W, 3] without fine detail, so that lossy codecs come close."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    return (255 * np.stack([x, y, np.full_like(x, 0.2 + k % 10 / 20)], axis=-1)).astype(np.uint8)


def beep(at: float, seconds: float) -> np.ndarray:
    """Mono samples at 48 kHz: silence, and from `at` on 0.1 s of 1 kHz."""
    time = np.arange(round(seconds * HERTZ)) / HERTZ
    return np.where((time >= at) & (time < at + 0.1), np.sin(2000 * np.pi * time) / 2, 0).astype(np.float32)


def onset(samples: np.ndarray) -> float:
    """Seconds until mono samples at 48 kHz become loud."""
    return float(np.argmax(np.abs(samples) > 0.1) / HERTZ)


def listen(path: Path) -> np.ndarray:
    """The sound of a file, mono at 48 kHz, silence put in where it begins after 0 s."""
    with av.open(path) as container:
        resampler = av.AudioResampler(format="fltp", layout="mono", rate=HERTZ)
        heard = [block for frame in container.decode(audio=0) for block in resampler.resample(frame)]
    lead = np.zeros(max(0, round(heard[0].time * HERTZ)), np.float32)
    return np.concatenate([lead, *(block.to_ndarray()[0] for block in heard)])


def film(
    path: Path,
    frames: list[np.ndarray],
    fps: Fraction = Fraction(25),
    *,
    codec: str = "libx264",
    times: list[Fraction] | None = None,
    sound: np.ndarray | None = None,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    matrix: int = 5,
    tagged: bool = False,
) -> Path:
    """A film of frames [H, W, 3] at `fps`, or each at its own time in seconds; `matrix` by ITU-T H.273."""
    with av.open(path, "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=fps, options=options or {})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        if tagged:
            stream.codec_context.colorspace = matrix
        voice = container.add_stream("aac", rate=HERTZ, layout="mono") if sound is not None else None
        clock = Fraction(1, 1000) if times else 1 / fps
        stream.codec_context.time_base = clock
        for k, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels).reformat(format="yuv420p", dst_colorspace=matrix)
            frame.pts, frame.time_base = round(times[k] / clock) if times else k, clock
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if voice is not None:
            heard = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
            heard.rate, heard.pts = HERTZ, 0
            container.mux([*voice.encode(heard), *voice.encode(None)])
    return path


def turn(path: Path, degrees: int) -> Path:
    """Have players turn an mp4 clockwise: the display matrix in its tkhd box (ISO/IEC 14496-12, 8.3.2).

    The matrix (a b u; c d v; x y w) sends a pixel (x, y), y downwards, to (a x + c y, b x + d y). Clockwise
    by 90 degrees, right (1, 0) becomes bottom (0, 1) and bottom becomes left (-1, 0): a b c d = 0 1 -1 0.
    """
    a, b, c, d = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}[degrees]
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # version 0: 40 bytes from the flags to the matrix
    one = 1 << 16
    struct.pack_into(">9i", data, at, a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path
