"""Dense CRF, the lattice beside the exact kernel matrix: ``python -m benchmarks.crf``.

Photographs at several sizes, 21 classes, the ten iterations of DeepLab. The exact form needs (H x W)^2 numbers per
kernel, so it runs on small images only; there the mean of |dQ| and the share of pixels of the same class say what the
lattice costs in accuracy.
"""

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_sample_image

from benchmarks.report import markdown_table, side_by_side, write_section
from segmodels.inference.crf import DenseCRF, exact_mean_field, mean_field

CLASSES, THREADS, ROUNDS = 21, 2, 3
SIZES = ((32, 48), (64, 96), (128, 192), (256, 256), (512, 512))
EXACT_UP_TO = 64 * 96  # pixels


def inputs(height: int, width: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Probabilities (C, H, W) of smooth random regions with noise, and a photograph (H, W, 3)."""
    random = np.random.default_rng(0)
    fields = cv2.resize(2 * random.standard_normal((8, 8, CLASSES)), (width, height), interpolation=cv2.INTER_CUBIC)
    scores = np.moveaxis(fields + 0.5 * random.standard_normal(fields.shape), -1, 0)
    probabilities = torch.from_numpy(scores).softmax(dim=0).float().numpy()
    return probabilities, cv2.resize(load_sample_image("china.jpg"), (width, height), interpolation=cv2.INTER_AREA)


def main() -> None:
    torch.set_num_threads(THREADS)
    crf, rows = DenseCRF(), []
    for height, width in SIZES:
        probabilities, image = inputs(height, width)
        contenders = {"fast": lambda p=probabilities, i=image: mean_field(p, i, crf)}
        if height * width <= EXACT_UP_TO:
            contenders["exact"] = lambda p=probabilities, i=image: exact_mean_field(p, i, crf)
        times = side_by_side(contenders, rounds=ROUNDS, warmup=1)
        row: list[object] = [f"{height} x {width}", times["fast"] / 1e3]
        if "exact" in times:
            fast, exact = contenders["fast"](), contenders["exact"]()
            same = float((fast.argmax(axis=0) == exact.argmax(axis=0)).mean())
            row += [times["exact"] / 1e3, times["exact"] / times["fast"], float(np.abs(fast - exact).mean()), same]
        else:
            row += ["-"] * 4
        rows.append(row)
    write_section(
        f"Dense CRF, {CLASSES} classes, {crf.iterations} iterations",
        markdown_table(["pixels", "s", "s exact", "times faster", "mean of abs(dQ)", "same class"], rows),
        packages=("numpy", "scipy", "opencv-python-headless"),
    )


if __name__ == "__main__":
    main()
