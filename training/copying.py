"""Where the net begins: by answering that every frame looks like the first.

From a random start the first frame reaches the others late and without its colours: it goes through four
channels that begin as noise, and every normalisation takes the level out of its group. Here a group of
channels carries a value x as x, -x, K, -K, as in ``start.py``; what the first frame shows is laid into every
frame, goes past all blocks by the outermost skip, and is read out as the velocity of pure noise, -x. The
blocks between start at zero (Ho et al., arXiv 2006.11239), and learn what moves.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

__all__ = ["GROUPS", "start_copying"]

GROUPS = 8  # of every normalisation: at full size four for what is copied, then four for the images
LATENTS = 4  # channels of a latent
K = 4.0


@torch.no_grad()
def start_copying(net: Any, frames: int) -> None:
    """Set a new ``I2VGenXLUNet`` for clips of so many frames.

    Args:
        net: Its first width has at least four channels in each of its ``GROUPS``.
        frames: Of a clip.
    """
    for name, module in net.named_modules():
        if name.endswith(("conv2", "conv_out", "proj_out")) and isinstance(module, (nn.Conv2d, nn.Linear)):
            _silence(module)
    _pass_images(net)
    _lay_in(net.conv_in)
    _lay_first_into_all(net.transformer_in, net.conv_in.out_channels, frames)
    _read_out(net)


def _silence(module: Any) -> None:
    nn.init.zeros_(module.weight)
    nn.init.zeros_(module.bias)


def _pass_images(net: Any) -> None:
    """Image latents come through unchanged, for silu(x) - silu(-x) = x."""
    split = torch.stack([torch.eye(LATENTS), -torch.eye(LATENTS)], 1).flatten(0, 1)  # x, -x of each channel
    first, _, second, _, last = net.image_latents_proj_in
    for conv, weight in ((first, split), (second, split @ split.T), (last, split.T)):
        rows = slice(0, len(weight))
        _silence_rows(conv, rows)
        conv.weight[rows, : weight.shape[1], 1, 1] = weight
    encoder = net.image_latents_temporal_encoder
    _silence(encoder.attn1.to_out[0])
    _silence(encoder.ff.net[-1])


def _lay_in(conv: nn.Conv2d) -> None:
    """The last four groups hold the image latents; the first four wait for those of the first frame."""
    for group in range(GROUPS):
        rows = _members(group, conv.out_channels)
        _silence_rows(conv, rows)
        if group >= LATENTS:
            _silence_rows(conv, _all(group, conv.out_channels))
            conv.weight[rows, group, 1, 1] = torch.tensor([1.0, -1, 0, 0])  # the noisy latents come first
        conv.bias[rows] = torch.tensor([0, 0, K, -K])  # type: ignore[index]


def _lay_first_into_all(layer: Any, width: int, frames: int) -> None:
    """A head that attends to all frames alike brings the mean of their images: the first, and known places.

    Of the vector that its norm sees, 0 to 3 hold the image, 4 and 5 a constant, 8 to 11 take the mean.
    """
    block, (image, level, mean) = layer.transformer_blocks[0], (slice(0, 4), slice(4, 6), slice(8, 12))
    layer.proj_in.weight[: mean.stop] = 0
    nn.init.zeros_(layer.proj_in.bias)
    others = 0.3 * layer.proj_in.weight[mean.stop :]
    layer.proj_in.weight[mean.stop :] = others - others.mean(0)  # else the norm takes it off the image
    layer.proj_in.weight[image, [_members(LATENTS + c, width).start for c in range(LATENTS)]] = torch.eye(4)
    layer.proj_in.bias[level] = torch.tensor([2 * K, -2 * K])
    # What the rows read is normalised too, so that it has a variance of one.
    spread = ((2 * (2 * K) ** 2 + others.square().sum()) / layer.proj_in.out_features) ** 0.5
    for part in (block.attn1.to_out[0], block.attn2.to_out[0], block.ff.net[-1]):
        _silence(part)
    head = slice(0, block.attn1.to_q.out_features // block.attn1.heads)
    block.attn1.to_q.weight[head] = 0
    block.attn1.to_v.weight[head] = 0
    block.attn1.to_v.weight[image, image] = torch.eye(4)
    block.attn1.to_out[0].weight[mean, image] = torch.eye(4)
    gain = frames * _norm(width) * spread
    for channel in range(LATENTS):
        rows = _members(channel, width).start + torch.arange(2)
        signs = torch.tensor([1.0, -1.0])
        layer.proj_out.weight[rows, mean.start + channel] = signs * gain
        layer.proj_out.bias[rows] = -signs * frames / 2  # the sum of the places 1 / (F - 1) to 1


def _read_out(net: Any) -> None:
    """The last block passes the outermost skip on, and the end reads -x out of it."""
    width = net.conv_in.out_channels
    shortcut = net.up_blocks[-1].resnets[-1].conv_shortcut
    skip = shortcut.in_channels - width
    for group in range(LATENTS):
        rows = _members(group, width)
        _silence_rows(shortcut, _all(group, width))
        shortcut.weight[rows, skip + rows.start : skip + rows.stop, 0, 0] = torch.eye(4)
        net.conv_out.weight[group, rows.start, 1, 1] = -_norm(width)
        net.conv_out.weight[group, rows.start + 1, 1, 1] = _norm(width)


def _silence_rows(conv: Any, rows: slice) -> None:
    conv.weight[rows] = 0
    conv.bias[rows] = 0


def _all(group: int, width: int) -> slice:
    """The channels of a group."""
    return slice(group * (width // GROUPS), (group + 1) * (width // GROUPS))


def _members(group: int, width: int) -> slice:
    """Those that are x, -x, K, -K."""
    return slice(_all(group, width).start, _all(group, width).start + 4)


def _norm(width: int) -> float:
    """What the normalisation divides a group by: its constants, and latents of a variance of one."""
    return float((2 * (K * K + 1) / (width // GROUPS)) ** 0.5)
