"""The training pipeline: the six steps of dvc.yaml on a cluster."""

from collections.abc import Mapping
from typing import Any

from kfp import dsl

from components.kubeflow import components as steps
from pipelines.placement import Placement
from pipelines.profile import Image, Profile

NAME = "segmentation-training"


def training_pipeline(default: Mapping[str, Any], profile: Profile, image: Image) -> Any:
    """The pipeline with the resources, secrets and retries of ``profile``.

    Args:
        default: default of every pipeline parameter, see ``parameters.default_values``.
        profile: where and with what the steps run.
        image: container image of every step.
    """
    place = Placement(profile, image)
    code = image.code_revision

    def training(
        dataset_source: str = default["dataset_source"],
        dataset_path: str = default["dataset_path"],
        dataset_repo: str = default["dataset_repo"],
        dataset_rev: str = default["dataset_rev"],
        dataset_layout: str = default["dataset_layout"],
        model: str = default["model"],
        loss: str = default["loss"],
        epochs: int = default["epochs"],
        batch_size: int = default["batch_size"],
        learning_rate: float = default["learning_rate"],
        seed: int = default["seed"],
        registered_model: str = default["registered_model"],
        minimum_miou: float = default["minimum_miou"],
        ingest_params: str = default["ingest_params"],
        validate_params: str = default["validate_params"],
        preprocess_params: str = default["preprocess_params"],
        train_params: str = default["train_params"],
        evaluate_params: str = default["evaluate_params"],
        register_params: str = default["register_params"],
        gpu_type: str = default["gpu_type"],
        gpu_count: int = default["gpu_count"],
        skip_unchanged: bool = default["skip_unchanged"],
    ):
        the_end = place(steps.notify(registered_model=registered_model))
        with dsl.ExitHandler(the_end, name="training"):
            source = {
                "source": dataset_source,
                "path": dataset_path,
                "repo": dataset_repo,
                "rev": dataset_rev,
                "layout": dataset_layout,
            }
            network = {
                "model_name": model,
                "loss": loss,
                "epochs": epochs,
                "batch_size": batch_size,
                "learning_rate": learning_rate,
                "seed": seed,
            }
            news = place(
                steps.changed(
                    ingest_params=ingest_params,
                    preprocess_params=preprocess_params,
                    train_params=train_params,
                    **source,
                    **network,
                    registered_model=registered_model,
                    skip_unchanged=skip_unchanged,
                )
            )
            with dsl.If(news.outputs["decision"] == "train", name="something is new"):
                known = {"code_revision": code}
                revision = {"data_revision": news.outputs["revision"]}
                gpus = {"gpu_type": gpu_type, "gpu_count": gpu_count}
                data = place(steps.ingest(params=ingest_params, **source, **revision, **known))
                dataset = data.outputs["dataset"]
                prepare = _prepared if profile.parts == 1 else _prepared_in_parts
                shards = prepare(place, dataset, validate_params, preprocess_params, known)
                start = {"init": news.outputs["init"]}
                trained = place(
                    steps.train(shards=shards, params=train_params, **network, **start, **gpus, **known), **gpus
                )
                weights = trained.outputs["model"]
                measured = place(
                    steps.evaluate(shards=shards, model=weights, params=evaluate_params, **gpus, **known), **gpus
                )
                place(
                    steps.register(
                        shards=shards,
                        model=weights,
                        evaluation=measured.outputs["evaluation"],
                        params=register_params,
                        registered_model=registered_model,
                        minimum_miou=minimum_miou,
                        **revision,
                        **known,
                    )
                )

    return dsl.pipeline(name=NAME, description="Ingest, validate, preprocess, train, evaluate, register")(training)


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
