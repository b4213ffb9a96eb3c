"""The same work in parts, for less memory: rows, frames and pixels that a layer treats each on its own.

Results differ by rounding at most. Features are taken whole: projections with hooks see all of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from diffusers.models.attention import Attention, FeedForward
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from anyv2v.deep import DeepCache
from anyv2v.features import FeatureBank

__all__ = ["PARTS", "spare"]

PARTS = 4
"""Of what an attention or a feed-forward layer is given, which are frames or pixels."""


def spare(net: nn.Module, bank: FeatureBank, deep: DeepCache) -> None:
    """Have a net work in parts from here on: by rows of a batch, and within diffusers' transformers."""
    for module in net.modules():
        if isinstance(module, FeedForward):
            module.forward = _in_parts(module.forward)
        elif isinstance(module, Attention):
            module.set_processor(_attend)
    net.forward = _row_by_row(net.forward, bank, deep)


def _row_by_row(forward: Callable[..., Any], bank: FeatureBank, deep: DeepCache) -> Callable[..., Any]:
    """Each row in a call of its own, unless one is to see another's features."""

    def by_row(z: Tensor, *args: Any, **told: Any) -> Any:
        if "pair" in bank.doing.values() or (deep.doing == "reuse" and deep.together):
            deep.row = None
            return forward(z, *args, **told)

        def row(value: Any, k: int) -> Any:
            has_rows = isinstance(value, Tensor) and value.shape[:1] == z.shape[:1]
            return value[k : k + 1] if has_rows else value

        outs = []
        for k in range(len(z)):
            deep.row = k
            ours = {name: row(arg, k) for name, arg in told.items()}
            outs.append(forward(row(z, k), *(row(arg, k) for arg in args), **ours))
        return (
            torch.cat(outs) if isinstance(outs[0], Tensor) else tuple(map(torch.cat, zip(*outs, strict=True)))
        )

    return by_row


def _in_parts(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A layer that keeps the shape of what it is given."""

    def in_parts(x: Tensor) -> Tensor:
        out = torch.empty_like(x)
        for part in _parts(x):
            out[part] = forward(x[part])
        return out

    return in_parts


def _attend(
    attn: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **_unused: Any
) -> Tensor:
    """diffusers' attention with its default settings, ``[rows, tokens, C]``; values and mixtures in parts."""
    context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
    q, k, out = attn.to_q(hidden_states), attn.to_k(context), torch.empty_like(hidden_states)
    for part in _parts(hidden_states):
        by_head = (
            x.unflatten(2, (attn.heads, -1)).transpose(1, 2)
            for x in (q[part], k[part], attn.to_v(context[part]))
        )
        out[part] = attn.to_out[0](scaled_dot_product_attention(*by_head).transpose(1, 2).flatten(2))
    return out


def _parts(x: Tensor) -> Iterator[slice]:
    size = -(-len(x) // PARTS)
    return (slice(start, start + size) for start in range(0, len(x), size))
