"""Whether one model is better than another, or only luckier with the images: the paired bootstrap over images.

Both models' per-image confusion matrices of the same test images are resampled together, images with replacement, and
the dataset-level score of each resample is taken anew. Efron and Tibshirani 1993, "An Introduction to the Bootstrap",
chapter 13 (percentile interval); paired over test items as in Koehn 2004, "Statistical Significance Tests for Machine
Translation Evaluation".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from segmodels.errors import InputError
from segmodels.metrics.scores import frequency_weighted, iou_terms, marginals, means, ratio, stack

MEMORY = 1 << 26  # bytes that one chunk of resamples may take


@dataclass(frozen=True)
class Comparison:
    """Outcome of a paired bootstrap; scores are shares of 1.

    Attributes:
        metric: "mean_iou" or "frequency_weighted_iou".
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


def mean_iou_of(hits: NDArray, truth: NDArray, predicted: NDArray) -> NDArray[np.float64]:
    return means(ratio(*iou_terms(hits, truth, predicted), "skip"))


SCORES: dict[str, Callable[[NDArray, NDArray, NDArray], NDArray[np.float64]]] = {
    "mean_iou": mean_iou_of,
    "frequency_weighted_iou": frequency_weighted,
}


def paired_bootstrap(
    candidate: ArrayLike,
    baseline: ArrayLike,
    metric: Literal["mean_iou", "frequency_weighted_iou"] = "mean_iou",
    resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Compare two models on the same images.

    Args:
        candidate, baseline: per-image counts ``(N, C, C)``, rows = truth, of the same images in the same order.
        metric: the dataset-level score to compare; classes absent from a resample are left out of its mean.
        resamples: how often N images are drawn with replacement. The p-value is no smaller than 2 / (resamples + 1).
        confidence: level of the interval, in (0, 1).
        seed: of the draws; the same seed gives the same result.

    The p-value is twice the share of resamples on the far side of zero (both sides include zero; one is added to
    numerator and denominator, Davison and Hinkley 1997, chapter 4), at most 1. So, up to 1 / resamples, it is below 1 −
    confidence where the interval excludes zero.

    Raises:
        InputError: fewer than two images, different images (the true pixels differ), no labelled pixel, or an argument
            outside its range.
    """
    if metric not in SCORES:
        raise InputError(f"metric is {metric!r}, expected one of {list(SCORES)}")
    if resamples < 1 or not 0 < confidence < 1:
        raise InputError(
            f"got {resamples} resamples and confidence {confidence}, expected at least 1 and a confidence between 0 and"
            " 1, such as 0.95"
        )
    models = statistics(candidate), statistics(baseline)
    require_same_images(*models)
    score = SCORES[metric]
    images, _, classes = models[0].shape
    whole = [float(score(*model.sum(0))) for model in models]
    differences = np.empty(resamples)
    chunk = max(1, MEMORY // (8 * (3 * images + 20 * classes)))
    random = np.random.default_rng(seed)
    for start in range(0, resamples, chunk):
        weights = draw(random, images, min(chunk, resamples - start))
        drawn = [score(*resampled(model, weights)) for model in models]
        differences[start : start + chunk] = drawn[0] - drawn[1]
    differences = differences[~np.isnan(differences)]  # a resample of images without a labelled pixel has no score
    low, high = np.quantile(differences, [(1 - confidence) / 2, (1 + confidence) / 2])
    far = 1 + min((differences <= 0).sum(), (differences >= 0).sum())
    return Comparison(
        metric=metric,
        candidate=whole[0],
        baseline=whole[1],
        difference=whole[0] - whole[1],
        low=float(low),
        high=float(high),
        p_value=min(1.0, float(2 * far / (len(differences) + 1))),
        confidence=confidence,
        images=images,
        resamples=resamples,
    )


def statistics(image_counts: ArrayLike) -> NDArray[np.float64]:
    """Per-image counts (N, C, C) -> (N, 3, C): hits, true and predicted pixels, all that the scores need.

    As float64 for matrix products: sums of integers below 2^53 are exact in any order, so the result depends on no
        thread count.
    """
    return np.stack(marginals(stack(image_counts)), axis=1).astype(np.float64)


def require_same_images(candidate: NDArray, baseline: NDArray) -> None:
    if candidate.shape != baseline.shape:
        (n, _, c), (m, _, d) = candidate.shape, baseline.shape
        raise InputError(
            f"candidate has {n} images of {c} classes and baseline {m} of {d}, expected the same images: evaluate both"
            " models on one data set"
        )
    if len(candidate) < 2:
        raise InputError(f"got {len(candidate)} image, expected at least 2: resampling one image says nothing")
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


def draw(random: np.random.Generator, images: int, resamples: int) -> NDArray[np.float64]:
    """How often each image is drawn in each resample ``(resamples, images)``; each row sums to ``images``."""
    drawn = random.integers(images, size=(resamples, images), dtype=np.int64)
    drawn += np.arange(resamples)[:, None] * images
    return np.bincount(drawn.reshape(-1), minlength=resamples * images).reshape(resamples, images).astype(np.float64)


def resampled(model: NDArray[np.float64], weights: NDArray[np.float64]) -> tuple[NDArray, NDArray, NDArray]:
    """Hits, true and predicted pixels of each resample, (resamples, C) each."""
    hits, truth, predicted = (weights @ model.reshape(len(model), -1)).reshape(len(weights), 3, -1).swapaxes(0, 1)
    return hits, truth, predicted
