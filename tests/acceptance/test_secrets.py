"""Secrets of many kinds are planted; none comes out in what is printed, written, logged, stored or compiled."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path

import pytest
import torch
import yaml
from mlflow_server import MlflowServer

from segmodels.encoders.registry import create_encoder

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(900)]
REPOSITORY = Path(__file__).parents[2]
MARK = "S3CR3T"
IMAGE = "registry.example/segmodels@sha256:" + "0" * 64
NUMBERS = count(1)


def secret() -> str:
    return f"{MARK}{next(NUMBERS):03d}x"


def variables(mlflow: MlflowServer) -> dict[str, str]:
    """The environment of every command: secrets under the names of their tools, and within addresses."""
    names = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
    others = ("GITHUB_TOKEN", "DATABRICKS_TOKEN", "PGPASSWORD", "HF_TOKEN", "AZURE_STORAGE_ACCESS_KEY")
    return {
        **{name: secret() for name in (*names, *others)},
        "AWS_ACCESS_KEY_ID": "me",
        "AWS_MAX_ATTEMPTS": "1",
        "MLFLOW_TRACKING_USERNAME": "me",
        "AWS_ENDPOINT_URL": f"http://me:{secret()}@127.0.0.1:9",
        "HTTP_PROXY": f"http://me:{secret()}@127.0.0.1:9",
        "NO_PROXY": "127.0.0.1",
        "SEGMODELS_WEBHOOK_URL": f"http://127.0.0.1:9/hooks/{secret()}?token={secret()}",
        "MLFLOW_TRACKING_URI": mlflow.uri.replace("://", f"://me:{secret()}@"),
    }


class Commands:
    """Runs commands in a folder, and looks at all that they print."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self.environment = folder, environment

    def run(self, *command: str, code: int | tuple[int, ...] = 0, module: str = "components", **changes: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", module, *command],
            cwd=self.folder,
            env={**os.environ, "OMP_NUM_THREADS": "1", **self.environment, **changes},
            capture_output=True,
            timeout=300,
        )
        output = done.stdout + done.stderr
        assert done.returncode in (code if isinstance(code, tuple) else (code,)), (command, output[-2000:])
        if code != 0:
            assert b"Traceback" not in output, (command, output[-2000:])
        assert MARK.encode() not in output, (command, output)


@pytest.fixture
def mlflow(tmp_path: Path) -> Iterator[MlflowServer]:
    (tmp_path / "server").mkdir()
    server = MlflowServer(tmp_path / "server")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def weights(tmp_path: Path) -> Iterator[str]:
    """Address, without credentials, of a server with weights of an encoder."""
    (tmp_path / "weights").mkdir()
    torch.save(create_encoder("resnet18").state_dict(), tmp_path / "weights" / "resnet18.pth")
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "weights"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}/resnet18.pth"
        server.shutdown()


def test_no_planted_secret_comes_out(tmp_path: Path, mlflow: MlflowServer, weights: str) -> None:
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    encoder_weights = f"http://me:{secret()}@{weights}?X-Amz-Credential={secret()}&X-Amz-Signature={secret()}"
    params = {
        "ingest": {"digits": {"train": 12, "val": 4, "test": 4, "size": 32}},
        "train": {
            "model": "semantic_fpn_resnet50",
            "options": {"encoder": "resnet18", "encoder_weights": encoder_weights},
            "epochs": 1,
            "batch_size": 4,
            "accelerator": "cpu",
            "system_metrics": True,
        },
        "register": {"name": "tiny"},
    }
    (workspace / "params.yaml").write_text(yaml.safe_dump(params))
    commands = Commands(workspace, variables(mlflow))
    run = commands.run
    home = {"SEGMODELS_CACHE": str(tmp_path / "cache")}
    for step in ("ingest", "validate", "preprocess", "train", "evaluate", "register"):
        run(step, *(["--cache", "data/cache"] if step == "ingest" else []), **home)
    run("report")
    images = ("--images", "data/cache", "--out", "out")
    run("predict", "--model", "models:/tiny@champion", *images)

    # what fails: every address with credentials of its own
    away = {"MLFLOW_TRACKING_URI": f"http://me:{secret()}@127.0.0.1:9"}
    run("train", "--set", "train.seed=1", code=75, **away, **home)
    run("predict", "--model", "models:/tiny@champion", *images, code=75, **away)
    run("predict", "--model", "models:/tiny@champion", *images, code=2, MLFLOW_TRACKING_URI=f"htp://me:{secret()}@x")
    repo = f"http://me:{secret()}@127.0.0.1:9/data.git?private_token={secret()}"
    dvc = ("--set", "ingest.source=dvc", "--set", f"ingest.repo={repo}", "--set", "ingest.path=x")
    run("ingest", "--cache", "data/cache", "--dataset", "data/other", *dvc, code=(2, 75))
    s3 = ("--set", "ingest.source=s3", "--set", f"ingest.path=s3://bucket/set?X-Amz-Signature={secret()}")
    run("ingest", "--cache", "data/cache", "--dataset", "data/other", *s3, code=(2, 75))
    gone = f"https://me:{secret()}@127.0.0.1:9/w.pth?sig={secret()}"
    run("train", "--set", f"train.options.encoder_weights={gone}", code=(2, 75), **home)
    run("notify", "--status", json.dumps({"state": "FAILED"}), "--name", "tiny")

    # what is compiled, with such an environment, and what is refused
    compiled = ("compile", "--image", IMAGE, "--output", str(tmp_path / "pipeline.yaml"))
    (workspace / "clean.yaml").write_text(yaml.safe_dump({"register": {"name": "tiny"}}))
    profile = workspace / "profile.yaml"
    profile.write_text("environment: {MLFLOW_TRACKING_URI: 'http://mlflow:5000'}")
    clean = (*compiled, "--params", "clean.yaml", "--profile", str(profile))
    code = {"SEGMODELS_CODE_REVISION": "abc"}
    run(*clean, module="pipelines", **code)
    run(*clean, "--set", f"dataset_repo={repo}", module="pipelines", code=2, **code)
    run(*compiled, "--params", "params.yaml", "--profile", str(profile), module="pipelines", code=2, **code)
    profile.write_text(f"environment: {{MLFLOW_TRACKING_URI: 'http://me:{secret()}@mlflow:5000'}}")
    run(*clean, module="pipelines", code=2, **code)
    profile.unlink()

    assert next(NUMBERS) > 20
    (workspace / "params.yaml").unlink()  # the user's own
    with closing(sqlite3.connect(tmp_path / "server" / "server.db")) as database:
        dump = "\n".join(database.iterdump()).encode()
    files = [path for path in tmp_path.rglob("*") if path.is_file() and (tmp_path / "cache") not in path.parents]
    assert {"run.json", "model.json", "pipeline.yaml", "model_card.md", "MLmodel"} <= {path.name for path in files}
    found = [str(path) for path in files if MARK.encode() in path.read_bytes()]
    found += ["database"] * (MARK.encode() in dump)
    assert found == []
