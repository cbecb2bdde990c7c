"""Means over stories with their 95 % intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000


@dataclass(frozen=True)
class Estimate:
    """A mean over stories and the bootstrap interval that holds 95 % of the resampled means."""

    mean: float
    low: float
    high: float


def estimate(numerators: Sequence[float], denominators: Sequence[float] | None = None) -> Estimate | None:
    """Sum of the numerators by the sum of the denominators (by default 1 each), resampled over stories.

    One entry per story: a story that offers no case to judge has denominator 0 and counts for nothing. None where
    no story has any.
    """
    top = np.asarray(numerators, np.float64)
    bottom = np.ones_like(top) if denominators is None else np.asarray(denominators, np.float64)
    if bottom.sum() == 0:
        return None
    picks = np.random.default_rng(0).integers(len(top), size=(RESAMPLES, len(top)))
    tops, bottoms = top[picks].sum(1), bottom[picks].sum(1)
    means = tops[bottoms > 0] / bottoms[bottoms > 0]
    return Estimate(float(top.sum() / bottom.sum()), *(float(edge) for edge in np.percentile(means, (2.5, 97.5))))
