"""From a PEFT adapter with rank-stabilised scaling to the LoRA format of the host."""

import math
import re

import torch

from .errors import InputError

_PREFIX = "base_model.model."
_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])(\.default)?\.weight")


def to_host_lora(state_dict: dict[str, torch.Tensor], alpha: float | None = None) -> dict[str, torch.Tensor]:
    """Rename the keys of a PEFT adapter and give each pair the alpha that makes its scale alpha / sqrt(rank).

    state_dict: pairs A [rank, in] and B [out, rank] under `base_model.model.<module>.lora_A.weight` and
    `.lora_B.weight` (or `.lora_A.default.weight`). alpha: the adapter's alpha; None takes each pair's rank,
    as in the official StoryMem files (128 and 128). Tensors are passed on, not copied.
    Without such names, or with alphas of its own, the file is a community conversion: returned as it is.
    Raises InputError("lora_name", ...) on half a pair, on ranks that differ and on other kinds of weights.

    The weight becomes W + alpha / sqrt(rank) * B @ A (rank-stabilised LoRA, arXiv 2312.03732).
    """
    adapter = any(key.startswith(_PREFIX) for key in state_dict)
    if not adapter or any(key.endswith(".alpha") for key in state_dict):
        return state_dict
    remedy = "Choose a whole StoryMem adapter: download the file again"
    host, sides = {}, {"A": {}, "B": {}}
    for key, weight in state_dict.items():
        match = _KEY.fullmatch(key)
        if match is None:
            raise InputError("lora_name", key, "not a weight of a LoRA adapter", remedy)
        module, side = match["module"], match["side"]
        if weight.ndim < 2:
            raise InputError("lora_name", key, f"has shape {list(weight.shape)}, not a matrix", remedy)
        sides[side][module] = weight
        host[f"diffusion_model.{module}.lora_{side}.weight"] = weight
    for module in sides["A"].keys() ^ sides["B"].keys():
        raise InputError("lora_name", module, "one of lora_A and lora_B is missing", remedy)
    for module, a in sides["A"].items():
        rank = a.shape[0]
        if sides["B"][module].shape[1] != rank:
            problem = f"lora_A has rank {rank}, lora_B {sides['B'][module].shape[1]}"
            raise InputError("lora_name", module, problem, remedy)
        # the host applies alpha / rank, the adapter means alpha / sqrt(rank)
        scaled = (rank if alpha is None else alpha) * math.sqrt(rank)
        host[f"diffusion_model.{module}.alpha"] = torch.tensor(scaled, dtype=torch.float64)
    return host
