"""The steps with MLflow as teams run it: a server on PostgreSQL, artifacts in an object store, users and passwords."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import boto3
import pytest
import yaml
from mlflow import MlflowClient
from mlflow_server import MlflowServer, mlflow_server
from postgresql import PASSWORD, Database, postgresql
from s3server import Server, s3_server
from small_pipeline import SMALL_TRAINING, write_shards

from components.artifacts import JOURNAL, RUN
from components.params.checking import checked
from components.params.schema import TrainParams
from components.steps.train import train
from components.tracking import metric_sender
from components.tracking.journal import Journal

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(1800)]
REPOSITORY = Path(__file__).parents[2]
PARAMS = {
    "train": SMALL_TRAINING | {"epochs": 3},
    "evaluate": {"overlays": 1},
    "register": {"name": "scenes"},
}
AUTHENTICATION = REPOSITORY / "infra" / "kustomize" / "components" / "mlflow-authentication" / "basic_auth.ini"
ADMIN, ADMIN_PASSWORD = "admin", "a long enough password"


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    with postgresql(tmp_path_factory.mktemp("postgresql")) as running:
        yield running


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        key = {"aws_access_key_id": "AWS_ACCESS_KEY_ID", "aws_secret_access_key": "AWS_SECRET_ACCESS_KEY"}
        client = boto3.client(
            "s3",
            endpoint_url=server.endpoint,
            region_name="us-east-1",
            **{name: server.environment[variable] for name, variable in key.items()},
        )
        client.create_bucket(Bucket="mlflow")
        yield server


@contextmanager
def tracking_server(
    database: Database, store: Server, folder: Path, name: str, *arguments: str, **variables: str
) -> Iterator[MlflowServer]:
    """An MLflow server on the database ``name``, which is made."""
    database.run("createdb", name)
    uri = f"postgresql+psycopg2://mlflow@127.0.0.1:{database.port}/{name}"
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "PGPASSWORD": PASSWORD}
    environment = {**clean(), **store.environment, **quiet, **variables}
    with mlflow_server(folder, ["--workers=1", f"--backend-store-uri={uri}", *arguments], environment) as server:
        yield server


def clean(**variables: str) -> dict[str, str]:
    """The environment of a process that knows no server."""
    known = ("MLFLOW_", "AWS_", "DVC_", "PG")
    own = {key: value for key, value in os.environ.items() if not key.startswith(known)}
    path = f"{Path(sys.executable).parent}{os.pathsep}{own['PATH']}"
    return {**own, "PATH": path, "OMP_NUM_THREADS": "1", "DVC_NO_ANALYTICS": "1", **variables}


def workspace(folder: Path, params: Mapping[str, object] = PARAMS) -> Path:
    """A DVC repository with the project's stages from train on."""
    write_shards(folder / "data" / "shards", train=12, val=4, scale=1)
    (folder / "params.yaml").write_text(yaml.safe_dump(dict(params)))
    stages = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]
    kept = {name: stages[name] for name in ("train", "evaluate", "register")}
    for stage in kept.values():
        stage["deps"] = [path for path in stage["deps"] if path.startswith("data/") and path != "data/start.json"]
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": kept}))
    subprocess.run(["dvc", "init", "--no-scm", "-q"], cwd=folder, env=clean(), check=True)
    return folder


def dvc_repro(folder: Path, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["dvc", "repro", "-q"], cwd=folder, env=dict(environment), capture_output=True, text=True, timeout=800
    )


@pytest.mark.parametrize("artifacts", ["proxied", "direct"])
def test_the_steps_work_on_a_server_as_on_a_file(
    database: Database, store: Server, tmp_path: Path, artifacts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Artifacts pass through the server, which alone has the keys of the object store; or the steps have them, too."""
    place = f"s3://mlflow/{artifacts}"
    proxied = artifacts == "proxied"
    options = (
        [f"--artifacts-destination={place}"]
        if proxied
        else ["--no-serve-artifacts", f"--default-artifact-root={place}"]
    )
    keys = {} if proxied else store.environment
    with tracking_server(database, store, tmp_path, artifacts, *options) as server:
        address = server.uri
        done = dvc_repro(workspace(tmp_path), clean(MLFLOW_TRACKING_URI=address, **keys))
        assert done.returncode == 0, done.stderr[-3000:]
        for name, value in {**keys, "MLFLOW_TRACKING_URI": address}.items():
            monkeypatch.setenv(name, value)
        client = MlflowClient(address)
        run_id = json.loads((tmp_path / "data" / "model" / "run.json").read_text())["run_id"]
        run = client.get_run(run_id)
        assert run.info.status == "FINISHED"
        assert [point.step for point in client.get_metric_history(run_id, "val/miou")] == [0, 1, 2]
        scores = json.loads((tmp_path / "data" / "evaluation" / "metrics.json").read_text())
        assert run.data.metrics["test/miou"] == pytest.approx(scores["mean_iou"])
        kept = {file.path for file in client.list_artifacts(run_id, "evaluation")}
        assert {"evaluation/pictures", "evaluation/per_image.parquet", "evaluation/confusion.json"} <= kept
        assert len(client.list_artifacts(run_id, "images")) == 3 * 4 * 2, "4 images, 3 epochs, each with a thumbnail"
        assert run.info.artifact_uri.startswith("mlflow-artifacts:" if proxied else place)
        assert client.get_model_version_by_alias("scenes", "champion").version == "1"
        check = [sys.executable, "-m", "components", "reproduce", "scenes/1"]
        reproduced = subprocess.run(
            check,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env=clean(MLFLOW_TRACKING_URI=address, PYTHONPATH=str(REPOSITORY), **keys),
        )
        assert reproduced.returncode == 0, reproduced.stderr
        assert "confusion      identical" in reproduced.stdout


def test_a_server_that_asks_for_passwords(database: Database, store: Server, tmp_path: Path) -> None:
    """With the settings of the cluster's component: users are in the database of the runs."""
    settings = AUTHENTICATION.read_text()
    assert "@postgresql:5432/mlflow\n" in settings
    (tmp_path / "basic_auth.ini").write_text(
        settings.replace("@postgresql:5432/mlflow", f"@127.0.0.1:{database.port}/auth")
    )
    variables = {
        "MLFLOW_AUTH_CONFIG_PATH": str(tmp_path / "basic_auth.ini"),
        "MLFLOW_AUTH_ADMIN_PASSWORD": ADMIN_PASSWORD,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "of the test",
    }
    place = "--artifacts-destination=s3://mlflow/auth"
    with tracking_server(database, store, tmp_path, "auth", place, "--app-name=basic-auth", **variables) as server:
        address, folder = server.uri, workspace(tmp_path)
        refused = dvc_repro(folder, clean(MLFLOW_TRACKING_URI=address))
        assert refused.returncode != 0
        assert "MLFLOW_TRACKING_PASSWORD" in refused.stderr + refused.stdout
        login = {"MLFLOW_TRACKING_USERNAME": ADMIN, "MLFLOW_TRACKING_PASSWORD": ADMIN_PASSWORD}
        done = dvc_repro(folder, clean(MLFLOW_TRACKING_URI=address, **login))
        assert done.returncode == 0, done.stderr[-3000:]
        assert ADMIN_PASSWORD not in done.stdout + done.stderr
        assert ADMIN_PASSWORD not in (folder / "data" / "model" / "run.json").read_text()


def test_two_pipelines_that_register_at_once_leave_one_champion(
    database: Database, store: Server, tmp_path: Path
) -> None:
    with tracking_server(database, store, tmp_path, "race", "--artifacts-destination=s3://mlflow/race") as server:
        address = server.uri
        environment = clean(MLFLOW_TRACKING_URI=address, PYTHONPATH=str(REPOSITORY))
        shards, scores, folders = tmp_path / "shards", {}, []
        write_shards(shards, train=12, val=4, scale=1)
        for lr in (0.0003, 0.01):
            folder = tmp_path / str(lr)
            folder.mkdir()
            (folder / "params.yaml").write_text(yaml.safe_dump({**PARAMS, "train": {**PARAMS["train"], "lr": lr}}))
            for step in ("train", "evaluate"):
                command = [sys.executable, "-m", "components", step, "--shards", str(shards)]
                subprocess.run(command, cwd=folder, env=environment, check=True, timeout=200)
            scores[lr] = json.loads((folder / "data" / "evaluation" / "metrics.json").read_text())["mean_iou"]
            folders.append(folder)
        command = [sys.executable, "-m", "components", "register", "--shards", str(shards)]
        both = [subprocess.Popen(command, cwd=folder, env=environment) for folder in folders]
        assert [process.wait(200) for process in both] == [0, 0]
        client = MlflowClient(address)
        versions = client.search_model_versions("name = 'scenes'")
        assert len(versions) == 2
        champion = client.get_model_version_by_alias("scenes", "champion")
        assert float(champion.tags["test.mean_iou"]) == pytest.approx(max(scores.values()), abs=1e-5)
        assert [one.tags["decision"] for one in versions].count("champion") >= 1


def test_no_crash_of_the_server_or_its_database_loses_or_doubles_a_metric(
    database: Database, store: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """During a training the process that answers is killed thirty times, and the database's thirty times, at random
    moments; `sync` sends the rest.

    Gunicorn's main process, which has imported MLflow, replaces a killed process at once. A whole server takes many
    seconds to start again, so that is done once.
    """
    monkeypatch.setattr(metric_sender, "PAUSE", 0.05)
    monkeypatch.setattr(metric_sender, "SECONDS_TO_FINISH", 0.5)
    monkeypatch.chdir(tmp_path)
    shards = write_shards(tmp_path / "data" / "shards", train=4, val=1, scale=1)
    model, checkpoints = tmp_path / "data" / "model", tmp_path / "data" / "checkpoints"
    place = "--artifacts-destination=s3://mlflow/crashes"
    with tracking_server(database, store, tmp_path, "crashes", place, "--gunicorn-opts=--preload") as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
        rng, kills = random.Random(0), Counter[str]()

        def kill() -> None:
            while not list(checkpoints.glob(f"*/{JOURNAL.name}")):
                time.sleep(0.01)
            for victim in rng.sample(["server", "database"] * 30, 60):
                time.sleep(rng.uniform(0.02, 0.4))
                while not (server.crash() if victim == "server" else database.crash()):
                    time.sleep(0.01)
                kills[victim] += 1

        thread = threading.Thread(target=kill)
        thread.start()
        train(checked(TrainParams, PARAMS["train"] | {"epochs": 10_000, "minutes": 0.3}), shards, model, checkpoints)
        thread.join()
        assert kills == {"server": 30, "database": 30}
        server.stop()
        server.start()
        done = subprocess.run(
            [sys.executable, "-m", "components", "sync"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env=clean(MLFLOW_TRACKING_URI=server.uri, PYTHONPATH=str(REPOSITORY)),
        )
        assert done.returncode == 0, done.stderr
        entries, run_id = Journal(JOURNAL.path(model)).entries(), RUN.read(model)["run_id"]
        client = MlflowClient(server.uri)
        run = client.get_run(run_id)
        assert run.info.status == "FINISHED"
        assert [entry.step for entry in entries] == list(range(len(entries)))
        assert len(entries) > 60
        for name in entries[0].metrics:
            logged = [(point.step, point.value) for point in client.get_metric_history(run_id, name)]
            assert sorted(logged) == [(entry.step, entry.metrics[name]) for entry in entries], name
