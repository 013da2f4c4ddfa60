"""Check that a registered version can be reproduced: data, code, parameters, scores, and on request the weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from components.artifacts import CONFUSION, EVALUATION, METRICS
from components.environment import variable
from components.params import FILE
from components.params.schema import PipelineParams
from components.running.clean_clone import DIRTY, clean_clone
from components.tracking.local_store import STORE
from segmodels.errors import InputError
from segmodels.files import WEIGHTS

if TYPE_CHECKING:
    from components.tracking.compared_runs import Measured

HERE = Path(__file__).parents[2]
"""The code that runs."""

RESAMPLES = 2000

ELSEWHERE = ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", variable("checkpoints"), variable("train_job"))
"""Variables that would lead a repeated training to the run or the states of the one before, or to a cluster."""


def reproduce(
    version: str, /, params: PipelineParams, shards: Path, retrain: bool = False, clone: bool = False
) -> None:
    """Compare what a version was made of with this workspace, measure it again on the test images, and say whether the
    confusion matrix is the same.

    Args:
        version: NAME/NUMBER, models:/NAME/NUMBER or models:/NAME@ALIAS.
        params: of this workspace, compared with those of the version's training.
        shards: folder that preprocess wrote.
        retrain: train again, with the version's own parameters and number of threads, and compare the weights bit for
            bit; where they differ, say whether the score lies in the 95% interval of the version's.
        clone: instead of this workspace's code and params.yaml use those of the version's commit, in a temporary clone.

    Raises:
        InputError: no such version, or its commit is not in this repository; other data; or the version's scores or
            weights cannot be reproduced.
        TransientError: MLflow does not answer.
    """
    from components.params.reading import checked_params, plain, read_params
    from components.tracking.client import mlflow_client, registry_uri
    from components.tracking.compared_runs import measured
    from components.tracking.lineage import code_revision, params_digest
    from components.tracking.mlflow_errors import answers
    from components.tracking.model_registry import REGISTERED, download_bundle, version_now
    from components.tracking.reproduction import MACHINE, differing_params, machine_facts, recorded_params
    from segmodels.data.shards import ShardReader

    reader = ShardReader(shards, "test")
    name, number = version_now(version if version.startswith(REGISTERED) else REGISTERED + version)
    client, title = mlflow_client(), f"{name} version {number}"
    with answers(f"model {name}/{number}", registry_uri(client)):
        registered = client.get_model_version(name, number)
        run = client.get_run(registered.run_id)
    tags = {**run.data.tags, **registered.tags}
    revision = tags.get("code_revision", "unknown")
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        code = clean_clone(revision, folder / "clone") if clone else HERE
        # another revision's names are those of its own registries
        theirs = checked_params(read_params(code / FILE), str(FILE), names=False) if clone else params
        train = plain(theirs.train)
        here = {
            "data_digest": reader.digest,
            "code_revision": revision.removesuffix(DIRTY) if clone else code_revision(),
            "params_digest": params_digest({**train, "longer_side": reader.longer_side}),
            **machine_facts(),
        }
        for key, value in here.items():
            _say(MACHINE.get(key, key.replace("_", " ")), tags.get(key, "unknown"), value)
        for key, values in differing_params(run.data.params, train).items():
            _say(f"  {key}", *values)
        if revision.endswith(DIRTY):
            print(f"{title} was trained with changes that are not in its commit")
        if tags.get("data_digest") != reader.digest:
            raise InputError(
                f"{shards} holds other data ({reader.digest}) than {title} was made of ({tags.get('data_digest')}):"
                " check that revision of the dataset out, and run ingest to preprocess"
            )
        bundle = download_bundle(f"{REGISTERED}{name}/{number}", folder / "registered", client)
        before = measured(client, run.info.run_id, folder)
        if before is None:
            raise InputError(
                f"run {run.info.run_id} of {title} has no evaluation in MLflow to compare with: choose another version"
            )
        evaluated = partial(_evaluated, code, folder, shards.absolute(), before)
        _check_counts(before, evaluated(bundle), title)
        if retrain:
            own = recorded_params(run.data.params)
            if params_digest({**own, "longer_side": reader.longer_side}) != tags.get("params_digest"):
                others = "its commit" if clone else "this workspace"
                print(f"the run does not have all its parameters: those of {others} are used")
                own = train
            with _init_here(own) as start:
                again = _trained(code, folder, shards.absolute(), {**own, "init": start}, tags.get("threads", ""))
            if _same_weights(bundle, again):
                print("weights        identical, bit for bit")
                return
            differ = [what for key, what in MACHINE.items() if key != "threads" and tags.get(key) != here[key]]
            print(f"weights        differ, as do {' and '.join(differ)}" if differ else "weights        differ")
            _check_score(before, METRICS.read(evaluated(again)), title)


@contextmanager
def _init_here(params: Mapping[str, Any]) -> Iterator[str | None]:
    """The start of a training, for a process in another folder and without MLflow's server."""
    from components.tracking.model_registry import bundle_folder, is_registered

    init = params.get("init")
    if init and (is_registered(init) or Path(init).exists()):
        with bundle_folder(init) as folder:
            yield str(folder.absolute())
    else:
        yield init


def _say(what: str, recorded: str, now: str) -> None:
    print(f"{what:<14} {recorded if recorded == now else f'{recorded}, here {now}'}")


def _evaluated(code: Path, folder: Path, shards: Path, before: Measured, model: Path) -> Path:
    """The folder of an evaluation of a model, with the settings of the one before."""
    facts = EVALUATION.read(before.folder)
    section = {**facts["settings"], "batch_size": facts["params"]["batch_size"], "overlays": 0}
    evaluation = folder / f"evaluation of {model.name}"
    _run_step("evaluate", section, code, folder, shards=shards, model=model, evaluation=evaluation)
    return evaluation


def _trained(code: Path, folder: Path, shards: Path, params: Mapping[str, Any], threads: str) -> Path:
    """The folder of a model trained anew."""
    model = folder / "again"
    own = {"OMP_NUM_THREADS": threads} if threads.isdecimal() else {}
    _run_step("train", params, code, folder, own, shards=shards, checkpoints=folder / "checkpoints", model=model)
    return model


def _run_step(
    step: str,
    section: Mapping[str, Any],
    code: Path,
    folder: Path,
    variables: Mapping[str, str] | None = None,
    **folders: Path,
) -> None:
    """Run a step's command line with the code in a folder, without a trace in the workspace or in MLflow's server.

    Args:
        section: of params.yaml.
        folder: where it runs, and keeps its files.
        variables: of the process, beside those of this one.
    """
    file = folder / f"{step}.yaml"
    file.write_text(json.dumps({step: section}), encoding="utf-8")  # JSON is YAML
    options = [f"--{name}={path}" for name, path in {"params": file, **folders}.items()]
    own = {key: value for key, value in os.environ.items() if key not in ELSEWHERE}
    own |= {"PYTHONPATH": os.pathsep.join(filter(None, (str(code), own.get("PYTHONPATH"))))}
    own |= {"MLFLOW_TRACKING_URI": f"sqlite:///{folder / STORE}"} | dict(variables or {})
    done = subprocess.run([sys.executable, "-m", "components", step, *options], cwd=folder, env=own)
    if done.returncode:
        raise InputError(f"the step {step} that was to be repeated ended with exit code {done.returncode}: see above")


def _check_counts(before: Measured, evaluation: Path, title: str) -> None:
    import numpy as np

    recorded, now = (np.array(CONFUSION.read(folder)["counts"]) for folder in (before.folder, evaluation))
    if not np.array_equal(recorded, now):
        apart = int(np.abs(recorded - now).sum() // 2) if recorded.shape == now.shape else "all"
        raise InputError(
            f"{title} measured here has another confusion matrix ({apart} counts differ): compare code, torch build"
            " and device above"
        )
    print("confusion      identical")


def _same_weights(*bundles: Path) -> bool:
    import torch
    from safetensors.torch import load_file

    first, second = (load_file(folder / WEIGHTS) for folder in bundles)
    return first.keys() == second.keys() and all(
        value.dtype == second[key].dtype and torch.equal(value, second[key]) for key, value in first.items()
    )


def _check_score(before: Measured, scores: Mapping[str, Any], title: str) -> None:
    """Whether the new model's first score lies in the interval of the version's."""
    from segmodels.metrics.significance import interval

    score, words = next(iter(before.task.headline.items()))
    low, high = interval(partial(before.evaluator.resampled, score), len(before.evaluator.images()), RESAMPLES)
    value = scores[score] if scores[score] is not None else float("nan")
    place = "inside" if low <= value <= high else "outside"
    said = f"{words} {value:.4f} is {place} the version's 95% interval {low:.4f} to {high:.4f}"
    print(f"score          {said}")
    if place == "outside":
        raise InputError(f"{title} cannot be trained again: {said}; compare code and machine above")
