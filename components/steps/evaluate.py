"""Measure the best weights on the test split, at the labels' own resolution."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.artifacts import (
    CONFUSION,
    CONFUSION_TABLE,
    EVALUATION,
    METRICS,
    PER_CLASS,
    PICTURES,
    RUN,
    SLICES,
    SLICES_TABLE,
)
from components.params.reading import plain
from components.params.schema import EvaluateParams
from components.running.atomic import written_output
from components.running.progress_bar import track
from segmodels.errors import InputError

if TYPE_CHECKING:
    from components.tracking.run import Run
    from segmodels.data.shards import ShardReader
    from segmodels.inference.predictor import Predictor
    from segmodels.tasks.base import Evaluator


def evaluate(params: EvaluateParams, shards: Path, model: Path, evaluation: Path) -> dict[str, float | None]:
    """Predict the test split, count right and wrong predictions, and write the scores that follow from the counts.

    Results are compared at the labels' own size, never resized labels. Images pass one batch at a time; of each only
    its counts stay.

    Writes to ``evaluation``:
        metrics.json: dataset-level scores, for ``dvc metrics show``; null where nothing in the split defines one.
        confusion.json, confusion.csv: the confusion matrix; the second as rows (actual, predicted, count, share of the
            actual class).
        per_class.csv: counts and scores of each class; empty where a class does not occur.
        slices.json, slices.csv: the headline scores of parts of the images: thirds by size and by brightness, and the
            groups of the dataset (patients, videos, cities).
        per_image.parquet: scores and counts of each image.
        pictures/: figures of the scores; best.png, median.png and worst.png show images by their own score.
        evaluation.json: the parameters, the task and how it predicted, and the model's digest. The model is registered
            with these settings and predicts by them from then on.

    The MLflow run that trained the model (run.json beside it) gets ``test/...`` metrics and these files; a model
    without run.json has no run.

    Args:
        shards: folder that preprocess wrote.
        model: folder of a trained model, or its address in the registry, ``models:/NAME@champion``.
        evaluation: output folder.

    Returns:
        What metrics.json holds.

    Raises:
        InputError: no test split, damaged shards or model, a model of other classes, nothing labelled.
        TransientError: MLflow does not answer.
    """
    from segmodels.data.shards import ShardReader

    reader = ShardReader(shards, "test")

    from components.params.tasks import task_settings
    from components.tracking.compared_runs import EVALUATION_FOLDER
    from components.tracking.model_registry import bundle_folder
    from components.tracking.presentation import class_metrics
    from segmodels.inference.bundle import bundle_digest, load_bundle
    from segmodels.inference.measure import measure
    from segmodels.inference.predictor import Predictor, choose_device
    from segmodels.tasks.registry import settings_to_dict

    with bundle_folder(model) as folder:
        bundle, digest = load_bundle(folder), bundle_digest(folder)
    if bundle.labels.classes != reader.labels.classes:
        raise InputError(
            f"model {model} knows the classes {list(bundle.labels.classes)} but the shards hold"
            f" {list(reader.labels.classes)}: train on these shards first"
        )
    run = _training_run(model)
    settings = task_settings(params, bundle.task.Settings)
    predictor = Predictor(bundle, choose_device(params.accelerator), settings)
    task = predictor.task

    with written_output("evaluate", evaluation) as folder:
        evaluator = measure(
            predictor, reader, params.batch_size, lambda batches: track(batches, "evaluating, batches", len(batches))
        )
        scores = evaluator.scores()
        if math.isnan(scores[next(iter(task.headline))]):
            raise InputError(
                f"nothing in the {len(reader)} test images in {shards} is labelled, so nothing can be measured: add"
                " masks of the test split, or look at what `python -m components predict` finds"
            )
        metrics = {name: None if math.isnan(value) else value for name, value in scores.items()}
        METRICS.write(folder, metrics)
        evaluator.write(folder)
        _write_tables(folder, evaluator, reader.labels.ignore_index)
        facts = {
            "params": plain(params),
            "task": task.name,
            "headline": dict(task.headline),
            "settings": settings_to_dict(task.settings),
            "model_digest": digest,
            "data_digest": reader.digest,
        }
        EVALUATION.write(folder, facts)
        _write_slices(folder, evaluator, reader, list(task.headline))
        _draw(folder / PICTURES, evaluator, reader, predictor, params.overlays)

    written = ", ".join(f"{words} {scores[name]:.4f}" for name, words in task.headline.items())
    if run:
        named = {task.metric(name, "test"): value for name, value in scores.items()}
        run.log_metrics(named | class_metrics(task, evaluator, "test"))
        run.log_artifact(evaluation, EVALUATION_FOLDER)
        run.describe(f"test split: {written}")
        run.end()
    print(f"test split, {len(reader)} images: {written}; pictures in {evaluation / PICTURES}")
    return metrics


def _training_run(model: Path) -> Run | None:
    """The MLflow run that trained the model, or None for a model that comes without."""
    if not RUN.path(model).exists():
        return None
    from components.tracking import runs

    return runs.open_run(model)


def _write_tables(folder: Path, evaluator: Evaluator, ignore_index: int) -> None:
    names, counts = evaluator.confusion()
    matrix = {"num_classes": len(names), "ignore_index": ignore_index, "classes": names, "counts": counts.tolist()}
    CONFUSION.write(folder, matrix)
    _write_rows(PER_CLASS.path(folder), evaluator.per_class())
    with CONFUSION_TABLE.path(folder).open("w", newline="", encoding="utf-8") as file:
        cells = csv.writer(file, lineterminator="\n")
        cells.writerow(["actual", "predicted", "count", "share"])
        for actual, row in zip(names, counts, strict=True):
            cells.writerows(
                [actual, predicted, count, f"{count / row.sum():.6f}" if row.any() else ""]
                for predicted, count in zip(names, row, strict=True)
            )


def _write_slices(folder: Path, evaluator: Evaluator, reader: ShardReader, scores: list[str]) -> None:
    from segmodels.inference.slices import score_slices

    found = score_slices(evaluator, reader, scores)
    rows = [{key: None if value != value else value for key, value in row.items()} for row in found]
    SLICES.write(folder, rows)
    if rows:
        _write_rows(SLICES_TABLE.path(folder), rows)


def _write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A table with a header; what is undefined is empty."""
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, rows[0], lineterminator="\n")
        table.writeheader()
        table.writerows({key: "" if value != value else value for key, value in row.items()} for row in rows)


def _draw(folder: Path, evaluator: Evaluator, reader: ShardReader, predictor: Predictor, overlays: int) -> None:
    from segmodels import plots

    folder.mkdir()
    for name, figure in evaluator.figures().items():
        plots.save(figure, folder / f"{name}.png")
    images = evaluator.images().select(["id", "score"])
    scores = dict(zip(*(images[name].to_pylist() for name in ("id", "score")), strict=True))
    numbers = {reader.id(index): index for index in range(len(reader))}
    for name, chosen in examples(scores, overlays).items():
        rows = [_compared(reader, predictor, numbers[sample], score) for sample, score in chosen.items()]
        plots.save(plots.comparisons(rows, reader.labels), folder / f"{name}.png")


def examples(scores: dict[str, float | None], count: int) -> dict[str, dict[str, float]]:
    """Up to ``count`` best, median and worst images with their scores; none of an image without a score."""
    defined = [(sample, score) for sample, score in scores.items() if score is not None]
    ranked = sorted(defined, key=lambda item: -item[1])
    middle = max((len(ranked) - count) // 2, 0)
    chosen = {"best": ranked[:count], "median": ranked[middle : middle + count], "worst": ranked[::-1][:count]}
    return {name: dict(some) for name, some in chosen.items() if some}


def _compared(reader: ShardReader, predictor: Predictor, index: int, score: float) -> Any:
    """The pictures of one image, side by side."""
    import numpy as np

    from segmodels.data.preview import as_rgb

    task = predictor.task
    image, annotation = np.array(reader.image(index)), reader.annotation(index)
    result = predictor.measured(image, annotation)
    caption = f"{reader.id(index)} · {next(iter(task.headline.values()))} {score:.3f}"
    return task.compare(as_rgb(image), annotation, result, caption)
