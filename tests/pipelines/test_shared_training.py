"""A training that several GPUs or machines share, as the pipeline is compiled for it."""

import json
from pathlib import Path
from typing import Any

import pytest
from compiled_pipelines import IMAGE, REPOSITORY, parts, variables

from pipelines.__main__ import main

SHARED = """
checkpoints: s3://segmodels/checkpoints
nodes: 2
gpu: {type: nvidia.com/gpu, count: 4}
image_pull_secrets: [registry]
pods: {train: {cpu_limit: "16", memory_limit: 64Gi, node_selector: {pool: gpu}, tolerations: [{key: nvidia.com/gpu}]}}
"""


def compile_with(profile: Path, *arguments: str) -> tuple[dict[str, Any], dict[str, Any]]:
    output = profile.with_name("pipeline.yaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPOSITORY)
        assert main(["compile", "--profile", str(profile), "--image", IMAGE, "--output", str(output), *arguments]) == 0
    return parts(output.read_text())


def test_a_shared_training_is_a_trainjob_and_its_step_asks_for_no_gpu(tmp_path: Path) -> None:
    (tmp_path / "shared.yaml").write_text(SHARED)
    pipeline, platform = compile_with(tmp_path / "shared.yaml")
    assert json.loads(variables(pipeline, "train")["SEGMODELS_TRAIN_JOB"]) == {
        "image": IMAGE,
        "nodes": 2,
        "gpus": 4,
        "resources": {"cpu": "16", "memory": "64Gi", "nvidia.com/gpu": 4},
        "node_selector": {"pool": "gpu"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "value": None, "effect": None}],
        "image_pull_secrets": ["registry"],
    }
    assert "accelerator" not in pipeline["deploymentSpec"]["executors"]["exec-train"]["container"].get("resources", {})
    assert "nodeSelector" not in platform["exec-train"]
    assert (
        pipeline["deploymentSpec"]["executors"]["exec-evaluate"]["container"]["resources"]["accelerator"][
            "resourceCount"
        ]
        == "1"
    )
    assert not [
        step for step in ("ingest", "evaluate", "register") if "SEGMODELS_TRAIN_JOB" in variables(pipeline, step)
    ]


def test_the_number_of_gpus_that_a_run_asks_for_decides(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text("checkpoints: s3://segmodels/checkpoints\ngpu: {count: 1}\n")
    assert "SEGMODELS_TRAIN_JOB" not in variables(compile_with(tmp_path / "one.yaml")[0], "train")
    settings = variables(compile_with(tmp_path / "one.yaml", "--set", "gpu_count=2")[0], "train")["SEGMODELS_TRAIN_JOB"]
    assert json.loads(settings)["gpus"] == 2


def test_a_number_of_gpus_that_is_none_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "one.yaml").write_text("gpu: {count: 1}\n")
    given = ["compile", "--profile", str(tmp_path / "one.yaml"), "--image", IMAGE, "--set"]
    for value, expected in (("two", "expected a whole number"), ("-1", "greater than or equal to 0")):
        assert main([*given, f"gpu_count={value}"]) == 2
        assert expected in capsys.readouterr().err


def test_gpus_of_a_profile_that_has_none_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    (tmp_path / "none.yaml").write_text("retries: {count: 1}\n")
    given = ["--profile", str(tmp_path / "none.yaml"), "--image", IMAGE, "--set"]
    for value in ("gpu_count=2", "gpu_type=nvidia.com/gpu"):
        assert main(["compile", *given, value]) == 2
        assert "expected neither, as the profile has no GPUs" in capsys.readouterr().err
    output = ["--output", str(tmp_path / "pipeline.yaml")]
    assert main(["compile", *given, "gpu_count=0", *output]) == 0


def test_a_run_on_this_machine_takes_one_gpu_at_most(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    (tmp_path / "two.yaml").write_text("checkpoints: s3://segmodels/checkpoints\ngpu: {count: 2}\n")
    assert main(["run", "--profile", str(tmp_path / "two.yaml"), "--image", IMAGE]) == 2
    assert "expected at most one GPU for a run on this machine" in capsys.readouterr().err
    runs: list[Any] = []
    monkeypatch.setattr("pipelines.local.run_locally", lambda *given: runs.append(given[2]) or tmp_path)
    assert main(["run", "--image", IMAGE, "--set", "gpu_count=1"]) == 0
    assert runs[0].gpu.count == 1


def test_a_type_of_gpus_that_is_none_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "one.yaml").write_text("gpu: {count: 1}\n")
    for value in ("", "nvidia", "nvidia gpu"):
        assert (
            main(["compile", "--profile", str(tmp_path / "one.yaml"), "--image", IMAGE, f"--set=gpu_type={value}"]) == 2
        )
        assert f"gpu.type is '{value}', expected a resource of the nodes" in capsys.readouterr().err


def test_a_shared_training_without_an_object_store_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for content, more in (("nodes: 2", []), ("gpu: {count: 1}", ["--set", "gpu_count=2"])):
        (tmp_path / "none.yaml").write_text(content)
        assert (
            main(
                [
                    "compile",
                    "--profile",
                    str(tmp_path / "none.yaml"),
                    "--image",
                    IMAGE,
                    "--output",
                    str(tmp_path / "p.yaml"),
                    *more,
                ]
            )
            == 2
        )
        assert "checkpoints is missing" in capsys.readouterr().err
