"""Decides whether anything relevant changed since the champion was trained."""

from __future__ import annotations

from pathlib import Path

from components.environment import environment
from components.params.reading import plain
from components.params.schema import PipelineParams

CONFIRMED_BY = "confirmed_by_pipeline_run"
"""Tag of a model version: the last pipeline run that found nothing new since."""


def changed(params: PipelineParams, dataset: Path, decision: Path, skip_unchanged: bool = True) -> str:
    """Compare data digest, code revision and what shapes a training (its parameters, the images' size) with those of
    the champion.

    Code with changes that are in no commit counts as new.

    Args:
        params: all of params.yaml; the sections preprocess, train and register are read.
        dataset: folder that ingest wrote.
        decision: file for the answer.
        skip_unchanged: end the run where nothing has changed; false trains in any case.

    Returns:
        What ``decision`` holds: ``train`` or ``skip``.

    Raises:
        InputError: MLflow does not answer.
        TransientError: MLflow stops answering.
    """
    from components.tracking import runs
    from components.tracking.lineage import lineage
    from components.tracking.model_registry import Registry
    from segmodels.data.manifest import Dataset

    registry = Registry(runs.mlflow_client(), params.register.name)
    champion = registry.champion()
    now = lineage(
        data_digest=Dataset.open(dataset).digest,
        params=plain(params.train),
        longer_side=params.preprocess.longer_side,
    )
    new = [
        what
        for what in ("data_digest", "code_revision", "params_digest")
        if champion and champion.tags.get(what) != now[what]
    ]
    committed = now["code_revision"] != "unknown" and not now["code_revision"].endswith("-dirty")

    answer = "train"
    if champion is None:
        print(f"{registry.name} has no champion yet: training")
    elif new:
        print(f"new since the champion, version {champion.number}: {', '.join(new).replace('_', ' ')}: training")
    elif not committed:
        print(f"the code's revision is {now['code_revision']}, which does not tell whether it is new: training")
    elif not skip_unchanged:
        print(f"nothing is new since the champion, version {champion.number}; training because skip_unchanged is false")
    else:
        answer = "skip"
        print(
            f"nothing is new since the champion, version {champion.number} (data {now['data_digest']}, code"
            f" {now['code_revision']}): the run ends here"
        )
        if run := environment().pipeline_run:
            registry.set_tags(champion, {CONFIRMED_BY: run})
    decision.parent.mkdir(parents=True, exist_ok=True)
    decision.write_text(answer)
    return answer
