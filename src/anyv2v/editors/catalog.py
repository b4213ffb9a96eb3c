"""The editors of this package."""

from __future__ import annotations

from anyv2v.editors.entry import EditorEntry
from anyv2v.weights import Weights

__all__ = ["BUILT_IN", "VGG19"]

_SDXL = Weights(
    "stabilityai/stable-diffusion-xl-base-1.0",
    6.9,
    "CreativeML Open RAIL++-M",
    files=(
        "model_index.json",
        "scheduler/*",
        "tokenizer*/*",
        "text_encoder*/config.json",
        "text_encoder*/*.fp16.safetensors",
        "unet/config.json",
        "unet/*.fp16.safetensors",
        "vae/config.json",
        "vae/*.fp16.safetensors",
    ),
    role="sdxl",
)

_PIPELINE = "anyv2v.editors.pipeline:Pipeline"
_PIPELINE_FILES = ("*.json", "*.txt", "*.jinja", "*/*.safetensors")  # not what repositories hold twice
_MEGAPIXEL = 1_000_000  # a bit less, as FLUX.2 and Kontext scale what is above 1024 x 1024 once it is padded
_KLEIN = Weights("black-forest-labs/FLUX.2-klein-4B", 16.0, "Apache-2.0", _PIPELINE_FILES)
_PIX2PIX = {"steps": 100, "guidance_scale": 7.5, "image_guidance_scale": 1.5, "area": 512 * 512}
_QWEN = {"steps": 40, "true_cfg_scale": 4.0, "negative_prompt": " ", "area": _MEGAPIXEL}

VGG19 = Weights("timm/vgg19.tv_in1k", 0.57, "BSD-3-Clause", ("model.safetensors",))

BUILT_IN: tuple[EditorEntry, ...] = (
    EditorEntry(
        "image",
        "any",
        "a picture that was edited elsewhere, by hand or by any program",
        "anyv2v.editors.image:Image",
        needs=("first frame",),
        seeded=False,
        instant=True,
    ),
    EditorEntry(
        "command",
        "any",
        "any program that reads a picture and writes one",
        "anyv2v.editors.command:Command",
        needs=("command",),
        takes=("instruction", "reference"),
    ),
    EditorEntry(
        "color",
        "style",
        "the colours of a reference, at once and without a model",
        "anyv2v.editors.color:Color",
        needs=("reference",),
        takes=("reference mask",),
        seeded=False,
        instant=True,
    ),
    EditorEntry(
        "flux2-klein",
        "any",
        "FLUX.2 [klein] 4B: follows an instruction in four steps, with references if there are",
        _PIPELINE,
        needs=("instruction",),
        takes=("reference", "reference mask"),
        weights=(_KLEIN,),
        settings={"steps": 4, "guidance_scale": 1.0, "area": _MEGAPIXEL},
        references=3,
    ),
    EditorEntry(
        "instruct-pix2pix",
        "prompt",
        "InstructPix2Pix, which the paper edits prompts with (arXiv 2211.09800)",
        _PIPELINE,
        needs=("instruction",),
        weights=(Weights("timbrooks/instruct-pix2pix", 5.5, "MIT", _PIPELINE_FILES),),
        settings=_PIX2PIX,
    ),
    EditorEntry(
        "magicbrush",
        "prompt",
        "InstructPix2Pix, tuned on edits by hand (arXiv 2306.10012)",
        _PIPELINE,
        needs=("instruction",),
        weights=(
            Weights(
                "vinesmsuic/magicbrush-jul7",
                5.5,
                "CreativeML Open RAIL-M",
                commands="hf download vinesmsuic/magicbrush-jul7 --local-dir magicbrush && "
                "anyv2v convert magicbrush, and then: --editor-model magicbrush",
            ),
        ),
        settings={
            **_PIX2PIX,
            "pipeline": "StableDiffusionInstructPix2PixPipeline",
            "scheduler": "EulerAncestralDiscreteScheduler",
        },
    ),
    EditorEntry(
        "flux-kontext",
        "any",
        "FLUX.1 Kontext [dev]: follows an instruction (arXiv 2506.15742)",
        _PIPELINE,
        needs=("instruction",),
        weights=(
            Weights(
                "black-forest-labs/FLUX.1-Kontext-dev",
                33.8,
                "FLUX.1 [dev] Non-Commercial License, to be agreed to on its page",
                _PIPELINE_FILES,
                commercial=False,
            ),
        ),
        settings={"steps": 28, "guidance_scale": 2.5, "area": _MEGAPIXEL},
    ),
    *(
        EditorEntry(
            name,
            "any",
            f"{repository.removeprefix('Qwen/')}: follows an instruction, with up to two references "
            "(arXiv 2508.02324)",
            _PIPELINE,
            needs=("instruction",),
            takes=("reference", "reference mask"),
            weights=(Weights(repository, 57.7, "Apache-2.0", _PIPELINE_FILES),),
            settings=_QWEN,
            references=2,
            modules=("torchvision",),
            extra="vision",
        )
        for name, repository in {
            "qwen-image-edit": "Qwen/Qwen-Image-Edit-2509",
            "qwen-image-edit-2511": "Qwen/Qwen-Image-Edit-2511",
        }.items()
    ),
    EditorEntry(
        "longcat-image-edit",
        "any",
        "LongCat-Image-Edit: follows an instruction, in English or Chinese (arXiv 2512.07584)",
        _PIPELINE,
        needs=("instruction",),
        weights=(Weights("meituan-longcat/LongCat-Image-Edit", 29.3, "Apache-2.0", _PIPELINE_FILES),),
        settings={"steps": 50, "guidance_scale": 4.5},
        modules=("torchvision",),
        extra="vision",
    ),
    EditorEntry(
        "omnigen",
        "any",
        "OmniGen: follows an instruction, with references if there are (arXiv 2409.11340)",
        _PIPELINE,
        needs=("instruction",),
        takes=("reference", "reference mask"),
        weights=(Weights("Shitao/OmniGen-v1-diffusers", 8.1, "MIT", _PIPELINE_FILES),),
        settings={
            "steps": 50,
            "guidance_scale": 2.0,
            "image_guidance_scale": 1.6,
            "area": _MEGAPIXEL,
        },
        references=2,
        modules=("torchvision",),
        extra="vision",
    ),
    EditorEntry(
        "paint-by-example",
        "subject",
        "Paint by Example: something like the reference where the mask is (arXiv 2211.13227)",
        _PIPELINE,
        needs=("reference", "mask"),
        takes=("reference mask",),
        weights=(
            Weights(
                "Fantasy-Studio/Paint-by-Example",
                5.2,
                "CreativeML Open RAIL-M",
                commands="hf download Fantasy-Studio/Paint-by-Example --include model_index.json "
                '--include "*/*" --local-dir paint-by-example && anyv2v convert paint-by-example, '
                "and then: --editor-model paint-by-example",
            ),
        ),
        settings={"steps": 50, "guidance_scale": 5.0, "area": 512 * 512},
    ),
    EditorEntry(
        "subject",
        "subject",
        "FLUX.2 [klein] 4B: paints the subject of the reference where the mask is",
        _PIPELINE,
        needs=("reference", "mask"),
        takes=("instruction", "reference mask"),
        weights=(_KLEIN,),
        settings={
            "pipeline": "Flux2KleinInpaintPipeline",
            "steps": 4,
            "guidance_scale": 1.0,
            "strength": 1.0,
            "area": _MEGAPIXEL,
            "instruction": "Put the subject of image 2 into image 1, in image 1's light and perspective.",
        },
    ),
    EditorEntry(
        "diffusers",
        "any",
        "any pipeline of diffusers that takes a picture and a prompt",
        _PIPELINE,
        takes=("instruction", "reference", "reference mask"),
        weights=(
            Weights(
                None,
                0.0,
                "its own licence",
                commands="hf download REPOSITORY --local-dir FOLDER, and then: --editor-model FOLDER",
            ),
        ),
        references=8,
    ),
    EditorEntry(
        "style-transfer",
        "style",
        "paints the frame like the reference: Gatys' neural style transfer on VGG-19",
        "anyv2v.editors.style_transfer:StyleTransfer",
        needs=("reference",),
        weights=(VGG19,),
        references=8,
        seeded=False,
    ),
    EditorEntry(
        "instant-style",
        "style",
        "InstantStyle: the frame in the style of the reference, its contours kept",
        "anyv2v.editors.instant_style:InstantStyle",
        needs=("reference",),
        takes=("instruction",),
        references=8,
        weights=(
            _SDXL,
            Weights(
                "h94/IP-Adapter",
                3.2,
                "Apache-2.0",
                files=(
                    "sdxl_models/ip-adapter_sdxl_vit-h.safetensors",
                    "models/image_encoder/config.json",
                    "models/image_encoder/model.safetensors",
                ),
                role="adapter",
            ),
            Weights(
                "diffusers/controlnet-canny-sdxl-1.0",
                2.5,
                "CreativeML Open RAIL++-M",
                files=("config.json", "diffusion_pytorch_model.fp16.safetensors"),
                role="structure",
            ),
        ),
    ),
    EditorEntry(
        "anydoor",
        "subject",
        "AnyDoor: puts the subject of the reference where the mask is",
        "anyv2v.editors.anydoor:AnyDoor",
        needs=("reference", "reference mask", "mask"),
        weights=(
            Weights(
                "xichenhku/AnyDoor",
                16.8,
                "no licence is stated; made from Stable Diffusion 2.1 (Open RAIL++-M) and DINOv2",
                commands='hf download xichenhku/AnyDoor "epoch=1-step=8687.ckpt" --repo-type space '
                "--local-dir anydoor, and then: --editor-model anydoor",
                commercial=False,
            ),
        ),
        places=True,
    ),
    EditorEntry(
        "instant-id",
        "identity",
        "InstantID: the face of the frame becomes that of the reference",
        "anyv2v.editors.instant_id:InstantID",
        needs=("reference",),
        takes=("instruction",),
        references=8,
        weights=(
            _SDXL,
            Weights(
                "InstantX/InstantID",
                4.2,
                "Apache-2.0 by its card, research only by its README",
                files=("ControlNetModel/*", "ip-adapter.bin"),
                role="identity",
                commercial=False,
            ),
            Weights(
                "DIAMONIK7777/antelopev2",
                0.3,
                "insightface's models, for research only",
                files=("scrfd_10g_bnkps.onnx", "glintr100.onnx"),
                role="faces",
                commercial=False,
            ),
        ),
        modules=("insightface", "onnxruntime"),
        extra="identity",
    ),
)
