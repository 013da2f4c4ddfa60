"""Counting of label pairs in one pass on a CUDA device, compiled by Triton.

A program keeps the counts of few cells in registers (``tl.histogram``) and adds them to a table once. With more cells,
every pixel adds to a table in memory; many tables, since additions to one cell wait for each other.
"""

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

IN_REGISTERS = 512  # cells (22 classes): the time of a histogram grows with them, that of additions in memory does not
BLOCK, WARPS = 1024, 4  # pixels that a program holds at a time, and its warps
PROGRAMS_IN_REGISTERS, PROGRAMS_IN_MEMORY = 16, 64  # of a multiprocessor, at most
TYPES = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def count(prediction: Tensor, target: Tensor, tables: Tensor, extremes: Tensor, classes: int, ignored: int) -> None:
    """Add flat contiguous maps of ``TYPES`` to the sum of ``tables``.

    Args:
        tables: int64 ``(copies, C * C + 1)``; cell ``C * target + prediction``, and a last one that stays 0.
        extremes: int64, lowest and highest target, lowest and highest prediction so far, of pixels that are not
            ignored; 0 where all are in the range.
    """
    device, pixels = target.device, target.numel()
    few = tables.shape[1] <= IN_REGISTERS
    programs = (PROGRAMS_IN_REGISTERS if few else PROGRAMS_IN_MEMORY) * multiprocessors(device)
    grid = (min(-(-pixels // BLOCK), programs),)
    arguments = prediction, target, pixels, tables, extremes, classes, ignored
    with torch.cuda.device(device):
        if few:
            bins = max(1 << (tables.shape[1] - 1).bit_length(), 32)
            _in_registers[grid](*arguments, BINS=bins, BLOCK=BLOCK, num_warps=WARPS)
        else:
            _in_memory[grid](*arguments, *tables.shape, BLOCK=BLOCK, num_warps=WARPS)


@cache
def multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count


@triton.jit
def _in_registers(
    prediction, target, pixels, table, extremes, classes, ignored, BINS: tl.constexpr, BLOCK: tl.constexpr
):
    counts = tl.zeros((BINS,), dtype=tl.int32)
    for start in range(tl.program_id(0) * BLOCK, pixels, tl.num_programs(0) * BLOCK):
        cells = _cells(prediction, target, start, pixels, extremes, classes, ignored, BLOCK)
        counts += tl.histogram(tl.where(cells >= 0, cells, BINS - 1), BINS)
    bins = tl.arange(0, BINS)
    tl.atomic_add(table + bins, counts.to(tl.int64), mask=(bins < classes * classes) & (counts > 0), sem="relaxed")


@triton.jit
def _in_memory(prediction, target, pixels, tables, extremes, classes, ignored, copies, width, BLOCK: tl.constexpr):
    table = tables + (tl.program_id(0) % copies) * width
    for start in range(tl.program_id(0) * BLOCK, pixels, tl.num_programs(0) * BLOCK):
        cells = _cells(prediction, target, start, pixels, extremes, classes, ignored, BLOCK)
        tl.atomic_add(table + cells, 1, mask=cells >= 0, sem="relaxed")


@triton.jit
def _cells(prediction, target, start, pixels, extremes, classes, ignored, BLOCK: tl.constexpr):
    """Cells of a block's pixels, -1 for those that do not count; extremes of labels outside the range are kept."""
    lanes = tl.arange(0, BLOCK)
    inside = start + lanes < pixels
    truth = tl.load(target + start + lanes, mask=inside, other=0).to(tl.int64)
    guess = tl.load(prediction + start + lanes, mask=inside, other=0).to(tl.int64)
    counted = inside & (truth != ignored)
    valid = counted & (truth >= 0) & (truth < classes) & (guess >= 0) & (guess < classes)
    cells = tl.where(valid, truth.to(tl.int32) * classes + guess.to(tl.int32), -1)
    if tl.max((counted ^ valid).to(tl.int32), 0) > 0:  # reads again: holding the labels would take registers
        truth = tl.load(target + start + lanes, mask=inside, other=0).to(tl.int64)
        guess = tl.load(prediction + start + lanes, mask=inside, other=0).to(tl.int64)
        known = inside & (truth != ignored)
        truth = tl.where(known, truth, 0)
        guess = tl.where(known, guess, 0)
        tl.atomic_min(extremes, tl.min(truth, 0))
        tl.atomic_max(extremes + 1, tl.max(truth, 0))
        tl.atomic_min(extremes + 2, tl.min(guess, 0))
        tl.atomic_max(extremes + 3, tl.max(guess, 0))
    return cells
