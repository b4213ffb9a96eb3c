"""Training: its clips, and a run so short that only its mechanics can be seen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import I2VGenXLUNet

from anyv2v import Options, Video, diffuse, load_backbone
from anyv2v.backbones.i2vgen_xl import image_latents
from anyv2v.evaluation.scenes import HELD_OUT
from training.__main__ import main as train
from training.clips import FIRST_SEED, Clips, make_clip
from training.copying import start_copying
from training.net import mix
from training.parts import new_vae
from training.recipe import RECIPES
from training.vae import _shown, balanced

ROOT = Path(__file__).parent.parent


def test_a_number_is_a_clip() -> None:
    clip, caption, fps = make_clip(3, 32, 4)
    again, other = make_clip(3, 32, 4), make_clip(4, 32, 4)
    assert clip.shape == (4, 3, 32, 32)
    assert clip.dtype == torch.uint8
    assert torch.equal(clip, again[0])
    assert (caption, fps) == again[1:]
    assert not torch.equal(clip, other[0])


def test_what_the_benchmark_holds_out_is_not_learned(monkeypatch) -> None:
    seen = []

    def sample_scene(motion: str, seed: int) -> object:
        seen.append((motion, seed))
        return real(motion, seed)

    import training.clips as module

    real = module.sample_scene
    monkeypatch.setattr(module, "sample_scene", sample_scene)
    captions = [make_clip(number, 8, 2)[1] for number in range(60)]
    assert {motion for motion, _ in seen} == {
        "translation",
        "rotation",
        "nonrigid",
        "occlusion",
        "camera",
        "fast",
    }
    assert min(seed for _, seed in seen) >= FIRST_SEED
    assert set(HELD_OUT) == {"weather", "scaling"}
    assert not any(word in caption for caption in captions for word in ("snow", "rain", "haze", "growing"))


def test_a_stream_goes_on_where_it_was_left() -> None:
    first = next(iter(Clips(5, 16, 2)))
    assert torch.equal(first[0], make_clip(5, 16, 2)[0])


@torch.no_grad()
def test_a_new_vae_keeps_the_mean_colours() -> None:
    vae = new_vae(RECIPES["cpu"]).eval()
    rng = torch.Generator().manual_seed(0)
    blocks = torch.rand(2, 3, 8, 8, generator=rng).repeat_interleave(4, 2).repeat_interleave(4, 3) * 2 - 1
    ours = vae.decode(vae.encode(blocks).latent_dist.mean).sample
    inside = ours.unfold(2, 2, 4).unfold(3, 2, 4)  # away from borders, which the convolutions blur
    assert np.corrcoef(ours.flatten(), blocks.flatten())[0, 1] > 0.9
    assert inside.isfinite().all()


@torch.no_grad()
def test_balanced_latents_are_the_same_picture_and_count_alike() -> None:
    vae = new_vae(RECIPES["smoke"]).eval()
    vae.post_quant_conv.weight[:, :, 0, 0] += torch.diag(torch.tensor([0.0, 2, 5, 0]))
    frames = torch.rand(8, 3, 16, 16) * 2 - 1
    ours = balanced(vae, frames)
    z, other = vae.encode(frames).latent_dist, ours.encode(frames).latent_dist
    torch.testing.assert_close(ours.decode(other.mean).sample, vae.decode(z.mean).sample, atol=1e-4, rtol=0)
    torch.testing.assert_close(other.mean.mean((0, 2, 3)), torch.zeros(4), atol=1e-5, rtol=0)
    assert other.mean.std().item() == pytest.approx(1 / ours.config.scaling_factor, rel=1e-4)
    torch.testing.assert_close(
        other.std / other.mean.std((0, 2, 3), keepdim=True), z.std / z.mean.std((0, 2, 3), keepdim=True)
    )
    before, after = _shown(vae, z.mean)[:3], _shown(ours, other.mean)[:3]  # the fourth is not used yet
    assert before.max() > 3 * before.min()
    assert after.max() < 1.5 * after.min()


@torch.no_grad()
def test_a_new_net_takes_every_frame_for_the_first() -> None:
    """At pure noise, whose velocity is the clean latents with their sign turned."""
    recipe = RECIPES["cpu"]
    net = I2VGenXLUNet(
        sample_size=16,
        block_out_channels=recipe.widths,
        cross_attention_dim=8,
        attention_head_dim=16,
        norm_num_groups=8,
    ).eval()
    start_copying(net, frames=5)
    first = torch.nn.functional.interpolate(torch.randn(1, 4, 4, 4), (16, 16), mode="bicubic")
    told = {
        "fps": torch.tensor([8]),
        "image_latents": image_latents(first[:, :, None], 5),
        "image_embeddings": torch.randn(1, 1, 8),
        "encoder_hidden_states": torch.randn(1, 3, 8),
    }
    velocity = net(torch.randn(1, 4, 5, 16, 16), torch.tensor([999]), **told).sample
    assert (velocity + first[:, :, None]).square().mean() < 0.05 * first.square().mean()


def test_velocity_by_its_definition() -> None:
    z0, noise = torch.randn(2, 1, 4, 2, 2, 2)
    alpha = torch.tensor(0.36).view(1, 1, 1, 1, 1)
    z, velocity = mix(alpha, z0, noise)
    torch.testing.assert_close(0.6 * z - 0.8 * velocity, z0)
    torch.testing.assert_close(0.8 * z + 0.6 * velocity, noise)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """By the command line; the runs that go on from it are called, as a process takes seconds to begin."""
    out = tmp_path_factory.mktemp("mini")
    command = [sys.executable, "-m", "training", "smoke", "--out", str(out), "--device", "cpu"]
    alone = os.environ | {
        "OMP_NUM_THREADS": "1"
    }  # threads that wait for each other starve beside other tests
    done = subprocess.run(command, cwd=ROOT, env=alone, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out


def test_a_run_leaves_a_checkpoint_that_edits(trained: Path) -> None:
    backbone = load_backbone("mini", str(trained / "checkpoint"), device="cpu")
    assert (backbone.spec.frames, backbone.spec.size.width) == (4, 16)
    frames = make_clip(0, 16, 4)[0].permute(0, 2, 3, 1).numpy()
    options = Options(steps=3, inversion_steps=3, guidance=2)
    assert diffuse(backbone, Video(frames, 8), frames[1], "a star", options).frames.shape == frames.shape
    for stage in ("vae", "net"):
        assert (trained / stage / "curve.png").exists()
        assert (trained / stage / "sample.png").exists()


def test_a_run_goes_on_where_it_was_left(trained: Path) -> None:
    spent = [json.loads((trained / stage / "curve.json").read_text()) for stage in ("vae", "net")]
    train("smoke", trained, minutes=0.04, device="cpu")
    later = [json.loads((trained / stage / "curve.json").read_text()) for stage in ("vae", "net")]
    assert later[0] == spent[0]  # its time was over
    assert later[1]["steps"] > spent[1]["steps"]
    assert later[1]["curve"][: len(spent[1]["curve"])] == spent[1]["curve"]


def test_a_run_that_is_paused_is_saved(tmp_path: Path) -> None:
    train("smoke", tmp_path, vae_minutes=5, pause=0.01, device="cpu")
    assert (tmp_path / "vae" / "state.pt").exists()
    assert not (tmp_path / "net" / "state.pt").exists()


def test_a_finished_run_is_left_alone(trained: Path) -> None:
    before = (trained / "net" / "state.pt").read_bytes()
    train("smoke", trained, minutes=0.0001, device="cpu")
    assert (trained / "net" / "state.pt").read_bytes() == before
