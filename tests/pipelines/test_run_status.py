"""``status`` against a double of Kubeflow's API server: the state of every step, and why one failed."""

import base64
import gzip
import json
from collections.abc import Callable
from typing import Any

import pytest
from argo_workflow import CACHED, RUNNING, SUCCEEDED, pod_name, workflow
from kfp_server import Server

Said = Callable[..., tuple[int, str]]

NAME = "segmentation-training-x7k2p"
FAILED = "main: Error (exit code 1)"
"""Argo's words for every failed step: Kubeflow's launcher ends with 1 whatever the step ends with."""

LOG = """I1126 03:00:00.000000      31 launcher_v2.go:194] publish success.
dataset: 20 images
error: the dataset cannot be read (the store does not answer) (this may pass: try again)
error: the dataset has 1 unreadable image: a.png: replace the file
F1126 03:00:01.000000      31 main.go:57] failed to execute component: exit status 2
"""


@pytest.fixture
def run(server: Server) -> dict[str, Any]:
    experiment = server.add(server.experiments, "V2beta1Experiment", "experiment_id", display_name="segmentation")
    facts = {"experiment_id": experiment["experiment_id"], "display_name": "segnet", "state": "FAILED"}
    return server.add(server.runs, "V2beta1Run", "run_id", **facts)


def steps(said: Said, run: dict[str, Any]) -> list[str]:
    code, text = said("status", run["run_id"])
    assert code == 0
    first, *others = text.splitlines()
    assert first.startswith(f"segnet: {run['state']}  http://")
    assert first.endswith(f"/#/runs/details/{run['run_id']}")
    return [" ".join(line.split()) for line in others]


def failed_pod(nodes: dict[str, Any]) -> dict[str, Any]:
    return [node for node in nodes.values() if node["phase"] == "Failed" and node["type"] == "Pod"][-1]


SENTENCE = "the dataset has 1 unreadable image: a.png: replace the file"
LAUNCHER = "E1126 03:00:00.000000 31 launcher_v2.go:1] x\nF1126 03:00:01.000000 31 main.go:57] failed: no such bucket\n"


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("message", SENTENCE),
        ("pod", SENTENCE),
        ("archive", SENTENCE),
        ("launcher", "failed: no such bucket"),
        ("none", FAILED),
    ],
)
def test_a_failed_step_tells_its_own_sentence(
    server: Server, said: Said, run: dict[str, Any], source: str, reason: str, wrapped: bool
) -> None:
    """That of its last attempt: from Argo's message, else from its pod's log, from the object store when the pod is
    gone, else Argo's words.
    """
    message = f"{FAILED}: wrong parameters or data, not retried: {SENTENCE}" if source == "message" else FAILED
    ends = {"ingest": [SUCCEEDED], "changed": [SUCCEEDED], "validate": ["pod deleted", message], "notify": [SUCCEEDED]}
    server.workflows[run["run_id"]] = workflow(NAME, ends, wrapped=wrapped)
    pod = failed_pod(server.workflows[run["run_id"]]["status"]["nodes"])
    if source == "pod":
        server.logs[pod_name(NAME, pod)] = LOG
    if source == "archive":
        server.archived_logs[pod["id"]] = LOG
    if source == "launcher":
        server.logs[pod_name(NAME, pod)] = LAUNCHER
    assert steps(said, run) == [
        "ingest SUCCEEDED",
        "changed SUCCEEDED",
        f"validate FAILED: {reason}",
        "notify SUCCEEDED",
    ]


@pytest.mark.parametrize(
    ("ends", "words"),
    [
        ({"ingest": [CACHED], "train": [RUNNING]}, ["ingest CACHED", "train RUNNING"]),
        ({"train": ["OOMKilled (exit code 137)"]}, ["train FAILED: OOMKilled (exit code 137)"]),
        ({"train-driver": ["no claim"]}, ["train FAILED: Kubeflow's driver, before the step: no claim"]),
        ({"train-driver": [SUCCEEDED]}, ["train PENDING"]),
        (
            {"validate-part 0": [SUCCEEDED], "validate-part 10": ["pod deleted", "OOMKilled"], "ingest": [CACHED]},
            ["validate-part 0 SUCCEEDED", "validate-part 10 FAILED: OOMKilled", "ingest CACHED"],
        ),
        ({}, []),
    ],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_states_come_from_the_workflow(
    server: Server, said: Said, run: dict[str, Any], ends: dict[str, list[str]], words: list[str], wrapped: bool
) -> None:
    server.workflows[run["run_id"]] = workflow(NAME, ends, wrapped=wrapped)
    assert steps(said, run) == words


def test_a_pod_that_cannot_start_says_why(server: Server, said: Said, run: dict[str, Any]) -> None:
    flow = server.workflows[run["run_id"]] = workflow(NAME, {"train": [RUNNING]})
    words = "Unschedulable: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    for node in flow["status"]["nodes"].values():
        if node["displayName"] == "executor":
            node.update(phase="Pending", message=words)
    assert steps(said, run) == [f"train RUNNING: {words.rstrip('.')}"]


def test_a_run_that_fails_before_its_first_step_says_why(server: Server, said: Said, run: dict[str, Any]) -> None:
    flow = server.workflows[run["run_id"]] = workflow(NAME, {})
    driver = next(node for node in flow["status"]["nodes"].values() if node["displayName"] == "root-driver")
    driver.update(phase="Error", message="ImagePullBackOff: kfp-driver")
    assert steps(said, run) == ["root-driver: ImagePullBackOff: kfp-driver"]


def test_without_the_workflow_the_states_come_from_the_tasks(server: Server, said: Said, run: dict[str, Any]) -> None:
    """They have neither a pod's name nor an error, and those that have not started started in year 1."""
    flow = server.workflows[run["run_id"]] = workflow(
        NAME, {"ingest": [SUCCEEDED], "validate": [FAILED], "train": [""]}
    )
    for node in flow["status"]["nodes"].values():
        if node["displayName"] == "train":
            node["startedAt"] = None
    server.fail = ("GET", "/v1beta1/")
    assert steps(said, run) == ["ingest SUCCEEDED", "validate FAILED"]


@pytest.mark.parametrize("packed", ["compressed", "in Argo's database"])
def test_the_nodes_of_a_large_workflow_are_packed(server: Server, said: Said, run: dict[str, Any], packed: str) -> None:
    flow = server.workflows[run["run_id"]] = workflow(NAME, {"ingest": [SUCCEEDED], "train": ["OOMKilled"]})
    nodes = flow["status"].pop("nodes")
    if packed == "compressed":
        content = gzip.compress(json.dumps(nodes).encode())
        flow["status"]["compressedNodes"] = base64.b64encode(content).decode()
    else:
        flow["status"]["offloadNodeStatusVersion"] = "fnv:2138617898"
    assert steps(said, run) == (["ingest SUCCEEDED", "train FAILED: OOMKilled"] if packed == "compressed" else [])


def test_a_terminated_run_is_followed(server: Server, said: Said, run: dict[str, Any]) -> None:
    run["state"] = "RUNNING"
    server.workflows[run["run_id"]] = workflow(NAME, {"train": [RUNNING]})
    server.terminate(run["run_id"])
    assert steps(said, run) == ["train RUNNING"]
    assert "CANCELING" in said("status", run["run_id"])[1]
