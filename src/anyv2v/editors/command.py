"""Any program as an editor: it reads the frame from a file and writes the edited one to another."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np

from anyv2v.editors.protocol import Machine, Mask, Request
from anyv2v.errors import EditorError, ImageError, OptionError
from anyv2v.picture import Fit, Frame, Size, read_image, write_image
from anyv2v.progress import OnStep, Step, ignore

__all__ = ["Command", "CommandSettings"]


@dataclass(frozen=True)
class CommandSettings:
    """Which program, and how it is called.

    Attributes:
        command: The program and its arguments, quoted as in a shell, but run without one. ``{input}``,
            ``{reference}`` and ``{mask}`` stand for the PNGs that it is given, ``{output}`` for the one that
            it must write, ``{instruction}`` and ``{seed}`` for what they say.
        timeout: Seconds after which it is stopped.

    Raises:
        OptionError: Quotes that do not close, or no ``{output}``.
    """

    command: str
    timeout: float = field(default=600.0, metadata={"result": False})

    def __post_init__(self) -> None:
        if "{output}" not in self.command:
            raise OptionError("the command needs {output}: the file that it is to write")
        if not 0 < self.timeout <= 1e6:
            raise OptionError(f"timeout is {self.timeout:g} s; it must be above 0 and at most a million")
        _ = self.arguments

    @property
    def files(self) -> list[Path]:
        """The program, and what of its arguments is a file: if one changes, so may the result."""
        program, *others = self.arguments or [""]
        named = [shutil.which(program) or program, *others]
        return [Path(name) for name in named if os.path.isfile(name)]  # noqa: PTH113 - a script may be too long

    @property
    def arguments(self) -> list[str]:
        """The program and its arguments."""
        try:
            return shlex.split(self.command)
        except ValueError as error:
            raise OptionError(f"the command cannot be read: {str(error).lower()}") from error


class Command:
    """See ``Editor``. A picture of another size is scaled, if it has the frame's shape."""

    Settings = CommandSettings

    def __init__(self, settings: CommandSettings) -> None:
        self.settings = settings

    @classmethod
    def load(cls, weights: Mapping[str, Path], settings: CommandSettings, machine: Machine) -> Self:  # noqa: ARG003
        """See ``LoadableEditor``."""
        return cls(settings)

    def edit(self, request: Request, on_step: OnStep = ignore) -> Frame:
        """See ``Editor``.

        Raises:
            OptionError: The command asks for a reference or a mask, and there is none.
            EditorError: The program is missing, fails, takes too long, or writes no picture.
        """
        on_step(Step("edit frame", 0, 1))
        with tempfile.TemporaryDirectory(prefix="anyv2v-") as folder:
            values = _values(Path(folder), request)
            _run([_filled(argument, values) for argument in self.settings.arguments], self.settings.timeout)
            picture = _result(Path(values["output"]), self.settings.arguments[0])
        on_step(Step("edit frame", 1, 1))
        return _of_size(picture, Size.of(request.frame), self.settings.arguments[0])


def _values(folder: Path, request: Request) -> dict[str, str]:
    """What the placeholders stand for; the pictures among them are written."""
    pictures: dict[str, Frame] = {"input": request.frame}
    if request.references:
        pictures["reference"] = request.references[0]
    if request.mask is not None:
        pictures["mask"] = _grey(request.mask)
    files = {name: str(write_image(folder / f"{name}.png", picture)) for name, picture in pictures.items()}
    texts = {"instruction": request.instruction, "seed": str(request.seed)}
    return files | texts | {"output": str(folder / "output.png")}


def _grey(mask: Mask) -> Frame:
    """White where the mask is."""
    return np.repeat(np.where(mask, 255, 0).astype(np.uint8)[..., None], 3, axis=2)


def _filled(argument: str, values: Mapping[str, str]) -> str:
    """An argument with its placeholders filled in; other braces are the program's own."""
    for name in ("reference", "mask"):
        if f"{{{name}}}" in argument and name not in values:
            raise OptionError(f"the command asks for {{{name}}}: give --{name}")
    parts = re.split(r"\{(\w+)\}", argument)
    return "".join(_piece(part, values) if k % 2 else part for k, part in enumerate(parts))


def _piece(name: str, values: Mapping[str, str]) -> str:
    return values.get(name, f"{{{name}}}")


def _run(arguments: list[str], timeout: float) -> None:
    """Run a program to its end, in a group of processes of its own, so that none of them is left behind.

    What it says goes to a file: a pipe would stay open as long as any process that it began.
    """
    program = arguments[0]
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        try:
            process = subprocess.Popen(
                arguments, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True
            )
        except OSError as error:
            raise EditorError(f"{program!r} cannot be run: {str(error.strerror).lower()}") from error
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise EditorError(f"{program} was stopped after {timeout:g} s") from None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        said.seek(0)
        if code:
            raise EditorError(f"{program} failed ({code}): {_last_line(said.read())}")


def _last_line(said: str) -> str:
    lines = said.strip().splitlines()
    return lines[-1].strip() if lines else "it said nothing"


def _result(output: Path, program: str) -> Frame:
    try:
        return read_image(output)
    except ImageError as error:
        raise EditorError(f"{program} wrote no picture to {{output}}") from error


def _of_size(picture: Frame, size: Size, program: str) -> Frame:
    """A picture scaled to the frame's size; one of another shape could not be laid over the frame."""
    given = Size.of(picture)
    if not given.is_of_shape(size, slack=2):
        raise EditorError(f"{program} made {given} of a frame of {size}; it must keep the shape")
    return Fit(given, size, "stretch").apply(picture)
