"""The card of a registered model, in Markdown: for the registry's page and for the model's files."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.artifacts import METRICS, MODEL_CARD, PER_CLASS, PICTURES
from components.tracking.links import run_page, ui_address

if TYPE_CHECKING:
    from components.tracking.run import Run
    from segmodels.inference.bundle import Bundle


def write_card(folder: Path, name: str, bundle: Bundle, evaluation: Path, run: Run, export: str) -> str:
    """Write model_card.md and its pictures into a new folder; returns the same text without the pictures, for a page
    that cannot show them.

    Args:
        name: of the registered model.
        bundle: the registered model, with the settings that it was measured with.
        evaluation: folder that evaluate wrote.
        run: of the training.
        export: what became of the torch.export program, in words.
    """
    shutil.copytree(evaluation / PICTURES, folder)
    metrics, per_class = METRICS.read(evaluation), PER_CLASS.read(evaluation)
    facts = {**bundle.lineage, "mlflow_run": run.run_id}
    trained = run.client.get_run(run.run_id).data.params
    page = run_page(ui_address(run.client.tracking_uri), run.experiment_id(), run.run_id)
    pictures = sorted(path.name for path in folder.glob("*.png"))
    with PER_CLASS.reading(evaluation):
        card, text = (
            model_card(
                name,
                bundle,
                facts=facts,
                metrics=metrics,
                per_class=per_class,
                params=trained,
                export=export,
                page=page,
                pictures=shown,
            )
            for shown in (pictures, [])
        )
    MODEL_CARD.write(folder, card)
    return text


def model_card(
    name: str,
    bundle: Bundle,
    *,
    facts: Mapping[str, str],
    metrics: Mapping[str, Any],
    per_class: Sequence[Mapping[str, str]],
    params: Mapping[str, Any],
    export: str,
    page: str,
    pictures: Sequence[str],
) -> str:
    """The card.

    Args:
        name: of the registered model.
        bundle: the model.
        facts: where it comes from: data digest, code revision, run, ...
        metrics: dataset-level scores on the test split, and counts of what was measured.
        per_class: rows of per_class.csv.
        params: of the training.
        export: what became of the torch.export program, in words.
        page: address of the training's run in MLflow's UI.
        pictures: file names beside the card.
    """
    from segmodels.tasks.registry import settings_to_dict

    task = bundle.task
    settings = settings_to_dict(task.settings)
    counts = ", ".join(f"{value:,} {words(key)}" for key, value in metrics.items() if isinstance(value, int))
    columns = [key for key in per_class[0] if key != "class"]
    parts = [
        f"# {name}: {bundle.name}, {len(task.labels.classes)} classes",
        f"{task.name.capitalize()} segmentation: {_input(bundle)} of any size in, {task.answer} out.",
        _code(
            "import mlflow",
            f'model = mlflow.pyfunc.load_model("models:/{name}@champion")',
            f"answer = model.predict(images)  # {bundle.dtype} {_shape(bundle, 'N, ')} or {_shape(bundle)}",
        ),
        "## Where it comes from",
        _table(["", ""], [[key.replace("_", " "), f"`{value}`"] for key, value in facts.items()]),
        f"[Curves and pictures of its training]({page}) in MLflow's UI.",
        "## How it predicts",
        "The settings that it was measured with, and that it is loaded and served with.",
        _table(["setting", "value"], [[key, f"`{value}`"] for key, value in flattened(settings).items()]),
        f"## Scores on the test split ({counts})",
        _table(
            ["score", "value"],
            [
                [task.headline.get(key, words(key)), f"{value:.4f}"]
                for key, value in sorted(metrics.items(), key=lambda item: item[0] not in task.headline)
                if isinstance(value, float)
            ],
        ),
        _table(
            ["id", "class", *map(words, columns)],
            [[str(i), _escape(row["class"]), *(cell(row[key]) for key in columns)] for i, row in enumerate(per_class)],
        ),
        ("A class that does not occur has no score and is left out of means. Scores are of all images together."),
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


def describe_settings(settings: Mapping[str, Any]) -> str:
    """Settings of a task as one line: ``flip=True, scales=[0.5, 1.0], crf=None``."""
    return ", ".join(f"{key}={value}" for key, value in flattened(settings).items())


def flattened(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings within settings under names with dots."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= flattened(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def words(name: str) -> str:
    """The name of a score or a count as people write it: ``mean precision`` of ``mean_precision``, ``AP50`` of
    ``ap50``.
    """
    spelled = {"iou": "IoU", "dice": "Dice"}
    return " ".join(
        word.upper() if len(word) == 2 or word[-1:].isdigit() else spelled.get(word, word) for word in name.split("_")
    )


def _input(bundle: Bundle) -> str:
    if bundle.dtype == "uint8" and bundle.channels == 3 and bundle.spatial_dims == 2:
        return "RGB images"
    kind = "volumes" if bundle.spatial_dims == 3 else "images"
    return f"{bundle.dtype} {kind} of {bundle.channels} channel{'s' if bundle.channels > 1 else ''}"


def _shape(bundle: Bundle, first: str = "") -> str:
    return f"({first}{'D, ' if bundle.spatial_dims == 3 else ''}H, W, {bundle.channels})"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _code(*lines: str) -> str:
    return "\n".join(["```python", *lines, "```"])


def cell(text: str, absent: str = "–") -> str:
    """A cell of per_class.csv to be read: counts with thousands separated, scores with four digits."""
    if not text:
        return absent
    return f"{int(text):,}" if text.isdecimal() else f"{float(text):.4f}"


def _escape(text: str) -> str:
    """Text that does not end a table's cell."""
    return text.replace("|", "\\|").replace("\n", " ")
