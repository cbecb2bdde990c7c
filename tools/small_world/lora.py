"""The small world's memory LoRAs, trained as users train theirs: Training Set and Train LoRA on ComfyUI's server.

The clips are shots of stories and scenes nobody else sees, a sub-folder each, so that a shot's memory shows its own
story. A scene, one set-up from shot to shot, teaches to copy from memory; a story, to choose from it. A run that was
stopped goes on from the last LoRA file in the server's output folder.
"""

import json
import math
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from tools.client import Client
from tools.server import Server
from tools.setup import BASE

from .render import render
from .run import CHECKPOINTS, LOGS, ahead
from .world import FPS, FRAMES, HEIGHT, WIDTH, Shot, random_scene, random_story

LORA = "storymem_world_lora_{}"
FIRST_STORY = 50_000_000  # seeds of evaluated stories are small
SHIFT = 6.0  # more of the high noise levels, where looks are decided, than the base model saw
# Mostly M2V: a shot that goes on from known frames has its looks from these and little to learn from memory.
SHARES = {
    "first_frame": {"share_m2v": 0.85, "share_mi2v": 0.15, "share_mm2v": 0.0, "share_no_memory": 0.0},
    "motion_frames": {"share_m2v": 0.7, "share_mi2v": 0.0, "share_mm2v": 0.3, "share_no_memory": 0.0},
}
STEPS = re.compile(r"_(\d+)_steps_")
TRAINED = re.compile(r"diffusion_model\.blocks\.\d+\.((self|cross)_attn\.[qkvo]|ffn\.[02])\.(lora_\w+\.weight|alpha)")


@dataclass(frozen=True)
class Run:
    """Settings of one training run, and the models it starts from. A step takes `batch` samples."""

    first: int = 0  # steps done by the LoRA it goes on from
    steps: int = 2300  # with those
    stories: int = 150
    scenes: int = 50
    samples: int = 4000
    batch: int = 128
    part: int = 100  # steps of one prompt; each begins with a new optimizer
    rank: int = 16
    learning_rate: float = 6e-3
    i2v: str = "storymem_world_i2v.safetensors"
    vae: str = "storymem_world_vae.safetensors"
    text: str = "storymem_world_umt5.safetensors"

    def rate(self, step: int) -> float:
        """Cosine decay to a twentieth, constant within a part."""
        done = (step - self.first) / (self.steps - self.first)
        return self.learning_rate * (0.525 + 0.475 * math.cos(math.pi * done))


# What is hard, choosing whom to copy, is the same for both: the second goes on from the first.
RUNS = {"first_frame": Run(), "motion_frames": Run(first=2300, steps=2400, learning_rate=1e-3)}


def write_clips(folder: Path, stories: int, scenes: int) -> None:
    """Every shot of every story and scene as a lossless video with its caption, where they are not there yet."""
    seeds = range(FIRST_STORY, FIRST_STORY + stories + scenes)
    jobs = [(folder / str(seed), (random_story if i < stories else random_scene)(seed)) for i, seed in enumerate(seeds)]
    for _ in tqdm(ahead(_write_all, jobs), total=len(jobs), desc="clips"):
        pass


def _write_all(job: tuple[Path, Sequence[Shot]]) -> None:
    write_shots(*job)


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


def prompt(run: Run, kind: str, name: str, done: int, existing: str) -> dict:
    """The next part of a run as a prompt in API format; node "loss" shows its losses."""
    training_set = {
        "model": ["shift", 0],
        "vae": ["vae", 0],
        "clip": ["text", 0],
        "folder": name,
        **{"width": WIDTH, "height": HEIGHT, "length": FRAMES},
        # Each part draws memories anew: those of one drawing may be learned by heart.
        **{"samples": run.samples, "seed": done, "max_memory": 10, "min_similarity": -1.0},
        **SHARES[kind],
        **{"noise_levels": "all", "boundary": 0.9},
    }
    trainer = {
        **{"model": ["set", 0], "latents": ["set", 1], "positive": ["set", 2]},
        **{"batch_size": run.batch, "grad_accumulation_steps": 1, "steps": min(run.part, run.steps - done)},
        **{"learning_rate": run.rate(done), "rank": run.rank, "optimizer": "AdamW", "loss_function": "MSE"},
        **{"seed": done * 1000, "training_dtype": "fp32", "lora_dtype": "fp32"},
        **{"quantized_backward": False, "algorithm": "LoRA", "gradient_checkpointing": False, "checkpoint_depth": 1},
        **{"offloading": False, "existing_lora": existing, "bucket_mode": False, "bypass_mode": False},
    }
    nodes = {
        "i2v": ("UNETLoader", {"unet_name": run.i2v, "weight_dtype": "default"}),
        "shift": ("ModelSamplingSD3", {"model": ["i2v", 0], "shift": SHIFT}),
        "vae": ("VAELoader", {"vae_name": run.vae}),
        "text": ("StoryMemDemoCLIPLoader", {"clip_name": run.text}),
        "set": ("StoryMemTrainingSet", training_set),
        "lora": ("TrainLoraNode", trainer),
        "save": ("SaveLoRA", {"lora": ["lora", 0], "prefix": f"loras/{LORA.format(kind)}", "steps": ["lora", 2]}),
        "loss": ("PreviewAny", {"source": ["lora", 1]}),
    }
    return {number: {"class_type": node, "inputs": inputs} for number, (node, inputs) in nodes.items()}


def last_part(loras: Path, kind: str) -> tuple[int, str]:
    """Steps done, and the file that holds them."""
    found = [
        (int(STEPS.search(path.name)[1]), path.name)
        for path in loras.glob(f"{LORA.format(kind)}_*_steps_*.safetensors")
    ]
    return max(found, default=(0, "[None]"))


def run_part(client: Client, run: Run, nodes: dict, bar: tqdm) -> list[float]:
    """Runs one prompt; the losses of its steps, in order."""
    start = bar.n

    def show(event: str, data: object) -> None:
        if event == "progress" and data["node"] == "lora":
            bar.update(start + data["value"] - bar.n)

    return json.loads(client.run(nodes, show)["outputs"]["loss"]["text"][0])["loss"]


def train_lora(kind: str, base: Path = BASE) -> Path:
    """Trains the LoRA for cuts and `kind` of continuations, or goes on; the finished file."""
    os.nice(10)
    run = RUNS[kind]
    name, server = f"small_world_{run.stories}_{run.scenes}", Server(base, keep_memory=True)
    loras, log = base / "output" / "loras", LOGS / f"lora_{kind}.jsonl"
    write_clips(base / "input" / name, run.stories, run.scenes)
    for folder in (LOGS, CHECKPOINTS):
        folder.mkdir(parents=True, exist_ok=True)
    done, file = last_part(loras, kind)
    if not done:
        log.unlink(missing_ok=True)
    if done < run.first:
        done, file = last_part(loras, "first_frame")
        if done < run.first:
            raise SystemExit(f"lora_{kind} goes on from lora_first_frame: train that first")
    with server, tqdm(total=run.steps, initial=done, desc=f"lora_{kind}") as bar:
        while done < run.steps:
            start = time.monotonic()
            losses = run_part(server.client, run, prompt(run, kind, name, done, file), bar)
            done, file = last_part(loras, kind)
            loss, seconds = round(sum(losses) / len(losses), 5), round(time.monotonic() - start, 1)
            with log.open("a") as lines:
                lines.write(json.dumps({"step": done, "seconds": seconds, "loss": loss}) + "\n")
            bar.n = done
    # The trainer's file also has zeros for layers that were not trained.
    weights = {key: weight.half() for key, weight in load_file(loras / file).items() if TRAINED.fullmatch(key)}
    finished = CHECKPOINTS / f"lora_{kind}.safetensors"
    save_file(weights, finished)
    return finished
