"""python -m tools.small_world.export: writes what is trained as the host's files, float16, transformers' layers int8.

With --unfinished it writes the averaged weights of the last checkpoints, to go on from on another machine; there
--take-up makes finished models of such files, for what is trained on top of them.
Names, sizes and metadata are those of the real models' files, so the host's own loaders read them.
"""

import argparse
import json
import os
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from .autoencoder import new_autoencoder, with_unit_latents
from .host import TensorWiseINT8Layout
from .run import CHECKPOINTS, load_finished, save_finished
from .text import TOKENS, TextEncoder
from .transformer import CONFIG, part, trained

WEIGHTS = Path(__file__).parents[1] / "demo_models" / "weights"
SMALLEST = 64  # rows and columns of a layer that is rounded
TRANSFORMER = {"transformer": {name: CONFIG[name] for name in ("text_dim", "num_heads")}}


def rounded(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A model's weights with those of large linear layers int8, a scale for each row beside them, as the host reads it.

    With a LoRA the host rounds the sum again, at random.
    """
    content = dict(weights)
    for key, weight in weights.items():
        if weight.ndim == 2 and min(weight.shape) >= SMALLEST:
            content[key], how = TensorWiseINT8Layout.quantize(weight.float(), per_channel=True)
            content[f"{key}_scale"] = how.scale
            mark = json.dumps({"format": "int8_tensorwise"}).encode()
            content[f"{key.removesuffix('weight')}comfy_quant"] = torch.tensor(list(mark), dtype=torch.uint8)
    return content


def export(name: str, weights: dict[str, torch.Tensor], config: dict[str, object]) -> Path:
    """Write weights/storymem_world_NAME.safetensors; it appears complete or not at all."""
    WEIGHTS.mkdir(exist_ok=True)
    path = WEIGHTS / f"storymem_world_{name}.safetensors"
    unfinished = path.with_suffix(".unfinished")
    content = {key: w.half() if w.is_floating_point() else w for key, w in weights.items()}
    if name in ("t2v", "i2v"):
        content = rounded(content)
    save_file({key: w.contiguous() for key, w in content.items()}, unfinished, {"config": json.dumps(config)})
    os.replace(unfinished, path)
    return path


def text_encoder(weights: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, object]]:
    """The UMT5 under the host's names, with its tokenizer and the length it pads captions to."""
    text = TextEncoder()
    weights = {key.removeprefix("t5."): weight for key, weight in weights.items()}
    weights["spiece_model"] = torch.from_numpy(np.frombuffer(text.spiece_model, np.uint8).copy())
    return weights, {"text_encoder": text.config, "tokens": TOKENS}


def export_loras() -> list[Path]:
    """Copies of the LoRAs that are trained, which are the host's files already."""
    loras = sorted(CHECKPOINTS.glob("lora_*.safetensors"))
    return [export(lora.stem, load_file(lora), {}) for lora in loras]


def finished() -> dict[str, dict[str, torch.Tensor]]:
    """The weights of every run that has ended."""
    names = ("vae", "t2v", "i2v", "umt5")
    return {name: load_finished(name) for name in names if (CHECKPOINTS / f"{name}.safetensors").exists()}


def unfinished() -> dict[str, dict[str, torch.Tensor]]:
    """The averaged weights of every run's last checkpoint."""
    runs = {name: CHECKPOINTS / f"{name}.pt" for name in ("vae", "text", "t2v", "i2v")}
    weights = {
        name: torch.load(file, "cpu", weights_only=True)["average"] for name, file in runs.items() if file.exists()
    }
    if "vae" in weights:
        weights["vae"] = with_unit_latents(new_autoencoder(), weights["vae"])
    if "text" in weights:
        both = weights.pop("text")
        weights = {"umt5": part(both, "text."), "t2v": part(both, "wan.")} | weights
    return weights


def take_up() -> None:
    """Finished models of the exported files, as far as others are trained on top of them."""
    CHECKPOINTS.mkdir(parents=True, exist_ok=True)
    for name, prefix in (("vae", ""), ("umt5", "t5."), ("t2v", ""), ("i2v", "")):
        save_finished(name, {prefix + key: weight for key, weight in trained(WEIGHTS, name).items()})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tools.small_world.export", description=__doc__)
    parser.add_argument("--unfinished", action="store_true", help="the last checkpoints instead of what has ended")
    parser.add_argument("--take-up", action="store_true", help="the other way: finished models of the exported files")
    arguments = parser.parse_args()
    if arguments.take_up:
        take_up()
        raise SystemExit
    for name, weights in (unfinished() if arguments.unfinished else finished()).items():
        config = TRANSFORMER if name in ("t2v", "i2v") else {}
        export(name, *(text_encoder(weights) if name == "umt5" else (weights, config)))
    export_loras()
    for path in sorted(WEIGHTS.glob("storymem_world_*.safetensors")):
        print(f"{path}  {path.stat().st_size / 1e6:.2f} MB")
