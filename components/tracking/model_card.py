"""What a registered model is, in Markdown: for the registry's page and for the model's files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SUMMARY = {
    "mean_iou": "mean IoU",
    "frequency_weighted_iou": "frequency-weighted IoU",
    "pixel_accuracy": "pixel accuracy",
    "mean_pixel_accuracy": "mean pixel accuracy",
    "mean_dice": "mean Dice",
    "mean_precision": "mean precision",
}


def model_card(
    *,
    name: str,
    model: str,
    classes: Sequence[str],
    facts: Mapping[str, str],
    metrics: Mapping[str, float],
    per_class: Sequence[Mapping[str, str]],
    params: Mapping[str, Any],
    export: str,
    pictures: Sequence[str],
) -> str:
    """The card.

    Args:
        name: of the registered model.
        model: its name among the models of segmodels.
        classes: in the order of the ids in the masks.
        facts: where it comes from: data digest, code revision, run, ...
        metrics: dataset-level scores on the test split, with ``images`` and ``pixels``.
        per_class: rows of per_class.csv.
        params: of the training.
        export: what became of the torch.export program, in words.
        pictures: file names beside the card.
    """
    parts = [
        f"# {name}: {model}, {len(classes)} classes",
        "Semantic segmentation: RGB images of any size in, one class id per pixel out.",
        _code(
            "import mlflow",
            f'model = mlflow.pyfunc.load_model("models:/{name}@champion")',
            "masks = model.predict(images)  # uint8 (N, H, W, 3) or (H, W, 3)",
        ),
        "## Where it comes from",
        _table(["", ""], [[key.replace("_", " "), f"`{value}`"] for key, value in facts.items()]),
        f"## Scores on the test split ({metrics['images']:,} images, {metrics['pixels']:,} labelled pixels)",
        _table(["score", "value"], [[words, f"{metrics[key]:.4f}"] for key, words in SUMMARY.items()]),
        _table(
            ["id", "class", "share of pixels", "IoU", "recall", "precision", "F1"],
            [
                [
                    str(i),
                    _escape(row["class"]),
                    f"{int(row['pixels']) / metrics['pixels']:.2%}",
                    *(_score(row[key]) for key in ("iou", "recall", "precision", "f1")),
                ]
                for i, row in enumerate(per_class)
            ],
        ),
        (
            "A class that does not occur has no score and is left out of means. Scores are of the pixels of all images"
            " together."
        ),
        *(f"![{picture}]({picture})" for picture in pictures),
        "## Parameters of the training",
        _table(["parameter", "value"], [[key, f"`{_escape(str(value))}`"] for key, value in sorted(params.items())]),
        "## Files",
        (
            "`artifacts/bundle`: weights (safetensors) and description, nothing pickled. `artifacts/export.pt2`, a"
            f" `torch.export` program: {export}."
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _code(*lines: str) -> str:
    return "\n".join(["```python", *lines, "```"])


def _score(text: str) -> str:
    return f"{float(text):.4f}" if text else "–"


def _escape(text: str) -> str:
    """Text that does not end a table's cell."""
    return text.replace("|", "\\|").replace("\n", " ")
