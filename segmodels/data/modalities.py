"""Files of one case that hold a modality each: by number, as nnU-Net names them, or by name, as BraTS does."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from segmodels.data.nifti import is_nifti, stem
from segmodels.errors import InputError

NUMBERED = re.compile(r"(.+)_(\d{4})$")
"""``CASE_0000``, ``CASE_0001``, ...: nnU-Net (Isensee, Nature Methods 18, 2021)."""

MODALITIES = ("flair", "t1", "t1c", "t2")
"""Modalities of BraTS, in the order of the channels."""

NAMES = {name: name for name in MODALITIES} | {"t2f": "flair", "t1n": "t1", "t1ce": "t1c", "t2w": "t2"}
"""Word in the name of a file, lower case -> modality."""

LABELS = ("otmulticlass", "seg")
"""Words in the names of BraTS's label maps, lower case."""

_LAST_WORD = re.compile(r"(.+)[_-]([A-Za-z0-9]+)$")


def cases(paths: Iterable[Path], channels: int) -> dict[Path, tuple[Path, ...]]:
    """The path of each case, as if one file held it, -> its files in the order of the channels.

    Args:
        paths: of files; those that are no NIfTI file, or whose case has not exactly ``channels`` of them, are cases of
            their own. Label maps of BraTS beside the modalities are left out. Where cases have different modalities,
            some lack one and have another in its place: of numbered files only cases with the numbers below
            ``channels`` are then whole, of named ones none.
    """
    groups: dict[Path, dict[int, Path]] = defaultdict(dict)
    paths = list(paths)
    for path in paths:
        if is_nifti(path) and (found := _numbered(stem(path))):
            name, number = found
            groups[path.with_name(f"{name}.nii.gz")].setdefault(number, path)
    whole: dict[Path, tuple[Path, ...]] = {}
    for by_name in (False, True):
        full = {
            case: files
            for case, files in groups.items()
            if len(files) == channels > 1 and by_name == (NUMBERED.match(stem(min(files.values()))) is None)
        }
        alike = len({frozenset(files) for files in full.values()}) == 1
        whole |= {
            case: tuple(files[number] for number in sorted(files))
            for case, files in full.items()
            if alike or (not by_name and max(files) < channels)
        }
    grouped = {file for files in whole.values() for file in files}
    alone = {path: (path,) for path in paths if path not in grouped and _labelled_case(path) not in whole}
    return dict(sorted((whole | alone).items()))


def require_same_modalities(cases: Mapping[str, Sequence[str]]) -> None:
    """Check that the files of all cases hold the same modalities, as a channel means one thing.

    Args:
        cases: name of a case -> its modalities, in the order of the channels.

    Raises:
        InputError: they do not; names the cases that differ from most.
    """
    counts = Counter(map(tuple, cases.values()))
    if len(counts) < 2:
        return
    usual = counts.most_common(1)[0][0]
    other = [f"{case} has {', '.join(own)}" for case, own in cases.items() if tuple(own) != usual]
    raise InputError(
        f"{len(other)} of {len(cases)} cases have other modalities than the rest, expected {', '.join(usual)} of each"
        f" ({'; '.join(other[:3])}): add the missing files, or remove these cases"
    )


def _labelled_case(path: Path) -> Path | None:
    """The path of the case whose label map a file is."""
    match = _LAST_WORD.match(stem(path))
    return path.with_name(f"{match[1]}.nii.gz") if match and match[2].lower() in LABELS else None


def _numbered(name: str) -> tuple[str, int] | None:
    """Case and place of the modality in its channels."""
    if match := NUMBERED.match(name):
        return match[1], int(match[2])
    match = _LAST_WORD.match(name)
    word = NAMES.get(match[2].lower()) if match else None
    return (match[1], MODALITIES.index(word)) if match and word else None
