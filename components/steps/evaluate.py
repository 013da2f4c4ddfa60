"""Measure the best weights on the test split, at the labels' own resolution."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from components.params.reading import plain
from components.params.schema import EvaluateParams
from components.running.atomic import written_folder
from components.running.progress_bar import track
from segmodels.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from components.tracking.runs import Run
    from segmodels.data.shards import ShardReader
    from segmodels.inference.bundle import Bundle
    from segmodels.inference.predictor import Predictor
    from segmodels.plots import Comparison


SHORT = {
    "mean_iou": "miou",
    "frequency_weighted_iou": "fwiou",
}  # in MLflow, beside val/miou and val/fwiou of the training


def evaluate(params: EvaluateParams, shards: Path, model: Path, evaluation: Path) -> dict[str, float]:
    """Predict the test split, count pixels in one confusion matrix, and write what follows from it.

    Predictions are resized to the labels, never the labels. Images pass one batch at a time: memory does not depend on
    how many there are.

    Writes to ``evaluation``:
        metrics.json: dataset-level scores, for ``dvc metrics show``.
        confusion.json, confusion.csv: the confusion matrix; the second as rows (actual, predicted, count, share of the
            actual class).
        per_class.csv: pixels and scores of each class; empty where a class does not occur.
        per_image.parquet: scores and confusion matrix of each image.
        pictures/: confusion.png, class_iou.png; best.png, median.png and worst.png show images by their own mean IoU.
        evaluation.json: the parameters and the model's digest, so that others can be measured in the same way.

    The MLflow run that trained the model (run.json beside it) gets ``test/...`` metrics and the pictures; a model
    without run.json has no run.

    Args:
        shards: folder that preprocess wrote.
        model: folder that train wrote.
        evaluation: output folder.

    Returns:
        What metrics.json holds.

    Raises:
        InputError: no test split, damaged shards or model, a model of other classes, nothing labelled; MLflow does not
            answer.
    """
    from segmodels.data.shards import ShardReader

    reader = ShardReader(shards, "test")

    from segmodels.inference.bundle import bundle_digest, load_bundle

    bundle = load_bundle(model)
    labels = reader.labels
    if bundle.labels.classes != labels.classes:
        raise InputError(
            f"model {model} knows the classes {list(bundle.labels.classes)} but the shards hold {list(labels.classes)}:"
            " train on these shards first"
        )
    run = _training_run(model)
    predictor = make_predictor(bundle, params)

    with written_folder(evaluation) as folder:
        from components.steps.image_scores import ImageScores

        total = np.zeros((labels.num_classes, labels.num_classes), dtype=np.int64)
        names = ShardReader(shards, "test")  # of its own: the loader's thread drops the maps of the other
        with ImageScores(folder / "per_image.parquet") as images:
            for index, counts in track(measure(predictor, reader, params.batch_size), "evaluating", len(reader)):
                total += counts
                images.add(names.id(index), counts)
        if not total.any():
            raise InputError(
                f"no pixel of the {len(reader)} test images in {shards} is labelled, so nothing can be measured: add"
                " masks of the test split, or look at what `python -m components predict` finds"
            )
        metrics = _metrics(total, len(reader))
        _write_tables(folder, total, reader, metrics)
        facts = {
            "params": plain(params),
            "model_digest": bundle_digest(model),
            "data_digest": reader.digest,
        }
        _write_json(folder / "evaluation.json", facts)
        _draw(folder / "pictures", total, reader, predictor, images.mean_ious, params.overlays)

    if run:
        class_iou = {f"test/iou/{_metric_name(row['class'])}": row["iou"] for row in _per_class(total, reader)}
        run.log_metrics({f"test/{SHORT.get(name, name)}": value for name, value in metrics.items()} | class_iou)
        for name in ("pictures", "per_class.csv", "confusion.json"):
            run.log_artifact(evaluation / name, "evaluation/pictures" if name == "pictures" else "evaluation")
        run.finish()
    scores = f"mean IoU {metrics['mean_iou']:.4f}, pixel accuracy {metrics['pixel_accuracy']:.4f}"
    print(f"test split, {len(reader)} images: {scores}; pictures in {evaluation / 'pictures'}")
    return metrics


def make_predictor(bundle: Bundle, params: EvaluateParams) -> Predictor:
    """A predictor as the parameters say.

    Raises:
        InputError: a GPU is asked for but there is none.
    """
    import torch

    from components.params.tasks import settings_classes, task_settings
    from segmodels.inference.predictor import Predictor

    if params.accelerator == "gpu" and not torch.cuda.is_available():
        raise InputError(
            "evaluate.accelerator is 'gpu' but torch sees no GPU: install a CUDA build of torch, or choose cpu or auto"
        )
    device = "cpu" if params.accelerator == "cpu" or not torch.cuda.is_available() else "cuda"
    settings = task_settings(params, settings_classes()["semantic"])
    if settings.sliding_window:
        settings = replace(settings, sliding_window=replace(settings.sliding_window, batch_size=params.batch_size))
    return Predictor(bundle, device, settings)


def measure(predictor: Predictor, reader: ShardReader, batch_size: int) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Index and confusion matrix (C, C) of every image of ``reader``, at the resolution of its labels."""
    from segmodels.data.loader import evaluation_loader
    from segmodels.metrics import ConfusionMatrix

    labels = reader.labels
    for batch in evaluation_loader(reader, batch_size=batch_size):
        truths = [annotation.classes for annotation in batch.annotations]
        results: list[Any] = list(predictor.batch(batch.images, [truth.shape for truth in truths]))
        predictions = [result.classes for result in results]
        for index, prediction, truth in zip(batch.indices, predictions, truths, strict=True):
            yield (
                index,
                ConfusionMatrix.from_maps(prediction, truth, labels.num_classes, labels.ignore_index).counts,
            )


def _training_run(model: Path) -> Run | None:
    """The MLflow run that trained the model, or None for a model that comes without."""
    if not (model / "run.json").exists():
        return None
    from components.tracking import runs

    return runs.open_run(model)


# --- numbers


def _metrics(counts: NDArray[np.int64], images: int) -> dict[str, float]:
    from segmodels.metrics import mean_f1, mean_recall, summary

    return summary(counts) | {
        "mean_recall": mean_recall(counts),
        "mean_f1": mean_f1(counts),
        "images": images,
        "pixels": int(counts.sum()),
    }


def _per_class(counts: NDArray[np.int64], reader: ShardReader) -> list[dict]:
    from segmodels.metrics import f1, per_class

    return [
        row | {"f1": float(score)}
        for row, score in zip(per_class(counts, reader.labels.classes), f1(counts), strict=True)
    ]


def _write_tables(folder: Path, counts: NDArray[np.int64], reader: ShardReader, metrics: dict[str, float]) -> None:
    classes = reader.labels.classes
    _write_json(folder / "metrics.json", metrics)
    _write_json(
        folder / "confusion.json",
        {
            "num_classes": len(classes),
            "ignore_index": reader.labels.ignore_index,
            "classes": classes,
            "counts": counts.tolist(),
        },
    )
    rows = _per_class(counts, reader)
    with (folder / "per_class.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, rows[0], lineterminator="\n")
        table.writeheader()
        table.writerows({key: "" if value != value else value for key, value in row.items()} for row in rows)
    with (folder / "confusion.csv").open("w", newline="", encoding="utf-8") as file:
        cells = csv.writer(file, lineterminator="\n")
        cells.writerow(["actual", "predicted", "count", "share"])
        for actual, row in zip(classes, counts, strict=True):
            cells.writerows(
                [actual, predicted, count, f"{count / row.sum():.6f}" if row.any() else ""]
                for predicted, count in zip(classes, row, strict=True)
            )


def _write_json(path: Path, data: dict) -> None:
    path.write_text(json.dumps(data, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _metric_name(name: str) -> str:
    """A class name with the characters that MLflow takes in the name of a metric."""
    return re.sub(r"[^\w\-. ]", "_", name)


# --- pictures


def _draw(
    folder: Path,
    counts: NDArray[np.int64],
    reader: ShardReader,
    predictor: Predictor,
    mean_ious: list[float],
    overlays: int,
) -> None:
    from segmodels import plots
    from segmodels.metrics import iou, mean_iou

    folder.mkdir()
    labels = reader.labels
    plots.save(plots.confusion_matrix(counts, labels.classes), folder / "confusion.png")
    plots.save(plots.class_bars(iou(counts), labels, "IoU", mean_iou(counts)), folder / "class_iou.png")
    for name, indices in _examples(mean_ious, overlays).items():
        rows = [_comparison(reader, predictor, index, mean_ious[index]) for index in indices]
        plots.save(plots.comparisons(rows, labels), folder / f"{name}.png")


def _examples(mean_ious: list[float], count: int) -> dict[str, list[int]]:
    """Indices of up to ``count`` best, median and worst images; none of an image without a labelled pixel."""
    scores = np.array(mean_ious)
    ranked = [int(i) for i in np.argsort(-scores, kind="stable") if not np.isnan(scores[i])]
    middle = max((len(ranked) - count) // 2, 0)
    chosen = {"best": ranked[:count], "median": ranked[middle : middle + count], "worst": ranked[::-1][:count]}
    return {name: indices for name, indices in chosen.items() if indices}


def _comparison(reader: ShardReader, predictor: Predictor, index: int, score: float) -> Comparison:
    import torch

    from segmodels import plots

    image, truth = np.array(reader.image(index)), np.array(reader.mask(index))
    prediction: Any
    (prediction,) = predictor.batch(torch.from_numpy(image).permute(2, 0, 1)[None], [truth.shape])
    caption = f"{reader.id(index)} · mean IoU {score:.3f}"
    return plots.class_maps(image, truth, prediction.classes, reader.labels, caption)
