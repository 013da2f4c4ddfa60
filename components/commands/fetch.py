"""Get a published dataset: download it from its public address, or say where to register and what is expected."""

from __future__ import annotations

import shlex
from pathlib import Path


def fetch(dataset: str, /, cache: Path, folder: Path | None = None) -> None:
    """Download and unpack a dataset, then print the commands that make it a version with DVC. An interrupted download
    resumes when the command runs again. Without a public address, print how to get it and the expected folder.

    Args:
        dataset: a dataset layout, as `python -m segmodels layouts` lists them.
        cache: folder for the downloaded archives; remove its folder downloads when the dataset is whole.
        folder: the dataset's folder (default: datasets/DATASET).

    Raises:
        InputError: unknown dataset, the folder holds something else, or as ``fetch_dataset``.
        TransientError: as ``fetch_dataset``.
    """
    from typing import cast

    from components.datasets.fetching import fetch_dataset, record_of
    from segmodels.data.layouts.base import LAYOUTS, Layout
    from segmodels.errors import InputError

    entry = LAYOUTS[dataset]
    card, layout = entry.card, cast("type[Layout]", entry.build)
    folder = folder or Path("datasets") / dataset
    if not card.archives:
        print(f"{dataset} has no public address that a program may use.\n\nHow to get it: {card.get or card.source}")
        print(f"Licence: {card.licence}" if card.licence else "", f"\nExpected in {folder}:\n\n{layout.tree}", sep="\n")
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if not folder.is_dir() or not layout.fits(folder):
            raise InputError(
                f"{folder} exists and does not hold {dataset} ({layout.marks}): move it away or give another --folder"
            )
        print(f"{folder} is there already.")
    else:
        count = fetch_dataset(dataset, card.archives, folder, cache / "downloads")
        print(f"{folder}: {count} files. Licence: {card.licence}. Archives are kept in {cache / 'downloads'}.")
    place, file, record = (shlex.quote(str(one)) for one in (folder, f"{folder}.dvc", record_of(folder)))
    files = f"{file} {shlex.quote(str(folder.parent / '.gitignore'))}" + f" {record}" * bool(card.archives)
    print(f"""
{"Then make" if not card.archives else "Make"} it a version, and train on it:

  dvc add {place}
  git add {files}
  git commit -m "Data: {dataset}"
  dvc push

  ingest: {{source: folder, path: {folder}, layout: {dataset}}}    # in params.yaml""")
