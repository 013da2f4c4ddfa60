"""Register the model with MLflow; the better one of it and the champion is the champion."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from components.params.checking import checked
from components.params.reading import evaluate_section
from components.params.schema import EvaluateParams, RegisterParams
from components.running.atomic import written_folder
from segmodels.errors import InputError, nearest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from components.tracking.model_registry import Registry, Version
    from components.tracking.runs import Run
    from segmodels.data.shards import ShardReader
    from segmodels.inference.bundle import Bundle
    from segmodels.metrics import Comparison

BY_HAND = "set register.name to another name, or move the alias champion by hand"

BOOTSTRAP_CELLS = 5 * 10**7
"""Confusion-matrix cells of all test images (N x C x C) up to which the significance of a difference is computed: 400
MB per model.
"""


def register(params: RegisterParams, shards: Path, model: Path, evaluation: Path, registration: Path) -> dict[str, Any]:
    """Make the model a version of the registered model ``params.name`` and decide who is champion.

    The new version wins when its score is at least ``params.minimum`` and, with ``params.tolerance`` to spare, not
    below that of the champion, which is measured again on the same test shards in the same way. The winner gets the
    alias ``champion`` and the old champion ``previous``; a version that does not win gets ``challenger``. Where the
    champion cannot be measured: if its files are gone or damaged it serves nobody, and a version above the minimum
        takes its place; if it knows other classes, or its code has changed since, it still serves, and stays until a
    person moves the alias.

    The same run and weights are registered once: running this again finds the version and only decides anew.

    Writes to ``registration``: registration.json (decision and reason), model_card.md and its pictures.

    Args:
        shards: folder that preprocess wrote.
        model: folder that train wrote.
        evaluation: folder that evaluate wrote.
        registration: output folder.

    Returns:
        What registration.json holds.

    Raises:
        InputError: evaluation of another model or other shards, missing files; MLflow does not answer at the start or
            refuses the name.
        TransientError: MLflow or its object store stops answering.
    """
    from segmodels.data.shards import ShardReader

    reader = ShardReader(shards, "test")
    metrics, settings = _evaluated(evaluation, model, reader)
    params = replace(params, metric=params.metric or "mean_iou")
    assert params.metric is not None
    if params.metric not in metrics:
        raise nearest("register.metric", params.metric, list(metrics))

    from components.tracking import runs
    from components.tracking.model_registry import Registry
    from segmodels.inference.bundle import load_bundle

    run = runs.open_run(model)
    registry = Registry(run.client, params.name)
    bundle = load_bundle(model)
    version = registry.find(run_id=run.run_id, model_digest=settings["model_digest"])
    champion = registry.champion()

    if version and champion and version.number == champion.number:
        decision = Decision(wins=True, reason=version.tags["reason"])
    else:
        rival = _measure_champion(registry, champion, reader, settings, evaluation, params.metric) if champion else None
        decision = decide(params, metrics[params.metric], rival)

    with written_folder(registration) as folder, TemporaryDirectory() as temporary:
        contents = Path(temporary)
        export = version.tags["export"] if version else _export(bundle, contents / "export.pt2")
        description = _write_card(contents / "card", params, bundle, metrics, evaluation, run, export)
        tags = _tags(params, metrics, settings, bundle, decision) | {"export": export}
        if version is None:
            _copy_bundle(model, contents / "bundle")
            example = reader.image(0)[None, :64, :64]
            version = registry.add(
                run_id=run.run_id,
                contents=contents,
                classes_type=bundle.labels.dtype,
                example=example,
                tags=tags,
                description=description,
            )
        else:
            registry.set_tags(version, tags)
        if decision.wins:
            registry.make_champion(version, champion)
        else:
            registry.make_challenger(version)
        run.set_tags({"registered_model": f"{params.name}/{version.number}"})
        run.finish()
        facts = {
            "name": params.name,
            "version": version.number,
            "uri": f"models:/{params.name}/{version.number}",
            "metric": str(params.metric),
            "value": metrics[params.metric],
            "minimum": params.minimum,
            "tolerance": params.tolerance,
            **decision.to_dict(),
            "run_id": run.run_id,
            "data_digest": reader.digest,
            "model_digest": settings["model_digest"],
            "export": export,
        }
        shutil.copytree(contents / "card", folder, dirs_exist_ok=True)
        (folder / "registration.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")

    print(f"{params.name} version {version.number} is the {decision.alias}: {decision.reason}")
    return facts


# --- the decision


@dataclass(frozen=True)
class Rival:
    """The champion on the same test images.

    ``value`` is its score, None where it cannot be measured; ``problem`` says why, and ``usable`` whether it still
    serves those who load it.
    """

    version: str
    value: float | None = None
    problem: str = ""
    usable: bool = True
    significance: Comparison | None = None


@dataclass(frozen=True)
class Decision:
    """Whether the new version is the champion, and why, in one sentence. ``champion`` is the version it was compared
    with.
    """

    wins: bool
    reason: str
    champion: str | None = None
    champion_value: float | None = None
    significance: Comparison | None = None

    @property
    def alias(self) -> str:
        return "champion" if self.wins else "challenger"

    def to_dict(self) -> dict[str, Any]:
        compared = {"champion_before": self.champion, "champion_value": self.champion_value}
        return {
            "alias": self.alias,
            "reason": self.reason,
            **compared,
            "significance": self.significance and asdict(self.significance),
        }


def decide(params: RegisterParams, value: float, rival: Rival | None) -> Decision:
    """Champion or challenger: the gate. ``value`` is the new version's ``params.metric`` on the test split."""
    score = f"{params.metric} {value:.4f}"
    compared: dict[str, Any] = (
        {"champion": rival.version, "champion_value": rival.value, "significance": rival.significance} if rival else {}
    )
    if value < params.minimum:
        return Decision(False, f"{score} is below the minimum {params.minimum:g}", **compared)
    reached = f"{score} reaches the minimum {params.minimum:g}"
    if rival is None:
        return Decision(True, f"{reached} and there was no champion")
    if rival.value is None:
        if rival.usable:
            return Decision(False, f"{reached}, but the champion, version {rival.version}, {rival.problem}", **compared)
        return Decision(
            True, f"{reached} and the champion before, version {rival.version}, {rival.problem}", **compared
        )
    difference = (
        f"{value - rival.value:+.4f} against {rival.value:.4f} of version {rival.version} on the same test"
        f" images{_in_words(rival.significance)}"
    )
    if value < rival.value - params.tolerance:
        return Decision(
            False,
            f"{score} is worse than the champion by more than the tolerance {params.tolerance:g}: {difference}",
            **compared,
        )
    return Decision(
        True, f"{reached} and is not worse than the champion (tolerance {params.tolerance:g}): {difference}", **compared
    )


def _in_words(significance: Comparison | None) -> str:
    if significance is None:
        return ""
    return (
        f" ({significance.confidence:.0%} interval of the difference {significance.low:+.4f} to"
        f" {significance.high:+.4f}, p = {significance.p_value:.2g})"
    )


def _measure_champion(
    registry: Registry, champion: Version, reader: ShardReader, settings: dict[str, Any], evaluation: Path, metric: str
) -> Rival:
    """The champion's score on ``reader``, measured as ``settings`` say the new model was."""
    import numpy as np

    from components.running.progress_bar import track
    from components.steps.evaluate import make_predictor, measure
    from segmodels import metrics
    from segmodels.inference.bundle import bundle_digest, load_bundle

    with TemporaryDirectory() as temporary:
        try:
            folder = registry.download(champion, Path(temporary))
            intact = bundle_digest(folder) == champion.tags.get("model_digest")
        except InputError:
            return Rival(champion.number, problem="has lost its files", usable=False)
        try:
            bundle = load_bundle(folder)
        except InputError as error:
            if not intact:
                return Rival(champion.number, problem=f"is damaged ({error})", usable=False)
            return Rival(champion.number, problem=f"cannot be rebuilt by this version of the code ({error}): {BY_HAND}")
    if bundle.labels.classes != reader.labels.classes:
        return Rival(champion.number, problem=f"knows other classes ({', '.join(bundle.labels.classes)}): {BY_HAND}")
    params = checked(EvaluateParams, evaluate_section(settings["params"]), "evaluation.json")
    classes = reader.labels.num_classes
    keep = (
        len(reader) * classes**2 <= BOOTSTRAP_CELLS
        and metric in ("mean_iou", "frequency_weighted_iou")
        and len(reader) > 1
    )
    total, images = np.zeros((classes, classes), dtype=np.int64), []
    for _, counts in track(
        measure(make_predictor(bundle, params), reader, params.batch_size), "measuring the champion", len(reader)
    ):
        total += counts
        if keep:
            images.append(counts)
    return Rival(
        champion.number,
        metrics.summary(total)[metric],
        significance=_significance(evaluation, images, metric) if keep else None,
    )


def _significance(evaluation: Path, baseline: list[NDArray], metric: Any) -> Comparison:
    import numpy as np

    from components.steps.image_scores import read_image_counts
    from segmodels.metrics import paired_bootstrap

    candidate = read_image_counts(evaluation / "per_image.parquet", len(baseline[0]))
    return paired_bootstrap(candidate, np.stack(baseline), metric, resamples=2000)


# --- what is registered


def _evaluated(evaluation: Path, model: Path, reader: ShardReader) -> tuple[dict[str, float], dict[str, Any]]:
    """Metrics, and how they were measured."""
    from segmodels.inference.bundle import bundle_digest

    try:
        metrics = json.loads((evaluation / "metrics.json").read_text(encoding="utf-8"))
        settings = json.loads((evaluation / "evaluation.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{error.filename} is not there: run the evaluate step first") from None
    except ValueError as error:
        raise InputError(
            f"metrics.json or evaluation.json in {evaluation} is not valid JSON ({error}): run the evaluate step again"
        ) from None
    for what, where, mine in (("model", model, bundle_digest(model)), ("data", reader.folder, reader.digest)):
        if settings[f"{what}_digest"] != mine:
            raise InputError(
                f"{evaluation} was measured with another {what} than {where} holds ({settings[f'{what}_digest']}, not"
                f" {mine}): run the evaluate step again"
            )
    return metrics, settings


def _tags(
    params: RegisterParams,
    metrics: Mapping[str, float],
    settings: Mapping[str, Any],
    bundle: Bundle,
    decision: Decision,
) -> dict[str, str]:
    compared = {"compared_with": decision.champion, "compared_value": decision.champion_value}
    return {
        **{key: str(value) for key, value in bundle.lineage.items()},
        "data_digest": settings["data_digest"],
        "model_digest": settings["model_digest"],
        "model": bundle.name,
        "decision": decision.alias,
        "reason": decision.reason,
        "metric": str(params.metric),
        **{key: str(value) for key, value in compared.items() if value is not None},
        **{f"test.{key}": f"{value:.6g}" if isinstance(value, float) else str(value) for key, value in metrics.items()},
    }


def _export(bundle: Bundle, path: Path) -> str:
    """Write the torch.export program if the model allows; what became of it, in words."""
    from segmodels.inference.export import export_program

    try:
        return f"uint8 images (B, 3, H, W) to logits, free {export_program(bundle, path)}"
    except RuntimeError as error:
        return f"not possible for this model ({error})"


def _write_card(
    folder: Path,
    params: RegisterParams,
    bundle: Bundle,
    metrics: dict[str, float],
    evaluation: Path,
    run: Run,
    export: str,
) -> str:
    """Write model_card.md with its pictures; returns the same text without them, for a page that cannot show them."""
    from components.tracking.model_card import model_card

    shutil.copytree(evaluation / "pictures", folder)
    with (evaluation / "per_class.csv").open(newline="", encoding="utf-8") as file:
        per_class = list(csv.DictReader(file))
    facts = {**bundle.lineage, "mlflow_run": run.run_id}
    trained = run.client.get_run(run.run_id).data.params

    def card(pictures: list[str]) -> str:
        return model_card(
            name=params.name,
            model=bundle.name,
            classes=bundle.labels.classes,
            facts=facts,
            metrics=metrics,
            per_class=per_class,
            params=trained,
            export=export,
            pictures=pictures,
        )

    (folder / "model_card.md").write_text(card(sorted(path.name for path in folder.glob("*.png"))), encoding="utf-8")
    return card([])


def _copy_bundle(model: Path, target: Path) -> None:
    """The model without run.json, which is no part of it."""
    from segmodels.inference.bundle import DESCRIPTION, WEIGHTS

    target.mkdir()
    for name in (WEIGHTS, DESCRIPTION):
        shutil.copyfile(model / name, target / name)
