"""What a dataset of YOLO says about itself at the top of its folder: the classes, and which images are which split."""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from segmodels.checks import shown
from segmodels.data.folder_files import as_spelled, composed, is_leftover
from segmodels.data.layouts.splits import published_split
from segmodels.errors import InputError
from segmodels.files import read_plain_text, reading

CLASSES = "classes.txt"
"""Names of the classes, one per line, where there is no YAML file: Label Studio's export."""

_ABSOLUTE = re.compile(r"[/\\]|[A-Za-z]:")


@dataclass(frozen=True)
class Description:
    """The content of the YAML file.

    Attributes:
        file: its name.
        names: of the classes, by YOLO's number.
        path: folder that the paths of ``splits`` begin in, maybe one of another machine.
        splits: train, val or test -> folders of images, and text files with a path of an image per line.
    """

    file: str
    names: tuple[str, ...]
    path: str
    splits: Mapping[str, tuple[str, ...]]


def describing_files(root: Path) -> list[Path]:
    """YAML files at the top, ``data.yaml`` first; then ``classes.txt``."""
    files = (path for path in root.iterdir() if path.is_file() and not is_leftover(path.name))
    found = (path for path in files if path.suffix.lower() in (".yaml", ".yml"))
    tables = sorted(found, key=lambda path: (path.stem != "data", path.name))
    return tables + [path for path in (as_spelled(root / CLASSES),) if path.is_file()]


def read_description(root: Path) -> Description:
    """The first YAML file with ``names``; else ``classes.txt``.

    Raises:
        InputError: there is none of them, or its content has another form; names it.
    """
    files = describing_files(root)
    for path in files:
        if path.name.lower() == CLASSES:
            names = tuple(name for line in read_plain_text(path).splitlines() if (name := line.strip()))
            if not names:
                raise InputError(f"{path} is empty, expected the name of a class per line: add them")
            return Description(path.name, names, "", {})
        with reading(path, damaged="expected 'names: [car, person]' or 'names: {0: car, 1: person}'; correct it"):
            content = yaml.safe_load(read_plain_text(path))
            if isinstance(content, dict) and "names" in content:
                names = _names(content["names"])
        if isinstance(content, dict) and "names" in content:
            with reading(path, damaged="expected folders or lists of images such as 'train: images/train'; correct it"):
                return Description(path.name, names, str(content.get("path") or ""), _splits(content))
    if files:
        raise InputError(f"{files[0]} has no names, expected 'names: [car, person]': add the classes")
    raise InputError(
        f"dataset folder {root} does not name its classes, expected data.yaml with the line 'names: [car, person]', or"
        " classes.txt with a name per line, in the order of the numbers in labels/: write one of them"
    )


def split_members(
    description: Description, root: Path, files: Collection[str], images: Collection[str]
) -> dict[str, set[str]]:
    """Split -> those of ``images`` that the description gives it.

    Folders and lists that are not there count as not given, as exports name splits that they do not have; and so does a
    split of the same images as one before it (coco128-seg).

    Args:
        files: all files of the dataset, paths relative to ``root`` in Unicode's composed form.
        images: those of them that are samples.

    Raises:
        InputError: some images of a list are not there; names one.
    """
    folders = {"" if str(folder) == "." else str(folder) for image in images for folder in PurePosixPath(image).parents}
    found: dict[str, set[str]] = {}
    for split, places in description.splits.items():
        members: set[str] = set()
        for place in places:
            if place.endswith(".txt"):
                members |= _listed(root, _inside(place, description.path, files, least=1), files)
            elif (folder := _inside(place, description.path, folders)) is not None:
                members |= {image for image in images if not folder or image.startswith(f"{folder}/")}
        members &= set(images)
        if members and members not in found.values():
            found[split] = members
    return found


def _names(names: Any) -> tuple[str, ...]:
    given = names.items() if isinstance(names, dict) else enumerate(names)
    rows = {int(key) if isinstance(key, str) and key.isdecimal() else key: name for key, name in given}
    if not rows or sorted(rows) != list(range(len(rows))):
        raise ValueError("names are not numbered from 0")
    if odd := [name for name in rows.values() if not isinstance(name, str | int | float)]:
        raise ValueError(f"a name is a {type(odd[0]).__name__}")
    found = tuple(str(rows[number]) for number in range(len(rows)))
    if twice := [name for name, count in Counter(found).items() if count > 1]:
        raise ValueError(f"the name {shown(twice[0])} stands twice")
    return found


def _splits(content: Mapping[Any, Any]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for key, value in content.items():
        split = published_split(str(key))
        places = value if isinstance(value, list) else [value] if value else []
        if split and not all(isinstance(place, str) for place in places):
            raise ValueError(f"{key} is {shown(value)}")
        if split and places:
            found[split] = found.get(split, ()) + tuple(places)
    return found


def _listed(root: Path, table: str | None, files: Collection[str]) -> set[str]:
    """The images that a list names, of those in ``files``; none where it names none of them."""
    if table is None:
        return set()
    lines = [line.strip() for line in read_plain_text(root / table).splitlines() if line.strip()]
    images = {line: _inside(line, posixpath.dirname(table), files) for line in lines}
    found = {image for image in images.values() if image is not None}
    if found and (missing := [line for line, image in images.items() if image is None]):
        raise InputError(
            f"{root / table} names the image {shown(missing[0])}, which is not in {root}: correct the list or add the"
            " image"
        )
    return found


def _inside(name: str, base: str, known: Collection[str], least: int = 2) -> str | None:
    """The one of ``known`` paths that ``name``, from the folder ``base``, leads to. Both may begin outside of the
    dataset, as on another machine: their first folders are left out, but of ``name`` ``least`` parts are kept.
    """
    own, before = _parts(name), [] if _ABSOLUTE.match(name) else _parts(base)
    whole = before + own
    ends = ("/".join(whole[start:]) for start in range(max(len(before), len(whole) - least) + 1))
    return next((end for end in ends if end in known), None)


def _parts(name: str) -> list[str]:
    parts = posixpath.normpath(composed(name).replace("\\", "/")).split("/")
    return [part for part in parts if part not in ("", ".", "..")]
