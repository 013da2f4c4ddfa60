"""Decides whether anything relevant changed since the champion or the challenger was trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from components.environment import environment
from components.params.reading import plain
from components.params.schema import PipelineParams

CONFIRMED_BY = "confirmed_by_pipeline_run"
"""Tag of a model version: the last pipeline run that found nothing new since."""
DATA_REVISION = "data_revision"
"""Tag of a model version: the dataset's revision in the pipeline run that registered it."""


def changed(params: PipelineParams, revision: Path, decision: Path, init: Path, skip_unchanged: bool = True) -> str:
    """Find the dataset's revision, and compare it, the code's revision and the parameters that shape a training (those
    of the sections ``ingest`` and ``train`` and the images' size) with those of the champion and of the challenger.
    Downloads no data.

    What has become a challenger would be trained to the same result again. Code with uncommitted changes counts as new.

    Args:
        params: all of params.yaml; the sections ingest, preprocess, train and register are read.
        revision: file for the dataset's revision, see datasets/revision.py.
        decision: file for the answer.
        init: file for the address that ``train.init`` stands for now, with a version in the place of an alias.
        skip_unchanged: end the run where nothing has changed; false trains in any case.

    Returns:
        What ``decision`` holds: ``train`` or ``skip``.

    Raises:
        InputError: the dataset's source or MLflow is not there or refuses.
        TransientError: the dataset's source or MLflow stops answering.
    """
    from components.datasets.revision import dataset_revision
    from components.tracking.client import mlflow_client
    from components.tracking.lineage import lineage
    from components.tracking.model_registry import Registry, pinned

    registry = Registry(mlflow_client(), params.register.name)
    train = replace(params.train, init=pinned(params.train.init))
    now = lineage(data_digest="", params=plain(train), longer_side=params.preprocess.longer_side)
    now[DATA_REVISION] = dataset_revision(params.ingest)
    known = {"champion": registry.champion(), "challenger": registry.challenger()}
    versions = {alias: version for alias, version in known.items() if version}
    new = {
        alias: [
            what for what in (DATA_REVISION, "code_revision", "params_digest") if version.tags.get(what) != now[what]
        ]
        for alias, version in versions.items()
    }
    committed = now["code_revision"] != "unknown" and not now["code_revision"].endswith("-dirty")
    same = next((alias for alias, differences in new.items() if not differences), None)

    answer = "train"
    if same is None and "champion" not in new:
        print(f"{registry.name} has no champion yet: training")
    elif same is None:
        differences = ", ".join(new["champion"]).replace("_", " ")
        print(f"new since the champion, version {versions['champion'].number}: {differences}: training")
    elif not committed:
        print(f"the code's revision is {now['code_revision']}, which does not tell whether it is new: training")
    elif not skip_unchanged:
        known_as = f"the {same}, version {versions[same].number}"
        print(f"nothing is new since {known_as}; training because skip_unchanged is false")
    else:
        answer = "skip"
        print(
            f"nothing is new since the {same}, version {versions[same].number} (data"
            f" {versions[same].tags.get('data_digest')}, code {now['code_revision']}): the run ends here"
        )
        if run := environment().pipeline_run:
            registry.set_tags(versions[same], {CONFIRMED_BY: run})
    for file, text in ((revision, now[DATA_REVISION]), (decision, answer), (init, train.init or "")):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return answer
