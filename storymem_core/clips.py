"""A folder of short captioned clips: video files, each with its caption in a text file of the same name."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from .errors import InputError
from .film import count_frames

SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi")


@dataclass(frozen=True)
class Clip:
    """One clip: name is its path in the folder, group the sub-folder it is in, frames their number, content a hash."""

    path: Path
    name: str
    group: str
    caption: str
    frames: int
    fps: float
    content: str


def list_clips(folder: Path, length: int) -> tuple[Clip, ...]:
    """The clips of a folder and of its sub-folders, in order of name; other files, but for captions, are left alone.

    length: frames every clip must have at least.
    Raises InputError on a folder that is missing or has no clips, and on a clip that has no caption, cannot be
    read, is shorter than `length`, leads out of the folder, or is the same file as another: its frames would be
    its own memory.
    """
    if not folder.is_dir():
        raise InputError("folder", folder.name, "there is no such folder", "Put it into ComfyUI's input folder")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        remedy = f"Put clips ({', '.join(SUFFIXES)}) with captions (.txt) into it"
        raise InputError("folder", folder.name, "has no clips", remedy)
    clips = tuple(_read_clip(path, folder) for path in paths)
    names: dict[str, str] = {}
    for clip in clips:
        if clip.frames < length:
            problem = f"{clip.name} has only {clip.frames} frames"
            raise InputError("length", length, problem, "Remove that clip, or train on shorter ones")
        if clip.content in names:
            problem = f"is the same file as {names[clip.content]}"
            raise InputError("folder", clip.name, problem, "Remove one of the two")
        names[clip.content] = clip.name
    return clips


def _read_clip(path: Path, folder: Path) -> Clip:
    name, group = path.relative_to(folder).as_posix(), path.parent.relative_to(folder).as_posix()
    caption = path.with_suffix(".txt")
    if not caption.is_file():
        problem = "the clip has no caption"
        raise InputError("folder", name, problem, f"Write what it shows into {caption.name} beside it")
    for file in (path, caption):
        if not file.resolve().is_relative_to(folder.resolve()):
            raise InputError("folder", file.name, "a link that leads out of the folder", "Put the file itself there")
    try:
        text = caption.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError as error:
        raise InputError("folder", caption.name, "not a text in UTF-8", "Save it with UTF-8 encoding") from error
    if not text:
        raise InputError("folder", caption.name, "the caption is empty", "Write what the clip shows")
    try:
        with av.open(str(path)) as container:
            fps = float(container.streams.video[0].average_rate or 0)
        frames = count_frames(path)
    except (av.error.FFmpegError, IndexError) as error:
        raise _unreadable(name, error) from error
    return Clip(path, name, group, text, frames, fps, hashlib.sha256(path.read_bytes()).hexdigest())


def read_frames(clip: Clip, numbers: Iterable[int]) -> dict[int, np.ndarray]:
    """Frames of a clip by their number from 0: uint8 [H, W, 3] RGB. Decodes no further than the last of them."""
    wanted = set(numbers)
    frames: dict[int, np.ndarray] = {}
    try:
        with av.open(str(clip.path)) as container:
            for number, frame in enumerate(container.decode(video=0)):
                if number in wanted:
                    frames[number] = frame.to_ndarray(format="rgb24")
                if len(frames) == len(wanted):
                    break
    except av.error.FFmpegError as error:
        raise _unreadable(clip.name, error) from error
    if missing := wanted - frames.keys():
        raise _unreadable(clip.name, f"no frame {min(missing)}")
    return frames


def _unreadable(name: str, reason: object) -> InputError:
    return InputError("folder", name, f"cannot be read as a video ({reason})", "Remove it or encode it anew")
