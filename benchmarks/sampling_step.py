"""One sampling step with memory against the host's own step at the same number of latent frames.

Both go through the host's CFGGuider and Euler sampler with the same conditioning, in pairs, one after the
other; the host's model is without memory. Time is the CPU seconds of the one thread that computes, from the
sampler's start to its end, without loading models. The ratio is the median over pairs: what slows down the
machine for a while slows both sides of a pair, and a median ignores what hits one side only.
"""

import time
from statistics import median

import comfy.sample
import comfy.samplers
import comfy.sd
import torch
from comfy.k_diffusion.sampling import sample_euler
from comfy.model_patcher import ModelPatcher
from storymem.nodes.host.memory import Memory, with_memory

from benchmarks import Row
from tools.setup import Host

MEMORY, VIDEO = 10, 21  # a full memory before five seconds of video, in latent frames
WIDTH, HEIGHT = 160, 112
PAIRS = 31
CFG = 1.0  # one pass of the model: a shorter step repeats better
SIGMAS = (0.9, 0.8)
OVERRIDE = "optimized_attention_override"
UNPATCHED, WEIGHTED = "<= 1.02", "<= 1.10"


def run(host: Host) -> list[Row]:
    """Measure, print what was measured, and return the rows. SystemExit if the two compute different videos."""
    path = host.base / "models" / "diffusion_models" / "storymem_demo_high_noise.safetensors"
    model = comfy.sd.load_diffusion_model(str(path))
    other = other_attention(model)

    def memory(model: ModelPatcher = model, **settings) -> ModelPatcher:
        return with_memory(model, Memory(MEMORY, VIDEO, **settings))

    both, video = MEMORY + VIDEO, VIDEO
    # name, ours and the host's as (model, latent frames), goal
    control = ("the host against itself", (model, both), (model, both), "")
    cases = [
        ("strength 1, spacing 1", (memory(), both), (model, both), UNPATCHED),
        ("strength 1, spacing 5", (memory(spacing=5), both), (model, both), UNPATCHED),
        ("strength 2", (memory(strength=2.0), both), (model, both), WEIGHTED),
        ("strength 0.5", (memory(strength=0.5), both), (model, both), WEIGHTED),
        ("strength 2, another pack's attention", (memory(other, strength=2.0), both), (other, both), WEIGHTED),
        ("outside the memory window (host: the video alone)", (memory(end=0.0), both), (model, video), UNPATCHED),
    ]
    check_same(memory(), model)
    check_same(memory(strength=2.0), memory(other, strength=2.0))
    noise, *rows = (compare(*case) for case in (control, *cases))
    print(
        f"""\
sampling step: demo Wan, {MEMORY} memory and {VIDEO} video latent frames of {WIDTH}x{HEIGHT} pixels, \
{(MEMORY + VIDEO) * WIDTH * HEIGHT // 256} tokens
  both sides  cfg {CFG:g}, {PAIRS} pairs, CPU seconds of 1 thread, torch's fused attention
  resolution  {noise.name}: {noise.ratio:.4f}"""
    )
    return [row._replace(name=f"sampling step, {row.name}") for row in rows]


def other_attention(model: ModelPatcher) -> ModelPatcher:
    """A clone with an attention override set as other packs set it; it calls the attention it replaces."""
    clone = model.clone()
    clone.model_options["transformer_options"][OVERRIDE] = lambda func, *args, **kwargs: func(*args, **kwargs)
    return clone


def compare(name: str, ours: tuple[ModelPatcher, int], reference: tuple[ModelPatcher, int], goal: str) -> Row:
    """Time both in turn, each first in every other pair; the first steps are not counted."""
    step(*ours), step(*reference)
    seconds = []
    for i in range(PAIRS):
        pair = [ours, reference][:: 1 if i % 2 == 0 else -1]
        pair = [step(*side)[1] for side in pair]
        seconds.append(pair[:: 1 if i % 2 == 0 else -1])
    ratio = median(ours / reference for ours, reference in seconds)
    return Row(name, *map(median, zip(*seconds, strict=True)), ratio, goal)


def step(model: ModelPatcher, frames: int) -> tuple[torch.Tensor, float]:
    """One Euler step at cfg: the latent [1, 16, frames, HEIGHT / 8, WIDTH / 8], and its CPU seconds."""
    seconds = 0.0

    def timed_euler(*args, **kwargs):
        nonlocal seconds
        start = time.thread_time()
        latent = sample_euler(*args, **kwargs)
        seconds = time.thread_time() - start
        return latent

    generator = torch.Generator().manual_seed(1)
    noise, known = torch.randn(2, 1, 16, MEMORY + VIDEO, HEIGHT // 8, WIDTH // 8, generator=generator)
    mask = torch.ones_like(known[:, :1])
    mask[:, :, :MEMORY] = 0.0
    noise, known, mask = (tensor[:, :, -frames:] for tensor in (noise, known, mask))
    texts = torch.randn(2, 1, 512, 64, generator=generator)
    positive, negative = ([[text, {"concat_latent_image": known, "concat_mask": mask}]] for text in texts)
    latent = comfy.sample.sample_custom(
        model,
        noise,
        CFG,
        comfy.samplers.KSAMPLER(timed_euler),
        torch.tensor(SIGMAS),
        positive,
        negative,
        torch.zeros_like(noise),
        callback=lambda *_: None,
        disable_pbar=True,
        seed=1,
    )
    return latent, seconds


def check_same(ours: ModelPatcher, reference: ModelPatcher) -> None:
    """SystemExit unless both compute the same step: RoPE takes differences only, so spacing 1 moves nothing."""
    a, b = (step(model, MEMORY + VIDEO)[0] for model in (ours, reference))
    error = ((a - b).norm() / b.norm()).item()
    if not error < 1e-4:
        raise SystemExit(f"sampling steps differ by {error:.1e} (relative), 1e-4 allowed")
