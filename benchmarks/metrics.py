"""Confusion matrix and bootstrap side by side with peers: ``python -m benchmarks.metrics``."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix
from torchmetrics.functional.classification import multiclass_confusion_matrix

from benchmarks.report import markdown_table, side_by_side, write_section
from segmodels.metrics import ConfusionMatrix, paired_bootstrap
from segmodels.metrics.counting import tally

CLASSES, IMAGES, HEIGHT, WIDTH = 19, 4, 1024, 2048
FIRST_UPDATE = """
import time, numpy as np
from segmodels.metrics import ConfusionMatrix
labels = np.zeros((1024, 2048), dtype=np.{type})
start = time.perf_counter()
ConfusionMatrix.from_maps(labels, labels, 19)
print(time.perf_counter() - start)
"""


def region_maps(random: np.random.Generator) -> tuple[NDArray, NDArray]:
    """PixelOutput and target of smooth regions, nine tenths alike, the lowest rows ignored as Cityscapes ignores the
    car's bonnet.

    A tenth of their 8-pixel words hold a boundary; in frames of Cityscapes against a shifted copy it is a twentieth.
    """
    fields = random.standard_normal((IMAGES, CLASSES, 6, 12))

    def most_likely(fields: NDArray) -> NDArray:
        scores = (
            [cv2.resize(field, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC) for field in image] for image in fields
        )
        return np.stack([np.argmax(image, axis=0) for image in scores]).astype(np.uint8)

    prediction, target = most_likely(fields + 0.1 * random.standard_normal(fields.shape)), most_likely(fields)
    target[:, -100:] = 255
    return prediction, target


def contenders(prediction: NDArray, target: NDArray) -> dict[str, Callable[[], Any]]:
    """Each returns the confusion matrix, but for copying, which bounds what one pass over memory can reach."""
    tensors = torch.from_numpy(prediction), torch.from_numpy(target)
    copies = np.empty_like(prediction), np.empty_like(target)

    def copy() -> None:
        np.copyto(copies[0], prediction)
        np.copyto(copies[1], target)

    def histogram() -> NDArray:
        # OpenCV counts bytes and floats; other types have to be cast first
        maps = [labels.astype(np.uint8, copy=False).reshape(-1, WIDTH) for labels in (target, prediction)]
        return cv2.calcHist(maps, [0, 1], None, [CLASSES, CLASSES], [0, CLASSES, 0, CLASSES])

    def masked_bincount() -> NDArray:
        counted = target < CLASSES
        cells = CLASSES * target[counted].astype(np.int64) + prediction[counted]
        return np.bincount(cells, minlength=CLASSES**2).reshape(CLASSES, CLASSES)

    def scikit_learn() -> NDArray:
        return confusion_matrix(target.reshape(-1), prediction.reshape(-1), labels=range(CLASSES))

    return {
        "segmodels": lambda: ConfusionMatrix.from_maps(prediction, target, CLASSES).counts,
        "segmodels without numba": lambda: tally(prediction.reshape(-1), target.reshape(-1), CLASSES, 255)[
            :CLASSES, :CLASSES
        ],
        "np.copyto of both maps": copy,
        "cv2.calcHist": histogram,
        "np.bincount, masked": masked_bincount,
        "torchmetrics, validate_args=False": (
            lambda: multiclass_confusion_matrix(*tensors, CLASSES, ignore_index=255, validate_args=False).numpy()
        ),
        "torchmetrics": lambda: multiclass_confusion_matrix(*tensors, CLASSES, ignore_index=255).numpy(),
        "scikit-learn": scikit_learn,
    }


def count_table(kinds: dict[str, tuple[NDArray, NDArray]]) -> str:
    """Milliseconds and ratio to segmodels of every contender on every kind of maps, after checking that all count the
    same.
    """
    columns = {}
    for kind, maps in kinds.items():
        runs = contenders(*maps)
        expected = runs["segmodels"]()
        for name, run in runs.items():
            counts = run()
            if counts is not None and not np.array_equal(counts, expected):
                raise AssertionError(f"{name} counts {kind} otherwise")
        columns[kind] = side_by_side(runs, rounds=5, warmup=0)
    header = [
        "4 × 1024 × 2048, 19 classes, 255 ignored",
        *(f"{kind}, {unit}" for kind in columns for unit in ("ms", "× segmodels")),
    ]
    rows = [
        [name, *(cell for times in columns.values() for cell in (times[name], times[name] / times["segmodels"]))]
        for name in runs
    ]
    return markdown_table(header, rows)


def share_table(target: NDArray, random: np.random.Generator) -> str:
    """Milliseconds by the share of pixels with a random prediction; elsewhere it is the target, and the first class
    where that is ignored.
    """
    noise = random.integers(0, CLASSES, target.shape, dtype=np.uint8)
    chance = random.random(target.shape, dtype=np.float32)
    right = np.where(target == 255, 0, target).astype(np.uint8)
    rows = []
    for share in (0, 1, 5, 15, 50, 100):
        prediction = np.where(chance < share / 100, noise, right)
        runs = contenders(prediction, target)
        peer = "torchmetrics, validate_args=False"
        times = side_by_side({name: runs[name] for name in ("segmodels", peer)}, rounds=9)
        rows.append([f"{share} %", *times.values(), times[peer] / times["segmodels"]])
    return markdown_table(["wrong pixels, uint8", "segmodels, ms", "torchmetrics, ms", "×"], rows)


def first_update(type_name: str) -> float:
    """Seconds of the first large update of a process: importing numba and compiling."""
    return float(
        subprocess.run(
            [sys.executable, "-c", FIRST_UPDATE.format(type=type_name)], capture_output=True, text=True, check=True
        ).stdout
    )


def bootstrap_milliseconds(random: np.random.Generator, images: int = 500) -> float:
    truth = random.integers(0, 10**5, (images, CLASSES, 1))
    candidate, baseline = (
        np.floor(truth * random.dirichlet(np.ones(CLASSES), (images, CLASSES))).astype(np.int64) for _ in range(2)
    )
    for model in (candidate, baseline):
        model[:, range(CLASSES), range(CLASSES)] += truth[..., 0] - model.sum(-1)
    return side_by_side({"bootstrap": lambda: paired_bootstrap(candidate, baseline)}, rounds=3)["bootstrap"]


def main() -> None:
    random = np.random.default_rng(0)
    prediction, target = region_maps(random)
    noise = random.integers(0, CLASSES, (2, *target.shape), dtype=np.uint8)
    table = count_table(
        {
            "regions uint8": (prediction, target),
            "regions int64": (prediction.astype(np.int64), target.astype(np.int64)),
            "noise uint8": (noise[0], noise[1]),
        }
    )
    shares = share_table(target, random)
    notes = [
        (
            f"First large update of a process (import of numba, compiling): {first_update('uint8'):.2g} s for uint8,"
            f" {first_update('int64'):.2g} s for int64."
        ),
        f"Paired bootstrap of 500 images, 19 classes, 10,000 resamples: {bootstrap_milliseconds(random):.0f} ms.",
    ]
    packages = ("numpy", "torch", "numba", "opencv-python-headless", "torchmetrics", "scikit-learn")
    write_section("Metrics", "\n\n".join([table, shares, *notes]), packages)


if __name__ == "__main__":
    main()
