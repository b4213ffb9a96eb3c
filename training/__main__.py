"""The command line of training."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import json
import math
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from diffusers import AutoencoderKL
from rich import print
from torch import nn
from transformers import CLIPTokenizer

from anyv2v.backbones.i2vgen_xl import I2VGenXL
from anyv2v.schedule import DDIM
from anyv2v.weights import pick_device
from training import pictures
from training.net import NetLearner
from training.parts import PIXELS, new_nets, new_vae, scheduler, tokenizer, write_index, write_part
from training.recipe import RECIPES, Recipe
from training.stage import train
from training.vae import VaeLearner, balanced

JUDGED = 128  # frames by which the VAE's latents are balanced


def main(
    name: Annotated[str, typer.Argument(metavar="RECIPE", help=f"One of {', '.join(RECIPES)}.")] = "cpu",
    out: Annotated[Path, typer.Option(help="Where everything is kept; go on there if it exists.")] = Path(
        "out/mini"
    ),
    vae_minutes: Annotated[
        float | None, typer.Option(help="Time for the VAE in all calls, instead of the recipe's.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Time for the net in all calls, instead of the recipe's.")
    ] = None,
    pause: Annotated[
        float, typer.Option(metavar="MINUTES", help="Stop after so long, saved; the same line goes on.")
    ] = math.inf,
    device: str = "auto",
) -> None:
    """Train the embedded model: its VAE, then its net. The checkpoint is in OUT/checkpoint."""
    recipe = RECIPES[name]
    told = {"minutes": minutes, "vae_minutes": vae_minutes}
    recipe = replace(recipe, **{name: time for name, time in told.items() if time is not None})
    where = pick_device(device)
    for folder in ("vae", "net", "checkpoint"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    write_index(out / "checkpoint", recipe)
    write_part(out / "checkpoint", "scheduler", scheduler())
    began = time.monotonic()
    train_vae(recipe, out, where, pause)
    pause -= (time.monotonic() - began) / 60
    if pause > 0:
        train_net(recipe, out, where, pause)


def train_vae(recipe: Recipe, out: Path, device: torch.device, pause: float) -> None:
    """Stage 1."""
    learner = VaeLearner(new_vae(recipe), recipe, device)

    def publish(average: Any) -> None:
        vae = balanced(average, torch.cat(list(islice(learner.batches(0), JUDGED // recipe.vae_batch))))
        write_part(out / "checkpoint", "vae", vae)
        decibels = pictures.given_back(vae, recipe, out / "vae" / "sample.png")
        pictures.curve(out / "vae", "VAE: absolute and squared error, and prior")
        print(f"VAE: {decibels:.2f} dB on clips not seen, latents scaled by {vae.config.scaling_factor:.3f}")

    spent = train(
        learner,
        out / "vae",
        minutes=recipe.vae_minutes,
        batch=max(1, recipe.vae_batch // 4),
        rate=recipe.vae_rate,
        save_minutes=recipe.save_minutes,
        publish=publish,
        pause=pause,
    )
    print(f"VAE: {spent.steps} steps, {spent.clips} clips, {spent.seconds / 60:.1f} minutes")


def train_net(recipe: Recipe, out: Path, device: torch.device, pause: float) -> None:
    """Stage 2, in the latents of stage 1."""
    checkpoint = out / "checkpoint"
    vae = AutoencoderKL.from_pretrained(checkpoint / "vae", variant="fp16", local_files_only=True).float()
    if not (checkpoint / "tokenizer").exists():
        write_part(checkpoint, "tokenizer", tokenizer())
    words = CLIPTokenizer.from_pretrained(checkpoint / "tokenizer", local_files_only=True)
    schedule = DDIM.from_config(json.loads((checkpoint / "scheduler" / "scheduler_config.json").read_text()))
    learner = NetLearner(new_nets(recipe, words), vae, words, schedule, recipe, device)

    def publish(nets: nn.ModuleDict) -> None:
        for name, net in nets.items():
            write_part(checkpoint, name, net)
        backbone = I2VGenXL(
            nets["unet"],
            vae,
            nets["text_encoder"],
            words,
            nets["image_encoder"],
            PIXELS,
            schedule,
            recipe.frames,
        )
        decibels = pictures.generated(backbone, out / "net" / "sample.png", recipe.sample_steps)
        pictures.curve(out / "net", "net: mean squared error of the clean latents")
        print(f"net: {decibels:.2f} dB from a first frame and noise, on clips not seen")

    spent = train(
        learner,
        out / "net",
        minutes=recipe.minutes,
        batch=recipe.batch,
        rate=recipe.rate,
        save_minutes=recipe.save_minutes,
        publish=publish,
        pause=pause,
    )
    print(f"net: {spent.steps} steps, {spent.clips} clips, {spent.seconds / 60:.1f} minutes")


if __name__ == "__main__":
    typer.run(main)
