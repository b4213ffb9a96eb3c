"""Checkpoints as people have them: the half-precision files alone, or beside the full ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from anyv2v import Size, load_backbone
from anyv2v.backbones.i2vgen_xl import I2VGenXL

DTYPES = {"auto": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
each_dtype = pytest.mark.parametrize(("name", "dtype"), DTYPES.items(), ids=DTYPES)


@pytest.fixture(scope="module")
def half(tiny: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the README's download brings: no weights but the fp16 variant's."""
    folder = copy(tiny, tmp_path_factory.mktemp("half") / "checkpoint")
    for file in add_variant(folder, Tensor.half):
        file.unlink()
    return folder


@pytest.fixture(scope="module")
def both(tiny: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The full weights, and beside them a variant that is zero throughout."""
    folder = copy(tiny, tmp_path_factory.mktemp("both") / "checkpoint")
    add_variant(folder, lambda weight: torch.zeros_like(weight, dtype=torch.float16))
    return folder


def copy(checkpoint: str | Path, folder: Path) -> Path:
    """A copy that can be written to."""
    for file in Path(checkpoint).rglob("*.*"):
        target = folder / file.relative_to(checkpoint)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    return folder


def add_variant(folder: Path, change: Callable[[Tensor], Tensor]) -> list[Path]:
    """Put changed weights beside the full ones under the variant's name; the files of the full ones."""
    files = list(folder.glob("*/*.safetensors"))
    for file in files:
        weights = {name: change(weight) for name, weight in load_file(file).items()}
        save_file(weights, file.with_suffix(".fp16.safetensors"), metadata={"format": "pt"})
    return files


def configure(folder: Path, file: str, **changes: object) -> Path:
    config = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(config | changes))
    return folder


def load(folder: str | Path, dtype: str = "auto", device: str = "cpu") -> I2VGenXL:
    return load_backbone("i2vgen-xl", str(folder), device=device, dtype=dtype)


def dtypes(*parts: nn.Module) -> set[torch.dtype]:
    return {weight.dtype for part in parts for weight in part.parameters()}


def is_zero(part: nn.Module) -> bool:
    return not any(weight.any() for weight in part.parameters())


@each_dtype
def test_the_half_precision_files_are_enough(half: Path, name: str, dtype: torch.dtype) -> None:
    backbone = load(half, name)
    assert dtypes(backbone.net, backbone.text_encoder, backbone.image_encoder) == {dtype}
    assert dtypes(backbone.vae) == {torch.float32}


def test_they_hold_the_weights_rounded(half: Path, tiny: str) -> None:
    for ours, full in zip(load(half).parts, load(tiny).parts, strict=True):
        weights = full.state_dict()
        for name, weight in ours.state_dict().items():
            assert torch.equal(weight, weights[name].half().to(weight.dtype))


@pytest.mark.parametrize(("name", "atol"), [("float16", 0.02), ("bfloat16", 0.2)])
def test_the_net_in_half_precision_is_near_the_full_one(
    half: Path, tiny: str, name: str, atol: float
) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)

    def velocity(backbone: I2VGenXL) -> Tensor:
        spec = replace(backbone.spec, size=Size(32, 32), frames=2)
        condition = backbone.condition(frames[0], "a cat", spec)
        return backbone.denoise(backbone.encode(frames), 501, condition)

    ours, full = velocity(load(half, name)), velocity(load(tiny))
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, full, atol=atol, rtol=0)


def test_the_vae_is_half_where_its_configuration_lets_it(half: Path, tmp_path: Path) -> None:
    folder = configure(copy(half, tmp_path), "vae/config.json", force_upcast=False)
    assert dtypes(load(folder, "float16").vae) == {torch.float16}
    assert dtypes(load(folder).vae) == {torch.float32}


def test_of_two_variants_the_one_of_the_precision_is_taken(both: Path) -> None:
    assert not any(map(is_zero, load(both, "float32").parts))
    for name in ("float16", "bfloat16"):
        net, vae, *encoders = load(both, name).parts
        assert all(map(is_zero, (net, *encoders)))
        assert not is_zero(vae)  # float32, as it overflows


@pytest.mark.parametrize(("sample_size", "side"), [(8, 64), (31, 248), (32, 512), (64, 512)])
def test_the_clip_is_the_papers_where_the_net_is_of_its_kind(
    tiny: str, tmp_path: Path, sample_size: int, side: int
) -> None:
    folder = configure(copy(tiny, tmp_path), "unet/config.json", sample_size=sample_size)
    spec = load(folder, device="meta").spec
    assert (spec.size, spec.frames, spec.fps, spec.multiple) == (Size(side, side), 16, 8, 8)


@each_dtype
def test_nets_without_weights_have_shapes_and_dtypes(half: Path, name: str, dtype: torch.dtype) -> None:
    bare, full = load(half, name, device="meta"), load(half, name)
    for empty, part in zip(bare.parts, full.parts, strict=True):
        assert {weight.device.type for weight in empty.parameters()} == {"meta"}
        assert shapes(empty) == shapes(part)
    assert dtypes(bare.net, bare.text_encoder, bare.image_encoder) == {dtype}


def shapes(part: nn.Module) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (weight.shape, weight.dtype) for name, weight in part.named_parameters()}
