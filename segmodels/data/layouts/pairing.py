"""Files of a dataset that belong together by their names."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath

from segmodels.data.decoding import SUFFIXES
from segmodels.data.folder_files import composed, files_below, is_leftover
from segmodels.data.layouts.splits import published_split
from segmodels.errors import InputError


def files_by_id(root: Path, part: str, suffixes: Collection[str] = SUFFIXES) -> dict[str, str]:
    """Sample id -> path relative to ``root``, of all files below the folder ``part``, sorted.

    The id is the path below ``part`` without the ending, in Unicode's composed form: ``road/0001``. Hidden files and
    folders are left out, and what archives and file servers leave behind.

    Raises:
        InputError: two files of one id, or as ``files_below``.
    """
    found: dict[str, str] = {}
    prefix = f"{part.rstrip('/')}/" if part else ""
    for name in files_below(root / part) if (root / part).is_dir() else ():
        path = PurePosixPath(name)
        if path.suffix.lower() not in suffixes or any(is_leftover(part) for part in path.parts):
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
    """``others``, sample id -> path, under the ids of ``images`` where they have one ending more, the same in all:
    ``0001_mask`` of ``0001``. Unchanged where that is not so.
    """
    if not others or not others.keys().isdisjoint(images):
        return dict(others)
    first = next(iter(others))
    starts = [first[:end] for end in range(len(first) - 1, 0, -1) if first[:end] in images and not first[end].isalnum()]
    ending = first[len(starts[0]) :] if starts else ""
    if not ending or not all(name.endswith(ending) for name in others):
        return dict(others)
    return {name.removesuffix(ending): path for name, path in others.items()}


def require_pairs(root: Path, images: Mapping[str, str], others: Mapping[str, str], kind: str) -> None:
    """Check that every image has its other file, and the reverse.

    Args:
        images, others: sample id -> path.
        kind: of the other file: "mask".

    Raises:
        InputError: some stand alone; names up to five.
    """
    for files, partners, missing in ((images, others, kind), (others, images, "image")):
        if alone := sorted(files.keys() - partners.keys()):
            names = ", ".join(files[name] for name in alone[:5]) + (", ..." if len(alone) > 5 else "")
            files_have = "1 file in {} has" if len(alone) == 1 else f"{len(alone)} files in {{}} have"
            raise InputError(
                f"{files_have.format(root)} no {missing}: {names}: add each {missing} under the same name or"
                " remove the file"
            )
