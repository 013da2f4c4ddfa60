"""Compiled counting of label pairs in one pass, for maps large enough to pay for importing numba.

Label maps consist of regions, so most stretches of neighbouring pixels hold a single pair of labels: such a stretch
adds once. Where predictions are noisy, what a processor cannot predict costs more than counting: the words of a stretch
with several pairs are counted or listed without a branch, and the listed ones add pixel by pixel. Neighbouring
additions go to different tables: to one cell they would wait for each other.

Compiled per pair of types at first use (a fraction of a second), not cached on disk: nothing to write in a read-only
install.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numba
import numpy as np
from numpy.typing import NDArray

CHUNK = 8192  # pixels: their codes stay in the processor's fastest cache
STRETCH = 4  # words that add once where they are alike
TABLES = 8  # of a thread
MOST_THREADS = 4  # more do not read memory faster


@numba.njit(nogil=True)
def add_pixels(prediction, target, last, ignored, num_classes, ignored_row, guesses, truths, mixed, tables):
    """Add flat maps to the first of ``tables``' axes' sum: rows and columns as of ``counting.tally``, and a last row.

    Args:
        last: highest label of a class, of the type of each map.
        ignored: in the target's type.
        ignored_row: of pixels with that target.
        guesses, truths: memory for the columns and rows of a chunk's pixels.
        mixed: memory for the words of a chunk that hold several pairs.
    """
    kind = truths.dtype.type
    width = np.uint64(num_classes + 1)
    per_word = 8 // truths.itemsize
    lowest = np.uint64(kind(-1))
    repeated = np.uint64(2**64 - 1) // lowest  # times a code: a word full of it
    true_words, guessed_words = truths.view(np.uint64), guesses.view(np.uint64)
    for first in range(0, target.size, CHUNK):
        targets, predictions = target[first : first + CHUNK], prediction[first : first + CHUNK]
        number = targets.size
        for i in range(number):
            truth = targets[i]
            other = kind(ignored_row) if truth == ignored else kind(num_classes + 1)
            truths[i] = kind(truth) if (truth >= 0) & (truth <= last[1]) else other
        for i in range(number):
            guess = predictions[i]
            guesses[i] = kind(guess) if (guess >= 0) & (guess <= last[0]) else kind(num_classes)
        truths[number:] = num_classes + 2
        guesses[number:] = 0
        count = 0
        for start in range(0, -(-number // per_word), STRETCH):
            row, column = true_words[start] & lowest, guessed_words[start] & lowest
            rows, columns = row * repeated, column * repeated
            differences = np.uint64(0)
            for word in range(start, start + STRETCH):
                differences |= (true_words[word] ^ rows) | (guessed_words[word] ^ columns)
            if differences == 0:
                tables[(start // STRETCH) % TABLES, row * width + column] += STRETCH * per_word
                continue
            for word in range(start, start + STRETCH):
                row, column = true_words[word] & lowest, guessed_words[word] & lowest
                alike = (true_words[word] == row * repeated) & (guessed_words[word] == column * repeated)
                tables[word % TABLES, row * width + column] += per_word * alike
                mixed[count] = np.uint64(word)
                count += not alike
        for place in range(count):
            start = np.uint64(per_word) * mixed[place]
            for i in range(per_word):
                pixel = start + np.uint64(i)
                tables[i, truths[pixel] * width + guesses[pixel]] += 1


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
    return np.sum(tables, axis=0)


def _tally_stretch(prediction: NDArray, target: NDArray, num_classes: int, ignore_index: int) -> NDArray[np.int64]:
    kind = np.uint8 if num_classes + 2 < 1 << 8 else np.uint16 if num_classes + 2 < 1 << 16 else np.uint32
    tables = np.zeros((TABLES, (num_classes + 3) * (num_classes + 1)), dtype=np.int64)
    last = tuple(labels.dtype.type(min(num_classes - 1, np.iinfo(labels.dtype).max)) for labels in (prediction, target))
    known = np.iinfo(target.dtype).min <= ignore_index <= np.iinfo(target.dtype).max
    ignored = target.dtype.type(ignore_index if known else 0)
    chunk = np.empty(CHUNK, kind), np.empty(CHUNK, kind), np.empty(CHUNK, np.uint64)
    add_pixels(prediction, target, last, ignored, num_classes, num_classes + (not known), *chunk, tables)
    return tables.sum(axis=0).reshape(num_classes + 3, num_classes + 1)[:-1]
