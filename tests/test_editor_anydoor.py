"""AnyDoor as an editor: what it leaves alone, what it refuses, and how its checkpoint is found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from anyv2v.editors.anydoor import AnyDoor, AnyDoorSettings
from anyv2v.editors.collage import Place
from anyv2v.editors.protocol import Machine, Mask, Request
from anyv2v.errors import CheckpointError, OptionError
from anyv2v.models.anydoor import DINO
from anyv2v.weights import read_weights
from test_golden_anydoor import CPU, GOLDEN, TINY

PUBLISHED = Path(GOLDEN.checkpoint)
HEIGHT, WIDTH = 117, 161


def marked(height: int, width: int, rows: slice, columns: slice) -> Mask:
    mask = np.zeros((height, width), bool)
    mask[rows, columns] = True
    return mask


def request(**other: Any) -> Request:
    rng = np.random.default_rng(0)
    frame, reference = (rng.integers(0, 256, (*size, 3), np.uint8) for size in ((HEIGHT, WIDTH), (90, 71)))
    told = {
        "references": (reference,),
        "reference_mask": marked(90, 71, np.s_[10:80], np.s_[20:60]),
        "mask": marked(HEIGHT, WIDTH, np.s_[60:], np.s_[31:90]),
    }
    return Request(frame, **told | other)


def load(path: Path, machine: Machine = CPU, **settings: Any) -> AnyDoor:
    return AnyDoor.load({"model": path}, AnyDoorSettings(**settings), machine, TINY)


def test_an_edit_of_an_odd_size_changes_the_place_alone() -> None:
    machine = Machine(torch.device("cpu"), torch.bfloat16, low_memory=True)
    editor, asked, steps = load(PUBLISHED, machine, steps=2, guidance_scale=1), request(), []
    edited = editor.edit(asked, lambda step: steps.append((step.stage, step.done, step.total)))
    assert (edited.shape, edited.dtype) == ((HEIGHT, WIDTH, 3), np.uint8)
    assert steps == [("edit frame", 1, 2), ("edit frame", 2, 2)]
    changed = (edited != asked.frame).any(axis=-1)
    box = Place.around(asked.mask, editor.settings.crop_ratio).box
    inside = np.zeros_like(changed)
    inside[box.top : box.bottom, box.left : box.right] = True
    assert not changed[~inside].any()
    assert changed[inside].mean() > 0.5


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"mask": marked(HEIGHT, WIDTH, np.s_[5:7], np.s_[5:8])}, "the mask covers fewer than 10"),
        (
            {"mask": marked(HEIGHT, WIDTH, np.s_[5:9], np.s_[5:9])},
            "needs a place of 7x7 pixels",
        ),
        ({"mask": marked(HEIGHT, WIDTH, np.s_[:1], np.s_[20:90])}, "the mask is too small"),
        ({"reference_mask": np.zeros((90, 71), bool)}, "the reference mask covers fewer than 10"),
        ({"reference_mask": marked(90, 71, np.s_[10:80], np.s_[20:21])}, "one pixel wide"),
    ],
)
def test_masks_that_are_too_small(asked: dict[str, Mask], message: str) -> None:
    editor = AnyDoor(torch.nn.Identity(), AnyDoorSettings(crop_ratio=1), CPU)
    with pytest.raises(OptionError, match=message):
        editor.edit(request(**asked))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 0}, "steps is 0; it must be 1 to 500"),
        ({"guidance_scale": 0.5}, "guidance scale is 0.5"),
        ({"strength": 3}, "strength is 3"),
        ({"reference_ratio": 0.9}, "reference ratio is 0.9"),
        ({"crop_ratio": float("nan")}, "crop ratio is nan"),
        ({"variant": "script", "shape_control": True}, "the script has no shape control"),
    ],
)
def test_settings_out_of_their_range(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        AnyDoorSettings(**wrong)


@pytest.fixture
def weights() -> dict[str, Tensor]:
    return read_weights(PUBLISHED / "anydoor_tiny.safetensors")


def pickled(weights: dict[str, Tensor], folder: Path) -> Path:
    """As Lightning saves it, with what only training needs."""
    trained = {
        "epoch": 1,
        "global_step": 8687,
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(2)}}}],
    }
    torch.save(trained | {"state_dict": weights}, folder / "epoch=1-step=8687.ckpt")
    return folder


def assert_equal(ours: AnyDoor, theirs: AnyDoor) -> None:
    pairs = zip(ours.nets.parameters(), theirs.nets.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_the_authors_file_is_loaded_with_or_without_dinov2(
    weights: dict[str, Tensor], tmp_path: Path
) -> None:
    whole = load(PUBLISHED)
    assert whole.nets.unet.dtype == torch.float32  # of what is stored in half precision
    assert_equal(load(pickled(weights, tmp_path)), whole)
    alone = {name.removeprefix(DINO): weights.pop(name) for name in list(weights) if name.startswith(DINO)}
    with pytest.raises(CheckpointError, match="is without DINOv2; put dinov2_vitg14_pretrain"):
        load(pickled(weights, tmp_path))
    torch.save(alone, tmp_path / "dinov2_vitg14_pretrain.pth")
    assert_equal(load(tmp_path / "epoch=1-step=8687.ckpt"), whole)


def test_folders_without_it(weights: dict[str, Tensor], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is no checkpoint of AnyDoor: there is no .ckpt"):
        load(tmp_path)
    for part in "control_model.", "first_stage_model.":
        rest = {name: weight for name, weight in weights.items() if not name.startswith(part)}
        with pytest.raises(CheckpointError, match=r"AnyDoorNets lacks \d+ weights, among them"):
            load(pickled(rest, tmp_path))
