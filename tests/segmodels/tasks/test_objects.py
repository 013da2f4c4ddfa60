"""Instance and panoptic tasks with an oracle: truth in, perfect scores out; known damage in, the value computed by hand
out.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from object_models import registered
from object_scenes import DIGITS, digit_scenes
from pycocotools import mask as coco_mask

from segmodels.annotations import Annotation, Segment, pack_layers, rows_of
from segmodels.errors import InputError
from segmodels.labels import LabelMap
from segmodels.losses import create_loss
from segmodels.losses.mask_classification import MaskClassificationLoss
from segmodels.models.registry import create_model, known_arguments, model_entry
from segmodels.object_reading import InstanceSettings
from segmodels.outputs import QueryOutput
from segmodels.plots import comparisons
from segmodels.results import Instances, PanopticMap
from segmodels.tasks.registry import create_task, settings_from_dict, settings_to_dict

LABELS = LabelMap(
    ("ground", "sky", "cat", "dog"),
    ((90, 60, 30), (120, 180, 240), (230, 60, 60), (60, 60, 230)),
    {i: i for i in range(4)},
    things=frozenset({2, 3}),
)
BOTH = pytest.mark.parametrize("name", ["instance", "panoptic"])


@pytest.fixture(autouse=True, scope="module")
def models() -> Iterator[None]:
    with registered():
        yield


def ids(count: int) -> list[str]:
    return [f"scene/{count - i:03d}" for i in range(count)]


def evaluated(task: Any, results: Sequence[Any], annotations: Sequence[Annotation], names: Sequence[str]) -> Any:
    evaluator = task.evaluator()
    evaluator.update(results, annotations, names)
    return evaluator


def annotation() -> Annotation:
    """Ground with sky above, two cats, a dog that lies under the second cat's place, and a crowd of dogs; an ignored
    strip at the bottom.
    """
    classes = np.zeros((40, 60), np.uint8)
    classes[:10] = 1
    masks = np.zeros((4, 40, 60), bool)
    masks[0, 12:22, 5:15] = masks[1, 12:22, 20:30] = masks[2, 12:32, 26:36] = masks[3, 12:22, 40:60] = True
    for mask, label in zip(masks[::-1], (3, 3, 2, 2), strict=True):
        classes[mask] = label
    classes[36:] = 255
    layers = pack_layers(list(masks), classes.shape)
    rows = rows_of(layers, [Segment(1, 2), Segment(2, 2), Segment(3, 3), Segment(4, 3, crowd=True)])
    return Annotation(classes, layers, rows)


def damage(name: str, results: list[Any], rng: np.random.Generator) -> list[Any]:
    """Results with wrong classes, missing and moved objects."""
    damaged: list[Any] = []
    for result in results:
        if name == "instance":
            kept = rng.random(len(result)) < 0.8
            masks = [np.roll(result.mask(int(i)), rng.integers(-2, 3), 1) for i in np.flatnonzero(kept)]
            labels = [int(x) if rng.random() < 0.8 else int(rng.integers(1, 11)) for x in result.labels[kept]]
            stack = np.array(masks).reshape(-1, *result.size)
            damaged.append(Instances.of_masks(stack, rng.integers(1, 9, len(masks)) / 8, labels))
        else:
            segments = [s if rng.random() < 0.8 else s._replace(label=int(rng.integers(11))) for s in result.segments]
            damaged.append(PanopticMap(np.roll(result.ids, rng.integers(-2, 3), 1), tuple(segments)))
    return damaged


def test_truth_in_perfect_scores_out() -> None:
    _, annotations = digit_scenes()
    for name, scores in (("instance", ("mask_ap", "mask_ap50", "mask_ap75")), ("panoptic", ("pq", "sq", "rq"))):
        task = create_task(name, DIGITS)
        evaluator = evaluated(task, [task.truth(each) for each in annotations], annotations, ids(6))
        assert [evaluator.scores()[score] for score in scores] == pytest.approx([1, 1, 1])
        assert next(iter(task.headline)) == scores[0]
        assert evaluator.scores()["images"] == 6
        names, counts = evaluator.confusion()
        assert names[-1] == "nothing"
        assert counts.sum() == np.trace(counts) > 6
        assert evaluator.images()["score"].to_pylist() == pytest.approx([1] * 6)


def test_known_damage_has_the_panoptic_quality_computed_by_hand() -> None:
    task = create_task("panoptic", LABELS)
    truth = task.truth(annotation())
    by_label = {s.label: s.id for s in truth.segments if not s.crowd}
    assert [(s.label, s.crowd) for s in truth.segments] == [
        (2, False),
        (2, False),
        (3, False),
        (3, True),
        (0, False),
        (1, False),
    ]
    assert not truth.ids[36:].any()
    predicted = truth.ids.copy()
    predicted[12:22, 5:15] = 0  # the first cat is missed by half of its rows: 50 of 100 pixels are no match
    predicted[12:17, 5:15] = truth.ids[12, 5]
    predicted[truth.ids == by_label[3]] = 0  # the dog is not found
    predicted[36:, :] = by_label[0]  # on ignored pixels anything goes
    scores = evaluated(task, [PanopticMap(predicted, truth.segments)], [annotation()], ["a"])
    by_class = {row["class"]: row for row in scores.per_class()}
    # ground and sky are whole; cats: one match (IoU 1), one wrong, one missed: 1 / (1 + 0.5 + 0.5); dog: missed, and
    # the crowd of dogs excuses what lies in it
    assert [by_class[name]["pq"] for name in LABELS.classes] == pytest.approx([1, 1, 0.5, 0])
    assert [by_class["cat"][key] for key in ("tp", "fp", "fn")] == [1, 1, 1]
    assert [by_class["dog"][key] for key in ("tp", "fp", "fn")] == [0, 0, 1]
    expected = {"pq": 2.5 / 4, "sq": 3 / 4, "rq": 2.5 / 4, "pq_things": 0.25, "pq_stuff": 1.0, "segments": 5}
    assert {key: scores.scores()[key] for key in expected} == pytest.approx(expected)
    assert scores.images()["score"].to_pylist() == pytest.approx([2.5 / 4])
    names, counts = scores.confusion()
    assert list(names) == [*LABELS.classes, "nothing"]
    # an IoU of one half is no match here
    assert counts[2].tolist() == [0, 0, 1, 0, 1]
    assert counts[4].tolist() == [0, 0, 1, 0, 0]
    assert counts[3].tolist() == [0, 0, 0, 0, 1]


def test_known_damage_has_the_average_precision_computed_by_hand() -> None:
    task = create_task("instance", LABELS)
    truth = task.truth(annotation())
    assert truth.labels.tolist() == [2, 2, 3]  # the crowd is no single object
    masks = [truth.mask(0), truth.mask(1), truth.mask(2)]
    half = masks[1].copy()
    half[12:15] = False  # IoU 0.7: right at 5 of 10 thresholds
    stray = np.zeros((40, 60), bool)
    stray[0:4, 0:4] = True
    crowded = np.zeros((40, 60), bool)
    crowded[12:16, 45:50] = True
    found = np.stack([masks[0], half, stray, masks[2], crowded])
    result = Instances.of_masks(found, [0.9, 0.8, 0.7, 0.6, 0.95], [2, 2, 2, 2, 3])
    evaluator = evaluated(task, [result], [annotation()], ["a"])
    # cats: at 0.50 .. 0.70 both are found before anything wrong: 1; above, recall ends at 1/2: 51 of 101 points
    cats, dogs = (5 * 1 + 5 * 51 / 101) / 10, 0.0  # the dog was called a cat; what lies in the crowd does not count
    scores = evaluator.scores()
    assert scores["mask_ap"] == pytest.approx((cats + dogs) / 2)
    assert scores["mask_ap50"] == pytest.approx(1 / 2)
    assert scores["mask_ap75"] == pytest.approx(51 / 101 / 2)
    assert (scores["objects"], np.isnan(scores["mask_ap_large"])) == (3, True)
    rows = evaluator.per_class()
    assert [(row["class"], row["objects"]) for row in rows] == [("cat", 2), ("dog", 1)]
    assert rows[0]["ap"] == pytest.approx(cats)
    names, counts = evaluator.confusion()
    assert list(names) == ["cat", "dog", "nothing"]
    assert counts.tolist() == [[2, 0, 0], [1, 0, 0], [1, 0, 0]]


@BOTH
def test_parts_add_up_in_any_order_to_the_same_numbers(name: str) -> None:
    _, annotations = digit_scenes()
    task = create_task(name, DIGITS)
    results = damage(name, [task.truth(each) for each in annotations], np.random.default_rng(1))
    names = ids(6)
    whole = evaluated(task, results, annotations, names)
    assert 0 < whole.scores()[next(iter(task.headline))] < 1
    parts = [evaluated(task, results[i::3], annotations[i::3], names[i::3]) for i in range(3)]
    for total in (
        parts[0] + parts[1] + parts[2],
        parts[2] + (pickle.loads(pickle.dumps(parts[1])) + parts[0]),
        evaluated(task, results[::-1], annotations[::-1], names[::-1]),
    ):
        np.testing.assert_equal(total.scores(), whole.scores())
        np.testing.assert_equal(total.per_class(), whole.per_class())
        assert total.images().equals(whole.images())
        np.testing.assert_array_equal(total.confusion()[1], whole.confusion()[1])
    assert whole.images()["id"].to_pylist() == sorted(names)
    with pytest.raises(InputError, match="is counted in both sums"):
        parts[0] + parts[0]
    with pytest.raises(InputError, match="is counted twice"):
        parts[0].update(results[:1], annotations[:1], names[:1])
    with pytest.raises(InputError, match="expected the same classes and things"):
        parts[0] + create_task(name, LABELS).evaluator()


@BOTH
def test_counts_are_written_and_read_without_loss(name: str, tmp_path: Path) -> None:
    _, annotations = digit_scenes()
    task = create_task(name, DIGITS)
    results = damage(name, [task.truth(each) for each in annotations], np.random.default_rng(2))
    empty = Annotation.of_classes(np.zeros((8, 8), np.uint8))
    whole = evaluated(task, [*results, task.truth(empty)], [*annotations, empty], [*ids(6), "empty"])
    whole.write(tmp_path)
    again = type(whole).read(tmp_path)
    assert again.labels == DIGITS
    np.testing.assert_equal(again.scores(), whole.scores())
    np.testing.assert_array_equal(again.confusion()[1], whole.confusion()[1])
    assert again.images().equals(whole.images())
    assert pq.read_table(tmp_path / "per_image.parquet").num_rows == 7
    (tmp_path / "per_image.parquet").write_bytes(b"no table")
    with pytest.raises(InputError, match=r"per_image.parquet is damaged"):
        type(whole).read(tmp_path)


@BOTH
def test_weights_score_as_images_that_are_repeated(name: str) -> None:
    _, annotations = digit_scenes()
    task = create_task(name, DIGITS)
    results = damage(name, [task.truth(each) for each in annotations], np.random.default_rng(3))
    if name == "instance":  # scores of one image are distinct: the order of equal ones within it is not that of copies
        results = [replace(r, scores=np.linspace(0.2, 0.9, len(r), dtype=np.float32)) for r in results]
    names = sorted(ids(6))
    whole = evaluated(task, results, annotations, names)
    weights = np.random.default_rng(4).integers(0, 3, (5, 6))
    for metric in task.headline:
        for row, score in zip(weights, whole.resampled(metric, weights), strict=True):
            copies = [(i, copy) for i, times in enumerate(row) for copy in range(times)]
            repeated = evaluated(
                task,
                [results[i] for i, _ in copies],
                [annotations[i] for i, _ in copies],
                [f"{names[i]}#{copy}" for i, copy in copies],
            )
            assert score == pytest.approx(repeated.scores()[metric], abs=1e-9)
    with pytest.raises(InputError, match="unknown score of"):
        whole.resampled("miou", weights)


@BOTH
def test_no_images_and_images_without_objects(name: str) -> None:
    task = create_task(name, DIGITS)
    headline = next(iter(task.headline))
    assert np.isnan(task.evaluator().scores()[headline])
    empty = Annotation.of_classes(np.full((8, 8), 255, np.uint8))
    evaluator = evaluated(task, [task.truth(empty)], [empty], ["a"])
    assert np.isnan(evaluator.scores()[headline])
    assert evaluator.images()["score"].to_pylist() == [None]
    assert evaluator.confusion()[1].sum() == 0


def test_tasks_say_what_they_need_and_what_models_are_built_with() -> None:
    stuff = replace(LABELS, things=frozenset())
    one = replace(LABELS, things=frozenset({3}))
    for name in ("instance", "panoptic"):
        task = type(create_task(name, LABELS))
        assert [task.supports(LABELS, True), task.supports(LABELS, False), task.supports(stuff, True)] == [
            True,
            False,
            False,
        ]
    assert create_task("instance", one).model_arguments(one) == {"num_classes": 1, "semantic_classes": 4}
    bare = replace(LABELS, things=frozenset(range(4)))
    assert create_task("instance", bare).model_arguments(bare) == {"num_classes": 4, "semantic_classes": 0}
    assert create_task("panoptic", one).model_arguments(LABELS) == {"num_classes": 4, "things": (2, 3)}
    settings = create_task("instance", LABELS, {"score": 0.2, "most": 7}).settings
    assert settings == InstanceSettings(score=0.2, most=7)
    assert settings_from_dict(InstanceSettings, json.loads(json.dumps(settings_to_dict(settings)))) == settings


@pytest.mark.parametrize("name", ["kernels_tiny", "centers_tiny"])
def test_models_of_objects_may_have_one_class(name: str) -> None:
    task = create_task("instance", replace(LABELS, things=frozenset({3})))
    targets = task.targets([annotation()])
    model = create_model(name, **known_arguments(name, task.model_arguments(task.labels)))
    model.train()
    layers = model(torch.zeros(1, 3, 40, 60), guide=targets).layers((1.0,))
    criterion = create_loss(model_entry(name).card.losses)
    assert all(criterion(layer, targets).isfinite() for _, layer in layers)
    found = task.predict(model.eval(), torch.zeros(1, 3, 40, 60), [(40, 60)])
    assert set(found[0].labels.tolist()) <= {3}
    with pytest.raises(InputError, match=r"num_classes is 0, expected at least 1$"):
        create_model(name, 0)


def test_targets_of_instances_are_things_alone() -> None:
    targets = create_task("instance", LABELS).targets(
        [annotation(), Annotation.of_classes(np.zeros((40, 60), np.uint8))]
    )
    objects, none = targets.segments
    assert objects.labels.tolist() == [0, 0, 1, 1]  # places among the things
    assert objects.crowd.tolist() == [False, False, False, True]
    assert objects.boxes.tolist() == [[5, 12, 15, 22], [20, 12, 30, 22], [26, 12, 36, 32], [40, 12, 60, 22]]
    assert [int(mask.sum()) for mask in objects.masks] == [100, 100, 200, 200]  # whole where they overlap
    assert objects.valid.sum() == 36 * 60
    assert (none.masks.shape, none.boxes.shape, none.labels.shape) == ((0, 40, 60), (0, 4), (0,))
    assert (targets.classes.shape, targets.classes.dtype) == ((2, 40, 60), torch.uint8)


def test_targets_of_panoptic_maps_are_all_segments_without_overlap() -> None:
    (segments,) = create_task("panoptic", LABELS).targets([annotation()]).segments
    assert segments.labels.tolist() == [2, 2, 3, 3, 0, 1]  # train ids
    assert (segments.masks.sum(dim=0) == segments.valid).all()
    assert int(segments.masks[2].sum()) == 160  # the dog lies behind the cat
    assert not segments.valid[36:].any()


def test_crowds_are_ignored_by_mask_classification() -> None:
    segments = create_task("instance", LABELS).targets([annotation()]).segments
    generator = torch.Generator().manual_seed(0)
    queries = QueryOutput(torch.randn(1, 5, 3, generator=generator), torch.randn(1, 5, 40, 60, generator=generator))
    loss = MaskClassificationLoss()
    changed = queries.mask_logits.clone()
    changed[..., 12:22, 40:60] = 7.0
    assert loss(queries, segments) == loss(queries._replace(mask_logits=changed), segments)


def test_labels_of_instances_are_train_ids() -> None:
    logits = torch.full((1, 2, 3), -9.0)
    logits[0, 0, 1] = logits[0, 1, 0] = 9.0
    masks = torch.full((1, 2, 40, 60), -9.0)
    masks[0, 0, :10], masks[0, 1, 20:] = 9.0, 9.0
    task = create_task("instance", LABELS)
    (found,) = task.predict(lambda _: QueryOutput(logits, masks), torch.zeros(1, 3, 40, 60), [(40, 60)])
    assert sorted(found.labels[found.scores > 0.5].tolist()) == [2, 3]
    (found,) = task.predict(lambda _, guide: QueryOutput(logits, guide), torch.zeros(1, 3, 4, 6), [(40, 60)], masks)
    assert len(found)


def test_tensors_of_instances_are_those_of_all_images() -> None:
    task = create_task("instance", LABELS)
    truth = task.truth(annotation())
    none = task.truth(Annotation.of_classes(np.zeros((10, 10), np.uint8)))
    tensors = task.tensors([truth, none, truth])
    assert list(tensors) == [spec.name for spec in task.tensor_specs(2)]
    assert tensors["boxes"].shape == (6, 4)
    assert tensors["image"].tolist() == [0, 0, 0, 2, 2, 2]
    assert tensors["labels"].tolist() == [2, 2, 3] * 2
    np.testing.assert_array_equal(coco_mask.decode(json.loads(tensors["masks"][4])), truth.mask(1))
    assert task.tensors([none])["masks"].shape == (0,)


def test_tensors_of_panoptic_maps() -> None:
    task = create_task("panoptic", LABELS)
    truth = task.truth(annotation())
    none = PanopticMap(np.zeros((40, 60), np.int32), ())
    tensors = task.tensors([truth, none, truth])
    assert list(tensors) == [spec.name for spec in task.tensor_specs(2)]
    assert tensors["ids"].shape == (3, 40, 60)
    assert tensors["image"].tolist() == [0] * 6 + [2] * 6
    assert tensors["labels"].tolist() == [2, 2, 3, 3, 0, 1] * 2
    with pytest.raises(InputError, match="expected one size"):
        task.tensors([truth, PanopticMap(np.zeros((4, 6), np.int32), ())])


@BOTH
def test_pictures_and_figures(name: str) -> None:
    images, annotations = digit_scenes(3)
    task = create_task(name, DIGITS)
    results = damage(name, [task.truth(each) for each in annotations], np.random.default_rng(5))
    rows = [task.compare(*row, "a scene") for row in zip(images, annotations, results, strict=True)]
    titles = [title for row in rows for title in row.pictures]
    assert titles[:3] == ["image", "truth", "prediction"]
    assert all("found" in title for title in titles[3::4])
    # 64 x 64 pixels are enlarged, so that objects have captions
    assert {picture.shape for row in rows for picture in row.pictures.values()} == {(256, 256, 3)}
    truth = task.truth(annotations[0])
    enlarged, shown = truth.resized((256, 256)), images[0].repeat(4, 0).repeat(4, 1)
    options = {"scores": False} if name == "instance" else {}
    np.testing.assert_array_equal(rows[0].pictures["truth"], enlarged.draw(shown, DIGITS, **options))
    assert set(rows[0].legend) >= {"found", "missed", "wrong"}
    comparisons(rows, DIGITS)
    evaluator = evaluated(task, results, annotations, ids(3))
    assert len(evaluator.figures()) == {"instance": 3, "panoptic": 2}[name]


def test_volumes_have_no_objects() -> None:
    volume = Annotation.of_classes(np.zeros((2, 8, 8), np.uint8))
    with pytest.raises(InputError, match="objects are of images alone"):
        create_task("instance", LABELS).truth(volume)
