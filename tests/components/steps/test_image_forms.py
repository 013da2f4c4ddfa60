"""Images of other forms than 8-bit RGB go through ingest, validate and preprocess unharmed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import tifffile
from PIL import Image

from components.params.schema import IngestParams, PreprocessParams, ValidateParams
from components.steps.ingest import ingest
from components.steps.preprocess import preprocess
from components.steps.validate import validate
from segmodels.annotations import Annotation, Segment, rows_of
from segmodels.data.layouts import LAYOUTS, Layout, LayoutCard, Sample, open_layout, register_layout
from segmodels.data.shards import ShardReader
from segmodels.errors import InputError
from segmodels.labels import LabelMap

SPLITS = {"train": 5, "val": 2, "test": 2}
SIZE = (24, 32)


def prepared(tmp_path: Path, layout: str = "folder", **params: Any) -> dict[str, Any]:
    """The dataset in ``tmp_path/set`` as shards; the report of its validation."""
    facts = {"source": "folder", "path": str(tmp_path / "set"), "layout": layout}
    ingest(IngestParams(**facts), tmp_path / "dataset", tmp_path / "cache")
    validate(ValidateParams(workers=1), tmp_path / "dataset", tmp_path / "validation")
    preprocess(
        PreprocessParams(workers=1, **params), tmp_path / "dataset", tmp_path / "validation", tmp_path / "shards"
    )
    return json.loads((tmp_path / "validation" / "report.json").read_text())


def satellite(root: Path) -> dict[str, np.ndarray]:
    """Scenes of four 16-bit channels, masks of three classes, and two objects each; sample id -> channels."""
    rng = np.random.default_rng(0)
    images = {}
    for split, count in SPLITS.items():
        for number in range(count):
            name = f"{split}/{number}"
            images[name] = rng.integers(200, 4000, (*SIZE, 4)).astype(np.uint16)
            for part in ("images", "masks", "objects"):
                (root / part / split).mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(
                root / "images" / f"{name}.tif", images[name], photometric="minisblack", planarconfig="contig"
            )
            mask, ids = np.zeros(SIZE, np.uint8), np.zeros(SIZE, np.uint16)
            ids[2:9, 3:12], ids[12:20, 8 + number : 28] = 300, 2
            mask[ids == 300], mask[ids == 2], mask[:, -2:] = 1, 2, 255
            Image.fromarray(mask).save(root / "masks" / f"{name}.png")
            Image.fromarray(ids).save(root / "objects" / f"{name}.png")
    (root / "classes.txt").write_text("ground\nhouse\nfield\n!things, house\n")
    return images


def test_four_channels_of_16_bits_and_objects_reach_the_shards(tmp_path: Path) -> None:
    images = satellite(tmp_path / "set")
    report = prepared(tmp_path)
    assert report["form"] == {"dtype": "uint16", "channels": 4, "spatial_dims": 2}
    assert report["objects"] == {"train": 10, "val": 4, "test": 4}
    layout = open_layout("folder", tmp_path / "set")
    samples = {sample.id: sample for sample in layout.samples()}
    for split, count in SPLITS.items():
        reader = ShardReader(tmp_path / "shards", split)
        assert len(reader) == count
        assert (reader.channels, reader.dtype, reader.spatial_dims) == (4, np.uint16, 2)
        assert reader.annotated
        assert reader.has_objects
        assert reader.labels.things == {1}
        for index in range(count):
            np.testing.assert_array_equal(reader.image(index), images[reader.id(index)])
            expected, found = layout.annotation(samples[reader.id(index)]), reader.annotation(index)
            assert expected is not None
            np.testing.assert_array_equal(found.classes, expected.classes)
            np.testing.assert_array_equal(found.layers, expected.layers)
            assert found.segments == expected.segments
            assert [segment.label for segment in found.segments] == [2, 1]
    pixels = np.concatenate([image.reshape(-1, 4) for name, image in images.items() if name.startswith("train")])
    np.testing.assert_allclose(reader.statistics.mean, pixels.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(reader.statistics.std, pixels.std(axis=0), rtol=1e-12)


def test_objects_are_resized_with_their_images_but_those_of_test_keep_their_size(tmp_path: Path) -> None:
    satellite(tmp_path / "set")
    prepared(tmp_path, longer_side=16)
    for split in SPLITS:
        reader = ShardReader(tmp_path / "shards", split)
        annotation = reader.annotation(0)
        assert reader.image(0).shape == (12, 16, 4)
        assert annotation.size == (SIZE if split == "test" else (12, 16))
        assert annotation.layers.shape == (1, *annotation.size)
        assert annotation.segments == rows_of(annotation.layers, annotation.segments)


@pytest.mark.parametrize("deep", [False, True])
def test_grey_images_keep_their_one_channel_and_bits(tmp_path: Path, deep: bool) -> None:
    satellite(tmp_path / "set")
    grey = {}
    for path in (tmp_path / "set" / "images").rglob("*.tif"):
        name = path.relative_to(tmp_path / "set" / "images").with_suffix("").as_posix()
        grey[name] = tifffile.imread(path)[:, :, 0] if deep else (tifffile.imread(path)[:, :, 0] // 16).astype(np.uint8)
        path.unlink()
        Image.fromarray(grey[name]).save(path.with_suffix(".png"))
    report = prepared(tmp_path)
    assert "one_form" not in [warning["check"] for warning in report["warnings"]]
    reader = ShardReader(tmp_path / "shards", "val")
    assert (reader.channels, reader.dtype) == (1, np.uint16 if deep else np.uint8)
    for index in range(len(reader)):
        np.testing.assert_array_equal(reader.image(index)[:, :, 0], grey[reader.id(index)])


def test_grey_among_colours_becomes_colour(tmp_path: Path) -> None:
    satellite(tmp_path / "set")
    rng = np.random.default_rng(1)
    for number, path in enumerate(sorted((tmp_path / "set" / "images").rglob("*.tif"))):
        pixels = rng.integers(0, 256, (*SIZE, 3) if number % 2 else SIZE).astype(np.uint8)
        path.unlink()
        Image.fromarray(pixels).save(path.with_suffix(".png"))
    report = prepared(tmp_path)
    assert report["form"] == {"dtype": "uint8", "channels": 3, "spatial_dims": 2}
    assert "one_form" in [warning["check"] for warning in report["warnings"]]
    assert ShardReader(tmp_path / "shards", "train").channels == 3


def test_an_image_of_another_form_than_the_others_is_named(tmp_path: Path) -> None:
    satellite(tmp_path / "set")
    path = tmp_path / "set" / "images" / "train" / "3.tif"
    tifffile.imwrite(path, np.zeros((*SIZE, 5), np.uint16) + 7, photometric="minisblack", planarconfig="contig")
    expected = (
        r"images whose channels or type do not fit the others, images/train/3\.tif \(images of 5 channels uint16\)"
    )
    with pytest.raises(InputError, match=expected):
        prepared(tmp_path)


def test_a_file_of_objects_that_changed_after_ingest_is_named(tmp_path: Path) -> None:
    satellite(tmp_path / "set")
    prepared(tmp_path)
    ids = np.zeros(SIZE, np.uint16)
    ids[3, 3] = 1
    Image.fromarray(ids).save(tmp_path / "set" / "objects" / "val" / "1.png")
    with pytest.raises(InputError, match=r"masks that have changed since the step ingest, masks/val/1\.png"):
        validate(ValidateParams(workers=1), tmp_path / "dataset", tmp_path / "validation")


class Volumes(Layout):
    """Two modalities of a patient in a file each, spacing known; a third file is the segmentation."""

    tree: ClassVar[str] = "SPLIT/N.first.npy  SPLIT/N.second.npy  SPLIT/N.truth.npy"
    labels = LabelMap(("healthy", "tumour"), ((0, 0, 0), (250, 0, 0)), {0: 0, 1: 1}, things=frozenset({1}))

    def samples(self):
        for path in sorted(self.root.rglob("*.first.npy")):
            first = path.relative_to(self.root).as_posix()
            files = tuple(first.replace("first", part) for part in ("truth", "second"))
            yield Sample(first.removesuffix(".first.npy"), path.parent.name, first, files, first)

    def read_image(self, sample):
        return np.stack([np.load(self.root / file) for file in (sample.image, sample.files[1])], axis=-1)

    def annotation(self, sample):
        classes = np.load(self.root / sample.files[0])
        layers = classes.astype(np.uint16)[None]
        return Annotation(classes, layers, rows_of(layers, [Segment(1, 1)]), spacing=(3.0, 0.9, 0.9))


@pytest.fixture
def volumes() -> Iterator[str]:
    """Name of the layout above, which is known during a test."""
    register_layout("test volumes", LayoutCard("volumes in numpy files", "this test"))(Volumes)
    yield "test volumes"
    LAYOUTS._entries.pop("test volumes")


def test_volumes_of_negative_floats_in_several_files_reach_the_shards(tmp_path: Path, volumes: str) -> None:
    rng = np.random.default_rng(0)
    for split, count in SPLITS.items():
        (tmp_path / "set" / split).mkdir(parents=True)
        for number in range(count):
            shape = (6 + number, 24, 20)
            for part in ("first", "second"):
                values = rng.normal(-500, 80, shape).astype(np.float32)
                np.save(tmp_path / "set" / split / f"{number}.{part}.npy", values)
            truth = np.zeros(shape, np.uint8)
            truth[2:4, 5:12, 6:15] = 1
            np.save(tmp_path / "set" / split / f"{number}.truth.npy", truth)
    # worker processes do not know a layout of this test: the steps' work is done here
    from components.steps import preprocess as step
    from components.validation import sample_facts

    def in_this_process(function, items, _workers, start, arguments):
        start(*arguments)
        return map(function, items)

    with pytest.MonkeyPatch.context() as patch:
        for module in (step, sample_facts):
            patch.setattr(module, "parallel_map", in_this_process)
        report = prepared(tmp_path, volumes)
        with pytest.raises(InputError, match=r"longer_side is 8 but train/0\.first\.npy is a volume, expected images"):
            prepared(tmp_path, volumes, longer_side=8)
    assert report["form"] == {"dtype": "float32", "channels": 2, "spatial_dims": 3}
    assert report["sizes"]["20x24x6"] == 3
    reader = ShardReader(tmp_path / "shards", "train")
    assert reader.sizes.tolist() == [[6 + number, 24, 20] for number in range(5)]
    parts = [
        [np.load(tmp_path / "set" / "train" / f"{n}.{part}.npy") for part in ("first", "second")] for n in range(5)
    ]
    for number, pair in enumerate(parts):
        np.testing.assert_array_equal(reader.image(number), np.stack(pair, axis=-1))
        annotation = reader.annotation(number)
        assert annotation.spacing == (3.0, 0.9, 0.9)
        assert annotation.segments == (Segment(1, 1, area=126.0),)
        assert annotation.classes.sum() == 126
    values = np.concatenate([np.stack(pair, axis=-1).reshape(-1, 2) for pair in parts]).astype(np.float64)
    np.testing.assert_allclose(reader.statistics.mean, values.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(reader.statistics.std, values.std(axis=0), rtol=1e-12)


def test_values_that_are_not_finite_are_named(tmp_path: Path) -> None:
    satellite(tmp_path / "set")
    for path in (tmp_path / "set" / "images").rglob("*.tif"):
        values = tifffile.imread(path).astype(np.float32)
        values[3, 4, 0] = np.nan if path.name == "1.tif" and path.parent.name == "val" else 0
        tifffile.imwrite(path, values, photometric="minisblack", planarconfig="contig")
    with pytest.raises(InputError, match=r"images/val/1\.tif holds 1 values that are not finite, expected none"):
        prepared(tmp_path)
