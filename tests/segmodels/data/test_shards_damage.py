"""Damage of shards is named, and nothing that is half written opens."""

import json

import numpy as np
import pytest
from test_shards import LABELS, scene, with_objects, write

from segmodels.annotations import Annotation
from segmodels.data.runs import runs_of
from segmodels.data.shard_writer import ShardWriter
from segmodels.data.shards import ShardReader, read_info
from segmodels.errors import InputError


def test_a_missing_folder_says_to_run_preprocess(tmp_path):
    with pytest.raises(InputError, match=r"statistics\.json is not there: run the step preprocess first"):
        ShardReader(tmp_path, "train")


def test_a_split_that_is_not_there_is_named(tmp_path):
    write(tmp_path)
    with pytest.raises(InputError, match="no split 'val', only train, test"):
        ShardReader(tmp_path, "val")


def test_a_missing_shard_is_named(tmp_path):
    write(tmp_path)
    (tmp_path / "train-00001.arrow").unlink()
    with pytest.raises(InputError, match=r"train-00001\.arrow is not there: run the step preprocess first"):
        ShardReader(tmp_path, "train")


def test_a_truncated_shard_is_named(tmp_path):
    write(tmp_path)
    path = tmp_path / "train-00000.arrow"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"train-00000\.arrow is damaged \(\d+ bytes, expected \d+\): run the step"):
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
    with pytest.raises(InputError, match=r"train-00000\.arrow is damaged \(.*\): run the step preprocess again"):
        [reader.image(index) for index in range(len(reader))]


def test_broken_statistics_are_named(tmp_path):
    write(tmp_path)
    (tmp_path / "statistics.json").write_text("{")
    with pytest.raises(InputError, match=r"statistics\.json is damaged \(.*\): run the step preprocess again"):
        read_info(tmp_path)


def test_a_writer_that_fails_leaves_nothing_that_opens(tmp_path):
    def write_and_fail():
        with ShardWriter(tmp_path, LABELS, "d") as writer:
            writer.add("train", "a", scene(0)[0], Annotation.of_classes(scene(0)[1]))
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_and_fail()
    with pytest.raises(InputError, match=r"statistics\.json is not there"):
        ShardReader(tmp_path, "train")


@pytest.mark.parametrize("part", ["image", "classes", "runs", "id"])
def test_one_changed_bit_of_a_record_is_named_when_it_is_first_read(tmp_path, part):
    with ShardWriter(tmp_path, LABELS, "d") as writer:
        for index in range(3):
            writer.add("train", f"sample {index}", scene(index)[0], with_objects(index))
    path = tmp_path / "train-00000.arrow"
    found = {
        "image": scene(1)[0].tobytes()[500:540],
        "classes": scene(1)[1].tobytes()[100:140],
        "runs": runs_of(with_objects(1).layers[0])[1],
        "id": b"sample 1",
    }[part]
    data = bytearray(path.read_bytes())
    place = data.index(found)
    if part == "runs":
        place = data.index(found, place + 1)  # of the second sample
    data[place] ^= 4
    path.write_bytes(data)
    reader = ShardReader(tmp_path, "train")
    np.testing.assert_array_equal(reader.image(0), scene(0)[0])
    np.testing.assert_array_equal(reader.image(2), scene(2)[0])
    for read in (reader.image, reader.annotation):
        with pytest.raises(InputError, match=r"train-00000\.arrow is damaged \(sample .* checksum differs\): run"):
            read(1)


def test_no_changed_bit_anywhere_in_a_shard_changes_what_is_read(tmp_path):
    with ShardWriter(tmp_path, LABELS, "d") as writer:
        for index in range(2):
            writer.add("train", f"sample {index}", scene(index, height=8)[0], with_objects(index))
    path = tmp_path / "train-00000.arrow"
    data = path.read_bytes()

    def content():
        reader = ShardReader(tmp_path, "train")
        return [
            (
                reader.image(index).tobytes(),
                annotation.classes.tobytes(),
                annotation.layers.tobytes(),
                annotation.segments,
            )
            for index in range(2)
            for annotation in [reader.annotation(index)]
        ]

    truth, refused = content(), []
    places = range(0, len(data), 41)
    for place in places:
        path.write_bytes(data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :])
        try:
            assert content() == truth  # padding, which nobody reads
        except InputError as error:
            refused.append(str(error))
    assert len(refused) > len(places) / 3
    assert all(str(path) in message for message in refused)


def test_shards_of_an_earlier_schema_say_what_to_do(tmp_path):
    write(tmp_path)
    facts = json.loads((tmp_path / "statistics.json").read_text())
    del facts["schema"]
    (tmp_path / "statistics.json").write_text(json.dumps(facts))
    with pytest.raises(InputError, match="have schema 1, expected 2: rerun the step preprocess"):
        ShardReader(tmp_path, "train")
