"""The small world's memory LoRAs, trained as users train theirs: Training Set and Train LoRA on ComfyUI's server.

The clips are shots of stories and scenes nobody else sees, a sub-folder each, so that a shot's memory shows its own
story. A scene, one set-up from shot to shot, teaches to copy from memory; a story, to choose from it; encounters, where
memory shows others, that somebody new has looks of their own.

Two servers, a core each, are quicker than one on two cores. They begin every part of a run with the same LoRA, on
samples of their own, and the next part begins with the mean of theirs. A run that was stopped goes on from the last
mean in the server's output folder.
"""

import hashlib
import json
import math
import os
import re
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import av
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from tools.client import Client
from tools.server import Server
from tools.setup import BASE, FOOTAGE_NAME, make_base

from .render import render
from .run import CHECKPOINTS, LOGS, ahead
from .world import FPS, FRAMES, HEIGHT, WIDTH, Shot, random_encounters, random_scene, random_story

LORA = "storymem_world_lora_{}"
FIRST_STORY, FIRST_SCENE, FIRST_ENCOUNTERS = 50_000_000, 51_000_000, 52_000_000  # seeds of evaluated stories are small
SERVERS = 2
SHIFT = 6.0  # more of the high noise levels, where looks are decided, than the base model saw
MAX_MEMORY = 8  # keyframes; most stories of six shots have no more to recall
# Mostly M2V: a shot that goes on from known frames has its looks from these and little to learn from memory.
SHARES = {
    "first_frame": {"share_m2v": 0.85, "share_mi2v": 0.15, "share_mm2v": 0.0, "share_no_memory": 0.0},
    "motion_frames": {"share_m2v": 0.7, "share_mi2v": 0.0, "share_mm2v": 0.3, "share_no_memory": 0.0},
}
STEPS = re.compile(r"_(\d+)_steps_")
TRAINED = re.compile(r"diffusion_model\.blocks\.\d+\.((self|cross)_attn\.[qkvo]|ffn\.[02])\.(lora_\w+\.weight|alpha)")


@dataclass(frozen=True)
class Run:
    """Settings of one training run, and the models it starts from. A step takes `batch` samples on each server."""

    first: int = 0  # steps done by the LoRA it goes on from
    steps: int = 2000  # with those
    stories: int = 500
    scenes: int = 400
    encounters: int = 800
    samples: int = 6000
    batch: int = 128
    part: int = 200  # steps of one prompt; each begins with a new optimizer
    rank: int = 16
    learning_rate: float = 4e-3
    i2v: str = "storymem_world_i2v.safetensors"
    vae: str = "storymem_world_vae.safetensors"
    text: str = "storymem_world_umt5.safetensors"

    def rate(self, step: int) -> float:
        """Cosine decay to a twentieth, constant within a part."""
        done = (step - self.first) / (self.steps - self.first)
        return self.learning_rate * (0.525 + 0.475 * math.cos(math.pi * done))


# What is hard, choosing whom to copy, is the same for both: the second goes on from the first.
RUNS = {"first_frame": Run(), "motion_frames": Run(first=2000, steps=2100, learning_rate=1e-3)}


def write_clips(folder: Path, run: Run) -> None:
    """Every shot of the run's stories, scenes and encounters as a lossless video with its caption, where they are not
    there yet."""
    jobs = [
        (folder / str(seed), shots_of(seed))
        for shots_of, (first, count) in (
            (random_story, (FIRST_STORY, run.stories)),
            (random_scene, (FIRST_SCENE, run.scenes)),
            (random_encounters, (FIRST_ENCOUNTERS, run.encounters)),
        )
        for seed in range(first, first + count)
    ]
    jobs = [(own, shots) for own, shots in jobs if not own.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for _ in tqdm(ahead(_write_all, jobs), total=len(jobs), desc="clips"):
        pass
    drop_repeated(folder)


def drop_repeated(folder: Path) -> None:
    """Of clips that are the same to the bit, as two of thousands may be, keep one: a training set refuses two."""
    shown = set()
    for clip in sorted(folder.rglob("*.mp4")):
        content = hashlib.sha256(clip.read_bytes()).digest()
        if content in shown:
            clip.with_suffix(".txt").unlink()
            clip.unlink()
        shown.add(content)


def _write_all(job: tuple[Path, Sequence[Shot]]) -> None:
    folder, shots = job
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    write_shots(unfinished, shots)
    unfinished.rename(folder)


def write_shots(folder: Path, shots: Sequence[Shot]) -> None:
    shown = set()
    for number, shot in enumerate(shots, start=1):
        clip, frames = folder / f"{number}.mp4", render(shot).frames
        # Some shots come twice; a training set has no use for the second.
        if frames.tobytes() not in shown and not clip.with_suffix(".txt").exists():
            clip.parent.mkdir(parents=True, exist_ok=True)
            write_lossless(clip, frames)
            clip.with_suffix(".txt").write_text(shot.caption)
        shown.add(frames.tobytes())


def write_lossless(path: Path, frames: np.ndarray) -> None:
    """uint8 [N, H, W, 3] as H.264 without loss: colours of a few pixels are looks here."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264rgb", rate=FPS, options={"qp": "0"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "rgb24"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def prompt(run: Run, kind: str, name: str, done: int, existing: str, server: int) -> dict:
    """The next part of a run on one of the servers as a prompt in API format; node "loss" shows its losses."""
    training_set = {
        "model": ["shift", 0],
        "vae": ["vae", 0],
        "clip": ["text", 0],
        "folder": name,
        **{"width": WIDTH, "height": HEIGHT, "length": FRAMES},
        # Each part draws memories anew: those of one drawing may be learned by heart.
        **{"samples": run.samples, "seed": SERVERS * done + server, "max_memory": MAX_MEMORY, "min_similarity": -1.0},
        **SHARES[kind],
        **{"noise_levels": "all", "boundary": 0.9},
    }
    trainer = {
        **{"model": ["set", 0], "latents": ["set", 1], "positive": ["set", 2]},
        **{"batch_size": run.batch, "grad_accumulation_steps": 1, "steps": min(run.part, run.steps - done)},
        **{"learning_rate": run.rate(done), "rank": run.rank, "optimizer": "AdamW", "loss_function": "MSE"},
        **{"seed": 1000 * done + server, "training_dtype": "bf16", "lora_dtype": "fp32"},
        **{"quantized_backward": False, "algorithm": "LoRA", "gradient_checkpointing": False, "checkpoint_depth": 1},
        **{"offloading": False, "existing_lora": existing, "bucket_mode": False, "bypass_mode": False},
    }
    nodes = {
        "i2v": ("UNETLoader", {"unet_name": run.i2v, "weight_dtype": "default"}),
        "quick": ("StoryMemDemoQuickTraining", {"model": ["i2v", 0]}),
        "shift": ("ModelSamplingSD3", {"model": ["quick", 0], "shift": SHIFT}),
        "vae": ("VAELoader", {"vae_name": run.vae}),
        "text": ("StoryMemDemoCLIPLoader", {"clip_name": run.text}),
        "set": ("StoryMemTrainingSet", training_set),
        "lora": ("TrainLoraNode", trainer),
        "save": ("SaveLoRA", {"lora": ["lora", 0], "prefix": f"loras/{own_name(kind, server)}", "steps": ["lora", 2]}),
        "loss": ("PreviewAny", {"source": ["lora", 1]}),
    }
    return {number: {"class_type": node, "inputs": inputs} for number, (node, inputs) in nodes.items()}


def own_name(kind: str, server: int) -> str:
    """Of the LoRA files of one server, before the mean is taken."""
    return f"server{server}_{LORA.format(kind)}"


def last_part(loras: Path, name: str) -> tuple[int, str]:
    """Steps done by LoRA `name`, and the file that holds them."""
    found = [(int(STEPS.search(path.name)[1]), path.name) for path in loras.glob(f"{name}_*_steps_*.safetensors")]
    return max(found, default=(0, "[None]"))


def run_part(client: Client, nodes: dict, bar: tqdm | None) -> list[float]:
    """Runs one prompt; the losses of its steps, in order."""
    start = bar.n if bar else 0

    def show(event: str, data: object) -> None:
        if bar and event == "progress" and data["node"] == "lora":
            bar.update(start + data["value"] - bar.n)

    return json.loads(client.run(nodes, show)["outputs"]["loss"]["text"][0])["loss"]


def take_mean(loras: Path, kind: str) -> tuple[int, str]:
    """Write the mean of what the servers trained last; steps done, and the file."""
    parts = [last_part(loras, own_name(kind, server)) for server in range(SERVERS)]
    ((done, _),) = {(done, None) for done, _ in parts}
    files = [load_file(loras / file) for _, file in parts]
    mean = {key: torch.stack([file[key].float() for file in files]).mean(0) for key in files[0]}
    name = f"{LORA.format(kind)}_{done}_steps_.safetensors"
    save_file(mean, loras / f"{name}.unfinished")
    os.replace(loras / f"{name}.unfinished", loras / name)
    return done, name


def server_base(base: Path, server: int) -> Path:
    """A base directory for one of the servers, which share models and output."""
    own = base / "small_world" / f"server{server}"
    own.mkdir(parents=True, exist_ok=True)
    if not (own / "output").exists():
        (own / "output").symlink_to(base / "output", target_is_directory=True)
    make_base(own, base / "input" / FOOTAGE_NAME, models=base / "models")
    return own


def train_lora(kind: str, start: Path | None = None, steps: int | None = None, base: Path = BASE) -> Path:
    """Trains the LoRA for cuts and `kind` of continuations, or goes on; the finished file.

    start: a folder of exported files, whose `first_frame` it begins with; steps: of this run, in place of those from
    nothing.
    """
    os.nice(10)
    run = RUNS[kind] if steps is None else replace(RUNS[kind], steps=RUNS[kind].first + steps)
    name = f"small_world_{run.stories}_{run.scenes}_{run.encounters}"
    loras, log = base / "output" / "loras", LOGS / f"lora_{kind}.jsonl"
    bases = [server_base(base, number) for number in range(SERVERS)]
    for own in bases:
        write_clips(own / "input" / name, run)
    for folder in (LOGS, CHECKPOINTS):
        folder.mkdir(parents=True, exist_ok=True)
    if start is not None:
        loras.mkdir(parents=True, exist_ok=True)
        begun = loras / f"{LORA.format(kind)}_{run.first}_steps_.safetensors"
        shutil.copyfile(start / f"{LORA.format('first_frame')}.safetensors", begun)
    done, file = last_part(loras, LORA.format(kind))
    if done <= run.first:
        log.unlink(missing_ok=True)
    if done < run.first:
        done, file = last_part(loras, LORA.format("first_frame"))
        if done < run.first:
            raise SystemExit(f"lora_{kind} goes on from lora_first_frame: train that first")
    with ExitStack() as running, tqdm(total=run.steps, initial=done, desc=f"lora_{kind}") as bar:
        pool = ThreadPoolExecutor(SERVERS)
        running.callback(pool.shutdown, cancel_futures=True)  # once the servers have stopped
        servers = [running.enter_context(Server(own, keep_memory=True)) for own in bases]
        while done < run.steps:
            began = time.monotonic()
            parts = [
                pool.submit(
                    run_part, server.client, prompt(run, kind, name, done, file, number), None if number else bar
                )
                for number, server in enumerate(servers)
            ]
            losses = [loss for part in parts for loss in part.result()]
            done, file = take_mean(loras, kind)
            loss, seconds = round(sum(losses) / len(losses), 5), round(time.monotonic() - began, 1)
            with log.open("a") as lines:
                lines.write(json.dumps({"step": done, "seconds": seconds, "loss": loss}) + "\n")
            bar.n = done
    # The trainer's file also has zeros for layers that were not trained.
    weights = {key: weight.half() for key, weight in load_file(loras / file).items() if TRAINED.fullmatch(key)}
    finished = CHECKPOINTS / f"lora_{kind}.safetensors"
    save_file(weights, finished)
    return finished
