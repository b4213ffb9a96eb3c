"""Masks, cut out by SAM 2 where somebody points (arXiv 2408.00714)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from anyv2v.editors.protocol import Mask
from anyv2v.errors import OptionError
from anyv2v.picture import Frame, Size
from anyv2v.weights import Weights, load_part

__all__ = ["SAM2", "Box", "Point", "segment"]

Point = tuple[int, int]  # x, y in pixels
Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels

SAM2 = Weights(
    "facebook/sam2.1-hiera-tiny", 0.16, "Apache-2.0", ("*.json", "*.safetensors"), role="segmentation"
)

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@torch.no_grad()
def segment(
    frame: Frame, points: Sequence[Point], box: Box | None, folder: Path, device: torch.device
) -> Mask:
    """Cut out what is pointed at.

    Args:
        frame: ``[H, W, 3]``.
        points: Pixels on it.
        box: A box around it.
        folder: The weights of ``SAM2``.
        device: What the model runs on.

    Returns:
        The mask, ``[H, W]``.

    Raises:
        OptionError: A point or a corner lies outside of the frame.
        CheckpointError: The weights are broken, or another model's.
    """
    _check_inside(Size.of(frame), points, box)
    from transformers import Sam2Model

    model: Any = load_part(Sam2Model, folder, ".", device, torch.float32)
    side = model.config.prompt_encoder_config.image_size  # it sees every picture as a square
    asked = _prompts(Size.of(frame), side, points, box, device)
    # One point may mean a button, a shirt or a person: the model proposes three, and says how sure it is.
    result = model(_pixels(frame, side).to(device), **asked, multimask_output=box is None)
    best = result.pred_masks[0, 0, result.iou_scores[0, 0].argmax()].cpu().numpy()
    mask = np.asarray(cv2.resize(best, frame.shape[1::-1], interpolation=cv2.INTER_LINEAR) > 0, bool)
    if not mask.any():
        raise OptionError("SAM 2 finds nothing there; point elsewhere, or draw a mask")
    return mask


def _check_inside(size: Size, points: Sequence[Point], box: Box | None) -> None:
    for x, y in points:
        if not (0 <= x < size.width and 0 <= y < size.height):
            raise OptionError(f"the point {x},{y} lies outside of the frame ({size})")
    if box is None:
        return
    left, top, right, bottom = box
    if not (0 <= left < right <= size.width and 0 <= top < bottom <= size.height):
        raise OptionError(f"the box {left},{top},{right},{bottom} is no box within the frame ({size})")


def _pixels(frame: Frame, side: int) -> torch.Tensor:
    """``[1, 3, side, side]``, stretched: SAM 2 was trained on such."""
    square = cv2.resize(frame, (side, side), interpolation=cv2.INTER_LINEAR)
    pixels = (square.astype(np.float32) / 255 - MEAN) / DEVIATION
    return torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1)[None]


def _prompts(
    size: Size, side: int, points: Sequence[Point], box: Box | None, device: torch.device
) -> dict[str, torch.Tensor]:
    """Points ``[1, 1, n, 2]``, all on the object, and box ``[1, 1, 4]``, in pixels of the square."""
    scale = torch.tensor([side / size.width, side / size.height], device=device)
    asked = {}
    if points:
        asked["input_points"] = (torch.tensor(points, device=device) * scale)[None, None]
        asked["input_labels"] = torch.ones(1, 1, len(points), dtype=torch.long, device=device)
    if box:
        asked["input_boxes"] = torch.tensor(box, device=device)[None, None] * scale.repeat(2)
    return asked
