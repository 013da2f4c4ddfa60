"""Edge agreement: true pairs are told from shuffled ones, whatever the sizes."""

import cv2
import numpy as np
import pytest

from components.validation.edges import FEWEST, SIDE, edge_agreement, edge_map, label_borders


def pairs(count: int, noise: float = 20) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Images of one ellipse on noise, of several sizes, and their masks, half as large."""
    random = np.random.default_rng(3)
    images, masks = [], []
    for number in range(count):
        height, width = 90 + 4 * number, 160 - 3 * number
        mask = np.zeros((height, width), np.uint8)
        center, axes = random.integers(30, 60, 2), random.integers(10, 30, 2)
        cv2.ellipse(mask, center.tolist(), axes.tolist(), float(random.uniform(0, 180)), 0, 360, 1, -1)
        grey = 100 + 50 * mask + random.normal(0, noise, mask.shape)
        images.append(np.repeat(grey.clip(0, 255).astype(np.uint8)[:, :, None], 3, axis=2))
        masks.append(mask[::2, ::2])
    return images, masks


@pytest.mark.parametrize("shift", [0, 1, 7])
def test_true_pairs_agree_more_than_shuffled_ones_and_shuffled_ones_do_not(shift: int) -> None:
    images, masks = pairs(24)
    maps = [edge_map(image, masks[(number + shift) % 24]) for number, image in enumerate(images)]
    found = edge_agreement([one for one in maps if one is not None])
    assert found is not None
    assert len(found.each) == 24
    assert (found.mean > found.shuffled) == (shift == 0)


def test_agreement_is_the_mean_gradient_on_borders_over_that_elsewhere() -> None:
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    image[:, SIDE // 2 :] = 80
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[:, SIDE // 2 :] = 1
    one = edge_map(image, mask)
    assert one is not None
    found = edge_agreement([one] * FEWEST)
    assert found is not None
    np.testing.assert_allclose(found.each, 40 + 1)  # 80 grey levels over two pixels; nothing elsewhere
    assert found.mean == found.shuffled  # equal pairs are no better than shuffled ones


def test_masks_without_borders_and_few_pairs_say_nothing() -> None:
    images, masks = pairs(FEWEST)
    assert edge_map(images[0], np.zeros_like(masks[0])) is None
    maps = [edge_map(image, mask) for image, mask in zip(images, masks, strict=True)]
    known = [one for one in maps if one is not None]
    assert edge_agreement(known) is not None
    assert edge_agreement(known[1:]) is None


def test_borders_are_on_both_sides() -> None:
    ids = np.zeros((3, 4), np.uint8)
    ids[:, 2:] = 5
    np.testing.assert_array_equal(label_borders(ids), [[False, True, True, False]] * 3)
