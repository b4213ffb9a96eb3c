"""The model that the package ships: small, in I2VGen-XL's layout, and of use without a download."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from anyv2v import Size, load_backbone
from anyv2v.backbones import choose, recipe
from anyv2v.backbones.protocol import Backbone
from anyv2v.evaluation.methods import Diffusion
from anyv2v.evaluation.metrics import psnr
from anyv2v.evaluation.propagation import rendered_cases

FOLDER = choose("mini").checkpoint or Path()


@pytest.fixture(scope="module")
def mini() -> Backbone:
    return load_backbone("mini", device="cpu")


def test_it_is_at_most_30_mb_of_half_precision() -> None:
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 30e6
    weights = [path.name for path in files if path.suffix == ".safetensors"]
    assert len(weights) == 4
    assert all(".fp16." in name for name in weights)


def test_it_has_the_layout_of_i2vgen_xl(tmp_path: Path) -> None:
    """Under the published model's name it is one."""
    copy = tmp_path / "copy"
    shutil.copytree(FOLDER, copy)
    index = json.loads((FOLDER / "model_index.json").read_text())
    (copy / "model_index.json").write_text(json.dumps(index | {"_class_name": "I2VGenXLPipeline"}))
    assert load_backbone("i2vgen-xl", str(copy), device="cpu").name == "i2vgen-xl"


def test_what_it_works_on(mini: Backbone) -> None:
    assert (mini.spec.size, mini.spec.frames) == (Size(64, 64), 8)


def test_what_is_inverted_comes_back_as_far_as_the_vae_keeps_it(mini: Backbone) -> None:
    """Within a decibel in five steps, where DDIM's own inversion loses five."""
    (case,) = rendered_cases(1, ("nothing",), ("occlusion",), side=64, frames=8)
    kept = psnr(mini.decode(mini.encode(case.task.source)), case.task.source)
    options = replace(recipe(backbone="mini"), steps=5, inversion_steps=5)
    assert psnr(Diffusion(mini).run(options, case.task).frames, case.task.source) > kept - 1


def test_an_edit_comes_nearer_to_the_truth_than_the_source(mini: Backbone) -> None:
    """A recoloured thing that moves, by the fast recipe: of 8 frames the first is given."""
    (case,) = rendered_cases(1, ("recolour",), ("translation",), side=64, frames=8)
    options = replace(recipe("fast", backbone="mini"), steps=15, inversion_steps=15)
    edited = Diffusion(mini).run(options, case.task)
    assert psnr(edited.frames[1:], case.task.truth[1:]) > psnr(case.task.source[1:], case.task.truth[1:]) + 1
