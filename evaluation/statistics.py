"""Means over stories with their 95 % intervals."""

from collections.abc import Callable, Sequence
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
    return _interval(float(top.sum() / bottom.sum()), resampled(top, bottom))


def resampled(numerators: Sequence[float], denominators: Sequence[float]) -> np.ndarray:
    """The ratio of the sums in each resample, NaN where it has no case; the same resamples for as many stories."""
    top, bottom = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    picks = np.random.default_rng(0).integers(len(top), size=(RESAMPLES, len(top)))
    tops, bottoms = top[picks].sum(1), bottom[picks].sum(1)
    return np.divide(tops, bottoms, out=np.full(RESAMPLES, np.nan), where=bottoms > 0)


def compare(function: Callable[..., float | np.ndarray], *rows: tuple[Sequence[float], Sequence[float]]) -> Estimate:
    """A function of the means of several rows, each numerators and denominators of the same stories."""
    mean = function(*(sum(top) / sum(bottom) for top, bottom in rows))
    return _interval(float(mean), function(*(resampled(*row) for row in rows)))


def _interval(mean: float, means: np.ndarray) -> Estimate:
    return Estimate(mean, *(float(edge) for edge in np.nanpercentile(means, (2.5, 97.5))))
