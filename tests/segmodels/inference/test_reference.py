"""Reference statistics of a model: what they hold, how large they are, and that damage to them is found."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from small_pipeline import LABELS, write_model, write_shards

from segmodels.data.shards import ShardReader
from segmodels.errors import InputError
from segmodels.files import REFERENCE
from segmodels.inference.bundle import add_reference, bundle_digest, copy_bundle, load_bundle
from segmodels.inference.observation import MOST_PIXELS, Observer, deepest_layer, make_reference
from segmodels.inference.predictor import Predictor
from segmodels.inference.reference import MOST_BYTES, Observation, Reference, reference_of, write_reference
from segmodels.inference.sliding_window import SlidingWindow
from segmodels.tasks.semantic import SemanticSettings


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardReader:
    return ShardReader(write_shards(tmp_path_factory.mktemp("reference") / "shards", train=20), "train")


@pytest.fixture(scope="module")
def model(shards: ShardReader, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_model(tmp_path_factory.mktemp("reference") / "model", steps=5)
    add_reference(folder, make_reference(Predictor(load_bundle(folder)), shards))
    return folder


def reference_in(folder: Path) -> Reference:
    reference = load_bundle(folder).reference
    assert reference is not None
    return reference


def test_statistics_are_those_of_the_model_on_each_training_image(shards: ShardReader, model: Path) -> None:
    bundle, reference = load_bundle(model), reference_in(model)
    rows = [dict(zip(reference.names, row, strict=True)) for row in reference.values.tolist()]
    assert len(rows) == len(shards)
    maps: list[torch.Tensor] = []
    bundle.model.encoder[-1].register_forward_hook(lambda _m, _i, output: maps.append(output))
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (bundle.mean, bundle.std))
    features = []
    for number, row in enumerate(rows):
        image = np.array(shards.image(number))
        with torch.inference_mode():
            logits = bundle.model((torch.from_numpy(image).permute(2, 0, 1)[None] - mean) / std).logits
        features.append(maps[-1][0].mean(dim=(1, 2)).numpy())
        assert row["brightness"] == pytest.approx(image.mean(), rel=1e-5)
        assert row["confidence"] == pytest.approx(float(logits.softmax(1).amax(1).mean()), rel=1e-4)
        for label, name in enumerate(LABELS.classes):
            assert row[f"share/{name}"] == pytest.approx(float((logits.argmax(1) == label).float().mean()), abs=1e-6)
    projected = (np.stack(features) - np.mean(features, axis=0)) @ reference.components.T
    embedding = np.array([[value for name, value in row.items() if name.startswith("embedding/")] for row in rows])
    np.testing.assert_allclose(embedding, projected, atol=1e-4)
    assert embedding.shape[1] == 6  # the channels of the deepest map, fewer than 16
    spread = embedding.std(axis=0)
    assert (np.diff(spread) <= 1e-6).all(), "principal components come in the order of their variance"


def test_every_image_passes_the_watcher_once_in_batches_of_neighbours(shards: ShardReader, model: Path) -> None:
    seen: list[list[int]] = []

    def watch(batches: list[list[int]]) -> Iterator[list[int]]:
        for batch in batches:
            seen.append(batch)
            yield batch

    watched = make_reference(Predictor(load_bundle(model)), shards, watch)
    assert [number for batch in seen for number in batch] == list(range(len(shards)))
    assert all(len({tuple(shards.sizes[number]) for number in batch}) == 1 for batch in seen)
    np.testing.assert_array_equal(watched.values, reference_in(model).values)


def test_windows_views_and_large_images_are_observed_as_whole_images(model: Path) -> None:
    bundle = load_bundle(model)
    assert bundle.reference is not None
    images = torch.randint(0, 256, (2, 3, 24, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    def observed(settings: SemanticSettings | None) -> tuple[list, list[Observation]]:
        predictor = Predictor(bundle, settings=settings)
        observer = Observer(predictor, bundle.reference.layer)
        results = observer.batch(images)
        for mine, expected in zip(results, predictor.batch(images), strict=True):
            np.testing.assert_array_equal(mine.classes, expected.classes)
        return results, observer.observations()

    _, plain = observed(None)
    for settings in (
        SemanticSettings(sliding_window=SlidingWindow((16, 16))),
        SemanticSettings(flip=True, scales=(0.5, 1.0)),
        SemanticSettings(scales=(0.5,)),
    ):
        _, others = observed(settings)
        for one, other in zip(plain, others, strict=True):
            assert other.brightness == one.brightness
            assert other.confidence == pytest.approx(one.confidence, rel=1e-5)
            np.testing.assert_allclose(other.features, one.features, rtol=1e-4, atol=1e-6)
    side = int((4 * MOST_PIXELS) ** 0.5)
    observer = Observer(Predictor(bundle), bundle.reference.layer)
    observer.look(images[:1].repeat_interleave(side // 24 + 1, 2).repeat_interleave(side // 32 + 1, 3))
    (large,) = observer.observations()
    assert large.brightness == pytest.approx(plain[0].brightness, rel=1e-5)


def test_the_reference_is_small_whatever_the_number_of_classes_and_channels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    observations = [Observation(1.0, 0.5, rng.normal(size=2048).astype(np.float32)) for _ in range(256)]
    shares = [{f"class {number}": 0.001 for number in range(1203)} for _ in observations]
    reference = reference_of(observations, shares, "encoder")
    write_reference(tmp_path, reference)
    assert (tmp_path / REFERENCE).stat().st_size <= MOST_BYTES
    assert reference.components.shape == (16, 2048)
    assert len(reference.values) > 150


def test_a_reference_is_a_part_of_the_model_and_damage_to_it_is_found(model: Path, tmp_path: Path) -> None:
    copy_bundle(model, tmp_path / "copy", SemanticSettings(flip=True))
    np.testing.assert_array_equal(reference_in(tmp_path / "copy").values, reference_in(model).values)
    assert bundle_digest(tmp_path / "copy") != bundle_digest(model)
    content = (tmp_path / "copy" / REFERENCE).read_bytes()
    (tmp_path / "copy" / REFERENCE).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(InputError, match=r"reference\.safetensors is not as it was written"):
        load_bundle(tmp_path / "copy")
    (tmp_path / "copy" / REFERENCE).unlink()
    with pytest.raises(InputError, match=r"reference\.safetensors is not there"):
        load_bundle(tmp_path / "copy")


def test_making_it_again_gives_the_same_bytes_and_another_one_is_another_model(
    shards: ShardReader, model: Path, tmp_path: Path
) -> None:
    shutil.copytree(model, tmp_path / "again")
    add_reference(tmp_path / "again", make_reference(Predictor(load_bundle(model)), shards))
    assert (tmp_path / "again" / REFERENCE).read_bytes() == (model / REFERENCE).read_bytes()
    assert bundle_digest(tmp_path / "again") == bundle_digest(model)
    reference = reference_in(model)
    add_reference(tmp_path / "again", Reference(**{**vars(reference), "values": reference.values[:-1]}))
    assert bundle_digest(tmp_path / "again") != bundle_digest(model)


def test_a_model_without_an_encoder_of_ours_is_observed_at_its_smallest_map(model: Path) -> None:
    predictor = Predictor(load_bundle(model))
    assert deepest_layer(predictor, torch.zeros(1, 3, 24, 32)) == "encoder.1"
