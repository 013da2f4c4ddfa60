"""The classes file of the ``folder`` layout: ``classes.txt``, ``classes.json`` or ``class_dict.csv``;
``layouts/folder.py`` has its forms.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

from segmodels.data.decoding import Color
from segmodels.data.folder_files import as_spelled
from segmodels.errors import InputError
from segmodels.files import parse_json, read_plain_text, reason
from segmodels.labels import LabelMap, ignore_index_for
from segmodels.suggest import nearest

TEXT, TABLE = "classes.txt", "classes.json"
COLORS = ("class_dict.csv", "label_class_dict.csv")
"""Colours alone, as the Kaggle mirrors of CamVid and others have them; read where neither of the others is there."""

COLORS_HEADER = ["name", "r", "g", "b"]
IGNORED, THINGS = "!ignore", "!things"
VOID = 255
"""Label id that is void unless the file says otherwise."""

IGNORED_COLOR_ID = 65535
"""Label id of pixels whose colour is ignored without having an id of its own."""


class Entry(NamedTuple):
    """A class or, under the name ``IGNORED``, a label that is ignored."""

    name: str
    color: Color | None
    id: int | None


@dataclass(frozen=True)
class Classes:
    """The content of the file.

    Attributes:
        labels: without things.
        colors: label ids of the colours that the file gives.
        things: train ids of the classes that the file names as things; None where it names none.
        assumed_void: label id that is void by default, as the file neither ignores anything nor gives a class this id.
    """

    labels: LabelMap
    colors: Mapping[Color, int]
    things: frozenset[int] | None
    assumed_void: int | None


def has_classes_file(root: Path) -> bool:
    """Whether a dataset folder has ``classes.txt``, ``classes.json`` or ``class_dict.csv``, in letters of any case."""
    return any(as_spelled(root / name).is_file() for name in (TEXT, TABLE, *COLORS))


def read_classes(root: Path) -> Classes:
    """Read ``classes.txt``, ``classes.json`` or else ``class_dict.csv`` of a dataset folder.

    Raises:
        InputError: none or both of the first two exist, or a line or entry has another form; names it.
    """
    text, table, *colors = (as_spelled(root / name) for name in (TEXT, TABLE, *COLORS))
    if text.is_file() and table.is_file():
        raise InputError(
            f"dataset folder {root} has both classes.txt and classes.json, expected one of them: remove the other"
        )
    path = next((path for path in (text, table, *colors) if path.is_file()), None)
    if path is None:
        raise InputError(
            f"dataset folder {root} has neither classes.txt nor classes.json, expected one of them: write one"
        )
    read = {text: _from_text, table: _from_json}.get(path, _from_colors)
    entries, things = read(path)
    try:
        return classes_of(entries, things)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def distinct_colors(count: int) -> tuple[Color, ...]:
    """``count`` colours as PASCAL VOC numbers them: the bits of the index, spread over the high bits of R, G and B; the
    first is black.
    """

    def channel(index: int, offset: int) -> int:
        return sum(((index >> (3 * bit + offset)) & 1) << (7 - bit) for bit in range(8))

    return tuple((channel(index, 0), channel(index, 1), channel(index, 2)) for index in range(count))


def classes_of(entries: Sequence[Entry], things: Sequence[str] | None) -> Classes:
    """Classes in the order of the entries; an entry without an id has its place among the classes as id.

    Args:
        things: names of the classes that are things; None where nothing is said.

    Raises:
        InputError: ids or colours that are out of range or of two classes, or things that are not classes.
    """
    named = [entry for entry in entries if entry.name != IGNORED]
    ignored = [entry for entry in entries if entry.name == IGNORED]
    ids = [place if entry.id is None else entry.id for place, entry in enumerate(named)]
    void = [IGNORED_COLOR_ID if entry.id is None else entry.id for entry in ignored]
    if default := not any(entry.id is not None for entry in ignored) and VOID not in ids:
        void.append(VOID)
    if twice := sorted(source for source, count in Counter(ids).items() if count > 1):
        raise InputError(
            f"the ids {_some(twice)} are given to more than one class, expected distinct ids: correct them"
        )
    if both := sorted(set(void) & set(ids)):
        raise InputError(f"the ids {_some(both)} are both classes and ignored: remove one")
    if outside := [source for source in (*ids, *void) if not 0 <= source < 65536]:
        raise InputError(f"the ids {_some(outside)} are out of range, expected 0..65535: correct them")

    given = [entry.color for entry in named if entry.color is not None]
    if given and len(given) != len(named):
        raise InputError(f"{len(given)} of {len(named)} classes have a colour, expected all or none: add the others")
    ignore_index = ignore_index_for(len(named))
    train_ids = {source: train for train, source in enumerate(ids)} | dict.fromkeys(void, ignore_index)
    names = tuple(entry.name for entry in named)
    labels = LabelMap(names, tuple(given) or distinct_colors(len(named)), train_ids, ignore_index)
    colors = {
        entry.color: source
        for entry, source in zip([*named, *ignored], [*ids, *void], strict=False)
        if entry.color is not None
    }
    if same := [color for color, count in Counter(given).items() if count > 1]:
        first, second, *_ = (entry.name for entry in named if entry.color == same[0])
        raise InputError(
            f"the classes {first!r} and {second!r} have the same colour {same[0]}, expected distinct colours: change"
            " one"
        )
    numbers = {name: number for number, name in enumerate(names)}
    if unknown := [name for name in things or () if name not in numbers]:
        raise nearest("class among the things", unknown[0], names)
    assumed = VOID if default and not ignored else None
    return Classes(labels, colors, None if things is None else frozenset(numbers[name] for name in things), assumed)


def _some(ids: Sequence[int]) -> str:
    return str(list(ids[:5])) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")


def _from_text(path: Path) -> tuple[list[Entry], list[str] | None]:
    """The entries, and the names of things."""
    entries: list[Entry] = []
    things: list[str] | None = None
    for number, line in enumerate(read_plain_text(path).splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, *rest = (field.strip() for field in line.split(","))
        if name == THINGS:
            things = [*(things or ()), *rest]
            continue
        try:
            values = [int(field) for field in rest]
            directive = name != IGNORED and name.startswith((IGNORED, THINGS))
            if not name or directive or len(values) not in (0, 1, 3, 4):
                raise ValueError
            entries.append(
                Entry(
                    name,
                    _color(values[:3]) if len(values) >= 3 else None,
                    values[-1] if len(values) in (1, 4) else None,
                )
            )
        except ValueError:
            forms = "'name', 'name, id', 'name, red, green, blue' or 'name, red, green, blue, id'"
            raise InputError(
                f"{path} line {number} is {line.strip()[:100]!r}, expected {forms} with colours 0..255: correct it"
            ) from None
    _require_commas(path, [entry for entry in entries if entry.name != IGNORED])
    return entries, things


def _require_commas(path: Path, entries: Sequence[Entry]) -> None:
    """Raises InputError: each line is a name and numbers without a comma, which would become part of the name. Numbers
    without which two names were the same do belong to them: ``zone 1``, ``zone 2``.
    """
    parts = [_name_and_numbers(entry.name) for entry in entries if entry.color is None and entry.id is None]
    named = {name for name, numbers in parts if name and len(numbers) in (1, 3, 4)}
    if entries and len(named) == len(entries):
        (name, numbers), line = parts[0], entries[0].name
        raise InputError(
            f"{path} has the line {line[:100]!r}, expected commas before the numbers: write"
            f" {', '.join([name[:100], *numbers])!r}, or {line[:100] + ', 0'!r} (with a label id) if the numbers belong"
            " to the name, and the other lines likewise"
        )


def _name_and_numbers(line: str) -> tuple[str, list[str]]:
    """A line parted at blanks, colons, semicolons and equals signs; an id that comes first, maybe with a dot or a
    bracket as in ``0. road``, goes behind the colour.
    """
    words = [word for word in re.split(r"[\s:;=]+", re.sub(r"^(\d+)[.)]\s", r"\1 ", line)) if word]
    first = list(takewhile(str.isdecimal, words))
    last = list(takewhile(str.isdecimal, reversed(words[len(first) :])))[::-1]
    name = " ".join(words[len(first) : len(words) - len(last)])
    return name, [*first[1:], *last, *first[:1]] if len(first) in (1, 4) else [*first, *last]


def _from_colors(path: Path) -> tuple[list[Entry], list[str] | None]:
    """As ``_from_text``. Where all colours are grey, their values are the label ids, of grey masks."""
    lines = [line for line in read_plain_text(path).splitlines() if line.strip()] or [""]
    colors: list[tuple[str, Color]] = []
    for number, line in enumerate(lines, start=1):
        try:
            name, *values = (field.strip() for field in next(csv.reader([line]), [""]))
            if number > 1 and name:
                colors.append((name, _color([int(value) for value in values])))
            elif [name.lower(), *map(str.lower, values)] != COLORS_HEADER:
                raise ValueError
        except (ValueError, csv.Error):
            raise InputError(
                f"{path} line {number} is {line.strip()[:100]!r}, expected the header name,r,g,b and lines such as"
                " 'road,128,64,128' with colours 0..255: correct it, or write classes.txt"
            ) from None
    grey = all(red == green == blue for _, (red, green, blue) in colors)
    return [Entry(name, color, color[0] if grey else None) for name, color in colors], None


def _from_json(path: Path) -> tuple[list[Entry], list[str] | None]:
    text = read_plain_text(path)
    try:
        data = parse_json(text, {"classes": [(str, {"name": (str, int)})]})
        items: list[dict[str, Any]] = [{"name": item} if isinstance(item, str) else item for item in data["classes"]]
        items += [
            {"name": IGNORED} | ({"id": item} if isinstance(item, int) else item) for item in data.get("ignore", [])
        ]
        entries = [
            Entry(
                str(item["name"]),
                _color(item["color"]) if "color" in item else None,
                int(item["id"]) if "id" in item else None,
            )
            for item in items
        ]
        return entries, [str(name) for name in data["things"]] if "things" in data else None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        form = (
            '{"classes": [{"name": "road", "color": [128, 64, 128], "id": 7}, ...], "ignore": [255], "things": ["car"]}'
        )
        raise InputError(
            f"{path} cannot be understood ({reason(error)}), expected {form}; all but classes may be left out: correct"
            " it"
        ) from None


def _color(values: Sequence[int]) -> Color:
    red, green, blue = (int(value) for value in values)
    if not all(0 <= value <= 255 for value in (red, green, blue)):
        raise ValueError("colours are 0..255")
    return red, green, blue
