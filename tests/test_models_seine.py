"""SEINE's net against numbers of the authors' own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from anyv2v import FeatureBank
from anyv2v.features import Tap
from anyv2v.models.seine import Config, SEINEUNet, bucket
from golden_data import Case, Golden, assert_near, named

GOLDEN = Golden("seine")
GROUPS = 8
EXACT = 1e-6
NET = 5e-6  # 1.3e-6 seen, as much as between two builds of the reference

LAYERS = ("up_blocks.1.attentions.[12]", "up_blocks.[23].attentions.*")
TAPS = (
    Tap("up_blocks.1.resnets.1.conv2", "conv", 0),
    *(Tap(f"{layer}.transformer_blocks.0.attn1.to_[qk]", "spatial", 0) for layer in LAYERS),
    *(Tap(f"{layer}.transformer_blocks.0.attn_temp.to_[qk]", "temporal", 0) for layer in LAYERS),
)


def filled(weights: dict[str, Tensor]) -> SEINEUNet:
    with torch.device("meta"):
        net = SEINEUNet(Config.of(weights, GROUPS))
    net.load_state_dict(weights, assign=True)
    return net.requires_grad_(False).eval()


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    """Stored in half precision; the golden numbers are of their exact values in float32."""
    return load_file(f"{GOLDEN.checkpoint}/seine.safetensors")


@pytest.fixture(scope="module")
def net(weights: dict[str, Tensor]) -> SEINEUNet:
    return filled(weights).float()


@pytest.fixture(scope="module")
def bank(net: SEINEUNet) -> FeatureBank:
    return FeatureBank(net, TAPS)


def inputs(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    x = torch.cat([case.tensors[name] for name in ("noisy_latents", "mask", "masked_latents")], dim=1)
    return x, case.tensors["timestep"], case.tensors["encoder_hidden_states"]


@contextmanager
def outputs(net: SEINEUNet, names: list[str]) -> Iterator[dict[str, Tensor]]:
    """What the modules of these names return."""
    seen: dict[str, Tensor] = {}
    handles = [
        net.get_submodule(name).register_forward_hook(
            lambda _net, _args, out, name=name: seen.update({name: out})
        )
        for name in names
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@named(GOLDEN.kind("unet_io"))
@torch.no_grad()
def test_net(net: SEINEUNet, case: Case) -> None:
    """Of a piece a subset may hold the first rows alone."""
    golden = {
        name.removeprefix("inter."): theirs
        for name, theirs in case.tensors.items()
        if name.startswith("inter.")
    }
    with outputs(net, list(golden)) as seen:
        assert_near(net(*inputs(case)), case.tensors["eps"], NET)
    for name, theirs in golden.items():
        ours = seen[name][0] if name.startswith("down_blocks") and name.count(".") == 1 else seen[name]
        ours = ours.transpose(0, 1)[None] if name == "conv_in" else ours
        assert_near(ours[: len(theirs)], theirs, NET)


def test_some_case_looks_inside() -> None:
    inside = [name for case in GOLDEN.kind("unet_io") for name in case.tensors if "inter." in name]
    assert {"attn1", "attn2", "attn_temp", "mid_block"} <= {name.split(".")[-1] for name in inside}


@torch.no_grad()
def test_one_time_for_all_clips_or_one_each(net: SEINEUNet) -> None:
    x, timestep, text = inputs(GOLDEN.cases["unet_io_batch3_rect"])
    one = net(x, timestep[0], text)
    assert torch.equal(net(x, timestep.expand(3), text), one)


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float16, 5e-3), (torch.bfloat16, 5e-2)], ids=str)
@torch.no_grad()
def test_half_precision(weights: dict[str, Tensor], dtype: torch.dtype, rtol: float) -> None:
    case = GOLDEN.cases["unet_io_long"]
    x, timestep, text = inputs(case)
    out = filled(weights).to(dtype)(x.to(dtype), timestep, text.to(dtype))
    assert out.dtype == dtype
    assert_near(out.float(), case.tensors["eps"], rtol)


class TestWeights:
    def test_sizes_show_in_the_weights(self, weights: dict[str, Tensor]) -> None:
        config = Config((40, 64, 32, 32), heads=(1, 2, 1, 1), text_width=24, groups=GROUPS)
        assert Config.of(weights, GROUPS) == config

    def test_none_is_left_over_and_none_is_missing(self, weights: dict[str, Tensor]) -> None:
        assert filled(weights).state_dict().keys() == weights.keys()
        fewer = {name: weight for name, weight in weights.items() if name != "conv_in.bias"}
        for others in (fewer, weights | {"conv_in.scale": weights["conv_in.bias"]}):
            with pytest.raises(RuntimeError, match=r"key\(s\) in state_dict"):
                filled(others)

    def test_the_full_size_net_has_the_published_shapes(self) -> None:
        published = GOLDEN.published["state_dict"]
        with torch.device("meta"):
            ours = SEINEUNet(Config()).state_dict()
        assert {name: list(weight.shape) for name, weight in ours.items()} == {
            name: entry["shape"] for name, entry in published.items()
        }
        assert len(ours) == 830
        assert Config.of(ours, 32) == Config()


class TestTime:
    """Temporal attention and its two ways to tell frames apart."""

    tensors = GOLDEN.cases["temporal_primitives"].tensors

    @pytest.fixture
    def attention(self, net: SEINEUNet) -> Any:
        return net.get_submodule("down_blocks.1.attentions.0.transformer_blocks.0.attn_temp")

    def test_buckets(self) -> None:
        lag = -self.tensors["relative_position_j_minus_i"]
        assert torch.equal(bucket(lag), self.tensors["bucket_num32_max32"])

    def test_bias(self, attention: Any) -> None:
        assert torch.equal(attention.time_rel_pos_bias(20), self.tensors["attn_temp.down1_0.bias_f20"])

    @pytest.mark.parametrize("frames", ["f8", "f20"])
    def test_rotary(self, attention: Any, frames: str) -> None:
        turned = attention.rotary_emb(self.tensors[f"rotary.in.{frames}"])
        assert_near(turned, self.tensors[f"rotary.out.{frames}"], EXACT)

    def test_frequencies(self, attention: Any) -> None:
        assert torch.equal(attention.rotary_emb.freqs, self.tensors["rotary.freqs"])
        assert_near(type(attention.rotary_emb)().freqs.detach(), self.tensors["rotary.freqs"], EXACT)

    def test_attention(self, attention: Any) -> None:
        x = self.tensors["attn_temp.down1_0.in"]
        assert_near(attention(x, x), self.tensors["attn_temp.down1_0.out"], EXACT)

    def test_embedding(self, net: SEINEUNet) -> None:
        wave = net.time_proj(self.tensors["time_proj.t"])
        assert_near(wave, self.tensors["time_proj.out"], EXACT)
        assert_near(net.time_embedding(wave), self.tensors["time_embedding.out"], EXACT)


class TestInjection:
    """The features that the method takes and puts back."""

    @torch.no_grad()
    def test_every_tap_holds_its_batch_first(self, net: SEINEUNet, bank: FeatureBank) -> None:
        x, timestep, text = inputs(GOLDEN.cases["unet_io_batch3_rect"])
        with bank.recording(TAPS):
            net(x, timestep, text)
        together = bank.features()
        assert len(together) == 1 + 8 * 4
        for clip in range(len(x)):
            with bank.recording(TAPS):
                net(x[clip : clip + 1], timestep, text[clip : clip + 1])
            for path, alone in bank.features().items():
                assert_near(together[path].chunk(len(x))[clip], alone, NET)
        assert together["up_blocks.1.resnets.1.conv2"].shape == (3 * 5, 32, 2, 3)
        block = "up_blocks.3.attentions.0.transformer_blocks.0"
        assert together[f"{block}.attn1.to_q"].shape == (3 * 5, 8 * 12, 40)
        assert together[f"{block}.attn_temp.to_k"].shape == (3 * 8 * 12, 5, 40)
        bank.clear()

    @torch.no_grad()
    def test_features_of_the_source(self, net: SEINEUNet) -> None:
        step = GOLDEN.cases["edit_default_ddim_cfg4"]
        text = GOLDEN.cases[step.params["inputs_case"]].tensors["text_embeds"]
        timestep = torch.tensor(step.params["feature_timestep"])
        golden = {
            name.replace(".attn", ".transformer_blocks.0.attn").removeprefix("feat.source."): theirs
            for name, theirs in step.tensors.items()
            if name.startswith("feat.")
        }
        with outputs(net, list(golden)) as seen:
            net(step.tensors["step.model_input"][:1], timestep, text[:1])
        for name, theirs in golden.items():
            ours = seen[name].transpose(0, 1)[None] if "conv" in name else seen[name]
            assert_near(ours[: len(theirs)], theirs, NET)

    @torch.no_grad()
    def test_a_step_that_injects_all(self, net: SEINEUNet, bank: FeatureBank) -> None:
        step = GOLDEN.cases["edit_default_ddim_cfg4"]
        text = GOLDEN.cases[step.params["inputs_case"]].tensors["text_embeds"]
        timestep = torch.tensor(step.params["feature_timestep"])
        with bank.pairing(TAPS, groups=3):
            out = net(step.tensors["step.model_input"], timestep, text)
        assert_near(out, step.tensors["step.eps"], NET)
