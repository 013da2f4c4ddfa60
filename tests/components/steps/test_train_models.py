"""Models for semantic segmentation train through the train step by their names: the smallest of each kind."""

from __future__ import annotations

import inspect
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_pipeline import use_local_store

from components.params.schema import EvaluateParams, TrainParams
from components.steps.evaluate import evaluate
from components.steps.train import train
from segmodels.annotations import Annotation
from segmodels.data.digits import CLASSES, scene, split_sources
from segmodels.data.shard_writer import ShardWriter
from segmodels.errors import InputError
from segmodels.inference.bundle import load_bundle
from segmodels.labels import LabelMap
from segmodels.models.registry import MODELS, model_body
from segmodels.training.checkpoints import Checkpoints

LABELS = LabelMap(tuple(CLASSES), tuple(CLASSES.values()), {number: number for number in range(len(CLASSES))})
SMALL = ("attention_unet_original", "bisenet_v1_xception39", "segnext_t")
OTHER_DATA = ("image_label", "reconstruction")  # losses of models that learn from more, or other, than masks
LARGE = 150_000_000
"""Parameters: a training of more takes up to 17 GB. The contract test trains such models with small bodies."""
SMALLER_BODIES: dict[str, dict[str, Any]] = {
    "resnet": {"encoder": "resnet18"},
    "r50_vit": {"encoder_options": {"depth": 2, "resnet_depths": [1, 1, 1]}},
}
"""How the encoder's name begins -> options. One step on a large body mostly draws, writes and reads its weights; the
contract test builds all models on their own bodies, without memory.
"""


def smallest_of_each_kind() -> list[str]:
    """Variants of one file with the same losses and the same kind of encoder differ, for the train step, in numbers
    alone. The contract test sends gradients through all of them.
    """
    kinds: dict[tuple[object, ...], list[tuple[int, str]]] = {}
    for entry in MODELS:
        card, body = entry.card, model_body(entry.name)
        own = entry.build.__module__.startswith("segmodels.") and "semantic" in card.tasks
        if own and not card.losses.keys() & set(OTHER_DATA) and (card.parameters or 0) < LARGE:
            encoder = body and re.match("[a-z]*", body.encoder)
            kind = (inspect.unwrap(entry.build).__module__, *sorted(card.losses), encoder and encoder[0])
            kinds.setdefault(kind, []).append((card.parameters or 0, entry.name))
    return [min(variants)[1] for variants in kinds.values()]


NAMES = smallest_of_each_kind()


def smaller_body(name: str) -> dict[str, Any]:
    body = model_body(name)
    return next((own for start, own in SMALLER_BODIES.items() if body and body.encoder.startswith(start)), {})


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scenes of digits to train on, one to choose by and one to measure on."""
    folder = tmp_path_factory.mktemp("shards")
    with ShardWriter(folder, LABELS, "digits.dir") as writer:
        for split, sources in split_sources(0).items():
            for number in range(2 if split == "train" else 1):
                image, mask = scene(np.random.default_rng(number), sources, 64)
                writer.add(split, str(number), image, Annotation.of_classes(mask))
    return folder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Neither checkpoints nor pictures are written there, and the weights, gigabytes over all models, do not stay."""
    use_local_store(tmp_path, monkeypatch)
    monkeypatch.setattr(Checkpoints, "save", lambda *_: None)
    monkeypatch.setattr("components.steps.evaluate._draw", lambda *_: None)  # the same pictures for every model
    yield tmp_path
    shutil.rmtree(tmp_path / "model", ignore_errors=True)


@pytest.mark.parametrize(
    "name", [name if name in SMALL else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
)
def test_a_model_trains_by_its_name(name: str, shards: Path, folder: Path) -> None:
    params = TrainParams(
        model=name, options=smaller_body(name), epochs=1, batch_size=2, accelerator="cpu", precision="float32"
    )
    train(params, shards, folder / "model", folder / "checkpoints")
    bundle = load_bundle(folder / "model")
    assert (bundle.name, bundle.labels) == (name, LABELS)
    assert np.isfinite(bundle.metrics["val/loss"])
    metrics = evaluate(EvaluateParams(overlays=0, accelerator="cpu"), shards, folder / "model", folder / "evaluation")
    assert metrics["pixels"] == 64 * 64


def test_a_batch_of_one_is_refused_where_the_model_normalises_over_images(shards: Path, folder: Path) -> None:
    params = TrainParams(
        model="pspnet_r50_d8",
        options={"encoder": "resnet18"},
        epochs=1,
        batch_size=1,
        accelerator="cpu",
        precision="float32",
    )
    with pytest.raises(InputError, match=r"of which this one has 1: set train.batch_size to 2 or more"):
        train(params, shards, folder / "model", folder / "checkpoints")
