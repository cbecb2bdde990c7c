"""One model file: its weights, and what the host cannot read off their shapes."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save

_SOURCES = sorted(Path(__file__).parent.glob("*.py"))
BUILDER = hashlib.sha256(b"".join(path.read_bytes() for path in _SOURCES)).hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class ModelFile:
    """Weights by their name in the real model's file, and the `config` of the safetensors metadata."""

    weights: Mapping[str, np.ndarray]
    config: Mapping[str, object]


def is_current(path: Path) -> bool:
    """Whether `path` needs no building: this version of the builder wrote it, or none did."""
    if not path.exists():
        return False
    with safe_open(path, framework="numpy") as file:
        config = json.loads((file.metadata() or {}).get("config", "{}"))
    return config.get("demo_builder", BUILDER) == BUILDER


def write(path: Path, model: ModelFile) -> None:
    """Write a `.safetensors` file that appears under its name complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    # One metadata entry only: safetensors writes several in an order that differs from run to run.
    config = json.dumps({**model.config, "demo_builder": BUILDER})
    unfinished.write_bytes(save(dict(model.weights), {"config": config}))
    os.replace(unfinished, path)
