"""Most of a net changes slowly from step to step: let it go on as it last did.

DeepCache (Ma et al., arXiv 2312.00858) in a net of Stable Diffusion's layout: the last layer of its decoder
alone sees the latents anew, by the shortest of the paths that skip the others. What it is given by those is
not what they last put out but where that was heading, to first order (TaylorSeer, Liu et al., arXiv
2503.06923). These have their ``forward`` replaced once for the life of the net and are steered by an
attribute, as hooks are in ``features``: a hook cannot keep a layer from computing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import nn

    from anyv2v.options import Options

__all__ = ["DeepCache", "DeepLayer", "Mode", "is_deep", "resting_steps"]

Mode = Literal["compute", "keep", "reuse"]

DEEP = re.compile(r"(down_blocks\.\d|mid_block|up_blocks\.[0-2]|up_blocks\.3\.\w+\.[01])(\..+)?")
"""All but the last layer of the decoder, and what a module of that name is within."""


def is_deep(path: str) -> bool:
    """Whether the module of that name is in a deep layer."""
    return DEEP.fullmatch(path) is not None


def resting_steps(first: int, options: Options) -> frozenset[int]:
    """At which steps the deep layers do not compute, counted from 0 at the noisiest of all.

    Not before step ``first``; after that they work at every ``deep_every``-th, and when guidance ends, as the
    batch gets fewer rows.
    """
    first = max(first, options.skip)
    resting = {step for step in range(first, options.steps) if (step - first) % options.deep_every}
    return frozenset(resting - {options.guided_steps})


class DeepCache:
    """Keeps what the deep layers put out, and goes on from there in place of computing it.

    Args:
        net: The net, in the layout of Stable Diffusion.

    Attributes:
        doing: What they do now: see ``mode``.
        row: Which row of a batch is at work, where these go through the net one by one; none, where all do.
        together: Whether what was kept last is that of all rows.
    """

    def __init__(self, net: nn.Module) -> None:
        self.doing: Mode = "compute"
        self.row: int | None = None
        self.together = True
        self._t = 0
        self._about: Hashable = ()
        self._newest: dict[int | None, _Answer] = {}
        self._older: dict[int | None, _Answer] = {}
        for path, module in list(net.named_modules()):
            if (found := DEEP.fullmatch(path)) and not found[2]:
                module.forward = DeepLayer(module, self)

    @property
    def holds(self) -> bool:
        """Whether anything is kept."""
        return bool(self._newest)

    @contextmanager
    def mode(self, mode: Mode, t: int, about: Hashable = ()) -> Iterator[None]:
        """``compute`` as ever; ``keep`` what comes of it too; or ``reuse`` what was kept.

        Args:
            mode: One of these.
            t: The noise level.
            about: What else the answers depend on; of two that differ in it no course is taken.
        """
        self.doing, self._t, self._about = mode, t, about
        try:
            yield
        except BaseException:
            self.clear()
            raise
        finally:
            self.doing = "compute"

    def keep(self, layer: DeepLayer, out: Any) -> None:
        """Keep what a layer put out until the next one does, as only the last of them is read."""
        if self.together != (self.row is None):
            self.clear()
            self.together = self.row is None
        newest = self._newest.get(self.row)
        if newest and newest.t != self._t:
            self._older[self.row] = newest
        self._newest[self.row] = _Answer(layer, out, self._t, self._about)

    def repeat(self, made: Callable[[Any], Any]) -> None:
        """Keep what was kept last once more, in a rehearsal that does not call the net again.

        Args:
            made: Makes a new answer of the same shape.
        """
        for row, answer in list(self._newest.items()):
            self.row = row
            self.keep(answer.layer, made(answer.out))

    def answer(self, layer: DeepLayer) -> Any:
        """Where a layer's answers are heading, if it is the last of them; else nothing but its shape.

        No further on than the two that were kept lie apart, beyond which errors would grow with the distance.
        """
        newest, older = self._newest[self.row], self._older.get(self.row)
        if newest.layer is not layer:
            return layer.shapes[self.row]
        if older is None or older.about != newest.about:
            return newest.out
        return _on(older.out, newest.out, min(2.0, (self._t - older.t) / (newest.t - older.t)))

    def clear(self) -> None:
        """Forget what was kept."""
        self._newest.clear()
        self._older.clear()


class DeepLayer:
    """A deep layer, in the place of its ``forward``, and what its last answers look like, by row."""

    def __init__(self, module: nn.Module, cache: DeepCache) -> None:
        self.forward: Callable[..., Any] = module.forward
        self.shapes: dict[int | None, Any] = {}
        self._cache = cache

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._cache.doing == "reuse":
            return self._cache.answer(self)
        out = self.forward(*args, **kwargs)
        if self._cache.doing == "keep":
            self.shapes[self._cache.row] = _hollow(out)
            self._cache.keep(self, out)
        return out


@dataclass(frozen=True)
class _Answer:
    """What the last of the deep layers put out at a noise level, and what else that depends on."""

    layer: DeepLayer
    out: Any
    t: int
    about: Hashable


def _on(older: Any, newest: Any, share: float) -> Any:
    """On the line from one answer, 0, to another, 1, and beyond."""
    import torch
    from torch.utils._pytree import tree_map

    return tree_map(lambda a, b: torch.lerp(a, b, share), older, newest)


def _hollow(out: Any) -> Any:
    """The same shapes, of which all elements are one."""
    from torch import Tensor
    from torch.utils._pytree import tree_map_only

    return tree_map_only(Tensor, lambda tensor: tensor.new_zeros(()).expand(tensor.shape), out)
