"""Class names, colours and the way from a dataset's own label ids to train ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import cv2
import numpy as np

from segmodels.errors import InputError
from segmodels.files import check_shape

_SHAPE = {"classes": [str], "palette": [[int]], "ids": {str: int}, "ignore_index": int}


class UnknownLabelsError(InputError):
    """A mask holds labels, ``unknown``, that its label map does not know; ``file`` is the mask's, where it is known."""

    def __init__(self, message: str, unknown: list[int], file: str | None = None) -> None:
        super().__init__(message)
        self.unknown, self.file = unknown, file

    def __reduce__(self) -> tuple[Any, ...]:
        return UnknownLabelsError, (str(self), self.unknown, self.file)  # worker processes hand it over


def ignore_index_for(num_classes: int) -> int:
    """255, or -1 where 255 is the train id of a class."""
    return 255 if num_classes <= 255 else -1


@dataclass(frozen=True)
class LabelMap:
    """The classes of a dataset.

    Attributes:
        classes: names, in the order of the train ids 0..C-1.
        palette: one RGB colour (0..255) per class, same order.
        ignore_index: train id of pixels that count nowhere: 255 for uint8 masks, -1 for int16 masks (above 255
            classes).
        ids: source label id -> train id (or ``ignore_index``). Source ids that are not in it are unknown labels.
        things: train ids of the classes whose objects are counted; the others are stuff.
        further: name -> classes of a further map over the same pixels (part, material, texture).
    """

    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    ids: Mapping[int, int]
    ignore_index: int = 255
    things: frozenset[int] = frozenset()
    further: Mapping[str, LabelMap] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.classes) < 2:
            raise InputError(
                f"label map has the classes {list(self.classes)}, expected at least 2, one of which may be the"
                " background: name the others too"
            )
        for name in self.classes:
            if any(0xD800 <= ord(letter) < 0xE000 for letter in name):  # OpenCV ends the process where it draws one
                raise InputError(f"class {name!a} has half a surrogate pair in its name, expected Unicode text")
        if len(set(self.classes)) != len(self.classes):
            twice = sorted(name for name, count in Counter(self.classes).items() if count > 1)
            raise InputError(f"label map names {twice[:5]} more than once, expected distinct class names")
        if len(self.palette) != len(self.classes):
            raise InputError(
                f"label map has {len(self.palette)} colours for {len(self.classes)} classes, expected one each"
            )
        wrong = {
            source: train
            for source, train in self.ids.items()
            if train != self.ignore_index and not 0 <= train < self.num_classes
        }
        if wrong:
            raise InputError(
                f"label map sends source ids to {wrong}, expected train ids 0..{self.num_classes - 1} or"
                f" {self.ignore_index}"
            )
        if self.ignore_index in range(self.num_classes):
            raise InputError(
                f"ignore index {self.ignore_index} is also the train id of class {self.classes[self.ignore_index]!r},"
                " choose another"
            )
        if outside := sorted(self.things - set(range(self.num_classes))):
            raise InputError(f"label map counts {outside} as things, expected train ids 0..{self.num_classes - 1}")

    @property
    def num_classes(self) -> int:
        """C, the ignored label not counted."""
        return len(self.classes)

    @property
    def dtype(self) -> np.dtype:
        """Type of masks in train ids: uint8, or int16 above 255 classes."""
        return np.dtype(np.uint8 if self.num_classes <= 255 else np.int16)

    @cached_property
    def _table(self) -> tuple[np.ndarray, np.ndarray]:
        """Lookup tables over source ids 0..65535: train id, and whether the id is known."""
        train = np.full(65536, self.ignore_index, dtype=self.dtype)
        known = np.zeros(65536, dtype=bool)
        for source, target in self.ids.items():
            train[source] = target
            known[source] = True
        return train, known

    def unknown(self, values: np.ndarray) -> list[int]:
        """Those of ``values`` (any shape, source ids) that the map does not know, sorted."""
        values = _distinct(values)
        inside = (values >= 0) & (values < 65536)
        known = np.zeros(values.shape, dtype=bool)
        known[inside] = self._table[1][values[inside].astype(np.int64)]
        return [int(v) for v in values[~known]]

    def encode(self, mask: np.ndarray) -> np.ndarray:
        """Source ids of any shape and integer type -> train ids of the same shape, uint8 or int16.

        Raises:
            UnknownLabelsError: the mask holds a label that the map does not know.
        """
        if unknown := self.unknown(mask):
            raise UnknownLabelsError(
                f"mask holds unknown labels {unknown}, expected {sorted(self.ids)}: correct the mask or the label map",
                unknown,
            )
        train, _ = self._table
        return cv2.LUT(mask, train[:256]) if mask.dtype == np.uint8 and mask.ndim == 2 and mask.size else train[mask]

    def colorize(self, mask: np.ndarray) -> np.ndarray:
        """Train ids ``(H, W)`` -> RGB ``(H, W, 3)`` uint8; ignored pixels are black."""
        colors = np.zeros((65536, 3), dtype=np.uint8)
        colors[: self.num_classes] = self.palette
        return colors[mask.astype(np.int64)]

    def to_dict(self) -> dict[str, Any]:
        """For JSON; ``from_dict`` is the inverse. Things and further maps only where there are any."""
        data: dict[str, Any] = {
            "classes": list(self.classes),
            "palette": [list(color) for color in self.palette],
            "ids": {str(source): train for source, train in self.ids.items()},
            "ignore_index": self.ignore_index,
        }
        if self.things:
            data["things"] = sorted(self.things)
        if self.further:
            data["further"] = {name: labels.to_dict() for name, labels in self.further.items()}
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LabelMap:
        """The inverse of ``to_dict``; raises ValueError for data of another shape."""
        check_shape(data, _SHAPE)
        return cls(
            classes=tuple(data["classes"]),
            palette=tuple((int(r), int(g), int(b)) for r, g, b in data["palette"]),
            ids={int(source): int(train) for source, train in data["ids"].items()},
            ignore_index=int(data["ignore_index"]),
            things=frozenset(int(train) for train in data.get("things", ())),
            further={name: cls.from_dict(labels) for name, labels in data.get("further", {}).items()},
        )


def _distinct(values: np.ndarray) -> np.ndarray:
    """The values, sorted, each once. Counting takes half the time of ``np.unique``, which is left for large ones."""
    if values.size and values.min() >= 0 and values.max() < 65536:
        return np.flatnonzero(np.bincount(values.ravel().astype(np.int64, copy=False)))
    return np.unique(values)
