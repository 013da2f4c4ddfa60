"""Decides whether a run can come to anything else than the versions that are registered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from components.environment import environment
from components.params.reading import plain
from components.params.schema import PipelineParams

if TYPE_CHECKING:
    from components.tracking.model_registry import Registry, Version

CONFIRMED_BY = "confirmed_by_pipeline_run"
"""Tag of a model version: the last pipeline run that found nothing new since."""
CONFIRMED_AS = "confirmed_as"
"""Tag of a model version: what had become of it then, such as challenger."""

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
    """Find the dataset's revision, and compare it, the code's revision and the parameters of all steps with those of
    all registered versions. Downloads no data.

    What is a version already would come to the same result again, and might undo what a person decided: a version that
    lost, was replaced, rolled back or archived stays so. Code with uncommitted changes counts as new. Of a run that
    continues, Kubeflow's cache serves the steps whose own inputs have not changed.

    Args:
        params: all of params.yaml.
        revision: file for the dataset's revision, see datasets/revision.py.
        digest: file for the digest of the parameters of all steps but ingest, which the revision covers.
        decision: file for the answer.
        init: file for the address that ``train.init`` stands for now, with a version in the place of an alias.
        anew: file for the name of this run's training, if no cache and no checkpoint of an equal one may stand for it:
            the pipeline run where ``skip_unchanged`` is false. Otherwise the name of the newest equal training, so that
            its version is the one to decide on; empty if there is none, or it has no name.
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
    champion = registry.champion()
    known = _known(registry.tagged(PARAMS_DIGEST, now[PARAMS_DIGEST]), champion, now)
    committed = now["code_revision"] != "unknown" and not now["code_revision"].endswith("-dirty")

    answer = "train"
    follows = "the run continues" + ("" if skip_unchanged else " and trains anew, because skip_unchanged is false")
    if known is None and champion is None:
        print(f"{registry.name} has no champion yet: {follows}")
    elif known is None:
        assert champion is not None
        new = ", ".join(what.removesuffix("_digest").replace("_", " ") for what in _differences(champion, now))
        print(f"new since the champion, version {champion.number}: {new}: {follows}")
    elif not committed:
        print(f"the code's revision is {now['code_revision']}, which does not tell whether it is new: {follows}")
    elif not skip_unchanged:
        print(f"nothing is new since version {known.number} ({_standing(known, champion)}): {follows}")
    else:
        answer = "skip"
        standing = _standing(known, champion)
        print(
            f"nothing is new since version {known.number} ({standing}; data {known.tags.get('data_digest')}, code"
            f" {now['code_revision']}): the run ends here"
        )
        if run := environment().pipeline_run:
            registry.set_tags(known, {CONFIRMED_BY: run, CONFIRMED_AS: standing})
    texts = {revision: now[DATA_REVISION], digest: now[PARAMS_DIGEST], decision: answer, init: params.train.init or ""}
    texts[anew] = _newest_equal(registry, params, now) if skip_unchanged else environment().pipeline_run
    for file, text in texts.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return answer


def _newest_equal(registry: Registry, params: PipelineParams, now: Mapping[str, str]) -> str:
    """The name of the newest training that was registered and equals this run's; empty if it has none."""
    from components.tracking.lineage import training_digest

    digest = training_digest(plain(params.train), params.preprocess.longer_side)
    for version in registry.tagged("params_digest", digest):
        if all(version.tags.get(fact) == now[fact] for fact in (DATA_REVISION, "code_revision")):
            return version.tags.get("trained_anew", "")
    return ""


def _known(versions: Sequence[Version], champion: Version | None, now: Mapping[str, str]) -> Version | None:
    """The champion, if this run would come to it, else the first of ``versions`` that it would come to."""
    same = [version for version in versions if not _differences(version, now)]
    if champion is None:  # one that was champion can become it again
        same = [version for version in same if version.tags.get("decision") != "champion"]
    return next((one for one in same if champion and one.number == champion.number), next(iter(same), None))


def _differences(version: Version, now: Mapping[str, str]) -> list[str]:
    return [what for what in now if version.tags.get(what) != now[what]]


def _standing(version: Version, champion: Version | None) -> str:
    """What became of a version, in words."""
    from components.tracking.model_registry import ARCHIVED, CHAMPION

    if champion and version.number == champion.number:
        return CHAMPION
    decision = ARCHIVED if ARCHIVED in version.tags else version.tags.get("decision", "registered")
    return "replaced as champion" if decision == CHAMPION else decision
