"""What the steps before evaluate leave on disk, made in a moment: shards of coloured scenes and a U-Net trained for a
moment.
"""

import json
import os
import shutil
import signal
from functools import cache
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import numpy as np
import pytest
import torch

from components.running.training_display import TrainingDisplay
from components.tracking import runs
from components.tracking.client import mlflow_client
from segmodels.annotations import Annotation
from segmodels.data.shard_writer import ShardWriter
from segmodels.inference.bundle import save_bundle
from segmodels.labels import LabelMap
from segmodels.models.registry import create_model
from segmodels.tasks.registry import create_task

LABELS = LabelMap(
    ("grass", "brick", "pond", "snow"),
    ((60, 160, 60), (180, 70, 50), (40, 90, 200), (240, 240, 240)),
    {0: 0, 1: 1, 2: 2, 3: 3, 9: 255},
)
DIGEST = "0123456789abcdef0123456789abcdef.dir"
OPTIONS = {"widths": [4, 6]}
SMALL_TRAINING: dict[str, Any] = {
    "options": {"widths": [4, 8]},
    "epochs": 2,
    "batch_size": 4,
    "accelerator": "cpu",
    "precision": "float32",
    "augment": {"crop": [16, 16]},
}
"""Section ``train`` of a training that takes a moment."""


def scene(rng: np.random.Generator, size: tuple[int, int], labels: LabelMap) -> tuple[np.ndarray, np.ndarray]:
    """A noisy picture of vertical stripes, and its mask with a void corner. Snow (3) never occurs."""
    mask = (
        np.repeat(rng.integers(0, 3, (1, size[1] // 8 + 1)), 8, axis=1)[:, : size[1]]
        .repeat(size[0], axis=0)
        .astype(np.uint8)
    )
    image = np.array(labels.palette, dtype=np.float64)[mask] + rng.normal(0, 40, (*size, 3))
    mask[:4, :4] = labels.ignore_index
    return image.clip(0, 255).astype(np.uint8), mask


def write_shards(
    folder: Path,
    *,
    train: int = 2,
    val: int = 1,
    test: int = 6,
    labels: LabelMap = LABELS,
    scale: int = 2,
    digest: str = DIGEST,
    image_classes: int = 0,
    shard_bytes: int = 256_000_000,
) -> Path:
    """Images of two sizes; their masks are ``scale`` times as large, as when preprocess shrinks images. Labels of
    images go round ``image_classes``.
    """
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    with ShardWriter(folder, labels, digest, shard_bytes, source={"kind": "folder", "path": "somewhere"}) as writer:
        for split, count in {"train": train, "val": val, "test": test}.items():
            for index in range(count):
                image, mask = scene(rng, (24, 32) if index % 3 else (20, 40), labels)
                image_label = index % image_classes if image_classes else None
                writer.add(
                    split,
                    f"{split}/{index}",
                    image,
                    Annotation.of_classes(mask.repeat(scale, axis=0).repeat(scale, axis=1), image_label),
                )
    return folder


def write_model(folder: Path, *, steps: int = 40, seed: int = 0, labels: LabelMap = LABELS) -> Path:
    """A bundle: a U-Net trained for so many steps, the more the better."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(1000 + seed)
    model = create_model("unet", labels.num_classes, **OPTIONS)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.03)
    mean, std = (110.0, 110.0, 110.0), (60.0, 50.0, 60.0)
    for _ in range(steps):
        images, masks = (
            np.stack(arrays) for arrays in zip(*(scene(rng, (24, 32), LABELS) for _ in range(2)), strict=True)
        )
        logits = model(
            (torch.from_numpy(images).permute(0, 3, 1, 2) - torch.tensor(mean).view(-1, 1, 1))
            / torch.tensor(std).view(-1, 1, 1)
        ).logits
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits, torch.from_numpy(masks).long(), ignore_index=255).backward()
        optimizer.step()
    facts = {
        "data_digest": DIGEST,
        "code_revision": "a" * 40,
        "code_digest": "c" * 16,
        "params_digest": f"{seed:08d}{steps:08d}",
    }
    save_bundle(
        folder,
        model,
        name="unet",
        options=OPTIONS,
        task=create_task("semantic", labels),
        mean=mean,
        std=std,
        lineage=facts,
    )
    return folder


def stop_after(batches: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM comes in the middle of that batch."""
    left = [batches]

    def on_batch(*_: Any) -> None:
        left[0] -= 1
        if left[0] == 0:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(TrainingDisplay, "on_batch", on_batch)


def write_run(model: Path, state: Path, lr: float = 0.01) -> str:
    """Give the model an MLflow run, as train does; returns the run's id."""
    run = runs.start_run(
        experiment="tests", name="unet", state=state, params={"lr": lr, "epochs": 3}, tags={"data_digest": DIGEST}
    )
    run.end()
    (model / "run.json").write_text((state / "run.json").read_text())
    return json.loads((model / "run.json").read_text())["run_id"]


def use_local_store(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in ``folder`` with an empty MLflow store there. Making its tables takes seconds, so they are made once and
    copied.
    """
    shutil.copyfile(_empty_store(), folder / "mlflow.db")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.chdir(folder)


@cache
def _empty_store() -> Path:
    """One for all processes of a run of the tests: the first one makes it, the others wait."""
    path = Path(gettempdir()) / f"segmodels-{os.environ.get('PYTEST_XDIST_TESTRUNUID', os.getpid())}" / "mlflow.db"
    mlflow_client(f"sqlite:///{path}")
    return path
