"""The log of requests: sampled, bounded, never in the way of an answer."""

import io
import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from small_pipeline import LABELS, write_model, write_shards
from small_server import served, until

from components.serving import request_log
from components.serving.request_log import LoggedRequest, RequestLog
from segmodels.data.shards import ShardReader
from segmodels.files import read_json_lines
from segmodels.inference.bundle import add_reference, load_bundle
from segmodels.inference.observation import Observer, make_reference
from segmodels.inference.predictor import Predictor
from segmodels.inference.reference import Observation
from segmodels.results import ClassMap

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (12, 24, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with reference statistics."""
    folder = tmp_path_factory.mktemp("watched")
    reader = ShardReader(write_shards(folder / "shards", train=12), "train")
    model = write_model(folder / "scenes", steps=5)
    add_reference(model, make_reference(Predictor(load_bundle(model)), reader))
    return model


def records(folder: Path) -> list[dict]:
    return [record for path in sorted(folder.glob("*.jsonl")) for record in read_json_lines(path)]


def png(pixels: np.ndarray) -> bytes:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return data.getvalue()


def infer(client: TestClient, images: np.ndarray) -> None:
    tensor = {"name": "images", "shape": list(images.shape), "datatype": "UINT8", "data": images.tolist()}
    assert client.post("/v2/models/scenes/infer", json={"inputs": [tensor]}).status_code == 200


def metrics(client: TestClient) -> dict[str, float]:
    lines = [line.split() for line in client.get("/metrics").text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in lines if "{" not in name}


def settled(log: RequestLog, images: int) -> None:
    """Wait until that number of images is logged or dropped, which happens after their answers."""
    until(lambda: log.logged + log.dropped == images)


def test_every_image_is_logged_with_its_statistics_and_no_pixels(watched: Path, tmp_path: Path) -> None:
    log = RequestLog(tmp_path / "log", 1.0, 1e6)
    with served(str(watched), log=log) as (client, live):
        infer(client, IMAGES[:3])
        assert client.post("/predict", content=png(IMAGES[3])).status_code == 200
        settled(log, 4)
        counted = metrics(client)
        model = live.current
    assert (counted["segmodels_log_records_total"], counted["segmodels_log_records_dropped_total"]) == (4, 0)
    logged = records(tmp_path / "log")
    assert [path.suffix for path in (tmp_path / "log").iterdir()] == [".jsonl"]
    assert {(one["name"], one["version"], *one["size"]) for one in logged} == {("scenes", model.version, 24, 32)}
    assert all(tuple(one["statistics"]) == model.reference.names for one in logged)
    for image, record in zip(IMAGES[:4], logged, strict=True):
        observer = Observer(model.predictor, model.reference.layer)
        (result,) = model.predictor.results([image], batch=observer.batch)
        statistics = record["statistics"]
        assert statistics["confidence"] == pytest.approx(observer.observations()[0].confidence, rel=1e-4)
        shares = [statistics[f"share/{name}"] for name in LABELS.classes]
        np.testing.assert_allclose(shares, result.shares(LABELS), atol=1e-5)


def test_requests_are_sampled(watched: Path, tmp_path: Path) -> None:
    log = RequestLog(tmp_path / "log", 0.25, 1e6)
    assert 150 < sum(log.wants() for _ in range(1000)) < 350
    log._random = np.random.default_rng(0)
    with served(str(watched), log=log) as (client, _):
        for _ in range(20):
            infer(client, IMAGES[:2])
    logged = len(records(tmp_path / "log"))
    assert logged % 2 == 0, "whole requests"
    assert 2 <= logged <= 20


def test_a_model_of_an_earlier_version_is_logged_without_features(model: Path, tmp_path: Path) -> None:
    log = RequestLog(tmp_path / "log", 1.0, 1e6)
    with served(str(model), log=log) as (client, _):
        infer(client, IMAGES[:1])
    (record,) = records(tmp_path / "log")
    assert list(record["statistics"]) == ["brightness", "confidence", *(f"share/{name}" for name in LABELS.classes)]


def request(count: int = 1) -> LoggedRequest:
    """A request that was answered by a model that is none."""
    predictor = SimpleNamespace(labels=LABELS, task=SimpleNamespace(takes_prompts=False))
    served = SimpleNamespace(name="scenes", version="1", predictor=predictor, reference=None)
    results = [ClassMap(np.zeros((24, 32), np.uint8))] * count
    return LoggedRequest(served, IMAGES[:count], results, [Observation(1.0, 0.5, None)] * count)


@pytest.mark.parametrize("images", [False, True])
def test_the_oldest_files_make_room_and_pixels_are_kept_where_they_are_asked_for(images: bool, tmp_path: Path) -> None:
    most = 100_000 if images else 10_000
    log = RequestLog(tmp_path, 1.0, most, images=images)
    for _ in range(40):
        log._waiting.put(request(5))
    log.close()
    assert (log.logged, log.dropped) == (200, 0)
    size = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert most / 2 < size <= most
    kept = records(tmp_path)
    assert 0 < len(kept) < 200
    assert [np.load(tmp_path / one["image"]).shape for one in kept if images] == [(24, 32, 3)] * (len(kept) * images)
    assert len(list(tmp_path.rglob("*.npy"))) == len(kept) * images


def test_a_server_that_starts_again_counts_the_files_of_the_one_before(tmp_path: Path) -> None:
    for _ in range(3):
        log = RequestLog(tmp_path, 1.0, 5_000)
        for _ in range(20):
            log._waiting.put(request())
        log.close()
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 5_000


@pytest.mark.parametrize("moved", [True, False])
def test_a_file_that_is_moved_or_removed_is_followed_by_a_new_one(tmp_path: Path, moved: bool) -> None:
    log = RequestLog(tmp_path / "log", 1.0, 1e6)
    log.offer(request(2))
    settled(log, 2)
    (first,) = (tmp_path / "log").iterdir()
    if moved:
        first.rename(first.with_suffix(".jsonl.1"))
    else:
        first.unlink()
    log.offer(request(3))
    log.close()
    assert (log.logged, log.dropped) == (5, 0)
    assert len(records(tmp_path / "log")) == 3


def test_a_full_disk_is_a_counted_warning_and_the_log_goes_on_when_there_is_room(
    watched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    room = [150]  # bytes on the disk

    class FullDisk(io.FileIO):
        def write(self, content: bytes) -> int:
            written = super().write(content[: room[0]])
            room[0] -= written
            if not written:
                raise OSError(28, os.strerror(28), str(self.name))
            return written

    monkeypatch.setattr(request_log, "FileIO", FullDisk)
    log = RequestLog(tmp_path / "log", 1.0, 1e6)
    with served(str(watched), log=log) as (client, _):
        for _ in range(3):
            infer(client, IMAGES[:1])
        settled(log, 3)
        room[0] = 10**6
        infer(client, IMAGES[:2])
        settled(log, 5)
        counted = metrics(client)
    assert (counted["segmodels_log_records_total"], counted["segmodels_log_records_dropped_total"]) == (2, 3)
    assert len(records(tmp_path / "log")) == 2, "no half line is left"
    assert len(list((tmp_path / "log").iterdir())) == 1, "nor an empty file"
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]
    assert len(said) == 1
    assert "No space left on device" in said[0]


def test_a_log_that_is_too_slow_or_cannot_observe_drops_records_and_no_answer(
    watched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = RequestLog(tmp_path / "log", 1.0, 1e6)
    log._waiting.put(None)
    log._thread.join()  # nobody takes what waits
    with served(str(watched), log=log) as (client, _):
        for _ in range(request_log.WAITING + 3):
            infer(client, IMAGES[:1])
        settled(log, 3)

        def fail(*_: object, **__: object) -> None:
            raise ValueError("an output of another kind")

        for where in ("_look", "observations"):
            monkeypatch.setattr(f"segmodels.inference.observation._Network.{where}", fail)
            infer(client, IMAGES[:2])
        settled(log, 7)
        while not log._waiting.empty():
            log._waiting.get()


def test_a_line_that_is_still_being_written_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"a": 1}) + "\n" + '{"a"')
    assert read_json_lines(tmp_path / "a.jsonl") == [{"a": 1}]
