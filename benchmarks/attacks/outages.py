"""A tracking server that is away, hangs or answers wrongly; two registrations at once."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks.attacks.ground import (
    PARAMS,
    PYTHON,
    Ground,
    Trials,
    kill,
    mean_iou,
    run,
    start,
    until,
    wait,
    write_params,
)
from benchmarks.attacks.proxy import MODES, Proxy, free_port

EPOCHS = 40
SECONDS_TO_START, SECONDS_TO_STOP = 60, 30
"""The longest wait for a sentence at the start, imports on a busy machine included, and for the end after SIGTERM;
Kubernetes kills after 30.
"""


def tracking(ground: Ground) -> Trials:
    """Away from the start; away from an epoch on; SIGTERM meanwhile; and what is missing is sent when it is back."""
    with mlflow_server(ground.folder / "server") as port, Proxy(port) as proxy:
        for mode in MODES:
            proxy.mode = mode
            workspace = ground.copy("data/model", "data/checkpoints")
            outcome = run(workspace, *PYTHON, "train", seconds=SECONDS_TO_START, MLFLOW_TRACKING_URI=proxy.uri)
            yield f"{mode} from the start", outcome.fault((0, 2, 75))
        for mode in MODES:
            yield f"{mode} from an epoch on", _lost_and_back(ground, proxy, mode)
        for mode in MODES:
            yield f"SIGTERM while it answers by {mode}", _stopped(ground, proxy, mode)


def _training(ground: Ground, proxy: Proxy, mode: str, patience: float = 60) -> tuple[Path, subprocess.Popen[str]]:
    workspace = ground.copy("data/model", "data/checkpoints", "data/evaluation")
    write_params(workspace, {**PARAMS, "train": {**PARAMS["train"], "epochs": EPOCHS}})
    proxy.mode = "answers"
    process = start(workspace, *PYTHON, "train", MLFLOW_TRACKING_URI=proxy.uri)
    journal = workspace / "data" / "checkpoints"
    until(
        lambda: any(path.stat().st_size for path in journal.glob("*/metrics.jsonl")) or process.poll() is not None,
        patience,
    )
    proxy.mode = mode
    return workspace, process


def _lost_and_back(ground: Ground, proxy: Proxy, mode: str) -> str:
    workspace, process = _training(ground, proxy, mode)
    outcome = wait(process, 60)
    if fault := outcome.fault((0,)):
        return fault
    proxy.mode = "answers"
    outcome = run(workspace, *PYTHON, "evaluate", MLFLOW_TRACKING_URI=proxy.uri)
    if fault := outcome.fault((0,)):
        return f"evaluate: {fault}"
    run_id = json.loads((workspace / "data" / "model" / "run.json").read_text())["run_id"]
    answer = f"{proxy.direct}/api/2.0/mlflow/metrics/get-history?run_id={run_id}&metric_key=train/loss"
    with urllib.request.urlopen(answer, timeout=20) as reply:
        steps = sorted(int(point["step"]) for point in json.load(reply).get("metrics", []))
    return "" if len(steps) == len(set(steps)) == EPOCHS else f"{len(steps)} of {EPOCHS} losses are in MLflow"


def _stopped(ground: Ground, proxy: Proxy, mode: str) -> str:
    _, process = _training(ground, proxy, mode)
    time.sleep(1)
    if process.poll() is not None:
        return f"ended before the signal: {process.communicate()[0][-200:]}"
    process.send_signal(signal.SIGTERM)
    return wait(process, SECONDS_TO_STOP).fault((0, 143))


def registers(ground: Ground) -> Trials:
    """Two models at once: the better one is champion. One model twice: one version."""
    from mlflow import MlflowClient

    workspace = ground.copy()
    worse = ("--model", "data/worse", "--evaluation", "data/worse-evaluation")
    write_params(workspace, {**PARAMS, "train": {**PARAMS["train"], "epochs": 1, "lr": 1e-5}})
    for command in (("train", *worse[:2]), ("evaluate", *worse)):
        if fault := ground.call(workspace, *command, seconds=60).fault((0,)):
            raise RuntimeError(f"{command} fails without any attack: {fault}")
    better = "worse" if mean_iou(workspace, "worse-evaluation") > mean_iou(workspace) else "model"
    run_id = json.loads((workspace / "data" / better / "run.json").read_text())["run_id"]
    client = MlflowClient(f"sqlite:///{workspace}/mlflow.db")
    for trial in range(3):
        for name, second, versions in ((f"race-{trial}", worse, 2), (f"double-{trial}", (), 1)):
            write_params(workspace, {**PARAMS, "register": {**PARAMS["register"], "name": name}})
            both = [
                start(workspace, *PYTHON, "register", "--registration", f"data/{name}-{number}", *options)
                for number, options in enumerate(((), second))
            ]
            if fault := next((fault for process in both if (fault := wait(process, 90).fault((0,)))), ""):
                yield name, fault
                continue
            found = client.search_model_versions(f"name = '{name}'")
            champion = client.get_model_version_by_alias(name, "champion")
            if len(found) != versions:
                yield name, f"{len(found)} versions, expected {versions}"
            else:
                yield name, "" if versions == 1 or champion.run_id == run_id else "the worse model is champion"


@contextmanager
def mlflow_server(folder: Path) -> Iterator[int]:
    """An MLflow server of one's own; its port."""
    folder.mkdir()
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    process = start(folder, *command, "--backend-store-uri", f"sqlite:///{folder}/mlflow.db")
    try:

        def answers() -> bool:
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                return True
            return False

        if not until(answers, 90):
            raise RuntimeError("the MLflow server does not start")
        yield port
    finally:
        kill(process)
