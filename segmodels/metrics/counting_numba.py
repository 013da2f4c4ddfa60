"""Compiled counting of label pairs in one pass, for maps large enough to pay for importing numba.

Nothing branches on a pixel's value: what a processor cannot predict costs more than counting. Each chunk of pixels
first becomes indices of the table's cells, many pixels an instruction. Label maps consist of regions, so most groups of
neighbouring pixels hold a single pair of labels: such a group adds once, the others are listed and add pixel by pixel.
Neighbouring additions go to different tables: to one cell they would wait for each other.

Compiled per pair of types at first use (a fraction of a second), not cached on disk: nothing to write in a read-only
install.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numba
import numpy as np
from numpy.typing import NDArray

CHUNK = 2048  # pixels: their cells stay in the processor's fastest cache
GROUP = 8  # pixels that add once where they are alike
TABLES = 8  # of a thread
MOST_THREADS = 4  # more do not read memory faster


@numba.njit(nogil=True)
def add_pixels(prediction, target, last, ignored, num_classes, ignored_row, cells, mixed, tables):
    """Add flat maps to the first of ``tables``' axes' sum: cells as of ``counting.tally``, and a last one for nothing.

    Args:
        last: highest label of a class, of the type of each map.
        ignored: in the target's type.
        ignored_row: of pixels with that target.
        cells, mixed: memory for a chunk's cells and for its groups of different pixels.
    """
    kind = cells.dtype.type
    width = kind(num_classes + 1)
    for first in range(0, target.size, CHUNK):
        truths, guesses = target[first : first + CHUNK], prediction[first : first + CHUNK]
        for i in range(truths.size):
            truth, guess = truths[i], guesses[i]
            row = kind(truth) if (truth >= 0) & (truth <= last[1]) else kind(ignored_row if truth == ignored else width)
            column = kind(guess) if (guess >= 0) & (guess <= last[0]) else kind(num_classes)
            cells[i] = row * width + column
        cells[truths.size :] = tables.shape[1] - 1
        count = 0
        for group in range(-(-truths.size // GROUP)):
            own = cells[GROUP * group : GROUP * (group + 1)]
            differences = own[0] ^ own[1]
            for i in range(2, GROUP):
                differences |= own[0] ^ own[i]
            tables[group % TABLES, own[0]] += GROUP * (differences == 0)
            mixed[count] = group
            count += differences != 0
        for place in range(count):
            for i in range(GROUP):
                tables[i % TABLES, cells[GROUP * mixed[place] + i]] += 1


def tally(prediction: NDArray, target: NDArray, num_classes: int, ignore_index: int) -> NDArray[np.int64]:
    """The same table as ``counting.tally``. Each core counts a stretch of the maps into tables of its own:
    one core alone waits for memory.
    """
    parts = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, MOST_THREADS)
    length = max(-(-target.size // parts), 1)
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
    number = (num_classes + 2) * (num_classes + 1)
    tables = np.zeros((TABLES, number + 1), dtype=np.int64)
    last = tuple(labels.dtype.type(min(num_classes - 1, np.iinfo(labels.dtype).max)) for labels in (prediction, target))
    known = np.iinfo(target.dtype).min <= ignore_index <= np.iinfo(target.dtype).max
    ignored = target.dtype.type(ignore_index if known else 0)
    cells = np.empty(CHUNK, np.uint16 if number < 1 << 16 else np.uint32)
    mixed = np.empty(CHUNK // GROUP, np.int64)
    add_pixels(prediction, target, last, ignored, num_classes, num_classes + (not known), cells, mixed, tables)
    return tables[:, :number].sum(axis=0)
