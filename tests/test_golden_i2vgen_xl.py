"""I2VGen-XL against numbers of the reference implementation."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from functools import cache

import numpy as np
import pytest
import torch
from diffusers import I2VGenXLUNet

from anyv2v import (
    FeatureBank,
    Options,
    Size,
    Trajectory,
    Video,
    VideoSpec,
    diffuse,
    invert,
    load_backbone,
    propagate,
    recipe,
)
from anyv2v.backbones.i2vgen_xl import I2VGenXL, centre_crop, decoder_taps
from anyv2v.backbones.protocol import Condition
from golden_data import Case, Golden, assert_close

GOLDEN = Golden("i2vgen-xl")
CLIP = VideoSpec(Size(64, 64), frames=8, fps=Fraction(8), multiple=8)
NO_TEXT = Options(negative_prompt="distorted, blurry, low red")


def named(cases: list[Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=[case.entry["name"] for case in cases])


@pytest.fixture(scope="module")
def backbone() -> I2VGenXL:
    torch.set_num_threads(1)
    return load_backbone("i2vgen-xl", GOLDEN.checkpoint, device="cpu")


@cache
def trajectory(name: str) -> Trajectory:
    tensors = GOLDEN.cases[name].tensors
    pairs = zip(tensors["timesteps"].tolist(), tensors["inverted_latents"], strict=True)
    return Trajectory({-1: tensors["video_latents_z0"], **dict(pairs)})


def options_of(case: Case) -> Options:
    """The reference's options of a case; a reconstruction injects nothing."""
    params = case.params
    return Options(
        steps=params["n_steps"],
        guidance=params["cfg"],
        tau_conv=params.get("tau_conv", 0),
        tau_spatial=params.get("tau_sa", 0),
        tau_temporal=params.get("tau_ta", 0),
        skip=params["ddim_init_latents_t_idx"],
        noise_share=params.get("random_ratio", 0),
        thresholds="floor",
    )


def tolerance(case: Case) -> float:
    return GOLDEN.tolerance["latents_cfg_gt_1_atol" if case.params["cfg"] > 1 else "latents_cfg_1_atol"]


@named(GOLDEN.kind("unet_io"))
def test_net(backbone: I2VGenXL, case: Case) -> None:
    tensors = case.tensors
    taps = backbone.bank.plan(Options()).taps if case.params["step"] == 0 else ()
    with backbone.bank.pairing(taps, groups=3):
        out = backbone.denoise(tensors["in.sample"], int(tensors["in.timestep"]), case.condition("in."))
    assert_close(out, tensors["out.sample"], GOLDEN.tolerance["unet_io_atol"])


@named(GOLDEN.kind("features"))
def test_features_before_injection(backbone: I2VGenXL, case: Case) -> None:
    call = GOLDEN.cases["unet_io_pnp01_step0"]
    with backbone.bank.recording(backbone.bank.plan(Options()).taps):
        backbone.denoise(call.tensors["in.sample"][:1], 901, call.condition("in.")[:1])
    ours = {feature_name(path): feature for path, feature in backbone.bank.features().items()}
    for name, theirs in case.tensors.items():
        assert_close(ours[name], theirs[: len(ours[name])], 2e-5)


def feature_name(path: str) -> str:
    """``up_blocks.1.temp_attentions.2...to_q`` is ``temporal.up_blocks.1.2.to_q`` in the golden files."""
    parts = path.split(".")
    if parts[-1] == "conv2":
        return f"conv.{path}"
    kind = {"attentions": "spatial", "temp_attentions": "temporal"}[parts[2]]
    return f"{kind}.up_blocks.{parts[1]}.{parts[3]}.{parts[-1]}"


@named(GOLDEN.kind("inversion"))
def test_inversion(backbone: I2VGenXL, case: Case) -> None:
    steps = case.params["n_steps"]
    z0 = case.tensors["video_latents_z0"]
    ours = invert(backbone, z0, case.condition(), Options(inversion_steps=steps))
    for t, theirs in zip(case.tensors["timesteps"].tolist(), case.tensors["inverted_latents"], strict=True):
        assert_close(ours.at(t), theirs, GOLDEN.tolerance["inverted_latents_atol"])


@named(GOLDEN.kind("inversion"))
def test_encoding_and_condition_of_the_source(backbone: I2VGenXL, case: Case) -> None:
    frames = GOLDEN.cases["video_A"].frames("frames")
    draw = backbone.generator(case.params["global_seed_before"])
    assert_close(backbone.encode(frames, draw), case.tensors["video_latents_z0"], 2e-5)
    assert_conditions(
        backbone.condition(frames[0], case.params["prompt"], CLIP, generator=draw), case.condition()
    )


@named(GOLDEN.kind("reconstruction"))
def test_reconstruction(backbone: I2VGenXL, case: Case) -> None:
    source, condition = trajectory(case.params["inversion"]), case.condition()
    check_propagation(backbone, case, options_of(case), source, condition[-1:], condition)


@pytest.mark.parametrize("source_branch", ["injecting", "always"])
@named(GOLDEN.kind("pnp"))
def test_propagation(backbone: I2VGenXL, case: Case, source_branch: str) -> None:
    options = replace(options_of(case), source_branch=source_branch)
    source, condition = trajectory(case.params["inversion"]), case.condition()
    check_propagation(backbone, case, options, source, condition[:1], condition[1:])


def check_propagation(
    backbone: I2VGenXL,
    case: Case,
    options: Options,
    source: Trajectory,
    source_condition: Condition,
    edit_condition: Condition,
) -> None:
    """Every step's latents, the last ones, and the frames."""
    seen: list[torch.Tensor] = []
    latents = propagate(
        backbone,
        source,
        source_condition,
        edit_condition,
        options,
        noise=case.tensors.get("random_noise"),
        on_step=lambda step: seen.append(step.latents),
    )
    assert_close(latents, case.tensors["final_latents"], tolerance(case))
    if "latents_after_step" in case.tensors:
        assert_close(torch.stack(seen), case.tensors["latents_after_step"], tolerance(case))
    if "frames_u8" in case.tensors:
        assert_levels(backbone.decode(latents), case.frames("frames_u8"))


def assert_levels(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert np.abs(ours.astype(int) - theirs).max() <= GOLDEN.tolerance["frames_u8_max_level"]


@named(GOLDEN.kind("pnp"))
def test_conditions_of_an_edit(backbone: I2VGenXL, case: Case) -> None:
    params = case.params
    clip = GOLDEN.cases["video_A"]
    edited, first = clip.frames("edited_first_frame"), clip.frames("frames")[0]
    if "edited_first_frame_u8" in case.tensors:
        edited, first = case.frames("edited_first_frame_u8"), case.frames("source_first_frame_u8")
    spec = replace(CLIP, fps=Fraction(params["target_fps"]))
    negative = params["negative_prompt"] if params["cfg"] > 1 else None
    draw = backbone.generator(params["global_seed_before"])
    edit = backbone.condition(edited, params["prompt"], spec, negative_prompt=negative, generator=draw)
    source = backbone.condition(first, params["ddim_inv_prompt"], spec, generator=draw)
    assert_conditions(source + edit, case.condition())


def assert_conditions(ours: Condition, theirs: Condition) -> None:
    assert ours.tensors.keys() == theirs.tensors.keys()
    for name, tensor in theirs.tensors.items():
        assert_close(ours.tensors[name], tensor, GOLDEN.tolerance["text_embeds_atol"])


@named(GOLDEN.kind("e2e"))
def test_both_stages_from_pixels_to_pixels(backbone: I2VGenXL, case: Case) -> None:
    params = case.params
    options = replace(
        recipe("paper"),
        steps=params["n_steps"],
        inversion_steps=params["inversion_n_steps"],
        negative_prompt=params["negative_prompt"],
        size=CLIP.size,
    )
    seen: dict[tuple[str, int], torch.Tensor] = {}

    def keep(step: object) -> None:
        if step.latents is not None:
            seen[step.stage, step.level] = step.latents

    video = Video(GOLDEN.cases["video_A"].frames("frames"), Fraction(8))
    edited = case.frames("edited_first_frame_80x80_u8")
    out = diffuse(backbone, video, edited, params["prompt"], options, on_step=keep)
    assert_close(
        seen["propagate", -99], case.tensors["final_latents"], GOLDEN.tolerance["latents_cfg_gt_1_atol"]
    )
    inverted = case.tensors.get("inversion.latents_at_sampling_timesteps", ())
    for level, theirs in zip((901, *case.tensors["timesteps"].tolist()), inverted, strict=False):
        assert_close(seen["invert", level], theirs, GOLDEN.tolerance["inverted_latents_atol"])
    if "frames_u8" in case.tensors:
        assert_levels(out.frames, case.frames("frames_u8"))


def test_the_full_size_net_has_the_published_shapes() -> None:
    with torch.device("meta"):
        net = I2VGenXLUNet()
    assert (sum(weight.numel() for weight in net.parameters()), len(net.state_dict())) == (
        1_420_469_224,
        1511,
    )
    bank = FeatureBank(net, decoder_taps())
    assert sum(len(bank.modules(tap)) for tap in bank.plan(Options()).taps) == 33


class TestComponents:
    """Single pieces of the reference."""

    case = GOLDEN.cases["components"]

    def test_grids(self, backbone: I2VGenXL) -> None:
        for name, theirs in self.case.tensors.items():
            if name.startswith("sched.timesteps"):
                *_, kind, steps = f"forward_{name}".split("_")
                grid = backbone.schedule.grid(int(steps))[:-1]
                assert (grid[::-1] if kind == "inverse" else grid) == tuple(theirs.tolist())

    def test_schedule(self, backbone: I2VGenXL) -> None:
        assert torch.equal(backbone.schedule.alphas_cumprod, self.case.tensors["sched.alphas_cumprod"])

    def test_steps(self, backbone: I2VGenXL) -> None:
        z, out = self.case.tensors["sched.x"], self.case.tensors["sched.v"]
        for name, theirs in self.case.tensors.items():
            if name.endswith((".ddim", ".inverse")):
                _, n, level, kind = name.split(".")
                t = int(level[1:])
                s = t - 1000 // int(n[1:])
                walk = (t, s) if kind == "ddim" else (s, t)
                assert_close(backbone.schedule.step(out, z, *walk), theirs, 1e-6)

    def test_text(self, backbone: I2VGenXL) -> None:
        frame = GOLDEN.cases["video_A"].frames("frames")[0]
        for prompt in self.case.entry["info"]["prompts"]:
            name = f"prompt{prompt['idx']}.embeds_clip_skip1"
            if name in self.case.tensors:
                ours = backbone.condition(frame, prompt["text"], CLIP).tensors["encoder_hidden_states"]
                assert_close(ours, self.case.tensors[name], GOLDEN.tolerance["text_embeds_atol"])

    def test_image(self, backbone: I2VGenXL) -> None:
        for image in self.case.entry["info"]["images"]:
            name = f"img{image['idx']}"
            if f"{name}.in" in self.case.tensors:
                width = image["width_param"]
                spec = replace(CLIP, size=Size(width, 64))
                condition = backbone.condition(
                    self.case.frames(f"{name}.in"), "", spec, negative_prompt="nothing"
                )
                theirs = self.case.tensors[f"{name}.image_embeddings_cfg"]
                assert_close(
                    condition.tensors["image_embeddings"], theirs, GOLDEN.tolerance["image_embeds_atol"]
                )

    def test_centre_crop(self) -> None:
        for crop in self.case.entry["info"]["crop"]:
            name = f"crop{crop['idx']}"
            if f"{name}.in" in self.case.tensors:
                ours = centre_crop(self.case.frames(f"{name}.in"), Size(*crop["target_wh"]))
                assert np.array_equal(ours, self.case.frames(f"{name}.out"))

    @pytest.mark.parametrize("frames", [1, 8])
    def test_image_latents(self, backbone: I2VGenXL, frames: int) -> None:
        name = f"encode.image_latents_F{frames}_seed7"
        image, spec = self.case.frames("encode.image_u8"), replace(CLIP, frames=frames)
        if name in self.case.tensors:
            ours = backbone.condition(image, "", spec, generator=backbone.generator(7))
            assert_close(ours.tensors["image_latents"], self.case.tensors[name], 2e-5)

    def test_decoding(self, backbone: I2VGenXL) -> None:
        frames = backbone.decode(self.case.tensors["decode.latents"])
        assert_levels(frames, self.case.frames("decode.frames_u8"))
