"""Linear layers with weights of eight bits, as ComfyUI's `int8_tensorwise` has them, with a scale for each row.

Half the bytes of float16; the host multiplies with activations of eight bits. Only for a model that no LoRA is put
into: the host would round the sum to eight bits again.
"""

import json

import torch

SMALLEST = 64  # rows and columns of a layer that is rounded
FORMAT = {"format": "int8_tensorwise"}
SCALE, MARK = "weight_scale", "comfy_quant"


def rounded(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A model's weights with int8 [rows, columns] for those of large linear layers, beside them scales [rows, 1]."""
    content = dict(weights)
    for key, weight in weights.items():
        if weight.ndim == 2 and min(weight.shape) >= SMALLEST:
            layer = key.removesuffix("weight")
            scale = weight.float().abs().amax(1, keepdim=True) / 127
            content[key] = (weight / scale).round().to(torch.int8)
            content[layer + SCALE] = scale
            content[layer + MARK] = torch.tensor(list(json.dumps(FORMAT).encode()), dtype=torch.uint8)
    return content


def restored(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The other way: weights alone, float32."""
    scales = {key.removesuffix(SCALE) + "weight": scale for key, scale in weights.items() if key.endswith(SCALE)}
    return {
        key: weight.float() * scales.get(key, 1.0) for key, weight in weights.items() if not key.endswith((SCALE, MARK))
    }
