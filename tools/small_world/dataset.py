"""Latents of single clips, encoded once: `python -m tools.small_world.dataset` fills the folder shard by shard.

Training reads the shards that are there, so it can start on the first ones.
"""

import argparse
import hashlib
import os
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from .autoencoder import encode_mixed, frame_features, load_autoencoder, to_video
from .host import DEVICE, Wan21
from .render import render
from .run import CHECKPOINTS
from .world import FRAMES, HEIGHT, WIDTH, random_clip

CLIPS_PER_SHARD = 250
KNOWN = {"first_frame": 1, "motion_frames": 5}  # what is known of a shot that goes on without a cut: frames


@cache
def shards_folder() -> Path:
    """Latents of another autoencoder are of no use: each has a folder of its own."""
    digest = hashlib.sha256((CHECKPOINTS / "vae.safetensors").read_bytes()).hexdigest()
    return CHECKPOINTS / f"latents_{digest[:8]}"


def shard_path(index: int) -> Path:
    return shards_folder() / f"{index:04d}.safetensors"


@torch.no_grad()
def encode_shard(vae, index: int) -> dict[str, torch.Tensor]:
    """Normalised latents, float16 [250, 16, 5, 8, 12], of whole clips and of their beginnings with grey behind."""
    wan, grey = Wan21(), frame_features(vae, torch.zeros(1, 3, 1, HEIGHT, WIDTH))
    rows: dict[str, list[torch.Tensor]] = {name: [] for name in ("clip", *KNOWN)}
    for seed in range(index * CLIPS_PER_SHARD, (index + 1) * CLIPS_PER_SHARD):
        features = frame_features(vae, to_video(render(random_clip(seed)).frames[None]))
        for name, known in {"clip": FRAMES, **KNOWN}.items():
            video = torch.cat([features[:, :, :known], grey.expand(-1, -1, FRAMES - known, -1, -1)], 2)
            rows[name].append(wan.process_in(encode_mixed(vae, video)).half().cpu())
    return {name: torch.cat(latents) for name, latents in rows.items()}


def grey_latent(vae) -> torch.Tensor:
    """Normalised latent [16, 5, 8, 12] of a clip of which nothing is known."""
    with torch.no_grad():
        grey = frame_features(vae, torch.zeros(1, 3, 1, HEIGHT, WIDTH)).expand(-1, -1, FRAMES, -1, -1)
        return Wan21().process_in(encode_mixed(vae, grey))[0]


class Clips:
    """The encoded clips there are; `batch(step, size)` depends on the step and on how many there are."""

    def __init__(self):
        self.shards: list[dict[str, torch.Tensor]] = []

    def load_new(self) -> None:
        while shard_path(len(self.shards)).exists():
            self.shards.append(load_file(shard_path(len(self.shards))))
        if not self.shards:
            raise FileNotFoundError(f"no clips in {shards_folder()}: run python -m tools.small_world.dataset first")

    def batch(self, step: int, size: int) -> tuple[list[int], dict[str, torch.Tensor]]:
        """Seeds of `size` clips and their latents."""
        if step % 50 == 0 or not self.shards:
            self.load_new()
        rng = np.random.default_rng([step, 3])
        seeds = [int(seed) for seed in rng.integers(len(self.shards) * CLIPS_PER_SHARD, size=size)]
        rows = [(self.shards[seed // CLIPS_PER_SHARD], seed % CLIPS_PER_SHARD) for seed in seeds]
        latents = {name: torch.stack([shard[name][row] for shard, row in rows]) for name in rows[0][0]}
        return seeds, {name: rows.float().to(DEVICE) for name, rows in latents.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tools.small_world.dataset", description=__doc__)
    parser.add_argument("--shards", type=int, default=24, help=f"of {CLIPS_PER_SHARD} clips each")
    parser.add_argument("--worker", default="0/1", help="N/COUNT: of that many side by side, from 0")
    arguments = parser.parse_args()
    worker, workers = (int(number) for number in arguments.worker.split("/"))
    vae = load_autoencoder()
    shards_folder().mkdir(exist_ok=True)
    for index in tqdm(range(worker, arguments.shards, workers), desc="shards"):
        if not shard_path(index).exists():
            unfinished = shard_path(index).with_suffix(".unfinished")
            save_file(encode_shard(vae, index), unfinished)
            os.replace(unfinished, shard_path(index))
