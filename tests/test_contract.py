"""What every registered diffusion backbone must hold, on a tiny checkpoint of its own layout."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from anyv2v import Condition, Options, Size, Video, VideoSpec, diffuse, edit, load_backbone, recipe
from anyv2v.backbones import list_backbones
from anyv2v.backbones.protocol import Backbone
from anyv2v.errors import OptionError
from anyv2v.fitting import Cost, cost
from golden_data import Golden

# Of the backbones of this package; another package's are its own to test.
OURS = [entry for entry in list_backbones().values() if entry.target.startswith("anyv2v.")]
DIFFUSION = [entry.name for entry in OURS if entry.pipelines]


def checkpoint(name: str) -> str:
    """A tiny checkpoint with random weights."""
    return Golden({"mini": "i2vgen-xl"}.get(name, name)).checkpoint


@pytest.fixture(scope="module", params=DIFFUSION)
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return load_backbone(request.param, checkpoint(request.param), device="cpu")


@pytest.fixture
def spec(backbone: Backbone) -> VideoSpec:
    """Large enough that no group of channels is normalised over a pixel or two, where rounding would show."""
    side = 16 * backbone.spec.multiple
    return replace(backbone.spec, size=Size(side, side - 4 * backbone.spec.multiple), frames=3)


@pytest.fixture
def frames(spec: VideoSpec) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (spec.frames, spec.size.height, spec.size.width, 3), dtype=np.uint8)


@pytest.fixture
def small(backbone: Backbone) -> Video:
    """A clip that is only to be counted at."""
    side = 4 * backbone.spec.multiple
    return Video(np.zeros((2, side, side, 3), np.uint8), backbone.spec.fps)


@pytest.fixture
def conditions(backbone: Backbone, spec: VideoSpec, frames: np.ndarray) -> Condition:
    """Three different rows."""
    edit = backbone.condition(frames[1], "a blue cat", spec, Options(guidance=2, negative_prompt="ugly"))
    return backbone.condition(frames[0], "", spec) + edit


def test_frames_come_back_in_their_shape(backbone: Backbone, frames: np.ndarray) -> None:
    latents = backbone.encode(frames)
    assert latents.shape[0] == 1
    assert latents.shape[2] == len(frames)
    assert latents.dtype == torch.float32
    decoded = backbone.decode(latents)
    assert decoded.shape == frames.shape
    assert decoded.dtype == np.uint8


def test_a_generator_decides_the_sample(backbone: Backbone, frames: np.ndarray) -> None:
    first, again, other = (backbone.encode(frames, backbone.generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(backbone.encode(frames), backbone.encode(frames))


def test_rows_of_a_batch_do_not_touch_each_other(
    backbone: Backbone, frames: np.ndarray, conditions: Condition
) -> None:
    z = backbone.noise(backbone.encode(frames).repeat(3, 1, 1, 1, 1), backbone.generator(0))
    together = backbone.denoise(z, 501, conditions)
    alone = [backbone.denoise(z[k : k + 1], 501, conditions[k : k + 1]) for k in range(3)]
    assert together.shape == z.shape
    torch.testing.assert_close(together, torch.cat(alone), atol=2e-5, rtol=0)


def test_every_tap_fires_and_holds_its_batch_first(
    backbone: Backbone, frames: np.ndarray, conditions: Condition
) -> None:
    z, bank = backbone.encode(frames), backbone.bank
    assert {tap.kind for tap in bank.taps} == {"conv", "spatial", "temporal", "cross"}
    with bank.recording(bank.taps):
        backbone.denoise(z, 501, conditions[:1])
    assert set(bank.features()) == {path for tap in bank.taps for path in bank.modules(tap)}
    with bank.injecting(bank.taps):
        injected = backbone.denoise(z.repeat(2, 1, 1, 1, 1), 501, conditions[1:])
    with bank.pairing(bank.taps, groups=3):
        paired = backbone.denoise(z.repeat(3, 1, 1, 1, 1), 501, conditions)
    torch.testing.assert_close(injected, paired[1:], atol=2e-5, rtol=0)


def test_a_prompt_that_is_too_long(backbone: Backbone) -> None:
    assert backbone.unread("a blue cat") == 0
    few, more, most = (backbone.unread("a blue cat " * count) for count in (40, 41, 42))
    assert most - more == more - few > 0


def test_guidance_of_one_is_the_prompt(backbone: Backbone) -> None:
    out = torch.randn(2, 4, 3, 2, 2)
    torch.testing.assert_close(backbone.guide(out, Options(guidance=1)), out[1:])
    assert torch.equal(backbone.guide(out[:1], Options()), out[:1])


@pytest.mark.parametrize("source_branch", ["injecting", "always"])
@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
@pytest.mark.parametrize(("guidance", "image_guidance"), [(1.0, 1.0), (9.0, 1.0), (9.0, 3.0)])
def test_the_cost_is_what_was_foretold(
    backbone: Backbone,
    small: Video,
    guidance: float,
    image_guidance: float,
    sampler: str,
    source_branch: str,
) -> None:
    options = Options(
        steps=5,
        inversion_steps=5,
        guidance=guidance,
        image_guidance=image_guidance,
        sampler=sampler,
        size=small.size,
        source_branch=source_branch,
    )
    if image_guidance > 1 and "image_guidance" in backbone.ignores:
        with pytest.raises(OptionError, match="has no image guidance"):
            diffuse(backbone, small, small.frames[1], "a blue cat", options)
        return
    assert_cost_is_foretold(backbone, small, options)


def assert_cost_is_foretold(backbone: Backbone, video: Video, options: Options) -> None:
    rows: list[int] = []
    whole: list[int] = []
    hooks = [
        backbone.net.register_forward_pre_hook(lambda _, args: rows.append(len(args[0]))),
        backbone.net.mid_block.resnets[0].register_forward_pre_hook(lambda *_: whole.append(rows[-1])),
    ]
    result = diffuse(backbone, video, video.frames[1], "a blue cat", options)
    for hook in hooks:
        hook.remove()
    assert cost(backbone, options) == Cost(len(rows), sum(rows), sum(whole))
    assert result.frames.shape == video.frames.shape


@pytest.mark.parametrize(
    ("inversion", "source_branch"),
    [("ddim", "recorded"), ("uni", "recorded"), ("fixed-point", "recorded"), ("midpoint", "injecting")],
)
def test_the_cost_of_every_inversion_is_what_was_foretold(
    backbone: Backbone, small: Video, inversion: str, source_branch: str
) -> None:
    options = Options(
        steps=5,
        inversion_steps=10,
        guidance=9,
        size=small.size,
        inversion=inversion,
        source_branch=source_branch,
        deep_every=1 if inversion == "midpoint" else 2,
    )
    assert_cost_is_foretold(backbone, small, options)


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_a_longer_clip_goes_in_windows(
    backbone: Backbone, frames: np.ndarray, spec: VideoSpec, sampler: str
) -> None:
    """Three windows of two frames for three times the cost; what they share is the same in both."""
    options = Options(
        steps=3, inversion_steps=3, guidance=2, size=spec.size, window=2, overlap=1, sampler=sampler
    )
    video = Video(np.concatenate([frames, frames[:1]]), spec.fps)
    ends: list[torch.Tensor] = []
    rows: list[int] = []
    hook = backbone.net.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    result = edit(
        video,
        frames[1],
        "a blue cat",
        backbone=backbone,
        options=options,
        on_step=lambda step: (
            ends.append(step.latents) if step.stage == "propagate" and step.level < 0 else None
        ),
    )
    hook.remove()
    assert result.frames.shape == video.frames.shape
    assert sum(rows) == 3 * cost(backbone, options).rows
    for before, after in pairwise(ends):
        torch.testing.assert_close(after[:, :, :1], before[:, :, 1:], rtol=0, atol=0)


@pytest.mark.parametrize("source_branch", ["always", "recorded"])
@pytest.mark.parametrize("until", [0.0, 0.4])
def test_the_cost_of_less_guidance_is_what_was_foretold(
    backbone: Backbone, small: Video, until: float, source_branch: str
) -> None:
    own = recipe(backbone=backbone.name)
    options = replace(
        own,
        steps=8,
        inversion_steps=8,
        guidance=9,
        guidance_until=until,
        deep_every=2,
        size=small.size,
        source_branch=source_branch,
    )
    assert_cost_is_foretold(backbone, small, options)
    guided = cost(backbone, replace(options, guidance_until=1)).rows
    assert guided - cost(backbone, options).rows == min(8 - options.skip, 8 - round(8 * until))


def test_deep_layers_answer_as_they_last_did(
    backbone: Backbone, frames: np.ndarray, conditions: Condition
) -> None:
    blocks = backbone.net.down_blocks[1], backbone.net.mid_block, backbone.net.up_blocks[2]
    asked: list[None] = []
    hooks = [block.resnets[0].register_forward_pre_hook(lambda *_: asked.append(None)) for block in blocks]
    z = backbone.encode(frames).repeat(3, 1, 1, 1, 1)
    with backbone.deep.mode("keep", 501):
        first = backbone.denoise(z, 501, conditions)
    assert len(asked) == 3
    with backbone.deep.mode("reuse", 501):
        again = backbone.denoise(z, 501, conditions)
    with backbone.deep.mode("reuse", 1):
        later = backbone.denoise(z, 1, conditions)
    assert len(asked) == 3
    whole = backbone.denoise(z, 1, conditions)
    assert len(asked) == 6
    for hook in hooks:
        hook.remove()
    backbone.deep.clear()
    assert torch.equal(first, again)
    assert not torch.allclose(later, first)
    assert not torch.allclose(later, whole)


def test_a_fast_edit_asks_the_net_150_times_and_a_second_one_100_times(backbone: Backbone) -> None:
    """Guidance included, where the reference asks 500 + 3 x 49 times."""
    options = recipe("fast", backbone=backbone.name)
    assert cost(backbone, options).rows <= 150
    assert cost(backbone, options, inverted=True).rows <= 100


def test_half_precision_stays_near(backbone: Backbone, frames: np.ndarray, conditions: Condition) -> None:
    half = load_backbone(backbone.name, checkpoint(backbone.name), device="cpu", dtype="bfloat16")
    z = backbone.encode(frames)
    exact, near = (b.denoise(z, 501, conditions[:1]) for b in (backbone, half))
    assert near.dtype == torch.float32
    assert (near - exact).abs().mean() < 0.05 * exact.abs().mean()


def test_with_little_memory_only_the_part_that_works_is_on_the_device(
    backbone: Backbone, frames: np.ndarray, spec: VideoSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device is a name here; what moves where is written down, and every layer that runs is looked up."""
    options = Options(steps=3, inversion_steps=3, skip=0, guidance=2, size=spec.size)
    video = Video(frames, spec.fps)
    plain = diffuse(backbone, video, frames[1], "a blue cat", options)
    guest = load_backbone(backbone.name, checkpoint(backbone.name), device="cpu")
    here: set[torch.nn.Module] = set()
    worked: set[torch.nn.Module] = set()

    def move(part: torch.nn.Module, where: object) -> torch.nn.Module:
        (here.discard if where == "cpu" else here.add)(part)
        return part

    def look(part: torch.nn.Module) -> None:
        assert here == {part}
        worked.add(part)

    for part in guest.parts:
        monkeypatch.setattr(part, "to", lambda where, part=part: move(part, where))
        for module in part.modules():
            module.register_forward_pre_hook(lambda *_, part=part: look(part))
    guest.visit(torch.device("cpu"))
    low = diffuse(guest, video, frames[1], "a blue cat", options)
    np.testing.assert_array_equal(low.frames, plain.frames)
    assert worked == set(guest.parts)
