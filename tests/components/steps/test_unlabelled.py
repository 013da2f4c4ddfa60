"""A dataset of images alone: every step up to training takes it, for a model that needs no labels; the others
say so.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from small_dataset import write_small_dataset
from small_pipeline import use_local_store

from components.params.checking import checked
from components.params.schema import EvaluateParams, IngestParams, PreprocessParams, TrainParams, ValidateParams
from components.steps.evaluate import evaluate
from components.steps.ingest import ingest
from components.steps.preprocess import preprocess
from components.steps.train import train
from components.steps.validate import validate
from segmodels.data.layouts import open_layout
from segmodels.data.shards import ShardReader
from segmodels.errors import InputError
from segmodels.inference.bundle import load_bundle

CUT = {"soft_normalized_cut": 1.0, "reconstruction": 1.0}
ON_CPU = {"accelerator": "cpu", "precision": "float32", "epochs": 1, "batch_size": 4}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a dataset without masks was ingested, validated and preprocessed."""
    use_local_store(tmp_path, monkeypatch)
    root = write_small_dataset(tmp_path / "set")
    shutil.rmtree(root / "masks")
    (root / "classes.txt").write_text("first\nsecond\nthird\n")
    params = checked(IngestParams, {"source": "folder", "path": str(root), "layout": "images"})
    ingest(params, tmp_path / "dataset", tmp_path / "cache")
    validate(ValidateParams(workers=1), tmp_path / "dataset", tmp_path / "validation")
    preprocess(PreprocessParams(workers=1), tmp_path / "dataset", tmp_path / "validation", tmp_path / "shards")
    return tmp_path


def test_images_alone_train_a_model_without_labels_and_nothing_is_measured_on_them(folder: Path) -> None:
    report = json.loads((folder / "validation" / "report.json").read_text())
    assert report["void_share"] == {"train": 1.0, "val": 1.0, "test": 1.0}
    assert report["warnings"] == []
    assert not any("mask" in entry["expected"].lower() for entry in report["checks"])
    reader = ShardReader(folder / "shards", "train")
    assert not reader.annotated
    assert (reader.annotation(0).classes == reader.labels.ignore_index).all()

    params = TrainParams(model="wnet", options={"widths": [4, 8]}, loss=CUT, **ON_CPU)
    train(params, folder / "shards", folder / "model", folder / "checkpoints")
    bundle = load_bundle(folder / "model")
    assert bundle.labels.classes == ("first", "second", "third")
    assert "val/loss" in bundle.metrics
    assert "val/miou" not in bundle.metrics
    with pytest.raises(
        InputError, match=r"nothing in the 2 test images .* is labelled, so nothing can be measured: add masks"
    ):
        evaluate(EvaluateParams(accelerator="cpu"), folder / "shards", folder / "model", folder / "evaluation")
    assert not (folder / "evaluation").exists()


def test_a_model_that_learns_from_labels_refuses_images_alone(folder: Path) -> None:
    with pytest.raises(
        InputError, match="no pixel of the train split is labelled, but model 'unet' learns from labels"
    ):
        train(
            TrainParams(model="unet", options={"widths": [4, 8]}, **ON_CPU),
            folder / "shards",
            folder / "model",
            folder / "checkpoints",
        )


def test_images_alone_need_their_folder_and_the_number_of_segments(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no folder images/, expected images/, masks/ .*layout 'folder'"):
        open_layout("images", tmp_path)
    (tmp_path / "images").mkdir()
    with pytest.raises(InputError, match=r"has neither classes\.txt nor classes\.json"):
        open_layout("images", tmp_path)
