"""What a user can set, and the named recipes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from anyv2v.errors import OptionError
from anyv2v.picture import Size

__all__ = ["NEGATIVE_PROMPT", "RECIPES", "Options", "within"]

NEGATIVE_PROMPT = (
    "Distorted, discontinuous, Ugly, blurry, low resolution, motionless, static, disfigured, "
    "disconnected limbs, Ugly faces, incomplete arms"
)
"""The one negative prompt of the paper (section 5.2)."""


@dataclass(frozen=True)
class Options:
    """Settings of the diffusion stage; the defaults are the paper's (section 5.2), but for the inversion.

    Attributes:
        steps: Sampling steps, T in the paper.
        inversion_steps: Inversion steps. Every timestep that sampling visits must be among theirs.
        inversion: How the source is inverted: see ``anyv2v.inversion``. ``ddim`` is the paper's; ``uni``
            brings the source back far better for as many calls of the net.
        inversion_iterations: Calls of the net for each step of ``fixed-point``, 1 to 100.
        guidance: Classifier-free guidance scale, 1 to 1000; 1 turns it off.
        image_guidance: The same of the first frame, where a backbone has one: ConsistI2V.
        guidance_rescale: How far, 0 to 1, guidance is kept from raising the contrast (arXiv 2305.08891).
        guidance_until: Share of the steps, 0 to 1, that are guided; the others ask for the prompt alone.
        negative_prompt: The text of the negative branch.
        inversion_prompt: The text of the source in inversion and in its denoising; empty in the paper.
        tau_conv: Share of the steps, 0 to 1, that inject the convolution feature.
        tau_spatial: Share of the steps, 0 to 1, that inject spatial-attention queries and keys.
        tau_temporal: Share of the steps, 0 to 1, that inject temporal-attention queries and keys.
        tau_cross: Share of the steps, 0 to 1, that inject queries and keys of the attention to the text; the
            paper has none.
        layers_conv: Decoder layers of the convolution feature, l_1 in the paper.
        layers_spatial: Decoder layers of spatial attention, l_2 in the paper.
        layers_temporal: Decoder layers of temporal attention, l_3 in the paper.
        layers_cross: Decoder layers of the attention to the text.
        window: Frames that are edited at once; the backbone's own number if left out. A longer clip is edited
            in windows of so many.
        overlap: Frames that a window shares with the one before it, fewer than ``window``; a quarter of its
            frames if left out.
        skip: Steps left out at the noisy end: sampling starts at T' < T (section 4.2).
        noise_share: Share, 0 to 1, of random noise mixed into the start latents.
        frame_init: Give the start the layout of the edited first frame, where a backbone can: ConsistI2V. It
            names the filter that tells low frequencies from high ones.
        seed: Seeds everything random.
        size: Width and height that the backbone works at; its own if left out.
        restore: Put the result back at the source's size and aspect.
        fit: How frames of another size are laid into the backbone's.
        thresholds: ``floor`` truncates the float product of tau and steps, as the reference does, so that
            50 x 0.58 gives 28; ``round`` gives the 29 that was meant.
        vae: ``sample`` draws from the VAE's posterior, a fresh draw for each use of a frame, as the reference
            does; ``mode`` takes its mean, which adds no noise.
        source_branch: ``always`` denoises the source in one batch with the edit at every step, as the
            reference does; ``injecting`` denoises it alone, only at steps that inject something; ``recorded``
            never does, and keeps the features that the net had while it inverted: exact as far as the
            inversion is.
        source_frame: What the source is told to be its first frame while the edit is denoised: ``source``, or
            ``edited``, as the reference's ConsistI2V has it by mistake.
        sampler: ``ddim`` is deterministic; ``ddpm`` adds fresh noise at every step, as the reference's SEINE.
        deep_every: Once nothing but temporal attention is injected, and at as clean levels of the inversion,
            all layers of the net but its last are computed at one step in so many, 1 to 1000, and in between
            go on as they last did: see ``anyv2v.deep``. So they do at levels that sampling does not visit.
        start_level: The noise level of the source that sampling starts from; that of its first step if left
            out. The reference's SEINE starts from the noisiest one that it kept, 997.
        frame_rate: ``keep`` takes the first frames as they come and calls them the backbone's frame rate, as
            the reference does; ``resample`` picks frames by their time.

    Raises:
        OptionError: A value is out of its range.
    """

    steps: int = 50
    inversion_steps: int = 50
    inversion: Literal["ddim", "uni", "fixed-point", "midpoint"] = "uni"
    inversion_iterations: int = 2
    guidance: float = 9.0
    image_guidance: float = 1.0
    guidance_rescale: float = 0.0
    guidance_until: float = 1.0
    negative_prompt: str = NEGATIVE_PROMPT
    inversion_prompt: str = ""
    tau_conv: float = 0.2
    tau_spatial: float = 0.2
    tau_temporal: float = 0.5
    tau_cross: float = 0.0
    layers_conv: tuple[int, ...] = (4,)
    layers_spatial: tuple[int, ...] = (4, 5, 6, 7, 8, 9, 10, 11)
    layers_temporal: tuple[int, ...] = (4, 5, 6, 7, 8, 9, 10, 11)
    layers_cross: tuple[int, ...] = (4, 5, 6, 7, 8, 9, 10, 11)
    window: int | None = None
    overlap: int | None = None
    skip: int = 1
    noise_share: float = 0.0
    frame_init: Literal["none", "gaussian", "butterworth", "ideal", "box"] = "none"
    seed: int = 8888
    size: Size | None = None
    restore: bool = False
    fit: Literal["crop", "letterbox", "stretch"] = "crop"
    thresholds: Literal["round", "floor"] = "round"
    vae: Literal["mode", "sample"] = "mode"
    source_branch: Literal["injecting", "always", "recorded"] = "injecting"
    source_frame: Literal["source", "edited"] = "source"
    sampler: Literal["ddim", "ddpm"] = "ddim"
    deep_every: int = 1
    start_level: int | None = None
    frame_rate: Literal["resample", "keep"] = "resample"

    def __post_init__(self) -> None:
        within(self, 0, 1, "tau_conv", "tau_spatial", "tau_temporal", "tau_cross")
        within(self, 0, 1, "noise_share", "guidance_rescale", "guidance_until")
        within(self, 1, 1000, "guidance", "image_guidance", "steps", "inversion_steps", "deep_every")
        within(self, 1, 100, "inversion_iterations")
        within(self, 0, self.steps - 1, "skip")
        within(self, 2, 1000, "window")
        within(self, 1, (self.window or 1000) - 1, "overlap")
        within(self, 0, 999, "start_level")
        within(self, 0, 2**63 - 1, "seed")
        if self.inversion == "midpoint" and (self.source_branch == "recorded" or self.deep_every > 1):
            what = "recorded" if self.source_branch == "recorded" else "kept of deep layers"
            raise OptionError(f"inversion midpoint asks the net between the levels; nothing is {what} there")
        if self.source_branch == "recorded" and self.source_frame == "edited":
            raise OptionError("source branch recorded knows no edited frame; take source frame source")

    @property
    def guided_steps(self) -> int:
        """Steps that are guided, counted from the noisiest of the full schedule."""
        return self.count(self.guidance_until)

    def count(self, share: float) -> int:
        """A share of the steps as a number of them: see ``thresholds``."""
        return (round if self.thresholds == "round" else int)(self.steps * share)


def within(settings: Any, low: float, high: float, *names: str) -> None:
    """Raises OptionError for settings that do not lie in a range; those left out do."""
    for name in names:
        value = getattr(settings, name)
        if value is not None and not low <= value <= high:  # not a number is outside of everything
            raise OptionError(f"{name.replace('_', ' ')} is {value:g}; it must be {low:g} to {high:g}")


RECIPES: Mapping[str, Options] = MappingProxyType(
    {
        "default": Options(),
        "paper": Options(
            inversion_steps=500,
            inversion="ddim",
            fit="stretch",
            thresholds="floor",
            vae="sample",
            source_branch="always",
            frame_rate="keep",
        ),
        "fast": Options(source_branch="recorded", deep_every=5),
    }
)
"""I2VGen-XL's: ``default`` does what is right; ``paper`` keeps every quirk of the reference that changes its
numbers; ``fast`` does a tenth of its work, and a sixteenth for a second edit of a clip."""
