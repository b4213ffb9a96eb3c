"""I2VGen-XL against numbers of the reference implementation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from functools import cache

import numpy as np
import pytest
import torch
from diffusers import I2VGenXLUNet
from PIL import Image

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
from anyv2v.backbones.i2vgen_xl import I2VGenXL, centre_crop
from anyv2v.backbones.protocol import Condition
from anyv2v.picture import Fit
from golden_data import Case, Golden, assert_close, assert_levels, named

GOLDEN = Golden("i2vgen-xl")
COMPONENTS = GOLDEN.cases["components"]
GREYS = GOLDEN.tolerance["frames_u8_max_level"]
CLIP = VideoSpec(Size(64, 64), frames=8, fps=Fraction(8), multiple=8)


@pytest.fixture(scope="module")
def backbone() -> I2VGenXL:
    torch.set_num_threads(1)
    return load_backbone("i2vgen-xl", GOLDEN.checkpoint, device="cpu")


@cache
def trajectory(backbone: I2VGenXL, name: str) -> Trajectory:
    """A source's inversion by our own hand, which ``test_inversion`` holds to the reference's."""
    case = GOLDEN.cases[name]
    options = Options(inversion="ddim", inversion_steps=case.params["n_steps"])
    return invert(backbone, case.tensors["video_latents_z0"], case.condition(), options)


def options_of(case: Case) -> Options:
    """The paper's recipe with the settings of a case; a reconstruction injects nothing."""
    params = case.params
    return replace(
        recipe("paper"),
        steps=params["n_steps"],
        guidance=params["cfg"],
        tau_conv=params.get("tau_conv", 0),
        tau_spatial=params.get("tau_sa", 0),
        tau_temporal=params.get("tau_ta", 0),
        skip=params["ddim_init_latents_t_idx"],
        noise_share=params.get("random_ratio", 0),
    )


def tolerance(case: Case) -> float:
    return GOLDEN.tolerance["latents_cfg_gt_1_atol" if case.params["cfg"] > 1 else "latents_cfg_1_atol"]


@named(GOLDEN.kind("unet_io"))
def test_net(backbone: I2VGenXL, case: Case) -> None:
    """Every injection at its first step, none at its last; a subset holds the last rows."""
    tensors = case.tensors
    plan = backbone.bank.plan(options_of(GOLDEN.cases[case.params["case"]]))
    taps = plan.active(case.params["step"])
    assert bool(taps) == (case.params["step"] == 0)
    with backbone.bank.pairing(taps, groups=3):
        out = backbone.denoise(tensors["in.sample"], int(tensors["in.timestep"]), case.condition("in."))
    theirs = tensors["out.sample"]
    assert_close(out[-len(theirs) :], theirs, GOLDEN.tolerance["unet_io_atol"])


@named(GOLDEN.kind("features"))
def test_features_before_injection(backbone: I2VGenXL, case: Case) -> None:
    call = GOLDEN.cases["unet_io_pnp01_step0"]
    with backbone.bank.recording(backbone.bank.plan(Options()).active(0)):
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
    ours = trajectory(backbone, case.entry["name"])
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
    source, condition = trajectory(backbone, case.params["inversion"]), case.condition()
    check_propagation(backbone, case, options_of(case), source, condition[-1:], condition)


@named(GOLDEN.kind("pnp"))
def test_the_steps_that_inject(backbone: I2VGenXL, case: Case) -> None:
    options = options_of(case)
    plan, grid = backbone.bank.plan(options), backbone.schedule.grid(options.steps)
    active: dict[str, list[int]] = {"conv": [], "spatial": [], "temporal": []}
    for step in range(options.skip, options.steps):
        for kind in {tap.kind for tap in plan.active(step)}:
            active[kind].append(grid[step])
    assert active == case.params["active_timesteps"]


@pytest.mark.parametrize("source_branch", ["injecting", "always"])
@named(GOLDEN.kind("pnp"))
def test_propagation(backbone: I2VGenXL, case: Case, source_branch: str) -> None:
    options = replace(options_of(case), source_branch=source_branch)
    source, condition = trajectory(backbone, case.params["inversion"]), case.condition()
    check_propagation(backbone, case, options, source, condition[:1], condition[1:])


def check_propagation(
    backbone: I2VGenXL,
    case: Case,
    options: Options,
    source: Trajectory,
    source_condition: Condition,
    edit_condition: Condition,
) -> None:
    """The latents after each step that is held, the last ones, and the frames."""
    seen: dict[int | None, torch.Tensor | None] = {}
    latents = propagate(
        backbone,
        source,
        source_condition,
        edit_condition,
        options,
        noise=lambda _: case.tensors["random_noise"],
        on_step=lambda step: seen.update({step.level: step.latents}),
    )
    assert_close(latents, case.tensors["final_latents"], tolerance(case))
    if "latents_after_step" in case.tensors:
        levels = case.tensors["timesteps"] - 1000 // options.steps
        for level, theirs in zip(levels.tolist(), case.tensors["latents_after_step"], strict=True):
            assert_close(seen[level], theirs, tolerance(case))
    if "frames_u8" in case.tensors:
        assert_levels(backbone.decode(latents), case.frames("frames_u8"), GREYS)


def test_what_not_every_case_holds_some_case_does() -> None:
    edits = [case.tensors.keys() for case in GOLDEN.kind("pnp")]
    for name in ("latents_after_step", "random_noise", "edited_first_frame_u8"):
        assert any(name in held for held in edits)
    assert {case.params["inversion"] for case in GOLDEN.kind("pnp")} == {"inv_A_10", "inv_A_50"}


@named(GOLDEN.kind("pnp"))
def test_conditions_of_an_edit(backbone: I2VGenXL, case: Case) -> None:
    params = case.params
    clip = GOLDEN.cases["video_A"]
    edited, first = clip.frames("edited_first_frame"), clip.frames("frames")[0]
    if "edited_first_frame_u8" in case.tensors:
        edited, first = case.frames("edited_first_frame_u8"), case.frames("source_first_frame_u8")
    spec = replace(CLIP, fps=Fraction(params["target_fps"]))
    options = Options(guidance=params["cfg"], negative_prompt=params["negative_prompt"])
    draw = backbone.generator(params["global_seed_before"])
    edit = backbone.condition(edited, params["prompt"], spec, options, generator=draw)
    source = backbone.condition(first, params["ddim_inv_prompt"], spec, generator=draw)
    assert_conditions(source + edit, case.condition())


def assert_conditions(ours: Condition, theirs: Condition) -> None:
    assert ours.tensors.keys() == theirs.tensors.keys()
    for name, tensor in theirs.tensors.items():
        assert_close(ours.tensors[name], tensor, GOLDEN.tolerance["text_embeds_atol"])


@named(GOLDEN.kind("e2e"))
def test_both_stages_from_pixels_to_pixels(backbone: I2VGenXL, case: Case) -> None:
    """The paper's recipe with fewer steps, for a clip of a frame rate that it does not look at."""
    params = case.params
    options = replace(
        recipe("paper"),
        steps=params["n_steps"],
        inversion_steps=params["inversion_n_steps"],
        negative_prompt=params["negative_prompt"],
        size=CLIP.size,
    )
    seen: dict[tuple[str, int | None], torch.Tensor | None] = {}
    video = Video(GOLDEN.cases["video_A"].frames("frames"), Fraction(24))
    edited = case.frames("edited_first_frame_80x80_u8")
    with rows_of(backbone) as rows:
        out = diffuse(
            backbone,
            video,
            edited,
            params["prompt"],
            options,
            on_step=lambda step: seen.update({(step.stage, step.level): step.latents}),
        )
    assert rows == [1] * 50 + [3] * 9
    assert_close(seen["propagate", -99], case.tensors["final_latents"], tolerance(case))
    if "inversion.latents_at_sampling_timesteps" in case.tensors:
        inverted = case.tensors["inversion.latents_at_sampling_timesteps"]
        for level, theirs in zip((901, *case.tensors["timesteps"].tolist()), inverted, strict=True):
            assert_close(seen["invert", level], theirs, GOLDEN.tolerance["inverted_latents_atol"])
    theirs = case.frames("frames_u8")
    assert_levels(out.frames[: len(theirs)], theirs, GREYS)


@contextmanager
def rows_of(backbone: I2VGenXL) -> Iterator[list[int]]:
    """How many rows each call of the net has."""
    rows: list[int] = []
    handle = backbone.net.register_forward_hook(lambda _net, args, _out: rows.append(len(args[0])))
    try:
        yield rows
    finally:
        handle.remove()


def test_the_paper_stretches_frames() -> None:
    frame = GOLDEN.cases["pnp_15_crop_nonsquare_images"].frames("source_first_frame_u8")
    ours = Fit(Size.of(frame), CLIP.size, recipe("paper").fit).apply(frame)
    assert np.array_equal(ours, Image.fromarray(frame).resize((64, 64), Image.Resampling.LANCZOS))


def test_the_paper_says() -> None:
    """Section 5.2, and the step counts of the authors' configuration."""
    paper = recipe("paper")
    assert (paper.steps, paper.inversion_steps) == (50, 500)
    assert paper.negative_prompt == Options().negative_prompt
    assert paper.negative_prompt == (
        "Distorted, discontinuous, Ugly, blurry, low resolution, motionless, static, disfigured, "
        "disconnected limbs, Ugly faces, incomplete arms"
    )


def test_the_full_size_net_has_the_published_shapes() -> None:
    with torch.device("meta"):
        net = I2VGenXLUNet()
    assert (sum(weight.numel() for weight in net.parameters()), len(net.state_dict())) == (
        1_420_469_224,
        1511,
    )
    bank = FeatureBank(net, I2VGenXL.taps)
    assert sum(len(bank.modules(tap)) for tap in bank.plan(Options()).active(0)) == 33


def pieces(start: str, end: str = "") -> pytest.MarkDecorator:
    """The names of component tensors, at least one."""
    names = [name for name in sorted(COMPONENTS.tensors) if name.startswith(start) and name.endswith(end)]
    assert names
    return pytest.mark.parametrize("name", names)


def entries(kind: str, tensor: str) -> pytest.MarkDecorator:
    """The components of a kind whose numbers are held, at least one."""
    names = {tensor.format(**entry): entry for entry in COMPONENTS.entry["info"][kind]}
    held = {name: entry for name, entry in names.items() if name in COMPONENTS.tensors}
    assert held
    return pytest.mark.parametrize(("name", "entry"), held.items(), ids=held)


class TestComponents:
    """Single pieces of the reference."""

    @pieces("sched.timesteps_")
    def test_grids(self, backbone: I2VGenXL, name: str) -> None:
        *_, kind, steps = f"forward_{name}".split("_")
        grid = backbone.schedule.grid(int(steps))[:-1]
        assert (grid[::-1] if kind == "inverse" else grid) == tuple(COMPONENTS.tensors[name].tolist())

    def test_schedule(self, backbone: I2VGenXL) -> None:
        assert torch.equal(backbone.schedule.alphas_cumprod, COMPONENTS.tensors["sched.alphas_cumprod"])

    @pytest.mark.parametrize("kind", ["ddim", "inverse"])
    @pieces("sched.n", ".ddim")
    def test_steps(self, backbone: I2VGenXL, name: str, kind: str) -> None:
        z, out = COMPONENTS.tensors["sched.x"], COMPONENTS.tensors["sched.v"]
        _, n, level, _ = name.split(".")
        t = int(level[1:])
        s = t - 1000 // int(n[1:])
        walk = (t, s) if kind == "ddim" else (s, t)
        theirs = COMPONENTS.tensors[f"sched.{n}.{level}.{kind}"]
        assert_close(backbone.schedule.step(out, z, *walk), theirs, 1e-6)

    @entries("prompts", "prompt{idx}.embeds_clip_skip1")
    def test_text(self, backbone: I2VGenXL, name: str, entry: dict) -> None:
        frame = GOLDEN.cases["video_A"].frames("frames")[0]
        ours = backbone.condition(frame, entry["text"], CLIP).tensors["encoder_hidden_states"]
        assert_close(ours, COMPONENTS.tensors[name], GOLDEN.tolerance["text_embeds_atol"])

    @entries("images", "img{idx}.image_embeddings_cfg")
    def test_image(self, backbone: I2VGenXL, name: str, entry: dict) -> None:
        frame = COMPONENTS.frames(f"img{entry['idx']}.in")
        spec = replace(CLIP, size=Size(entry["width_param"], 64))
        ours = backbone.condition(frame, "", spec, Options(negative_prompt="nothing")).tensors[
            "image_embeddings"
        ]
        assert_close(ours, COMPONENTS.tensors[name], GOLDEN.tolerance["image_embeds_atol"])

    @entries("crop", "crop{idx}.out")
    def test_centre_crop(self, name: str, entry: dict) -> None:
        ours = centre_crop(COMPONENTS.frames(f"crop{entry['idx']}.in"), Size(*entry["target_wh"]))
        assert np.array_equal(ours, COMPONENTS.frames(name))

    @pytest.mark.parametrize("frames", [1, 8])
    def test_image_latents(self, backbone: I2VGenXL, frames: int) -> None:
        image, spec = COMPONENTS.frames("encode.image_u8"), replace(CLIP, frames=frames)
        ours = backbone.condition(image, "", spec, generator=backbone.generator(7)).tensors["image_latents"]
        assert_close(ours, COMPONENTS.tensors[f"encode.image_latents_F{frames}_seed7"], 2e-5)

    def test_decoding(self, backbone: I2VGenXL) -> None:
        frames = backbone.decode(COMPONENTS.tensors["decode.latents"])
        assert_levels(frames, COMPONENTS.frames("decode.frames_u8"), GREYS)
