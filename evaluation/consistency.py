"""What ST-Bench reports of a story's videos (StoryMem, arXiv 2512.19539), from embeddings of frames and prompts.

ST-Bench embeds shots with ViCLIP; here a shot is the mean direction of its frames' embeddings, by any embedder. All
embeddings are unit vectors, and similarity is their cosine.
"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np

TOP_PAIRS = 10


def direction(embeddings: np.ndarray) -> np.ndarray:
    """[N, D] unit vectors -> [D], their mean brought to unit length."""
    mean = np.asarray(embeddings, np.float64).mean(axis=0)
    return mean / np.linalg.norm(mean)


def cross_shot(shots: np.ndarray) -> float:
    """Mean similarity over all pairs of shots, [N, D] with two shots or more."""
    return float(np.mean([shots[i] @ shots[j] for i, j in combinations(range(len(shots)), 2)]))


def top_pairs(prompts: np.ndarray) -> list[tuple[int, int]]:
    """The ten pairs of shots that should look alike most: those with the most similar prompts, [N, D]; fewer if
    there are fewer. Equal ones in the order of the story."""
    pairs = list(combinations(range(len(prompts)), 2))
    return sorted(pairs, key=lambda pair: -float(prompts[pair[0]] @ prompts[pair[1]]))[:TOP_PAIRS]


def top_cross_shot(shots: np.ndarray, prompts: np.ndarray) -> float:
    """Mean similarity over the pairs of shots whose prompts are most alike."""
    return float(np.mean([shots[i] @ shots[j] for i, j in top_pairs(prompts)]))


def shot_following(shots: np.ndarray, prompts: np.ndarray) -> float:
    """Mean similarity of each shot to its own prompt."""
    return float((shots * prompts).sum(axis=1).mean())


def story_following(shots: np.ndarray, overview: np.ndarray) -> float:
    """Similarity of the whole story to its overview, [D]."""
    return float(direction(shots) @ overview)


def word_counts(texts: Sequence[str]) -> np.ndarray:
    """Texts as directions in the space of words, [N, W]: compares prompts where no CLIP can read them."""
    words = [text.lower().split() for text in texts]
    known = sorted({word.strip(".,;:!?\"'()") for text in words for word in text})
    counts = np.array([[sum(word.strip(".,;:!?\"'()") == one for word in text) for one in known] for text in words])
    return counts / np.linalg.norm(counts, axis=1, keepdims=True)
