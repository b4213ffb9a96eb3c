"""SEINE (Chen et al., arXiv 2310.20700): a video net that is told some frames and predicts the noise of all.

It is the net of Stable Diffusion v1 with a self-attention along time in each transformer block, and with
statistics over all frames of a clip in the norms of its residual blocks. Modules are named as in the authors'
checkpoint, which loads as it is.

Shapes are written with B clips, F frames, C channels, h x w latent pixels, N = h w places, L tokens of text.
Clips are ``[B, C, F, h, w]``; what works on pictures sees ``[(B F), C, h, w]``, the frame as the fast part.

Not covered: training, and the options that the published checkpoint leaves off.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest

import torch
from diffusers.models.attention import FeedForward
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import Tensor, nn
from torch.nn.functional import interpolate, scaled_dot_product_attention, silu

__all__ = ["Config", "SEINEUNet"]

LATENT = 4
INPUT = LATENT + 1 + LATENT  # noisy latents, mask (0 where a frame is given), latents of the given frames
ROTATED = 32  # channels of each head that the rotary embedding turns
BUCKETS = 32  # of relative positions: one half looks back, the other ahead


@dataclass(frozen=True)
class Config:
    """The sizes of a net, by default the published one's.

    Attributes:
        widths: Channels of each level, from the finest.
        heads: Attention heads of each level; none has fewer than 32 channels.
        text_width: Channels of the text embedding.
        groups: Of every group norm.
    """

    widths: tuple[int, ...] = (320, 640, 1280, 1280)
    heads: tuple[int, ...] = (8, 8, 8, 8)
    text_width: int = 768
    groups: int = 32

    @classmethod
    def of(cls, weights: Mapping[str, Tensor], groups: int) -> Config:
        """The sizes of the net that has these ``weights``, which show all but its ``groups``."""
        levels = ("down_blocks.0", "down_blocks.1", "down_blocks.2", "mid_block")
        blocks = [f"{level}.attentions.0.transformer_blocks.0" for level in levels]
        table = "attn_temp.time_rel_pos_bias.relative_attention_bias.weight"
        return cls(
            widths=tuple(len(weights[f"{block}.norm1.weight"]) for block in blocks),
            heads=tuple(weights[f"{block}.{table}"].shape[1] for block in blocks),
            text_width=weights[f"{blocks[0]}.attn2.to_k.weight"].shape[1],
            groups=groups,
        )

    @property
    def time_width(self) -> int:
        return 4 * self.widths[0]


class SEINEUNet(nn.Module):
    """The whole net; ``of`` makes one from the weights of a checkpoint."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        first, last = config.widths[0], len(config.widths) - 1
        self.config = config
        self.conv_in = nn.Conv2d(INPUT, first, 3, padding=1)
        self.time_proj = Timesteps(first, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(first, config.time_width)
        self.down_blocks = nn.ModuleList(DownBlock(config, level) for level in range(last + 1))
        self.mid_block = MidBlock(config, last)
        self.up_blocks = nn.ModuleList(UpBlock(config, level) for level in range(last, -1, -1))
        self.conv_norm_out = nn.GroupNorm(config.groups, first)
        self.conv_out = nn.Conv2d(first, LATENT, 3, padding=1)

    def forward(self, x: Tensor, timestep: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        """Predict the noise of clips.

        Args:
            x: ``[B, 9, F, h, w]``: noisy latents, mask and latents of the given frames, in this order.
            timestep: ``[B]``, or one for all.
            encoder_hidden_states: The text, ``[B, L, D]``.

        Returns:
            ``[B, 4, F, h, w]``.
        """
        temb = self.time_embedding(self.time_proj(timestep.expand(len(x))).to(x.dtype))
        text = encoder_hidden_states.repeat_interleave(x.shape[2], dim=0)  # [(B F), L, D]
        x = per_frame(self.conv_in, x)
        skips: tuple[Tensor, ...] = (x,)
        for block in self.down_blocks:
            x, more = block(x, temb, text)
            skips += more
        x = self.mid_block(x, temb, text)
        for block in self.up_blocks:
            x = block(x, temb, text, skips)
            skips = skips[:-3]
        return per_frame(self.conv_out, silu(self.conv_norm_out(x)))


class DownBlock(nn.Module):
    """One level on the way down: two residual blocks with a transformer behind each, then half the size.

    The coarsest level has neither transformers nor a coarser one to go to.
    """

    def __init__(self, config: Config, level: int) -> None:
        super().__init__()
        width, coarsest = config.widths[level], level == len(config.widths) - 1
        inputs = (config.widths[max(level - 1, 0)], width)
        self.resnets = nn.ModuleList(ResnetBlock(config, channels, width) for channels in inputs)
        self.attentions = nn.ModuleList(Transformer(config, level) for _ in inputs if not coarsest)
        self.downsamplers = nn.ModuleList([] if coarsest else [Downsample(width)])

    def forward(self, x: Tensor, temb: Tensor, text: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """``[B, C, F, h, w] -> [B, C', F, h/2, w/2]``, and what the way up needs."""
        skips: tuple[Tensor, ...] = ()
        for resnet, attention in zip_longest(self.resnets, self.attentions):
            x = resnet(x, temb)
            if attention is not None:
                x = attention(x, text)
            skips += (x,)
        for downsampler in self.downsamplers:
            x = downsampler(x)
            skips += (x,)
        return x, skips


class MidBlock(nn.Module):
    """The turning point, at the coarsest level."""

    def __init__(self, config: Config, level: int) -> None:
        super().__init__()
        width = config.widths[level]
        self.resnets = nn.ModuleList(ResnetBlock(config, width, width) for _ in range(2))
        self.attentions = nn.ModuleList([Transformer(config, level)])

    def forward(self, x: Tensor, temb: Tensor, text: Tensor) -> Tensor:
        """``[B, C, F, h, w]``, which it keeps."""
        x = self.attentions[0](self.resnets[0](x, temb), text)
        turned: Tensor = self.resnets[1](x, temb)
        return turned


class UpBlock(nn.Module):
    """One level on the way up: three residual blocks with a transformer behind each, then twice the size.

    The coarsest level has no transformers, and above the finest there is none to go to.
    """

    def __init__(self, config: Config, level: int) -> None:
        super().__init__()
        width, last = config.widths[level], len(config.widths) - 1
        below, above = config.widths[min(level + 1, last)], config.widths[max(level - 1, 0)]
        inputs = (below + width, width + width, width + above)  # each with what was skipped
        self.resnets = nn.ModuleList(ResnetBlock(config, channels, width) for channels in inputs)
        self.attentions = nn.ModuleList(Transformer(config, level) for _ in inputs if level < last)
        self.upsamplers = nn.ModuleList([] if level == 0 else [Upsample(width)])

    def forward(self, x: Tensor, temb: Tensor, text: Tensor, skips: tuple[Tensor, ...]) -> Tensor:
        """``[B, C, F, h, w] -> [B, C', F, 2h, 2w]``; reads its three from the end of ``skips``."""
        for resnet, attention, skip in zip_longest(self.resnets, self.attentions, skips[:-4:-1]):
            x = resnet(torch.cat([x, skip], dim=1), temb)
            if attention is not None:
                x = attention(x, text)
        for upsampler in self.upsamplers:
            x = upsampler(x, skips[-4].shape[2:])
        return x


class ResnetBlock(nn.Module):
    """Two convolutions in each frame. The norms before them see the clip as a whole."""

    def __init__(self, config: Config, channels: int, width: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(config.groups, channels)
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1)
        self.time_emb_proj = nn.Linear(config.time_width, width)
        self.norm2 = nn.GroupNorm(config.groups, width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.conv_shortcut = nn.Identity() if channels == width else nn.Conv2d(channels, width, 1)

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        """``[B, C, F, h, w] -> [B, C', F, h, w]``."""
        y = per_frame(self.conv1, silu(self.norm1(x)))
        y = y + self.time_emb_proj(silu(temb))[:, :, None, None, None]
        y = per_frame(self.conv2, silu(self.norm2(y)))
        return per_frame(self.conv_shortcut, x) + y


class Downsample(nn.Module):
    """Half the size, by a convolution in each frame."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return per_frame(self.conv, x)


class Upsample(nn.Module):
    """The size of the skip that comes next: twice the own one, or one less where halving it rounded up."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor, size: torch.Size) -> Tensor:
        """``size`` is ``(F, h, w)``, with the frames that there are."""
        return per_frame(self.conv, interpolate(x, size=tuple(size), mode="nearest"))


class Transformer(nn.Module):
    """One transformer block over the tokens of a clip, added to it. Its norm sees each frame alone."""

    def __init__(self, config: Config, level: int) -> None:
        super().__init__()
        width = config.widths[level]
        self.norm = nn.GroupNorm(config.groups, width, eps=1e-6)
        self.proj_in = nn.Conv2d(width, width, 1)
        self.transformer_blocks = nn.ModuleList(
            [TransformerBlock(width, config.heads[level], config.text_width)]
        )
        self.proj_out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        """``[B, C, F, h, w]``, which it keeps, and ``[(B F), L, D]``."""
        pictures = self.proj_in(self.norm(fold(x)))
        tokens = pictures.flatten(2).transpose(1, 2)
        tokens = self.transformer_blocks[0](tokens, text, frames=x.shape[2])
        pictures = self.proj_out(tokens.transpose(1, 2).unflatten(2, x.shape[3:]))
        return x + unfold(pictures, len(x))


class TransformerBlock(nn.Module):
    """Attention in each frame, to the text, and along time at each place; then the feed-forward net."""

    def __init__(self, width: int, heads: int, text_width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn1 = Attention(width, heads, width)
        self.norm2 = nn.LayerNorm(width)
        self.attn2 = Attention(width, heads, text_width)
        self.norm_temp = nn.LayerNorm(width)
        self.attn_temp = TemporalAttention(width, heads)
        self.norm3 = nn.LayerNorm(width)
        self.ff = FeedForward(width, activation_fn="geglu")

    def forward(self, x: Tensor, text: Tensor, frames: int) -> Tensor:
        """``[(B F), N, C]``, which it keeps, and ``[(B F), L, D]``."""
        y = self.norm1(x)
        x = x + self.attn1(y, y)
        x = x + self.attn2(self.norm2(x), text)
        y = self.norm_temp(regroup(x, frames))  # [(B N), F, C]
        x = x + regroup(self.attn_temp(y, y), x.shape[1])
        out: Tensor = x + self.ff(self.norm3(x))
        return out


class Attention(nn.Module):
    """Multi-head attention, whose heads are slices of the channels."""

    def __init__(self, width: int, heads: int, context_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context_width, width, bias=False)
        self.to_v = nn.Linear(context_width, width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(width, width))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """``[n, i, C]`` looks at ``[n, j, D]``."""
        projected = self.to_q(x), self.to_k(context), self.to_v(context)
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in projected)
        out: Tensor = self.to_out(self.attend(q, k, v).transpose(1, 2).flatten(2))
        return out

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Each head alone: ``[n, heads, i, c]`` looks at ``[n, heads, j, c]``."""
        return scaled_dot_product_attention(q, k, v)


class TemporalAttention(Attention):
    """Self-attention along time, which knows of its frames how far apart they are, in two ways."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads, width)
        self.rotary_emb = RotaryEmbedding()
        self.time_rel_pos_bias = RelativeBias(heads)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        bias = self.time_rel_pos_bias(frames=q.shape[2])
        return scaled_dot_product_attention(self.rotary_emb(q), self.rotary_emb(k), v, attn_mask=bias)


class RotaryEmbedding(nn.Module):
    """Turns pairs of channels by an angle that grows with time (Su et al., arXiv 2104.09864).

    Pairs are neighbours. What is behind the first channels of a head stays as it is.
    """

    def __init__(self) -> None:
        super().__init__()
        self.freqs = nn.Parameter(10_000 ** -(torch.arange(0, ROTATED, 2) / ROTATED))

    def forward(self, x: Tensor) -> Tensor:
        """``[n, heads, F, c]``, which it keeps."""
        # The angle of a late frame is a large number: in half precision its error would be large too.
        angles = torch.arange(x.shape[2], device=x.device)[:, None] * self.freqs.float()
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        a, b = x[..., 0:ROTATED:2], x[..., 1:ROTATED:2]
        turned = torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2)
        return torch.cat([turned, x[..., ROTATED:]], dim=-1)


class RelativeBias(nn.Module):
    """A learned bias for each bucket of relative positions (Raffel et al., arXiv 1910.10683)."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.relative_attention_bias = nn.Embedding(BUCKETS, heads)

    def forward(self, frames: int) -> Tensor:
        """``[heads, F, F]``: queries are rows, keys are columns."""
        time = torch.arange(frames, device=self.relative_attention_bias.weight.device)
        bias: Tensor = self.relative_attention_bias(bucket(time[:, None] - time))
        return bias.permute(2, 0, 1).contiguous()  # or a GPU's fused kernels refuse it


def bucket(lag: Tensor) -> Tensor:
    """The bucket of a lag, query minus key: each of the first eight its own, then four to a doubling."""
    near, half = BUCKETS // 4, BUCKETS // 2
    distance = lag.abs()
    # The logarithm to base 2 is exact at the powers of 2, where a bucket starts; the natural one is not.
    far = near + (4 * torch.log2(distance.clamp(min=near) / near)).long()
    return half * (lag < 0) + torch.where(distance < near, distance, far.clamp(max=half - 1))


def per_frame(net: nn.Module, x: Tensor) -> Tensor:
    """Apply a net of pictures to every frame: ``[B, C, F, h, w] -> [B, C', F, h', w']``."""
    return unfold(net(fold(x)), len(x))


def fold(x: Tensor) -> Tensor:
    """``[B, C, F, h, w] -> [(B F), C, h, w]``."""
    return x.transpose(1, 2).flatten(0, 1)


def unfold(x: Tensor, clips: int) -> Tensor:
    """``[(B F), C, h, w] -> [B, C, F, h, w]``."""
    return x.reshape(clips, -1, *x.shape[1:]).transpose(1, 2)


def regroup(x: Tensor, count: int) -> Tensor:
    """Exchange space and time beside the batch: ``[(B count), m, C] -> [(B m), count, C]``."""
    return x.reshape(-1, count, *x.shape[1:]).transpose(1, 2).flatten(0, 1)
