"""Images that are in two splits are found: equal ones, and those that look alike."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from components.validation.duplicate_images import near_elsewhere, same_elsewhere
from components.validation.sample_facts import perceptual_hash
from components.validation.tables import with_ids
from segmodels.data.decoding import read_image
from segmodels.data.digits import DigitsSettings, write_digits


@pytest.mark.parametrize("distance", [0, 1, 2, 5, 16])
def test_near_hashes_are_those_of_a_comparison_of_all_pairs(distance: int) -> None:
    random = np.random.default_rng(distance)
    hashes = random.integers(0, 2**64, 500, dtype=np.uint64)
    split = random.choice(["train", "val", "test"], 500)
    for _ in range(150):  # copies with some bits turned
        turned = random.choice(64, random.integers(0, distance + 3), replace=False).astype(np.uint64)
        hashes[random.integers(500)] = hashes[random.integers(500)] ^ np.bitwise_or.reduce(
            np.uint64(1) << turned, initial=np.uint64(0)
        )
    apart = np.bitwise_count(hashes[:, None] ^ hashes[None]).astype(int)
    apart[split[:, None] == split[None]] = 65
    partner = near_elsewhere(hashes, split, distance)
    found = np.flatnonzero(partner >= 0)
    assert found.tolist() == np.flatnonzero(apart.min(axis=1) <= distance).tolist()
    assert (apart[found, partner[found]] == apart[found].min(axis=1)).all()
    assert len(found) > 20


def test_a_hundred_thousand_hashes_are_compared_in_seconds_even_when_many_are_alike() -> None:
    random = np.random.default_rng(0)
    split = random.choice(["train", "val", "test"], 100_000, p=[0.7, 0.15, 0.15])
    varied = random.integers(0, 2**64, 100_000, dtype=np.uint64)
    alike = varied[random.integers(0, 20, 100_000)]
    for _ in range(3):
        alike ^= np.uint64(1) << random.integers(0, 64, 100_000).astype(np.uint64)
    start = time.process_time()
    assert (near_elsewhere(varied, split, 2) >= 0).sum() == 0
    assert (near_elsewhere(alike, split, 2) >= 0).mean() > 0.99
    assert time.process_time() - start < 20  # all pairs would take minutes


def test_equal_content_is_found_in_another_split_only() -> None:
    content = np.array(["a", "a", "b", "c", "a", None, None, "b"], dtype=object)
    split = np.array(["train", "train", "train", "val", "val", "train", "val", "train"], dtype=object)
    assert same_elsewhere(content, split).tolist() == [4, 4, -1, -1, 0, -1, -1, -1]


def test_the_hash_of_a_picture_outlives_compression_and_scale_and_tells_scenes_apart(tmp_path: Path) -> None:
    write_digits(tmp_path, DigitsSettings(train=40, val=1, test=1, size=96, seed=0))
    pictures = [read_image(path) for path in sorted((tmp_path / "images" / "train").glob("*.png"))]

    def hashes(change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        return np.array([perceptual_hash(change(picture)) for picture in pictures], dtype=np.uint64)

    original = hashes(lambda picture: picture)
    compressed = hashes(
        lambda picture: cv2.imdecode(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 80])[1], cv2.IMREAD_COLOR)
    )
    halved = hashes(lambda picture: cv2.resize(picture, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))
    for changed in (compressed, halved):
        assert (np.bitwise_count(original ^ changed) <= 2).mean() >= 0.9
    apart = np.bitwise_count(original[:, None] ^ original[None])[np.triu_indices(40, k=1)]
    assert apart.min() > 8


def test_a_file_of_several_samples_is_named_with_the_sample() -> None:
    files = ["a.json", "b.png", "a.json", None, "c.png", "c.png"]
    named = ["a.json: 1", "b.png", "a.json: 3", None, "c.png", "c.png"]  # c is in two splits
    assert with_ids(files, ["1", "2", "3", "4", "5", "5"]) == named
