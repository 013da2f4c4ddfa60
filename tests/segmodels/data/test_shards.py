"""Shards: what is written comes back from the memory map."""

import json
import pickle
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from segmodels.annotations import Annotation, Segment, pack_layers, rows_of
from segmodels.data import statistics as counting
from segmodels.data.image_form import ImageForm
from segmodels.data.records import encode
from segmodels.data.runs import layer_of, runs_of
from segmodels.data.shard_writer import Borders, ShardFile, ShardWriter
from segmodels.data.shards import ShardReader, read_info
from segmodels.data.statistics import DatasetStatistics
from segmodels.errors import InputError
from segmodels.labels import LabelMap

LABELS = LabelMap(("sky", "road", "car"), ((0, 0, 255), (90, 90, 90), (255, 0, 0)), {0: 0, 1: 1, 2: 2, 9: 255})


def scene(index: int, height: int = 20, width: int = 30) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(index)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    mask = rng.choice(np.array([0, 1, 2, 255], dtype=np.uint8), (height, width))
    return image, mask


def write(folder: Path, *, labels: LabelMap = LABELS, shard_bytes: int = 10_000, train: int = 7) -> DatasetStatistics:
    folder.mkdir(exist_ok=True)
    writer = ShardWriter(folder, labels, "abc.dir", shard_bytes)
    with writer:
        for index in range(train):
            image, mask = scene(index, height=20 + index)
            writer.add("train", f"t{index}", image, Annotation.of_classes(mask))
        writer.add("test", "é/0", scene(100)[0], Annotation.of_classes(scene(101, height=40, width=60)[1]))
    return read_info(folder).statistics


def test_classes_of_whole_images_come_back_and_are_minus_one_where_there_are_none(tmp_path):
    with ShardWriter(tmp_path, LABELS, "d") as writer:
        for index, label in enumerate((2, None, 0)):
            writer.add("train", str(index), scene(index)[0], Annotation.of_classes(scene(index)[1], label))
    assert ShardReader(tmp_path, "train").image_labels.tolist() == [2, -1, 0]


def test_images_masks_and_ids_come_back_from_several_shards(tmp_path):
    write(tmp_path)
    assert sorted(path.name for path in tmp_path.glob("train-*")) == [f"train-{n:05d}.arrow" for n in range(2)]
    reader = ShardReader(tmp_path, "train")
    assert len(reader) == 7
    for index in [6, 0, 3, 5, 1, 2, 4]:
        image, mask = scene(index, height=20 + index)
        assert reader.id(index) == f"t{index}"
        np.testing.assert_array_equal(reader.image(index), image)
        np.testing.assert_array_equal(reader.annotation(index).classes, mask)
    assert reader.sizes.tolist() == [[20 + index, 30] for index in range(7)]
    assert reader.labels == LABELS
    assert reader.digest == "abc.dir"


def test_a_mask_may_have_another_size_than_its_image(tmp_path):
    write(tmp_path)
    reader = ShardReader(tmp_path, "test")
    assert reader.id(0) == "é/0"
    assert reader.image(0).shape == (20, 30, 3)
    np.testing.assert_array_equal(reader.annotation(0).classes, scene(101, height=40, width=60)[1])


def test_views_are_read_only_and_not_copied(tmp_path):
    write(tmp_path)
    reader = ShardReader(tmp_path, "train")
    first, again = reader.image(2), reader.image(2)
    assert not first.flags.writeable
    assert not first.flags.owndata
    assert first.ctypes.data == again.ctypes.data
    with pytest.raises(ValueError, match="read-only"):
        first[0, 0, 0] = 1


def test_views_stay_valid_after_release(tmp_path):
    write(tmp_path)
    reader = ShardReader(tmp_path, "train")
    image = reader.image(3)
    reader.release()
    np.testing.assert_array_equal(image, scene(3, height=23)[0])
    np.testing.assert_array_equal(reader.image(3), image)


def test_masks_above_255_classes_keep_their_ids(tmp_path):
    many = LabelMap(
        tuple(f"class {n}" for n in range(300)),
        tuple((n % 256, n // 256, 0) for n in range(300)),
        {n: n for n in range(300)},
        ignore_index=-1,
    )
    mask = np.array([[0, 255, 256], [299, -1, 7]], dtype=np.int16)
    with ShardWriter(tmp_path, many, "d") as writer:
        writer.add("train", "a", np.zeros((2, 3, 3), np.uint8), Annotation.of_classes(mask))
    reader = ShardReader(tmp_path, "train")
    assert reader.annotation(0).classes.dtype == np.int16
    np.testing.assert_array_equal(reader.annotation(0).classes, mask)
    assert reader.statistics.class_pixels[255] == 1
    assert sum(reader.statistics.class_pixels) == 5


def test_a_reader_pickles_small_and_reads_the_same_in_another_process(tmp_path):
    write(tmp_path)
    reader = ShardReader(tmp_path, "train")
    reader.image(0)
    data = pickle.dumps(reader)
    assert len(data) < 1000
    code = "import pickle,sys; r = pickle.loads(sys.stdin.buffer.read()); print(r.id(4), int(r.image(4).sum()))"
    answer = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=True).stdout.decode()
    assert answer.split() == ["t4", str(int(scene(4, height=24)[0].sum()))]


def test_the_same_samples_give_the_same_bytes(tmp_path):
    write(tmp_path / "a")
    write(tmp_path / "b")
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert len(names) == 4
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_statistics_equal_numpy_over_all_train_pixels(tmp_path):
    statistics = write(tmp_path)
    images, masks = zip(*(scene(index, height=20 + index) for index in range(7)), strict=True)
    pixels = np.concatenate([image.reshape(-1, 3) for image in images]).astype(np.float64)
    np.testing.assert_allclose(statistics.mean, pixels.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(statistics.std, pixels.std(axis=0), rtol=1e-12)
    labels = np.concatenate([mask.ravel() for mask in masks])
    counts = [int((labels == c).sum()) for c in range(3)]
    assert list(statistics.class_pixels) == counts
    np.testing.assert_allclose(statistics.class_frequencies, np.array(counts) / sum(counts))
    assert statistics.images == {"train": 7, "test": 1}
    assert statistics.pixels == {"train": len(pixels), "test": 600}


def test_present_pixels_are_those_of_images_with_the_class(tmp_path):
    with ShardWriter(tmp_path, LABELS, "d") as writer:
        for name, mask in (("a", [[0, 0], [1, 255]]), ("b", [[0, 0], [0, 0]]), ("c", [[255, 255], [255, 255]])):
            writer.add("train", name, np.zeros((2, 2, 3), np.uint8), Annotation.of_classes(np.array(mask, np.uint8)))
    statistics = read_info(tmp_path).statistics
    assert statistics.class_pixels == (6, 1, 0)
    assert statistics.present_pixels == (7, 3, 0)


def test_statistics_survive_json(tmp_path):
    statistics = write(tmp_path)
    assert DatasetStatistics.from_dict(json.loads(json.dumps(statistics.to_dict()))) == statistics


def test_images_can_be_divided_by_the_deviation_of_a_channel_that_is_the_same_everywhere(tmp_path):
    """An opaque alpha or an empty band; nearly equal floats count as equal, a small deviation about 0 does not."""
    with ShardWriter(tmp_path, LABELS, "d") as writer:
        for number in range(2):
            image = np.full((2, 2, 4), 0.1, np.float32)
            image[..., 1], image[..., 2], image[0, 0, 3] = 0, number * 1e-9, 0.1 + 1e-8
            writer.add("train", str(number), image, Annotation.of_classes(np.zeros((2, 2), np.uint8)))
    assert read_info(tmp_path).statistics.std == (1, 1, pytest.approx(5e-10), 1)


def test_reading_a_few_rows_touches_only_their_pages(tmp_path):
    """A 30 MB image: a crop of it must not bring the whole into memory."""
    image = np.full((2000, 5000, 3), 7, np.uint8)
    with ShardWriter(tmp_path, LABELS, "d") as writer:
        writer.add("train", "large", image, Annotation.of_classes(np.zeros((2000, 5000), np.uint8)))
    code = f"""
from pathlib import Path
from segmodels.annotations import Annotation, Segment, pack_layers, rows_of
from segmodels.data import statistics as counting
from segmodels.data.image_form import ImageForm, common_form
from segmodels.data.records import encode
from segmodels.data.runs import layer_of, runs_of
from segmodels.data.shards import ShardReader
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * {resource.getpagesize()}
view = ShardReader({str(tmp_path)!r}, "train").image(0)
start = resident()
view[700:900].sum()
part = resident()
view.sum()
print(part - start, resident() - start)
"""
    part, whole = map(
        int, subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout.split()
    )
    assert 2_000_000 < part < 8_000_000
    assert whole > 25_000_000


# Objects, further maps, volumes, other types


def with_objects(index: int) -> Annotation:
    """Overlapping rectangles on two layers, one of them a crowd with a box and an area of the dataset's own."""
    classes = scene(index)[1]
    masks = [np.zeros(classes.shape, bool) for _ in range(3)]
    for number, mask in enumerate(masks):
        mask[2 + 5 * number : 10 + 4 * number, 4 + number : 12 + 5 * number] = True
    layers = pack_layers(masks, classes.shape)
    rows = rows_of(layers, [Segment(1, 2), Segment(2, 1), Segment(3, 2, crowd=True)])
    rows = (*rows[:2], rows[2]._replace(box=(0.5, 1.25, 7.0, 9.0), area=12.75))
    return Annotation(classes, layers, rows, image_label=index)


def equal(one: Annotation, other: Annotation) -> None:
    np.testing.assert_array_equal(one.classes, other.classes)
    np.testing.assert_array_equal(one.layers, other.layers)
    assert one.layers.dtype == other.layers.dtype == np.uint16
    assert one.further.keys() == other.further.keys()
    for name, map in one.further.items():
        np.testing.assert_array_equal(map, other.further[name])
        assert map.dtype == other.further[name].dtype
    assert (one.segments, one.image_label, one.spacing) == (other.segments, other.image_label, other.spacing)


def test_objects_come_back_with_their_rows_and_overlaps(tmp_path):
    with ShardWriter(tmp_path, LABELS, "d") as writer:
        for index in range(3):
            writer.add("train", str(index), scene(index)[0], with_objects(index))
        writer.add("val", "none", scene(9)[0], Annotation.of_classes(scene(9)[1]))
    reader = ShardReader(tmp_path, "train")
    assert reader.has_objects
    assert len(reader.annotation(0).layers) == 2
    for index in range(3):
        equal(reader.annotation(index), with_objects(index))
        assert reader.annotation(index, objects=False).layers.shape == (0, 20, 30)
    assert ShardReader(tmp_path, "val").annotation(0).layers.shape == (0, 20, 30)


def test_a_dataset_without_objects_says_so(tmp_path):
    write(tmp_path)
    assert not ShardReader(tmp_path, "train").has_objects
    assert ShardReader(tmp_path, "train").annotated


@pytest.mark.parametrize("size", [(1, 1), (7, 9), (3, 5, 8)])
@pytest.mark.parametrize("most", [0, 1, 4, 65535])
def test_runs_of_pixels_are_the_layer(size, most):
    layer = np.random.default_rng(most).integers(0, most + 1, size).astype(np.uint16)
    runs = runs_of(layer)
    assert sorted(runs) == [id for id in np.unique(layer).tolist() if id]
    if runs:
        np.testing.assert_array_equal(layer_of(runs, size), layer)


def test_images_that_are_not_annotated_are_ignored_everywhere(tmp_path):
    parts = LabelMap(("head", "tail"), ((1, 1, 1), (2, 2, 2)), {0: 0, 1: 1})
    labels = LabelMap(LABELS.classes, LABELS.palette, LABELS.ids, further={"part": parts})
    with ShardWriter(tmp_path, labels, "d") as writer:
        writer.add("train", "a", scene(0)[0], None, image_label=4)
        writer.add(
            "val",
            "b",
            scene(0)[0],
            Annotation(scene(0)[1], np.zeros((0, 20, 30), np.uint16), (), {"part": scene(1)[1] % 2}),
        )
    reader = ShardReader(tmp_path, "train")
    assert not reader.annotated
    assert ShardReader(tmp_path, "val").annotated
    annotation = reader.annotation(0)
    assert (annotation.classes == 255).all()
    assert (annotation.further["part"] == 255).all()
    assert annotation.size == (20, 30)
    assert annotation.image_label == 4
    assert reader.image_labels.tolist() == [4]
    assert reader.statistics.class_pixels == (0, 0, 0)
    np.testing.assert_array_equal(ShardReader(tmp_path, "val").annotation(0).further["part"], scene(1)[1] % 2)


def test_further_maps_are_those_of_the_label_map(tmp_path):
    parts = LabelMap(("head", "tail"), ((1, 1, 1), (2, 2, 2)), {0: 0, 1: 1})
    labels = LabelMap(LABELS.classes, LABELS.palette, LABELS.ids, further={"part": parts})
    with ShardWriter(tmp_path, labels, "d") as writer:
        with pytest.raises(InputError, match=r"sample 'a' has the further maps \[\], expected \['part'\]"):
            writer.add("train", "a", scene(0)[0], Annotation.of_classes(scene(0)[1]))
        writer.add("train", "b", scene(0)[0], None)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16"])
@pytest.mark.parametrize("channels", [1, 3, 4, 7])
def test_integers_of_any_channels_come_back_with_exact_statistics(tmp_path, dtype, channels):
    rng = np.random.default_rng(channels)
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    images = [
        rng.integers(low // (n + 1), high // (n + 1), (9, 7, channels), dtype=dtype, endpoint=True) for n in range(3)
    ]
    with ShardWriter(tmp_path, LABELS, "d") as writer:
        for number, image in enumerate(images):
            writer.add("train", str(number), image, None)
    reader = ShardReader(tmp_path, "train")
    assert (reader.dtype, reader.channels, reader.spatial_dims) == (np.dtype(dtype), channels, 2)
    for number, image in enumerate(images):
        np.testing.assert_array_equal(reader.image(number), image)
        assert reader.image(number).dtype == image.dtype
    pixels = np.concatenate([image.reshape(-1, channels) for image in images]).astype(np.float64)
    np.testing.assert_allclose(reader.statistics.mean, pixels.mean(axis=0), rtol=1e-12, atol=1e-9)
    np.testing.assert_allclose(reader.statistics.std, pixels.std(axis=0), rtol=1e-12)
    assert reader.statistics.pixels == {"train": 3 * 63}


def test_volumes_of_negative_floats_come_back_with_their_spacing(tmp_path):
    rng = np.random.default_rng(0)
    volumes = [rng.normal(-1000, 300, (5 + n, 6, 7, 2)).astype(np.float32) for n in range(3)]
    layers = np.zeros((1, 5, 6, 7), np.uint16)
    layers[0, 1:3, 2:4, 3:6] = 9
    annotation = Annotation(
        rng.integers(0, 3, (5, 6, 7), dtype=np.uint8), layers, rows_of(layers, [Segment(9, 1)]), spacing=(3.0, 0.7, 0.7)
    )
    with ShardWriter(tmp_path, LABELS, "d") as writer:
        for number, volume in enumerate(volumes):
            writer.add("train", str(number), volume, annotation if number == 0 else None)
    reader = ShardReader(tmp_path, "train")
    assert (reader.dtype, reader.channels, reader.spatial_dims) == (np.float32, 2, 3)
    assert reader.sizes.tolist() == [[5, 6, 7], [6, 6, 7], [7, 6, 7]]
    for number, volume in enumerate(volumes):
        np.testing.assert_array_equal(reader.image(number), volume)
    equal(reader.annotation(0), annotation)
    values = np.concatenate([volume.reshape(-1, 2) for volume in volumes]).astype(np.float64)
    np.testing.assert_allclose(reader.statistics.mean, values.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(reader.statistics.std, values.std(axis=0), rtol=1e-12)


def test_a_float_dataset_far_from_zero_keeps_its_deviation(tmp_path):
    values = np.random.default_rng(0).normal(0, 1e-2, (4, 64, 64, 1))
    images = (1000 + values).astype(np.float32)
    with ShardWriter(tmp_path, LABELS, "d") as writer:
        for number, image in enumerate(images):
            writer.add("train", str(number), image, None)
    (std,) = read_info(tmp_path).statistics.std
    assert std == pytest.approx(images.astype(np.float64).std(), rel=1e-9)


def test_images_of_another_form_are_refused(tmp_path):
    with ShardWriter(tmp_path, LABELS, "d") as writer:
        writer.add("train", "a", np.zeros((4, 5, 3), np.uint8), None)
        with pytest.raises(
            InputError,
            match="sample 'b' of split 'val' has images of 1 channel uint16, the samples before it have images of 3",
        ):
            writer.add("val", "b", np.zeros((4, 5, 1), np.uint16), None)
        for image in (np.zeros((4, 5, 3)), np.zeros((4, 5), np.uint8)):
            with pytest.raises(InputError, match=r"sample 'c' of split 'val': image has the type .* and the shape"):
                writer.add("val", "c", image, None)


# Borders, checksums, schemas


def test_borders_follow_from_sizes_alone_so_that_files_can_be_written_side_by_side(tmp_path):
    (tmp_path / "whole").mkdir()
    samples = [(scene(n, height=20 + n)[0], with_objects(n)) for n in range(9)]
    with ShardWriter(tmp_path / "whole", LABELS, "d", shard_bytes=4500) as writer:
        for number, (image, annotation) in enumerate(samples):
            writer.add("train", str(number), image, annotation)
    borders = Borders(LABELS, ImageForm(np.dtype(np.uint8), 3, 2), 4500)
    numbers = [borders.file_of((20 + n, 30), (20, 30)) for n in range(9)]
    assert numbers == [0, 0, 1, 1, 2, 2, 3, 3, 4]
    for file in reversed(range(5)):
        part = ShardFile(tmp_path / f"train-{file:05d}.arrow", LABELS)
        for number in np.flatnonzero(np.array(numbers) == file).tolist():
            part.add(encode(str(number), *samples[number], number, LABELS))
        part.close()
        name = f"train-{file:05d}.arrow"
        assert (tmp_path / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_writer_without_samples_is_refused(tmp_path):
    with pytest.raises(InputError, match="has no samples, expected at least one"), ShardWriter(tmp_path, LABELS, "d"):
        pass


@pytest.mark.parametrize("exact", [2**24, 10])
@pytest.mark.parametrize("shape", [(36, 48, 3), (7, 5, 1), (4, 6, 5, 2)])
def test_values_of_bytes_are_counted_exactly_whoever_counts(shape, exact, monkeypatch):
    monkeypatch.setattr(counting, "EXACT_IN_FLOAT32", exact)
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    counts = counting.Histogram.of(image).counts
    assert counts.dtype == np.int64
    expected = [np.bincount(image[..., channel].ravel(), minlength=256) for channel in range(shape[-1])]
    np.testing.assert_array_equal(counts, expected)
