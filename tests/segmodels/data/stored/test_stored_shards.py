"""Shards in an object store: read on demand through a cache with a limit, in the same order and with the same bits."""

import json
import pickle
import shutil
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest
import torch
from slow_store import slow_store
from stored_shards import AUGMENT, EACH, SHARDS, Classes, batches, equal, held, size, stored

from segmodels.data import object_store, shard_files
from segmodels.data.loader import evaluation_loader, training_loader
from segmodels.data.object_store import forget_connections
from segmodels.data.read_ahead import reading_ahead
from segmodels.data.sample_order import WINDOW, order_name, shuffled
from segmodels.data.shards import ShardReader
from segmodels.errors import InputError, TransientError

# --- order


def test_where_all_shards_fit_the_batches_are_those_of_local_shards(folder):
    reader = stored(folder, SHARDS)
    assert not reader.windowed
    assert reader.order_name == ShardReader(folder, "train").order_name
    assert equal(batches(reader), batches(ShardReader(folder, "train")))


def test_else_each_epoch_reads_every_sample_once_window_by_window():
    ends = np.cumsum([3, 1, 4, 1, 5, 9, 2, 6, 5, 3])
    orders = [shuffled(np.random.default_rng(seed), ends, windowed=True) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[0], orders[2])
    for order in orders:
        assert sorted(order.tolist()) == list(range(ends[-1]))
        shards = np.searchsorted(ends, order, side="right").tolist()
        first = list(dict.fromkeys(shards))
        for at in range(0, len(ends), WINDOW):  # no sample of another window lies between those of one
            places = [place for place, shard in enumerate(shards) if shard in first[at : at + WINDOW]]
            assert places == list(range(places[0], places[0] + len(places)))
    assert sorted(first) != first
    names = {order_name(ends, False), order_name(ends, True), order_name(ends[:-1], True)}
    assert len(names) == 3


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_training_resumes_within_an_epoch_of_windows(folder, workers):
    reader = stored(folder, WINDOW + 2)
    assert reader.windowed
    whole = batches(reader, epoch=1)
    assert equal(batches(reader, epoch=1, start=3, workers=workers), whole[3:])
    seen = torch.cat([numbers for _, _, numbers in whole]).tolist()
    assert len(set(seen)) == len(seen) == len(reader) // 4 * 4
    assert not equal(whole, batches(ShardReader(folder, "train"), epoch=1))


def test_all_ranks_together_read_what_one_process_reads(folder):
    reader = stored(folder, WINDOW + 2)
    ranks = [batches(reader, rank=rank, world_size=2) for rank in range(2)]
    loader = training_loader(reader, AUGMENT, Classes(), batch_size=8, seed=0)
    for one, *of_ranks in zip(loader, *ranks, strict=True):
        assert one.ids.tolist() == np.ravel([batch[2] for batch in of_ranks], order="F").tolist()


def test_evaluation_reads_every_sample_in_order(folder):
    for reader in (stored(folder, 1.5), stored(folder)):
        found = [sample for batch in evaluation_loader(reader, batch_size=2) for sample in batch.ids]
        assert found == [f"train {index:03}" for index in range(SHARDS * EACH)]


# --- cache


def test_the_cache_keeps_its_limit_and_a_killed_process_leaves_nothing_for_long(folder, cache):
    reader = stored(folder, WINDOW + 1.5)
    cache.mkdir(parents=True)
    (cache / "another-train-00000.arrow.partial").write_bytes(bytes(size(folder)))
    most = 0
    for index in np.random.default_rng(0).permutation(len(reader)).tolist():
        reader.image(index)
        most = max(most, sum(path.stat().st_size for path in cache.iterdir()))
    assert WINDOW * size(folder) < most <= (WINDOW + 1.5) * size(folder)
    assert not list(cache.glob("*.partial"))


def test_a_cache_that_is_emptied_while_a_copy_is_made_is_filled_again(folder, cache, monkeypatch):
    reader, whole = stored(folder), shard_files.read_range
    emptied = iter([cache])

    def empties(*arguments):
        for path in emptied:
            shutil.rmtree(path)
        return whole(*arguments)

    monkeypatch.setattr(shard_files, "read_range", empties)
    np.testing.assert_array_equal(reader.image(0), ShardReader(folder, "train").image(0))
    assert len(held(cache)) == 1


def test_a_cache_without_room_for_a_window_is_refused(folder):
    with pytest.raises(InputError, match=r"expected room for 5 of the shards.*raise train\.cache_gigabytes"):
        training_loader(stored(folder, WINDOW + 0.5), AUGMENT, Classes(), batch_size=4, seed=0)


def test_statistics_say_where_the_shards_are_and_sizes_need_no_shard(folder, tmp_path, cache):
    facts = json.loads((folder / "statistics.json").read_text())
    for file in facts["shards"]["val"]:
        file["url"] = f"file://{folder}"
    (tmp_path / "statistics.json").write_text(json.dumps(facts))
    reader = pickle.loads(pickle.dumps(ShardReader(tmp_path, "val")))
    assert reader.sizes.tolist() == [[20, 30]] * 5
    assert not cache.exists()
    np.testing.assert_array_equal(reader.image(3), ShardReader(folder, "val").image(3))
    assert len(held(cache)) == 1


READ = """
import sys
from segmodels.data import shard_files, shards
from segmodels.data.shards import ShardReader
shard_files.END, shards.PIECE = 16, 1
reader = ShardReader(sys.argv[1], "train")
print(sum(int(reader.image(index).sum()) for index in range(len(reader))))
"""


def test_processes_share_the_cache_and_fetch_no_record_twice(folder, store):
    command = [sys.executable, "-c", READ, "s3://bucket/shards"]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    sums = {int(process.communicate()[0]) for process in processes}
    reader = ShardReader(folder, "train")
    assert sums == {sum(int(reader.image(index).sum()) for index in range(len(reader)))}
    fetched = Counter(key for key in store.requests() if key.endswith(".arrow"))
    of_footer = 2  # its size first
    assert fetched == {f"bucket/shards/train-{number:05d}.arrow": of_footer + EACH for number in range(SHARDS)}


@pytest.mark.usefixtures("store")
def test_the_next_shards_are_fetched_while_the_first_batch_is_used(folder, cache):
    reader = ShardReader("s3://bucket/shards", "train", cache_bytes=8 * size(folder))
    loader = training_loader(reader, AUGMENT, Classes(), batch_size=2, seed=0)
    made = iter(loader)
    next(made)
    until = time.monotonic() + 20
    while len(held(cache)) < 2 * WINDOW and time.monotonic() < until:
        time.sleep(0.01)
    assert len(held(cache)) == 2 * WINDOW


# --- faults


@pytest.mark.parametrize("store", [{"broken": 2}], indirect=True)
def test_a_broken_read_is_tried_again(folder, store):
    np.testing.assert_array_equal(
        ShardReader("s3://bucket/shards", "val").image(0), ShardReader(folder, "val").image(0)
    )
    assert len([key for key in store.requests() if key.endswith("broken")]) == 2


def test_a_store_that_is_away_may_be_tried_again(folder, monkeypatch):
    monkeypatch.setattr(object_store, "ATTEMPTS", 1)
    with slow_store(folder.parents[1]) as store:
        for name, value in store.environment.items():
            monkeypatch.setenv(name, value)
        forget_connections()
        reader = ShardReader("s3://bucket/shards", "val")
    with pytest.raises(TransientError, match=r"^s3://bucket/shards/val-0000\d\.arrow cannot be read from .* \(.*\)$"):
        reader.image(0)
    forget_connections()


def test_an_error_comes_where_its_sample_is_due(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "other")
    (tmp_path / "other" / "train-00003.arrow").unlink()
    reader = ShardReader(f"file://{tmp_path}/other", "train")
    made: list[int] = []
    with pytest.raises(InputError, match=r"train-00003\.arrow is not there"):
        made.extend(reading_ahead(reader, range(len(reader)), lambda sample: [sample]))
    assert made == list(range(3 * EACH))


def test_a_sample_that_could_not_be_fetched_ahead_is_fetched_when_it_is_due(folder, monkeypatch):
    reader, whole, calls = stored(folder), shard_files.read_range, Counter[str]()

    def fails(address, *arguments):
        calls[address] += 1
        if calls[address] == 1:
            raise TransientError("the store is away")
        return whole(address, *arguments)

    monkeypatch.setattr(shard_files, "read_range", fails)
    assert list(reading_ahead(reader, [[0], [EACH]], lambda batch: batch)) == [[0], [EACH]]
    assert list(calls.values()) == [2, 2]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.write_bytes(path.read_bytes().replace(b"train 004", b"train 005")), "checksum differs"),
        (lambda path: path.write_bytes(path.read_bytes()[:-8]), "bytes, expected"),
        (lambda path: path.write_bytes(bytes(path.stat().st_size)), "does not end as an Arrow file"),
        (
            lambda path: path.write_bytes(path.read_bytes().replace(bytes.fromhex("ffffffff"), bytes(4))),
            "no record beg",
        ),
    ],
    ids=["a byte", "the end", "zeros", "no heads"],
)
def test_damage_is_named_and_the_copy_forgotten(folder, tmp_path, damage, said):
    shutil.copytree(folder, tmp_path / "other")
    path = tmp_path / "other" / "train-00001.arrow"
    whole = path.read_bytes()
    damage(path)
    reader = ShardReader(f"file://{tmp_path}/other", "train")
    with pytest.raises(
        InputError, match=rf"^file://.*/train-00001\.arrow is damaged \(.*{said}.*\): run the step prep"
    ):
        reader.image(EACH + 1)
    path.write_bytes(whole)
    np.testing.assert_array_equal(
        ShardReader(f"file://{tmp_path}/other", "train").image(EACH + 1), ShardReader(folder, "train").image(EACH + 1)
    )


def test_a_shard_that_is_fetched_again_is_checked_again(folder, cache):
    reader = stored(folder)
    reader.image(0)
    (copy,) = held(cache)
    reader.release()
    content = bytearray(copy.read_bytes())
    content[content.index(reader.image(0).tobytes()) + 5] ^= 1
    reader.release()
    copy.unlink()
    copy.write_bytes(content)
    with pytest.raises(InputError, match="checksum differs"):
        reader.image(0)


def test_addresses_and_rights_that_are_wrong_are_named(folder, cache):
    with pytest.raises(InputError, match=r"shards at ftp://host/shards cannot be read .* expected s3://bucket/prefix"):
        ShardReader("ftp://host/shards", "train")
    with pytest.raises(InputError, match=r"file:///nowhere/statistics\.json is not there: run the step preprocess"):
        ShardReader("file:///nowhere", "train")
    reader = stored(folder)
    cache.parent.mkdir()
    cache.write_text("a file")
    with pytest.raises(InputError, match=f"{cache} cannot be used"):
        reader.image(0)
