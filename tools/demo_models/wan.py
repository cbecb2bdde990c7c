"""A Wan 2.2 transformer of two blocks, under the names of the A14B files."""

import numpy as np

from .files import ModelFile
from .layers import Weights, conv, linear, normal

BLOCKS = 2
WIDTH = 256  # two heads: the host takes width / 128
FFN_WIDTH = 512
TEXT_WIDTH = 64
FREQUENCIES = 256
LATENT_CHANNELS = 16
PATCH = (1, 2, 2)


def wan_transformer(channels: int, seed: int) -> ModelFile:
    """A Wan 2.2 model: `channels` = 36 for image-to-video (latent, mask, image latent), 16 for text."""
    rng = np.random.default_rng(seed)
    weights = (
        conv(rng, "patch_embedding", WIDTH, channels, PATCH)
        | linear(rng, "text_embedding.0", WIDTH, TEXT_WIDTH, gain=1.5)
        | linear(rng, "text_embedding.2", WIDTH, WIDTH, gain=1.5)
        | linear(rng, "time_embedding.0", WIDTH, FREQUENCIES, gain=1.5)
        | linear(rng, "time_embedding.2", WIDTH, WIDTH, gain=0.5)
        | linear(rng, "time_projection.1", 6 * WIDTH, WIDTH, gain=0.5)
    )
    for index in range(BLOCKS):
        weights |= _block(rng, f"blocks.{index}")
    weights |= linear(rng, "head.head", LATENT_CHANNELS * int(np.prod(PATCH)), WIDTH)
    weights |= {"head.modulation": normal(rng, (1, 2, WIDTH), WIDTH**-0.5)}
    return ModelFile(weights, {"transformer": {"text_dim": TEXT_WIDTH}})


def _block(rng: np.random.Generator, name: str) -> Weights:
    # Wide logits: each token attends to few others, so one frame or one word makes a difference.
    weights = _attention(rng, f"{name}.self_attn", spread=2.5, gain=1.5)
    weights |= _attention(rng, f"{name}.cross_attn", spread=2.5, gain=0.5)
    weights |= {
        f"{name}.norm3.weight": normal(rng, (WIDTH,), 0.1, mean=1.0),
        f"{name}.norm3.bias": normal(rng, (WIDTH,), 0.05),
    }
    weights |= linear(rng, f"{name}.ffn.0", FFN_WIDTH, WIDTH) | linear(rng, f"{name}.ffn.2", WIDTH, FFN_WIDTH)
    # Rows are shift, scale, gate of self-attention, then of the FFN; gates about 1 let both through.
    modulation = normal(rng, (1, 6, WIDTH), 0.1)
    modulation[:, [2, 5]] += 1
    return weights | {f"{name}.modulation": modulation}


def _attention(rng: np.random.Generator, name: str, spread: float, gain: float) -> Weights:
    weights = {
        f"{name}.norm_q.weight": normal(rng, (WIDTH,), 0.1, mean=spread),
        f"{name}.norm_k.weight": normal(rng, (WIDTH,), 0.1, mean=1.0),
    }
    for projection in "qkv":
        weights |= linear(rng, f"{name}.{projection}", WIDTH, WIDTH)
    return weights | linear(rng, f"{name}.o", WIDTH, WIDTH, gain)
