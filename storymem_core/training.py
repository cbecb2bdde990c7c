"""What a StoryMem LoRA is trained on: windows of short clips, each with a memory of keyframes drawn elsewhere.

No long videos are needed: the memory of a window are keyframes of similar clips and of the rest of its own clip
(StoryMem, arXiv 2512.19539, training data).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from .errors import InputError
from .keyframes import select_keyframes

# kind of sample -> the transition its shot begins with
KINDS = {"m2v": "cut", "mi2v": "first_frame", "mm2v": "motion_frames", "no_memory": "cut"}
# A memory is drawn from this many nearest keyframes: twice the longest memory, so that it differs each time.
NEAREST = 20


@dataclass(frozen=True, eq=False)
class EmbeddedClip:
    """A clip of `length` frames, some of which were embedded: their numbers, ascending, and float32 [N, D].

    group: only clips of the same group are remembered.
    """

    name: str
    group: str
    length: int
    frames: np.ndarray
    embeddings: np.ndarray


@dataclass(frozen=True)
class Sample:
    """One training sample: a window of a clip that begins at frame `start`, and its memory.

    kind: a key of KINDS. memory: (clip, frame) of each keyframe, oldest first; none for `no_memory`.
    """

    kind: str
    clip: int
    start: int
    memory: tuple[tuple[int, int], ...]


def share_out(shares: Mapping[str, float], count: int) -> dict[str, int]:
    """Samples of each kind: `count` in all, in proportion to `shares` (>= 0), by largest remainder.

    Raises InputError when there is nothing to share.
    """
    for name, share in shares.items():
        if not (np.isfinite(share) and share >= 0):
            raise InputError(f"share_{name}", share, "a share is 0 or more", "Use 0 to leave this kind out")
    total = sum(shares.values())
    if total == 0:
        raise InputError("shares", 0, "all of them are 0", "Give at least one kind of sample a share")
    exact = {name: count * share / total for name, share in shares.items()}
    counts = {name: int(value) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: counts[name] - exact[name])
    for name in by_remainder[: count - sum(counts.values())]:
        counts[name] += 1
    return counts


def compose_samples(
    clips: Sequence[EmbeddedClip],
    length: int,
    count: int,
    shares: Mapping[str, float],
    max_memory: int,
    min_similarity: float,
    seed: int,
) -> tuple[Sample, ...]:
    """`count` samples of `length` frames: every clip equally often, windows and memories drawn by `seed`.

    clips: each of `length` frames or more, the first of them embedded. A window begins at an embedded frame.
    shares: of each kind of sample (a key of KINDS), relative to each other. A memory has 1 to max_memory
    keyframes, uniformly, in random order, drawn without replacement from the NEAREST keyframes: the frames that
    the Keyframe Extractor would store of its own clip before and after the window, and of every other clip of its
    group where they are at least as near as min_similarity. Nearness is the largest cosine similarity to an embedded
    frame of the window. Frames of the window itself are never in its memory.
    Raises InputError when no share is positive, and when there is nothing to remember for a window.
    """
    if max_memory < 1:
        raise InputError("max_memory", max_memory, "a memory has one keyframe or more", "Use share_no_memory for none")
    random = np.random.default_rng(seed)
    counts = share_out(shares, count)
    kinds = random.permutation([kind for kind in counts for _ in range(counts[kind])])
    targets = np.concatenate([random.permutation(len(clips)) for _ in range(-(-count // len(clips)))])

    groups: dict[str, list[int]] = {}
    for i, clip in enumerate(clips):
        groups.setdefault(clip.group, []).append(i)

    @cache
    def keyframes(clip: int, first: int, end: int) -> tuple[list[tuple[int, int]], np.ndarray]:
        """Keyframes of the frames first <= number < end of a clip: (clip, frame), and embeddings [K, D]."""
        inside = np.flatnonzero((clips[clip].frames >= first) & (clips[clip].frames < end))
        embeddings = clips[clip].embeddings[inside]
        kept = select_keyframes(embeddings).indices if len(inside) else ()
        return [(clip, int(clips[clip].frames[inside[i]])) for i in kept], embeddings[list(kept)]

    samples = []
    for kind, target in zip(kinds.tolist(), targets[:count].tolist(), strict=True):
        clip = clips[target]
        start = int(random.choice(clip.frames[clip.frames <= clip.length - length]))
        if kind == "no_memory":
            samples.append(Sample(kind, target, start, ()))
            continue
        parts = [keyframes(target, 0, start), keyframes(target, start + length, clip.length)]
        others = [i for i in groups[clip.group] if i != target]
        parts += [keyframes(i, 0, clips[i].length) for i in others]
        places = [place for part, _ in parts for place in part]
        window = clip.embeddings[(clip.frames >= start) & (clip.frames < start + length)]
        similarity = (window @ np.concatenate([embeddings for _, embeddings in parts]).T).max(axis=0)
        eligible = [i for i, (of, _) in enumerate(places) if of == target or similarity[i] >= min_similarity]
        if not eligible:
            best = f", the nearest keyframe has {similarity.max():.2f}" if places else ""
            problem = f"there is nothing to remember for {clip.name} from frame {start}{best}"
            remedy = "Lower it, or add similar clips or longer ones"
            raise InputError("min_similarity", min_similarity, problem, remedy)
        nearest = sorted(eligible, key=lambda i: -similarity[i])[:NEAREST]
        number = int(random.integers(1, min(max_memory, len(nearest)) + 1))
        drawn = random.choice(nearest, number, replace=False)
        samples.append(Sample(kind, target, start, tuple(places[i] for i in drawn)))
    return tuple(samples)


def percent_of(sigma: float, shift: float) -> float:
    """How far a flow-matching schedule with this shift has come (0 = noise, 1 = clean) at noise level sigma (0..1).

    The inverse of sigma = shift * t / (1 + (shift - 1) * t) with t = 1 - percent.
    """
    return 1 - sigma / (shift - (shift - 1) * sigma)
