"""Counting of label pairs in main memory: maps in, a C × C matrix out, labels outside the range refused."""

from __future__ import annotations

from functools import cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from segmodels.errors import InputError

COMPILED_FROM = 1 << 20  # pixels: below, numpy takes under 20 ms, less than importing numba and compiling
CHUNK = 1 << 16  # pixels: numpy's temporaries stay in the cache


def count_pairs(prediction: Any, target: Any, num_classes: int, ignore_index: int) -> NDArray[np.int64]:
    """Count pixels by true and predicted class.

    Args:
        prediction: label map of integers in [0, C), any shape: numpy, or anything numpy can read (torch on the CPU).
        target: label map of the same shape, integers in [0, C) or ``ignore_index``. Types may differ.
        num_classes: C.
        ignore_index: pixels with this target count nowhere, whatever is predicted there.

    Returns:
        int64 ``(C, C)``, rows = truth, columns = prediction.

    Raises:
        InputError: not integers, different shapes, or labels outside the range (the message lists them).
    """
    prediction, target = integers("prediction", prediction), integers("target", target)
    if prediction.shape != target.shape:
        raise InputError(
            f"prediction has shape {prediction.shape} and target {target.shape}, expected the same: resize the"
            " prediction to the labels' size"
        )
    maps = flat(prediction), flat(target)
    large = target.size >= max(COMPILED_FROM, 16 * num_classes**2)  # its tables take no more memory than the maps
    table = (compiled_tally() if large else tally)(*maps, num_classes, ignore_index)
    if table[:num_classes, num_classes].any() or table[num_classes + 1].any():
        refuse(prediction, target, num_classes, ignore_index)
    return table[:num_classes, :num_classes].copy()


class Tally(Protocol):
    """How both implementations are called."""

    def __call__(
        self, prediction: NDArray, target: NDArray, num_classes: int, ignore_index: int
    ) -> NDArray[np.int64]: ...


def tally(prediction: NDArray, target: NDArray, num_classes: int, ignore_index: int) -> NDArray[np.int64]:
    """Flat maps -> counts ``(C + 2, C + 1)``: below the classes a row of ignored and one of other targets, to the right
    other predictions.
    """
    shape = num_classes + 2, num_classes + 1
    counts = np.zeros(shape[0] * shape[1], dtype=np.int64)
    chunk = max(CHUNK, counts.size)
    for start in range(0, target.size, chunk):
        # int64 first: in uint8, num_classes * label wraps around above 15 classes. As unsigned numbers, negative labels
        # are large ones.
        row = target[start : start + chunk].astype(np.int64)
        column = prediction[start : start + chunk].astype(np.int64)
        ignored = row == ignore_index
        row[row.view(np.uint64) >= num_classes] = num_classes + 1
        row[ignored] = num_classes
        column[column.view(np.uint64) >= num_classes] = num_classes
        counts += np.bincount(row * shape[1] + column, minlength=counts.size)
    return counts.reshape(shape)


@cache
def compiled_tally() -> Tally:
    """The numba implementation, or where numba is missing the numpy one: the numbers are the same."""
    try:
        from segmodels.metrics import counting_numba
    except ImportError:
        return tally
    return counting_numba.tally


def integers(name: str, labels: Any) -> NDArray:
    """``labels`` as a numpy array of integers."""
    labels = np.asarray(labels)
    if labels.dtype.kind not in "iub":
        raise InputError(
            f"{name} has type {labels.dtype}, expected a label map of integers: take argmax over the classes first"
        )
    return labels


def flat(labels: NDArray) -> NDArray:
    """One dimension, contiguous, of a native type both implementations know: bool as uint8, uint64 as int64 of the same
    bits.
    """
    labels = np.ascontiguousarray(labels, dtype=labels.dtype.newbyteorder("=")).reshape(-1)
    return labels.view({"b1": np.uint8, "u8": np.int64}.get(labels.dtype.str[1:], labels.dtype))


def refuse(prediction: NDArray, target: NDArray, num_classes: int, ignore_index: int) -> None:
    """Raise with the labels that are outside the range."""
    counted = target != ignore_index
    for name, labels in (("target", target[counted]), ("prediction", prediction[counted])):
        values = np.unique(labels)
        if wrong := [int(value) for value in values if not 0 <= value < num_classes]:
            raise InputError(out_of_range(name, wrong, num_classes, ignore_index))


def out_of_range(name: str, values: list[int], num_classes: int, ignore_index: int) -> str:
    """The sentence about labels ``values`` of ``name`` ("target" or "prediction")."""
    shown = ", ".join(map(str, values[:10])) + (", …" if len(values) > 10 else "")
    ignore = f" or {ignore_index} for ignored pixels" if name == "target" else ""
    return (
        f"{name} holds labels {shown}, expected 0..{num_classes - 1}{ignore}: check the number of classes and the"
        " label map"
    )
