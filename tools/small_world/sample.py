"""python -m tools.small_world.sample text|t2v|i2v PICTURE: a contact sheet of samples, to look at while training.

Plain Euler steps on the model being trained (its averaged weights), one clip a row, every fourth frame.
"""

import argparse
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import torch

from .autoencoder import decode, encode, load_autoencoder, to_video
from .dataset import grey_latent
from .host import DEVICE, Wan21, WanModel, comfy
from .render import render
from .run import CHECKPOINTS
from .text import TextEncoder
from .transformer import LATENT_CHANNELS, MASK_CHANNELS, load_text_encoder, new_transformer, part
from .world import FRAMES, random_clip


@torch.no_grad()
def euler(
    wan: WanModel,
    text: TextEncoder,
    captions: list[str],
    known: torch.Tensor | None,
    steps: int = 24,
    cfg: float = 3.0,
    shift: float = 4.0,
    seed: int = 0,
) -> torch.Tensor:
    """Latents [B, 16, 5, 8, 12]; `known` [B, 20, 5, 8, 12] is what an I2V model knows."""
    even = torch.linspace(1, 0, steps + 1)
    sigmas = shift * even / (1 + (shift - 1) * even)
    x = torch.randn(
        len(captions), LATENT_CHANNELS, 5, 8, 12, generator=torch.Generator("cpu").manual_seed(seed), device="cpu"
    )
    x = x.to(DEVICE)
    words, nothing = text(captions), text([""] * len(captions))
    for now, then in pairwise(sigmas.tolist()):
        inputs = x if known is None else torch.cat([x, known], 1)
        level = torch.full((len(x),), 1000 * now)
        without = wan(inputs, level, nothing)
        x = x + (then - now) * (without + cfg * (wan(inputs, level, words) - without))
    return x


class Flow(comfy.model_sampling.ModelSamplingDiscreteFlow, comfy.model_sampling.CONST):
    """Noise levels of a Wan model, as the host's samplers ask for them."""


@torch.no_grad()
def seeds_2(
    velocity: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], x: torch.Tensor, steps: int = 15, shift: float = 3.0
) -> torch.Tensor:
    """From noise x to latents by the host's sampler of that name and its scheduler "simple".

    velocity: of x and sigma [B].
    """
    flow = Flow()
    flow.set_parameters(shift=shift, multiplier=1000)

    def denoised(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return x - sigma.view(-1, *[1] * (x.dim() - 1)) * velocity(x, sigma)

    # The way by which the host's samplers find a model's noise levels.
    denoised.inner_model = SimpleNamespace(model_patcher=SimpleNamespace(get_model_object=lambda _: flow))
    sigmas = comfy.samplers.simple_scheduler(flow, steps).to(x)
    return comfy.k_diffusion.sampling.sample_seeds_2(denoised, x, sigmas, disable=True)


def load_training(name: str) -> tuple[WanModel, TextEncoder, int]:
    """The averaged weights of a run that may still be going on, and its step."""
    state = torch.load(CHECKPOINTS / f"{name}.pt", weights_only=True)
    weights = state["average"]
    if name == "text":
        text = TextEncoder()
        text.load_state_dict(part(weights, "text."))
        weights = part(weights, "wan.")
    else:
        text = load_text_encoder()
    wan = new_transformer(2 * LATENT_CHANNELS + MASK_CHANNELS if name == "i2v" else LATENT_CHANNELS)
    wan.load_state_dict(weights)
    return wan, text, state["step"]


@torch.no_grad()
def to_frames(vae, latents: torch.Tensor) -> np.ndarray:
    """uint8 [B, 17, 64, 96, 3] of normalised latents."""
    video = decode(vae, Wan21().process_out(latents)).clamp(-1, 1)
    return ((video.movedim(1, -1) + 1) * 127.5).round().byte().cpu().numpy()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tools.small_world.sample", description=__doc__)
    parser.add_argument("model", choices=("text", "t2v", "i2v"))
    parser.add_argument("picture", type=Path)
    parser.add_argument("--clips", type=int, default=12)
    arguments = parser.parse_args()
    wan, text, step = load_training(arguments.model)
    vae, known = load_autoencoder(), None
    shots = [random_clip(50_000_000 + index) for index in range(arguments.clips)]
    if arguments.model == "i2v":
        known = grey_latent(vae).expand(len(shots), -1, -1, -1, -1).clone()
        mask = torch.zeros(len(shots), MASK_CHANNELS, *known.shape[2:])
        for index, overlap in enumerate([0, 1, 5] * (len(shots) // 3)):
            if overlap:
                video = to_video(render(shots[index]).frames[None])
                video[:, :, overlap:] = 0
                with torch.no_grad():
                    known[index] = Wan21().process_in(encode(vae, video))[0]
                mask[index, :, : 1 if overlap == 1 else 2] = 1
        known = torch.cat([mask, known], 1)
    frames = to_frames(vae, euler(wan, text, [shot.caption for shot in shots], known))
    rows = [np.concatenate(clip[:: (FRAMES - 1) // 4], 1) for clip in frames]
    sheet = np.concatenate([np.concatenate(rows[0::2], 0), np.concatenate(rows[1::2], 0)], 1)
    cv2.imwrite(str(arguments.picture), sheet[..., ::-1])
    print(f"step {step}", *[shot.caption for shot in shots], sep="\n")
