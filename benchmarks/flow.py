"""How fast optical flow edits a clip, end to end, and that its memory does not grow with the clip.

``python benchmarks/flow.py`` takes the demo, or ``--clip`` and ``--first-frame``, plays it forth and back
with a camera's grain on it, edits it with the real command in a process of its own, and prints tables in
Markdown. The processor's time stands beside the wall's, as it depends far less on what else runs. For Unix.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from anyv2v import Clip, Fit, Size, read_image, write, write_image
from anyv2v.flow import FlowCarrier
from anyv2v.picture import Frame

DEMO = Path(__file__).parents[1] / "examples" / "demo"
FPS = 24
GRAIN = 2.0  # levels, standard deviation; without any, encoding would look too cheap
RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes


@dataclass(frozen=True)
class Run:
    """A command that has ended: seconds by the wall and of the processor, and the bytes it held at most."""

    wall: float
    cpu: float
    peak: int


@dataclass(frozen=True)
class Scene:
    """A clip on disk, the edit of its first frame, and where a result goes."""

    size: Size
    clip: Path
    first_frame: Path
    output: Path

    @classmethod
    def make(cls, folder: Path, size: Size, frames: int, clip: Path, first_frame: Path) -> Scene:
        """A clip of any length and size out of a short one."""
        scene = cls(size, folder / f"{size}.mp4", folder / f"{size}.png", folder / f"{size}-out.mp4")
        fit = Fit(Clip(clip).size, size)
        write(scene.clip, islice(to_and_fro([fit.apply(frame) for frame in Clip(clip)]), frames), FPS)
        edited = read_image(first_frame)
        write_image(scene.first_frame, Fit(Size.of(edited), size).apply(edited))
        return scene

    def edit(self, frames: int) -> Run:
        """Edit so many frames by the command line."""
        words = ("edit", self.clip, "--first-frame", self.first_frame, "-o", self.output, "--frames", frames)
        return command(*words, "--backbone", "flow", "--overwrite", "--quiet")

    def stages(self, frames: int) -> dict[str, float]:
        """Milliseconds of the processor that each stage takes for a frame, alone."""
        source, read = timed(lambda: list(Clip(self.clip, frames=frames)))
        carrier = FlowCarrier(source[0], read_image(self.first_frame))
        motions, track = timed(lambda: list(map(carrier.track, source[1:])))
        result, paint = timed(lambda: list(map(carrier.paint, source[1:], motions)))
        _, writing = timed(lambda: write(self.output, result, FPS, overwrite=True))
        seconds = {"read": read, "track": track, "paint": paint, "write": writing}
        return {stage: 1000 * spent / frames for stage, spent in seconds.items()}


def to_and_fro(frames: list[Frame]) -> Iterator[Frame]:
    """Frames forth and back without end, with grain on them."""
    rng = np.random.default_rng(0)
    for frame in cycle([*frames, *frames[-2:0:-1]]):
        grain = GRAIN * rng.standard_normal(frame.shape, np.float32)
        yield (frame + grain).round().clip(0, 255).astype(np.uint8)


# A process counts as its own the memory of the one that it was forked from, so a small one stands between.
BETWEEN = """
import json, os, sys, time
start = time.perf_counter()
words = [sys.executable, "-m", "anyv2v", *sys.argv[1:]]
_, status, used = os.wait4(os.posix_spawn(sys.executable, words, os.environ), 0)
print(json.dumps([time.perf_counter() - start, used.ru_utime + used.ru_stime, used.ru_maxrss]))
sys.exit(status != 0)
"""


def command(*words: object) -> Run:
    """Run ``anyv2v`` in its own process."""
    done = subprocess.run(
        [sys.executable, "-c", BETWEEN, *map(str, words)], check=True, stdout=subprocess.PIPE, text=True
    )
    wall, cpu, peak = json.loads(done.stdout.splitlines()[-1])
    return Run(wall, cpu, peak * RSS_UNIT)


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What work gives, and the seconds of the processor that it took in all threads."""
    start = time.process_time()
    return work(), time.process_time() - start


def best(runs: list[Run]) -> Run:
    """The least of each: what else runs only ever adds."""
    return Run(*(min(getattr(run, name) for run in runs) for name in ("wall", "cpu", "peak")))


def load() -> str:
    """How many processes wanted a core in the last minute."""
    return f"{os.getloadavg()[0]:.1f}"


def speed(scene: Scene, frames: int, runs: int, cores: int) -> Mapping[str, float]:
    """Figures of one size: a short run is subtracted, so that a frame's time holds no start-up."""
    few, many = (best([scene.edit(n) for _ in range(runs)]) for n in (2, frames))
    frame = 1000 * (many.cpu - few.cpu) / (frames - 2)
    stages = scene.stages(frames)
    threads = stages["read"] + stages["track"], stages["paint"]  # and the encoder, which has some of its own
    free = 1000 / max(frame / cores, *threads)
    return {
        "start-up, CPU s": few.cpu,
        "CPU ms a frame": frame,
        **stages,
        "frames/s by the wall": frames / many.wall,
        f"by CPU time, {cores} free cores": free,
    }


def table(title: str, rows: Mapping[str, Mapping[str, float]]) -> None:
    """A table in Markdown."""
    columns = list(next(iter(rows.values())))
    print(f"\n| {title} | " + " | ".join(columns) + " |\n|" + " --- |" * (len(columns) + 1))
    for name, row in rows.items():
        print(
            f"| {name} | "
            + " | ".join(f"{row[column]:.{3 if row[column] < 1000 else 4}g}" for column in columns)
            + " |"
        )


def draw(
    path: Path, speeds: Mapping[str, Mapping[str, float]], peaks: Mapping[str, Mapping[str, float]]
) -> None:
    """Where the time of a frame goes, and the memory over the length of the clip."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.2), layout="constrained")
    start = np.zeros(len(speeds))
    for stage in ("read", "track", "paint", "write"):
        spent = np.array([row[stage] for row in speeds.values()])
        left.barh(list(speeds), spent, left=start, label=stage)
        start += spent
    left.set(xlabel="milliseconds of the processor a frame", xlim=(0, None))
    left.legend()
    for size, row in peaks.items():
        right.plot([int(n) for n in row], list(row.values()), "o-", label=size)
    right.set(xlabel="frames", ylabel="peak memory, MB", xscale="log", ylim=(0, None))
    right.set_xticks(
        [int(n) for n in next(iter(peaks.values()))], list(next(iter(peaks.values()))), minor=False
    )
    right.minorticks_off()
    right.legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--clip", type=Path, default=DEMO / "clip.mp4")
    parser.add_argument("--first-frame", type=Path, default=DEMO / "edited.png")
    parser.add_argument("--sizes", nargs="+", type=Size.parse, default=[Size(512, 512), Size(1920, 1080)])
    parser.add_argument("--frames", type=int, default=96, help="of the runs that are timed")
    parser.add_argument("--lengths", nargs="+", type=int, default=[64, 128, 256], help="for memory")
    parser.add_argument("--runs", type=int, default=3, help="the best of so many")
    parser.add_argument("--cores", type=int, default=2, help="what the last column supposes")
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        longest = max(*given.lengths, given.frames)
        scenes = [
            Scene.make(Path(folder), size, longest, given.clip, given.first_frame) for size in given.sizes
        ]
        print(f"{os.cpu_count()} cores, load {load()}; {given.frames} frames, best of {given.runs}")
        speeds = {str(s.size): speed(s, given.frames, given.runs, given.cores) for s in scenes}
        table("end to end", speeds)
        peaks = {str(s.size): {str(n): s.edit(n).peak / 1e6 for n in given.lengths} for s in scenes}
        table("peak MB over frames", peaks)
        print(f"\nload {load()} at the end")
    if given.plot:
        draw(given.plot, speeds, peaks)


if __name__ == "__main__":
    main()
