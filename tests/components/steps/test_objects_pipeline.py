"""Objects through the whole pipeline, with models that are registered from a test's file: train, evaluate, register,
serve; resumption bit for bit; two processes, one of them with a batch without objects.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from object_models import registered
from object_scenes import digit_scenes, write_scene_shards
from ports import free_port
from small_pipeline import DIGEST, stop_after, use_local_store
from small_server import served
from torch import multiprocessing

from components.params.checking import checked
from components.params.schema import EvaluateParams, RegisterParams, TrainParams
from components.steps.evaluate import evaluate
from components.steps.register import register
from components.steps.train import train
from components.tracking import runs
from segmodels.data.shards import ShardReader
from segmodels.inference.bundle import load_bundle
from segmodels.inference.measure import measure
from segmodels.inference.predictor import Predictor

CASES = pytest.mark.parametrize(
    ("model", "task"),
    [
        ("kernels_tiny", "panoptic"),
        pytest.param("kernels_tiny", "instance", marks=pytest.mark.slow),
        pytest.param("kernels_tiny", "semantic", marks=pytest.mark.slow),
        ("centers_tiny", "instance"),
        pytest.param("mask_rcnn_r50_fpn", "instance", marks=pytest.mark.slow),
        pytest.param("yolo_mask_n", "instance", marks=pytest.mark.slow),
        pytest.param("panoptic_fpn_r50", "panoptic", marks=pytest.mark.slow),
    ],
)
SMALL = {"encoder": "mobilenet_v2", "channels": 32, "hidden": 64, "sides": [24, 32, 40, 56, 64], "samples": 16}
OPTIONS: dict[str, dict[str, Any]] = {
    "mask_rcnn_r50_fpn": SMALL,
    "panoptic_fpn_r50": SMALL | {"width": 32},
    "yolo_mask_n": {"anchors": [[[20, 28]], [[32, 40]], [[48, 48]]], "width": 16, "prototypes": 8},
}


@pytest.fixture(autouse=True, scope="module")
def models() -> Iterator[None]:
    with registered():
        yield


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    use_local_store(tmp_path, monkeypatch)
    write_scene_shards(tmp_path / "shards", DIGEST, empty=4)
    return tmp_path


def params(model: str, task: str | None, **changes: Any) -> TrainParams:
    small: dict[str, Any] = {
        "model": model,
        "task": task,
        "epochs": 3,
        "batch_size": 4,
        "lr": 0.005,
        "accelerator": "cpu",
        "precision": "float32",
        "augment": {"crop": [64, 64], "copy_paste": 0.5},
        "options": OPTIONS.get(model, {}),
    }
    return checked(TrainParams, {**small, **changes})


def run(folder: Path, model: str, task: str | None, name: str = "model", **changes: Any) -> dict[str, torch.Tensor]:
    train(params(model, task, **changes), folder / "shards", folder / name, folder / "checkpoints")
    return load_bundle(folder / name).model.state_dict()


def files_of(folder: Path, evaluation: str) -> list[str]:
    return sorted(str(path.relative_to(folder / evaluation)) for path in (folder / evaluation).rglob("*.*"))


def assert_served(model: str, images: list[np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """The server answers the images with those tensors."""
    pixels = np.stack(images)
    asked = {"name": "images", "datatype": "UINT8", "shape": list(pixels.shape), "data": pixels.ravel().tolist()}
    with served(model, max_bytes=10_000_000) as (client, _):
        answer = client.post("/v2/models/digits/infer", json={"inputs": [asked]})
    assert answer.status_code == 200, answer.text
    outputs = {tensor["name"]: tensor for tensor in answer.json()["outputs"]}
    assert list(outputs) == list(expected)
    for name, tensor in expected.items():
        assert outputs[name]["shape"] == list(tensor.shape)
        values = [value.decode() if isinstance(value, bytes) else value for value in tensor.ravel().tolist()]
        assert outputs[name]["data"] == values


@CASES
def test_a_model_of_objects_is_trained_measured_registered_and_loaded(folder: Path, model: str, task: str) -> None:
    run(folder, model, task)
    bundle = load_bundle(folder / "model")
    assert bundle.reference is not None
    assert {"brightness", "embedding/1"} < set(bundle.reference.names)
    assert any(name.startswith("share/") for name in bundle.reference.names) != bundle.task.takes_prompts
    assert bundle.task.name == task
    metrics = evaluate(EvaluateParams(overlays=1), folder / "shards", folder / "model", folder / "evaluation")
    headline = next(iter(bundle.task.headline))
    assert 0 <= metrics[headline] <= 1
    stored = runs.open_run(folder / "model")
    logged = stored.client.get_run(stored.run_id).data.metrics
    assert logged[bundle.task.metric(headline, "test")] == pytest.approx(metrics[headline])
    assert {bundle.task.metric(name, "val") for name in bundle.task.headline} <= set(logged)
    written = files_of(folder, "evaluation")
    assert {"confusion.json", "metrics.json", "per_class.csv", "per_image.parquet"} <= set(written)
    assert pq.read_table(folder / "evaluation/per_image.parquet").num_rows == 4
    decision = register(
        RegisterParams(name="digits"),
        folder / "shards",
        folder / "model",
        folder / "evaluation",
        folder / "registration",
    )
    assert decision["alias"] == "champion"
    if model == "yolo_mask_n":  # as many detections in every image
        champion = mlflow.MlflowClient().get_model_version_by_alias("digits", "champion")
        named = " to boxes, scores, labels, masks, free batch size alone: every image has 64 x 64 pixels"
        assert champion.tags["export"].endswith(named)
    (folder / "again").mkdir()
    again = register(
        RegisterParams(name="digits"),
        folder / "shards",
        folder / "model",
        folder / "evaluation",
        folder / "again",
    )
    assert again["alias"] == "champion"
    images, _ = digit_scenes(2, split="test")
    expected = bundle.task.tensors(Predictor(bundle).results(np.stack(images)))
    assert list(expected) == [spec.name for spec in bundle.task.tensor_specs(2)]
    loaded = mlflow.pyfunc.load_model("models:/digits@champion").predict(np.stack(images))
    for name, tensor in (loaded if isinstance(loaded, dict) else {"masks": loaded}).items():
        np.testing.assert_array_equal(tensor, expected[name])
    assert_served("models:/digits@champion", images, expected)


def test_the_first_task_of_the_card_that_the_annotations_support_is_trained(folder: Path) -> None:
    run(folder, "kernels_tiny", None, epochs=1)
    assert load_bundle(folder / "model").task.name == "panoptic"


@pytest.mark.slow
def test_a_detector_learns_to_find_digits(folder: Path) -> None:
    still = {"crop": [64, 64], "flip": 0.0}
    run(folder, "centers_tiny", "instance", epochs=60, lr=0.01, augment=still, validate_every=60)
    seen = measure(Predictor(load_bundle(folder / "model")), ShardReader(folder / "shards", "train"), 4)
    assert seen.scores()["mask_ap50"] > 0.3


@pytest.mark.parametrize(
    ("model", "task"),
    [
        pytest.param("kernels_tiny", "panoptic", marks=pytest.mark.slow),
        pytest.param("yolo_mask_n", "instance", marks=pytest.mark.slow),
        ("centers_tiny", "instance"),
    ],
)
def test_a_stopped_training_resumes_bit_for_bit(
    folder: Path, monkeypatch: pytest.MonkeyPatch, model: str, task: str
) -> None:
    whole = run(folder, model, task)
    (folder / "checkpoints").rename(folder / "done")
    for _ in range(2):
        with monkeypatch.context() as patch:
            stop_after(4, patch)
            with pytest.raises(SystemExit) as stopped:
                run(folder, model, task, "resumed")
        assert stopped.value.code == 143
    resumed = run(folder, model, task, "resumed")
    assert all(torch.equal(whole[name], value) for name, value in resumed.items())


def process(rank: int, folder: str, port: int, model: str, task: str) -> None:
    """One of two, as torchrun starts them."""
    os.chdir(folder)
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "GROUP_RANK": 0}
    own = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "tests"}
    os.environ.update({name: str(value) for name, value in (places | own).items()})
    torch.set_num_threads(1)
    small = params(model, task, epochs=2, batch_size=1)
    with registered():
        train(small, Path("shards"), Path("model"), Path("checkpoints"))


@pytest.mark.slow
@pytest.mark.parametrize(("model", "task"), [("kernels_tiny", "panoptic"), ("centers_tiny", "instance")])
def test_two_processes_train_with_batches_without_objects(tmp_path: Path, model: str, task: str) -> None:
    port = free_port()
    with pytest.MonkeyPatch.context() as patch:
        use_local_store(tmp_path, patch)
        write_scene_shards(tmp_path / "shards", DIGEST, empty=8)  # of 12, one an image and process
        multiprocessing.spawn(process, args=(str(tmp_path), port, model, task), nprocs=2)
    weights = load_bundle(tmp_path / "model").model.state_dict()
    assert all(value.isfinite().all() for value in weights.values())
