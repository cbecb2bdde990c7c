"""What the small world's models are trained on. These tests have ComfyUI's model classes in their own process."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tools.demo_models import WEIGHTS
from tools.small_world import dataset, probe
from tools.small_world.dataset import CLIPS_PER_SHARD, PAIRS, Clips
from tools.small_world.text import TextEncoder
from tools.small_world.transformer import CUT, FIRST_FRAME, known_channels, trained
from tools.small_world.world import random_clip

LATENT = (16, 5, 8, 12)


def test_what_an_i2v_sample_knows():
    """Mask and latent of each kind, and how often each comes."""
    torch.manual_seed(1)
    grey, count = torch.randn(LATENT), 4000
    clips = {name: torch.randn(1, *LATENT).expand(count, -1, -1, -1, -1) for name in ("first_frame", "motion_frames")}
    known = known_channels({**clips, "clip": clips["first_frame"]}, grey)
    assert known.shape == (count, 20, 5, 8, 12)
    found = {"cut": 0, "first_frame": 0, "motion_frames": 0}
    for row in known:
        kind = next(
            kind
            for kind, video, frames in (
                ("cut", grey, 0),
                ("first_frame", clips["first_frame"][0], 1),
                ("motion_frames", clips["motion_frames"][0], 2),
            )
            if torch.equal(row[4:], video)
            and torch.equal(row[:4], torch.cat([torch.ones(4, frames, 8, 12), torch.zeros(4, 5 - frames, 8, 12)], 1))
        )
        found[kind] += 1
    shares = [found[kind] / count for kind in found]
    assert shares == pytest.approx([CUT, FIRST_FRAME, 1 - CUT - FIRST_FRAME], abs=0.03)


def test_a_clip_comes_with_its_own_caption(tmp_path, monkeypatch):
    """Latents, characters' cells and tokens of a batch belong together; new shards are read on the way."""
    monkeypatch.setattr(dataset, "shards_folder", lambda: tmp_path)
    text = TextEncoder()
    text.t5.load_state_dict(trained(WEIGHTS, "umt5"))

    def write(shard: int) -> None:
        seeds = torch.arange(shard * CLIPS_PER_SHARD, (shard + 1) * CLIPS_PER_SHARD)
        marked = seeds.view(-1, 1, 1, 1, 1).expand(-1, *LATENT)  # a clip's latent says its seed: float16 holds it
        latents = {name: marked.half().contiguous() for name in ("clip", "first_frame", "motion_frames")}
        cells = (marked[:, 0] % 2).byte().contiguous()
        save_file({**latents, "cells": cells}, dataset.shard_path(shard))

    clips = Clips(text.tokens)
    with pytest.raises(FileNotFoundError, match="run python -m"):
        clips.batch(0, 8)
    write(0)
    seen = set()
    for step in range(60):
        if step == 20:
            write(1)
        drawn = clips.batch(step, 64)
        seeds = drawn["clip"][:, 0, 0, 0, 0].int().tolist()
        seen |= set(seeds)
        if step < 50:
            assert max(seeds) < CLIPS_PER_SHARD
        if step % 20 == 0:
            assert torch.equal(drawn["tokens"], text.tokens([random_clip(seed, PAIRS).caption for seed in seeds]))
            assert all(torch.equal(drawn["clip"], drawn[name]) for name in ("first_frame", "motion_frames"))
            assert torch.equal(drawn["cells"][:, 0, 0, 0], torch.tensor(seeds).byte() % 2)
    assert len(seen) > 1.5 * CLIPS_PER_SHARD
    again = clips.batch(59, 64)
    assert torch.equal(again["clip"], drawn["clip"])


def test_memory_tells_the_trained_models_about_looks():
    """Error at pure noise in unseen stories, for characters and for the rest: memory of the right ones helps most."""
    vae, text, grey = probe.load_models(WEIGHTS)
    stories = [probe.Story(vae, probe.FIRST_STORY + i) for i in range(2)]
    base = trained(WEIGHTS, "i2v")
    for kind in ("first_frame", "motion_frames"):
        lora = WEIGHTS / f"storymem_world_lora_{kind}.safetensors"
        wan = probe.new_transformer(36)
        wan.load_state_dict(probe.with_lora(base, lora))
        found = probe.measure(wan, text, grey, stories)
        nothing, everything, own = (np.array(found[policy]) for policy in probe.MEMORIES)
        assert (own < everything).all() and (everything < nothing).all()
        assert own[1] < 0.75 * nothing[1]
