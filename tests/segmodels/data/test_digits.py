"""The built-in dataset: reproducible, real handwriting, no leak between splits, and no per-pixel shortcut to the
answer.
"""

import hashlib
import multiprocessing
from pathlib import Path

import cv2
import numpy as np
import pytest

from segmodels.data import digits
from segmodels.data.digits import DigitsSettings, draw_scene, scene, split_sources, write_digits
from segmodels.data.layouts import open_layout
from segmodels.errors import InputError


def digest(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.md5(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def scenes() -> list[tuple[np.ndarray, np.ndarray]]:
    sources = split_sources(0)["train"]
    return [scene(np.random.default_rng((0, 0, number)), sources, 96) for number in range(120)]


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        write_digits(tmp_path / name, DigitsSettings(train=6, val=2, test=3, size=48, seed=seed))
    assert len(digest(tmp_path / "a")) == 3 * 11 + 1
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    other = digest(tmp_path / "c")
    assert not any(other[name] == value for name, value in digest(tmp_path / "a").items() if name.startswith("images"))


def test_a_scene_does_not_depend_on_how_many_there_are(tmp_path):
    write_digits(tmp_path / "few", DigitsSettings(train=2, val=1, test=1, size=48, seed=0))
    write_digits(tmp_path / "many", DigitsSettings(train=5, val=3, test=2, size=48, seed=0))
    assert digest(tmp_path / "few").items() <= digest(tmp_path / "many").items()


def test_it_is_a_dataset_of_the_layout_folder(tmp_path):
    write_digits(tmp_path, DigitsSettings(train=4, val=2, test=3, size=64, seed=0))
    layout = open_layout("folder", tmp_path)
    assert layout.labels.classes == ("background", *"0123456789")
    samples = list(layout.samples())
    assert [sample.split for sample in samples] == ["train"] * 4 + ["val"] * 2 + ["test"] * 3
    for sample in samples:
        assert layout.read_image(sample).shape == (64, 64, 3)
        annotation = layout.annotation(sample)
        assert annotation is not None
        assert annotation.classes.max() <= 10
        shown = [segment.label for segment in annotation.segments]
        assert 1 <= len(shown) <= 5
        assert set(shown) == set(np.unique(annotation.classes).tolist()) - {0}
        np.testing.assert_array_equal(annotation.masks().sum(axis=0), annotation.classes > 0)
    assert layout.labels.things == set(range(1, 11))


def test_each_digit_is_an_object_and_later_ones_hide_those_below():
    sources = split_sources(0)["train"]
    touching = several = 0
    for number in range(60):
        drawn = draw_scene(np.random.default_rng((0, 0, number)), sources, 64)
        np.testing.assert_array_equal(drawn.objects > 0, drawn.mask > 0)
        ids = np.unique(drawn.objects[drawn.objects > 0])
        assert ids.max() <= 5
        for id in ids:
            assert len(np.unique(drawn.mask[drawn.objects == id])) == 1
        several += len(ids) > len(np.unique(drawn.mask[drawn.mask > 0]))
        pairs = np.stack([drawn.objects[:, 1:].ravel(), drawn.objects[:, :-1].ravel()])
        touching += bool(((pairs[0] != pairs[1]) & (pairs > 0).all(axis=0)).any())
    assert touching > 10
    assert several > 5  # two digits of one class, which only the objects tell apart


def test_processes_draw_the_same_files(tmp_path, monkeypatch):
    settings = DigitsSettings(train=40, val=2, test=2, size=32, seed=0)
    write_digits(tmp_path / "one", settings)
    monkeypatch.setattr(digits, "MANY_PIXELS", 0)
    write_digits(tmp_path / "many", settings)
    assert digest(tmp_path / "one") == digest(tmp_path / "many")
    assert not multiprocessing.active_children()


def test_the_handwriting_is_that_of_scikit_learn():
    from sklearn.datasets import load_digits

    pictures, labels = digits._handwriting()
    expected = load_digits()
    np.testing.assert_array_equal(pictures, expected.images.astype(np.float32) / 16)
    assert pictures.dtype == np.float32
    np.testing.assert_array_equal(labels, expected.target)
    assert labels.dtype == expected.target.dtype


def test_splits_share_no_source_digit():
    sources = split_sources(0)
    used = {split: np.concatenate(numbers) for split, numbers in sources.items()}
    together = np.concatenate(list(used.values()))
    assert len(together) == len(np.unique(together)) == 1797
    assert 0.69 < len(used["train"]) / 1797 < 0.71
    assert all(len(numbers) >= 25 for split in sources.values() for numbers in split)


def test_a_scene_shows_the_digit_that_its_mask_names():
    """Each piece of a mask resembles the source digit it was made from more than the sources of the nine other
    classes.
    """
    from sklearn.datasets import load_digits

    pictures, labels = load_digits(return_X_y=True)
    numbers = [int(np.flatnonzero(labels == digit)[5]) for digit in range(10)]
    sources = [trim((pictures[number].reshape(8, 8) / 16).astype(np.float32)) for number in numbers]
    right = []
    for seed in range(12):
        _, mask = scene(np.random.default_rng(seed), [np.array([number]) for number in numbers], 128)
        for digit in range(10):
            _, parts, boxes, _ = cv2.connectedComponentsWithStats((mask == digit + 1).astype(np.uint8))
            for part in np.flatnonzero(boxes[:, cv2.CC_STAT_AREA] > 300)[1:]:
                shape = trim((parts == part).astype(np.float32))
                right.append(
                    int(np.argmax([np.corrcoef(shape.ravel(), source.ravel())[0, 1] for source in sources])) == digit
                )
    assert len(right) > 30
    assert np.mean(right) > 0.6


def trim(shape: np.ndarray) -> np.ndarray:
    """What is not empty, at 8x8 pixels."""
    rows, columns = np.nonzero(shape > 0.4)
    return cv2.resize(
        shape[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1], (8, 8), interpolation=cv2.INTER_AREA
    )


def test_every_class_occurs_and_the_foreground_is_neither_rare_nor_most(scenes):
    shares = [float((mask > 0).mean()) for _, mask in scenes]
    assert 0.2 < np.mean(shares) < 0.35
    assert np.quantile(shares, 0.05) > 0.12
    assert max(shares) < 0.5
    counts = sum(np.bincount(mask.ravel(), minlength=11) for _, mask in scenes)
    assert counts[1:].min() > 0.4 * counts[1:].mean()


def test_masks_are_crisp_shapes_without_specks(scenes):
    specks = total = 0
    for _, mask in scenes:
        for digit in np.unique(mask[mask > 0]):
            _, _, boxes, _ = cv2.connectedComponentsWithStats((mask == digit).astype(np.uint8))
            total += len(boxes) - 1
            specks += int((boxes[1:, cv2.CC_STAT_AREA] < 8).sum())
    assert specks < 0.05 * total


def test_digits_are_darker_as_often_as_lighter_than_what_is_around(scenes):
    darker = []
    for image, mask in scenes:
        grey = image.mean(axis=2)
        for digit in np.unique(mask[mask > 0]):
            inside = mask == digit
            around = (cv2.dilate(inside.astype(np.uint8), np.ones((9, 9))) > 0) & (mask == 0)
            darker.append(grey[inside].mean() < grey[around].mean())
    assert 0.35 < np.mean(darker) < 0.65


def intersection_over_union(predicted: np.ndarray, truth: np.ndarray) -> float:
    return float((predicted & truth).sum() / (predicted | truth).sum())


def test_no_grey_threshold_finds_the_digits(scenes):
    grey = np.stack([image.mean(axis=2) for image, _ in scenes])
    truth = np.stack([mask > 0 for _, mask in scenes])
    best = max(
        intersection_over_union(side, truth) for level in range(8, 250, 8) for side in (grey > level, grey < level)
    )
    assert best < 0.4  # everything taken for foreground has 0.25


def test_otsus_threshold_does_not_solve_the_task_even_with_answers_at_hand(scenes):
    """For each scene the better side of the threshold, called by the scene's most frequent digit."""
    overlap, union = np.zeros(11), np.zeros(11)
    for image, mask in scenes:
        _, bright = cv2.threshold(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), 0, 1, cv2.THRESH_OTSU)
        side = max((0, 1), key=lambda side: intersection_over_union(bright == side, mask > 0))
        predicted = np.where(bright == side, np.bincount(mask[mask > 0]).argmax(), 0)
        for c in range(11):
            overlap[c] += ((predicted == c) & (mask == c)).sum()
            union[c] += ((predicted == c) | (mask == c)).sum()
    assert (overlap / union).mean() < 0.4


def test_no_classifier_of_single_pixels_finds_the_digits(scenes):
    from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis

    pixels = np.concatenate([image[::3, ::3].reshape(-1, 3) for image, _ in scenes]) / 255
    truth = np.concatenate([mask[::3, ::3].ravel() for _, mask in scenes])
    half = len(truth) // 2
    predicted = (
        QuadraticDiscriminantAnalysis(priors=np.full(11, 1 / 11))
        .fit(pixels[:half], truth[:half])
        .predict(pixels[half:])
    )
    ious = [intersection_over_union(predicted == c, truth[half:] == c) for c in range(11)]
    assert np.mean(ious) < 0.15


@pytest.mark.parametrize("size", [32, 50, 200])
def test_scenes_of_any_size_have_digits(size):
    sources = split_sources(0)["test"]
    made = [scene(np.random.default_rng(number), sources, size) for number in range(8)]
    assert {image.shape for image, _ in made} == {(size, size, 3)}
    assert np.mean([mask > 0 for _, mask in made]) > 0.15


def test_scenes_too_small_for_digits_are_refused(tmp_path):
    with pytest.raises(InputError, match="is 20, expected a whole number from 32 to 4096"):
        write_digits(tmp_path, DigitsSettings(train=1, val=1, test=1, size=20, seed=0))
