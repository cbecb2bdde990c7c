"""What every training run has: steps with a progress bar, a log, checkpoints from which it goes on."""

import json
import multiprocessing
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from math import cos, pi
from pathlib import Path
from typing import TypeVar

import cv2
import torch
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from tools.setup import BASE

CHECKPOINTS = BASE / "small_world"
LOGS = Path(__file__).parent / "logs"
Item, Made = TypeVar("Item"), TypeVar("Made")


def ahead(make: Callable[[Item], Made], items: Iterable[Item]) -> Iterator[Made]:
    """make(item) of every item, in order, made ahead by the other cores: drawing is slower than a GPU's step.

    make: a function of a module, without torch.
    """
    workers, items, waiting = max(1, (os.cpu_count() or 1) - 1), iter(items), deque()
    cv2.setNumThreads(1)  # here: OpenCV's threads do not exist in a forked process, which would wait for them
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        waiting.extend(pool.apply_async(make, (item,)) for item in islice(items, 2 * workers))
        while waiting:
            yield waiting.popleft().get()
            waiting.extend(pool.apply_async(make, (item,)) for item in islice(items, 1))


def save_finished(name: str, weights: dict[str, torch.Tensor]) -> None:
    """Keep the weights that a training run ended with, float32."""
    unfinished = CHECKPOINTS / f"{name}.unfinished"
    save_file({key: weight.contiguous() for key, weight in weights.items()}, unfinished)
    os.replace(unfinished, CHECKPOINTS / f"{name}.safetensors")


def load_finished(name: str) -> dict[str, torch.Tensor]:
    return load_file(CHECKPOINTS / f"{name}.safetensors")


def restored(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """float32 weights of a file in which some are int8, with a scale beside them (`export.rounded`)."""
    marks = ("weight_scale", "comfy_quant")
    return {
        key: weight.float() * weights.get(f"{key}_scale", 1.0)
        for key, weight in weights.items()
        if not key.endswith(marks)
    }


def trained(start: Path, name: str) -> dict[str, torch.Tensor]:
    """The weights of an exported file in folder `start`, float32, without a tokenizer."""
    weights = load_file(start / f"storymem_world_{name}.safetensors", str(torch.get_default_device()))
    return restored({key: weight for key, weight in weights.items() if key != "spiece_model"})


@dataclass(frozen=True)
class Schedule:
    """Adam with a linear warm-up and a cosine decay; `average` is the decay of the averaged weights."""

    steps: int
    learning_rate: float
    warm_up: int = 100
    average: float = 0.995
    save_every: int = 100

    def shortened(self, steps: int | None) -> "Schedule":
        """For a run of `steps` that goes on from trained weights; None leaves it as it is."""
        if steps is None:
            return self
        return replace(self, steps=steps, average=min(self.average, 1 - 10 / steps))

    def rate(self, step: int) -> float:
        return self.learning_rate * min(1, (step + 1) / self.warm_up) * (0.51 + 0.49 * cos(pi * step / self.steps))


def train(
    name: str,
    model: torch.nn.Module,
    schedule: Schedule,
    losses_of_step: Callable[[int], Iterable[dict[str, torch.Tensor]]],
) -> dict[str, torch.Tensor]:
    """Train `model` and return its averaged weights; a run that was stopped goes on at its last checkpoint.

    losses_of_step: given the step, draws a batch (from the step alone, so that a resumed run sees what an
    uninterrupted one sees) and gives the losses by name for each of its equal parts; "loss" is the one to minimise.
    """
    CHECKPOINTS.mkdir(parents=True, exist_ok=True)
    LOGS.mkdir(exist_ok=True)
    file, log = CHECKPOINTS / f"{name}.pt", LOGS / f"{name}.jsonl"
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, betas=(0.9, 0.98), weight_decay=0.0)
    average, first, spent = {k: v.detach().clone() for k, v in model.state_dict().items()}, 0, 0.0
    if file.exists():
        state = torch.load(file, map_location=next(model.parameters()).device, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        average, first, spent = state["average"], state["step"], state["seconds"]
    # What an interrupted run logged after its last checkpoint comes again.
    rows = log.read_text().splitlines(keepends=True) if log.exists() else []
    log.write_text("".join(row for row in rows if json.loads(row)["step"] <= first))

    sums: dict[str, float | torch.Tensor] = {}
    start = time.monotonic() - spent
    averaged = list(average.values())
    for step in tqdm(range(first, schedule.steps), initial=first, total=schedule.steps, desc=name, mininterval=5):
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step)
        torch.manual_seed(step)
        parts = 0
        for losses in losses_of_step(step):
            losses["loss"].backward()
            parts += 1
            for key, value in losses.items():
                sums[key] = sums.get(key, 0.0) + value.detach()
        sums["count"] = sums.get("count", 0) + parts
        torch._foreach_div_([weight.grad for weight in model.parameters() if weight.grad is not None], parts)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            # A young average would remember the random start.
            decay = min(schedule.average, (step + 1) / (step + 10))
            torch._foreach_lerp_(averaged, list(model.state_dict().values()), 1 - decay)
        if (step + 1) % 25 == 0:
            row = {key: float(value) / sums["count"] for key, value in sums.items() if key != "count"}
            row = {"step": step + 1, "seconds": round(time.monotonic() - start, 1)} | {
                key: round(value, 5) for key, value in row.items()
            }
            with log.open("a") as lines:
                lines.write(json.dumps(row) + "\n")
            sums = {}
        if (step + 1) % schedule.save_every == 0 or step + 1 == schedule.steps:
            state = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "average": average,
                "step": step + 1,
                "seconds": time.monotonic() - start,
            }
            unfinished = file.with_suffix(".unfinished")
            torch.save(state, unfinished)
            os.replace(unfinished, file)
    return average
