"""drift: a served model, and requests like its training images, brighter ones, and ones of another class mix."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_pipeline import LABELS, scene, use_local_store, write_model, write_run, write_shards
from small_server import served, until

from components.__main__ import main
from components.serving.request_log import RequestLog
from components.tracking.client import mlflow_client
from components.tracking.model_registry import Registry
from segmodels.data.shards import ShardReader
from segmodels.errors import InputError
from segmodels.inference.bundle import add_reference, bundle_digest, load_bundle
from segmodels.inference.observation import make_reference
from segmodels.inference.predictor import Predictor
from segmodels.inference.reference import Reference, as_logged
from segmodels.tasks.registry import create_task

NAME = "scenes"
VERSION = f"models:/{NAME}/1"
IMAGES = 72


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A registry with a model, shards of its training images, and logs of what it was asked."""
    folder = tmp_path_factory.mktemp("drift")
    with pytest.MonkeyPatch.context() as patch:
        use_local_store(folder, patch)
        reader = ShardReader(write_shards(folder / "shards", train=200), "train")
        model = write_model(folder / "1" / "bundle", steps=30)
        add_reference(model, make_reference(Predictor(load_bundle(model)), reader))
        run = write_run(model, folder / "state")
        Registry(mlflow_client(), NAME).add(
            run_id=run,
            model_digest=bundle_digest(model),
            contents=folder / "1",
            task=create_task("semantic", LABELS),
            example=reader.image(0)[None],
            tags={},
            description="",
        )
        rng = np.random.default_rng(7)
        usual = [scene(rng, (24, 32) if index % 3 else (20, 40), LABELS)[0] for index in range(IMAGES)]
        asked = {
            "usual": usual,
            "bright": [(image.astype(np.int16) + 60).clip(0, 255).astype(np.uint8) for image in usual],
            "ponds": [_pond(rng) for _ in range(IMAGES)],
        }
        for name, images in asked.items():
            _ask(folder / name, images)
        yield folder


def _pond(rng: np.random.Generator) -> np.ndarray:
    """Mostly water, where the training has as much of three classes."""
    mask = np.where(rng.random((1, 4)) < 0.85, 2, 0).repeat(8, axis=1).repeat(24, axis=0)
    return (np.array(LABELS.palette, float)[mask] + rng.normal(0, 40, (24, 32, 3))).clip(0, 255).astype(np.uint8)


def _ask(log: Path, images: list[np.ndarray]) -> None:
    kept = RequestLog(log, 1.0, 1e7)
    with served(VERSION, log=kept) as (client, _):
        for image in images:
            tensor = {"name": "images", "shape": [1, *image.shape], "datatype": "UINT8", "data": [image.tolist()]}
            assert client.post(f"/v2/models/{NAME}/infer", json={"inputs": [tensor]}).status_code == 200
            until(lambda: kept._waiting.empty())
        until(lambda: kept.logged == len(images))


def drift(place: Path, log: str, *options: str, model: str = VERSION) -> int:
    """The exit code."""
    try:
        return main(["drift", "--model", model, "--log", str(place / log), *options])
    except SystemExit as end:
        return int(end.code or 0)


def run_of() -> Any:
    client = mlflow_client()
    return client.get_run(client.get_model_version(NAME, "1").run_id)


def test_requests_like_the_training_images_have_not_drifted(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert drift(place, "usual", "--drifted", str(tmp_path / "new" / "drifted")) == 0
    assert f"{NAME} version 1 has not drifted: none of 12 statistics of {IMAGES} images" in capsys.readouterr().out
    assert (tmp_path / "new" / "drifted").read_text() == "false"


@pytest.mark.parametrize(("log", "expected"), [("bright", "brightness from 1"), ("ponds", "share of pond from 0.")])
def test_a_shift_is_found_named_tracked_and_shown(
    place: Path, log: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client = mlflow_client()
    run_id = run_of().info.run_id
    before = client.get_metric_history(run_id, "drift/images")
    answer = ["--drifted", str(tmp_path / "drifted")] if log == "ponds" else []
    assert drift(place, log, "--html", str(tmp_path / "page.html"), *answer) == (0 if answer else 3)
    if answer:
        assert (tmp_path / "drifted").read_text() == "true", "for a pipeline; other codes than 0 end its step"
    said = capsys.readouterr().out.splitlines()[0]
    assert said.startswith(f"{NAME} version 1 has drifted, over {IMAGES} images: ")
    assert expected in said
    run = run_of()
    history = client.get_metric_history(run_id, "drift/images")
    assert [(one.step, one.value) for one in history][len(before) :] == [(len(before), IMAGES)]
    assert run.data.metrics["drift/drifted"] >= 1
    assert run.data.metrics["drift/psi/share/pond" if log == "ponds" else "drift/psi/brightness"] > 0.2
    assert run.data.metrics["drift/ks/confidence"] >= 0
    assert run.info.status == "FINISHED"
    assert f"drift: {said}" in run.data.tags["mlflow.note.content"]
    assert len(client.list_artifacts(run_id, "drift")) >= 1
    page = (tmp_path / "page.html").read_text()
    assert said.partition(": ")[2][:20] in page
    assert "data:image/png;base64," in page
    assert "http" not in page.replace("http-equiv", ""), "it needs no network"


def test_an_alias_that_moves_meanwhile_leaves_the_comparison_with_one_version(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow_client().set_registered_model_alias(NAME, "champion", "1")
    asked: list[str] = []

    def moved(address: str) -> None:
        asked.append(address)
        raise InputError("the alias has moved")

    monkeypatch.setattr("components.tracking.model_registry.bundle_folder", moved)
    assert drift(place, "usual", model=f"models:/{NAME}@champion") == 2
    assert asked == [VERSION]


def test_a_deleted_run_costs_the_tracking_and_not_the_answer(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client, run_id = mlflow_client(), run_of().info.run_id
    client.delete_run(run_id)
    try:
        assert drift(place, "bright", "--html", str(tmp_path / "page.html")) == 3
    finally:
        client.restore_run(run_id)
    said = capsys.readouterr().out
    assert f"MLflow does not have run {run_id} of {NAME} version 1 any more" in said
    assert f"{NAME} version 1 has drifted" in said
    assert (tmp_path / "page.html").exists()


@pytest.mark.slow
def test_a_log_without_a_common_statistic_is_not_too_small(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [line for path in sorted((place / "usual").glob("*.jsonl")) for line in path.read_text().splitlines()]
    record = json.loads(lines[0])
    record["statistics"] = {"sharpness": 1.0}
    (tmp_path / "a.jsonl").write_text("".join(f"{line}\n" for line in [*lines, json.dumps(record)]))
    assert drift(place, str(tmp_path)) == 2
    assert f"{IMAGES + 1} images of {NAME} version 1, but no statistic that all of them" in capsys.readouterr().err


def test_limits_are_options_and_few_or_old_records_say_nothing(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert drift(place, "bright", "--psi", "1000") == 0
    assert drift(place, "bright", "--least", "100") == 0
    assert f"{IMAGES} images in the log are too few to tell, expected at least 100" in capsys.readouterr().out
    assert drift(place, "bright", "--hours", "0.0000001") == 0
    assert drift(place, "bright", "--hours", "inf") == drift(place, "bright", "--hours", "1e300") == 2
    assert "0 images in the log are too few" in capsys.readouterr().out
    assert drift(place, "bright", "--psi", "0") == 2
    assert "--psi is 0.0, expected more than 0" in capsys.readouterr().err


def test_the_precision_of_the_log_is_no_drift(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All confidences of a sure model are 1 with six digits; none is, as float32."""
    use_local_store(tmp_path, monkeypatch)
    rng = np.random.default_rng(0)
    model = write_model(tmp_path / NAME, steps=1)
    sure = 1 - np.abs(rng.normal(3e-7, 1e-7, (256, 1))).clip(1e-7, 4e-7).astype(np.float32)
    no_features = np.zeros(1, np.float32), np.zeros((0, 1), np.float32)
    add_reference(model, Reference(("confidence",), sure, "", *no_features))
    usual = {
        "time": "2024-01-01T00:00:00.000+00:00",
        "name": NAME,
        "version": bundle_digest(model)[:12],
        "size": [8, 8],
    }
    records = [usual | {"statistics": {"confidence": as_logged(value)}} for value in sure[::2, 0].tolist()]
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "0.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert drift(tmp_path, "log", model=str(model)) == 0
    assert "has not drifted: none of 1 statistics of 128 images" in capsys.readouterr().out


@pytest.mark.slow
def test_a_model_without_reference_statistics_says_how_to_have_them(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_model(tmp_path / NAME, steps=30)
    log = RequestLog(tmp_path / "log", 1.0, 1e6)
    reader = ShardReader(place / "shards", "train")
    with served(str(model), log=log) as (client, _):
        image = np.array(reader.image(1))
        tensor = {"name": "images", "shape": [1, *image.shape], "datatype": "UINT8", "data": [image.tolist()]}
        for _ in range(2):
            assert client.post(f"/v2/models/{NAME}/infer", json={"inputs": [tensor]}).status_code == 200
        until(lambda: log.logged == 2)
    assert drift(tmp_path, "log", model=str(model)) == 2
    assert "has no reference statistics" in capsys.readouterr().err
    assert drift(tmp_path, "log", "--shards", str(place / "shards"), "--least", "2", model=str(model)) == 0
    assert "none of 6 statistics of 2 images" in capsys.readouterr().out, "its server could not know the components"
    assert drift(place, "usual", "--shards", str(place / "shards"), model=str(model)) == 0
    said = capsys.readouterr().out
    assert f"only of {NAME} version 1" in said
    assert "0 images in the log are too few to tell" in said
    (tmp_path / "log" / "0.jsonl").write_text('{"time": 1}\n')
    assert drift(tmp_path, "log", "--shards", str(place / "shards"), model=str(model)) == 2
    assert "0.jsonl is damaged" in capsys.readouterr().err
    assert drift(tmp_path, "nowhere", model=VERSION) == 2
    assert "expected the log of a server" in capsys.readouterr().err
