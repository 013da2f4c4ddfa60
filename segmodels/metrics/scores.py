"""Scores of a confusion matrix: int ``(C, C)``, rows = truth, columns = prediction, over whatever the counts were
summed over.

Sum the counts over a data set and take the score once: that is the *dataset-level* score that papers and benchmarks
report. Scores averaged over images have names that begin with ``mean_per_image`` and take a stack ``(N, C, C)``.

Absent classes: where a score's denominator is zero it is undefined. ``absent`` says what then:
``"skip"`` (default) NaN per class, and left out of means; ``"zero"`` and ``"one"`` that value, in means too.
``absent_classes`` lists them.

Formulas: Long, Shelhamer, Darrell 2015 "Fully Convolutional Networks for Semantic Segmentation", section 5
(n_ij: pixels of class i predicted as j, t_i = Σ_j n_ij).
Counts are exact up to 2^53 pixels in all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from segmodels.errors import InputError
from segmodels.metrics.ratios import (
    Absent,
    frequency_weighted,
    iou_terms,
    marginals,
    matrix,
    mean,
    means,
    ratio,
    stack,
)

__all__ = [
    "absent_classes",
    "binary_scores",
    "class_pixel_accuracy",
    "dice",
    "f1",
    "frequency_weighted_iou",
    "iou",
    "mean_dice",
    "mean_f1",
    "mean_iou",
    "mean_per_image_dice",
    "mean_per_image_iou",
    "mean_per_image_pixel_accuracy",
    "mean_pixel_accuracy",
    "mean_precision",
    "mean_recall",
    "one_versus_rest",
    "per_class",
    "pixel_accuracy",
    "precision",
    "recall",
    "summary",
]


def pixel_accuracy(counts: ArrayLike) -> float:
    """PA = Σ_i n_ii / Σ_i t_i (Long 2015), binary (TP + TN) / (TP + FP + FN + TN): share of all pixels that are right;
    large classes decide.

    NaN without pixels.
    """
    counts = matrix(counts)
    return float(ratio(np.trace(counts), counts.sum(), "skip"))


def class_pixel_accuracy(counts: ArrayLike, absent: Absent = "skip") -> NDArray[np.float64]:
    """CPA_i = n_ii / t_i (Long 2015), the benchmarks' "Acc": share of each class's own pixels that were found ``(C,)``;
    the same as recall.

    Some texts divide by the column sum instead (of the pixels predicted as class i, how many are right): that is
    ``precision``.
    """
    return recall(counts, absent)


def mean_pixel_accuracy(counts: ArrayLike, absent: Absent = "skip") -> float:
    """MPA (Long 2015), the benchmarks' "mAcc": mean over classes of the class pixel accuracy; small classes weigh as
    much as large ones.

    The form with column sums is ``mean_precision``.
    """
    return mean(class_pixel_accuracy(counts, absent))


def iou(counts: ArrayLike, absent: Absent = "skip") -> NDArray[np.float64]:
    """IoU_i = n_ii / (t_i + Σ_j n_ji − n_ii) = TP / (TP + FP + FN) (Jaccard 1912): overlap of each class's true and
    predicted region ``(C,)``.

    Undefined where a class is neither true nor predicted.
    """
    return ratio(*iou_terms(*marginals(matrix(counts))), absent)


def mean_iou(counts: ArrayLike, absent: Absent = "skip") -> float:
    """MIoU (Long 2015; Everingham 2015): mean of IoU over classes; what papers and benchmarks of semantic segmentation
    report.
    """
    return mean(iou(counts, absent))


def frequency_weighted_iou(counts: ArrayLike) -> float:
    """FWIoU = Σ_i t_i IoU_i / Σ_k t_k (Long 2015): IoU with each class weighted by its share of true pixels; when large
    classes matter most.

    Classes without true pixels have weight 0. NaN without pixels.
    """
    return float(frequency_weighted(*marginals(matrix(counts))))


def dice(counts: ArrayLike, absent: Absent = "skip") -> NDArray[np.float64]:
    """Dice_i = 2 TP / (2 TP + FP + FN) (Dice 1945) ``(C,)``: overlap as medical imaging reports it; milder on small
    overlaps than IoU.

    Undefined where a class is neither true nor predicted; nothing is added to avoid that.
    Per class and for hard masks this is F1 and 2 IoU / (1 + IoU). Neither holds for means over classes or images, nor
    for soft masks.
    """
    hits, truth, predicted = marginals(matrix(counts))
    return ratio(2 * hits, truth + predicted, absent)


def mean_dice(counts: ArrayLike, absent: Absent = "skip") -> float:
    """Mean of Dice over classes; not 2 MIoU / (1 + MIoU)."""
    return mean(dice(counts, absent))


def precision(counts: ArrayLike, absent: Absent = "skip") -> NDArray[np.float64]:
    """n_ii / Σ_j n_ji = TP / (TP + FP) (van Rijsbergen 1979) ``(C,)``: of the pixels predicted as a class, how many
    are; when false alarms cost.

    Undefined for classes never predicted.
    """
    hits, _, predicted = marginals(matrix(counts))
    return ratio(hits, predicted, absent)


def mean_precision(counts: ArrayLike, absent: Absent = "skip") -> float:
    """Mean of precision over classes; some texts' "mean pixel accuracy"."""
    return mean(precision(counts, absent))


def recall(counts: ArrayLike, absent: Absent = "skip") -> NDArray[np.float64]:
    """n_ii / t_i = TP / (TP + FN) (van Rijsbergen 1979) ``(C,)``: of the pixels of a class, how many were found; when
    misses cost.

    Undefined for classes without true pixels.
    """
    hits, truth, _ = marginals(matrix(counts))
    return ratio(hits, truth, absent)


def mean_recall(counts: ArrayLike, absent: Absent = "skip") -> float:
    """Mean of recall over classes; the same as the mean pixel accuracy."""
    return mean(recall(counts, absent))


def f1(counts: ArrayLike, absent: Absent = "skip") -> NDArray[np.float64]:
    """F1 (van Rijsbergen 1979) ``(C,)``: harmonic mean of precision and recall, which for hard masks is Dice; 0 for a
    true class never predicted.
    """
    return dice(counts, absent)


def mean_f1(counts: ArrayLike, absent: Absent = "skip") -> float:
    """Mean of F1 over classes; not the harmonic mean of mean precision and mean recall."""
    return mean(f1(counts, absent))


def absent_classes(counts: ArrayLike) -> list[int]:
    """Classes that are neither true nor predicted anywhere: those that ``mean_iou`` leaves out."""
    _, truth, predicted = marginals(matrix(counts))
    return np.flatnonzero(truth + predicted == 0).tolist()


def summary(counts: ArrayLike, absent: Absent = "skip") -> dict[str, float]:
    """The dataset-level scores by name. ``mean_recall`` and ``mean_f1`` would repeat ``mean_pixel_accuracy`` and
    ``mean_dice``.
    """
    return {
        "pixel_accuracy": pixel_accuracy(counts),
        "mean_pixel_accuracy": mean_pixel_accuracy(counts, absent),
        "mean_iou": mean_iou(counts, absent),
        "frequency_weighted_iou": frequency_weighted_iou(counts),
        "mean_dice": mean_dice(counts, absent),
        "mean_precision": mean_precision(counts, absent),
    }


def per_class(counts: ArrayLike, names: Sequence[str], absent: Absent = "skip") -> list[dict[str, Any]]:
    """One row per class: name, true and predicted pixels, iou, dice, precision, recall (the class pixel accuracy).

    Raises:
        InputError: not one name per class.
    """
    counts = matrix(counts)
    if len(names) != len(counts):
        raise InputError(
            f"got {len(names)} class names for a confusion matrix of {len(counts)} classes, expected one each"
        )
    scores = {
        "iou": iou(counts, absent),
        "dice": dice(counts, absent),
        "precision": precision(counts, absent),
        "recall": recall(counts, absent),
    }
    return [
        {"class": name, "pixels": int(counts[i].sum()), "predicted_pixels": int(counts[:, i].sum())}
        | {score: float(values[i]) for score, values in scores.items()}
        for i, name in enumerate(names)
    ]


def one_versus_rest(counts: ArrayLike, positive: int) -> NDArray[np.int64]:
    """Binary counts [[TN, FP], [FN, TP]] of class ``positive`` against all others together."""
    counts = matrix(counts)
    if not 0 <= positive < len(counts):
        raise InputError(
            f"class {positive} is not in a confusion matrix of {len(counts)} classes, expected 0..{len(counts) - 1}"
        )
    hits, truth, predicted = (int(values[positive]) for values in marginals(counts))
    return np.array([[counts.sum() - truth - predicted + hits, predicted - hits], [truth - hits, hits]])


def binary_scores(counts: ArrayLike, absent: Absent = "skip") -> dict[str, float]:
    """Scores of two classes, 1 being the positive one: accuracy, iou, dice (= F1), precision, recall (sensitivity),
    specificity TN / (TN + FP).

    Two empty masks: ``absent`` says what iou and dice are (with "one" they count as agreement).

    Raises:
        InputError: not 2 × 2 counts.
    """
    counts = matrix(counts)
    if len(counts) != 2:
        raise InputError(
            f"got a confusion matrix of {len(counts)} classes, expected 2: take one_versus_rest of it first"
        )
    specificity, sensitivity = recall(counts, absent)
    return {
        "accuracy": pixel_accuracy(counts),
        "iou": float(iou(counts, absent)[1]),
        "dice": float(dice(counts, absent)[1]),
        "precision": float(precision(counts, absent)[1]),
        "recall": float(sensitivity),
        "specificity": float(specificity),
    }


def mean_per_image_pixel_accuracy(image_counts: ArrayLike) -> float:
    """Mean over images of each image's pixel accuracy, of counts (N, C, C): when every image weighs the same, whatever
    its labelled area.

    Images without a labelled pixel are left out.
    """
    hits, truth, _ = marginals(stack(image_counts))
    return mean(ratio(hits.sum(-1), truth.sum(-1), "skip"))


def mean_per_image_iou(image_counts: ArrayLike, absent: Absent = "skip") -> float:
    """Mean over images of each image's mean IoU, of counts (N, C, C): when every image weighs the same; not the
    benchmarks' mean IoU.

    ``mean_iou`` sums the counts of all images first. Images without a labelled pixel are left out, unless ``absent``
    gives their classes a value.
    """
    return mean(means(ratio(*iou_terms(*marginals(stack(image_counts))), absent)))


def mean_per_image_dice(image_counts: ArrayLike, absent: Absent = "skip") -> float:
    """Mean over images of each image's mean Dice, of counts (N, C, C): what medical challenges report per case; not
    Dice of the summed counts.

    Images without a labelled pixel are left out, unless ``absent`` gives their classes a value.
    """
    hits, truth, predicted = marginals(stack(image_counts))
    return mean(means(ratio(2 * hits, truth + predicted, absent)))
