"""The face in a picture: whose it is, its five points, and the drawing of these that InstantID sees."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from anyv2v.picture import Frame, Size

__all__ = ["Analyser", "Face", "analyse", "draw_points"]

COLORS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255))  # of the points, in order
NOSE = 2
RADIUS, THICKNESS, SHADE = 10, 4, 0.6  # of the points, and of the limbs between them


@dataclass(frozen=True, eq=False)
class Face:
    """A face in a picture.

    Attributes:
        embedding: Whose it is, ``[512]``, as ArcFace gives it: InstantID was trained on its length too.
        points: x and y in pixels of the eyes, the nose and the corners of the mouth, ``[5, 2]``; of two, the
            one further left in the picture is first.
    """

    embedding: NDArray[np.float32]
    points: NDArray[np.floating[Any]]


Analyser = Callable[[Frame], Face | None]


def analyse(folder: Path) -> Analyser:
    """Load insightface's detector and recogniser.

    Args:
        folder: Holds ``scrfd_10g_bnkps.onnx`` and ``glintr100.onnx`` of the pack antelopev2.

    Returns:
        Finds the largest face of a picture ``[H, W, 3]``, or none.
    """
    from insightface.app import FaceAnalysis

    with redirect_stdout(io.StringIO()):  # it prints each file that it reads
        found = FaceAnalysis(
            name=str(folder.resolve()),  # by its path: what it knows by a name alone, it downloads
            allowed_modules=["detection", "recognition"],
            providers=["CPUExecutionProvider"],
        )
        found.prepare(ctx_id=-1, det_size=(640, 640))

    def largest(picture: Frame) -> Face | None:
        faces = found.get(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        if not faces:
            return None
        face = max(faces, key=lambda face: _area(face.bbox))
        return Face(face.embedding, face.kps)

    return largest


def _area(box: NDArray[np.float32]) -> float:
    left, top, right, bottom = box[:4]
    return float((right - left) * (bottom - top))


def draw_points(points: NDArray[np.floating[Any]], size: Size) -> Frame:
    """Draw a face's points as InstantID (arXiv 2401.07519) was trained to see them.

    Radius and thickness are in pixels and do not grow with the picture.

    Args:
        points: ``[5, 2]``, as ``Face`` has them; they may lie outside the picture.
        size: Of the drawing.

    Returns:
        ``[H, W, 3]``: a coloured disc for each point, and darker limbs from the nose to the others, on black.
    """
    picture: Frame = np.zeros((size.height, size.width, 3), np.uint8)
    for end in (0, 1, 3, 4):
        cv2.fillConvexPoly(picture, _limb(points[end], points[NOSE]), COLORS[end])
    picture = (picture * SHADE).astype(np.uint8)
    for (x, y), color in zip(points, COLORS, strict=True):
        cv2.circle(picture, (int(x), int(y)), RADIUS, color, cv2.FILLED)
    return picture


def _limb(end: NDArray[np.floating[Any]], nose: NDArray[np.floating[Any]]) -> NDArray[np.int32]:
    """A flat ellipse from one point to another, as a polygon."""
    x, y = (end + nose) / 2
    across, down = end - nose
    half = (across**2 + down**2) ** 0.5 / 2  # in the points' own precision, as the cut to an integer shows it
    angle = math.degrees(math.atan2(down, across))
    polygon = cv2.ellipse2Poly((int(x), int(y)), (int(half), THICKNESS), int(angle), 0, 360, 1)
    return np.asarray(polygon, np.int32)
