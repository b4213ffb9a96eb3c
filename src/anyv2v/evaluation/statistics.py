"""Means with their uncertainty, and whether two methods differ on the same clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from anyv2v.evaluation.propagation import Estimate

__all__ = ["bootstrapped", "holm", "paired_p"]

RESAMPLES = 9999
SEED = 0  # the same scores give the same table


def bootstrapped(values: Sequence[float], confidence: float = 0.95) -> Estimate:
    """The mean with its bootstrap interval, bias-corrected and accelerated (Efron, 1987).

    Args:
        values: Scores of one or more clips; with one, or with all equal, the interval is empty.
        confidence: Share of such intervals that hold the true mean.
    """
    from scipy import stats

    data = np.asarray(values, float)
    mean = float(data.mean())
    if len(data) < 2 or np.ptp(data) == 0:
        return Estimate(mean, mean, mean)
    found = stats.bootstrap(
        (data,), np.mean, confidence_level=confidence, n_resamples=RESAMPLES, rng=np.random.default_rng(SEED)
    ).confidence_interval
    low, high = (float(end) if np.isfinite(end) else mean for end in (found.low, found.high))
    return Estimate(mean, low, high)


def paired_p(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """How likely a mean difference as large as this is if the two methods are alike, 0 to 1, two-sided.

    The permutation test of Fisher (1935): of each pair it may as well be the other that scored so. Exact
    where there are few pairs; 1 where there are fewer than two, or all are equal.

    Args:
        ours: Scores of one method.
        theirs: Those of another, of the same clips in the same order.
    """
    from scipy import stats

    difference = np.asarray(ours, float) - np.asarray(theirs, float)
    if len(difference) < 2 or not difference.any():
        return 1.0
    found = stats.permutation_test(
        (difference,),
        _mean,
        permutation_type="samples",
        n_resamples=RESAMPLES,
        vectorized=True,
        rng=np.random.default_rng(SEED),
    )
    return float(found.pvalue)


def _mean(values: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
    mean: NDArray[np.float64] = np.mean(values, axis=axis)
    return mean


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """P-values of a family of tests, corrected so that the family errs as rarely as one test (Holm, 1979)."""
    corrected, least = dict[str, float](), 0.0
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        least = max(least, min(1.0, p * (len(p_values) - rank)))
        corrected[name] = least
    return corrected
