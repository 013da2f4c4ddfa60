"""Shards: what is written comes back from the memory map, and damage is named."""

import json
import pickle
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from segmodels.data.shards import ShardReader, ShardWriter, read_info
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
            writer.add("train", f"t{index}", *scene(index, height=20 + index))
        writer.add("test", "é/0", scene(100)[0], scene(101, height=40, width=60)[1])
    return read_info(folder).statistics


def test_classes_of_whole_images_come_back_and_are_minus_one_where_there_are_none(tmp_path):
    with ShardWriter(tmp_path, LABELS, "d") as writer:
        for index, label in enumerate((2, None, 0)):
            writer.add("train", str(index), *scene(index), image_label=label)
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
        np.testing.assert_array_equal(reader.mask(index), mask)
    assert reader.sizes.tolist() == [[20 + index, 30] for index in range(7)]
    assert reader.labels == LABELS
    assert reader.digest == "abc.dir"


def test_a_mask_may_have_another_size_than_its_image(tmp_path):
    write(tmp_path)
    reader = ShardReader(tmp_path, "test")
    assert reader.id(0) == "é/0"
    assert reader.image(0).shape == (20, 30, 3)
    np.testing.assert_array_equal(reader.mask(0), scene(101, height=40, width=60)[1])


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
        writer.add("train", "a", np.zeros((2, 3, 3), np.uint8), mask)
    reader = ShardReader(tmp_path, "train")
    assert reader.mask(0).dtype == np.int16
    np.testing.assert_array_equal(reader.mask(0), mask)
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
            writer.add("train", name, np.zeros((2, 2, 3), np.uint8), np.array(mask, np.uint8))
    statistics = read_info(tmp_path).statistics
    assert statistics.class_pixels == (6, 1, 0)
    assert statistics.present_pixels == (7, 3, 0)


def test_statistics_survive_json(tmp_path):
    statistics = write(tmp_path)
    assert DatasetStatistics.from_dict(json.loads(json.dumps(statistics.to_dict()))) == statistics


def test_a_missing_folder_says_to_run_preprocess(tmp_path):
    with pytest.raises(InputError, match=r"no statistics\.json: run the step preprocess"):
        ShardReader(tmp_path, "train")


def test_a_split_that_is_not_there_is_named(tmp_path):
    write(tmp_path)
    with pytest.raises(InputError, match="no split 'val', only train, test"):
        ShardReader(tmp_path, "val")


def test_a_missing_shard_is_named(tmp_path):
    write(tmp_path)
    (tmp_path / "train-00001.arrow").unlink()
    with pytest.raises(InputError, match=r"train-00001\.arrow is not there: rerun the step preprocess"):
        ShardReader(tmp_path, "train")


def test_a_truncated_shard_is_named(tmp_path):
    write(tmp_path)
    path = tmp_path / "train-00000.arrow"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"train-00000\.arrow is truncated .* rerun the step preprocess"):
        ShardReader(tmp_path, "train")


@pytest.mark.parametrize("part", [slice(-60, None), slice(8, 5000)], ids=["end", "start"])
@pytest.mark.parametrize("value", [0, 255])
def test_a_shard_with_overwritten_bytes_is_named(tmp_path, part, value):
    write(tmp_path)
    path = tmp_path / "train-00000.arrow"
    data = bytearray(path.read_bytes())
    data[part] = bytes([value]) * len(data[part])
    path.write_bytes(data)
    reader = ShardReader(tmp_path, "train")
    with pytest.raises(InputError, match=r"train-00000\.arrow is corrupt .* rerun the step preprocess"):
        [reader.image(index) for index in range(len(reader))]


def test_broken_statistics_are_named(tmp_path):
    write(tmp_path)
    (tmp_path / "statistics.json").write_text("{")
    with pytest.raises(InputError, match=r"statistics\.json cannot be read .* rerun the step preprocess"):
        read_info(tmp_path)


def test_a_writer_that_fails_leaves_nothing_that_opens(tmp_path):
    def write_and_fail():
        with ShardWriter(tmp_path, LABELS, "d") as writer:
            writer.add("train", "a", *scene(0))
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_and_fail()
    with pytest.raises(InputError, match="no statistics"):
        ShardReader(tmp_path, "train")


def test_reading_a_few_rows_touches_only_their_pages(tmp_path):
    """A 30 MB image: a crop of it must not bring the whole into memory."""
    image = np.full((2000, 5000, 3), 7, np.uint8)
    with ShardWriter(tmp_path, LABELS, "d") as writer:
        writer.add("train", "large", image, np.zeros((2000, 5000), np.uint8))
    code = f"""
from pathlib import Path
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
