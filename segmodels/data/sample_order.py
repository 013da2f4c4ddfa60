"""The order of the samples in an epoch."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

WINDOW = 4
"""Shards whose samples are shuffled together where not all shards are on the local disk at once."""


def shuffled(rng: np.random.Generator, ends: NDArray[np.int64], windowed: bool) -> NDArray[np.int64]:
    """Every sample once: one permutation of all; or the shards in a random order, and a permutation of the samples of
    each ``WINDOW`` shards in turn.

    Args:
        ends: of each shard, the number of the sample after its last one.
    """
    if not windowed:
        return rng.permutation(int(ends[-1]))
    shards = np.split(np.arange(ends[-1]), ends[:-1])
    order = [shards[number] for number in rng.permutation(len(shards))]
    return np.concatenate(
        [rng.permutation(np.concatenate(order[at : at + WINDOW])) for at in range(0, len(order), WINDOW)]
    )


def order_name(ends: NDArray[np.int64], windowed: bool) -> str:
    """Equal names and seeds give equal orders of the same samples."""
    if not windowed:
        return "one permutation"
    return f"windows of {WINDOW} shards, {hashlib.sha256(repr(ends.tolist()).encode()).hexdigest()[:16]}"
