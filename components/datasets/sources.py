"""Where datasets come from: built in, a folder, a DVC repository at a revision, S3."""

from __future__ import annotations

import fcntl
import inspect
import json
import os
from dataclasses import asdict, dataclass
from hashlib import md5
from pathlib import Path
from typing import Any

from components.datasets import dvc_repository, s3_dataset
from components.datasets.download_cache import DownloadCache
from components.params.schema import IngestParams
from components.running.atomic import written_folder
from components.running.digests import folder_md5s
from components.running.project import project_root
from segmodels.addresses import without_credentials
from segmodels.data.digits import DigitsSettings
from segmodels.errors import InputError


@dataclass(frozen=True)
class LocalDataset:
    """A dataset whose files are on this machine.

    Attributes:
        root: their folder.
        layout: how they are organised.
        source: where they came from, for the record; holds no credentials.
        revision: commit of a versioned source, else None.
        md5s: path relative to ``root`` -> md5, of every file.
    """

    root: Path
    layout: str
    source: dict[str, Any]
    revision: str | None
    md5s: dict[str, str]


def fetch(params: IngestParams, cache: Path) -> LocalDataset:
    """Bring the dataset here; downloads and generated data go to ``cache`` and are used again.

    Raises:
        InputError: the source is not there or refuses; says what to check.
        TransientError: the network or a server failed for now.
    """
    if params.source == "digits":
        root = _digits(params.digits, cache)
        source = {"kind": "digits", **asdict(params.digits)}
        return LocalDataset(root, "folder", source, None, folder_md5s(root))
    assert params.path is not None
    if params.source == "folder":
        root = place_of(params)
        require_folder(root)
        return LocalDataset(root, params.layout, {"kind": "folder", "path": params.path}, None, folder_md5s(root))
    if params.source == "s3":
        root, md5s = s3_dataset.download(params.path, DownloadCache(cache))
        return LocalDataset(root, params.layout, {"kind": "s3", "path": without_credentials(params.path)}, None, md5s)
    assert params.repo is not None
    root, md5s, commit = dvc_repository.download(repo_of(params), params.rev, params.path, DownloadCache(cache))
    source = {
        "kind": "dvc",
        "repo": without_credentials(params.repo),
        "rev": params.rev,
        "path": params.path,
    }
    return LocalDataset(root, params.layout, source, commit, md5s)


def place_of(params: IngestParams) -> Path:
    """The folder that ``params.path`` names, relative to the project's root; absolute if it is given so or begins with
    ``~/``, else relative to the working directory.
    """
    path = _expanded(str(params.path))
    return path if path.is_absolute() else Path(os.path.relpath(project_root() / path))


def require_folder(root: Path) -> None:
    """Raises InputError: the folder of a dataset is not there, or is a file."""
    if root.is_file():
        raise InputError(f"dataset folder {root} is a file, expected a folder: unpack it and correct ingest.path")
    if not root.is_dir():
        raise InputError(f"dataset folder {root} is not there: check ingest.path")


def repo_of(params: IngestParams) -> str:
    """URL or path of the Git repository; a relative path starts at the project's root."""
    local = project_root() / _expanded(str(params.repo))
    if not local.is_dir():
        return str(params.repo)
    return str(local) if _expanded(str(params.repo)).is_absolute() else os.path.relpath(local)


def _expanded(path: str) -> Path:
    """With the home directory in the place of ``~/``."""
    return Path(path).expanduser() if path.startswith("~/") else Path(path)


def _digits(settings: DigitsSettings, cache: Path) -> Path:
    """Folder of the built-in dataset, generated when the cache has none of these parameters and this generator."""
    from segmodels.data import digits

    key = json.dumps(asdict(settings), sort_keys=True) + inspect.getsource(digits)
    folder = cache / "digits" / md5(key.encode(), usedforsecurity=False).hexdigest()
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # experiments that run side by side share the cache: one of them generates
        if not folder.is_dir():
            with written_folder(folder) as partial:
                digits.write_digits(partial, settings)
    return folder
