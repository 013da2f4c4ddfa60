"""The steps as Kubeflow components: the command lines of dvc.yaml, each in a container.

What a component passes beyond dvc.yaml's options:
    --copy-files: the next step runs on another machine.
    --revision: what ``changed`` found at the dataset's source.
    --params-json, --set: params.yaml does not travel; a step gets its section, and the values that a run may change, as
      parameters.
    --retry: a transient error (exit code 75) is retried in the pod, because Kubeflow cannot tell it from wrong
      parameters.
    --executor-input: where Kubeflow wants the outputs described, see executor_output.py.

Kubeflow's cache looks at a task's image, command and parameters, and at the ids of its input artifacts. An artifact of
a cached task keeps its id, one of a task that ran gets a new id. So ``changed``, which is never cached, finds the
dataset's revision and the version that ``train.init`` stands for without a download; ingest and train take them as
parameters and are cached; and what follows ingest is cached
until it or its own parameters change. ``code_revision`` only changes the cache's key, for images that are named by a
tag.
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


def _step(name: str, params: Any, values: dict[str, Any], **options: Any) -> dsl.ContainerSpec:
    """``python -m components name``; ``values`` are set on top of ``params``, one JSON text or several."""
    arguments: list[Any] = []
    for section in params if isinstance(params, tuple) else (params,):
        arguments += ["--params-json", section]
    for key, value in values.items():
        arguments += ["--set", f"{key}={value}"]
    for key, value in options.items():
        arguments += [f"--{key.replace('_', '-')}", getattr(value, "path", value)]
    arguments += ["--retry", str(RETRIES), "--executor-input", dsl.PIPELINE_TASK_EXECUTOR_INPUT_PLACEHOLDER]
    return dsl.ContainerSpec(image=IMAGE, command=["python", "-m", "components", name], args=arguments)


def _place(source: Any, path: Any, repo: Any, rev: Any, layout: Any) -> dict[str, Any]:
    names = ("source", "path", "repo", "rev", "layout")
    return {f"ingest.{name}": value for name, value in zip(names, (source, path, repo, rev, layout), strict=True)}


def _training(model: Any, loss: Any, epochs: Any, batch_size: Any, lr: Any, seed: Any) -> dict[str, Any]:
    names = ("model", "loss", "epochs", "batch_size", "lr", "seed")
    values = (model, loss, epochs, batch_size, lr, seed)
    return {f"train.{name}": value for name, value in zip(names, values, strict=True)}


def _registration(registered_model: Any, minimum_score: Any) -> dict[str, Any]:
    return {"register.name": registered_model, "register.minimum": minimum_score}


@dsl.container_component
def changed(
    revision: OutputPath(str),  # type: ignore[valid-type]  # kfp reads it
    digest: OutputPath(str),  # type: ignore[valid-type]
    decision: OutputPath(str),  # type: ignore[valid-type]
    init: OutputPath(str),  # type: ignore[valid-type]
    anew: OutputPath(str),  # type: ignore[valid-type]
    ingest_params: str,
    validate_params: str,
    preprocess_params: str,
    train_params: str,
    evaluate_params: str,
    register_params: str,
    source: str,
    path: str,
    repo: str,
    rev: str,
    layout: str,
    model_name: str,
    loss: str,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    registered_model: str,
    minimum_score: float,
    skip_unchanged: bool,
):
    values = _place(source, path, repo, rev, layout)
    values |= _training(model_name, loss, epochs, batch_size, learning_rate, seed)
    values |= _registration(registered_model, minimum_score)
    sections = (ingest_params, validate_params, preprocess_params, train_params, evaluate_params, register_params)
    files = {"revision": revision, "digest": digest, "decision": decision, "init": init, "anew": anew}
    return _step("changed", sections, values, skip_unchanged=skip_unchanged, **files)


@dsl.container_component
def ingest(
    dataset: Output[Dataset],
    params: str,
    source: str,
    path: str,
    repo: str,
    rev: str,
    layout: str,
    data_revision: str,
    code_revision: str,
):
    values = _place(source, path, repo, rev, layout)
    return _step("ingest", params, values, cache=CACHE, dataset=dataset, copy_files="true", revision=data_revision)


@dsl.container_component
def validate(
    dataset: Input[Dataset],
    validation: Output[Artifact],
    data_docs: Output[HTML],
    params: str,
    code_revision: str,
):
    return _step("validate", params, {}, dataset=dataset, validation=validation)


@dsl.container_component
def preprocess(
    dataset: Input[Dataset],
    validation: Input[Artifact],
    shards: Output[Dataset],
    params: str,
    code_revision: str,
):
    return _step("preprocess", params, {}, dataset=dataset, validation=validation, shards=shards)


@dsl.container_component
def validate_part(
    dataset: Input[Dataset],
    facts: Output[Dataset],
    params: str,
    part: int,
    parts: int,
    code_revision: str,
):
    return _step("validate-part", params, {}, dataset=dataset, part=part, parts=parts, facts=facts)


@dsl.container_component
def validate_merge(
    dataset: Input[Dataset],
    facts: Input[list[Dataset]],  # found in the executor input, see executor_output.py
    validation: Output[Artifact],
    data_docs: Output[HTML],
    params: str,
    code_revision: str,
):
    return _step("validate-merge", params, {}, dataset=dataset, validation=validation)


@dsl.container_component
def preprocess_part(
    dataset: Input[Dataset],
    validation: Input[Artifact],
    packed: Output[Dataset],
    params: str,
    part: int,
    parts: int,
    code_revision: str,
):
    folders = {"dataset": dataset, "validation": validation, "packed": packed}
    return _step("preprocess-part", params, {}, part=part, parts=parts, **folders)


@dsl.container_component
def preprocess_merge(packed: Input[list[Dataset]], shards: Output[Dataset], code_revision: str):
    return _step("preprocess-merge", (), {}, shards=shards)


@dsl.container_component
def train(
    shards: Input[Dataset],
    model: Output[Model],
    params: str,
    model_name: str,
    loss: str,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    init: str,  # found by ``changed``: a version in the place of an alias
    anew: str,  # from ``changed``: names this training where no equal one may stand for it
    code_revision: str,
):
    values = _training(model_name, loss, epochs, batch_size, learning_rate, seed) | {"train.init": init}
    return _step("train", params, values, shards=shards, checkpoints=CHECKPOINTS, anew=anew, model=model)


@dsl.container_component
def evaluate(
    shards: Input[Dataset],
    model: Input[Model],
    evaluation: Output[Artifact],
    metrics: Output[Metrics],
    confusion: Output[ClassificationMetrics],
    pictures: Output[HTML],
    params: str,
    code_revision: str,
):
    return _step("evaluate", params, {}, shards=shards, model=model, evaluation=evaluation)


@dsl.container_component
def register(
    shards: Input[Dataset],
    model: Input[Model],
    evaluation: Input[Artifact],
    registration: Output[Artifact],
    model_card: Output[Markdown],
    params: str,
    registered_model: str,
    minimum_score: float,
    data_revision: str,  # a tag of the version, see executor_output.py
    pipeline_params_digest: str,  # likewise
    code_revision: str,
):
    values = _registration(registered_model, minimum_score)
    return _step(
        "register", params, values, shards=shards, model=model, evaluation=evaluation, registration=registration
    )


@dsl.container_component
def drift(
    drifted: OutputPath(str),  # type: ignore[valid-type]  # kfp reads it
    page: Output[HTML],
    registered_model: str,
    log: str,
    psi: float,
    hours: float,
):
    options = {"model": f"models:/{registered_model}@champion", "log": log, "psi": psi, "hours": hours}
    return _step("drift", (), {}, **options, html=page, drifted=drifted)


@dsl.container_component
def notify(status: dsl.PipelineTaskFinalStatus, registered_model: str):
    """A container component, because lightweight components would require kfp in the image."""
    arguments = ["--status", status, "--name", registered_model]
    return dsl.ContainerSpec(image=IMAGE, command=["python", "-m", "components", "notify"], args=arguments)
