"""Looking inside: maps of features, against what the nets themselves do with them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from anyv2v import Options, Size, Video, invert_video, load_backbone, read_image
from anyv2v.backbones.protocol import Backbone
from anyv2v.dry_run import cost
from anyv2v.errors import OptionError, OutputError
from anyv2v.evaluation import inspecting
from anyv2v.evaluation.inspecting import Aim, InspectJob, Map, inspect, run_inspect, weights
from anyv2v.fitting import clip_spec, fit_frames
from anyv2v.job import read_settings
from conftest import scene
from golden_data import Golden

SIZE = Size(64, 48)
QUICK = Options(steps=3, inversion_steps=3, size=SIZE, skip=0)
ALL = Aim(("conv", "spatial", "temporal", "frames"), layers=(2, 4, 9), steps=(1, 3), frames=(0, 2))


@pytest.fixture(scope="module", params=["i2vgen-xl", "consisti2v", "seine", "mini"])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    checkpoint = Golden({"mini": "i2vgen-xl"}.get(request.param, request.param)).checkpoint
    return load_backbone(request.param, checkpoint, device="cpu")


@pytest.fixture
def video() -> Video:
    return Video(scene(3), Fraction(8))


def of(maps: Sequence[Map], kind: str, layer: int, step: int, frame: int) -> np.ndarray:
    return next(m.values for m in maps if (m.kind, m.layer, m.step, m.frame) == (kind, layer, step, frame))


def source_features(backbone: Backbone, video: Video, options: Options, step: int) -> dict[str, torch.Tensor]:
    """What the net makes of the source at a step, asked by hand."""
    level = backbone.schedule.grid(options.steps)[step - 1]
    first = fit_frames(video.frames, SIZE, options)[0]
    condition = backbone.condition(first, "", clip_spec(backbone, video, options))
    with backbone.bank.recording(backbone.bank.taps):
        backbone.denoise(invert_video(backbone, video, options).at(level), level, condition)
    features = backbone.bank.features()
    backbone.bank.clear()
    return features


def test_weights_are_those_that_the_module_averages_by(backbone: Backbone, video: Video) -> None:
    taps = [tap for tap in backbone.bank.taps if tap.kind in ("spatial", "temporal") and tap.layer in (4, 9)]
    paths = {backbone.bank.modules(tap)[0].rpartition(".")[0] for tap in taps}
    heard: dict[torch.nn.Module, tuple[torch.Tensor, torch.Tensor]] = {}

    def listen(module: torch.nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        heard[module] = args[-1], output

    hooks = [backbone.net.get_submodule(path).register_forward_hook(listen) for path in paths]
    features = source_features(backbone, video, QUICK, step=2)
    assert len(heard) == len(hooks) == 4
    for path, hook in zip(paths, hooks, strict=True):
        hook.remove()
        module = backbone.net.get_submodule(path)
        context, wanted = heard[module]
        seen = weights(module, features[f"{path}.to_q"], features[f"{path}.to_k"])
        torch.testing.assert_close(seen.sum(-1), torch.ones(seen.shape[:-1]))
        values = module.to_v(context).unflatten(-1, (module.heads, -1)).transpose(1, 2)
        out = (seen @ values).transpose(1, 2).flatten(2)
        for layer in module.to_out:
            out = layer(out)
        torch.testing.assert_close(out, wanted, atol=2e-5, rtol=1e-4)


def test_every_map_of_the_source(backbone: Backbone, video: Video) -> None:
    sight = inspect(backbone, video, options=QUICK, aim=ALL)
    assert [(m.kind, m.layer, m.step, m.frame) for m in sight.maps] == [
        (kind, layer, step, frame)
        for kind in ALL.kinds
        for layer in ((2, 4, 9) if kind == "conv" else (4, 9))
        for step in (1, 3)
        for frame in (0, 2)
    ]
    for seen in sight.maps:
        assert seen.values.dtype == np.float32
        assert seen.kind == "conv" or 0 <= seen.spread <= 1.0001
        if seen.kind == "spatial":
            assert seen.values.sum() == pytest.approx(1, abs=1e-4)
        if seen.kind == "frames":
            assert seen.values.sum(axis=1) == pytest.approx(1, abs=1e-4)
    assert {step: shown.shape for step, shown in sight.predictions.items()} == {
        1: (2, 48, 64, 3),
        3: (2, 48, 64, 3),
    }


def test_maps_by_hand(i2vgen_xl: Backbone, video: Video) -> None:
    aim = replace(ALL, frames=(0, 1, 2))
    maps = inspect(i2vgen_xl, video, options=QUICK, aim=aim).maps
    features = source_features(i2vgen_xl, video, QUICK, step=1)
    conv = features["up_blocks.1.resnets.1.conv2"]
    height, width = conv.shape[2:]
    np.testing.assert_allclose(of(maps, "conv", 4, 1, 2), conv[2].mean(0), atol=1e-5)

    def attended(path: str) -> torch.Tensor:
        module = i2vgen_xl.net.get_submodule(path)
        q, k = (module.head_to_batch_dim(features[f"{path}.to_{x}"]) for x in "qk")
        return module.get_attention_scores(q, k).unflatten(0, (-1, module.heads)).mean(1)

    spatial = attended("up_blocks.1.attentions.1.transformer_blocks.0.attn1")
    expected = spatial[2].mean(0).reshape(height, width)
    np.testing.assert_allclose(of(maps, "spatial", 4, 1, 2), expected, atol=1e-5)
    temporal = attended("up_blocks.1.temp_attentions.1.transformer_blocks.0.attn1")
    np.testing.assert_allclose(of(maps, "frames", 4, 1, 0), temporal.mean(0), atol=1e-5)
    places = np.stack([of(maps, "temporal", 4, 1, frame) for frame in range(3)])
    np.testing.assert_allclose(places.reshape(3, -1).T, temporal.mean(1), atol=1e-5)
    np.testing.assert_allclose(places.sum(axis=0), 1, atol=1e-5)


def test_a_net_that_looks_back_shows_its_first_frame_too(video: Video) -> None:
    backbone = load_backbone("consisti2v", Golden("consisti2v").checkpoint, device="cpu")
    maps = inspect(backbone, video, options=QUICK, aim=ALL).maps
    height, width = of(maps, "conv", 4, 1, 0).shape
    assert of(maps, "spatial", 4, 1, 2).shape == (2 * height, width)
    assert of(maps, "temporal", 4, 1, 2).shape == (height, width)
    assert of(maps, "frames", 4, 1, 2).shape == (3, 3 + 8)
    own, first = np.split(of(maps, "spatial", 4, 1, 0), 2)
    np.testing.assert_allclose(own, first, rtol=1e-4)  # the first frame looks twice at itself


@pytest.mark.parametrize("guidance", [1.0, 9.0])
def test_what_is_injected_shows_as_the_source(i2vgen_xl: Backbone, video: Video, guidance: float) -> None:
    options = replace(QUICK, tau_conv=1.0, tau_spatial=0.0, tau_temporal=0.0, guidance=guidance)
    calls: list[int] = []
    hook = i2vgen_xl.net.register_forward_pre_hook(lambda _, args: calls.append(len(args[0])))
    edit = inspect(i2vgen_xl, video, 255 - video.frames[0], "a cat", options, ALL)
    hook.remove()
    assert (len(calls), sum(calls)) == (cost(i2vgen_xl, options).calls, cost(i2vgen_xl, options).rows)
    features = source_features(i2vgen_xl, video, QUICK, step=3)
    source = {layer: features[f"up_blocks.{layer // 3}.resnets.{layer % 3}.conv2"] for layer in ALL.layers}
    np.testing.assert_allclose(of(edit.maps, "conv", 4, 3, 2), source[4][2].mean(0), atol=1e-5)
    assert np.abs(of(edit.maps, "conv", 9, 3, 2) - source[9][2].mean(0).numpy()).max() > 1e-3
    always = replace(options, source_branch="always", sampler="ddpm")
    assert len(inspect(i2vgen_xl, video, 255 - video.frames[0], "a cat", always, ALL).maps) == len(edit.maps)


def test_what_the_net_believes_becomes_what_it_makes(i2vgen_xl: Backbone, video: Video) -> None:
    aim = Aim(("conv",), frames=(0, 1, 2))
    first, *_, last = inspect(i2vgen_xl, video, options=QUICK, aim=aim).predictions.values()
    reconstruction = i2vgen_xl.decode(i2vgen_xl.encode(fit_frames(video.frames, SIZE, QUICK))).astype(int)
    distances = [np.abs(shown - reconstruction).mean() for shown in (first, last)]
    assert distances[1] < distances[0]


def test_left_out_steps_and_frames(i2vgen_xl: Backbone) -> None:
    aim = Aim(("temporal", "temporal"), layers=(9, 4, 9)).at(i2vgen_xl, replace(Options(), skip=10), 16)
    assert aim == Aim(("temporal",), (4, 9), (11, 24, 37, 50), (8,))


@pytest.mark.parametrize(
    ("aim", "message"),
    [
        (Aim(layers=(12,)), "no layer 12 to look at, but 0 to 11"),
        (Aim(("spatial",), layers=(2,)), "no layer 2 to look at, but 3 to 11"),
        (Aim(steps=(1,)), "no step 1 to look at, but 2 to 50"),
        (Aim(frames=(-1,)), "no frame -1 to look at, but 0 to 15"),
    ],
)
def test_what_is_not_there(i2vgen_xl: Backbone, aim: Aim, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        aim.at(i2vgen_xl, Options(), 16)


@pytest.fixture
def settings(job: Path, tiny: str) -> dict[str, object]:
    return {
        "clip": "clip.mp4",
        "output": "grid.png",
        "backbone": "i2vgen-xl",
        "model": tiny,
        "frames": 3,
        "size": str(SIZE),
        "steps": 3,
        "inversion_steps": 3,
        "kinds": "conv,frames",
        "layers_at": "4-5",
        "steps_at": "2,3",
    }


@pytest.mark.parametrize(
    ("more", "names"),
    [
        ({}, ["source, step 2", "source, step 3", "conv 4, step 2", "conv 4, step 3", "conv 5, step 2"]),
        (
            {"side": "edit", "first_frame": "edited.png", "frames_at": "0,2", "steps_at": "2"},
            ["edit, step 2, frame 0", "edit, step 2, frame 2", "conv 4, step 2, frame 0"],
        ),
    ],
)
def test_the_picture_holds_every_map_under_its_name(
    settings: dict[str, object], more: dict[str, str], names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: dict[str, np.ndarray] = {}
    lay = inspecting.gallery
    monkeypatch.setattr(inspecting, "gallery", lambda maps, **how: shown.update(maps) or lay(maps, **how))
    outcome = run_inspect(read_settings(InspectJob, settings | more))
    assert list(shown)[: len(names)] == names
    assert len(shown) == 10
    picture = read_image(outcome.output)
    assert picture.shape[1] == pytest.approx(2 * inspecting.TILE, rel=0.05)
    assert picture.shape[0] > sum(map(len, list(shown.values())[2::2]))
    spreads = json.loads(outcome.sidecar.read_text())["spreads"]
    assert [(seen["kind"], seen["layer"]) for seen in spreads] == [("frames", k) for k in (4, 4, 5, 5)]


def test_colours_span_each_map() -> None:
    values = np.float32([[0.1, 0.2], [0.3, 0.3]])
    dark, light = (inspecting._coloured(Map(kind, 4, 1, 0, values)) for kind in ("conv", "spatial"))
    for picture in (dark, light):
        assert picture.shape == (inspecting.TILE, inspecting.TILE, 3)
        assert len(np.unique(picture.reshape(-1, 3), axis=0)) == 3
    assert dark[0, 0].tolist() != light[0, 0].tolist()
    flat = inspecting._coloured(Map("conv", 4, 1, 0, np.ones((2, 2), np.float32)))
    assert len(np.unique(flat.reshape(-1, 3), axis=0)) == 1


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"backbone": "flow", "model": None}, OptionError, "name a diffusion model by --backbone"),
        ({"side": "edit"}, OptionError, "--first-frame is missing"),
        ({"kinds": "cross"}, OptionError, "kinds 0: input should be 'conv'"),
        ({"output": "grid.mp4"}, OutputError, "unknown suffix"),
        ({"output": "edited.png"}, OutputError, "exists already"),
        ({"steps_at": "9"}, OptionError, "no step 9"),
    ],
)
def test_mistakes(
    settings: dict[str, object], change: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        run_inspect(read_settings(InspectJob, settings | change))
    assert not Path("grid.png").exists()
