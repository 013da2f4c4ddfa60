"""Compiled counting of label pairs in one pass, for maps large enough to pay for importing numba.

Label maps consist of regions: a stretch of pixels with one pair of labels adds once. Where only the truth does, as
predictions are noisy, two neighbours of one true class add once, to the cell of that class and both predictions; of
many classes there would be too many such cells. What a processor cannot predict costs more than counting: it decides
for words, not for pixels. Neighbouring additions go to different tables: to one cell they would wait for each other.

Compiled per pair of types at first use (a fraction of a second), not cached on disk: nothing to write in a read-only
install.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numba
import numpy as np
from numpy.typing import NDArray

CHUNK = 4096  # pixels: their codes stay in the processor's fastest cache
STRETCH = 8  # words that add once where they are alike
TABLES = 4  # of a thread
MOST_CELLS = 1 << 16  # of pairs: their numbers are uint16, four to a word
MOST_PIXELS = 1 << 31  # of a thread: its tables are uint32
MOST_THREADS = 4  # more do not read memory faster
EVERY_OTHER_BYTE = np.uint64(0x00FF00FF00FF00FF)


@numba.njit(nogil=True)
def add_pixels(prediction, target, last, ignored, others, guesses, truths, pairs, counts, counts_of_pairs):
    """Add flat maps to the sum of ``counts`` over its first axis, and of ``counts_of_pairs`` over its.

    Args:
        last: highest label of a class, of the type of each map.
        ignored: in the target's type.
        others: row of ignored and of other targets, column of other predictions, all of the type of ``truths``: what is
            computed in a wider one is computed for fewer pixels at once.
        guesses, truths: memory for the columns and rows of a chunk's pixels.
        pairs: memory for the cells of a chunk's pairs.
        counts: of pixels, rows and columns as of ``counting.tally``, and a last row.
        counts_of_pairs: of neighbours of one row, by the row and both columns; empty where there are too many cells.
    """
    width, last_row = np.uint64(others[2]) + np.uint64(1), others[1] + 1
    per_word, bits = 8 // truths.itemsize, np.uint64(8 * truths.itemsize)
    lowest = np.uint64(2**64 - 1) >> (np.uint64(64) - bits)
    repeated = np.uint64(2**64 - 1) // lowest  # times a code: a word full of it
    true_words, guessed_words, pair_words = truths.view(np.uint64), guesses.view(np.uint64), pairs.view(np.uint64)
    true_pairs, guessed_pairs = truths.view(np.uint16), guesses.view(np.uint16)
    byte, step, times = np.uint16(255), np.uint16(8), np.uint16(width)
    paired = counts_of_pairs.size > 0
    for first in range(0, target.size, CHUNK):
        targets, predictions = target[first : first + CHUNK], prediction[first : first + CHUNK]
        number = targets.size
        for i in range(number):
            truth = targets[i]
            other = others[0] if truth == ignored else others[1]
            truths[i] = truth if (truth >= 0) & (truth <= last[1]) else other
        for i in range(number):
            guess = predictions[i]
            guesses[i] = guess if (guess >= 0) & (guess <= last[0]) else others[2]
        truths[number:] = last_row
        guesses[number:] = 0
        if paired:
            for i in range(pairs.size):
                row, columns = np.uint16(true_pairs[i] & byte), guessed_pairs[i]
                left = np.uint16(np.uint16(row * times) + np.uint16(columns & byte))
                pairs[i] = np.uint16(np.uint16(left * times) + np.uint16(columns >> step))
        for start in range(0, -(-number // per_word), STRETCH):
            begin = np.uint64(start)
            row, column = true_words[begin] & lowest, guessed_words[begin] & lowest
            differences = np.uint64(0)
            for k in range(STRETCH):
                word = begin + np.uint64(k)
                differences |= true_words[word] ^ (row * repeated)
                differences |= guessed_words[word] ^ (column * repeated)
            if differences == 0:
                counts[0, row * width + column] += STRETCH * per_word
                continue
            for k in range(STRETCH):
                word = begin + np.uint64(k)
                rows, columns = true_words[word], guessed_words[word]
                if paired and (rows ^ (rows >> bits)) & EVERY_OTHER_BYTE == 0:
                    cells = pair_words[word]
                    for i in range(4):
                        counts_of_pairs[i, (cells >> np.uint64(16 * i)) & np.uint64(0xFFFF)] += 1
                else:
                    for i in range(per_word):
                        place = bits * np.uint64(i)
                        cell = ((rows >> place) & lowest) * width + ((columns >> place) & lowest)
                        counts[i % TABLES, cell] += 1


def tally(prediction: NDArray, target: NDArray, num_classes: int, ignore_index: int) -> NDArray[np.int64]:
    """The same table as ``counting.tally``. Each core counts a stretch of the maps into tables of its own:
    one core alone waits for memory.
    """
    parts = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, MOST_THREADS)
    length = min(max(-(-target.size // parts), 1), MOST_PIXELS)
    starts = range(0, max(target.size, 1), length)
    count = partial(_tally_stretch, num_classes=num_classes, ignore_index=ignore_index)
    count(prediction[:0], target[:0])  # compiles here: threads would queue for the compiler's lock, and it logs
    with ThreadPoolExecutor(parts) as threads:
        tables = list(
            threads.map(
                count, *([labels[start : start + length] for start in starts] for labels in (prediction, target))
            )
        )
    return np.sum(tables, axis=0)


def _tally_stretch(prediction: NDArray, target: NDArray, num_classes: int, ignore_index: int) -> NDArray[np.int64]:
    kind = np.uint8 if num_classes + 2 < 1 << 8 else np.uint16 if num_classes + 2 < 1 << 16 else np.uint32
    rows, width = num_classes + 3, num_classes + 1
    last = tuple(labels.dtype.type(min(num_classes - 1, np.iinfo(labels.dtype).max)) for labels in (prediction, target))
    known = np.iinfo(target.dtype).min <= ignore_index <= np.iinfo(target.dtype).max
    ignored = target.dtype.type(ignore_index if known else 0)
    others = tuple(kind(code) for code in (num_classes + (not known), num_classes + 1, num_classes))
    chunk = np.empty(CHUNK, kind), np.empty(CHUNK, kind), np.empty(CHUNK // 2, np.uint16)
    counts = np.zeros((TABLES, rows * width), np.uint32)
    counts_of_pairs = np.zeros((TABLES, cells if (cells := rows * width**2) <= MOST_CELLS else 0), np.uint32)
    add_pixels(prediction, target, last, ignored, others, *chunk, counts, counts_of_pairs)
    table = counts.sum(axis=0, dtype=np.int64).reshape(rows, width)
    if counts_of_pairs.size:
        pairs = counts_of_pairs.sum(axis=0, dtype=np.int64).reshape(rows, width, width)
        table += pairs.sum(axis=2) + pairs.sum(axis=1)
    return table[:-1]
