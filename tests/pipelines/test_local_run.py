"""The pipeline on kfp.local: every step, what it hands on, when it ends early. Tests build on the run of the first."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path

import pytest
from kfp_here import Cluster, described

from components.kubeflow.packed import unpack
from pipelines.local import output_kept


@pytest.fixture(scope="module")
def outputs(cluster: Cluster) -> Path:
    folder = cluster.run()
    assert cluster.ran == ["changed", "ingest", "validate", "preprocess", "train", "evaluate", "register", "notify"]
    return folder


def test_every_output_is_there_and_described(outputs: Path) -> None:
    digest = described(outputs, "ingest")["dataset"]["digest"]
    assert described(outputs, "validate")["validation"] == {"success": True}
    assert "<html" in (outputs / "validate" / "data_docs").read_text()
    assert described(outputs, "preprocess")["shards"]["digest"] == digest
    assert described(outputs, "train")["model"]["data_digest"] == digest
    assert described(outputs, "evaluate")["metrics"] == json.loads(
        (outputs / "evaluate" / "evaluation" / "metrics.json").read_text()
    )
    assert "data:image/png;base64," in (outputs / "evaluate" / "pictures").read_text()
    assert described(outputs, "register")["registration"]["alias"] == "champion"
    assert (outputs / "register" / "model_card").read_text().startswith("# tiny")
    for step in ("ingest", "validate", "preprocess", "train", "evaluate", "register"):
        for name in described(outputs, step):
            assert (outputs / step / name).exists(), f"{step}/{name}"


def test_the_confusion_matrix_is_as_kubeflow_writes_it_itself(outputs: Path) -> None:
    from kfp.dsl import ClassificationMetrics

    truth = json.loads((outputs / "evaluate" / "evaluation" / "confusion.json").read_text())
    kubeflow = ClassificationMetrics()
    kubeflow.log_confusion_matrix(truth["classes"], truth["counts"])
    assert described(outputs, "evaluate")["confusion"] == kubeflow.metadata


def test_the_dataset_travels_with_its_manifest_once_and_in_one_file(outputs: Path, tmp_path: Path) -> None:
    unpack(outputs / "ingest" / "dataset", tmp_path / "dataset")
    facts = json.loads((tmp_path / "dataset" / "dataset.json").read_text())
    assert (facts["root"], facts["digest"]) == ("files", described(outputs, "ingest")["dataset"]["digest"])
    assert len(list((tmp_path / "dataset" / "files").rglob("*.png"))) == 3 * 36  # images, masks, objects
    assert (outputs / "validate" / "validation").is_file()
    assert not [path for step in outputs.iterdir() for path in step.rglob("files")]


@pytest.mark.usefixtures("outputs")
def test_no_step_leaves_its_working_folders(cluster: Cluster) -> None:
    assert not list((cluster.folder / "data").glob(".unpacked-*"))


@pytest.mark.usefixtures("outputs")
def test_a_run_with_nothing_new_ends_early_and_says_so(cluster: Cluster, capfd: pytest.CaptureFixture[str]) -> None:
    cluster.run()
    assert cluster.ran == ["changed", "notify"]
    said = capfd.readouterr().out
    assert "nothing is new since version 1 (champion; data" in said
    assert "nothing is new since version 1 (champion), so nothing was trained" in said


@pytest.mark.slow
@pytest.mark.usefixtures("outputs")
def test_the_monitoring_trains_when_what_is_served_has_drifted(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cluster, "unavailable", {"ingest"})
    write_log(tmp_path, brighter=0)
    watch = f"served_log={tmp_path}"
    outputs = cluster.run(watch, monitoring=True)
    assert cluster.ran == ["drift", "notify"]
    assert "tiny version 1 has not drifted" in capfd.readouterr().out
    assert "<h1>Drift of tiny version 1</h1>" in (outputs / "drift" / "page").read_text()
    write_log(tmp_path, brighter=40)
    with pytest.raises(RuntimeError, match="Inner task failed"):
        cluster.run(watch, "skip_unchanged=false", monitoring=True)
    assert cluster.ran == ["drift", "changed", "ingest", "notify"]
    assert "tiny version 1 has drifted, over 80 images: brightness from" in capfd.readouterr().out


@pytest.mark.usefixtures("outputs")
@pytest.mark.parametrize(
    ("assignment", "revision", "said"),
    [
        ("skip_unchanged=true", "2" * 40, "new since the champion, version 1: code revision"),
        ("seed=1", "1" * 40, "new since the champion, version 1: pipeline params"),
        ("minimum_score=0.5", "1" * 40, "new since the champion, version 1: pipeline params"),
        ('evaluate_params={"evaluate": {"flip": true}}', "1" * 40, "version 1: pipeline params"),
        ('validate_params={"validate": {"min_side": 8}}', "1" * 40, "version 1: pipeline params"),
        (
            'ingest_params={"ingest": {"digits": {"train": 24, "val": 6, "test": 7, "size": 32, "seed": 0}}}',
            "1" * 40,
            "version 1: data revision",
        ),
        ('ingest_params={"ingest": {"split": {"seed": 1}}}', "1" * 40, "version 1: data revision"),
        ('preprocess_params={"preprocess": {"workers": 1, "longer_side": 24}}', "1" * 40, "version 1: pipeline params"),
        ("skip_unchanged=false", "1" * 40, "and trains anew, because skip_unchanged is false"),
        ("skip_unchanged=true", "1" * 40 + "-dirty", "which does not tell whether it is new"),
    ],
)
def test_a_run_with_something_new_trains(
    cluster: Cluster,
    capfd: pytest.CaptureFixture[str],
    assignment: str,
    revision: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cluster, "unavailable", {"ingest"})  # what comes after does not matter here
    champion = champion_of(revision) if "-dirty" in revision else nullcontext()
    with champion, pytest.raises(RuntimeError, match="Inner task failed"):
        cluster.run(assignment, revision=revision)
    assert cluster.ran == ["changed", "ingest", "notify"]
    assert said in capfd.readouterr().out


@pytest.mark.usefixtures("outputs")
def test_a_failing_step_stops_the_run_and_is_told(cluster: Cluster, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="Inner task failed"):
        cluster.run("learning_rate=1000")
    assert cluster.ran == ["changed", "ingest", "validate", "preprocess", "train", "notify"]
    captured = capfd.readouterr()
    assert "not finite or beyond" in captured.err
    assert "tiny: training failed" in captured.out


@pytest.mark.slow
@pytest.mark.usefixtures("outputs")
def test_a_model_of_objects_goes_through_every_step(cluster: Cluster) -> None:
    options = {"encoder": "mobilenet_v2", "channels": 16, "hidden": 32, "sides": [8, 12, 16, 24, 32], "detections": 4}
    train = {"options": options, "schedule": "constant", "augment": {"scale": [1.0, 1.0]}}
    outputs = cluster.run(
        "model=mask_rcnn_r50_fpn",
        f"train_params={json.dumps({'train': train})}",
        'register_params={"register": {"metric": "mask_ap"}}',
        "registered_model=objects",
    )
    assert cluster.ran[-3:] == ["evaluate", "register", "notify"]
    evaluated = described(outputs, "evaluate")
    assert {"mask_ap", "mask_ap50", "box_ap"} <= evaluated["metrics"].keys()
    matrix = evaluated["confusion"]["confusionMatrix"]
    assert [row["displayName"] for row in matrix["annotationSpecs"]][-2:] == ["9", "nothing"]
    assert described(outputs, "register")["registration"]["alias"] == "champion"


@contextmanager
def champion_of(revision: str) -> Iterator[None]:
    """While the block lasts, the champion is one of the code ``revision``."""
    from components.tracking.client import mlflow_client

    client = mlflow_client()
    before = client.get_model_version("tiny", "1").tags["code_revision"]
    client.set_model_version_tag("tiny", "1", "code_revision", revision)
    yield
    client.set_model_version_tag("tiny", "1", "code_revision", before)


def write_log(folder: Path, brighter: float) -> None:
    """What a server of the champion logs that is asked its training images, or brighter ones."""
    from components.tracking.model_registry import bundle_folder
    from segmodels.inference.reference import read_reference

    with bundle_folder("models:/tiny@champion") as bundle:
        reference = read_reference(bundle)
    assert reference is not None
    rows = [dict(zip(reference.names, row, strict=True)) for row in reference.values.tolist()]
    records = [
        {
            "time": datetime.now(UTC).isoformat(),
            "name": "tiny",
            "version": "1",
            "statistics": row | {"brightness": row["brightness"] + brighter},
        }
        for row in (rows * 80)[:80]
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def test_print_is_as_before_when_threads_of_kfp_have_crossed(capsys: pytest.CaptureFixture[str]) -> None:
    from kfp.local.logging_utils import indented_print

    with output_kept():
        first, second = indented_print(), indented_print()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        second.__exit__(None, None, None)  # puts back the print of the first
    print("whole")
    assert capsys.readouterr().out == "whole\n"
