"""What is kept of a step that failed. (The outputs of those that succeed: tests/pipelines/test_local_run.py.)"""

import json
from pathlib import Path
from typing import Any

import pytest
from small_dataset import write_small_dataset

from components.__main__ import main
from components.kubeflow import executor_output, termination_message
from components.params.checking import checked
from components.params.schema import IngestParams
from components.steps.ingest import ingest
from segmodels.errors import InputError, TransientError


@pytest.fixture
def failing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A command line of validate, on the cluster, for a dataset with an image that is cut off."""
    root = write_small_dataset(tmp_path / "set", {"train": 4, "val": 2, "test": 2}, (64, 48))
    image = next((root / "images").rglob("*.png"))
    image.write_bytes(image.read_bytes()[:100])
    params = {"source": "folder", "path": str(root)}
    ingest(checked(IngestParams, params), tmp_path / "dataset", tmp_path / "cache")
    monkeypatch.setenv("SEGMODELS_PIPELINE_RUN", "run-1")
    folders = ["--dataset", str(tmp_path / "dataset"), "--validation", str(tmp_path / "validation")]
    return ["validate", "--params-json", '{"validate": {"workers": 1}}', *folders, "--executor-input", "{}"]


@pytest.mark.slow
def test_the_report_of_a_failed_validation_outlives_its_pod(
    s3: Any, failing: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    s3.create_bucket(Bucket="kept")
    monkeypatch.setenv("SEGMODELS_CHECKPOINTS", "s3://kept/checkpoints")
    assert main(failing) == 2
    said = capfd.readouterr()
    assert "is kept as s3://kept/checkpoints/failed/run-1/validation\n" in said.out
    assert said.err.startswith("error: the dataset has")
    stored = {
        entry["Key"].removeprefix("checkpoints/failed/run-1/validation/")
        for entry in s3.list_objects_v2(Bucket="kept")["Contents"]
    }
    assert {"report.json", "facts.parquet", "docs/index.html"} <= stored


@pytest.mark.usefixtures("s3")
def test_a_store_that_refuses_does_not_hide_why_the_step_failed(
    failing: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SEGMODELS_CHECKPOINTS", "s3://no-such-bucket/checkpoints")
    assert main(failing) == 2
    said = capfd.readouterr()
    assert "could not be kept" in said.out
    assert said.err.startswith("error: the dataset has")


def test_metadata_holds_nothing_that_kubeflow_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nan = float("nan")
    facts = {"miou": nan, "none": None, "mean": [0.5, nan], "per": {"a": nan, "b": 1.0, "c": None}, "n": 3, "ok": True}
    monkeypatch.setitem(
        executor_output.DESCRIBE, "evaluation", lambda _: executor_output.Outputs({"evaluation": facts})
    )
    output = tmp_path / "output.json"
    artifact = {"artifacts": [{"uri": "minio://mlpipeline/evaluation"}]}
    task = {"outputs": {"artifacts": {"evaluation": artifact}, "outputFile": str(output)}}
    executor_output.write_executor_output(json.dumps(task), "evaluation", tmp_path)
    described = json.loads(output.read_text())["artifacts"]["evaluation"]["artifacts"][0]["metadata"]
    assert described == {"mean": [0.5, None], "per": {"b": 1.0}, "n": 3, "ok": True}


def test_the_sentence_of_a_failed_step_is_its_containers_termination_message(
    failing: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SEGMODELS_CHECKPOINTS", raising=False)
    monkeypatch.setattr(termination_message, "FILE", tmp_path / "termination-log")
    assert main(failing) == 2
    assert not termination_message.FILE.exists(), "only Kubernetes makes it"
    termination_message.FILE.touch()
    assert main(failing) == 2
    assert termination_message.FILE.read_text().startswith(f"{termination_message.NOT_RETRIED}the dataset has ")
    monkeypatch.setattr("components.steps.validate.gather_facts", unreachable)
    assert main(failing) == 75
    assert termination_message.FILE.read_text() == "the store does not answer", "it is retried"


def unreachable(*_: object) -> None:
    raise TransientError("the store does not answer")


def test_without_an_object_store_it_stays_where_it_is(
    failing: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SEGMODELS_CHECKPOINTS", raising=False)
    assert main(failing) == 2
    assert (tmp_path / "validation.failed" / "docs" / "index.html").exists()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"outputs": {}}', '{"outputs": {"outputFile": 3}}', "[" * 9000])
def test_an_executor_input_of_another_form_is_one_sentence(text: str) -> None:
    with pytest.raises(InputError, match=r"^--executor-input cannot be understood \(.+\): give the JSON that Kubeflow"):
        executor_output.write_executor_output(text)


def test_a_merging_step_finds_all_artifacts_of_a_list(capfd: pytest.CaptureFixture[str]) -> None:
    """As Kubeflow's launcher writes its input (protojson of ExecutorInput), and where it downloads them to."""
    root = "mlpipeline/v2/artifacts/segmentation-training/run-1"
    artifacts = [
        {"name": str(7 - part), "type": {"schemaTitle": "system.Dataset"}, "uri": f"{scheme}{root}/{part}/facts"}
        for part, scheme in enumerate(("minio://", "s3://", "gs://"))
    ]
    task = {"inputs": {"artifacts": {"facts": {"artifacts": artifacts}}}, "outputs": {"outputFile": "/tmp/out"}}
    paths = executor_output.input_paths(json.dumps(task), "facts")
    assert [str(path) for path in paths] == [
        f"/{name}/{root}/{part}/facts" for part, name in enumerate(("minio", "s3", "gcs"))
    ]
    assert main(["preprocess-merge", "--executor-input", json.dumps(task)]) == 2
    assert "inputs.artifacts.packed is missing" in capfd.readouterr().err
    assert main(["preprocess-merge"]) == 2
    assert "no parts are given" in capfd.readouterr().err
