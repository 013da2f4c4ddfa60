"""The splits that a dataset ships, as lists, a table or folders, and other tables of samples."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath

from segmodels.checks import shown
from segmodels.data.folder_files import as_spelled, composed, is_leftover
from segmodels.errors import InputError
from segmodels.files import parse_csv, read_plain_text

SPLITS = ("train", "val", "test")

PUBLISHED_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "eval": "val",
    "test": "test",
    "testing": "test",
}
"""Names of the splits in datasets, lower case, and here."""

TABLES = ("splits.csv", "split.csv")
"""Names of a table with the columns id and split."""

GROUPS = "groups.csv"
"""Name of a table with the columns id and group."""

_PATIENT = re.compile(r"(?<![A-Z0-9])(TCGA)[-_]([A-Z0-9]{2})[-_]([A-Z0-9]{4})(?![A-Z0-9])")
"""The first three parts of a barcode, project, site and participant, name a patient."""


def published_split(name: str) -> str | None:
    """The split that a dataset calls ``name``, with or without a year; None where that is not a split's name."""
    return PUBLISHED_SPLITS.get(name.lower().rstrip("0123456789"))


def split_ids(root: Path, ids: Collection[str]) -> Iterator[tuple[str | None, str]]:
    """(split, id) of each sample: by the lists ``splits/*.txt``, or lists of these names in ``root``; else by the table
    ``splits.csv``; else by the first folder of the ids, where those are names of splits, such as train, valid and test
    (two are enough); else without a split.

    Raises:
        InputError: a list names a sample twice or one that is not there, a list or a row of the table is of no known
            split, or samples lie beside the folders of the splits.
    """
    lists = _lists(root)
    for split in sorted(lists, key=SPLITS.index):
        yield from ((split, sample_id) for sample_id in _read_list(root, lists[split], ids))
    if lists:
        return
    split_of = _table(root, ids) or splits_by_folder(root, ids)
    for sample_id in sorted(split_of, key=lambda sample_id: SPLITS.index(split_of[sample_id])):
        yield split_of[sample_id], sample_id
    if not split_of:
        yield from ((None, sample_id) for sample_id in ids)


def require_listed_masks(root: Path, masks: Mapping[str, str]) -> None:
    """Check that lists of pairs, ``images/0001.jpg masks/0001.png``, name the masks that are read.

    Args:
        masks: sample id -> path relative to ``root``.

    Raises:
        InputError: a list names another mask of ``root``.
    """
    for path in _lists(root).values():
        for line in read_plain_text(path).splitlines():
            words = line.split()
            sample_id = _sample_id(root, line, masks) if len(words) == 2 else ""
            named = root / words[1] if sample_id in masks else None
            if named and named.is_file() and not named.samefile(root / masks[sample_id]):
                raise InputError(
                    f"{path} names the mask {shown(words[1])} for {words[0]}, but the mask of the image's name,"
                    f" {masks[sample_id]}, is read: give each mask the name of its image, or correct the list"
                )


def splits_by_folder(root: Path, ids: Collection[str]) -> dict[str, str]:
    """Sample id -> split by the first folder of the ids; empty where those are not names of two splits or more.

    Raises:
        InputError: some samples lie beside the folders of the splits.
    """
    split_of = {sample_id: split for sample_id in ids if (split := published_split(_first_folder(sample_id)))}
    if len(set(split_of.values())) < 2:
        return {}
    if stray := [sample_id for sample_id in ids if sample_id not in split_of]:
        folders = ", ".join(sorted({_first_folder(sample_id) for sample_id in split_of}))
        raise InputError(
            f"{len(stray)} of {len(ids)} samples in {root} lie beside the folders of the splits ({folders}):"
            f" {', '.join(stray[:5])}: move them into one of these folders or remove them"
        )
    return split_of


def groups_of(root: Path, ids: Collection[str]) -> dict[str, str]:
    """Sample id -> its group: by the table ``groups.csv``; else the patient where the id holds a barcode of The Cancer
    Genome Atlas (LGG); else the sample itself.

    Raises:
        InputError: as ``read_table``.
    """
    if groups := read_table(root, GROUPS, "group", ids):
        return groups
    patients = {sample_id: _PATIENT.search(sample_id) for sample_id in ids}
    return {sample_id: "-".join(found.groups()) if found else sample_id for sample_id, found in patients.items()}


def read_table(root: Path, name: str, column: str, ids: Collection[str]) -> dict[str, str]:
    """Sample id -> value of ``column`` in a CSV file with the columns ``id``, which may have the ending of a file, and
    ``column``; empty without the file.

    Raises:
        InputError: other columns, a sample without a row or value, or with several.
    """
    path = as_spelled(root / name)
    if not path.is_file():
        return {}
    text = read_plain_text(path)
    try:
        rows = [(composed(row["id"].strip()), row[column].strip()) for row in parse_csv(text, ("id", column))]
    except ValueError as error:
        raise InputError(
            f"{path} cannot be understood ({error}), expected the header id,{column} and such rows, with commas:"
            " correct it"
        ) from None
    given: dict[str, str] = {}
    for own, value in rows:
        if value and given.setdefault(own, value) != value:
            raise InputError(
                f"{path} gives {shown(own)} the {column} {shown(given[own])} and {shown(value)}, expected one: remove"
                " one of the rows"
            )
    # a row a.1 names the sample a too; exact ids come last, so that a row of a itself replaces it
    values = {_sample_id(root, own, ids): given[own] for own in sorted(given, key=lambda own: own in ids)}
    if missing := sorted(set(ids) - values.keys()):
        raise InputError(f"{path} has no {column} for {len(missing)} samples: {', '.join(missing[:5])}: add them")
    return values


def _lists(root: Path) -> dict[str, Path]:
    """Split -> its list, in ``splits/`` or, without lists there, in ``root``."""
    for folder in (as_spelled(root / "splits"), root):
        found: dict[str, Path] = {}
        files = (path for path in folder.iterdir() if path.suffix.lower() == ".txt") if folder.is_dir() else ()
        for path in sorted(path for path in files if not is_leftover(path.name)):
            split = published_split(path.stem.lower().removesuffix("_list"))  # train_list.txt of PaddleSeg
            if split is None:
                if folder == root:
                    continue  # classes.txt, a readme
                raise InputError(
                    f"{path} has the name of no split, expected train.txt, val.txt or test.txt (also valid, validation,"
                    " dev, eval): rename it or move it out of splits/"
                )
            if split in found:
                raise InputError(
                    f"{found[split]} and {path.name} are both lists of {split}, expected one: put all its samples into"
                    " one of them and remove the other"
                )
            found[split] = path
        if found:
            return found
    return {}


def _table(root: Path, ids: Collection[str]) -> dict[str, str]:
    """Sample id -> split by ``splits.csv`` or ``split.csv``; empty without such a table."""
    for name in TABLES:
        rows = read_table(root, name, "split", ids)
        split_of = {sample_id: published_split(rows[sample_id]) for sample_id in ids if rows}
        if unknown := [sample_id for sample_id, split in split_of.items() if split is None]:
            raise InputError(
                f"{root / name} has the split {shown(rows[unknown[0]])} for {unknown[0]}, expected train, val or test:"
                " correct it"
            )
        if split_of:
            return {sample_id: split for sample_id, split in split_of.items() if split is not None}
    return {}


def _first_folder(sample_id: str) -> str:
    """Empty without a folder."""
    return sample_id.rpartition("/")[0].partition("/")[0]


def _read_list(root: Path, path: Path, ids: Collection[str]) -> Iterator[str]:
    lines: dict[str, int] = {}
    for number, line in enumerate(read_plain_text(path).splitlines(), 1):
        line = line.strip()
        if not line:
            continue
        sample_id = _sample_id(root, line, ids)
        if sample_id not in ids:
            raise InputError(
                f"{path} names the sample {shown(line)}, which has no image in {root}: correct the list or add the"
                " image"
            )
        if (first := lines.setdefault(sample_id, number)) != number:
            raise InputError(
                f"{path} names the sample {shown(line)} in the lines {first} and {number}, expected once: remove one of"
                " the lines"
            )
        yield sample_id


def _sample_id(root: Path, line: str, ids: Collection[str]) -> str:
    """The one of ``ids`` that a line of a list or table names: the id, with or without the ending of its file, or the
    file's path in ``root``, maybe before that of its mask (``images/0001.jpg masks/0001.png``). Where it names
    none of them, the line without its ending.
    """
    line = composed(line.strip()).removeprefix("./")
    name = _without_suffix(line)
    if line in ids or name in ids:
        return line if line in ids else name
    for path in (line, *line.split()[:1]):
        inside = _without_suffix(path.partition("/")[2])
        if inside in ids and (root / path).is_file():
            return inside
    return name


def _without_suffix(name: str) -> str:
    return PurePosixPath(posixpath.splitext(name)[0]).as_posix()
