"""The revision of a dataset: which bytes and parameters ingest would make its manifest from, found without a download.

Kubeflow's cache and the step ``changed`` take datasets of one revision for the same.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from components.datasets import dvc_repository
from components.datasets.sources import place_of, repo_of, require_folder
from components.params.schema import IngestParams
from segmodels.data.folder_files import files_below


def dataset_revision(params: IngestParams) -> str:
    """md5 of the parameters and of the source's state now, as 32 hexadecimal digits.

    The state is the listing of an S3 prefix (names, ETags, sizes), the md5s that DVC tracks at ``params.rev``, names,
    sizes and modification times of the files in a folder, or the code that draws the built-in digits. A new commit of
    a DVC repository in which the dataset is the same is the same revision.

    Raises:
        InputError: the source is not there or refuses.
        TransientError: the network or a server failed for now.
    """
    settings = dataclasses.asdict(params)
    del settings["rev"]  # names a state, which the digest holds itself
    return hashed([json.dumps(settings, sort_keys=True), _state(params)])


def _state(params: IngestParams) -> str:
    if params.source == "digits":
        return digits_digest()
    path = str(params.path)
    if params.source == "s3":
        return listing_digest(path)
    if params.source == "dvc":
        return hashed(sorted(dvc_repository.tracked(repo_of(params), params.rev, path).items()))
    return hashed(sizes_and_times(place_of(params)))


def digits_digest() -> str:
    """Digest of the code that draws the built-in digits."""
    spec = importlib.util.find_spec("segmodels.data.digits")
    assert spec is not None
    assert spec.origin is not None
    return hashed([Path(spec.origin).read_text(encoding="utf-8")])


def listing_digest(url: str) -> str:
    """Digest of names, ETags and sizes of the objects below ``s3://bucket/prefix``."""
    from components.storage.s3 import list_folder, s3_client, translate_errors

    with translate_errors(url, connected=False):
        return hashed(sorted((name, entry["ETag"], entry["Size"]) for name, entry in list_folder(s3_client(), url)))


def sizes_and_times(root: Path) -> Iterable[Any]:
    """Name, size in bytes and modification time in ns of every file below ``root``, in the order of their names.

    Raises:
        InputError: as ``require_folder`` and ``files_below``.
    """
    require_folder(root)
    for name in files_below(root):
        facts = (root / name).stat()
        yield name, facts.st_size, facts.st_mtime_ns


def hashed(parts: Iterable[Any]) -> str:
    """md5 of what ``repr`` writes of each part."""
    digest = hashlib.md5(usedforsecurity=False)
    for part in parts:
        digest.update(f"{part!r}\n".encode())
    return digest.hexdigest()
