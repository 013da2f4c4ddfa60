"""A bundle and a registered version made at commit 127d350 load, predict the same, and are measured as champions."""

import json
import shutil
from pathlib import Path

import mlflow
import numpy as np
import pytest
from PIL import Image
from small_pipeline import use_local_store, write_model, write_run, write_shards

from components.params.schema import EvaluateParams, RegisterParams
from components.steps.evaluate import evaluate
from components.steps.register import register
from components.tracking.client import mlflow_client
from components.tracking.model_registry import bundle_folder
from segmodels.inference.bundle import bundle_digest, load_bundle
from segmodels.inference.description import DamagedBundleError
from segmodels.inference.predictor import Predictor
from segmodels.tasks.semantic import SemanticSettings

VERSION = Path(__file__).parents[2] / "fixtures" / "127d350"
BUNDLE = VERSION / "version" / "artifacts" / "bundle"
DIGEST = "4a528248786ce3d26cc4438704fff5c5b913827801d169b0e5291340688eab11"  # as its tag model_digest had it


@pytest.fixture
def image() -> np.ndarray:
    return np.array(Image.open(VERSION / "image.png"))


@pytest.fixture
def mask() -> np.ndarray:
    return np.array(Image.open(VERSION / "mask.png"))


def test_the_bundle_predicts_the_mask_that_it_predicted(image: np.ndarray, mask: np.ndarray) -> None:
    bundle = load_bundle(BUNDLE)
    assert bundle_digest(BUNDLE) == DIGEST
    assert (bundle.task.name, bundle.task.settings) == ("semantic", SemanticSettings())
    assert (bundle.channels, bundle.dtype, bundle.spatial_dims) == (3, "uint8", 2)
    np.testing.assert_array_equal(Predictor(bundle).masks([image])[0], mask)


def test_the_registered_version_answers_as_it_did(image: np.ndarray, mask: np.ndarray, tmp_path: Path) -> None:
    shutil.copytree(VERSION / "version", tmp_path / "version")  # MLflow may write into it
    loaded = mlflow.pyfunc.load_model(str(tmp_path / "version"))
    np.testing.assert_array_equal(loaded.predict(image), mask)
    np.testing.assert_array_equal(loaded.predict(np.stack([image, image])), np.stack([mask, mask]))


def test_the_registered_version_is_measured_as_champion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_local_store(tmp_path, monkeypatch)
    monkeypatch.setattr("segmodels.inference.export.export_program", lambda *_: "all")
    shutil.copytree(VERSION / "version", tmp_path / "version")
    client = mlflow_client()
    client.create_registered_model("scenes")
    client.create_model_version("scenes", str(tmp_path / "version"), tags={"model_digest": DIGEST})
    client.set_registered_model_alias("scenes", "champion", "1")
    shards, model = write_shards(tmp_path / "shards"), write_model(tmp_path / "model", steps=2)
    write_run(model, tmp_path / "state")
    evaluate(EvaluateParams(overlays=0, settings={"flip": True}), shards, model, tmp_path / "evaluation")
    facts = register(RegisterParams(name="scenes"), shards, model, tmp_path / "evaluation", tmp_path / "registration")
    assert (facts["alias"], facts["champion_before"]) == ("challenger", "1")
    assert facts["champion_value"] == json.loads((VERSION / "metrics.json").read_text())["mean_iou"]

    with bundle_folder("models:/scenes@champion") as bundle:
        assert load_bundle(bundle).name == "unet"
    client.set_model_version_tag("scenes", "1", "model_digest", "0" * 64)
    message = f"files of model models:/scenes/1 have the digest {DIGEST[:12]}, not 000000000000 as registered"
    with pytest.raises(DamagedBundleError, match=message), bundle_folder("models:/scenes@champion"):
        pass
