"""Compiled counting of label pairs in one pass, for maps large enough to pay for importing numba.

Label maps consist of regions, so most blocks of neighbouring pixels hold a single pair of labels: such a block is
counted at once, others pixel by pixel. Compiled per pair of types at first use (a fraction of a second), not cached on
disk: nothing to write in a read-only install.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numba
import numpy as np
from numpy.typing import NDArray

BLOCK = 8  # pixels; of uint8 one 64-bit word
TABLES = 4  # of a thread, for the pixels of mixed words
MOST_THREADS = 4  # more do not read memory faster


@numba.njit(inline="always")
def cell(prediction, target, num_classes, ignore_index):
    """Index of a pair of labels in the table of ``counting.tally``; as unsigned numbers, negative labels are large
    ones.
    """
    row = np.uint64(np.int64(target))
    column = np.uint64(np.int64(prediction))
    if row >= num_classes:
        row = num_classes if row == ignore_index else num_classes + np.uint64(1)
    if column >= num_classes:
        column = num_classes
    return row * (num_classes + np.uint64(1)) + column


@numba.njit(nogil=True)
def tally_words(prediction, target, rows, columns, tables):
    """uint8 maps as uint64 words of eight pixels: a run of words that repeat one pair of bytes is counted when it ends.
    The pixels of other words take turns with the tables: additions to one cell would wait for each other.

    ``rows`` and ``columns`` hold what each byte as target and as prediction adds to the index of a cell.
    """
    repeat, lowest, bits = np.uint64(0x0101010101010101), np.uint64(255), np.uint64(8)
    run_target, run_prediction, run = np.uint64(0), np.uint64(0), 0
    for word in range(target.size):
        targets, predictions = target[word], prediction[word]
        if targets == run_target and predictions == run_prediction:
            run += BLOCK
            continue
        tables[0, rows[run_target & lowest] + columns[run_prediction & lowest]] += run
        run_target, run_prediction, run = repeat * (targets & lowest), repeat * (predictions & lowest), BLOCK
        if targets != run_target or predictions != run_prediction:
            run = 0
            for pixel in range(BLOCK):
                shift = bits * np.uint64(pixel)
                place = rows[(targets >> shift) & lowest] + columns[(predictions >> shift) & lowest]
                tables[pixel % TABLES, place] += 1
    tables[0, rows[run_target & lowest] + columns[run_prediction & lowest]] += run


@numba.njit(nogil=True)
def tally_integers(prediction, target, num_classes, ignore_index, table):
    """Maps of any integer types: a block is counted at once where all of it equals its first pixel."""
    whole = target.size - target.size % BLOCK
    for first in range(0, whole, BLOCK):
        uniform = True
        for pixel in range(first, first + BLOCK):
            uniform &= (target[pixel] == target[first]) & (prediction[pixel] == prediction[first])
        if uniform:
            table[cell(prediction[first], target[first], num_classes, ignore_index)] += BLOCK
        else:
            for pixel in range(first, first + BLOCK):
                table[cell(prediction[pixel], target[pixel], num_classes, ignore_index)] += 1
    for pixel in range(whole, target.size):
        table[cell(prediction[pixel], target[pixel], num_classes, ignore_index)] += 1


def tally(prediction: NDArray, target: NDArray, num_classes: int, ignore_index: int) -> NDArray[np.int64]:
    """The same table as ``counting.tally``. Each core counts a stretch of the maps into a table of its own:
    one core alone waits for memory.
    """
    parts = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, MOST_THREADS)
    length = max(-(-target.size // (parts * BLOCK)), 1) * BLOCK  # whole words: a view of the next stretch stays aligned
    starts = range(0, max(target.size, 1), length)
    count = partial(_tally_stretch, num_classes=num_classes, ignore_index=ignore_index)
    count(prediction[:0], target[:0])  # compiles here: threads would queue for the compiler's lock, and it logs
    with ThreadPoolExecutor(parts) as threads:
        tables = list(
            threads.map(
                count, *([labels[start : start + length] for start in starts] for labels in (prediction, target))
            )
        )
    return np.sum(tables, axis=0).reshape(num_classes + 2, num_classes + 1)


def _tally_stretch(prediction: NDArray, target: NDArray, num_classes: int, ignore_index: int) -> NDArray[np.int64]:
    tables = np.zeros((TABLES, (num_classes + 2) * (num_classes + 1)), dtype=np.int64)
    words = 0
    if prediction.dtype == target.dtype == np.uint8:
        words = target.size - target.size % BLOCK
        rows = np.full(256, num_classes + 1, dtype=np.uint64)
        rows[:num_classes] = np.arange(min(num_classes, 256))
        if 0 <= ignore_index < 256:
            rows[ignore_index] = num_classes
        columns = np.minimum(np.arange(256), num_classes).astype(np.uint64)
        tally_words(
            prediction[:words].view(np.uint64),
            target[:words].view(np.uint64),
            rows * (num_classes + 1),
            columns,
            tables,
        )
    limits = np.uint64(num_classes), np.int64(ignore_index).view(np.uint64)
    tally_integers(prediction[words:], target[words:], *limits, tables[0])
    return tables.sum(axis=0)
