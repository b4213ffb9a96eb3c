"""What every test stands on: no network, one thread, tiny nets."""

from __future__ import annotations

import gc
import os
import shutil
import sys
from collections.abc import Iterator
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub

import numpy as np
import pytest
import torch

from anyv2v import cli, load_backbone, write, write_image
from anyv2v.backbones.protocol import Backbone

torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="module")
def nothing_old_is_looked_through():
    """Each collection then takes a moment, in place of a second: it sees what this module's tests make."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """Where the test keeps what it makes; nobody else's."""
    folder = tmp_path_factory.mktemp("kept") / "cache"
    monkeypatch.setenv("ANYV2V_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def tiny() -> str:
    """A checkpoint of I2VGen-XL's layout with tiny random nets."""
    from golden_data import Golden

    return Golden("i2vgen-xl").checkpoint


@pytest.fixture(scope="session")
def i2vgen_xl(tiny: str) -> Backbone:
    return load_backbone("i2vgen-xl", tiny, device="cpu")


def scene(count: int = 6, width: int = 96, height: int = 64, shift: int = 2) -> np.ndarray:
    """A texture that moves: ``[F, H, W, 3]``."""
    rng = np.random.default_rng(0)
    noise = rng.uniform(0, 255, (height // 4, width // 4 + count, 3))
    texture = np.kron(noise, np.ones((4, 4, 1)))
    return np.stack([texture[:, k * shift : k * shift + width] for k in range(count)]).astype(np.uint8)


@pytest.fixture
def job(tmp_path, monkeypatch):
    """A folder with a clip and its edited first frame."""
    frames = scene()
    write(tmp_path / "clip.mp4", frames, 8)
    write_image(tmp_path / "edited.png", 255 - frames[0])
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a command line; give its exit code and what it printed."""

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["anyv2v", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capsys.readouterr()
        return end.value.code or 0, out, err

    return call


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A real one, where it is installed."""
    playwright, chromium = pytest.importorskip("playwright.sync_api"), shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no chromium")
    quiet = [f"--disable-{part}" for part in ("gpu", "background-networking", "component-update", "sync")]
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=chromium, args=["--headless", "--no-sandbox", "--no-first-run", *quiet]
        )
        yield browser
        browser.close()
