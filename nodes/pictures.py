"""Between IMAGE batches (float [N, H, W, 3] in 0..1) and the core's uint8 pictures, and the strip on a node."""

import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import folder_paths
import numpy as np
import torch

from ..storymem_core.bank import Keyframe, MemoryBank
from ..storymem_core.errors import InputError
from .host.latents import fit, keyframe_image

EMPTY_SIZE = 64
THUMBNAILS = "storymem"  # in ComfyUI's temp folder
THUMBNAIL_HEIGHT = 192  # shown at half of it, sharp on HiDPI screens


def to_pictures(images: torch.Tensor, name: str) -> np.ndarray:
    """uint8 [N, H, W, 3] of an IMAGE; node input `name` is named in the InputError for no image, NaN or infinity."""
    if len(images) == 0:
        raise InputError(name, "0 images", "an empty batch", "Connect at least one image")
    if not torch.isfinite(images).all():
        frame = int((~torch.isfinite(images)).flatten(1).any(1).nonzero()[0])
        raise InputError(
            name,
            f"frame {frame}",
            "has NaN or infinite pixels",
            "Decode again, with a VAE in float32 or bfloat16",
        )
    return (images[..., :3].clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()


def to_images(keyframes: Sequence[Keyframe]) -> torch.Tensor:
    """IMAGE of keyframes, all at the size of the last one; a batch of none for none."""
    if not keyframes:
        return torch.zeros(0, EMPTY_SIZE, EMPTY_SIZE, 3)
    height, width = keyframes[-1].image.shape[:2]
    return torch.cat([fit(keyframe_image(keyframe), width, height, "lanczos") for keyframe in keyframes])


def describe(keyframe: Keyframe) -> dict:
    """What the interface and API clients are told about a keyframe."""
    return {
        "id": keyframe.id,
        "shot": keyframe.shot,
        "frame": keyframe.frame,
        "quality": keyframe.quality,
        **flags(keyframe),
    }


def flags(keyframe: Keyframe) -> dict:
    """What a person can change by hand."""
    return {"label": keyframe.label, "pinned": keyframe.pinned, "excluded": keyframe.excluded}


def strip(bank: MemoryBank, keyframes: Sequence[Keyframe]) -> dict:
    """`ui` output that shows `keyframes` of the bank: what each is, whether the next shot recalls it, a thumbnail."""
    recalled, sink = set(bank.preview()), set(bank.sink_keyframes)
    shown = [
        {**describe(keyframe), "recalled": keyframe in recalled, "sink": keyframe in sink, "image": thumbnail(keyframe)}
        for keyframe in keyframes
    ]
    return {"storymem_keyframes": shown, "storymem_stored": [len(bank.keyframes)]}


def thumbnail(keyframe: Keyframe) -> dict:
    """The file of a keyframe's small picture as the host's /view takes it; written once into the temp folder."""
    name = f"{keyframe.id}.jpg"
    path = Path(folder_paths.get_temp_directory(), THUMBNAILS, name)
    if not path.exists():
        height, width = keyframe.image.shape[:2]
        scale = min(1, THUMBNAIL_HEIGHT / height)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        small = cv2.resize(keyframe.image, size, interpolation=cv2.INTER_AREA)
        _, data = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 90])
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_bytes(data)
        os.replace(part, path)
    return {"filename": name, "subfolder": THUMBNAILS, "type": "temp"}
