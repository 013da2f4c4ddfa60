"""Measuring: how many images are predicted at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_pipeline import write_model, write_shards

from segmodels.data.loader import EvaluationLoader
from segmodels.data.shards import ShardReader
from segmodels.errors import InputError
from segmodels.inference.bundle import load_bundle
from segmodels.inference.measure import measure
from segmodels.inference.memory import prediction_bytes
from segmodels.inference.predictor import Predictor

WINDOW = {"sliding_window": {"size": [16, 16]}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("measure")
    write_model(folder / "model", steps=1)
    write_shards(folder / "shards", test=6, scale=1)
    return folder


def measured(folder: Path, settings: Any = None) -> tuple[list[list[int]], dict[str, float]]:
    """The places of the images of each batch, and the scores."""
    seen: list[list[int]] = []

    def watch(batches: EvaluationLoader) -> Any:
        for batch in batches:
            seen.append(list(batch.indices))
            yield batch

    predictor = Predictor(load_bundle(folder / "model"), settings=settings)
    evaluator = measure(predictor, ShardReader(folder / "shards", "test"), 8, watch)
    return seen, evaluator.scores()


def test_fewer_images_are_predicted_at_once_where_memory_is_short(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = ShardReader(folder / "shards", "test")
    needed = prediction_bytes(load_bundle(folder / "model").model, (1, 3, *reader.largest))
    whole, expected = measured(folder)
    assert [len(own) for own in whole] == [1, 2, 1, 2]
    monkeypatch.setattr("segmodels.inference.measure.MANY_PIXELS", 0)
    monkeypatch.setattr("segmodels.inference.predictor.free_memory", lambda: 3 * needed)
    single, scores = measured(folder)
    assert [len(own) for own in single] == [1] * 6
    assert scores == pytest.approx(expected)
    monkeypatch.setattr("segmodels.inference.predictor.free_memory", lambda: needed - 1)
    with pytest.raises(
        InputError, match=r"prediction of 20 x 40 pixels needs at least .* GB .*: give a sliding window"
    ):
        measured(folder)
    assert [len(own) for own in measured(folder, WINDOW)[0]] == [1, 2, 1, 2]


def test_a_large_image_that_memory_cannot_hold_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor, whole = Predictor(load_bundle(folder / "model")), np.zeros((1, 64, 64, 3), np.uint8)
    windows = Predictor(load_bundle(folder / "model"), settings=WINDOW)
    needed = prediction_bytes(predictor.model, (1, 3, 64, 64))
    monkeypatch.setattr("segmodels.inference.predictor.free_memory", lambda: needed - 1)
    monkeypatch.setattr("segmodels.inference.predictor.MANY_PIXELS", 1_000)
    predictor.results(whole[:, :32, :32])
    windows.results(whole)
    with pytest.raises(InputError, match=r"prediction of 64 x 64 pixels needs at least .* GB .*--window 512"):
        predictor.results(whole)
