"""Latents of single clips, encoded once: `python -m tools.small_world.dataset` fills the folder shard by shard.

Training reads the shards that are there, so it can start on the first ones.
"""

import argparse
import hashlib
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from .autoencoder import encode_mixed, frame_features, load_autoencoder, to_video
from .host import DEVICE, Wan21
from .render import cells_of_characters, render
from .run import CHECKPOINTS, ahead, load_finished
from .world import FRAMES, HEIGHT, WIDTH, Shot, random_clip

SHARDS, CLIPS_PER_SHARD = 100, 250
ENCODED_AT_ONCE = 25
# Of clips with two characters. Only who acts in a picture of both teaches which of them a caption's words mean.
PAIRS = 0.6
WORLD = ("world", "render")  # what clips look like is in these modules
ENCODER = ("encoder.", "conv1.")
KNOWN = {"first_frame": 1, "motion_frames": 5}  # what is known of a shot that goes on without a cut: frames


@cache
def shards_folder() -> Path:
    """Latents of another encoder or another world are of no use: each has a folder of its own."""
    digest = hashlib.sha256(str(PAIRS).encode())
    for name, weight in sorted(load_finished("vae").items()):
        if name.startswith(ENCODER):
            digest.update(weight.numpy())
    for name in WORLD:
        digest.update(Path(__file__).with_name(f"{name}.py").read_bytes())
    return CHECKPOINTS / f"latents_{digest.hexdigest()[:8]}"


def shard_path(index: int) -> Path:
    return shards_folder() / f"{index:04d}.safetensors"


def shots_of(index: int) -> list[Shot]:
    seeds = range(index * CLIPS_PER_SHARD, (index + 1) * CLIPS_PER_SHARD)
    return [random_clip(seed, PAIRS) for seed in seeds]


def draw_shard(index: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames uint8 [250, 17, 64, 96, 3] of its clips, and where their characters are, bool [250, 5, 8, 12]."""
    shots = shots_of(index)
    return np.stack([render(shot).frames for shot in shots]), np.stack([cells_of_characters(shot) for shot in shots])


@torch.no_grad()
def encode_shard(vae, frames: np.ndarray) -> dict[str, torch.Tensor]:
    """Normalised latents, float16 [N, 16, 5, 8, 12], of whole clips and of their beginnings with grey behind."""
    wan, grey = Wan21(), frame_features(vae, torch.zeros(1, 3, 1, HEIGHT, WIDTH))
    rows: dict[str, list[torch.Tensor]] = {name: [] for name in ("clip", *KNOWN)}
    for first in range(0, len(frames), ENCODED_AT_ONCE):
        features = frame_features(vae, to_video(frames[first : first + ENCODED_AT_ONCE]))
        for name, known in {"clip": FRAMES, **KNOWN}.items():
            behind = grey.expand(len(features), -1, FRAMES - known, -1, -1)
            video = torch.cat([features[:, :, :known], behind], 2)
            rows[name].append(wan.process_in(encode_mixed(vae, video)).half().cpu())
    return {name: torch.cat(latents).contiguous() for name, latents in rows.items()}


def grey_latent(vae) -> torch.Tensor:
    """Normalised latent [16, 5, 8, 12] of a clip of which nothing is known."""
    with torch.no_grad():
        grey = frame_features(vae, torch.zeros(1, 3, 1, HEIGHT, WIDTH)).expand(-1, -1, FRAMES, -1, -1)
        return Wan21().process_in(encode_mixed(vae, grey))[0]


class Clips:
    """The encoded clips there are, on DEVICE; `batch(step, size)` depends on the step and on how many there are.

    tokens: makes tokens [N, L] of captions.
    """

    def __init__(self, tokens: Callable[[list[str]], torch.Tensor]):
        self.tokens, self.shards, self.clips = tokens, 0, {}

    def load_new(self) -> None:
        parts = [self.clips] if self.clips else []
        while shard_path(self.shards).exists():
            tokens = self.tokens([shot.caption for shot in shots_of(self.shards)])
            parts.append({**load_file(shard_path(self.shards), str(DEVICE)), "tokens": tokens})
            self.shards += 1
        if not self.shards:
            raise FileNotFoundError(f"no clips in {shards_folder()}: run python -m tools.small_world.dataset first")
        if len(parts) > 1 or not self.clips:
            self.clips = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def batch(self, step: int, size: int) -> dict[str, torch.Tensor]:
        """`size` clips: latents "clip", "first_frame", "motion_frames" [B, 16, 5, 8, 12]; where the characters are,
        "cells" [B, 5, 8, 12] of 0 or 1; "tokens" [B, L] of the captions."""
        if step % 50 == 0 or not self.shards:
            self.load_new()
        rows = np.random.default_rng([step, 3]).integers(self.shards * CLIPS_PER_SHARD, size=size)
        drawn = {name: of_all[torch.from_numpy(rows).to(DEVICE)] for name, of_all in self.clips.items()}
        return {name: of.float() if of.dtype == torch.float16 else of for name, of in drawn.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tools.small_world.dataset", description=__doc__)
    parser.add_argument("--shards", type=int, default=SHARDS, help=f"of {CLIPS_PER_SHARD} clips each")
    vae, shards = load_autoencoder(), range(parser.parse_args().shards)
    shards_folder().mkdir(exist_ok=True)
    missing = [index for index in shards if not shard_path(index).exists()]
    drawn = ahead(draw_shard, missing)
    for index, (frames, cells) in zip(tqdm(missing, desc="shards"), drawn, strict=True):
        unfinished = shard_path(index).with_suffix(".unfinished")
        save_file({**encode_shard(vae, frames), "cells": torch.from_numpy(cells).byte()}, unfinished)
        os.replace(unfinished, shard_path(index))
