"""Neural style transfer (Gatys, Ecker and Bethge, arXiv 1508.06576): the frame, painted like the reference.

The picture is sought whose features resemble the frame's place by place and the reference's in statistics. In
a layer l of N filters and M places, F are the features of the picture, ``[N, M]``, and P those of the frame:

    L_content = 1/2 Σ_ij (F_ij - P_ij)²                              (eq. 1)
    G_ij      = Σ_k F_ik F_jk, and A_ij the same of the reference    (eq. 3)
    L_style   = Σ_l w_l E_l,  E_l = 1/(4 N² M²) Σ_ij (G_ij - A_ij)²  (eqs. 4, 5)
    L_total   = α L_content + β L_style                              (eq. 7)

G and A are divided by the M of their own picture, as these differ in size. The paper's α and β suit one size,
and filters scaled to a mean activation of one. To suit any, each sum of squares is divided by what it is
between a frame and a reference that have nothing in common, and w_l by the number of layers.

It is painted from coarse to fine (Gatys et al., arXiv 1611.07865, section 6), as the net sees only strokes of
limited size: what is large in the frame is small in a small copy of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torch.optim import LBFGS

from anyv2v.editors.canvas import frame_of
from anyv2v.editors.protocol import Machine, Request
from anyv2v.errors import OptionError
from anyv2v.models.vgg import LAYERS, VGG19
from anyv2v.options import within
from anyv2v.picture import Frame
from anyv2v.progress import OnStep, Step, ignore
from anyv2v.weights import fill, read_weights, weights_of

__all__ = ["StyleTransfer", "StyleTransferSettings"]

CLASSIFIER = ("pre_logits.", "head.", "classifier.")  # as timm and torchvision name it
HISTORY = 20  # iterations that L-BFGS looks back on; each keeps two pictures
LINE_SEARCH = 25  # evaluations of the loss in an iteration, at most; mostly it is one
LUMINANCE = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class StyleTransferSettings:
    """What is matched, how closely, and how long it is painted.

    Attributes:
        content_weight: α, 0 to 1e6: how much the frame's features count.
        style_weight: β, 0 to 1e6: how much the reference's statistics count.
        tv_weight: How much the squared difference of neighbouring pixels counts, 0 to 1e6; it smooths.
        style_scale: Side of the reference in sides of the frame, by area, 0.1 to 10; a larger one has larger
            strokes.
        style_layers: Layers of VGG-19 whose statistics are matched.
        content_layer: The layer of VGG-19 whose features are matched.
        pooling: Of VGG-19: ``average``, which the paper finds slightly more appealing, or ``max``.
        steps: Iterations of L-BFGS at each scale, 1 to 10000.
        scales: Sizes it is painted at, 1 to 8, each half as large as the next.
        side: Of a square with as many pixels as are painted at most, 16 to 4096. A larger frame is painted
            smaller, and what changes is scaled up.
        keep_colours: Paint the luminance alone, and leave the frame its colours (arXiv 1606.05897).

    Raises:
        OptionError: A value is out of its range, or a layer is unknown.
    """

    content_weight: float = 1.0
    style_weight: float = 30.0
    tv_weight: float = 5.0
    style_scale: float = 1.0
    style_layers: tuple[str, ...] = ("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1")
    content_layer: str = "conv4_2"
    pooling: Literal["average", "max"] = "average"
    steps: int = 100
    scales: int = 3
    side: int = 512
    keep_colours: bool = False

    def __post_init__(self) -> None:
        within(self, 0, 1e6, "content_weight", "style_weight", "tv_weight")
        within(self, 0.1, 10, "style_scale")
        within(self, 1, 10_000, "steps")
        within(self, 1, 8, "scales")
        within(self, 16, 4096, "side")
        if not self.style_layers:
            raise OptionError("style layers are empty; name one at least")
        if unknown := {self.content_layer, *self.style_layers} - set(LAYERS):
            raise OptionError(f"VGG-19 has no layer {min(unknown)!r}; there are {', '.join(LAYERS)}")


class StyleTransfer:
    """See ``Editor``; ``load`` is the way to make one. It starts from the frame, and nothing in it is random.

    Args:
        net: What sees features.
        settings: What a user set.
    """

    Settings: ClassVar[type[StyleTransferSettings]] = StyleTransferSettings

    def __init__(self, net: VGG19, settings: StyleTransferSettings) -> None:
        self.net = net.eval().requires_grad_(False)
        self.settings = settings
        self.device = next(net.parameters()).device

    @classmethod
    def load(cls, weights: Mapping[str, Path], settings: StyleTransferSettings, machine: Machine) -> Self:
        """Load VGG-19 as timm or torchvision publish it. It computes in float32 on every machine."""
        where = weights["model"]
        published = read_weights(where) if where.is_file() else weights_of(where, torch.float32)
        with torch.device("meta"):
            net = VGG19(settings.pooling)
        fill(net, {name: w for name, w in published.items() if not name.startswith(CLASSIFIER)}, where)
        # Statistics of squares do not fit into half precision.
        return cls(net.to(machine.device, torch.float32), settings)

    def edit(self, request: Request, on_step: OnStep = ignore) -> Frame:
        """See ``Editor``. Several references are matched in the mean of their statistics."""
        frame, references = picture_of(request.frame), [picture_of(r) for r in request.references]
        content = frame
        if self.settings.keep_colours:
            content = luminance(frame)
            references = [matched(luminance(reference), content) for reference in references]
        done, total = count(1), self.settings.scales * self.settings.steps
        change = torch.zeros(1, content.shape[1], 1, 1)
        for size in self._sizes(content):
            small = resized(content, size)
            loss = Loss(self.net, small.to(self.device), self._scaled(references, size), self.settings)
            # The change is handed on, not the picture, so that each scale starts with its own fine detail.
            start = small + resized(change, size)
            painted = self._paint(start, loss, lambda: on_step(Step("edit frame", next(done), total)))
            change = painted.clamp(0, 1) - small
        edited = frame + resized(change, frame.shape[2:])
        return frame_of(edited[0].permute(1, 2, 0).numpy())

    def _sizes(self, content: Tensor) -> list[tuple[int, int]]:
        """Height and width at each scale, from the coarsest."""
        area = min(self.settings.side**2, math.prod(content.shape[2:]))
        return [size_of_area(content, area / 4**k) for k in reversed(range(self.settings.scales))]

    def _scaled(self, references: Sequence[Tensor], size: Sequence[int]) -> list[Tensor]:
        """The references as large as they are wanted beside a picture of that size."""
        area = math.prod(size) * self.settings.style_scale**2
        return [resized(r, size_of_area(r, area)).to(self.device) for r in references]

    def _paint(self, start: Tensor, loss: Loss, on_iteration: Callable[[], None]) -> Tensor:
        """Find a picture of less loss, by L-BFGS as in the paper."""
        picture = start.to(self.device).requires_grad_()
        search = LBFGS(
            [picture],
            max_iter=1,
            max_eval=LINE_SEARCH,
            tolerance_grad=0,  # a single pixel's gradient is below any that is usual
            tolerance_change=0,
            history_size=HISTORY,
            line_search_fn="strong_wolfe",
        )
        at, value = torch.full_like(picture, math.nan), torch.empty(())  # nowhere yet

        def evaluate() -> float:
            nonlocal at, value
            if not torch.equal(picture, at):  # an iteration asks again where the last one stopped
                search.zero_grad()
                at, value = picture.detach().clone(), loss(picture)
                value.backward()  # type: ignore[no-untyped-call]
            return value.item()

        for _ in range(self.settings.steps):
            search.step(evaluate)  # type: ignore[no-untyped-call]
            on_iteration()
        return picture.detach().cpu()


class Loss:
    """L_total of pictures of one size.

    Args:
        net: What sees features.
        content: ``[1, C, H, W]``, 0 to 1; C is 3, or 1 for grey.
        references: Each ``[1, C, h, w]``.
        settings: The layers and their weights.
    """

    def __init__(
        self, net: VGG19, content: Tensor, references: Sequence[Tensor], settings: StyleTransferSettings
    ) -> None:
        self.net, self.settings = net, settings
        layer, layers = settings.content_layer, settings.style_layers
        with torch.no_grad():
            frame, styles = self._see(content), [self._see(reference) for reference in references]
            grams = {name: torch.stack([gram(style[name]) for style in styles]).mean(0) for name in frame}
        self.features = frame[layer]
        self.grams = {name: grams[name] for name in layers}
        energy = gram(frame[layer]).trace() + grams[layer].trace()
        self.content_weight = settings.content_weight / (energy * frame[layer][0, 0].numel())
        self.style_weights = {
            name: settings.style_weight / len(layers) / (squares(gram(frame[name])) + squares(wanted))
            for name, wanted in self.grams.items()
        }

    def __call__(self, picture: Tensor) -> Tensor:
        """A number, for a picture ``[1, C, H, W]``."""
        seen = self._see(picture)
        loss = self.content_weight * squares(seen[self.settings.content_layer] - self.features)
        for name, wanted in self.grams.items():
            loss = loss + self.style_weights[name] * squares(gram(seen[name]) - wanted)
        return loss + self.settings.tv_weight * variation(picture)

    def _see(self, picture: Tensor) -> dict[str, Tensor]:
        layers = {self.settings.content_layer, *self.settings.style_layers}
        seen: dict[str, Tensor] = self.net(picture.expand(-1, 3, -1, -1), layers)
        return seen


def gram(features: Tensor) -> Tensor:
    """Eq. 3, divided by the number of places: ``[1, N, h, w] -> [N, N]``."""
    flat = features[0].flatten(1)
    return flat @ flat.T / flat.shape[1]


def squares(values: Tensor) -> Tensor:
    """Their sum."""
    return values.square().sum()


def variation(picture: Tensor) -> Tensor:
    """Squared differences of neighbouring pixels, in the mean over a picture ``[1, C, H, W]``."""
    return (squares(picture.diff(dim=2)) + squares(picture.diff(dim=3))) / picture.numel()


def luminance(picture: Tensor) -> Tensor:
    """``[1, 3, H, W] -> [1, 1, H, W]``."""
    return torch.einsum("bchw, c -> bhw", picture, picture.new_tensor(LUMINANCE))[:, None]


def matched(grey: Tensor, other: Tensor) -> Tensor:
    """A picture in grey, with the mean and the deviation of another."""
    deviation = grey.std().clamp_min(1e-3)  # one of a single colour has none
    return (grey - grey.mean()) / deviation * other.std() + other.mean()


def size_of_area(picture: Tensor, area: float) -> tuple[int, int]:
    """Height and width of about so many pixels, with the aspect of a picture ``[1, C, H, W]``."""
    height, width = picture.shape[2:]
    scale = math.sqrt(area / (height * width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def resized(picture: Tensor, size: Sequence[int]) -> Tensor:
    """``[1, C, H, W]`` in another height and width."""
    return interpolate(picture, size=tuple(size), mode="bicubic", antialias=True)


def picture_of(frame: Frame) -> Tensor:
    """``[H, W, 3] -> [1, 3, H, W]``, 0 to 1."""
    return torch.from_numpy(frame.astype(np.float32)).permute(2, 0, 1)[None] / 255
