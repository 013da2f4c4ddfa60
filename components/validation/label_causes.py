"""Likely causes of labels that mean nothing, or that are one off: the mistakes of exporting and converting masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count

from components.running.wording import first_few
from segmodels.data.decoding import LOSSY, LOSSY_MASK
from segmodels.labels import LabelMap

REDUCED = 255
"""0 - 1 in 8 bits, and void in many datasets."""

MANY = 8
"""Unknown labels in a mask, above which they are no mistake in a table."""


def unknown_labels(unknown: Sequence[int], labels: LabelMap, file_format: str | None) -> str:
    """The unknown labels of a mask, and their likely cause where they show one.

    Args:
        unknown: ids that the mask holds and ``labels`` does not know.
        file_format: of the mask's file: one of ``LOSSY``, else as Pillow names it.
    """
    cause = _cause(set(unknown), labels, file_format)
    return first_few([str(label) for label in unknown]) + (f"; {cause}" if cause else "")


def _cause(unknown: set[int], labels: LabelMap, file_format: str | None) -> str | None:
    top = next(source for source in count() if source + 1 not in labels.ids)
    counted = 0 in labels.ids and top >= max(id for id, train in labels.ids.items() if train != labels.ignore_index)
    if file_format in LOSSY:
        return LOSSY_MASK.format(file_format)
    greys = {round(red * 0.299 + green * 0.587 + blue * 0.114) for red, green, blue in labels.palette}
    if len(unknown - greys) <= 1 and len(unknown & greys) > len(unknown - greys):  # void has a brightness of its own
        return (
            "these are the brightnesses of the classes' colours: store the palette's indices, not its colours in grey"
        )
    if len(unknown) > MANY:
        return "smooth resizing or lossy compression makes this many values: resize masks by the nearest pixel"
    if unknown == {REDUCED}:
        if labels.ids.get(0) == labels.ignore_index:
            return "0 is void here and 0 - 1 is 255: the labels may be reduced by one already (reduce_zero_label)"
        return "255 is 0 - 1 in 8 bits (labels reduced by one, reduce_zero_label), or void in other datasets"
    if counted and unknown == {top + 1}:
        return f"the only value above {top}: the ids may count from 1, expected from 0"
    return None


def void_everywhere(void_share: float | None, labels: LabelMap) -> str | None:
    """None for a mask that is not void everywhere; else the likely cause, empty where there is none."""
    if void_share != 1:
        return None
    return "0 is void in this dataset: the mask may be full of 0" if labels.ids.get(0) == labels.ignore_index else ""


def one_off(classes: Mapping[str, Mapping[str, Mapping[str, int]]], void: bool) -> dict[str, str]:
    """The first or the last class, if it occurs nowhere though all others do, and what that may mean.

    Args:
        classes: split -> class -> counts with ``pixels``.
        void: whether masks hold void.
    """
    names = list(next(iter(classes.values())))
    missing = [name for name in names if not any(by_class[name]["pixels"] for by_class in classes.values())]
    if missing == [names[0]] and len(names) > 2:
        return {names[0]: "the masks' ids may count from 1, expected from 0"}
    if missing == [names[-1]] and void:
        return {names[-1]: "the masks' ids may be reduced by one (reduce_zero_label), which makes void of 0"}
    return {}
