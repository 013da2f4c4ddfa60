"""Opening a layout: by name, or by what lies in the folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from segmodels.data.layouts.base import LAYOUTS, Layout
from segmodels.data.layouts.regrouped import Regrouped
from segmodels.errors import InputError

AUTO = "auto"
"""The name that stands for whichever layout fits the folder."""

FORMER_NAMES = {"images": "folder"}
"""Layouts that are now part of another one; users may keep writing these names."""

SHOWN = 8
"""Entries of a folder that an error names."""


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
        InputError: none fits, with what each layout looks for; or several fit, with their names.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"dataset folder {root} is not there: check the path")
    layouts = [layout for entry in LAYOUTS if (layout := cast("type[Layout]", entry.build)).automatic]
    fitting = [layout.name for layout in layouts if layout.fits(root)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise InputError(
            f"dataset folder {root} fits the layouts {' and '.join(fitting)}: set ingest.layout to one of them, or"
            " ingest.path to the folder of one dataset"
        )
    names = sorted(path.name + "/" * path.is_dir() for path in root.iterdir())
    for name in [name for name in names if name.endswith("/") and not name.startswith(".")][:SHOWN]:
        if inside := [layout.name for layout in layouts if layout.fits(root / name)]:
            raise InputError(
                f"dataset folder {root} fits no layout, but its folder {name} fits {' and '.join(inside)}: set"
                f" ingest.path to {root / name}"
            )
    holds = ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
    expected = "".join(f"\n  {layout.name}: {layout.marks}" for layout in layouts)
    raise InputError(
        f"dataset folder {root} fits no layout, it holds {holds or 'nothing'}; correct ingest.path, set ingest.layout,"
        f" or arrange the files as one of the layouts expects (python -m segmodels layouts NAME):{expected}"
    )
