"""The paper's method beside the right answer: a rendered edit, carried by `mini` and by optical flow.

    python examples/demo/truth.py [OUT]

The scene is filmed twice, before and after the edit; of the second film both are given the first frame alone.
Writes `truth.mp4` and the contact sheet `truth.png`, and prints how near each comes.
"""

import sys
from pathlib import Path

import numpy as np

import anyv2v
from anyv2v.evaluation.metrics import psnr
from anyv2v.evaluation.propagation import rendered_cases
from anyv2v.sheet import contact_sheet
from anyv2v.terminal import progress

EDIT, MOTION, SIDE, FRAMES = "recolour", "occlusion", 64, 8


def main(out: Path) -> None:
    (case,) = rendered_cases(1, (EDIT,), (MOTION,), side=SIDE, frames=FRAMES)
    source, truth = anyv2v.Video(case.task.source, case.task.fps), case.task.truth
    options = anyv2v.recipe("fast", backbone="mini")
    rows = {"source": source.frames}
    for backbone, name in {"mini": "AnyV2V", "flow": "optical flow"}.items():
        with progress(silent=False) as on_step:
            edited = anyv2v.edit(
                source, truth[0], case.task.prompt, backbone=backbone, options=options, on_step=on_step
            )
        rows[name] = edited.frames
        print(f"{name}: {psnr(edited.frames[1:], truth[1:]):.1f} dB from the truth")
    rows["truth"] = truth
    out.mkdir(parents=True, exist_ok=True)
    side_by_side = np.concatenate(list(rows.values()), axis=2).repeat(4, axis=1).repeat(4, axis=2)
    print(anyv2v.write(out / "truth.mp4", side_by_side, source.fps, overwrite=True))
    sheet = contact_sheet(rows, columns=FRAMES, tile=128)
    print(anyv2v.write_image(out / "truth.png", sheet, overwrite=True))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "out"))
