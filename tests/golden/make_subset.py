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
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

HERE = Path(__file__).parent
FILE = "cases.safetensors.xz"

ALL = slice(None)
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


def main(whole: Path) -> None:
    for backbone in ("i2vgen-xl",):
        cut(whole / backbone, HERE / backbone)


def cut(whole: Path, subset: Path) -> None:
    manifest = json.loads((whole / "manifest.json").read_text())
    cases = [case for case in manifest["cases"] if case["name"] in KEEP]
    shutil.rmtree(subset, ignore_errors=True)
    shutil.copytree(whole / "checkpoint", subset / "checkpoint")
    tensors = {f"{case['name']}/{name}": array for case in cases for name, array in kept(case, whole)}
    (subset / FILE).write_bytes(compressed(save(tensors)))
    entries = [
        {key: case[key] for key in ("name", "kind", "params", "info") if key in case} for case in cases
    ]
    manifest = {key: manifest[key] for key in ("provenance", "suggested_tolerances")}
    manifest["cases"] = [entry | {"file": FILE} for entry in entries]
    (subset / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


def kept(case: dict[str, Any], whole: Path) -> list[tuple[str, NDArray[Any]]]:
    tensors = load_file(whole / case["file"])
    return [
        (name, np.ascontiguousarray(tensor[part]))
        for name, tensor in tensors.items()
        for start, part in KEEP[case["name"]].items()
        if name.startswith(start)
    ]


def compressed(content: bytes) -> bytes:
    """The words are float32, so the coder is told to expect a rhythm of four bytes."""
    return lzma.compress(content, filters=[{"id": lzma.FILTER_LZMA2, "preset": 9, "lc": 2, "lp": 2}])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
