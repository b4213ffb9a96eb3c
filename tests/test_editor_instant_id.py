"""The editor of faces: what it takes from which picture, and what it says when there is no face."""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file

from anyv2v import Size
from anyv2v.editors import instant_id
from anyv2v.editors.faces import Face, analyse, draw_points
from anyv2v.editors.instant_id import InstantID, InstantIDSettings, wearing
from anyv2v.editors.protocol import Machine, Request
from anyv2v.errors import CheckpointError, EditorError, OptionError
from anyv2v.progress import Step
from golden_data import Golden

# numpy 2 wants more of torch's tensors than they have, when diffusers hands it one
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy")

FRAME = np.random.default_rng(0).integers(0, 256, (97, 65, 3), np.uint8)
REFERENCE = np.full((50, 40, 3), 200, np.uint8)
POINTS = np.array([[22.3, 25.7], [41.6, 24.2], [32.5, 35.1], [25.4, 44.9], [40.2, 43.6]])
EMBEDDING = np.random.default_rng(1).normal(0, 1, 512).astype(np.float32)


def face(picture: np.ndarray) -> Face:
    """A stand-in for insightface: each picture shows one person's face at one place."""
    return Face(EMBEDDING, POINTS)


@pytest.fixture(scope="module")
def checkpoint() -> Path:
    return Path(Golden("instant-id").checkpoint)


Load = Callable[..., InstantID]


@pytest.fixture
def load(checkpoint: Path, monkeypatch) -> Load:
    """Load the editor with four steps on a small canvas."""

    def load(faces=face, identity=checkpoint, dtype=torch.float32, low_memory=False, **settings) -> InstantID:
        monkeypatch.setattr(instant_id, "analyse", lambda _folder: faces)
        weights = {"sdxl": checkpoint, "identity": identity, "faces": checkpoint}
        told = InstantIDSettings(**{"steps": 4, "side": 64} | settings)
        return InstantID.load(weights, told, Machine(torch.device("cpu"), dtype, low_memory))

    return load


def request(frame=FRAME, prompt="a man", references=(REFERENCE,), seed=0) -> Request:
    return Request(frame, prompt, references=references, seed=seed)


def test_an_edit_has_the_frame_s_size_and_tells_its_steps(load: Load) -> None:
    steps: list[Step] = []
    editor = load()
    edited = editor.edit(request(), steps.append)
    assert edited.shape == FRAME.shape
    assert edited.dtype == np.uint8
    assert steps == [Step("edit frame", done, 3) for done in (1, 2, 3)]  # 0.85 of 4 steps
    assert np.array_equal(edited, editor.edit(request()))
    for other in (request(seed=1), request(prompt="a woman"), request(prompt="")):
        assert not np.array_equal(edited, editor.edit(other))


def test_the_face_is_the_references_and_its_place_the_frame_s(load: Load) -> None:
    seen: list[Size] = []

    def found(picture: np.ndarray) -> Face:
        seen.append(Size.of(picture))
        return Face(EMBEDDING * (len(seen) + 1), POINTS + len(seen))

    editor, told = load(found), {}
    editor.pipe.controlnet.register_forward_pre_hook(lambda _net, _in, kw: told.update(kw), with_kwargs=True)
    editor.edit(request(references=(REFERENCE, FRAME)))
    canvas = Size(64, 128)
    assert seen == [canvas, Size(40, 50), Size(65, 97)]
    drawing = torch.from_numpy(draw_points(POINTS + 1, canvas)).permute(2, 0, 1) / 255
    torch.testing.assert_close(told["controlnet_cond"], drawing.expand(2, -1, -1, -1))
    person = torch.from_numpy(np.stack([EMBEDDING * 3, EMBEDDING * 4]))
    with wearing(editor.pipe, person, guided=True) as embeddings:
        assert embeddings.shape == (2, 1, 2, 512)
        torch.testing.assert_close(embeddings[1, 0], person)
        assert not embeddings[0].any()


@pytest.mark.parametrize(("strength", "same"), [(0.5, False), (1.0, True)])
def test_less_than_full_strength_begins_with_the_frame(load: Load, strength: float, same: bool) -> None:
    editor = load(strength=strength)
    edits = [editor.edit(request(frame)) for frame in (FRAME, 255 - FRAME)]
    assert np.array_equal(*edits) == same


def test_stretched_to_the_authors_sizes(load: Load) -> None:
    seen: list[Size] = []
    with pytest.raises(EditorError):
        load(lambda picture: seen.append(Size.of(picture)), fit="stretch").edit(request())
    assert seen == [Size(832, 1280)]


@pytest.mark.parametrize(("faces", "where"), [("", "the video's first frame"), ("yy", "reference 2")])
def test_a_picture_without_a_face(load: Load, faces: str, where: str) -> None:
    found = iter(face(FRAME) if k < len(faces) else None for k in range(3))
    editor = load(lambda _picture: next(found))
    with pytest.raises(EditorError, match=f"there is no face in {where}; "):
        editor.edit(request(references=(REFERENCE, REFERENCE)))


def test_nothing_stays_behind_of_an_edit_that_was_stopped(load: Load) -> None:
    def stop(_step: Step) -> None:
        raise KeyboardInterrupt

    editor = load()
    with pytest.raises(KeyboardInterrupt):
        editor.edit(request(), stop)
    assert not editor.pipe.controlnet._forward_pre_hooks


@pytest.mark.parametrize(("guess", "prompts", "order"), [(True, 1, [1]), (False, 2, [0, 0, 1, 1])])
def test_tokens_follow_their_half(load: Load, guess: bool, prompts: int, order: list[int]) -> None:
    """What the pipeline may do besides, and the community's cannot."""
    pipe, told = load(strength=1.0).pipe, {}
    person = torch.from_numpy(EMBEDDING)[None]
    with wearing(pipe, person, guided=True) as embeddings:
        pipe.controlnet.register_forward_pre_hook(lambda _net, _in, kw: told.update(kw), with_kwargs=True)
        drawing = np.zeros((1, 64, 64, 3), np.float32)
        pipe(
            ["a man"] * prompts,
            image=drawing,
            ip_adapter_image_embeds=[embeddings],
            guess_mode=guess,
            num_inference_steps=1,
            output_type="latent",
        )
        halves = instant_id.face_tokens(pipe.unet, embeddings[:, 0])
    assert torch.equal(told["encoder_hidden_states"], halves[order])


def test_offloading_and_low_memory_change_nothing(load: Load) -> None:
    whole = load().edit(request())
    sparing = load(low_memory=True)
    assert np.array_equal(sparing.edit(request()), whole)
    sparing.pipe.enable_model_cpu_offload(device="cpu")  # the same hooks that move the nets on CUDA
    for _ in range(2):
        assert np.array_equal(sparing.edit(request()), whole)


def test_half_precision_and_nothing_is_said(load: Load, monkeypatch) -> None:
    said: list[logging.LogRecord] = []
    for library in ("diffusers", "transformers"):
        monkeypatch.setattr(logging.getLogger(library), "handlers", [listener(said)])
    whole, half = (load(dtype=dtype).edit(request()) for dtype in (torch.float32, torch.float16))
    assert not said
    assert np.abs(whole.astype(float) - half).mean() < 8


def listener(said: list[logging.LogRecord]) -> logging.Handler:
    handler = logging.Handler()
    handler.emit = said.append
    return handler


def test_the_adapter_as_published(load: Load, checkpoint: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoint, tmp_path / "identity"))
    flat = load_file(folder / "ip-adapter.safetensors")
    nested: dict[str, dict[str, torch.Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for name, weight in flat.items():
        part, _, rest = name.partition(".")
        nested[part][rest] = weight
    (folder / "ip-adapter.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no checkpoint of InstantID: ip-adapter\.bin is missing"):
        load(identity=folder)
    torch.save(nested, folder / "ip-adapter.bin")
    assert np.array_equal(load(identity=folder).edit(request()), load().edit(request()))
    torch.save(Path("surprise"), folder / "ip-adapter.bin")
    with pytest.raises(CheckpointError, match=r"ip-adapter\.bin is a broken checkpoint"):
        load(identity=folder)


def test_the_adapter_of_another_model(load: Load, checkpoint: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoint, tmp_path / "identity"))
    weights = load_file(folder / "ip-adapter.safetensors")
    weights = {name: weight[:, :32] if "_ip.weight" in name else weight for name, weight in weights.items()}
    save_file({name: weight.clone() for name, weight in weights.items()}, folder / "ip-adapter.safetensors")
    with pytest.raises(CheckpointError, match=r"ip-adapter\.safetensors is a broken checkpoint"):
        load(identity=folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps is 0; it must be 1 to 1000"),
        ({"guidance_scale": 0.5}, "guidance scale is 0.5; it must be 1 to 100"),
        ({"strength": 1.5}, "strength is 1.5; it must be 0 to 1"),
        ({"strength": 0.01}, "strength 0.01 of 30 steps leaves none"),
        ({"control_start": 0.5, "control_end": 0.5}, "control start must be less than control end"),
        ({"side": 8}, "side is 8; it must be 64 to 4096"),
        ({"identity_scale": 3}, "identity scale is 3; it must be 0 to 2"),
        ({"pose_scale": float("nan")}, "pose scale is nan; it must be 0 to 2"),
    ],
)
def test_settings_out_of_range(settings: dict[str, float], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        TypeAdapter(InstantIDSettings).validate_python(settings)


def test_insightface_is_asked_for_the_largest_face(tmp_path: Path, monkeypatch, capsys) -> None:
    """A stand-in for its package: BGR goes in, and nothing is to be downloaded or printed."""
    found: list[SimpleNamespace] = []

    class FaceAnalysis:
        def __init__(self, name: str, allowed_modules: list[str], providers: list[str]) -> None:
            assert Path(name).is_absolute()
            assert allowed_modules == ["detection", "recognition"]
            assert providers == ["CPUExecutionProvider"]
            print("find model:", name)

        def prepare(self, ctx_id: int, det_size: tuple[int, int]) -> None:
            assert (ctx_id, det_size) == (-1, (640, 640))

        def get(self, picture: np.ndarray) -> list[SimpleNamespace]:
            assert picture[0, 0].tolist() == [3, 2, 1]
            return found

    package, module = ModuleType("insightface"), ModuleType("insightface.app")
    module.FaceAnalysis = FaceAnalysis
    monkeypatch.setitem(sys.modules, "insightface", package)
    monkeypatch.setitem(sys.modules, "insightface.app", module)
    monkeypatch.chdir(tmp_path)
    largest = analyse(Path())
    assert not capsys.readouterr().out
    picture = np.full((8, 8, 3), (1, 2, 3), np.uint8)
    assert largest(picture) is None
    boxes = [[0, 0, 5, 5], [10, 10, 30, 12], [-9, 4, 1, 14]]
    found += [SimpleNamespace(bbox=np.array(box), embedding=k, kps=POINTS) for k, box in enumerate(boxes)]
    assert largest(picture).embedding == 2
