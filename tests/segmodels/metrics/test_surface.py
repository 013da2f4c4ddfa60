"""Surface distances: by hand, and against monai's implementations."""

import math

import numpy as np
import pytest
import torch
from monai.metrics import compute_average_surface_distance, compute_dice, compute_hausdorff_distance
from scipy import ndimage

from segmodels.errors import InputError
from segmodels.metrics.surface import (
    case_scores,
    dice_of_case,
    hausdorff_95,
    mean_surface_distance,
    surface_distances,
)


def blob(shape: tuple[int, ...], seed: int, share: float = 0.3) -> np.ndarray:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).random(shape), 2)
    return noise > np.quantile(noise, 1 - share)


def one_hot(*regions: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack([np.stack([~regions[0], *regions])]))


SPACINGS = [None, (1.0, 1.0, 1.0), (5.0, 0.7, 0.9)]


@pytest.mark.parametrize("shape", [(13, 21, 17), (24, 31)])
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("seed", range(4))
def test_distances_are_monais(shape: tuple[int, ...], spacing: tuple[float, ...] | None, seed: int) -> None:
    spacing = spacing and spacing[: len(shape)]
    ours, theirs = blob(shape, seed, 0.1 + 0.1 * seed), blob(shape, seed + 100)
    given = {"spacing": spacing, "include_background": False}
    expected = compute_hausdorff_distance(one_hot(ours), one_hot(theirs), percentile=95, **given)
    assert hausdorff_95(ours, theirs, spacing) == pytest.approx(expected.item(), rel=1e-5)
    expected = compute_average_surface_distance(one_hot(ours), one_hot(theirs), symmetric=True, **given)
    assert mean_surface_distance(ours, theirs, spacing) == pytest.approx(expected.item(), rel=1e-5)
    expected = compute_dice(one_hot(ours), one_hot(theirs), include_background=False)
    assert dice_of_case(ours, theirs) == pytest.approx(expected.item(), rel=1e-5)


def test_two_voxels_are_apart_by_their_way_in_millimetres() -> None:
    ours, theirs = np.zeros((5, 6, 7), bool), np.zeros((5, 6, 7), bool)
    ours[1, 1, 1], theirs[3, 4, 2] = True, True
    way = math.sqrt((2 * 5) ** 2 + (3 * 0.5) ** 2 + (1 * 2) ** 2)
    assert hausdorff_95(ours, theirs, (5, 0.5, 2)) == pytest.approx(way)
    assert mean_surface_distance(ours, theirs, (5, 0.5, 2)) == pytest.approx(way)
    assert dice_of_case(ours, theirs) == 0


def test_the_inside_of_a_region_has_no_distance() -> None:
    """A square of 5 in one of 7: 16 pixels of the small surface and 20 of 24 of the large one are 1 apart, corners
    sqrt(2).
    """
    small, large = np.zeros((11, 11), bool), np.zeros((11, 11), bool)
    small[3:8, 3:8], large[2:9, 2:9] = True, True
    there, back = surface_distances(small, large)
    assert (len(there), len(back)) == (16, 24)
    assert (there == 1).all()
    assert sorted(back) == pytest.approx([1.0] * 20 + [math.sqrt(2)] * 4)
    assert mean_surface_distance(small, large) == pytest.approx((36 + 4 * math.sqrt(2)) / 40)
    assert dice_of_case(small, large) == pytest.approx(2 * 25 / (25 + 49))


def test_a_region_at_the_border_of_the_image_ends_there() -> None:
    full = np.ones((4, 5), bool)
    there, back = surface_distances(full, full)
    assert len(there) == len(back) == 2 * 5 + 2 * 2
    assert hausdorff_95(full, full) == mean_surface_distance(full, full) == 0


def test_the_95th_percentile_leaves_out_a_stray_pixel() -> None:
    truth = np.zeros((40, 40), bool)
    truth[5:25, 5:25] = True
    stray = truth.copy()
    stray[39, 39] = True
    assert hausdorff_95(stray, truth) == 0
    assert max(surface_distances(stray, truth)[0]) == pytest.approx(math.hypot(15, 15))


def test_empty_regions_have_no_score_and_missed_ones_an_infinite_distance() -> None:
    empty, some = np.zeros((4, 4), bool), np.eye(4, dtype=bool)
    for score in (hausdorff_95, mean_surface_distance, dice_of_case):
        assert math.isnan(score(empty, empty))
    for ours, theirs in ((empty, some), (some, empty)):
        assert math.isinf(hausdorff_95(ours, theirs))
        assert math.isinf(mean_surface_distance(ours, theirs))
        assert dice_of_case(ours, theirs) == 0


def test_a_case_has_a_row_for_each_class_but_the_background() -> None:
    truth = np.zeros((6, 8, 8), np.uint8)
    truth[1:4, 1:5, 1:5], truth[5, 7, 7] = 1, 255
    prediction = np.roll(truth, 1, axis=0)
    prediction[5, 7, 7] = 2  # ignored
    first, second = case_scores(prediction, truth, 3, 255, (3.0, 1.0, 1.0))
    assert first["label"] == 1
    assert first["dice"] == pytest.approx(2 / 3)
    assert first["hausdorff_95"] == 3.0
    expected = mean_surface_distance(prediction == 1, truth == 1, (3.0, 1.0, 1.0))
    assert first["mean_surface_distance"] == expected
    assert all(math.isnan(second[name]) for name in ("dice", "hausdorff_95", "mean_surface_distance"))


def test_what_does_not_fit_is_refused() -> None:
    region = np.ones((3, 3), bool)
    with pytest.raises(InputError, match=r"size \[3, 3\], the truth \[2, 3\]"):
        hausdorff_95(region, region[:2])
    for spacing in ((1.0,), (1.0, 0.0)):
        with pytest.raises(InputError, match="for 2 axes, expected a length above 0 for each"):
            hausdorff_95(region, region, spacing)
