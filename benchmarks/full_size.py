"""Time and memory of I2VGen-XL at its published size. Its weights are random: neither depends on them.

``python benchmarks/full_size.py`` on a CUDA machine; on a CPU, for ratios, with ``--width 0.2 --side 128``.
An edit runs with a ``--share`` of its steps, and the seconds of inversion and sampling are multiplied as the
operations of its net are; ``--share 1`` runs all of them. Encoding and decoding are whole. Not covered:
reading the clip, writing the result, and loading weights.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, I2VGenXLUNet
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModelWithProjection

from anyv2v import Options, Size, Video, VideoSpec, diffuse, recipe
from anyv2v.backbones.chunking import spare
from anyv2v.backbones.i2vgen_xl import I2VGenXL
from anyv2v.carry import invert_video
from anyv2v.compiling import compile_regions
from anyv2v.deep import Mode
from anyv2v.fitting import Cost, cost
from anyv2v.footprint import Footprint, rehearse
from anyv2v.host import gpu
from anyv2v.progress import Step
from anyv2v.schedule import DDIM
from anyv2v.source import of_use

PIXELS = {"crop_size": {"width": 224, "height": 224}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
LEVELS = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "steps_offset": 1,
}


def i2vgen_xl(
    width: float = 1.0, device: str = "cuda", dtype: torch.dtype = torch.float16, frames: int = 16
) -> I2VGenXL:
    """The nets of ``ali-vilab/i2vgen-xl`` with random weights, their channels in proportion to ``width``."""
    with torch.device("meta"):
        parts = net(width), vae(width), text_encoder(width), image_encoder(width)
    unet, auto, text, image = (random(part, device, dtype) for part in parts)
    nn.Module.to(auto, dtype=torch.float32)  # the VAE overflows in half precision
    schedule = DDIM.from_config(LEVELS)
    return I2VGenXL(unet, auto, text, tokenizer, image, PIXELS, schedule, frames)


def net(width: float) -> nn.Module:
    return I2VGenXLUNet(sample_size=32, block_out_channels=channels(width, 320, 640, 1280, 1280))


def channels(width: float, *published: int) -> tuple[int, ...]:
    """A share of them, in whole heads of 64, which are whole groups of norms too."""
    return tuple(64 * max(1, round(width * count / 64)) for count in published)


def vae(width: float) -> nn.Module:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=channels(width, 128, 256, 512, 512),
        layers_per_block=2,
    )


def text_encoder(width: float) -> nn.Module:
    """OpenCLIP's ViT-H/14, as far as it is used."""
    config = CLIPTextConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=max(2, round(23 * width)),
        num_attention_heads=16,
        hidden_act="gelu",
    )
    return CLIPTextModel(config)


def image_encoder(width: float) -> nn.Module:
    """OpenCLIP's ViT-H/14."""
    heads = max(1, round(16 * width))
    config = CLIPVisionConfig(
        hidden_size=80 * heads,
        intermediate_size=320 * heads,
        num_hidden_layers=max(2, round(32 * width)),
        num_attention_heads=heads,
        patch_size=14,
        projection_dim=1024,
        hidden_act="gelu",
    )
    return CLIPVisionModelWithProjection(config)


@torch.no_grad()
def random(part: nn.Module, device: str, dtype: torch.dtype) -> nn.Module:
    """Weights that keep the scale of what passes through."""
    part = nn.Module.to(part, dtype=dtype).to_empty(device=device).eval().requires_grad_(False)
    for name, weight in part.named_parameters():
        if weight.ndim > 1:
            weight.normal_(std=weight[0].numel() ** -0.5)
        else:
            weight.fill_(float(name.endswith("weight")))
    for buffer in part.buffers():  # the places of tokens are the only ones
        buffer.copy_(torch.arange(buffer.numel()).view_as(buffer))
    return part


def tokenizer(prompts: list[str], **_settings: Any) -> SimpleNamespace:
    """Every prompt is as long as every other."""
    return SimpleNamespace(input_ids=torch.zeros(len(prompts), 77, dtype=torch.long))


tokenizer.model_max_length = 77  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Trial:
    """A way to edit.

    Attributes:
        recipe: The name of its options.
        channels_last: Whether the net's convolutions lay channels last.
        low_memory: Whether parts only visit the device.
        gigabytes: What may be held on the device, if not all of it.
    """

    recipe: str
    channels_last: bool = False
    low_memory: bool = False
    gigabytes: float | None = None


EAGER = {
    "paper": Trial("paper"),
    "default": Trial("default"),
    "fast": Trial("fast"),
    "fast, channels last": Trial("fast", channels_last=True),
    "fast in 12 GB": Trial("fast", gigabytes=12),
    "fast, low memory": Trial("fast", low_memory=True),
}
COMPILED = {
    "paper, compiled": Trial("paper"),
    "fast, compiled": Trial("fast"),
    "fast, compiled, channels last": Trial("fast", channels_last=True),
}


class Bench:
    """A machine and a clip.

    Args:
        told: What was asked for on the command line.
    """

    def __init__(self, told: argparse.Namespace) -> None:
        self.told = told
        self.device = torch.device(told.device)
        self.dtype = torch.float16 if self.device.type == "cuda" else torch.float32
        self.size = Size(told.side, told.side)
        self._made: dict[bool, I2VGenXL] = {}

    def backbone(self, *, low_memory: bool) -> I2VGenXL:
        """The nets, on the device or waiting for their turn; one of both at a time."""
        if low_memory not in self._made:
            self._made.clear()
            self._made[low_memory] = self._backbone("cpu" if low_memory else self.told.device, low_memory)
            if low_memory and self.device.type == "cuda":
                self._made[low_memory].visit(self.device)
        return self._made[low_memory]

    def _backbone(self, device: str, low_memory: bool) -> I2VGenXL:
        backbone = i2vgen_xl(self.told.width, device, self.dtype, self.told.frames)
        if low_memory:
            spare(backbone.net, backbone.bank, backbone.deep)
        return backbone

    def options(self, name: str, share: float) -> Options:
        """A recipe in a share of its steps."""
        full = recipe(name)
        steps, inversion_steps = round(full.steps * share), round(full.inversion_steps * share)
        if share < 1:
            inversion_steps = steps  # of 500 all are alike
        skip = full.skip if share == 1 else 0
        return replace(full, steps=steps, inversion_steps=inversion_steps, skip=skip, size=self.size)

    def spec(self, backbone: I2VGenXL) -> VideoSpec:
        return replace(backbone.spec, size=self.size)

    def foretell(self, trial: Trial, options: Options) -> Footprint:
        hollow = self._backbone("meta", trial.low_memory)
        limit = 1e9 * (trial.gigabytes or float("inf"))
        return rehearse(hollow, self.spec(hollow), options, low_memory=trial.low_memory, limit=limit)

    def flops(self) -> tuple[float, float]:
        """Of a call of the net with one row: of all its layers, and of those that never rest."""
        hollow = self._backbone("meta", False)
        spec = self.spec(hollow)
        blank = np.zeros((spec.frames, spec.size.height, spec.size.width, 3), np.uint8)
        z, told = (
            hollow.encode(blank[:1]).expand(-1, -1, spec.frames, -1, -1),
            hollow.condition(blank[0], "", spec),
        )

        def counted(mode: Mode) -> float:
            with FlopCounterMode(display=False) as counter, hollow.deep.mode(mode, 1):
                hollow.denoise(z, 1, told)
            return float(counter.get_total_flops())

        return counted("keep"), counted("reuse")

    def peak_rate(self) -> float:
        """FLOP a second of a large product of matrices: what the chip can do, as far as its library can."""
        side = 8192 if self.device.type == "cuda" else 1024
        a = torch.randn(side, side, device=self.device, dtype=self.dtype)
        return 2 * side**3 / min(self.seconds(lambda: a @ a) for _ in range(10))

    def seconds(self, work: Any) -> float:
        self.wait()
        start = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - start

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def run(self, trial: Trial, options: Options) -> tuple[dict[str, float], int]:
        """An edit: seconds by stage, and the most bytes that were held on a GPU."""
        backbone = self.backbone(low_memory=trial.low_memory)
        layout = torch.channels_last if trial.channels_last else torch.contiguous_format
        for module in backbone.net.modules():
            if isinstance(module, nn.Conv2d):
                module.to(memory_format=layout)
        spec = self.spec(backbone)
        video = Video(np.zeros((spec.frames, self.told.side, self.told.side, 3), np.uint8), spec.fps)
        found: Counter[str] = Counter()
        last = time.perf_counter()

        def lap(step: Step) -> None:
            nonlocal last
            if step.done in (0, step.total):  # the device is not to wait at every step
                self.wait()
                now = time.perf_counter()
                found[step.stage] += now - last
                last = now

        memory = gpu(backbone.device)
        if memory:
            memory.begin()
        made = of_use(invert_video(backbone, video, options, on_step=lap), backbone, options)
        diffuse(backbone, video, video.frames[0], "", options, trajectory=made, on_step=lap)
        return dict(found), memory.most if memory else 0


@contextmanager
def limited(gigabytes: float | None) -> Iterator[None]:
    """Hold no more on the device than that."""
    os.environ["ANYV2V_MEMORY_LIMIT"] = "" if gigabytes is None else str(gigabytes)
    yield
    del os.environ["ANYV2V_MEMORY_LIMIT"]


COLUMNS = (
    "rows",
    "whole rows",
    "times less work",
    "encode",
    "invert",
    "propagate",
    "decode",
    "seconds",
    "times faster",
    "of the matrix peak",
    "GB foretold",
    "GB of this run",
    "and foretold",
)


class Table:
    """Rows in Markdown, as soon as they are known; the first is what the others are compared with."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.slowest, self.most = bench, 0.0, 0.0
        (self.whole, self.least), self.rate = bench.flops(), bench.peak_rate()
        row = f"A row takes the net {self.whole / 1e12:.3g} TFLOP, {self.least / 1e12:.3g} where layers rest"
        peak = f"a product of matrices reaches {self.rate / 1e12:.4g} TFLOP/s"
        print(f"{row}; {peak}. {bench.told.share:g} of the steps were run.\n")
        print(f"| | {' | '.join(COLUMNS)} |\n|{'---|' * (1 + len(COLUMNS))}", flush=True)

    def write(self, name: str, trial: Trial) -> None:
        """A first edit, and a second one of the same clip, whose inversion is in memory."""
        bench = self.bench
        short, full = bench.options(trial.recipe, bench.told.share), bench.options(trial.recipe, 1)
        backbone = bench.backbone(low_memory=trial.low_memory)
        with limited(trial.gigabytes):
            found, most = bench.run(trial, short)
        ran, runs = self.operations(backbone, short), self.operations(backbone, full)
        first = {stage: seconds * runs.get(stage, 1) / ran.get(stage, 1) for stage, seconds in found.items()}
        second = {stage: first[stage] for stage in ("propagate", "decode")}
        held = {}
        if most:
            held = {"GB of this run": most / 1e9, "and foretold": bench.foretell(trial, short).peak / 1e9}
        peaks = bench.foretell(trial, full).peaks
        for inverted, label, stages in ((False, name, first), (True, f"{name}: second edit", second)):
            work = cost(backbone, full, inverted=inverted)
            peak = max(peaks[stage] for stage in stages)
            self.row(label, stages, work, ({} if inverted else held) | {"GB foretold": peak / 1e9})

    def operations(self, backbone: I2VGenXL, options: Options) -> dict[str, float]:
        """Of the net, by stage."""
        both, sampling = (self.flops(cost(backbone, options, inverted=one)) for one in (False, True))
        return {"invert": both - sampling, "propagate": sampling}

    def flops(self, work: Cost) -> float:
        return work.whole * self.whole + (work.rows - work.whole) * self.least

    def row(self, label: str, stages: Mapping[str, float], work: Cost, held: Mapping[str, float]) -> None:
        flops = self.flops(work)
        self.most = self.most or flops
        seconds = sum(stages.values())
        self.slowest = self.slowest or seconds
        working = stages.get("invert", 0.0) + stages["propagate"]
        figures = (
            dict(stages)
            | held
            | {
                "rows": work.rows,
                "whole rows": work.whole,
                "times less work": self.most / flops,
                "seconds": seconds,
                "times faster": self.slowest / seconds,
                "of the matrix peak": flops / working / self.rate,
            }
        )
        told = (f"{figures[name]:.3g}" if name in figures else "" for name in COLUMNS)
        print(f"| {label} | {' | '.join(told)} |", flush=True)


def write_profile(bench: Bench, title: str) -> None:
    """The kernels that a guided step spends its time in."""
    backbone, options = bench.backbone(low_memory=False), bench.options("fast", 1)
    spec = bench.spec(backbone)
    blank = np.zeros((spec.frames, bench.told.side, bench.told.side, 3), np.uint8)
    told = backbone.condition(blank[0], "", spec, options)
    z = backbone.encode(blank[:1]).expand(len(told), -1, spec.frames, -1, -1)
    backbone.denoise(z, 1, told)
    cuda = bench.device.type == "cuda"
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=kinds) as profiler:
        bench.seconds(lambda: backbone.denoise(z, 1, told))
    print(f"\n{title}: one call with two rows\n\n| | calls | ms |\n|---|---|---|")

    def spent(event: Any) -> float:
        return float(event.self_device_time_total if cuda else event.self_cpu_time_total) / 1e3

    for event in sorted(profiler.key_averages(), key=spent, reverse=True)[:12]:
        print(f"| {event.key[:80].replace('|', ' ')} | {event.count} | {spent(event):.3g} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--width", type=float, default=1.0, help="share of the published channels")
    add("--side", type=int, default=512, help="pixels")
    add("--frames", type=int, default=16)
    add("--share", type=float, default=0.2, help="share of the steps to run")
    add("--trials", nargs="+", choices=[*EAGER, *COMPILED], default=[*EAGER, *COMPILED])
    add("--no-profile", dest="profile", action="store_false")
    told = parser.parse_args()
    bench = Bench(told)
    with torch.no_grad():
        for trial in (EAGER["fast"], EAGER["paper"]):
            bench.run(trial, replace(bench.options(trial.recipe, 1), steps=2, inversion_steps=2, skip=0))
        table = Table(bench)
        for name, trial in EAGER.items():
            if name in told.trials:
                table.write(name, trial)
        if told.profile:
            write_profile(bench, "Eager")
        if wanted := [name for name in COMPILED if name in told.trials]:
            backbone = bench.backbone(low_memory=False)
            compile_regions(backbone.net, backbone.bank)
            for name in wanted:
                bench.run(COMPILED[name], bench.options(COMPILED[name].recipe, told.share))  # compiles
                table.write(name, COMPILED[name])
            graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
            print(f"\n{graphs} graphs were compiled.")
            if told.profile:
                write_profile(bench, "Compiled")


if __name__ == "__main__":
    main()
