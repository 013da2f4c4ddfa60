"""The steps as Kubeflow components: the command lines of dvc.yaml, each in a container.

What a component passes beyond dvc.yaml's options:
    --copy-files: the next step runs on another machine.
    --params-json, --set: params.yaml does not travel; a step gets its section, and the values that a run may change, as
      parameters.
    --retry: a failure outside (exit code 75) is tried again here, because Kubeflow cannot tell it from wrong
      parameters.
    --executor-input: where Kubeflow wants the outputs described, see executor_output.py.

Kubeflow's cache looks at a task's image, command and parameters, and only at the *names* of its input artifacts. So
every step after ingest takes the revision of the code and the digests of the data and of the artifacts that it reads,
for the cache alone, and gives the digest of what it writes.
"""

# ruff: noqa: ARG001  (parameters that are for the cache, outputs that executor_output.py writes)

from typing import Any

from kfp import dsl
from kfp.dsl import HTML, Artifact, ClassificationMetrics, Dataset, Input, Markdown, Metrics, Model, Output, OutputPath

IMAGE = "segmodels"
"""Stands for the image until the pipeline sets the one of its profile."""

RETRIES = 4

CACHE = "data/cache"
CHECKPOINTS = "data/checkpoints"
"""In the container's working directory, as in dvc.yaml."""


def _step(name: str, params: Any, values: dict[str, Any], *options: Any) -> dsl.ContainerSpec:
    """``python -m components name``; ``values`` are set on top of ``params``."""
    sets = [part for key, value in values.items() for part in ("--set", f"{key}={value}")]
    arguments = [
        "--params-json",
        params,
        *sets,
        *options,
        "--retry",
        str(RETRIES),
        "--executor-input",
        dsl.PIPELINE_TASK_EXECUTOR_INPUT_PLACEHOLDER,
    ]
    return dsl.ContainerSpec(image=IMAGE, command=["python", "-m", "components", name], args=arguments)


def _training_values(
    model: Any, loss: Any, epochs: Any, batch_size: Any, learning_rate: Any, seed: Any
) -> dict[str, Any]:
    return {
        "train.model": model,
        "train.loss": loss,
        "train.epochs": epochs,
        "train.batch_size": batch_size,
        "train.lr": learning_rate,
        "train.seed": seed,
    }


@dsl.container_component
def ingest(
    dataset: Output[Dataset],
    data_digest: OutputPath(str),  # type: ignore[valid-type]
    params: str,
    source: str,
    path: str,
    repo: str,
    rev: str,
    layout: str,
):
    values = {
        "ingest.source": source,
        "ingest.path": path,
        "ingest.repo": repo,
        "ingest.rev": rev,
        "ingest.layout": layout,
    }
    return _step("ingest", params, values, "--cache", CACHE, "--dataset", dataset.path, "--copy-files", "true")


@dsl.container_component
def changed(
    dataset: Input[Dataset],
    decision: OutputPath(str),  # type: ignore[valid-type]
    params: str,
    preprocess_params: str,
    model_name: str,
    loss: str,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    registered_model: str,
    skip_unchanged: bool,
):
    values = {
        **_training_values(model_name, loss, epochs, batch_size, learning_rate, seed),
        "register.name": registered_model,
    }
    return _step(
        "changed",
        params,
        values,
        "--params-json",
        preprocess_params,
        "--dataset",
        dataset.path,
        "--skip-unchanged",
        skip_unchanged,
        "--decision",
        decision,
    )


@dsl.container_component
def validate(
    dataset: Input[Dataset],
    validation: Output[Artifact],
    data_docs: Output[HTML],
    params: str,
    data_digest: str,
    code_revision: str,
):
    return _step("validate", params, {}, "--dataset", dataset.path, "--validation", validation.path)


@dsl.container_component
def preprocess(
    dataset: Input[Dataset],
    validation: Input[Artifact],
    shards: Output[Dataset],
    shards_digest: OutputPath(str),  # type: ignore[valid-type]
    params: str,
    data_digest: str,
    code_revision: str,
):
    return _step(
        "preprocess", params, {}, "--dataset", dataset.path, "--validation", validation.path, "--shards", shards.path
    )


@dsl.container_component
def train(
    shards: Input[Dataset],
    model: Output[Model],
    model_digest: OutputPath(str),  # type: ignore[valid-type]
    params: str,
    model_name: str,
    loss: str,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    gpu_type: str,  # the pipeline asks for the GPUs; kfp hands a group only those parameters that a task in it takes
    gpu_count: int,
    data_digest: str,
    shards_digest: str,
    code_revision: str,
):
    values = _training_values(model_name, loss, epochs, batch_size, learning_rate, seed)
    return _step("train", params, values, "--shards", shards.path, "--checkpoints", CHECKPOINTS, "--model", model.path)


@dsl.container_component
def evaluate(
    shards: Input[Dataset],
    model: Input[Model],
    evaluation: Output[Artifact],
    metrics: Output[Metrics],
    confusion: Output[ClassificationMetrics],
    pictures: Output[HTML],
    evaluation_digest: OutputPath(str),  # type: ignore[valid-type]
    params: str,
    gpu_type: str,
    gpu_count: int,
    data_digest: str,
    shards_digest: str,
    model_digest: str,
    code_revision: str,
):
    return _step(
        "evaluate", params, {}, "--shards", shards.path, "--model", model.path, "--evaluation", evaluation.path
    )


@dsl.container_component
def register(
    shards: Input[Dataset],
    model: Input[Model],
    evaluation: Input[Artifact],
    registration: Output[Artifact],
    model_card: Output[Markdown],
    params: str,
    registered_model: str,
    minimum_miou: float,
    data_digest: str,
    shards_digest: str,
    model_digest: str,
    evaluation_digest: str,
    code_revision: str,
):
    values = {"register.name": registered_model, "register.minimum": minimum_miou}
    options = (
        "--shards",
        shards.path,
        "--model",
        model.path,
        "--evaluation",
        evaluation.path,
        "--registration",
        registration.path,
    )
    return _step("register", params, values, *options)


@dsl.container_component
def notify(status: dsl.PipelineTaskFinalStatus, registered_model: str):
    """A container component, because lightweight components would require kfp in the image."""
    arguments = ["--status", status, "--name", registered_model]
    return dsl.ContainerSpec(image=IMAGE, command=["python", "-m", "components", "notify"], args=arguments)
