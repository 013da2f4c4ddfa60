"""Ways of counting label pairs, each by itself: numpy, numba, and torch on a device."""

import multiprocessing
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from label_maps import maps, reference
from numba.core import event as numba_events

from segmodels.errors import InputError
from segmodels.metrics import ConfusionMatrix, counting, counting_device, counting_numba


@settings(max_examples=150)
@given(data=st.data(), size=st.integers(0, 70), classes=st.integers(2, 5), ignore=st.sampled_from([255, -1, 9]))
def test_numpy_numba_and_device_count_the_same(data, size, classes, ignore):
    pairs = data.draw(
        st.lists(
            st.tuples(st.integers(0, classes - 1), st.sampled_from([*range(classes), ignore]), st.integers(1, 20)),
            max_size=size,
        )
    )
    prediction, target = (np.array([pair[i] for pair in pairs for _ in range(pair[2])], dtype=np.int16) for i in (0, 1))
    expected = np.zeros((classes, classes), dtype=np.int64)
    for p, t in zip(prediction, target, strict=True):
        if t != ignore:
            expected[t, p] += 1
    device = counting_device.DeviceCounts(classes, ignore, torch.device("cpu"))
    device.add(prediction, target)
    np.testing.assert_array_equal(device.read(), expected)
    for tally in (counting.tally, counting_numba.tally):
        np.testing.assert_array_equal(tally(prediction, target, classes, ignore)[:classes, :classes], expected)
        if ignore == 255:
            as_bytes = prediction.astype(np.uint8), target.astype(np.uint8)
            np.testing.assert_array_equal(tally(*as_bytes, classes, ignore)[:classes, :classes], expected)


@pytest.mark.parametrize("classes", [2, 19, 254, 255, 300])
@pytest.mark.parametrize("noise", [(0.0, 0.0), (0.05, 0.05), (0.3, 0.0), (1.0, 0.0), (1.0, 1.0)])
def test_the_compiled_table_is_numpys_for_few_and_many_classes(classes, noise):
    """From 255 classes on codes take two bytes."""
    prediction, target = (labels.reshape(-1) for labels in maps((3, 37, 101), classes, types=("int16", "int16")))
    random = np.random.default_rng(classes)
    for labels, share in zip((prediction, target), noise, strict=True):
        wrong = random.random(labels.shape) < share
        labels[wrong] = random.integers(-1, classes + 2, wrong.sum())
    table = counting_numba.tally(prediction, target, classes, -1)
    np.testing.assert_array_equal(table, counting.tally(prediction, target, classes, -1))
    assert table.sum() == target.size


def test_the_calling_thread_compiles_before_any_other_starts():
    """In pool threads, numba's and logging's locks stopped a process for ever."""
    compiling = []

    class Listener(numba_events.Listener):
        def on_start(self, _event):
            compiling.append(threading.current_thread())

        def on_end(self, _event):
            pass

    maps = np.zeros(1 << 12, dtype=np.uint16), np.zeros(1 << 12, dtype=np.int8)
    with numba_events.install_listener("numba:compile", Listener()):
        table = counting_numba.tally(*maps, 3, 255)
    assert table[0, 0] == 1 << 12
    assert set(compiling) == {threading.current_thread()}


def test_a_forked_process_counts_with_threads_of_its_own():
    maps = np.ones((2, 1 << 21), dtype=np.uint8)
    assert counting_numba.tally(*maps, 3, 255)[1, 1] == 1 << 21  # starts this process's threads
    with multiprocessing.get_context("fork").Pool(1) as forked:
        table = forked.apply_async(counting_numba.tally, (*maps, 3, 255)).get(timeout=60)
    assert table[1, 1] == 1 << 21


def test_importing_and_small_maps_need_neither_numba_nor_torch():
    script = """
import sys, numpy as np
from segmodels.metrics import ConfusionMatrix
small, large = (np.zeros((n, n), dtype=np.uint8) for n in (512, 1024))
matrix = ConfusionMatrix.from_maps(small, small, 3)
print("numba" in sys.modules, "torch" in sys.modules)
matrix.update(large, large)
print("numba" in sys.modules, matrix.counts[0, 0])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False", "True", str(512**2 + 1024**2)]


def test_counting_on_a_device_never_waits_for_it():
    # a meta tensor has no values: whatever needs one on the host, even a size that depends on values, raises
    prediction, target = (torch.zeros(2, 64, 64, dtype=torch.uint8, device="meta") for _ in range(2))
    matrix = ConfusionMatrix(19)
    matrix.update(prediction, target)
    with pytest.raises(RuntimeError, match="meta"):
        matrix.counts  # noqa: B018


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_counting_on_cuda_is_exact_deterministic_and_does_not_synchronise():
    prediction, target = maps((2, 256, 512), types=("int64", "uint8"))
    on_cuda = torch.from_numpy(prediction).cuda(), torch.from_numpy(target).cuda()
    matrix = ConfusionMatrix(19)
    matrix.update(*on_cuda)
    torch.cuda.synchronize()
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    torch.use_deterministic_algorithms(True)
    try:
        for _ in range(3):
            matrix.update(*on_cuda)
    finally:
        torch.cuda.set_sync_debug_mode(mode)
        torch.use_deterministic_algorithms(False)
    np.testing.assert_array_equal(matrix.counts, 4 * reference(prediction, target, 19))
    matrix.update(on_cuda[0] + 19, on_cuda[1])
    with pytest.raises(InputError, match="prediction holds labels"):
        matrix.counts  # noqa: B018
