"""When the deep blocks are computed, and that an edit is the same if that is always."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from anyv2v import InjectionPlan, Options, Tap
from anyv2v.backbones.protocol import Backbone
from anyv2v.deep import mode_at
from anyv2v.edit import invert, propagate

TAPS = (Tap("up_blocks.1.resnets.1.conv2", "conv", 4),)
TEN = Options(steps=10, inversion_steps=10, tau_conv=0.3, skip=1, deep_every=3, layers_conv=(4,))


@pytest.mark.parametrize(
    ("changes", "modes"),
    [
        ({}, "ccc" + "krrkrrk"),
        ({"deep_every": 1}, "c" * 10),
        ({"deep_every": 100}, "ccc" + "krrrrrr"),
        ({"tau_conv": 1.0}, "c" * 10),
        ({"tau_conv": 0.0}, "c" + "krrkrrkrr"),  # the first is skipped
        ({"guidance_until": 0.5}, "ccc" + "krkkrrk"),  # fewer rows from the fifth on
    ],
)
def test_when_they_are_computed(changes: dict, modes: str) -> None:
    options = replace(TEN, **changes)
    plan = InjectionPlan.of(TAPS, replace(options, tau_spatial=0, tau_temporal=0))
    assert "".join(mode_at(step, plan, options)[0] for step in range(10)) == modes


def edited(backbone: Backbone, **changes: object) -> torch.Tensor:
    options = replace(TEN, guidance=2.0, **changes)
    frames = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8, generator=frames).numpy()
    spec = replace(backbone.spec, frames=3)
    source, edit = (backbone.condition(pixels[k], "", spec, o) for k, o in ((0, None), (1, options)))
    trajectory = invert(backbone, backbone.encode(pixels), source, options)
    return propagate(backbone, trajectory, source, edit, options)


def test_an_edit_comes_near_with_a_third_of_the_deep_blocks(i2vgen_xl: Backbone) -> None:
    asked: list[None] = []
    hook = i2vgen_xl.net.mid_block.resnets[0].register_forward_pre_hook(lambda *_: asked.append(None))
    whole, often = edited(i2vgen_xl, deep_every=1), len(asked)
    part = edited(i2vgen_xl)
    hook.remove()
    assert often - (len(asked) - often) == 3  # steps of temporal attention, to the fifth, are not spared
    assert 0 < (part - whole).norm() / whole.norm() < 0.1
    assert all(block.kept is None for block in i2vgen_xl.deep._blocks)
