"""The semantic evaluator of volumes: every case by itself, in millimetres."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance

from segmodels.annotations import Annotation
from segmodels.errors import InputError
from segmodels.labels import LabelMap
from segmodels.results import ClassMap
from segmodels.tasks.registry import create_task
from segmodels.tasks.semantic_evaluator import SemanticEvaluator

LABELS = LabelMap(("background", "liver", "tumour"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)), {0: 0, 1: 1, 2: 2})
SPACING = (5.0, 0.8, 0.8)


def volume(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    classes = np.zeros((8, 16, 16), np.uint8)
    z, y, x = rng.integers(0, 3, 3)
    classes[z : z + 5, y : y + 9, x : x + 9] = 1
    classes[z + 1 : z + 3, y + 2 : y + 6, x + 2 : x + 6] = 2 * (seed < 3)  # the fourth case has no tumour
    return classes


TRUTHS, PREDICTIONS = [volume(seed) for seed in range(4)], [np.roll(volume(seed), 1, axis=2) for seed in range(4)]
IDS = [f"case_{number}" for number in range(4)]


def counted(numbers: list[int], on: str = "numpy") -> SemanticEvaluator:
    evaluator = create_task("semantic", LABELS).evaluator()
    annotations = [replace(Annotation.of_classes(TRUTHS[n]), spacing=SPACING) for n in numbers]
    maps = [PREDICTIONS[n] if on == "numpy" else torch.from_numpy(PREDICTIONS[n]) for n in numbers]
    evaluator.update([ClassMap(one) for one in maps], annotations, [IDS[n] for n in numbers])
    return evaluator


def test_scores_are_means_over_cases_and_classes_as_monai_counts_them() -> None:
    scores = counted([0, 1, 2, 3]).scores()
    distances, means = [], []
    for truth, prediction in zip(TRUTHS, PREDICTIONS, strict=True):
        hot = [torch.from_numpy(np.stack([one == c for c in range(3)])[None]) for one in (prediction, truth)]
        given = {"include_background": False, "spacing": SPACING}
        distances.append(compute_hausdorff_distance(*hot, percentile=95, **given))
        means.append(compute_average_surface_distance(*hot, symmetric=True, **given))
    expected = [torch.cat(values).flatten() for values in (distances, means)]
    assert scores["mean_hausdorff_95"] == pytest.approx(expected[0][expected[0].isfinite()].mean().item())
    assert scores["mean_surface_distance"] == pytest.approx(expected[1][expected[1].isfinite()].mean().item())
    dice = []
    for truth, prediction in zip(TRUTHS, PREDICTIONS, strict=True):
        for label in (1, 2):
            if size := (truth == label).sum() + (prediction == label).sum():
                dice.append(2 * ((truth == label) & (prediction == label)).sum() / size)
    assert len(dice) == 7
    assert scores["mean_dice_per_case"] == pytest.approx(np.mean(dice))


def test_parts_tensors_files_and_other_processes_give_the_same_scores(tmp_path: Path) -> None:
    whole = counted([0, 1, 2, 3])
    assert (counted([3, 1]) + counted([2, 0], on="torch")).scores() == whole.scores()
    whole.write(tmp_path)
    assert SemanticEvaluator.read(tmp_path).scores() == whole.scores()
    assert pickle.loads(pickle.dumps(whole)).scores() == whole.scores()
    lines = (tmp_path / "per_case.csv").read_text().splitlines()
    assert lines[0] == "id,label,class,dice,hausdorff_95,mean_surface_distance"
    assert len(lines) == 1 + 4 * 2
    assert lines[-1] == "case_3,2,tumour,,,"
    (tmp_path / "per_case.csv").write_text(lines[0] + "\ncase_0,1,liver,high,,\n")
    with pytest.raises(InputError, match=r"per_case\.csv is damaged \(.*\): run the step evaluate again"):
        SemanticEvaluator.read(tmp_path)


def test_a_missed_class_has_dice_0_and_no_finite_distance(tmp_path: Path) -> None:
    evaluator = create_task("semantic", LABELS).evaluator()
    truth = np.zeros((4, 4, 4), np.uint8)
    truth[1, 1, 1] = 1
    evaluator.update([ClassMap(np.zeros_like(truth))], [Annotation.of_classes(truth)], ["a"])
    scores = evaluator.scores()
    assert scores["mean_dice_per_case"] == 0
    assert "mean_hausdorff_95" not in scores
    assert scores["infinite_distances"] == 1
    assert counted([0, 1]).scores()["infinite_distances"] == 0
    evaluator.write(tmp_path)
    assert "a,1,liver,0.0,inf,inf" in (tmp_path / "per_case.csv").read_text()


def test_images_have_no_cases(tmp_path: Path) -> None:
    evaluator = create_task("semantic", LABELS).evaluator()
    evaluator.update([ClassMap(TRUTHS[0][0])], [Annotation.of_classes(TRUTHS[0][0])], ["a"])
    assert not any("case" in name or "surface" in name for name in evaluator.scores())
    evaluator.write(tmp_path)
    assert not (tmp_path / "per_case.csv").exists()


def test_volumes_are_compared_in_the_slice_with_most_of_their_classes() -> None:
    task = create_task("semantic", LABELS)
    annotation = Annotation.of_classes(TRUTHS[0])
    image = np.random.default_rng(0).normal(-300, 100, (8, 16, 16, 2)).astype(np.float32)
    shown = task.compare(image, annotation, ClassMap(PREDICTIONS[0]), "case")
    assert {picture.shape for picture in shown.pictures.values()} == {(16, 16, 3)}
    assert ClassMap(PREDICTIONS[0]).draw(image, LABELS).shape == (16, 16, 3)
    assert {"liver", "tumour"} <= shown.legend.keys()
