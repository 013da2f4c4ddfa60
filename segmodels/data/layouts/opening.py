"""Opening a layout: by name, or by what lies in the folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import cast

from segmodels.data.folder_files import is_leftover
from segmodels.data.layouts.base import LAYOUTS, Layout
from segmodels.data.layouts.likely_pairs import images_and_masks, what_is_missing
from segmodels.data.layouts.regrouped import Regrouped
from segmodels.errors import InputError

AUTO = "auto"
"""The name that stands for whichever layout fits the folder."""

FORMER_NAMES = {"images": "folder"}
"""Layouts that are now part of another one; users may keep writing these names."""

SHOWN = 8
"""Folders or files that an error names."""


def open_layout(name: str, root: str | Path, classes: Mapping[str, Sequence[str]] | None = None) -> Layout:
    """The layout of that name over ``root``.

    Args:
        classes: new class -> the classes that it is made of; those of ``ignore`` count nowhere.

    Raises:
        InputError: unknown layout, ``root`` is not a folder or lacks what the layout needs, or ``classes`` names a
            class that the dataset does not have.
    """
    layout = LAYOUTS[FORMER_NAMES.get(name, name)].build(root)
    return Regrouped(layout, classes) if classes else layout


def find_layout(root: str | Path) -> str:
    """The name of the one layout that fits the folder.

    Raises:
        InputError: none fits, with what each layout looks for or the folders to rename; or several fit, with their
            names.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"dataset folder {root} is not there: check the path")
    layouts = [layout for entry in LAYOUTS if (layout := cast("type[Layout]", entry.build)).automatic]
    fitting = _fitting(layouts, root)
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise InputError(
            f"dataset folder {root} fits the layouts {' and '.join(fitting)}: set ingest.layout to one of them, or"
            " ingest.path to the folder of one dataset"
        )
    raise _no_layout(layouts, root)


def _no_layout(layouts: Sequence[type[Layout]], root: Path) -> InputError:
    """That no layout fits: with the folders below that fit one, the folders to rename, or what each layout expects."""
    below = list(_folders_below(root))
    inside: dict[Path, list[str]] = {}
    for folder in below:
        if folder.parent not in inside and (found := _fitting(layouts, folder)):
            inside[folder] = found
    if len(inside) == 1:
        [(folder, found)] = inside.items()
        return InputError(
            f"dataset folder {root} fits no layout, but its folder {folder.relative_to(root)}/ fits"
            f" {' and '.join(found)}: set ingest.path to {folder}"
        )
    if inside:
        folders = _few([f"{folder.relative_to(root)}/" for folder in inside])
        return InputError(
            f"dataset folder {root} fits no layout, but its folders {folders} fit"
            f" {', '.join(sorted({name for found in inside.values() for name in found}))}: set ingest.path to one of"
            " them, or make one dataset of them (python -m segmodels layouts NAME)"
        )
    if pair := images_and_masks(below):
        images, *masks = (f"{folder.relative_to(root)}/" for folder in (pair[0], *pair[1]))
        return InputError(
            f"dataset folder {root} fits no layout, but the files in {' and '.join(masks)} have the names of those in"
            f" {images}: for the layout folder rename (or link) {images} to images/ and"
            f" {'its masks' if len(masks) == 1 else 'one of the others'} to masks/; folders of splits are train/images/"
            " and train/masks/, likewise val/ and test/"
        )
    if lacking := what_is_missing(root):
        return InputError(f"dataset folder {root} fits no layout: {lacking}")
    holds = _few(sorted(path.name + "/" * path.is_dir() for path in root.iterdir()))
    expected = "".join(f"\n  {layout.name}: {layout.marks}" for layout in layouts)
    return InputError(
        f"dataset folder {root} fits no layout, it holds {holds or 'nothing'}; correct ingest.path, set ingest.layout,"
        f" or arrange the files as one of the layouts expects (python -m segmodels layouts NAME; what LoveDA, Potsdam,"
        f" iSAID and others need first stands in docs/your-own-dataset.md):{expected}"
    )


def _fitting(layouts: Sequence[type[Layout]], root: Path) -> list[str]:
    return [layout.name for layout in layouts if layout.fits(root)] or [
        layout.name for layout in layouts if layout.resembles(root)
    ]


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _folders_below(root: Path) -> Iterator[Path]:
    """Some folders in ``root``, then some folders in these: archives often hold a folder of their own name."""
    outer = list(islice(_folders_in(root), SHOWN))
    yield from outer
    for folder in outer:
        yield from islice(_folders_in(folder), SHOWN)


def _folders_in(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.iterdir()) if path.is_dir() and not is_leftover(path.name))
