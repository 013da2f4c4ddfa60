"""The paired bootstrap: equal to a naive one and to scipy's, calibrated, bounded in memory."""

import tracemalloc
import warnings

import numpy as np
import pytest
import scipy.stats

from segmodels.errors import InputError
from segmodels.metrics import frequency_weighted_iou, mean_iou, paired_bootstrap, significance


def models(images, classes=4, difference=0.0, seed=0, pixels=400):
    """Per-image counts (N, C, C) of two models that hit a pixel of an image about equally often; the first more often
    by ``difference``.
    """
    random = np.random.default_rng(seed)
    shares = random.dirichlet(np.ones(classes), images)
    truth = np.stack([random.multinomial(pixels, share) for share in shares])
    difficulty = random.beta(8, 3, images)

    def model(gain):
        skill = np.clip(difficulty + gain + random.normal(0, 0.05, images), 0.01, 0.99)
        counts = np.zeros((images, classes, classes), dtype=np.int64)
        for i in range(images):
            for c in range(classes):
                chances = np.full(classes, (1 - skill[i]) / (classes - 1))
                chances[c] = skill[i]
                counts[i, c] = random.multinomial(truth[i, c], chances)
        return counts

    return model(difference), model(0.0)


def drawn_images(images, resamples, seed):
    return np.random.default_rng(seed).integers(images, size=(resamples, images), dtype=np.int64)


@pytest.mark.parametrize(
    ("metric", "score"), [("mean_iou", mean_iou), ("frequency_weighted_iou", frequency_weighted_iou)]
)
def test_equals_a_loop_that_sums_the_matrices_of_each_resample(metric, score):
    candidate, baseline = models(13, difference=0.01)
    candidate[:, 3], baseline[:, 3] = 0, 0  # a class in one image only: absent from a third of the resamples
    candidate[0, 3], baseline[0, 3] = [0, 1, 0, 9], [0, 0, 1, 9]
    naive = np.array(
        [score(candidate[drawn].sum(0)) - score(baseline[drawn].sum(0)) for drawn in drawn_images(13, 300, seed=5)]
    )
    result = paired_bootstrap(candidate, baseline, metric, resamples=300, confidence=0.9, seed=5)
    assert result.candidate == pytest.approx(score(candidate.sum(0)), abs=1e-12)
    assert result.baseline == pytest.approx(score(baseline.sum(0)), abs=1e-12)
    assert result.difference == pytest.approx(result.candidate - result.baseline, abs=1e-12)
    np.testing.assert_allclose([result.low, result.high], np.quantile(naive, [0.05, 0.95]), atol=1e-12)
    far = min(sum(naive <= 0), sum(naive >= 0))
    assert result.p_value == pytest.approx(min(1, 2 * (far + 1) / 301))


def test_interval_equals_scipys_percentile_bootstrap():
    candidate, baseline = models(40, difference=0.02, seed=1)

    def difference(images):
        return mean_iou(candidate[images].sum(0)) - mean_iou(baseline[images].sum(0))

    expected = scipy.stats.bootstrap(
        (np.arange(40),), difference, vectorized=False, n_resamples=3000, method="percentile", rng=0
    ).confidence_interval
    result = paired_bootstrap(candidate, baseline)
    assert (result.low, result.high) == pytest.approx(
        (expected.low, expected.high), abs=0.1 * (expected.high - expected.low)
    )


def test_a_model_compared_with_itself_does_not_differ():
    candidate, _ = models(10)
    result = paired_bootstrap(candidate, candidate)
    assert (result.difference, result.low, result.high, result.p_value) == (0, 0, 0, 1)


def test_a_model_better_on_every_image_is_significantly_better_and_the_other_worse():
    candidate, baseline = models(60, difference=0.05, seed=2)
    better, worse = paired_bootstrap(candidate, baseline, seed=1), paired_bootstrap(baseline, candidate, seed=1)
    assert better.low > 0
    assert better.p_value == pytest.approx(2 / 10_001)
    assert (worse.difference, worse.low, worse.high, worse.p_value) == pytest.approx(
        (-better.difference, -better.high, -better.low, better.p_value)
    )


def test_pairing_finds_a_difference_far_smaller_than_the_spread_over_images():
    candidate, baseline = models(100, difference=0.02, seed=4)
    result = paired_bootstrap(candidate, baseline, resamples=2000)
    alone = [mean_iou(candidate[drawn].sum(0)) for drawn in drawn_images(100, 500, seed=0)]
    assert np.ptp(np.quantile(alone, [0.025, 0.975])) > 1.3 * (result.high - result.low)
    assert result.p_value < 0.05


def test_equal_models_are_called_different_about_as_often_as_the_level_says():
    p_values = [
        paired_bootstrap(*models(30, classes=3, seed=seed, pixels=200), resamples=400).p_value for seed in range(150)
    ]
    assert np.mean(np.array(p_values) < 0.05) <= 0.12
    assert np.mean(np.array(p_values) < 0.5) == pytest.approx(0.5, abs=0.15)


def test_the_p_value_agrees_with_the_interval():
    for seed in range(20):
        result = paired_bootstrap(*models(25, difference=0.015, seed=seed), resamples=1999)
        if abs(result.p_value - 0.05) > 0.002:
            assert (result.p_value < 0.05) == (not result.low <= 0 <= result.high)


def test_the_seed_decides_the_result_and_the_memory_limit_does_not(monkeypatch):
    candidate, baseline = models(20)
    once = paired_bootstrap(candidate, baseline, resamples=500, seed=7)
    monkeypatch.setattr(significance, "MEMORY", 5000)
    assert paired_bootstrap(candidate, baseline, resamples=500, seed=7) == once
    assert paired_bootstrap(candidate, baseline, resamples=500, seed=8) != once


def test_memory_is_bounded_whatever_the_number_of_resamples(monkeypatch):
    candidate, baseline = models(1000, classes=3, pixels=50)
    monkeypatch.setattr(significance, "MEMORY", 4_000_000)
    tracemalloc.start()
    paired_bootstrap(candidate, baseline, resamples=3000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 6_000_000  # all weights at once would take 24 MB, three times over


def test_images_without_a_labelled_pixel_do_not_matter():
    candidate, baseline = models(12, difference=0.03)
    empty = np.zeros((1, 4, 4), dtype=np.int64)
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        result = paired_bootstrap(
            np.concatenate([candidate[:1], empty]), np.concatenate([baseline[:1], empty]), resamples=100
        )
    assert np.isfinite([result.low, result.high, result.p_value]).all()


def test_where_no_set_has_a_score_there_is_no_interval_and_no_difference():
    def of_objects(weights):  # average precision of images without objects
        return np.full(len(weights), np.nan)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = significance.compare(of_objects, of_objects, "mask_ap", images=3, resamples=100)
        assert np.isnan([result.difference, result.low, result.high, *significance.interval(of_objects, 3, 100)]).all()
    assert result.p_value == 1


def test_what_cannot_be_compared_is_refused():
    candidate, baseline = models(5)
    for args, message in [
        ((candidate, baseline[:4]), "5 images of 4 classes and baseline 4 of 4"),
        ((candidate, baseline[::-1]), r"true pixels of image 0 \(4 in all\) differ"),
        ((candidate[:1], baseline[:1]), "expected at least 2"),
        ((candidate[0], baseline[0]), "one matrix per image"),
        ((0 * candidate, 0 * baseline), "has a labelled pixel"),
        ((candidate, baseline, "dice"), "metric is 'dice', expected one of"),
        ((candidate, baseline, "mean_iou", 0), "0 resamples"),
        ((candidate, baseline, "mean_iou", 10, 95), "confidence 95"),
    ]:
        with pytest.raises(InputError, match=message):
            paired_bootstrap(*args)
