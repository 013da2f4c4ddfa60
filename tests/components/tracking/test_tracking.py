"""MLflow runs: real stores, a real server that goes away and comes back."""

import json
import math
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from ports import free_port

from components.artifacts import RUN
from components.tracking import runs
from segmodels.errors import InputError


@pytest.fixture
def local_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def start(state: Path) -> runs.Run:
    return runs.start_run(
        experiment="tests",
        name="unet",
        state=state,
        params={"lr": 0.1, "augment": {"flip": 0.5}},
        tags={"data_digest": "abc.dir"},
    )


def history(run: runs.Run, key: str) -> list[tuple[int, float]]:
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
    run.finish()
    stored = run.client.get_run(run.run_id)
    assert stored.data.params == {"lr": "0.1", "augment.flip": "0.5"}
    assert stored.data.tags["data_digest"] == "abc.dir"
    assert stored.data.metrics.keys() == {"val/miou", "train/loss"}, "undefined scores are left out, NaN losses are not"
    assert math.isnan(stored.data.metrics["train/loss"])
    assert stored.inputs.dataset_inputs[0].dataset.digest == "0123456789abcdef0123456789abcdef.dir"
    assert stored.info.status == "FINISHED"
    assert [file.path for file in run.client.list_artifacts(run.run_id, "pictures")] == ["pictures/confusion.png"]
    assert (local_store / "mlflow.db").exists()


def test_a_resumed_training_goes_on_in_its_run_and_repeats_no_step(local_store: Path) -> None:
    state = local_store / "state"
    first = start(state)
    first.log_metrics({"val/miou": 0.1}, step=0)
    first.log_metrics({"val/miou": 0.2}, step=1)
    second = start(state)
    assert second.run_id == first.run_id
    assert second.logged_steps() == {0, 1}
    second.log_metrics({"val/miou": 0.3}, step=2)
    assert history(second, "val/miou") == [(0, 0.1), (1, 0.2), (2, 0.3)]


def test_what_the_store_lacks_is_sent_from_the_journal_once(local_store: Path) -> None:
    state = local_store / "state"
    run = start(state)
    run.log_metrics({"val/miou": 0.1}, step=0)
    with (state / "metrics.jsonl").open("a") as journal:
        journal.write(json.dumps({"step": 1, "time": 1, "metrics": {"val/miou": 0.2}}) + "\n")
        journal.write('{"step": 2, "time": 1, "metr')  # killed while writing
    again = start(state)
    assert history(again, "val/miou") == [(0, 0.1), (1, 0.2)]


def test_the_run_that_the_orchestrator_names_is_used(local_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = runs.mlflow_client()
    run_id = client.create_run(client.create_experiment("of the orchestrator")).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    assert start(local_store / "state").run_id == run_id


def test_a_queued_experiment_logs_to_the_repository_s_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    queued = tmp_path / ".dvc" / "tmp" / "exps" / "tmp123"
    queued.mkdir(parents=True)
    monkeypatch.chdir(queued)
    assert runs.tracking_uri() == f"sqlite:///{tmp_path / 'mlflow.db'}"


def test_a_server_that_does_not_answer_at_the_start_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(InputError, match=r"MLflow at http://127\.0\.0\.1:\d+ does not answer"):
        start(tmp_path / "state")


def test_a_folder_as_store_is_refused_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", str(tmp_path / "mlruns"))
    with pytest.raises(InputError, match="sqlite:///"):
        start(tmp_path / "state")


def test_a_missing_run_is_named(local_store: Path) -> None:
    with pytest.raises(InputError, match=r"run\.json is not there: run the step train first"):
        runs.open_run(local_store)
    RUN.write(local_store, {"run_id": "0" * 32, "tracking_uri": runs.tracking_uri(), "experiment": "tests"})
    with pytest.raises(InputError, match=r"has no run 0000.*run\.json"):
        runs.open_run(local_store)


class Server:
    """A real MLflow server that can be stopped and started again on the same port and store."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--port",
            str(self.port),
            "--workers",
            "1",
            "--backend-store-uri",
            f"sqlite:///{self.folder / 'server.db'}",
        ]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
                env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},
            )
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=1)
                return
            except OSError:
                time.sleep(0.3)
        raise RuntimeError(f"the MLflow server did not start: {(self.folder / 'server.log').read_text()[-2000:]}")

    def stop(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    server.start()
    yield server
    server.stop()


def test_an_outage_costs_neither_training_nor_metrics(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    run = start(tmp_path / "state")
    run.log_metrics({"val/miou": 0.1}, step=0)
    server.stop()
    run.log_metrics({"val/miou": 0.2}, step=1)
    run.log_metrics({"val/miou": 0.3}, step=2)
    assert capsys.readouterr().out.count("MLflow is away") == 1
    server.start()
    run.log_metrics({"val/miou": 0.4}, step=3)
    run.finish()
    assert history(run, "val/miou") == [(0, 0.1), (1, 0.2), (2, 0.3), (3, 0.4)]
    assert run.client.get_run(run.run_id).info.status == "FINISHED"
