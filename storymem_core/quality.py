"""How good a frame is: scorers that keep blurred, black or faded frames out of the memory."""

from collections.abc import Callable

import cv2
import numpy as np

# One working size, so that a threshold means the same at every resolution.
WORKING_SIDE = 512


def sharpness(image: np.ndarray) -> float:
    """Variance of the Laplacian of the grey picture, in squared grey levels (0..255); higher is sharper.

    image: uint8 [H, W, 3] RGB. A picture whose longer side exceeds 512 pixels is reduced to 512 first; a
    smaller one is never enlarged. 0 for a uniform picture; a few units for a strongly blurred or faded one;
    20 (grey road, soft lens) to over 1000 (fine texture) for a normal frame.

    Source: J. L. Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy", ICPR 2000.
    """
    height, width = image.shape[:2]
    scale = WORKING_SIDE / max(height, width)
    if scale < 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return float(cv2.Laplacian(grey, cv2.CV_64F).var())


# image uint8 [H, W, 3] -> score, higher is better; None asks nothing and every frame passes.
QUALITY: dict[str, Callable[[np.ndarray], float] | None] = {"none": None, "sharpness": sharpness}

# The score from which a frame passes where the user gives none. Sharpness 15 lies between the softest
# normal frame of three real clips (20) and what a Gaussian blur of 3 pixels at 832x480 (5..16) or a fade
# to 15 % (12) leaves.
QUALITY_THRESHOLD: dict[str, float] = {"sharpness": 15.0}
