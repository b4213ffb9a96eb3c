"""A stage of training: some nets, one loss, a time to spend. It can be stopped and taken up at any moment."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn

from anyv2v.drafts import draft

__all__ = ["Learner", "Spent", "train"]

AVERAGED = 1 / 500  # the share of the newest weights in the running average that is shipped
REPORTED = 20  # steps between two points of the loss curve
WARM, COOL = 100, 0.3  # steps of rising, share of the time of falling learning rate


class Learner(Protocol):
    """What learns in a stage."""

    nets: nn.Module

    def batches(self, first: int) -> Iterator[Any]:
        """Batches without end, from clip ``first`` on."""
        ...

    def loss(self, batch: Any) -> Tensor:
        """What to make small: a scalar."""
        ...


@dataclass
class Spent:
    """How far a stage has come."""

    steps: int = 0
    clips: int = 0
    seconds: float = 0.0
    curve: list[tuple[float, int, float]] = field(default_factory=list)  # seconds, clips, mean loss


def train(
    learner: Learner,
    folder: Path,
    *,
    minutes: float,
    batch: int,
    rate: float,
    save_minutes: float,
    publish: Callable[[nn.Module], None],
    pause: float = math.inf,
) -> Spent:
    """Train until ``minutes`` are spent, all earlier calls on this folder counted in.

    The rate rises, stays, and falls to nothing over the last third of the time, so that more minutes later
    go on from where these ended.

    Args:
        learner: What learns.
        folder: Where ``state.pt`` and ``curve.json`` are kept.
        minutes: The time to spend.
        batch: Clips of a step.
        rate: Learning rate.
        save_minutes: How often the state is saved and ``publish`` called.
        publish: Is given the averaged nets, to write and to look at.
        pause: Minutes after which this call stops, saved, however much is left.
    """
    optimizer = torch.optim.AdamW(
        learner.nets.parameters(), rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )
    average = deepcopy(learner.nets)
    spent = _resume(folder, learner, optimizer, average)
    batches, losses = learner.batches(spent.clips), []
    began, saved = time.monotonic() - spent.seconds, spent.seconds
    end = min(60 * minutes, spent.seconds + 60 * pause)
    with _progress(minutes) as tell:
        while spent.seconds < end:
            for group in optimizer.param_groups:
                group["lr"] = rate * _rate(spent, minutes)
            losses.append(_step(learner, next(batches), optimizer))
            _follow(average, learner.nets, spent.steps)
            spent.steps, spent.clips = spent.steps + 1, spent.clips + batch
            spent.seconds = time.monotonic() - began
            due = spent.seconds - saved > 60 * save_minutes or spent.seconds >= end
            if due or len(losses) == REPORTED:
                loss = torch.stack(losses).mean().item()
                spent.curve.append((spent.seconds, spent.clips, loss))
                tell(spent)
                losses = []
            if due:
                _note(folder, spent)
                publish(average)  # before the state, so that what is cut short here is made again
                _save(folder, learner, optimizer, average, spent)
                saved, began = spent.seconds, time.monotonic() - spent.seconds
    return spent


def _step(learner: Learner, batch: Any, optimizer: torch.optim.Optimizer) -> Tensor:
    loss = learner.loss(batch)
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(learner.nets.parameters(), 1.0)
    optimizer.step()
    return loss.detach()


def _rate(spent: Spent, minutes: float) -> float:
    """Warm-up, a plateau, and a fall to zero by the square root (Haegele et al., arXiv 2405.18392)."""
    left = 1 - spent.seconds / (60 * minutes)
    return min(1.0, (spent.steps + 1) / WARM) * (1 - (1 - min(1.0, left / COOL)) ** 0.5)


@torch.no_grad()
def _follow(average: nn.Module, nets: nn.Module, steps: int) -> None:
    """A running average that forgets its beginning faster while it is young."""
    share = max(AVERAGED, 9 / (10 + steps))
    torch._foreach_lerp_(list(average.parameters()), list(nets.parameters()), share)


def _resume(folder: Path, learner: Learner, optimizer: torch.optim.Optimizer, average: nn.Module) -> Spent:
    path = folder / "state.pt"
    if not path.exists():
        return Spent()
    device = next(learner.nets.parameters()).device
    state = torch.load(path, map_location=device, weights_only=True)
    learner.nets.load_state_dict(state["nets"])
    optimizer.load_state_dict(state["optimizer"])
    average.load_state_dict(state["average"])
    return Spent(**state["spent"])


def _save(
    folder: Path, learner: Learner, optimizer: torch.optim.Optimizer, average: nn.Module, spent: Spent
) -> None:
    with draft(folder / "state.pt", overwrite=True) as path:
        states = {"nets": learner.nets, "optimizer": optimizer, "average": average}
        torch.save(
            {name: part.state_dict() for name, part in states.items()} | {"spent": asdict(spent)}, path
        )


def _note(folder: Path, spent: Spent) -> None:
    with draft(folder / "curve.json", overwrite=True) as path:
        path.write_text(json.dumps(asdict(spent)))


@contextmanager
def _progress(minutes: float) -> Iterator[Callable[[Spent], None]]:
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    with Progress(*columns) as bar:
        task = bar.add_task("training", total=60 * minutes)
        yield lambda spent: bar.update(
            task,
            completed=spent.seconds,
            description=f"loss {spent.curve[-1][2]:.4f}, {spent.clips} clips",
        )
