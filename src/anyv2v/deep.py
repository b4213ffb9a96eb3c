"""Deep blocks of a net change slowly from step to step: let them answer with what they last computed.

DeepCache (Ma et al., arXiv 2312.00858). The blocks' ``forward`` is replaced once for the life of the net and
steered by an attribute, as hooks are in ``features``: a hook cannot keep a block from computing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import nn

    from anyv2v.features import InjectionPlan
    from anyv2v.options import Options

__all__ = ["DeepCache", "Mode", "mode_at"]

Mode = Literal["compute", "keep", "reuse"]


class DeepCache:
    """Keeps what deep blocks put out, and gives it back in place of computing it.

    Args:
        net: A net whose outermost blocks alone are to be computed at some steps.
        paths: Globs on the names of its other blocks.

    Attributes:
        doing: What they do now: see ``mode``.
    """

    def __init__(self, net: nn.Module, paths: Sequence[str]) -> None:
        self.doing: Mode = "compute"
        self._blocks = [
            _Block(module)
            for name, module in net.named_modules()
            if any(fnmatchcase(name, path) for path in paths)
        ]

    @contextmanager
    def mode(self, mode: Mode) -> Iterator[None]:
        """``compute`` as ever; ``keep`` what comes of it too; or ``reuse`` what was kept last."""
        self._set(mode)
        try:
            yield
        except BaseException:
            self.clear()
            raise
        finally:
            self._set("compute")

    def _set(self, mode: Mode) -> None:
        self.doing = mode
        for block in self._blocks:
            block.mode = mode

    def clear(self) -> None:
        """Forget what was kept: of a full-size net it is half a gigabyte."""
        for block in self._blocks:
            block.kept = None


class _Block:
    """One block, and what it last put out."""

    def __init__(self, module: nn.Module) -> None:
        self.mode: Mode = "compute"
        self.kept: Any = None
        self._forward: Callable[..., Any] = module.forward
        module.forward = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.mode == "reuse":
            return self.kept
        out = self._forward(*args, **kwargs)
        if self.mode == "keep":
            self.kept = out
        return out


def mode_at(step: int, plan: InjectionPlan, options: Options) -> Mode:
    """What the deep blocks do at a step, counted from 0 at the noisiest of the full schedule.

    Where features are injected they have to be computed; after that every ``deep_every``-th time, and when
    guidance ends, as the batch gets fewer rows.
    """
    first = max(options.skip, *(plan.until[tap.kind] for tap in plan.taps), 0)
    if options.deep_every == 1 or step < first:
        return "compute"
    fresh = (step - first) % options.deep_every == 0
    return "keep" if fresh or step == options.guided_steps else "reuse"
