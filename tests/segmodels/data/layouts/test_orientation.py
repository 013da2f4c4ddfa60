"""Photographs with an EXIF orientation are read in the position that fits their annotation."""

import json
from pathlib import Path

import layout_trees as trees
import numpy as np
import pytest
from PIL import Image, ImageOps

from segmodels.data.decoding import ORIENTATION
from segmodels.data.layouts import check_sizes, open_layout

STORED = np.arange(24 * 32 * 3, dtype=np.uint8).reshape(24, 32, 3)


def save_turned(path: Path, pixels: np.ndarray, tag: int) -> np.ndarray:
    """Save a picture with the orientation; the pixels as viewers show them."""
    picture = Image.fromarray(pixels)
    picture.getexif()[ORIENTATION] = tag
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, exif=picture.getexif())
    return np.asarray(ImageOps.exif_transpose(picture))


def folder(root: Path, size: tuple[int, int]) -> str:
    trees.save(root / "masks" / "a.png", np.zeros(size, np.uint8))
    trees.write_text(root / "classes.txt", "ground\nroad\n")
    return "folder"


def coco(root: Path, size: tuple[int, int]) -> str:
    rows = trees.coco_rows("a.png")
    image = {"id": 1, "file_name": "a.png", "height": size[0], "width": size[1]}
    trees.write_text(root / "annotations" / "instances.json", json.dumps(rows | {"images": [image], "annotations": []}))
    return "coco_export"


def labelme(root: Path, size: tuple[int, int]) -> str:
    content = {"imagePath": "a.png", "imageHeight": size[0], "imageWidth": size[1], "shapes": []}
    trees.write_text(root / "images" / "a.json", json.dumps(content))
    trees.write_text(root / "labels.txt", "_background_\ncat\n")
    return "labelme"


@pytest.mark.parametrize("write", [folder, coco, labelme])
@pytest.mark.parametrize(
    ("tag", "size", "turned"),
    [
        (6, (32, 24), True),  # only the turned size fits
        (6, (24, 32), False),  # only the stored size fits
        (8, (32, 24), True),
        (3, (24, 32), None),  # both fit
        (2, (24, 32), None),
        (1, (24, 32), False),
    ],
)
def test_the_size_of_the_annotation_decides_and_where_both_fit_the_layout(write, tag, size, turned, tmp_path) -> None:
    shown = save_turned(tmp_path / "images" / "a.png", STORED, tag)
    name = write(tmp_path, size)
    layout = open_layout(name, tmp_path)
    (sample,) = layout.samples()
    image = layout.read_image(sample)
    turned = name == "labelme" if turned is None else turned
    np.testing.assert_array_equal(image, shown if turned else STORED)
    check_sizes(sample, image, layout.annotation(sample))


def test_a_mask_with_an_orientation_of_its_own_and_images_without_masks_are_as_viewers_show_them(tmp_path) -> None:
    for tag in (3, 6):
        root = tmp_path / str(tag)
        shown = save_turned(root / "images" / "a.png", STORED, tag)
        classes = save_turned(root / "masks" / "a.png", STORED[..., 0] % 2, tag)
        trees.write_text(root / "classes.txt", "ground\nroad\n")
        layout = open_layout("folder", root)
        (sample,) = layout.samples()
        np.testing.assert_array_equal(layout.read_image(sample), shown)
        np.testing.assert_array_equal(layout.annotation(sample).classes, classes)
        (root / "masks" / "a.png").unlink()
        (root / "masks").rmdir()
        layout = open_layout("folder", root)
        (sample,) = layout.samples()
        np.testing.assert_array_equal(layout.read_image(sample), shown)


@pytest.mark.parametrize("photometric", ["minisblack", "rgb"])
def test_deep_tiff_files_follow_the_same_rule(photometric: str, tmp_path: Path) -> None:
    import tifffile

    deep = np.arange(24 * 32 * 3, dtype=np.uint16).reshape(24, 32, 3)
    (tmp_path / "images").mkdir()
    tags = [("Orientation", "H", 1, 6, True)]
    tifffile.imwrite(
        tmp_path / "images" / "a.tif", deep, photometric=photometric, planarconfig="contig", extratags=tags
    )
    folder(tmp_path, (24, 32))
    layout = open_layout("folder", tmp_path)
    np.testing.assert_array_equal(layout.read_image(next(iter(layout.samples()))), deep)
    folder(tmp_path, (32, 24))
    np.testing.assert_array_equal(layout.read_image(next(iter(layout.samples()))), np.rot90(deep, -1))
