"""Compiled counting of label pairs in one pass, for maps large enough to pay for importing numba.

64 pixels are compared at once with one label, and the bits that tell where they equal it are counted. Label maps
consist of regions: 64 pixels hold few true classes, and mostly one pair of labels. Where predictions are noisy, each
class is compared in turn. What is left, single wrong pixels and maps without regions, counts pixel by pixel.

Compiled per pair of types at first use (a fraction of a second), not cached on disk: nothing to write in a read-only
install.
"""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

STRETCH = 1 << 19  # pixels that a thread takes at a time: one that starts late takes fewer
CHUNK = 4096  # pixels: their codes stay in the processor's fastest cache
BLOCK = 64  # pixels that are compared at once, a bit of a word each
REGIONS = 3  # true classes of a block that count together, one after another
BY_CLASS = 4  # comparing with a class takes a quarter of the time of counting a pixel
MOST_THREADS = 4  # more do not read memory faster


@intrinsic
def where_equal(_typing: Any, labels: Any, _start: Any, _label: Any) -> Any:
    """The bits of the ``BLOCK`` labels from ``start`` on that equal ``label``: an instruction or a few, where the
    compiler would make a loop.
    """

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        block = ir.VectorType(context.get_data_type(signature.args[0].dtype), BLOCK)
        address = builder.bitcast(builder.gep(array.data, [arguments[1]]), block.as_pointer())
        empty, places = ir.Constant(block, ir.Undefined), ir.VectorType(ir.IntType(32), BLOCK)
        first = builder.insert_element(empty, arguments[2], ir.IntType(32)(0))
        repeated = builder.shuffle_vector(first, empty, ir.Constant(places, [0] * BLOCK))
        equal = builder.icmp_unsigned("==", builder.load(address, align=1), repeated)
        return builder.bitcast(equal, ir.IntType(BLOCK))

    return types.uint64(labels, types.intp, labels.dtype), code


@intrinsic
def popcount(_typing: Any, _bits: Any) -> Any:
    """How many bits of a word are set."""
    return types.intp(types.uint64), lambda _context, builder, _signature, arguments: builder.ctpop(arguments[0])


@intrinsic
def prefetch(_typing: Any, labels: Any, _place: Any) -> Any:
    """Ask for the memory around a place of ``labels``, within it or not."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        anything, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [anything, number, number, number])
        address = builder.bitcast(builder.gep(array.data, [arguments[1]]), anything)
        instruction = builder.module.declare_intrinsic("llvm.prefetch", [anything], kind)
        builder.call(instruction, [address, number(0), number(3), number(1)])  # to read, into the nearest cache, data
        return context.get_dummy_value()

    return types.void(labels, types.intp), code


@numba.njit(nogil=True)
def trailing_zeros(bits):
    """The place of a word's lowest set bit."""
    return popcount(~bits & (bits - np.uint64(1)))  # type: ignore[call-arg]  # numba passes the context


@numba.njit(nogil=True)
def add_pixels(prediction, target, last, ignored, others, guesses, truths, counts):
    """Add flat maps to ``counts``.

    Args:
        last: highest label of a class, of the type of each map.
        ignored: in the target's type.
        others: row of ignored and of other targets, column of other predictions, all of the type of ``truths``: what is
            computed in a wider one is computed for fewer pixels at once.
        guesses, truths: memory for the columns and rows of a chunk's pixels.
        counts: rows and columns as of ``counting.tally``.
    """
    every, one, columns = np.uint64(2**64 - 1), np.uint64(1), counts.shape[1]
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
        for start in range(0, number, BLOCK):
            # of the next chunk, while this one is counted; numba passes the context of intrinsics
            prefetch(target, first + CHUNK + start)  # type: ignore[call-arg]
            prefetch(prediction, first + CHUNK + start)
            left = every >> np.uint64(max(start + BLOCK - number, 0))
            for _ in range(REGIONS):
                if left == 0:
                    break
                place = start + trailing_zeros(left)
                row, column = truths[place], guesses[place]
                region = left & where_equal(truths, start, row)
                left ^= region
                alike = region & where_equal(guesses, start, column)
                counts[row, column] += popcount(alike)
                region ^= alike
                if BY_CLASS * popcount(region) > columns:
                    for column in range(columns):
                        counts[row, column] += popcount(region & where_equal(guesses, start, column))
                else:
                    while region != 0:
                        counts[row, guesses[start + trailing_zeros(region)]] += 1
                        region &= region - one
            while left != 0:
                place = start + trailing_zeros(left)
                counts[truths[place], guesses[place]] += 1
                left &= left - one


def tally(prediction: NDArray, target: NDArray, num_classes: int, ignore_index: int) -> NDArray[np.int64]:
    """The same table as ``counting.tally``. Each core counts into a table of its own: one alone waits for memory."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    others = min(cores, MOST_THREADS) - 1
    starts = iter(range(0, target.size, STRETCH))
    count = partial(_tally_stretches, num_classes, ignore_index, starts)
    # compiles here: threads would queue for the compiler's lock, and it logs
    _tally_stretches(num_classes, ignore_index, [0], prediction[:0], target[:0])
    tables = [_threads(os.getpid()).submit(count, prediction, target) for _ in range(others)]
    return sum((table.result() for table in tables), start=count(prediction, target))


@cache
def _threads(process: int) -> ThreadPoolExecutor:
    """Threads that wait for work: to start one takes as long as counting a million pixels. A forked process has none of
    its parent's.
    """
    return ThreadPoolExecutor(MOST_THREADS, thread_name_prefix=f"counting-{process}")


def _tally_stretches(
    num_classes: int, ignore_index: int, starts: Iterable[int], prediction: NDArray, target: NDArray
) -> NDArray[np.int64]:
    """The pixels of the stretches that ``starts`` yields; threads share it, and each takes the next one."""
    kind = np.uint8 if num_classes + 1 < 1 << 8 else np.uint16 if num_classes + 1 < 1 << 16 else np.uint32
    last = tuple(labels.dtype.type(min(num_classes - 1, np.iinfo(labels.dtype).max)) for labels in (prediction, target))
    known = np.iinfo(target.dtype).min <= ignore_index <= np.iinfo(target.dtype).max
    ignored = target.dtype.type(ignore_index if known else 0)
    others = tuple(kind(code) for code in (num_classes + (not known), num_classes + 1, num_classes))
    memory = np.empty(CHUNK, kind), np.empty(CHUNK, kind)
    counts = np.zeros((num_classes + 2, num_classes + 1), np.int64)
    for start in starts:
        ends = slice(start, start + STRETCH)
        add_pixels(prediction[ends], target[ends], last, ignored, others, *memory, counts)
    return counts
