"""Between IMAGE batches (float [N, H, W, 3] in 0..1) and the core's uint8 pictures, and previews on a node."""

from collections.abc import Sequence

import numpy as np
import torch
from comfy_api.latest import io, ui

from ..storymem_core.bank import Keyframe
from ..storymem_core.errors import InputError
from .host.latents import fit, keyframe_image

EMPTY_SIZE = 64


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
        "label": keyframe.label,
        "pinned": keyframe.pinned,
    }


def preview(keyframes: Sequence[Keyframe], images: torch.Tensor, cls: type[io.ComfyNode]) -> dict:
    """`ui` output: thumbnails through the host's preview, and what each of them is."""
    thumbnails = ui.PreviewImage(images, cls=cls).as_dict() if keyframes else {"images": []}
    return {**thumbnails, "storymem_keyframes": [describe(keyframe) for keyframe in keyframes]}
