"""A Wan 2.1 video autoencoder of width 8, named as in the real file (random: it reconstructs nothing)."""

import numpy as np

from .files import ModelFile
from .layers import Weights, conv, normal

WIDTH = 8
LATENT_CHANNELS = 16
LATENT_STD = 2.0  # of the real autoencoder's latents, roughly
CUBE = (3, 3, 3)
SILU_GAIN = 1.7  # makes up for what a SiLU takes away
LEVELS = [WIDTH, 2 * WIDTH, 4 * WIDTH, 4 * WIDTH]
TEMPORAL = [False, True, True]  # which of the three halvings of the picture also halve the frame rate


def wan_vae(seed: int) -> ModelFile:
    """Encoder to 16 latent channels (stride 8 in space, 4 in time) and decoder back to RGB in [-1, 1]."""
    rng = np.random.default_rng(seed)
    pointwise = (1, 1, 1)
    weights = (
        _encoder(rng)
        | conv(rng, "conv1", 2 * LATENT_CHANNELS, 2 * LATENT_CHANNELS, pointwise, gain=1.4 * LATENT_STD)
        | conv(rng, "conv2", LATENT_CHANNELS, LATENT_CHANNELS, pointwise, gain=1 / LATENT_STD)
        | _decoder(rng)
    )
    return ModelFile(weights, {})


def _encoder(rng: np.random.Generator) -> Weights:
    weights = conv(rng, "encoder.conv1", WIDTH, 3, CUBE)
    index, width = 0, WIDTH
    for level, level_width in enumerate(LEVELS):
        for _ in range(2):
            weights |= _residual(rng, f"encoder.downsamples.{index}", width, level_width)
            index, width = index + 1, level_width
        if level < len(TEMPORAL):
            name = f"encoder.downsamples.{index}"
            weights |= conv(rng, f"{name}.resample.1", width, width, (3, 3))
            weights |= _frame_mixer(rng, name, width, 1) if TEMPORAL[level] else {}
            index += 1
    return weights | _middle(rng, "encoder", width) | _head(rng, "encoder", 2 * LATENT_CHANNELS, width)


def _decoder(rng: np.random.Generator) -> Weights:
    width = LEVELS[-1]
    weights = conv(rng, "decoder.conv1", width, LATENT_CHANNELS, CUBE) | _middle(rng, "decoder", width)
    index = 0
    for level, level_width in enumerate(reversed(LEVELS)):
        for _ in range(3):
            weights |= _residual(rng, f"decoder.upsamples.{index}", width, level_width)
            index, width = index + 1, level_width
        if level < len(TEMPORAL):
            name = f"decoder.upsamples.{index}"
            weights |= conv(rng, f"{name}.resample.1", width // 2, width, (3, 3))
            weights |= _frame_mixer(rng, name, width, 2) if TEMPORAL[-1 - level] else {}
            index, width = index + 1, width // 2
    return weights | _head(rng, "decoder", 3, width)


def _middle(rng: np.random.Generator, name: str, width: int) -> Weights:
    return (
        _residual(rng, f"{name}.middle.0", width, width)
        | {f"{name}.middle.1.norm.gamma": normal(rng, (width, 1, 1), 0.1, mean=1.0)}
        | conv(rng, f"{name}.middle.1.to_qkv", 3 * width, width, (1, 1))
        | conv(rng, f"{name}.middle.1.proj", width, width, (1, 1))
        | _residual(rng, f"{name}.middle.2", width, width)
    )


def _head(rng: np.random.Generator, name: str, outputs: int, width: int) -> Weights:
    return _norm(rng, f"{name}.head.0", width) | _conv3(rng, f"{name}.head.2", outputs, width)


def _residual(rng: np.random.Generator, name: str, inputs: int, outputs: int) -> Weights:
    weights = (
        _norm(rng, f"{name}.residual.0", inputs)
        | _conv3(rng, f"{name}.residual.2", outputs, inputs)
        | _norm(rng, f"{name}.residual.3", outputs)
        | _conv3(rng, f"{name}.residual.6", outputs, outputs)
    )
    return weights | (conv(rng, f"{name}.shortcut", outputs, inputs, (1, 1, 1)) if inputs != outputs else {})


def _norm(rng: np.random.Generator, name: str, width: int) -> Weights:
    return {f"{name}.gamma": normal(rng, (width, 1, 1, 1), 0.1, mean=1.0)}


def _conv3(rng: np.random.Generator, name: str, outputs: int, inputs: int) -> Weights:
    """A causal convolution after a SiLU; the newest frame counts most, so a lone frame has contrast too."""
    weights = conv(rng, name, outputs, inputs, CUBE, gain=SILU_GAIN)
    weights[f"{name}.weight"][:, :, :-1] *= 0.3
    # A SiLU's output has a mean: unless each filter ignores it, every picture gets much the same latent.
    weights[f"{name}.weight"] -= weights[f"{name}.weight"].mean(axis=1, keepdims=True)
    return weights


def _frame_mixer(rng: np.random.Generator, name: str, width: int, frames: int) -> Weights:
    """The causal convolution over time that makes `frames` frames of one: the newest, with a little noise."""
    weights = conv(rng, f"{name}.time_conv", frames * width, width, (3, 1, 1), gain=0.2)
    repeat = np.tile(np.eye(width, dtype=np.float16), (frames, 1))
    weights[f"{name}.time_conv.weight"][:, :, -1, 0, 0] += repeat
    return weights
