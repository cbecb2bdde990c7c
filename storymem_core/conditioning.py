"""What the image-to-video model is told: which latent frames are known, and what is on them.

Layout in time: M memory latents, oldest first, then the T latents of the shot. A frame is known (a keyframe,
or one that continues the previous shot) or grey and unknown. M2V: only memory is known; MI2V: also the first
latent frame; MM2V: also the first two (StoryMem, arXiv 2512.19539).
"""

import torch

from .errors import InputError

TEMPORAL_STRIDE = 4
SPATIAL_STRIDE = 8
GREY = 0.5


def latent_frames(length: int) -> int:
    """Latent frames of a video (or of an overlap) of `length` pixel frames: 1 + 4n -> 1 + n, and 0 -> 0."""
    return (length + TEMPORAL_STRIDE - 1) // TEMPORAL_STRIDE


def check_shot_size(width: int, height: int, length: int) -> None:
    """Raises InputError unless width and height (pixels) are multiples of 16 and length (frames) is 4n+1."""
    for name, value in (("width", width), ("height", height)):
        if value < 16 or value % 16:
            near = max(16, round(value / 16) * 16)
            raise InputError(name, value, "must be a multiple of 16 pixels", f"Use {near}")
    if length < 1 or length % TEMPORAL_STRIDE != 1:
        low = max(1, (length - 1) // TEMPORAL_STRIDE * TEMPORAL_STRIDE + 1)
        raise InputError("length", length, "must be 4n+1 frames", f"Use {low} or {low + TEMPORAL_STRIDE}")


def shot_pixels(frames: torch.Tensor | None, width: int, height: int, length: int) -> torch.Tensor:
    """The shot as far as it is known: [length, height, width, 3] in 0..1, `frames` first, the rest mid-grey.

    frames: [overlap, height, width, 3] in 0..1, or None for a cut.
    """
    pixels = torch.full((length, height, width, 3), GREY)
    if frames is not None:
        if len(frames) > length:
            raise InputError(
                "length",
                length,
                f"is shorter than the {len(frames)} frames it continues",
                "Use a longer shot",
            )
        pixels[: len(frames)] = frames
    return pixels


def unknown_mask(memory: int, length: int, overlap: int, width: int, height: int) -> torch.Tensor:
    """[1, 1, M + T, height / 8, width / 8], 0 where a latent frame is known and 1 where it is not.

    memory: keyframes M; length, overlap: pixel frames of the shot and of what it repeats of the previous one;
    width, height: pixels. The model itself sees the opposite (1 = known) on four channels; the host inverts.
    """
    frames = memory + latent_frames(length)
    mask = torch.ones(1, 1, frames, height // SPATIAL_STRIDE, width // SPATIAL_STRIDE)
    mask[:, :, : memory + latent_frames(overlap)] = 0.0
    return mask
