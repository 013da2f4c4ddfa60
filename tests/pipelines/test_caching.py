"""Kubeflow's cache: unchanged data is served from it, changed data under the same branch name never."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
from kfp.dsl import Artifact
from kfp.local.orchestrator import task_executor
from kfp_here import Cluster, cluster_here, described
from small_dataset import write_small_dataset

from components.__main__ import main


class KubeflowCache:
    """In the place of kfp.local's cache, with the key of the Kubeflow server (backend/src/v2/cacheutils/cache.go):
    image, command and parameters, of artifacts the ids alone (backend/src/v2/metadata/converter.go), no environment.

    A task that runs makes artifacts with new ids, one that is served from the cache hands on those of the task that
    ran (backend/src/v2/driver/cache.go). kfp.local gives each artifact of a task that ran an address of its own.
    """

    def __init__(self) -> None:
        self.outputs: dict[str, Any] = {}
        self.keys: list[dict[str, Any]] = []
        self.ids: dict[str, int] = {}  # by address

    def compute_key(self, *, image: str, full_command: list[str], arguments: dict[str, Any], **_: Any) -> str:
        inputs = {
            name: [self._id(one) for one in value] if isinstance(value, list) else self._id(value)
            for name, value in arguments.items()
        }
        self.keys.append({"image": image, "command": tuple(full_command), **inputs})
        return repr(sorted(self.keys[-1].items()))

    def _id(self, value: Any) -> Any:
        return self.ids.setdefault(value.uri, len(self.ids) + 1) if isinstance(value, Artifact) else value

    def get(self, key: str) -> Any:
        return self.outputs.get(key)

    def put(self, key: str, outputs: Any) -> None:
        self.outputs[key] = outputs


@pytest.fixture(autouse=True)
def _no_training(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "unavailable", {"train"})  # the steps before it are enough here


def git(repository: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    subprocess.run(["git", *identity, *arguments], cwd=repository, check=True, capture_output=True)


def commit(repository: Path, seed: int) -> None:
    """Put a dataset under DVC and commit it on branch main."""
    from dvc.repo import Repo

    write_small_dataset(repository / "data", {"train": 6, "val": 2, "test": 2}, seed=seed)
    with Repo(str(repository)) as repo:
        repo.add(str(repository / "data"))
    git(repository, "add", ".")
    git(repository, "commit", "-q", "-m", f"data {seed}")


@pytest.mark.slow
def test_changed_data_under_the_same_branch_is_not_served_from_the_cache(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dvc.repo import Repo

    cache = KubeflowCache()
    monkeypatch.setattr(task_executor.cache_module, "get_local_cache", lambda: cache)
    repository = tmp_path / "repository"
    repository.mkdir()
    git(repository, "init", "-q", "-b", "main")
    Repo.init(str(repository)).close()
    commit(repository, seed=0)

    def run(*assignments: str) -> list[dict[str, Any]]:
        cache.keys.clear()
        place = ("dataset_source=dvc", f"dataset_repo={repository}", "dataset_rev=main", "dataset_path=data")
        with pytest.raises(RuntimeError, match="Inner task failed"):
            cluster.run(*place, *assignments)
        return list(cache.keys)

    run()
    assert cluster.ran == ["changed", "ingest", "validate", "preprocess", "train", "notify"]
    run()
    assert cluster.ran == ["changed", "train", "notify"], "equal data is served from the cache"
    (repository / "README.md").write_text("of the dataset")
    git(repository, "add", ".")
    git(repository, "commit", "-q", "-m", "not the data")
    same = run()
    assert cluster.ran == ["changed", "train", "notify"], "a commit that leaves the data alone changes nothing"
    run("epochs=2")
    assert cluster.ran == ["changed", "train", "notify"], "other training parameters keep the data"
    commit(repository, seed=1)
    changed = run()
    assert cluster.ran == ["changed", "ingest", "validate", "preprocess", "train", "notify"], "changed data is not"
    differences = [
        {name for name in before if before[name] != after[name]} for before, after in zip(same, changed, strict=True)
    ]
    assert differences == [{"data_revision"}, {"dataset"}, {"dataset", "validation"}, {"shards"}], (
        "Kubeflow sees no other difference"
    )


@pytest.mark.slow
def test_what_follows_a_step_that_ran_anew_is_not_served_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = KubeflowCache()
    monkeypatch.setattr(task_executor.cache_module, "get_local_cache", lambda: cache)
    monkeypatch.setattr("components.steps.register._export", lambda *_: "none")  # it takes most of the time
    cluster = Cluster(tmp_path)  # this one trains
    everything = ["changed", "ingest", "validate", "preprocess", "train", "evaluate", "register", "notify"]
    with cluster_here(cluster):
        cluster.run()
        assert cluster.ran == everything
        assert trainings() == 1
        cluster.run("skip_unchanged=false")
        assert cluster.ran == ["changed", "train", "evaluate", "register", "notify"], "it trains all the same"
        assert trainings() == 2, "not from the checkpoint of the first one"
        outputs = cluster.run("minimum_score=0.5")
        assert cluster.ran == ["changed", "register", "notify"], "another minimum is decided on"
        assert described(outputs, "register")["registration"]["version"] == "2", "with the newest equal training"
        cluster.run("minimum_score=0.5")
        assert cluster.ran == ["changed", "notify"]
        cluster.run("seed=1")
        assert cluster.ran == ["changed", "train", "evaluate", "register", "notify"], "another model is measured"
        cluster.run("seed=1", 'evaluate_params={"evaluate": {"overlays": 2}}')
        assert cluster.ran == ["changed", "evaluate", "register", "notify"]
        main(["promote", "tiny/3", "--reason", "better at night"])
        main(["rollback", "tiny", "--reason", "blurred"])
        cluster.run("seed=1", 'evaluate_params={"evaluate": {"overlays": 2}}')
        assert cluster.ran == ["changed", "notify"]
        assert aliases() == {"champion": "2", "previous": "3"}, "a run does not undo what a person decided"
        cluster.run('preprocess_params={"preprocess": {"workers": 1, "longer_side": 24}}')
        assert cluster.ran == ["changed", *everything[3:]], "other shards are trained on"


def aliases() -> dict[str, str]:
    """Of the registered model, and their versions."""
    from components.tracking.client import mlflow_client

    return {alias: str(number) for alias, number in mlflow_client().get_registered_model("tiny").aliases.items()}


def trainings() -> int:
    """Trainings of their own in MLflow."""
    from components.tracking.client import mlflow_client

    client = mlflow_client()
    return len(client.search_runs([one.experiment_id for one in client.search_experiments()]))


def test_image_and_code_are_in_the_key_of_every_step_that_may_be_cached(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = KubeflowCache()
    monkeypatch.setattr(task_executor.cache_module, "get_local_cache", lambda: cache)
    with pytest.raises(RuntimeError, match="Inner task failed"):
        cluster.run(revision="2" * 40)
    steps = [key["command"][3] for key in cache.keys]
    assert steps == ["ingest", "validate", "preprocess", "train"]
    for key in cache.keys:
        assert key["code_revision"] == "2" * 40
        assert "@sha256:" in key["image"]


def test_data_that_changes_while_the_run_starts_is_not_taken_for_the_revision_that_was_found(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    write_small_dataset(tmp_path / "set", {"train": 6, "val": 2, "test": 2})
    original = cluster.container

    def container(*, command: list[str], **arguments: Any) -> int:
        if command[3] == "ingest":
            write_small_dataset(tmp_path / "set", {"train": 6, "val": 2, "test": 2}, seed=1)
        return original(command=command, **arguments)

    monkeypatch.setattr("kfp.local.docker_task_handler.run_docker_container", container)
    with pytest.raises(RuntimeError, match="Inner task failed"):
        cluster.run("dataset_source=folder", f"dataset_path={tmp_path / 'set'}")
    assert cluster.ran == ["changed", "ingest", "notify"]
    assert "error: the dataset changed while the run was starting" in capfd.readouterr().err
