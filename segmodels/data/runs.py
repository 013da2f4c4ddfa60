"""Segments as runs of pixels: how shards keep the objects of an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

RUN = np.dtype("<u4")
"""Type of both numbers of a run: its first pixel, counted along the rows of the map, and its length."""


def runs_of(layer: NDArray[np.uint16]) -> dict[int, bytes]:
    """Runs of each id in a layer ``(*spatial)``: pairs (start, length) of ``RUN``, in order. 0 is no id."""
    flat = np.ascontiguousarray(layer).ravel()
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    lengths = np.diff(starts, append=flat.size)
    ids = flat[starts]
    order = np.argsort(ids, kind="stable")
    pairs = np.stack([starts, lengths], axis=1)[order].astype(RUN)
    found, first = np.unique(ids[order], return_index=True)
    return {int(id): part.tobytes() for id, part in zip(found, np.split(pairs, first[1:]), strict=True) if id != 0}


def layer_of(runs: Mapping[int, bytes], size: Sequence[int]) -> NDArray[np.uint16]:
    """The layer ``(*spatial)`` of ids with these runs; the inverse of ``runs_of``."""
    parts = {id: np.frombuffer(data, RUN).reshape(-1, 2) for id, data in runs.items()}
    pairs = np.concatenate(list(parts.values())).astype(np.int64)
    ids = np.repeat(list(parts), [len(part) for part in parts.values()])
    order = np.argsort(pairs[:, 0])
    starts = pairs[order, 0]
    edges = np.stack([starts, starts + pairs[order, 1]], axis=1).ravel()
    values = np.zeros(len(edges) + 1, np.uint16)  # between the runs 0
    values[1::2] = ids[order]
    pixels = int(np.prod(size))
    return np.repeat(values, np.diff(edges, prepend=0, append=pixels)).reshape(tuple(size))
