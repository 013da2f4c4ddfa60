"""Population stability index and Kolmogorov-Smirnov: by hand, by chance, and where values repeat."""

import numpy as np
import pytest
from scipy.stats import ks_2samp

from segmodels.metrics.drift import population_stability_index, shift

RNG = np.random.default_rng(0)


def test_the_index_is_the_formula_over_the_reference_s_bins() -> None:
    reference, sample = np.arange(100.0), np.r_[np.arange(50.0), np.arange(50.0)]
    old = np.full(10, 10.5) / 105
    new = np.r_[np.full(5, 20.5), np.full(5, 0.5)] / 105
    assert population_stability_index(reference, sample) == pytest.approx(((new - old) * np.log(new / old)).sum())
    assert population_stability_index(reference, reference) == 0


def test_samples_of_one_distribution_are_alike_and_shifted_ones_are_not() -> None:
    reference = RNG.normal(size=256)
    same, moved = shift(reference, RNG.normal(size=500)), shift(reference, RNG.normal(0.8, size=500))
    assert same.psi < 0.1 < 0.2 < moved.psi
    assert moved.p_value < 1e-6 < 0.01 < same.p_value
    expected = ks_2samp(reference, reference + 1, method="asymp")
    assert shift(reference, reference + 1).ks == expected.statistic
    assert shift(reference, reference + 1).now == pytest.approx(reference.mean() + 1)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_class_that_never_or_always_occurred_has_bins_that_notice_a_change(value: float) -> None:
    """Quantiles of such a share are all one number."""
    reference = np.full(200, value)
    assert population_stability_index(reference, reference[:77]) < 0.01
    assert population_stability_index(reference, np.r_[np.full(40, value), np.full(40, 0.5)]) > 1
    rare = np.r_[np.zeros(190), RNG.uniform(0.1, 0.2, 10)]
    assert population_stability_index(rare, RNG.permutation(rare)) == pytest.approx(0)
    assert population_stability_index(rare, RNG.uniform(0.1, 0.2, 100)) > 1
