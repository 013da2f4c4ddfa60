"""Images that are in two splits: the same file, or nearly the same picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

BITS = 64


def with_duplicates(facts: pa.Table, distance: int) -> pa.Table:
    """The facts with ``also_in`` and ``near_duplicate_of``: an equal or similar image in another split, if any.

    Args:
        distance: bits in which the hashes of similar images differ at most.
    """
    split, image = (facts.column(name).to_numpy(zero_copy_only=False) for name in ("split", "image"))
    md5 = facts.column("image_md5").to_numpy(zero_copy_only=False)
    parts = parts_of_files(image.tolist(), facts.column("id").to_pylist())
    equal = same_elsewhere(np.array([None if part else one for part, one in zip(parts, md5, strict=True)]), split)
    hashes = facts.column("image_hash")
    hashed = np.flatnonzero(hashes.is_valid().to_numpy())
    content = np.where(parts, facts.column("id").to_numpy(zero_copy_only=False), md5)
    _, first = np.unique(content[hashed].astype(str), return_index=True)
    distinct = hashed[np.sort(first)]  # exact duplicates are reported elsewhere
    partner = near_elsewhere(hashes.take(distinct).to_numpy(), split[distinct], distance)
    similar = np.full(len(split), -1)
    similar[distinct] = np.where(partner < 0, -1, distinct[partner])
    for name, other in (("also_in", equal), ("near_duplicate_of", similar)):
        places = [None if place < 0 else f"{split[place]}: {image[place]}" for place in other]
        facts = facts.append_column(name, pa.array(places, pa.string()))
    return facts


def parts_of_files(files: Sequence[str | None], ids: Sequence[str]) -> np.ndarray:
    """Which samples are parts of a file (pages, slices), ``(N,)`` bool: files that hold samples of several ids."""
    holds: dict[str | None, set[str]] = {}
    for file, sample in zip(files, ids, strict=True):
        holds.setdefault(file, set()).add(sample)
    return np.array([len(holds[file]) > 1 for file in files], dtype=bool)


def same_elsewhere(content: np.ndarray, split: np.ndarray) -> np.ndarray:
    """For each sample a sample of another split with equal content, or -1.

    Args:
        content: ``(N,)`` what is compared, for example md5s; None is equal to nothing.
        split: ``(N,)`` of each sample.

    Returns:
        ``(N,)`` int64 positions.
    """
    firsts: dict[object, dict[str, int]] = {}  # content -> split -> its first sample there
    for place, (value, name) in enumerate(zip(content, split, strict=True)):
        if value is not None:
            firsts.setdefault(value, {}).setdefault(name, place)
    partner = np.full(len(content), -1)
    for place, (value, name) in enumerate(zip(content, split, strict=True)):
        others = [other for other_name, other in firsts.get(value, {}).items() if other_name != name]
        partner[place] = min(others, default=-1)
    return partner


def near_elsewhere(hashes: np.ndarray, split: np.ndarray, distance: int) -> np.ndarray:
    """For each hash one of another split that differs in at most ``distance`` bits, the nearest, or -1.

    Two hashes that differ in at most d bits agree in one of d + 1 bands of bits, so only hashes that share a band are
    compared (Norouzi et al. 2012, "Fast search in Hamming space with multi-index hashing", section 2).

    Args:
        hashes: ``(N,)`` uint64.
        split: ``(N,)`` of each sample.

    Returns:
        ``(N,)`` int64 positions.
    """
    split_number = np.unique(split, return_inverse=True)[1]
    _, first, place = np.unique(np.rec.fromarrays([hashes, split_number]), return_index=True, return_inverse=True)
    hashes, split_number = hashes[first], split_number[first]  # one of each hash and split stands for all
    partner, nearest = np.full(len(first), -1), np.full(len(first), distance + 1)
    for band in np.array_split(np.arange(BITS, dtype=np.uint64), distance + 1):
        key = (hashes >> band[0]) & np.uint64(2 ** len(band) - 1)
        order = np.argsort(key, kind="stable")
        key = key[order]
        step, left = 1, np.arange(len(key) - 1)
        while (left := left[key[left] == key[left + step]]).size:  # neighbours at this step within runs of equal keys
            a, b = order[left], order[left + step]
            differ = np.bitwise_count(hashes[a] ^ hashes[b]).astype(np.int64)
            near = (differ <= distance) & (split_number[a] != split_number[b])
            for one, other in (
                (a[near], b[near]),
                (b[near], a[near]),
            ):  # no hash is twice in one, as all are at the same step
                closer = differ[near] < nearest[one]
                partner[one[closer]], nearest[one[closer]] = other[closer], differ[near][closer]
            step += 1
            left = left[left + step < len(key)]
    return np.where(partner[place] < 0, -1, first[partner[place]])
