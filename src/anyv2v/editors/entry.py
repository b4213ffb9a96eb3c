"""What is known of an editor before it is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, Literal

from anyv2v.errors import OptionError, UserError
from anyv2v.weights import Weights

__all__ = ["EditorEntry", "Input"]

Input = Literal["first frame", "command", "instruction", "reference", "reference mask", "mask"]


@dataclass(frozen=True)
class EditorEntry:
    """What the registry knows of an editor before it is loaded.

    Attributes:
        name: The name on the command line.
        task: Which of the paper's tasks it does: ``any``, ``prompt``, ``style``, ``subject``, ``identity``.
        summary: One line for a person.
        target: ``module:Class`` of a ``LoadableEditor``.
        needs: What it cannot do without.
        takes: What it can use besides.
        weights: Where its weights are published.
        settings: Its own defaults for settings of its class.
        modules: What must be installed besides, by name of import.
        extra: The extra of this package that installs them, if one does.
        references: How many references it can use.
        seeded: Whether its result depends on the seed, so that there can be several candidates.
        instant: Whether it takes no time, so that its result is not worth keeping.
        places: Whether it keeps to the surroundings of the mask by itself, so that nothing of its result is
            cut off.
    """

    name: str
    task: Literal["any", "prompt", "style", "subject", "identity"]
    summary: str
    target: str
    needs: tuple[Input, ...] = ()
    takes: tuple[Input, ...] = ()
    weights: tuple[Weights, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    modules: tuple[str, ...] = ()
    extra: str | None = None
    references: int = 1
    seeded: bool = True
    instant: bool = False
    places: bool = False

    @property
    def download(self) -> str:
        """The commands that bring what it lacks to this machine."""
        install = [f"pip install 'anyv2v[{self.extra}]'"] if self.extra else []
        return " && ".join([*install, *(weights.download for weights in self.weights)])

    @property
    def at_hand(self) -> bool:
        """Whether it could be loaded here without a download."""
        try:
            self.check_installed()
            for weights in self.weights:
                weights.whole_folder()
        except UserError:
            return False
        return True

    def check_installed(self) -> None:
        """Raises OptionError if a library is missing."""
        if missing := [module for module in self.modules if find_spec(module.partition(".")[0]) is None]:
            install = f": pip install 'anyv2v[{self.extra}]'" if self.extra else ", which is not installed"
            raise OptionError(f"{self.name} needs {', '.join(missing)}{install}")
