"""Pack InstantID's golden numbers into the folder of this file: every case, and the checkpoint.

    python tests/golden/instant-id/make_subset.py FOLDER_OF_THE_WHOLE_SET

They are few enough that nothing has to be left out. All tensors go into one compressed file.
"""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from pathlib import Path

from safetensors.numpy import load_file, save

HERE = Path(__file__).parent
FILE = "cases.safetensors.xz"
KEPT = ("name", "kind", "params", "file", "sizes_wh_in_out")

compressed = runpy.run_path(str(HERE.parent / "make_subset.py"))["compressed"]


def main(whole: Path) -> None:
    for folder in ("checkpoint", "cases"):
        shutil.rmtree(HERE / folder, ignore_errors=True)
    shutil.copytree(whole / "checkpoint", HERE / "checkpoint", copy_function=pack)
    packed = shutil.ignore_patterns("*.safetensors")
    shutil.copytree(whole / "cases", HERE / "cases", ignore=packed, copy_function=pack)
    manifest = json.loads((whole / "manifest.json").read_text())
    runs = [case for case in manifest["cases"] if case.get("file", "").endswith(".safetensors")]
    tensors = {
        f"{case['name']}/{name}": tensor
        for case in runs
        for name, tensor in load_file(whole / case["file"]).items()
    }
    (HERE / FILE).write_bytes(compressed(save(tensors)))
    for case in runs:
        case["file"] = FILE
    manifest["cases"] = [{key: case[key] for key in KEPT if key in case} for case in manifest["cases"]]
    about = {key: manifest[key] for key in ("provenance", "suggested_tolerances", "layout", "cases")}
    (HERE / "manifest.json").write_text(json.dumps(about, indent=1) + "\n")


def pack(source: str, target: str) -> None:
    if source.endswith(".safetensors"):
        Path(f"{target}.xz").write_bytes(compressed(Path(source).read_bytes()))
    else:
        shutil.copyfile(source, target)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
