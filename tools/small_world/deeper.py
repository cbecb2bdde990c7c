"""Some layers twice: `python -m tools.small_world.deeper FILE DEEPER LAYER ...`, of a transformer's file or a LoRA's.

The second one comes right after the first and adds nothing yet, so the deeper model makes what the other one made, and
can be trained on (`train i2v --start`, `lora_loop.py`); `transformer.CONFIG` has to have as many layers.
"""

import argparse
import re
from collections.abc import Collection
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

LAYER = re.compile(r"((?:diffusion_model\.)?blocks\.)(\d+)\.(.+)")
# What a layer adds to its input ends in one of these; of a LoRA it is enough that one of two factors is zero.
ADDED = re.compile(r"(self_attn\.o|cross_attn\.o|ffn\.2)\.(weight|bias|lora_up\.weight)")


def deeper(weights: dict[str, torch.Tensor], doubled: Collection[int]) -> dict[str, torch.Tensor]:
    """The weights of a transformer, or of a LoRA for it, with the layers `doubled`, counted from 0, twice.

    ValueError where they have no such layer.
    """
    layers = {int(found[2]) for key in weights if (found := LAYER.fullmatch(key))}
    if unknown := set(doubled) - layers:
        raise ValueError(f"no layer {min(unknown)} to double: layers are {', '.join(map(str, sorted(layers)))}")
    content = {}
    for key, weight in weights.items():
        if not (found := LAYER.fullmatch(key)):
            content[key] = weight
            continue
        prefix, layer, name = found[1], int(found[2]), found[3]
        own = layer + sum(other < layer for other in doubled)
        content[f"{prefix}{own}.{name}"] = weight
        if layer in doubled:
            content[f"{prefix}{own + 1}.{name}"] = torch.zeros_like(weight) if ADDED.fullmatch(name) else weight.clone()
    return content


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tools.small_world.deeper", description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("deeper", type=Path)
    parser.add_argument("layers", type=int, nargs="+", help="counted from 0")
    arguments = parser.parse_args()
    with safe_open(arguments.file, "pt") as file:
        metadata = file.metadata()
    save_file(deeper(load_file(arguments.file), set(arguments.layers)), arguments.deeper, metadata)
