"""Validation: the traps of datasets are found, and shown in pictures."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import layout_trees as trees
import numpy as np
import pytest
from PIL import Image
from small_dataset import write
from validated_set import ONE_WORKER, Facts, read

from components.params.checking import checked
from components.params.schema import IngestParams
from components.running.digests import folder_digest
from components.steps.ingest import ingest
from components.steps.validate import validate
from segmodels.errors import InputError

COUNTS = {"train": 20, "val": 14, "test": 2}


def write_scenes(root: Path) -> None:
    """Images of two discs that their masks and objects show."""
    random = np.random.default_rng(1)
    for split, count in COUNTS.items():
        for number in range(count):
            name = f"{split}/{number:03d}"
            objects = np.zeros((60, 80), np.uint8)
            for id, left in ((1, 0), (2, 40)):
                center = (left + int(random.integers(12, 28)), int(random.integers(12, 48)))
                cv2.circle(objects, center, int(random.integers(5, 11)), id, -1)
            grey = 90 + 60 * (objects > 0) + random.normal(0, 12, objects.shape)
            write(root / "images" / f"{name}.png", Image.fromarray(grey.clip(0, 255).astype(np.uint8)))
            write(root / "masks" / f"{name}.png", Image.fromarray((objects > 0).astype(np.uint8)))
            write(root / "objects" / f"{name}.png", Image.fromarray(objects))
    (root / "classes.txt").write_text("background\ndisc\n")


def checked_set(tmp_path: Path, change: Callable[[Path], None] | None = None) -> tuple[dict, Facts, str]:
    """Report, facts and page of the scenes, changed."""
    write_scenes(tmp_path / "set")
    if change:
        change(tmp_path / "set")
    params = checked(IngestParams, {"source": "folder", "path": str(tmp_path / "set")})
    ingest(params, tmp_path / "dataset", tmp_path / "cache")
    validate(ONE_WORKER, tmp_path / "dataset", tmp_path / "validation")
    return (*read(tmp_path / "validation"), (tmp_path / "validation" / "docs" / "index.html").read_text())


@pytest.mark.slow
def test_a_sound_dataset_is_shown_and_gives_the_same_bytes_again(tmp_path: Path) -> None:
    report, facts, page = checked_set(tmp_path)
    assert report["warnings"] == []
    agreement = report["edge_agreement"]
    assert agreement.keys() == {"train", "val"}  # test has too few pairs
    assert all(pairs["mean"] > 1.5 * pairs["shuffled"] for pairs in agreement.values())
    assert {split: found["pairs"] for split, found in agreement.items()} == {"train": 20, "val": 14}
    sheets = re.findall(r"<h2>(\d+) of (\d+) samples of (\w+)</h2>.*?(?=<h2>)", page)
    assert sheets == [("12", "20", "train"), ("12", "14", "val"), ("2", "2", "test")]
    assert page.count('<img alt="') == 26
    assert 'alt="train/' in page
    assert {"picture", "edges"}.isdisjoint(next(iter(facts.values())))
    before = folder_digest(tmp_path / "validation")
    validate(ONE_WORKER, tmp_path / "dataset", tmp_path / "validation")
    assert folder_digest(tmp_path / "validation") == before


@pytest.mark.slow
def test_shuffled_masks_odd_objects_and_blank_masks_are_warned_about_with_pictures(tmp_path: Path) -> None:
    def change(root: Path) -> None:
        for kind in ("masks", "objects"):  # the masks of val are those of other images
            files = sorted((root / kind / "val").iterdir())
            content = [file.read_bytes() for file in files]
            for file, other in zip(files, content[1:] + content[:1], strict=True):
                file.write_bytes(other)
        speck = np.array(Image.open(root / "objects/train/003.png"))
        speck[0, 0] = 3
        write(root / "objects/train/003.png", Image.fromarray(speck))
        moved = np.roll(np.array(Image.open(root / "objects/train/004.png")), 15, axis=1)
        write(root / "objects/train/004.png", Image.fromarray(moved))
        table = [{"id": 1, "class": "disc"}, {"id": 2, "class": "disc"}, {"id": 9, "class": "disc"}]
        (root / "objects/train/004.json").write_text(json.dumps(table))
        first = Image.open(root / "objects/train/006.png")
        again = Image.fromarray(np.where(np.array(first) == 2, 3, 0).astype(np.uint8))
        first.save(root / "objects/train/006.tif", save_all=True, append_images=[again])
        (root / "objects/train/006.png").unlink()
        for kind in ("masks", "objects"):
            write(root / f"{kind}/train/005.png", Image.fromarray(np.zeros((60, 80), np.uint8)))

    report, facts, page = checked_set(tmp_path, change)
    found = {entry["check"]: entry for entry in report["warnings"]}
    assert set(found) == {"pairs_fit", "objects_in_place", "objects_visible", "objects_distinct", "masks_varied"}
    assert found["pairs_fit"]["count"] == 1
    assert re.fullmatch(
        r"val \(edge agreement \d\.\d\d of 14 pairs, \d\.\d\d of shuffled pairs, the least of"
        r" (masks/val/\d+\.png(, )?){3}\)",
        found["pairs_fit"]["examples"][0],
    )
    assert found["objects_in_place"]["examples"] == [
        "images/train/003.png (1 of 3)",  # the speck
        "images/train/004.png (2 of 2)",
    ]
    assert found["objects_visible"]["examples"] == [
        "images/train/003.png (1 of one pixel)",
        "images/train/004.png (1 empty)",
    ]
    assert found["objects_distinct"]["examples"] == ["images/train/006.png (1 of 3)"]
    assert found["masks_varied"]["examples"] == ["masks/train/005.png (background)"]
    row = facts["train", "images/train/004.png"]
    assert (row["objects"], row["misplaced_objects"], row["empty_objects"], row["one_pixel_objects"]) == (2, 2, 1, 0)
    assert page.count('<img alt="') == 26 + 6 + 2 + 2 + 1 + 1
    assert len(re.findall(r'<img alt="masks/val/\d+\.png: edge agreement', page)) == 6


def three_nuclei(root: Path) -> Path:
    """DSB 2018 with three samples."""
    trees.dsb2018(root)
    home, name = root / "stage1_train", "2c" * 32
    shutil.copytree(home / ("1b" * 32), home / name)
    (home / name / "images" / f"{'1b' * 32}.png").rename(home / name / "images" / f"{name}.png")
    return root


SMOOTH = cv2.GaussianBlur(trees.halves(0, 255), (0, 0), 2)


@pytest.mark.parametrize(
    ("tree", "masks", "split", "values", "sentence"),
    [
        (
            trees.ade20k,
            "**/annotations/training/*.png",
            {"splits": dict.fromkeys(COUNTS, "train")},
            np.zeros(trees.SIZE, np.uint8),
            r"void everywhere, .*png \(0 is void in this dataset: the mask may be full of 0\)",
        ),
        (
            trees.ade20k,
            "**/annotations/training/*.png",
            {"splits": dict.fromkeys(COUNTS, "train")},
            trees.halves(0, 255),
            r"unknown labels, .*png \(255; .*reduced by one already \(reduce_zero_label\)\)",
        ),
        (
            trees.ph2,
            "**/*_lesion.bmp",
            {"split": {"val": 0.34, "test": 0.34}},
            SMOOTH,
            r"unknown labels, .*bmp \(.* and \d+ more; .*smooth resizing",
        ),
        (
            trees.voc2012,
            "**/SegmentationClass/2007_000033.png",
            {"splits": dict.fromkeys(COUNTS, "val")},
            trees.halves(0, 255),
            r"one class and void, .*, train \(background\): if void marks the objects \(masks of 0 and 255\), name the",
        ),
        (
            three_nuclei,
            "**/masks/*1.png",  # not the first of its sample
            {"split": {"val": 0.34, "test": 0.34}},
            SMOOTH,
            r"unknown labels, stage1_train/(0a){32}/masks/0+1\.png \(.* and \d+ more; .*smooth resizing",
        ),
    ],
    ids=["full of 0", "reduced already", "smoothed", "objects as void", "one of several"],
)
def test_mistakes_in_masks_of_published_datasets_are_named(
    tmp_path: Path, tree: Callable[[Path], Path], masks: str, split: dict, values: np.ndarray, sentence: str
) -> None:
    root = tree(tmp_path / "set")
    write(next(iter(sorted(root.glob(masks)))), Image.fromarray(values))
    params = checked(IngestParams, {"source": "folder", "path": str(root), **split})
    ingest(params, tmp_path / "dataset", tmp_path / "cache")
    with pytest.raises(InputError, match=sentence):
        validate(ONE_WORKER, tmp_path / "dataset", tmp_path / "validation")
    assert "<img" in (tmp_path / "validation.failed" / "docs" / "index.html").read_text()
