"""What the small world's models are trained on. These tests have ComfyUI's model classes in their own process."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tools.demo_models import WEIGHTS
from tools.small_world import autoencoder, dataset, export, lora, probe, run
from tools.small_world.dataset import CLIPS_PER_SHARD, PAIRS, Clips
from tools.small_world.measure import measure_characters
from tools.small_world.render import render
from tools.small_world.text import TextEncoder
from tools.small_world.transformer import CUT, FIRST_FRAME, known_channels, trained
from tools.small_world.world import random_clip, random_story

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


def test_exported_files_are_taken_up_as_they_are(tmp_path, monkeypatch):
    """A round trip: what is exported after taking up is what was there."""
    monkeypatch.setattr(run, "CHECKPOINTS", tmp_path)
    monkeypatch.setattr(export, "CHECKPOINTS", tmp_path)
    export.take_up()
    taken = export.finished()
    assert sorted(taken) == ["i2v", "t2v", "umt5", "vae"]
    monkeypatch.setattr(export, "WEIGHTS", tmp_path / "weights")
    for name, weights in taken.items():
        written = export.export(name, *(export.text_encoder(weights) if name == "umt5" else (weights, {})))
        shipped, again = load_file(WEIGHTS / written.name), load_file(written)
        assert shipped.keys() == again.keys()
        assert all(torch.equal(shipped[key], again[key]) for key in shipped)


def test_training_the_decoder_leaves_latents_as_they_are(tmp_path, monkeypatch):
    for folder in ("CHECKPOINTS", "LOGS"):
        monkeypatch.setattr(run, folder, tmp_path)
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    small = autoencoder.random_frames(1, 1, 5, crop=16)
    monkeypatch.setattr(autoencoder, "random_frames", lambda *_, **__: small)
    autoencoder.train_decoder(WEIGHTS, 2)
    before, after = trained(WEIGHTS, "vae"), run.load_finished("vae")
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert "conv2.weight" in changed
    assert any(key.startswith("decoder.") for key in changed)
    assert not any(key.startswith(dataset.ENCODER) for key in changed)


def test_looks_and_actions_are_measured_through_the_trained_autoencoder():
    """What the autoencoder leaves of a picture is enough for the measure, so that it is no limit of the figures."""
    vae = autoencoder.new_autoencoder()
    vae.load_state_dict(trained(WEIGHTS, "vae"))
    right, total = 0, 0
    for seed in range(40):
        clip = render(random_clip(seed, PAIRS))
        with torch.no_grad():
            video = autoencoder.decode(vae, autoencoder.encode(vae, autoencoder.to_video(clip.frames[None])))
        frames = ((video[0].movedim(0, -1).clamp(-1, 1) + 1) * 127.5).round().byte().numpy()
        seen = measure_characters(frames, len(clip.shot.characters))
        assert len(seen) == len(clip.shot.characters)
        for who, index in zip(seen, np.argsort(clip.shot.x), strict=True):
            truth = clip.shot.characters[index]
            found = replace(who.looks, pattern_colour=truth.pattern_colour) if truth.pattern == "plain" else who.looks
            right += sum(getattr(found, field.name) == getattr(truth, field.name) for field in fields(truth))
            right += who.action == (clip.shot.action if index == 0 else "stand")
            total += len(fields(truth)) + 1
    assert right >= 0.99 * total


def test_a_larger_run_adds_clips_and_keeps_those_of_the_smaller(tmp_path):
    small = replace(lora.Run(), stories=1, scenes=1, encounters=1)
    lora.write_clips(tmp_path, small)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    assert len({path.parent for path in before}) == 3
    lora.write_clips(tmp_path, replace(small, stories=2))
    after = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    assert len({path.parent for path in after}) == 4
    assert before.items() <= after.items()


def test_a_clip_that_two_stories_have_is_kept_once(tmp_path):
    lora.write_shots(tmp_path / "1", random_story(1)[:2])
    lora.write_shots(tmp_path / "2", random_story(1)[1:3])
    lora.drop_repeated(tmp_path)
    kept = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*"))
    assert kept == ["1/1.mp4", "1/1.txt", "1/2.mp4", "1/2.txt", "2/2.mp4", "2/2.txt"]


def test_servers_go_on_from_the_mean_of_their_loras(tmp_path):
    name = lora.LORA.format("first_frame")
    own = [{"a": torch.randn(3, 4), "b": torch.randn(2)} for _ in range(lora.SERVERS)]
    for server, weights in enumerate(own):
        save_file(weights, tmp_path / f"{lora.own_name('first_frame', server)}_140_steps_00001_.safetensors")
        stale = {key: weight + 5 for key, weight in weights.items()}
        save_file(stale, tmp_path / f"{lora.own_name('first_frame', server)}_20_steps_00001_.safetensors")
    done, file = lora.take_mean(tmp_path, "first_frame")
    assert (done, file) == lora.last_part(tmp_path, name) == (140, f"{name}_140_steps_.safetensors")
    mean = load_file(tmp_path / file)
    for key in ("a", "b"):
        torch.testing.assert_close(mean[key], sum(weights[key] for weights in own) / lora.SERVERS)
    save_file(own[0], tmp_path / f"{lora.own_name('first_frame', 0)}_160_steps_00141_.safetensors")
    with pytest.raises(ValueError, match="unpack"):  # one server is ahead: a mean of different steps is none
        lora.take_mean(tmp_path, "first_frame")


def test_memory_tells_the_trained_models_about_looks():
    """Error at pure noise in unseen stories, for characters and for the rest. Memory of everything helps characters
    nearly as memory of the right ones alone: a LoRA that did not choose would draw mixtures and keep half of that."""
    vae, text, grey = probe.load_models(WEIGHTS)
    stories = [probe.Story(vae, probe.FIRST_STORY + i) for i in range(2)]
    base = trained(WEIGHTS, "i2v")
    for kind in ("first_frame", "motion_frames"):
        lora = WEIGHTS / f"storymem_world_lora_{kind}.safetensors"
        wan = probe.new_transformer(36)
        wan.load_state_dict(probe.with_lora(base, lora))
        found = probe.measure(wan, text, grey, stories)
        nothing, everything, own = (np.array(found[policy]) for policy in probe.MEMORIES)
        assert (own < 0.75 * nothing).all() and (everything < 0.75 * nothing).all()
        assert nothing[0] - everything[0] > 0.75 * (nothing[0] - own[0])
