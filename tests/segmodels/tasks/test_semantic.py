"""The semantic task: targets, the reading of outputs, settings as JSON, and what its evaluator counts."""

import json
import pickle
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch.nn import functional

from segmodels import metrics
from segmodels.annotations import Annotation
from segmodels.errors import InputError
from segmodels.inference.crf import DenseCRF
from segmodels.labels import LabelMap
from segmodels.outputs import PixelOutput
from segmodels.results import ClassMap
from segmodels.tasks.registry import create_task, settings_from_dict, settings_to_dict, task_class
from segmodels.tasks.semantic import SemanticSettings
from segmodels.tasks.semantic_evaluator import SemanticEvaluator
from segmodels.windows import SlidingWindow

LABELS = LabelMap(("sky", "road", "car"), ((1, 2, 3), (4, 5, 6), (7, 8, 9)), {0: 0, 1: 1, 2: 2})


def pairs(count: int = 6, seed: int = 0) -> tuple[list[ClassMap], list[Annotation], list[str]]:
    """Predictions, truths with ignored pixels, and ids that are not in order."""
    rng = np.random.default_rng(seed)
    shapes = [(5 + i % 2, 7) for i in range(count)]
    results = [ClassMap(rng.integers(0, 3, shape, dtype=np.uint8)) for shape in shapes]
    truths = [rng.choice(np.array([0, 1, 2, 255], np.uint8), shape) for shape in shapes]
    return results, [Annotation.of_classes(truth) for truth in truths], [f"{count - i}" for i in range(count)]


def evaluated(results: list[ClassMap], annotations: list[Annotation], ids: list[str]) -> SemanticEvaluator:
    evaluator = SemanticEvaluator(LABELS)
    evaluator.update(results, annotations, ids)
    return evaluator


def matrices(results: list[ClassMap], annotations: list[Annotation]) -> np.ndarray:
    return np.stack(
        [
            metrics.ConfusionMatrix.from_maps(result.map, annotation.classes, 3).counts
            for result, annotation in zip(results, annotations, strict=True)
        ]
    )


def test_the_task_has_its_name_and_unknown_ones_are_refused_with_the_nearest() -> None:
    task = create_task("semantic", LABELS)
    assert task.model_arguments(LABELS) == {"num_classes": 3}
    assert task.settings == SemanticSettings()
    assert next(iter(task.headline.values())) == "MIoU"
    with pytest.raises(InputError, match="unknown task 'semantik': did you mean 'semantic'"):
        task_class("semantik")


def test_targets_are_one_tensor_per_kind_of_map() -> None:
    task = create_task("semantic", LABELS)
    maps = [np.full((2, 3), i, np.uint8) for i in range(2)]
    parts = {"part": np.ones((2, 3), np.int16)}
    annotations = [Annotation(m, np.zeros((0, 2, 3), np.uint16), further=parts, image_label=4) for m in maps]
    targets = task.targets(annotations)
    assert targets.classes.dtype == torch.uint8
    assert targets.classes.tolist() == [m.tolist() for m in maps]
    assert targets.image_label.tolist() == [4, 4]
    assert targets.further["part"].shape == (2, 2, 3)
    unlabelled = [Annotation.of_classes(maps[0], image_label=1), Annotation.of_classes(maps[1])]
    assert task.targets(unlabelled).image_label is None


def test_an_output_is_read_as_the_class_of_the_highest_logit_or_of_the_interpolated_probability() -> None:
    logits = torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    task = create_task("semantic", LABELS)
    own = task.read(PixelOutput(logits), [(4, 6)] * 2)
    assert own[0].classes.dtype == np.uint8
    np.testing.assert_array_equal(np.stack([result.classes for result in own]), logits.argmax(1).numpy())
    larger = task.read(PixelOutput(logits), [(8, 12), (5, 5)])
    for result, one, size in zip(larger, logits, [(8, 12), (5, 5)], strict=True):
        expected = functional.interpolate(one[None].softmax(1), size, mode="bilinear")[0].argmax(0)
        np.testing.assert_array_equal(result.classes, expected.numpy())


def test_a_volume_is_read_at_any_size() -> None:
    logits = torch.randn(1, 3, 2, 4, 6, generator=torch.Generator().manual_seed(0))
    (result,) = create_task("semantic", LABELS).read(PixelOutput(logits), [(4, 8, 12)])
    assert result.classes.shape == (4, 8, 12)


@pytest.mark.parametrize(
    "settings",
    [
        SemanticSettings(),
        SemanticSettings(flip=True, scales=(0.5, 1.0), sliding_window=SlidingWindow((8, 16), 0.25)),
        SemanticSettings(crf=DenseCRF(iterations=3)),
    ],
)
def test_settings_pass_through_json(settings: SemanticSettings) -> None:
    text = json.dumps(settings_to_dict(settings))
    assert settings_from_dict(SemanticSettings, json.loads(text)) == settings
    assert create_task("semantic", LABELS, json.loads(text)).settings == settings


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"flop": True}, "setting 'flop' is unknown to SemanticSettings, did you mean 'flip'"),
        ({"scales": [0.0]}, r"scales\.0 is 0\.0, expected a number greater than 0"),
        ({"crf": {}, "sliding_window": {"size": [8, 8]}}, "crf and sliding_window are both given, expected one"),
        ({"sliding_window": {"size": [8, 8], "overlap": 1}}, "overlap of the sliding window is 1"),
    ],
)
def test_impossible_settings_are_refused(wrong: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        create_task("semantic", LABELS, wrong)


def test_scores_are_those_of_the_summed_matrix_in_the_order_of_metrics_json() -> None:
    results, annotations, ids = pairs()
    total = matrices(results, annotations).sum(0)
    evaluator = evaluated(results, annotations, ids)
    np.testing.assert_array_equal(evaluator.confusion()[1], total)
    expected = metrics.summary(total) | {
        "mean_recall": metrics.mean_recall(total),
        "mean_f1": metrics.mean_f1(total),
        "images": 6,
        "pixels": int(total.sum()),
    }
    assert list(evaluator.scores().items()) == list(expected.items())
    assert create_task("semantic", LABELS).headline_metrics(evaluator.scores(), "val") == {
        "val/miou": metrics.mean_iou(total),
        "val/fwiou": metrics.frequency_weighted_iou(total),
        "val/pixel_accuracy": metrics.pixel_accuracy(total),
        "val/mean_pixel_accuracy": metrics.mean_pixel_accuracy(total),
    }


def test_parts_add_up_in_any_order_to_the_same_table() -> None:
    results, annotations, ids = pairs()
    whole = evaluated(results, annotations, ids)
    parts = [evaluated(results[i::3], annotations[i::3], ids[i::3]) for i in range(3)]
    sums = parts[0] + parts[1] + parts[2], parts[2] + (pickle.loads(pickle.dumps(parts[1])) + parts[0])
    for total in sums:
        assert total.scores() == whole.scores()
        assert total.images().equals(whole.images())
    assert whole.images()["id"].to_pylist() == sorted(ids)
    with pytest.raises(InputError, match="is counted in both sums"):
        parts[0] + parts[0]
    with pytest.raises(InputError, match="is counted twice"):
        parts[0].update(results[:1], annotations[:1], ids[:1])


def test_counts_are_written_and_read_without_loss(tmp_path: Path) -> None:
    whole = evaluated(*pairs())
    whole.write(tmp_path)
    again = SemanticEvaluator.read(tmp_path)
    assert again.labels == LABELS
    assert again.scores() == whole.scores()
    assert again.images().equals(whole.images())
    (tmp_path / "per_image.parquet").write_bytes(b"no table")
    with pytest.raises(InputError, match=r"per_image.parquet is damaged \(.*run the step evaluate again"):
        SemanticEvaluator.read(tmp_path)
    (tmp_path / "per_image.parquet").unlink()
    with pytest.raises(InputError, match=r"per_image.parquet is not there"):
        SemanticEvaluator.read(tmp_path)


def test_an_image_without_a_labelled_pixel_has_no_score_and_changes_none(tmp_path: Path) -> None:
    results, annotations, ids = pairs()
    plain = evaluated(results, annotations, ids).scores()
    void = Annotation.of_classes(np.full((2, 2), 255, np.uint8))
    evaluator = evaluated([*results, ClassMap(np.zeros((2, 2), np.uint8))], [*annotations, void], [*ids, "void"])
    row = evaluator.images().to_pylist()[-1]
    assert (row["id"], row["score"], row["mean_iou"], row["pixels"], row["cells"]) == ("void", None, None, 0, [])
    assert evaluator.scores() == plain | {"images": 7}
    evaluator.write(tmp_path)
    assert pq.read_table(tmp_path / "per_image.parquet").num_rows == 7


@pytest.mark.parametrize("metric", list(metrics.significance.SCORES))
def test_every_score_can_be_resampled(metric: str) -> None:
    results, annotations, ids = pairs()
    order = np.argsort(ids)
    stack = matrices(results, annotations)[order]
    weights = np.random.default_rng(0).integers(0, 3, (5, 6))
    score = getattr(metrics, metric)
    expected = [score((w[:, None, None] * stack).sum(0)) for w in weights]
    np.testing.assert_allclose(evaluated(results, annotations, ids).resampled(metric, weights), expected, rtol=1e-12)


def test_the_bootstrap_of_evaluators_is_that_of_their_matrices() -> None:
    (results, annotations, ids), (others, *_) = pairs(), pairs(seed=1)
    mine, theirs = evaluated(results, annotations, ids), evaluated(others, annotations, ids)
    order = np.argsort(ids)
    expected = metrics.paired_bootstrap(
        matrices(results, annotations)[order], matrices(others, annotations)[order], resamples=300
    )
    found = metrics.compare(
        lambda weights: mine.resampled("mean_iou", weights),
        lambda weights: theirs.resampled("mean_iou", weights),
        "mean_iou",
        6,
        resamples=300,
        chunk=10**6,
    )
    assert found == expected


def test_reordered_columns_give_predictions_other_names() -> None:
    results, annotations, ids = pairs()
    columns = [2, 0, 1]
    renamed = evaluated(results, annotations, ids).reordered(columns)
    np.testing.assert_array_equal(renamed.counts, matrices(results, annotations).sum(0)[:, columns])


def test_labels_outside_the_range_are_refused_and_nothing_is_counted() -> None:
    evaluator = SemanticEvaluator(LABELS)
    truth = Annotation.of_classes(np.zeros((2, 2), np.uint8))
    with pytest.raises(InputError, match="prediction"):
        evaluator.update([ClassMap(np.full((2, 2), 7, np.uint8))], [truth], ["a"])
    assert evaluator.images().num_rows == 0


def test_a_result_is_a_palette_picture_and_one_tensor_of_many() -> None:
    task = create_task("semantic", LABELS)
    results, annotations, _ = pairs(4)
    assert task.truth(annotations[0]).classes is annotations[0].classes
    for spatial_dims, shape in ((2, (-1, -1, -1)), (3, (-1, -1, -1, -1))):
        assert task.tensor_specs(spatial_dims) == (("masks", "UINT8", shape),)
    assert task.tensors(results[::2])["masks"].shape == (2, 5, 7)
    with pytest.raises(InputError, match="expected one size"):
        task.tensors(results)
    assert list(results[0].files(LABELS)) == [".png"]
