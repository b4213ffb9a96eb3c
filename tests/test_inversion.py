"""Inversion schemes on nets whose answers are known, and features recorded on the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from anyv2v import DDIM, Options, Size, Trajectory, VideoSpec, invert, propagate
from anyv2v.backbones.protocol import Backbone, Condition
from anyv2v.errors import OptionError
from anyv2v.fitting import recorded_taps
from anyv2v.inversion import calls, undo, walk
from conftest import scene
from test_schedule import COSINE

SCHEMES = {
    "ddim": Options(inversion="ddim"),
    "uni": Options(inversion="uni"),
    "fixed-point": Options(inversion="fixed-point", inversion_iterations=3),
    "midpoint": Options(inversion="midpoint"),
}
every_scheme = pytest.mark.parametrize("options", SCHEMES.values(), ids=SCHEMES)
every_kind = pytest.mark.parametrize("kind", ["v_prediction", "epsilon"])


def schedule_of(kind: str) -> DDIM:
    schedule = DDIM.from_config(COSINE | {"prediction_type": kind, "rescale_betas_zero_snr": False})
    return replace(schedule, alphas_cumprod=schedule.alphas_cumprod.double())


def gaussian(schedule: DDIM, spread: float = 0.5) -> Callable[[Tensor, int], Tensor]:
    """The best prediction for data that are normal with deviation ``spread``, from first principles."""

    def ask(z: Tensor, t: int) -> Tensor:
        alpha = schedule.alpha(t)
        data = alpha.sqrt() * spread**2 / (alpha * spread**2 + 1 - alpha) * z
        noise = (z - alpha.sqrt() * data) / (1 - alpha).sqrt()
        return noise if schedule.prediction == "epsilon" else alpha.sqrt() * noise - (1 - alpha).sqrt() * data

    return ask


def sample(ask: Callable[[Tensor, int], Tensor], schedule: DDIM, z: Tensor, steps: int) -> Tensor:
    for t, s in pairwise(schedule.grid(steps)):
        z = schedule.step(ask(z, t), z, t, s)
    return z


def retraced(schedule: DDIM, options: Options, steps: int) -> float:
    """The relative error of data that are inverted, then sampled."""
    z0, ask = 0.5 * torch.randn(64, dtype=torch.double, generator=torch.manual_seed(0)), gaussian(schedule)
    *_, (_, z) = walk(ask, schedule, z0, replace(options, inversion_steps=steps))
    return float((sample(ask, schedule, z, steps) - z0).norm() / z0.norm())


@every_kind
@pytest.mark.parametrize("levels", [(981, 961), (401, 381), (1, -19)])
def test_undo_is_what_a_step_undoes(kind: str, levels: tuple[int, int]) -> None:
    schedule, (t, s) = schedule_of(kind), levels
    out, z = torch.randn(2, 9, dtype=torch.double, generator=torch.manual_seed(0))
    torch.testing.assert_close(undo(schedule, out, schedule.step(out, z, t, s), t, s), z)


@every_kind
def test_sampling_with_the_same_predictions_returns(kind: str) -> None:
    """Uni-Inv's promise: the step it takes is the sampler's, whatever the net says."""
    schedule, said = schedule_of(kind), dict[int, Tensor]()

    def ask(z: Tensor, t: int) -> Tensor:
        said[t] = torch.sin(7 * z + t)
        return said[t]

    z0 = torch.randn(9, dtype=torch.double, generator=torch.manual_seed(0))
    *_, (_, z) = walk(ask, schedule, z0, Options(inversion="uni", inversion_steps=20))
    torch.testing.assert_close(sample(lambda _, t: said[t], schedule, z, 20), z0)


@every_scheme
@every_kind
def test_more_steps_retrace_better(kind: str, options: Options) -> None:
    schedule = schedule_of(kind)
    coarse, fine = (retraced(schedule, options, steps) for steps in (20, 160))
    assert fine < 0.2 * coarse < 0.2


@every_kind
def test_uni_retraces_far_better_than_ddim(kind: str) -> None:
    schedule = schedule_of(kind)
    ddim, uni = (retraced(schedule, SCHEMES[name], 50) for name in ("ddim", "uni"))
    assert uni < 0.1 * ddim


@every_kind
def test_fixed_points_converge(kind: str) -> None:
    schedule = schedule_of(kind)
    errors = [
        retraced(schedule, replace(SCHEMES["fixed-point"], inversion_iterations=k), 50) for k in (1, 2, 20)
    ]
    assert errors[1] < 0.2 * errors[0]
    assert errors[2] < 1e-7


@every_kind
def test_the_midpoint_follows_the_continuous_path(kind: str) -> None:
    """Normal data keep their direction, and end with the spread of the noisy mixture."""
    schedule = schedule_of(kind)
    z0 = 0.5 * torch.ones(1, dtype=torch.double)
    ends = {}
    for name, options in SCHEMES.items():
        *_, (t, z) = walk(gaussian(schedule), schedule, z0, replace(options, inversion_steps=25))
        alpha = schedule.alpha(t)
        ends[name] = abs(float(z - (alpha * 0.25 + 1 - alpha).sqrt()))
    assert ends["midpoint"] < 0.2 * min(ends["ddim"], ends["uni"])


@every_scheme
def test_the_calls_of_the_net_are_those_foretold(options: Options) -> None:
    asked: list[int] = []

    def ask(z: Tensor, t: int) -> Tensor:
        asked.append(t)
        return z

    options = replace(options, inversion_steps=7)
    levels = [t for t, _ in walk(ask, schedule_of("epsilon"), torch.ones(1), options)]
    assert levels == list(schedule_of("epsilon").grid(7)[-2::-1])
    assert len(asked) == calls(options)
    assert min(asked) == 1  # clean latents have no level that a net knows


QUICK = Options(steps=4, inversion_steps=4, skip=1, guidance=2, inversion="uni", size=Size(64, 64))


@pytest.fixture(scope="module")
def clip(i2vgen_xl: Backbone) -> tuple[Tensor, Condition, Condition]:
    """Latents of a source, its condition, and that of an edit."""
    frames = scene(3)[:, :64, :64]
    spec = VideoSpec(Size(64, 64), 3, Fraction(8), 8)
    edit = i2vgen_xl.condition(255 - frames[0], "a cat", spec, QUICK)
    return i2vgen_xl.encode(frames), i2vgen_xl.condition(frames[0], "", spec), edit


Clip = tuple[Tensor, Condition, Condition]


def test_features_are_recorded_where_sampling_injects(i2vgen_xl: Backbone, clip: Clip) -> None:
    options = replace(QUICK, source_branch="recorded", tau_temporal=0.75)
    source = invert(i2vgen_xl, *clip[:2], options)
    wanted = recorded_taps(i2vgen_xl, options)
    grid = i2vgen_xl.schedule.grid(4)
    assert set(source.features) == set(wanted) == {grid[1], grid[2]}
    for level, taps in wanted.items():
        assert {tap.kind for tap in taps} == {"temporal"}
        assert set(source.features[level]) == {path for tap in taps for path in i2vgen_xl.bank.modules(tap)}
    assert i2vgen_xl.bank.features() == {}
    plain = invert(i2vgen_xl, *clip[:2], QUICK)
    assert not plain.features
    assert torch.equal(plain.at(grid[0]), source.at(grid[0]))


def test_an_edit_with_recorded_features_is_near_that_with_the_source_branch(
    i2vgen_xl: Backbone, clip: Clip
) -> None:
    z0, told, edit = clip
    options = replace(QUICK, steps=20, inversion_steps=20, source_branch="recorded")
    uni, ddim = (invert(i2vgen_xl, z0, told, replace(options, inversion=name)) for name in ("uni", "ddim"))

    def far(source: Trajectory) -> float:
        exact = propagate(i2vgen_xl, source, told, edit, replace(options, source_branch="injecting"))
        ours = propagate(i2vgen_xl, source, told, edit, options)
        return float((ours - exact).norm() / exact.norm())

    assert 0 < far(uni) < 0.2 * far(ddim)


def test_a_second_edit_finds_the_features_as_they_were(i2vgen_xl: Backbone, clip: Clip) -> None:
    z0, told, edit = clip
    options = replace(QUICK, source_branch="recorded")
    source = invert(i2vgen_xl, z0, told, options)
    first, second = (propagate(i2vgen_xl, source, told, edit, options) for _ in range(2))
    torch.testing.assert_close(first, second, atol=1e-5, rtol=0)


def test_an_inversion_without_features_is_an_error(i2vgen_xl: Backbone, clip: Clip) -> None:
    z0, told, edit = clip
    source = invert(i2vgen_xl, z0, told, QUICK)
    with pytest.raises(OptionError, match="recorded no features at noise level 501"):
        propagate(i2vgen_xl, source, told, edit, replace(QUICK, source_branch="recorded"))


@pytest.mark.parametrize(
    ("change", "message"),
    [({"inversion": "midpoint"}, "between the levels"), ({"source_frame": "edited"}, "no edited frame")],
)
def test_what_cannot_be_recorded_is_said(change: dict, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        replace(QUICK, source_branch="recorded", **change)
