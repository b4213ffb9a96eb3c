"""SDXL (arXiv 2307.01952) with a ControlNet (2302.05543) and an IP-Adapter (2308.06721), for editors."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from anyv2v.editors.canvas import frame_of
from anyv2v.editors.protocol import Machine, Request
from anyv2v.errors import OptionError
from anyv2v.options import within
from anyv2v.picture import Frame
from anyv2v.progress import OnStep, Step
from anyv2v.weights import hushed, load_part, loading

__all__ = ["MULTIPLE", "SDXLSettings", "load_pipeline", "paint"]

MULTIPLE = 64  # of the sizes that SDXL was trained on


@dataclass(frozen=True)
class SDXLSettings:
    """What can be set of every editor on SDXL.

    Attributes:
        steps: Sampling steps, 1 to 1000; an edit of less than full strength takes only that share of them.
        guidance_scale: Classifier-free guidance, 1 to 100; 1 turns it off.
        negative_prompt: What the result shall not show.
        strength: Up to 1. Below 1, sampling begins with the frame under that much noise, which keeps the
            rest of it; at 1 it begins with noise alone, and makes a new picture.
        control_start: Share of the steps, 0 to 1, before the ControlNet sets in.
        control_end: Share of the steps, 0 to 1, after which it is left out.
        side: The frame is scaled to about ``side`` x ``side`` pixels, 64 to 4096; SDXL was trained at 1024.

    Raises:
        OptionError: A value is out of its range.
    """

    steps: int = 30
    guidance_scale: float = 5.0
    negative_prompt: str = "blurry, low quality, distorted, watermark, text"
    strength: float = 1.0
    control_start: float = 0.0
    control_end: float = 1.0
    side: int = 1024

    def __post_init__(self) -> None:
        within(self, 1, 1000, "steps")
        within(self, 1, 100, "guidance_scale")
        within(self, 0, 1, "strength", "control_start", "control_end")
        within(self, 64, 4096, "side")
        if self.steps * self.strength < 1:
            raise OptionError(f"strength {self.strength:g} of {self.steps} steps leaves none")
        if self.control_start >= self.control_end:
            raise OptionError("control start must be less than control end")


def load_pipeline(
    folder: Path,
    controlnet: Path,
    adapter: Path,
    machine: Machine,
    *,
    from_noise: bool,
    image_encoder: Path | None = None,
) -> Any:
    """Load diffusers' pipeline of SDXL with a ControlNet and an IP-Adapter.

    Args:
        folder: Of SDXL, in diffusers' layout.
        controlnet: Its folder.
        adapter: Its file, ``.safetensors`` or ``.bin``.
        machine: What it runs on.
        from_noise: Whether it begins with noise alone; else with a picture.
        image_encoder: The folder of the adapter's, where it has one.

    Raises:
        CheckpointError: Weights that are broken, incomplete or another model's.
    """
    offload = machine.low_memory and machine.device.type == "cuda"
    home = torch.device("cpu") if offload else machine.device

    def net(kind: Any, where: Path) -> Any:
        return load_part(kind, where.parent, where.name, home, machine.dtype)

    with _quiet():
        pipe = _assembled(folder, controlnet, image_encoder, net, from_noise)
        _adapt(pipe, adapter)
    pipe.set_progress_bar_config(disable=True)
    if offload:
        pipe.enable_model_cpu_offload(device=machine.device)
    return pipe


def _assembled(
    folder: Path,
    controlnet: Path,
    image_encoder: Path | None,
    net: Callable[[Any, Path], Any],
    from_noise: bool,
) -> Any:
    import diffusers as df
    import transformers as tf

    kind = df.StableDiffusionXLControlNetPipeline
    if not from_noise:
        kind = df.StableDiffusionXLControlNetImg2ImgPipeline
    with loading(folder):
        return kind(
            vae=net(df.AutoencoderKL, folder / "vae"),
            text_encoder=net(tf.CLIPTextModel, folder / "text_encoder"),
            text_encoder_2=net(tf.CLIPTextModelWithProjection, folder / "text_encoder_2"),
            tokenizer=tf.CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True),
            tokenizer_2=tf.CLIPTokenizer.from_pretrained(folder / "tokenizer_2", local_files_only=True),
            unet=net(df.UNet2DConditionModel, folder / "unet"),
            scheduler=df.EulerDiscreteScheduler.from_pretrained(folder / "scheduler", local_files_only=True),
            controlnet=net(df.ControlNetModel, controlnet),
            image_encoder=image_encoder and net(tf.CLIPVisionModelWithProjection, image_encoder),
            add_watermarker=False,  # else it would hang on whether some package happens to be installed
        )


def _adapt(pipe: Any, adapter: Path) -> None:
    with loading(adapter):
        pipe.load_ip_adapter(
            str(adapter.parent),
            subfolder="",
            weight_name=adapter.name,
            image_encoder_folder=None,
            local_files_only=True,
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """The libraries warn of what is meant so: an adapter without an image encoder, a VAE put to float32."""
    with hushed(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`upcast_vae` is deprecated", FutureWarning)
        yield


def paint(
    pipe: Any,
    frame: Frame,
    control: Frame,
    request: Request,
    settings: SDXLSettings,
    on_step: OnStep,
    **told: Any,
) -> Frame:
    """Sample a picture.

    Args:
        pipe: See ``load_pipeline``.
        frame: What is edited, ``[H, W, 3]``, of sides that are multiples of 8.
        control: What the ControlNet sees, of the same size.
        request: Gives the prompt and the seed.
        settings: Of the editor.
        on_step: See ``Editor``.
        told: What else the pipeline is told.

    Returns:
        ``[H, W, 3]``.
    """

    def report(pipe: Any, index: int, _t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        on_step(Step("edit frame", index + 1, pipe.num_timesteps))
        return tensors

    pictures: dict[str, Any] = {"image": Image.fromarray(control)}
    if settings.strength < 1:
        pictures = {
            "image": Image.fromarray(frame),
            "control_image": Image.fromarray(control),
            "strength": settings.strength,
        }
    with _quiet():
        result = pipe(
            prompt=request.instruction,
            negative_prompt=settings.negative_prompt or None,  # none is zeros, as in training; not so ""
            num_inference_steps=settings.steps,
            guidance_scale=settings.guidance_scale,
            control_guidance_start=settings.control_start,
            control_guidance_end=settings.control_end,
            generator=torch.Generator().manual_seed(request.seed),
            callback_on_step_end=report,
            output_type="np",
            **pictures,
            **told,
        )
    return frame_of(result.images[0])
