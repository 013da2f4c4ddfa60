"""MLflow as the manifests start it, for real: on PostgreSQL, artifacts in an object store, with the scripts
around it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml
from mlflow_server import mlflow_server
from postgresql import PASSWORD, Database, postgresql
from s3server import Server, s3_server, seaweedfs_server

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(600)]
BASE = Path(__file__).resolve().parents[2] / "infra" / "kustomize" / "base"


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    with postgresql(tmp_path_factory.mktemp("postgresql")) as running:
        yield running


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """SeaweedFS by the manifest's command; the store of other tests where it cannot be installed."""
    manifest = yaml.safe_load_all((BASE / "object-store.yaml").read_text())
    (stateful,) = [one for one in manifest if one["kind"] == "StatefulSet"]
    container = stateful["spec"]["template"]["spec"]["containers"][0]
    folder = tmp_path_factory.mktemp("s3")
    with ExitStack() as stack:
        try:
            server = stack.enter_context(seaweedfs_server(folder / "weed", [*container["command"], *container["args"]]))
        except (OSError, RuntimeError, subprocess.SubprocessError) as reason:
            warnings.warn(f"SeaweedFS does not start here: {reason}", stacklevel=2)
            server = stack.enter_context(s3_server(folder))
        yield server


def script(name: str, *arguments: str, store: Server) -> str:
    done = subprocess.run(
        [sys.executable, BASE / "scripts" / name, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **store.environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def tracking(database: Database, store: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an MLflow server that runs the manifest's command with the manifest's environment, other places
    apart.
    """
    script("make_buckets.py", "mlflow", store=store)
    (deployment,) = [
        one for one in yaml.safe_load_all((BASE / "mlflow.yaml").read_text()) if one["kind"] == "Deployment"
    ]
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    assert container["command"] == ["mlflow", "server"]
    folder = tmp_path_factory.mktemp("mlflow")
    given = {env["name"]: env["value"] for env in container["env"] if "value" in env}
    given["MLFLOW_BACKEND_STORE_URI"] = given["MLFLOW_BACKEND_STORE_URI"].replace(
        "@postgresql:5432", f"@127.0.0.1:{database.port}"
    )
    own = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "AWS_", "PG"))}
    places = {"PGPASSWORD": PASSWORD, "HOME": str(folder), "TMPDIR": str(folder)}
    assert {"--port=5000", "--workers=2"} <= set(container["args"])
    arguments = [argument for argument in container["args"] if argument not in ("--port=5000", "--workers=2")]
    with mlflow_server(folder, [*arguments, "--workers=1"], {**own, **given, **store.environment, **places}) as server:
        yield server.uri


def test_runs_are_in_the_database_and_artifacts_in_the_bucket(
    tracking: str, database: Database, store: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import boto3
    from mlflow import MlflowClient, artifacts

    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(variable, raising=False)  # clients have no key: the server stores for them
    client = MlflowClient(tracking)
    run = client.create_run(client.create_experiment("here")).info.run_id
    client.log_metric(run, "miou", 0.5)
    (tmp_path / "note.txt").write_text("kept")
    client.log_artifact(run, str(tmp_path / "note.txt"))
    assert (
        Path(
            artifacts.download_artifacts(
                run_id=run, artifact_path="note.txt", tracking_uri=tracking, dst_path=str(tmp_path / "back")
            )
        ).read_text()
        == "kept"
    )
    assert (
        database.run("psql", "--dbname=mlflow", "--tuples-only", "--command=select value from latest_metrics").strip()
        == "0.5"
    )
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    assert [
        entry["Key"]
        for entry in boto3.client("s3").list_objects_v2(Bucket="mlflow")["Contents"]
        if entry["Key"].endswith("note.txt")
    ]


def test_composes_commands_find_the_servers_healthy(tracking: str, database: Database, store: Server) -> None:
    """The very commands of the file, with ports of this machine."""
    services = yaml.safe_load((BASE.parents[1] / "compose.yaml").read_text())["services"]
    setup = services["postgresql"]["environment"]
    assert (setup["POSTGRES_USER"], setup["POSTGRES_DB"]) == ("mlflow", "mlflow"), "as the fixture sets it up"
    _, program, *arguments = services["postgresql"]["healthcheck"]["test"]
    here = [*arguments, f"--port={database.port}"]
    assert (
        "accepting connections"
        in subprocess.run([database.programs / program, *here], check=True, capture_output=True, text=True).stdout
    )
    *_, status = services["object-store"]["healthcheck"]["test"]
    urllib.request.urlopen(status.replace("http://127.0.0.1:9000", store.endpoint), timeout=5).close()
    _, *probe = services["mlflow"]["healthcheck"]["test"]
    subprocess.run(
        [sys.executable, *(part.replace("http://127.0.0.1:5000", tracking) for part in probe[1:])], check=True
    )
    entry, buckets = services["buckets"]["entrypoint"], services["buckets"]["command"]
    assert entry == ["python", "/scripts/make_buckets.py"]
    made = script(Path(entry[1]).name, *buckets, store=store).splitlines()
    assert [line.split()[0] for line in made] == buckets == ["mlflow", "segmodels"]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("mlflow.segmodels.svc.cluster.local:5000", 200),
        ("mlflow.segmodels", 200),
        ("localhost:15000", 200),
        ("evil.example", 403),
    ],
)
def test_only_the_names_that_are_allowed_are_answered(tracking: str, host: str, status: int) -> None:
    request = urllib.request.Request(
        f"{tracking}/api/2.0/mlflow/experiments/search?max_results=1", headers={"Host": host}
    )
    try:
        got = urllib.request.urlopen(request, timeout=10).status
    except urllib.error.HTTPError as error:
        got = error.code
    assert got == status


@pytest.mark.usefixtures("tracking")
def test_backups_are_kept_and_can_be_restored(
    database: Database, store: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import boto3

    dump = tmp_path / "mlflow.dump"
    for _ in range(3):
        database.run("pg_dump", "--dbname=mlflow", "--format=custom", f"--file={dump}")
        assert script("put_backup.py", str(dump), "mlflow", "backups/postgresql", "2", store=store)
        time.sleep(1.1)  # a backup's name is its second
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    s3 = boto3.client("s3")
    stored = sorted(entry["Key"] for entry in s3.list_objects_v2(Bucket="mlflow", Prefix="backups/")["Contents"])
    assert len(stored) == 2
    s3.download_file("mlflow", stored[-1], str(tmp_path / "back.dump"))
    database.run("createdb", "restored")
    database.run("pg_restore", "--dbname=restored", "--no-owner", str(tmp_path / "back.dump"))
    counts = [
        database.run("psql", f"--dbname={name}", "--tuples-only", "--command=select count(*) from experiments")
        for name in ("mlflow", "restored")
    ]
    assert counts[0] == counts[1]


def test_an_empty_dump_leaves_the_backups_alone(store: Server, tmp_path: Path) -> None:
    (tmp_path / "mlflow.dump").touch()
    command = [
        sys.executable,
        str(BASE / "scripts" / "put_backup.py"),
        str(tmp_path / "mlflow.dump"),
        "mlflow",
        "backups/postgresql",
        "1",
    ]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **store.environment})
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")


def test_buckets_are_made_once(store: Server) -> None:
    assert script("make_buckets.py", "one", "two", store=store) == "one made\ntwo made\n"
    assert script("make_buckets.py", "one", "three", store=store) == "one is there\nthree made\n"


def test_a_wrong_key_is_said(store: Server) -> None:
    wrong = {**os.environ, **store.environment, "AWS_SECRET_ACCESS_KEY": "wrong"}
    done = subprocess.run(
        [sys.executable, str(BASE / "scripts" / "make_buckets.py"), "one"], capture_output=True, text=True, env=wrong
    )
    assert done.returncode == 1
    assert "check the key and the secret" in done.stderr
