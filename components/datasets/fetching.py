"""Datasets at public addresses: downloaded, unpacked, and what arrived is on record."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, cast
from urllib.parse import urlsplit

from components.datasets.archives import unpack
from components.running.atomic import written_file, written_folder
from segmodels.data.layouts.base import LAYOUTS, Archive, Layout
from segmodels.download import download, shown_progress
from segmodels.errors import InputError
from segmodels.files import parse_json, reading
from segmodels.machine import check_folder

MEASURED = "measured at the first download, stated by nobody"


def record_of(folder: Path) -> Path:
    """The file beside a dataset's folder that says where its archives came from, with their sizes and digests."""
    return folder.with_name(f"{folder.name}.source.json")


def fetch_dataset(name: str, archives: Sequence[Archive], folder: Path, downloads: Path) -> int:
    """Download the archives of a dataset into ``downloads`` and unpack them into ``folder``, which is whole or not
    there. An interrupted download is resumed, archives that are there are not downloaded again.

    An archive must have the digest that its publisher or another project states; without one, the digest in
    ``record_of(folder)``, which the first download writes.

    Args:
        name: of the layout.

    Returns:
        the number of files.

    Raises:
        InputError, TransientError: as ``download`` and ``unpack``; ``folder`` cannot be written; or the files are not
            organised as the layout.
    """
    check_folder(folder, replaced=True)
    known = _known(record_of(folder))
    files = [downloads / f"{hashlib.sha256(one.url.encode()).hexdigest()[:8]}-{_name(one)}" for one in archives]
    rows = []
    for archive, path in zip(archives, files, strict=True):
        own = known.get(archive.url, {}) if not (archive.sha256 or archive.md5) else {}
        sha256, size = archive.sha256 or own.get("sha256"), archive.size or own.get("size")
        with shown_progress(f"downloading {_name(archive)}") as progress:
            try:
                download(archive.url, path, sha256=sha256, md5=archive.md5, size=size, progress=progress)
            except InputError as error:
                if own and "expected" in str(error):
                    raise InputError(
                        f"{error}; {record_of(folder)} says what is expected: remove it to accept the new file"
                    ) from None
                raise
        rows.append(_row(archive, path))
    layout = cast("type[Layout]", LAYOUTS[name].build)
    count = 0
    with written_folder(folder) as partial:
        for archive, path in zip(archives, files, strict=True):
            target = partial / archive.into
            target.mkdir(parents=True, exist_ok=True)
            count += unpack(path, target, archive.part)
        if not layout.fits(partial):
            raise InputError(
                f"the archives of {name} do not hold {layout.marks}: their publisher has changed them, fetch them by"
                " hand and arrange them as `python -m segmodels layouts` shows"
            )
    with written_file(record_of(folder)) as file:
        file.write_text(json.dumps({"dataset": name, "archives": rows}, indent=1) + "\n", encoding="utf-8")
    return count


def _name(archive: Archive) -> str:
    return PurePosixPath(urlsplit(archive.url).path).name


def _row(archive: Archive, path: Path) -> dict[str, Any]:
    sha256 = archive.sha256
    if sha256 is None:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    row = {"url": archive.url, "size": path.stat().st_size, "sha256": sha256}
    row |= {"md5": archive.md5} if archive.md5 else {}
    return row | {
        "digest": f"{'MD5' if archive.md5 else 'SHA-256'} stated by {archive.stated}" if archive.stated else MEASURED
    }


def _known(record: Path) -> dict[str, dict[str, Any]]:
    """Address -> row of the record of an earlier download."""
    if not record.is_file():
        return {}
    with reading(record, damaged="restore it from Git, or remove it"):
        rows = parse_json(record.read_bytes(), {"archives": [{"url": str, "size": int, "sha256": str}]})["archives"]
        return {row["url"]: row for row in rows}
