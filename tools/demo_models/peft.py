"""A StoryMem-style adapter: PEFT names, rank-stabilised, no alpha in the file."""

import numpy as np

from .files import ModelFile
from .layers import normal
from .wan import BLOCKS, FFN_WIDTH, WIDTH

RANK = 8  # alpha is RANK as well, so the adapter adds RANK / sqrt(RANK) * B @ A
LAYERS = {
    **{
        f"{attention}.{projection}": (WIDTH, WIDTH)
        for attention in ("self_attn", "cross_attn")
        for projection in "qkvo"
    },
    "ffn.0": (FFN_WIDTH, WIDTH),
    "ffn.2": (WIDTH, FFN_WIDTH),
}


def peft_adapter(seed: int) -> ModelFile:
    """For every linear layer that StoryMem trains (arXiv 2512.19539); it adds 0.3 of the layer's output."""
    rng = np.random.default_rng(seed)
    weights = {}
    for block in range(BLOCKS):
        for layer, (outputs, inputs) in LAYERS.items():
            name = f"base_model.model.blocks.{block}.{layer}"
            weights[f"{name}.lora_A.weight"] = normal(rng, (RANK, inputs), inputs**-0.5)
            weights[f"{name}.lora_B.weight"] = normal(rng, (outputs, RANK), 0.3 / RANK)
    return ModelFile(weights, {})
