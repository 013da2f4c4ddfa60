"""What lies in folders that no layout fits: images and masks under other names, or a part of a dataset; for messages
alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from segmodels.data.decoding import SUFFIXES
from segmodels.data.folder_files import is_leftover

LOOKED_AT = 1000
"""Masks of a folder that are looked at."""

IMAGES = ("images", "image", "imgs", "img", "jpegimages")

ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")

TABLES = (".parquet", ".arrow")

_MASKS = re.compile(r"mask|label|gt|truth|seg|ann|manual", re.IGNORECASE)
"""What names of folders of masks have somewhere."""


def images_and_masks(folders: Iterable[Path]) -> tuple[Path, list[Path]] | None:
    """A folder of pictures, and those of their masks: their files have the names of the images, maybe with something
    after them (``0001_segmentation``), and the folders' own names speak of masks.
    """
    names = {folder: found for folder in folders if (found := _pictures(folder))}
    for images, known in names.items():
        masks = [folder for folder, found in names.items() if _MASKS.search(folder.name) and _are_of(found, known)]
        if masks and images not in masks:
            return images, masks
    return None


def what_is_missing(root: Path) -> str:
    """What a folder lacks that holds a part of a dataset, or a packed one, and what to do; empty where that does not
    show.
    """
    names = {path.name.lower(): path.name for path in sorted(root.iterdir()) if not is_leftover(path.name)}
    data = [name for name in names if not name.startswith(("readme", "licen"))]
    if data and all(name.endswith(ARCHIVES) and (root / names[name]).is_file() for name in data):
        return f"it holds archives ({', '.join(names[name] for name in data[:5])}), expected their content: unpack them"
    if "segmentationclass" in names and "jpegimages" not in names:
        return (
            "it has SegmentationClass/ without JPEGImages/, expected the images too: export them as well (CVAT: Save"
            " images), or put them into JPEGImages/"
        )
    if "imagestr" in names and "dataset.json" not in names:
        return (
            f'it has {names["imagestr"]}/ without dataset.json, expected {{"labels": {{"background": 0, "tumour": 1}}}}'
            " in it: write it (layout nifti)"
        )
    if any(path for ending in TABLES for place in ("", "*/") for path in root.glob(f"{place}*{ending}")):
        return (
            "it holds tables (Parquet or Arrow, as datasets of Hugging Face), expected files of images and masks: save"
            " both as files of the same names in images/ and masks/"
        )
    if len(data) == 1 and data[0] in IMAGES:
        return (
            f"it holds {names[data[0]]}/ alone, expected images/ and masks/: add the masks, or, to learn without labels"
            " (train.model: wnet), classes.txt with the names of the classes"
        )
    return ""


def _pictures(folder: Path) -> set[str]:
    return {path.stem for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and not is_leftover(path.name)}


def _are_of(masks: set[str], images: set[str]) -> bool:
    """Whether most names of masks begin with that of an image."""
    found = [
        any(name[:end] in images for end in range(1, len(name) + 1) if end == len(name) or not name[end].isalnum())
        for name in islice(masks, LOOKED_AT)
    ]
    return 2 * sum(found) > len(found)
