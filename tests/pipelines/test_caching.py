"""Kubeflow's cache: what it takes for the same, and that changed data under the same branch name is never served from
it.
"""

import subprocess
from pathlib import Path
from typing import Any

import pytest
from kfp.dsl import Artifact
from kfp.local.orchestrator import task_executor
from kfp_here import Cluster, cluster_here
from small_dataset import write_small_dataset


class KubeflowCache:
    """In the place of kfp.local's cache, with the key of the Kubeflow server (backend/src/v2/cacheutils/cache.go):
    image, command and parameters, of artifacts the names alone, and no environment."""

    def __init__(self) -> None:
        self.outputs: dict[str, Any] = {}
        self.keys: list[dict[str, Any]] = []

    def compute_key(self, *, image: str, full_command: list[str], arguments: dict[str, Any], **_: Any) -> str:
        inputs = {name: value.name if isinstance(value, Artifact) else value for name, value in arguments.items()}
        self.keys.append({"image": image, "command": tuple(full_command), **inputs})
        return repr(sorted(self.keys[-1].items()))

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

    def run() -> list[dict[str, Any]]:
        cache.keys.clear()
        with pytest.raises(RuntimeError, match="Inner task failed"):
            cluster.run("dataset_source=dvc", f"dataset_repo={repository}", "dataset_rev=main", "dataset_path=data")
        return list(cache.keys)

    run()
    assert cluster.ran == ["ingest", "changed", "validate", "preprocess", "train", "notify"]
    same = run()
    assert cluster.ran == ["ingest", "changed", "train", "notify"], "equal data is served from the cache"
    commit(repository, seed=1)
    changed = run()
    assert cluster.ran == ["ingest", "changed", "validate", "preprocess", "train", "notify"], "changed data is not"
    for before, after in zip(same, changed, strict=True):
        different = {name for name in before if before[name] != after[name]}
        assert different in ({"data_digest"}, {"data_digest", "shards_digest"}), "Kubeflow sees no other difference"


def test_what_follows_a_step_that_ran_anew_is_not_served_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = KubeflowCache()
    monkeypatch.setattr(task_executor.cache_module, "get_local_cache", lambda: cache)
    cluster = Cluster(tmp_path)  # this one trains
    with cluster_here(cluster):
        cluster.run()
        assert cluster.ran == ["ingest", "changed", "validate", "preprocess", "train", "evaluate", "register", "notify"]
        cluster.run("skip_unchanged=false")
        assert cluster.ran == ["ingest", "changed", "notify"], "nothing is new"
        cluster.run("seed=1")
        assert cluster.ran == [
            "ingest",
            "changed",
            "train",
            "evaluate",
            "register",
            "notify",
        ], "another model is measured and registered"
        cluster.run('evaluate_params={"evaluate": {"overlays": 2}}', "skip_unchanged=false")
        assert cluster.ran == ["ingest", "changed", "evaluate", "register", "notify"]
        cluster.run('preprocess_params={"preprocess": {"workers": 1, "longer_side": 24}}')
        assert cluster.ran == [
            "ingest",
            "changed",
            "preprocess",
            "train",
            "evaluate",
            "register",
            "notify",
        ], "other shards are trained on"


def test_image_and_code_are_in_the_key_of_every_step_that_may_be_cached(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = KubeflowCache()
    monkeypatch.setattr(task_executor.cache_module, "get_local_cache", lambda: cache)
    with pytest.raises(RuntimeError, match="Inner task failed"):
        cluster.run(revision="2" * 40)
    steps = [key["command"][3] for key in cache.keys]
    assert steps == ["validate", "preprocess", "train"]
    for key in cache.keys:
        assert key["code_revision"] == "2" * 40
        assert "@sha256:" in key["image"]
        assert key["data_digest"].endswith(".dir")
