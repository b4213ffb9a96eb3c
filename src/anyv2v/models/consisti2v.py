"""ConsistI2V (Ren et al., arXiv 2402.04324): a video net that is given the first frame and looks back at it.

It is the net of Stable Diffusion 2.1 with a convolution and a transformer along time in each layer. The first
frame is given without noise and goes through the net as frame 0 of the clip. Every frame attends to it in
space, every place attends to its neighbourhood in it along time, and what the net says of it is dropped.
Modules are named as in the published checkpoint.

Shapes are written with B clips, F frames with the first one, C channels, h x w latent pixels, N = h w places,
L tokens of text. What works on pictures sees ``[(B F), C, h, w]``, the frame as the fast part.

Not covered: training, and what the authors' code can be configured to but the published checkpoint is not,
as the first frame among the channels or sinusoidal positions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from diffusers.models.attention import FeedForward
from diffusers.models.downsampling import Downsample2D
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention, silu

__all__ = ["NEVER_USED", "ConsistI2VConfig", "ConsistI2VUNet"]

# Weights of the checkpoint that the model never uses, which have no place in this net.
NEVER_USED = re.compile(r"\.conv3ds\.\d+\.time_emb_proj\.|\.rotary_bias\.")


@dataclass(frozen=True)
class ConsistI2VConfig:
    """The sizes of a net, by default the published one's, with the names of its ``unet/config.json``.

    Attributes:
        in_channels: Of the latents.
        out_channels: Of the predicted noise.
        sample_size: Latent pixels along a side, in training.
        n_frames: Of a clip in training, the first one included. The net takes any number.
        block_out_channels: Of each level, from the finest. The coarsest level has no attention.
        layers_per_block: Of each level on the way down; on the way up there is one more.
        attention_head_dim: The number of heads (sic) of each level's spatial attention.
        n_temp_heads: Of temporal attention, at every level.
        cross_attention_dim: Channels of the text embedding.
        norm_num_groups: Of every group norm, except in the temporal convolutions.
        norm_eps: Of the group norms outside of transformers and temporal convolutions.
    """

    in_channels: int = 4
    out_channels: int = 4
    sample_size: int = 64
    n_frames: int = 16
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int = 2
    attention_head_dim: tuple[int, ...] = (5, 10, 20, 20)
    n_temp_heads: int = 8
    cross_attention_dim: int = 1024
    norm_num_groups: int = 32
    norm_eps: float = 1e-5

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> ConsistI2VConfig:
        """What a ``unet/config.json`` says of these sizes; the rest of it is the same in every net."""
        known = {field.name for field in fields(cls)} & config.keys()
        return cls(**{name: _hashable(config[name]) for name in known})

    @property
    def coarsest(self) -> int:
        return len(self.block_out_channels) - 1

    @property
    def time_width(self) -> int:
        return 4 * self.block_out_channels[0]


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


class ConsistI2VUNet(nn.Module):
    """The whole net."""

    def __init__(self, config: ConsistI2VConfig) -> None:
        super().__init__()
        first, levels = config.block_out_channels[0], range(config.coarsest + 1)
        self.config = config
        self.conv_in = nn.Conv2d(config.in_channels, first, 3, padding=1)
        self.time_proj = Timesteps(first, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(first, config.time_width)
        self.frame_stride_embedding = TimestepEmbedding(first, config.time_width)
        self.down_blocks = nn.ModuleList(DownBlock(config, level) for level in levels)
        self.mid_block = MidBlock(config)
        self.up_blocks = nn.ModuleList(UpBlock(config, level) for level in reversed(levels))
        self.conv_norm_out = nn.GroupNorm(config.norm_num_groups, first, eps=config.norm_eps)
        self.conv_out = nn.Conv2d(first, config.out_channels, 3, padding=1)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ConsistI2VUNet:
        """The net of a ``unet/config.json``, without its weights."""
        return cls(ConsistI2VConfig.of(config))

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        first_frame_latents: Tensor,
        frame_stride: Tensor | int,
    ) -> Tensor:
        """Predict the noise of the frames after the first.

        Args:
            sample: The noisy frames, ``[B, 4, F - 1, h, w]``.
            timestep: Their noise level, ``[B]`` or one for all.
            encoder_hidden_states: The text, ``[B, L, D]``.
            first_frame_latents: The first frame, without noise, ``[B, 4, 1, h, w]``.
            frame_stride: From how many frames of the original video one was taken, ``[B]`` or one for all.

        Returns:
            ``[B, 4, F - 1, h, w]``.
        """
        clip, text = torch.cat([first_frame_latents, sample], dim=2), encoder_hidden_states
        frames = clip.shape[2]
        temb = self.time_embedding(self._waves(timestep, sample))
        temb = temb + self.frame_stride_embedding(self._waves(frame_stride, sample))
        temb = temb.repeat_interleave(frames, dim=0)
        x = self.conv_in(fold(clip))
        skips: tuple[Tensor, ...] = (x,)
        for block in self.down_blocks:
            x, more = block(x, temb, text, frames)
            skips += more
        x = self.mid_block(x, temb, text, frames)
        for block in self.up_blocks:
            x = block(x, temb, text, frames, skips)
            skips = skips[: -1 - self.config.layers_per_block]
        x = self.conv_out(silu(self.conv_norm_out(x)))
        return unfold(x, frames)[:, :, 1:]

    def _waves(self, number: Tensor | int, sample: Tensor) -> Tensor:
        """A number of each clip as sinusoids, ``[B, C]``."""
        waves: Tensor = self.time_proj(torch.as_tensor(number, device=sample.device).expand(len(sample)))
        return waves.to(sample.dtype)


class Layers(nn.Module):
    """The layers of one level: a residual block, a temporal convolution and two transformers each.

    The coarsest level has no transformers.
    """

    def __init__(self, config: ConsistI2VConfig, level: int, inputs: Sequence[int]) -> None:
        super().__init__()
        width, heads = config.block_out_channels[level], config.attention_head_dim[level]
        attend = [] if level == config.coarsest else inputs
        self.resnets = nn.ModuleList(resnet(config, channels, width) for channels in inputs)
        self.conv3ds = nn.ModuleList(TemporalConv(width) for _ in inputs)
        self.attentions = nn.ModuleList(SpatialTransformer(config, width, heads) for _ in attend)
        self.tempo_attns = nn.ModuleList(TemporalTransformer(config, width) for _ in attend)

    def layer(self, index: int, x: Tensor, temb: Tensor, text: Tensor, frames: int) -> Tensor:
        """``[(B F), C, h, w] -> [(B F), C', h, w]``."""
        x = self.conv3ds[index](self.resnets[index](x, temb), frames)
        if self.attentions:
            x = self.attentions[index](x, text, frames)
            x = self.tempo_attns[index](x, text, frames)
        return x


class DownBlock(Layers):
    """One level on the way down, and then half the size, unless there is no coarser level to go to."""

    def __init__(self, config: ConsistI2VConfig, level: int) -> None:
        width, above = config.block_out_channels[level], config.block_out_channels[max(level - 1, 0)]
        super().__init__(config, level, inputs=[above] + [width] * (config.layers_per_block - 1))
        samplers = [] if level == config.coarsest else [Downsample2D(width, use_conv=True, name="op")]
        self.downsamplers = nn.ModuleList(samplers)

    def forward(
        self, x: Tensor, temb: Tensor, text: Tensor, frames: int
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """``[(B F), C, h, w] -> [(B F), C', h/2, w/2]``, and what the way up needs."""
        skips: tuple[Tensor, ...] = ()
        for index in range(len(self.resnets)):
            x = self.layer(index, x, temb, text, frames)
            skips += (x,)
        for downsampler in self.downsamplers:
            x = downsampler(x)
            skips += (x,)
        return x, skips


class UpBlock(Layers):
    """One level on the way up, and then the size that the finer level had on the way down."""

    def __init__(self, config: ConsistI2VConfig, level: int) -> None:
        widths = config.block_out_channels
        width, above = widths[level], widths[max(level - 1, 0)]
        below = widths[min(level + 1, config.coarsest)]
        plain = [2 * width] * (config.layers_per_block - 1)
        super().__init__(config, level, inputs=[below + width, *plain, width + above])  # each with a skip
        self.upsamplers = nn.ModuleList([] if level == 0 else [Upsample2D(width, use_conv=True)])

    def forward(
        self, x: Tensor, temb: Tensor, text: Tensor, frames: int, skips: tuple[Tensor, ...]
    ) -> Tensor:
        """``[(B F), C, h, w] -> [(B F), C', 2h, 2w]``; reads its skips from the end of ``skips``."""
        for index in range(len(self.resnets)):
            x = self.layer(index, torch.cat([x, skips[-1 - index]], dim=1), temb, text, frames)
        for upsampler in self.upsamplers:
            x = upsampler(x, skips[-1 - len(self.resnets)].shape[2:])
        return x


class MidBlock(nn.Module):
    """The turning point, at the coarsest level. No attention looks along time here."""

    def __init__(self, config: ConsistI2VConfig) -> None:
        super().__init__()
        width, heads = config.block_out_channels[-1], config.attention_head_dim[-1]
        self.resnets = nn.ModuleList(resnet(config, width, width) for _ in range(2))
        self.conv3ds = nn.ModuleList(TemporalConv(width) for _ in range(2))
        self.attentions = nn.ModuleList([SpatialTransformer(config, width, heads)])

    def forward(self, x: Tensor, temb: Tensor, text: Tensor, frames: int) -> Tensor:
        """``[(B F), C, h, w]``, which it keeps."""
        x = self.conv3ds[0](self.resnets[0](x, temb), frames)
        x = self.attentions[0](x, text, frames)
        turned: Tensor = self.conv3ds[1](self.resnets[1](x, temb), frames)
        return turned


def resnet(config: ConsistI2VConfig, channels: int, width: int) -> nn.Module:
    """A residual block, which sees each frame alone."""
    block: nn.Module = ResnetBlock2D(
        in_channels=channels,
        out_channels=width,
        temb_channels=config.time_width,
        groups=config.norm_num_groups,
        eps=config.norm_eps,
    )
    return block


class TemporalConv(nn.Module):
    """Two convolutions along time. Their norms see each frame alone, and heed no configuration."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(32, width, eps=1e-6)
        self.conv1 = nn.Conv3d(width, width, (3, 1, 1), padding=(1, 0, 0))
        self.norm2 = nn.GroupNorm(32, width, eps=1e-6)
        self.conv2 = nn.Conv3d(width, width, (3, 1, 1), padding=(1, 0, 0))
        self.alpha = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """``[(B F), C, h, w]``, which it keeps."""
        y = fold(self.conv1(unfold(silu(self.norm1(x)), frames)))
        y = fold(self.conv2(unfold(silu(self.norm2(y)), frames)))
        return mix(x, x + y, self.alpha)


class Transformer(nn.Module):
    """One transformer block over tokens of a clip, added to it. Its norm sees each frame alone."""

    def __init__(self, config: ConsistI2VConfig, width: int, attn1: Attention, attn2: Attention) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(config.norm_num_groups, width, eps=1e-6)
        self.proj_in = nn.Linear(width, width)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(width, attn1, attn2)])
        self.proj_out = nn.Linear(width, width)

    def transform(self, tokens: Tensor, first: Callable[[Tensor], Tensor], text: Tensor) -> Tensor:
        """See ``TransformerBlock``."""
        out: Tensor = self.proj_out(self.transformer_blocks[0](self.proj_in(tokens), first, text))
        return out


class SpatialTransformer(Transformer):
    """Each frame looks at itself and at the first one, which so looks twice at itself."""

    def __init__(self, config: ConsistI2VConfig, width: int, heads: int) -> None:
        attn1, attn2 = Attention(width, heads, width), Attention(width, heads, config.cross_attention_dim)
        super().__init__(config, width, attn1, attn2)

    def forward(self, x: Tensor, text: Tensor, frames: int) -> Tensor:
        """``[(B F), C, h, w]``, which it keeps, and ``[B, L, D]``."""

        def first(tokens: Tensor) -> Tensor:
            return tokens[::frames].repeat_interleave(frames, dim=0)

        tokens = self.norm(x).flatten(2).transpose(1, 2)  # [(B F), N, C]
        return x + self.transform(tokens, first, text).transpose(1, 2).reshape(x.shape)


class TemporalTransformer(Transformer):
    """Each place looks along time, and at what is around it in the first frame."""

    def __init__(self, config: ConsistI2VConfig, width: int) -> None:
        heads = config.n_temp_heads
        attn1 = TemporalAttention(width, heads, width)
        attn2 = TemporalTextAttention(width, heads, config.cross_attention_dim)
        super().__init__(config, width, attn1, attn2)
        self.alpha = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor, text: Tensor, frames: int) -> Tensor:
        """``[(B F), C, h, w]``, which it keeps, and ``[B, L, D]``."""
        _, channels, height, width = x.shape

        def first(tokens: Tensor) -> Tensor:
            return around(tokens[:, 0].reshape(-1, height, width, channels)).flatten(0, 2)

        pixels = unfold(self.norm(x), frames).permute(0, 3, 4, 2, 1)  # [B, h, w, F, C]
        tokens = self.transform(pixels.flatten(0, 2), first, text)
        y = tokens.reshape(pixels.shape).permute(0, 3, 4, 1, 2).flatten(0, 1)
        return mix(x, x + y, self.alpha)


class TransformerBlock(nn.Module):
    """Self-attention, attention to the text, and the feed-forward net."""

    def __init__(self, width: int, attn1: Attention, attn2: Attention) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn1 = attn1
        self.norm2 = nn.LayerNorm(width)
        self.attn2 = attn2
        self.norm3 = nn.LayerNorm(width)
        self.ff = FeedForward(width, activation_fn="geglu")

    def forward(self, x: Tensor, first: Callable[[Tensor], Tensor], text: Tensor) -> Tensor:
        """``[n, i, C]``, which it keeps, and ``[B, L, D]``.

        ``first`` picks from all tokens what else of the first frame each row looks at, ``[n, k, C]``.
        """
        y = self.norm1(x)
        x = x + self.attn1(y, torch.cat([y, first(y)], dim=1))
        x = x + self.attn2(self.norm2(x), text)
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
        """``[n, i, C]`` looks at ``[n, j, D]``, or at ``[B, j, D]`` if that is the same for a whole clip.

        All rows of a clip are one then, so that nothing is repeated for each of its frames or places.
        """
        q, k = self.place(self.to_q(x), self.to_k(context))
        parts = q.reshape(len(context), -1, q.shape[-1]), k, self.to_v(context)
        q, k, v = (y.reshape(*y.shape[:2], self.heads, -1).transpose(1, 2) for y in parts)
        y = scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
        out: Tensor = self.to_out(y)
        return out

    def place(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Tell queries ``[n, i, C]`` and keys ``[n, j, C]`` where they are, if they need to know."""
        return q, k


class TemporalTextAttention(Attention):
    """Queries are frames; text has no place in time."""

    def __init__(self, width: int, heads: int, context_width: int) -> None:
        super().__init__(width, heads, context_width)
        self.rotary_emb = RotaryEmbedding(width)

    def place(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return self.rotary_emb(q), k


class TemporalAttention(TemporalTextAttention):
    """Keys are frames too. Those behind them are all of frame 0, where nothing turns."""

    def place(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        frames = q.shape[1]
        return self.rotary_emb(q), torch.cat([self.rotary_emb(k[:, :frames]), k[:, frames:]], dim=1)


class RotaryEmbedding(nn.Module):
    """Turns pairs of channels by an angle that grows with time (Su et al., arXiv 2104.09864).

    Pairs are neighbours. Only the first half of the channels turns, so the last heads know nothing of time.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        pairs = width // 4
        self.freqs = nn.Parameter(10_000 ** -(torch.arange(pairs) / pairs))

    def forward(self, x: Tensor) -> Tensor:
        """``[n, F, C]``, which it keeps."""
        # In float32 whatever the net computes in: half precision would round the angle itself.
        angles = torch.arange(x.shape[1], device=x.device)[:, None] * self.freqs.float()
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        half = 2 * len(self.freqs)
        a, b = x[..., :half:2], x[..., 1:half:2]
        turned = torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2)
        return torch.cat([turned, x[..., half:]], dim=-1)


def around(picture: Tensor) -> Tensor:
    """The eight around each pixel, where the border is repeated: ``[B, h, w, C] -> [B, h, w, 8, C]``."""
    height, width = picture.shape[1:3]
    wide = pad(picture.permute(0, 3, 1, 2), (1, 1, 1, 1), mode="replicate").permute(0, 2, 3, 1)
    shifts = [(y, x) for y in range(3) for x in range(3) if (y, x) != (1, 1)]
    return torch.stack([wide[:, y : y + height, x : x + width] for y, x in shifts], dim=3)


def mix(before: Tensor, after: Tensor, alpha: Tensor) -> Tensor:
    """``alpha`` is the share of what there was before; a trained one may lie beyond 0 and 1."""
    return torch.lerp(after, before, alpha.clamp(0, 1))


def fold(x: Tensor) -> Tensor:
    """``[B, C, F, h, w] -> [(B F), C, h, w]``."""
    return x.transpose(1, 2).flatten(0, 1)


def unfold(x: Tensor, frames: int) -> Tensor:
    """``[(B F), C, h, w] -> [B, C, F, h, w]``."""
    return x.reshape(-1, frames, *x.shape[1:]).transpose(1, 2)
