"""The train step: what it writes, what it logs, and what stops it before work begins."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_pipeline import DIGEST, SMALL_TRAINING, stop_after, use_local_store, write_shards

from components.params.checking import checked
from components.params.schema import EvaluateParams, TrainParams
from components.running.training_display import TrainingDisplay
from components.steps.evaluate import evaluate
from components.steps.train import train
from components.tracking import runs
from components.tracking.client import mlflow_client
from components.tracking.tracked_training import TrackedTraining
from segmodels.data.shards import ShardReader, read_info
from segmodels.errors import InputError, TransientError
from segmodels.inference.bundle import load_bundle
from segmodels.metrics import ConfusionMatrix, mean_iou

CUT = {"soft_normalized_cut": {"sigma_intensity": 60.0}, "reconstruction": 1.0}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    use_local_store(tmp_path, monkeypatch)
    write_shards(tmp_path / "shards", train=12, val=4, scale=1)
    return tmp_path


def params(**changes: Any) -> TrainParams:
    return checked(TrainParams, SMALL_TRAINING | changes)


def run(folder: Path, name: str = "model", **changes: Any) -> dict[str, torch.Tensor]:
    train(params(**changes), folder / "shards", folder / name, folder / "checkpoints")
    return load_bundle(folder / name).model.state_dict()


def test_it_writes_a_model_with_its_lineage_and_the_name_of_its_run(folder: Path) -> None:
    run(folder, loss={"cross_entropy": 1.0, "dice": 0.5}, class_weights="median_frequency")
    bundle = load_bundle(folder / "model")
    assert bundle.name == "unet"
    assert bundle.labels == read_info(folder / "shards").labels
    assert bundle.lineage["data_digest"] == DIGEST
    assert bundle.reference is not None
    assert len(bundle.reference.values) == len(ShardReader(folder / "shards", "train"))
    assert {"code_revision", "code_digest", "params_digest"} <= set(bundle.lineage)
    note = json.loads((folder / "model" / "run.json").read_text())
    stored = runs.open_run(folder / "model").client.get_run(note["run_id"])
    assert stored.info.status == "FINISHED"
    assert note["experiment_id"] == stored.info.experiment_id
    assert {
        "train/loss",
        "train/cross_entropy",
        "train/dice",
        "val/loss",
        "val/miou",
        "val/fwiou",
        "learning_rate",
        "images_per_second",
    } <= set(stored.data.metrics)
    assert {f"val/iou/{name}" for name in ("grass", "brick", "pond")} <= set(stored.data.metrics)
    assert stored.data.params["lr"] == "0.001"
    assert stored.data.params["options.widths"] == "[4, 8]"
    assert stored.data.tags["data_digest"] == DIGEST
    dataset = stored.inputs.dataset_inputs[0].dataset
    assert (dataset.digest, dataset.source_type, json.loads(dataset.source)) == (
        DIGEST,
        "folder",
        {"kind": "folder", "path": "somewhere"},
    )


def test_people_find_and_understand_the_run_in_mlflow_s_pages(folder: Path) -> None:
    run(folder, lr=0.003)
    opened = runs.open_run(folder / "model")
    stored = opened.client.get_run(opened.run_id)
    tags, (key,) = stored.data.tags, [path.name for path in (folder / "checkpoints").iterdir() if path.is_dir()]
    assert stored.info.run_name == f"unet cross_entropy lr=0.003 · {key[:6]}"
    size = int(stored.data.params["parameters"])
    assert tags["mlflow.note.content"] == (
        f"dataset somewhere, 12 training images, 4 classes · model unet, {size:,} parameters"
    )
    assert tags["mlflow.source.name"] == "python -m components train"
    experiment = opened.client.get_experiment(stored.info.experiment_id)
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    columns = json.loads(experiment.tags["mlflow.sharedViewState.scores"])["selectedColumns"]
    assert {"metrics.`test/miou`", "metrics.`test/fwiou`", "metrics.`val/loss`"} <= set(columns)
    pictures = [file.path for file in opened.client.list_artifacts(opened.run_id, "images")]
    for image in range(4):
        for epoch in range(2):
            assert sum(f"validation~val~{image}+step+{epoch}+" in path for path in pictures) == 2, "and its thumbnail"
    assert not list((folder / "checkpoints").rglob("*.png")), "what MLflow has waits no longer"


def test_joint_training_learns_the_classes_of_whole_images(folder: Path) -> None:
    write_shards(folder / "labelled", train=8, val=4, scale=1, image_classes=2)
    (folder / "shards").rename(folder / "unlabelled")
    (folder / "labelled").rename(folder / "shards")
    run(folder, model="ynet", options={"image_classes": 2}, loss={"cross_entropy": 1.0, "image_label": 0.5})
    stored = runs.open_run(folder / "model")
    metrics = stored.client.get_run(stored.run_id).data.metrics
    assert metrics["train/loss"] == pytest.approx(
        metrics["train/cross_entropy"] + 0.5 * metrics["train/image_cross_entropy"], rel=1e-5
    )
    assert metrics["val/image_accuracy"] in (0, 0.25, 0.5, 0.75, 1)


def test_what_a_paper_adds_to_the_loss_comes_with_the_model_and_can_be_weighted(folder: Path) -> None:
    for name, more, weight in (("model", {}, 1.0), ("half", {"object_presence": 0.5}, 0.5)):
        options = {"widths": [4, 8], "auxiliary": False, "classification_guided": True}
        run(folder, name, model="unet_3_plus", options=options, loss={"cross_entropy": 1.0, **more}, epochs=1)
        stored = runs.open_run(folder / name)
        metrics = stored.client.get_run(stored.run_id).data.metrics
        assert metrics["train/loss"] == pytest.approx(
            metrics["train/cross_entropy"] + weight * metrics["train/object_presence"], rel=1e-5
        )
        assert metrics["val/object_presence"] > 0


def test_training_without_labels_finds_segments_and_numbers_them_as_the_classes_of_the_validation(folder: Path) -> None:
    run(
        folder,
        model="wnet",
        options={"widths": [8, 16], "dropout": 0.0},
        loss=CUT,
        epochs=12,
        lr=0.01,
        schedule="constant",
    )
    metrics = load_bundle(folder / "model").metrics
    assert metrics["val/miou"] > 0.4
    assert metrics["val/loss"] == pytest.approx(
        metrics["val/soft_normalized_cut"] + metrics["val/reconstruction"], rel=1e-5
    )
    assert (
        evaluate(
            EvaluateParams(overlays=0, accelerator="cpu"), folder / "shards", folder / "model", folder / "evaluation"
        )["mean_iou"]
        > 0.3
    )
    bundle, reader = load_bundle(folder / "model"), ShardReader(folder / "shards", "val")
    counts = np.zeros((4, 4), dtype=np.int64)
    for index in range(len(reader)):
        image = torch.from_numpy(np.array(reader.image(index))).permute(2, 0, 1)[None].float()
        logits = bundle.model(
            (image - torch.tensor(bundle.mean).view(-1, 1, 1)) / torch.tensor(bundle.std).view(-1, 1, 1)
        ).logits
        counts += ConfusionMatrix.from_maps(logits.argmax(1)[0].numpy(), reader.annotation(index).classes, 4).counts
    assert np.trace(counts) == max(counts[range(4), order].sum() for order in permutations(range(4)))
    assert float(mean_iou(counts)) == pytest.approx(metrics["val/miou"], abs=0.01)


@pytest.mark.parametrize(
    ("batches", "changes"),
    [
        (1, {}),
        (5, {}),
        (5, {"self_correction": {"start_epoch": 1, "cycle_epochs": 1}}),
        (5, {"model": "wnet", "loss": CUT}),
    ],
    ids=["in the first epoch", "in the second epoch", "in a cycle of self-correction", "without labels"],
)
def test_sigterm_saves_ends_with_143_and_the_next_run_ends_as_if_nothing_had_been(
    folder: Path, batches: int, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run(folder, "uninterrupted", **changes)
    (folder / "checkpoints").rename(folder / "other checkpoints")
    with monkeypatch.context() as patch:
        stop_after(batches, patch)
        with pytest.raises(SystemExit) as stopped:
            run(folder, **changes)
    assert stopped.value.code == 143
    assert not (folder / "model").exists()
    run_id = json.loads(next((folder / "checkpoints").glob("*/run.json")).read_text())["run_id"]
    assert mlflow_client().get_run(run_id).info.status == "KILLED"
    resumed = run(folder, **changes)
    for name, value in expected.items():
        assert torch.equal(value, resumed[name]), name
    client = mlflow_client()
    assert json.loads((folder / "model" / "run.json").read_text())["run_id"] == run_id
    assert client.get_run(run_id).info.status == "FINISHED"
    assert sorted(metric.step for metric in client.get_metric_history(run_id, "val/miou")) == [0, 1]


def test_another_pod_that_resumes_from_an_older_state_logs_no_epoch_twice(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_after(2, patch)
        with pytest.raises(SystemExit):
            run(folder)
    shutil.copytree(folder / "checkpoints", folder / "store")
    expected = run(folder, "first")
    shutil.rmtree(folder / "checkpoints")
    (folder / "store").rename(folder / "checkpoints")
    for name, value in run(folder, "second").items():
        assert torch.equal(value, expected[name]), name
    run_id = json.loads((folder / "second" / "run.json").read_text())["run_id"]
    for metric in ("val/miou", "train/loss"):
        assert [one.step for one in mlflow_client().get_metric_history(run_id, metric)] == [0, 1]


def test_a_training_resumes_with_other_parameters_that_change_no_weight_and_begins_anew_with_any_other(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One whose loader processes ran out of memory continues with fewer."""
    for changes, states in (({"workers": 1}, 1), ({"workers": 0, "save_minutes": 3.0}, 1), ({"lr": 0.5}, 2)):
        with monkeypatch.context() as patch:
            stop_after(1, patch)
            with pytest.raises(SystemExit):
                run(folder, **changes)
        assert len(list((folder / "checkpoints").iterdir())) == states


def test_before_the_first_step_sigterm_ends_the_process_and_from_then_on_it_is_a_question(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = [signal.getsignal(signal.SIGTERM)]
    enter = TrackedTraining.__enter__

    def entered(self: TrackedTraining) -> TrackedTraining:
        seen.append(signal.getsignal(signal.SIGTERM))
        return enter(self)

    monkeypatch.setattr(TrackedTraining, "__enter__", entered)
    monkeypatch.setattr(TrainingDisplay, "on_batch", lambda *_: seen.append(signal.getsignal(signal.SIGTERM)))
    run(folder, epochs=1)
    before, starting, *training = seen
    assert starting.__name__ == "_leave"
    assert {handler.__name__ for handler in training} == {"_received"}
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_second_training_of_the_same_says_who_trains_and_leaves_the_first_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []

    def on_batch(*_: Any) -> None:
        if not said:
            with pytest.raises(TransientError) as error:
                run(folder, "second", epochs=1)
            said.append(str(error.value))

    monkeypatch.setattr(TrainingDisplay, "on_batch", on_batch)
    run(folder, epochs=1)
    assert f"process {os.getpid()} on {socket.gethostname()} since 20" in said[0]
    assert not (folder / "second").exists()


def test_a_training_that_diverges_is_an_error_and_its_run_shows_the_loss(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segmodels.training.settings.HIGHEST_LR", np.inf)  # any lr within the bound needs more epochs
    with pytest.raises(InputError, match=r"diverged: .* of epoch 2 is nan .* learning rate 1e\+30"):
        run(folder, lr=1e30, optimizer="sgd", epochs=3, batch_size=12, schedule="constant", warmup=0.0)
    assert not (folder / "model").exists()
    run_id = json.loads(next((folder / "checkpoints").glob("*/run.json")).read_text())["run_id"]
    client = mlflow_client()
    assert client.get_run(run_id).info.status == "FAILED"
    history = {metric.step: metric.value for metric in client.get_metric_history(run_id, "train/loss")}
    assert np.isfinite(history[0])
    assert np.isnan(history[1])


def test_a_training_that_diverges_to_finite_numbers_leaves_no_model(folder: Path) -> None:
    with pytest.raises(InputError, match=r"diverged: no weights of its 2 validations are kept; .* learning rate"):
        run(folder, lr=1000.0)
    assert not (folder / "model").exists()


def test_a_model_trained_on_resized_images_says_so(folder: Path) -> None:
    info = folder / "shards" / "statistics.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"longer_side": 40}))
    run(folder)
    assert load_bundle(folder / "model").longer_side == 40


def test_other_parameters_start_anew_with_a_run_of_their_own(folder: Path) -> None:
    run(folder)
    run(folder, "other", lr=0.01)
    runs = [json.loads((folder / name / "run.json").read_text())["run_id"] for name in ("model", "other")]
    assert runs[0] != runs[1]
    assert len(list((folder / "checkpoints").iterdir())) == 2


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": "unett"}, "did you mean 'unet'"),
        ({"options": {"width": [4]}}, "did you mean 'widths'"),
        ({"loss": {"cross_entrpy": 1.0}}, "did you mean 'cross_entropy'"),
        ({"augment": {"crop": None}}, "set train.augment.crop"),
        ({"accelerator": "gpu"}, "sees no GPU"),
        (
            {"model": "wnet", "options": {}, "loss": {"cross_entropy": 1.0}},
            "loss has the terms reconstruction, cross_entropy, but training without labels",
        ),
        (
            {"model": "wnet", "loss": {"reconstruction": 1.0}},
            "expected {soft_normalized_cut: 1.0, reconstruction: 1.0}",
        ),
        ({"model": "wnet", "loss": CUT, "accumulate": 2}, "train.accumulate is 2"),
        (
            {"loss": {"reconstruction": 1.0}},
            "'reconstruction' reads the output 'reconstruction', which model 'unet' does",
        ),
        ({"model": "ynet", "options": {}}, "12 of the 12 images of split 'train' have no image label"),
    ],
)
def test_what_does_not_exist_or_fit_is_refused_before_a_run_is_made(
    folder: Path, changes: dict[str, Any], said: str
) -> None:
    if "accelerator" in changes and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(InputError, match=said):
        run(folder, **changes)
    assert not (folder / "checkpoints").exists()
    assert not (folder / "model").exists()


def test_missing_shards_name_the_step_to_run(folder: Path) -> None:
    with pytest.raises(InputError, match="preprocess"):
        train(params(), folder / "nowhere", folder / "model", folder / "checkpoints")
