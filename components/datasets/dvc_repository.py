"""Datasets that a Git repository versions with DVC, read at a revision. Needs no Git program.

Credentials of the DVC remote come from the environment alone (``AWS_*`` for S3), those of the Git server from its URL
or SSH agent.
"""

from __future__ import annotations

import os
import posixpath
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from components.datasets.download_cache import DownloadCache, RemoteFile
from components.running.wording import as_clause
from segmodels.addresses import without_credentials
from segmodels.errors import InputError, TransientError

LEGACY = "md5-dos2unix"
"""Hash of data that DVC before version 3 tracked: text files are hashed with their line ends as on Unix."""


def download(repo: str, rev: str | None, path: str, cache: DownloadCache) -> tuple[Path, dict[str, str], str]:
    """The folder that holds the files of ``path`` at revision ``rev``, the md5 of each, and the commit that ``rev`` is.

    Each file is checked against the md5 that DVC tracks. What the cache holds already is not transferred again.

    Raises:
        InputError: repository, revision, path or the data in its remote is not there, or access is denied.
        TransientError: the network or a server failed for now.
    """
    with _opened(repo, rev, path) as (filesystem, hashes, place):
        from dvc_data.hashfile.hash import file_md5

        commit = filesystem.repo.get_rev()

        def fetch(file: RemoteFile, target: Path) -> None:
            with _translate_errors(f"{file.path} of {place}"):
                filesystem.get_file(posixpath.join(_normal(path), file.path), str(target))
            algorithm, expected = hashes[file.path]
            if file_md5(str(target), name=algorithm) != expected:
                raise TransientError(f"the bytes received of {file.path} of {place} do not have its md5 {expected}")

        files = [RemoteFile(name, "-".join(algorithm_and_hash)) for name, algorithm_and_hash in hashes.items()]
        return *cache.dataset(files, fetch), commit


def tracked(repo: str, rev: str | None, path: str) -> dict[str, tuple[str, str]]:
    """Algorithm and hash of every file of ``path`` at revision ``rev``, by its name. Raises as ``download``."""
    with _opened(repo, rev, path) as (_, hashes, _):
        return hashes


@contextmanager
def _opened(repo: str, rev: str | None, path: str) -> Iterator[tuple[Any, dict[str, tuple[str, str]], str]]:
    """DVC's view of ``repo`` at ``rev``; what it tracks below ``path``; both in words for messages."""
    os.environ.setdefault("DVC_NO_ANALYTICS", "1")
    from dvc.api import DVCFileSystem
    from dvc.repo.open_repo import clean_repos

    path = _normal(path)
    place = (
        f"{path} in DVC repository {without_credentials(repo)} at"
        f" {f'revision {rev!r}' if rev else 'its default branch'}"
    )
    if rev is None and Path(repo).is_dir():
        rev = "HEAD"  # else DVC reads the working directory of a local repository
    try:
        with _translate_errors(place):
            filesystem = DVCFileSystem(repo, rev=rev)
            if filesystem.info(path)["type"] != "directory":
                raise InputError(f"{place} is a file, expected the dataset's folder: set ingest.path")
            found = filesystem.find(path, detail=True)
            hashes = {posixpath.relpath(name, path): _tracked_hash(filesystem, info) for name, info in found.items()}
        if not hashes:
            raise InputError(f"{place} holds no files: check ingest.path")
        yield filesystem, hashes, place
    finally:
        clean_repos()  # the clones in the temporary folder


def _normal(path: str) -> str:
    return posixpath.normpath(path.strip("/"))


def _tracked_hash(filesystem: Any, info: dict[str, Any]) -> tuple[str, str]:
    """Algorithm and hash of a file; one that Git tracks, not DVC, is small and in the clone: hash it."""
    from dvc_data.hashfile.hash import file_md5

    tracked = info.get("dvc_info", {})
    for algorithm in ("md5", LEGACY):
        if value := tracked.get(algorithm):
            return algorithm, value
    return "md5", file_md5(info["name"], filesystem)


@contextmanager
def _translate_errors(place: str) -> Iterator[None]:
    """Translate the errors of DVC and of the storage below it."""
    from botocore import exceptions as aws
    from dvc.exceptions import DvcException
    from dvc.scm import RevError
    from dvc_data.index import DataIndexDirError

    try:
        yield
    except (InputError, TransientError):
        raise
    except (DvcException, DataIndexDirError, OSError, aws.BotoCoreError, aws.ClientError) as error:
        causes = list(_causes(error))
        reason = as_clause(causes[-1])
        if any(_passes(cause) for cause in causes):
            raise TransientError(f"{place} cannot be read, {reason}") from None
        if isinstance(error, RevError):
            raise InputError(
                f"{place} is not there, {reason}: check ingest.rev, expected a branch, a tag or a commit that was"
                " pushed"
            ) from None
        if any(
            isinstance(cause, aws.NoCredentialsError | aws.PartialCredentialsError | aws.ClientError | PermissionError)
            for cause in causes
        ):
            raise InputError(
                f"{place} cannot be read, {reason}: check the credentials of the repository's DVC remote in the"
                " environment (AWS_*)"
            ) from None
        if isinstance(error, FileNotFoundError) and error.strerror != "No storage files available":
            raise InputError(f"{place} is not there: check ingest.path and ingest.rev") from None
        if isinstance(error, FileNotFoundError | DataIndexDirError):
            raise InputError(
                f"{place} is tracked, but its data is not in the repository's DVC remote ({reason}): run `dvc push`"
                " where it was added"
            ) from None
        raise InputError(
            f"{place} cannot be read, {reason}: check ingest.repo, its DVC remote and your access to both"
        ) from None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _passes(error: BaseException) -> bool:
    """Whether the network or a server failed in a way that may be gone soon."""
    from botocore.exceptions import HTTPClientError

    if isinstance(error, socket.gaierror):
        return error.errno == socket.EAI_AGAIN
    return isinstance(error, ConnectionError | TimeoutError | HTTPClientError)
