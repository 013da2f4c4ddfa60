"""Find the dataset at its revision and write its manifest: one row per sample, and the digest of all files."""

from __future__ import annotations

import os
import posixpath
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from components.artifacts import CARRIED
from components.datasets.revision import dataset_revision
from components.datasets.sources import fetch
from components.params.schema import IngestParams
from components.running.atomic import written_output
from components.running.digests import directory_digest
from components.running.wording import first_few
from segmodels.data.folder_files import as_spelled, is_leftover
from segmodels.data.group_split import split_by_group
from segmodels.data.layouts import AUTO, Layout, Sample, find_layout, open_layout
from segmodels.data.layouts.splits import GROUPS, SPLITS, published_split
from segmodels.data.manifest import manifest_row, write_dataset
from segmodels.errors import InputError

NOT_READ = (".heic", ".heif", ".avif", ".jp2", ".j2k", ".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2",
            ".psd", ".svg", ".tga", ".exr", ".hdr", ".dcm", ".mp4", ".mov", ".avi")  # fmt: skip
"""Endings of pictures and videos, lower case, which no layout reads; one named by a list of samples is refused."""

SHIPPED = "as the dataset ships them"


def ingest(
    params: IngestParams, dataset: Path, cache: Path, copy_files: bool = False, revision: str | None = None
) -> None:
    """Write ``manifest.parquet`` and ``dataset.json`` of the dataset that ``params`` names into the folder ``dataset``.

    A dataset in a folder is read in place; nothing is copied. Its path (for the other sources that of ``cache``) is
    recorded as absolute if it is given so, else relative to ``dataset``, so that a project can be moved and read from
    anywhere.

    Args:
        dataset: output folder.
        cache: folder for downloads and generated data, kept between runs.
        copy_files: put the data beside its manifest, for steps on other machines. A dataset in a folder stays where it
            is: it lies on a volume that those steps see too.
        revision: that the dataset must have, see datasets/revision.py. None: any.

    Raises:
        InputError: the dataset, its revision or one of its files is not there, a split has no samples, or the dataset
            has another revision.
        TransientError: the network or a server failed for now.
    """
    data = fetch(params, cache)
    if revision and (now := dataset_revision(params)) != revision:
        raise InputError(
            f"the dataset changed while the run was starting (its revision is {now}, expected {revision}): start a new"
            " run"
        )
    name = find_layout(data.root) if data.layout == AUTO else data.layout
    layout = open_layout(name, data.root, params.classes)
    found = list(layout.samples())
    samples, origin = _in_our_splits(found, params, layout)
    if missing := [path for sample in samples for path in (sample.image, *sample.files) if path not in data.md5s]:
        raise InputError(
            f"dataset {data.root} lists {len(missing)} files that are not there ({first_few(missing)}): add them or"
            " correct the list"
        )
    digest = directory_digest(data.md5s)
    with written_output("ingest", dataset) as folder:
        root: Path | str = data.root
        if copy_files and params.source != "folder":
            shutil.copytree(data.root, folder / CARRIED, copy_function=_link)
            root = CARRIED
        elif not data.root.is_absolute():
            root = os.path.relpath(data.root.absolute(), dataset.resolve())
        write_dataset(
            folder,
            layout=layout.name,
            classes=params.classes,
            root=root,
            labels=layout.labels,
            source=data.source,
            revision=data.revision,
            digest=digest,
            rows=(manifest_row(sample, data.md5s) for sample in samples),
        )
    counts = Counter(sample.split for sample in samples)
    splits = ", ".join(f"{split} {counts[split]}" for split in SPLITS)
    alone = "" if any(sample.files for sample in samples) else ", not annotated"
    print(f"{len(samples)} samples ({splits}, {origin}) of dataset {digest}, layout {layout.name}{alone}")
    if layout.left_out:
        print(
            f"{len(layout.left_out)} files without their other half or in no list of samples are left out"
            f" ({first_few(layout.left_out)})"
        )
    if others := _not_read(samples, data.md5s):
        print(
            f"files beside the images that are of kinds that are not read are left out ({first_few(others)}): convert"
            " them to PNG or JPEG if they belong to the dataset"
        )
    if torn := _torn_groups(samples):
        print(
            f"groups have samples in train and others in val or test ({first_few(torn)}): where they show the same, the"
            " measured quality is too good; give all samples of a group the same split"
        )
    # layouts whose tree has no groups.csv know the groups themselves
    ungrouped = GROUPS in layout.tree and not as_spelled(layout.root / GROUPS).is_file()
    if ungrouped and origin != SHIPPED and (torn := _torn_folders(samples)):
        print(
            f"samples of one folder are in several splits ({first_few(torn)}): if such folders are patients, videos or"
            f" places, write {GROUPS} with the header id,group, which keeps each in one split"
        )


def _not_read(samples: Sequence[Sample], files: Iterable[str]) -> list[str]:
    """Numbers of files of each kind in ``NOT_READ`` that lie in folders of images: ``12 .heic``."""
    folders = {posixpath.dirname(sample.image) for sample in samples}
    places = (posixpath.split(file) for file in files)
    endings = (Path(name).suffix.lower() for folder, name in places if folder in folders and not is_leftover(name))
    return [f"{count} {ending}" for ending, count in sorted(Counter(endings).items()) if ending in NOT_READ]


def _torn_groups(samples: Sequence[Sample]) -> list[str]:
    """Groups of which the dataset's own splits have some images in train and others in val or test."""
    learnt: dict[str, set[str]] = {}
    for sample in samples:
        if sample.split == "train":
            learnt.setdefault(sample.group, set()).add(sample.image)
    rest = (sample for sample in samples if sample.split != "train")
    return sorted({sample.group for sample in rest if sample.image not in learnt.get(sample.group, {sample.image})})


def _torn_folders(samples: Sequence[Sample]) -> list[str]:
    """Folders in the ids of samples that were drawn one by one, which have samples in several splits; none where all
    samples lie in one.
    """
    splits: dict[str, set[str | None]] = {}
    for sample in samples:
        if sample.group == sample.id:
            splits.setdefault(posixpath.dirname(sample.id), set()).add(sample.split)
    folders = [folder for folder, found in splits.items() if len(found) > 1]
    if len(splits) < 2:
        return []
    return [folder for folder in folders if folder and not published_split(posixpath.basename(folder))]


def _link(source: str, target: str) -> None:
    try:
        Path(target).hardlink_to(source)
    except OSError:  # another file system
        shutil.copyfile(source, target)


def _in_our_splits(samples: Sequence[Sample], params: IngestParams, layout: Layout) -> tuple[list[Sample], str]:
    """The samples of train, val and test, and where these splits come from, in words: the dataset ships them, under our
    names or those of ``params.splits``, or ships none and they are drawn by group. Without a val, or without both val
    and test, these are drawn from train; a model that was chosen on test could not be measured there.
    """
    shipped = sorted({sample.split for sample in samples if sample.split is not None})
    drawn = f"drawn with seed {params.split.seed}"
    if not samples:
        alone = (
            f", but files without their other half or in no list ({first_few(layout.left_out)})"
            if layout.left_out
            else ""
        )
        raise InputError(
            f"dataset {params.path} has no samples in layout {layout.name!r}{alone}: check ingest.path and"
            " ingest.layout"
        )
    if not shipped:
        if params.splits:
            raise InputError(
                f"ingest.splits is {params.splits}, but the dataset ships no splits: remove it and set ingest.split"
            )
        return split_by_group(samples, params.split), drawn
    names: dict[str, str] = {split: split for split in SPLITS} | dict(params.splits)
    members = {
        ours: [replace(sample, split=ours) for sample in samples if sample.split == theirs]
        for ours, theirs in names.items()
    }
    missing = [ours for ours in SPLITS if not members[ours]]
    if missing in (["val"], ["val", "test"]) and not set(missing) & set(params.splits):
        kept = members["test"]
        shares = replace(params.split, test=0) if kept else params.split
        return split_by_group(members["train"], shares) + kept, f"{' and '.join(missing)} {drawn} from train"
    if missing:
        ours = next((ours for ours in missing if ours in params.splits), missing[0])
        raise _without_samples(ours, names[ours], shipped)
    return [sample for split in members.values() for sample in split], SHIPPED


def _without_samples(ours: str, theirs: str, shipped: Sequence[str]) -> InputError:
    advice = {
        "train": "add samples for training, or name the split that has them in ingest.splits",
        "val": "correct ingest.splits, or remove val from it to draw val from train",
        "test": "set ingest.splits, for example {test: val}" if "val" in shipped else "correct ingest.splits",
    }
    other = f" under the name {theirs!r} of ingest.splits" * (ours != theirs)
    return InputError(
        f"split {ours!r} has no samples{other}, the dataset's splits are {', '.join(shipped)}: {advice[ours]}"
    )
