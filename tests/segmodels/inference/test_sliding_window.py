"""Sliding window: cover, averaging, memory."""

import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from segmodels.errors import InputError
from segmodels.inference import sliding_window
from segmodels.inference.class_rows import class_rows
from segmodels.inference.sliding_window import predict_bands, window_starts
from segmodels.windows import SlidingWindow


def pointwise(images: Tensor) -> Tensor:
    """A model that looks at single pixels: 3 classes from the 3 channels."""
    return torch.softmax(images.float() / 40, dim=1)


def position_dependent(images: Tensor) -> Tensor:
    """A model whose answer depends on the place in the window, so that the weighting shows."""
    height, width = images.shape[-2:]
    ramp = torch.linspace(0, 1, height)[:, None] + torch.linspace(0, 2, width)
    return images.float()[:, :2] / 255 + ramp


def image(height: int, width: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def bands_of(predict: Callable[[Tensor], Tensor], picture: Tensor, window: SlidingWindow) -> Iterator[Tensor]:
    return predict_bands(
        predict, lambda start, stop: picture[:, start:stop], (picture.shape[1], picture.shape[2]), window
    )


def naive(predict, picture: Tensor, window: SlidingWindow, weight: np.ndarray) -> np.ndarray:
    """The same average over whole maps, window by window, in numpy float64."""
    height, width = picture.shape[-2:]
    total, weights = None, np.zeros((height, width))
    for top in window_starts(height, window.size[0], window.overlap):
        for left in window_starts(width, window.size[1], window.overlap):
            part = picture[:, top : top + window.size[0], left : left + window.size[1]].numpy()
            padded = np.pad(
                part, [(0, 0), (0, window.size[0] - part.shape[1]), (0, window.size[1] - part.shape[2])], mode="edge"
            )
            probabilities = predict(torch.from_numpy(padded)[None])[0].numpy()
            total = np.zeros((len(probabilities), height, width)) if total is None else total
            here = np.s_[top : top + part.shape[1], left : left + part.shape[2]]
            total[(slice(None), *here)] += (probabilities * weight)[:, : part.shape[1], : part.shape[2]]
            weights[here] += weight[: part.shape[1], : part.shape[2]]
    return total / weights


@given(length=st.integers(1, 500), size=st.integers(1, 90), overlap=st.floats(0, 0.95))
def test_windows_cover_every_pixel_with_at_least_the_overlap(length: int, size: int, overlap: float) -> None:
    starts = window_starts(length, size, overlap)
    assert starts[0] == 0
    assert starts[-1] == max(length - size, 0)
    steps = np.diff(starts)
    assert (steps > 0).all()
    assert (steps <= max(int(size * (1 - overlap)), 1)).all()


@pytest.mark.parametrize("weighting", ["gaussian", "uniform"])
@pytest.mark.parametrize(("height", "width"), [(37, 53), (16, 16), (9, 60), (60, 9), (7, 5)])
def test_a_pointwise_model_predicts_the_same_with_and_without_windows(height: int, width: int, weighting: str) -> None:
    picture = image(height, width)
    window = SlidingWindow(size=(16, 20), overlap=0.4, weighting=weighting, batch_size=3)
    together = torch.cat(list(bands_of(pointwise, picture, window)), dim=1)
    torch.testing.assert_close(together, pointwise(picture[None])[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("weighting", "overlap"), [("uniform", 0.5), ("uniform", 0.0), ("gaussian", 0.3)])
def test_the_bands_are_the_weighted_average_over_all_windows(weighting: str, overlap: float) -> None:
    window = SlidingWindow(size=(12, 10), overlap=overlap, weighting=weighting)
    picture = image(41, 33)
    y, x = (np.exp(-0.5 * ((np.arange(n) - (n - 1) / 2) / (n / 8)) ** 2) for n in window.size)
    weight = np.ones(window.size) if weighting == "uniform" else np.maximum(y[:, None] * x / (y.max() * x.max()), 1e-3)
    together = torch.cat(list(bands_of(position_dependent, picture, window)), dim=1)
    np.testing.assert_allclose(together.numpy(), naive(position_dependent, picture, window, weight), atol=1e-5)


def test_windows_have_the_size_asked_for_and_come_in_batches() -> None:
    shapes = []

    def predict(images: Tensor) -> Tensor:
        shapes.append(tuple(images.shape))
        return pointwise(images)

    list(bands_of(predict, image(20, 100), SlidingWindow(size=(32, 16), overlap=0, batch_size=4)))
    assert shapes == [(4, 3, 32, 16), (3, 3, 32, 16)]


def test_rows_come_as_soon_as_no_further_window_touches_them() -> None:
    calls = []

    def predict(images: Tensor) -> Tensor:
        calls.append(len(images))
        return pointwise(images)

    bands = bands_of(predict, image(100, 30), SlidingWindow(size=(20, 30), overlap=0.5))
    first = next(bands)
    assert first.shape == (3, 10, 30)
    assert sum(calls) == 1
    assert [band.shape[1] for band in bands] == [10] * 7 + [20]


def test_every_row_of_the_image_is_read_once_and_only_when_a_window_needs_it() -> None:
    picture, asked = image(100, 30), []

    def read(start: int, stop: int) -> Tensor:
        asked.append((start, stop))
        return picture[:, start:stop]

    bands = predict_bands(pointwise, read, (100, 30), SlidingWindow(size=(20, 30), overlap=0.5))
    next(bands)
    assert asked == [(0, 20)]
    next(bands)
    assert asked == [(0, 20), (20, 30)]
    list(bands)
    assert [row for start, stop in asked for row in range(start, stop)] == list(range(100))


def test_wide_images_hand_their_rows_over_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sliding_window, "FLOATS_AT_ONCE", 3 * 50 * 4)
    picture, window = image(33, 50), SlidingWindow(size=(16, 20), overlap=0.4)
    bands = list(bands_of(pointwise, picture, window))
    assert max(band.shape[1] for band in bands) == 4
    torch.testing.assert_close(torch.cat(bands, dim=1), pointwise(picture[None])[0], rtol=0, atol=1e-6)


@given(
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    rows=st.integers(1, 40),
    columns=st.integers(1, 40),
    cut=st.integers(1, 12),
    seed=st.integers(0, 99),
)
def test_a_mask_written_from_bands_is_the_argmax_of_the_interpolated_map(
    height: int, width: int, rows: int, columns: int, cut: int, seed: int
) -> None:
    scores = torch.rand(4, height, width, generator=torch.Generator().manual_seed(seed))
    mask = torch.cat(list(class_rows(scores.split(cut, dim=1), height, (rows, columns), torch.uint8))).numpy()
    assert mask.dtype == np.uint8
    whole = torch.nn.functional.interpolate(scores[None], (rows, columns), mode="bilinear")[0]
    chosen = whole.gather(0, torch.from_numpy(mask.astype(np.int64))[None])[0]
    torch.testing.assert_close(chosen, whole.max(dim=0).values, rtol=0, atol=1e-5)  # equal up to ties of rounding


@pytest.mark.parametrize(
    "wrong", [{"size": (0, 8)}, {"size": (8, 8), "overlap": 1.0}, {"size": (8, 8), "weighting": "cosine"}]
)
def test_impossible_windows_are_refused(wrong: dict) -> None:
    with pytest.raises(InputError, match="sliding window"):
        SlidingWindow(**wrong)


def test_memory_does_not_grow_with_the_height_of_the_image() -> None:
    program = """
import resource, torch
from segmodels.inference import sliding_window
from segmodels.inference.class_rows import class_rows
from segmodels.inference.sliding_window import predict_bands
from segmodels.windows import SlidingWindow
import numpy as np
torch.set_num_threads(1)
head = torch.nn.Conv2d(3, 24, 1)
predict = lambda images: head(images.float()).softmax(1)
def mask(height):
    read = lambda start, stop: torch.zeros(3, stop - start, 1000, dtype=torch.uint8)
    with torch.inference_mode():
        bands = predict_bands(predict, read, (height, 1000), SlidingWindow((128, 250), overlap=0))
        for rows in class_rows(bands, height, (height, 1000), torch.uint8):
            pass
mask(1000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
mask(5000)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    grown = int(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout)
    assert grown < 30, f"{grown} MB more for 5000 rows; all probabilities would be 480 MB"


# Volumes


def volume(depth: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn((2, depth, height, width), generator=generator) * 500 - 700


def place_dependent(windows: Tensor) -> Tensor:
    """Differs from voxel to voxel of a window, along every axis by another amount."""
    ramps = [torch.linspace(0, axis + 1, length) for axis, length in enumerate(windows.shape[2:])]
    return windows / 1000 + ramps[0][:, None, None] + ramps[1][:, None] + ramps[2]


@pytest.mark.parametrize("weighting", ["gaussian", "uniform"])
@pytest.mark.parametrize("size", [(17, 20, 23), (8, 10, 12), (30, 5, 9), (3, 4, 5)])
def test_windows_of_a_volume_give_their_weighted_average(size: tuple[int, int, int], weighting: str) -> None:
    """Against the average over whole volumes, window by window, in float64."""
    picture, window = volume(*size), SlidingWindow((8, 10, 12), overlap=0.4, weighting=weighting, batch_size=3)
    asked = []

    def read(start: int, stop: int) -> Tensor:
        asked.extend(range(start, stop))
        return picture[:, start:stop]

    bands = list(predict_bands(place_dependent, read, size, window))
    assert asked == list(range(size[0]))
    distances = [(torch.arange(n) - (n - 1) / 2) / (n / 8) for n in window.size]
    z, y, x = (torch.exp(-(distance.double() ** 2) / 2) for distance in distances)
    weight = z[:, None, None] * y[:, None] * x
    weight = (weight / weight.max()).clamp(min=1e-3) if weighting == "gaussian" else torch.ones(window.size).double()
    total, weights = torch.zeros(2, *size).double(), torch.zeros(size).double()
    starts = [window_starts(length, extent, 0.4) for length, extent in zip(size, window.size, strict=True)]
    for corner in itertools.product(*starts):
        index = torch.meshgrid(
            *[
                torch.arange(first, first + extent).clamp(max=length - 1)
                for first, extent, length in zip(corner, window.size, size, strict=True)
            ],
            indexing="ij",
        )
        predicted = place_dependent(picture[:, *index][None].double())[0]
        inside = [slice(first, first + extent) for first, extent in zip(corner, window.size, strict=True)]
        kept = [slice(min(length - first, n)) for first, n, length in zip(corner, window.size, size, strict=True)]
        total[:, *inside] += (predicted * weight)[:, *kept]
        weights[*inside] += weight[*kept]
    torch.testing.assert_close(torch.cat(bands, dim=1), (total / weights).float(), rtol=0, atol=1e-5)


def test_a_window_that_covers_a_volume_predicts_it_once() -> None:
    picture, calls = volume(6, 7, 8), []

    def predict(windows: Tensor) -> Tensor:
        calls.append(windows.shape)
        return windows

    bands = list(predict_bands(predict, lambda a, b: picture[:, a:b], (6, 7, 8), SlidingWindow((6, 7, 8))))
    torch.testing.assert_close(torch.cat(bands, dim=1), picture)
    assert calls == [(1, 2, 6, 7, 8)]


def test_16_bit_images_pass_through_windows() -> None:
    picture = torch.from_numpy(np.random.default_rng(0).integers(0, 65536, (4, 20, 30)).astype(np.uint16))
    window = SlidingWindow((8, 12), overlap=0.0, weighting="uniform")
    bands = predict_bands(lambda windows: windows.float(), lambda a, b: picture[:, a:b], (20, 30), window)
    torch.testing.assert_close(torch.cat(list(bands), dim=1), picture.float())


def test_a_window_with_another_number_of_axes_is_refused() -> None:
    with pytest.raises(InputError, match=r"is \[8, 8\] but images have 3 axes, expected \[depth, height, w"):
        next(predict_bands(place_dependent, lambda a, b: volume(9, 9, 9)[:, a:b], (9, 9, 9), SlidingWindow((8, 8))))
    for size in ((8,), (8, 0), (2, 2, 2, 2)):
        with pytest.raises(InputError, match=r"^size(\.1)? of the sliding window is"):
            SlidingWindow(size)
