"""Steps on shards that preprocess moved to an object store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small_pipeline import SMALL_TRAINING, stop_after, use_local_store, write_shards

from components.params.checking import checked
from components.params.schema import EvaluateParams, PreprocessParams, TrainParams
from components.steps.evaluate import evaluate
from components.steps.train import train
from components.storage.folders import keep_in_store
from components.storage.s3 import s3_client
from segmodels.data.object_store import forget_connections
from segmodels.data.shards import ShardReader
from segmodels.errors import InputError
from segmodels.inference.bundle import load_bundle

SHARDS = 10


@pytest.fixture
def folder(s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With ``local``, shards in a folder, and ``shards``, the same in the store."""
    monkeypatch.setenv("SEGMODELS_CACHE", str(tmp_path / "cache"))
    use_local_store(tmp_path, monkeypatch)
    s3.create_bucket(Bucket=(bucket := f"shards-{tmp_path.name[-12:].strip('_-').replace('_', '-')}"))
    for name in ("local", "shards"):
        write_shards(tmp_path / name, train=2 * SHARDS, val=3, scale=1, shard_bytes=2 * 20 * 32 * 4)
    keep_in_store(tmp_path / "shards", f"s3://{bucket}/all")
    return tmp_path


def run(folder: Path, shards: str, model: str, **changes: Any) -> dict[str, torch.Tensor]:
    params = checked(TrainParams, SMALL_TRAINING | changes)
    train(params, folder / shards, folder / model, folder / "checkpoints" / model)
    return load_bundle(folder / model).model.state_dict()


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_a_training_on_stored_shards_gives_the_same_weights_and_is_measured_the_same(folder: Path) -> None:
    assert [path.name for path in (folder / "shards").iterdir()] == ["statistics.json"]
    assert equal(run(folder, "shards", "stored"), run(folder, "local", "model"))
    params = EvaluateParams(batch_size=2, overlays=1, accelerator="cpu")
    scores = [evaluate(params, folder / name, folder / "model", folder / f"of {name}") for name in ("local", "shards")]
    assert scores[0] == scores[1]


@pytest.mark.slow
def test_a_training_that_outgrows_the_cache_resumes_bit_for_bit_and_has_a_key_of_its_own(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = max(path.stat().st_size for path in (folder / "local").glob("train-*"))
    assert len(list((folder / "local").glob("train-*"))) >= SHARDS
    small = {"cache_gigabytes": 5.5 * size / 1e9}
    whole = run(folder, "shards", "whole", **small)
    with monkeypatch.context() as patch:
        stop_after(7, patch)
        with pytest.raises(SystemExit):
            run(folder, "shards", "model", **small)
    assert equal(run(folder, "shards", "model", **small), whole)
    lineage = load_bundle(folder / "model").lineage
    assert lineage["sample_order"] == ShardReader(folder / "shards", "train", cache_bytes=5.5 * size).order_name
    assert not equal(run(folder, "local", "local model", **small), whole)
    keys = [next((folder / "checkpoints" / name).glob("*")).name for name in ("model", "local model")]
    assert keys[0] != keys[1], "the same parameters, another order"


@pytest.mark.slow
def test_shards_that_were_removed_from_the_store_are_named_and_wrong_credentials(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = json.loads((folder / "shards" / "statistics.json").read_text())["shards"]["val"][0]["url"]
    client, (bucket, _, prefix) = s3_client(), url.removeprefix("s3://").partition("/")
    client.delete_object(Bucket=bucket, Key=f"{prefix}/val-00000.arrow")
    with pytest.raises(InputError, match=rf"^{url}/val-00000\.arrow is not there: run the step preprocess"):
        ShardReader(folder / "shards", "val").image(0)
    forget_connections()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(InputError, match=r"^s3://.*/test-00000\.arrow cannot be read, the store refuses \(.*ACCESS_"):
        ShardReader(folder / "shards", "test").image(0)


def test_a_store_that_is_no_address_is_refused() -> None:
    with pytest.raises(InputError, match=r"store is 'bucket/shards', expected s3://bucket/prefix"):
        PreprocessParams(store="bucket/shards")
