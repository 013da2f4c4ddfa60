"""evaluate: numbers against scikit-learn, files, pictures, memory, and what it refuses."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn import metrics as sklearn_metrics
from small_pipeline import LABELS, use_local_store, write_model, write_run, write_shards

from components.params.reading import checked_params
from components.params.schema import EvaluateParams
from components.steps.evaluate import evaluate, examples
from components.tracking.client import mlflow_client
from segmodels.data.shards import ShardReader
from segmodels.errors import InputError
from segmodels.inference.bundle import load_bundle
from segmodels.labels import LabelMap
from segmodels.metrics import mean_iou


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("evaluate") / "shards")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("evaluate") / "model", steps=12)


@pytest.fixture(scope="module")
def evaluation(shards: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluate") / "evaluation"
    evaluate(EvaluateParams(batch_size=4, overlays=2), shards, model, folder)
    return folder


def reference_counts(shards: Path, model: Path) -> np.ndarray:
    """(N, C, C) by the model's own logits, torch's interpolation of the softmax, and scikit-learn's confusion
    matrix.
    """
    reader, bundle, matrices = ShardReader(shards, "test"), load_bundle(model), []
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (bundle.mean, bundle.std))
    for index in range(len(reader)):
        truth = np.array(reader.annotation(index).classes)
        image = torch.from_numpy(np.array(reader.image(index))).permute(2, 0, 1)[None]
        with torch.inference_mode():
            probabilities = bundle.model((image - mean) / std).logits.softmax(1)
        prediction = torch.nn.functional.interpolate(probabilities, truth.shape, mode="bilinear")[0].argmax(0).numpy()
        counted = truth != 255
        matrices.append(sklearn_metrics.confusion_matrix(truth[counted], prediction[counted], labels=range(4)))
    return np.stack(matrices)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_numbers_are_those_of_the_predictions_at_the_labels_own_size(
    shards: Path, model: Path, evaluation: Path
) -> None:
    counts = reference_counts(shards, model)
    total = counts.sum(axis=0)
    assert json.loads((evaluation / "confusion.json").read_text())["counts"] == total.tolist()
    truth = np.repeat(np.arange(4), total.sum(axis=1))
    prediction = np.concatenate([np.repeat(np.arange(4), row) for row in total])
    metrics = json.loads((evaluation / "metrics.json").read_text())
    present = [0, 1, 2] if not total[:, 3].any() else [0, 1, 2, 3]
    expected = {
        "mean_iou": sklearn_metrics.jaccard_score(truth, prediction, labels=present, average="macro"),
        "frequency_weighted_iou": sklearn_metrics.jaccard_score(truth, prediction, average="weighted"),
        "pixel_accuracy": sklearn_metrics.accuracy_score(truth, prediction),
        "mean_pixel_accuracy": sklearn_metrics.recall_score(truth, prediction, labels=[0, 1, 2], average="macro"),
        "mean_f1": sklearn_metrics.f1_score(truth, prediction, labels=present, average="macro"),
        "images": 6,
        "pixels": int(total.sum()),
    }
    assert {key: metrics[key] for key in expected} == pytest.approx(expected)
    assert 0.3 < metrics["mean_iou"] < 0.99  # neither trivial nor perfect, or the comparison would say little


def test_tables_say_the_same_as_the_matrix(evaluation: Path) -> None:
    counts = np.array(json.loads((evaluation / "confusion.json").read_text())["counts"])
    cells = rows(evaluation / "confusion.csv")
    assert [(cell["actual"], cell["predicted"], int(cell["count"])) for cell in cells] == [
        (LABELS.classes[i], LABELS.classes[j], counts[i, j]) for i in range(4) for j in range(4)
    ]
    assert sum(float(cell["share"]) for cell in cells[:4]) == pytest.approx(1, abs=1e-5)
    assert [cell["share"] for cell in cells[12:]] == [""] * 4
    per_class = rows(evaluation / "per_class.csv")
    assert [row["class"] for row in per_class] == list(LABELS.classes)
    assert float(per_class[1]["iou"]) == pytest.approx(
        counts[1, 1] / (counts[1].sum() + counts[:, 1].sum() - counts[1, 1])
    )
    assert per_class[1]["f1"] == per_class[1]["dice"]
    assert per_class[3]["recall"] == ""


def test_every_image_has_its_row_and_its_matrix(shards: Path, model: Path, evaluation: Path) -> None:
    table = pq.read_table(evaluation / "per_image.parquet").to_pylist()
    counts = reference_counts(shards, model)
    assert [row["id"] for row in table] == [f"test/{i}" for i in range(6)]
    assert [row["mean_iou"] for row in table] == pytest.approx([mean_iou(matrix) for matrix in counts])
    assert [row["score"] for row in table] == [row["mean_iou"] for row in table]
    for row, matrix in zip(table, counts, strict=True):
        assert row["cells"] == np.flatnonzero(matrix).tolist()
        assert row["counts"] == matrix[matrix > 0].tolist()


def test_slices_are_scored_by_the_images_in_them(shards: Path, model: Path, evaluation: Path) -> None:
    reader, counts = ShardReader(shards, "test"), reference_counts(shards, model)
    brightness = [reader.image(index).mean() for index in range(6)]
    expected = {
        ("size", "small"): [1, 2, 4, 5],  # 24 x 32, the others 20 x 40
        ("size", "large"): [0, 3],
        ("brightness", "dark"): np.argsort(brightness)[:2],
        ("brightness", "middle"): np.argsort(brightness)[2:4],
        ("brightness", "bright"): np.argsort(brightness)[4:],
    }
    found = rows(evaluation / "slices.csv")
    assert [(row["by"], row["slice"]) for row in found] == list(expected)
    for row, own in zip(found, expected.values(), strict=True):
        assert int(row["images"]) == len(own)
        assert float(row["mean_iou"]) == pytest.approx(mean_iou(counts[own].sum(axis=0)))
    written = json.loads((evaluation / "slices.json").read_text())
    assert [row["mean_iou"] for row in written] == [float(row["mean_iou"]) for row in found]
    assert written[0]["low"] == written[0]["high"] == 24 * 32


def test_pictures_are_there_and_the_worst_image_is_worst(shards: Path, model: Path, evaluation: Path) -> None:
    assert sorted(path.name for path in (evaluation / "pictures").iterdir()) == [
        "best.png",
        "class_iou.png",
        "confusion.png",
        "median.png",
        "worst.png",
    ]
    for path in (evaluation / "pictures").iterdir():
        assert min(Image.open(path).size) > 150
    scores = {f"test/{i}": mean_iou(matrix) for i, matrix in enumerate(reference_counts(shards, model))}
    chosen = examples(scores, 2)
    assert next(iter(chosen["best"])) == max(scores, key=scores.__getitem__)
    assert next(iter(chosen["worst"])) == min(scores, key=scores.__getitem__)
    assert sorted(scores.values())[1] <= next(iter(chosen["median"].values())) <= sorted(scores.values())[-2]
    assert examples({"void": None, "a": 0.5}, 3) == {"best": {"a": 0.5}, "median": {"a": 0.5}, "worst": {"a": 0.5}}


def test_the_same_input_gives_the_same_files(shards: Path, model: Path, evaluation: Path, tmp_path: Path) -> None:
    evaluate(EvaluateParams(batch_size=4, overlays=2), shards, model, tmp_path / "again")
    for path in evaluation.rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "again" / path.relative_to(evaluation)).read_bytes(), path.name


def test_views_and_windows_change_the_measurement_and_are_written_down(
    shards: Path, model: Path, evaluation: Path, tmp_path: Path
) -> None:
    params = EvaluateParams(
        overlays=0, settings={"flip": True, "scales": [1.0, 1.5], "sliding_window": {"size": [16, 16]}}
    )
    metrics = evaluate(params, shards, model, tmp_path / "evaluation")
    assert metrics["pixels"] == json.loads((evaluation / "metrics.json").read_text())["pixels"]
    assert metrics["mean_iou"] != json.loads((evaluation / "metrics.json").read_text())["mean_iou"]
    written = json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())["params"]
    assert checked_params({"evaluate": written}, "evaluation.json").evaluate == params
    assert sorted(path.name for path in (tmp_path / "evaluation" / "pictures").iterdir()) == [
        "class_iou.png",
        "confusion.png",
    ]


def test_a_crf_changes_the_measurement_and_is_written_down(
    shards: Path, model: Path, evaluation: Path, tmp_path: Path
) -> None:
    params = EvaluateParams(overlays=0, settings={"crf": {"iterations": 3, "color_sigma": 30.0}})
    metrics = evaluate(params, shards, model, tmp_path / "evaluation")
    assert metrics["mean_iou"] != json.loads((evaluation / "metrics.json").read_text())["mean_iou"]
    written = json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())["params"]
    assert written["crf"]["iterations"] == 3
    assert checked_params({"evaluate": written}, "evaluation.json").evaluate == params


def test_the_training_run_gets_test_metrics_and_pictures(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_local_store(tmp_path, monkeypatch)
    model = write_model(tmp_path / "model")
    run_id = write_run(model, tmp_path / "state")
    metrics = evaluate(EvaluateParams(overlays=1), shards, model, tmp_path / "evaluation")
    client = mlflow_client()
    stored = client.get_run(run_id).data.metrics
    assert stored["test/miou"] == metrics["mean_iou"]
    assert stored["test/iou/brick"] > 0.5
    # a table: as metrics, slices would fill MLflow's page that compares runs, which then leaves out others
    assert not any(name.startswith("test/miou/") for name in stored)
    assert "evaluation/slices.csv" in [file.path for file in client.list_artifacts(run_id, "evaluation")]
    assert "test/iou/snow" not in stored or stored["test/iou/snow"] == 0
    assert "evaluation/pictures/confusion.png" in [
        file.path for file in client.list_artifacts(run_id, "evaluation/pictures")
    ]
    assert client.get_run(run_id).info.status == "FINISHED"


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images(model: Path, tmp_path: Path) -> None:
    program = """
import resource, sys
from pathlib import Path
from components.steps.evaluate import evaluate, examples
from components.params.schema import EvaluateParams
small, large, model, out = map(Path, sys.argv[1:])
params = EvaluateParams(overlays=1, batch_size=32)
evaluate(params, small, model, out)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
evaluate(params, large, model, out)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    small, large = (
        write_shards(tmp_path / "small", test=64, scale=13),
        write_shards(tmp_path / "large", test=600, scale=13),
    )
    size = sum(path.stat().st_size for path in large.glob("test-*.arrow")) // 2**20
    command = [sys.executable, "-c", program, str(small), str(large), str(model), str(tmp_path / "out")]
    grown = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])
    assert size > 70
    assert grown < 35, f"{grown} MB more for shards of {size} MB"


def test_a_model_of_other_classes_is_refused(shards: Path, tmp_path: Path) -> None:
    labels = LabelMap(("a", "b"), ((0, 0, 0), (1, 1, 1)), {0: 0, 1: 1})
    model = write_model(tmp_path / "model", steps=0, labels=labels)
    with pytest.raises(InputError, match=r"knows the classes \['a', 'b'\] but the shards hold"):
        evaluate(EvaluateParams(), shards, model, tmp_path / "evaluation")
    assert not (tmp_path / "evaluation").exists()


def test_a_truncated_shard_is_named_and_nothing_half_written_is_left(model: Path, tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "shards")
    path = shards / "test-00000.arrow"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"test-00000.arrow is damaged \(\d+ bytes, expected \d+\)"):
        evaluate(EvaluateParams(), shards, model, tmp_path / "evaluation")
    assert list(tmp_path.iterdir()) == [shards]


def test_a_missing_split_and_a_missing_model_are_named(shards: Path, model: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is neither a folder nor an address in the registry"):
        evaluate(EvaluateParams(), shards, tmp_path / "nothing", tmp_path / "evaluation")
    empty = write_shards(tmp_path / "empty", test=0)
    with pytest.raises(InputError, match="no split 'test'"):
        evaluate(EvaluateParams(), empty, model, tmp_path / "evaluation")


def test_a_gpu_that_is_not_there_is_said(shards: Path, model: Path, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(InputError, match="torch sees no GPU"):
        evaluate(EvaluateParams(accelerator="gpu"), shards, model, tmp_path / "evaluation")
