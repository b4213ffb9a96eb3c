"""Pipelines of diffusers as editors: the real classes with tiny random nets, and the signatures of all."""

from __future__ import annotations

import importlib
import inspect
import json
import logging
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import diffusers
import numpy as np
import pytest
import torch
import transformers
from diffusers.utils import logging as of_diffusers
from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file
from transformers.utils import logging as of_transformers

import tiny_pipelines
from anyv2v.editors.canvas import Canvas
from anyv2v.editors.pipeline import Pipeline, PipelineSettings, unfit
from anyv2v.editors.protocol import Machine, Request
from anyv2v.errors import CheckpointError, EditorError, OptionError
from anyv2v.picture import Size
from anyv2v.progress import Step

CPU = Machine(torch.device("cpu"), torch.float32)


def picture(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


FRAME, REFERENCE = picture(65, 97), picture(90, 70, seed=1)
MASK = np.zeros((97, 65), bool)
MASK[20:60, 10:50] = True


@dataclass(frozen=True)
class Case:
    """A tiny pipeline, and how it is called."""

    build: Callable[[], Any]
    needs_reference: bool = False
    takes_reference: bool = False
    paints_mask: bool = False
    takes_prompt: bool = True
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def request(self) -> Request:
        return Request(FRAME, "make it red", (REFERENCE,) if self.needs_reference else (), None, MASK, seed=3)


WORDS = {"max_sequence_length": 32}
KLEIN = WORDS | {"text_encoder_out_layers": (1, 2, 3)}
CASES = {
    "instruct-pix2pix": Case(
        tiny_pipelines.instruct_pix2pix, settings={"guidance_scale": 7.5, "image_guidance_scale": 1.5}
    ),
    "paint-by-example": Case(
        tiny_pipelines.paint_by_example, needs_reference=True, paints_mask=True, takes_prompt=False
    ),
    "flux2-klein": Case(
        tiny_pipelines.flux2_klein, takes_reference=True, settings={"guidance_scale": 1.0, "extra": KLEIN}
    ),
    "subject": Case(
        tiny_pipelines.flux2_klein,
        takes_reference=True,
        paints_mask=True,
        settings={
            "guidance_scale": 1.0,
            "strength": 1.0,
            "pipeline": "Flux2KleinInpaintPipeline",
            "extra": KLEIN,
        },
    ),
    "flux-kontext": Case(tiny_pipelines.flux_kontext, settings={"guidance_scale": 2.5, "extra": WORDS}),
    "qwen-image-edit": Case(
        tiny_pipelines.qwen_image_edit_plus,
        takes_reference=True,
        settings={"true_cfg_scale": 4.0, "negative_prompt": " "},
    ),
    "longcat-image-edit": Case(tiny_pipelines.longcat_image_edit),
    "omnigen": Case(tiny_pipelines.omnigen, takes_reference=True, settings={"image_guidance_scale": 1.6}),
}
named = pytest.mark.parametrize("name", CASES)


@pytest.fixture(scope="module", autouse=True)
def stand_ins():
    """What needs torchvision, and pictures of a megapixel whatever is asked for."""
    omnigen = importlib.import_module("diffusers.pipelines.omnigen.processor_omnigen")
    longcat = importlib.import_module("diffusers.pipelines.longcat_image.pipeline_longcat_image_edit")
    qwen = "diffusers.pipelines.qwenimage.pipeline_qwenimage_edit_plus"
    megapixel = longcat.calculate_dimensions
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformers.Qwen2VLProcessor", tiny_pipelines.Qwen2VLProcessor)
        patch.setattr(omnigen, "transforms", tiny_pipelines.TRANSFORMS, raising=False)
        patch.setattr(
            "diffusers.pipelines.omnigen.pipeline_omnigen.OmniGenMultiModalProcessor",
            omnigen.OmniGenMultiModalProcessor,
            raising=False,
        )
        patch.setattr(longcat, "calculate_dimensions", lambda area, ratio: megapixel(area // 64, ratio))
        patch.setattr(f"{qwen}.CONDITION_IMAGE_SIZE", 48**2)
        patch.setattr(f"{qwen}.VAE_IMAGE_SIZE", 128**2)
        yield


@pytest.fixture(scope="module")
def folder(stand_ins, tmp_path_factory) -> Callable[[str], Path]:
    """Where a tiny pipeline is saved."""

    @cache
    def saved(name: str) -> Path:
        torch.manual_seed(0)
        where = tmp_path_factory.mktemp(name)
        CASES[name].build().save_pretrained(where)
        return where

    return saved


@pytest.fixture(scope="module")
def editor(folder) -> Callable[[str], Pipeline]:
    @cache
    def loaded(name: str) -> Pipeline:
        return load(folder(name), **CASES[name].settings)

    return loaded


def load(where: Path, machine: Machine = CPU, **settings: Any) -> Pipeline:
    return Pipeline.load({"model": where}, PipelineSettings(steps=2, **settings), machine)


@named
def test_it_edits(name: str, editor) -> None:
    """The same for the same seed, whatever others draw, and without a trace of what it draws itself."""
    ours, request, steps = editor(name), CASES[name].request, []
    drawn = torch.random.get_rng_state()
    edited = ours.edit(request, steps.append)
    assert edited.shape == FRAME.shape and edited.dtype == np.uint8 and edited.std() > 1
    assert steps == [Step("edit frame", 1, 2), Step("edit frame", 2, 2)]
    assert torch.equal(torch.random.get_rng_state(), drawn)
    torch.rand(1)
    np.testing.assert_array_equal(ours.edit(request), edited)
    assert (ours.edit(replace(request, seed=4)) != edited).any()


@named
def test_it_looks_at_what_it_is_given(name: str, editor) -> None:
    case, request = CASES[name], CASES[name].request
    edited = editor(name).edit(request)

    def matters(**changed: Any) -> bool:
        return bool((editor(name).edit(replace(request, **changed)) != edited).any())

    assert matters(frame=255 - FRAME)
    assert matters(instruction="something that is far bluer than it was") == case.takes_prompt
    assert matters(mask=None) == case.paints_mask
    if case.needs_reference or case.takes_reference:
        assert matters(references=(255 - REFERENCE,))
    else:
        with pytest.raises(OptionError, match="takes no reference, not 1"):
            matters(references=(REFERENCE,))


@named
def test_no_pipeline_rescales(name: str, editor, monkeypatch) -> None:
    """But for LongCat-Image, which always works at one area, in the frame's aspect."""
    made: list[tuple[int, ...]] = []
    picture_of = Pipeline._picture

    def see(self: Pipeline, result: Any) -> np.ndarray:
        made.append(result.images[0].shape)
        return picture_of(self, result)

    monkeypatch.setattr(Pipeline, "_picture", see)
    editor(name).edit(CASES[name].request)
    assert made == [(160, 112, 3) if name == "longcat-image-edit" else (112, 80, 3)]


def test_kontext_sees_the_frame_as_it_is(editor, monkeypatch) -> None:
    vae, seen = editor("flux-kontext").pipeline.vae, []
    encode = vae.encode
    monkeypatch.setattr(vae, "encode", lambda pixels: seen.append(pixels) or encode(pixels))
    editor("flux-kontext").edit(Request(FRAME, "make it red"))
    levels = ((seen[0][0].permute(1, 2, 0) + 1) * 127.5).round().numpy()
    np.testing.assert_array_equal(levels[:97, :65], FRAME)


class Mirror:
    """A pipeline that shows what it is shown, or what it is told to."""

    vae_scale_factor = 8
    result: Any = None

    def __call__(self, image: Any, prompt: str, height: int, width: int, output_type: str = "pil") -> Any:
        self.told = {"image": image, "prompt": prompt}
        assert output_type == "np" and np.asarray(image).shape == (height, width, 3)
        assert height % 16 == 0 and width % 16 == 0
        return self.result or SimpleNamespace(images=np.asarray(image)[None] / 255)


class Gallery:
    """One that looks at several pictures, as OmniGen does."""

    def __call__(self, prompt: str, input_images: Any) -> Any:
        self.told = {"prompt": prompt, "images": [np.asarray(image) for image in input_images]}
        return SimpleNamespace(images=self.told["images"][0][None] / 255)


class Inpainter:
    """One that is told where to paint, in both ways."""

    def __call__(self, image: Any, mask_image: Any, mask: Any = None) -> Any:
        self.told = {"mask_image": np.asarray(mask_image), "mask": mask if mask is None else np.asarray(mask)}
        return SimpleNamespace(images=np.asarray(image)[None] / 255)


def edit(pipeline: Any, request: Request, **settings: Any) -> np.ndarray:
    return Pipeline(pipeline, PipelineSettings(**settings)).edit(request)


@pytest.mark.parametrize("size", [(65, 97), (8, 8), (1, 1), (1000, 30), (30, 1000), (640, 352)])
def test_every_pixel_stays_where_it_was(size: tuple[int, int]) -> None:
    frame = picture(*size)
    np.testing.assert_array_equal(edit(Mirror(), Request(frame)), frame)


@pytest.mark.parametrize("size", [(65, 97), (8, 8), (1000, 30)])
def test_flux_2_takes_any_size(size: tuple[int, int], editor) -> None:
    frame = picture(*size)
    assert editor("flux2-klein").edit(Request(frame, "make it red")).shape == frame.shape


def test_it_works_at_an_area() -> None:
    rows, columns = np.mgrid[0:97, 0:65]
    smooth = np.stack([2 * rows, 3 * columns, rows + columns], axis=-1).astype(np.uint8)
    mirror = Mirror()
    edited = edit(mirror, Request(smooth), area=256**2)
    assert 256**2 <= np.prod(mirror.told["image"].size) < 1.1 * 256**2
    assert np.abs(edited.astype(int) - smooth).max() <= 2


def test_a_result_of_another_size_is_laid_back() -> None:
    smooth = cv2.resize(picture(4, 4), (160, 96), interpolation=cv2.INTER_CUBIC)
    mirror = Mirror()
    mirror.result = SimpleNamespace(images=cv2.resize(smooth, (320, 192))[None] / 255)
    assert np.abs(edit(mirror, Request(smooth)).astype(int) - smooth).max() <= 12


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (SimpleNamespace(images=np.zeros((1, 96, 64, 3)), nsfw_content_detected=[True]), "for unsafe"),
        (SimpleNamespace(images=np.full((1, 96, 64, 3), np.nan)), "overflowed"),
        (SimpleNamespace(images=[]), "gave no picture"),
        (SimpleNamespace(images=np.zeros((1, 4, 96, 64, 3))), "gave no picture"),
        (SimpleNamespace(text="a cat"), "gave no picture"),
    ],
)
def test_no_picture_is_an_error(result: Any, message: str) -> None:
    mirror = Mirror()
    mirror.result = result
    with pytest.raises(EditorError, match=f"^(Mirror|the editor's) .*{message}"):
        edit(mirror, Request(FRAME))


def test_what_a_pipeline_refuses_is_said_in_a_line(editor) -> None:
    with pytest.raises(EditorError, match=r"^Flux2KleinPipeline cannot do this: Image too small: 20×20"):
        editor("flux2-klein").edit(Request(FRAME, "two of them", (picture(20, 20),)))


def test_a_request_without_an_instruction_has_the_editor_s() -> None:
    mirror = Mirror()
    edit(mirror, Request(FRAME), instruction="put it there")
    assert mirror.told["prompt"] == "put it there"
    edit(mirror, Request(FRAME, "no, there"), instruction="put it there")
    assert mirror.told["prompt"] == "no, there"


def test_omnigen_is_told_where_pictures_stand() -> None:
    gallery, two = Gallery(), (REFERENCE, REFERENCE)
    edit(gallery, Request(FRAME, "make it red", two))
    places = [f"<img><|image_{index}|></img>" for index in (1, 2, 3)]
    assert gallery.told["prompt"] == f"{' '.join(places)} make it red"
    edit(gallery, Request(FRAME, f"put {places[1]} on {places[0]}", two[:1]))
    assert gallery.told["prompt"] == f"put {places[1]} on {places[0]}"


def test_a_subject_is_cut_out() -> None:
    gallery, subject = Gallery(), np.zeros((90, 70), bool)
    subject[10:50, 20:40] = True
    subject[10, 20] = False
    edit(gallery, Request(FRAME, "", (REFERENCE, REFERENCE), reference_mask=subject))
    _, cut, whole = gallery.told["images"]
    assert cut.shape == (40, 40, 3)
    assert (cut[:, :10] == 255).all() and (cut[:, 30:] == 255).all() and (cut[0, 10] == 255).all()
    np.testing.assert_array_equal(cut[1:, 10:30], REFERENCE[11:50, 20:40])
    np.testing.assert_array_equal(whole, REFERENCE)


def test_a_mask_has_the_frame_s_place() -> None:
    inpainter = Inpainter()
    edit(inpainter, Request(FRAME, mask=MASK))
    for mask in (inpainter.told["mask_image"], inpainter.told["mask"]):
        assert mask.shape == (112, 80)
        np.testing.assert_array_equal(mask[:97, :65] == 255, MASK)
        assert not mask[97:].any() and not mask[:, 65:].any()
    edit(inpainter, Request(FRAME))
    assert (inpainter.told["mask_image"][:97, :65] == 255).all() and inpainter.told["mask"] is None


def test_a_picture_as_example_cannot_be_left_out(editor) -> None:
    with pytest.raises(OptionError, match="PaintByExamplePipeline takes one reference, not 0"):
        editor("paint-by-example").edit(Request(FRAME, mask=MASK))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps is 0; it must be at least 1"),
        ({"area": 4095}, "area is 4095; it must be at least 4096"),
        ({"guidance_scale": -0.5}, "guidance_scale is -0.5"),
        ({"image_guidance_scale": float("nan")}, "image_guidance_scale is nan"),
        ({"strength": 0.0}, "strength is 0; it must be above 0"),
        ({"strength": 1.5}, "strength is 1.5"),
    ],
)
def test_settings_have_ranges(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=re.escape(message)):
        PipelineSettings(**settings)


def test_settings_may_be_texts() -> None:
    told = TypeAdapter(PipelineSettings).validate_python({"steps": "4", "strength": "0.5", "extra": WORDS})
    assert told == PipelineSettings(steps=4, strength=0.5, extra=WORDS)


@pytest.mark.parametrize(
    ("settings", "unknown"),
    [
        ({"image_guidance_scale": 1.5}, "image_guidance_scale"),
        ({"extra": {"clip_skip": 1}, "true_cfg_scale": 4.0}, "clip_skip, true_cfg_scale"),
    ],
)
def test_no_setting_is_ignored(settings: dict[str, Any], unknown: str, tmp_path) -> None:
    """Nor are weights read before that is seen: here there are none."""
    (tmp_path / "model_index.json").write_text('{"_class_name": "Flux2KleinPipeline"}')
    with pytest.raises(OptionError, match=f"^Flux2KleinPipeline has no use for {unknown}$"):
        load(tmp_path, **settings)


@pytest.mark.parametrize(
    ("index", "settings", "message"),
    [
        ("{", {}, "model_index.json is missing or broken"),
        ("{}", {}, "diffusers has no pipeline None"),
        ('{"_class_name": ["pipeline", "Mine"]}', {}, r"diffusers has no pipeline \['pipeline', 'Mine'\]"),
        ('{"_class_name": "UNet2DConditionModel"}', {}, "diffusers has no pipeline 'UNet2DConditionModel'"),
        ('{"_class_name": "StableDiffusionPipeline"}', {}, "StableDiffusionPipeline takes no picture"),
        ('{"_class_name": "FluxKontextPipeline"}', {}, "lacks scheduler, vae, .*, which FluxKontextPipeline"),
        (
            '{"_class_name": "FluxPipeline"}',
            {"pipeline": "FluxKontext"},
            "diffusers has no pipeline 'FluxKontext'",
        ),
        (
            '{"_class_name": "OmniGenPipeline", "transformer": ["os", "system"], '
            '"scheduler": [null, null], "vae": [null, null], "tokenizer": [null, null]}',
            {},
            "neither diffusers nor transformers has os.system",
        ),
    ],
)
def test_a_folder_of_something_else(index: str, settings: dict[str, Any], message: str, tmp_path) -> None:
    (tmp_path / "model_index.json").write_text(index)
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path, **settings)


@pytest.fixture
def copy(folder, tmp_path) -> Callable[[str], Path]:
    return lambda name: Path(shutil.copytree(folder(name), tmp_path / "copy"))


UNET, WORDS_NET = "unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"


def without_a_weight(file: Path) -> None:
    _, *others = weights = load_file(file)
    save_file({name: weights[name] for name in others}, file, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("part", "damage", "message"),
    [
        (UNET, without_a_weight, "unet lacks 1 of its weights"),
        (WORDS_NET, without_a_weight, "text_encoder lacks 1 of its weights"),
        (UNET, lambda file: file.write_bytes(file.read_bytes()[:500]), "unet cannot be loaded"),
        (UNET, Path.unlink, "unet cannot be loaded"),
        ("tokenizer", shutil.rmtree, "is a broken checkpoint"),
        ("scheduler", shutil.rmtree, "is a broken checkpoint"),
    ],
)
def test_a_broken_checkpoint(part: str, damage: Callable[[Path], Any], message: str, copy) -> None:
    """diffusers itself would make weights up that are missing."""
    where = copy("instruct-pix2pix")
    damage(where / part)
    with pytest.raises(CheckpointError, match=message):
        load(where)


def rewrite_index(where: Path, **changed: Any) -> None:
    file = where / "model_index.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")
def test_magicbrush_s_layout(copy) -> None:
    """Weights of another class, of old names and with a safety checker that is not wanted."""
    where = copy("instruct-pix2pix")
    transformers.CLIPImageProcessor().save_pretrained(where / "feature_extractor")
    rewrite_index(
        where,
        _class_name="StableDiffusionPipeline",
        safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"],
        feature_extractor=["transformers", "CLIPFeatureExtractor"],
        requires_safety_checker=True,
    )
    with pytest.raises(CheckpointError, match="takes no picture"):
        load(where)
    kind, scheduler = "StableDiffusionInstructPix2PixPipeline", "EulerAncestralDiscreteScheduler"
    magicbrush = load(where, pipeline=kind, scheduler=scheduler)
    assert (magicbrush.name, type(magicbrush.pipeline.scheduler).__name__) == (kind, scheduler)
    assert magicbrush.pipeline.safety_checker is None
    assert magicbrush.edit(Request(FRAME, "make it red")).shape == FRAME.shape
    with pytest.raises(OptionError, match="diffusers has no scheduler 'Euler'"):
        load(where, pipeline=kind, scheduler="Euler")


def test_paint_by_example_s_layout(copy) -> None:
    """Its encoder is named as of a module that diffusers has moved away."""
    where = copy("paint-by-example")
    rewrite_index(where, image_encoder=["paint_by_example", "PaintByExampleImageEncoder"])
    assert load(where).name == "PaintByExamplePipeline"


def test_it_loads_in_silence(copy, capfd) -> None:
    """A class that is deprecated, and a net in several files, for which diffusers draws a bar."""
    where = copy("paint-by-example")
    unet = load(where).pipeline.unet
    shutil.rmtree(where / "unet")
    unet.save_pretrained(where / "unet", max_shard_size="20KB")
    heard: list[Any] = []
    handler = logging.Handler()
    handler.emit = heard.append
    for library in (of_diffusers, of_transformers):
        library.add_handler(handler)
        library.set_verbosity_info()
    capfd.readouterr()
    try:
        load(where)
        assert not heard and capfd.readouterr() == ("", "")
        for library in (of_diffusers, of_transformers):
            assert library.get_verbosity() == logging.INFO and library.is_progress_bar_enabled()
    finally:
        for library in (of_diffusers, of_transformers):
            library.remove_handler(handler)
            library.set_verbosity_warning()


@pytest.mark.parametrize(
    ("name", "net", "dtype", "held"),
    [
        ("instruct-pix2pix", "unet", torch.float32, torch.float32),
        ("instruct-pix2pix", "unet", torch.float16, torch.float16),
        ("flux2-klein", "transformer", torch.float16, torch.bfloat16),
        ("flux2-klein", "transformer", torch.float32, torch.float32),
    ],
)
def test_precision(name: str, net: str, dtype: torch.dtype, held: torch.dtype, folder) -> None:
    machine = Machine(torch.device("cpu"), dtype, low_memory=True)
    pipeline = load(folder(name), machine, **CASES[name].settings).pipeline
    assert getattr(pipeline, net).dtype == pipeline.text_encoder.dtype == held


def test_low_memory_is_of_the_gpu(folder, monkeypatch) -> None:
    """There its nets wait in the CPU's memory."""
    kind, offloaded = diffusers.StableDiffusionInstructPix2PixPipeline, []
    monkeypatch.setattr(kind, "enable_model_cpu_offload", lambda self, device: offloaded.append(device))
    gpu = Machine(torch.device("cuda:1"), torch.float32, low_memory=True)
    for machine in (CPU, replace(CPU, low_memory=True), gpu):
        assert load(folder("instruct-pix2pix"), machine).pipeline.device.type == "cpu"
    assert offloaded == [gpu.device]


def test_a_variant_in_half_precision(folder, tmp_path) -> None:
    pipeline = load(folder("instruct-pix2pix")).pipeline
    pipeline.save_pretrained(tmp_path, variant="fp16")
    assert not list(tmp_path.glob("unet/diffusion_pytorch_model.safetensors"))
    assert load(tmp_path).pipeline.unet.dtype == torch.float32


@cache
def pipelines() -> dict[str, Any]:
    """All that diffusers has, by name."""
    return {
        name: kind
        for name, kind in inspect.getmembers(diffusers, inspect.isclass)
        if issubclass(kind, diffusers.DiffusionPipeline) and kind is not diffusers.DiffusionPipeline
    }


REFUSED = {
    "StableDiffusionPipeline": "takes no picture",
    "FluxPipeline": "takes no picture",
    "StableDiffusionXLPipeline": "takes no picture",
    "QwenImageControlNetInpaintPipeline": "takes no picture",
    "StableDiffusionImageVariationPipeline": "takes no prompt",
    "ShapEImg2ImgPipeline": "takes no prompt",
    "KandinskyV22Img2ImgPipeline": "takes no prompt",
    "ChronoEditPipeline": "makes no picture",
    "WanImageToVideoPipeline": "makes no picture",
    "FluxPriorReduxPipeline": "makes no picture",
    "StableCascadePriorPipeline": "makes no picture",
    "CycleDiffusionPipeline": "needs source_prompt",
    "FluxControlImg2ImgPipeline": "needs control_image",
    "KandinskyInpaintPipeline": "needs image_embeds, negative_image_embeds",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_editor(name: str) -> None:
    assert unfit(pipelines()[name]) == REFUSED[name]


def test_what_is_one() -> None:
    """All whose names say so, but for those that want a picture of edges or the like."""
    words = re.compile("Img2Img|I2I|Inpaint|InstructPix2Pix|ImageEdit|Kontext|Klein|FiboEdit|OmniGen")
    other = re.compile("Control|ShapE|Kandinsky(V22)?(Img2Img|Inpaint)P|EasyAnimate|StableAudio")
    wanted = {name for name in pipelines() if words.search(name) and not other.search(name)}
    assert len(wanted) > 40
    assert {name for name in wanted if unfit(pipelines()[name])} == set()


def test_what_knows_words_alone_is_none() -> None:
    picture_like = re.compile("(?<!num_)image|mask")
    for name, kind in pipelines().items():
        if not any(map(picture_like.search, inspect.signature(kind.__call__).parameters)):
            assert unfit(kind) == "takes no picture", name


def test_arguments_bind() -> None:
    """What is given fits the signature, whatever the class; nothing is built for it."""
    room, canvas = Canvas.of(Size(65, 97), 1), Canvas.of(Size(65, 97), 16)
    for name in (name for name, kind in pipelines().items() if unfit(kind) is None):
        kind = pipelines()[name]
        signature = inspect.signature(kind.__call__)
        references = (REFERENCE,) if "example_image" in signature.parameters else ()
        editor = Pipeline(object.__new__(kind), PipelineSettings(steps=2))
        told = editor.arguments(Request(FRAME, "make it red", references, None, MASK), room, canvas)
        bound = signature.bind(None, **told).arguments
        shown = [bound[word] for word in ("image", "images", "input_images") if word in bound]
        sizes = [(picture[0] if isinstance(picture, list) else picture).size for picture in shown]
        assert sizes == [(80, 112)] and bound["num_inference_steps"] == 2, name
        for word in ("prompt", "mask_image", "mask", "height", "width", "generator", "output_type"):
            assert (word in bound) == (word in signature.parameters), (name, word)
