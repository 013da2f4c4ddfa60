"""Trainings that start from an earlier model, ``train.init``, or from published weights: what they load, what is on
record, and what DVC and the checkpoints' key see of it.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from small_pipeline import SMALL_TRAINING, use_local_store, write_shards

from components.datasets.source import source
from components.params.checking import checked
from components.params.schema import PipelineParams, TrainParams
from components.steps.train import train
from components.tracking.lineage import checkpoint_key
from components.tracking.model_registry import pinned
from components.tracking.starting_point import starting_point
from segmodels.errors import InputError
from segmodels.files import sha256
from segmodels.inference.bundle import bundle_digest, load_bundle
from segmodels.models.registry import create_model
from segmodels.training.starting import start_from

SMALL = SMALL_TRAINING | {"epochs": 1}


def trained(folder: Path, name: str, **changes: Any) -> Path:
    params = checked(TrainParams, SMALL | changes)
    train(params, folder / "shards", folder / name, folder / "checkpoints")
    return folder / name


@pytest.mark.slow
def test_a_training_starts_where_the_model_stood_that_init_names_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_local_store(tmp_path, monkeypatch)
    write_shards(tmp_path / "shards", train=8, val=4, scale=1)
    first = trained(tmp_path, "first", epochs=2)
    before, after = (load_bundle(path) for path in (first, trained(tmp_path, "second", init=str(first), lr=1e-12)))
    for (name, one), other in zip(
        before.model.named_parameters(), dict(after.model.named_parameters()).values(), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6, msg=name)
    assert after.lineage["init"] == str(first)
    assert after.lineage["init_digest"] == bundle_digest(first)
    with pytest.raises(InputError, match=r"init is a unet and train\.model unet_plus_plus, expected the same model"):
        trained(tmp_path, "third", init=str(first), model="unet_plus_plus", options={})
    with pytest.raises(InputError, match=r"train\.init: weights file nowhere/at/all is not there"):
        trained(tmp_path, "fourth", init="nowhere/at/all")


@pytest.mark.slow
def test_a_published_encoder_is_on_record_with_digest_and_licence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_local_store(tmp_path, monkeypatch)
    write_shards(tmp_path / "shards", train=8, val=4, scale=1)
    options = {"encoder": "efficientnet_lite0", "encoder_weights": "imagenet"}
    model = trained(tmp_path, "model", model="fcn_resnet50", options=options)
    bundle = load_bundle(model)
    record = bundle.lineage["pretrained"]
    assert record.startswith("efficientnet_lite0:imagenet1k (SHA-256 579344248a93e230")
    assert "Apache-2.0" in record
    assert bundle.options["encoder_weights"] == "imagenet"


@pytest.mark.parametrize("spatial_dims", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_a_checkpoint_of_other_classes_and_channels_loads_its_body_and_says_what_was_left_out(
    spatial_dims: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    name, options = ("unet", {"widths": [4, 8]}) if spatial_dims == 2 else ("vnet", {})
    given = create_model(name, 5, in_channels=3 if spatial_dims == 2 else 2, **options)
    save_file({key: value.clone() for key, value in given.state_dict().items()}, tmp_path / "w.safetensors")
    model = create_model(name, 2, in_channels=1, **options)
    start_from(model, name, tmp_path / "w.safetensors", 1)
    assert "are for 5 classes and the model has 2" in caplog.text
    assert "are for images of other channels" in caplog.text
    theirs = given.state_dict()
    same = [key for key, value in model.state_dict().items() if torch.equal(value, theirs[key])]
    other = [key for key, value in model.state_dict().items() if value.shape != theirs[key].shape]
    assert len(same) + len(other) == len(theirs)
    first = next(key for key in other if theirs[key].dim() > 2 and model.state_dict()[key].shape[1] == 1)
    torch.testing.assert_close(model.state_dict()[first][:, 0], theirs[first].sum(1))


def test_an_alias_is_pinned_to_its_version_and_another_version_is_another_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    versions = iter(["1", "2"])
    monkeypatch.setattr("components.tracking.model_registry.version_now", lambda _: ("scenes", next(versions)))
    assert [pinned("models:/scenes@champion") for _ in range(2)] == ["models:/scenes/1", "models:/scenes/2"]
    assert pinned("model/folder") == "model/folder"
    assert pinned(None) is None

    facts = {"data_digest": "d", "code_digest": "c", "checkpoint_params_digest": "p"}
    keys = {checkpoint_key(facts), *(checkpoint_key(facts | {"init_digest": one}) for one in ("a", "b"))}
    assert len(keys) == 3
    assert checkpoint_key(facts | {"init": "elsewhere"}) == checkpoint_key(facts), "the bytes count, not their place"


def test_the_stage_source_writes_down_what_training_starts_from(tmp_path: Path) -> None:
    def written(**train_section: Any) -> dict[str, str]:
        params = checked(PipelineParams, {"train": train_section})
        source(params, tmp_path / "source.json", tmp_path / "start.json", tmp_path / "cache")
        return json.loads((tmp_path / "start.json").read_text())

    assert written() == {}
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(b"one")
    one = written(init=str(weights))
    assert one == {"init": str(weights), "init_digest": sha256(weights)}
    weights.write_bytes(b"two")
    assert written(init=str(weights)) != one
    with pytest.raises(InputError, match=r"train\.init: weights file .*gone\.pth is not there"):
        written(init=str(tmp_path / "gone.pth"))
    with (
        pytest.raises(InputError, match=r"unknown pretrained weights|no published weights"),
        starting_point(checked(TrainParams, {"init": "champion"})),
    ):
        pass


def test_the_stage_source_refuses_what_dvc_would_delete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DVC removes the outputs of a stage before it runs: a user's images there would be gone."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(Path(__file__).parents[3] / "dvc.yaml", tmp_path)
    (tmp_path / "data" / "dataset" / "images").mkdir(parents=True)
    params = checked(PipelineParams, {"ingest": {"source": "folder", "path": "data/dataset"}})
    with pytest.raises(InputError, match=r"data/dataset is where step ingest writes, and what it holds \(images"):
        source(params, tmp_path / "source.json", tmp_path / "start.json", tmp_path / "cache")
