"""The training pipeline: the six steps of dvc.yaml on a cluster."""

from collections.abc import Callable, Mapping
from inspect import Parameter, Signature
from typing import Any

from kfp import dsl

from components.kubeflow import components as steps
from pipelines.images import Image
from pipelines.placement import Placement
from pipelines.profile import Profile

NAME = "segmentation-training"


def training_pipeline(default: Mapping[str, Any], profile: Profile, image: Image) -> Any:
    """The pipeline with the resources, secrets and retries of ``profile``.

    Args:
        default: default of every pipeline parameter, see ``parameters.default_values``.
        profile: where and with what the steps run.
        image: container image of every step.
    """
    place = Placement(profile, image)

    def tasks(given: Mapping[str, Any]) -> None:
        with reported(place, given, "training"):
            train_what_is_new(place, given)

    return with_parameters(NAME, "Ingest, validate, preprocess, train, evaluate, register", default, tasks)


def with_parameters(
    name: str, description: str, default: Mapping[str, Any], tasks: Callable[[Mapping[str, Any]], None]
) -> Any:
    """The pipeline whose parameters are the keys of ``default``; ``tasks`` makes its tasks of them."""

    def pipeline(*values: Any) -> None:
        tasks(dict(zip(default, values, strict=True)))

    parameters = [
        Parameter(key, Parameter.POSITIONAL_OR_KEYWORD, default=value, annotation=type(value))
        for key, value in default.items()
    ]
    pipeline.__signature__ = Signature(parameters)  # type: ignore[attr-defined]  # where kfp looks
    return dsl.pipeline(name=name, description=description)(pipeline)


def reported(place: Placement, given: Mapping[str, Any], group: str) -> dsl.ExitHandler:
    """Around tasks whose outcome is sent to the webhook, however they end."""
    return dsl.ExitHandler(place(steps.notify(registered_model=given["registered_model"])), name=group)


def train_what_is_new(place: Placement, given: Mapping[str, Any]) -> None:
    """The tasks from ``changed`` to ``register``."""
    source = {name: given[f"dataset_{name}"] for name in ("source", "path", "repo", "rev", "layout")}
    network = {name: given[name] for name in ("loss", "epochs", "batch_size", "learning_rate", "seed")}
    network["model_name"] = given["model"]
    registration = {name: given[name] for name in ("registered_model", "minimum_score")}
    news = place(
        steps.changed(
            **{name: given[name] for name in given if name.endswith("_params")},
            **source,
            **network,
            **registration,
            skip_unchanged=given["skip_unchanged"],
        )
    )
    with dsl.If(news.outputs["decision"] == "train", name="something is new"):
        known = {"code_revision": place.image.code_revision}
        revision = {"data_revision": news.outputs["revision"]}
        data = place(steps.ingest(params=given["ingest_params"], **source, **revision, **known))
        dataset = data.outputs["dataset"]
        prepare = _prepared if place.profile.parts == 1 else _prepared_in_parts
        shards = prepare(place, dataset, given["validate_params"], given["preprocess_params"], known)
        start = {name: news.outputs[name] for name in ("init", "anew")}
        trained = place(steps.train(shards=shards, params=given["train_params"], **network, **start, **known))
        weights = trained.outputs["model"]
        measured = place(steps.evaluate(shards=shards, model=weights, params=given["evaluate_params"], **known))
        place(
            steps.register(
                shards=shards,
                model=weights,
                evaluation=measured.outputs["evaluation"],
                params=given["register_params"],
                pipeline_params_digest=news.outputs["digest"],
                **registration,
                **revision,
                **known,
            )
        )


def _prepared(place: Placement, dataset: Any, validate_params: Any, preprocess_params: Any, known: Any) -> Any:
    """The shards of ``dataset``."""
    checked = place(steps.validate(dataset=dataset, params=validate_params, **known))
    validation = checked.outputs["validation"]
    packed = place(steps.preprocess(dataset=dataset, validation=validation, params=preprocess_params, **known))
    return packed.outputs["shards"]


def _prepared_in_parts(place: Placement, dataset: Any, validate_params: Any, preprocess_params: Any, known: Any) -> Any:
    """The same shards, by several pods. What concerns the whole dataset is checked once all parts have their facts."""
    parts = place.profile.parts
    with dsl.ParallelFor(list(range(parts)), name="facts of each part") as part:
        opened = place(steps.validate_part(dataset=dataset, params=validate_params, part=part, parts=parts, **known))
    facts = dsl.Collected(opened.outputs["facts"])
    checked = place(steps.validate_merge(dataset=dataset, facts=facts, params=validate_params, **known))
    validation = checked.outputs["validation"]
    with dsl.ParallelFor(list(range(parts)), name="shards of each part") as part:
        packed = place(
            steps.preprocess_part(
                dataset=dataset, validation=validation, params=preprocess_params, part=part, parts=parts, **known
            )
        )
    merged = place(steps.preprocess_merge(packed=dsl.Collected(packed.outputs["packed"]), **known))
    return merged.outputs["shards"]
