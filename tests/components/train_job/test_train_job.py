"""The train step as a TrainJob: the object, following it, failures, and what is left behind. Pods are processes
here.
"""

import json
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from s3server import Server
from safetensors.torch import load_file
from small_pipeline import write_shards
from train_cluster import Cluster

from components.params.reading import plain
from components.params.schema import TrainParams
from components.steps.train import train
from components.storage.folders import put_folder, put_shards
from components.storage.s3 import s3_client
from components.train_job import follow, launch
from components.train_job.launch import TrainJobSettings, train_by_job
from segmodels.errors import InputError, TransientError

PARAMS = TrainParams(
    options={"widths": [4, 8]},
    epochs=2,
    batch_size=4,
    accelerator="cpu",
    precision="float32",
    augment={"crop": [20, 24]},
)
DIGEST = "registry.example/segmodels@sha256:" + "a" * 64
SETTINGS = TrainJobSettings(image=DIGEST, nodes=2, resources={"cpu": "8", "memory": "16Gi"})


@pytest.fixture
def cluster(s3_store: Server, s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    bucket = f"jobs-{tmp_path.name.replace('_', '-').lower()[-40:].strip('-')}"
    s3.create_bucket(Bucket=bucket)
    monkeypatch.setenv("SEGMODELS_CHECKPOINTS", f"s3://{bucket}/states")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setattr(launch, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(follow, "POLL_SECONDS", 0.05)
    cluster = Cluster(tmp_path / "pods", s3_store.environment)
    yield cluster
    for pods in cluster.pods.values():
        for pod in pods:
            pod.kill()


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return write_shards(tmp_path / "shards", train=8, val=2, scale=1)


def nothing() -> None:
    """No signal has come."""


def saying(line: str, code: int) -> list[str]:
    return [sys.executable, "-c", f"import sys; print({line!r}); sys.exit({code})"]


def keys() -> set[str]:
    bucket, _, prefix = os.environ["SEGMODELS_CHECKPOINTS"].removeprefix("s3://").partition("/")
    return {
        entry["Key"].removeprefix(f"{prefix}/")
        for entry in s3_client().list_objects_v2(Bucket=bucket).get("Contents", [])
    }


# --- the object


def test_the_trainjob_says_what_the_profile_says_and_no_credential(
    cluster: Cluster, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGMODELS_WEBHOOK_URL", "https://hooks.example/x")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter2")
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", "http://me:hunter2@store")
    monkeypatch.setenv("SEGMODELS_S3_SECRET_ACCESS_KEY", "hunter2")
    monkeypatch.setenv("SEGMODELS_TRAIN_JOB", "{}")
    settings = TrainJobSettings(
        image=DIGEST,
        nodes=2,
        gpus=4,
        resources={"cpu": "16", "memory": "64Gi", "nvidia.com/gpu": 4},
        node_selector={"nvidia.com/gpu.present": "true"},
        tolerations=[{"key": "nvidia.com/gpu", "operator": "Exists", "value": None, "effect": "NoSchedule"}],
        image_pull_secrets=["registry"],
    )
    cluster.pending = True
    monkeypatch.setattr(follow, "START_MINUTES", 0)
    created: list[dict] = []
    monkeypatch.setattr(
        cluster, "delete_namespaced_custom_object", lambda *_, name: created.append(cluster.jobs.pop(name))
    )
    with pytest.raises(TransientError, match="have found no place in the cluster for 0 minutes: 0/3 nodes: no GPU"):
        train_by_job(settings, PARAMS, shards, tmp_path / "model", cluster.trainer_client(), anew="run-1")
    (job,) = created
    trainer = job["spec"]["trainer"]
    assert job["spec"]["runtimeRef"] == {"name": "torch-distributed", "kind": "TrainingRuntime"}
    assert (trainer["image"], trainer["numNodes"]) == (DIGEST, 2)
    assert trainer["resourcesPerNode"]["limits"] == {"cpu": "16", "memory": "64Gi", "nvidia.com/gpu": 4}
    assert trainer["args"][-4:] == ["--processes", "4", "--anew", "run-1"]
    (patch,) = job["spec"]["runtimePatches"]
    (node,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    assert node["template"]["spec"]["template"]["spec"] == {
        "nodeSelector": {"nvidia.com/gpu.present": "true"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "imagePullSecrets": [{"name": "registry"}],
    }
    names = {env["name"] for env in trainer["env"]}
    assert {"MLFLOW_TRACKING_URI", "SEGMODELS_CHECKPOINTS", "AWS_ENDPOINT_URL"} <= names
    assert not names & {
        "AWS_SECRET_ACCESS_KEY",
        "AWS_ACCESS_KEY_ID",
        "SEGMODELS_S3_SECRET_ACCESS_KEY",
        "MLFLOW_TRACKING_PASSWORD",
        "MLFLOW_S3_ENDPOINT_URL",
        "SEGMODELS_WEBHOOK_URL",
        "SEGMODELS_TRAIN_JOB",
    }


@pytest.mark.usefixtures("cluster", "capsys")
def test_shards_are_uploaded_once_under_the_digest_of_their_bytes(shards: Path) -> None:
    url = put_shards(shards)
    first = keys()
    assert {name.split("/", 2)[2] for name in first} == {
        path.relative_to(shards).as_posix() for path in shards.rglob("*") if path.is_file()
    }
    assert put_shards(shards) == url
    (shards / "more").write_text("x")
    assert put_shards(shards) != url
    assert first < keys()


# --- following


@pytest.mark.acceptance
@pytest.mark.timeout(300)
def test_two_pods_train_one_model_with_the_same_code(
    cluster: Cluster, shards: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Twice: the second finds the shards and the finished state in the store."""
    for attempt in range(2):
        train_by_job(SETTINGS, PARAMS, shards, tmp_path / f"model-{attempt}", cluster.trainer_client())
        said = capfd.readouterr().out
        assert "2 pods, 2 processes" in said
        assert ("epoch" in said) or attempt
        assert not cluster.jobs, "removed"
        assert not [name for name in keys() if name.startswith("models/")]
    weights = [load_file(tmp_path / f"model-{attempt}" / "weights.safetensors") for attempt in range(2)]
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])
    assert json.loads((tmp_path / "model-0" / "run.json").read_text())["run_id"]


def test_the_step_hands_on_what_the_first_pod_stored(
    cluster: Cluster, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step itself, as it is called on a cluster."""
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "model.json").write_text("{}")
    monkeypatch.setenv("SEGMODELS_TRAIN_JOB", SETTINGS.model_dump_json())
    monkeypatch.setattr(launch, "connect", cluster.trainer_client)
    put_folder(tmp_path / "made", f"{os.environ['SEGMODELS_CHECKPOINTS']}/models/{name_of(shards)}")
    cluster.instead = saying("done", 0)
    cluster.away_once_started = 3
    train(PARAMS, shards, tmp_path / "model", tmp_path / "checkpoints")
    assert (tmp_path / "model" / "model.json").read_text() == "{}"
    assert cluster.deleted == [name_of(shards)]


def name_of(shards: Path) -> str:
    from components.tracking.lineage import checkpoint_key, lineage
    from segmodels.data.shards import ShardReader

    reader = ShardReader(shards, "train")
    facts = lineage(data_digest=reader.digest, params=plain(PARAMS), longer_side=reader.longer_side)
    return launch.job_name(checkpoint_key(facts), os.environ.get("SEGMODELS_PIPELINE_RUN", ""))


@pytest.mark.parametrize(
    ("line", "code", "kind", "said"),
    [
        (
            "error: model 'unett' is unknown, did you mean 'unet'?",
            2,
            InputError,
            "failed: model 'unett' is unknown, did you mean 'unet'?",
        ),
        (
            "error: MLflow does not answer (this may pass: try again)",
            75,
            TransientError,
            "failed: MLflow does not answer",
        ),
        ("Killed", 137, InputError, "without an error message of its own"),
    ],
)
def test_a_training_that_fails_is_told_in_its_own_words_and_removed(
    cluster: Cluster,
    shards: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    line: str,
    code: int,
    kind: type[Exception],
    said: str,
) -> None:
    cluster.instead = saying(line, code)
    with pytest.raises(kind, match=r"TrainJob train-\w+ ") as caught:
        train_by_job(SETTINGS, PARAMS, shards, tmp_path / "model", cluster.trainer_client())
    assert said in str(caught.value)
    assert line in capsys.readouterr().out.splitlines(), "the pod's log is in the step's"
    assert cluster.deleted
    assert not cluster.jobs
    assert not (tmp_path / "model").exists()


def test_sigterm_removes_the_trainjob_and_ends_with_143(
    cluster: Cluster,
    shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It comes at the worst place: the Kubernetes client sets log levels with every object, and until Python 3.13 an
    exception there leaves logging's lock held.
    """
    cluster.instead = [sys.executable, "-c", "import time; time.sleep(60)"]
    before, list_pods = signal.getsignal(signal.SIGTERM), cluster.list_namespaced_pod

    def within_logging(*args: Any, **options: Any) -> Any:
        monkeypatch.setattr(cluster, "list_namespaced_pod", list_pods)  # once: threads come here, too
        logging._acquireLock()
        os.kill(os.getpid(), signal.SIGTERM)
        logging._releaseLock()
        return list_pods(*args, **options)

    monkeypatch.setattr(cluster, "list_namespaced_pod", within_logging)
    with pytest.raises(SystemExit) as caught:
        train_by_job(SETTINGS, PARAMS, shards, tmp_path / "model", cluster.trainer_client())
    other = Thread(target=logging.getLogger("fresh").isEnabledFor, args=[logging.DEBUG], daemon=True)
    other.start()
    other.join(5)
    held = other.is_alive()
    while held and logging._lock._is_owned():  # or later tests would hang
        logging._releaseLock()
    assert not held, "logging's lock is free"
    assert caught.value.code == 143
    assert not cluster.jobs
    assert "is removed, the next run resumes from its last checkpoint" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGTERM) == before


def test_sigterm_removes_the_trainjob_within_the_second_that_a_deleted_pod_has(
    cluster: Cluster, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody reads the output any more: Kubeflow's launcher was killed by the same signal."""
    cluster.instead = [sys.executable, "-c", "import time; time.sleep(60)"]
    monkeypatch.setattr(follow, "POLL_SECONDS", 60)
    reader, writer = os.pipe()
    os.close(reader)
    times: dict[str, float] = {}

    def delete_pod() -> None:
        while not cluster.jobs:
            time.sleep(0.05)
        monkeypatch.setattr(sys, "stdout", os.fdopen(writer, "w"))
        times["signal"] = time.monotonic()
        os.kill(os.getpid(), signal.SIGTERM)

    remove = cluster.delete_namespaced_custom_object

    def delete(*given: Any, **named: Any) -> None:
        times["removed"] = time.monotonic()
        remove(*given, **named)

    monkeypatch.setattr(cluster, "delete_namespaced_custom_object", delete)
    Thread(target=delete_pod, daemon=True).start()
    with pytest.raises((SystemExit, BrokenPipeError)):
        train_by_job(SETTINGS, PARAMS, shards, tmp_path / "model", cluster.trainer_client())
    assert not cluster.jobs
    assert times["removed"] - times["signal"] < 20, "it did not wait for the next look at the TrainJob"


def test_a_trainjob_belongs_to_the_workflow_of_its_step(
    cluster: Cluster, shards: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.instead = [sys.executable, "-c", "import time; time.sleep(60)"]
    start = [cluster.trainer_client(), name_of(shards), SETTINGS, [], nothing]
    launch._start(*start)
    assert "ownerReferences" not in cluster.jobs[name_of(shards)]["metadata"], "not in a Workflow"
    monkeypatch.setenv("KFP_POD_NAME", "training-x7-system-container-impl-1")
    for refusal in (0, 403):
        cluster.refusal_of_owners = refusal
        cluster.delete_namespaced_custom_object(name=name_of(shards))
        launch._start(*start)
        owners = cluster.jobs[name_of(shards)]["metadata"].get("ownerReferences", [])
        assert [owner["uid"] for owner in owners] == ([] if refusal else ["4f"])
        assert ("is not owned by a Workflow (Forbidden)" in capsys.readouterr().out) == bool(refusal)


def test_sigterm_during_the_upload_ends_with_143_too(
    cluster: Cluster, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "put_shards", lambda *given: os.kill(os.getpid(), signal.SIGTERM) or put_shards(*given))
    with pytest.raises(SystemExit) as caught:
        train_by_job(SETTINGS, PARAMS, shards, tmp_path / "model", cluster.trainer_client())
    assert caught.value.code == 143
    assert not cluster.pods, "nothing was started"


def test_a_job_that_an_earlier_attempt_left_is_taken_up_or_replaced(
    cluster: Cluster, shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client = cluster.trainer_client()
    cluster.instead = saying("first", 3)
    launch._start(client, name_of(shards), SETTINGS, [], nothing)
    cluster.pods[name_of(shards)][0].wait()
    cluster.instead = [sys.executable, "-c", "import time; time.sleep(60)"]
    launch._start(client, name_of(shards), SETTINGS, [], nothing)
    assert cluster.deleted == [name_of(shards)], "a failed one is replaced"
    capsys.readouterr()
    launch._start(client, name_of(shards), SETTINGS, [], nothing)
    assert "is running: following it" in capsys.readouterr().out
    assert len(cluster.deleted) == 1


@pytest.mark.parametrize(
    ("refusal", "kind", "said"),
    [
        (403, InputError, "the step may not use TrainJobs (no): apply infra/kustomize/runs"),
        (404, InputError, "install Kubeflow Trainer"),
        (422, InputError, "Kubernetes refuses TrainJob"),
        (500, TransientError, "Kubernetes did not accept TrainJob"),
    ],
)
def test_a_refusal_of_kubernetes_is_one_sentence(
    cluster: Cluster,
    shards: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    refusal: int,
    kind: type[Exception],
    said: str,
) -> None:
    cluster.refusal = refusal
    with pytest.raises(kind) as caught:
        train_by_job(SETTINGS, PARAMS, shards, tmp_path / "model", cluster.trainer_client())
    assert said in str(caught.value)
    assert "could not be removed" not in capsys.readouterr().out


def test_kubernetes_that_stays_away_is_said(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster.away = 10**6
    monkeypatch.setattr(follow, "AWAY_MINUTES", 0)
    with pytest.raises(TransientError, match=r"Kubernetes has not answered about TrainJob \S+ for 0 minutes \(\(503\)"):
        follow.follow(cluster.trainer_client(), "train-x", 2, nothing)


def test_a_job_that_somebody_removed_is_said(cluster: Cluster) -> None:
    with pytest.raises(InputError, match="TrainJob train-x is gone"):
        follow.follow(cluster.trainer_client(), "train-x", 2, nothing)


def test_without_a_store_or_with_broken_settings_nothing_starts(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SEGMODELS_CHECKPOINTS", raising=False)
    monkeypatch.setenv("SEGMODELS_TRAIN_JOB", SETTINGS.model_dump_json())
    with pytest.raises(InputError, match="set checkpoints in the profile to s3://bucket/prefix"):
        train(PARAMS, shards, tmp_path / "model", tmp_path / "checkpoints")
    for broken in ("{", '{"image": "x", "node": 2}'):
        monkeypatch.setenv("SEGMODELS_TRAIN_JOB", broken)
        with pytest.raises(InputError, match="compile the pipeline again"):
            train(PARAMS, shards, tmp_path / "model", tmp_path / "checkpoints")


def test_without_a_cluster_the_step_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none"))
    with pytest.raises(InputError, match="a TrainJob needs a Kubernetes cluster"):
        launch.connect()
