"""Keyframe selection against a literal implementation of the published procedure, on real video."""

import math

import numpy as np
import pytest

from literal_keyframes import literal_keyframes
from storymem_core.embedders import ColorLayout
from storymem_core.errors import InputError
from storymem_core.keyframes import select_keyframes
from storymem_core.quality import sharpness
from tests.core.footage import read_footage


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    """Every fourth frame of the real clip."""
    return read_footage(132, 208, 120)[::4]


@pytest.fixture(scope="module")
def scores(clip) -> list[float]:
    return [sharpness(image) for image in clip]


@pytest.mark.parametrize("blurred", [0, 30, 90], ids="{}% fail".format)
@pytest.mark.parametrize("bank", [(), (0,), (11, 32)], ids=str)
@pytest.mark.parametrize(("threshold", "max_keyframes"), [(0.9, 3), (0.97, 3), (0.98, 1), (0.96, 8), (0.99, 5)])
def test_indices_equal_the_literal_procedure_on_real_video(clip, scores, threshold, max_keyframes, bank, blurred):
    embedder = ColorLayout()
    quality_threshold = float(np.percentile(scores, blurred)) if blurred else None
    expected, lowered = literal_keyframes(
        clip,
        lambda image: embedder(image[None])[0],
        lambda i: quality_threshold is None or scores[i] >= quality_threshold,
        threshold,
        max_keyframes,
        clip[list(bank)],
    )
    selection = select_keyframes(
        embedder(clip),
        scores.__getitem__,
        threshold=threshold,
        max_keyframes=max_keyframes,
        quality_threshold=quality_threshold,
        known=embedder(clip[list(bank)]),
    )
    assert list(selection.indices) == expected
    assert selection.threshold == lowered


def test_indices_equal_the_literal_procedure_on_random_walks():
    passes_seen = set()
    for seed in range(150):
        rng = np.random.default_rng(seed)
        walk = np.cumsum(rng.normal(size=(60, 6)) * rng.uniform(0.05, 0.6), axis=0) + rng.normal(size=6)
        walk = (walk / np.linalg.norm(walk, axis=1, keepdims=True)).astype(np.float32)
        bank = walk[rng.integers(0, 60, size=rng.integers(0, 3))]
        scores = rng.uniform(0, 5, size=60)
        threshold, most = float(rng.choice([0.7, 0.9, 0.95])), int(rng.integers(1, 6))
        expected, lowered = literal_keyframes(
            walk, lambda vector: vector, lambda i, s=scores: s[i] >= 3.0, threshold, most, bank
        )
        selection = select_keyframes(
            walk,
            lambda i, s=scores: s[i],
            threshold=threshold,
            max_keyframes=most,
            quality_threshold=3.0,
            known=bank,
        )
        assert list(selection.indices) == expected, seed
        assert selection.threshold == lowered, seed
        passes_seen.add(round((threshold - lowered) * 100))
    assert {0, 1} < passes_seen and max(passes_seen) > 20


def at(*degrees: float) -> np.ndarray:
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def test_known_angles_without_lowering():
    # cos 25.84 degrees = 0.9: only steps wider than that are different enough.
    selection = select_keyframes(at(0, 20, 26, 40, 51.7, 52), threshold=0.9)
    assert selection.indices == (0, 2, 5)
    assert selection.threshold == 0.9
    assert [v.similarity for v in selection.frames] == [
        None,
        *(pytest.approx(math.cos(math.radians(a)), abs=1e-6) for a in (20, 26, 14, 25.7, 26)),
    ]


def test_too_many_keyframes_lower_the_threshold_step_by_step():
    # 0.9 keeps 0, 26, 52, 90; at 0.89 (27.1 degrees) frame 40 is the first that differs from frame 0.
    selection = select_keyframes(at(0, 20, 26, 40, 52, 90), threshold=0.9)
    assert selection.indices == (0, 3, 5)
    assert selection.threshold == 0.9 - 0.01


def test_one_keyframe_is_always_reachable():
    selection = select_keyframes(at(0, 90, 180, 0, 180), max_keyframes=1)
    assert selection.indices == (0,)
    assert selection.threshold == pytest.approx(-1.0, abs=0.011)


def test_threshold_is_lowered_by_repeated_subtraction():
    frames = at(*np.arange(0, 271, 0.5))
    differs_from_one_step = False
    for most in range(1, 12):
        lowered = select_keyframes(frames, max_keyframes=most).threshold
        steps, repeated = round((0.9 - lowered) / 0.01), 0.9
        for _ in range(steps):
            repeated -= 0.01
        assert lowered == repeated
        differs_from_one_step |= lowered != 0.9 - 0.01 * steps
    assert differs_from_one_step


def test_equal_to_the_threshold_is_neither_below_nor_above_it():
    # These two have similarity 1/2 with no rounding at all.
    frames = np.array([[1, 0, 0, 0], [0.5, 0.5, 0.5, 0.5]], np.float32)
    assert select_keyframes(frames, threshold=0.5).indices == (0,)
    assert select_keyframes(frames, threshold=0.51).indices == (0, 1)
    assert select_keyframes(frames[:1], threshold=0.5, known=frames[1:]).indices == (0,)
    assert select_keyframes(frames[:1], threshold=0.49, known=frames[1:]).indices == ()


def test_bank_drops_candidates_at_the_given_threshold_not_the_lowered_one():
    frames = at(0, 20, 26, 40, 52, 90)
    # 27 degrees from frame 3 (at 40): below 0.9 = 25.84 degrees, above the lowered 0.89 = 27.13 degrees.
    selection = select_keyframes(frames, threshold=0.9, known=at(67))
    assert selection.indices == (0, 3)
    assert selection.frames[5].verdict == "in the bank already (keyframe 0, similarity 0.921)"


def test_verdict_of_every_frame_is_told():
    scores = [1.0, 4.0, 9.0, 2.0, 5.0, 6.0]
    selection = select_keyframes(
        at(0, 0, 10, 60, 70, 120),
        scores.__getitem__,
        quality_threshold=3.0,
        known=at(-90, 119),
        known_names=["shot 1, frame 7", "shot 2, frame 40"],
    )
    assert selection.indices == (1, 4)
    assert [v.index for v in selection.frames] == list(range(6))
    assert [v.verdict for v in selection.frames] == [
        "quality below 3",
        "kept",
        "too similar to frame 1",
        "quality below 3",
        "kept",
        "in the bank already (shot 2, frame 40, similarity 1.000)",
    ]
    assert [v.quality for v in selection.frames] == [1.0, 4.0, None, 2.0, 5.0, 6.0]


def test_quality_is_asked_once_and_only_of_frames_that_differ():
    asked: list[int] = []

    def quality(frame: int) -> float:
        asked.append(frame)
        return 5.0

    frames = at(*range(0, 180, 2))
    selection = select_keyframes(frames, quality, max_keyframes=2, quality_threshold=3.0)
    assert selection.threshold < 0.6, "several thresholds were tried"
    assert len(asked) == len(set(asked))
    # The first 12 frames lie within 24 degrees of frame 0, so similar at every threshold tried.
    assert asked[0] == 0 and not set(range(1, 13)) & set(asked)
    asked.clear()
    select_keyframes(at(0, 1, 2, 3), quality, quality_threshold=3.0)
    assert asked == [0]


def test_scores_are_recorded_without_a_quality_threshold():
    selection = select_keyframes(at(0, 90), lambda i: -1.0)
    assert selection.indices == (0, 1)
    assert [v.quality for v in selection.frames] == [-1.0, -1.0]


def test_no_frame_passes():
    selection = select_keyframes(at(0, 90), lambda i: 1.0, quality_threshold=3.0)
    assert selection.indices == ()
    assert {v.verdict for v in selection.frames} == {"quality below 3"}


def test_real_clip_keeps_a_few_telling_frames():
    # The rabbit crouches in its burrow, then stands up: two pictures, not one and not ten.
    images = read_footage(132)
    selection = select_keyframes(ColorLayout()(images))
    assert selection.threshold == 0.9
    assert len(selection.indices) == 2
    assert selection.indices[0] == 0 and 34 <= selection.indices[1] <= 50


@pytest.mark.parametrize("threshold", [0.0, -0.1, 1.01, math.nan])
def test_wrong_threshold(threshold):
    with pytest.raises(InputError, match=r"^threshold="):
        select_keyframes(at(0, 90), threshold=threshold)


def test_wrong_inputs_name_input_value_and_remedy():
    with pytest.raises(InputError, match=r"^max_keyframes=0"):
        select_keyframes(at(0, 90), max_keyframes=0)
    with pytest.raises(InputError, match=r"^images=0: a shot without frames"):
        select_keyframes(np.empty((0, 2), np.float32))
    for bad in (math.nan, math.inf):
        frames = at(0, 90)
        frames[1, 0] = bad
        with pytest.raises(InputError, match=r"^images='image 1'"):
            select_keyframes(frames)
        with pytest.raises(InputError, match=r"^bank='image 1'"):
            select_keyframes(at(0, 90), known=frames)
    with pytest.raises(InputError, match=r"^images='image 0'"):
        select_keyframes(np.zeros((1, 2), np.float32))
    with pytest.raises(InputError, match=r"^bank='embeddings of width 3'"):
        select_keyframes(at(0, 90), known=np.eye(3, dtype=np.float32))
