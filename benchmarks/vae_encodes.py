"""VAE encodes of a ten-shot story against encoding every recalled keyframe and the video for every shot."""

import copy
import time

import comfy.sd
import comfy.utils
import numpy as np
import torch
from comfy.sd import VAE
from storymem.nodes.host.latents import fit, keyframe_image
from storymem.nodes.host.sampling import condition_shot
from storymem.storymem_core.bank import Keyframe, MemoryBank
from storymem.storymem_core.conditioning import shot_pixels
from storymem.storymem_core.transitions import Transition

from benchmarks import Row
from tools.setup import Host

WIDTH, HEIGHT, LENGTH = 64, 48, 81
KEYFRAMES = 2  # that each shot adds
STORY = ["cut", "cut", "first_frame", "cut", "cut", "motion_frames", "cut", "cut", "first_frame", "cut"]


def run(host: Host) -> list[Row]:
    """Measure, print what was measured, and return the row. SystemExit if latents or encodes are not as due."""
    vae, encodes = counting_vae(host)
    generator = torch.Generator().manual_seed(1)
    text = [[torch.zeros(1, 1, 1), {}]]
    bank, recalled = MemoryBank(), []
    ours, literal = [], []  # (encodes, CPU seconds) of each shot
    for shot, kind in enumerate(STORY, start=1):
        transition = Transition.after(kind, torch.rand(5, HEIGHT, WIDTH, 3, generator=generator))
        keyframes = bank.recall()

        start = len(encodes), time.thread_time()
        positive, _, _ = condition_shot(text, text, vae, keyframes, transition, WIDTH, HEIGHT, LENGTH)
        ours.append((len(encodes) - start[0], time.thread_time() - start[1]))

        start = len(encodes), time.thread_time()
        known = literal_latents(vae, keyframes, transition)
        literal.append((len(encodes) - start[0], time.thread_time() - start[1]))

        if not torch.equal(positive[0][1]["concat_latent_image"], known):
            raise SystemExit(f"shot {shot}: latents differ from encoding everything for this shot")
        recalled += keyframes
        bank = bank.add_shot(new_keyframes(shot, generator))

    (our_encodes, our_seconds), (all_encodes, all_seconds) = (map(sum, zip(*s, strict=True)) for s in (ours, literal))
    continuations = sum(kind != "cut" for kind in STORY)
    due = len({keyframe.id for keyframe in recalled}) + 1 + continuations
    if our_encodes != due:
        raise SystemExit(f"{our_encodes} VAE encodes, {due} are due: each keyframe, one grey video, continuations")
    shots = len(STORY)
    print(
        f"""\
VAE encodes: {shots} shots of {LENGTH} frames of {WIDTH}x{HEIGHT}, {continuations} of them continuations, \
{KEYFRAMES} new keyframes a shot
  both sides  the host's VAE on the demo model, CPU seconds of 1 thread, identical latents
  encodes     ours {our_encodes} ({our_encodes / shots:.1f} a shot), literal {all_encodes} \
({all_encodes / shots:.1f} a shot)"""
    )
    name = f"VAE encoding, {shots} shots: {our_encodes} encodes against {all_encodes}"
    return [Row(name, our_seconds, all_seconds, all_seconds / our_seconds, ">= 1x")]


def counting_vae(host: Host) -> tuple[VAE, list[tuple[int, ...]]]:
    """The demo VAE, and the list to which every encode appends the shape of its pixels."""
    path = host.base / "models" / "vae" / "storymem_demo_vae.safetensors"
    weights, metadata = comfy.utils.load_torch_file(str(path), return_metadata=True)
    vae, encodes = VAE(sd=weights, metadata=metadata), []
    counted = copy.copy(vae)

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        encodes.append(tuple(pixels.shape))
        return vae.encode(pixels)

    counted.encode = encode
    encode(torch.zeros(1, HEIGHT, WIDTH, 3))  # loads the model
    return counted, encodes


def literal_latents(vae: VAE, keyframes: tuple[Keyframe, ...], transition: Transition) -> torch.Tensor:
    """Latents of memory and video, everything encoded for this shot: [1, 16, M + T, HEIGHT / 8, WIDTH / 8]."""
    images = [fit(keyframe_image(keyframe), WIDTH, HEIGHT, "lanczos") for keyframe in keyframes]
    images.append(shot_pixels(transition.frames, WIDTH, HEIGHT, LENGTH))
    return torch.cat([vae.encode(image) for image in images], dim=2)


def new_keyframes(shot: int, generator: torch.Generator) -> list[Keyframe]:
    shape = KEYFRAMES, HEIGHT, WIDTH, 3
    images = torch.randint(256, shape, generator=generator, dtype=torch.uint8).numpy()
    embedding = np.ones(1, np.float32)
    return [Keyframe(image, shot, i, embedding, "none") for i, image in enumerate(images)]
