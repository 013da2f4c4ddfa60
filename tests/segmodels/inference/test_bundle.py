"""Bundle: a model on disk that comes back as it was, and broken ones that say what is wrong."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from segmodels.errors import InputError
from segmodels.inference.bundle import bundle_digest, copy_bundle, load_bundle, save_bundle
from segmodels.labels import LabelMap
from segmodels.models.registry import create_model
from segmodels.tasks.registry import create_task
from segmodels.tasks.semantic import SemanticSettings
from segmodels.windows import SlidingWindow

LABELS = LabelMap(("background", "cat", "dog"), ((0, 0, 0), (255, 0, 0), (0, 255, 0)), {0: 0, 7: 1, 8: 2})
OPTIONS = {"widths": [4, 6, 8]}


def save(folder: Path, seed: int = 0, **changes) -> torch.nn.Module:
    torch.manual_seed(seed)
    facts = {
        "name": "unet",
        "options": OPTIONS,
        "task": create_task("semantic", LABELS),
        "mean": (120.5, 110.0, 100.0),
        "std": (60.0, 50.0, 40.0),
        "lineage": {"data_digest": "abc.dir"},
        "metrics": {"val/miou": 0.5, "val/absent": float("nan")},
    } | changes
    model = create_model(facts["name"], 3, **facts["options"])
    model(torch.randn(2, len(facts["mean"]), 16, 16))  # running statistics that are not the initial ones
    save_bundle(folder, model, **facts)
    return model.eval()


def describe(folder: Path, **changes) -> None:
    """Change fields of a description as if it had been written so, or as a bundle of version 0.1 had it: without a
    digest.
    """
    description = json.loads((folder / "model.json").read_text())
    del description["digest"]
    (folder / "model.json").write_text(json.dumps(description | changes))


def test_a_model_comes_back_with_its_weights_and_facts(tmp_path: Path) -> None:
    model = save(tmp_path, longer_side=480)
    bundle = load_bundle(tmp_path)
    images = torch.randn(2, 3, 21, 30)
    assert not bundle.model.training
    assert torch.equal(bundle.model(images).logits, model(images).logits)
    assert (bundle.name, bundle.options, bundle.labels) == ("unet", OPTIONS, LABELS)
    assert (bundle.mean, bundle.std) == ((120.5, 110.0, 100.0), (60.0, 50.0, 40.0))
    assert (bundle.longer_side, bundle.lineage, bundle.metrics) == (480, {"data_digest": "abc.dir"}, {"val/miou": 0.5})
    assert (bundle.task.name, bundle.task.settings) == ("semantic", SemanticSettings())
    assert (bundle.channels, bundle.dtype, bundle.spatial_dims) == (3, "uint8", 2)


def test_weights_in_channels_last_order_come_back(tmp_path: Path) -> None:
    model = create_model("unet", 3, **OPTIONS).to(memory_format=torch.channels_last)
    save_bundle(
        tmp_path,
        model,
        name="unet",
        options=OPTIONS,
        task=create_task("semantic", LABELS),
        mean=(1, 2, 3),
        std=(4, 5, 6),
        lineage={},
    )
    assert all(
        torch.equal(one, other)
        for one, other in zip(
            model.state_dict().values(), load_bundle(tmp_path).model.state_dict().values(), strict=True
        )
    )


def test_encoder_weights_are_not_fetched_again(tmp_path: Path) -> None:
    save(tmp_path, name="fcn_resnet50", options={"encoder": "resnet18", "output_stride": 32})
    options = load_bundle(tmp_path).options | {"encoder_weights": "/nowhere/pretrained.safetensors"}
    describe(tmp_path, options=options)
    assert load_bundle(tmp_path).options["encoder_weights"] == "/nowhere/pretrained.safetensors"


def test_the_folder_holds_no_pickle(tmp_path: Path) -> None:
    save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.json", "weights.safetensors"]
    assert all(path.read_bytes()[:1] != b"\x80" and path.read_bytes()[:2] != b"PK" for path in tmp_path.iterdir())


@pytest.mark.parametrize("name", ["model.json", "weights.safetensors"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    save(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(InputError, match=f"{name} is not there"):
        load_bundle(tmp_path)


@pytest.mark.parametrize("keep", [0, 4, 100, -64])
def test_truncated_weights_are_named(tmp_path: Path, keep: int) -> None:
    save(tmp_path)
    describe(tmp_path)
    path = tmp_path / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"weights.safetensors is damaged \(.*\): train again or copy the model again"):
        load_bundle(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_neither_written_nor_loaded(
    tmp_path: Path, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path)
    describe(tmp_path)
    path = tmp_path / "weights.safetensors"
    weights = load_file(path)
    next(one for one in weights.values() if one.is_floating_point()).view(-1)[-1] = value
    save_file(weights, path)
    with pytest.raises(InputError, match=r"weights.safetensors holds weights that are not finite"):
        load_bundle(tmp_path)
    monkeypatch.setattr(torch, "randn", lambda *size: torch.full(size, value))  # running statistics
    with pytest.raises(InputError, match="weights of model 'unet' are not finite"):
        save(tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"name": "unet"}'])
def test_a_broken_description_is_named(tmp_path: Path, text: str) -> None:
    save(tmp_path)
    (tmp_path / "model.json").write_text(text)
    with pytest.raises(InputError, match=r"model.json (is damaged|lacks|holds \[\])"):
        load_bundle(tmp_path)


@pytest.mark.parametrize("widths", [[4, 6], [4, 6, 8, 10], [5, 6, 8]])
def test_weights_of_another_model_are_refused(tmp_path: Path, widths: list[int]) -> None:
    save(tmp_path / "one")
    save(tmp_path / "other", options={"widths": widths})
    describe(tmp_path / "one")
    (tmp_path / "other" / "weights.safetensors").replace(tmp_path / "one" / "weights.safetensors")
    with pytest.raises(InputError, match="of another model than"):
        load_bundle(tmp_path / "one")


def test_a_model_that_this_version_does_not_know_is_named(tmp_path: Path) -> None:
    save(tmp_path)
    describe(tmp_path, name="unet7")
    with pytest.raises(InputError, match="unknown model 'unet7'"):
        load_bundle(tmp_path)


def test_images_of_other_channels_and_types_are_described(tmp_path: Path) -> None:
    options = {**OPTIONS, "in_channels": 4}
    model = save(tmp_path, options=options, mean=(900.0,) * 4, std=(60.0,) * 4, dtype="uint16")
    bundle = load_bundle(tmp_path)
    assert (bundle.channels, bundle.dtype) == (4, "uint16")
    images = torch.randn(1, 4, 16, 16)
    assert torch.equal(bundle.model(images).logits, model(images).logits)


def test_the_way_of_predicting_is_part_of_the_bundle_and_of_its_digest(tmp_path: Path) -> None:
    settings = SemanticSettings(flip=True, scales=(0.5, 1.0), sliding_window=SlidingWindow((32, 16)))
    save(tmp_path / "plain")
    copy_bundle(tmp_path / "plain", tmp_path / "same", SemanticSettings())
    copy_bundle(tmp_path / "plain", tmp_path / "other", settings)
    assert bundle_digest(tmp_path / "same") == bundle_digest(tmp_path / "plain") != bundle_digest(tmp_path / "other")
    assert load_bundle(tmp_path / "other").task.settings == settings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": {"name": "semantik"}}, "unknown task 'semantik'"),
        ({"task": {"name": "semantic", "settings": {"flop": 1}}}, "setting 'flop' is unknown"),
        ({"task": 3}, "task is 3, expected an object"),
        ({"labels": {"classes": ["a", "b"]}}, r"model.json is damaged \(palette is missing\): train again"),
    ],
)
def test_a_description_of_no_task_is_refused(tmp_path: Path, change: dict, message: str) -> None:
    save(tmp_path)
    describe(tmp_path, **change)
    with pytest.raises(InputError, match=message):
        load_bundle(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"longer_side": -5}, "longer_side is -5, expected null, or pixels from 1 to 65536"),
        ({"longer_side": 1e9}, "longer_side is 1000000000.0, expected null"),
        ({"mean": [110.0]}, "has 1 values of mean, 3 of std and 3 channels, expected as many of each"),
        ({"mean": [110.0], "channels": 1}, "has 1 values of mean, 3 of std"),
        ({"mean": [1.0], "std": [1.0], "channels": 1}, "of another model than"),
        ({"mean": []}, r"mean is \[\], expected finite numbers"),
        ({"std": [1.0, 0.0, 1.0]}, "expected finite numbers above 0"),
        ({"std": [1.0, float("nan"), 1.0]}, "NaN is not a finite number"),
        ({"std": "abc"}, "std is abc, expected finite numbers"),
        ({"mean": [10**400] * 3}, "expected finite numbers"),
        ({"dtype": "float64"}, "dtype is float64, expected one of uint8, uint16, int16, float32"),
        ({"spatial_dims": 7}, "spatial_dims is 7, expected 2 or 3"),
        ({"name": 3}, "name is 3, expected the name of a model"),
        ({"metrics": {"val/miou": "high"}}, "expected an object of finite numbers"),
        ({"lineage": None}, "lineage is None, expected an object"),
        ({"shape": [3]}, "has unknown fields 'shape': train again or copy the model again, or use the version"),
        ({"options": {"widths": "abc"}}, "model.json: option 'widths' of model 'unet' is 'abc', expected a list"),
        ({"options": {**OPTIONS, "num_classes": 2}}, "num_classes is 2, but classes and channels make it 3"),
        ({"options": {**OPTIONS, "in_channels": 4}}, "in_channels is 4, but classes and channels make it 3"),
        (
            {"labels": LabelMap(tuple("abcde"), ((0, 0, 0),) * 5, {}).to_dict()},
            "of another model than model.json describes",
        ),
    ],
)
def test_a_description_that_fits_no_model_is_refused_in_a_sentence(tmp_path: Path, change: dict, message: str) -> None:
    save(tmp_path)
    describe(tmp_path, **change)
    with pytest.raises(InputError, match=message):
        load_bundle(tmp_path)


@pytest.mark.parametrize("name", ["model.json", "weights.safetensors"])
def test_no_changed_byte_of_either_file_is_overlooked(tmp_path: Path, name: str) -> None:
    save(tmp_path)
    before, path = load_bundle(tmp_path), tmp_path / name
    whole = path.read_bytes()
    step = 1 + len(whole) // 150
    found = 0
    for place in range(0, len(whole), step):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        try:
            after = load_bundle(tmp_path)
        except InputError as error:
            found += name in str(error)
        else:  # blanks between the fields of the description
            assert whole[place : place + 1].isspace()
            assert after.lineage == before.lineage
    assert found > 100


def test_a_bundle_of_two_trainings_is_refused_and_no_copy_hides_it(tmp_path: Path) -> None:
    save(tmp_path / "one")
    save(tmp_path / "other", seed=1)
    (tmp_path / "other" / "weights.safetensors").replace(tmp_path / "one" / "weights.safetensors")
    message = (
        r"model.json and weights.safetensors are not as they were written: their digest is \w{12}, model.json says"
    )
    with pytest.raises(InputError, match=message):
        load_bundle(tmp_path / "one")
    with pytest.raises(InputError, match=message):
        copy_bundle(tmp_path / "one", tmp_path / "copy", SemanticSettings())
    assert not (tmp_path / "copy").exists()
