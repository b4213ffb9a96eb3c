"""ConsistI2V as a backbone against numbers of the authors' own code."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from anyv2v import Condition, Options, Trajectory, invert, load_backbone, propagate, recipe
from anyv2v.backbones.consisti2v import ConsistI2V
from anyv2v.backbones.frame_init import blend, low_pass
from golden_data import Case, Golden, assert_close, assert_levels, assert_within, named

GOLDEN = Golden("consisti2v")


@pytest.fixture(scope="module")
def backbone() -> ConsistI2V:
    return load_backbone("consisti2v", GOLDEN.checkpoint, device="cpu")


def condition(case: Case, rows: list[int]) -> Condition:
    """Rows of a case's batch: the source, the branches of guidance."""
    text, first = (case.tensors[name] for name in ("text_embeddings_batch", "first_frame_latents_batch"))
    return told(text[rows], first[rows])


def told(text: Tensor, first: Tensor, stride: int = 3) -> Condition:
    return Condition(
        {
            "encoder_hidden_states": text,
            "first_frame_latents": first[:, :, None],
            "frame_stride": torch.full((len(text),), stride),
        }
    )


@cache
def trajectory(backbone: ConsistI2V, name: str) -> Trajectory:
    """A source's inversion by our own hand, which ``test_inversion`` holds to the reference's."""
    case = GOLDEN.cases[name]
    text, first, others = (
        case.tensors[key] for key in ("text_embeddings", "first_frame_latents", "x0_latents_frames_1_to_end")
    )
    z0 = torch.cat([first[:, :, None], others], dim=2)
    return invert(
        backbone, z0, told(text, first), Options(inversion="ddim", inversion_steps=case.params["n_steps"])
    )


@named(GOLDEN.kind("ddim_inversion"))
def test_inversion(backbone: ConsistI2V, case: Case) -> None:
    ours = trajectory(backbone, case.entry["name"])
    for t, theirs in zip(
        case.tensors["timesteps"].tolist(), case.tensors["latents_saved_per_step"], strict=True
    ):
        assert_within(ours.at(t)[:, :, 1:], theirs[:, :, 1:], GOLDEN.tolerance["ddim_inversion"])


@named(GOLDEN.kind("ddim_inversion"))
def test_encoding_of_the_source(backbone: ConsistI2V, case: Case, monkeypatch) -> None:
    noises = iter(case.tensors["vae_noise_video"])
    monkeypatch.setattr(backbone, "noise", lambda _z, _generator: next(noises)[None])
    ours = backbone.encode(case.frames("frames_uint8"), backbone.generator(0))
    assert_within(ours[:, :, 1:], case.tensors["x0_latents_frames_1_to_end"], 1e-5)


def options_of(case: Case) -> Options:
    """The paper's recipe with the settings of a case."""
    params = case.params
    taus = params.get("taus", dict.fromkeys(("conv", "spatial", "temporal"), 0))
    return replace(
        recipe("paper", "consisti2v"),
        steps=params["n_steps"],
        inversion_steps=params["n_steps"],
        guidance=params["cfg_txt"],
        image_guidance=params["cfg_img"],
        skip=params["ddim_init_latents_t_idx"],
        noise_share=params.get("blend_ratio", 0),
        **{f"tau_{kind}": tau for kind, tau in taus.items()},
    )


@named(GOLDEN.kind("reconstruction"))
def test_reconstruction(backbone: ConsistI2V, case: Case) -> None:
    """It has no source branch; the first frame is encoded once more, with other noise."""
    edit = told(case.tensors["text_embeddings"], case.tensors["first_frame_latents"])
    check(backbone, case, edit, edit, GOLDEN.tolerance["reconstruction"])


@named(GOLDEN.kind("pnp_edit"))
def test_edit(backbone: ConsistI2V, case: Case) -> None:
    """Every injection alone and together, both ways of guidance, noise blended in, steps left out."""
    rows = range(1, len(case.tensors["text_embeddings_batch"]))
    check(backbone, case, condition(case, [0]), condition(case, list(rows)), GOLDEN.tolerance["pnp_edit"])


def check(backbone: ConsistI2V, case: Case, source: Condition, edit: Condition, tolerance: float) -> None:
    """The latents after each step that is held, the last ones, and the frames."""
    seen: dict[int | None, Tensor | None] = {}
    latents = propagate(
        backbone,
        trajectory(backbone, case.params["inversion_case"]),
        source,
        edit,
        options_of(case),
        noise=lambda _: case.tensors["blend_noise"],
        on_step=lambda step: seen.update({step.level: step.latents}),
    )
    assert_within(latents, case.tensors["final_latents"], tolerance)
    stride = 1000 // case.params["n_steps"]
    held = case.tensors.get("latents_per_step", ())
    for t, theirs in zip(case.tensors.get("timesteps", torch.empty(0)).tolist(), held, strict=True):
        assert_within(seen[t - stride][:, :, 1:], theirs, tolerance)
    if "video_uint8" in case.tensors:
        theirs = case.frames("video_uint8")
        assert_levels(backbone.decode(latents)[: len(theirs)], theirs, GOLDEN.tolerance["video_uint8_levels"])


@named(GOLDEN.kind("pnp_edit"))
def test_conditions(backbone: ConsistI2V, case: Case, monkeypatch) -> None:
    """From pixels and words. With image guidance the reference's blind row sees the source, ours noise."""
    options = options_of(case)
    options = replace(options, negative_prompt=case.params["editing_negative_prompt"])
    noises = [case.tensors[f"vae_noise_{name}_frame"] for name in ("edited", "source")]
    draws = iter([noises[0], noises[0], noises[1]] if options.image_guidance > 1 else noises)
    monkeypatch.setattr(backbone, "noise", lambda _z, _generator: next(draws).reshape(_z.shape))
    frame, draw = case.frames("edited_first_frame_uint8"), backbone.generator(0)
    edit = backbone.condition(frame, case.params["editing_prompt"], backbone.spec, options, generator=draw)
    seen = frame if case.params["source_branch_image_is_edited_frame"] else source_frame(case)
    source = backbone.condition(seen, case.params["ddim_inv_prompt"], backbone.spec, generator=draw)
    ours, blind = source + edit, options.image_guidance > 1
    for name, theirs in {
        "encoder_hidden_states": case.tensors["text_embeddings_batch"],
        "first_frame_latents": case.tensors["first_frame_latents_batch"][:, :, None],
    }.items():
        rows = [row for row in range(len(theirs)) if not (blind and row == 1)]
        assert_within(ours.tensors[name][rows], theirs[rows], 1e-5)
    assert set(ours.tensors["frame_stride"].tolist()) == {3}


def source_frame(case: Case) -> np.ndarray:
    return GOLDEN.cases[case.params["inversion_case"]].frames("frames_uint8")[0]


@named(GOLDEN.kind("i2v_sampling"))
def test_sampling_without_a_source(backbone: ConsistI2V, case: Case) -> None:
    """Clips of a first frame and noise: both ways of guidance, rescaled guidance, FrameInit."""
    params = case.params
    options = Options(
        steps=params["n_steps"],
        guidance=params["cfg_txt"],
        image_guidance=params["cfg_img"],
        guidance_rescale=params["guidance_rescale"],
        frame_init="gaussian" if params["use_frameinit"] else "none",
        **NOTHING,
    )
    text, first = (case.tensors[name] for name in ("text_embeddings_batch", "first_frame_latents_batch"))
    edit = told(text, first, params["frame_stride"])
    start = Trajectory({backbone.schedule.grid(options.steps)[0]: case.tensors["initial_noise"]})
    ours = propagate(backbone, start, edit[-1:], edit, options)
    tolerance = GOLDEN.tolerance["i2v_sampling"]
    assert_within(ours[:, :, 1:], case.tensors["latents_per_step"][-1], tolerance)
    if params["use_frameinit"]:
        started = backbone.prepare(case.tensors["initial_noise"], edit, options)[:, :, 1:]
        assert_within(started, case.tensors["latents_after_frameinit_frames_1_to_end"], tolerance)


NOTHING = {"skip": 0, "tau_conv": 0.0, "tau_spatial": 0.0, "tau_temporal": 0.0}


@named(GOLDEN.kind("frameinit"))
def test_the_filters_of_frame_init(case: Case) -> None:
    cuts = {"gaussian_ds0.3_dt0.6": {"space": 0.3, "time": 0.6}}
    filters = {name.removesuffix(".filter") for name in case.tensors if name.endswith(".filter")}
    assert filters >= {"gaussian", "butterworth", "ideal", "box"}
    for name in filters:
        theirs, tolerance = case.tensors[f"{name}.filter"], GOLDEN.tolerance["frameinit_abs"]
        ours = low_pass(name.partition("_")[0], *theirs.shape, **cuts.get(name, {}))
        assert_close(ours, theirs, tolerance)
        if f"{name}.mixed" in case.tensors:
            mixed = blend(case.tensors["x"], case.tensors["noise"], ours)
            assert_close(mixed, case.tensors[f"{name}.mixed"], tolerance)


def test_the_paper_s_recipe_is_the_reference() -> None:
    paper = recipe("paper", "consisti2v")
    assert (paper.guidance, paper.image_guidance, paper.skip, paper.steps) == (35, 1, 4, 50)
    assert (paper.inversion_steps, paper.source_frame, paper.source_branch) == (500, "edited", "always")
    assert recipe("default", "consisti2v").source_frame == "source"
