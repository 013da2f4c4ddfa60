"""MLflow runs: real stores, a real server that goes away and comes back."""

import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from mlflow_server import MlflowServer
from ports import free_port
from small_pipeline import use_local_store

from components.artifacts import JOURNAL, RUN, JsonFile
from components.tracking import metric_sender, runs
from components.tracking.client import mlflow_client, tracking_uri
from components.tracking.journal import Entry, Journal
from components.tracking.run import Run
from segmodels.errors import InputError, TransientError


@pytest.fixture
def local_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    use_local_store(tmp_path, monkeypatch)
    return tmp_path


def start(state: Path) -> Run:
    return runs.start_run(
        experiment="tests",
        name="unet",
        state=state,
        params={"lr": 0.1, "augment": {"flip": 0.5}},
        tags={"data_digest": "abc.dir"},
    )


def history(run: Run, key: str) -> list[tuple[int, float]]:
    return sorted((metric.step, metric.value) for metric in run.client.get_metric_history(run.run_id, key))


def test_a_run_holds_parameters_tags_metrics_data_and_files(local_store: Path) -> None:
    run = start(local_store / "state")
    run.log_dataset(
        name="digits",
        source={"kind": "dvc", "repo": "https://example.org/data.git"},
        digest="0123456789abcdef0123456789abcdef.dir",
    )
    run.log_metrics({"val/miou": 0.5, "val/absent": float("nan"), "train/loss": float("nan")}, step=0)
    picture = local_store / "confusion.png"
    picture.write_bytes(b"picture")
    run.log_artifact(picture, "pictures")
    run.end()
    stored = run.client.get_run(run.run_id)
    assert stored.data.params == {"lr": "0.1", "augment.flip": "0.5"}
    assert stored.data.tags["data_digest"] == "abc.dir"
    assert stored.data.metrics.keys() == {"val/miou", "train/loss"}, "undefined scores are left out, NaN losses are not"
    assert math.isnan(stored.data.metrics["train/loss"])
    assert stored.inputs.dataset_inputs[0].dataset.digest == "0123456789abcdef0123456789abcdef.dir"
    assert stored.info.status == "FINISHED"
    assert [file.path for file in run.client.list_artifacts(run.run_id, "pictures")] == ["pictures/confusion.png"]
    assert (local_store / "mlflow.db").exists()


def test_a_metric_that_the_run_has_is_not_logged_again(local_store: Path) -> None:
    run = start(local_store / "state")
    run.log_metrics({"test/miou": 0.5, "test/accuracy": 0.7})
    run.log_metrics({"test/miou": 0.5, "test/accuracy": 0.8})
    assert [history(run, key) for key in ("test/miou", "test/accuracy")] == [[(0, 0.5)], [(0, 0.7), (0, 0.8)]]


def test_what_train_could_not_send_is_sent_when_its_run_is_opened(local_store: Path) -> None:
    state = local_store / "state"
    run = start(state)
    run.send([Entry(0, 1, {"val/miou": 0.1})])
    journal = Journal(JOURNAL.path(state))
    for entry in (Entry(0, 1, {"val/miou": 0.1, "val/fwiou": 0.4}), Entry(1, 2, {"val/miou": 0.2})):
        journal.append(entry)
    for _ in range(2):
        assert history(runs.open_run(state), "val/miou") == [(0, 0.1), (1, 0.2)]
    assert history(run, "val/fwiou") == [(0, 0.4)]
    run.end()
    journal.append(Entry(2, 3, {"val/miou": 0.3}))
    assert history(runs.open_run(state), "val/miou") == [(0, 0.1), (1, 0.2)], "a finished run has all its metrics"


def test_a_training_killed_while_its_run_was_made_takes_it_up(
    local_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, write = local_store / "state", JsonFile.write

    def killed(file: JsonFile, folder: Path, content: dict[str, str]) -> None:
        if content["run_id"]:
            raise KeyboardInterrupt
        write(file, folder, content)

    with monkeypatch.context() as before:
        before.setattr(JsonFile, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            start(state)
    run = start(state)
    experiment = run.client.get_experiment_by_name("tests").experiment_id
    assert [found.info.run_id for found in run.client.search_runs([experiment])] == [run.run_id]


@pytest.mark.parametrize("variable", ["SEGMODELS_CHECKPOINTS", "SEGMODELS_PIPELINE_RUN"])
def test_a_pod_killed_before_its_first_state_is_stored_leaves_its_run_to_the_next_pod(
    local_store: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "s3://bucket/it's")
    killed = start(local_store / "pod 1" / "key")
    resumed = start(local_store / "pod 2" / "key")
    assert resumed.run_id == killed.run_id
    others = [start(local_store / "pod 1" / "another key")]
    resumed.end()
    others.append(start(local_store / "pod 3" / "key"))
    monkeypatch.setenv(variable, "s3://bucket/other")
    others.append(start(local_store / "pod 4" / "key"))
    assert len({resumed.run_id, *(run.run_id for run in others)}) == 4


@pytest.mark.parametrize("content", ["", '{"run_id": "0123', "null", "[]", '{"run_id": 5}'])
def test_a_damaged_run_json_costs_a_new_run_and_no_training(
    local_store: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    first = start(local_store / "state")
    RUN.path(local_store / "state").write_text(content)
    assert start(local_store / "state").run_id != first.run_id
    assert "run.json" in capsys.readouterr().out


def test_a_moved_project_uses_its_own_store(local_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (local_store / ".dvc").mkdir()
    (local_store / ".dvc" / "config").touch()
    run = start(local_store / "data" / "model")
    assert RUN.read(local_store / "data" / "model")["tracking_uri"] == "sqlite:///mlflow.db"
    for moved, noted in {"copy": None, "old": f"sqlite:///{local_store}/mlflow.db"}.items():
        project = local_store.parent / f"{local_store.name}-{moved}"
        shutil.copytree(local_store, project)
        if noted:
            RUN.write(project / "data" / "model", {"run_id": run.run_id, "tracking_uri": noted, "experiment": "tests"})
        monkeypatch.chdir(project)
        opened = runs.open_run(Path("data/model"))
        assert opened.client.tracking_uri == f"sqlite:///{project}/mlflow.db"
        assert start(Path("data/model")).run_id == run.run_id


def test_the_run_that_the_orchestrator_names_is_used(local_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = mlflow_client()
    run_id = client.create_run(client.create_experiment("of the orchestrator")).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    assert start(local_store / "state").run_id == run_id


def test_a_queued_experiment_logs_to_the_repository_s_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    queued = tmp_path / ".dvc" / "tmp" / "exps" / "tmp123"
    queued.mkdir(parents=True)
    monkeypatch.chdir(queued)
    assert tracking_uri() == f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.mark.parametrize("chosen", [None, "http://chosen"])
def test_the_address_in_use_does_not_become_the_user_s_choice(
    local_store: Path, monkeypatch: pytest.MonkeyPatch, chosen: str | None
) -> None:
    if chosen:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", chosen)
    uri = f"sqlite:///{local_store}/mlflow.db"
    mlflow_client(uri)
    assert os.environ.get("MLFLOW_TRACKING_URI") == chosen
    assert mlflow.get_tracking_uri() == uri


def test_a_server_that_does_not_answer_at_the_start_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(TransientError, match=r"MLflow at http://127\.0\.0\.1:\d+ does not answer \(Connection refused"):
        start(tmp_path / "state")


def test_a_folder_as_store_is_refused_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", str(tmp_path / "mlruns"))
    with pytest.raises(InputError, match="sqlite:///"):
        start(tmp_path / "state")


def test_a_missing_run_is_named(local_store: Path) -> None:
    with pytest.raises(InputError, match=r"run\.json is not there: run the step train first"):
        runs.open_run(local_store)
    RUN.write(local_store, {"run_id": "0" * 32, "tracking_uri": tracking_uri(), "experiment": "tests"})
    with pytest.raises(InputError, match=r"has no run 0000.*run\.json"):
        runs.open_run(local_store)


def test_a_deleted_run_is_named_with_the_ways_out(local_store: Path) -> None:
    run = start(local_store / "state")
    run.client.delete_run(run.run_id)
    with pytest.raises(InputError, match=rf"run {run.run_id}: deleted in MLflow at .*mlflow runs restore"):
        run.set_tags({"registered_model": "digits/1"})
    with pytest.raises(InputError, match=rf"run {run.run_id} is deleted in MLflow: .*--run-id {run.run_id}`"):
        runs.open_run(local_store / "state")
    assert start(local_store / "state").run_id != run.run_id


def test_a_run_that_is_finished_keeps_its_time_of_end(local_store: Path) -> None:
    run = start(local_store / "state")
    run.client.set_terminated(run.run_id, "FINISHED", end_time=1234)
    run.end()
    assert run.client.get_run(run.run_id).info.end_time == 1234
    run.end("FAILED")
    assert run.client.get_run(run.run_id).info.end_time > 1234


def test_a_deleted_experiment_is_named_with_the_ways_out(local_store: Path) -> None:
    run = start(local_store / "state")
    number = run.experiment_id()
    run.client.delete_experiment(number)
    for refused in (lambda: runs.open_run(local_store / "state"), lambda: start(local_store / "other")):
        with pytest.raises(InputError, match=rf"which is deleted: .*experiments restore --experiment-id {number}`"):
            refused()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MlflowServer]:
    server = MlflowServer(tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.mark.slow
def test_an_outage_costs_neither_training_nor_metrics(
    server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    monkeypatch.setattr(metric_sender, "PAUSE", 0.2)
    run = start(tmp_path / "state")
    sender = metric_sender.MetricSender(run, [Entry(0, 1, {"val/miou": 0.1})])
    server.stop()
    sender.add(Entry(1, 2, {"val/miou": 0.2}))
    sender.add(Entry(2, 3, {"val/miou": 0.3}))
    server.start()
    sender.add(Entry(3, 4, {"val/miou": 0.4}))
    assert sender.finish("FINISHED", 60) == 0
    assert capsys.readouterr().out.count("does not answer") == 1
    assert history(run, "val/miou") == [(0, 0.1), (1, 0.2), (2, 0.3), (3, 0.4)]
    assert run.client.get_run(run.run_id).info.status == "FINISHED"
