"""Latents of short clips with memories drawn for them, for `lora_loop.py`: `python -m tools.small_world.memories`.

The clips are shots like those of `lora.py`, and of ensembles, whose memory shows somebody once among many others; who
remembers what is drawn by the functions of Training Set. Beside the keyframes of every clip there are those of a
*drifted* one, whose characters have other looks: what a film that went wrong has in its memory. In some samples later
keyframes are drifted, and the shot to learn still has the looks that came first. Most clips are remembered as the
autoencoder gives them back, since that is what a film's keyframes are. `films.py` has memories of films that models
made.
"""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from storymem_core.embedders import ColorLayout
from storymem_core.training import EmbeddedClip, Sample, compose_samples

from . import dataset
from .autoencoder import encode, load_autoencoder, to_video
from .host import DEVICE, Wan21
from .lora import FIRST_ENCOUNTERS, FIRST_SCENE, FIRST_STORY, MAX_MEMORY
from .render import body_box, cells_of_characters, draw, render
from .run import ahead
from .sample import to_frames
from .world import (
    ACCESSORIES,
    BODY_COLOURS,
    FRAMES,
    HEIGHT,
    KINDS,
    PATTERNS,
    PLACES,
    WIDTH,
    Character,
    Shot,
    motion,
    random_character,
    random_encounters,
    random_place,
    random_scene,
    random_shot,
    random_story,
)


def random_ensemble(seed: int) -> tuple[Shot, ...]:
    """Shots of three or four characters in two or three places: everybody once alone, then as many shots of one or two
    again. Whoever is in a shot is in few of the others."""
    rng = np.random.default_rng([seed, 5])
    cast = [random_character(rng, str(kind)) for kind in rng.permutation(KINDS)[: rng.integers(3, 5)]]
    places = [random_place(rng, str(kind)) for kind in rng.permutation(PLACES)[: rng.integers(2, 4)]]
    casts = [(who,) for who in cast]
    casts += [tuple(cast[i] for i in rng.permutation(len(cast))[: rng.integers(1, 3)]) for _ in cast]
    return tuple(replace(random_shot(rng, who, places[int(rng.integers(len(places)))]), scroll=0.0) for who in casts)


OTHERS, FIRST_ENSEMBLE = 500_000, 53_000_000  # none of the clips of lora.py
# Groups of a shard: clips remember clips of their own group.
# Nearly half of the clips are of ensembles: it is hard to find the one keyframe of somebody among those of others.
GROUPS = (
    (random_story, FIRST_STORY + OTHERS, 14),
    (random_scene, FIRST_SCENE + OTHERS, 4),
    (random_encounters, FIRST_ENCOUNTERS + OTHERS, 6),
    (random_ensemble, FIRST_ENSEMBLE, 16),
)
SAMPLES_PER_CLIP = 16
SHARES = {"m2v": 0.76, "mi2v": 0.12, "mm2v": 0.12}
SAMPLE_KINDS = tuple(SHARES)
KEYFRAMES = tuple(range(0, FRAMES, 4))  # the frames of a clip that may be remembered: one for each latent frame
PER_CLIP = 2 * len(KEYFRAMES)  # with the drifted ones
GIVEN_BACK = 0.7  # share of the clips that are remembered as the autoencoder gives them back, like all a film shows
DRIFTING = 0.5  # share of the samples whose memory may have drifted
LOOKS = {"body": tuple(BODY_COLOURS), "pattern": PATTERNS, "accessory": ACCESSORIES}


@dataclass(frozen=True, eq=False)
class Drawn:
    """Clips of a shard without latents, and its samples. N clips, S samples."""

    frames: np.ndarray  # uint8 [N, 17, 64, 96, 3]
    drifted: np.ndarray  # uint8 [N, 5, 64, 96, 3]: their keyframes with other looks
    cells: np.ndarray  # uint8 [N, 5, 8, 12]: 1 where characters are, 2 where they wear or hold something, or could
    captions: list[str]
    kind: np.ndarray  # [S], of each sample, in SAMPLE_KINDS
    clip: np.ndarray  # [S]: the one to learn
    memory: np.ndarray  # [S, MAX_MEMORY]: clip * PER_CLIP + keyframe (+ 5: drifted), oldest first, then -1


def drift(rng: np.random.Generator, shot: Shot, cast: Sequence[Character]) -> Shot:
    """The shot with other looks for everybody in it; half of what is other comes from somebody else of the cast."""

    def other(who: Character) -> Character:
        others = [each for each in cast if each.kind != who.kind]
        changed = who
        while changed == who:
            for name, values in LOOKS.items():
                if rng.random() < 0.5:
                    taken = getattr(others[rng.integers(len(others))], name) if others and rng.random() < 0.5 else None
                    changed = replace(changed, **{name: taken or str(rng.choice(values))})
            colours = [colour for colour in BODY_COLOURS if colour != changed.body]
            if changed.pattern_colour == changed.body or rng.random() < 0.3:
                changed = replace(changed, pattern_colour=str(rng.choice(colours)))
        return changed

    return replace(shot, characters=tuple(other(who) for who in shot.characters))


def drifts(rng: np.random.Generator, target: Shot, memory: Sequence[Shot]) -> list[bool]:
    """Which keyframes of a memory have drifted, given their shots, oldest first: never the first one of somebody who
    is in the shot to learn, so that its looks follow from the memory."""
    share = rng.uniform(0.3, 1) if rng.random() < DRIFTING else 0.0
    wanted, seen, found = {who.kind for who in target.characters}, set(), []
    for shot in memory:
        here = {who.kind for who in shot.characters} & wanted
        found.append(bool(here) and here <= seen and rng.random() < share)
        seen |= here
    return found


def cells_of_accessories(shot: Shot) -> np.ndarray:
    """Where characters wear and hold something in a clip's latents, or would: bool [5, 8, 12]."""
    frames, cell = 5, 8
    cells = np.zeros((frames, HEIGHT // cell, WIDTH // cell), bool)
    for time in range(frames):
        pose = motion(shot, time / (frames - 1))
        for index in range(len(shot.characters)):
            x, y, _, height = body_box(pose, index)
            hat = (y - 0.85 * height, y - 0.4 * height, x - 0.45 * height, x + 0.45 * height)
            balloon = (y - 0.9 * height, y + 0.2 * height, x - 0.9 * height, x - 0.4 * height)
            for top, bottom, left, right in (hat, balloon):
                rows = slice(max(0, int(top // cell)), max(0, int(-(-bottom // cell))))
                columns = slice(max(0, int(left // cell)), max(0, int(-(-right // cell))))
                cells[time, rows, columns] = True
    return cells


def looked_at(shot: Shot) -> np.ndarray:
    """`Drawn.cells` of a clip."""
    return np.maximum(cells_of_characters(shot).astype(np.uint8), 2 * cells_of_accessories(shot).astype(np.uint8))


def draw_shard(index: int) -> Drawn:
    rng, embed = np.random.default_rng([index, 5]), ColorLayout()
    shots, clips, frames, drifted = [], [], [], []
    for shots_of, first, count in GROUPS:
        for seed in range(first + index * count, first + (index + 1) * count):
            group = shots_of(seed)
            cast = list(dict.fromkeys(who for shot in group for who in shot.characters))
            different = list(dict.fromkeys(replace(shot, cut=True) for shot in group))
            for shot in different if len(different) > 1 else ():  # else there is nothing to remember
                rendered, other = render(shot).frames, drift(rng, shot, cast)
                embedding = embed(rendered[list(KEYFRAMES)])
                clips.append(EmbeddedClip(shot.caption, str(seed), FRAMES, np.array(KEYFRAMES), embedding))
                shots.append(shot)
                frames.append(rendered)
                drifted.append(np.stack([draw(other, motion(other, i / (FRAMES - 1))) for i in KEYFRAMES]))
    samples = compose_samples(clips, FRAMES, SAMPLES_PER_CLIP * len(clips), SHARES, MAX_MEMORY, -1.0, index)
    return Drawn(
        np.stack(frames),
        np.stack(drifted),
        np.stack([looked_at(shot) for shot in shots]),
        [shot.caption for shot in shots],
        np.array([SAMPLE_KINDS.index(sample.kind) for sample in samples]),
        np.array([sample.clip for sample in samples]),
        np.stack([numbered(rng, sample, shots) for sample in samples]),
    )


def numbered(rng: np.random.Generator, sample: Sample, shots: Sequence[Shot]) -> np.ndarray:
    """Its memory as a row of `Drawn.memory`."""
    row = np.full(MAX_MEMORY, -1)
    drifted = drifts(rng, shots[sample.clip], [shots[clip] for clip, _ in sample.memory])
    for i, ((clip, frame), other) in enumerate(zip(sample.memory, drifted, strict=True)):
        row[i] = clip * PER_CLIP + other * len(KEYFRAMES) + KEYFRAMES.index(frame)
    return row


@torch.no_grad()
def encode_pictures(vae, pictures: np.ndarray) -> torch.Tensor:
    """Normalised latents, float16 [N, 16, 8, 12], of single frames, uint8 [N, 64, 96, 3]."""
    parts = [encode(vae, to_video(pictures[i : i + 250, None])) for i in range(0, len(pictures), 250)]
    return torch.cat([Wan21().process_in(part).half().cpu() for part in parts]).squeeze(2)


def kinds_in(captions: Sequence[str]) -> np.ndarray:
    """Who is named in each, of KINDS, bool [N, 4]."""
    return np.array([[kind in caption for kind in KINDS] for caption in captions])


def shard_path(index: int, source: str = "memories") -> Path:
    """Beside the clips of the same encoder and world. source: "memories", or "films" for those of `films.py`."""
    return dataset.shards_folder() / source / f"{index:05d}.safetensors"


def write_shard(vae, path: Path, clips: np.ndarray, pictures: np.ndarray, columns: dict[str, np.ndarray]) -> None:
    """The shard's file; it appears complete or not at all.

    clips: uint8 [N, 17, 64, 96, 3], to learn; pictures: uint8 [P, 64, 96, 3], to remember.
    columns: "cells" and "captions" of the clips; "shows" (`kinds_in`) of the pictures; "sample_kind", "sample_clip" and
    "sample_memory" (numbers of pictures, then -1).
    """
    content = dataset.encode_shard(vae, clips) | {"pictures": encode_pictures(vae, pictures)}
    captions = np.frombuffer("\n".join(columns["captions"]).encode(), np.uint8)
    content |= {name: torch.from_numpy(rows).cpu() for name, rows in {**columns, "captions": captions.copy()}.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    save_file({name: rows.contiguous() for name, rows in content.items()}, unfinished)
    os.replace(unfinished, path)


def columns_of(drawn: Drawn) -> dict[str, np.ndarray]:
    """The columns of `write_shard`."""
    shows = kinds_in(drawn.captions).repeat(PER_CLIP, 0)
    samples = {f"sample_{name}": getattr(drawn, name) for name in ("kind", "clip", "memory")}
    return {"cells": drawn.cells, "captions": drawn.captions, "shows": shows, **samples}


@torch.no_grad()
def given_back(vae, clips: np.ndarray) -> np.ndarray:
    """Clips, uint8 [N, 1 + 4n, 64, 96, 3], encoded and decoded."""
    parts = [clips[i : i + dataset.ENCODED_AT_ONCE] for i in range(0, len(clips), dataset.ENCODED_AT_ONCE)]
    return np.concatenate([to_frames(vae, Wan21().process_in(encode(vae, to_video(part)))) for part in parts])


def pictures_of(vae, drawn: Drawn, seed: int) -> np.ndarray:
    """What may be remembered, uint8 [N * PER_CLIP, 64, 96, 3]: of each clip its keyframes, the drifted ones last; of
    GIVEN_BACK of the clips, drawn, as the autoencoder gives them back."""
    own, drifted = drawn.frames[:, list(KEYFRAMES)], drawn.drifted.copy()
    rows = np.flatnonzero(np.random.default_rng([seed, 8]).random(len(own)) < GIVEN_BACK)
    if len(rows):
        own[rows] = given_back(vae, drawn.frames[rows])[:, list(KEYFRAMES)]
        pictures = drifted[rows].reshape(-1, 1, HEIGHT, WIDTH, 3)
        drifted[rows] = given_back(vae, pictures).reshape(len(rows), *drifted.shape[1:])
    return np.concatenate([own, drifted], 1).reshape(-1, HEIGHT, WIDTH, 3)


def read_shard(path: Path) -> tuple[dict[str, torch.Tensor], list[str]]:
    """What is in a shard's file, on DEVICE, and its captions."""
    content = load_file(path, str(DEVICE))
    return content, content.pop("captions").cpu().numpy().tobytes().decode().split("\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tools.small_world.memories", description=__doc__)
    parser.add_argument("--shards", type=int, default=400, help="of about 240 clips each")
    vae = load_autoencoder()
    shards = range(parser.parse_args().shards)
    missing = [index for index in shards if not shard_path(index).exists()]
    for index, drawn in zip(tqdm(missing, desc="shards"), ahead(draw_shard, missing), strict=True):
        write_shard(vae, shard_path(index), drawn.frames, pictures_of(vae, drawn, index), columns_of(drawn))
