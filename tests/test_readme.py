"""What the documents tell a user to type does what they say."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from anyv2v import cli

ROOT = Path(__file__).parent.parent
DOCUMENTS = {name: (ROOT / name).read_text() for name in ("README.md", "docs/README.md", "CONTRIBUTING.md")}


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
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("words", commands("anyv2v"), ids=" ".join)
def test_commands(desk: Path, words: list[str], monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code
    assert capsys.readouterr().out
    if "-o" in words:
        assert Path(words[words.index("-o") + 1]).exists() != ("--dry-run" in words)


@pytest.mark.parametrize("document", ["README.md", "docs/README.md"])
def test_python(desk: Path, document: str, tiny: str) -> None:
    for block in blocks(document, "python"):
        exec(block.replace("path/to/checkpoint", tiny), {})


def test_plain_lines_are_what_make_does() -> None:
    recipe = (ROOT / "Makefile").read_text().replace("$(BIN)", ".venv/bin").replace("\\\n\t\t", "")
    for words in commands(".venv/bin/pip") + commands(".venv/bin/python"):
        assert shlex.join(words).replace("'", '"') in recipe


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_and_make_targets(document: str) -> None:
    text, folder = DOCUMENTS[document], (ROOT / document).parent
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (folder / target).exists(), target
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\S+)", text, re.MULTILINE):
        assert f"\n{target}:" in makefile
