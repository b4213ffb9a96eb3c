"""Cut the subset of the golden numbers that stands beside this file out of the whole set.

    python tests/golden/make_subset.py FOLDER_OF_THE_WHOLE_SET

Every kind of case stays, with the tensors that its test needs; conditions that many cases share are kept
once.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent
COND = ("encoder_hidden_states", "image_embeddings", "image_latents", "fps")

# case -> the tensors to keep, by prefix
KEEP = {
    "video_A": ("",),
    "inv_A_10": ("timesteps", "video_latents_z0", "inverted_latents", "cond."),
    "recon_inv_A_10_n10_idx0_cfg1": ("final_latents", "cond."),
    "unet_io_pnp01_step0": ("in.sample", "in.timestep", "out.sample"),
    "features_pnp01_step0": ("conv.", "spatial.up_blocks.1.1.to_q", "temporal.up_blocks.1.2.to_k"),
    "pnp_01_default": ("final_latents",),
    "pnp_04_conv_only": ("final_latents",),
    "pnp_05_spatial_only": ("final_latents",),
    "pnp_06_temporal_only": ("final_latents",),
    "pnp_08_tau111_idx3": ("final_latents",),
    "pnp_10_random05": ("final_latents", "random_noise"),
    "components": (
        *("sched.timesteps_50", "sched.timesteps_inverse_500", "sched.alphas_cumprod", "sched.x", "sched.v"),
        *("sched.n10.t1.", "sched.n50.t981.", "prompt3.embeds"),
        *("encode.image_u8", "encode.image_latents_F1", "decode.latents", "decode.frames_u8"),
    ),
    "e2e_main_A": ("timesteps", "final_latents", "edited_first_frame_80x80_u8"),
}
SHARED = {name: "cond." for name in KEEP if name.startswith("pnp")} | {"unet_io_pnp01_step0": "in."}


def main(whole: Path) -> None:
    for backbone in ("i2vgen-xl",):
        cut(whole / backbone, HERE / backbone)


def cut(whole: Path, subset: Path) -> None:
    manifest = json.loads((whole / "manifest.json").read_text())
    shutil.rmtree(subset, ignore_errors=True)
    shutil.copytree(whole / "checkpoint", subset / "checkpoint")
    (subset / "cases").mkdir()
    conditions = load_file(whole / "cases/pnp_01_default.safetensors")
    save_file({name: conditions[f"cond.{name}"] for name in COND}, subset / "cases/condition.safetensors")
    cases = [cut_case(case, whole, subset) for case in manifest["cases"] if case["name"] in KEEP]
    manifest = {key: manifest[key] for key in ("provenance", "suggested_tolerances")} | {"cases": cases}
    (subset / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


def cut_case(case: dict[str, Any], whole: Path, subset: Path) -> dict[str, Any]:
    tensors = load_file(whole / case["file"])
    kept = {name: tensor for name, tensor in tensors.items() if name.startswith(KEEP[case["name"]])}
    save_file(kept, subset / case["file"])
    case = {key: value for key, value in case.items() if key in ("name", "kind", "file", "params", "info")}
    if prefix := SHARED.get(case["name"]):
        case["shared"] = {prefix: "cases/condition.safetensors"}
    return case


if __name__ == "__main__":
    main(Path(sys.argv[1]))
