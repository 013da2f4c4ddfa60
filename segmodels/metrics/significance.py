"""Whether one model is better than another, or only luckier with the images: the paired bootstrap over images.

Both models' per-image confusion matrices of the same test images are resampled together, images with replacement, and
the dataset-level score of each resample is computed again. Efron and Tibshirani 1993, "An Introduction to the
Bootstrap", chapter 13 (percentile interval); paired over test items as in Koehn 2004, "Statistical Significance
Tests for Machine Translation Evaluation".
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from segmodels.errors import InputError
from segmodels.metrics.ratios import frequency_weighted, iou_terms, marginals, means, ratio, stack

Resampled = Callable[[NDArray[np.int64]], NDArray[np.float64]]
"""How often each image (in one order) is in each of R sets ``(R, images)`` -> the score of each set ``(R,)``."""

MEMORY = 1 << 26  # bytes that one chunk of resamples may take


@dataclass(frozen=True)
class Comparison:
    """Outcome of a paired bootstrap; scores are shares of 1.

    Attributes:
        metric: name of the score.
        candidate, baseline: dataset-level score of each.
        difference: candidate − baseline; above 0 the candidate is better.
        low, high: percentile interval of the difference at ``confidence``.
        p_value: two-sided, of "there is no difference".
        confidence: level of the interval, such as 0.95.
        images, resamples: number of each.
    """

    metric: str
    candidate: float
    baseline: float
    difference: float
    low: float
    high: float
    p_value: float
    confidence: float
    images: int
    resamples: int


SCORES: dict[str, Callable[[NDArray, NDArray, NDArray], NDArray[np.float64]]] = {
    "pixel_accuracy": lambda hits, truth, _: ratio(hits.sum(-1), truth.sum(-1), "skip"),
    "mean_pixel_accuracy": lambda hits, truth, _: means(ratio(hits, truth, "skip")),
    "mean_iou": lambda *counts: means(ratio(*iou_terms(*counts), "skip")),
    "frequency_weighted_iou": frequency_weighted,
    "mean_dice": lambda hits, truth, predicted: means(ratio(2 * hits, truth + predicted, "skip")),
    "mean_precision": lambda hits, _, predicted: means(ratio(hits, predicted, "skip")),
    "mean_recall": lambda hits, truth, _: means(ratio(hits, truth, "skip")),
    "mean_f1": lambda hits, truth, predicted: means(ratio(2 * hits, truth + predicted, "skip")),
}
"""Dataset-level scores of hits, true and predicted pixels ``(..., C)``."""


def paired_bootstrap(
    candidate: ArrayLike,
    baseline: ArrayLike,
    metric: str = "mean_iou",
    resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Compare two models on the same images by their confusion matrices, as ``compare`` does.

    Args:
        candidate, baseline: per-image counts ``(N, C, C)``, rows = truth, of the same images in the same order.
        metric: the dataset-level score to compare; classes absent from a resample are left out of its mean.
        resamples, confidence, seed: as in ``compare``.

    Raises:
        InputError: fewer than two images, different images (the true pixels differ), no labelled pixel, or an argument
            outside its range.
    """
    if metric not in SCORES:
        raise InputError(f"metric is {metric!r}, expected one of {list(SCORES)}")
    models = statistics(candidate), statistics(baseline)
    require_same_images(*models)
    images, _, classes = models[0].shape
    mine, theirs = (partial(_score, model, SCORES[metric]) for model in models)
    return compare(
        mine, theirs, metric, images, resamples, confidence, seed, chunk=MEMORY // (8 * (3 * images + 20 * classes))
    )


def compare(
    candidate: Resampled,
    baseline: Resampled,
    metric: str,
    images: int,
    resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
    chunk: int = 256,
) -> Comparison:
    """Compare two models on the same images by any score that can be taken of resampled images.

    Args:
        candidate, baseline: scores of resampled sets of the same images in the same order.
        metric: what the score is called.
        images: how many there are, at least 2.
        resamples: how often N images are drawn with replacement. The p-value is no smaller than 2 / (resamples + 1).
        confidence: level of the interval, in (0, 1).
        seed: of the draws; the same seed gives the same result.
        chunk: resamples at a time, for the memory that they take.

    The p-value is twice the share of resamples on the far side of zero (both sides include zero; one is added to
    numerator and denominator, Davison and Hinkley 1997, chapter 4), at most 1. So, up to 1 / resamples, it is below 1 −
    confidence where the interval excludes zero.

    Raises:
        InputError: fewer than two images, or an argument outside its range.
    """
    if resamples < 1 or not 0 < confidence < 1:
        raise InputError(
            f"got {resamples} resamples and confidence {confidence}, expected at least 1 and a confidence between 0 and"
            " 1, such as 0.95"
        )
    if images < 2:
        raise InputError(f"got {images} image, expected at least 2: the bootstrap resamples images")
    once = np.ones((1, images), dtype=np.int64)
    whole = float(candidate(once)[0]), float(baseline(once)[0])
    differences = _resampled_scores(
        lambda weights: candidate(weights) - baseline(weights), images, resamples, seed, chunk
    )
    differences = differences[~np.isnan(differences)]  # a resample of images without a labelled pixel has no score
    low, high = _quantiles(differences, confidence)
    far = 1 + min((differences <= 0).sum(), (differences >= 0).sum())
    return Comparison(
        metric=metric,
        candidate=whole[0],
        baseline=whole[1],
        difference=whole[0] - whole[1],
        low=low,
        high=high,
        p_value=min(1.0, float(2 * far / (len(differences) + 1))),
        confidence=confidence,
        images=images,
        resamples=resamples,
    )


def interval(score: Resampled, images: int, resamples: int = 10_000) -> tuple[float, float]:
    """95 % percentile interval of one model's score over sets of images drawn with replacement; arguments as
    ``compare``.

    NaN where no set has a score.
    """
    scores = _resampled_scores(score, images, resamples)
    return _quantiles(scores[~np.isnan(scores)], 0.95)


def _quantiles(scores: NDArray[np.float64], confidence: float) -> tuple[float, float]:
    """Between which the middle ``confidence`` of the scores lies; NaN without scores."""
    if not len(scores):
        return math.nan, math.nan
    low, high = np.quantile(scores, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _resampled_scores(
    score: Resampled, images: int, resamples: int, seed: int = 0, chunk: int = 256
) -> NDArray[np.float64]:
    """The score of each resample ``(resamples,)``, of ``chunk`` resamples at a time (at least one)."""
    random, scores, step = np.random.default_rng(seed), np.empty(resamples), max(chunk, 1)
    for start in range(0, resamples, step):
        weights = draw(random, images, min(step, resamples - start))
        scores[start : start + len(weights)] = score(weights)
    return scores


def statistics(image_counts: ArrayLike) -> NDArray[np.float64]:
    """Per-image counts (N, C, C) -> (N, 3, C): hits, true and predicted pixels, all that the scores need.

    As float64 for matrix products: sums of integers below 2^53 are exact in any order, so the result does not depend
    on the number of threads.
    """
    return np.stack(marginals(stack(image_counts)), axis=1).astype(np.float64)


def require_same_images(candidate: NDArray, baseline: NDArray) -> None:
    """Check that the ``statistics`` of two models are of the same images.

    Raises:
        InputError: they are not, there are fewer than two images, or none has a labelled pixel.
    """
    if candidate.shape != baseline.shape:
        (n, _, c), (m, _, d) = candidate.shape, baseline.shape
        raise InputError(
            f"candidate has {n} images of {c} classes and baseline {m} of {d}, expected the same images: evaluate both"
            " models on one data set"
        )
    if len(candidate) < 2:
        raise InputError(f"got {len(candidate)} image, expected at least 2: the bootstrap resamples images")
    different = np.flatnonzero((candidate[:, 1] != baseline[:, 1]).any(-1))
    if different.size:
        raise InputError(
            f"true pixels of image {different[0]} ({different.size} in all) differ between candidate and baseline,"
            " expected the same images in one order: evaluate both models on one data set"
        )
    if not candidate[:, 1].any():
        raise InputError(
            f"none of the {len(candidate)} images has a labelled pixel, expected some: check the ignore index"
        )


def draw(random: np.random.Generator, images: int, resamples: int) -> NDArray[np.int64]:
    """How often each image is drawn in each resample ``(resamples, images)``; each row sums to ``images``."""
    drawn = random.integers(images, size=(resamples, images), dtype=np.int64)
    drawn += np.arange(resamples)[:, None] * images
    return np.bincount(drawn.reshape(-1), minlength=resamples * images).reshape(resamples, images)


def _score(
    model: NDArray[np.float64], score: Callable[..., NDArray], weights: NDArray[np.int64]
) -> NDArray[np.float64]:
    return score(*resampled(model, weights))


def resampled(model: NDArray[np.float64], weights: NDArray[np.int64]) -> tuple[NDArray, NDArray, NDArray]:
    """Hits, true and predicted pixels of each resample, (resamples, C) each, of (N, 3, C) as ``statistics`` gives."""
    hits, truth, predicted = (
        (weights.astype(np.float64) @ model.reshape(len(model), -1)).reshape(len(weights), 3, -1).swapaxes(0, 1)
    )
    return hits, truth, predicted
