"""Loading the nets that no library has: as published, converted, incomplete, or of something else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from anyv2v import cli, load_backbone
from anyv2v.backbones import choose
from anyv2v.errors import CheckpointError, WeightsMissing
from anyv2v.weights import convert
from golden_data import Golden


@pytest.fixture
def consisti2v(tmp_path: Path) -> Path:
    return Path(shutil.copytree(Golden("consisti2v").checkpoint, tmp_path / "consisti2v"))


@pytest.fixture
def seine(tmp_path: Path) -> Path:
    return Path(shutil.copytree(Golden("seine").checkpoint, tmp_path / "seine"))


def pickled(folder: Path) -> Path:
    """SEINE's net as its authors publish it."""
    weights = load_file(folder / "seine.safetensors")
    (folder / "seine.safetensors").unlink()
    torch.save({"ema": weights, "step": 7}, folder / "seine.pt")
    return folder


def weight(backbone) -> torch.Tensor:
    return backbone.net.conv_in.weight


def test_a_folder_tells_its_backbone(consisti2v: Path, seine: Path) -> None:
    assert choose("auto", str(consisti2v)).entry.name == "consisti2v"
    assert choose("auto", str(seine)).entry.name == "seine"
    assert choose("auto", str(pickled(seine))).entry.name == "seine"
    with pytest.raises(CheckpointError, match="is the checkpoint of a SEINE; consisti2v needs"):
        choose("consisti2v", str(seine))


def test_the_authors_own_name_of_the_pipeline(consisti2v: Path) -> None:
    index = consisti2v / "model_index.json"
    index.write_text(
        index.read_text().replace("ConditionalVideoEditingPipeline", "ConditionalAnimationPipeline")
    )
    assert choose("auto", str(consisti2v)).entry.name == "consisti2v"


def test_a_net_that_predicts_something_else(consisti2v: Path) -> None:
    config = consisti2v / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text().replace('"epsilon"', '"v_prediction"'))
    with pytest.raises(CheckpointError, match="predicts epsilon"):
        load_backbone("consisti2v", str(consisti2v), device="cpu")


def test_seine_is_loaded_as_published_and_converted_once(seine: Path, monkeypatch, capsys) -> None:
    whole = load_backbone("seine", str(seine), device="cpu")
    published = load_backbone("seine", str(pickled(seine)), device="cpu")
    monkeypatch.setattr("sys.argv", ["anyv2v", "convert", str(seine)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code
    assert capsys.readouterr().out.split() == [str(seine / "seine.safetensors")]
    (seine / "seine.pt").unlink()
    converted = load_backbone("seine", str(seine), device="cpu")
    assert torch.equal(weight(whole), weight(published))
    assert torch.equal(weight(whole), weight(converted))


def test_a_pickle_that_runs_code_is_refused(seine: Path) -> None:
    (seine / "seine.safetensors").unlink()
    torch.save({"ema": Path("surprise")}, seine / "seine.pt")
    with pytest.raises(CheckpointError, match=r"seine\.pt cannot be read"):
        load_backbone("seine", str(seine), device="cpu")


def test_names_and_layouts_of_converted_weights(tmp_path: Path) -> None:
    torch.save({"state_dict": {"w": torch.ones(2, 3).T}}, tmp_path / "pytorch_model.bin")
    torch.save({"w": torch.ones(1)}, tmp_path / "seine.pt")
    (tmp_path / "seine.safetensors").write_text("an earlier one")
    assert convert(tmp_path) == [tmp_path / "model.safetensors"]
    assert load_file(tmp_path / "model.safetensors")["w"].shape == (3, 2)
    assert (tmp_path / "model.safetensors").stat().st_mode == (tmp_path / "seine.pt").stat().st_mode
    assert (tmp_path / "seine.safetensors").read_text() == "an earlier one"
    assert convert(tmp_path / "seine.pt") == []


@pytest.mark.parametrize("content", [[1, 2], {}, {"state_dict": {"step": 3}}, torch.ones(1)])
def test_what_holds_no_weights_is_not_converted(tmp_path: Path, content) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="holds no weights by name"):
        convert(tmp_path)


def test_nothing_to_convert(consisti2v: Path) -> None:
    with pytest.raises(CheckpointError, match="no pickled weights"):
        convert(consisti2v)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("conv_in.bias"), "lacks 1 weights, among them conv_in.bias"),
        (lambda weights: weights.update(surplus=torch.zeros(1)), "does not know .* 1 weights, .* surplus"),
        (
            lambda weights: weights.update({"conv_in.bias": torch.zeros(3)}),
            "other shapes for 1 .* conv_in.bias",
        ),
    ],
    ids=["missing", "extra", "shape"],
)
def test_weights_that_do_not_fit(consisti2v: Path, seine: Path, change, message: str) -> None:
    for name, file in {
        "consisti2v": consisti2v / "unet" / "diffusion_pytorch_model.safetensors",
        "seine": seine / "seine.safetensors",
    }.items():
        weights = load_file(file)
        change(weights)
        save_file(weights, file)
        folder = {"consisti2v": consisti2v, "seine": seine}[name]
        with pytest.raises(CheckpointError, match=message):
            load_backbone(name, str(folder), device="cpu")


def test_what_is_never_used_may_be_left_out(consisti2v: Path) -> None:
    file = consisti2v / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    used = {name: weight for name, weight in weights.items() if "rotary_bias" not in name}
    assert len(used) < len(weights)
    save_file(used, file)
    load_backbone("consisti2v", str(consisti2v), device="cpu")


def test_seine_without_stable_diffusion(seine: Path) -> None:
    for folder in seine.glob("*/"):
        shutil.rmtree(folder)
    with pytest.raises(CheckpointError, match="no Stable Diffusion v1-4 folder"):
        load_backbone("seine", str(seine), device="cpu")


@pytest.mark.parametrize("name", ["consisti2v", "seine"])
def test_missing_weights_name_the_command(name: str) -> None:
    with pytest.raises(WeightsMissing, match="get them once with: hf download"):
        choose(name)


@pytest.mark.parametrize("name", ["consisti2v", "seine"])
def test_on_the_meta_device_there_are_shapes_alone(name: str, request: pytest.FixtureRequest) -> None:
    backbone = load_backbone(name, str(request.getfixturevalue(name)), device="meta")
    assert {part.device.type for net in backbone.parts for part in net.parameters()} == {"meta"}
