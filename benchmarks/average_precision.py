"""Evaluation of objects beside pycocotools: ``python -m benchmarks.average_precision``.

500 images with 20 objects each. Times are of the processor, so that other processes do not count. All scores are
compared, too.
"""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from benchmarks.report import markdown_table, side_by_side, write_section
from segmodels import run_lengths
from segmodels.annotations import Annotation, Segment, pack_layers, rows_of
from segmodels.labels import LabelMap
from segmodels.metrics.average_precision import SCORES, AveragePrecision
from segmodels.metrics.object_matching import mask_iou, match
from segmodels.results import Instances
from segmodels.tasks.instance_evaluator import InstanceEvaluator, TrueObjects

HEIGHT, WIDTH, IMAGES, OBJECTS, WRONG = 480, 640, 500, 20, 5
DRAWN = 50  # different images; the others repeat them
STATS = [0, 1, 2, 3, 4, 5, 8, 9, 10, 11]  # of pycocotools' summary, in the order of ``SCORES``
LEAST = 5.0  # times as fast as pycocotools

Scene = tuple[Annotation, Instances]


def ellipse(random: np.random.Generator, middle: np.ndarray, axes: np.ndarray) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.ellipse(
        mask, [int(place) for place in middle], [int(axis) for axis in axes], random.uniform(0, 180), 0, 360, 1, -1
    )
    return mask.astype(bool)


def scene(random: np.random.Generator, labels: LabelMap) -> Scene:
    """Ellipses of all sizes that overlap, one of them a crowd; of each a detection that is a little off, wrong ones."""
    masks: list[np.ndarray] = []
    found: list[np.ndarray] = []
    classes: list[int] = []
    of_found: list[int] = []
    while len(masks) < OBJECTS:
        middle, axes = random.integers(0, (WIDTH, HEIGHT)), random.integers(6, 70, 2)
        mask = ellipse(random, middle, axes)
        if mask.any():
            masks.append(mask)
            classes.append(int(random.integers(1, labels.num_classes)))
            found.append(np.roll(mask, tuple(random.integers(-5, 6, 2)), (0, 1)))
            of_found.append(classes[-1] if random.random() < 0.9 else int(random.integers(1, labels.num_classes)))
    for _ in range(WRONG):
        found.append(ellipse(random, random.integers(0, (WIDTH, HEIGHT)), random.integers(6, 70, 2)))
        of_found.append(int(random.integers(1, labels.num_classes)))
    order = random.permutation(len(found))
    layers = pack_layers(masks, (HEIGHT, WIDTH))
    rows = [Segment(number, label, crowd=number == 1) for number, label in enumerate(classes, start=1)]
    scores = random.permutation(np.linspace(0.05, 0.99, len(found)))
    instances = Instances.of_masks(np.stack(found)[order], scores, np.array(of_found)[order])
    return Annotation(np.zeros((HEIGHT, WIDTH), labels.dtype), layers, rows_of(layers, rows)), instances


def as_coco(scenes: Sequence[Scene], labels: LabelMap) -> tuple[COCO, COCO]:
    """What pycocotools evaluates: all masks are encoded already."""
    truth, found = COCO(), []
    annotations: list[dict[str, Any]] = []
    for number, (annotation, instances) in enumerate(scenes, start=1):
        true = TrueObjects(annotation, labels)
        masks = run_lengths.objects(true.masks, instances.size)
        for mask, label, area, crowd in zip(masks, true.labels, true.areas, true.crowd, strict=True):
            row = {"image_id": number, "category_id": int(label), "segmentation": mask, "iscrowd": int(crowd)}
            annotations.append(row | {"id": len(annotations) + 1, "area": float(area), "bbox": [0, 0, 0, 0]})
        for mask, label, score in zip(instances.objects(), instances.labels, instances.scores, strict=True):
            row = {"image_id": number, "category_id": int(label), "segmentation": mask, "score": float(score)}
            found.append(row)
    truth.dataset = {
        "images": [{"id": number + 1, "height": HEIGHT, "width": WIDTH} for number in range(len(scenes))],
        "categories": [{"id": label, "name": name} for label, name in enumerate(labels.classes) if label],
        "annotations": annotations,
    }
    truth.createIndex()
    return truth, truth.loadRes(found)


def contenders(scenes: Sequence[Scene], labels: LabelMap) -> dict[str, Callable[[], dict[str, float]]]:
    """Each returns the scores of all images."""
    truth, found = as_coco(scenes, labels)
    true = [TrueObjects(annotation, labels) for annotation, _ in scenes]

    def pycocotools() -> dict[str, float]:
        with contextlib.redirect_stdout(io.StringIO()):
            counted = COCOeval(truth, found, "segm")
            counted.evaluate()
            counted.accumulate()
            counted.summarize()
        return dict(zip(SCORES, counted.stats[STATS].tolist(), strict=True))

    def masks() -> dict[str, float]:
        images = {}
        for number, (own, (_, result)) in enumerate(zip(true, scenes, strict=True)):
            iou = mask_iou(result.objects(), run_lengths.objects(own.masks, result.size), own.crowd)
            areas = run_lengths.areas(result.masks, result.size)
            images[f"{number:04}"] = match(iou, result.labels, result.scores, areas, own.labels, own.areas, own.crowd)
        counted = AveragePrecision(images, labels.num_classes)
        return {name: float(counted.mean(name)[0]) for name in SCORES}

    def whole() -> dict[str, float]:
        counted = InstanceEvaluator(labels)
        for number, (annotation, result) in enumerate(scenes):
            counted.update([result], [annotation], [f"{number:04}"])
        return counted.scores()

    return {
        "pycocotools: evaluate, accumulate": pycocotools,
        "segmodels: the same from encoded masks": masks,
        "segmodels: evaluator, from maps; boxes and confusion matrix too": whole,
    }


def main() -> None:
    columns: dict[str, dict[str, float]] = {}
    for classes in (1, 80):
        names = tuple(f"class {label}" for label in range(classes + 1))
        colors = tuple((label, 0, 0) for label in range(classes + 1))
        ids = {label: label for label in range(classes + 1)}
        labels = LabelMap(names, colors, ids, 255, frozenset(range(1, classes + 1)))
        random = np.random.default_rng(classes)
        drawn = [scene(random, labels) for _ in range(DRAWN)]
        with contextlib.redirect_stdout(io.StringIO()):
            runs = contenders([drawn[number % DRAWN] for number in range(IMAGES)], labels)
        compare(runs)
        kind = f"{classes} class{'es' * (classes > 1)}"
        columns[kind] = side_by_side(runs, rounds=3, warmup=0, clock=time.process_time)
    peer, *_ = next(iter(columns.values()))
    header = [f"{IMAGES} images of {HEIGHT} x {WIDTH}, {OBJECTS} objects each"]
    header += [f"{kind}, {unit}" for kind in columns for unit in ("ms", "pycocotools / this")]
    rows: list[list[Any]] = [
        [name, *(cell for times in columns.values() for cell in (times[name], times[peer] / times[name]))]
        for name in next(iter(columns.values()))
    ]
    least = f"From encoded masks, as pycocotools counts, at least {LEAST:g} times as fast; all scores equal to 1e-6."
    table = f"{markdown_table(header, rows)}\n\n{least}"
    write_section("Average precision of masks, processor time", table, ("numpy", "pycocotools"))


def compare(runs: dict[str, Callable[[], dict[str, float]]]) -> None:
    """Raises AssertionError where two count otherwise."""
    scores = {name: run() for name, run in runs.items()}
    expected = next(iter(scores.values()))
    for name, own in scores.items():
        for score, value in expected.items():
            assert abs(own[score] - value) <= 1e-6, f"{name}: {score} is {own[score]}, expected {value}"


if __name__ == "__main__":
    main()
