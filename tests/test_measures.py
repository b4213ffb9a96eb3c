"""Metrics of edited clips against their definitions, with tiny random judges."""

from __future__ import annotations

import gc
import math
import shutil
import sys
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPConfig, CLIPModel, ViTConfig, ViTModel

from anyv2v.errors import CheckpointError, OptionError, WeightsMissing
from anyv2v.evaluation import judges as judges_module
from anyv2v.evaluation import measures
from anyv2v.evaluation.filming import render_pair
from anyv2v.evaluation.judges import DINO, VGG, Judges
from anyv2v.evaluation.measures import (
    METRICS,
    Sample,
    adherence_curve,
    carried,
    measured,
    motion_of,
    tracks_of,
)
from anyv2v.models.vgg import VGG19

HEIGHT, WIDTH = 64, 96
SQUARE = np.zeros((HEIGHT, WIDTH), bool)
SQUARE[20:44, 40:64] = True
WITHOUT_MODELS = {
    "first_frame",
    "background_psnr",
    "background_ssim",
    "sharpness",
    "warping_error",
    "motion_fidelity",
}


def texture(seed: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Something smooth to follow, ``[H, W, 3]``."""
    noise = np.random.default_rng(seed).normal(size=(height, width, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 1.5)
    return cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


def sliding(x: int, y: int = 0, count: int = 6, seed: int = 0) -> np.ndarray:
    """A clip whose picture moves by so many pixels a frame."""
    reach = count * max(abs(x), abs(y))
    whole = texture(seed, HEIGHT + 2 * reach, WIDTH + 2 * reach)
    starts = [(reach - k * y, reach - k * x) for k in range(count)]
    return np.stack([whole[top : top + HEIGHT, left : left + WIDTH] for top, left in starts])


SOURCE = sliding(2, 1)
EDIT = 255 - SOURCE
SAMPLE = Sample(EDIT, SOURCE, EDIT[0], "a cat", SQUARE)


@pytest.fixture(scope="module", autouse=True)
def silent():
    transformers.utils.logging.disable_progress_bar()
    yield
    transformers.utils.logging.enable_progress_bar()


@pytest.fixture(scope="module")
def folders(tmp_path_factory, tiny: str) -> dict[str, str]:
    """A checkpoint of each judge, by role, laid out and named as published."""
    roles = {role: tmp_path_factory.mktemp(role) for role in ("clip", "pick", "dino", "vgg")}
    for seed, role in enumerate(("clip", "pick")):
        write_clip(roles[role], Path(tiny) / "tokenizer", seed)
    write_dino(roles["dino"])
    classifier = {"pre_logits.fc1.weight": torch.zeros(2), "head.fc.bias": torch.zeros(2)}
    save_file(he(VGG19(narrower=16)).state_dict() | classifier, roles["vgg"] / "model.safetensors")
    return {role: str(folder) for role, folder in roles.items()}


SMALL = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def write_clip(folder: Path, tokenizer: Path, seed: int) -> None:
    torch.manual_seed(seed)
    words = transformers.CLIPTokenizer.from_pretrained(tokenizer, local_files_only=True)
    text = SMALL | {"vocab_size": len(words), "eos_token_id": words.eos_token_id}
    vision = SMALL | {"image_size": 32, "patch_size": 8}
    config = CLIPConfig(
        text_config=text, vision_config=vision, projection_dim=16, logit_scale_init_value=math.log(100)
    )
    CLIPModel(config).save_pretrained(folder)
    shutil.copytree(tokenizer, folder, dirs_exist_ok=True)
    crop = {"height": 32, "width": 32}
    transformers.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=crop).save_pretrained(folder)


def write_dino(folder: Path) -> None:
    torch.manual_seed(0)
    config = ViTConfig(**SMALL, image_size=32, patch_size=8, initializer_range=0.3)
    ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    names = load_file(folder / "model.safetensors")
    assert "encoder.layer.1.attention.attention.key.weight" in names  # as it was published
    assert not any(name.startswith("pooler") for name in names)


def he(net: VGG19) -> VGG19:
    """He's initialisation, which keeps the features' size from layer to layer."""
    torch.manual_seed(0)
    for module in net.features:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.normal_(module.bias, std=0.1)
    return net


@pytest.fixture(scope="module")
def judges(folders: dict[str, str]):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judges_module, "VGG19", partial(VGG19, narrower=16))
        yield Judges("cpu", folders)


@pytest.fixture(scope="module")
def nobody() -> Judges:
    """Judges whose weights are not here."""
    return Judges("cpu", {role: f"nobody/has-{role}" for role in ("clip", "pick", "dino", "vgg")})


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / math.sqrt(a @ a) / math.sqrt(b @ b))


# CLIP and PickScore


@torch.no_grad()
def embeddings(folder: str, frames: np.ndarray, text: str) -> tuple[np.ndarray, np.ndarray]:
    """Of each frame and of a text, by the library alone, one by one and at any length."""
    model = CLIPModel.from_pretrained(folder).eval()
    look = transformers.CLIPImageProcessorPil.from_pretrained(folder)
    read = transformers.CLIPTokenizer.from_pretrained(folder)
    seen = [model.get_image_features(**look(frame, return_tensors="pt")).pooler_output[0] for frame in frames]
    return torch.stack(seen).numpy(), model.get_text_features(
        **read(text, return_tensors="pt")
    ).pooler_output[0].numpy()


def test_clip_text_and_clip_image_by_their_definitions(folders, judges: Judges) -> None:
    frames, text = embeddings(folders["clip"], EDIT, "a cat")
    found = measured(SAMPLE, judges, ["clip_text", "clip_image"])
    assert found["clip_text"] == pytest.approx(np.mean([cosine(frame, text) for frame in frames]), abs=1e-5)
    pairs = [cosine(frames[k], frames[k + 1]) for k in range(len(frames) - 1)]
    assert found["clip_image"] == pytest.approx(np.mean(pairs), abs=1e-5)
    assert min(pairs) < 0.9999


def test_pick_score_is_scaled_as_published(folders, judges: Judges) -> None:
    frames, text = embeddings(folders["pick"], EDIT, "a cat")
    expected = np.mean([100 * cosine(frame, text) for frame in frames])
    assert METRICS["pick_score"].measure(SAMPLE, judges) == pytest.approx(expected, abs=1e-3)


def test_clips_may_be_longer_than_a_batch(folders, judges: Judges) -> None:
    frames = sliding(1, count=18)
    expected = embeddings(folders["clip"], frames, "")[0]
    expected /= np.linalg.norm(expected, axis=-1, keepdims=True)
    np.testing.assert_allclose(judges.clip.pictures(frames).numpy(), expected, atol=1e-5)
    distances, tokens = judges.dino.compare(frames, 255 - frames)
    assert distances.shape == (18,)
    torch.testing.assert_close(tokens[17:], judges.dino.look(frames[17:])[1])
    torch.testing.assert_close(
        distances[17:], judges.dino.compare(frames[17:], 255 - frames[17:])[0], atol=1e-5, rtol=0
    )


def test_each_judge_sees_a_sample_once(judges: Judges, monkeypatch) -> None:
    looks: list[int] = []
    pictures = judges.clip.pictures
    monkeypatch.setattr(judges.clip, "pictures", lambda frames: looks.append(len(frames)) or pictures(frames))
    sample = Sample(EDIT, SOURCE, prompt="a cat")
    before = len(judges._found)
    measured(sample, judges, ["clip_text", "clip_image"])
    measured(sample, judges, ["clip_image"])
    assert looks == [6]
    assert len(judges._found) == before + 1
    del sample
    gc.collect()
    assert len(judges._found) == before


# DINO


@torch.no_grad()
def keys_by_hand(dino: DINO, frames: np.ndarray) -> np.ndarray:
    """The last layer's keys: what enters its attention, times the weights of the projection."""
    model, pixels = dino.model, dino._pixels(frames)
    states = model(pixels, interpolate_pos_encoding=True, output_hidden_states=True).hidden_states
    entering = model.layers[-1].layernorm_before(states[-2]).numpy()
    projection = model.layers[-1].attention.k_proj
    return entering @ projection.weight.numpy().T + projection.bias.numpy()


def test_keys_and_tokens_of_the_last_layer(judges: Judges) -> None:
    keys, tokens = judges.dino.look(EDIT[:2])
    assert keys.shape == (2, 1 + 4 * 6, 32)  # the token, and a patch of 8 pixels of a picture of 32x48
    np.testing.assert_allclose(keys.numpy(), keys_by_hand(judges.dino, EDIT[:2]), atol=1e-5)
    pixels = judges.dino._pixels(EDIT[:2])
    shown = judges.dino.model(pixels, interpolate_pos_encoding=True).last_hidden_state[:, 0]
    torch.testing.assert_close(tokens, shown / shown.norm(dim=-1, keepdim=True))


def test_dino_sees_the_whole_frame_normalised(judges: Judges) -> None:
    pixels = judges.dino._pixels(EDIT)
    assert pixels.shape == (6, 3, 32, 48)
    expected = (EDIT.mean((0, 1, 2)) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    assert pixels.mean((0, 2, 3)).tolist() == pytest.approx(expected.tolist(), abs=0.02)


def test_structure_by_its_definition(judges: Judges) -> None:
    ours, theirs = keys_by_hand(judges.dino, EDIT), keys_by_hand(judges.dino, SOURCE)
    squares = [
        (cosine(a[i], a[j]) - cosine(b[i], b[j])) ** 2
        for a, b in zip(ours, theirs, strict=True)
        for i in range(len(a))
        for j in range(len(a))
    ]
    found = METRICS["structure"].measure(SAMPLE, judges)
    assert found == pytest.approx(np.mean(squares), rel=1e-3)
    assert found > 1e-3


def test_adherence_follows_the_edited_first_frame(judges: Judges) -> None:
    fading = np.stack([(EDIT[0] * (1 - k / 5) + SOURCE[0] * k / 5).astype(np.uint8) for k in range(6)])
    sample = Sample(fading, SOURCE, EDIT[0])
    curve = adherence_curve(sample, judges)
    tokens = judges.dino.look(fading)[1].numpy()
    assert curve.shape == (6,)
    assert curve.tolist() == pytest.approx([cosine(token, tokens[0]) for token in tokens], abs=1e-5)
    assert curve[0] == pytest.approx(1)
    assert curve[5] < curve[1] < 1
    assert METRICS["adherence"].measure(sample, judges) == pytest.approx(curve.mean())


# VGG


def unit(a: np.ndarray) -> np.ndarray:
    return a / max(math.sqrt(a @ a), 1e-12)


@torch.no_grad()
def test_perceptual_distance_by_its_definition(judges: Judges) -> None:
    region = np.zeros((2, HEIGHT, WIDTH), bool)
    region[0, :30, :50] = True  # no multiple of the 16 pixels of a deep place
    region[1] = True
    layers = []
    for name in ("conv1_2", "conv2_2", "conv3_4", "conv4_4", "conv5_4"):
        total, weight = 0.0, 0.0
        for ours, theirs, where in zip(EDIT, SOURCE, region, strict=False):
            pixels = torch.from_numpy(np.stack([ours, theirs])).permute(0, 3, 1, 2).float() / 255
            a, b = judges.vgg.net(pixels, [name])[name].numpy()
            side = HEIGHT // a.shape[1]
            for y, x in np.ndindex(a.shape[1:]):
                share = where[y * side : (y + 1) * side, x * side : (x + 1) * side].mean()
                total += share * np.square(unit(a[:, y, x]) - unit(b[:, y, x])).sum() / 2
                weight += share
        layers.append(total / weight)
    assert judges.vgg.distance(EDIT[:2], SOURCE[:2], region) == pytest.approx(np.mean(layers), rel=1e-3)
    assert min(layers) > 0.01


def test_perceptual_distance_looks_at_its_region(judges: Judges) -> None:
    damaged = SOURCE.copy()
    damaged[:, :8, :8] = 0
    far = np.zeros(SOURCE.shape[:3], bool)
    far[:, -16:, -16:] = True
    assert judges.vgg.distance(damaged, SOURCE, far) < 0.1 * judges.vgg.distance(damaged, SOURCE, ~far)
    assert judges.vgg.distance(SOURCE, SOURCE, far) == 0
    assert math.isnan(judges.vgg.distance(damaged, SOURCE, far & ~far))


def test_places_where_nothing_is_seen_are_alike() -> None:
    net = VGG19(narrower=16)
    for parameter in net.parameters():
        nn.init.zeros_(parameter)
    assert VGG(net).distance(EDIT[:1], SOURCE[:1], np.ones((1, HEIGHT, WIDTH), bool)) == 0


# Motion


def test_known_motion_is_found() -> None:
    flow, visible = motion_of(sliding(3, -2))
    assert flow.shape == (5, HEIGHT, WIDTH, 2)
    np.testing.assert_allclose(flow[:, 8:-8, 8:-8].mean((1, 2)), np.full((5, 2), (-3, 2)), atol=0.1)
    assert visible[:, 8:-8, 8:-8].mean() > 0.97
    assert not visible[:, :, :2].any()  # it has just come in
    assert not visible[:, -1:].any()


def test_what_was_hidden_is_not_visible() -> None:
    frames = np.repeat(texture(0)[None], 2, axis=0)
    for frame, left in zip(frames, (30, 38), strict=True):
        frame[16:48, left : left + 32] = texture(1)[16:48, :32]
    flow, visible = motion_of(frames)
    assert visible[0, 20:44, 31:37].mean() < 0.2  # the ground that the square bares
    assert visible[0, 20:44, 42:66].mean() > 0.95  # the square itself
    np.testing.assert_allclose(np.median(flow[0, 20:44, 42:66], axis=(0, 1)), (-8, 0), atol=0.1)


def test_what_comes_in_slowly_is_not_visible_either() -> None:
    back = np.full((4, 6, 2), (0.4, -0.4), np.float32)
    inside = np.ones((4, 6), bool)
    inside[0], inside[:, -1] = False, False
    assert (measures._returns(back, -back) == inside).all()


def test_motion_is_that_of_the_scene() -> None:
    pair = render_pair("recolour", "rotation", 0, size=128, frames=4)
    flow, visible = motion_of(pair.source)
    seen = pair.visible & visible
    assert np.linalg.norm(flow - pair.flow, axis=-1)[seen].mean() < 0.4
    assert seen.sum() > 0.95 * pair.visible.sum()


def test_tracks_of_known_motion() -> None:
    tracks = tracks_of(sliding(3, -2))
    assert tracks.shape[0] > 20
    assert tracks.shape[1:] == (6, 2)
    steps = np.diff(tracks, axis=1)
    np.testing.assert_allclose(np.median(steps, axis=0), np.full((5, 2), (3, -2)), atol=0.05)


def test_tracks_are_told_in_pixels_of_the_clip() -> None:
    large = np.stack([cv2.resize(frame, (960, 640), interpolation=cv2.INTER_CUBIC) for frame in SOURCE])
    steps = np.diff(tracks_of(large), axis=1)
    np.testing.assert_allclose(np.median(steps, axis=(0, 1)), (20, 10), atol=0.5)


def test_points_that_are_lost_are_not_told() -> None:
    cut = np.concatenate([sliding(1, count=3), sliding(1, count=3, seed=7)])
    assert len(tracks_of(cut)) < 0.3 * len(tracks_of(sliding(1)))


def heading_by_hand(before: np.ndarray, after: np.ndarray, still: float) -> np.ndarray:
    x, y = after - before
    return np.array([x, y, still]) / math.sqrt(x * x + y * y + still * still)


def fidelity_by_hand(ours: np.ndarray, theirs: np.ndarray, still: float) -> float:
    """Motion fidelity, a track at a time."""

    def alike(a: np.ndarray, b: np.ndarray) -> float:
        return np.mean(
            [
                heading_by_hand(a[k], a[k + 1], still) @ heading_by_hand(b[k], b[k + 1], still)
                for k in range(len(a) - 1)
            ]
        )

    one = np.mean([max(alike(a, b) for b in theirs) for a in ours])
    other = np.mean([max(alike(a, b) for a in ours) for b in theirs])
    return (one + other) / 2


TRACKS = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 4), st.just(4), st.just(2)), elements=st.floats(-9, 9, width=16)
)


@given(TRACKS, TRACKS)
@settings(deadline=None)
def test_motion_fidelity_by_its_definition(ours: np.ndarray, theirs: np.ndarray) -> None:
    found = fidelity(ours, theirs)
    assert found == pytest.approx(fidelity_by_hand(ours, theirs, HEIGHT / 512), abs=1e-4)
    assert found == pytest.approx(fidelity(theirs, ours[::-1]), abs=1e-5)
    assert -1.0001 <= found <= 1.0001
    assert fidelity(ours, ours) == pytest.approx(1, abs=1e-5)


def fidelity(ours: np.ndarray, theirs: np.ndarray) -> float:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measures, "tracks_of", lambda frames: ours if frames is EDIT else theirs)
        return METRICS["motion_fidelity"].measure(Sample(EDIT, SOURCE), None)


@pytest.mark.parametrize(
    ("frames", "low", "high"),
    [
        (EDIT, 0.98, 1.0001),
        (sliding(2, 1, seed=9), 0.98, 1.0001),
        (sliding(-2, 1), -0.63, -0.55),  # the cosine of the angle between the two, -3 / 5
        (sliding(-2, -1), -1, -0.9),
        (np.repeat(SOURCE[:1], 6, axis=0), 0, 0.2),
    ],
    ids=["recoloured", "other texture", "mirrored", "backwards", "still"],
)
def test_motion_fidelity_asks_for_the_same_motion(frames: np.ndarray, low: float, high: float) -> None:
    assert low <= METRICS["motion_fidelity"].measure(Sample(frames, SOURCE), None) <= high


def test_warping_error_needs_the_sources_motion() -> None:
    rng = np.random.default_rng(0)
    flicker = np.clip(EDIT + rng.normal(0, 20, (6, 1, 1, 1)), 0, 255).astype(np.uint8)
    warp = METRICS["warping_error"].measure
    moving, still = warp(SAMPLE, None), warp(Sample(np.repeat(EDIT[:1], 6, axis=0), SOURCE), None)
    assert moving < 1.5
    assert min(still, warp(Sample(flicker, SOURCE), None)) > 5 * moving


# Masks


def test_a_mask_goes_with_what_it_covers() -> None:
    frames = sliding(3, -2)
    masks = carried(SQUARE, frames, motion_of(frames)[0])
    for k, mask in enumerate(masks):
        now = np.roll(SQUARE, (-2 * k, 3 * k), axis=(0, 1))
        assert mask[now].mean() > 0.98
        assert mask.sum() < 1.35 * now.sum()


def test_a_mask_covers_the_true_edit() -> None:
    pair = render_pair("recolour", "translation", 0, size=128, frames=6)
    masks = carried(pair.region[0], pair.source, motion_of(pair.source)[0])
    assert all(mask[true].mean() > 0.95 for mask, true in zip(masks, pair.region, strict=True))


def test_a_mask_is_found_again_behind_what_passed_over_it() -> None:
    pair = render_pair("recolour", "occlusion", 2, size=96, frames=8)
    last = carried(pair.region[0], pair.source, motion_of(pair.source)[0])[-1]
    assert last[pair.region[-1]].mean() > 0.95


@given(hnp.arrays(bool, (40, 70)))
def test_a_mask_at_rest_grows_by_its_margin_alone(mask: np.ndarray) -> None:
    near = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) <= 1
    found = carried(mask, np.zeros((3, 40, 70, 3), np.uint8), np.zeros((2, 40, 70, 2), np.float32))
    assert (found == (near if mask.any() else mask)).all()


def test_background_is_what_the_mask_leaves_out(nobody: Judges) -> None:
    edited = SOURCE.copy()
    for k, frame in enumerate(edited):
        frame[np.roll(SQUARE, (k, 2 * k), axis=(0, 1))] = 0
    found = measured(Sample(edited, SOURCE, mask=SQUARE), nobody, ["background_psnr", "background_ssim"])
    assert found["background_psnr"] > 35
    assert found["background_ssim"] > 0.9
    elsewhere = Sample(edited, SOURCE, mask=SQUARE[::-1, ::-1].copy())
    assert METRICS["background_psnr"].measure(elsewhere, nobody) < 25
    grey = Sample(np.full_like(SOURCE, 100), np.full_like(SOURCE, 151), mask=SQUARE)
    assert METRICS["background_psnr"].measure(grey, nobody) == pytest.approx(20 * math.log10(5), abs=1e-4)


# The table


def test_sharpness_by_its_definition() -> None:
    def laplacian(frame: np.ndarray) -> np.ndarray:
        grey = np.pad(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(float), 1, mode="reflect")
        middle = grey[1:-1, 1:-1]
        return grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * middle

    ours, theirs = (np.mean([laplacian(f).var() for f in frames]) for frames in (SOURCE // 2, SOURCE))
    found = METRICS["sharpness"].measure(Sample(SOURCE // 2, SOURCE), None)
    assert found == pytest.approx(ours / theirs, rel=1e-5)
    assert found == pytest.approx(0.25, rel=0.05)


BEST = {
    "clip_image": 1,
    "structure": 0,
    "adherence": 1,
    "first_frame": 100,  # infinite by its definition, which would spoil every mean
    "background_psnr": 100,
    "background_ssim": 1,
    "background_perceptual": 0,
    "sharpness": 1,
    "warping_error": 0,
    "motion_fidelity": 1,
}


@pytest.mark.parametrize("name", BEST)
def test_a_still_that_is_its_own_source_is_perfect(judges: Judges, name: str) -> None:
    still = np.repeat(SOURCE[:1], 4, axis=0)
    found = METRICS[name].measure(Sample(still, still, still[0], mask=SQUARE), judges)
    assert found == pytest.approx(BEST[name], abs=1e-6)


def damaged(frames: np.ndarray) -> np.ndarray:
    """Blurred, with flicker, and played backwards."""
    light = np.array([1, 0.6, 0.9, 0.5, 1, 0.7])[:, None, None]
    return np.stack([cv2.GaussianBlur(f * r, (0, 0), 2) for f, r in zip(frames[::-1], light, strict=True)])


@pytest.mark.parametrize("name", BEST)
def test_the_better_clip_has_the_better_number(judges: Judges, name: str) -> None:
    worse = damaged(SOURCE).astype(np.uint8)
    good, bad = (
        METRICS[name].measure(Sample(frames, SOURCE, SOURCE[0], mask=SQUARE), judges)
        for frames in (SOURCE, worse)
    )
    assert (good > bad) == (METRICS[name].better == "higher")
    assert good != bad


def test_numbers_lie_in_their_ranges(judges: Judges) -> None:
    noise = np.random.default_rng(0).integers(0, 256, SOURCE.shape, dtype=np.uint8)
    sample = Sample(noise, SOURCE, EDIT[0], "a cat", SQUARE, 2.5, 40.0, 1e9)
    found = measured(sample, judges)
    assert list(found) == list(METRICS)
    for name, value in found.items():
        assert isinstance(value, float), value
        assert METRICS[name].low <= value <= METRICS[name].high
    assert [found[name] for name in ("seconds", "network_rows", "peak_bytes")] == [2.5, 40, 1e9]


def test_without_models_there_are_reasons_and_the_other_numbers(nobody: Judges) -> None:
    found = measured(SAMPLE, nobody)
    assert {name for name, value in found.items() if isinstance(value, float)} == WITHOUT_MODELS
    for name, role in {"clip_text": "clip", "pick_score": "pick", "structure": "dino"}.items():
        assert found[name].startswith(f"n/a: the weights of nobody/has-{role} (")
    assert found["seconds"] == "n/a: this needs a method that says what it cost"
    with pytest.raises(WeightsMissing, match="hf download nobody/has-vgg"):
        METRICS["background_perceptual"].measure(SAMPLE, nobody)


def test_an_edit_in_which_nothing_lasts_has_no_motion_of_the_source(nobody: Judges) -> None:
    noise = np.random.default_rng(0).integers(0, 256, SOURCE.shape, dtype=np.uint8)
    assert len(tracks_of(noise)) == 0
    assert METRICS["motion_fidelity"].measure(Sample(noise, SOURCE), nobody) == 0


@pytest.mark.parametrize(
    ("sample", "names"),
    [
        (Sample(EDIT, SOURCE), "clip_text pick_score adherence first_frame background_psnr background_ssim"),
        (Sample(EDIT, SOURCE), "background_perceptual seconds network_rows peak_bytes"),
        (Sample(EDIT[:1], SOURCE[:1]), "clip_image warping_error motion_fidelity"),
        (Sample(0 * EDIT[:1], 0 * SOURCE[:1]), "sharpness warping_error motion_fidelity"),
        (Sample(EDIT, 0 * SOURCE), "sharpness motion_fidelity"),
        (Sample(EDIT, SOURCE, mask=~(SQUARE & ~SQUARE)), "background_psnr background_ssim"),
    ],
    ids=["no inputs", "no mask", "one frame", "one blank frame", "blank source", "all masked"],
)
def test_what_does_not_apply_is_no_number(judges: Judges, sample: Sample, names: str) -> None:
    for name in names.split():
        assert math.isnan(METRICS[name].measure(sample, judges))
        assert measured(sample, judges, [name])[name] == f"n/a: this needs {METRICS[name].needs}"


def test_a_library_that_is_not_installed_is_a_reason(judges: Judges, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage.metrics", None)
    found = measured(SAMPLE, judges, ["background_ssim", "background_psnr"])
    assert "pip install 'anyv2v[eval]'" in found["background_ssim"]
    assert isinstance(found["background_psnr"], float)


def test_judges_are_of_the_roles_there_are(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no judge 'dina'; there are clip, pick, dino, vgg"):
        Judges(models={"dina": "x"})
    with pytest.raises(CheckpointError, match="is incomplete"):
        _ = Judges("cpu", {"dino": str(tmp_path)}).dino
