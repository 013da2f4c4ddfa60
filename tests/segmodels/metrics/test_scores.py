"""Scores of confusion matrices against scikit-learn and torchmetrics, and the conventions that they are named for."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn import metrics as sklearn
from torchmetrics import classification, segmentation

from segmodels import metrics
from segmodels.errors import InputError
from segmodels.metrics import ConfusionMatrix

EXAMPLE = np.array([[3, 0, 1], [0, 2, 0], [0, 1, 2]])  # rows = truth: t = 4, 2, 3; predicted 3, 3, 3
PER_CLASS = [metrics.class_pixel_accuracy, metrics.iou, metrics.dice, metrics.precision, metrics.recall, metrics.f1]
MEANS = [
    metrics.mean_pixel_accuracy,
    metrics.mean_iou,
    metrics.mean_dice,
    metrics.mean_precision,
    metrics.mean_recall,
    metrics.mean_f1,
]

matrices = st.integers(2, 6).flatmap(
    lambda classes: arrays(np.int64, (classes, classes), elements=st.integers(0, 50) | st.just(0))
)


@pytest.fixture(scope="module")
def case():
    """PixelOutput, target (8, 64, 64) and counts of five classes of which class 4 is absent, 255 ignored."""
    random = np.random.default_rng(3)
    target = random.choice([0, 1, 2, 3, 255], p=[0.5, 0.3, 0.1, 0.05, 0.05], size=(8, 64, 64))
    prediction = np.where(
        random.random(target.shape) < 0.4, random.integers(0, 4, target.shape), np.where(target == 255, 0, target)
    )
    return prediction, target, ConfusionMatrix.from_maps(prediction, target, 5).counts


@pytest.fixture(scope="module")
def labels(case):
    """The same as flat arrays of the pixels that count: truth first, as scikit-learn takes them."""
    prediction, target, _ = case
    return target[target != 255], prediction[target != 255]


def test_pixel_accuracy_equals_scikit_learn_and_torchmetrics(case, labels):
    prediction, target, counts = case
    assert metrics.pixel_accuracy(counts) == pytest.approx(sklearn.accuracy_score(*labels), abs=1e-12)
    micro = classification.MulticlassAccuracy(5, average="micro", ignore_index=255)(
        torch.from_numpy(prediction), torch.from_numpy(target)
    )
    assert metrics.pixel_accuracy(counts) == pytest.approx(micro.item(), abs=1e-6)


def test_mean_pixel_accuracy_equals_balanced_accuracy_and_macro_accuracy(case, labels):
    prediction, target, counts = case
    assert metrics.mean_pixel_accuracy(counts) == pytest.approx(sklearn.balanced_accuracy_score(*labels), abs=1e-12)
    macro = classification.MulticlassAccuracy(5, average="macro", ignore_index=255)(
        torch.from_numpy(prediction), torch.from_numpy(target)
    )
    assert metrics.mean_pixel_accuracy(counts) == pytest.approx(macro.item(), abs=1e-6)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (metrics.iou, sklearn.jaccard_score),
        (metrics.dice, sklearn.f1_score),
        (metrics.f1, sklearn.f1_score),
        (metrics.precision, sklearn.precision_score),
        (metrics.recall, sklearn.recall_score),
        (metrics.class_pixel_accuracy, sklearn.recall_score),
    ],
)
def test_scores_per_class_equal_scikit_learn_and_absent_classes_follow_the_convention(case, labels, ours, theirs):
    _, _, counts = case
    assert metrics.absent_classes(counts) == [4]
    assert np.isnan(ours(counts)[4])
    for absent, value in (("zero", 0), ("one", 1)):
        expected = theirs(*labels, labels=range(5), average=None, zero_division=value)
        np.testing.assert_allclose(ours(counts, absent=absent), expected, atol=1e-12)


def test_mean_iou_equals_torchmetrics_and_scikit_learn_in_each_convention(case, labels):
    prediction, target, counts = case
    jaccard = classification.MulticlassJaccardIndex(5, average="macro", ignore_index=255)(
        torch.from_numpy(prediction), torch.from_numpy(target)
    )
    assert metrics.mean_iou(counts) == pytest.approx(jaccard.item(), abs=1e-6)
    assert metrics.mean_iou(counts) == pytest.approx(sklearn.jaccard_score(*labels, average="macro"), abs=1e-12)
    assert metrics.mean_iou(counts, absent="zero") == pytest.approx(
        sklearn.jaccard_score(*labels, labels=range(5), average="macro", zero_division=0)
    )
    assert metrics.mean_iou(counts, absent="one") == pytest.approx(
        sklearn.jaccard_score(*labels, labels=range(5), average="macro", zero_division=1)
    )


def test_frequency_weighted_iou_equals_the_weighted_jaccard_index(case, labels):
    prediction, target, counts = case
    jaccard = classification.MulticlassJaccardIndex(5, average="weighted", ignore_index=255)(
        torch.from_numpy(prediction), torch.from_numpy(target)
    )
    assert metrics.frequency_weighted_iou(counts) == pytest.approx(jaccard.item(), abs=1e-6)
    assert metrics.frequency_weighted_iou(counts) == pytest.approx(
        sklearn.jaccard_score(*labels, average="weighted"), abs=1e-12
    )


def test_mean_precision_and_mean_dice_equal_scikit_learn(case, labels):
    _, _, counts = case
    assert metrics.mean_precision(counts) == pytest.approx(sklearn.precision_score(*labels, average="macro"), abs=1e-12)
    assert (
        metrics.mean_dice(counts)
        == metrics.mean_f1(counts)
        == pytest.approx(sklearn.f1_score(*labels, average="macro"), abs=1e-12)
    )


def test_m1_class_pixel_accuracy_divides_by_true_pixels_and_precision_by_predicted_ones():
    np.testing.assert_allclose(metrics.class_pixel_accuracy(EXAMPLE), [3 / 4, 2 / 2, 2 / 3])
    np.testing.assert_allclose(metrics.precision(EXAMPLE), [3 / 3, 2 / 3, 2 / 3])
    assert metrics.mean_pixel_accuracy(EXAMPLE) == metrics.mean_recall(EXAMPLE) == pytest.approx(0.8056, abs=5e-5)
    assert metrics.mean_precision(EXAMPLE) == pytest.approx(0.7778, abs=5e-5)


def test_m2_an_absent_class_is_skipped_not_counted_as_zero_and_is_listed():
    counts = np.array([[6, 2, 0], [0, 2, 0], [0, 0, 0]])
    np.testing.assert_allclose(metrics.iou(counts), [6 / 8, 2 / 4, np.nan])
    assert metrics.mean_iou(counts) == (6 / 8 + 2 / 4) / 2
    assert metrics.mean_iou(counts, absent="zero") == (6 / 8 + 2 / 4) / 3
    assert metrics.mean_iou(counts, absent="one") == (6 / 8 + 2 / 4 + 1) / 3
    assert metrics.absent_classes(counts) == [2]


def test_m3_no_division_warns_even_without_any_pixel():
    empty = np.zeros((3, 3), dtype=np.int64)
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        for score in PER_CLASS:
            assert np.isnan(score(empty)).all()
            assert (score(empty, absent="one") == 1).all()
        for score in [*MEANS, metrics.pixel_accuracy, metrics.frequency_weighted_iou]:
            assert np.isnan(score(empty))


def test_m4_binary_accuracy_divides_by_true_and_false_positives_and_negatives():
    (tn, fp), (fn, tp) = counts = np.array([[50, 7], [11, 32]])
    scores = metrics.binary_scores(counts)
    assert scores["accuracy"] == (tp + tn) / (tp + fp + fn + tn)
    assert scores["precision"] == tp / (tp + fp)
    assert scores["recall"] == tp / (tp + fn)
    assert scores["specificity"] == tn / (tn + fp)
    assert scores["iou"] == tp / (tp + fp + fn)
    assert scores["dice"] == 2 * tp / (2 * tp + fp + fn)


def test_m5_nothing_smooths_the_dice_of_small_masks_and_two_empty_masks_are_a_stated_case():
    one_pixel_missed = np.array([[99, 0], [1, 0]])  # smoothing with 1 would make it (0 + 1) / (1 + 1) = 0.5
    assert metrics.binary_scores(one_pixel_missed)["dice"] == 0
    both_empty = np.array([[100, 0], [0, 0]])
    assert np.isnan(metrics.binary_scores(both_empty)["dice"])
    assert metrics.binary_scores(both_empty, absent="one")["dice"] == 1
    assert metrics.binary_scores(both_empty, absent="zero")["dice"] == 0


@given(matrices)
def test_m6_dice_is_f1_and_2_iou_over_1_plus_iou_per_class(counts):
    overlap, precision, recall = metrics.iou(counts), metrics.precision(counts), metrics.recall(counts)
    np.testing.assert_allclose(metrics.dice(counts), 2 * overlap / (1 + overlap))
    defined = precision + recall > 0
    np.testing.assert_allclose(
        metrics.f1(counts)[defined], (2 * precision * recall / np.where(defined, precision + recall, 1))[defined]
    )


def test_m6_dice_is_not_2_iou_over_1_plus_iou_for_means():
    mean_iou = metrics.mean_iou(EXAMPLE)
    assert abs(metrics.mean_dice(EXAMPLE) - 2 * mean_iou / (1 + mean_iou)) > 1e-3
    mean_precision, mean_recall = metrics.mean_precision(EXAMPLE), metrics.mean_recall(EXAMPLE)
    assert abs(metrics.mean_f1(EXAMPLE) - 2 * mean_precision * mean_recall / (mean_precision + mean_recall)) > 1e-3


def test_scores_of_the_data_set_and_means_per_image_are_different_numbers(case):
    prediction, target, counts = case
    target = np.where(target == 255, 0, target)  # torchmetrics.segmentation ignores nothing
    images = np.stack([ConfusionMatrix.from_maps(p, t, 4).counts for p, t in zip(prediction, target, strict=True)])
    per_image = segmentation.MeanIoU(4, per_class=False, input_format="index")(
        torch.from_numpy(prediction), torch.from_numpy(target)
    )
    assert metrics.mean_per_image_iou(images) == pytest.approx(per_image.item(), abs=1e-6)
    per_image = segmentation.DiceScore(4, average="macro", input_format="index")(
        torch.from_numpy(prediction), torch.from_numpy(target)
    )
    assert metrics.mean_per_image_dice(images) == pytest.approx(per_image.item(), abs=1e-6)
    assert abs(metrics.mean_per_image_iou(images) - metrics.mean_iou(images.sum(0))) > 1e-5
    assert counts.sum() < images.sum()


def test_means_per_image_leave_out_images_without_a_labelled_pixel():
    images = np.stack([EXAMPLE, np.zeros((3, 3), dtype=int), np.diag([5, 0, 0])])
    assert metrics.mean_per_image_pixel_accuracy(images) == pytest.approx((7 / 9 + 1) / 2)
    assert metrics.mean_per_image_iou(images) == pytest.approx((metrics.mean_iou(EXAMPLE) + 1) / 2)
    assert metrics.mean_per_image_iou(images, absent="zero") == pytest.approx(
        (metrics.mean_iou(EXAMPLE) + 0 + 1 / 3) / 3
    )
    assert metrics.mean_per_image_dice(images) == pytest.approx((metrics.mean_dice(EXAMPLE) + 1) / 2)


@given(matrices, st.randoms())
def test_scores_are_shares_and_do_not_depend_on_the_order_of_classes(counts, random):
    order = list(range(len(counts)))
    random.shuffle(order)
    shuffled = counts[np.ix_(order, order)]
    for score in PER_CLASS:
        assert ((score(counts, absent="zero") >= 0) & (score(counts, absent="zero") <= 1)).all()
        np.testing.assert_array_equal(score(shuffled), score(counts)[order])
    for name, value in metrics.summary(counts).items():
        assert metrics.summary(shuffled)[name] == pytest.approx(value, nan_ok=True)
        assert np.isnan(value) or 0 <= value <= 1 + 1e-12
    np.testing.assert_array_equal(metrics.precision(counts), metrics.recall(counts.T))


@given(matrices)
def test_a_class_against_the_rest_has_the_scores_that_it_has_among_all(counts):
    for i in range(len(counts)):
        binary = metrics.one_versus_rest(counts, i)
        assert binary.sum() == counts.sum()
        scores = metrics.binary_scores(binary)
        for score in (metrics.iou, metrics.dice, metrics.precision, metrics.recall):
            np.testing.assert_array_equal(scores[score.__name__], score(counts)[i])


def test_scores_are_exact_at_ten_to_the_fifteen_pixels():
    counts = np.array([[10**15 - 1, 1], [0, 0]])
    assert 1 - metrics.pixel_accuracy(counts) == pytest.approx(1e-15, rel=0.2)
    np.testing.assert_array_equal(metrics.precision(counts), [1, 0])
    assert metrics.dice(np.diag([200, 100]).astype(np.uint8))[0] == 1  # 2 * 200 in uint8 would wrap


def test_summary_and_rows_per_class_tell_the_same(case):
    _, _, counts = case
    rows = metrics.per_class(counts, ["sky", "road", "car", "person", "train"])
    assert [row["class"] for row in rows] == ["sky", "road", "car", "person", "train"]
    assert sum(row["pixels"] for row in rows) == sum(row["predicted_pixels"] for row in rows) == counts.sum()
    summary = metrics.summary(counts)
    assert np.nanmean([row["iou"] for row in rows]) == pytest.approx(summary["mean_iou"])
    assert np.nanmean([row["recall"] for row in rows]) == pytest.approx(summary["mean_pixel_accuracy"])
    assert np.nanmean([row["precision"] for row in rows]) == pytest.approx(summary["mean_precision"])
    assert np.nanmean([row["dice"] for row in rows]) == pytest.approx(summary["mean_dice"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.mean_iou(np.stack([EXAMPLE] * 2)), "sum over images, or use a mean_per_image score"),
        (lambda: metrics.mean_per_image_iou(EXAMPLE), "one matrix per image"),
        (lambda: metrics.iou(EXAMPLE / EXAMPLE.sum()), "pass counts, not shares"),
        (lambda: metrics.iou(EXAMPLE[:2]), "expected square"),
        (lambda: metrics.iou(EXAMPLE, absent="nan"), "absent is 'nan', expected one of"),
        (lambda: metrics.binary_scores(EXAMPLE), "take one_versus_rest"),
        (lambda: metrics.one_versus_rest(EXAMPLE, 3), "class 3 is not in"),
        (lambda: metrics.per_class(EXAMPLE, ["a", "b"]), "2 class names for a confusion matrix of 3"),
    ],
)
def test_what_is_no_confusion_matrix_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
