"""Panoptic quality against a plain loop over segments with the rules of the COCO panoptic API, and torchmetrics."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from segmodels.annotations import Segment
from segmodels.errors import InputError
from segmodels.metrics.panoptic import PanopticCounts, count_segments, match_segments, mean_of_classes, qualities

CLASSES = 4
PANOPTIC_API = {
    "": (0.5774278478653184, 0.6420026998049267, 0.7766608391608392),
    "things": (0.37129878575189995, 0.5004484896311167, 0.5533216783216783),
    "stuff": (0.783556909978737, 0.783556909978737, 1.0),
}
"""PQ, SQ and RQ that ``pq_compute`` of github.com/cocodataset/panopticapi at 7bb4655 gives for the maps of
``test_coco_maps_count_as_in_the_panoptic_api``, written as it reads them.
"""
Map = tuple[np.ndarray, list[Segment]]


def counts(predicted: Map, true: Map, classes: int = CLASSES) -> PanopticCounts:
    return count_segments(match_segments(*predicted, *true), predicted[1], true[1], classes)


def plain_loop(predicted: Map, true: Map, classes: int = CLASSES) -> list[list[float]]:
    """tp, fp, fn and sum of IoU per class, as ``pq_compute_single_core`` of panopticapi goes through an image."""
    stat = [[0, 0, 0, 0.0] for _ in range(classes)]
    segments, true_segments = {s.id: s for s in predicted[1]}, {s.id: s for s in true[1]}
    area = {label: int((predicted[0] == label).sum()) for label in segments}
    true_area = {label: int((true[0] == label).sum()) for label in true_segments}
    shared: dict[tuple[int, int], int] = {}
    for pair in zip(true[0].ravel().tolist(), predicted[0].ravel().tolist(), strict=True):
        shared[pair] = shared.get(pair, 0) + 1
    matched, matched_true = set(), set()
    for (t, p), inter in shared.items():
        if t not in true_segments or p not in segments or true_segments[t].crowd:
            continue
        if true_segments[t].label != segments[p].label:
            continue
        iou = inter / (area[p] + true_area[t] - inter - shared.get((0, p), 0))
        if iou > 0.5:
            stat[segments[p].label][0] += 1
            stat[segments[p].label][3] += iou
            matched.add(p)
            matched_true.add(t)
    crowds: dict[int, int] = {}
    for t, segment in true_segments.items():
        if t in matched_true:
            continue
        if segment.crowd:
            crowds[segment.label] = t
            continue
        stat[segment.label][2] += 1
    for p, segment in segments.items():
        if p in matched or not area[p]:
            continue
        inter = shared.get((0, p), 0)
        if segment.label in crowds:
            inter += shared.get((crowds[segment.label], p), 0)
        if inter / area[p] > 0.5:
            continue
        stat[segment.label][1] += 1
    return stat


def drawn(rng: np.random.Generator, size: tuple[int, int] = (40, 50)) -> tuple[Map, Map]:
    """A true map of blocks with void and at most one crowd per class, and a shifted and relabelled copy of it."""
    true = np.zeros(size, np.int32)
    segments, crowds = [], set()
    for number in range(1, rng.integers(3, 12)):
        top, left = rng.integers(size[0] - 5), rng.integers(size[1] - 5)
        true[top : top + rng.integers(3, 20), left : left + rng.integers(3, 20)] = number * 7
        label = int(rng.integers(CLASSES))
        crowd = label not in crowds and rng.random() < 0.25
        crowds |= {label} if crowd else set()
        segments.append(Segment(number * 7, label, bool(crowd)))
    segments = [s for s in segments if (true == s.id).any()]
    predicted = np.roll(true, tuple(rng.integers(-2, 3, 2)), (0, 1))
    predicted[rng.random(size) < 0.1] = 0
    predicted[: rng.integers(1, 8), : rng.integers(1, 50)] = 999
    found = [s._replace(label=int(rng.integers(CLASSES))) if rng.random() < 0.2 else s for s in segments]
    found = [s._replace(crowd=False) for s in [*found, Segment(999, int(rng.integers(CLASSES)))]]
    return (predicted, [s for s in found if (predicted == s.id).any()]), (true, segments)


@pytest.mark.parametrize("seed", range(30))
def test_drawn_maps_count_as_in_the_panoptic_api(seed: int) -> None:
    predicted, true = drawn(np.random.default_rng(seed))
    np.testing.assert_allclose(np.array(counts(predicted, true)).T, plain_loop(predicted, true), rtol=0, atol=1e-9)


def test_coco_maps_count_as_in_the_panoptic_api(shared_data: Path) -> None:
    """Two images of COCO val2017, predicted as themselves shifted by some pixels."""
    root = shared_data / "coco-sample/coco/annotations"
    data = json.loads((root / "panoptic_val2017.json").read_text())
    labels = {category["id"]: i for i, category in enumerate(data["categories"])}
    total = np.zeros((4, len(labels)))
    for annotation in data["annotations"]:
        blue, green, red = cv2.split(cv2.imread(str(root / "panoptic_val2017" / annotation["file_name"])))
        ids = red.astype(np.int64) + 256 * green.astype(np.int64) + 65536 * blue.astype(np.int64)
        rows = annotation["segments_info"]
        true = [Segment(row["id"], labels[row["category_id"]], bool(row["iscrowd"])) for row in rows]
        perfect = qualities(counts((ids, true), (ids, true), len(labels)))
        assert {name: float(np.nanmean(values)) for name, values in perfect.items()} == {"pq": 1, "sq": 1, "rq": 1}
        moved = np.roll(ids, (3, 5), (0, 1))
        predicted = [segment._replace(crowd=False) for segment in true]
        expected = plain_loop((moved, predicted), (ids, true), len(labels))
        found = np.array(counts((moved, predicted), (ids, true), len(labels)))
        np.testing.assert_allclose(found.T, expected, rtol=0, atol=1e-9)
        total += found
    things = np.array([bool(category["isthing"]) for category in data["categories"]])
    values = qualities(PanopticCounts(*total))
    for group, chosen in (("", things | True), ("things", things), ("stuff", ~things)):
        means = [float(mean_of_classes(values[name], np.flatnonzero(chosen))) for name in ("pq", "sq", "rq")]
        np.testing.assert_allclose(means, PANOPTIC_API[group], rtol=0, atol=1e-12)


def test_without_void_and_crowds_the_mean_is_that_of_torchmetrics() -> None:
    from torchmetrics.functional.detection import panoptic_quality

    rng = np.random.default_rng(3)
    pairs = []
    for _ in range(2):  # segments of every pixel: stuff 0 behind things 1, 2
        ids = np.repeat(np.repeat(rng.integers(0, 6, (5, 6)), 4, 0), 4, 1)
        classes = np.array([0, 1, 1, 2, 2, 2])[ids]
        pairs.append((ids, classes))
    (ids, classes), (true, true_classes) = pairs[0], pairs[1]
    ids = np.where(rng.random(ids.shape) < 0.8, true, ids)
    classes = np.array([0, 1, 1, 2, 2, 2])[ids]
    rows = [Segment(i + 1, c) for i, c in enumerate([0, 1, 1, 2, 2, 2])]
    found = qualities(counts((ids + 1, rows), (true + 1, rows), 3))["pq"]
    expected = panoptic_quality(
        torch.tensor(np.stack([classes, ids * (classes > 0)], -1))[None],
        torch.tensor(np.stack([true_classes, true * (true_classes > 0)], -1))[None],
        things={1, 2},
        stuffs={0},
    )
    assert float(np.nanmean(found)) == pytest.approx(float(expected), abs=1e-6)


def block(*placed: tuple[int, int, int]) -> np.ndarray:
    """A row of 10 pixels with ids from .. to."""
    row = np.zeros((1, 10), np.int32)
    for number, start, stop in placed:
        row[0, start:stop] = number
    return row


def test_an_iou_of_one_half_is_no_match() -> None:
    true = block((1, 0, 2)), [Segment(1, 0)]
    for stop, expected in ((1, (0, 1, 1)), (2, (1, 0, 0))):
        predicted = block((1, 0, stop), (2, 5, 6)), [Segment(1, 0), Segment(2, 1)]
        found = counts(predicted, (true[0] + 9 * (true[0] == 0), [*true[1], Segment(9, 3)]))
        assert (found.tp[0], found.fp[0], found.fn[0]) == expected


def test_void_leaves_the_union_and_excuses_segments() -> None:
    true = block((1, 0, 4)), [Segment(1, 0)]
    found = counts((block((1, 0, 10)), [Segment(1, 0)]), true)
    assert (found.tp[0], found.iou[0]) == (1, 1.0)
    half_void = counts((block((1, 2, 6)), [Segment(1, 1)]), true)  # exactly half on void is still wrong
    assert (half_void.fp[1], counts((block((1, 2, 7)), [Segment(1, 1)]), true).fp[1]) == (1, 0)


def test_a_crowd_excuses_segments_of_its_class_alone_and_is_never_missed() -> None:
    true = block((1, 0, 10)), [Segment(1, 2, crowd=True)]
    predicted = block((1, 0, 3), (2, 3, 6)), [Segment(1, 2), Segment(2, 1)]
    found = counts(predicted, true)
    assert found.fp.tolist() == [0, 1, 0, 0]
    assert not found.fn.any()
    assert not found.tp.any()


def test_absent_classes_are_left_out_of_means() -> None:
    found = counts((block((1, 0, 10)), [Segment(1, 2)]), (block((1, 0, 10)), [Segment(1, 2)]))
    values = qualities(found)
    assert np.isnan(values["pq"]).tolist() == [True, True, False, True]
    assert mean_of_classes(values["pq"], range(4)) == 1
    assert np.isnan(mean_of_classes(values["pq"], [0, 1]))


def test_maps_that_do_not_fit_are_refused() -> None:
    rows = [Segment(1, 0)]
    with pytest.raises(InputError, match=r"predicted map has size \(1, 10\), expected \(2, 10\)"):
        match_segments(block((1, 0, 3)), rows, np.zeros((2, 10), np.int32), [])
    with pytest.raises(InputError, match=r"predicted map holds the ids \[2\], expected those of its segments or 0"):
        match_segments(block((2, 0, 3)), rows, block((1, 0, 3)), rows)
    assert match_segments(np.zeros((1, 10), int), [], np.zeros((1, 10), int), []).iou.size == 0
