"""Films that models made, as memory for `lora_loop.py`: `python -m tools.small_world.films LORA`.

True pictures teach a LoRA little of what it will remember: pictures that models made, with their mistakes. So here are
films of its own, shot by shot from memory, sampled and stored as in the evaluation. What to learn is what the next
shots should look like: rendered, with everybody's and every place's looks measured where the film first shows them.
(Learning from one's own mistakes, labelled with what would have been right, is dataset aggregation, arXiv 1011.0686.)
"""

import argparse
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from storymem_core.bank import Keyframe, MemoryBank, read_labels
from storymem_core.embedders import ColorLayout
from storymem_core.keyframes import select_keyframes
from storymem_core.quality import QUALITY, QUALITY_THRESHOLD

from .autoencoder import load_autoencoder
from .dataset import grey_latent
from .host import DEVICE, WanModel, WanVAE
from .lora import FIRST_STORY, MAX_MEMORY
from .lora_loop import velocity_of
from .measure import measure_place, who_is_who
from .memories import (
    FIRST_ENSEMBLE,
    SHARES,
    encode_pictures,
    kinds_in,
    looked_at,
    random_ensemble,
    shard_path,
    write_shard,
)
from .probe import with_lora
from .render import draw, render
from .run import load_finished
from .sample import seeds_2, to_frames
from .text import TextEncoder
from .transformer import LATENT_CHANNELS, MASK_CHANNELS, load_text_encoder, new_transformer
from .world import FRAMES, TOKEN, WIDTH, Character, Place, Shot, motion, random_shot, random_story

OTHERS = 700_000  # none of the clips of lora.py and memories.py
GROUPS = ((random_story, FIRST_STORY + OTHERS, 24), (random_ensemble, FIRST_ENSEMBLE + OTHERS, 8))
MORE = 6  # shots to learn of each film, beside its own
MEMORIES = 3  # of each of them, at most


@dataclass(frozen=True, eq=False)
class Film:
    """The beginning of a story's film. looks, places: as first seen; None for who was not to be seen there, or as
    somebody else. recalled: after each shot, what the next one remembers."""

    shots: tuple[Shot, ...]
    bank: MemoryBank = field(default_factory=MemoryBank)
    looks: dict[Character, Character | None] = field(default_factory=dict)
    places: dict[Place, Place] = field(default_factory=dict)
    recalled: tuple[tuple[Keyframe, ...], ...] = ()

    def with_shot(self, frames: np.ndarray) -> "Film":
        """The film with its next shot, uint8 [17, 64, 96, 3]."""
        shot = self.shots[len(self.recalled)]
        embeddings, shown = ColorLayout()(frames), self.bank.repeated_by(read_labels(shot.labels))
        known = np.stack([keyframe.embedding for keyframe in shown]) if shown else None
        sharpness = QUALITY["sharpness"]
        selection = select_keyframes(
            embeddings,
            lambda frame: sharpness(frames[frame]),
            quality_threshold=QUALITY_THRESHOLD["sharpness"],
            known=known,
        )
        number = len(self.recalled) + 1
        bank = self.bank.add_shot(
            Keyframe(frames[i], number, i, embeddings[i], ColorLayout.name, label=shot.labels)
            for i in selection.indices
        )
        looks = dict(self.looks)
        if any(who not in looks for who in shot.characters):
            for who, seen in who_is_who(shot, frames).items():
                looks.setdefault(who, seen.looks if seen and seen.looks.kind == who.kind else None)
        places = self.places if shot.place in self.places else self.places | {shot.place: seen_place(shot, frames)}
        recalled = (*self.recalled, bank.recall(MAX_MEMORY))
        return replace(self, bank=bank, looks=looks, places=places, recalled=recalled)

    def known_after(self, number: int) -> tuple[list[Character], list[Place]]:
        """Who and where the first `number` shots show."""
        shots = self.shots[:number]
        cast = dict.fromkeys(who for shot in shots for who in shot.characters)
        return list(cast), list(dict.fromkeys(shot.place for shot in shots))

    def as_seen(self, shot: Shot, number: int) -> Shot | None:
        """A shot after the first `number` ones, with the looks that these have set. None where they have not, of
        somebody whom they should have shown."""
        cast, places = self.known_after(number)
        characters = tuple(self.looks[who] if who in cast else who for who in shot.characters)
        place = self.places[shot.place] if shot.place in places else shot.place
        return None if None in characters else replace(shot, characters=characters, place=place, cut=True)


def seen_place(shot: Shot, frames: np.ndarray) -> Place:
    """A shot's place as its frames show it."""
    seen, period = measure_place(frames), int(1.5 * WIDTH / TOKEN)  # tokens, of the landmarks

    def misfit(place: Place) -> float:
        empty = replace(shot, characters=(), place=place)
        pictures = [draw(empty, motion(shot, i / (FRAMES - 1))) for i in (0, FRAMES - 1)]
        return np.square(frames[[0, -1]].astype(float) - pictures).sum()

    firsts = [TOKEN * i for i in range(period)]
    return min((Place(shot.place.kind, seen.sky, seen.ground, (x, x + 3 * TOKEN)) for x in firsts), key=misfit)


def to_learn(rng: np.random.Generator, film: Film) -> list[tuple[Shot, list[int]]]:
    """Shots with looks as seen, each with the numbers of the shots after which it may come: the film's own, and MORE
    of those it has shown."""
    shots = [(film.as_seen(shot, number), [number]) for number, shot in enumerate(film.shots[1:], 1)]
    for _ in range(MORE):
        first = int(rng.integers(1, len(film.shots) + 1))
        cast, places = film.known_after(first)
        who = tuple(cast[i] for i in rng.permutation(len(cast))[: rng.integers(1, 3)])
        shot = replace(random_shot(rng, who, places[int(rng.integers(len(places)))]), scroll=0.0)
        after = rng.permutation(np.arange(first, len(film.shots) + 1))[:MEMORIES]
        shots.append((film.as_seen(shot, first), sorted(after.tolist())))
    return [(shot, after) for shot, after in shots if shot is not None]


@dataclass(frozen=True, eq=False)
class Studio:
    """The models that films are made with. wan: the image-to-video model with the LoRA."""

    vae: WanVAE
    text: TextEncoder
    grey: torch.Tensor  # [16, 5, 8, 12]
    t2v: WanModel
    wan: WanModel

    def next_shots(self, films: Sequence[Film]) -> list[np.ndarray]:
        """Frames of the next shot of each film; those with equally long memories are sampled at once."""
        memories = [film.bank.recall() for film in films]
        shots: list[np.ndarray] = [np.empty(0)] * len(films)
        rows: dict[int, list[int]] = defaultdict(list)
        for i, memory in enumerate(memories):
            rows[len(memory)].append(i)
        for length, own in rows.items():
            captions = [films[i].shots[len(films[i].recalled)].caption for i in own]
            pictures = [keyframe.image for i in own for keyframe in memories[i]]
            latents = self.sampled(captions, np.stack(pictures) if length else None)
            for i, frames in zip(own, to_frames(self.vae, latents), strict=True):
                shots[i] = frames
        return shots

    @torch.no_grad()
    def sampled(self, captions: list[str], pictures: np.ndarray | None) -> torch.Tensor:
        """Latents [B, 16, 5, 8, 12]; pictures: uint8 [B * M, 64, 96, 3], the memories one after the other."""
        count, words = len(captions), self.text(captions)
        noise = torch.randn(count, *self.grey.shape)
        if pictures is None:

            def from_text(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
                with torch.autocast(DEVICE.type, torch.bfloat16):
                    return self.t2v(x, 1000 * sigma, words).float()

            return seeds_2(from_text, noise)
        memory = encode_pictures(self.vae, pictures).float().to(DEVICE).unflatten(0, (count, -1)).transpose(1, 2)
        batch = {"memory": memory, "video": self.grey.expand_as(noise)}
        batch["mask"] = torch.zeros(count, MASK_CHANNELS, *self.grey.shape[1:])
        x = torch.cat([torch.randn_like(memory), noise], 2)
        clips = seeds_2(lambda x, sigma: velocity_of(self.wan, batch, x, sigma, words), x)
        return clips[:, :, memory.shape[2] :]

    def made(self, stories: Sequence[tuple[Shot, ...]]) -> list[Film]:
        """Their films."""
        films = [Film(shots) for shots in stories]
        for number in range(max(map(len, stories))):
            going_on = [i for i, shots in enumerate(stories) if number < len(shots)]
            for i, frames in zip(going_on, self.next_shots([films[i] for i in going_on]), strict=True):
                films[i] = films[i].with_shot(frames)
        return films


def write_films(studio: Studio, index: int) -> None:
    """A shard of films: what is to be learned from their memories."""
    torch.manual_seed(index)
    rng = np.random.default_rng([index, 6])
    seeds = [(shots_of, first + index * count + i) for shots_of, first, count in GROUPS for i in range(count)]
    shots, pictures, shows, kinds, clips, memories = [], [], [], [], [], []
    for film in studio.made([shots_of(seed) for shots_of, seed in seeds]):
        numbers = {keyframe.id: len(pictures) + i for i, keyframe in enumerate(film.bank.keyframes)}
        pictures += [keyframe.image for keyframe in film.bank.keyframes]
        shows += [keyframe.label for keyframe in film.bank.keyframes]
        for shot, after in to_learn(rng, film):
            for number in after:
                memory = [numbers[keyframe.id] for keyframe in film.recalled[number - 1]]
                memories.append(memory + [-1] * (MAX_MEMORY - len(memory)))
                kinds.append(rng.choice(len(SHARES), p=list(SHARES.values())))
                clips.append(len(shots))
            shots.append(shot)
    columns = {
        "cells": np.stack([looked_at(shot) for shot in shots]),
        "captions": [shot.caption for shot in shots],
        "shows": kinds_in(shows),
        "sample_kind": np.array(kinds),
        "sample_clip": np.array(clips),
        "sample_memory": np.array(memories),
    }
    frames = np.stack([render(shot).frames for shot in shots])
    write_shard(studio.vae, shard_path(index, "films"), frames, np.stack(pictures), columns)


def load_studio(lora: Path) -> Studio:
    """With the trained models."""
    t2v, wan = new_transformer(LATENT_CHANNELS), new_transformer(2 * LATENT_CHANNELS + MASK_CHANNELS)
    t2v.load_state_dict(load_finished("t2v"))
    wan.load_state_dict(with_lora(load_finished("i2v"), lora))
    vae = load_autoencoder()
    return Studio(vae, load_text_encoder(), grey_latent(vae), t2v.requires_grad_(False), wan.requires_grad_(False))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tools.small_world.films", description=__doc__)
    parser.add_argument("lora", type=Path, help="read again for every shard, so that it may be one in training")
    parser.add_argument("--first", type=int, default=0, help="number of the first shard; several can run side by side")
    parser.add_argument("--shards", type=int, default=200, help="of 32 films each")
    arguments = parser.parse_args()
    shards = range(arguments.first, arguments.first + arguments.shards)
    for index in tqdm([index for index in shards if not shard_path(index, "films").exists()], desc="shards"):
        write_films(load_studio(arguments.lora), index)
