"""Distance maps, border weights, structural similarity, class weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from loss_cases import one_hot, perfect_scores, regions, scores
from scipy.ndimage import distance_transform_edt

from segmodels.errors import InputError
from segmodels.losses import create_loss
from segmodels.losses.border import border_weight_map, connected_regions
from segmodels.losses.distance import class_distances, distance_to
from segmodels.losses.structural import EXPONENTS, MultiScaleStructuralSimilarityLoss
from segmodels.training.class_weights import class_weights


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (37, 53), (300, 1500), (5, 9, 11)])
@pytest.mark.parametrize("share", [0.001, 0.5])
def test_distances_are_exact(shape: tuple[int, ...], share: float) -> None:
    region = np.random.default_rng(0).random(shape) < share
    region[tuple(side // 2 for side in shape)] = True
    np.testing.assert_allclose(distance_to(region), distance_transform_edt(~region), rtol=1e-6)


def test_distance_to_nothing_is_0_and_to_everything_too() -> None:
    for shape in ((6, 7), (3, 4, 5)):
        assert not distance_to(np.zeros(shape, bool)).any()
        assert not distance_to(np.ones(shape, bool)).any()


@pytest.mark.parametrize("shape", [(2, 24, 32), (1, 6, 8, 8)])
def test_class_distances_are_those_of_one_transform_per_region(shape: tuple[int, ...]) -> None:
    labels = torch.randint(0, 11, shape, generator=torch.Generator().manual_seed(1))
    labels = labels.where(labels % 4 == 0, 3)  # one large region, and 1, 2, 5.. do not occur
    valid = torch.rand(shape, generator=torch.Generator().manual_seed(2)) < 0.8
    outside, inside = (distances.numpy() for distances in class_distances(labels, valid, 11))
    for image, (names, known) in enumerate(zip(labels.numpy(), valid.numpy(), strict=True)):
        for c in range(11):
            region = (names == c) & known
            np.testing.assert_allclose(
                outside[image, c], distance_transform_edt(~region) if region.any() else 0 * outside[image, c], rtol=1e-6
            )
            expected = distance_transform_edt(~((names != c) & known))
            np.testing.assert_allclose(inside[image][region], expected[region], rtol=1e-6)
    assert not inside[~valid.numpy()].any()


def test_class_distances_are_0_where_there_is_one_class() -> None:
    labels = torch.full((1, 5, 6), 3)
    outside, inside = class_distances(labels, torch.ones_like(labels, dtype=torch.bool), 4)
    assert not outside.any()
    assert not inside.any()


def test_border_weights_are_the_formula_of_the_paper_between_two_cells() -> None:
    cells = np.zeros((9, 20), np.int64)
    cells[2:7, 2:8], cells[2:7, 11:18] = 1, 2
    weights = border_weight_map(cells, border_weight=10, sigma=5)
    first, second = distance_transform_edt(cells != 1), distance_transform_edt(cells != 2)
    np.testing.assert_allclose(weights, np.where(cells == 0, 10 * np.exp(-((first + second) ** 2) / 50), 0), rtol=1e-5)
    assert weights[4, 9] == pytest.approx(10 * np.exp(-((2 + 2) ** 2) / 50))
    third = cells.copy()
    third[0, 0] = 3  # a third cell moves nothing where the two others are nearer
    np.testing.assert_allclose(border_weight_map(third)[4, 8:], weights[4, 8:])
    assert not border_weight_map((cells == 1).astype(int)).any()


def test_border_weighted_cross_entropy_weighs_the_gap_between_cells_of_one_class() -> None:
    target = torch.zeros(1, 9, 20, dtype=torch.int64)
    target[0, 2:7, 2:8], target[0, 2:7, 11:18] = 1, 1
    cells = connected_regions(target[0].numpy())
    assert sorted(np.unique(cells)) == [0, 1, 2]
    logits, class_weights_ = scores(0, target, 2), torch.tensor([1.0, 3.0])
    values = torch.nn.functional.cross_entropy(logits, target, reduction="none")
    weights = torch.from_numpy(border_weight_map(cells, 7, 4)) + class_weights_[target]
    loss = create_loss(
        {"border_weighted_cross_entropy": {"border_weight": 7, "sigma": 4}}, class_weights=class_weights_
    )
    torch.testing.assert_close(loss(logits, target), (weights * values).mean())


def naive_similarity(a: np.ndarray, b: np.ndarray, window: int, sigma: float) -> tuple[float, float]:
    """Mean contrast-structure and mean SSIM over the windows inside two maps."""
    offset = np.arange(window) - window // 2
    g = np.exp(-(offset**2) / (2 * sigma**2))
    g = np.outer(g, g) / g.sum() ** 2
    structures, full = [], []
    for i in range(a.shape[0] - window + 1):
        for j in range(a.shape[1] - window + 1):
            x, y = a[i : i + window, j : j + window], b[i : i + window, j : j + window]
            mx, my = (g * x).sum(), (g * y).sum()
            vx, vy, vxy = (g * (x - mx) ** 2).sum(), (g * (y - my) ** 2).sum(), (g * (x - mx) * (y - my)).sum()
            structures.append((2 * vxy + 0.0009) / (vx + vy + 0.0009))
            full.append(structures[-1] * (2 * mx * my + 0.0001) / (mx**2 + my**2 + 0.0001))
    return float(np.mean(structures)), float(np.mean(full))


def test_ms_ssim_agrees_with_loops_over_windows() -> None:
    target = regions(5, 3, (2, 24, 32))
    logits = scores(5, target, 3, right=3.0)
    expected = []
    total = sum(EXPONENTS)
    for s, y in zip(logits.double().softmax(1).numpy(), one_hot(target, 3).numpy(), strict=True):
        for c in range(3):
            a, b, similarity = s[c], y[c], 1.0
            for scale in range(3):
                structure, full = naive_similarity(a, b, 5, 1.0)
                similarity *= (full if scale == 2 else structure) ** (EXPONENTS[scale] * total / sum(EXPONENTS[:3]))
                a, b = (m.reshape(m.shape[0] // 2, 2, m.shape[1] // 2, 2).mean((1, 3)) for m in (a, b))
            expected.append(1 - similarity)
    value = MultiScaleStructuralSimilarityLoss(scales=3, window=5, sigma=1.0)(logits, target)
    assert float(value) == pytest.approx(np.mean(expected), rel=2e-5)


def test_ssim_agrees_with_torchmetrics_inside_the_image() -> None:
    from torchmetrics.functional.image import structural_similarity_index_measure

    target = regions(6, 3, (2, 32, 40))
    logits = scores(6, target, 3)
    _, full = structural_similarity_index_measure(
        logits.softmax(1), one_hot(target, 3), data_range=1.0, return_full_image=True
    )
    expected = (1 - full[..., 5:-5, 5:-5].mean((2, 3)) ** sum(EXPONENTS)).mean()  # its border windows see padding
    torch.testing.assert_close(
        MultiScaleStructuralSimilarityLoss(scales=1)(logits, target), expected, rtol=2e-4, atol=1e-5
    )


def test_ms_ssim_says_which_size_its_scales_need() -> None:
    target = regions(7, 3, (1, 96, 96))
    with pytest.raises(InputError, match=r"\(96, 96\), expected sides of at least 176 pixels: set fewer scales"):
        create_loss({"ms_ssim": 1.0})(perfect_scores(target, 3), target)
    assert float(create_loss({"ms_ssim": {"scales": 4}})(perfect_scores(target, 3), target)) == pytest.approx(
        0, abs=1e-6
    )


PIXELS, IMAGES = [600, 300, 100, 0], [1000, 400, 1000, 0]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("inverse_frequency", [1000 / 600, 1000 / 300, 10, 0]),
        ("complement", [0.4, 0.7, 0.9, 1]),
        ("median_frequency", [0.6 / 0.6, 0.6 / 0.75, 0.6 / 0.1, 0]),  # frequencies 0.6, 0.75, 0.1
    ],
)
def test_class_weights_are_their_formula(kind: str, expected: list[float]) -> None:
    weights = class_weights(kind, PIXELS, IMAGES)
    assert weights.dtype == torch.float32
    torch.testing.assert_close(weights, torch.tensor(expected, dtype=torch.float32))


def test_class_weights_refuse_what_cannot_be() -> None:
    for pixels, images in (([0, 0], [0, 0]), ([1, 2], [3]), ([5, 1], [4, 4]), ([-1, 1], [4, 4])):
        with pytest.raises(InputError, match="class pixels are"):
            class_weights("complement", pixels, images)
