"""The mean of LoRAs that began as one: `python -m tools.small_world.mean FILE LORA LORA ...`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from .lora_loop import of_rank

DOWN, UP, ALPHA = "lora_down.weight", "lora_up.weight", "alpha"


def mean(loras: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """A LoRA, float32, whose products are the mean of theirs, as near as the rank of the first one allows."""
    content, rank = {}, 0
    for key in loras[0]:
        if not key.endswith(DOWN):
            continue
        layer = key.removesuffix(DOWN)
        rank = len(loras[0][key])
        scales = [float(lora[layer + ALPHA]) / len(lora[key]) / len(loras) for lora in loras]
        ups = [scale * lora[layer + UP].float() for scale, lora in zip(scales, loras, strict=True)]
        content[key] = torch.cat([lora[key].float() for lora in loras])
        content[layer + UP] = torch.cat(ups, 1)
        content[layer + ALPHA] = torch.tensor(float(len(content[key])))
    return of_rank(content, rank)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tools.small_world.mean", description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("loras", type=Path, nargs="+")
    arguments = parser.parse_args()
    found = mean([load_file(lora) for lora in arguments.loras])
    save_file({name: weight.half().contiguous() for name, weight in found.items()}, arguments.file)
