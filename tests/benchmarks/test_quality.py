"""The comparison of quality measures what the peer wrote."""

import shutil
from pathlib import Path

import cv2
import numpy as np
from layout_trees import camvid

from benchmarks.quality import measured


def test_the_peer_is_measured_against_the_labels_of_the_val_split(tmp_path: Path) -> None:
    root = camvid(tmp_path / "camvid")
    predictions = tmp_path / "predictions"
    shutil.copytree(root / "valannot", predictions)
    assert measured(root, predictions) == (1, 1)  # void pixels count nowhere
    (mask,) = predictions.iterdir()
    cv2.imwrite(str(mask), np.full_like(cv2.imread(str(mask), cv2.IMREAD_UNCHANGED), 4))
    mean, weighted = measured(root, predictions)
    assert mean == weighted == 0
