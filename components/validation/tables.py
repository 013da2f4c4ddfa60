"""The tables that checks are run on: a row per sample, a row per split and class, and a row per split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from components.validation.checks import Table
from components.validation.duplicate_images import parts_of_files
from components.validation.edges import Agreement
from components.validation.label_causes import one_off, unknown_labels, void_everywhere
from components.validation.report import ClassCounts, forms_of, sizes_of
from segmodels.data.decoding import LOSSY
from segmodels.data.image_form import NARROW, ImageForm, common_form
from segmodels.data.layouts.splits import SPLITS
from segmodels.data.manifest import Dataset
from segmodels.labels import LabelMap

if TYPE_CHECKING:
    import pandas as pd

LEAST = 3
"""Masks that are named of a split whose masks fit other images as well."""

FEW = 20
"""Masks of one class everywhere are exceptions up to one in this number of masks; where there are more, they are the
dataset's nature, as slices without a tumour.
"""

MOST_SHIFT = 1.0
"""Voxels by which a label map may lie beside its volume; writers round the place of the origin."""


def tables(
    facts: pa.Table, classes: ClassCounts, pairs: Mapping[str, tuple[Agreement, list[int]]], dataset: Dataset
) -> dict[Table, pd.DataFrame]:
    """The tables, with the columns that ``checks`` names.

    Args:
        facts: of the samples, with ``also_in`` and ``near_duplicate_of``.
        classes: split -> class -> counts.
        pairs: split -> edge agreement and the pairs' positions, of the splits that have one.
        dataset: its manifest has the samples in the same order.
    """
    import pandas as pd

    as_they_are = ["id", "split", "image", "annotation", "image_error", "annotation_error", "image_md5", "also_in",
                   "near_duplicate_of", "image_orientation", "no_data"]  # fmt: skip
    columns: dict[str, Any] = {name: facts.column(name).to_pylist() for name in as_they_are}
    parts = parts_of_files(columns["image"], columns["id"])
    columns["content"] = [None if part else md5 for part, md5 in zip(parts, columns["image_md5"], strict=True)]
    columns |= {name: with_ids(columns[name], columns["id"]) for name in ("image", "annotation")}
    manifest, labels = dataset.table, dataset.labels
    columns["ingested_image_md5"] = manifest.column("image_md5").to_pylist()
    columns["md5s"] = [md5s and " ".join(md5s) for md5s in facts.column("md5s").to_pylist()]
    columns["ingested_md5s"] = [" ".join(md5s) or None for md5s in manifest.column("md5s").to_pylist()]
    columns["size"] = sizes_of(facts, "size")
    columns["other_size"] = _other_sizes(facts)
    formats = facts.column("annotation_format").to_pylist()
    columns["lossy_mask"] = [name if name in LOSSY else None for name in formats]
    columns["unknown_labels"] = [
        unknown_labels(unknown, labels, name) if unknown else None
        for unknown, name in zip(facts.column("unknown_labels").to_pylist(), formats, strict=True)
    ]
    for name in ("alpha_alone", "band_as_alpha"):
        columns[name] = [found or None for found in facts.column(name).to_pylist()]
    columns["animated"] = [
        f"{count} pictures" if count and count > 1 else None for count in facts.column("pictures").to_pylist()
    ]
    columns["shifted"] = [
        f"{shift:.1f} voxels" if shift and shift > MOST_SHIFT else None
        for shift in facts.column("voxel_shift").to_pylist()
    ]
    columns |= _forms(forms_of(facts), facts.column("highest").to_pylist())
    columns["void_everywhere"] = [void_everywhere(share, labels) for share in facts.column("void_share").to_pylist()]
    columns |= _objects(facts) | {"bare": _bare(facts, labels)}
    columns["one_class"] = _one_class(facts, labels.classes)
    samples = pd.DataFrame(columns, dtype=object)
    samples["void_share"] = facts.column("void_share").to_numpy()
    sides = (size and min(size[-2:]) for size in facts.column("size").to_pylist())
    samples["shorter_side"] = np.array([np.nan if side is None else side for side in sides], dtype=np.float64)
    holds_void = {split for split, share in zip(samples["split"], samples["void_share"], strict=True) if share > 0}
    void = dataset.layout.assumed_void if "train" in holds_void else None
    shifted = one_off(classes, bool(holds_void))
    # a published dataset has its things in every copy, also in one without the files of objects
    bare = dataset.layout.published() is None and not any(facts.column("objects").to_pylist())
    things = {labels.classes[thing] for thing in labels.things} if bare else set()
    rows = [
        {
            "split": split,
            "class": name,
            **counts,
            "taken_for_void": _meant_by_void(split, name, counts, void),
            "one_off": shifted.get(name) if split == "train" else None,
            "no_objects": "train" if split == "train" and name in things and counts["pixels"] else None,
        }
        for split, by_class in classes.items()
        for name, counts in by_class.items()
    ]
    unpaired = {
        split: _unpaired(agreement, [columns["annotation"][position] for position in positions])
        for split, (agreement, positions) in pairs.items()
    }
    alone = {"train": _alone(classes["train"])} if "train" in holds_void and void is None else {}
    splits = pd.DataFrame(
        [{"split": split, "unpaired": unpaired.get(split), "alone": alone.get(split)} for split in SPLITS], dtype=object
    )
    return {"samples": samples, "classes": pd.DataFrame(rows), "splits": splits}


def with_ids(files: Sequence[str | None], ids: Sequence[str]) -> list[str | None]:
    """Files, with the sample's id where a file is of several samples: slices of a volume, images of a JSON file."""
    parts = parts_of_files(files, ids)
    return [f"{file}: {id}" if part and file else file for part, file, id in zip(parts, files, ids, strict=True)]


def _unpaired(pairs: Agreement, masks: Sequence[str]) -> str | None:
    """The edge agreement of a split whose true pairs are no better than shuffled ones, and the masks with the least."""
    if pairs.mean > pairs.shuffled:
        return None
    return (
        f"edge agreement {pairs.mean:.2f} of {len(masks)} pairs, {pairs.shuffled:.2f} of shuffled pairs, the least of"
        f" {', '.join(masks[at] for at in pairs.least(LEAST))}"
    )


def _objects(facts: pa.Table) -> dict[str, list[str | None]]:
    """The columns about odd objects."""
    objects, misplaced, doubled, specks, empty = (
        facts.column(name).to_pylist()
        for name in ("objects", "misplaced_objects", "doubled_objects", "one_pixel_objects", "empty_objects")
    )
    return {
        name: [f"{odd} of {all}" if odd else None for odd, all in zip(found, objects, strict=True)]
        for name, found in (("misplaced", misplaced), ("doubled", doubled))
    } | {
        "specks": [
            ", ".join(f"{count} {what}" for count, what in ((none, "empty"), (one, "of one pixel")) if count) or None
            for none, one in zip(empty, specks, strict=True)
        ],
    }


def _bare(facts: pa.Table, labels: LabelMap) -> list[str | None]:
    """The countable classes of images that show such and have no object, in a dataset that has objects."""
    objects = facts.column("objects").to_pylist()
    if not any(objects):
        return [None] * len(objects)
    things = sorted(labels.things)
    return [
        ", ".join(labels.classes[thing] for thing in things if by_class[thing]) or None if count == 0 else None
        for count, by_class in zip(objects, facts.column("class_pixels").to_pylist(), strict=True)
    ]


def _one_class(facts: pa.Table, classes: Sequence[str]) -> list[str | None]:
    """The class of masks that hold it everywhere, where those are at most one in ``FEW`` of the masks."""
    held = facts.column("only_class").to_pylist()
    masks = len(held) - facts.column("class_pixels").null_count
    if FEW * sum(one is not None for one in held) > masks:
        return [None] * len(held)
    return [None if one is None else classes[one] for one in held]


def _other_sizes(facts: pa.Table) -> list[str | None]:
    """Sizes of annotations that differ from their image's, with the cause where it shows."""
    found: list[str | None] = []
    sizes = sizes_of(facts, "annotation_size")
    pairs = zip(facts.column("size").to_pylist(), facts.column("annotation_size").to_pylist(), strict=True)
    for (size, other), text in zip(pairs, sizes, strict=True):
        if size is None or other is None or size == other:
            found.append(None)
        elif size != other[::-1]:
            found.append(text)
        else:
            found.append(f"{text}: width and height are exchanged")
    return found


def _forms(forms: list[ImageForm | None], highest: list[int | None]) -> dict[str, list[str | None]]:
    """The columns about channels, types and ranges of images."""
    known = [form for form in forms if form is not None]
    usual = next((form for form, _ in Counter(known).most_common(1)), None)
    top = max((value for value in highest if value is not None), default=0)
    narrow = [f"values up to {top} of 65535" if value is not None and 0 < top < NARROW else None for value in highest]
    unlike = [
        str(form) if form is not None and usual is not None and common_form((form, usual)) is None else None
        for form in forms
    ]
    if any(form.dtype == np.uint8 for form in known):  # the others would become so too, and nearly black
        unlike = [
            text or (values and f"{form}, {values}, beside images of 8 bits")
            for text, form, values in zip(unlike, forms, narrow, strict=True)
        ]
    return {"form": [None if form is None else str(form) for form in forms], "unlike": unlike, "narrow": narrow}


def _alone(classes: Mapping[str, Mapping[str, int]]) -> str | None:
    """The class of a split that has pixels of no other one."""
    found = [name for name, counts in classes.items() if counts["pixels"]]
    return found[0] if len(found) == 1 else None


def _meant_by_void(split: str, name: str, counts: dict[str, int], void: int | None) -> str | None:
    if split != "train" or counts["pixels"] or void is None:
        return None
    return f"write `{name}, {void}`"
