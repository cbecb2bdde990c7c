"""python -m tools.small_world.lora_loop: the memory LoRAs on a GPU, samples of `memories.py`, `films.py`.

The samples are laid out as Training Set's, the loss is Train LoRA's, with more weight on characters and on what they
wear and hold, and with a target that is guided (`loss_of`); but Train LoRA takes a third of a second for a step of 256
however quick the GPU is, most of it for one sample at a time. What it writes is a file of Train LoRA, and can go on
there. It is written every LOG_EVERY steps: a run that was stopped goes on from it, with a new optimizer.

On a CPU with two cores: `torchrun --nproc-per-node 2 -m tools.small_world.lora_loop ...`.
"""

import argparse
import json
import os
import re
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import linear, scaled_dot_product_attention
from tqdm import tqdm

from .autoencoder import load_autoencoder
from .dataset import grey_latent
from .host import DEVICE, WanModel
from .host import attention as products
from .lora import MAX_MEMORY, SHIFT, TRAINED
from .memories import SAMPLE_KINDS, kinds_in, read_shard, shard_path
from .probe import LEARNED_GUIDANCE, positions_in_the_past
from .run import CHECKPOINTS, LOGS, Schedule, load_finished
from .transformer import AT_ONCE, LATENT_CHANNELS, MASK_CHANNELS, load_text_encoder, new_transformer, noise_levels

# What is known of a clip, and of how many of its latent frames.
KNOWN = {"m2v": (None, 0), "mi2v": ("first_frame", 1), "mm2v": ("motion_frames", 2)}
SHARES = {"first_frame": {"m2v": 0.85, "mi2v": 0.15}, "motion_frames": {"m2v": 0.7, "mm2v": 0.3}}
LOG_EVERY = 50
PAIRS = 0.6  # share of the samples whose clip shows two characters
SOURCES = {"memories": 0.4, "films": 0.6}  # shares of the samples, by who wrote their shards
CHARACTERS, ACCESSORIES = 3.0, 5.0  # weight in the loss
GUIDANCE = 1 - 1 / LEARNED_GUIDANCE  # see loss_of
LAYER = re.compile(r"diffusion_model\.(blocks\.\d+\..+)\.lora_up\.weight")


class LoraLinear(torch.nn.Module):
    """A layer whose weight has a LoRA's product added, as the host adds it."""

    def __init__(self, layer: torch.nn.Linear, up: torch.Tensor, down: torch.Tensor, scale: float):
        super().__init__()
        self.register_buffer("weight", layer.weight.detach().clone(), persistent=False)
        self.register_buffer("bias", layer.bias.detach().clone(), persistent=False)
        self.up, self.down = torch.nn.Parameter(up.float().clone()), torch.nn.Parameter(down.float().clone())
        self.scale = scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return linear(x, self.weight + self.scale * self.up @ self.down, self.bias)


def of_rank(lora: dict[str, torch.Tensor], rank: int) -> dict[str, torch.Tensor]:
    """The same LoRA with another rank: with a higher one what is added does nothing yet, with a lower one its products
    are the nearest there are (their largest singular values)."""
    content = dict(lora)
    for key, down in lora.items():
        if not key.endswith(".lora_down.weight"):
            continue
        up, alpha = (key.replace("lora_down.weight", part) for part in ("lora_up.weight", "alpha"))
        own = len(down)
        if rank > own:
            content[key] = torch.cat([down, down.std() * torch.randn(rank - own, down.shape[1]).to(down)])
            content[up] = torch.nn.functional.pad(lora[up], (0, rank - own))
        elif rank < own:
            left, values, right = torch.linalg.svd(lora[up].float() @ down.float(), full_matrices=False)
            root = values[:rank].sqrt()
            content[up], content[key] = (left[:, :rank] * root).to(down), (root[:, None] * right[:rank]).to(down)
        content[alpha] = lora[alpha] * rank / own
    return content


def add_lora(wan: WanModel, lora: dict[str, torch.Tensor]) -> dict[str, LoraLinear]:
    """Puts the LoRA into the model's layers; the new layers by their names in the file."""
    wan.requires_grad_(False)
    layers = {}
    for key, up in lora.items():
        if not (TRAINED.fullmatch(key) and (found := LAYER.fullmatch(key))):
            continue
        name = key.removesuffix(".lora_up.weight")
        down = lora[f"{name}.lora_down.weight"]
        parent, _, own = found[1].rpartition(".")
        block = wan.get_submodule(parent)
        layers[name] = LoraLinear(getattr(block, own), up, down, float(lora[f"{name}.alpha"]) / len(down))
        setattr(block, own, layers[name])
    return layers


def file_of(layers: dict[str, LoraLinear]) -> dict[str, torch.Tensor]:
    """The LoRA as Train LoRA writes it, float16."""
    content = {}
    for name, layer in layers.items():
        parts = {"lora_up.weight": layer.up, "lora_down.weight": layer.down}
        content |= {f"{name}.{part}": weight.detach().half().cpu().contiguous() for part, weight in parts.items()}
        content[f"{name}.alpha"] = torch.tensor(layer.scale * len(layer.down), dtype=torch.half, device="cpu")
    return content


def fused(_host: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int, **_) -> torch.Tensor:
    """Attention on a GPU."""
    q, k, v = (x.to(v.dtype).unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    return scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class Memories:
    """Samples of the shards there are, on DEVICE, by source, kind, length of the memory and whether two are in the
    picture."""

    def __init__(self, tokens: Callable[[list[str]], torch.Tensor], grey: torch.Tensor):
        self.tokens, self.grey, self.clips, self.pictures = tokens, grey, 0, 0
        self.read: set[Path] = set()
        self.content: dict[str, torch.Tensor] = {}

    def load_new(self, most: int = 10_000) -> None:
        """Takes up shards that have been written meanwhile, `most` of each source."""
        parts: dict[str, list[torch.Tensor]] = {}
        for number, source in enumerate(SOURCES):
            new = sorted(set(shard_path(0, source).parent.glob("*.safetensors")) - self.read)[:most]
            for path in new:
                for name, rows in self.columns(path, number).items():
                    parts.setdefault(name, []).append(rows)
            self.read.update(new)
        if not self.content and not parts:
            raise FileNotFoundError(f"no {shard_path(0)}: run python -m tools.small_world.memories first")
        if not parts:
            return
        for name, rows in parts.items():
            self.content[name] = torch.cat([self.content[name], *rows] if name in self.content else rows)
        lengths = (self.content["sample_memory"] >= 0).sum(1)
        pair = self.content["pair"][self.content["sample_clip"]]
        self.rows = {
            (source, kind, length, two): torch.nonzero(
                (self.content["sample_source"] == number)
                & (self.content["sample_kind"] == index)
                & (lengths == length)
                & (pair == two)
            )[:, 0]
            for number, source in enumerate(SOURCES)
            for index, kind in enumerate(SAMPLE_KINDS)
            for length in range(1, MAX_MEMORY + 1)
            for two in (False, True)
        }

    def columns(self, path: Path, source: int) -> dict[str, torch.Tensor]:
        """What is in a shard, with clips and pictures numbered after those that are there."""
        content, captions = read_shard(path)
        memory, clip = content["sample_memory"], content["sample_clip"]
        seen = torch.from_numpy(kinds_in(captions)).to(DEVICE)
        remembered = content["shows"][memory] & (memory >= 0)[..., None]
        content |= {"seen": seen, "sample_remembered": remembered, "tokens": self.tokens(captions)}
        content["sample_knows"] = (remembered.any(1) | ~seen[clip]).all(1)
        content["sample_memory"] = torch.where(memory < 0, memory, memory + self.pictures)
        content["sample_clip"] = clip + self.clips
        content["sample_source"] = torch.full_like(clip, source)
        content["pair"] = torch.tensor([" beside " in caption for caption in captions])
        self.clips, self.pictures = self.clips + len(captions), self.pictures + len(content["pictures"])
        return content

    def batch(self, shares: dict[str, float], length: int, size: int) -> dict[str, torch.Tensor]:
        """Samples with memories of `length` keyframes: "clip" [B, 16, 5, 8, 12] to learn, "memory"
        [B, 16, length, 8, 12], "mask" [B, 4, 5, 8, 12] and "video" of what is known of the clip, "cells", "tokens",
        "knows", whether everybody who is in the clip is in the memory, and "shows" [B, length], which keyframes show
        one of them, drawn."""
        drawn = torch.multinomial(torch.tensor(list(shares.values())), size, replacement=True)
        counts = drawn.bincount(minlength=len(shares)).tolist()
        parts = [self.of_kind(kind, length, number) for kind, number in zip(shares, counts, strict=True) if number]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def of_kind(self, kind: str, length: int, size: int) -> dict[str, torch.Tensor]:
        """A `batch` of one kind of sample. ValueError where there is none of that length."""
        pairs, rows = torch.rand(size) < PAIRS, torch.empty(size, dtype=torch.long)
        for two in (False, True):
            pools = {source: self.rows[source, kind, length, two] for source in SOURCES}
            # Films have no memory of one keyframe that shows two.
            shares = torch.tensor([SOURCES[source] * bool(len(pool)) for source, pool in pools.items()])
            if not shares.any():
                raise ValueError(f"no {kind} sample of {length} keyframes in {self.clips} clips: make more of them")
            sources = torch.multinomial(shares, size, replacement=True)
            for number, pool in enumerate(pools.values()):
                wanted = (pairs == two) & (sources == number)
                rows[wanted] = pool[torch.randint(max(1, len(pool)), (int(wanted.sum()),))]
        clips, keyframes = self.content["sample_clip"][rows], self.content["sample_memory"][rows, :length]
        memory = self.content["pictures"][keyframes].transpose(1, 2)
        clip, (known, frames) = self.content["clip"][clips], KNOWN[kind]
        video = self.content[known][clips] if known else self.grey.expand_as(clip)
        mask = torch.zeros(size, MASK_CHANNELS, *clip.shape[2:])
        mask[:, :, :frames] = 1
        one = torch.multinomial(self.content["seen"][clips].float(), 1)[:, None]
        own = {"clip": clip, "memory": memory, "mask": mask, "video": video, "cells": self.content["cells"][clips]}
        return {
            **{name: rows.float() for name, rows in own.items()},
            "tokens": self.content["tokens"][clips],
            "knows": self.content["sample_knows"][rows],
            "shows": self.content["sample_remembered"][rows, :length].gather(2, one.expand(-1, length, 1))[..., 0],
        }


def predicted(
    wan: WanModel, batch: dict[str, torch.Tensor], x: torch.Tensor, sigma: torch.Tensor, text: torch.Tensor
) -> torch.Tensor:
    """The velocity of the clips' frames at x; memory frames get noise of their own."""
    memory = batch["memory"]
    past = torch.lerp(memory, torch.randn_like(memory), sigma.view(-1, 1, 1, 1, 1))
    return velocity_of(wan, batch, torch.cat([past, x], 2), sigma, text)[:, :, memory.shape[2] :]


def velocity_of(
    wan: WanModel, batch: dict[str, torch.Tensor], x: torch.Tensor, sigma: torch.Tensor, text: torch.Tensor
) -> torch.Tensor:
    """The velocity at x, memory frames first; batch: "memory", "mask" and "video" as in `Memories.batch`."""
    memory = batch["memory"]
    mask = torch.cat([torch.ones_like(memory[:, :MASK_CHANNELS]), batch["mask"]], 2)
    known = torch.cat([mask, torch.cat([memory, batch["video"]], 2)], 1)
    with positions_in_the_past(wan, memory.shape[2]), torch.autocast(DEVICE.type, torch.bfloat16):
        options = {"optimized_attention_override": fused if DEVICE.type == "cuda" else products}
        return wan(torch.cat([x, known], 1), 1000 * sigma, text, transformer_options=options).float()


def without_one(
    wan: WanModel, batch: dict[str, torch.Tensor], x: torch.Tensor, sigma: torch.Tensor, text: torch.Tensor
) -> torch.Tensor:
    """`predicted` without the keyframes that show one of those in the clip, where all are known; zero elsewhere.

    In place of such a keyframe there is another one of the same memory; none, where all show them.
    """
    shows, velocity = batch["shows"], torch.zeros_like(x)
    for alone, frames in ((False, shows.shape[1]), (True, 0)):
        rows = torch.nonzero(batch["knows"] & (shows.all(1) == alone))[:, 0]
        if not len(rows):
            continue
        others_first = shows[rows].byte().argsort(dim=1, stable=True)
        others = (~shows[rows]).sum(1, keepdim=True)
        keyframes = others_first.gather(1, torch.arange(frames) % others).sort(1).values
        part = {name: batch[name][rows] for name in ("mask", "video")}
        part["memory"] = batch["memory"].transpose(1, 2)[rows[:, None], keyframes].transpose(1, 2)
        velocity[rows] = predicted(wan, part, x[rows], sigma[rows], text[rows])
    return velocity


def loss_of(
    wan: WanModel, batch: dict[str, torch.Tensor], text: torch.Tensor, first: WanModel | None = None
) -> torch.Tensor:
    """Train LoRA's, the squared error of the denoised clip, that is sigma^2 of the velocity's, but weighted by
    importance.

    With `first`, a model that can make shots from memory, what is learned is guided: where memory shows everybody who
    is in the clip, the target goes on by GUIDANCE of the way from the velocity of `first`, with a memory that lacks
    one of them, to the one that `wan` predicts with all of it. In the end that is LEARNED_GUIDANCE. (As model guidance
    does, arXiv 2502.12154; but away from somebody else's looks: without one of a pair, the other one comes twice.)
    """
    clip = batch["clip"]
    # In random order: samples of a kind stand together.
    sigma = noise_levels(len(clip), SHIFT)[torch.randperm(len(clip))]
    noise = torch.randn_like(clip)
    level = sigma.view(-1, 1, 1, 1, 1)
    x, target = torch.lerp(clip, noise, level), noise - clip
    velocity = predicted(wan, batch, x, sigma, text)
    if first is not None:
        with torch.no_grad():
            without = without_one(first, batch, x, sigma, text)
            knows = batch["knows"].view(-1, 1, 1, 1, 1)
            target = target + GUIDANCE * knows * (velocity - without)
    importance = torch.tensor([1.0, CHARACTERS, ACCESSORIES])[batch["cells"].long()][:, None]
    return (importance * (level * (velocity - target)).square()).mean() / importance.mean()


def model_with(lora: dict[str, torch.Tensor]) -> tuple[WanModel, dict[str, LoraLinear]]:
    """The image-to-video model, compiled, with a LoRA in its layers."""
    wan = new_transformer(2 * LATENT_CHANNELS + MASK_CHANNELS)
    wan.load_state_dict(load_finished("i2v"))
    layers = add_lora(wan, lora)
    # With gradients and without, for short and long memories, as the first block and a later one: a dozen variants.
    torch._dynamo.config.recompile_limit = 64
    for block in wan.blocks:
        block.compile(dynamic=True)
    return wan, layers


def train_loop(
    kind: str, lora: Path, schedule: Schedule, size: int, seconds: float | None = None, rank: int | None = None
) -> Path:
    """Goes on from a LoRA's file; the finished file.

    size: of a batch; rank: of the LoRA, as before if not given; seconds: if given, the schedule is run through in this
    time, in as many steps as there are. Under torchrun each process takes its share of the batch.
    """
    process, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1:
        torch.distributed.init_process_group("gloo")
    torch.manual_seed(0)  # what is added is the same in every process
    text, lora = load_text_encoder(), load_file(lora, str(DEVICE))
    wan, layers = model_with(of_rank(lora, rank) if rank else lora)
    first, _ = model_with(lora)
    first.requires_grad_(False)
    memories = Memories(text.tokens, grey_latent(load_autoencoder()))
    memories.load_new()
    parameters = [weight for layer in layers.values() for weight in layer.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1.0, weight_decay=0.0)
    log, finished = LOGS / f"loop_{kind}.jsonl", CHECKPOINTS / f"lora_{kind}.safetensors"
    unfinished = finished.with_suffix(".unfinished")
    for folder in (LOGS, CHECKPOINTS):
        folder.mkdir(parents=True, exist_ok=True)
    if process == 0:
        log.write_text("")
    at_once = min(AT_ONCE, size // world)
    parts = size // world // at_once
    bar = tqdm(total=schedule.steps, desc=f"loop {kind}", mininterval=10, disable=process > 0)
    began, losses, share = time.monotonic(), [], torch.zeros(())  # share: of the schedule, done
    for step in count(1):
        torch.manual_seed(step * world + process)
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(int(share * (schedule.steps - 1)))
        for part in range(parts):
            # All lengths in turn, so that long memories come as often as short ones.
            length = 1 + (5 * ((step * world + process) * parts + part)) % MAX_MEMORY
            batch = memories.batch(SHARES[kind], length, at_once)
            loss = loss_of(wan, batch, text.encode(batch["tokens"]), first) / parts
            loss.backward()
            losses.append(loss.detach())
        share.fill_(step / schedule.steps if seconds is None else (time.monotonic() - began) / seconds)
        if world > 1:
            for shared in (*(weight.grad for weight in parameters), share):
                torch.distributed.all_reduce(shared)
                shared /= world
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        bar.update()
        if step % LOG_EVERY and share < 1:
            continue
        if process == 0:
            row = {"step": step, "seconds": round(time.monotonic() - began, 1), "clips": memories.clips}
            row["loss"] = round(parts * float(torch.stack(losses).mean()), 5)
            with log.open("a") as lines:
                lines.write(json.dumps(row) + "\n")
            save_file(file_of(layers), unfinished)
            os.replace(unfinished, finished)  # films may be made with it meanwhile
        if share >= 1:
            break
        losses = []
        memories.load_new(20)
    return finished


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tools.small_world.lora_loop", description=__doc__)
    parser.add_argument("kind", choices=SHARES)
    parser.add_argument("lora", type=Path, help="the file it goes on from")
    parser.add_argument("--steps", type=int, default=20000)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rank", type=int, help="of the LoRA, if other than that of the file")
    parser.add_argument("--seconds", type=float, help="as many steps as fit into this time")
    arguments = parser.parse_args()
    schedule = Schedule(arguments.steps, arguments.rate, warm_up=100)
    print(train_loop(arguments.kind, arguments.lora, schedule, arguments.batch, arguments.seconds, arguments.rank))
