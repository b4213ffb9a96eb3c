"""SEINE as a backbone against numbers of the authors' own code."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from anyv2v import Condition, Options, Size, Trajectory, invert, load_backbone, propagate, recipe
from anyv2v.backbones.seine import SEINE
from golden_data import Case, Golden, assert_levels, assert_near, named

GOLDEN = Golden("seine")
FRAMES, WHOLE = 2, 1e-5  # levels, and relative distance of whole tensors, as the manifest has them
EDIT = 1e-4


@pytest.fixture(scope="module")
def backbone() -> SEINE:
    return load_backbone("seine", GOLDEN.checkpoint, device="cpu")


def told(text: Tensor, mask: Tensor, latents: Tensor) -> Condition:
    given = torch.cat([mask, latents], dim=1).expand(len(text), -1, -1, -1, -1)
    return Condition({"encoder_hidden_states": text, "given": given})


def of_source(case: Case) -> Condition:
    return told(case.tensors["text_embeds"], case.tensors["mask"], case.tensors["masked_latents"])


@cache
def trajectory(backbone: SEINE, name: str) -> Trajectory:
    """A source's inversion by our own hand, which ``test_inversion`` holds to the reference's."""
    case = GOLDEN.cases[name]
    options = Options(inversion="ddim", inversion_steps=case.params["n_steps"])
    return invert(backbone, case.tensors["latents_0"], of_source(case), options)


@named(GOLDEN.kind("inversion"))
def test_inversion(backbone: SEINE, case: Case) -> None:
    ours = trajectory(backbone, case.entry["name"])
    for t, theirs in zip(case.tensors["inv.timesteps"].tolist(), case.tensors["inv.latents"], strict=True):
        assert_near(ours.at(t), theirs, WHOLE)


@named([case for case in GOLDEN.kind("inversion") if "vae.noise_frames" in case.tensors])
def test_encoding_and_condition_of_the_source(backbone: SEINE, case: Case, monkeypatch) -> None:
    noises = iter([*case.tensors["vae.noise_frames"], *case.tensors["vae.noise_masked"]])
    monkeypatch.setattr(backbone, "noise", lambda _z, _generator: next(noises)[None])
    frames, draw = case.frames("frames_uint8_fhwc"), backbone.generator(0)
    assert_near(backbone.encode(frames, draw), case.tensors["latents_0"], WHOLE)
    spec = replace(backbone.spec, frames=len(frames))
    ours = backbone.condition(frames[0], case.params["prompt"], spec, generator=draw)
    for name, theirs in of_source(case).tensors.items():
        assert_near(ours.tensors[name], theirs, WHOLE)


@named(GOLDEN.kind("inversion"))
def test_reconstruction(backbone: SEINE, case: Case) -> None:
    steps = case.params["n_steps"]
    options = Options(steps=steps, guidance=1, skip=0, tau_conv=0, tau_spatial=0, tau_temporal=0)
    source, seen = of_source(case), trajectory(backbone, case.entry["name"])
    latents = propagate(backbone, seen, source, source, options)
    assert_near(latents, case.tensors["rec.latents_0"], 5e-5)
    if "rec.frames_uint8" in case.tensors:
        theirs = case.frames("rec.frames_uint8")[0]
        assert_levels(backbone.decode(latents)[: len(theirs)], theirs, FRAMES)


def options_of(case: Case) -> Options:
    """The paper's recipe with the settings of a case; an inversion kept a tenth of the levels at most."""
    params = case.params
    injects = params["enable_pnp"]
    kinds = {"conv": "pnp_f_t", "spatial": "pnp_spatial_attn_t", "temporal": "pnp_temp_attn_t"}
    return replace(
        recipe("paper", "seine"),
        steps=params["n_steps"],
        inversion_steps=params["n_inversion_steps"],
        guidance=params["cfg_scale"],
        sampler=params["sample_method"],
        start_level=max(GOLDEN.cases[params["inversion_case"]].params["saved_timesteps"]),
        noise_share=0.0 if params["init_with_ddim_inversion"] else 1.0,
        **{f"tau_{kind}": params[name] * injects for kind, name in kinds.items()},
        tau_cross=params["pnp_cross_attn_t"] * injects,
    )


@named(GOLDEN.kind("edit"))
def test_edit(backbone: SEINE, case: Case) -> None:
    """Both samplers, every injection alone and together, with and without guidance, from noise."""
    options, inputs = options_of(case), GOLDEN.cases[case.params["inputs_case"]].tensors
    text = case.tensors.get("text_embeds", inputs["text_embeds"])
    source = told(inputs["text_embeds"][:1], inputs["mask"], inputs["masked_src_latents"])
    branches = text[[-1, -2]] if options.guidance > 1 else text[[-2]]  # theirs has the negative prompt last
    edit = told(branches, inputs["mask"], inputs["masked_edit_latents"])
    seen: dict[int | None, Tensor | None] = {}
    drawn = draws(case, inputs)
    latents = propagate(
        backbone,
        trajectory(backbone, case.params["inversion_case"]),
        source,
        edit,
        options,
        noise=lambda _: next(drawn),
        on_step=lambda step: seen.update({step.level: step.latents}),
    )
    stride = 1000 // options.steps
    for t, theirs in zip(case.tensors["timesteps"].tolist(), case.tensors["latents"], strict=True):
        assert_near(seen[t - stride], theirs, EDIT)
    if "frames_uint8" in case.tensors:
        theirs = case.frames("frames_uint8")[0]
        assert_levels(backbone.decode(latents)[: len(theirs)], theirs, FRAMES)


def draws(case: Case, inputs: dict[str, Tensor]) -> Iterator[Tensor]:
    """The start, where it is random; then a noise for each step, of which the last takes none."""
    if not case.params["init_with_ddim_inversion"]:
        yield case.tensors["x_T"]
    yield from inputs["ddpm_noise"]
    yield torch.zeros_like(inputs["x_T"])


SCHEDULERS = GOLDEN.cases["schedulers"].tensors


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_samplers(backbone: SEINE, sampler: str) -> None:
    walk = backbone.sampler(Options(sampler=sampler))
    assert_near(walk.alphas_cumprod, SCHEDULERS[f"{sampler}.alphas_cumprod"], WHOLE)
    for steps in (8, 10, 50, 250, 500):
        assert walk.grid(steps)[:-1] == tuple(SCHEDULERS[f"{sampler}.timesteps.{steps}"].tolist())
    for step in (0, 4, 9):
        t, s = walk.grid(10)[step : step + 2]
        assert t == SCHEDULERS[f"{sampler}.step{step}.t"]
        noise = SCHEDULERS.get(f"{sampler}.step{step}.noise")
        ours = walk.step(SCHEDULERS["step.eps"], SCHEDULERS["step.x"], t, s, noise)
        assert_near(ours, SCHEDULERS[f"{sampler}.step{step}.prev"], WHOLE)


def test_words(backbone: SEINE) -> None:
    case = GOLDEN.cases["text_encoder"]
    grey = np.full((64, 64, 3), 128, np.uint8)
    spec = replace(backbone.spec, frames=2)
    for prompt, theirs in zip(case.params["prompts"], case.tensors["last_hidden_state"], strict=True):
        ours = backbone.condition(grey, prompt, spec).tensors["encoder_hidden_states"]
        assert_near(ours[0], theirs, WHOLE)


def test_pictures(backbone: SEINE, monkeypatch) -> None:
    tensors = GOLDEN.cases["vae_preprocess"].tensors
    frame = tensors["frames_uint8_fchw"].permute(0, 2, 3, 1).numpy()
    monkeypatch.setattr(backbone, "noise", lambda _z, _generator: tensors["vae.noise"])
    ours = backbone.encode(frame, backbone.generator(0))[:, :, 0]
    assert_near(ours, tensors["latents_scaled"], WHOLE)
    large, small = (tensors[name] for name in ("resize.in_uint8_fchw", "resize.out_norm_64x64"))
    monkeypatch.setattr(backbone, "encode_pixels", lambda pixels, _generator: pixels)
    ours = backbone.encode_frame(large[0].permute(1, 2, 0).numpy(), None, Size(64, 64))
    assert_near(ours[:, : small.shape[1]], small, WHOLE)
    decoded = backbone.decode(tensors["decode.latents_scaled"][:, :, None])
    assert_levels(decoded, tensors["decode.uint8"].permute(0, 2, 3, 1).numpy(), FRAMES)


def test_the_paper_s_recipe_is_the_reference() -> None:
    paper = recipe("paper", "seine")
    assert (paper.guidance, paper.skip, paper.steps, paper.inversion_steps) == (4, 0, 50, 500)
    assert (paper.sampler, paper.start_level, paper.source_branch) == ("ddpm", 997, "always")
    assert recipe("default", "seine").sampler == "ddim"
