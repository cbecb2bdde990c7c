"""Tensors that are costly to make, each in a file named by a hash of all it was made from."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from .errors import InputError
from .film import replace_file

FORMAT_VERSION = 1


def tensor_file(folder: Path, made_from: Mapping[str, object]) -> Path:
    """Where the tensor made from these values (as JSON) is kept in `folder`."""
    text = json.dumps({"version": FORMAT_VERSION, **made_from}, sort_keys=True)
    return folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.safetensors"


def save_tensor(path: Path, tensor: torch.Tensor) -> None:
    """Write a tensor, all or nothing. Missing folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, lambda part: save_file({"value": tensor.contiguous()}, part))


def load_tensor(path: Path) -> torch.Tensor:
    """A tensor that save_tensor wrote; InputError for a file damaged since."""
    try:
        return load_file(path)["value"]
    except (SafetensorError, KeyError) as error:
        raise InputError("folder", str(path), "a damaged file", "Delete it: it will be made again") from error
