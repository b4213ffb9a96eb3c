"""SAM 2 and CLIP as editors use them, on tiny random nets of the real classes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import transformers
from transformers import CLIPConfig, CLIPModel, Sam2Config, Sam2Model

from anyv2v.clip import CLIP
from anyv2v.editors.ranking import score
from anyv2v.editors.sam import segment
from anyv2v.errors import CheckpointError, OptionError
from conftest import scene

FRAME = scene(1, 68, 100)[0][:97, :65]
CPU = torch.device("cpu")
SIDE = 64


@pytest.fixture(scope="module", autouse=True)
def silent():
    transformers.utils.logging.disable_progress_bar()
    yield
    transformers.utils.logging.enable_progress_bar()


@pytest.fixture(scope="module")
def sam(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    hiera = {
        "hidden_size": 8,
        "image_size": [SIDE, SIDE],
        "blocks_per_stage": [1, 1, 2, 1],
        "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 1, 1, 1],
        "window_size_per_stage": [8, 4, 4, 4],
        "window_positional_embedding_background_size": [2, 2],
        "global_attention_blocks": [3],
        "model_type": "sam2_hiera_det_model",
    }
    config = Sam2Config(
        vision_config={
            "backbone_config": hiera,
            "backbone_channel_list": [64, 32, 16, 8],
            "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
            "fpn_hidden_size": 32,
        },
        prompt_encoder_config={"hidden_size": 32, "image_size": SIDE},
        mask_decoder_config={
            "hidden_size": 32,
            "mlp_dim": 32,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 16,
        },
    )
    folder = tmp_path_factory.mktemp("sam")
    Sam2Model(config).save_pretrained(folder)
    return folder


@pytest.fixture
def asked(monkeypatch) -> dict:
    """What SAM 2 was asked last, and what it said."""
    seen: dict = {}
    forward = Sam2Model.forward

    def listening(self, pixel_values, **asked):
        said = forward(self, pixel_values, **asked)
        seen.update(asked, pixels=pixel_values, said=said)
        return said

    monkeypatch.setattr(Sam2Model, "forward", listening)
    return seen


def test_a_point_is_asked_in_pixels_of_the_square_and_the_surest_mask_is_taken(sam, asked) -> None:
    mask = segment(FRAME, [(13, 48), (0, 96)], None, sam, CPU)
    assert mask.shape == FRAME.shape[:2]
    assert mask.dtype == bool
    points = asked["input_points"][0, 0].tolist()
    assert points == [pytest.approx([13 * SIDE / 65, 48 * SIDE / 97]), pytest.approx([0, 96 * SIDE / 97])]
    assert asked["input_labels"].tolist() == [[[1, 1]]]
    masks, sureness = asked["said"].pred_masks[0, 0], asked["said"].iou_scores[0, 0]
    assert len(masks) == len(sureness) == 3
    size = FRAME.shape[:2]
    grown = torch.nn.functional.interpolate(masks[None], size, mode="bilinear", align_corners=False)[0]
    shares = [(mask == (candidate > 0).numpy()).mean() for candidate in grown]
    assert shares[int(sureness.argmax())] > 0.999


def test_a_box_is_asked_with_its_corners(sam, asked) -> None:
    segment(FRAME, [], (13, 0, 65, 97), sam, CPU)
    assert asked["input_boxes"][0, 0].tolist() == pytest.approx([13 * SIDE / 65, 0, SIDE, SIDE])
    assert len(asked["said"].pred_masks[0, 0]) == 1


def test_sam_sees_the_whole_frame_normalised(sam, asked) -> None:
    segment(FRAME, [(1, 1)], None, sam, CPU)
    pixels = asked["pixels"]
    assert pixels.shape == (1, 3, SIDE, SIDE)
    mean = (FRAME.mean((0, 1)) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    assert pixels.mean((0, 2, 3)).tolist() == pytest.approx(mean.tolist(), abs=0.02)


def test_what_is_not_on_the_frame_cannot_be_pointed_at(sam) -> None:
    with pytest.raises(OptionError, match=r"the point 65,3 lies outside of the frame \(65x97\)"):
        segment(FRAME, [(65, 3)], None, sam, CPU)
    with pytest.raises(OptionError, match=r"the box 30,30,10,10 is no box within the frame"):
        segment(FRAME, [], (30, 30, 10, 10), sam, CPU)


def test_weights_of_another_model_are_no_sam(tmp_path) -> None:
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        segment(FRAME, [(1, 1)], None, tmp_path, CPU)


@pytest.fixture(scope="module")
def clip(tmp_path_factory, tiny: str) -> CLIP:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("clip")
    small = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    tokenizer = transformers.CLIPTokenizer.from_pretrained(Path(tiny) / "tokenizer", local_files_only=True)
    text = small | {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    vision = small | {"image_size": 32, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).save_pretrained(folder)
    shutil.copytree(Path(tiny) / "tokenizer", folder, dirs_exist_ok=True)
    crop = {"height": 32, "width": 32}
    transformers.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=crop).save_pretrained(folder)
    return CLIP.load(folder, torch.device("cpu"), torch.float32)


def test_clip_puts_pictures_and_texts_on_one_sphere(clip: CLIP) -> None:
    pictures, texts = clip.pictures([FRAME, 255 - FRAME]), clip.texts(["a cat", "a dog " * 100, ""])
    assert pictures.shape == (2, 16)
    assert texts.shape == (3, 16)
    for embeddings in (pictures, texts):
        torch.testing.assert_close(embeddings.norm(dim=-1), torch.ones(len(embeddings)))
    torch.testing.assert_close(clip.texts(["a cat"]), texts[:1], atol=1e-5, rtol=0)  # padding does not count


def test_clip_judges_an_edit(clip: CLIP) -> None:
    edited = 255 - FRAME
    pictures, texts = clip.pictures([FRAME, edited]), clip.texts(["a photo", "a negative"])
    expected = torch.cosine_similarity(pictures[1] - pictures[0], texts[1] - texts[0], dim=0)
    found = score(FRAME, edited, clip=clip, text="a negative").alignment
    assert found == pytest.approx(expected.item(), abs=1e-5)
