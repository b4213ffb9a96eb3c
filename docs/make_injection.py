"""Write `injection.md`: which module of each backbone is which decoder layer of the paper.

python docs/make_injection.py
"""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import torch
from diffusers import I2VGenXLUNet
from torch import nn

from anyv2v import FeatureBank, Options
from anyv2v.backbones.consisti2v import ConsistI2V
from anyv2v.backbones.i2vgen_xl import I2VGenXL
from anyv2v.backbones.latent import LatentBackbone
from anyv2v.backbones.seine import SEINE
from anyv2v.models.consisti2v import ConsistI2VConfig, ConsistI2VUNet
from anyv2v.models.seine import Config, SEINEUNet

PAGE = Path(__file__).with_name("injection.md")
HEAD = """# Where features are injected

Generated from the code by `python docs/make_injection.py`. What is recorded of the source and put into the
edit is the output of each module, of attention that of its `to_q` and `to_k`; **bold** is what the paper
injects. Decoder layers are counted as in the paper. A threshold (`--tau-conv`, ...) says for how many steps,
and `--layers-conv`, ... choose layers.
"""
KINDS = {"conv": "convolution", "spatial": "spatial Q, K", "temporal": "temporal Q, K", "cross": "text Q, K"}


def main() -> None:
    PAGE.write_text(page())


def page() -> str:
    with torch.device("meta"):
        nets = {
            I2VGenXL: I2VGenXLUNet(),
            ConsistI2V: ConsistI2VUNet(ConsistI2VConfig()),
            SEINE: SEINEUNet(Config()),
        }
    return "\n".join([HEAD, *(line for kind, net in nets.items() for line in table(kind, net))])


def table(backbone: type[LatentBackbone], net: nn.Module) -> Iterator[str]:
    bank = FeatureBank(net, backbone.taps)
    used = bank.plan(Options(tau_conv=1, tau_spatial=1, tau_temporal=1)).active(0)
    cells: dict[int, dict[str, str]] = defaultdict(dict)
    for tap in bank.taps:
        cells[tap.layer][tap.kind] = cell(bank.modules(tap), bold=tap in used)
    yield f"## {backbone.name}\n"
    yield f"| layer | {' | '.join(KINDS.values())} |"
    yield "|---" * (1 + len(KINDS)) + "|"
    for layer, row in sorted(cells.items()):
        yield f"| {layer} | {' | '.join(row.get(kind, '') for kind in KINDS)} |"
    yield ""


def cell(modules: tuple[str, ...], *, bold: bool) -> str:
    """One name for the queries and the keys."""
    path = modules[0].removesuffix(".to_q")
    return f"**`{path}`**" if bold else f"`{path}`"


if __name__ == "__main__":
    main()
