"""Training on several machines or GPUs: the train step starts a Kubeflow TrainJob, follows it and removes it.

Its pods run ``components.train_job.node``, which is the same train step under torchrun. The step stores the shards in
the object store under their digest and each pod fetches them; checkpoints are saved there as in every training on a
cluster (storage/checkpoints.py); the first pod stores the model, and the step fetches it into its own output.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from pydantic import Field

from components.datasets.download_cache import DownloadCache
from components.datasets.s3_dataset import download
from components.environment import PREFIX, environment, variable
from components.params.checking import Params, checked
from components.params.reading import plain
from components.params.schema import TrainParams
from components.running.atomic import written_folder
from components.storage.folders import exchange_url, put_shards, remove_folder
from components.tracking.lineage import checkpoint_key, lineage
from components.train_job.follow import POLL_SECONDS, follow, is_missing, pause, translate_errors
from components.train_job.owner import own_by_workflow
from segmodels.addresses import holds_credentials
from segmodels.errors import InputError

SETTINGS = variable("train_job")
"""Environment variable with ``TrainJobSettings`` as JSON; pipelines/placement.py sets it."""

RUNTIME = "torch-distributed"
"""Name of the TrainingRuntime in infra/kustomize/runs, the template of the pods."""

HANDED_ON = re.compile(
    rf"MLFLOW_|{PREFIX}|AWS_(ENDPOINT_URL|DEFAULT_REGION|REGION|REQUEST_CHECKSUM|RESPONSE_CHECKSUM|MAX_ATTEMPTS)|NCCL_|GLOO_"
)
CREDENTIAL = re.compile(r"KEY|SECRET|TOKEN|PASSWORD|CREDENTIAL|WEBHOOK")
"""Environment variables that the pods take over from the step. Those that look like credentials are left out, because
whoever may read the TrainJob would see them; the runtime names secrets instead.
"""


class TrainJobSettings(Params):
    """Settings of the TrainJob's pods, from the profile."""

    image: str
    nodes: int = Field(1, ge=1)
    gpus: int = Field(0, ge=0, description="GPUs per node, one process each. 0: one process per node, on CPUs")
    resources: dict[str, str | int] = Field(
        default_factory=dict, description="requests and limits of each node: cpu, memory, the GPUs' type"
    )
    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: list[dict[str, str | None]] = Field(default_factory=list)
    image_pull_secrets: list[str] = Field(default_factory=list)


class Client(Protocol):
    """The methods of kubeflow.trainer.TrainerClient that are called here."""

    def train(self, *, runtime: Any, trainer: Any, options: Any) -> str: ...
    def get_job(self, name: str) -> Any: ...
    def get_job_logs(self, name: str, *, follow: bool) -> Iterator[str]: ...
    def get_job_events(self, name: str) -> list[Any]: ...
    def delete_job(self, name: str) -> None: ...


def train_job_settings() -> TrainJobSettings | None:
    """The settings in the environment; None if the step trains by itself.

    Raises:
        InputError: they are damaged.
    """
    text = environment().train_job
    if not text:
        return None
    try:
        return checked(TrainJobSettings, json.loads(text), SETTINGS)
    except ValueError as error:
        raise InputError(f"{SETTINGS} is not valid ({error}): compile the pipeline again") from None


def train_by_job(
    settings: TrainJobSettings,
    params: TrainParams,
    shards: Path,
    model: Path,
    client: Client | None = None,
    anew: str = "",
) -> None:
    """Train in a TrainJob; the model lies in ``model`` afterwards, and the TrainJob is removed whatever the outcome.

    The Workflow owns the TrainJob. A step that is killed before it can remove the TrainJob leaves it to the next
    attempt of the same run, which takes it up, or replaces it if it failed; else it is removed with the Workflow.

    Args:
        settings: of the pods.
        params: section ``train`` of params.yaml.
        shards, model, anew: as of the train step.
        client: None connects to the cluster.

    Raises:
        InputError: the shards, the parameters or the cluster's set-up are not right; the training's own sentence.
        TransientError: the object store or Kubernetes do not answer, pods find no place.
        SystemExit: 143 after SIGTERM.
    """
    from segmodels.data.shards import ShardReader

    reader = ShardReader(shards, "train")
    key = checkpoint_key(lineage(data_digest=reader.digest, params=plain(params), longer_side=reader.longer_side))
    name = job_name(key, environment().pipeline_run)
    model_url = f"{exchange_url()}/models/{name}"
    client = client or connect()
    with _sigterm_checked() as check, _removed(client, name):
        shards_url = put_shards(shards, check)
        check()
        arguments = _arguments(settings, params, shards_url, model_url, anew)
        _start(client, name, settings, arguments, check)
        follow(client, name, settings.nodes, check)
        _take_model(model_url, model)
    remove_folder(model_url)


def job_name(key: str, run: str) -> str:
    """Name of the TrainJob, the same for every attempt of a step in one pipeline run."""
    return f"train-{hashlib.sha256(f'{key} {run}'.encode()).hexdigest()[:12]}"


def connect() -> Client:
    import logging

    from kubeflow.trainer import TrainerClient
    from kubernetes.config import ConfigException

    logging.getLogger("kubeflow").setLevel(logging.ERROR)  # it warns of a ConfigMap that steps may not read
    try:
        return TrainerClient()
    except ConfigException as error:
        raise InputError(
            f"a TrainJob needs a Kubernetes cluster, none is configured here ({error}): run the pipeline on a cluster,"
            " or set nodes and gpu.count to 1"
        ) from None


# --- the object


def _start(
    client: Client, name: str, settings: TrainJobSettings, arguments: list[str], check: Callable[[], None]
) -> None:
    from kubeflow.trainer import CustomTrainerContainer

    if (status := _status(client, name)) and status != "Failed":
        print(f"TrainJob {name} of an earlier attempt is {status.lower()}: following it", flush=True)
        return
    if status:
        _remove(client, name)
        while _status(client, name):
            pause(POLL_SECONDS, check)
    trainer = CustomTrainerContainer(settings.image, settings.nodes, settings.resources, _environment(os.environ))
    with translate_errors(name):
        client.train(runtime=RUNTIME, trainer=trainer, options=_options(name, settings, arguments))
    own_by_workflow(client, name)
    processes = settings.nodes * max(settings.gpus, 1)
    print(f"TrainJob {name}: {settings.nodes} pods, {processes} processes", flush=True)


def _arguments(
    settings: TrainJobSettings, params: TrainParams, shards_url: str, model_url: str, anew: str
) -> list[str]:
    """Of ``train_job.node`` in each pod."""
    options = {
        "params-json": json.dumps({"train": plain(params)}),
        "shards-url": shards_url,
        "model-url": model_url,
        "processes": str(max(settings.gpus, 1)),
        "anew": anew,
    }
    return [part for option, value in options.items() for part in (f"--{option}", value)]


def _options(name: str, settings: TrainJobSettings, arguments: list[str]) -> list[Any]:
    from kubeflow.trainer.options import common, kubernetes

    options: list[Any] = [
        common.Name(name),
        kubernetes.Labels({"app.kubernetes.io/part-of": "segmodels"}),
        kubernetes.TrainerCommand(["python", "-m", "components.train_job.node"]),
        kubernetes.TrainerArgs(arguments),
    ]
    tolerations = [{key: value for key, value in one.items() if value is not None} for one in settings.tolerations]
    secrets = [{"name": name} for name in settings.image_pull_secrets]
    if settings.node_selector or tolerations or secrets:
        pod = kubernetes.PodSpecPatch(
            node_selector=settings.node_selector or None,
            tolerations=tolerations or None,
            image_pull_secrets=secrets or None,
        )
        job = kubernetes.JobTemplatePatch(spec=kubernetes.JobSpecPatch(template=kubernetes.PodTemplatePatch(spec=pod)))
        jobs = kubernetes.JobSetSpecPatch(replicated_jobs=[kubernetes.ReplicatedJobPatch(name="node", template=job)])
        options.append(
            kubernetes.RuntimePatch(
                kubernetes.TrainingRuntimeSpecPatch(template=kubernetes.JobSetTemplatePatch(spec=jobs))
            )
        )
    return options


def _environment(own: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in own.items()
        if HANDED_ON.match(name) and not CREDENTIAL.search(name) and not holds_credentials(value) and name != SETTINGS
    }


# --- its end


def _status(client: Client, name: str) -> str | None:
    """Status of the TrainJob; None if there is none."""
    with translate_errors(name):
        try:
            return client.get_job(name).status
        except RuntimeError as error:
            if is_missing(error):
                return None
            raise


def _take_model(model_url: str, model: Path) -> None:
    found, _ = download(model_url, DownloadCache(model.parent / f".{model.name}.download"))
    with written_folder(model) as folder:
        shutil.copytree(found, folder, dirs_exist_ok=True)
    shutil.rmtree(model.parent / f".{model.name}.download")


@contextmanager
def _removed(client: Client, name: str) -> Iterator[None]:
    try:
        yield
    except SystemExit:  # nothing else first: the container may be killed within a second
        _remove(client, name)
        with suppress(OSError):  # Kubeflow's launcher, which reads the output, is killed by the same signal
            print(f"stopped: TrainJob {name} is removed, the next run resumes from its last checkpoint", flush=True)
        raise
    except BaseException:
        _remove(client, name)
        raise
    _remove(client, name)


def _remove(client: Client, name: str) -> None:
    try:
        client.delete_job(name)
    except (RuntimeError, TimeoutError) as error:
        if not is_missing(error):
            print(
                f"TrainJob {name} could not be removed ({error.__cause__ or error}): `kubectl delete trainjob {name}`",
                flush=True,
            )


@contextmanager
def _sigterm_checked() -> Iterator[Callable[[], None]]:
    """A function that raises SystemExit(143) once SIGTERM has come.

    The handler itself raises nothing. It runs between any two instructions of the main thread: within logging, which
    the Kubernetes client uses all the time, its exception would leave logging's lock held, and every other thread that
    logs would wait for ever.
    """
    received: list[int] = []

    def check() -> None:
        if received:
            raise SystemExit(128 + received[0])

    try:
        before = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    except ValueError:  # not the main thread: the caller owns the signals
        yield check
        return
    try:
        yield check
    finally:
        signal.signal(signal.SIGTERM, before)
