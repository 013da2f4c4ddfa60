"""Datasets whose classes and files are the same in every copy: what their layouts share."""

from __future__ import annotations

import csv
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from importlib import resources
from pathlib import Path
from typing import ClassVar

from segmodels.data.decoding import SUFFIXES, Color
from segmodels.data.layouts.base import Layout
from segmodels.data.layouts.pairing import files_by_id
from segmodels.errors import InputError
from segmodels.labels import LabelMap

THING, STUFF, IGNORED = "thing", "stuff", "ignore"


class Published(Layout):
    """A dataset that begins in one of several folders: as its archive unpacks, or deeper.

    Attributes:
        table: file in tables/ with its classes.
        places: folders below the root, each with a final slash, where it may begin.
        top: the one where it does.
    """

    table: ClassVar[str]
    places: ClassVar[tuple[str, ...]] = ("",)

    def __init__(self, root: str | Path) -> None:
        super().__init__(root)
        top = self.place(self.root)
        if top is None:
            raise self.not_organised()
        self.top = top

    @classmethod
    @abstractmethod
    def begins(cls, folder: Path) -> bool:
        """Whether the dataset begins in ``folder``, by names of files alone."""

    @classmethod
    def place(cls, root: Path) -> str | None:
        """The one of ``places`` where the dataset begins."""
        return next((place for place in cls.places if cls.begins(root / place)), None)

    @classmethod
    def fits(cls, root: Path) -> bool:
        return cls.place(root) is not None

    @classmethod
    def published(cls) -> LabelMap | None:
        return read_label_table(cls.table)

    @cached_property
    def labels(self) -> LabelMap:
        labels = self.published()
        assert labels is not None
        return labels

    def files(self, part: str, suffixes: Sequence[str] = SUFFIXES) -> dict[str, str]:
        """Path below the folder ``part`` without the ending -> path relative to the root; empty without the folder."""
        return files_by_id(self.root, self.top + part, suffixes)

    def paired(self, images: Mapping[str, str], masks: Mapping[str, str]) -> list[tuple[str, str, str]]:
        """(id, image, mask) of those ids that have both; the others are noted in ``left_out``.

        Raises:
            InputError: no id has both.
        """
        both = images.keys() & masks.keys()
        if not both:
            raise InputError(
                f"dataset folder {self.root} has no image with its mask: the names of {len(images)} images and"
                f" {len(masks)} masks have nothing in common (layout {self.name!r}): add the missing files"
            )
        self.left_out = [file for name, file in (*images.items(), *masks.items()) if name not in both]
        return [(name, image, masks[name]) for name, image in images.items() if name in both]

    def listed(
        self, pairs: Sequence[tuple[str, str, str]], lists: Iterable[tuple[str | None, Sequence[str]]]
    ) -> Iterator[tuple[str | None, str, str, str]]:
        """(split, id, image, mask) of the ids in the list of each split; the masks of others are noted in ``left_out``.

        Args:
            pairs: as ``paired`` gives them.

        Raises:
            InputError: an id of a list is in none of the pairs.
        """
        known = {name: (image, mask) for name, image, mask in pairs}
        lists = list(lists)
        names_in_lists = {name for _, names in lists for name in names}
        self.left_out += [mask for name, (_, mask) in known.items() if name not in names_in_lists]
        for split, names in lists:
            for name in names:
                if name not in known:
                    raise InputError(
                        f"dataset folder {self.root} lacks the image or the mask of {name}, which the list of {split}"
                        " names: add them or correct the list"
                    )
                yield split, name, *known[name]


@lru_cache(maxsize=64)
def read_label_table(name: str) -> LabelMap:
    """The classes of ``tables/NAME.csv``: a row for each label id; train ids in the order of the rows. Rows of the kind
    ``ignore`` count nowhere.
    """
    rows = _rows(name)
    counted = [row for row in rows if row["kind"] != IGNORED]
    trains = {int(row["id"]): train for train, row in enumerate(counted)}
    return LabelMap(
        tuple(row["name"] for row in counted),
        tuple(_color(row) for row in counted),
        trains | {int(row["id"]): 255 for row in rows if row["kind"] == IGNORED},
        things=frozenset(train for train, row in enumerate(counted) if row["kind"] == THING),
    )


@lru_cache(maxsize=64)
def colors_of(name: str) -> dict[Color, int]:
    """Colour -> label id, of ``tables/NAME.csv``; the first of several labels of one colour."""
    return {_color(row): int(row["id"]) for row in reversed(_rows(name))}


def ids_by_name(name: str) -> dict[str, int]:
    """Name -> label id, of ``tables/NAME.csv``, ignored ones included."""
    return {row["name"]: int(row["id"]) for row in _rows(name)}


def _rows(name: str) -> list[dict[str, str]]:
    text = resources.files(__package__).joinpath("tables", f"{name}.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def _color(row: Mapping[str, str]) -> Color:
    return int(row["red"]), int(row["green"]), int(row["blue"])
