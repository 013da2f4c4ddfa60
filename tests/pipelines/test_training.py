"""The compiled pipeline: the same steps as dvc.yaml, golden files, no credentials, nothing that is lost between
groups.
"""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from compiled_pipelines import IMAGE, REPOSITORY, parts, variables

from components.steps import CLUSTER_STEPS, DVC_STEPS, MONITORING_STEPS, STEPS
from pipelines.__main__ import main

GOLDEN = Path(__file__).parent / "golden"
PROFILES = ("local", "cpu", "gpu")
COMPILED = {profile: ("--profile", profile) for profile in PROFILES}
COMPILED["monitoring"] = ("--pipeline", "monitoring", "--profile", "cpu")
OURS = {"--params-json", "--set", "--retry", "--executor-input", "--copy-files", "--revision", "--anew"}
"""Options that only the cluster needs: parameters, a description of the outputs, data beside its manifest, its
revision, the name of a training.
"""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Profile, or ``monitoring`` -> YAML, as `make golden` writes it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPOSITORY)
        patch.setenv("SEGMODELS_CODE_REVISION", "golden")
        folder = tmp_path_factory.mktemp("compiled")
        for name, options in COMPILED.items():
            assert (
                main(
                    [
                        "compile",
                        *options,
                        "--params",
                        str(GOLDEN / "params.yaml"),
                        "--image",
                        IMAGE,
                        "--output",
                        str(folder / f"{name}.yaml"),
                    ]
                )
                == 0
            )
        return {name: (folder / f"{name}.yaml").read_text() for name in COMPILED}


def dvc_stages() -> dict[str, Any]:
    """The six steps in dvc.yaml. Its further stage makes DVC ingest again; on a cluster ``changed`` does."""
    stages = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]
    assert list(stages) == [*(step.name for step in DVC_STEPS), *(step.name for step in STEPS)]
    return {step.name: stages[step.name] for step in STEPS}


def options(command: list[str]) -> dict[str, str]:
    """Option -> value, of what stands behind the step's name."""
    return {name: value for name, value in zip(command[::2], command[1::2], strict=True) if name not in OURS}


def dags(pipeline: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Name of a group -> its tasks; the root's is empty."""
    inner = {
        name: component["dag"]["tasks"] for name, component in pipeline["components"].items() if "dag" in component
    }
    return {"": pipeline["root"]["dag"]["tasks"], **inner}


def tasks(pipeline: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: task for group in dags(pipeline).values() for name, task in group.items()}


@pytest.mark.parametrize("profile", COMPILED)
def test_the_pipeline_is_as_the_golden_file(compiled: dict[str, str], profile: str) -> None:
    assert compiled[profile] == (GOLDEN / f"{profile}.yaml").read_text(), "meant? `make golden` writes it anew"


def test_both_conductors_run_the_same_commands(compiled: dict[str, str]) -> None:
    stages = dvc_stages()
    executors = parts(compiled["cpu"])[0]["deploymentSpec"]["executors"]
    for name, stage in stages.items():
        container = executors[f"exec-{name}"]["container"]
        command = shlex.split(stage["cmd"])
        assert container["command"] == command[:4]
        assert sorted(options(container["args"])) == sorted(options(command[4:])), name


def test_both_conductors_hand_on_the_same_outputs(compiled: dict[str, str]) -> None:
    """What a stage of dvc.yaml reads and writes under data/ is what the task gets from tasks before it and gives to
    those after.
    """
    stages = dvc_stages()
    pipeline, _ = parts(compiled["cpu"])
    writer = {out: name for name, stage in stages.items() for out in stage["outs"]}
    for name, stage in stages.items():
        command = options(shlex.split(stage["cmd"])[4:])
        arguments = options(pipeline["deploymentSpec"]["executors"][f"exec-{name}"]["container"]["args"])
        for option, path in command.items():
            if path in stage["outs"]:
                assert re.fullmatch(r"\{\{\$\.outputs\.artifacts\['(\w+)'\]\.path\}\}", arguments[option]), (
                    name,
                    option,
                )
            elif path in writer:
                (artifact,) = re.fullmatch(
                    r"\{\{\$\.inputs\.artifacts\['(\w+)'\]\.path\}\}", arguments[option]
                ).groups()
                assert producer(pipeline, name, artifact) == writer[path], (name, option)
            else:  # kept between runs, in no output
                assert arguments[option] == path
        read = {writer[dep] for dep in stage["deps"] if dep in writer} | {
            writer[dep.rpartition("/")[0]] for dep in stage["deps"] if dep.rpartition("/")[0] in writer
        }
        artifacts = tasks(pipeline)[name]["inputs"].get("artifacts", {})
        assert {producer(pipeline, name, artifact) for artifact in artifacts} == read, name


def producer(pipeline: dict[str, Any], task: str, artifact: str) -> str:
    """The task that makes an input artifact, through the groups around it."""
    source = tasks(pipeline)[task]["inputs"]["artifacts"][artifact]
    if "taskOutputArtifact" in source:
        return source["taskOutputArtifact"]["producerTask"]
    group = next(name for name, group in dags(pipeline).items() if task in group)
    outer = next(name for name, one in tasks(pipeline).items() if one["componentRef"]["name"] == group)
    return producer(pipeline, outer, source["componentInputArtifact"])


def test_both_conductors_wire_the_steps_as_the_table_says(compiled: dict[str, str]) -> None:
    pipeline, _ = parts(compiled["cpu"])
    stages, wired = dvc_stages(), tasks(pipeline)
    for step in STEPS:
        named = {option[2:] for option in options(shlex.split(stages[step.name]["cmd"])[4:])}
        assert named == {*step.reads, step.writes, *step.keeps}, step.name
        assert set(wired[step.name]["inputs"].get("artifacts", {})) == set(step.reads), step.name
    for step in (*STEPS, *CLUSTER_STEPS):
        assert wired[step.name].get("cachingOptions", {}).get("enableCache", False) == step.cached, step.name


def test_every_parameter_reaches_the_group_that_uses_it(compiled: dict[str, str]) -> None:
    """kfp does not hand a parameter into a group when only a task's resources use it; such a pipeline fails when it
    runs.
    """
    for text in compiled.values():
        pipeline, _ = parts(text)
        for name, group in dags(pipeline).items():
            definitions = (
                pipeline["components"][name]["inputDefinitions"] if name else pipeline["root"]["inputDefinitions"]
            )
            for task in group.values():
                for kind in ("parameters", "artifacts"):
                    used = {
                        source.get(f"componentInput{kind.title()[:-1]}")
                        for source in task["inputs"].get(kind, {}).values()
                    } - {None}
                    assert used <= set(definitions.get(kind, {})), name


def test_what_looks_at_the_world_outside_is_never_cached(compiled: dict[str, str]) -> None:
    steps = tasks(parts(compiled["cpu"])[0])
    cached = {name for name, task in steps.items() if task.get("cachingOptions", {}).get("enableCache")}
    assert cached == {"ingest", "validate", "preprocess", "train", "evaluate"}
    assert all("code_revision" in steps[name]["inputs"]["parameters"] for name in cached)
    revision = steps["ingest"]["inputs"]["parameters"]["data_revision"]
    assert revision == {"componentInputParameter": "pipelinechannel--changed-revision"}, (
        "the cache looks at parameters and ids, not at the dataset's source"
    )
    assert not steps["changed"]["inputs"].get("artifacts"), "it downloads no dataset"


def test_training_asks_for_gpus_shared_memory_and_room_where_the_profile_says(compiled: dict[str, str]) -> None:
    pipeline, platform = parts(compiled["gpu"])
    accelerator = pipeline["deploymentSpec"]["executors"]["exec-train"]["container"]["resources"]["accelerator"]
    assert (accelerator["resourceType"], accelerator["resourceCount"]) == ("nvidia.com/gpu", "1")
    assert not [name for name in pipeline["root"]["inputDefinitions"]["parameters"] if "gpu" in name], (
        "a form of Kubeflow's UI whose field is left empty would give a pod without GPU"
    )
    train = platform["exec-train"]
    assert {mount["mountPath"]: mount.get("medium") for mount in train["emptyDirMounts"]} == {
        "/dev/shm": "Memory",
        "/work/data": None,
    }
    assert train["nodeSelector"]["labels"] == {"nvidia.com/gpu.present": "true"}
    assert train["tolerations"] == [{"effect": "NoSchedule", "key": "nvidia.com/gpu", "operator": "Exists"}]
    assert "nodeSelector" not in platform["exec-validate"]
    assert (
        "accelerator"
        not in parts(compiled["cpu"])[0]["deploymentSpec"]["executors"]["exec-train"]["container"]["resources"]
    )


def test_no_pod_is_root_and_only_the_notification_gets_the_webhook(compiled: dict[str, str]) -> None:
    for profile in ("cpu", "gpu"):
        _, platform = parts(compiled[profile])
        for name, settings in platform.items():
            assert settings["securityContext"] == {"runAsGroup": "0", "runAsNonRoot": True, "runAsUser": "1000"}
            variables = {pair["envVar"] for secret in settings["secretAsEnv"] for pair in secret["keyToEnv"]}
            assert ("SEGMODELS_WEBHOOK_URL" in variables) == (name == "exec-notify")


def test_no_variable_reaches_the_clients_of_kubeflows_launcher(compiled: dict[str, str]) -> None:
    """It runs in the step's container, and keeps artifacts in a store of its own."""
    for profile in ("cpu", "gpu"):
        pipeline, platform = parts(compiled[profile])
        names = [set(variables(pipeline, step.name)) for step in (*STEPS, *CLUSTER_STEPS)]
        for settings in platform.values():
            names.append({pair["envVar"] for secret in settings["secretAsEnv"] for pair in secret["keyToEnv"]})
        assert not [name for group in names for name in group if name.startswith(("AWS_", "GOOGLE_", "AZURE_"))]


def test_the_monitoring_trains_only_what_has_drifted(compiled: dict[str, str]) -> None:
    """The same tasks as the training's, in a group that reads the output parameter of ``drift``."""
    monitoring, training = (parts(compiled[name])[0] for name in ("monitoring", "cpu"))
    assert tasks(monitoring).keys() >= tasks(training).keys() | {step.name for step in MONITORING_STEPS}
    group = next(name for name, group in dags(monitoring).items() if "changed" in group)
    trigger = tasks(monitoring)[group.removeprefix("comp-")]["triggerPolicy"]["condition"]
    assert trigger == "inputs.parameter_values['pipelinechannel--drift-drifted'] == 'true'"
    assert not tasks(monitoring)["drift"].get("cachingOptions", {}).get("enableCache")
    command = monitoring["deploymentSpec"]["executors"]["exec-drift"]["container"]["args"]
    assert command[command.index("--model") + 1].endswith("@champion")
    own = {"served_log", "drift_psi", "drift_hours"}
    definitions = (one["root"]["inputDefinitions"]["parameters"].keys() for one in (monitoring, training))
    assert next(definitions) == next(definitions) | own


def test_a_lost_pod_is_replaced_after_any_length_of_training(compiled: dict[str, str]) -> None:
    for name, task in tasks(parts(compiled["cpu"])[0]).items():
        if name not in ("notify", "exit-handler-1", "condition-2"):
            assert task["retryPolicy"] == {
                "backoffDuration": "30s",
                "backoffFactor": 2.0,
                "backoffMaxDuration": "2592000s",
                "maxRetryCount": 2,
            }


CREDENTIALS = (
    r"AKIA[0-9A-Z]{16}",  # AWS access keys
    r"(?i)(password|passwd|secret_?key|token|api_?key)\s*[:=]\s*['\"]?[^\s'\"{}$]{6,}",
    r"://[^/\s:@]+:[^/\s@]+@",  # user:password@host
    r"-----BEGIN",
    r"hooks\.slack\.com/services",
    r"ey[JK][A-Za-z0-9_-]{20,}\.",  # JSON web tokens
)


@pytest.mark.parametrize("profile", COMPILED)
def test_nothing_in_it_looks_like_a_credential(compiled: dict[str, str], profile: str) -> None:
    text = re.sub(r"(?m)^ *secretKey: \w+$", "", compiled[profile])  # the name of a key in a secret
    for pattern in CREDENTIALS:
        assert not re.search(pattern, text), pattern


def test_a_repository_address_with_a_password_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(REPOSITORY)
    output = tmp_path / "pipeline.yaml"
    for address in (
        "https://jane:hunter2@git.example/data.git",
        "https://hunter2@git.example/data.git",
        "https://git.example/data.git?private_token=hunter2",
    ):
        assert main(["compile", "--image", IMAGE, "--set", f"dataset_repo={address}", "--output", str(output)]) == 2
        said = capsys.readouterr().err
        assert "dataset_repo holds a password" in said
        assert "hunter2" not in said
    assert not output.exists()


def test_the_search_for_credentials_finds_them() -> None:
    planted = (
        "AKIA" + "A" * 16,
        "AWS_SECRET_KEY: hunter2secret",
        "https://jane:pw123@host/x",
        "-----BEGIN KEY",
        "https://hooks.slack.com/services/T0",
    )
    for text in planted:
        assert any(re.search(pattern, text) for pattern in CREDENTIALS), text


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert (
        main(
            [
                "compile",
                "--image",
                IMAGE,
                "--params",
                str(GOLDEN / "params.yaml"),
                "--output",
                str(tmp_path / "file" / "pipeline.yaml"),
            ]
        )
        == 2
    )
    assert "cannot be written" in capsys.readouterr().err
