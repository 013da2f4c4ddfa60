"""Fetches the samples that come next while the present ones are used."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike

from segmodels.data.shards import ShardReader

T = TypeVar("T")

THREADS = 16
"""Requests at once: of 0.5 MB each, they fetch 200 MB/s from a store that answers after 20 ms."""

AHEAD = 64
"""Batches whose samples are ordered before the first of them is used."""


@dataclass
class _Order:
    """A sample to fetch."""

    sample: int
    done: threading.Event = field(default_factory=threading.Event)
    filled: bool = False


def reading_ahead(reader: ShardReader, batches: Iterable[T], samples: Callable[[T], ArrayLike]) -> Iterator[T]:
    """The same batches, each once its samples are on the local disk. Meanwhile threads fetch the samples of the batches
    that follow, in their order, as far as the cache has room for their shards.

    Args:
        batches: may be endless; read some way ahead.
        samples: numbers of the samples of a batch.

    Raises:
        InputError, TransientError: a sample cannot be fetched, before its batch is due and again when it is.
    """
    if reader.is_local:
        yield from batches
        return
    wanted: SimpleQueue[_Order | None] = SimpleQueue()
    dropped = threading.Event()

    def fetch() -> None:
        while (order := wanted.get()) and not dropped.is_set():
            with suppress(Exception):  # it is raised again if it lasts until the sample is due
                reader.fetch(order.sample)
                order.filled = True
            order.done.set()

    for _ in range(THREADS):
        threading.Thread(target=fetch, name="shards", daemon=True).start()
    source = ((batch, np.unique(samples(batch))) for batch in batches)
    following: deque[tuple[T, set[int], list[_Order]]] = deque()
    near: Counter[int] = Counter()  # the shards of these batches
    ordered = np.zeros(len(reader), dtype=bool)  # samples
    ahead = next(source, None)
    try:
        while ahead or following:
            while ahead and len(following) < AHEAD:
                batch, own = ahead
                shards = reader.shards_of(own)
                if near and len(near.keys() | shards) > reader.shards_at_once:
                    break
                orders = [_Order(sample) for sample in own[~ordered[own]].tolist()]
                for order in orders:
                    wanted.put(order)
                ordered[own] = True
                near.update(shards)
                following.append((batch, shards, orders))
                ahead = next(source, None)
            batch, shards, orders = following.popleft()
            for order in orders:
                order.done.wait()
                if not order.filled:
                    reader.fetch(order.sample)
            yield batch
            near -= Counter(shards)
            if reader.windowed:  # shards that are not near may be removed
                for shard in shards - near.keys():
                    left = reader.samples_of(shard)
                    ordered[left.start : left.stop] = False
    finally:
        dropped.set()
        for _ in range(THREADS):
            wanted.put(None)
