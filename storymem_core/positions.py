"""Where RoPE places latent frames in time: video at 0, 1, 2, ..., memory in its past."""

from collections.abc import Mapping

import torch


def frame_positions(memory: int, video: int, spacing: float = 1) -> torch.Tensor:
    """Time positions of `memory` keyframes followed by `video` latent frames, float64 [memory + video].

    Keyframe i (0 = oldest) stands at (i - memory) * spacing, video latent frame j at j, so that the video
    keeps exactly the positions the base model knows (StoryMem, arXiv 2512.19539, negative RoPE shift).
    """
    past = (torch.arange(memory, dtype=torch.float64) - memory) * spacing
    return torch.cat([past, torch.arange(video, dtype=torch.float64)])


def memory_rope_options(rope_options: Mapping[str, float] | None, memory: int, spacing: float) -> dict:
    """The host's `rope_options` that put `memory` frames, drawn as positions 0, 1, ..., into the past.

    The host maps position p to p * scale_t + shift_t; a scale and shift that the user has set for the video
    holds for the memory too, so the two stay in one coordinate system.
    """
    options = dict(rope_options or {})
    scale, shift = options.get("scale_t", 1.0), options.get("shift_t", 0.0)
    return {**options, "scale_t": scale * spacing, "shift_t": shift - scale * memory * spacing}
