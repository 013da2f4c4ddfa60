"""Pictures of what is no 8-bit RGB image."""

import warnings

import numpy as np
import pytest

from segmodels.data.preview import as_rgb, flat, shown_slice

RNG = np.random.default_rng(0)


def test_8_bit_images_stay_as_they_are() -> None:
    image = RNG.integers(0, 256, (5, 6, 3), dtype=np.uint8)
    np.testing.assert_array_equal(as_rgb(image), image)
    np.testing.assert_array_equal(as_rgb(image[..., :1]), np.repeat(image[..., :1], 3, axis=2))
    np.testing.assert_array_equal(as_rgb(np.dstack([image, image])), image)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.float32])
def test_other_types_fill_the_range_of_8_bits_and_keep_their_order(channels: int, dtype: type) -> None:
    image = RNG.normal(-200 if dtype is not np.uint16 else 9000, 100, (40, 50, channels)).astype(dtype)
    shown = as_rgb(image)
    assert shown.shape == (40, 50, 3)
    assert shown.dtype == np.uint8
    assert (shown.min(), shown.max()) == (0, 255)
    assert (np.diff(shown[..., 0].ravel()[np.argsort(image[..., 0], axis=None)].astype(int)) >= 0).all()
    np.testing.assert_array_equal(as_rgb(np.full((4, 4, channels), -7 if dtype is not np.uint16 else 7, dtype)), 0)


def test_a_volume_is_shown_where_most_is_annotated() -> None:
    truth = np.zeros((6, 4, 4), np.uint8)
    truth[1, :2], truth[4, :3], truth[5] = 1, 2, 255
    assert shown_slice(truth) == 4
    truth[2, 0], truth[2, 1, 0] = 1, 2
    assert shown_slice(truth) == 2
    truth[2] = 0
    assert shown_slice(np.zeros((7, 2, 2), np.uint8)) == 3
    volume = np.arange(12, dtype=np.float32)[:, None, None, None] + RNG.random((12, 8, 8, 2)).astype(np.float32)
    image, own, predicted = flat(volume, truth, np.ones_like(truth))
    assert image.shape == (8, 8, 3)
    np.testing.assert_array_equal(image, as_rgb(volume[9]))  # twice the depth: slices 8 and 9 are slice 4 of the map
    np.testing.assert_array_equal(own, truth[4])
    assert predicted.shape == (4, 4)
    assert len(flat(RNG.random((4, 4, 5)).astype(np.float32), truth[0])) == 2


def test_values_that_are_not_finite_are_black_or_white_without_a_warning() -> None:
    image = RNG.random((5, 6, 1)).astype(np.float32)
    image[0, 0] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert as_rgb(image).dtype == np.uint8
