"""Neural style transfer against its paper, on a thin VGG-19 with random weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from skimage import data
from skimage.transform import resize
from torch import Tensor, nn

from anyv2v.editors import style_transfer
from anyv2v.editors.protocol import Machine, Request
from anyv2v.editors.style_transfer import Loss, StyleTransfer, StyleTransferSettings, gram
from anyv2v.errors import CheckpointError, OptionError
from anyv2v.models.vgg import LAYERS, VGG19
from anyv2v.progress import Step

CPU = Machine(torch.device("cpu"), torch.float32)
SHAPES = {  # of the published net: (in, out) of the convolution with this number among its modules
    **dict(zip((0, 2, 5, 7), ((3, 64), (64, 64), (64, 128), (128, 128)), strict=True)),
    **dict(zip((10, 12, 14, 16), ((128, 256), *[(256, 256)] * 3), strict=True)),
    **dict(zip((19, 21, 23, 25), ((256, 512), *[(512, 512)] * 3), strict=True)),
    **dict.fromkeys((28, 30, 32, 34), (512, 512)),
}
RECTIFIED = {"conv1_1": 1, "conv2_1": 6, "conv3_1": 11, "conv4_1": 20, "conv4_2": 22, "conv5_1": 29}


def photo(name: str, height: int, width: int) -> np.ndarray:
    return np.rint(255 * resize(getattr(data, name)(), (height, width), anti_aliasing=True)).astype(np.uint8)


def pixels(frame: np.ndarray, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.from_numpy(frame.copy()).permute(2, 0, 1)[None].to(dtype) / 255


@pytest.fixture(scope="module")
def net() -> VGG19:
    """He's initialisation, which keeps the features' size from layer to layer."""
    torch.manual_seed(0)
    net = VGG19("average", narrower=16)
    for module in net.features:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.normal_(module.bias, std=0.1)
    return net.requires_grad_(False)


@pytest.fixture(scope="module")
def editor(net: VGG19) -> Callable[..., StyleTransfer]:
    return lambda **settings: StyleTransfer(net, StyleTransferSettings(**{"steps": 15, **settings}))


CAT, COFFEE = photo("chelsea", 64, 96), photo("coffee", 80, 60)
PAINT = Request(CAT, references=(COFFEE,))


# The net


def published(narrower: int = 1) -> dict[str, Tensor]:
    """The weights' names and shapes as timm has them; each weight is full of its number."""
    weights = {"pre_logits.fc1.weight": torch.zeros(2), "head.fc.bias": torch.zeros(2)}
    for k, (last, width) in SHAPES.items():
        channels = last // narrower if last > 3 else last
        weights[f"features.{k}.weight"] = torch.full((width // narrower, channels, 3, 3), float(k))
        weights[f"features.{k}.bias"] = torch.zeros(width // narrower)
    return weights


def test_the_published_weights_fit(tmp_path: Path) -> None:
    save_file(published(), tmp_path / "model.safetensors")
    for where in (tmp_path, tmp_path / "model.safetensors"):
        loaded = StyleTransfer.load({"model": where}, StyleTransferSettings(), CPU).net
        assert {k: (m.in_channels, m.out_channels) for k, m in convolutions(loaded)} == SHAPES
        assert all(module.weight.unique().item() == k for k, module in convolutions(loaded))
    assert not any(p.requires_grad for p in loaded.parameters())


def convolutions(net: VGG19) -> list[tuple[int, nn.Conv2d]]:
    return [(k, module) for k, module in enumerate(net.features) if isinstance(module, nn.Conv2d)]


@pytest.mark.parametrize(("pooling", "pool"), [("average", nn.AvgPool2d), ("max", nn.MaxPool2d)])
def test_torchvision_s_own_file_and_half_precision(tmp_path: Path, monkeypatch, pooling: str, pool) -> None:
    """As it was written in 2017."""
    monkeypatch.setattr(style_transfer, "VGG19", partial(VGG19, narrower=16))
    weights = {name: w.half() for name, w in published(16).items() if name.startswith("features.")}
    whole = weights | {"classifier.0.weight": torch.zeros(2)}
    torch.save(whole, tmp_path / "vgg19.pth", _use_new_zipfile_serialization=False)
    machine = Machine(torch.device("cpu"), torch.bfloat16)
    settings = StyleTransferSettings(pooling=pooling)
    net = StyleTransfer.load({"model": tmp_path / "vgg19.pth"}, settings, machine).net
    assert {parameter.dtype for parameter in net.parameters()} == {torch.float32}
    assert sum(isinstance(module, pool) for module in net.features) == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("features.34.bias"), "lacks 1 weights, among them features.34.bias"),
        (lambda weights: weights.update({"features.1.weight": torch.zeros(4)}), r"1 weights.*features\.1\."),
        (lambda weights: weights.update({"features.0.bias": torch.zeros(5)}), r"shapes for 1.*features\.0\."),
        (lambda weights: weights.clear(), "lacks 32 weights"),
    ],
    ids=["missing", "extra", "shape", "none"],
)
def test_weights_that_do_not_fit(tmp_path: Path, monkeypatch, change, message: str) -> None:
    monkeypatch.setattr(style_transfer, "VGG19", partial(VGG19, narrower=16))
    weights = published(16)
    change(weights)
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        StyleTransfer.load({"model": tmp_path}, StyleTransferSettings(), CPU)


def test_layers_are_what_the_paper_calls_them(net: VGG19) -> None:
    picture = pixels(CAT)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normalised = (picture - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    for layer, seen in net(picture, RECTIFIED).items():
        torch.testing.assert_close(seen, net.features[: RECTIFIED[layer] + 1](normalised))


@pytest.mark.parametrize("pooling", ["average", "max"])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (17, 33), (64, 48)])
def test_the_net_takes_any_size(pooling: str, height: int, width: int) -> None:
    thin = VGG19(pooling, narrower=16)
    picture = torch.rand(1, 3, height, width, requires_grad=True)
    seen = thin(picture, LAYERS)
    for name, features in seen.items():
        scale = 2 ** (int(name[4]) - 1)
        assert features.shape[2:] == (-(-height // scale), -(-width // scale))
    seen["conv5_4"].sum().backward()
    if pooling == "average":
        assert picture.grad[..., -1, :].any() and picture.grad[..., -1].any()


# The loss


features = st.tuples(st.integers(1, 6), st.integers(1, 5), st.integers(1, 5), st.integers(0, 99)).map(
    lambda drawn: torch.randn(
        1, *drawn[:3], dtype=torch.float64, generator=torch.Generator().manual_seed(drawn[3])
    )
)


@given(features)
def test_the_statistic_is_the_gram_matrix_of_the_paper(seen: Tensor) -> None:
    flat, ours = seen[0].flatten(1).tolist(), gram(seen)
    for i, one in enumerate(flat):
        for j, other in enumerate(flat):
            theirs = sum(a * b for a, b in zip(one, other, strict=True))  # eq. 3
            assert ours[i, j].item() * len(one) == pytest.approx(theirs, abs=1e-12)


@given(features, st.randoms(use_true_random=False))
def test_the_statistic_knows_no_places_and_is_positive(seen: Tensor, random) -> None:
    ours = gram(seen)
    places = list(range(seen[0, 0].numel()))
    random.shuffle(places)
    shuffled = seen.flatten(2)[:, :, places].reshape(seen.shape)
    torch.testing.assert_close(gram(shuffled), ours)
    torch.testing.assert_close(gram(torch.cat([seen, seen], dim=3)), ours)
    assert torch.linalg.eigvalsh(ours).min() > -1e-12


def plain_loss(net: VGG19, x: Tensor, p: Tensor, a: Tensor, settings: StyleTransferSettings) -> Tensor:
    """The paper's equations as they stand, each with the factor that the module's docstring tells."""
    names = ("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1")
    f, p, a = (net(picture, {*names, "conv4_2"}) for picture in (x, p, a))
    energy = (p["conv4_2"] ** 2).mean((2, 3)).sum() + (a["conv4_2"] ** 2).mean((2, 3)).sum()
    content = 1 / 2 * ((f["conv4_2"] - p["conv4_2"]) ** 2).sum()  # eq. 1
    total = settings.content_weight * content * 2 / (energy * p["conv4_2"][0, 0].numel())
    for name in names:
        n, m = f[name].shape[1], f[name][0, 0].numel()
        g, c, b = (torch.einsum("bihw,bjhw->ij", one[name], one[name]) for one in (f, p, a))
        b = b * m / a[name][0, 0].numel()
        e = 1 / (4 * n**2 * m**2) * ((g - b) ** 2).sum()  # eq. 4
        w = 4 * n**2 * m**2 / ((c**2).sum() + (b**2).sum()) / len(names)
        total = total + settings.style_weight * w * e  # eqs. 5, 7
    across, down = x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]
    return total + settings.tv_weight * ((across**2).sum() + (down**2).sum()) / x.numel()


@pytest.fixture(scope="module")
def exact(net: VGG19) -> VGG19:
    precise = VGG19("average", narrower=16).double()
    precise.load_state_dict(net.state_dict())
    return precise.requires_grad_(False)


def test_the_loss_and_its_gradient_are_the_paper_s(exact: VGG19) -> None:
    settings = StyleTransferSettings(content_weight=2, style_weight=7, tv_weight=3)
    p, a = pixels(CAT[:33, :21], torch.float64), pixels(COFFEE[:19, :40], torch.float64)
    x = (p + 0.1 * torch.rand(p.shape, dtype=p.dtype)).requires_grad_()
    ours, theirs = Loss(exact, p, [a], settings)(x), plain_loss(exact, x, p, a, settings)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    gradients = [torch.autograd.grad(loss, x)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-15)


def test_the_gradient_is_that_of_differences(exact: VGG19) -> None:
    p, a = pixels(CAT[20:26, 20:25], torch.float64), pixels(COFFEE[20:27, 20:26], torch.float64)
    loss = Loss(exact, p, [a], StyleTransferSettings())
    assert torch.autograd.gradcheck(loss, (p.flip(3).requires_grad_(),), eps=1e-7, atol=1e-6)


def test_several_references_count_alike(net: VGG19) -> None:
    content, references = pixels(CAT), [pixels(COFFEE), pixels(COFFEE[::-1, 20:])]
    both = Loss(net, content, references, StyleTransferSettings()).grams
    each = [Loss(net, content, [one], StyleTransferSettings()).grams for one in references]
    for name, wanted in both.items():
        torch.testing.assert_close(wanted, (each[0][name] + each[1][name]) / 2)


# The editor


def test_the_result_has_the_reference_s_statistics(net: VGG19, editor) -> None:
    painter = editor(style_weight=100, tv_weight=0)
    painted = painter.edit(PAINT)
    loss = Loss(net, pixels(CAT), [pixels(photo("coffee", 91, 68))], painter.settings)

    def style(frame: np.ndarray) -> list[float]:
        seen = net(pixels(frame), loss.grams)
        return [((gram(seen[name]) - wanted) ** 2).sum().item() for name, wanted in loss.grams.items()]

    assert all(ours < before / 3 for ours, before in zip(style(painted), style(CAT), strict=True))
    assert loss(pixels(painted)) < loss(pixels(CAT)) / 3
    # The cat is still in place: its features are nearer than those of a cat moved aside.
    assert content(net, painted) < content(net, np.roll(CAT, 24, axis=1))


def content(net: VGG19, frame: np.ndarray) -> float:
    """How far the frame is from the cat, but for brightness and contrast of each feature."""
    ours, theirs = (net(pixels(f), ["conv4_2"])["conv4_2"].flatten(2) for f in (frame, CAT))
    ours, theirs = ((x - x.mean(2, keepdim=True)) / (x.std(2, keepdim=True) + 1e-3) for x in (ours, theirs))
    return (ours - theirs).square().mean().item()


def test_more_steps_leave_less_loss(net: VGG19, editor) -> None:
    settings = StyleTransferSettings()
    loss = Loss(net, pixels(CAT), [pixels(photo("coffee", 91, 68))], settings)
    left = [loss(pixels(editor(steps=steps, scales=1).edit(PAINT))).item() for steps in (1, 5, 30)]
    assert loss(pixels(CAT)) > left[0] > left[1] > left[2]


@pytest.mark.parametrize(("height", "width"), [(65, 97), (3, 2), (1, 1), (40, 7)])
def test_any_size_and_every_step_is_told(editor, height: int, width: int) -> None:
    told: list[Step] = []
    frame = np.ascontiguousarray(np.tile(CAT, (2, 2, 1))[:height, :width])
    painted = editor(steps=4, side=48).edit(Request(frame, references=(COFFEE,)), told.append)
    assert painted.shape == frame.shape and painted.dtype == np.uint8
    assert [(step.stage, step.done, step.total) for step in told] == [
        ("edit frame", k + 1, 12) for k in range(12)
    ]


def test_it_is_painted_from_coarse_to_fine(net: VGG19, editor) -> None:
    painter, sizes = editor(steps=1, side=40, scales=3), []
    with net.register_forward_pre_hook(lambda _net, args: sizes.append(tuple(args[0].shape[2:]))):
        painter.edit(PAINT)
    own, reference = (
        list(dict.fromkeys(s for s in sizes if (s[1] > s[0]) is wide)) for wide in (True, False)
    )
    assert own == [(8, 12), (16, 24), (33, 49)]  # 64 x 96 scaled to 40 x 40 pixels, their half and quarter
    assert reference == [(11, 8), (23, 17), (46, 35)]  # as large, in its own shape


def test_nothing_is_random(editor) -> None:
    first, again = (editor(steps=4).edit(Request(CAT, references=(COFFEE,), seed=k)) for k in (0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, CAT)


@pytest.mark.parametrize(
    ("settings", "reference"),
    [({"style_weight": 0}, COFFEE), ({}, CAT)],
    ids=["no style", "the frame's own style"],
)
@pytest.mark.parametrize("side", [512, 32])
def test_what_is_right_already_stays(editor, settings, reference: np.ndarray, side: int) -> None:
    painted = editor(tv_weight=0, side=side, **settings).edit(Request(CAT, references=(reference,)))
    assert np.array_equal(painted, CAT)


def test_a_larger_reference_has_larger_strokes(editor) -> None:
    """Stripes of 4 pixels come out as wide as the reference is scaled."""
    stripes = np.repeat(np.tile([[[20], [235]]], (96, 12, 3)).astype(np.uint8), 4, axis=1)
    grey = np.random.default_rng(0).integers(100, 156, (96, 96, 3)).astype(np.uint8)
    detail = []
    for scale in (0.5, 1, 2):
        painter = editor(style_scale=scale, content_weight=0, tv_weight=0)
        painted = painter.edit(Request(grey, references=(stripes,))).astype(float)
        detail.append(np.abs(np.diff(painted, axis=1)).mean() / painted.std())
    assert detail[0] > detail[1] > detail[2]


def test_colours_can_be_kept(editor) -> None:
    plain, kept = (editor(keep_colours=keep).edit(PAINT).astype(float) for keep in (False, True))
    inside = ((kept > 0) & (kept < 255)).all(axis=2)  # what is cut off changes its colour
    assert inside.mean() > 0.8
    assert chroma_moved(kept)[inside].max() <= 2
    assert chroma_moved(plain)[inside].mean() > 5
    assert np.abs(kept - CAT).mean() > 5


def chroma_moved(frame: np.ndarray) -> np.ndarray:
    """How much the differences of the channels changed, which luminance does not touch."""
    return np.abs(np.diff(frame, axis=2) - np.diff(CAT.astype(float), axis=2)).max(axis=2)


def test_the_frame_keeps_its_light_with_its_colours(editor) -> None:
    dark = Request(CAT, references=(COFFEE // 5,))
    plain, kept = (editor(keep_colours=keep).edit(dark).mean() for keep in (False, True))
    assert plain < CAT.mean() - 30
    assert abs(kept - CAT.mean()) < 15


@pytest.mark.parametrize("frame", [CAT, np.zeros_like(CAT)], ids=["cat", "black"])
def test_a_black_reference(editor, frame: np.ndarray) -> None:
    black = Request(frame, references=(np.zeros_like(COFFEE),))
    plain, kept = (editor(keep_colours=keep).edit(black).mean() for keep in (False, True))
    assert plain < frame.mean() * 0.7 + 10
    assert abs(kept - frame.mean()) < 30


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"content_weight": -1}, "content weight is -1; it must be 0 to 1e"),
        ({"style_scale": 0.01}, "style scale is 0.01; it must be 0.1 to 10"),
        ({"tv_weight": float("nan")}, "tv weight is nan"),
        ({"scales": 0}, "scales is 0; it must be 1 to 8"),
        ({"steps": 0}, "steps is 0"),
        ({"side": 8}, "side is 8"),
        ({"style_layers": ()}, "name one at least"),
        ({"style_layers": ("conv1_1", "relu9_9")}, "no layer 'relu9_9'; there are conv1_1, conv1_2"),
        ({"content_layer": "conv6_1"}, "no layer 'conv6_1'"),
    ],
)
def test_settings_out_of_range(settings, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        StyleTransferSettings(**settings)
