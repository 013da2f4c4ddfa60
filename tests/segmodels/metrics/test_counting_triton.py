"""Triton's counting: by its interpreter on a CPU where it is installed, and on a GPU where there is one.

Needs nothing but torch, numpy and pytest: ``python -m pytest --noconftest`` runs it on a bare machine.
"""

import contextlib
import importlib.util
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import segmodels.metrics
from segmodels.errors import InputError
from segmodels.metrics import ConfusionMatrix, counting_device
from segmodels.metrics.counting import tally

TYPES = [
    (torch.uint8, torch.uint8),
    (torch.int16, torch.int32),
    (torch.int64, torch.uint8),
    (torch.int64, torch.int64),
    (torch.bool, torch.int8),
]

on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def maps(classes, pixels, types=(torch.int64, torch.uint8), wrong=0.2, ignored=255, seed=0):
    """Prediction and target: runs of pixels with noise in them, a tenth ignored."""
    generator = torch.Generator().manual_seed(seed)
    runs = torch.randint(0, classes, (-(-pixels // 11),), generator=generator).repeat_interleave(11)[:pixels]
    noise = torch.randint(0, classes, (pixels,), generator=generator)
    prediction = torch.where(torch.rand(pixels, generator=generator) < wrong, noise, runs)
    runs[torch.rand(pixels, generator=generator) < 0.1] = ignored
    return prediction.to(types[0]), runs.to(types[1])


def reference(prediction, target, classes, ignored=255):
    flat = (labels.to(torch.int64).reshape(-1).cpu().numpy() for labels in (prediction, target))
    return tally(*flat, classes, ignored)[:classes, :classes]


@pytest.fixture
def interpreted(monkeypatch):
    """The kernels as Triton's interpreter runs them, on tensors of the CPU."""
    if not importlib.util.find_spec("triton"):
        pytest.skip("Triton is not installed")
    if torch.cuda.is_available():
        pytest.skip("Triton compiles here: a process cannot both interpret and compile")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.delitem(sys.modules, "segmodels.metrics.counting_triton", raising=False)
    kernels = importlib.import_module("segmodels.metrics.counting_triton")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(multi_processor_count=1))
    monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(counting_device, "compiled_for", lambda _: kernels)
    yield
    sys.modules.pop("segmodels.metrics.counting_triton", None)
    vars(segmodels.metrics).pop("counting_triton", None)  # `from segmodels.metrics import` finds it there first


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("types", TYPES)
@pytest.mark.parametrize(("classes", "pixels"), [(2, 1), (19, 20_001), (31, 4096), (40, 9_000)])
def test_kernels_count_every_pair_once(types, classes, pixels):
    classes = min(classes, 2) if torch.bool in types else classes
    ignored = -1 if torch.int8 in types else 255
    prediction, target = maps(classes, pixels, types, ignored=ignored)
    counts = counting_device.DeviceCounts(classes, ignored, torch.device("cpu"))
    for _ in range(2):
        counts.add(prediction, target)
    np.testing.assert_array_equal(counts.read(), 2 * reference(prediction, target, classes, ignored))


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("classes", [3, 40])
def test_kernels_name_labels_outside_the_range_and_leave_ignored_ones_alone(classes):
    counts = counting_device.DeviceCounts(classes, 255, torch.device("cpu"))
    counts.add(torch.tensor([0, 7000, 1]), torch.tensor([0, 255, 1]))
    assert counts.read().sum() == 2
    counts.add(torch.tensor([0, 2, 1 << 40, 1]), torch.tensor([0, -3, 2, 255]))
    with pytest.raises(InputError, match="target holds labels -3, expected"):
        counts.read()
    other = counting_device.DeviceCounts(classes, 255, torch.device("cpu"))
    other.add(torch.tensor([0, -2, 1 << 40, 1]), torch.tensor([0, 2, 2, 255]))
    with pytest.raises(InputError, match=f"prediction holds labels -2, {1 << 40}, expected"):
        other.read()


def test_where_a_kernel_cannot_be_compiled_torch_counts(monkeypatch):
    def fail(*_):
        raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(counting_device, "compiled_for", lambda _: SimpleNamespace(count=fail, TYPES=(torch.int64,)))
    monkeypatch.setattr(counting_device.DeviceCounts, "broken", False)
    prediction, target = maps(19, 1000)
    counts = counting_device.DeviceCounts(19, 255, torch.device("cpu"))
    for _ in range(2):
        counts.add(prediction, target)
    np.testing.assert_array_equal(counts.read(), 2 * reference(prediction, target, 19))
    assert counting_device.DeviceCounts(19, 255, torch.device("cpu")).kernels is None, "it was tried once"


@on_cuda
@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("types", TYPES)
@pytest.mark.parametrize(("classes", "pixels"), [(2, 100), (19, 3_000_001), (31, 1 << 20), (150, 1 << 20)])
def test_on_a_gpu_all_counts_are_exact_and_nothing_waits(types, classes, pixels, compiled, monkeypatch):
    if not compiled:
        monkeypatch.setattr(counting_device, "compiled_for", lambda _: None)
    classes = min(classes, 2 if torch.bool in types else 127 if torch.int8 in types else classes)
    ignored = -1 if torch.int8 in types else 255
    prediction, target = (labels.cuda() for labels in maps(classes, pixels, types, ignored=ignored))
    matrix = ConfusionMatrix(classes, ignored)
    matrix.update(prediction, target)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    torch.use_deterministic_algorithms(True)
    try:
        matrix.update(prediction, target)
        matrix.update(prediction[1:], target[1:])  # not aligned
    finally:
        torch.cuda.set_sync_debug_mode("default")
        torch.use_deterministic_algorithms(False)
    expected = 2 * reference(prediction, target, classes, ignored) + reference(
        prediction[1:], target[1:], classes, ignored
    )
    np.testing.assert_array_equal(matrix.counts, expected)


@on_cuda
def test_a_gpu_with_triton_uses_it():
    assert importlib.util.find_spec("triton")
    counts = counting_device.DeviceCounts(19, 255, torch.device("cuda"))
    kernels = counting_device.compiled_for(torch.device("cuda"))
    assert kernels is not None
    called = []
    counts.kernels = SimpleNamespace(count=lambda *a: (called.append(1), kernels.count(*a)), TYPES=kernels.TYPES)
    counts.add(*(labels.cuda() for labels in maps(19, 1000)))
    assert called
    assert counts.kernels is not None


@on_cuda
@pytest.mark.parametrize("classes", [19, 150])
def test_on_a_gpu_labels_outside_the_range_are_named_when_counts_are_read(classes):
    matrix = ConfusionMatrix(classes)
    matrix.update(torch.tensor([0, 2, 1 << 40, 1]).cuda(), torch.tensor([0, -3, 2, 255]).cuda())
    with pytest.raises(InputError, match="target holds labels -3, expected"):
        matrix.counts  # noqa: B018
