"""Augmentation: geometry against independent resampling, colour against float arithmetic, and what is not read."""

import subprocess
import sys
import textwrap
from dataclasses import replace

import cv2
import numpy as np
import pytest

from segmodels.data.augment import Augment


class Fixed:
    """A generator whose eight draws are given: scale, row, column, flip, brightness, contrast, saturation, hue."""

    def __init__(self, *draws: float) -> None:
        self.draws = np.array([*draws, *[0.5] * (8 - len(draws))])

    def random(self, count: int) -> np.ndarray:
        assert count == 8
        return self.draws


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth random image."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 6 + 2, width // 6 + 2, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def labels_of(image: np.ndarray) -> np.ndarray:
    """A mask that follows the image: 1 where red is above 127."""
    return (image[:, :, 0] > 127).astype(np.uint8)


def test_without_any_option_nothing_changes():
    image = picture(30, 40)
    crop, labels = Augment()(image, labels_of(image), np.random.default_rng(0))
    np.testing.assert_array_equal(crop, image)
    np.testing.assert_array_equal(labels, labels_of(image))


def test_a_plain_crop_is_a_part_of_the_image_and_every_place_is_drawn():
    image = np.zeros((7, 9, 3), np.uint8)
    image[:, :, 0], image[:, :, 1] = np.arange(7)[:, None], np.arange(9)
    corners = set()
    for seed in range(300):
        crop, labels = Augment(crop=(4, 5))(image, image[:, :, 1], np.random.default_rng(seed))
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
    crop, labels = Augment(crop=(size, size), scale=(scale, scale))(image, labels_of(image), Fixed(0, 0.3, 0.7))
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
    crop, labels = augment(image, labels_of(image), np.random.default_rng(seed))
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
            Augment(crop=(40, 900), scale=(0.5, 2.0))(image, image[:, :, 0], np.random.default_rng(seed))[0][20, :, 0]
            > 127
        ).sum()
        for seed in range(400)
    ]
    assert 50 <= min(widths) < 55
    assert 195 < max(widths) <= 201
    assert abs(np.mean(widths) - 125) < 7


def test_a_crop_larger_than_the_image_is_padded():
    image = picture(20, 30)
    augment = Augment(crop=(50, 60), fill=(1, 2, 3), ignore_index=255)
    places = set()
    for seed in range(60):
        crop, labels = augment(image, labels_of(image), np.random.default_rng(seed))
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
        crop, labels = Augment(scale=(0.4, 2.5))(image, labels_of(image), np.random.default_rng(seed))
        assert crop.shape == (33, 47, 3)
        assert labels.shape == (33, 47)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 50), (50, 1), (2, 3)])
def test_tiny_images_are_taken(height, width):
    image = np.full((height, width, 3), 9, np.uint8)
    for seed in range(20):
        crop, labels = Augment(crop=(32, 32), scale=(0.5, 2.0))(
            image, np.zeros((height, width), np.uint8), np.random.default_rng(seed)
        )
        assert crop.shape == (32, 32, 3)
        assert (labels == 0).any()


def test_masks_of_16_bits_keep_their_ids():
    mask = np.random.default_rng(0).integers(-1, 300, (40, 50)).astype(np.int16)
    _, labels = Augment(crop=(64, 30), scale=(1.3, 1.3), ignore_index=-1)(
        np.zeros((40, 50, 3), np.uint8), mask, np.random.default_rng(0)
    )
    assert labels.dtype == np.int16
    assert set(np.unique(labels)) <= {*np.unique(mask), -1}
    assert labels.max() > 255


def test_flips_come_with_their_probability_and_flip_both():
    image = picture(20, 30)
    flipped = 0
    for seed in range(400):
        crop, labels = Augment(flip=0.3)(image, labels_of(image), np.random.default_rng(seed))
        turned = not np.array_equal(crop, image)
        expected = image[:, ::-1] if turned else image
        np.testing.assert_array_equal(crop, expected)
        np.testing.assert_array_equal(labels, labels_of(expected))
        flipped += turned
    assert 0.22 < flipped / 400 < 0.38


LUMA = np.array([0.299, 0.587, 0.114])


def test_brightness_multiplies():
    image = picture(40, 40) // 2
    crop, _ = Augment(brightness=0.4)(image, labels_of(image), Fixed(0, 0, 0, 1, 1.0))
    assert np.abs(crop - image * 1.4).max() <= 1.01


def test_contrast_stretches_about_the_mean_grey():
    image = picture(40, 40) // 3 + 60
    crop, _ = Augment(contrast=0.4)(image, labels_of(image), Fixed(0, 0, 0, 1, 0.5, 0.0))
    grey = (image @ LUMA).mean()
    assert np.abs(crop - ((image - grey) * 0.6 + grey)).max() <= 1.01


def test_saturation_moves_colours_from_or_to_their_grey():
    image = picture(40, 40) // 3 + 60
    crop, _ = Augment(saturation=0.9)(image, labels_of(image), Fixed(0, 0, 0, 1, 0.5, 0.5, 0.0))
    grey = (image @ LUMA)[:, :, None]
    assert np.abs(crop - (grey + 0.1 * (image - grey))).max() <= 1.5


def test_hue_turns_colours_and_keeps_luma():
    image = picture(40, 40) // 4 + 90
    whole, _ = Augment(hue=0.5)(image, labels_of(image), Fixed(0, 0, 0, 1, 0.5, 0.5, 0.5, 1.0))
    assert np.abs(whole @ LUMA - image @ LUMA).max() < 1.5
    chroma = image - (image @ LUMA)[:, :, None]
    assert np.abs((whole - (whole @ LUMA)[:, :, None]) + chroma).max() < 3  # half a turn is the opposite colour
    third = Augment(hue=0.5)(
        np.full((4, 4, 3), (150, 90, 90), np.uint8), np.zeros((4, 4), np.uint8), Fixed(0, 0, 0, 1, 0.5, 0.5, 0.5, 5 / 6)
    )[0][0, 0]
    assert np.argmax(third) != 0  # a third of a turn makes red another colour


def test_colour_saturates_instead_of_wrapping():
    image = np.full((4, 4, 3), 200, np.uint8)
    crop, _ = Augment(brightness=0.9)(image, labels_of(image), Fixed(0, 0, 0, 1, 1.0))
    assert (crop == 255).all()


def test_switching_one_option_off_leaves_the_others_as_they_are():
    image = picture(60, 60)
    full = Augment(crop=(30, 30), scale=(0.8, 1.6), flip=0.5, brightness=0.3)
    for seed in range(10):
        _, labels = full(image, labels_of(image), np.random.default_rng(seed))
        _, without = replace(full, brightness=0.0)(image, labels_of(image), np.random.default_rng(seed))
        np.testing.assert_array_equal(labels, without)


def test_the_same_generator_gives_the_same_crop():
    image = picture(60, 60)
    augment = Augment(crop=(30, 30), scale=(0.8, 1.6), flip=0.5, brightness=0.3, contrast=0.3, saturation=0.3, hue=0.1)
    first, again, other = (augment(image, labels_of(image), np.random.default_rng(seed))[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


POISONED = """
    import ctypes, mmap, sys
    import numpy as np
    from segmodels.data.augment import Augment

    PAGE, HEIGHT, WIDTH = mmap.PAGESIZE, 300, 4 * mmap.PAGESIZE  # a row of the mask is 4 pages, of the image 12

    def poisoned(channels, rows, columns):
        # Memory in which every page that holds no pixel of the window is inaccessible: touching it kills the process.
        memory = mmap.mmap(-1, HEIGHT * WIDTH * channels)
        array = np.frombuffer(memory, np.uint8).reshape(HEIGHT, WIDTH, channels)
        array[rows, columns] = 7
        pages = np.zeros((HEIGHT, WIDTH * channels // PAGE), bool)
        pages[rows, columns.start * channels // PAGE : -(-columns.stop * channels // PAGE)] = True
        for page in np.flatnonzero(~pages.ravel()):
            address = ctypes.c_void_p(array.ctypes.data + int(page) * PAGE)
            assert ctypes.CDLL(None, use_errno=True).mprotect(address, ctypes.c_size_t(PAGE), 0) == 0
        return array if channels > 1 else array[:, :, 0]

    class Fixed:
        def random(self, count):
            return np.array([0.0, 0.5, 0.5, 0.0, 0.9, 0.9, 0.9, 0.9])

    scale = float(sys.argv[1])
    window = round(64 / scale)
    top, left = int(0.5 * (HEIGHT - window + 1)), int(0.5 * (WIDTH - window + 1))
    rows, columns = slice(top, top + window), slice(left, left + window)
    image, mask = poisoned(3, rows, columns), poisoned(1, rows, columns)
    augment = Augment(
    crop=(64, 64), scale=(scale, scale), flip=1.0, brightness=0.1, contrast=0.1, saturation=0.1, hue=0.1)
    crop, labels = augment(image, mask, Fixed())
    assert (labels == 7).all() and crop.shape == (64, 64, 3)
    print("crop made", flush=True)
    if sys.argv[2] == "touch":
        int(image[0, 0, 0])
    print("alive", flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="protects memory pages through Linux's libc")
@pytest.mark.parametrize("scale", [0.4, 1.0, 1.7])
def test_only_the_crops_part_of_the_image_is_read(scale):
    """In a process of its own, with all other pages of image and mask made inaccessible."""
    run = [sys.executable, "-c", textwrap.dedent(POISONED), str(scale)]
    good = subprocess.run([*run, "leave"], capture_output=True, text=True, check=False)
    assert good.stdout.split("\n")[:2] == ["crop made", "alive"], good.stderr
    touched = subprocess.run([*run, "touch"], capture_output=True, text=True, check=False)
    assert touched.returncode < 0  # the poison works
    assert "alive" not in touched.stdout
