"""Augmentation: geometry against independent resampling, colour against float arithmetic."""

from dataclasses import replace
from functools import partial

import cv2
import numpy as np
import pytest

from segmodels.annotations import Annotation
from segmodels.data import augment as augmentation
from segmodels.data.augment import ZEROS, Outside

Augment = partial(augmentation.Augment, scale=(1.0, 1.0), brightness=0.0, contrast=0.0, saturation=0.0)
"""Nothing but what a test asks for."""


class Fixed:
    """A generator whose eight draws are given: scale, row, column, flip, brightness, contrast, saturation, hue."""

    def __init__(self, *draws: float) -> None:
        self.draws = np.array([*draws, *[0.5] * (8 - len(draws))])

    def random(self, count: int) -> np.ndarray:
        assert count == 8
        return self.draws


def augmented(
    augment: augmentation.Augment, image: np.ndarray, mask: np.ndarray, rng: object, outside: Outside = ZEROS
) -> tuple[np.ndarray, np.ndarray]:
    """The crop's image and class map."""
    crop, annotation = augment(image, Annotation.of_classes(mask), rng, outside)
    assert annotation.layers.shape == (0, *crop.shape[:-1])
    return crop, annotation.classes


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth random image."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 6 + 2, width // 6 + 2, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def labels_of(image: np.ndarray) -> np.ndarray:
    """A mask that follows the image: 1 where red is above 127."""
    return (image[:, :, 0] > 127).astype(np.uint8)


def test_without_any_option_nothing_changes():
    image = picture(30, 40)
    crop, labels = augmented(Augment(), image, labels_of(image), np.random.default_rng(0))
    np.testing.assert_array_equal(crop, image)
    np.testing.assert_array_equal(labels, labels_of(image))


def test_a_plain_crop_is_a_part_of_the_image_and_every_place_is_drawn():
    image = np.zeros((7, 9, 3), np.uint8)
    image[:, :, 0], image[:, :, 1] = np.arange(7)[:, None], np.arange(9)
    corners = set()
    for seed in range(300):
        crop, labels = augmented(Augment(crop=(4, 5)), image, image[:, :, 1], np.random.default_rng(seed))
        y, x = crop[0, 0, :2].tolist()
        np.testing.assert_array_equal(crop, image[y : y + 4, x : x + 5])
        np.testing.assert_array_equal(labels, image[y : y + 4, x : x + 5, 1])
        corners.add((y, x))
    assert corners == {(y, x) for y in range(4) for x in range(5)}


@pytest.mark.parametrize("scale", [0.5, 0.8, 1.3, 2.0])
def test_a_scaled_crop_equals_resampling_at_half_pixel_centres(scale):
    """Bilinear and nearest sampling written out in numpy, for the window that the draws choose."""
    image = picture(160, 200)
    size = 60
    crop, labels = augmented(
        Augment(crop=(size, size), scale=(scale, scale)), image, labels_of(image), Fixed(0, 0.3, 0.7)
    )
    window = round(size / scale)
    y0, x0 = int(0.3 * (160 - window + 1)), int(0.7 * (200 - window + 1))
    part = image[y0 : y0 + window, x0 : x0 + window].astype(float)
    at = ((np.arange(size) + 0.5) * window / size - 0.5).clip(0, window - 1)
    low = np.floor(at).astype(int)
    high, share = np.minimum(low + 1, window - 1), at - low
    rows = part[low] * (1 - share)[:, None, None] + part[high] * share[:, None, None]
    expected = rows[:, low] * (1 - share)[None, :, None] + rows[:, high] * share[None, :, None]
    assert np.abs(crop - expected).max() <= 1.01
    nearest = np.floor((np.arange(size) + 0.5) * window / size).astype(int)
    np.testing.assert_array_equal(
        labels, labels_of(image)[y0 : y0 + window, x0 : x0 + window][np.ix_(nearest, nearest)]
    )


@pytest.mark.parametrize("seed", range(8))
def test_image_and_mask_stay_aligned(seed):
    """The mask follows the image's red channel: after scaling, cropping and flipping it still does, but for pixels at
    edges.
    """
    image = picture(120, 150, seed)
    augment = Augment(crop=(64, 80), scale=(0.5, 2.0), flip=0.5)
    crop, labels = augmented(augment, image, labels_of(image), np.random.default_rng(seed))
    inside = labels != 255
    assert inside.mean() > 0.5
    clear = np.abs(crop[:, :, 0].astype(int) - 127) > 60
    assert (labels_of(crop)[inside & clear] == labels[inside & clear]).all()


def test_scales_are_uniform_in_their_range():
    """Seen from the width of a bar of 100 pixels."""
    image = np.zeros((40, 400, 3), np.uint8)
    image[:, 150:250] = 255
    widths = [
        (
            augmented(Augment(crop=(40, 900), scale=(0.5, 2.0)), image, image[:, :, 0], np.random.default_rng(seed))[0][
                20, :, 0
            ]
            > 127
        ).sum()
        for seed in range(400)
    ]
    assert 50 <= min(widths) < 55
    assert 195 < max(widths) <= 201
    assert abs(np.mean(widths) - 125) < 7


def test_a_crop_larger_than_the_image_is_padded():
    image = picture(20, 30)
    augment, outside = Augment(crop=(50, 60)), Outside((1, 2, 3), 255)
    places = set()
    for seed in range(60):
        crop, labels = augmented(augment, image, labels_of(image), np.random.default_rng(seed), outside)
        assert crop.shape == (50, 60, 3)
        rows, columns = np.nonzero(labels != 255)
        y, x = int(rows.min()), int(columns.min())
        assert len(rows) == 20 * 30
        np.testing.assert_array_equal(crop[y : y + 20, x : x + 30], image)
        np.testing.assert_array_equal(labels[y : y + 20, x : x + 30], labels_of(image))
        assert (crop[labels == 255] == (1, 2, 3)).all()
        places.add((y, x))
    assert len(places) > 40


def test_without_a_crop_the_image_keeps_its_size_under_any_scale():
    image = picture(33, 47)
    for seed in range(20):
        crop, labels = augmented(Augment(scale=(0.4, 2.5)), image, labels_of(image), np.random.default_rng(seed))
        assert crop.shape == (33, 47, 3)
        assert labels.shape == (33, 47)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 50), (50, 1), (2, 3)])
def test_tiny_images_are_taken(height, width):
    image = np.full((height, width, 3), 9, np.uint8)
    for seed in range(20):
        crop, labels = augmented(
            Augment(crop=(32, 32), scale=(0.5, 2.0)),
            image,
            np.zeros((height, width), np.uint8),
            np.random.default_rng(seed),
        )
        assert crop.shape == (32, 32, 3)
        assert (labels == 0).any()


def test_masks_of_16_bits_keep_their_ids():
    mask = np.random.default_rng(0).integers(-1, 300, (40, 50)).astype(np.int16)
    _, labels = augmented(
        Augment(crop=(64, 30), scale=(1.3, 1.3)),
        np.zeros((40, 50, 3), np.uint8),
        mask,
        np.random.default_rng(0),
        Outside(classes=-1),
    )
    assert labels.dtype == np.int16
    assert set(np.unique(labels)) <= {*np.unique(mask), -1}
    assert labels.max() > 255


def test_flips_come_with_their_probability_and_flip_both():
    image = picture(20, 30)
    flipped = 0
    for seed in range(400):
        crop, labels = augmented(Augment(flip=0.3), image, labels_of(image), np.random.default_rng(seed))
        turned = not np.array_equal(crop, image)
        expected = image[:, ::-1] if turned else image
        np.testing.assert_array_equal(crop, expected)
        np.testing.assert_array_equal(labels, labels_of(expected))
        flipped += turned
    assert 0.22 < flipped / 400 < 0.38


LUMA = np.array([0.299, 0.587, 0.114])


def test_brightness_multiplies():
    image = picture(40, 40) // 2
    crop, _ = augmented(Augment(brightness=0.4), image, labels_of(image), Fixed(0, 0, 0, 1, 1.0))
    assert np.abs(crop - image * 1.4).max() <= 1.01


def test_contrast_stretches_about_the_mean_grey():
    image = picture(40, 40) // 3 + 60
    crop, _ = augmented(Augment(contrast=0.4), image, labels_of(image), Fixed(0, 0, 0, 1, 0.5, 0.0))
    grey = (image @ LUMA).mean()
    assert np.abs(crop - ((image - grey) * 0.6 + grey)).max() <= 1.01


def test_saturation_moves_colours_from_or_to_their_grey():
    image = picture(40, 40) // 3 + 60
    crop, _ = augmented(Augment(saturation=0.9), image, labels_of(image), Fixed(0, 0, 0, 1, 0.5, 0.5, 0.0))
    grey = (image @ LUMA)[:, :, None]
    assert np.abs(crop - (grey + 0.1 * (image - grey))).max() <= 1.5


def test_hue_turns_colours_and_keeps_luma():
    image = picture(40, 40) // 4 + 90
    whole, _ = augmented(Augment(hue=0.5), image, labels_of(image), Fixed(0, 0, 0, 1, 0.5, 0.5, 0.5, 1.0))
    assert np.abs(whole @ LUMA - image @ LUMA).max() < 1.5
    chroma = image - (image @ LUMA)[:, :, None]
    assert np.abs((whole - (whole @ LUMA)[:, :, None]) + chroma).max() < 3  # half a turn is the opposite colour
    third = augmented(
        Augment(hue=0.5),
        np.full((4, 4, 3), (150, 90, 90), np.uint8),
        np.zeros((4, 4), np.uint8),
        Fixed(0, 0, 0, 1, 0.5, 0.5, 0.5, 5 / 6),
    )[0][0, 0]
    assert np.argmax(third) != 0  # a third of a turn makes red another colour


def test_colour_saturates_instead_of_wrapping():
    image = np.full((4, 4, 3), 200, np.uint8)
    crop, _ = augmented(Augment(brightness=0.9), image, labels_of(image), Fixed(0, 0, 0, 1, 1.0))
    assert (crop == 255).all()


def test_switching_one_option_off_leaves_the_others_as_they_are():
    image = picture(60, 60)
    full = Augment(crop=(30, 30), scale=(0.8, 1.6), flip=0.5, brightness=0.3)
    for seed in range(10):
        _, labels = augmented(full, image, labels_of(image), np.random.default_rng(seed))
        _, without = augmented(replace(full, brightness=0.0), image, labels_of(image), np.random.default_rng(seed))
        np.testing.assert_array_equal(labels, without)


def test_the_same_generator_gives_the_same_crop():
    image = picture(60, 60)
    augment = Augment(crop=(30, 30), scale=(0.8, 1.6), flip=0.5, brightness=0.3, contrast=0.3, saturation=0.3, hue=0.1)
    first, again, other = (
        augmented(augment, image, labels_of(image), np.random.default_rng(seed))[0] for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def reference(augment: augmentation.Augment, image, mask, rng, outside: Outside) -> tuple[np.ndarray, np.ndarray]:
    """Semantic 8-bit RGB samples as release 0.1.0 made them: these calls of OpenCV, in this order."""
    yiq = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    draws = rng.random(8)
    height, width = augment.crop or image.shape[:2]
    scale = augment.scale[0] + draws[0] * (augment.scale[1] - augment.scale[0])
    axes = []
    for length, crop, draw in ((image.shape[0], height, draws[1]), (image.shape[1], width, draws[2])):
        window = max(1, round(crop / scale))
        low, high = min(0, length - window), max(0, length - window)
        start = low + int(draw * (high - low + 1))
        first, last = max(start, 0), min(start + window, length)
        begin = min(round((first - start) * crop / window), crop - 1)
        axes.append((first, last, begin, max(round((last - start) * crop / window), begin + 1)))
    (y0, y1, top, bottom), (x0, x1, left, right) = axes
    method = cv2.INTER_AREA if 2 * (bottom - top) < y1 - y0 else cv2.INTER_LINEAR
    part = cv2.resize(image[y0:y1, x0:x1], (right - left, bottom - top), interpolation=method)
    labels = cv2.resize(mask[y0:y1, x0:x1], (right - left, bottom - top), interpolation=cv2.INTER_NEAREST_EXACT)
    brightness, contrast, saturation, hue = 2 * draws[4:] - 1
    gain, slope = 1 + brightness * augment.brightness, 1 + contrast * augment.contrast
    chroma, turn = 1 + saturation * augment.saturation, 2 * np.pi * hue * augment.hue
    cos, sin = chroma * np.cos(turn), chroma * np.sin(turn)
    matrix = np.empty((3, 4))
    matrix[:, :3] = gain * slope * (np.linalg.inv(yiq) @ [[1, 0, 0], [0, cos, -sin], [0, sin, cos]] @ yiq)
    matrix[:, 3] = (1 - slope) * gain * (yiq[0] @ cv2.mean(part)[:3])
    part = cv2.transform(part, matrix)
    margins = top, height - bottom, left, width - right
    part = cv2.copyMakeBorder(part, *margins, cv2.BORDER_CONSTANT, value=outside.image)
    labels = cv2.copyMakeBorder(labels, *margins, cv2.BORDER_CONSTANT, value=outside.classes)
    return (cv2.flip(part, 1), cv2.flip(labels, 1)) if draws[3] < augment.flip else (part, labels)


@pytest.mark.parametrize("crop", [None, (48, 64), (200, 90)])
def test_8_bit_rgb_samples_are_bit_for_bit_those_of_earlier_releases(crop):
    image, outside = picture(120, 110), Outside((124, 116, 104), 255)
    augment = Augment(crop=crop, scale=(0.3, 2.0), flip=0.5, brightness=0.3, contrast=0.3, saturation=0.3, hue=0.1)
    for seed in range(60):
        made = augmented(augment, image, labels_of(image), np.random.default_rng(seed), outside)
        expected = reference(augment, image, labels_of(image), np.random.default_rng(seed), outside)
        np.testing.assert_array_equal(made[0], expected[0])
        np.testing.assert_array_equal(made[1], expected[1])
