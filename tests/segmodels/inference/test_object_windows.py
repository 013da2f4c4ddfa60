"""Objects in windows: each object once with its whole mask, wherever the borders lie; views of an image averaged."""

from __future__ import annotations

from functools import partial
from typing import Any

import cv2
import numpy as np
import pytest
import scipy.ndimage
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from segmodels import run_lengths
from segmodels.annotations import Segment
from segmodels.errors import InputError
from segmodels.inference.object_windows import join_objects, join_segments
from segmodels.inference.sliding_window import image_rows
from segmodels.labels import LabelMap
from segmodels.outputs import DetectionOutput, QueryOutput
from segmodels.results import Instances, PanopticMap
from segmodels.run_lengths import Crop
from segmodels.tasks.registry import create_task
from segmodels.windows import SlidingWindow

LABELS = LabelMap(
    ("ground", "round", "flat", "sky"), ((0, 0, 0), (1, 1, 1), (2, 2, 2), (3, 3, 3)), {i: i for i in range(4)},
    things=frozenset({1, 2}),
)  # fmt: skip


def exact(ids: NDArray, classes: dict[int, int]) -> Instances:
    """What a predictor without errors says of a window."""
    found = [(id, place) for id, place in enumerate(scipy.ndimage.find_objects(ids), start=1) if place]
    masks = [
        run_lengths.placed(Crop(columns.start, rows.start, ids[rows, columns] == id), ids.shape)
        for id, (rows, columns) in found
    ]
    scores = np.array([0.5 + 0.4 / id for id, _ in found], np.float32)
    labels = np.array([classes[id] for id, _ in found], np.int64)
    return Instances(ids.shape, run_lengths.boxes(masks, ids.shape), scores, labels, tuple(masks))


def joined(ids: NDArray, classes: dict[int, int], window: SlidingWindow) -> Instances:
    """The picture is the map of ids itself, so that the stand-in reads the truth of each window from its pixels."""

    def predict(batch: Tensor) -> list[Instances]:
        return [exact(own[0].numpy(), classes) for own in batch]

    picture = torch.from_numpy(ids[None])
    return join_objects(predict, partial(image_rows, picture), ids.shape, window)


def masks_of(found: Instances) -> list[bytes]:
    return sorted(found.masks)


def scene(height: int, width: int, seed: int, longest: int) -> tuple[NDArray, dict[int, int]]:
    """Connected blobs that touch one another, of two classes."""
    rng = np.random.default_rng(seed)
    ids = np.zeros((height, width), np.int32)
    for id in range(1, 9):
        center = int(rng.integers(width)), int(rng.integers(height))
        axes = int(rng.integers(1, longest)), int(rng.integers(1, longest))
        blob = cv2.ellipse(np.zeros(ids.shape, np.uint8), center, axes, float(rng.integers(180)), 0, 360, 1, -1)
        parts, count = scipy.ndimage.label((blob > 0) & (ids == 0), np.ones((3, 3)))
        if count:
            ids[parts == 1 + rng.integers(count)] = id
    return ids, {id: 1 + id % 2 for id in range(1, 9)}


@given(
    height=st.integers(5, 70), width=st.integers(5, 70), rows=st.integers(6, 30), columns=st.integers(6, 30),
    overlap=st.sampled_from([0.2, 0.25, 0.5, 0.7]), seed=st.integers(0, 999),
)  # fmt: skip
@settings(max_examples=12, deadline=None)
def test_every_object_is_found_once_and_whole(
    height: int, width: int, rows: int, columns: int, overlap: float, seed: int
) -> None:
    ids, classes = scene(height, width, seed, longest=40)
    window = SlidingWindow((rows, columns), overlap, batch_size=3)
    found, truth = joined(ids, classes, window), exact(ids, classes)
    assert masks_of(found) == masks_of(truth)
    by_mask = dict(zip(truth.masks, zip(truth.labels, truth.scores, truth.boxes.tolist(), strict=True), strict=True))
    for mask, label, score, box in zip(found.masks, found.labels, found.scores, found.boxes.tolist(), strict=True):
        assert (label, score, box) == by_mask[mask]
    assert (np.diff(found.scores) <= 0).all()

    def maps(batch: Tensor) -> list[PanopticMap]:
        return [panoptic(own[0].numpy(), classes) for own in batch]

    ground = np.where(ids == 0, np.where(np.arange(width) < width // 2, 9, 10), ids).astype(np.int32)
    picture = torch.from_numpy(ground[None])
    whole = join_segments(maps, partial(image_rows, picture), ids.shape, window, LABELS)
    expected = panoptic(ground, classes)
    pairs = {(int(a), int(b)) for a, b in zip(whole.ids.ravel(), expected.ids.ravel(), strict=True)}
    assert len(pairs) == len(whole.segments) == len(expected.segments)
    labels = [{segment.id: segment.label for segment in own.segments} for own in (whole, expected)]
    assert all(labels[0][a] == labels[1][b] for a, b in pairs)


def panoptic(ids: NDArray, classes: dict[int, int]) -> PanopticMap:
    every = classes | {9: 0, 10: 3}
    return PanopticMap(ids, tuple(Segment(id, every[id]) for id in np.unique(ids).tolist()))


@pytest.mark.slow
def test_two_thousand_nuclei_of_a_large_image_are_each_found_once() -> None:
    side, count, cell = 4000, 2000, 88
    rng = np.random.default_rng(0)
    ids = np.zeros((side, side), np.int32)
    places = rng.permutation(np.argwhere(np.ones((side // cell, side // cell))))[:count]
    for id, corner in enumerate(places * cell, start=1):
        top, left = (corner + rng.integers(-9, 10, 2)).clip(0)
        free = ids[top : top + cell, left : left + cell]
        axes = int(rng.integers(8, 48)), int(rng.integers(8, 48))
        nucleus = cv2.ellipse(np.zeros(free.shape, np.uint8), (44, 44), axes, float(rng.integers(180)), 0, 360, 1, -1)
        parts, pieces = scipy.ndimage.label((nucleus > 0) & (free == 0))
        free[parts == np.bincount(parts.ravel(), minlength=pieces + 1)[1:].argmax() + 1] = id
    assert len(np.unique(ids)) == 1 + count  # none is hidden by its neighbours, though many touch
    classes = dict.fromkeys(range(1, count + 1), 1)
    found = joined(ids, classes, SlidingWindow((512, 512), 0.25))
    assert len(found) == count
    assert masks_of(found) == masks_of(exact(ids, classes))


def test_a_fragment_at_a_border_does_not_replace_the_object_that_another_window_sees_whole() -> None:
    ids = np.zeros((20, 40), np.int32)
    ids[5:15, 12:22] = 1

    def predict(batch: Tensor) -> list[Instances]:
        found = [exact(own[0].numpy(), {1: 1}) for own in batch]
        return [eroded(own) if len(own) and touches(own) else own for own in found]

    def touches(own: Instances) -> bool:
        return bool(own.boxes[0, 0] == 0 or own.boxes[0, 2] == own.size[1])

    def eroded(own: Instances) -> Instances:
        mask = own.mask(0)
        mask[:6] = False  # the model sees less of what is cut
        return Instances.of_masks(mask[None], [0.99], own.labels)

    picture = torch.from_numpy(ids[None])
    found = join_objects(predict, partial(image_rows, picture), ids.shape, SlidingWindow((20, 20), 0.5))
    assert len(found) == 1
    assert (found.mask(0) == (ids == 1)).all()


def test_objects_of_two_classes_are_not_joined() -> None:
    ids = np.zeros((8, 30), np.int32)
    ids[2:6, 5:25] = 1
    turns = iter([1, 2])

    def predict(batch: Tensor) -> list[Instances]:
        return [exact(own[0].numpy(), {1: next(turns)}) for own in batch]

    picture = torch.from_numpy(ids[None])
    found = join_objects(predict, partial(image_rows, picture), ids.shape, SlidingWindow((8, 20), 0.25))
    assert sorted(found.labels.tolist()) == [1, 2]


class Seen:
    """A detector, and one of queries, that read boxes and masks from the pixels: ids of objects, 1 to 6."""

    def __init__(self, kind: str, blind: int | None = None) -> None:
        self.kind, self.blind = kind, blind

    def __call__(self, images: Tensor, **guide: Any) -> Any:
        size = (images.shape[2], images.shape[3])
        if self.kind == "queries":
            masks = torch.stack([(images[:, 0] == id).float() * 20 - 10 for id in range(1, 7)], dim=1)
            logits = torch.full((len(images), 6, 3), -4.0)
            for id in range(1, 7):
                logits[:, id - 1, id % 2] = 3.0 + id / 10
            logits[:, :, 2] = torch.where((masks > 0).flatten(2).any(dim=2), -4.0, 9.0)
            return QueryOutput(logits, masks)
        found = [self._image(own[0], size) for own in images]
        boxes, scores, labels, masks = (tuple(values) for values in zip(*found, strict=True))
        return DetectionOutput(boxes, scores, labels, masks, size)

    def _image(self, ids: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        boxes, scores, labels, masks = [], [], [], []
        for id in range(1, 7):
            rows, columns = (ids == id).nonzero(as_tuple=True)
            if not len(rows) or (id == self.blind and columns.float().mean() > size[1] / 2):
                continue
            box = [float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1)]
            part = (ids == id)[int(box[1]) : int(box[3]), int(box[0]) : int(box[2])].float()[None, None]
            boxes.append(box)
            scores.append(0.9 - id / 20)
            labels.append(id % 2)
            masks.append(torch.nn.functional.interpolate(part, (28, 28), mode="bilinear")[0, 0] * 16 - 7.9)
        stacked = torch.stack(masks) if masks else torch.zeros(0, 28, 28)
        own = torch.tensor(labels, dtype=torch.int64)
        return torch.tensor(boxes).reshape(-1, 4), torch.tensor(scores), own, stacked


def predicted(network: Seen, ids: NDArray, **given: Any) -> Instances:
    task = create_task("instance", LABELS, given)
    picture = torch.from_numpy(ids[None, None].astype(np.float32))
    (found,) = task.predict(network, picture, [ids.shape])
    return found


@pytest.mark.parametrize("kind", ["detections", "queries"])
@pytest.mark.parametrize("window", [None, {"size": (40, 40), "overlap": 0.5}])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_flipping_the_image_of_a_symmetric_predictor_changes_nothing(
    kind: str, window: dict[str, Any] | None, seed: int
) -> None:
    ids, _ = scene(60, 70, seed, longest=18)
    ids[ids > 6] = 0
    cut = {} if window is None else {"sliding_window": SlidingWindow(**window)}
    plain, turned = (predicted(Seen(kind), ids, flip=flip, **cut) for flip in (False, True))
    assert len(plain) == len(turned) > 1
    np.testing.assert_array_equal(turned.labels, plain.labels)
    np.testing.assert_allclose(turned.scores, plain.scores, rtol=1e-6)
    np.testing.assert_allclose(turned.boxes, plain.boxes, atol=1e-4)
    assert turned.masks == plain.masks


def test_an_object_that_one_of_two_views_shows_has_half_its_score() -> None:
    ids = np.zeros((40, 60), np.int32)
    ids[5:20, 5:20], ids[22:38, 40:55] = 1, 2
    found = predicted(Seen("detections", blind=1), ids, flip=True)
    scores = dict(zip(found.labels.tolist(), found.scores.tolist(), strict=True))
    assert scores == pytest.approx({2: 0.85 / 2, 1: 0.8})  # seen on the left alone, and in both
    assert (found.mask(1) == (ids == 1)).all()


def test_windows_for_volumes_are_refused_for_images_of_objects() -> None:
    for name in ("instance", "panoptic"):
        task = create_task(name, LABELS, {"sliding_window": {"size": [8, 8, 8]}})
        with pytest.raises(InputError, match=r"sliding window is \[8, 8, 8\] but images have 2 axes"):
            task.predict(Seen("queries"), torch.zeros(1, 1, 20, 20), [(20, 20)])
    with pytest.raises(InputError, match=r"setting 'flip' is unknown to PanopticSettings"):
        create_task("panoptic", LABELS, {"flip": True})


def test_objects_of_windows_are_given_at_the_size_that_was_asked_for() -> None:
    ids, _ = scene(60, 70, 1, longest=18)
    ids[ids > 6] = 0
    task = create_task("instance", LABELS, {"sliding_window": {"size": [40, 40]}})
    picture = torch.from_numpy(ids[None, None].astype(np.float32))
    (found,) = task.predict(Seen("queries"), picture, [(120, 140)])
    (small,) = task.predict(Seen("queries"), picture, [(60, 70)])
    assert len(found) == len(small)
    assert found.size == (120, 140)
    for number in range(len(found)):
        np.testing.assert_array_equal(found.mask(number), np.kron(small.mask(number), np.ones((2, 2), bool)))
        np.testing.assert_allclose(found.boxes[number], small.boxes[number] * 2)
