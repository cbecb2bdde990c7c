"""The real clip that tests and benchmarks read: 132 frames of 1280x720 (Big Buck Bunny, CC BY)."""

import os
from pathlib import Path

import av
import cv2
import numpy as np


def footage_path() -> Path:
    """STORYMEM_FOOTAGE, or where the set-up leaves the clip; FileNotFoundError with the remedy if absent."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    cache = os.environ.get("STORYMEM_CACHE") or Path(cache) / "comfyui-storymem"
    path = Path(os.environ.get("STORYMEM_FOOTAGE") or Path(cache) / "footage" / "bigbuckbunny.mp4")
    if not path.is_file():
        raise FileNotFoundError(f"test clip {path} is missing: run `make test` once, or set STORYMEM_FOOTAGE")
    return path


def read_footage(frames: int = 132, width: int = 832, height: int = 480) -> np.ndarray:
    """The first frames as uint8 [N, height, width, 3] RGB, scaled to cover that size and cropped to it."""
    pictures = []
    with av.open(footage_path()) as clip:
        for frame in clip.decode(video=0):
            if len(pictures) == frames:
                break
            pictures.append(_cover(frame.to_ndarray(format="rgb24"), width, height))
    if len(pictures) < frames:
        raise ValueError(f"frames={frames}: the clip has only {len(pictures)}")
    return np.stack(pictures)


def _cover(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    scale = max(width / picture.shape[1], height / picture.shape[0])
    size = round(picture.shape[1] * scale), round(picture.shape[0] * scale)
    picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
    return picture[top : top + height, left : left + width]
