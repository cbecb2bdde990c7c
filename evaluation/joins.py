"""How visibly one shot goes over into the next."""

from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np


@dataclass(frozen=True)
class Join:
    """jump: mean absolute change of a pixel from the last frame before to the first frame after, 0..255;
    ordinary: the same between neighbouring frames within the two shots, on average;
    flow: how much the optical flow over the join differs from the step before it, mean length in pixels;
    ordinary_flow: the same between neighbouring steps within the two shots, on average.
    """

    jump: float
    ordinary: float
    flow: float
    ordinary_flow: float


def join_of(before: np.ndarray, after: np.ndarray) -> Join:
    """The join of two shots, uint8 [N, H, W, 3] with three frames or more each."""
    within = [*changes(before), *changes(after)]
    flow_before, flow_after = flows(before), flows(after)
    over = flow(before[-1], after[0])
    steps = [difference(a, b) for part in (flow_before, flow_after) for a, b in pairwise(part)]
    return Join(
        jump=change(before[-1], after[0]),
        ordinary=float(np.mean(within)),
        flow=difference(flow_before[-1], over),
        ordinary_flow=float(np.mean(steps)),
    )


def change(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(np.float32) - b).mean())


def changes(frames: np.ndarray) -> list[float]:
    return [change(a, b) for a, b in pairwise(frames)]


def flow(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Farneback's optical flow from one frame to the next, float32 [H, W, 2] in pixels."""
    a, b = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (a, b))
    settings = {"pyr_scale": 0.5, "levels": 2, "winsize": 9, "iterations": 3, "poly_n": 5, "poly_sigma": 1.1}
    return cv2.calcOpticalFlowFarneback(a, b, None, flags=0, **settings)


def flows(frames: np.ndarray) -> list[np.ndarray]:
    return [flow(a, b) for a, b in pairwise(frames)]


def difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b, axis=-1).mean())
