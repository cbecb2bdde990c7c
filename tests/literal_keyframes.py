"""The published keyframe selection word by word: the oracle for core and host tests."""

import math

import numpy as np


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(a @ b / math.sqrt(a @ a) / math.sqrt(b @ b))


def literal_keyframes(images, embed, passes, threshold, max_keyframes, bank_images):
    """Section by section: both pictures embedded anew in every comparison, and again for every threshold."""

    def similarity(a, b):
        return cosine(embed(a), embed(b))

    lowered = threshold
    while True:
        keyframes = []
        for i in range(len(images)):
            if not keyframes:
                if passes(i):
                    keyframes.append(i)
            elif similarity(images[i], images[keyframes[-1]]) < lowered and passes(i):
                keyframes.append(i)
        if len(keyframes) <= max_keyframes:
            break
        lowered = lowered - 0.01
    kept = [i for i in keyframes if not any(similarity(images[i], known) > threshold for known in bank_images)]
    return kept, lowered
