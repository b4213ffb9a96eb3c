"""Cut the subset of the golden numbers that stands beside this file out of the whole set.

    python tests/golden/make_subset.py FOLDER_OF_THE_WHOLE_SET

Every kind of case stays, with the tensors that its test needs. All of them go into one compressed file, where
what many cases share costs next to nothing.
"""

from __future__ import annotations

import json
import lzma
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

from anyv2v.models.consisti2v import NEVER_USED

HERE = Path(__file__).parent
FILE = "cases.safetensors.xz"

ALL = ...
ENDS = {10: [0, 4, 9], 50: [0, 24, 49]}  # of a walk of so many steps
EDIT = {"cond.": ALL, "final_latents": ALL}
CALL = {"in.": ALL, "out.sample": np.s_[2:]}


def inversion(steps: int) -> dict[str, Any]:
    walk = {"timesteps": ENDS[steps], "inverted_latents": ENDS[steps]}
    return {"video_latents_z0": ALL, "cond.": ALL, **walk}


# case -> the start of a tensor's name -> what to keep of it
KEEP: dict[str, dict[str, Any]] = {
    "video_A": {"": ALL},
    "inv_A_10": inversion(10),
    "inv_A_50": inversion(50),
    "recon_inv_A_10_n10_idx0_cfg1": EDIT,
    "unet_io_pnp01_step0": CALL,
    "unet_io_pnp01_step9_noinjection": CALL,
    "features_pnp01_step0": {
        "conv.": np.s_[:8],
        "spatial.up_blocks.1.1.to_q": ALL,
        "temporal.up_blocks.1.2.to_k": ALL,
    },
    "pnp_01_default": EDIT | {"timesteps": [0, 4, 8], "latents_after_step": [0, 4, 8]},
    "pnp_04_conv_only": EDIT,
    "pnp_05_spatial_only": EDIT,
    "pnp_06_temporal_only": EDIT,
    "pnp_08_tau111_idx3": EDIT,
    "pnp_09_default_idx3": EDIT,
    "pnp_10_random05": EDIT | {"random_noise": ALL},
    "pnp_11_cfg1_tau000": EDIT,
    "pnp_12_inv50_sample10": EDIT,
    "pnp_13_n50_float_trunc": EDIT,
    "pnp_14_invprompt_fps16": EDIT,
    "pnp_15_crop_nonsquare_images": EDIT | {"source_first_frame_u8": ALL, "edited_first_frame_u8": ALL},
    "components": {
        **dict.fromkeys(("sched.timesteps_50", "sched.timesteps_inverse_500", "sched.alphas_cumprod"), ALL),
        **dict.fromkeys(("sched.x", "sched.v", "sched.n10.t1.", "sched.n50.t981.", "sched.n500.t999."), ALL),
        **dict.fromkeys((f"prompt{k}.embeds" for k in range(5)), ALL),
        **dict.fromkeys(("crop5.", "crop6.", "img1.in", "img1.image_embeddings"), ALL),
        **dict.fromkeys(("encode.image_u8", "encode.image_latents"), ALL),
        "decode.latents": np.s_[:, :, :2],
        "decode.frames_u8": np.s_[:2],
    },
    "e2e_main_A": {"final_latents": ALL, "frames_u8": np.s_[:2], "edited_first_frame_80x80_u8": ALL},
}


PATH = {"timesteps": [0, 9], "latents": [0, 9]}  # of an edit of ten steps
MASKED = {"masked_": ALL, "mask": ALL, "text_embeds": ALL}

SEINE: dict[str, dict[str, Any]] = {
    "unet_io_square": {
        **dict.fromkeys(("noisy", "mask", "timestep", "encoder", "eps", "inter.time", "inter.mid"), ALL),
        "inter.down_blocks.0.attentions.": np.s_[:2],
        **dict.fromkeys(("inter.down_blocks.1", "inter.down_blocks.2", "inter.down_blocks.3"), ALL),
        **dict.fromkeys(("inter.up_blocks.0", "inter.up_blocks.1"), ALL),
    },
    "unet_io_batch3_rect": {"": ALL},
    "unet_io_long": {"": ALL},
    "temporal_primitives": {"": ALL},
    "schedulers": {"": ALL},
    "text_encoder": {"": ALL},
    "vae_preprocess": {
        **dict.fromkeys(("frames_uint8", "vae.", "latents_scaled", "decode.latents", "decode.uint8"), ALL),
        "resize.in": ALL,
        "resize.out": np.s_[:, :1],
    },
    "inversion_clipA": MASKED
    | {
        **dict.fromkeys(("frames", "vae.noise_", "latents_0", "rec.timesteps", "rec.latents_0"), ALL),
        **dict.fromkeys(("inv.timesteps", "inv.latents", "saved_timesteps"), ALL),
        "rec.frames_uint8": np.s_[:, :1],
    },
    "inversion_clipA_dense": MASKED
    | {
        **dict.fromkeys(("latents_0", "saved_timesteps", "rec.timesteps", "rec.latents_0"), ALL),
        "inv.timesteps": [0, 9, 19],
        "inv.latents": [0, 9, 19],
    },
    "edit_inputs_clipA_seed1": MASKED
    | dict.fromkeys(("edited_first_frame", "vae.noise_", "x_T", "ddpm_noise"), ALL),
    "edit_inputs_clipA_dense_seed6": MASKED | {"x_T": ALL, "ddpm_noise": ALL},
    "edit_default_ddim_cfg4": PATH
    | {
        "step.": ALL,
        "frames_uint8": np.s_[:, :1],
        **dict.fromkeys(("feat.source.up_blocks.1.resnets", "feat.source.up_blocks.1.attentions.1."), ALL),
        "feat.source.up_blocks.2.attentions.0.attn_temp": ALL,
    },
    "edit_default_ddpm_cfg4": PATH | {"frames_uint8": np.s_[:, :1]},
    "edit_all_cross_ddpm_cfg4": PATH,
    "edit_conv_only_ddim": PATH,
    "edit_spatial_only_ddim": PATH,
    "edit_temporal_only_ddim": PATH,
    "edit_cross_only_ddim": PATH,
    "edit_none_ddpm_cfg4": PATH,
    "edit_nopnp_ddim": PATH | {"text_embeds": ALL},
    "edit_randinit_cfg1_ddim": PATH | {"x_T": ALL},
    "edit_dense_inversion_ddpm": PATH,
}

LAST = np.s_[:, :, -2:]  # frames
SAVED = {"timesteps": [0, -1], "latents_saved_per_step": [0, -1]}
STEPS = {"timesteps": [0, -1], "latents_per_step": [0, -1]}
EDITED = {
    **dict.fromkeys(("edited_first_frame_uint8", "first_frame_latents_batch", "text_embeddings_batch"), ALL),
    **dict.fromkeys(("injection_timesteps", "vae_noise", "final_latents"), ALL),
}
SAMPLED = {
    **dict.fromkeys(("first_frame_latents_batch", "text_embeddings_batch", "initial_noise"), ALL),
    **dict.fromkeys(("timesteps", "latents_after_frameinit"), ALL),
    "latents_per_step": np.s_[-1:],
}
CALLED = dict.fromkeys(("sample", "timestep", "encoder", "first_frame_latents", "frame_stride"), ALL)
LAYER = "inter.down_blocks.0."

CONSISTI2V: dict[str, dict[str, Any]] = {
    "unet_io_square": CALLED
    | {
        "output": ALL,
        **dict.fromkeys(("inter.time", "inter.frame", "inter.mid", "inter.down_blocks.1"), np.s_[-1:]),
        **dict.fromkeys(("inter.down_blocks.2", "inter.up_blocks.0", "inter.up_blocks.1"), np.s_[-1:]),
        **dict.fromkeys((f"{LAYER}conv", f"{LAYER}attentions.0.trans", f"{LAYER}tempo"), np.s_[-1:]),
    },
    "unet_io_nonsquare_batch2": CALLED | {"output": LAST},
    "unet_io_odd_size": CALLED | {"output": LAST},
    "inversion_A": {
        **dict.fromkeys(("frames", "text_embeddings", "vae_noise", "first_frame_latents", "x0"), ALL),
        **SAVED,
    },
    "recon_A": {
        **dict.fromkeys(("text_embeddings", "first_frame_latents", "final_latents", "vae_noise"), ALL),
        **STEPS,
    },
    "pnp_default": EDITED | STEPS | {"video_uint8": np.s_[:1]},
    **dict.fromkeys(("pnp_all", "pnp_conv_only", "pnp_spatial_only", "pnp_temporal_only"), EDITED),
    **dict.fromkeys(("pnp_half_tidx4", "pnp_none_both_guidance", "pnp_default_source_frame_fixed"), EDITED),
    "pnp_blend_resized_edit": EDITED | {"blend_noise": ALL},
    "pnp_default_features_step0": {
        "conv.up_blocks.1.resnets.1.conv2_out": np.s_[:8],
        **dict.fromkeys(("spatial.up_blocks.1.2", "temporal.up_blocks.1.2"), ALL),
        "temporal.up_blocks.2.0": np.s_[:8],
    },
    "i2v_frameinit": SAMPLED,
    "i2v_text_guidance_rescale": SAMPLED,
    "frameinit_filters": dict.fromkeys(
        ("x", "noise", "gaussian.", "butterworth.filter", "ideal.filter", "box.filter"), ALL
    ),
}


def main(whole: Path) -> None:
    for backbone, keep in {"i2vgen-xl": KEEP, "seine": SEINE}.items():
        cut(whole / backbone, HERE / backbone, keep)
    cut(whole / "consisti2v", HERE / "consisti2v", CONSISTI2V, copy=pack)


def cut(
    whole: Path,
    subset: Path,
    keep: dict[str, dict[str, Any]],
    copy: Callable[[str, str], object] = shutil.copy2,
) -> None:
    manifest = json.loads((whole / "manifest.json").read_text())
    cases = [case for case in listed(manifest["cases"]) if case["name"] in keep]
    shutil.rmtree(subset, ignore_errors=True)
    # Weights that are there as safetensors too, in the format of their authors.
    twice = shutil.ignore_patterns("*.pt", "*.bin")
    shutil.copytree(whole / "checkpoint", subset / "checkpoint", ignore=twice, copy_function=copy)
    for keys in whole.glob("state_dict_keys.json"):
        (subset / f"{keys.name}.xz").write_bytes(compressed(keys.read_bytes()))
    tensors = {
        f"{case['name']}/{name}": array
        for case in cases
        for name, array in kept(case, whole, keep[case["name"]])
    }
    (subset / FILE).write_bytes(compressed(save(tensors)))
    entries = [
        {key: case[key] for key in ("name", "kind", "params", "info") if key in case} for case in cases
    ]
    about = ("provenance", "reference", "about")
    manifest = {key: manifest[key] for key in manifest if key in about or "tolerances" in key}
    manifest["cases"] = [entry | {"file": FILE} for entry in entries]
    (subset / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


def listed(cases: Any) -> list[dict[str, Any]]:
    """A manifest's cases; one that has them by name tells the parameters of each beside the rest."""
    if isinstance(cases, list):
        return cases
    rest = ("kind", "file", "tensors")
    params = {name: {key: case[key] for key in case if key not in rest} for name, case in cases.items()}
    return [
        {"name": name, "kind": case["kind"], "file": case["file"], "params": params[name]}
        for name, case in cases.items()
    ]


def pack(source: str, target: str) -> None:
    """Copy a file of a checkpoint; weights are compressed, and what their net never uses is nought."""
    if not source.endswith(".safetensors"):
        shutil.copy2(source, target)
        return
    weights = {
        name: np.zeros_like(array) if NEVER_USED.search(name) else array
        for name, array in load_file(source).items()
    }
    Path(f"{target}.xz").write_bytes(compressed(save(weights, metadata={"format": "pt"})))


def kept(case: dict[str, Any], whole: Path, keep: dict[str, Any]) -> list[tuple[str, NDArray[Any]]]:
    tensors = load_file(whole / case["file"])
    return [
        (name, np.array(tensor[part], order="C"))
        for name, tensor in tensors.items()
        for start, part in keep.items()
        if name.startswith(start)
    ]


def compressed(content: bytes) -> bytes:
    """The words are float32, so the coder is told to expect a rhythm of four bytes."""
    return lzma.compress(content, filters=[{"id": lzma.FILTER_LZMA2, "preset": 9, "lc": 2, "lp": 2}])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
