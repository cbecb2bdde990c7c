"""A memory bank as one .safetensors file: tensors for pictures and embeddings, JSON for the rest."""

import hashlib
import json
import os
import unicodedata
import uuid
from collections.abc import Iterable
from pathlib import Path, PureWindowsPath

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from .bank import Keyframe, MemoryBank
from .errors import InputError

FORMAT_VERSION = 2
_SETTINGS = {"capacity": int, "sink": int, "policy": str, "shots": int, "limit": int}
_FIELDS = {"id": str, "shot": int, "frame": int, "embedder": str, "label": str, "pinned": bool, "excluded": bool}
# version 1 knew no excluded keyframes
_FIELDS_OF = {"1": {name: kind for name, kind in _FIELDS.items() if name != "excluded"}, str(FORMAT_VERSION): _FIELDS}


def save_bank(bank: MemoryBank, path: Path) -> None:
    """Write `bank` to `path`, losslessly and atomically: a reader sees the old file or the new, never a part.

    Missing folders are made. Tensors `image.<i>` uint8 [H, W, 3] and `embedding.<i>` float32 [D]; the header
    holds the format version, a JSON description of settings and keyframes, and a checksum of description and
    embeddings (pictures need none: a keyframe's id is a hash of its picture).
    """
    tensors = {}
    for i, keyframe in enumerate(bank.keyframes):
        tensors[f"image.{i}"], tensors[f"embedding.{i}"] = keyframe.image, keyframe.embedding
    description = {name: kind(getattr(bank, name)) for name, kind in _SETTINGS.items()}
    description["keyframes"] = [
        {name: kind(getattr(keyframe, name)) for name, kind in _FIELDS.items()}
        | {"quality": None if keyframe.quality is None else float(keyframe.quality)}
        for keyframe in bank.keyframes
    ]
    text = json.dumps(description)
    metadata = {
        "format": "storymem_bank",
        "format_version": str(FORMAT_VERSION),
        "bank": text,
        "checksum": _checksum(text, (keyframe.embedding for keyframe in bank.keyframes)),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        with open(part, "xb") as file:
            file.write(save(tensors, metadata))
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def load_bank(path: Path) -> MemoryBank:
    """Read what `save_bank` wrote. Raises InputError("bank_file", ...) on other or damaged files."""
    if not os.path.isfile(path):
        raise InputError("bank_file", str(path), "there is no such file", "Choose a saved memory bank")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != "storymem_bank":
                raise ValueError("it holds something else")
            version = metadata.get("format_version", "")
            if version in _FIELDS_OF:
                return _read(file, metadata, _FIELDS_OF[version])
    except (SafetensorError, ValueError, RecursionError) as error:
        remedy = "Choose a file that Save Memory Bank wrote; if it is one, it was damaged: save or copy it again"
        problem = f"not a readable StoryMem bank ({error})"
        raise InputError("bank_file", str(path), problem, remedy) from error
    problem = f"format version {version}, this pack reads up to {FORMAT_VERSION}"
    raise InputError("bank_file", str(path), problem, "Update ComfyUI-StoryMem")


def _read(file: safe_open, metadata: dict[str, str], fields: dict[str, type]) -> MemoryBank:
    """The bank in an open file whose keyframes have `fields`; ValueError says what is wrong with it."""
    text = metadata.get("bank", "")
    description = json.loads(text)
    _require(description, _SETTINGS | {"keyframes": list}, "the bank")
    records = description.pop("keyframes")
    for i, record in enumerate(records):
        _require(record, fields | {"quality": (float, type(None))}, f"keyframe {i}")
    names = {f"{kind}.{i}" for kind in ("image", "embedding") for i in range(len(records))}
    if set(file.keys()) != names:
        raise ValueError(f"{len(records)} keyframes do not match {len(file.keys())} tensors")
    embeddings = [_tensor(file, f"embedding.{i}", "F32", 1) for i in range(len(records))]
    if metadata.get("checksum") != _checksum(text, embeddings):
        raise ValueError("the checksum does not match")
    keyframes = []
    for i, (record, embedding) in enumerate(zip(records, embeddings, strict=True)):
        saved_id = record.pop("id")
        keyframe = Keyframe(_tensor(file, f"image.{i}", "U8", 3), embedding=embedding, **record)
        if keyframe.id != saved_id:
            raise ValueError(f"the picture of keyframe {i} is not the one that was saved")
        keyframes.append(keyframe)
    return MemoryBank(tuple(keyframes), **description)


def _tensor(file: safe_open, name: str, dtype: str, dims: int) -> np.ndarray:
    # checked before reading: numpy has no name for some dtypes a safetensors file may hold
    found = file.get_slice(name)
    if found.get_dtype() != dtype or len(found.get_shape()) != dims:
        raise ValueError(f"{name} is {found.get_dtype()} {found.get_shape()}")
    return file.get_tensor(name)


def _require(record: object, fields: dict, what: str) -> None:
    if not isinstance(record, dict) or record.keys() != fields.keys():
        raise ValueError(f"{what} needs exactly {', '.join(fields)}")
    for name, kind in fields.items():
        # a bool is an int to isinstance, so that `true` would pass for a count
        if not isinstance(record[name], kind) or (kind is int and isinstance(record[name], bool)):
            raise ValueError(f"{name} of {what} is {record[name]!r}")


def _checksum(text: str, embeddings: Iterable[np.ndarray]) -> str:
    content = hashlib.sha256(text.encode())
    for embedding in embeddings:
        content.update(embedding.tobytes())
    return content.hexdigest()


def resolve_inside(root: Path, name: str, input_name: str = "bank_file") -> Path:
    """The real path of file `name` (a relative path, `/` or `\\` between folders) inside folder `root`.

    Raises InputError(input_name, ...) where it would lie outside: absolute paths, drive letters, `..`, links
    that lead out; and on names no file should have: empty, control characters, a part of over 255 bytes.
    Names are refused alike on every platform.
    """
    remedy = "Give a plain file name, or one with sub-folders"
    # categories: control characters, and lone surrogates, which no file system can encode
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
        raise InputError(input_name, name, "contains control characters", remedy)
    relative = PureWindowsPath(name)
    if relative.anchor or ":" in name:
        raise InputError(input_name, name, "an absolute path", remedy)
    if not relative.parts or not name.strip():
        raise InputError(input_name, name, "empty", remedy)
    for part in relative.parts:
        # Windows drops trailing dots and spaces, so ".. " climbs like ".."
        if not part.strip(". "):
            raise InputError(input_name, name, "leads out of its folder", remedy)
        if len(part.encode()) > 255:
            raise InputError(input_name, name, "a name of over 255 bytes", "Give a shorter name")
    root = Path(os.path.realpath(root))
    path = Path(os.path.realpath(root.joinpath(*relative.parts)))
    if not path.is_relative_to(root):
        raise InputError(input_name, name, "a link that leads out of its folder", remedy)
    return path
