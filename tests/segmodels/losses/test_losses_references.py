"""Agreement with independent implementations: torch, MONAI, kornia, and plain loops in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from loss_cases import one_hot, regions, scores, value_and_gradient
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from segmodels.losses import create_loss

CLASSES = 5
Reference = Callable[[Tensor, Tensor], Tensor]


def inputs(seed: int = 0, shape: tuple[int, ...] = (3, 16, 24)) -> tuple[Tensor, Tensor]:
    """Logits and target; every class is in every image, the first is over-predicted."""
    target = regions(seed, CLASSES, shape)
    logits = scores(seed, target, CLASSES)
    logits[:, 0] += 1
    return logits, target


def monai(name: str, **options: Any) -> Reference:
    def loss(logits: Tensor, target: Tensor) -> Tensor:
        import monai.losses

        return getattr(monai.losses, name)(to_onehot_y=True, **options)(logits, target[:, None])

    return loss


def kornia(name: str, **options: Any) -> Reference:
    def loss(logits: Tensor, target: Tensor) -> Tensor:
        import kornia.losses

        return getattr(kornia.losses, name)(logits, target, **options)

    return loss


WEIGHTS = [0.5, 1.0, 2.0, 3.0, 0.0]
LIBRARIES: list[tuple[str, dict[str, Any], Reference]] = [
    ("cross_entropy", {}, F.cross_entropy),
    ("cross_entropy", {"class_weights": WEIGHTS}, lambda x, y: F.cross_entropy(x, y, weight=torch.tensor(WEIGHTS))),
    ("cross_entropy", {"label_smoothing": 0.1}, lambda x, y: F.cross_entropy(x, y, label_smoothing=0.1)),
    (
        "cross_entropy",
        {"label_smoothing": 0.2, "class_weights": WEIGHTS},
        lambda x, y: F.cross_entropy(x, y, weight=torch.tensor(WEIGHTS), label_smoothing=0.2),
    ),
    ("binary_cross_entropy", {}, lambda x, y: F.binary_cross_entropy_with_logits(x, one_hot(y, CLASSES))),
    (
        "binary_cross_entropy",
        {"class_weights": WEIGHTS},
        lambda x, y: F.binary_cross_entropy_with_logits(
            x, one_hot(y, CLASSES), weight=torch.tensor(WEIGHTS).view(-1, 1, 1)
        ),
    ),
    ("focal", {}, lambda x, y: CLASSES * monai("FocalLoss", use_softmax=True)(x, y)),
    (
        "focal",
        {"gamma": 3.0},
        lambda x, y: kornia("focal_loss", alpha=None, gamma=3.0, reduction="sum")(x, y) / y.numel(),
    ),
    (
        "focal",
        {"class_weights": WEIGHTS},
        lambda x, y: kornia("focal_loss", alpha=None, reduction="sum", weight=torch.tensor(WEIGHTS))(x, y) / y.numel(),
    ),
    ("focal", {"activation": "sigmoid"}, monai("FocalLoss")),
    ("focal", {"activation": "sigmoid", "alpha": 0.25}, monai("FocalLoss", alpha=0.25)),
    ("dice", {"per_image": True}, monai("DiceLoss", softmax=True)),
    ("dice", {}, monai("DiceLoss", softmax=True, batch=True)),
    (
        "dice",
        {"include_background": False, "per_image": True},
        monai("DiceLoss", softmax=True, include_background=False),
    ),
    ("dice", {"squared": True, "per_image": True}, monai("DiceLoss", softmax=True, squared_pred=True)),
    ("dice", {"per_image": True, "smooth": 0.0}, kornia("dice_loss", average="macro")),
    ("dice", {"per_image": True, "smooth": 0.0, "reduction": "micro"}, kornia("dice_loss", average="micro")),
    ("iou", {"per_image": True, "smooth": 0.5e-5}, monai("DiceLoss", softmax=True, jaccard=True)),
    (
        "tversky",
        {"per_image": True, "fp_weight": 0.3, "fn_weight": 0.7},
        monai("TverskyLoss", softmax=True, alpha=0.3, beta=0.7),
    ),
    (
        "tversky",
        {"fp_weight": 0.8, "fn_weight": 0.4},
        monai("TverskyLoss", softmax=True, alpha=0.8, beta=0.4, batch=True),
    ),
    ("generalized_dice", {"per_image": True}, monai("GeneralizedDiceLoss", softmax=True, smooth_nr=0, smooth_dr=0)),
    ("generalized_dice", {"per_image": True, "smooth": 1e-5}, monai("GeneralizedDiceLoss", softmax=True)),
    ("generalized_dice", {"smooth": 1e-5}, monai("GeneralizedDiceLoss", softmax=True, batch=True)),
    ("lovasz_softmax", {"per_image": True}, kornia("lovasz_softmax_loss")),
    ("boundary", {"include_background": False}, monai("BoundaryLoss", softmax=True, include_background=False)),
    ("boundary", {"include_background": True, "reduction": "micro"}, monai("BoundaryLoss", softmax=True)),
    ("hausdorff", {}, monai("HausdorffDTLoss", softmax=True, include_background=True)),
    ("hausdorff", {"alpha": 1.0, "include_background": False}, monai("HausdorffDTLoss", softmax=True, alpha=1.0)),
]


@pytest.mark.parametrize(
    ("name", "options", "reference"), LIBRARIES, ids=[f"{name}-{options}" for name, options, _ in LIBRARIES]
)
def test_value_and_gradient_are_those_of_the_library(name: str, options: dict[str, Any], reference: Reference) -> None:
    logits, target = inputs()
    value, gradient = value_and_gradient(create_loss({name: options}), logits, target)
    expected, slope = value_and_gradient(reference, logits, target)  # type: ignore[arg-type]
    torch.testing.assert_close(value, expected, rtol=2e-5, atol=2e-6)
    torch.testing.assert_close(gradient, slope, rtol=1e-3, atol=2e-6 * float(slope.abs().max()) + 1e-9)


@pytest.mark.parametrize(
    ("name", "options", "reference"),
    [
        each
        for each in LIBRARIES
        if each[0] in ("dice", "iou", "tversky", "generalized_dice")
        and "micro" not in each[1].values()
        and each[1].get("smooth", 1)
    ]
    + [
        ("hausdorff", {}, monai("HausdorffDTLoss", softmax=True, include_background=True)),
        ("cross_entropy", {}, F.cross_entropy),
    ],
)
def test_volumes_agree_too(name: str, options: dict[str, Any], reference: Reference) -> None:
    logits, target = inputs(shape=(2, 8, 8, 8))
    torch.testing.assert_close(
        create_loss({name: options})(logits, target), reference(logits, target), rtol=2e-5, atol=2e-6
    )


def test_lovasz_hinge_agrees_with_kornia() -> None:
    target = regions(1, 2)
    logits = scores(1, target, 2)
    margin = (logits[:, 1] - logits[:, 0])[:, None]
    expected = kornia("lovasz_hinge_loss")(margin, target)
    torch.testing.assert_close(
        create_loss({"lovasz_hinge": {"per_image": True}})(logits, target), expected, rtol=2e-5, atol=2e-6
    )


class Counts:
    """Soft counts of every class, one pixel after the other: rows are images, or the batch."""

    def __init__(self, logits: Tensor, target: Tensor, per_image: bool, power: int = 1) -> None:
        s = logits.double().softmax(1).flatten(2).numpy()
        y = target.flatten(1).numpy()
        images, classes, pixels = s.shape
        self.tp, self.fp, self.fn, self.inside, self.outside = np.zeros((5, images if per_image else 1, classes))
        for b in range(images):
            row = b if per_image else 0
            for i in range(pixels):
                if y[b, i] == 255:
                    continue
                for c in range(classes):
                    if y[b, i] == c:
                        self.inside[row, c] += 1
                        self.tp[row, c] += s[b, c, i]
                        self.fn[row, c] += (1 - s[b, c, i]) ** power
                    else:
                        self.outside[row, c] += 1
                        self.fp[row, c] += s[b, c, i] ** power


def mean_of_present(values: np.ndarray, inside: np.ndarray) -> float:
    return float(np.mean([np.mean(row[there > 0]) for row, there in zip(values, inside, strict=True)]))


@pytest.mark.parametrize("per_image", [False, True])
def test_region_losses_agree_with_loops_where_classes_are_absent_and_pixels_ignored(per_image: bool) -> None:
    logits, target = inputs(2)
    target[0][target[0] == 4] = 1
    target[1, :, 5:9] = 255
    n, squares = Counts(logits, target, per_image), Counts(logits, target, per_image, power=2)
    e = 1e-5
    beta = 1.5**2
    tversky = 1 - (n.tp + e) / (n.tp + 0.3 * n.fp + 0.7 * n.fn + e)
    weights = np.where(n.inside > 0, 1 / np.maximum(n.inside, 1) ** 2, 0)
    generalized = 1 - 2 * (weights * n.tp).sum(1) / (weights * (2 * n.tp + n.fp + n.fn)).sum(1)
    expected = {
        "dice": mean_of_present(1 - (2 * n.tp + e) / (2 * n.tp + n.fp + n.fn + e), n.inside),
        "iou": mean_of_present(1 - (n.tp + e) / (n.tp + n.fp + n.fn + e), n.inside),
        "tversky": mean_of_present(tversky, n.inside),
        "focal_tversky": mean_of_present(tversky**0.75, n.inside),
        "asymmetric_similarity": mean_of_present(
            1 - ((1 + beta) * n.tp + (1 + beta) * e) / ((1 + beta) * (n.tp + e) + beta * n.fn + n.fp), n.inside
        ),
        "sensitivity_specificity": mean_of_present(
            0.05 * squares.fn / (n.inside + e) + 0.95 * squares.fp / (n.outside + e), n.inside
        ),
        "generalized_dice": generalized.mean(),
        "penalty": (3.5 * generalized / (1 + 2.5 * generalized)).mean(),
    }
    for name, value in expected.items():
        assert float(create_loss({name: {"per_image": per_image}})(logits, target)) == pytest.approx(value, rel=2e-5), (
            name
        )


def test_sensitivity_specificity_micro_divides_sums_over_classes() -> None:
    logits, target = inputs(3)
    n = Counts(logits, target, per_image=True, power=2)
    expected = (0.1 * n.fn.sum(1) / n.inside.sum(1) + 0.9 * n.fp.sum(1) / n.outside.sum(1)).mean()
    options = {"sensitivity_weight": 0.1, "reduction": "micro", "per_image": True, "smooth": 0.0}
    assert float(create_loss({"sensitivity_specificity": options})(logits, target)) == pytest.approx(expected, rel=2e-5)


def naive_lovasz(logits: Tensor, target: Tensor) -> float:
    """Σ m_i (Δ_i - Δ_{i-1}) with the Jaccard loss of each set counted anew, mean over the present classes of
    the batch.
    """
    s = logits.double().softmax(1).movedim(1, -1)[target != 255].numpy()
    y = target[target != 255].numpy()
    losses = []
    for c in np.unique(y):
        truth = y == c
        errors = np.abs(truth - s[:, c])
        wrong, before, loss = np.zeros(len(y), bool), 0.0, 0.0
        for i in np.argsort(-errors):
            wrong[i] = True
            delta = wrong.sum() / (truth | wrong).sum()
            loss += errors[i] * (delta - before)
            before = delta
        losses.append(loss)
    return float(np.mean(losses))


def test_lovasz_softmax_agrees_with_its_definition() -> None:
    logits, target = inputs(4)
    target[target == 3] = 0
    target[:, 6:9] = 255
    assert float(create_loss({"lovasz_softmax": 1.0})(logits, target)) == pytest.approx(
        naive_lovasz(logits, target), rel=2e-5
    )


@pytest.mark.parametrize("per_image", [False, True])
def test_compiled_lovasz_gives_the_numbers_of_the_plain_one(per_image: bool) -> None:
    logits, target = inputs(5, (4, 64, 64))
    target[:, 20:25] = 255
    loss = create_loss({"lovasz_softmax": {"per_image": per_image}})
    value, gradient = value_and_gradient(loss, logits, target)
    exact, slope = value_and_gradient(loss, logits.double(), target)  # float64 is not compiled
    torch.testing.assert_close(value.double(), exact, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient.double(), slope, rtol=1e-4, atol=1e-9)


def test_ohem_keeps_hard_pixels_and_at_least_the_worst_share() -> None:
    logits, target = inputs(6)
    target[:, 3] = 255
    values = (
        F.cross_entropy(logits, target, ignore_index=255, reduction="none")[target != 255].sort(descending=True).values
    )
    hard = values[values > -np.log(0.7)]
    torch.testing.assert_close(create_loss({"ohem": 1.0})(logits, target), hard.mean())
    easy = logits + 20 * one_hot(target.where(target != 255, 0), CLASSES)
    values = (
        F.cross_entropy(easy, target, ignore_index=255, reduction="none")[target != 255].sort(descending=True).values
    )
    torch.testing.assert_close(
        create_loss({"ohem": {"min_kept": 0.25}})(easy, target), values[: len(values) // 4].mean()
    )


def test_class_weights_do_not_decide_which_pixels_ohem_takes_for_hard() -> None:
    logits, target = inputs(6)
    target[:, 3] = 255
    weights = torch.tensor([0.05, 8.0, *[1.0] * (CLASSES - 2)])
    values = F.cross_entropy(logits, target, ignore_index=255, reduction="none")[target != 255]
    weighted = weights[target[target != 255]] * values
    for threshold, min_kept in ((0.7, 0.0), (1e-3, 0.25)):
        kept = values.sort(descending=True).values[int(len(values) * min_kept)]
        loss = create_loss({"ohem": {"threshold": threshold, "min_kept": min_kept}}, class_weights=weights)
        expected = weighted[values > min(-np.log(threshold), kept)].mean()
        torch.testing.assert_close(loss(logits, target), expected)


def test_distance_penalized_cross_entropy_agrees_with_a_loop_where_pixels_are_ignored() -> None:
    logits, target = inputs(7)
    target[:, :, 10:13] = 255
    total = []
    for image, names in zip(logits.double(), target.numpy(), strict=True):
        cross_entropy = F.cross_entropy(image[None], torch.from_numpy(names)[None], ignore_index=255, reduction="none")[
            0
        ].numpy()
        for c in set(np.unique(names)) - {255}:
            distance = distance_transform_edt(~((names != c) & (names != 255)))
            inside = names == c
            largest = distance[inside].max()
            total += list(((1 + (largest - distance) / largest) * cross_entropy)[inside])
    assert float(create_loss({"distance_penalized_cross_entropy": 1.0})(logits, target)) == pytest.approx(
        np.mean(total), rel=2e-5
    )


def test_focal_mean_over_pixels_agrees_with_a_loop() -> None:
    logits, target = inputs(8)
    s = logits.double().softmax(1).gather(1, target[:, None]).flatten().tolist()
    expected = np.mean([-((1 - p) ** 2) * np.log(p) for p in s])
    assert float(create_loss({"focal": 1.0})(logits, target)) == pytest.approx(expected, rel=2e-5)
