"""Keyframe extraction of one shot against the published procedure taken literally (arXiv 2512.19539).

The literal procedure runs CLIP on both pictures of every comparison, one picture at a time, and again for
every threshold; ours runs it once per frame, in batches. Both use the same embedder, frames and settings.
"""

import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import open_clip
import torch
from safetensors.torch import save_file

from benchmarks import Row
from storymem_core.embedders import Embedder, OpenClip
from storymem_core.keyframes import THRESHOLD_STEP, select_keyframes
from tests.core.footage import read_footage

THRESHOLD, MAX_KEYFRAMES, FRAMES = 0.9, 3, 81
SEED, GAIN = 1, 2.0


def run() -> list[Row]:
    """Measure, print what was measured, and return the row. SystemExit if the two choose other frames."""
    images = read_footage(FRAMES, 832, 480)
    threads = torch.get_num_threads()
    # One thread and its CPU time on both sides: batches profit more from threads than single pictures do.
    torch.set_num_threads(1)
    try:
        embedder = random_vit_b_32()
        embedder(images[:1])
        start = time.process_time()
        selection = select_keyframes(embedder(images), threshold=THRESHOLD, max_keyframes=MAX_KEYFRAMES)
        ours = time.process_time() - start

        start = time.process_time()
        indices, passes, evaluations = literal_keyframes(images, embedder)
        literal = time.process_time() - start
    finally:
        torch.set_num_threads(threads)

    if selection.indices != indices:
        raise SystemExit(f"keyframes differ: ours {selection.indices}, literal procedure {indices}")
    print(
        f"""\
keyframes: {FRAMES} frames of 832x480 real video, quality "none", empty bank, CPU time of 1 thread
  embedder    open_clip ViT-B/32, fp32, random weights (seed {SEED}, weight matrices x {GAIN:g}: plain random
              weights find all pictures alike, these spread similarities like a real shot)
  threshold   {THRESHOLD} lowered to {selection.threshold:.2f}: {passes} passes of the literal procedure
  CLIP runs   ours {FRAMES} (batches of {embedder.BATCH}), literal {evaluations} (one picture at a time)
  keyframes   {indices}, identical
  one pass    a shot that needs no lower threshold gives a ratio of about {literal / passes / ours:.1f}"""
    )
    return [Row("keyframe extraction, ViT-B/32", ours, literal, literal / ours, ">= 10x")]


def random_vit_b_32() -> OpenClip:
    """ViT-B/32 with seeded weights, loaded from a checkpoint file as a user's would be."""
    torch.manual_seed(SEED)
    model = open_clip.CLIP(**open_clip.get_model_config("ViT-B-32"))
    with torch.no_grad():
        for name, weight in model.visual.named_parameters():
            if weight.ndim >= 2 and ("resblocks" in name or "conv1" in name):
                weight.mul_(GAIN)
    with TemporaryDirectory() as folder:
        checkpoint = Path(folder, "vit_b_32.safetensors")
        save_file(model.state_dict(), checkpoint)
        return OpenClip(checkpoint)


def literal_keyframes(images: np.ndarray, embedder: Embedder) -> tuple[tuple[int, ...], int, int]:
    """The published procedure as written: keyframes, passes over the shot, CLIP evaluations."""
    passes = evaluations = 0

    def similarity(a: np.ndarray, b: np.ndarray) -> float:
        nonlocal evaluations
        evaluations += 2
        return float(np.float64(embedder(a[None])[0]) @ np.float64(embedder(b[None])[0]))

    threshold = THRESHOLD
    while True:
        passes += 1
        keyframes = [0]
        for i in range(1, len(images)):
            if similarity(images[i], images[keyframes[-1]]) < threshold:
                keyframes.append(i)
        if len(keyframes) <= MAX_KEYFRAMES:
            return tuple(keyframes), passes, evaluations
        threshold -= THRESHOLD_STEP


if __name__ == "__main__":
    for row in run():
        print(f"{row.name}: {row.ours:.1f} s, literal {row.reference:.1f} s, {row.ratio:.1f}x (goal {row.goal})")
