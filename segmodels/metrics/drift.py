"""Compares the distribution of numbers with an earlier one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

BINS = 10
"""Quantile bins of the population stability index."""


@dataclass(frozen=True)
class Shift:
    """How a sample of a statistic differs from its reference.

    Attributes:
        psi: population stability index, from 0 (equal).
        ks: Kolmogorov-Smirnov statistic, the largest difference of the two distribution functions, 0..1.
        p_value: of the two-sample Kolmogorov-Smirnov test, the probability of such a difference by chance.
        before, now: means of the reference and of the sample.
    """

    psi: float
    ks: float
    p_value: float
    before: float
    now: float


def shift(reference: ArrayLike, sample: ArrayLike) -> Shift:
    """Compare a sample (N,) of finite numbers with its reference (M,)."""
    from scipy.stats import ks_2samp

    before, now = np.asarray(reference, dtype=np.float64), np.asarray(sample, dtype=np.float64)
    test = ks_2samp(before, now, method="asymp")
    psi = population_stability_index(before, now)
    return Shift(psi, float(test.statistic), float(test.pvalue), float(before.mean()), float(now.mean()))


def population_stability_index(reference: ArrayLike, sample: ArrayLike) -> float:
    """Σ (sample - reference) · ln(sample / reference) over the shares of the ``BINS`` quantile bins of the reference
    (Siddiqi: Credit Risk Scorecards, 2006). A value that fills a bin alone, such as the share 0 of a rare class, has a
    bin of its own; half a number is added to every count, so that no share is 0.
    """
    before, now = np.asarray(reference, dtype=np.float64), np.asarray(sample, dtype=np.float64)
    edges, repeated = np.unique(np.quantile(before, np.linspace(0, 1, BINS + 1)[1:-1]), return_counts=True)
    edges = np.union1d(edges, np.nextafter(edges[repeated > 1], -np.inf))
    old, new = _shares(before, edges), _shares(now, edges)
    return float(((new - old) * np.log(new / old)).sum())


def _shares(values: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of the values in each bin; an edge belongs to the bin below it."""
    counts = np.bincount(np.searchsorted(edges, values, side="left"), minlength=len(edges) + 1) + 0.5
    return counts / counts.sum()
