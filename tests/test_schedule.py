from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from anyv2v import DDIM
from anyv2v.errors import CheckpointError, OptionError

COSINE = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "squaredcos_cap_v2",
    "rescale_betas_zero_snr": True,
    "prediction_type": "v_prediction",
    "steps_offset": 1,
}
SCHEDULES = {
    "cosine": COSINE,
    "linear": COSINE | {"beta_schedule": "linear", "rescale_betas_zero_snr": False},
    "scaled": COSINE
    | {"beta_schedule": "scaled_linear", "rescale_betas_zero_snr": False, "set_alpha_to_one": False},
}
anything = pytest.mark.parametrize("config", SCHEDULES.values(), ids=SCHEDULES)


@anything
def test_signal_falls_from_one(config: dict) -> None:
    alphas = DDIM.from_config(config).alphas_cumprod
    assert alphas[0] > 0.99
    assert (alphas.diff() < 0).all()
    assert alphas[-1] == 0 if config is COSINE else alphas[-1] > 0


@given(steps=st.integers(1, 999))
def test_a_grid_falls_evenly_to_the_lowest_level_and_then_to_clean(steps: int) -> None:
    grid = DDIM.from_config(COSINE).grid(steps)
    assert len(grid) == steps + 1
    assert grid[0] < 1000
    assert grid[-2] == 1
    assert grid[-1] < 0
    assert {t - s for t, s in pairwise(grid[:-1])} <= {1000 // steps}


@pytest.mark.parametrize("steps", [0, -1, 1000])
def test_a_grid_that_does_not_fit_is_an_error(steps: int) -> None:
    with pytest.raises(OptionError, match="takes 1 to 999"):
        DDIM.from_config(COSINE).grid(steps)


@pytest.mark.parametrize("set_alpha_to_one", [True, False])
@pytest.mark.parametrize("kind", ["v_prediction", "epsilon", "sample"])
@given(t=st.integers(0, 990), s=st.integers(-20, 990))
def test_a_step_with_the_true_noise_lands_on_the_true_latents(
    kind: str, set_alpha_to_one: bool, t: int, s: int
) -> None:
    """z_t = sqrt(a) x + sqrt(1-a) e with the same x and e at both ends, from first principles."""
    schedule = DDIM.from_config(COSINE | {"prediction_type": kind, "set_alpha_to_one": set_alpha_to_one})
    schedule = replace(schedule, alphas_cumprod=schedule.alphas_cumprod.double())
    data, noise = torch.randn(2, 3, 4, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    clean = torch.ones(()).double() if set_alpha_to_one else schedule.alphas_cumprod[0]

    def mix(level: int, signal: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        alpha = schedule.alphas_cumprod[level] if level >= 0 else clean
        return alpha.sqrt() * signal + (1 - alpha).sqrt() * noise

    out = {"v_prediction": mix(t, noise, -data), "epsilon": noise, "sample": data}[kind]
    landed = schedule.step(out, mix(t, data, noise), t, s)
    torch.testing.assert_close(landed, mix(s, data, noise), atol=1e-6, rtol=0)


@anything
def test_below_the_lowest_level_is_data_or_the_first_level(config: dict) -> None:
    schedule = DDIM.from_config(config)
    first = schedule.alphas_cumprod[0]
    assert first < 1
    assert schedule.alpha(-1) == (1 if config.get("set_alpha_to_one", True) else first)


@pytest.mark.parametrize("change", [{"beta_schedule": "sigmoid"}, {"timestep_spacing": "trailing"}])
def test_what_is_not_implemented_is_said(change: dict) -> None:
    with pytest.raises(CheckpointError, match="not supported"):
        DDIM.from_config(COSINE | change)
