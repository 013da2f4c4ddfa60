"""Records of stored shards, fetched one by one."""

import errno
import itertools
import os
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from stored_shards import EACH, batches, equal, size, stored

from segmodels.data import shard_files
from segmodels.data import shards as shards_module
from segmodels.data.read_ahead import reading_ahead
from segmodels.data.record_ranges import footer_size, record_ranges
from segmodels.data.sample_order import WINDOW
from segmodels.data.shards import ShardReader
from segmodels.errors import InputError, TransientError

CHUNKS = 4
"""Requests for a record in ``small_requests``."""


@pytest.fixture
def small_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests as for large shards: two for the footer, several for each record, none for two records."""
    for name, value in {"END": 16, "CHUNK": 1024}.items():
        monkeypatch.setattr(shard_files, name, value)
    for name in ("PIECE", "LARGE_PIECE"):
        monkeypatch.setattr(shards_module, name, 1)


def test_the_footer_says_where_records_lie(folder):
    content = (folder / "train-00001.arrow").read_bytes()
    reader = pa.ipc.open_file(content)
    ranges = record_ranges(content, len(content))
    for number, (start, stop) in enumerate(ranges.tolist()):
        message = pa.ipc.read_message(pa.py_buffer(content[start:stop]))
        assert pa.ipc.read_record_batch(message, reader.schema).equals(reader.get_batch(number))
    assert len(ranges) == EACH
    for end in (b"", bytes(100), content[:-1], content[: -footer_size(content)] + content[-10:], content[-10:]):
        with pytest.raises(ValueError, match=r"Arrow file|footer is damaged"):
            record_ranges(end, len(content))


@pytest.mark.usefixtures("small_requests")
@pytest.mark.parametrize("shards", [None, WINDOW + 2])
def test_batches_of_records_that_come_one_by_one_are_the_same(folder, store, cache, shards):
    limit = 1e9 if shards is None else shards * size(folder)
    for _ in range(2):  # the second time from the cache
        reader = ShardReader("s3://bucket/shards", "train", cache_bytes=limit)
        assert equal(batches(reader), batches(stored(folder, shards) if shards else ShardReader(folder, "train")))
        assert sum(path.stat().st_size for path in cache.iterdir()) <= limit
    requests = Counter(key for key in store.requests() if key.endswith(".arrow"))
    if shards is None:
        assert set(requests.values()) == {2 + CHUNKS * EACH}, "no record is fetched twice"


@pytest.mark.usefixtures("small_requests")
@pytest.mark.parametrize("store", [{"bandwidth": 50_000}], indirect=True)
def test_a_batch_waits_for_its_own_samples_alone(store):
    reader = ShardReader("s3://bucket/shards", "train")
    made = reading_ahead(reader, [[5], [20], [7, 9]], lambda batch: batch)
    assert next(made) == [5]
    assert reader.image(5).shape == (20, 30, 3)
    assert Counter(store.requests())["bucket/shards/train-00001.arrow"] == 2 + CHUNKS, "one record and the footer"
    assert list(made) == [[20], [7, 9]]


@pytest.mark.parametrize("small", [False, True])
def test_a_shard_of_which_nothing_was_fetched_ahead_comes_whole(folder, store, request, small):
    if small:
        request.getfixturevalue("small_requests")
    reader = ShardReader("s3://bucket/shards", "train")
    for index in (1, 0, 2):
        np.testing.assert_array_equal(reader.image(index), ShardReader(folder, "train").image(index))
        requests = Counter(key for key in store.requests() if key.endswith(".arrow"))
        assert requests == {"bucket/shards/train-00000.arrow": 2 + CHUNKS * EACH if small else 1}


@pytest.mark.usefixtures("small_requests")
@pytest.mark.parametrize(
    ("where", "name", "call", "error", "said"),
    [
        (shard_files, "read_range", 4, TransientError("the store is away"), "away"),
        (os, "pwrite", 4, OSError(errno.ENOSPC, "no room"), "the disk is full"),
        (os, "pwrite", 1 + 2 * CHUNKS, OSError(errno.ENOSPC, "no room"), "the disk is full"),
    ],
    ids=["the store is away", "the disk is full", "but for its first bytes"],
)
def test_a_record_that_came_in_part_is_fetched_again(folder, monkeypatch, where, name, call, error, said):
    """As when the process is killed."""
    reader, whole, calls = stored(folder), getattr(where, name), itertools.count(1)

    def fails(*arguments):
        if next(calls) == call:
            raise error
        return whole(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(where, name, fails)
        with pytest.raises((TransientError, InputError), match=said):
            reader.fetch(0)
    for again in (reader, stored(folder)):
        np.testing.assert_array_equal(again.image(0), ShardReader(folder, "train").image(0))
