"""Adds a LoRA state dict to a model through the host's own LoRA code."""

import logging

import comfy.lora
import comfy.lora_convert
from comfy.model_patcher import ModelPatcher
from comfy.utils import get_attr
from comfy.weight_adapter.lora import LoRAAdapter

from ...storymem_core.errors import InputError
from ...storymem_core.peft import to_host_lora


def add_lora(model: ModelPatcher, state_dict: dict, lora_name: str, strength: float) -> ModelPatcher:
    """A clone of `model` with the LoRA: weights W + strength * alpha / sqrt(rank) * B @ A for a PEFT file."""
    host_lora = comfy.lora_convert.convert_lora(to_host_lora(state_dict))
    keys = comfy.lora.model_lora_keys_unet(model.model, {})
    patches = comfy.lora.load_lora(host_lora, keys, log_missing=False)
    for key, adapter in patches.items():
        _check_shapes(model, key, adapter, lora_name)
    patched = model.clone()
    added = set(patched.add_patches(patches, strength))
    if not added:
        raise InputError(
            "lora_name",
            lora_name,
            f"none of its {len(state_dict)} keys matches the model",
            "Choose a LoRA made for this Wan model",
        )
    pairs = sum(1 for key in host_lora if key.endswith((".lora_A.weight", ".lora_down.weight")))
    if pairs > len(added):
        logging.warning("StoryMem LoRA %s: only %d of %d layers match the model", lora_name, len(added), pairs)
    return patched


def _check_shapes(model: ModelPatcher, key: str, adapter: object, lora_name: str) -> None:
    """Raises InputError for a LoRA of another model size, which the host would leave out with a line in its log."""
    if not isinstance(adapter, LoRAAdapter):
        return
    up, down = adapter.weights[:2]
    # a convolution is stored as the matrix of its flattened kernel
    weight = get_attr(model.model, key)
    made_for, weight = (up.shape[0], down[0].numel()), (weight.shape[0], weight[0].numel())
    if up.ndim == 2 and weight != made_for:
        raise InputError(
            "lora_name",
            lora_name,
            f"{key} has shape {weight}, the LoRA was made for {made_for}",
            "Choose a LoRA made for this Wan model",
        )
