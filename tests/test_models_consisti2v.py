"""ConsistI2V's net against numbers of the authors' own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from anyv2v import FeatureBank
from anyv2v.features import Tap
from anyv2v.models.consisti2v import NEVER_USED, ConsistI2VConfig, ConsistI2VUNet, DownBlock
from golden_data import Case, Golden, assert_close

GOLDEN = Golden("consisti2v")
UNET = Path(GOLDEN.checkpoint) / "unet"
SQUARE = GOLDEN.cases["unet_io_square"]
FEATURES = GOLDEN.cases["pnp_default_features_step0"]
INPUTS = ("sample", "timestep", "encoder_hidden_states", "first_frame_latents", "frame_stride")

LAYERS = ("1.{}.[12]", "[23].{}.*")
ATTN1 = ".transformer_blocks.0.attn1.to_[qk]"
TAPS = (
    Tap("up_blocks.1.resnets.1.conv2", "conv", 0),
    *(Tap(f"up_blocks.{layer.format('attentions')}{ATTN1}", "spatial", 0) for layer in LAYERS),
    *(Tap(f"up_blocks.{layer.format('tempo_attns')}{ATTN1}", "temporal", 0) for layer in LAYERS),
)


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    published = load_file(UNET / "diffusion_pytorch_model.safetensors")
    return {name: tensor for name, tensor in published.items() if not NEVER_USED.search(name)}


@pytest.fixture(scope="module")
def net(weights: dict[str, Tensor]) -> ConsistI2VUNet:
    net = ConsistI2VUNet.from_config(json.loads((UNET / "config.json").read_text()))
    net.load_state_dict(weights)
    return net.requires_grad_(False).eval()


@pytest.fixture(scope="module")
def bank(net: ConsistI2VUNet) -> FeatureBank:
    return FeatureBank(net, TAPS)


def inputs(case: Case) -> list[Tensor]:
    return [case.tensors[name] for name in INPUTS]


def assert_equal_net(ours: Tensor, theirs: Tensor) -> None:
    """Within rounding, in units of their deviation; the smallest other mistake is twice the tolerance."""
    assert_close(ours, theirs, GOLDEN.tolerance["unet_io"] * theirs.std().item())


@pytest.mark.parametrize("name", ["unet_io_square", "unet_io_nonsquare_batch2", "unet_io_odd_size"])
def test_net(net: ConsistI2VUNet, name: str) -> None:
    """The odd size is no multiple of 8, so that levels meet again only if a half was rounded up."""
    case = GOLDEN.cases[name]
    out, theirs = net(*inputs(case)), case.tensors["output"]
    assert out.shape == case.tensors["sample"].shape
    assert_equal_net(out[:, :, -theirs.shape[2] :], theirs)


@pytest.mark.parametrize("name", sorted(name for name in SQUARE.tensors if name.startswith("inter.")))
def test_what_goes_on_inside(net: ConsistI2VUNet, name: str) -> None:
    """A subset holds the last frame, and embeddings are the same for each."""
    outputs: list[Tensor] = []
    module = net.get_submodule(name.removeprefix("inter."))
    with module.register_forward_hook(lambda _module, _args, out: outputs.append(out)):
        net(*inputs(SQUARE))
    (ours,), theirs = outputs, SQUARE.tensors[name]
    if isinstance(module, DownBlock):
        ours, _ = ours
    if "tempo_attns" in name and ours.dim() == 3:
        ours = ours.transpose(0, 1)  # theirs are [(B F), N, C] there too
    held = min(len(ours), len(theirs))
    assert_equal_net(ours[-held:], theirs[-held:])


def test_names_and_shapes_are_the_published_ones() -> None:
    listed = GOLDEN.published["keys"]
    published = {name: tuple(entry["shape"]) for name, entry in listed.items()}
    with torch.device("meta"):
        net = ConsistI2VUNet(ConsistI2VConfig())
    ours = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    unused = {name for name in published if NEVER_USED.search(name)}
    assert ours == {name: shape for name, shape in published.items() if name not in unused}
    assert (len(ours), len(unused)) == (1323, 74)


def test_the_published_size_is_the_default() -> None:
    listed = GOLDEN.published
    assert ConsistI2VConfig.of(listed["config_used"]) == ConsistI2VConfig()


def test_features(net: ConsistI2VUNet, bank: FeatureBank) -> None:
    """Of the source alone, as the reference has them before it injects; a subset holds the first rows."""
    edit, saved = (
        GOLDEN.cases[name].tensors
        for name in (FEATURES.params["of_case"], GOLDEN.cases["pnp_default"].params["inversion_case"])
    )
    t = torch.tensor(FEATURES.params["timestep"])
    clip = saved["latents_saved_per_step"][-1]
    text, first = edit["text_embeddings_batch"][:1], edit["first_frame_latents_batch"][:1, :, None]
    with bank.recording(TAPS):
        net(clip[:, :, 1:], t, text, first, GOLDEN.cases["pnp_default"].params["frame_stride"])
    ours = {feature_name(path): feature for path, feature in bank.features().items()}
    seen = {name: theirs for name, theirs in FEATURES.tensors.items() if name in ours}
    assert {name.split(".")[0] for name in seen} == {"conv", "spatial", "temporal"}
    for name, theirs in seen.items():
        theirs = theirs[: len(ours[name])]
        assert_equal_net(ours[name][: len(theirs)], theirs)


def feature_name(path: str) -> str:
    """``up_blocks.1.tempo_attns.2...to_q`` is ``temporal.up_blocks.1.2.attn1.q_source`` in the files."""
    parts = path.split(".")
    if parts[-1] == "conv2":
        return f"conv.{path}_out_preinject_all_branches"
    kind = {"attentions": "spatial", "tempo_attns": "temporal"}[parts[2]]
    return f"{kind}.up_blocks.{parts[1]}.{parts[3]}.attn1.{parts[-1][-1]}_source"


def test_every_feature_has_its_batch_first(net: ConsistI2VUNet, bank: FeatureBank) -> None:
    """Other places and frames than the net knows of: nothing but the batch divides all first axes."""
    assert sum(len(bank.modules(tap)) for tap in TAPS) == 33
    sample, _, text, first, stride = inputs(GOLDEN.cases["unet_io_nonsquare_batch2"])
    clip = (sample[:, :, :4], torch.tensor(501), text, first, stride)
    with bank.recording(TAPS):
        net(*clip)
    together = bank.features()
    with bank.recording(TAPS):
        net(*(part if part.dim() == 0 else part[1:] for part in clip))
    for name, alone in bank.features().items():
        assert_equal_net(together[name][len(together[name]) // 2 :], alone)
    shapes = {name.removeprefix("up_blocks."): tuple(feature.shape) for name, feature in together.items()}
    assert shapes["1.resnets.1.conv2"] == (2 * 5, 32, 4, 6)
    assert shapes[f"3.attentions.0{ATTN1[:-4]}q"] == (2 * 5, 16 * 24, 32)
    assert shapes[f"3.attentions.0{ATTN1[:-4]}k"] == (2 * 5, 2 * 16 * 24, 32)
    assert shapes[f"3.tempo_attns.0{ATTN1[:-4]}q"] == (2 * 16 * 24, 5, 32)
    assert shapes[f"3.tempo_attns.0{ATTN1[:-4]}k"] == (2 * 16 * 24, 5 + 8, 32)


def test_injection_makes_rows_alike(net: ConsistI2VUNet, bank: FeatureBank) -> None:
    """What is injected comes from the first row alone, and it changes what the second says."""
    clip = inputs(GOLDEN.cases["unet_io_nonsquare_batch2"])
    with bank.pairing(TAPS, groups=2):
        paired = net(*clip)
    with bank.recording(TAPS):
        net(*(part if part.dim() == 0 else part[:1] for part in clip))
    with bank.injecting(TAPS):
        injected = net(*(part if part.dim() == 0 else part[1:] for part in clip))
    assert_equal_net(injected, paired[1:])
    assert (net(*clip)[1:] - injected).abs().mean() > 0.01 * injected.abs().mean()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_near(
    net: ConsistI2VUNet, weights: dict[str, Tensor], dtype: torch.dtype
) -> None:
    half = ConsistI2VUNet(net.config)
    half.load_state_dict(weights)
    half = half.requires_grad_(False).to(dtype)
    sample, t, text, first, stride = inputs(SQUARE)
    near, exact = half(sample.to(dtype), t, text.to(dtype), first.to(dtype), stride), net(*inputs(SQUARE))
    assert near.dtype == dtype
    assert (near - exact).abs().mean() < 0.05 * exact.abs().mean()


def test_a_forward_pass_leaves_the_weights_alone(net: ConsistI2VUNet, weights: dict[str, Tensor]) -> None:
    """The reference clamps its alphas in place, and some of these lie beyond 0 and 1."""
    alphas = [name for name in weights if name.endswith(".alpha")]
    assert any(not 0 <= weights[name].item() <= 1 for name in alphas)
    net(*inputs(SQUARE))
    after = net.state_dict()
    assert all(torch.equal(after[name], weights[name]) for name in weights)
