"""How well formed a picture of the small world is."""

import numpy as np

from tools.small_world import render, world

# Every colour that anything in the world is painted with.
PALETTE = np.array(
    [
        *world.BODY_COLOURS.values(),
        *world.HEAD_COLOURS.values(),
        *world.SKY_COLOURS.values(),
        *world.GROUND_COLOURS.values(),
        *world.LANDMARK_COLOURS.values(),
        *(render.DARK, render.ORANGE),
    ],
    np.float32,
)
NEAR = 24.0  # distance in RGB


def well_formed(frames: np.ndarray) -> float:
    """Share of the pixels of frames, uint8 [N, H, W, 3], that have a colour of the world.

    Noise, blur and mixed-up shapes leave the palette; a true rendering does so at edges only.
    """
    pixels = frames.reshape(-1, 3).astype(np.float32)
    # |pixel - colour| squared, multiplied out
    nearest = np.square(pixels).sum(1) + (np.square(PALETTE).sum(1) - 2 * pixels @ PALETTE.T).min(1)
    return float((nearest < NEAR**2).mean())
