"""Cut the subset of AnyDoor's golden numbers that stands beside this file out of the whole set.

    python tests/golden/anydoor/make_subset.py FOLDER_OF_THE_WHOLE_SET

Every kind of case stays. Of pictures that must come out bit for bit a digest stays, and of the VAE's encoder,
which nothing uses, zeros; the weights that are left are nearly all of the six megabytes.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import shutil
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

HERE = Path(__file__).parent
FILE = "cases.safetensors.xz"
UNUSED = "first_stage_model.encoder."
PICTURES = ("pre_A", "pre_B", "pre_C")

ALL = ...
COARSE = np.s_[:, :, ::8]
CALLED = dict.fromkeys(("x", "timesteps", "context", "eps"), ALL)

# case -> tensor -> what to keep of it
KEEP: dict[str, dict[str, Any]] = {
    "dino_A": {"output": ALL},
    "dino_B": {"output": ALL, "inter.pos_embed_used": np.s_[:, ::8]},
    "dino_zero": {"output": ALL},
    "io_no_control": CALLED,
    "io_rect_batch2": CALLED
    | {"hint": ALL}
    | dict.fromkeys((f"control_residual.{k:02}" for k in (3, 6, 7, 8, 9, 10, 11, 12)), ALL),
    "sample_S7_cfg3": dict.fromkeys(("x_T", "hint", "context", "uncond_context", "final_latents"), ALL)
    | {"decoded_avgpool4": ALL},
    "e2e_gradio_B": {"eps_cond_first": COARSE, "eps_uncond_first": COARSE},
}


def main(whole: Path) -> None:
    manifest = json.loads((whole / "manifest.json").read_text())
    cases = {name: manifest["cases"][name] for name in (*PICTURES, *KEEP, "ddim_schedules")}
    shutil.rmtree(HERE / "cases", ignore_errors=True)
    for name in PICTURES:
        cases[name]["digests"] = copy_pictures(whole, cases[name]["dir"])
    for file in ("cases/paste_pred512.png", "cases/ddim_schedules.json"):
        shutil.copyfile(whole / file, HERE / file)
    tensors = {
        f"{name}/{tensor}": array for name in KEEP for tensor, array in kept(whole, cases[name], KEEP[name])
    }
    (HERE / FILE).write_bytes(compressed(save(tensors), rhythm=4))
    cases |= {name: {key: cases[name][key] for key in cases[name] if key != "tensors"} for name in KEEP}
    cases |= {name: cases[name] | {"file": FILE} for name in KEEP}
    (HERE / "manifest.json").write_text(
        json.dumps({"about": manifest["about"], "cases": cases}, indent=1) + "\n"
    )
    (HERE / "state_dict_keys.json.xz").write_bytes(
        compressed((whole / "state_dict_keys.json").read_bytes(), rhythm=1)
    )
    copy_weights(whole / "checkpoint" / "anydoor_tiny.safetensors")


def copy_pictures(whole: Path, folder: str) -> dict[str, str]:
    """What goes in; returns digests of what must come out."""
    (HERE / folder).mkdir(parents=True)
    for file in (whole / folder).glob("in_*.png"):
        shutil.copyfile(file, HERE / folder / file.name)
    results = sorted({*(whole / folder).glob("*.png")} - {*(whole / folder).glob("in_*.png")})
    return {file.stem: hashlib.sha256(read(file).tobytes()).hexdigest() for file in results}


def read(file: Path) -> NDArray[np.uint8]:
    """Grey, or red, green and blue."""
    picture = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    return np.asarray(picture if picture.ndim == 2 else picture[..., ::-1], np.uint8)


def kept(whole: Path, case: dict[str, Any], keep: dict[str, Any]) -> list[tuple[str, NDArray[Any]]]:
    tensors = load_file(whole / case["file"])
    return [(name, np.array(tensors[name][part], order="C")) for name, part in keep.items()]


def copy_weights(file: Path) -> None:
    weights = {
        name: np.zeros_like(array) if name.startswith(UNUSED) else array
        for name, array in load_file(file).items()
        if "." in name  # else it is a buffer of the schedule
    }
    (HERE / "checkpoint").mkdir(exist_ok=True)
    (HERE / "checkpoint" / f"{file.name}.xz").write_bytes(compressed(save(weights), rhythm=2))


def compressed(content: bytes, rhythm: int) -> bytes:
    """The coder is told to expect words of so many bytes."""
    bits = rhythm.bit_length() - 1
    words = {"lc": 2 if bits else 3, "lp": bits, "pb": bits}
    return lzma.compress(content, filters=[{"id": lzma.FILTER_LZMA2, "preset": 9, **words}])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
