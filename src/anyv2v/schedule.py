"""Noise schedules: which noise levels are visited, and the step from one level to another.

Inversion and sampling are the same walk in opposite directions, so one immutable schedule serves both. A
level is a training timestep; any negative level is clean data. Not covered: schedules that learn their
variance, and thresholding of the predicted sample.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, get_args

import torch
from torch import Tensor

from anyv2v.errors import CheckpointError, OptionError
from anyv2v.options import Options

__all__ = ["DDIM", "DDPM", "Schedule", "sampler_of"]

CLEAN = -1  # as is every level below

Prediction = Literal["epsilon", "v_prediction", "sample"]


class Schedule(Protocol):
    """A walk between noise and data.

    Attributes:
        offset: The lowest level of every grid.
        stochastic: Whether a step takes noise.
    """

    @property
    def offset(self) -> int: ...

    @property
    def stochastic(self) -> bool: ...

    def grid(self, steps: int) -> tuple[int, ...]:
        """The ``steps + 1`` levels of a walk, noisiest first, the last one clean."""
        ...

    def step(self, out: Tensor, z: Tensor, t: int, s: int, noise: Tensor | None = None) -> Tensor:
        """``z_t -> z_s``, given the net's output ``out`` for ``z_t``; either way, unless it is stochastic."""
        ...

    def inverse_at(self, t: int, s: int) -> int:
        """The level at which inversion asks the net when it goes from ``t`` to the noisier ``s``."""
        ...


@dataclass(frozen=True)
class DDIM:
    """The deterministic walk of DDIM (Song et al., arXiv 2010.02502, equation 12 with eta = 0).

    Args:
        alphas_cumprod: The signal's share of the variance at each training timestep, shape ``[T]``, float32.
        prediction: What the net predicts: noise, velocity (Salimans & Ho, arXiv 2202.00512) or data.
        offset: The lowest timestep of every grid.
        clean_alpha: The signal's share below the lowest timestep: 1, or ``alphas_cumprod[0]``.
    """

    alphas_cumprod: Tensor
    prediction: Prediction = "v_prediction"
    offset: int = 1
    clean_alpha: float = 1.0
    stochastic: ClassVar[bool] = False

    @classmethod
    def from_config(cls, config: Mapping[str, Any], predicts: Prediction | None = None) -> DDIM:
        """Build it from a checkpoint's ``scheduler_config.json``.

        Args:
            config: Its content.
            predicts: What the net must predict, where its backbone counts on it.

        Raises:
            CheckpointError: The configuration asks for something that is not implemented here.
        """
        if predicts and config.get("prediction_type", "epsilon") != predicts:
            raise CheckpointError(f"a schedule for a net that predicts {predicts} is needed here")
        for name, only in _ONLY.items():
            if config.get(name, only[0]) not in only:
                raise CheckpointError(f"a schedule with {name} {config[name]!r} is not supported")
        betas = _betas(config)
        if config.get("rescale_betas_zero_snr", False):
            betas = _rescale_to_zero_snr(betas)
        alphas_cumprod = torch.cumprod(1.0 - betas, dim=0)
        return cls(
            alphas_cumprod=alphas_cumprod,
            prediction=config.get("prediction_type", "epsilon"),
            offset=config.get("steps_offset", 0),
            clean_alpha=1.0 if config.get("set_alpha_to_one", True) else float(alphas_cumprod[0]),
        )

    def grid(self, steps: int) -> tuple[int, ...]:
        """``steps + 1`` evenly spaced levels, noisiest first ("leading" spacing); the last is clean.

        Raises:
            OptionError: ``steps`` is not positive, or more than the schedule has timesteps for.
        """
        training_steps = len(self.alphas_cumprod)
        most = training_steps - self.offset
        if not 1 <= steps <= most:
            raise OptionError(f"{steps} steps asked for; this schedule takes 1 to {most}")
        stride = training_steps // steps
        levels = (self.offset + k * stride for k in range(steps - 1, -1, -1))
        return *levels, min(self.offset - stride, CLEAN)

    def alpha(self, t: int) -> Tensor:
        """The signal's share of the variance at level ``t``, a float32 scalar on the CPU."""
        return torch.tensor(self.clean_alpha) if t < 0 else self.alphas_cumprod[t]

    def step(self, out: Tensor, z: Tensor, t: int, s: int, noise: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """Carry ``z`` from level ``t`` to level ``s``, noisier or cleaner.

        Args:
            out: The net's prediction, the shape of ``z``.
            z: Latents at level ``t``, any shape.
            t: The level of ``z``.
            s: The level to reach.
            noise: Unused: this walk is deterministic.
        """
        data, epsilon = self.split(out, z, t)
        alpha = self.alpha(s)
        return alpha.sqrt() * data + (1 - alpha).sqrt() * epsilon

    def split(self, out: Tensor, z: Tensor, t: int) -> tuple[Tensor, Tensor]:
        """The data and the noise that the net sees in ``z`` at level ``t``."""
        alpha = self.alpha(t)
        signal, sigma = alpha.sqrt(), (1 - alpha).sqrt()
        match self.prediction:
            case "v_prediction":
                return signal * z - sigma * out, signal * out + sigma * z
            case "epsilon":
                return (z - sigma * out) / signal, out
            case "sample":
                return out, (z - signal * out) / sigma

    def inverse_at(self, t: int, s: int) -> int:
        """The noisier end of the interval, as the reference implementation asks."""
        return max(t, s)


class DDPM(DDIM):
    """The walk of DDPM with the smaller variance (Ho et al., arXiv 2006.11239, equations 6 and 7)."""

    stochastic = True

    def step(self, out: Tensor, z: Tensor, t: int, s: int, noise: Tensor | None = None) -> Tensor:
        """Draw ``z_s`` for a cleaner level ``s``.

        Args:
            out: The net's prediction, the shape of ``z``.
            z: Latents at level ``t``, any shape.
            t: The level of ``z``.
            s: The level to reach, cleaner than ``t``.
            noise: Gaussian, the shape of ``z``; without it the mean.
        """
        data, _ = self.split(out, z, t)
        alpha, alpha_s = self.alpha(t), self.alpha(s)
        kept = alpha / alpha_s
        share = (1 - kept) / (1 - alpha)
        mean = alpha_s.sqrt() * share * data + kept.sqrt() * (1 - alpha_s) / (1 - alpha) * z
        if noise is None:
            return mean
        return mean + ((1 - alpha_s) * share).sqrt() * noise


def sampler_of(schedule: DDIM, options: Options) -> DDIM:
    """The walk that ``options`` ask for over the levels of ``schedule``.

    The grid of DDPM begins at 0, as in the reference, and its clean data are free of noise.
    """
    if options.sampler == "ddim":
        return schedule
    return DDPM(schedule.alphas_cumprod, schedule.prediction, offset=0, clean_alpha=1.0)


# What is implemented of what a configuration may ask for; the first is taken where it says nothing.
_ONLY: Mapping[str, tuple[Any, ...]] = {
    "prediction_type": get_args(Prediction),
    "timestep_spacing": ("leading",),
    "clip_sample": (False,),
    "thresholding": (False,),
    "trained_betas": (None,),
}


def _betas(config: Mapping[str, Any]) -> Tensor:
    """The variance added at each training timestep, shape ``[T]``."""
    count = config["num_train_timesteps"]
    low, high = config["beta_start"], config["beta_end"]
    match config["beta_schedule"]:
        case "linear":
            return torch.linspace(low, high, count)
        case "scaled_linear":
            return torch.linspace(low**0.5, high**0.5, count) ** 2
        case "squaredcos_cap_v2":
            return _cosine_betas(count)
        case other:
            raise CheckpointError(f"noise schedule {other!r} is not supported")


def _cosine_betas(count: int) -> Tensor:
    """The cosine schedule of Nichol & Dhariwal (arXiv 2102.09672, equation 17), capped at 0.999."""

    def signal(time: float) -> float:
        return math.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2

    ratios = (signal((i + 1) / count) / signal(i / count) for i in range(count))
    return torch.tensor([min(1 - ratio, 0.999) for ratio in ratios])


def _rescale_to_zero_snr(betas: Tensor) -> Tensor:
    """Make the last timestep pure noise (Lin et al., arXiv 2305.08891, algorithm 1)."""
    signal = torch.cumprod(1.0 - betas, dim=0).sqrt()
    first, last = signal[0].clone(), signal[-1].clone()
    signal = (signal - last) * (first / (first - last))
    alphas_cumprod = signal**2
    return 1 - torch.cat([alphas_cumprod[:1], alphas_cumprod[1:] / alphas_cumprod[:-1]])
