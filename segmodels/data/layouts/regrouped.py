"""A layout whose classes are merged, renamed or dropped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from segmodels.annotations import Annotation
from segmodels.data.layouts.base import Layout, Sample
from segmodels.errors import InputError
from segmodels.labels import LabelMap, ignore_index_for
from segmodels.suggest import nearest

IGNORE = "ignore"


class Regrouped(Layout):
    """The samples of another layout, with other classes.

    ``{"vehicle": ["car", "truck"], "ignore": ["sky"]}``: pixels and objects of cars and trucks become vehicles, pixels
    of the sky count nowhere. All other classes stay. A new class stands where the first of its parts stood and has its
    colour; it is a thing when all its parts are, otherwise its objects become a region of stuff.
    """

    def __init__(self, layout: Layout, classes: Mapping[str, Sequence[str]]) -> None:
        self.root, self._layout = layout.root, layout
        self.name, self.tree = layout.name, layout.tree  # type: ignore[misc]  # of the class elsewhere
        self.assumed_void, self.neighbours, self.left_out = layout.assumed_void, layout.neighbours, []
        self._labels, self._table = _regrouped(layout.labels, classes)

    @property
    def labels(self) -> LabelMap:
        return self._labels

    def samples(self) -> Iterable[Sample]:
        yield from self._layout.samples()
        self.left_out = self._layout.left_out

    def read_image(self, sample: Sample) -> NDArray:
        return self._layout.read_image(sample)

    def annotation(self, sample: Sample) -> Annotation | None:
        annotation = self._layout.annotation(sample)
        if annotation is None:
            return None
        labels = self._labels
        renamed = (segment._replace(label=int(self._table[segment.label])) for segment in annotation.segments)
        kept = tuple(segment for segment in renamed if segment.label in labels.things)
        layers = annotation.layers
        if len(kept) < len(annotation.segments):
            layers = np.where(np.isin(layers, [segment.id for segment in kept]), layers, 0).astype(layers.dtype)
            layers = layers[layers.any(axis=tuple(range(1, layers.ndim)))]
        return replace(annotation, classes=self._table[annotation.classes], layers=layers, segments=kept)


def _regrouped(old: LabelMap, classes: Mapping[str, Sequence[str]]) -> tuple[LabelMap, NDArray]:
    """The new label map, and a table from the old train ids (the last entry: ignored) to the new ones."""
    group = _group_of(old, classes)
    names = list(dict.fromkeys(group[name] for name in old.classes if group[name] != IGNORE))
    if len(names) < 2:
        raise InputError(f"ingest.classes leaves the classes {names}, expected at least 2: merge or ignore fewer")
    parts = {name: [train for train, part in enumerate(old.classes) if group[part] == name] for name in names}
    ignore_index = ignore_index_for(len(names))
    new = {part: train for train, name in enumerate(names) for part in parts[name]} | {old.ignore_index: ignore_index}
    labels = LabelMap(
        tuple(names),
        tuple(old.palette[_first(old, name, classes, parts)] for name in names),
        {source: new.get(train, ignore_index) for source, train in old.ids.items()},
        ignore_index,
        frozenset(train for train, name in enumerate(names) if old.things.issuperset(parts[name])),
        old.further,
    )
    table = np.full(65536, ignore_index, labels.dtype)  # -1 is its last entry
    for before, after in new.items():
        table[before] = after
    return labels, table


def _group_of(old: LabelMap, classes: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Old class -> new class or ``IGNORE``."""
    group: dict[str, str] = {}
    for name, parts in classes.items():
        if not parts:
            raise InputError(f"ingest.classes gives {name!r} no classes, expected at least one of {_few(old)}")
        for part in parts:
            if part not in old.classes:
                raise InputError(f"ingest.classes.{name}: {nearest('class', part, old.classes)}")
            if part in group:
                raise InputError(
                    f"ingest.classes has {part!r} in both {group[part]!r} and {name!r}, expected each class once:"
                    " remove one"
                )
            group[part] = name
    if clash := [name for name in classes if name in old.classes and name not in group and name != IGNORE]:
        raise InputError(
            f"ingest.classes makes the class {clash[0]!r}, which the dataset has already: add {clash[0]!r} to its list"
            " or choose another name"
        )
    return {name: group.get(name, name) for name in old.classes}


def _first(old: LabelMap, name: str, classes: Mapping[str, Sequence[str]], parts: Mapping[str, Sequence[int]]) -> int:
    """Train id of the class that gives a new class its colour."""
    return old.classes.index(classes[name][0]) if name in classes else parts[name][0]


def _few(labels: LabelMap) -> str:
    return ", ".join(labels.classes[:10]) + (", ..." if labels.num_classes > 10 else "")
