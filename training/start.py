"""Where the VAE begins: as a linear code that keeps the mean colour of each latent's pixels.

From a random start, a VAE this small spends its first thousand steps on grey pictures, for its normalisation
takes the level out of every group of channels. Here a group that carries a colour x starts as x, -x, K, -K:
the constant keeps the level, and silu(x) - silu(-x) = x. Residual branches start at zero.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

__all__ = ["start_linear"]

COLOURS, LEVEL = 3, 3  # channels 0, 1, 2 carry a colour, channel 3 the constant
K = 2.0


@torch.no_grad()
def start_linear(vae: Any) -> None:
    """Set a new ``AutoencoderKL``; what it does not need for its code keeps its random start."""
    for name, module in vae.named_modules():
        if name.endswith("conv2"):
            nn.init.zeros_(module.weight)
    encoder, decoder = vae.encoder, vae.decoder
    _begin(encoder.conv_in)
    for block in encoder.down_blocks:
        _pass(block.resnets[0].conv_shortcut)
        for down in block.downsamplers or ():
            _pass(down.conv, slice(0, 2))
    _spread(encoder.down_blocks[-1].resnets[0].conv_shortcut, encoder.conv_norm_out)
    _gather(encoder.conv_out, encoder.conv_norm_out)
    _pass(vae.quant_conv, count=COLOURS)
    nn.init.constant_(vae.quant_conv.bias[len(vae.quant_conv.bias) // 2 :], -8)  # almost no noise
    _pass(vae.post_quant_conv, count=COLOURS)
    _begin(decoder.conv_in)
    for block in decoder.up_blocks:
        _pass(block.resnets[0].conv_shortcut)
        for up in block.upsamplers or ():
            _pass(up.conv)
    _spread(decoder.up_blocks[-1].resnets[0].conv_shortcut, decoder.conv_norm_out)
    _gather(decoder.conv_out, decoder.conv_norm_out)


def _clear(conv: nn.Conv2d, rows: slice) -> slice:
    """Empty some output channels of a convolution; the middle of its kernel."""
    conv.weight[rows] = 0
    conv.bias[rows] = 0  # type: ignore[index]
    middle = conv.kernel_size[0] // 2
    return slice(middle, middle + 1)


def _begin(conv: nn.Conv2d) -> None:
    """Colours into their channels, the constant into its own."""
    middle = _clear(conv, slice(0, LEVEL + 1))
    for colour in range(COLOURS):
        conv.weight[colour, colour, middle, middle] = 1
    conv.bias[LEVEL] = K  # type: ignore[index]


def _pass(conv: nn.Conv2d | None, taps: slice | None = None, count: int = LEVEL + 1) -> None:
    """The carrying channels go through unchanged, as the mean of ``taps``."""
    if conv is None:  # the block keeps its width
        return
    middle = _clear(conv, slice(0, count))
    taps = taps or middle
    for channel in range(count):
        conv.weight[channel, channel, taps, taps] = 1 / (taps.stop - taps.start) ** 2


def _spread(conv: nn.Conv2d, norm: nn.GroupNorm) -> None:
    """Each colour into a group of its own, as (x, -x, K, -K)."""
    width = norm.num_channels // norm.num_groups
    for group in range(COLOURS):
        _clear(conv, slice(group * width, (group + 1) * width))
        for place, channel in enumerate((group, LEVEL)):
            conv.weight[group * width + 2 * place, channel] = 1
            conv.weight[group * width + 2 * place + 1, channel] = -1


def _gather(conv: nn.Conv2d, norm: nn.GroupNorm) -> None:
    """Each colour out of its group, at about the size that it had before the normalisation."""
    width = norm.num_channels // norm.num_groups
    size = K * (2 / width) ** 0.5
    middle = _clear(conv, slice(0, COLOURS))
    for group in range(COLOURS):
        conv.weight[group, group * width, middle, middle] = size
        conv.weight[group, group * width + 1, middle, middle] = -size
