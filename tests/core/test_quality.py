"""Sharpness against a literal Laplacian, and its default threshold on real pictures."""

import cv2
import numpy as np
import pytest

from storymem_core.quality import QUALITY, QUALITY_THRESHOLD, sharpness
from tests.core.footage import read_footage


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return read_footage(121)[::40]


def literal_sharpness(grey: np.ndarray) -> float:
    """Four-neighbour Laplacian with mirrored borders (the edge pixel not repeated), population variance."""
    padded = np.pad(grey.astype(np.float64), 1, mode="reflect")
    laplacian = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:] - 4 * padded[1:-1, 1:-1]
    return float(((laplacian - laplacian.mean()) ** 2).mean())


def test_equals_the_literal_variance_of_the_laplacian(frames):
    for frame in frames:
        small = cv2.resize(frame, (512, 295), interpolation=cv2.INTER_AREA).astype(np.float64)
        grey = np.rint(small @ [0.299, 0.587, 0.114]).astype(np.uint8)
        assert sharpness(frame) == pytest.approx(literal_sharpness(grey), rel=0.01)


def test_small_pictures_are_not_enlarged():
    grey = np.random.default_rng(0).integers(0, 256, (40, 60), np.uint8)
    assert sharpness(np.dstack([grey] * 3)) == pytest.approx(literal_sharpness(grey), rel=1e-9)


def test_a_threshold_means_the_same_at_any_resolution():
    frame = read_footage(1, 1280, 720)[0]
    sizes = [(1280, 720), (960, 540), (832, 468), (640, 360), (512, 288)]
    pictures = [cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for size in sizes]
    scores = [sharpness(picture) for picture in pictures]
    native = [literal_sharpness(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)) for picture in pictures]
    assert max(scores) < 1.7 * min(scores)
    assert max(native) > 4 * min(native)


def test_default_threshold_parts_normal_frames_from_spoilt_ones(frames):
    threshold = QUALITY_THRESHOLD["sharpness"]
    for frame in frames:
        assert sharpness(frame) > 10 * threshold
        assert sharpness(cv2.GaussianBlur(frame, (0, 0), 1)) > threshold
        assert sharpness(cv2.GaussianBlur(frame, (0, 0), 4)) < threshold
        assert sharpness((frame * 0.15).astype(np.uint8)) < threshold
        assert sharpness((255 - (255 - frame) * 0.15).astype(np.uint8)) < threshold
        assert sharpness(np.zeros_like(frame)) == 0


def test_every_scorer_with_a_score_has_a_default_threshold():
    assert QUALITY["none"] is None
    assert {name for name, score in QUALITY.items() if score} == set(QUALITY_THRESHOLD)
