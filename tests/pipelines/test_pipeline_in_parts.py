"""The pipeline with several ``parts``: what kfp compiles, and the same shards as with one."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp.local.orchestrator import task_executor
from kfp_here import Cluster, cluster_here
from test_caching import KubeflowCache

from components.kubeflow.packed import unpack
from components.steps import PART_STEPS
from pipelines.__main__ import main

REPOSITORY = Path(__file__).resolve().parents[2]
IMAGE = "registry.example/segmodels@sha256:" + "0" * 64


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The pipeline for a profile of ``parts: 2``, of which a run asks for three."""
    folder = tmp_path_factory.mktemp("compiled")
    (folder / "profile.yaml").write_text(
        "parts: 2\npods: {validate: {memory_limit: 7Gi}, preprocess: {memory_limit: 9Gi}}\n"
        "secrets: [{name: s3, environment: {key: SEGMODELS_S3_KEY}, steps: [validate]}]\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPOSITORY)
        output = str(folder / "p.yaml")
        command = ["compile", "--profile", str(folder / "profile.yaml"), "--image", IMAGE, "--output", output]
        assert main([*command, "--set", "parts=3"]) == 0
        assert main([*command, "--set", "parts=0"]) == 2
    pipeline, platform = yaml.load_all((folder / "p.yaml").read_text(), yaml.CSafeLoader)
    return pipeline | {"platform": platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]}


def test_parts_run_side_by_side_and_one_task_merges_them(compiled: dict[str, Any]) -> None:
    assert "parts" not in compiled["root"]["inputDefinitions"]["parameters"], "it decides the shape of the pipeline"
    groups = {name: one["dag"]["tasks"] for name, one in compiled["components"].items() if "dag" in one}
    (tasks,) = (group for group in groups.values() if "train" in group)
    loops = {name: task for name, task in tasks.items() if "parameterIterator" in task}
    inside = {next(iter(groups[task["componentRef"]["name"]])): name for name, task in loops.items()}
    assert set(inside) == {"validate-part", "preprocess-part"}
    for loop in loops.values():
        assert json.loads(loop["parameterIterator"]["items"]["raw"]) == [0, 1, 2]
    for merge, part, artifact in (("validate", "validate-part", "facts"), ("preprocess", "preprocess-part", "packed")):
        source = tasks[f"{merge}-merge"]["inputs"]["artifacts"][artifact]["taskOutputArtifact"]
        assert source["producerTask"] == inside[part]
        inputs = compiled["components"][f"comp-{merge}-merge"]["inputDefinitions"]["artifacts"]
        assert inputs[artifact]["isArtifactList"] is True
    for loop, read in (("validate-part", {"ingest"}), ("preprocess-part", {"ingest", "validate-merge"})):
        sources = loops[inside[loop]]["inputs"]["artifacts"].values()
        assert {source["taskOutputArtifact"]["producerTask"] for source in sources} == read
        assert "taskOutputParameter" not in str(loops[inside[loop]]["inputs"]), "kfp.local puts the item in its place"
    assert tasks["train"]["inputs"]["artifacts"]["shards"]["taskOutputArtifact"]["producerTask"] == "preprocess-merge"
    assert not {"validate", "preprocess"} & {name for group in groups.values() for name in group}


def test_parts_have_the_options_the_cache_and_the_pods_of_their_step(compiled: dict[str, Any]) -> None:
    tasks = {
        name: task
        for one in compiled["components"].values()
        if "dag" in one
        for name, task in one["dag"]["tasks"].items()
    }
    for step in PART_STEPS:
        container = compiled["deploymentSpec"]["executors"][f"exec-{step.name}"]["container"]
        assert container["command"] == ["python", "-m", "components", step.name]
        assert set(tasks[step.name]["inputs"]["artifacts"]) == {*step.reads, *filter(None, [step.gathers])}
        assert tasks[step.name]["cachingOptions"]["enableCache"]
        assert "code_revision" in tasks[step.name]["inputs"]["parameters"]
        assert container["resources"]["resourceMemoryLimit"] == ("7Gi" if "validate" in step.name else "9Gi")
        assert ("secretAsEnv" in compiled["platform"][f"exec-{step.name}"]) == ("validate" in step.name)


@pytest.mark.slow
def test_a_run_in_parts_makes_the_shards_of_one_and_is_cached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    cache = KubeflowCache()
    monkeypatch.setattr(task_executor.cache_module, "get_local_cache", lambda: cache)
    cluster = Cluster(tmp_path)
    cluster.unavailable = {"train"}  # the steps before it are enough here
    in_parts = [*["validate-part"] * 3, "validate-merge", *["preprocess-part"] * 3, "preprocess-merge"]

    def run(*assignments: str) -> tuple[Path, list[str]]:
        """Where the outputs are, and the steps between ``changed`` and ``train`` that ran."""
        before = set((tmp_path / "outputs").glob("*"))
        with pytest.raises(RuntimeError, match="Inner task failed"):
            cluster.run(*assignments)
        assert (cluster.ran[0], cluster.ran[-2:]) == ("changed", ["train", "notify"])
        (folder,) = set((tmp_path / "outputs").glob("*")) - before
        return folder, cluster.ran[1:-2]

    with cluster_here(cluster):
        whole, ran = run()
        assert ran == ["ingest", "validate", "preprocess"]
        merged, ran = run("parts=3")
        assert ran == in_parts, "the dataset is that of the first run"
        assert "part 2 of 3" in capfd.readouterr().out
        for folder in (whole, merged):
            (packed,) = folder.rglob("validation")
            unpack(packed, folder / "unpacked")
        for name in ("facts.parquet", "report.json"):
            assert (whole / "unpacked" / name).read_bytes() == (merged / "unpacked" / name).read_bytes()
        shards = [next(folder.rglob("shards")) for folder in (whole, merged)]
        one, several = ({path.name: path.read_bytes() for path in folder.iterdir()} for folder in shards)
        assert one == several
        assert len(one) == 4
        assert run("parts=3", "seed=1")[1] == [], "equal parts are served from the cache"
        other = 'preprocess_params={"preprocess": {"workers": 1, "longer_side": 24}}'
        assert run("parts=3", other)[1] == in_parts[4:]


@pytest.mark.slow
def test_a_finding_of_the_whole_dataset_ends_the_run_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A class without a training pixel is one in no part."""
    from small_dataset import write_small_dataset

    data = write_small_dataset(tmp_path / "set", {"train": 6, "val": 2, "test": 2}, (8, 8))
    cluster = Cluster(tmp_path)
    monkeypatch.setattr(cluster, "unavailable", {"preprocess-part"})
    with cluster_here(cluster), pytest.raises(RuntimeError, match="Inner task failed"):
        cluster.run("dataset_source=folder", f"dataset_path={data}", "parts=3")
    assert cluster.ran == ["changed", "ingest", *["validate-part"] * 3, "validate-merge", "notify"]
    assert "shorter than 16 pixels" in capfd.readouterr().err
