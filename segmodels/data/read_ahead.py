"""Fetches the shards that come next while the present ones are read."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from queue import SimpleQueue
from typing import TypeVar

from numpy.typing import ArrayLike

from segmodels.data.shards import ShardReader

T = TypeVar("T")

THREADS = 2
"""One begins a shard while the other ends one."""


def reading_ahead(reader: ShardReader, batches: Iterable[T], samples: Callable[[T], ArrayLike]) -> Iterator[T]:
    """The same batches, while threads fetch the shards of those that follow: as many as the cache has room for.

    Args:
        batches: may be endless; read some way ahead.
        samples: numbers of the samples of a batch.
    """
    if reader.is_local:
        yield from batches
        return
    wanted: SimpleQueue[int] = SimpleQueue()
    dropped = threading.Event()

    def fetch() -> None:
        while (shard := wanted.get()) >= 0 and not dropped.is_set():
            with suppress(Exception):  # the reader meets it again, where the shard is due
                reader.fetch(shard)

    for _ in range(THREADS):
        threading.Thread(target=fetch, name="shards", daemon=True).start()
    source, following = iter(batches), deque[tuple[T, set[int]]]()
    near: Counter[int] = Counter()  # the shards of these batches
    try:
        while True:
            while (len(near) < reader.shards_at_once or not following) and (batch := next(source, None)) is not None:
                shards = reader.shards_of(samples(batch))
                for shard in sorted(shards - near.keys()):
                    wanted.put(shard)
                near.update(shards)
                following.append((batch, shards))
            if not following:
                return
            batch, shards = following.popleft()
            yield batch
            near -= Counter(shards)
    finally:
        dropped.set()
        for _ in range(THREADS):
            wanted.put(-1)
