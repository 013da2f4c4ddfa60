"""Maps of object ids of the ``folder`` layout: one page per layer, rows that give objects their classes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segmodels.annotations import MOST_SEGMENTS, Segment, rows_of
from segmodels.data.label_files import read_pages
from segmodels.data.sizes import require_one_size
from segmodels.errors import InputError
from segmodels.files import parse_json, read_plain_text, reason
from segmodels.labels import LabelMap
from segmodels.suggest import nearest


def read_objects(
    root: Path, files: Sequence[str], classes: NDArray, labels: LabelMap
) -> tuple[NDArray[np.uint16], tuple[Segment, ...], int]:
    """Layers ``(L, H, W)``, a row for each id in them, and the number of rows in the table without a pixel.

    Args:
        root: folder of the dataset.
        files: the map and, where the dataset has it, its table of rows; relative to ``root``.
        classes: train ids ``(H, W)`` of the mask.

    Raises:
        InputError: a file is missing, broken, of another size or form, or an object has no class; names the file.
    """
    name, *tables = files
    layers = _layers(root, name, classes.shape)
    found = [classes_under(layer, classes, range(labels.num_classes)) for layer in layers]
    majority = {id: label for own in found for id, label in own.items()}
    ids = sorted(majority)
    if len(ids) < sum(map(len, found)):
        twice = next(id for id in ids if sum(id in own for own in found) > 1)
        raise InputError(f"{name} has the object {twice} on more than one page, expected one: give it another id")
    empty = 0
    if tables:
        segments, empty = _rows(root, tables[0], ids, labels)
    else:
        segments = [Segment(id, _known(name, id, majority[id])) for id in ids]
    layers = layers[[bool(own) for own in found]]
    return layers, rows_of(layers, segments), empty


def _layers(root: Path, name: str, size: tuple[int, ...]) -> NDArray[np.uint16]:
    pages = read_pages(root / name)
    require_one_size(name, pages.shape[1:], "its mask", size)
    if pages.min() < 0 or pages.max() > MOST_SEGMENTS:
        raise InputError(
            f"{name} holds object ids {pages.min()}..{pages.max()}, expected 0..{MOST_SEGMENTS}: number them anew"
        )
    return pages.astype(np.uint16)


def classes_under(layer: NDArray[np.uint16], classes: NDArray, among: Iterable[int]) -> dict[int, int | None]:
    """Id -> the class of ``among`` (train ids) that most of its pixels have, the lowest of equals; None where no pixel
    has one of them.
    """
    chosen = np.zeros(2**16, dtype=bool)  # -1, of ignored pixels, is its last entry
    chosen[list(among)] = True
    inside = layer > 0
    under = classes[inside].astype(np.int64)
    under = np.where(chosen[under], under, 2**16 - 1)
    codes, counts = np.unique(layer[inside] * np.int64(2**16) + under, return_counts=True)
    best: dict[int, tuple[int, int | None]] = {}
    for code, count in zip(codes.tolist(), counts.tolist(), strict=True):
        id, label = divmod(code, 2**16)
        if label == 2**16 - 1:
            best.setdefault(id, (0, None))
        elif count > best.get(id, (0, None))[0]:
            best[id] = count, label
    return {id: label for id, (_, label) in best.items()}


def _known(name: str, id: int, label: int | None) -> int:
    if label is None:
        raise InputError(
            f"{name} has the object {id} where its mask is ignored everywhere, expected a class: label its pixels or"
            f" give its class in {Path(name).with_suffix('.json')}"
        )
    return label


def _rows(root: Path, table: str, ids: Sequence[int], labels: LabelMap) -> tuple[list[Segment], int]:
    """A row for each of ``ids``, and the number of rows without a pixel, which are left out."""
    text = read_plain_text(root / table)
    try:
        entries = parse_json(text, [{"id": (int, str), "class": (str, int)}])
        rows = {int(entry["id"]): (str(entry["class"]), bool(entry.get("crowd", False))) for entry in entries}
        if len(rows) < len(entries):
            raise ValueError(f"{len(entries)} rows for {len(rows)} ids")
    except ValueError as error:
        raise InputError(
            f"{table} cannot be understood ({reason(error)}), expected"
            ' [{"id": 1, "class": "car", "crowd": false}, ...]; crowd may be left out: correct it'
        ) from None
    if missing := [id for id in ids if id not in rows]:
        raise InputError(f"{table} has no row for the objects {missing[:5]} of its map, expected one each: add them")
    segments = []
    for id in ids:
        name, crowd = rows[id]
        if name not in labels.classes:
            raise InputError(f"{table}: {nearest('class', name, labels.classes)}")
        segments.append(Segment(id, labels.classes.index(name), crowd))
    return segments, len(rows.keys() - set(ids))
