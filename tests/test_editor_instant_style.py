"""The editor of styles: the reference acts in one block, the frame through its contours."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from anyv2v.editors.instant_style import InstantStyle, InstantStyleSettings, edges
from anyv2v.editors.protocol import Machine, Request
from anyv2v.errors import CheckpointError, OptionError
from anyv2v.progress import Step
from golden_data import Golden

# numpy 2 wants more of torch's tensors than they have, when diffusers hands it one
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy")

DRAW = np.random.default_rng(0)
FRAME = np.kron(DRAW.integers(0, 256, (13, 9, 3)), np.ones((8, 8, 1)))[:97, :65].astype(np.uint8)
STYLES = [np.kron(DRAW.integers(0, 256, (5, 7, 3)), np.ones((8, 8, 1))).astype(np.uint8) for _ in range(2)]
WIDTH, TOKENS, SEEN = 64, 4, 24  # of the text, of the adapter, of the image encoder

Load = Callable[..., InstantStyle]


@pytest.fixture(scope="module")
def sdxl() -> Path:
    return Path(Golden("instant-id").checkpoint)


@pytest.fixture(scope="module")
def adapter(sdxl: Path, tmp_path_factory) -> Path:
    """A folder in the layout of ``h94/IP-Adapter`` that fits the tiny SDXL."""
    from diffusers import UNet2DConditionModel

    folder = tmp_path_factory.mktemp("adapter")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPVisionConfig(**sizes, image_size=32, patch_size=8, projection_dim=SEEN)
    CLIPVisionModelWithProjection(config).save_pretrained(folder / "models" / "image_encoder")
    weights = {
        "image_proj.proj.weight": torch.randn(TOKENS * WIDTH, SEEN),
        "image_proj.proj.bias": torch.zeros(TOKENS * WIDTH),
        "image_proj.norm.weight": torch.ones(WIDTH),
        "image_proj.norm.bias": torch.zeros(WIDTH),
    }
    unet = UNet2DConditionModel.from_pretrained(sdxl / "unet")
    nets = {name: net.to_v.out_features for name, net in unet.named_modules() if name.endswith("attn2")}
    for index, name in enumerate(unet.attn_processors):
        if width := nets.get(name.removesuffix(".processor")):
            for part in ("to_k_ip", "to_v_ip"):
                weights[f"ip_adapter.{index}.{part}.weight"] = torch.randn(width, WIDTH)
    (folder / "sdxl_models").mkdir()
    save_file(weights, folder / "sdxl_models" / "ip-adapter_sdxl_vit-h.safetensors")
    return folder


@pytest.fixture(scope="module")
def load(sdxl: Path, adapter: Path) -> Load:
    """Load the editor with three steps on a small canvas."""

    def load(adapter=adapter, dtype=torch.float32, **settings) -> InstantStyle:
        weights = {"sdxl": sdxl, "adapter": adapter, "structure": sdxl / "ControlNetModel"}
        told = InstantStyleSettings(**{"steps": 3, "side": 64} | settings)
        return InstantStyle.load(weights, told, Machine(torch.device("cpu"), dtype))

    return load


@pytest.fixture(scope="module")
def editor(load: Load) -> InstantStyle:
    return load()


def request(frame=FRAME, references=(STYLES[0],), prompt="a house", seed=0) -> Request:
    return Request(frame, prompt, references=references, seed=seed)


def test_an_edit_has_the_frame_s_size_and_tells_its_steps(editor: InstantStyle) -> None:
    steps: list[Step] = []
    edited = editor.edit(request(), steps.append)
    assert edited.shape == FRAME.shape
    assert edited.dtype == np.uint8
    assert steps == [Step("edit frame", done, 3) for done in (1, 2, 3)]
    assert np.array_equal(edited, editor.edit(request()))
    for other in (request(seed=1), request(prompt="a tree"), request(references=tuple(STYLES))):
        assert not np.array_equal(edited, editor.edit(other))


def test_the_reference_acts_in_the_block_of_style_alone(editor: InstantStyle, load: Load) -> None:
    scales = {
        name: net.scale[0] for name, net in editor.pipe.unet.attn_processors.items() if hasattr(net, "scale")
    }
    acting = {name for name, scale in scales.items() if scale}
    assert acting == {name for name in scales if name.startswith("up_blocks.0.attentions.1")}
    assert acting != set(scales)
    both = load(layout_scale=0.5).pipe.unet.attn_processors
    assert {both[name].scale[0] for name in scales if name.startswith("down_blocks.2.attentions.1")} == {0.5}


@pytest.mark.parametrize(("scale", "same"), [(0.0, True), (1.0, False)])
def test_the_reference_acts_as_strongly_as_told(load: Load, scale: float, same: bool) -> None:
    editor = load(style_scale=scale)
    edits = [editor.edit(request(references=(style,))) for style in STYLES]
    assert np.array_equal(*edits) == same


@pytest.mark.parametrize(
    ("settings", "same"),
    [({}, False), ({"structure_scale": 0.0}, True), ({"structure_scale": 0.0, "strength": 0.7}, False)],
)
def test_the_frame_acts_through_its_contours(load: Load, settings: dict[str, float], same: bool) -> None:
    editor = load(**settings)
    edits = [editor.edit(request(frame)) for frame in (FRAME, np.full_like(FRAME, 128))]
    assert np.array_equal(*edits) == same


def test_the_control_net_sees_contours(editor: InstantStyle) -> None:
    told = {}
    hook = editor.pipe.controlnet.register_forward_pre_hook(
        lambda _net, _inputs, kw: told.update(kw), with_kwargs=True
    )
    editor.edit(request())
    hook.remove()
    control = told["controlnet_cond"]
    assert control.shape == (2, 3, 128, 64)
    assert control.unique().tolist() == [0, 1]
    assert control[..., :78, :52].any()
    step = np.zeros((32, 32, 3), np.uint8)
    step[:, 16:] = 60
    assert edges(step, 50, 100)[16].any(axis=-1).nonzero()[0].tolist() in ([15], [16])
    assert not edges(step, 400, 500).any()


def test_half_precision(load: Load, editor: InstantStyle) -> None:
    half = load(dtype=torch.float16).edit(request())
    assert np.abs(editor.edit(request()).astype(float) - half).mean() < 8


def test_an_adapter_without_its_encoder(load: Load, adapter: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(adapter, tmp_path / "adapter"))
    (folder / "models" / "image_encoder" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="image_encoder cannot be loaded"):
        load(adapter=folder)


@pytest.mark.parametrize("name", ["style_scale", "layout_scale", "structure_scale", "edge_low", "edge_high"])
def test_settings_out_of_range(name: str) -> None:
    with pytest.raises(OptionError, match=f"{name.replace('_', ' ')} is -1; it must be 0 to "):
        InstantStyleSettings(**{name: -1})
