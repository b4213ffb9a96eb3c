"""What the documents tell a user to type does what they say."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from anyv2v import cli, list_editors
from anyv2v.job import InvertJob, read_settings
from anyv2v.run import run_invert

ROOT = Path(__file__).parent.parent
NAMES = ("README.md", "docs/README.md", "docs/editors.md", "docs/evaluation.md", "CONTRIBUTING.md")
DOCUMENTS = {name: (ROOT / name).read_text() for name in NAMES}


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", DOCUMENTS[document], re.DOTALL | re.MULTILINE)


def commands(program: str) -> list[list[str]]:
    lines = "".join(blocks("README.md", "sh")).splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.startswith(program)]


@pytest.fixture
def desk(tmp_path, monkeypatch) -> Path:
    """A folder with the bundled clip and its edited frame."""
    for name in ("clip.mp4", "edited.png"):
        shutil.copy(ROOT / "examples/demo" / name, tmp_path)
    shutil.copy(tmp_path / "edited.png", tmp_path / "dusk.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("words", commands("anyv2v"), ids=" ".join)
def test_commands(desk: Path, words: list[str], tiny: str, monkeypatch, capsys) -> None:
    if "i2vgen-xl" in words:
        if "--trajectory" in words:
            invert(tiny, words[words.index("--trajectory") + 1])
        words = [*words, *on(tiny)]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code
    assert capsys.readouterr().out
    if "-o" in words:
        assert Path(words[words.index("-o") + 1]).exists() != ("--dry-run" in words)


def on(checkpoint: str) -> list[str]:
    """What a tiny net needs for an answer within seconds."""
    return ["--model", checkpoint, "--steps", "2", "--inversion-steps", "2"]


def invert(checkpoint: str, path: str) -> None:
    settings = {"clip": "clip.mp4", "output": path, "model": checkpoint, "steps": 2, "inversion_steps": 2}
    run_invert(read_settings(InvertJob, settings))


@pytest.mark.parametrize("document", NAMES[:3])
def test_python(desk: Path, document: str, tiny: str) -> None:
    for block in blocks(document, "python"):
        exec(block.replace("path/to/checkpoint", tiny), {})


def test_plain_lines_are_what_make_does() -> None:
    recipe = (ROOT / "Makefile").read_text().replace("$(BIN)", ".venv/bin").replace("\\\n\t\t", "")
    for words in commands(".venv/bin/pip") + commands(".venv/bin/python"):
        assert shlex.join(words).replace("'", '"') in recipe


def test_make_demo_runs_in_a_folder_that_git_gives(tmp_path) -> None:
    """The recipe itself, with the interpreter of this test in place of a new environment."""
    for name in ("Makefile", *(f"examples/demo/{name}" for name in ("clip.mp4", "edited.png", "truth.py"))):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ("pyproject.toml", "constraints.txt", "ready"):
        (tmp_path / name).touch()
    words = ["make", "demo", f"BIN={Path(sys.executable).parent}", "SETUP=ready"]
    alone = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    alone["OMP_NUM_THREADS"] = "1"  # threads that wait for each other starve beside other tests
    done = subprocess.run(words, cwd=tmp_path, env=alone, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    made = ["out/demo.mp4", "out/demo.png", "out/truth.mp4", "out/truth.png"]
    assert [line for line in done.stdout.splitlines() if line.startswith("out/")] == made
    assert all((tmp_path / name).exists() for name in made)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_and_make_targets(document: str) -> None:
    text, folder = DOCUMENTS[document], (ROOT / document).parent
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (folder / target).exists(), target
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\S+)", text, re.MULTILINE):
        assert f"\n{target}:" in makefile


def test_every_editor_is_in_the_table() -> None:
    listed = set(
        re.findall(r"`([\w-]+)`", "".join(re.findall(r"^\| (`.*?) \|", DOCUMENTS["docs/editors.md"], re.M)))
    )
    assert {name for name, entry in list_editors().items() if entry.target.startswith("anyv2v.")} <= listed


def test_the_table_of_injection_is_the_code_s() -> None:
    spec = importlib.util.spec_from_file_location("make_injection", ROOT / "docs" / "make_injection.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.PAGE.read_text() == module.page()
