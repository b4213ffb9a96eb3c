"""The house: who may import whom, and what the package shows of itself."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import anyv2v

ROOT = Path(anyv2v.__file__).parent

# A room may import from rooms on lower floors; what is not listed stands on the ground floor.
FLOORS = [
    {"ahead", "errors", "packages", "progress"},
    {"models", "models.consisti2v", "models.seine", "models.anydoor", "models.vgg"},
    {"drafts", "cache"},
    {"picture"},
    {"film"},
    {"video"},
    {"writing", "options", "sheet", "sidecar", "weights", "windows", "fields"},
    {"editors.entry"},
    {"editors.catalog"},
    {"inversion", "deep", "motion"},
    {"host"},
    {"schedule", "features", "flow", "fitting", "editors.protocol", "editors.faces"},
    {"backbones.protocol", "compiling", "editors.canvas", "editors.collage"},
    {"backbones.checkpoint", "backbones.latent", "backbones.chunking", "backbones.frame_init", "clip"},
    {
        "editors.image",
        "editors.command",
        "editors.color",
        "editors.masks",
        "editors.ranking",
        "editors.sam",
        "editors.pipeline",
        "editors.style_transfer",
    },
    {"editors.sdxl", "editors.anydoor"},
    {"editors.instant_id", "editors.instant_style"},
    {"backbones.i2vgen_xl", "backbones.consisti2v", "backbones.seine"},
    {"backbones.mini"},
    {"backbones", "editors"},
    {"edit", "job", "evaluation", "evaluation.drawing"},
    {"store", "carry", "evaluation.scenes"},
    {"still", "source", "span"},
    {"footprint"},
    {"evaluation.filming", "evaluation.captions"},
    {"evaluation.methods", "evaluation.metrics", "evaluation.judges"},
    {"evaluation.propagation", "evaluation.measures"},
    {"evaluation.report", "evaluation.sweep", "evaluation.statistics"},
    {"doctor"},
    {"checks"},
    {"run"},
    {"evaluation.manifest"},
    {"evaluation.results"},
    {"evaluation.cells", "evaluation.scoring"},
    {"evaluation.study", "evaluation.study.slates", "evaluation.study.votes"},
    {"evaluation.study.ballot"},
    {"evaluation.study.desk", "evaluation.study.tally"},
    {"evaluation.study.server"},
    {"evaluation.tables"},
    {"evaluation.page", "evaluation.views"},
    {"dry_run", "evaluation.inspecting"},
    {"evaluation.sweeping"},
    {"flags", "terminal"},
    {"studio", "studio.limits"},
    {"studio.queue", "studio.shelf"},
    {"studio.request"},
    {"studio.desk"},
    {"studio.worker", "studio.api", "studio.gate"},
    {"studio.supervisor"},
    {"studio.parts", "studio.look", "studio.work"},
    {"studio.form", "studio.showing"},
    {"studio.page"},
    {"studio.server"},
    {"cli_evaluation", "cli_cache", "cli_studio"},
    {"cli"},
    {"__main__"},
    {""},
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def rooms() -> list[str]:
    names = [
        path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".") for path in ROOT.rglob("*.py")
    ]
    return sorted("" if name == "__init__" else name.removesuffix(".__init__") for name in names)


def file_of(room: str) -> Path:
    path = ROOT / room.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def imports(room: str) -> Iterator[str]:
    """Every module that is imported when the room runs; what is for type checkers alone does not count."""
    tree = ast.parse(file_of(room).read_text())
    guarded = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in guarded:
            continue
        if isinstance(node, ast.ImportFrom):
            yield str(node.module)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_every_room_has_a_floor() -> None:
    assert set(rooms()) == set(FLOOR)


@pytest.mark.parametrize("room", rooms())
def test_imports_point_down(room: str) -> None:
    for module in imports(room):
        if module.split(".")[0] == "anyv2v":
            target = module.removeprefix("anyv2v").lstrip(".")
            assert FLOOR[target] < FLOOR[room], f"{room} imports {target}"


def test_the_method_knows_no_model_and_no_file() -> None:
    assert not {"torch", "diffusers", "transformers", "pathlib", "os", "io"} & set(imports("edit"))


def test_only_models_and_those_who_load_them_know_diffusers() -> None:
    users = {
        room for room in rooms() if {"diffusers", "transformers"} & {m.split(".")[0] for m in imports(room)}
    }
    loaders = {"backbones", "clip", "editors", "models", "weights"}
    assert {room for room in users if room.split(".")[0] not in loaders} <= {"evaluation.judges"}


def test_names_are_sorted_and_there() -> None:
    assert anyv2v.__all__ == sorted(anyv2v.__all__, key=lambda name: (not name.isupper(), name))
    assert all(getattr(anyv2v, name) is not None for name in anyv2v.__all__)
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        _ = anyv2v.nothing_of_the_kind


def test_the_function_edit_is_not_hidden_by_the_module_edit() -> None:
    import anyv2v.edit

    assert callable(anyv2v.edit)


@pytest.mark.parametrize("statement", ["import anyv2v", "from anyv2v import run, cli, dry_run"])
def test_torch_is_not_imported_before_it_is_needed(statement: str) -> None:
    code = f"import sys; {statement}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
