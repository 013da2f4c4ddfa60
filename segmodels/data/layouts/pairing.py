"""Files of a dataset that belong together by their names."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path, PurePosixPath

from segmodels.data.decoding import SUFFIXES
from segmodels.data.folder_files import composed, data_files_below, is_leftover
from segmodels.data.layouts.splits import published_split
from segmodels.errors import InputError

_BRUSH = re.compile(r"task-\d+-annotation-\d+-")
"""Begin of the names in Label Studio's export of brush labels: task-12-annotation-34-by-1-tag-road-0.png."""


def files_by_id(root: Path, part: str, suffixes: Collection[str] = SUFFIXES) -> dict[str, str]:
    """Sample id -> path relative to ``root``, of all files below the folder ``part``, sorted.

    The id is the path below ``part`` without the ending, in Unicode's composed form: ``road/0001``. Hidden files and
    folders are left out, and what archives and file servers leave behind.

    Raises:
        InputError: two files of one id, or as ``files_below``.
    """
    found: dict[str, str] = {}
    prefix = f"{part.rstrip('/')}/" if part else ""
    for name in data_files_below(root / part) if (root / part).is_dir() else ():
        path = PurePosixPath(name)
        if path.suffix.lower() not in suffixes:
            continue
        sample_id = composed(str(path.with_suffix("")))
        if sample_id in found:
            raise InputError(
                f"{root / found[sample_id]} and {path.name} have the same name up to the ending, expected one file per"
                " sample: rename or remove one"
            )
        found[sample_id] = f"{prefix}{name}"
    return found


def split_folders(root: Path, part: str) -> list[str]:
    """Folders of splits in ``root`` that have a folder ``part``, sorted: ``train`` where there is ``train/images/``."""
    found = sorted(path for path in root.iterdir() if published_split(path.name)) if root.is_dir() else []
    return [path.name for path in found if (path / part).is_dir()]


def files_of_part(root: Path, part: str, suffixes: Collection[str] = SUFFIXES) -> dict[str, str]:
    """As ``files_by_id``; without a folder ``part``, of the folders ``part`` in those of the splits. The id then begins
    with the split: ``train/0001``.
    """
    if (root / part).is_dir():
        return files_by_id(root, part, suffixes)
    return {
        f"{split}/{sample_id}": file
        for split in split_folders(root, part)
        for sample_id, file in files_by_id(root, f"{split}/{part}", suffixes).items()
    }


def without_ending(images: Collection[str], others: Mapping[str, str]) -> dict[str, str]:
    """``others``, sample id -> path, under the ids of ``images`` where those that are none have one ending more, the
    same in all: ``0001_mask`` of ``0001``. Unchanged where that is not so.
    """
    longer = [name for name in others if name not in images]
    if not longer:
        return dict(others)
    first = longer[0]
    starts = [first[:end] for end in range(len(first) - 1, 0, -1) if first[:end] in images and not first[end].isalnum()]
    ending = first[len(starts[0]) :] if starts else ""
    short = {name: name.removesuffix(ending) for name in longer if ending and name.endswith(ending)}
    if len(short) < len(longer) or not others.keys().isdisjoint(short.values()):
        return dict(others)
    return {short.get(name, name): path for name, path in others.items()}


def pictures_beside(images: Collection[str], files: Iterable[str]) -> list[str]:
    """Those pictures of ``files`` that lie in a folder of some of ``images`` and are none of them."""
    folders = {PurePosixPath(image).parent for image in images}
    paths = (PurePosixPath(file) for file in files if file not in images)
    return [
        str(path)
        for path in paths
        if path.parent in folders and path.suffix.lower() in SUFFIXES and not is_leftover(path.name)
    ]


def require_pairs(
    root: Path, images: Mapping[str, str], others: Mapping[str, str], kind: str, listed: Collection[str]
) -> None:
    """Check that every listed image has its other file, and every other file its image.

    Args:
        images, others: sample id -> path.
        kind: of the other file: "mask".
        listed: ids of the images that are read; lists of splits may leave some out.

    Raises:
        InputError: some stand alone; names up to five.
    """
    for ids, files, partners, missing in ((listed, images, others, kind), (others, others, images, "image")):
        if alone := sorted(name for name in set(ids) if name not in partners):
            names = ", ".join(files[name] for name in alone[:5]) + (", ..." if len(alone) > 5 else "")
            files_have = "1 file in {} has" if len(alone) == 1 else f"{len(alone)} files in {{}} have"
            advice = f"add each {missing} under the same name or remove the file"
            if any(_BRUSH.match(PurePosixPath(name).name) for name in others):
                advice = "Label Studio names its PNG files by tasks, not by images: export the project as COCO instead"
            elif missing == "mask" and len(several := _parts_of(alone[0], images, others)) > 1:
                advice = (
                    f"{several[0]} and {several[1]} look like parts of one mask: write the label ids of all parts of an"
                    " image into one mask of its name"
                )
            raise InputError(f"{files_have.format(root)} no {missing}: {names}: {advice}")


def _parts_of(image: str, images: Collection[str], masks: Mapping[str, str]) -> list[str]:
    """Masks of no other image whose names continue that of ``image``, or which lie in a folder of it or of a class:
    ``0001_2``, ``0001/2``, ``car/0001``.
    """
    free = [name for name in masks if name not in images]
    continued = [name for name in free if name.startswith(image) and not name[len(image)].isalnum()]
    return [masks[name] for name in (*continued, *(name for name in free if name.endswith(f"/{image}")))]
