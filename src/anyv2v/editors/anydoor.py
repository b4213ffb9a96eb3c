"""AnyDoor (Chen et al., arXiv 2307.09481) as an editor: the reference's subject goes where the mask is.

It takes no prompt. What it sees of the frame is a square around the mask, at 512 x 512.

Not covered: its refiner of reference masks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from anyv2v.editors.collage import FEWEST, SIDE, Place, Variant, cut_out
from anyv2v.editors.protocol import Machine, Mask, Request
from anyv2v.errors import CheckpointError, EditorError, OptionError
from anyv2v.options import within
from anyv2v.picture import Frame
from anyv2v.progress import OnStep, Step, ignore
from anyv2v.schedule import DDIM
from anyv2v.weights import fill, loading, read_weights

if TYPE_CHECKING:
    from anyv2v.models.anydoor import AnyDoorNets, Config

__all__ = ["SCHEDULE", "AnyDoor", "AnyDoorSettings", "levels", "sample"]

LATENT = 8  # pixels along a side of a latent pixel
LEVELS = 1000  # of noise, in training
MOST_STEPS = 500  # more would be strides of one level, and begin beyond the noisiest
SCHEDULE = {
    "num_train_timesteps": LEVELS,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "steps_offset": 1,
    "set_alpha_to_one": False,
}


@dataclass(frozen=True)
class AnyDoorSettings:
    """What can be set of AnyDoor.

    Attributes:
        variant: Whose rules hold where the authors' two programs differ. Those of their ``demo`` are the ones
            that the nets were trained with, and leave more of the frame as it was; ``script`` repeats what
            their inference script makes.
        steps: Sampling steps, 1 to 500. The authors' walk has strides of 1000 // steps levels, as many as
            there is room for, so that their demo's 30 are 31 in truth; the 50 of their script are 50.
        guidance_scale: Classifier-free guidance, 1 to 100; 1 turns it off. The demo has 4.5, the script 5.
        strength: How strongly the collage acts, 0 to 2.
        shape_control: Fill the mask's own shape rather than its box; the demo's alone.
        reference_ratio: How much larger than the subject's box its picture is, 1 to 4. The demo draws 1.1 to
            1.4 at random, the script has 1.2.
        crop_ratio: How much larger than the mask's box the square is that AnyDoor sees, 1 to 8: less paints
            the subject finer, more shows more of what it has to fit. The demo draws 1.3 to 2.9 at random, of
            which this is the middle, and the script 1.5 to 2.9.

    Raises:
        OptionError: A value is out of its range.
    """

    variant: Variant = "demo"
    steps: int = 50
    guidance_scale: float = 4.5
    strength: float = 1.0
    shape_control: bool = False
    reference_ratio: float = 1.2
    crop_ratio: float = 2.1

    def __post_init__(self) -> None:
        within(self, 1, MOST_STEPS, "steps")
        within(self, 1, 100, "guidance_scale")
        within(self, 0, 2, "strength")
        within(self, 1, 4, "reference_ratio")
        within(self, 1, 8, "crop_ratio")
        if not _fits(self.steps):
            fewer = next(steps for steps in range(self.steps, 0, -1) if _fits(steps))
            more = next(steps for steps in range(self.steps, MOST_STEPS + 1) if _fits(steps))
            raise OptionError(
                f"AnyDoor has no noise level for the first of {self.steps} steps; take {fewer} or {more}"
            )
        if self.shape_control and self.variant == "script":
            raise OptionError("the script has no shape control; take the variant demo")


def levels(steps: int) -> tuple[int, ...]:
    """The noise levels of a walk, noisiest first, the last one clean.

    The strides are even, and as many as there is room for, which can be more than ``steps``.
    """
    return (*reversed(range(1, LEVELS + 1, LEVELS // steps)), -1)


def _fits(steps: int) -> bool:
    return levels(steps)[0] < LEVELS


class AnyDoor:
    """See ``Editor``. It keeps to the mask's surroundings by itself.

    Args:
        nets: On the machine's device, or, where memory is low, anywhere.
        settings: What a user set.
        machine: What it runs on.
    """

    Settings = AnyDoorSettings

    def __init__(self, nets: AnyDoorNets, settings: AnyDoorSettings, machine: Machine) -> None:
        self.nets = nets
        self.settings = settings
        self.machine = machine

    @classmethod
    def load(
        cls,
        weights: Mapping[str, Path],
        settings: AnyDoorSettings,
        machine: Machine,
        config: Config | None = None,
    ) -> Self:
        """See ``LoadableEditor``.

        Args:
            weights: ``model`` is the authors' checkpoint, ``.ckpt`` or ``.safetensors``, or a folder with it.
                If it is without DINOv2, ``dinov2_vitg14_pretrain.pth`` must be beside it.
            settings: What a user set.
            machine: What it runs on.
            config: The sizes of the nets, if they are not the published ones.
        """
        from anyv2v.models.anydoor import PUBLISHED, AnyDoorNets, weights_by_module

        file, config = _checkpoint(weights["model"]), config or PUBLISHED
        with loading(file):
            with torch.device("meta"):
                nets = AnyDoorNets(config)
            fill(nets, weights_by_module(_published(file), config), file)
        home = torch.device("cpu") if machine.low_memory else machine.device
        return cls(nets.to(home, machine.dtype).eval().requires_grad_(False), settings, machine)

    def edit(self, request: Request, on_step: OnStep = ignore) -> Frame:
        """See ``Editor``.

        Raises:
            OptionError: A mask is too small.
        """
        assert request.mask is not None and request.reference_mask is not None  # its entry needs them
        _check_size("mask", request.mask)
        _check_size("reference mask", request.reference_mask)
        settings = self.settings
        subject = cut_out(request.references[0], request.reference_mask, settings.reference_ratio)
        place = Place.around(request.mask, settings.crop_ratio, settings.variant)
        shape = request.mask if settings.shape_control else None
        hint = place.hint(request.frame, subject.detail, shape)
        return place.paste(request.frame, self.paint(subject.picture, hint, request.seed, on_step))

    @torch.no_grad()
    def paint(
        self, subject: Frame, hint: NDArray[np.float32], seed: int, on_step: OnStep = ignore
    ) -> NDArray[np.float32]:
        """Fill a place with a subject.

        Args:
            subject: ``[224, 224, 3]``.
            hint: See ``Place``, ``[512, 512, 4]``.
            seed: Of the noise.
            on_step: See ``Editor``.

        Returns:
            ``[512, 512, 3]``, 0 to 255.
        """
        nets, device = self.nets, self.machine.device
        shape, generator = (1, 4, SIDE // LATENT, SIDE // LATENT), torch.Generator().manual_seed(seed)
        noise = torch.randn(shape, generator=generator).to(device)
        with self._at_work(nets.dino, nets.projector):
            picture = _tensor(subject).to(device) / 255
            # Black, before it is normalised, is the authors' "no subject".
            contexts = nets.look(torch.cat([torch.zeros_like(picture), picture]))
        with self._at_work(nets.controlnet, nets.unet):
            latents = sample(nets, noise, contexts, _tensor(hint).to(device), self.settings, on_step)
        with self._at_work(nets.vae):
            pixels = nets.decode(latents.to(nets.vae.dtype))[0].float()
        if not pixels.isfinite().all():
            raise EditorError("AnyDoor's numbers overflowed; it may do with --dtype float32")
        return (127.5 * pixels + 127.5).clamp(0, 255).permute(1, 2, 0).cpu().numpy()

    @contextmanager
    def _at_work(self, *nets: nn.Module) -> Iterator[None]:
        """Have nets on the device; only for now, where memory is low."""
        for net in nets:
            net.to(self.machine.device)
        try:
            yield
        finally:
            for net in nets if self.machine.low_memory else ():
                net.to("cpu")


def sample(
    nets: AnyDoorNets,
    noise: Tensor,
    contexts: Tensor,
    hint: Tensor,
    settings: AnyDoorSettings,
    on_step: OnStep = ignore,
) -> Tensor:
    """Walk from noise to clean latents.

    Args:
        nets: The nets.
        noise: ``[1, 4, h, w]``.
        contexts: Of no subject, and of the subject: ``[2, 257, D]``.
        hint: ``[1, 4, 8 h, 8 w]``.
        settings: What a user set.
        on_step: See ``Editor``; told the latents too.

    Returns:
        The latents, ``[1, 4, h, w]``, float32.
    """
    told = contexts if settings.guidance_scale > 1 else contexts[1:]
    walk, path, z = DDIM.from_config(SCHEDULE), levels(settings.steps), noise
    for done, (t, s) in enumerate(pairwise(path), 1):
        level = torch.tensor([t], device=z.device)
        rows = [latents.to(told.dtype).expand(len(told), -1, -1, -1) for latents in (z, hint)]
        out = nets(rows[0], level, told, rows[1], settings.strength).float()
        without, seen = out[:1], out[-1:]
        z = walk.step(without + settings.guidance_scale * (seen - without), z, t, s)
        on_step(Step("edit frame", done, len(path) - 1, s, z))
    return z


def _tensor(picture: NDArray[Any]) -> Tensor:
    """``[H, W, C]`` to ``[1, C, H, W]``, float32."""
    return torch.from_numpy(picture).permute(2, 0, 1)[None].float()


def _check_size(what: str, mask: Mask) -> None:
    if np.count_nonzero(mask) < FEWEST:
        raise OptionError(f"the {what} covers fewer than {FEWEST} pixels; mark more")


ALONE = "dinov2_vitg14_pretrain"


def _checkpoint(path: Path) -> Path:
    """The file of a folder's checkpoint; safetensors where there is a choice."""
    if path.is_file():
        return path
    for suffix in (".safetensors", ".ckpt"):
        if found := [file for file in sorted(path.rglob(f"*{suffix}")) if file.stem != ALONE]:
            return found[0]
    raise CheckpointError(f"{path} is no checkpoint of AnyDoor: there is no .ckpt or .safetensors in it")


def _published(file: Path) -> dict[str, Tensor]:
    """The weights by the names of the authors."""
    from anyv2v.models.anydoor import DINO

    weights = read_weights(file)
    if any(name.startswith(DINO) for name in weights):
        return weights
    if not (beside := sorted(file.parent.glob(f"{ALONE}.*"))):
        raise CheckpointError(f"{file} is without DINOv2; put {ALONE}.pth beside it")
    return weights | {DINO + name: weight for name, weight in read_weights(beside[-1]).items()}
