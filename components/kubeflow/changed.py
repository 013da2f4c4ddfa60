"""Decides whether anything relevant changed since the champion or the challenger was registered."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from components.environment import environment
from components.params.reading import plain
from components.params.schema import PipelineParams

CONFIRMED_BY = "confirmed_by_pipeline_run"
"""Tag of a model version: the last pipeline run that found nothing new since."""

OF_RUN = DATA_REVISION, PARAMS_DIGEST = "data_revision", "pipeline_params_digest"
"""Tags of a model version: the dataset's revision, and the digest of the parameters of all steps after ingest, in the
pipeline run that registered the version or decided on it last.
"""


def changed(
    params: PipelineParams,
    revision: Path,
    digest: Path,
    decision: Path,
    init: Path,
    anew: Path,
    skip_unchanged: bool = True,
) -> str:
    """Find the dataset's revision, and compare it, the code's revision and the parameters of all steps with those that
    the champion and the challenger come from. Downloads no data.

    What has become a challenger would come to the same result again. Code with uncommitted changes counts as new. Of a
    run that continues, Kubeflow's cache serves the steps whose own inputs have not changed.

    Args:
        params: all of params.yaml.
        revision: file for the dataset's revision, see datasets/revision.py.
        digest: file for the digest of the parameters of all steps but ingest, which the revision covers.
        decision: file for the answer.
        init: file for the address that ``train.init`` stands for now, with a version in the place of an alias.
        anew: file for the name of this run's training, if no cache and no checkpoint of an equal one may stand for it:
            the pipeline run where ``skip_unchanged`` is false, else empty.
        skip_unchanged: end the run where nothing has changed; false trains anew in any case.

    Returns:
        What ``decision`` holds: ``train`` or ``skip``.

    Raises:
        InputError: the dataset's source or MLflow is not there or refuses.
        TransientError: the dataset's source or MLflow stops answering.
    """
    from components.datasets.revision import dataset_revision
    from components.tracking.client import mlflow_client
    from components.tracking.lineage import code_revision, params_digest
    from components.tracking.model_registry import Registry, pinned

    registry = Registry(mlflow_client(), params.register.name)
    params = replace(params, train=replace(params.train, init=pinned(params.train.init)))
    sections = plain(params)
    del sections["ingest"]  # in the revision, except the name of a state of a DVC repository, which is not the state
    now = {
        DATA_REVISION: dataset_revision(params.ingest),
        "code_revision": code_revision(),
        PARAMS_DIGEST: params_digest(sections),
    }
    known = {"champion": registry.champion(), "challenger": registry.challenger()}
    versions = {alias: version for alias, version in known.items() if version}
    new = {alias: [what for what in now if version.tags.get(what) != now[what]] for alias, version in versions.items()}
    committed = now["code_revision"] != "unknown" and not now["code_revision"].endswith("-dirty")
    same = next((alias for alias, differences in new.items() if not differences), None)

    answer = "train"
    follows = "the run continues" + ("" if skip_unchanged else " and trains anew, because skip_unchanged is false")
    if same is None and "champion" not in new:
        print(f"{registry.name} has no champion yet: {follows}")
    elif same is None:
        differences = ", ".join(what.removesuffix("_digest").replace("_", " ") for what in new["champion"])
        print(f"new since the champion, version {versions['champion'].number}: {differences}: {follows}")
    elif not committed:
        print(f"the code's revision is {now['code_revision']}, which does not tell whether it is new: {follows}")
    elif not skip_unchanged:
        print(f"nothing is new since the {same}, version {versions[same].number}: {follows}")
    else:
        answer = "skip"
        print(
            f"nothing is new since the {same}, version {versions[same].number} (data"
            f" {versions[same].tags.get('data_digest')}, code {now['code_revision']}): the run ends here"
        )
        if run := environment().pipeline_run:
            registry.set_tags(versions[same], {CONFIRMED_BY: run})
    texts = {revision: now[DATA_REVISION], digest: now[PARAMS_DIGEST], decision: answer, init: params.train.init or ""}
    for file, text in (texts | {anew: "" if skip_unchanged else environment().pipeline_run}).items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return answer
