"""Frames of finished shots."""

import numpy as np

from storymem_core.shot_files import ShotFiles


def frames_of(shot: ShotFiles) -> np.ndarray:
    """What the film shows of a shot that was saved with all of its frames, uint8 [N, H, W, 3], without loss."""
    return shot.last_frames()[-shot.frames :]
