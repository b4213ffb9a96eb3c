"""AnyDoor against numbers of the authors' own code."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d
from transformers.models.dinov2.modeling_dinov2 import Dinov2Embeddings

from anyv2v.editors import anydoor
from anyv2v.editors.anydoor import SCHEDULE, AnyDoor, AnyDoorSettings, levels, sample
from anyv2v.editors.collage import Place, Subject, bounding_box, cut_out
from anyv2v.editors.protocol import Machine, Mask, Request
from anyv2v.errors import OptionError
from anyv2v.models.anydoor import AnyDoorNets, Config, Embeddings, weights_by_module
from anyv2v.picture import Frame
from anyv2v.schedule import DDIM
from anyv2v.weights import fill
from golden_data import Case, Golden, assert_close, assert_near, named

GOLDEN = Golden("anydoor")
TINY = Config(
    widths=(32, 64, 32, 32),
    token_width=24,
    vae_widths=(32, 32, 32, 32),
    vae_layers=1,
    dino_width=48,
    dino_layers=2,
    head_width=16,
)
CPU = Machine(torch.device("cpu"), torch.float32)
VARIANT = {"gradio": "demo", "run_inference": "script"}
SAMPLED = 1e-5  # relative, of whole latents; 1.3e-6 seen, and the least mistake costs 1.7e-3


@pytest.fixture(scope="module")
def nets() -> AnyDoorNets:
    return AnyDoor.load({"model": Path(GOLDEN.checkpoint)}, AnyDoorSettings(), CPU, TINY).nets


def picture(case: Case, name: str) -> np.ndarray:
    """Grey, or red, green and blue."""
    read = cv2.imread(str(case.folder / case.params["dir"] / f"{name}.png"), cv2.IMREAD_UNCHANGED)
    return read if read.ndim == 2 else np.ascontiguousarray(read[..., ::-1])


def mask(case: Case, name: str) -> Mask:
    return picture(case, f"in_{name}_mask") > 127


def subject(case: Case) -> Subject:
    return cut_out(picture(case, "in_ref"), mask(case, "ref"), case.params["ref_expand_ratio"])


def place(case: Case) -> Place:
    return Place.around(mask(case, "target"), case.params["crop_ratio"], VARIANT[case.params["variant"]])


def shape(case: Case) -> Mask | None:
    return mask(case, "target") if case.params["shape_control"] else None


def hint(case: Case) -> Tensor:
    whole = place(case).hint(picture(case, "in_target"), subject(case).detail, shape(case))
    return torch.from_numpy(whole).permute(2, 0, 1)[None]


def pixels(shown: Frame) -> Tensor:
    return torch.from_numpy(shown).permute(2, 0, 1)[None] / 255


def assert_same(case: Case, name: str, ours: np.ndarray) -> None:
    """Bit for bit; the subset has but digests."""
    assert ours.dtype == np.uint8
    if digests := case.params.get("digests"):
        assert hashlib.sha256(ours.tobytes()).hexdigest() == digests[name]
    else:
        np.testing.assert_array_equal(ours, picture(case, name))


@named(GOLDEN.kind("preprocess+paste"))
def test_pictures(case: Case) -> None:
    """Both variants, with and without the mask's shape, at the frame's border and within it."""
    theirs, ours, where = case.params, subject(case), place(case)
    assert list(bounding_box(mask(case, "ref"))) == theirs["ref_mask_bbox"]
    assert list(bounding_box(mask(case, "target"))) == theirs["target_mask_bbox"]
    assert (list(where.box), list(where.crop)) == (
        theirs["target_box_expanded"],
        theirs["crop_box_y1_y2_x1_x2"],
    )
    assert [where.crop.height, where.crop.width, where.side, where.side] == (
        theirs["extra_sizes_H1_W1_H2_W2"]
    )
    marks, target = where.mask(shape(case)), picture(case, "in_target")
    assert np.unique(marks).tolist() == theirs["mask_values"]
    assert_same(case, "out_ref224", ours.picture)
    assert_same(case, "out_ref_mask224", ours.mask)
    assert_same(case, "out_hf224", ours.detail)
    assert_same(case, "out_collage512", where.collage(target, ours.detail))
    assert_same(case, "out_mask512_plus1", (marks + 1).astype(np.uint8))
    painted = cv2.imread(str(case.folder / case.params["paste_pred"]))[..., ::-1] + np.float32(0.5)
    assert_same(case, "paste_result", where.paste(target, painted))


def seen(case: Case) -> Tensor:
    letter = case.entry["name"].removeprefix("dino_")
    if letter == "zero":
        return torch.zeros(1, 3, 224, 224)
    return pixels(subject(GOLDEN.cases[f"pre_{letter}"]).picture)


@named(GOLDEN.kind("dino_encoder"))
def test_what_stands_for_a_text(nets: AnyDoorNets, case: Case) -> None:
    assert_close(nets.look(seen(case)), case.tensors["output"], 1e-5)


@named([case for case in GOLDEN.kind("dino_encoder") if "inter.pos_embed_used" in case.tensors])
def test_places_of_patches(nets: AnyDoorNets, case: Case) -> None:
    theirs = case.tensors["inter.pos_embed_used"]
    ours = nets.dino.embeddings.interpolate_pos_encoding(theirs, 224, 224)
    assert_close(ours[:, :: round(257 / theirs.shape[1])], theirs, 1e-6)


def strength(case: Case) -> float | list[float]:
    """Of each residual; of the middle alone, if only it acts."""
    scales = case.params["control_scales"]
    if not case.params["only_mid_control"]:
        return scales
    return [0.0] * 12 + [scales[-1] if isinstance(scales, list) else scales]


@named(GOLDEN.kind("controlnet_unet_io"))
def test_noise(nets: AnyDoorNets, case: Case) -> None:
    """Squares and others, several pictures at several levels, with and without the ControlNet."""
    tensors = case.tensors
    x, timesteps, context = (tensors[name] for name in ("x", "timesteps", "context"))
    collage = tensors["hint"].float() if case.params["control"] else None
    assert_close(nets(x, timesteps, context, collage, strength(case)), tensors["eps"], 2e-5)
    if collage is not None:
        ours = nets.residuals(x, timesteps, context, collage)
        theirs = {name: tensors[name] for name in tensors if name.startswith("control_residual")}
        assert theirs
        for name, residual in theirs.items():
            assert_close(ours[int(name[-2:])], residual, 1e-4)


def contexts(case: Case) -> Tensor:
    return torch.cat([case.tensors["uncond_context"], case.tensors["context"]])


def settings(case: Case, **other: object) -> AnyDoorSettings:
    params = case.params
    return AnyDoorSettings(
        steps=params["S_requested"],
        guidance_scale=params["guidance_scale"],
        strength=params["strength"],
        **other,
    )


def walked(nets: AnyDoorNets, case: Case) -> list[Tensor]:
    """The latents after each step."""
    passed: list[Tensor] = []
    start, collage = case.tensors["x_T"], case.tensors["hint"].float()
    with torch.no_grad():
        sample(nets, start, contexts(case), collage, settings(case), lambda step: passed.append(step.latents))
    return passed


@named(GOLDEN.kind("ddim_sampling"))
def test_sampling(nets: AnyDoorNets, case: Case) -> None:
    """With guidance and without, and where there are more steps than were asked for."""
    assert list(levels(case.params["S_requested"])[:-1]) == case.params["timesteps_descending"]
    passed = walked(nets, case)
    assert len(passed) == case.params["steps_run"]
    for ours, theirs in zip(passed, case.tensors.get("latents_per_step", passed), strict=True):
        assert_near(ours, theirs, SAMPLED)
    assert_near(passed[-1], case.tensors["final_latents"], SAMPLED)
    decoded = nets.decode(passed[-1])
    factor = decoded.shape[-1] // case.tensors["decoded_avgpool4"].shape[-1]
    assert_close(avg_pool2d(decoded, factor), case.tensors["decoded_avgpool4"], 1e-4)


def test_mistakes_in_sampling_do_not_pass(nets: AnyDoorNets, monkeypatch) -> None:
    """Those that are easy to make; the first is the least of them all."""
    case = GOLDEN.kind("ddim_sampling")[0]
    theirs = case.tensors["final_latents"]
    for mistake in (
        {"set_alpha_to_one": True},
        {"beta_schedule": "linear"},
        {"prediction_type": "v_prediction"},
    ):
        monkeypatch.setattr(anydoor, "SCHEDULE", SCHEDULE | mistake)
        assert distance(walked(nets, case)[-1], theirs) > 50 * SAMPLED


def test_mistakes_in_nets_do_not_pass(nets: AnyDoorNets, monkeypatch) -> None:
    """A ControlNet that sees the latents, and patches in the places that transformers gives them."""
    case = next(case for case in GOLDEN.kind("controlnet_unet_io") if case.params["control"])
    shown = GOLDEN.kind("dino_encoder")[0]
    monkeypatch.setitem(nets.controlnet._modules, "conv_in", nets.unet.conv_in)
    monkeypatch.setattr(Embeddings, "interpolate_pos_encoding", Dinov2Embeddings.interpolate_pos_encoding)
    x, timesteps, context, eps = (case.tensors[name] for name in ("x", "timesteps", "context", "eps"))
    assert distance(nets(x, timesteps, context, case.tensors["hint"].float(), strength(case)), eps) > 0.05
    assert distance(nets.look(seen(shown)), shown.tensors["output"]) > 0.05


def distance(ours: Tensor, theirs: Tensor) -> float:
    return float(torch.linalg.vector_norm(ours - theirs) / torch.linalg.vector_norm(theirs))


@named(GOLDEN.kind("schedule"))
def test_noise_levels(case: Case) -> None:
    walk = DDIM.from_config(SCHEDULE)
    schedules = json.loads((case.folder / case.params["file"]).read_text())["schedules"]
    for steps, theirs in schedules.items():
        path = levels(int(steps))
        assert list(path[-2::-1]) == theirs["timesteps"]
        for ours, signal in (path[-2::-1], theirs["alphas"]), (path[:0:-1], theirs["alphas_prev"]):
            shares = torch.stack([walk.alpha(t) for t in ours])
            torch.testing.assert_close(shares, torch.tensor(signal), rtol=2e-6, atol=0)


def test_steps_at_which_the_authors_fail_are_refused() -> None:
    def refused(steps: int) -> bool:
        try:
            return not AnyDoorSettings(steps=steps)
        except OptionError:
            return True

    failing = [3, 9, 27, 36, 37, *range(101, 112), *range(251, 334)]
    assert [steps for steps in range(1, 502) if refused(steps)] == [*failing, 501]
    with pytest.raises(OptionError, match="first of 105 steps; take 100 or 112"):
        AnyDoorSettings(steps=105)


@named(GOLDEN.kind("end_to_end"))
def test_first_step_of_a_whole_edit(nets: AnyDoorNets, case: Case) -> None:
    source = GOLDEN.cases[case.params["inputs"]]
    noise = torch.randn(
        1, 4, 64, 64, generator=torch.Generator().manual_seed(case.params["torch_seed_for_x_T"])
    )
    level = torch.tensor([levels(case.params["S_requested"])[0]])
    shown = pixels(subject(source).picture)
    told = {"uncond": torch.zeros_like(shown), "cond": shown}
    for branch, picture in told.items():
        ours = nets(noise, level, nets.look(picture), hint(source), case.params["strength"])
        theirs = case.tensors[f"eps_{branch}_first"]
        assert_near(ours[:, :, :: ours.shape[2] // theirs.shape[2]], theirs, 3e-4)


@pytest.mark.skipif("ANYV2V_GOLDEN" not in os.environ, reason="half a minute")
@named(GOLDEN.kind("end_to_end"))
def test_whole_edit(nets: AnyDoorNets, case: Case) -> None:
    source, passed = GOLDEN.cases[case.params["inputs"]], []
    told = settings(
        case,
        variant=VARIANT[case.params["variant"]],
        shape_control=case.params["shape_control"],
        reference_ratio=source.params["ref_expand_ratio"],
        crop_ratio=source.params["crop_ratio"],
    )
    request = Request(
        picture(source, "in_target"),
        references=(picture(source, "in_ref"),),
        reference_mask=mask(source, "ref"),
        mask=mask(source, "target"),
        seed=case.params["torch_seed_for_x_T"],
    )
    ours = AnyDoor(nets, told, CPU).edit(request, lambda step: passed.append(step.latents))
    assert_near(passed[-1], case.tensors["final_latents"], 5e-4)
    decoded = nets.decode(passed[-1])
    assert_close(decoded[..., 224:288, 224:288], case.tensors["decoded_crop_224_288"], 5e-4)
    assert_close(avg_pool2d(decoded, 8), case.tensors["decoded_avgpool8"], 5e-4)
    theirs = cv2.imread(str(case.folder / case.params["pasted_result"]))[..., ::-1]
    apart = np.abs(ours.astype(int) - theirs)
    assert apart.max() <= 1
    assert (apart > 0).mean() < 5e-3


def test_every_weight_of_the_published_checkpoint_has_its_place() -> None:
    with torch.device("meta"):
        published = {name: torch.empty(size) for name, size in GOLDEN.published["keys"].items()}
        nets = AnyDoorNets()
    weights = weights_by_module(published)
    fill(nets, weights, Path("published"))
    kept = sum(weight.numel() for name, weight in published.items() if "." in name)  # else it is a buffer
    assert sum(weight.numel() for weight in weights.values()) == kept == 2_451_847_627
