"""Training samples as musubi-tuner keeps them in its cache, so that it can train Wan image-to-video on them.

It reads nothing but these files: `latents_*` is what the model learns to make, `latents_image_*` what it is told,
`varlen_t5_*` the prompt. The sample's memory comes first in both, at positions 0, 1, ... with the video behind it: a
memory spacing of 1. File names and keys: musubi-tuner, save_latent_cache_wan and VideoDataset.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file

from .conditioning import SPATIAL_STRIDE, TEMPORAL_STRIDE
from .film import replace_file

DATASET = """# For --dataset_config of musubi-tuner's wan_train_network.py. Its own caching scripts are not needed.
[general]
resolution = [{width}, {height}]
caption_extension = ".txt"
batch_size = 1
enable_bucket = false

[[datasets]]
video_directory = "{folder}"
cache_directory = "{folder}"
target_frames = [1]
frame_extraction = "head"
"""


def write_sample(folder: Path, number: int, clean: torch.Tensor, known: torch.Tensor, text: torch.Tensor) -> None:
    """Write one sample, in bfloat16.

    clean: [16, F, h, w] latents as the model sees them, memory first; known: [20, F, h, w], mask (1 = known) and
    latents; text: [L, D], rows of zeros at the end are padding.
    """
    frames, height, width = clean.shape[1:]
    pixels = f"{width * SPATIAL_STRIDE:04d}x{height * SPATIAL_STRIDE:04d}"
    name, length = f"sample{number:06d}", TEMPORAL_STRIDE * (frames - 1) + 1
    shape = f"{frames}x{height}x{width}_bfloat16"
    _write(folder / f"{name}_00000-{length:03d}_{pixels}_wan.safetensors", latents=clean, latents_image=known, of=shape)
    words = int(text.abs().sum(dim=1).nonzero().max()) + 1
    _write(folder / f"{name}_wan_te.safetensors", varlen_t5=text[:words], of="bfloat16")


def write_dataset(folder: Path, width: int, height: int) -> None:
    """Write dataset.toml, for samples of this size in pixels."""
    text = DATASET.format(folder=folder.as_posix(), width=width, height=height)
    replace_file(folder / "dataset.toml", lambda part: part.write_text(text, encoding="utf-8"))


def _write(path: Path, of: str, **tensors: torch.Tensor) -> None:
    named = {f"{name}_{of}": tensor.to(torch.bfloat16).contiguous() for name, tensor in tensors.items()}
    metadata = {"architecture": "wan", "format_version": "1.0.1"}
    replace_file(path, lambda part: save_file(named, part, metadata))
