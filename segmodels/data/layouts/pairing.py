"""Helpers of layouts: files that belong together by name, lists of splits, tables of samples."""

from __future__ import annotations

import posixpath
import unicodedata
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from segmodels.checks import shown
from segmodels.data.decoding import JPEG, SUFFIXES
from segmodels.data.folder_files import files_below
from segmodels.errors import InputError
from segmodels.files import parse_csv, read_plain_text
from segmodels.labels import LabelMap, UnknownLabelsError

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

WHITE = 255

LEFTOVERS = ("__MACOSX", "@eaDir")
"""Folders that archives and file servers leave behind."""


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


def is_leftover(name: str) -> bool:
    """Whether a file or folder of that name is hidden, or left behind by archives and file servers."""
    return name.startswith(".") or name in LEFTOVERS


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


def published_split(name: str) -> str | None:
    """The split that a dataset calls ``name``, with or without a year; None where that is not a split's name."""
    return PUBLISHED_SPLITS.get(name.lower().rstrip("0123456789"))


def composed(name: str) -> str:
    """The name in Unicode's composed form (NFC): macOS writes é as two characters, most other systems as one."""
    return unicodedata.normalize("NFC", name)


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


def _lists(root: Path) -> dict[str, Path]:
    """Split -> its list, in ``splits/`` or, without lists there, in ``root``."""
    for folder in (root / "splits", root):
        found: dict[str, Path] = {}
        for path in sorted(path for path in folder.glob("*.txt") if not is_leftover(path.name)):
            split = published_split(path.stem.removesuffix("_list"))  # train_list.txt of PaddleSeg
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
        split_of = {sample_id: published_split(rows[sample_id].strip()) for sample_id in ids if rows}
        if unknown := [sample_id for sample_id, split in split_of.items() if split is None]:
            raise InputError(
                f"{root / name} has the split {shown(rows[unknown[0]])} for {unknown[0]}, expected train, val or test:"
                " correct it"
            )
        if split_of:
            return {sample_id: split for sample_id, split in split_of.items() if split is not None}
    return {}


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


def _first_folder(sample_id: str) -> str:
    """Empty without a folder."""
    return sample_id.rpartition("/")[0].partition("/")[0]


def read_table(root: Path, name: str, column: str, ids: Collection[str]) -> dict[str, str]:
    """Sample id -> value of ``column`` in a CSV file with the columns ``id``, which may have the ending of a file, and
    ``column``; empty without the file.

    Raises:
        InputError: other columns, or a sample without a row.
    """
    path = root / name
    if not path.is_file():
        return {}
    text = read_plain_text(path)
    try:
        rows = list(parse_csv(text, ("id", column)))
        rows.sort(
            key=lambda row: composed(row["id"].strip()) in ids
        )  # where a.1 is no sample, its row is not that of a
        values = {_sample_id(root, row["id"], ids): row[column] for row in rows}
    except ValueError as error:
        raise InputError(f"{path} cannot be understood ({error}), expected the columns id and {column}") from None
    if missing := sorted(set(ids) - values.keys()):
        raise InputError(f"{path} has no {column} for {len(missing)} samples: {', '.join(missing[:5])}: add them")
    return values


def encode_labels(labels: LabelMap, mask: NDArray, file: str) -> NDArray:
    """``labels.encode(mask)``; an error names the file. Of the ids 0 and 255 alone JPEG has the nearer."""
    if labels.ids.keys() == {0, WHITE} and PurePosixPath(file).suffix.lower() in JPEG:
        mask = np.where(mask > WHITE // 2, WHITE, 0)
    try:
        return labels.encode(mask)
    except UnknownLabelsError as error:
        raise UnknownLabelsError(f"{file}: {error}", error.unknown, file) from None


def inside(mask: NDArray, file: str) -> NDArray[np.bool_]:
    """Where a mask of 0 and one other value has the other.

    Raises:
        UnknownLabelsError: it holds further values, as smoothed masks and JPEG files do; names the file.
    """
    highest = mask.max(initial=0)
    other = mask != 0
    between = other & (mask != highest)
    if between.any():
        unknown = np.unique(mask[between]).tolist()
        raise UnknownLabelsError(
            f"{file} holds {len(unknown)} values between 0 and {highest}, expected none: export the mask again as PNG,"
            " without smoothing",
            unknown,
            file,
        )
    return other


def _sample_id(root: Path, line: str, ids: Collection[str]) -> str:
    """The one of ``ids`` that a line of a list or table names: the id, with or without the ending of its file, or the
    file's path in ``root``, maybe before that of its mask (``images/0001.jpg masks/0001.png``). Else one that is none.
    """
    line = composed(line.strip())
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
