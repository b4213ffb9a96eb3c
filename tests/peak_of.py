"""Prints the peak of an edit as it was foretold, and as the operating system saw it. Linux alone.

``python -m tests.peak_of WIDTH SIDE FRAMES RECIPE STEPS``, once in a process.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from anyv2v import Options, Size, Video, diffuse, recipe
from anyv2v.footprint import rehearse
from benchmarks.full_size import i2vgen_xl


def resident(what: str) -> int:
    """Bytes of this process in memory: ``VmRSS`` now, ``VmHWM`` at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))


def main(width: float, side: int, frames: int, name: str, steps: int) -> None:
    torch.set_num_threads(1)
    told = {"dtype": torch.float32, "frames": frames}
    options = replace(recipe(name), steps=steps, inversion_steps=steps, skip=0, size=Size(side, side))
    hollow = i2vgen_xl(width, "meta", **told)
    spec = replace(hollow.spec, size=Size(side, side))
    foretold = rehearse(hollow, spec, options)
    backbone = i2vgen_xl(width, "cpu", **told)
    video = Video(np.zeros((frames, side, side, 3), np.uint8), spec.fps)
    warm = Options(steps=1, inversion_steps=1, skip=0, size=Size(64, 64))
    diffuse(backbone, Video(np.zeros((2, 64, 64, 3), np.uint8), spec.fps), video.frames[0], "", warm)
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    diffuse(backbone, video, video.frames[0], "", options)
    measured = resident("VmHWM") - before + foretold.weights
    print(
        json.dumps(
            {
                "foretold": foretold.peak,
                "measured": measured,
                "weights": foretold.weights,
                "peaks": foretold.peaks,
            }
        )
    )


if __name__ == "__main__":
    width, side, frames, name, steps = sys.argv[1:]
    main(float(width), int(side), int(frames), name, int(steps))
