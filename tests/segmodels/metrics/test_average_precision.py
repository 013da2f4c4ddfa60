"""Average precision of masks against pycocotools, on drawn and on real objects, at the borders of every rule."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from segmodels.errors import InputError
from segmodels.metrics.average_precision import SCORES, AveragePrecision
from segmodels.metrics.object_matching import EXCUSED, UNPAIRED, Matches, box_iou, mask_iou, match, pair

CLASSES = 3
SIZE = (60, 80)
STATS = [0, 1, 2, 3, 4, 5, 8, 9, 10, 11]  # of pycocotools' summary: precisions, and recalls with 100 detections


@dataclass
class Image:
    """Objects and detections of one image; masks are COCO RLE."""

    true_masks: list = field(default_factory=list)
    true_labels: list = field(default_factory=list)
    true_areas: list = field(default_factory=list)
    crowd: list = field(default_factory=list)
    masks: list = field(default_factory=list)
    labels: list = field(default_factory=list)
    scores: list = field(default_factory=list)

    def add(self, mask: np.ndarray, label: int, area: float | None = None, crowd: bool = False) -> Image:
        rle = encode(mask)
        self.true_masks.append(rle)
        self.true_labels.append(label)
        self.true_areas.append(float(coco_mask.area(rle)) if area is None else area)
        self.crowd.append(crowd)
        return self

    def detect(self, mask: np.ndarray, label: int, score: float) -> Image:
        self.masks.append(encode(mask))
        self.labels.append(label)
        self.scores.append(score)
        return self

    def matches(self) -> Matches:
        crowd = np.array(self.crowd, dtype=bool)
        return match(
            mask_iou(self.masks, self.true_masks, crowd),
            np.array(self.labels, dtype=np.int64),
            np.array(self.scores),
            coco_mask.area(self.masks) if self.masks else np.zeros(0),
            np.array(self.true_labels, dtype=np.int64),
            np.array(self.true_areas),
            crowd,
        )


def encode(mask: np.ndarray) -> dict:
    return coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))


def box(top: int, left: int, height: int, width: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[top : top + height, left : left + width] = True
    return mask


def pycocotools_scores(
    images: list[Image], classes: int = CLASSES, kind: str = "segm"
) -> tuple[dict[str, float], np.ndarray]:
    """Scores by our names, and AP by class; NaN where pycocotools has -1."""
    truth = COCO()
    sizes = [([rle["size"] for rle in image.true_masks + image.masks] or [SIZE])[0] for image in images]
    annotations = [
        {
            "image_id": number + 1,
            "category_id": int(label),
            "segmentation": rle,
            "area": area,
            "iscrowd": int(crowd),
            "bbox": coco_mask.toBbox(rle).tolist(),
        }
        for number, image in enumerate(images)
        for rle, label, area, crowd in zip(
            image.true_masks, image.true_labels, image.true_areas, image.crowd, strict=True
        )
    ]
    truth.dataset = {
        "images": [{"id": number + 1, "height": size[0], "width": size[1]} for number, size in enumerate(sizes)],
        "categories": [{"id": c, "name": str(c)} for c in range(classes)],
        "annotations": [row | {"id": i + 1} for i, row in enumerate(annotations)],
    }
    detections = [
        {"image_id": number + 1, "category_id": int(label), "score": float(score)}
        | ({"segmentation": rle} if kind == "segm" else {"bbox": coco_mask.toBbox(rle).tolist()})
        for number, image in enumerate(images)
        for rle, label, score in zip(image.masks, image.labels, image.scores, strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        if detections:
            found = truth.loadRes(detections)
        else:
            found = COCO()
            found.dataset = truth.dataset | {"annotations": []}
            found.createIndex()
        reference = COCOeval(truth, found, kind)
        reference.evaluate()
        reference.accumulate()
        reference.summarize()
    scores = {name: float(value) for name, value in zip(SCORES, reference.stats[STATS], strict=True)}
    precision = reference.eval["precision"][:, :, :, 0, 2]  # (T, R, K): all areas, 100 detections
    by_class = np.where(precision > -1, precision, np.nan).mean(axis=(0, 1))
    return {name: np.nan if value == -1 else value for name, value in scores.items()}, by_class


def ours(images: list[Image], classes: int = CLASSES) -> AveragePrecision:
    return AveragePrecision({f"{number:05d}": image.matches() for number, image in enumerate(images)}, classes)


def assert_equal(images: list[Image], classes: int = CLASSES) -> dict[str, float]:
    expected, by_class = pycocotools_scores(images, classes)
    counted = ours(images, classes)
    scores = {name: float(counted.mean(name)[0]) for name in SCORES}
    for name in SCORES:
        assert scores[name] == pytest.approx(expected[name], abs=1e-6, nan_ok=True), name
    np.testing.assert_allclose(counted.per_class("mask_ap")[0], by_class, atol=1e-6)
    np.testing.assert_allclose(counted.curves().mean(axis=1), counted.per_class("mask_ap50")[0], atol=1e-12)
    return scores


def blob(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    height, width = rng.integers(2, size[0] // 2), rng.integers(2, size[1] // 2)
    mask = box(rng.integers(size[0] - height), rng.integers(size[1] - width), height, width, size)
    return mask & (rng.random(size) < 0.97)


def damaged(rng: np.random.Generator, mask: np.ndarray) -> np.ndarray:
    return np.roll(mask, tuple(rng.integers(-4, 5, 2)), (0, 1)) & (rng.random(mask.shape) < rng.uniform(0.6, 1))


def drawn(seed: int, images: int = 12, size: tuple[int, int] = (200, 240), levels: int = 12) -> list[Image]:
    """Images with overlapping objects and crowds of all sizes, damaged detections of them and false ones; scores on a
    few levels, so that many are tied.
    """
    rng = np.random.default_rng(seed)
    result = []
    for _ in range(images):
        image = Image()
        for _ in range(rng.integers(0, 7)):
            mask, label = blob(rng, size), int(rng.integers(CLASSES))
            image.add(mask, label, crowd=bool(rng.random() < 0.2))
            for _ in range(rng.integers(0, 4)):
                label = label if rng.random() < 0.8 else int(rng.integers(CLASSES))
                image.detect(damaged(rng, mask), label, rng.integers(1, levels) / levels)
        for _ in range(rng.integers(0, 3)):
            image.detect(blob(rng, size), int(rng.integers(CLASSES)), rng.integers(1, levels) / levels)
        result.append(image)
    return result


@pytest.mark.parametrize("seed", range(8))
def test_drawn_cases_score_as_in_pycocotools(seed: int) -> None:
    scores = assert_equal(drawn(seed))
    assert 0 < scores["mask_ap"] < scores["mask_ap50"] < 1


def test_equal_scores_of_detections_and_equal_ious_of_objects() -> None:
    first = Image().add(box(0, 0, 20, 20), 0).add(box(0, 30, 20, 20), 0).add(box(30, 0, 20, 20), 0)
    first.detect(box(0, 40, 20, 20), 0, 0.5).detect(box(0, 30, 20, 20), 0, 0.5).detect(box(5, 0, 20, 20), 0, 0.5)
    second = Image().add(box(0, 0, 20, 20), 0).detect(box(30, 30, 20, 20), 0, 0.5).detect(box(0, 0, 20, 20), 0, 0.5)
    twins = Image().add(box(0, 0, 10, 10), 1).add(box(0, 0, 10, 10), 1).detect(box(0, 0, 10, 10), 1, 0.7)
    twins.detect(box(0, 0, 10, 10), 1, 0.7).detect(box(0, 0, 10, 10), 1, 0.7)
    assert_equal([first, second, twins])


def test_no_detections() -> None:
    assert assert_equal([Image().add(box(0, 0, 20, 20), 0)])["mask_ap"] == 0


def test_no_objects() -> None:
    assert np.isnan(assert_equal([Image().detect(box(0, 0, 20, 20), 0, 0.9)])["mask_ap"])


def test_images_with_nothing_at_all() -> None:
    assert np.isnan(assert_equal([Image(), Image()])["mask_ap"])
    assert np.isnan(AveragePrecision({}, 2).mean("mask_ap")).all()


@pytest.mark.parametrize("area", [0.0, 1023.999, 1024.0, 1024.001, 9216.0, 9216.001])
def test_areas_at_the_border_of_a_range(area: float) -> None:
    size = (200, 200)
    image = Image().add(box(0, 0, 32, 32, size), 0, area).add(box(50, 50, 96, 96, size), 1, area)
    image.detect(box(0, 0, 32, 32, size), 0, 0.9).detect(box(50, 50, 96, 96, size), 1, 0.8)
    image.detect(box(100, 0, 32, 32, size), 0, 0.95).detect(box(100, 0, 31, 33, size), 1, 0.95)
    assert_equal([image])


def test_only_a_crowd() -> None:
    image = Image().add(box(0, 0, 40, 40), 0, crowd=True)
    image.detect(box(0, 0, 10, 10), 0, 0.9).detect(box(20, 20, 10, 10), 0, 0.8).detect(box(45, 50, 10, 10), 0, 0.7)
    assert np.isnan(assert_equal([image])["mask_ap"])
    other = Image().add(box(0, 0, 20, 20), 0).detect(box(0, 0, 20, 20), 0, 0.75)
    scores = assert_equal([image, other])  # what lies in the crowd is neither right nor wrong
    assert scores["mask_ap"] == pytest.approx(1)


def test_a_crowd_does_not_take_a_detection_from_an_object() -> None:
    image = Image().add(box(0, 0, 40, 40), 0, crowd=True).add(box(0, 0, 20, 20), 0)
    image.detect(box(0, 0, 20, 24), 0, 0.9).detect(box(0, 0, 20, 20), 0, 0.8)
    assert_equal([image])


def test_more_than_100_detections_of_a_class() -> None:
    rng = np.random.default_rng(4)
    image, size = Image(), (120, 120)
    places = [(top, left) for top in range(0, 120, 8) for left in range(0, 120, 8)]
    for top, left in places:
        image.add(box(top, left, 6, 6, size), 0)
        image.detect(box(top, left, 6, 6, size), 0, float(rng.random()))
    for top, left in places[:30]:
        image.add(box(top, left, 6, 6, size), 1)
        image.detect(box(top, left, 6, 6, size), 1, 0.001 * top)  # few of a class count beside many of another
    scores = assert_equal([image])
    assert scores["mask_ap"] < 1


def test_detections_of_a_class_without_objects_change_nothing() -> None:
    image = Image().add(box(0, 0, 20, 20), 0).detect(box(0, 0, 20, 20), 0, 0.5).detect(box(30, 30, 9, 9), 2, 0.9)
    assert assert_equal([image])["mask_ap"] == pytest.approx(1)


def coco_images(shared_data: Path) -> list[Image]:
    """The objects of two images of COCO val2017, and damaged detections of them."""
    data = json.loads((shared_data / "coco-sample/coco/annotations/instances_val2017.json").read_text())
    labels = {label: i for i, label in enumerate(sorted({row["category_id"] for row in data["annotations"]}))}
    rng = np.random.default_rng(0)
    images = []
    for picture in data["images"]:
        image = Image()
        for row in (row for row in data["annotations"] if row["image_id"] == picture["id"]):
            mask = coco_mask.decode(row["segmentation"]).astype(bool)
            image.add(mask, labels[row["category_id"]], float(row["area"]), bool(row["iscrowd"]))
            for _ in range(rng.integers(1, 4)):
                label = labels[row["category_id"]] if rng.random() < 0.9 else int(rng.integers(len(labels)))
                image.detect(damaged(rng, mask), label, round(float(rng.random()), 2))
        images.append(image)
    return images


def test_coco_objects_score_as_in_pycocotools(shared_data: Path) -> None:
    images = coco_images(shared_data)
    scores = assert_equal(images, classes=1 + max(label for image in images for label in image.true_labels))
    assert 0 < scores["mask_ap"] < 1


def distinct_scores(images: list[Image], seed: int) -> list[Image]:
    """Scores that are tied between images, but not within one."""
    rng = np.random.default_rng(seed)
    return [replace(image, scores=list(rng.permutation(30)[: len(image.scores)] / 30)) for image in images]


@pytest.mark.parametrize("name", SCORES)
def test_weights_score_as_images_that_are_repeated(name: str) -> None:
    images = distinct_scores(drawn(3, images=8), seed=3)
    weights = np.random.default_rng(5).integers(0, 4, (6, len(images)))
    counted = ours(images)
    for row, score in zip(weights, counted.mean(name, weights), strict=True):
        repeated = [image for image, times in zip(images, row, strict=True) for _ in range(times)]
        assert score == pytest.approx(pycocotools_scores(repeated)[0][name], abs=1e-6, nan_ok=True)


def test_resamples_in_chunks_score_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = ours(drawn(6))
    weights = np.random.default_rng(0).integers(0, 3, (20, 12))
    whole = counted.mean("mask_ap", weights)
    monkeypatch.setattr("segmodels.metrics.average_precision.MEMORY", 8 * 6 * 150)
    np.testing.assert_array_equal(counted.mean("mask_ap", weights), whole)


def test_wrong_names_and_weights_are_refused() -> None:
    counted = ours(drawn(0, images=2))
    with pytest.raises(InputError, match=r"unknown score of instances 'mask_ap5': did you mean .*'mask_ap50'"):
        counted.mean("mask_ap5")
    with pytest.raises(InputError, match=r"weights have shape \(1, 3\), expected \(resamples, 2\)"):
        counted.mean("mask_ap", np.ones((1, 3)))


def test_boxes_count_as_pycocotools_counts_them() -> None:
    images = drawn(4)
    counted = {}
    for number, image in enumerate(images):
        boxes, true_boxes = (
            np.array([(x, y, x + w, y + h) for x, y, w, h in map(coco_mask.toBbox, masks)]).reshape(-1, 4)
            for masks in (image.masks, image.true_masks)
        )
        crowd = np.array(image.crowd, dtype=bool)
        labels, true_labels = np.array(image.labels, np.int64), np.array(image.true_labels, np.int64)
        areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
        iou = box_iou(boxes, true_boxes, crowd)
        facts = labels, np.array(image.scores), areas, true_labels, np.array(image.true_areas), crowd
        counted[f"{number:05d}"] = match(iou, *facts)
    expected, _ = pycocotools_scores(images, kind="bbox")
    found = AveragePrecision(counted, CLASSES)
    for name in SCORES:
        assert float(found.mean(name)[0]) == pytest.approx(expected[name], abs=1e-6, nan_ok=True), name


def test_pairs_are_those_of_one_detection_after_the_other() -> None:
    rng = np.random.default_rng(0)
    for detections, objects in rng.integers(0, 7, (300, 2)):
        iou = rng.choice([0.0, 0.2, 0.5, 0.6, 0.9], (detections, objects), p=[0.5, 0.1, 0.1, 0.2, 0.1])
        scores, crowd = rng.integers(0, 4, detections) / 4, rng.random(objects) < 0.3
        expected = np.full(detections, UNPAIRED)
        for d in sorted(range(detections), key=lambda d: (-scores[d], d)):
            free = [g for g in range(objects) if iou[d, g] >= 0.5 and not crowd[g] and g not in expected]
            if free:
                expected[d] = max(free, key=lambda g: (iou[d, g], g))
            elif (iou[d][crowd] >= 0.5).any():
                expected[d] = EXCUSED
        np.testing.assert_array_equal(pair(iou, scores, crowd), expected)


@pytest.mark.parametrize("seed", range(4))
def test_the_best_threshold_has_the_largest_f1(seed: int) -> None:
    images = drawn(seed)
    found = ours(images).best_threshold()

    def f1(threshold: float) -> float:
        hits = wrong = objects = 0
        for image in images:
            row = image.matches()
            sure = (row.scores >= threshold) & (row.ignored & 1 == 0)
            hits += int((row.matched[sure] & 1).sum())
            wrong += int((row.matched[sure] & 1 == 0).sum())
            objects += int(row.objects[:, 0].sum())
        return 2 * hits / (hits + wrong + objects)

    levels = {score for image in images for score in image.scores}
    assert found in levels
    assert f1(found) == pytest.approx(max(map(f1, levels)))
    assert np.isnan(ours([Image().add(box(0, 0, 5, 5), 0)]).best_threshold())
