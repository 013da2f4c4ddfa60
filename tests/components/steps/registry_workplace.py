"""Trained models in a folder with its own MLflow store, and how they are registered there."""

import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import mlflow
from small_pipeline import write_model, write_run, write_shards

from components.params.schema import EvaluateParams, RegisterParams
from components.steps.evaluate import evaluate
from components.steps.register import register
from components.tracking.client import mlflow_client

NAME = "scenes"
STEPS = {"poor": 8, "good": 40}  # of training; mean IoU about 0.3 and 0.97


@cache
def trained(skill: str, seed: int) -> Path:
    """A trained model and its evaluation on the shards of ``write_shards``, made once."""
    folder = Path(mkdtemp())
    write_model(folder / "model", steps=STEPS[skill], seed=seed)
    evaluate(EvaluateParams(overlays=0), write_shards(folder / "shards"), folder / "model", folder / "evaluation")
    return folder


class Workplace:
    """Shards and trained, evaluated models in a folder with its own MLflow store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shards = write_shards(folder / "shards")
        self.runs: dict[str, str] = {}

    def train(self, name: str, skill: str = "good", seed: int = 0) -> None:
        shutil.copytree(trained(skill, seed) / "model", self.folder / name)
        shutil.copytree(trained(skill, seed) / "evaluation", self.folder / f"{name}-evaluation")
        self.runs[name] = write_run(self.folder / name, self.folder / f"{name}-state")

    def evaluate(self, name: str, **params) -> None:
        evaluate(
            EvaluateParams(overlays=0, settings=params),
            self.shards,
            self.folder / name,
            self.folder / f"{name}-evaluation",
        )

    def register(self, name: str, **params) -> dict:
        return register(
            RegisterParams(**({"name": NAME} | params)),
            self.shards,
            self.folder / name,
            self.folder / f"{name}-evaluation",
            self.folder / f"{name}-registration",
        )

    @property
    def client(self) -> mlflow.MlflowClient:
        return mlflow_client()

    def aliases(self) -> dict[str, str]:
        return {alias: str(version) for alias, version in self.client.get_registered_model(NAME).aliases.items()}

    def versions(self) -> list[str]:
        return sorted(str(version.version) for version in self.client.search_model_versions(f"name = '{NAME}'"))
