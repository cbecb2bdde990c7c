"""Finished shots on disk: what is written is whole, and what is read is what was written.

A shot is one folder, `<number>-<key>`: its video, its last frames without loss (the next shot may continue
them), the bank after it, a small picture of it, and a manifest with a checksum of each. The folder gets its name
when it is complete. The key is a hash of everything that determines the shot, so a folder with the right name
needs no sampling.
"""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from .bank import MemoryBank
from .film import write_video
from .storage import load_bank, save_bank

VERSION = 2
VIDEO, TAIL, BANK, THUMBNAIL = "video.mp4", "last_frames.safetensors", "bank.safetensors", "thumbnail.jpg"
MANIFEST = "manifest.json"
THUMBNAIL_SIDE = 320  # pixels of the longer side


class ShotFileError(Exception):
    """The files of a finished shot cannot be used; the message says why."""


@dataclass(frozen=True)
class ShotFiles:
    """A finished shot on disk, after `previous`.

    frames: frames of its video; replaced: how many of the last frames of `previous` its own first frames
    replace (a cross-fade); recalled: ids of the keyframes it was sampled with.
    """

    folder: Path
    number: int
    frames: int
    replaced: int
    recalled: tuple[str, ...]
    previous: "ShotFiles | None" = None

    @property
    def video(self) -> Path:
        return self.folder / VIDEO

    @property
    def thumbnail(self) -> Path:
        return self.folder / THUMBNAIL

    def bank(self) -> MemoryBank:
        """The memory after this shot."""
        return load_bank(self.folder / BANK)

    def last_frames(self) -> np.ndarray:
        """Its last frames, uint8 [n, H, W, 3]."""
        return load_file(self.folder / TAIL)["frames"]

    def story(self) -> "tuple[ShotFiles, ...]":
        """All shots up to this one, in order."""
        return (*(self.previous.story() if self.previous else ()), self)


def shot_key(previous: str, determines: dict) -> str:
    """Key of a shot: a hash over the key of the shot before and everything else that determines it (JSON)."""
    text = json.dumps([VERSION, previous, determines], sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def folder_name(title: str) -> str:
    """A folder name any system takes, for a title of any length and script."""
    kept = "".join(letter if letter.isalnum() or letter in "-_" else " " for letter in title)
    name = "_".join(kept.split()).encode()[:80].decode(errors="ignore")
    return name or "story"


def shot_folder(story: Path, number: int, key: str) -> Path:
    return story / f"{number:03}-{key}"


def save_shot(
    folder: Path,
    number: int,
    frames: np.ndarray,
    last: np.ndarray,
    fps: float,
    bank: MemoryBank,
    recalled: Sequence[str],
    replaced: int,
    previous: ShotFiles | None,
) -> ShotFiles:
    """Write a finished shot to `folder`, which appears only when everything is in it.

    frames: uint8 [N, H, W, 3], what the film shows of it; last: its last frames, uint8 [n, H, W, 3].
    Raises ShotFileError where it cannot be written, as on a full disk; what was there before stays.
    """
    part = folder.with_name(f".{uuid.uuid4().hex}.part")
    try:
        part.mkdir(parents=True)
        write_video(part / VIDEO, frames, fps)
        save_file({"frames": np.ascontiguousarray(last)}, part / TAIL)
        save_bank(bank, part / BANK)
        (part / THUMBNAIL).write_bytes(_thumbnail(frames[len(frames) // 2]))
        manifest = {
            "version": VERSION,
            "number": number,
            "frames": len(frames),
            "replaced": replaced,
            "recalled": list(recalled),
            "checksums": {name: _checksum(part / name) for name in (VIDEO, TAIL, BANK, THUMBNAIL)},
        }
        manifest["checksum"] = _text_checksum(manifest)
        (part / MANIFEST).write_text(json.dumps(manifest, indent=1))
        for path in (*part.iterdir(), part):
            _sync(path)
        if folder.exists():  # a damaged one, or the same shot made twice
            shutil.rmtree(folder)
        os.replace(part, folder)
        _sync(folder.parent)
    except (OSError, SafetensorError) as error:
        problem = f"shot {number} cannot be written to {folder.parent} ({error})"
        raise ShotFileError(f"{problem}. Finished shots are kept: make it possible and run again") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return ShotFiles(folder, number, len(frames), replaced, tuple(recalled), previous)


def load_shot(folder: Path, previous: ShotFiles | None) -> ShotFiles:
    """The finished shot in `folder`; ShotFileError if there is none or any byte of it changed."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        if manifest["version"] != VERSION:
            raise ShotFileError(f"{folder.name}: made by another version")
        if manifest.pop("checksum") != _text_checksum(manifest):
            raise ShotFileError(f"{folder.name}/{MANIFEST} is damaged")
        for name in (VIDEO, TAIL, BANK, THUMBNAIL):
            if _checksum(folder / name) != manifest["checksums"][name]:
                raise ShotFileError(f"{folder.name}/{name} is damaged")
        counts = [int(manifest[name]) for name in ("number", "frames", "replaced")]
        return ShotFiles(folder, *counts, tuple(map(str, manifest["recalled"])), previous)
    except FileNotFoundError as error:
        raise ShotFileError(f"{folder.name}/{Path(error.filename).name} is missing") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ShotFileError(f"{folder.name}/{MANIFEST} is damaged ({error})") from error


def remove_leftovers(story: Path, before: float) -> None:
    """Delete what killed runs left half written in the folder of a story, if last changed before a time.

    before: seconds since the epoch; give the start of this process: a part that is older is not its own, and
    another process that shares the folder hardly takes so long to write one.
    """
    for part in story.glob(".*.part"):
        if part.stat().st_mtime < before:
            shutil.rmtree(part) if part.is_dir() else part.unlink()


def _thumbnail(picture: np.ndarray) -> bytes:
    """A JPEG of a picture, uint8 [H, W, 3] RGB, no larger than it is."""
    height, width = picture.shape[:2]
    scale = min(1, THUMBNAIL_SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.cvtColor(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", small)[1].tobytes()


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _text_checksum(manifest: dict) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _sync(path: Path) -> None:
    """Have the system write a file (and on POSIX a folder) to disk, so that it survives a crash."""
    if path.is_file():
        with path.open("r+b") as file:
            os.fsync(file.fileno())
    elif os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
