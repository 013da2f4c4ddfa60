"""Register the model with MLflow; the better of it and the champion becomes the champion."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from components.artifacts import EVALUATION, METRICS, REGISTRATION
from components.params.schema import RegisterParams
from components.running.atomic import written_output
from components.running.progress_bar import track
from segmodels.errors import InputError
from segmodels.files import WEIGHTS
from segmodels.machine import check_temporary_space
from segmodels.suggest import nearest

if TYPE_CHECKING:
    from components.tracking.model_registry import Version
    from components.tracking.promotion import Decision
    from segmodels.data.shards import ShardReader
    from segmodels.inference.bundle import Bundle
    from segmodels.tasks.base import Task

CONFIDENCE = 0.95
"""Confidence of the interval that the decision names, unless ``params.confidence`` sets another."""

EXAMPLE = {2: (slice(64),) * 2, 3: (slice(16),) * 3}
"""Part of the first test image that a version keeps as the example of its input, by spatial dimensions."""


def register(params: RegisterParams, shards: Path, model: Path, evaluation: Path, registration: Path) -> dict[str, Any]:
    """Make the model a version of the registered model ``params.name`` and decide who is champion.

    What is registered predicts with the settings it was measured with. The new version wins when its score is at least
    ``params.minimum`` and, with ``params.tolerance`` to spare, not below that of the champion, which is measured again
    on the same test shards by its own settings; ``params.min_gain``, ``confidence`` and ``max_class_loss`` demand more.
    The winner gets the alias ``champion`` and the old champion ``previous``; a version that does not win gets
    ``challenger``.

    A champion that cannot be measured because its files are gone or damaged cannot serve either: a version above the
    minimum takes its place. One with other classes, or whose code has changed since, still serves, and stays champion
    until a person moves the alias.

    The same run, weights and settings are registered once: running this again finds the version and only decides anew,
    unless a person has archived it, rolled it back or replaced it.
    Registrations at the same time, on whatever machines, decide one after the other.

    Writes to ``registration``: registration.json (decision and reason), model_card.md and its pictures.

    Args:
        shards: folder that preprocess wrote.
        model: folder that train wrote.
        evaluation: folder that evaluate wrote.
        registration: output folder.

    Returns:
        What registration.json holds.

    Raises:
        InputError: evaluation of another model or other shards, an unknown metric, missing files; MLflow refuses the
            name.
        TransientError: MLflow or its object store does not answer.
    """
    from segmodels.data.shards import ShardReader

    reader = ShardReader(shards, "test")
    metrics, measured = _evaluated(evaluation, model, reader)

    from components.tracking import runs
    from components.tracking.champion import measure_champion
    from components.tracking.model_card import write_card
    from components.tracking.model_registry import Registry
    from components.tracking.promotion import Decision, Gate, decide, promote
    from segmodels.inference.bundle import bundle_digest, copy_bundle, load_bundle
    from segmodels.inference.predictor import choose_device
    from segmodels.tasks.registry import create_task

    bundle = load_bundle(model)
    # a copy of the model, its exported program, and what MLflow makes of both
    check_temporary_space(4 * (model / WEIGHTS).stat().st_size + 2**24, "registering the model")
    task = create_task(measured["task"], bundle.labels, measured["settings"])
    metric = params.metric or next(iter(task.headline))
    if not isinstance(metrics.get(metric), float):
        raise nearest("score (register.metric)", metric, [key for key, one in metrics.items() if type(one) is float])
    gate = Gate(params.minimum, params.tolerance, params.min_gain, params.confidence, params.max_class_loss)
    run = runs.open_run(model)
    registry = Registry(run.client, params.name)

    with written_output("register", registration) as folder, TemporaryDirectory() as temporary:
        contents = Path(temporary)
        copy_bundle(model, contents / "bundle", task.settings)
        digest = bundle_digest(contents / "bundle")
        same = partial(registry.find, run_id=run.run_id, model_digest=digest)

        def judge(version: Version | None, champion: Version | None) -> Decision:
            if version and champion and version.number == champion.number:
                return Decision(wins=True, reason=champion.tags["reason"])
            rival = None
            if champion:
                rival = measure_champion(
                    registry,
                    champion,
                    reader,
                    task,
                    type(task.evaluator()).read(evaluation),
                    metric,
                    confidence=params.confidence or CONFIDENCE,
                    batch_size=measured["params"]["batch_size"],
                    device=choose_device(measured["params"]["accelerator"]),
                    watch=lambda batches: track(batches, "measuring the champion, batches", len(batches)),
                )
            return decide(metric, metrics[metric], rival, gate)

        def tags(decision: Decision) -> dict[str, str]:
            return _tags(metric, metrics, bundle, decision, measured) | {"export": export}

        version, champion = same(), registry.champion()
        decision = judge(version, champion)
        export = version.tags["export"] if version else _export(bundle, contents / "export.pt2", _seen(task, reader))
        description = write_card(
            contents / "card", params.name, load_bundle(contents / "bundle"), evaluation, run, export
        )
        if version is None:
            version = registry.add(
                run_id=run.run_id,
                model_digest=digest,
                contents=contents,
                task=task,
                example=reader.image(0)[(None, *EXAMPLE[reader.spatial_dims])],
                tags=tags(decision),
                description=description,
            )
        version, decision = promote(registry, version, champion, decision, same=same, judge=judge, tags=tags)
        run.set_tags({"registered_model": f"{params.name}/{version.number}"})
        run.describe(f"registered as {params.name} version {version.number}, {decision.alias}")
        run.end()
        facts = {
            "name": params.name,
            "version": version.number,
            "uri": f"models:/{params.name}/{version.number}",
            "metric": metric,
            "value": metrics[metric],
            **asdict(gate),
            **decision.to_dict(),
            "settings": measured["settings"],
            "run_id": run.run_id,
            "data_digest": reader.digest,
            "model_digest": digest,
            "export": export,
        }
        shutil.copytree(contents / "card", folder, dirs_exist_ok=True)
        REGISTRATION.write(folder, facts)

    if decision.by_person:
        print(
            f"{params.name} version {version.number} stays {decision.alias} ({decision.reason}): `python -m components"
            f" promote {params.name}/{version.number} --reason ...` makes it the champion"
        )
    else:
        print(f"{params.name} version {version.number} is the {decision.alias}: {decision.reason}")
    return facts


def _evaluated(evaluation: Path, model: Path, reader: ShardReader) -> tuple[dict[str, Any], dict[str, Any]]:
    """Metrics, and how they were measured: ``params``, ``task``, ``settings``."""
    from segmodels.inference.bundle import bundle_digest

    metrics, measured = METRICS.read(evaluation), EVALUATION.read(evaluation)
    for what, where, mine in (("model", model, bundle_digest(model)), ("data", reader.folder, reader.digest)):
        if measured.get(f"{what}_digest") != mine:
            raise InputError(
                f"{evaluation} was measured with another {what} than {where} holds ({measured.get(f'{what}_digest')},"
                f" not {mine}): run the evaluate step again"
            )
    if not {"params", "task", "settings", "headline"} <= measured.keys():
        raise InputError(
            f"{EVALUATION.path(evaluation)} does not say how the model was measured, expected params, task and"
            " settings: run the evaluate step again"
        )
    return metrics, measured


def _tags(
    metric: str, metrics: Mapping[str, Any], bundle: Bundle, decision: Decision, measured: Mapping[str, Any]
) -> dict[str, str]:
    from components.tracking.model_card import describe_settings

    compared = {"compared_with": decision.champion, "compared_value": decision.champion_value}
    headline = {words: metrics[name] for name, words in measured["headline"].items() if metrics[name] is not None}
    return {
        **{key: str(value) for key, value in bundle.lineage.items()},
        "data_digest": measured["data_digest"],
        "model": bundle.name,
        "task": measured["task"],
        "predicts": describe_settings(measured["settings"]),
        "decision": decision.alias,
        "reason": decision.reason,
        "metric": metric,
        "scores": ", ".join(f"{words} {value:.4f}" for words, value in headline.items()),
        **{key: str(value) for key, value in compared.items() if value is not None},
        **{f"test.{key}": f"{value:.6g}" if isinstance(value, float) else str(value) for key, value in metrics.items()},
    }


def _seen(task: Task, reader: ShardReader) -> Sequence[int]:
    """Size of the images that the model sees: of its windows, else of the first test image."""
    window = getattr(task.settings, "sliding_window", None)
    return window.size if window else reader.image(0).shape[:-1]


def _export(bundle: Bundle, path: Path, size: Sequence[int]) -> str:
    """Write the torch.export program if the model allows, for images of ``size`` where it cannot be free; what became
    of it, in words.
    """
    from segmodels.inference.export import export_program

    images = "volumes" if bundle.spatial_dims == 3 else "images"
    shape = f"(B, {bundle.channels}, {'D, ' if bundle.spatial_dims == 3 else ''}H, W)"
    try:
        return f"{bundle.dtype} {images} {shape} {export_program(bundle, path, size)}"
    except RuntimeError as error:
        return f"not possible for this model ({error})"
