"""Masks as run lengths: crops and whole masks are the same, as pycocotools encodes them."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco

from segmodels import run_lengths
from segmodels.run_lengths import Crop, cropped


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**30), st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]))
def test_crops_are_encoded_and_read_as_pycocotools_does_it(height: int, width: int, seed: int, share: float) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < share
    (counts,) = run_lengths.encode(mask[None])
    crop = run_lengths.crop(counts, mask.shape)
    own = cropped(mask)
    assert crop[:2] == own[:2]
    np.testing.assert_array_equal(crop.pixels, own.pixels)
    assert run_lengths.placed(own, mask.shape) == counts


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 3), st.integers(0, 2**30))
def test_masks_of_ids_in_layers_are_encoded_as_each_alone(height: int, width: int, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    layers = rng.choice([0, 1, 2, 7, 65535], (count, height, width), p=rng.dirichlet([0.5] * 5)).astype(np.uint16)
    ids = rng.permutation([1, 3, 7, 65535])[: rng.integers(0, 5)].tolist()
    expected = run_lengths.encode(np.array([(layers == id).any(axis=0) for id in ids]).reshape(-1, height, width))
    assert run_lengths.encode_ids(layers, ids) == expected


def test_a_mask_of_a_large_image_is_read_within_its_box() -> None:
    size = (40_000, 30_000)
    pixels = np.random.default_rng(0).random((70, 50)) < 0.7
    pixels[[0, -1]] = pixels[:, [0, -1]] = True
    counts = run_lengths.placed(Crop(29_000, 17_000, pixels), size)
    left, top, again = run_lengths.crop(counts, size)
    assert (left, top) == (29_000, 17_000)
    np.testing.assert_array_equal(again, pixels)
    assert coco.area({"size": list(size), "counts": counts}) == pixels.sum()


@given(st.integers(0, 2**30), st.integers(1, 30), st.integers(1, 30))
def test_resized_masks_take_the_pixel_under_each_centre(seed: int, height: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((9, 14)) < 0.3
    rows, columns = (((2 * np.arange(new) + 1) * old) // (2 * new) for new, old in ((height, 9), (width, 14)))
    expected = mask[np.ix_(rows, columns)]
    found = run_lengths.resized(cropped(mask), mask.shape, (height, width))
    whole = np.zeros((height, width), bool)
    whole[found.top : found.top + found.pixels.shape[0], found.left : found.left + found.pixels.shape[1]] = found.pixels
    np.testing.assert_array_equal(whole, expected)
