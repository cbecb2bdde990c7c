"""python -m tools.small_world.probe [LORA ...]: what memory tells the image-to-video model about looks, in seconds.

For unseen stories, the mean squared error of the velocity that is predicted from noise alone, where characters are and
elsewhere: without memory, with keyframes of all other shots, and with those that the policy `same_labels` recalls.
"""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from storymem_core.bank import POLICIES, Keyframe, read_labels
from storymem_core.embedders import ColorLayout
from storymem_core.positions import memory_rope_options

from .autoencoder import encode_mixed, frame_features, new_autoencoder, to_video
from .dataset import grey_latent
from .host import Wan21, WanModel, WanVAE
from .lora import TRAINED
from .render import cells_of_characters, render
from .text import TextEncoder
from .transformer import LATENT_CHANNELS, MASK_CHANNELS, new_transformer, trained
from .world import random_story

FIRST_STORY = 61_000_000  # neither trained on nor evaluated
MOST = 10  # keyframes of a memory
MEMORIES = ("none", "sliding_window", "same_labels")
LEARNED_GUIDANCE = 3.0  # the `memory_guidance` that lora_loop.py teaches


def load_models(folder: Path) -> tuple[WanVAE, TextEncoder, torch.Tensor]:
    """The exported autoencoder and text encoder, and the latent [1, 16, 5, 8, 12] of a clip that nobody knows."""
    vae, text = new_autoencoder(), TextEncoder()
    vae.load_state_dict(trained(folder, "vae"))
    text.t5.load_state_dict(trained(folder, "umt5"))
    return vae, text, grey_latent(vae)[None]


class Story:
    """Latents of a story's shots, and keyframes of each with their latents."""

    @torch.no_grad()
    def __init__(self, vae, seed: int):
        self.shots, process = random_story(seed), Wan21().process_in
        self.clips, self.keyframes, self.latents = [], [], {}
        for number, shot in enumerate(self.shots, 1):
            frames = render(shot).frames
            features = frame_features(vae, to_video(frames[None]))
            self.clips.append(process(encode_mixed(vae, features)))
            for i, embedding in zip((0, 8, 16), ColorLayout()(frames[[0, 8, 16]]), strict=True):
                keyframe = Keyframe(frames[i], number, i, embedding, ColorLayout.name, label=shot.labels)
                self.keyframes.append(keyframe)
                self.latents[keyframe] = process(encode_mixed(vae, features[:, :, i : i + 1]))

    def memory(self, number: int, policy: str) -> list[torch.Tensor]:
        """Latents of at most MOST keyframes of the other shots."""
        if policy == "none":
            return []
        others = [keyframe for keyframe in self.keyframes if keyframe.shot != number]
        wanted = read_labels(self.shots[number - 1].labels)
        chosen = POLICIES[policy](others, wanted)
        order = np.random.default_rng(number).permutation(len(chosen))[:MOST]
        return [self.latents[chosen[i]] for i in sorted(order)]


def predict(
    wan: WanModel, noise: torch.Tensor, memory: Sequence[torch.Tensor], grey: torch.Tensor, text: torch.Tensor
) -> torch.Tensor:
    """The velocity at sigma 1 of a shot of which nothing is known but its memory."""
    frames = len(memory)
    mask = torch.zeros(1, MASK_CHANNELS, frames + noise.shape[2], *noise.shape[3:])
    mask[:, :, :frames] = 1
    x = torch.cat([*(torch.randn_like(latent) for latent in memory), noise], 2)
    known = torch.cat([mask, torch.cat([*memory, grey], 2)], 1)
    with positions_in_the_past(wan, frames):
        return wan(torch.cat([x, known], 1), torch.full((1,), 1000.0), text)[:, :, frames:]


@contextmanager
def positions_in_the_past(wan: WanModel, frames: int) -> Iterator[None]:
    """Inside, the first `frames` latent frames of the model stand before the video."""
    encode = wan.rope_encode

    def rope_encode(t: int, h: int, w: int, *args, transformer_options: dict, **kwargs) -> torch.Tensor:
        past = {**transformer_options, "rope_options": memory_rope_options(None, frames, 1)}
        parts = [(frames, past), (t - frames, transformer_options)]
        return torch.cat([encode(n, h, w, *args, transformer_options=options, **kwargs) for n, options in parts], 1)

    if frames:
        wan.rope_encode = rope_encode
    try:
        yield
    finally:
        wan.rope_encode = encode


def with_lora(weights: dict[str, torch.Tensor], lora: Path) -> dict[str, torch.Tensor]:
    """Weights with a LoRA's product added as the host adds it: alpha / rank of it."""
    merged, file = dict(weights), load_file(lora)
    for key in file:
        # The trainer's own file has other layers too.
        if not (TRAINED.fullmatch(key) and key.endswith(".lora_up.weight")):
            continue
        layer = key.removesuffix(".lora_up.weight")
        up, down = file[key].float(), file[f"{layer}.lora_down.weight"].float()
        name = f"{layer.removeprefix('diffusion_model.')}.weight"
        merged[name] = merged[name] + float(file[f"{layer}.alpha"]) / len(down) * up @ down
    return merged


@torch.no_grad()
def measure(
    wan: WanModel, text: TextEncoder, grey: torch.Tensor, stories: Sequence[Story], guidance: float = LEARNED_GUIDANCE
) -> dict[str, list[float]]:
    """Error by kind of memory: where characters are, and elsewhere.

    guidance: that a LoRA has learned; what memory changes is divided by it, since a guided velocity goes beyond the
    best prediction.
    """
    sums = {policy: np.zeros((2, 2)) for policy in MEMORIES}
    for story in stories:
        for number, (shot, clip) in enumerate(zip(story.shots, story.clips, strict=True), 1):
            torch.manual_seed(number)
            noise, words, cells = torch.randn_like(clip), text([shot.caption]), cells_of_characters(shot)
            without = predict(wan, noise, [], grey, words)
            for policy in MEMORIES:
                velocity = predict(wan, noise, story.memory(number, policy), grey, words)
                velocity = without + (velocity - without) / guidance
                error = (velocity - (noise - clip)).square().mean(1)[0].cpu().numpy()
                sums[policy] += [(error[cells].sum(), cells.sum()), (error[~cells].sum(), (~cells).sum())]
    return {policy: (found[:, 0] / found[:, 1]).tolist() for policy, found in sums.items()}


def table(rows: dict[str, dict[str, list[float]]]) -> str:
    lines = [f"{'':<40}" + "".join(f"{policy:>18}" for policy in MEMORIES)]
    for name, found in rows.items():
        lines.append(f"{name:<40}" + "".join(f"{who:>10.3f} {where:.3f}  " for who, where in found.values()))
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tools.small_world.probe", description=__doc__)
    parser.add_argument("loras", type=Path, nargs="*")
    parser.add_argument("--weights", type=Path, default=Path(__file__).parents[1] / "demo_models" / "weights")
    parser.add_argument("--stories", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=LEARNED_GUIDANCE, help="that the LoRAs have learned; else 1")
    arguments = parser.parse_args()
    vae, text, grey = load_models(arguments.weights)
    stories = [Story(vae, FIRST_STORY + i) for i in range(arguments.stories)]
    base, rows = trained(arguments.weights, "i2v"), {}
    for lora in [None, *arguments.loras]:
        wan = new_transformer(2 * LATENT_CHANNELS + MASK_CHANNELS)
        wan.load_state_dict(base if lora is None else with_lora(base, lora))
        rows[lora.stem if lora else "no LoRA"] = measure(wan, text, grey, stories, arguments.guidance if lora else 1.0)
    print(table(rows))
