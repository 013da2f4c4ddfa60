"""Run the pipeline on this machine: every step in its container, by Docker, without a cluster."""

from __future__ import annotations

import builtins
import logging
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from components.environment import variable
from components.steps import STEPS
from components.tracking.local_store import ARTIFACTS, STORE, prepare_store
from pipelines.images import Image, local_image
from pipelines.profile import WORKING_FOLDER, Profile
from segmodels.errors import InputError

FROM_CALLER = ("AWS_", "MLFLOW_", variable("webhook_url"), "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
"""How the caller's environment variables start that the containers inherit, except those that name files."""

FOLDERS = ("dataset_path", "dataset_repo", "served_log")
"""Pipeline parameters that may name folders of this machine."""

SECONDS = 300
"""The longest wait for the local MLflow server."""


def run_locally(pipeline: Any, values: Mapping[str, Any], profile: Profile, image: Image, root: Path) -> Path:
    """Run the pipeline in containers, as the calling user.

    Without ``MLFLOW_TRACKING_URI`` this starts an MLflow server for the time of the run, on the store that `dvc repro`
    uses: ./mlflow.db and ./mlruns.

    Args:
        values: all pipeline parameters.
        root: folder for the steps' outputs; it also keeps downloads and training states between runs.

    Returns:
        The run's folder in ``root``: one folder per step with its outputs.

    Raises:
        InputError: Docker does not answer, the image does not exist, several pods would share the training, or a step
            failed.
    """
    if profile.shared_training:
        raise InputError(
            "the profile shares a training among several GPUs or nodes, expected at most one GPU for a run on this"
            " machine, where one process trains: give --set gpu_count=1, or choose another --profile"
        )
    local_image(image.reference)
    root = root.absolute()
    root.mkdir(parents=True, exist_ok=True)
    with _tracking_server(root / "mlflow-server.log") as tracking_uri:
        _initialise(values, profile, root, tracking_uri)
        known = set(root.glob(f"{pipeline.name}-*"))
        with warnings.catch_warnings(), output_kept():
            warnings.filterwarnings(
                "ignore", message=".*will be ignored.*"
            )  # resources and display names, which Docker does not use
            try:
                pipeline(**values)
            except (RuntimeError, ValueError) as error:
                # kfp takes a step whose container ends at once for a success, and then misses its outputs
                if not any(words in str(error) for words in ("Inner task failed", "Tried to get output")):
                    raise
                raise InputError("the pipeline run failed: see the error of the failed step above") from None
    (folder,) = set(root.glob(f"{pipeline.name}-*")) - known
    return folder


@contextmanager
def output_kept() -> Iterator[None]:
    """Put back what kfp's threads, one for each part of a step, may leave behind: a ``print`` that indents, and
    handlers of a closed stream.
    """
    own, handlers = builtins.print, list(logging.root.handlers)
    try:
        yield
    finally:
        builtins.print = own
        logging.root.handlers[:] = handlers


def _initialise(values: Mapping[str, Any], profile: Profile, root: Path, tracking_uri: str) -> None:
    import docker
    from kfp import local

    kept = [(root / name, f"{WORKING_FOLDER}/{name}", False) for step in STEPS for name in step.keeps]
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        kept.append((_artifacts(), str(_artifacts()), False))
    kept += [
        (path, str(path), True)
        for name in FOLDERS
        if (path := Path(values.get(name, ""))).is_absolute() and path.is_dir()
    ]
    for path, _, _ in kept:
        path.mkdir(parents=True, exist_ok=True)
    count = profile.gpu.count if profile.gpu else 0
    gpus = [docker.types.DeviceRequest(count=count, capabilities=[["gpu"]])] if count else None
    shared_memory = profile.pods.of("train").shared_memory
    runner = local.DockerRunner(
        user=f"{os.getuid()}:{os.getgid()}",
        group_add=["0"],  # the image's folders are writable for this group
        entrypoint="",  # kfp gives the whole command line
        network_mode="host",
        shm_size=shared_memory.replace("i", "").lower() if shared_memory else "1g",
        mounts=[
            docker.types.Mount(target, str(path), type="bind", read_only=read_only) for path, target, read_only in kept
        ],
        device_requests=gpus,
        environment=_environment()
        | {
            "MLFLOW_TRACKING_URI": tracking_uri,
            "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
            variable("pipeline_run"): str(uuid.uuid4()),
        },
    )
    local.init(runner, pipeline_root=str(root))
    resolve_named_outputs()


def resolve_named_outputs() -> None:
    """Work around kfp 2.17, which finds the value of a dsl.If among the outputs of earlier tasks only if the output has
    the default name.
    """
    from kfp.local.orchestrator.enhanced_dag_orchestrator import ConditionEvaluator

    original = ConditionEvaluator._resolve_pipeline_channel

    def resolve(channel: str, io_store: Any) -> Any:
        words = channel.removeprefix("pipelinechannel--").split("-")  # of the task's name, then of the output's
        for cut in range(1, len(words)):
            with suppress(ValueError):
                return io_store.get_task_output("-".join(words[:cut]), "-".join(words[cut:]))
        return original(channel, io_store)

    ConditionEvaluator._resolve_pipeline_channel = staticmethod(resolve)


def _environment() -> dict[str, str]:
    names = [name for name in os.environ if name.upper().startswith(FROM_CALLER) and not name.endswith("_CA_BUNDLE")]
    return {name: os.environ[name] for name in names}


def _artifacts() -> Path:
    return Path(ARTIFACTS).absolute()


@contextmanager
def _tracking_server(log: Path) -> Iterator[str]:
    """``MLFLOW_TRACKING_URI``, or an MLflow server on ./mlflow.db while the block runs; its log goes to ``log``.

    Clients write artifacts into ./mlruns themselves, like clients that use the database file without a server, so the
    experiments can be used either way. The containers see the folder at the same path.
    """
    if uri := os.environ.get("MLFLOW_TRACKING_URI"):
        yield uri
        return
    uri = f"http://127.0.0.1:{(port := _free_port())}"
    prepare_store(Path(STORE).absolute())
    store = [
        f"--backend-store-uri=sqlite:///{Path(STORE).absolute()}",
        f"--default-artifact-root={_artifacts().as_uri()}",
        "--no-serve-artifacts",
    ]
    command = [sys.executable, "-m", "mlflow", "server", "--host=127.0.0.1", f"--port={port}", "--workers=1", *store]
    environment = os.environ | {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    with log.open("w") as output:
        server = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
    try:
        _await(f"{uri}/health", server, log)
        yield uri
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)  # the server and its workers
        server.wait()


def _await(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.3)
    raise InputError(
        f"the local MLflow server does not start ({log} says why): set MLFLOW_TRACKING_URI to another server"
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
