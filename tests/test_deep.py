"""When the deep layers are computed, and that an edit is the same if that is always."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from anyv2v import InjectionPlan, Options, Tap
from anyv2v.backbones.protocol import Backbone
from anyv2v.deep import DeepCache, DeepLayer, is_deep
from anyv2v.edit import invert, propagate
from anyv2v.errors import OptionError
from anyv2v.fitting import inversion_modes
from anyv2v.progress import Step

DEEP = Tap("up_blocks.1.resnets.1.conv2", "conv", 4)
LAST = Tap("up_blocks.3.temp_attentions.2.*.to_q", "temporal", 11)
TEN = Options(
    steps=10,
    inversion_steps=10,
    tau_conv=0.3,
    skip=1,
    deep_every=3,
    layers_conv=(4,),
    layers_temporal=(4, 11),
)
EARLY = Tap("up_blocks.1.temp_attentions.1.*.to_q", "temporal", 4)


def planned(**changes: object) -> InjectionPlan:
    options = replace(TEN, **{"tau_spatial": 0, "tau_temporal": 0} | changes)
    return InjectionPlan.of((DEEP, EARLY, LAST), options)


@pytest.mark.parametrize(
    ("changes", "modes"),
    [
        ({}, "kkk" + "krrkrrk"),
        ({"deep_every": 1}, "c" * 10),
        ({"deep_every": 100}, "kkk" + "krrrrrr"),
        ({"tau_conv": 1.0}, "c" * 10),
        ({"tau_conv": 0.0}, "k" + "krrkrrkrr"),  # the first is skipped
        ({"tau_temporal": 1.0}, "kkk" + "krrkrrk"),
        ({"guidance_until": 0.5}, "kkk" + "krkkrrk"),  # fewer rows from the fifth on
    ],
)
def test_when_they_are_computed(changes: dict, modes: str) -> None:
    plan = planned(**changes)
    assert "".join(plan.mode(step)[0] for step in range(10)) == modes


def test_only_what_is_computed_injects() -> None:
    plan = planned(tau_temporal=0.8)
    assert [plan.active(step) for step in range(2, 9)] == [
        (DEEP, EARLY, LAST),
        (EARLY, LAST),
        (LAST,),
        (LAST,),
        (EARLY, LAST),
        (LAST,),
        (),
    ]


def test_all_but_the_last_layer_of_the_decoder_is_deep() -> None:
    assert all(map(is_deep, ("down_blocks.0", "mid_block.attentions.0", "up_blocks.3.resnets.1.conv2")))
    assert not any(map(is_deep, ("conv_in", "down_blocks", "up_blocks.3", "up_blocks.3.attentions.2")))


def test_nothing_is_kept_between_the_levels() -> None:
    with pytest.raises(OptionError, match="nothing is kept of deep layers there"):
        replace(TEN, inversion="midpoint")


def edited(backbone: Backbone, **changes: object) -> torch.Tensor:
    options = replace(TEN, guidance=2.0, source_branch="recorded", layers_temporal=(4, 5), **changes)
    frames = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8, generator=frames).numpy()
    spec = replace(backbone.spec, frames=3)
    source, edit = (backbone.condition(pixels[k], "", spec, o) for k, o in ((0, None), (1, options)))
    trajectory = invert(backbone, backbone.encode(pixels), source, options)
    return propagate(backbone, trajectory, source, edit, options)


def test_an_edit_comes_near_with_a_third_of_the_deep_layers(i2vgen_xl: Backbone) -> None:
    asked: list[None] = []
    hook = i2vgen_xl.net.mid_block.resnets[0].register_forward_pre_hook(lambda *_: asked.append(None))
    whole, often = edited(i2vgen_xl, deep_every=1), len(asked)
    part, seldom = edited(i2vgen_xl), len(asked) - often
    hook.remove()
    # Of 10 levels inversion computes 0 to 3, 6 and 9; sampling the same, but the first.
    assert (often, seldom) == (19, 11)
    assert 0 < (part - whole).norm() / whole.norm() < 0.2
    assert not i2vgen_xl.deep.holds


def test_one_output_is_kept_whole(i2vgen_xl: Backbone) -> None:
    """The last layer of the decoder reads what the last of the deep layers put out, and nothing else."""
    z = torch.randn(1, 4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    condition = i2vgen_xl.condition(
        torch.zeros(64, 64, 3, dtype=torch.uint8).numpy(), "", replace(i2vgen_xl.spec, frames=3)
    )
    deep = i2vgen_xl.deep
    with deep.mode("keep", 501):
        i2vgen_xl.denoise(z, 501, condition)
    layers = (module.forward for module in i2vgen_xl.net.modules())
    shapes = [list(layer.shapes.values()) for layer in layers if isinstance(layer, DeepLayer)]
    held = {leaf.untyped_storage().nbytes() for leaf in tree_leaves(shapes) if leaf is not None}
    (answer,) = tree_leaves(deep._newest[None].out)
    deep.clear()
    assert held == {4}
    assert answer.numel() == 3 * i2vgen_xl.net.config.block_out_channels[0] * 8 * 8


def test_a_run_that_was_stopped_leaves_nothing_behind(i2vgen_xl: Backbone) -> None:
    def stop(step: Step) -> None:
        if step.done == 4:
            raise KeyboardInterrupt

    z = torch.randn(2, 1, 4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    spec = replace(i2vgen_xl.spec, frames=3)
    told = i2vgen_xl.condition(torch.zeros(64, 64, 3, dtype=torch.uint8).numpy(), "", spec)
    before = invert(i2vgen_xl, z[0], told, TEN)
    with pytest.raises(KeyboardInterrupt):
        invert(i2vgen_xl, z[1], told, TEN, on_step=stop)
    after = invert(i2vgen_xl, z[0], told, TEN)
    assert all(torch.equal(before.at(level), after.at(level)) for level in before.latents)


def test_a_long_inversion_computes_where_sampling_will(i2vgen_xl: Backbone) -> None:
    options = replace(TEN, inversion_steps=20)
    modes = list(inversion_modes(i2vgen_xl, options).values())
    assert modes[1::2] == ["keep"] * 4 + ["reuse"] * 2 + ["keep"] + ["reuse"] * 2 + ["keep"]
    assert modes[0::2] == ["reuse"] * 10


class Toy(nn.Module):
    """A net whose deep part answers in proportion to the noise level."""

    def __init__(self) -> None:
        super().__init__()
        self.mid_block = Times()

    def forward(self, x: torch.Tensor, t: int) -> torch.Tensor:
        return self.mid_block(x, t) + 1


class Times(nn.Module):
    def forward(self, x: torch.Tensor, t: int) -> torch.Tensor:
        return x * t


@pytest.mark.parametrize(("newest", "about", "expected"), [(6, (), 4.0), (6, ("other",), 6.0), (8, (), 7.0)])
def test_what_rests_goes_on_as_it_did(newest: int, about: tuple, expected: float) -> None:
    """But for a change of what is injected, which has no course, and no further than it came."""
    net = Toy()
    deep, x = DeepCache(net), torch.ones(2)
    for mode, t, told in (("keep", 9, ()), ("keep", newest, about), ("reuse", 4, about)):
        with deep.mode(mode, t, told):
            found = net(x, t)
    assert found.tolist() == [expected + 1] * 2
