"""InstantID's editor against numbers of the pipeline that diffusers' community made of the authors' code."""

from __future__ import annotations

import ast
import re
from functools import cache
from inspect import signature
from pathlib import Path
from typing import Any

import cv2
import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from anyv2v import Size
from anyv2v.editors import instant_id
from anyv2v.editors.faces import Face, draw_points
from anyv2v.editors.instant_id import InstantID, InstantIDSettings, face_tokens, stretched, wearing
from anyv2v.editors.protocol import Machine, Request
from golden_data import Case, Golden, assert_close, assert_levels, named

# numpy 2 wants more of torch's tensors than they have, when diffusers hands it one
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"
)

GOLDEN = Golden("instant-id")
LIMIT = GOLDEN.tolerance
RUNS = GOLDEN.kind("run")


@cache
def editor(dtype: torch.dtype = torch.float32, **settings: Any) -> InstantID:
    """The editor on the golden checkpoint, in which each part is where its publishers put it."""
    folder = Path(GOLDEN.checkpoint)
    weights = dict.fromkeys(("sdxl", "identity", "faces"), folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(instant_id, "analyse", lambda _folder: None)
        told = InstantIDSettings(**{"strength": 1.0} | settings)
        return InstantID.load(weights, told, Machine(torch.device("cpu"), dtype))


def guided(case: Case) -> bool:
    return case.params["guidance_scale"] > 1


def scheduler(described: str) -> Any:
    """A scheduler as the manifest describes it: its class, and its settings that are not the checkpoint's."""
    kind = getattr(diffusers, re.match(r"\w+", described)[0])
    changes = re.search(r"\(checkpoint config, (.*?)\)", described)
    call = ast.parse(f"f({changes[1] if changes else ''})", mode="eval").body
    changed = {word.arg: ast.literal_eval(word.value) for word in call.keywords}
    return kind.from_config(editor().pipe.scheduler.config, **changed)


def parameters(pipe: Any, case: Case) -> dict[str, Any]:
    """The parameters of a case that are the pipeline's own."""
    known = signature(pipe.__call__).parameters
    return {
        name: tuple(value) if isinstance(value, list) and isinstance(value[0], int) else value
        for name, value in case.params.items()
        if name in known
    }


def sample(pipe: Any, case: Case, **more: Any) -> Any:
    """The run of a case: what an edit at full strength is, of more parameters."""
    walk, scale = pipe.scheduler, case.params["ip_adapter_scale"]
    pipe.scheduler = scheduler(case.params["scheduler"])
    pipe.set_ip_adapter_scale(scale)
    try:
        with wearing(pipe, case.tensors["image_embeds"], guided=guided(case)) as embeddings:
            return pipe(
                image=Image.fromarray(case.frames("kps_u8")),
                ip_adapter_image_embeds=[embeddings],
                latents=case.tensors["init_latents"].to(pipe.dtype),
                **parameters(pipe, case),
                **more,
            ).images
    finally:
        pipe.scheduler = walk


class Watch:
    """What the nets are told during a run, and where it stands after each step."""

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe
        self.latents: list[Tensor] = []
        self.timesteps: list[float] = []
        self.controlnet: list[dict[str, Any]] = []
        self.unet: list[dict[str, Any]] = []

    def step(self, _pipe: Any, _index: int, t: Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
        self.latents.append(tensors["latents"])
        self.timesteps.append(float(t))
        return tensors

    def __enter__(self) -> Watch:
        def note(seen: list[dict[str, Any]]) -> Any:
            return lambda _net, _inputs, told, _output: seen.append(told)

        self.hooks = [
            net.register_forward_hook(note(seen), with_kwargs=True)
            for net, seen in ((self.pipe.controlnet, self.controlnet), (self.pipe.unet, self.unet))
        ]
        return self

    def __exit__(self, *_error: object) -> None:
        for hook in self.hooks:
            hook.remove()


@named(RUNS)
def test_run(case: Case) -> None:
    pipe, theirs = editor().pipe, case.tensors
    with Watch(pipe) as seen:
        image = sample(pipe, case, output_type="np", callback_on_step_end=seen.step)
    assert seen.timesteps == theirs["timesteps"].tolist()
    assert_close(torch.stack(seen.latents), theirs["latents_after_step"], LIMIT["latents_after_step_atol"])
    assert_close(torch.from_numpy(image), theirs["image"], LIMIT["image_float_atol"])
    scales = [told["conditioning_scale"] for told in seen.controlnet]
    assert scales == pytest.approx(theirs["controlnet.scale_per_step"].tolist())
    told, text = (told[case.params["capture_step"]] for told in (seen.controlnet, seen.unet))
    assert_close(text["encoder_hidden_states"], theirs["prompt_embeds"], LIMIT["prompt_embeds_atol"])
    assert_close(told["controlnet_cond"], theirs["controlnet.cond"], 1e-6)
    for name in ("text_embeds", "time_ids"):
        assert_close(told["added_cond_kwargs"][name], theirs[f"controlnet.{name}"], 1e-5)
    context = told["encoder_hidden_states"]
    tokens = theirs["face_tokens"].repeat_interleave(len(context) // len(theirs["face_tokens"]), dim=0)
    assert_close(context, tokens, LIMIT["face_tokens_atol"])


@named(RUNS)
def test_run_in_double_precision(case: Case) -> None:
    latents = sample(editor(torch.float64).pipe, case, output_type="latent")
    assert_close(latents, case.tensors["final_latents_f64"], LIMIT["final_latents_f64_atol"])


@named(RUNS)
@torch.no_grad()
def test_nets_alone(case: Case) -> None:
    """Each net once, on the inputs that the reference's got."""
    pipe, theirs, limit = editor().pipe, case.tensors, LIMIT["controlnet_and_unet_single_call_atol"]
    pipe.set_ip_adapter_scale(case.params["ip_adapter_scale"])
    level, images = theirs["timestep"].float(), case.params["num_images_per_prompt"]
    with wearing(pipe, theirs["image_embeds"], guided=guided(case)) as embeddings:
        down, mid = pipe.controlnet(
            theirs["controlnet.sample"],
            level,
            encoder_hidden_states=theirs["prompt_embeds"],  # which it must not see
            controlnet_cond=theirs["controlnet.cond"],
            conditioning_scale=float(theirs["controlnet.scale_per_step"][case.params["capture_step"]]),
            guess_mode=case.params["guess_mode"],
            added_cond_kwargs={name: theirs[f"controlnet.{name}"] for name in ("text_embeds", "time_ids")},
            return_dict=False,
        )
    for index, ours in enumerate(down):
        assert_close(ours, theirs[f"controlnet.down.{index}"], limit)
    assert_close(mid, theirs["controlnet.mid"], limit)
    faces = pipe.prepare_ip_adapter_image_embeds(None, [embeddings], "cpu", images, guided(case))
    noise = pipe.unet(
        theirs["unet.sample"],
        level,
        encoder_hidden_states=theirs["prompt_embeds"],
        down_block_additional_residuals=[theirs[f"controlnet.down.{index}"] for index in range(len(down))],
        mid_block_additional_residual=theirs["controlnet.mid"],
        added_cond_kwargs={
            "image_embeds": faces,
            **{name: theirs[f"unet.{name}"] for name in ("text_embeds", "time_ids")},
        },
        return_dict=False,
    )[0]
    assert_close(noise, theirs["unet.noise_pred"], limit)


@named(GOLDEN.kind("projection"))
def test_face_tokens(case: Case) -> None:
    ours = face_tokens(editor().pipe.unet, case.tensors["embeddings"])
    assert_close(ours, case.tensors["tokens"], LIMIT["face_tokens_atol"])


@named(GOLDEN.kind("draw_kps"))
def test_points(case: Case) -> None:
    params = case.params
    ours = draw_points(np.array(params["points_xy"]), Size(params["width"], params["height"]))
    theirs = cv2.cvtColor(cv2.imread(str(case.folder / case.entry["file"])), cv2.COLOR_BGR2RGB)
    np.testing.assert_array_equal(ours, theirs)


@named(RUNS)
def test_points_of_a_run(case: Case) -> None:
    theirs = case.frames("kps_u8")
    np.testing.assert_array_equal(draw_points(case.frames("kps_points"), Size.of(theirs)), theirs)


@named(GOLDEN.kind("resize_arithmetic"))
def test_sizes(case: Case) -> None:
    params = case.params
    for given, wanted in case.entry["sizes_wh_in_out"]:
        ours = stretched(Size(*given), params["min_side"], params["max_side"], params["multiple"])
        assert ours == Size(*wanted)


SETTABLE = {
    *("prompt", "negative_prompt", "num_inference_steps", "guidance_scale", "ip_adapter_scale"),
    *("controlnet_conditioning_scale", "control_guidance_start", "control_guidance_end"),
    *("capture_step", "latents_seed", "face", "kps_image_size_wh", "scheduler"),
}


def plain(case: Case) -> bool:
    """Whether a case can be told in the editor's own settings, and so be its edit from end to end."""
    rest = {name: value for name, value in case.params.items() if name not in SETTABLE}
    return (
        all(not value or (name == "num_images_per_prompt" and value == 1) for name, value in rest.items())
        and case.params["scheduler"].startswith("EulerDiscreteScheduler, checkpoint")
        and case.tensors["kps_u8"].shape[:2] == (64, 64)
    )


@named([case for case in RUNS if plain(case)])
def test_edit(case: Case, monkeypatch) -> None:
    """The whole way from an editor's request to its picture."""
    params, tensors = case.params, case.tensors
    ours = editor(
        steps=params["num_inference_steps"],
        guidance_scale=max(1.0, params["guidance_scale"]),
        negative_prompt=params["negative_prompt"] or "",
        identity_scale=params["ip_adapter_scale"],
        pose_scale=params["controlnet_conditioning_scale"],
        control_start=params["control_guidance_start"],
        control_end=params["control_guidance_end"],
        side=64,
    )
    people = [Face(embedding, case.frames("kps_points")) for embedding in case.frames("image_embeds")]
    found = iter([people[0], *people])
    monkeypatch.setattr(ours, "faces", lambda _picture: next(found))
    monkeypatch.setattr(
        diffusers.pipelines.controlnet.pipeline_controlnet_sd_xl,
        "randn_tensor",
        lambda *_shape, **_told: tensors["init_latents"],
    )
    frame = np.zeros((64, 64, 3), np.uint8)
    picture = ours.edit(Request(frame, params["prompt"], references=(frame,) * len(people)))
    assert_levels(picture, np.rint(case.frames("image")[0] * 255).astype(np.uint8), 1)
