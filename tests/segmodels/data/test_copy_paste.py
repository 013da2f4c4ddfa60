"""Objects pasted onto other images: whatever is drawn, pixels, class map, ids and boxes agree."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from object_scenes import DIGITS, digit_scenes, write_scene_shards

from segmodels.annotations import Annotation, Segment, rows_of
from segmodels.data.augment import Augment
from segmodels.data.copy_paste import paste_objects
from segmodels.data.loader import training_loader
from segmodels.data.shard_writer import ShardWriter
from segmodels.data.shards import ShardReader
from segmodels.errors import InputError
from segmodels.tasks.registry import create_task

THINGS = {1, 2}


def drawn(rng: np.random.Generator, size: tuple[int, int] = (24, 30)) -> tuple[np.ndarray, Annotation]:
    """An image whose pixels say which object they show, of up to 5 boxes that may overlap; one may be a crowd."""
    image = rng.integers(0, 100, (*size, 3)).astype(np.uint8)
    classes = np.zeros(size, np.uint8)
    layers: list[np.ndarray] = []
    rows = []
    for id in rng.permutation(9)[: rng.integers(0, 6)] + 1:
        top, left = rng.integers(0, size[0] - 3), rng.integers(0, size[1] - 3)
        window = slice(top, top + rng.integers(2, 14)), slice(left, left + rng.integers(2, 14))
        layers.append(np.zeros(size, np.uint16))
        layers[-1][window] = id
        label = int(rng.integers(1, 4))
        classes[window] = label
        image[window] = 100 + id
        rows.append(Segment(int(id), label, crowd=bool(rng.random() < 0.1)))
    stack = np.stack(layers) if layers else np.zeros((0, *size), np.uint16)
    return image, Annotation(classes, stack, rows_of(stack, rows))


@pytest.mark.parametrize("seed", range(60))
def test_a_pasted_scene_is_whole(seed: int) -> None:
    rng = np.random.default_rng(seed)
    image, annotation = drawn(rng)
    source_image, source = drawn(rng)
    before = image.copy(), annotation.layers.copy(), annotation.classes.copy()
    mixed, found = paste_objects(image, annotation, source_image, source, THINGS, np.random.default_rng(seed))
    assert all((a == b).all() for a, b in zip(before, (image, annotation.layers, annotation.classes), strict=True))
    old = {row.id: row for row in annotation.segments}
    new = [row for row in found.segments if row.id not in old]
    cover = found.masks(new).any(axis=0)
    # pixels and classes come from the source where something was pasted, and from the image elsewhere
    assert (mixed == np.where(cover[..., None], source_image, image)).all()
    assert (found.classes == np.where(cover, source.classes, annotation.classes)).all()
    # ids are unique, every row has a pixel, boxes and areas are those of the map
    assert len({row.id for row in found.segments}) == len(found.segments)
    assert found.segments == rows_of(found.layers, found.segments)
    assert set(np.unique(found.layers)) - {0} == {row.id for row in found.segments}
    # own objects lose what is covered and nothing else
    for row, mask in zip(found.segments, found.masks(), strict=True):
        if row.id in old:
            assert (mask == annotation.masks([old[row.id]])[0] & ~cover).all()
            assert (row.label, row.crowd) == (old[row.id].label, old[row.id].crowd)
        else:
            assert row.label in THINGS
            assert not row.crowd
            assert any((mask & ~whole == 0).all() for whole in source.masks())
    hidden = old.keys() - {row.id for row in found.segments}
    assert all(not (annotation.masks([old[id]])[0] & ~cover).any() for id in hidden)


def test_no_objects_leave_the_image_as_it_is() -> None:
    image, annotation = drawn(np.random.default_rng(1))
    none = Annotation.of_classes(np.zeros((24, 30), np.uint8))
    mixed, found = paste_objects(image, annotation, image, none, THINGS, np.random.default_rng(0))
    assert mixed is image
    assert found is annotation


def test_a_source_follows_from_seed_epoch_and_sample(tmp_path: Path) -> None:
    reader = ShardReader(write_scene_shards(tmp_path / "shards", "0" * 64), "train")
    task = create_task("instance", DIGITS)

    def batches(copy_paste: float, batch_size: int, workers: int = 0) -> dict[int, np.ndarray]:
        augment = Augment(crop=(48, 48), scale=(0.5, 1.5), copy_paste=copy_paste)
        loader = training_loader(reader, augment, task, batch_size=batch_size, seed=3, workers=workers)
        loader.set_epoch(2)
        found = {int(i): image.numpy() for batch in loader for i, image in zip(batch.ids, batch.images, strict=True)}
        loader.close()
        return found

    pasted, plain = batches(1.0, 4), batches(0.0, 4)
    again = batches(1.0, 3)
    assert all((again[number] == image).all() for number, image in pasted.items())
    changed = [number for number, image in pasted.items() if (image != plain[number]).any()]
    assert len(changed) > 6
    assert all(((pasted[number] == plain[number]).all(axis=0)).any() for number in pasted)  # the rest is untouched


def test_a_dataset_without_objects_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "shards"
    path.mkdir()
    labels = replace(DIGITS, things=frozenset())
    with ShardWriter(path, labels, "0" * 64, source={"kind": "digits"}) as writer:
        for split in ("train", "val"):
            writer.add(split, split, np.zeros((8, 8, 3), np.uint8), Annotation.of_classes(np.zeros((8, 8), np.uint8)))
    reader = ShardReader(path, "train")
    with pytest.raises(InputError, match=r"train\.augment\.copy_paste is 0\.5 but split 'train' has no annotated obj"):
        training_loader(reader, Augment(copy_paste=0.5), create_task("semantic", reader.labels), batch_size=2, seed=0)


def test_scenes_of_the_built_in_dataset_keep_their_digits() -> None:
    images, annotations = digit_scenes(2)
    (image, other), (annotation, source) = images, annotations
    _, found = paste_objects(image, annotation, other, source, DIGITS.things, np.random.default_rng(2))
    for row, mask in zip(found.segments, found.masks(), strict=True):
        assert (found.classes[mask] == row.label).mean() > 0.9
