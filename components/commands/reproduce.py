"""Check that a registered version can be made again: data, code, parameters, scores, and by choice the weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from components.params import FILE
from components.params.schema import PipelineParams
from components.tracking.local_store import STORE
from segmodels.errors import InputError

if TYPE_CHECKING:
    from segmodels.tasks.base import Evaluator

RESAMPLES = 2000


def reproduce(version: str, /, params: PipelineParams, shards: Path, retrain: bool = False) -> None:
    """Compare what a version was made of with this workspace, measure it again on the test images, and say whether the
    confusion matrix is the same.

    Args:
        version: NAME/NUMBER, models:/NAME/NUMBER or models:/NAME@ALIAS.
        params: of this workspace, compared with those of the version's training.
        shards: folder that preprocess wrote.
        retrain: train again, with the version's own parameters, and compare the weights bit for bit; where they differ,
            say whether the score lies in the 95% interval of the version's.

    Raises:
        InputError: no such version; other data; or the version's scores or weights cannot be had again.
        TransientError: MLflow does not answer.
    """
    from components.params.reading import plain
    from components.tracking.client import mlflow_client
    from components.tracking.lineage import code_revision, params_digest
    from components.tracking.mlflow_errors import answers
    from components.tracking.model_registry import REGISTERED, download_bundle, version_now
    from components.tracking.reproduction import MACHINE, machine_facts, recorded_params
    from segmodels.data.shards import ShardReader

    reader = ShardReader(shards, "test")
    name, number = version_now(version if version.startswith(REGISTERED) else REGISTERED + version)
    client = mlflow_client()
    with answers(f"model {name}/{number}", client.tracking_uri):
        tags = client.get_model_version(name, number).tags
        run = client.get_run(client.get_model_version(name, number).run_id)
    longer_side = reader.longer_side
    here = {
        "data_digest": reader.digest,
        "code_revision": code_revision(),
        "params_digest": params_digest({**plain(params.train), "longer_side": longer_side}),
        **machine_facts(),
    }
    wanted = {
        **{key: tags.get(key, "unknown") for key in here},
        **{key: run.data.tags.get(key, "unknown") for key in MACHINE},
    }
    for key, value in here.items():
        _say(MACHINE.get(key, key.replace("_", " ")), wanted[key], value)
    if wanted["data_digest"] != here["data_digest"]:
        raise InputError(
            f"{shards} holds other data ({here['data_digest']}) than {name} version {number} was made of"
            f" ({wanted['data_digest']}): check that revision of the dataset out, and run ingest to preprocess"
        )
    with TemporaryDirectory() as temporary:
        bundle = download_bundle(f"{REGISTERED}{name}/{number}", Path(temporary) / "registered", client)
        evaluator = _measured(bundle, reader)
        _check_counts(client, run.info.run_id, evaluator, Path(temporary), f"{name} version {number}")
        if retrain:
            own = recorded_params(run.data.params)
            if params_digest({**own, "longer_side": longer_side}) != wanted["params_digest"]:
                print("the run's parameters are not complete: those of this workspace are used")
                own = plain(params.train)
            _compare_weights(bundle, _trained(own, shards, Path(temporary)), evaluator, reader)


def _say(what: str, recorded: str, now: str) -> None:
    print(f"{what:<14} {recorded if recorded == now else f'{recorded}, here {now}'}")


def _measured(bundle: Path, reader: Any) -> Evaluator:
    from components.running.progress_bar import track
    from segmodels.inference.bundle import load_bundle
    from segmodels.inference.measure import measure
    from segmodels.inference.predictor import Predictor, choose_device

    predictor = Predictor(load_bundle(bundle), choose_device())
    return measure(predictor, reader, 8, lambda batches: track(batches, "measuring again", len(batches)))


def _check_counts(client: Any, run_id: str, evaluator: Evaluator, folder: Path, version: str) -> None:
    import mlflow
    import numpy as np

    from components.artifacts import CONFUSION
    from components.tracking.compared_runs import EVALUATION_FOLDER
    from components.tracking.mlflow_errors import answers

    with answers(f"the evaluation of run {run_id}", client.tracking_uri):
        file = mlflow.artifacts.download_artifacts(
            run_id=run_id,
            artifact_path=f"{EVALUATION_FOLDER}/{CONFUSION.name}",
            dst_path=str(folder),
            tracking_uri=client.tracking_uri,
        )
    recorded, now = np.array(CONFUSION.read(Path(file).parent)["counts"]), evaluator.confusion()[1]
    if not np.array_equal(recorded, now):
        apart = int(np.abs(recorded - now).sum() // 2) if recorded.shape == now.shape else "all"
        raise InputError(
            f"{version} measured here has another confusion matrix ({apart} counts differ): compare code, torch build"
            " and device above"
        )
    print("confusion      identical")


def _trained(params: Mapping[str, Any], shards: Path, folder: Path) -> Path:
    """The folder of a model trained anew, by a process of its own and without a trace in MLflow's server."""
    file, model = folder / FILE.name, folder / "again"
    file.write_text(json.dumps({"train": params}), encoding="utf-8")  # JSON is YAML
    options = {"params": file, "shards": shards, "checkpoints": folder / "checkpoints", "model": model}
    command = [sys.executable, "-m", "components", "train", *(f"--{name}={path}" for name, path in options.items())]
    names = ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID")
    own = {key: value for key, value in os.environ.items() if key not in names}
    done = subprocess.run(command, env=own | {"MLFLOW_TRACKING_URI": f"sqlite:///{folder / STORE}"})
    if done.returncode:
        raise InputError(f"the training that was to be repeated ended with exit code {done.returncode}: see above")
    return model


def _compare_weights(bundle: Path, again: Path, evaluator: Evaluator, reader: Any) -> None:
    import torch

    from segmodels.inference.bundle import load_bundle
    from segmodels.metrics.significance import interval

    first, second = (load_bundle(folder).model.state_dict() for folder in (bundle, again))
    if first.keys() == second.keys() and all(torch.equal(value, second[key]) for key, value in first.items()):
        print("weights        identical, bit for bit")
        return
    task = load_bundle(bundle).task
    score, words = next(iter(task.headline.items()))
    value = _measured(again, reader).scores()[score]
    low, high = interval(partial(evaluator.resampled, score), len(evaluator.images()), RESAMPLES)
    place = "inside" if low <= value <= high else "outside"
    said = f"{words} {value:.4f} is {place} the version's 95% interval {low:.4f} to {high:.4f}"
    print(f"weights        differ; {said}")
    if place == "outside":
        raise InputError(f"the version cannot be trained again: {said}; compare code and machine above")
