"""Which frames of a shot are worth remembering (StoryMem, arXiv 2512.19539, memory extraction)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .errors import InputError

THRESHOLD_STEP = 0.01


@dataclass(frozen=True)
class FrameVerdict:
    """What became of one frame, and why.

    index: frame of the shot. similarity: cosine similarity to the last keyframe before it, None where there
    was none yet. quality: its score, None where it was never asked. verdict: the reason, for people.
    """

    index: int
    similarity: float | None
    quality: float | None
    verdict: str


@dataclass(frozen=True)
class Selection:
    """indices: the keyframes, ascending. threshold: the one finally used. frames: the verdict of each."""

    indices: tuple[int, ...]
    threshold: float
    frames: tuple[FrameVerdict, ...]


def select_keyframes(
    embeddings: np.ndarray,
    quality: Callable[[int], float] | None = None,
    *,
    threshold: float = 0.9,
    max_keyframes: int = 3,
    quality_threshold: float | None = None,
    known: np.ndarray | None = None,
    known_names: Sequence[str] = (),
) -> Selection:
    """Select the keyframes of one shot as the paper does, from frames that were embedded once.

    The first keyframe is the first frame whose quality passes; from then on a frame becomes a keyframe when
    its cosine similarity to the last keyframe is below the threshold and its quality passes. While there are
    more than `max_keyframes`, the threshold goes down by 0.01 and the selection starts again. Last, a
    candidate whose similarity to any keyframe of the bank exceeds the given threshold is dropped.

    embeddings: [N, D], one per frame. quality: score of a frame by index, asked at most once per frame and
    only for frames that are different enough; None lets every frame pass. quality_threshold: the lowest score
    that passes; None only records the scores. known: [K, D], embeddings of the bank by the same embedder.
    known_names: what the verdicts call those K keyframes, such as "shot 2, frame 40".

    Similarities and thresholds are float64, and the lowered threshold is the result of subtracting 0.01 again
    and again (not 0.01 * k at once), so decisions fall exactly as in a literal loop.

    Raises InputError for no frames, embeddings without a direction (NaN, infinite, zero), a bank of another
    width, threshold outside (0, 1] and max_keyframes < 1.

    Source: StoryMem, arXiv 2512.19539, semantic keyframe selection; published values 0.9 and 3.
    """
    if len(embeddings) == 0:
        raise InputError("images", 0, "a shot without frames has no keyframes", "Connect at least one image.")
    if not 0 < threshold <= 1:
        raise InputError("threshold", threshold, "a similarity threshold lies in (0, 1]", "The paper uses 0.9.")
    if max_keyframes < 1:
        raise InputError("max_keyframes", max_keyframes, "at least one keyframe is kept", "The paper uses 3.")
    frames = _directions("images", embeddings)
    bank = _directions("bank", np.empty((0, frames.shape[1])) if known is None else known)
    if bank.shape[1] != frames.shape[1]:
        raise InputError(
            "bank",
            f"embeddings of width {bank.shape[1]}",
            f"the frames have embeddings of width {frames.shape[1]}",
            "Embed the bank's keyframes again with the embedder of the frames.",
        )

    similarity = frames @ frames.T
    scores: dict[int, float] = {}

    def passes(frame: int) -> bool:
        if quality is None:
            return True
        if frame not in scores:
            scores[frame] = float(quality(frame))
        return quality_threshold is None or scores[frame] >= quality_threshold

    used = threshold
    candidates = _walk(similarity, used, passes)
    while len(candidates) > max_keyframes:
        used -= THRESHOLD_STEP
        candidates = _walk(similarity, used, passes)

    kept: list[int] = []
    verdicts: list[FrameVerdict] = []
    last = None
    for frame in range(len(frames)):
        to_last = None if last is None else float(similarity[last, frame])
        if frame in candidates:
            last = frame
            to_bank = bank @ frames[frame]
            if len(bank) and to_bank.max() > threshold:
                nearest = int(to_bank.argmax())
                name = known_names[nearest] if known_names else f"keyframe {nearest}"
                verdict = f"in the bank already ({name}, similarity {to_bank[nearest]:.3f})"
            else:
                kept.append(frame)
                verdict = "kept"
        elif to_last is not None and to_last >= used:
            verdict = f"too similar to frame {last}"
        else:
            verdict = f"quality below {quality_threshold:g}"
        verdicts.append(FrameVerdict(frame, to_last, scores.get(frame), verdict))
    return Selection(tuple(kept), used, tuple(verdicts))


def _walk(similarity: np.ndarray, threshold: float, passes: Callable[[int], bool]) -> list[int]:
    """One pass over the shot: the candidates at one threshold, similarity [N, N]."""
    candidates: list[int] = []
    for frame in range(len(similarity)):
        differs = not candidates or similarity[candidates[-1], frame] < threshold
        if differs and passes(frame):
            candidates.append(frame)
    return candidates


def _directions(name: str, embeddings: np.ndarray) -> np.ndarray:
    """The embeddings [N, D] as float64 unit vectors, whose dot products are cosine similarities."""
    embeddings = np.asarray(embeddings, np.float64)
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    bad = np.flatnonzero(~np.isfinite(norms) | (norms == 0))
    if len(bad):
        raise InputError(
            name,
            f"image {bad[0]}",
            "its embedding is not a finite vector with a direction",
            "Look for NaN or infinite pixels in the images, or a broken embedding model.",
        )
    return embeddings / norms
