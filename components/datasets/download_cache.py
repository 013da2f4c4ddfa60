"""Downloads, kept once by content: a version of a dataset is a folder of hard links into the cache.

An interrupted download resumes where it stopped, a new version of a dataset transfers only the files that changed,
and the folder of an older version stays as it was.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import NamedTemporaryFile

from components.running.digests import directory_digest, file_md5, md5s
from components.running.progress_bar import track
from components.storage.s3 import THREADS
from segmodels.errors import InputError, TransientError

ATTEMPTS = 4
SECONDS_BEFORE_RETRY = 0.5
SECONDS_A_DAY = 86400


@dataclass(frozen=True)
class RemoteFile:
    """A file of a dataset that lies elsewhere.

    Attributes:
        path: place in the dataset's folder, with ``/``.
        version: names the bytes, an md5 or an ETag: files of the same version are the same.
    """

    path: str
    version: str


Fetch = Callable[[RemoteFile, Path], None]
"""Writes the file's bytes to a path. Raises TransientError when they did not arrive whole."""


class DownloadCache:
    """Files in ``folder``; each is named ``<version>.<md5>``."""

    def __init__(self, folder: Path) -> None:
        self.objects = folder / "objects"
        self.partial = folder / "partial"
        self.datasets = folder / "datasets"
        for each in (self.objects, self.partial, self.datasets):
            each.mkdir(parents=True, exist_ok=True)
        for leftover in self.partial.iterdir():  # of a killed run; a younger one may belong to a run beside this one
            if time.time() - leftover.stat().st_mtime > SECONDS_A_DAY:
                leftover.unlink(missing_ok=True)

    def dataset(self, files: Sequence[RemoteFile], fetch: Fetch) -> tuple[Path, dict[str, str]]:
        """The folder that holds exactly ``files``, and the md5 of each by its path.

        Transfers what the cache does not have, several files at once, each retried.

        Raises:
            InputError: a path leads out of the folder.
            TransientError: a file did not arrive whole after several attempts.
        """
        _refuse_unsafe(files)
        wanted = {_name(file.version): file for file in files}
        stored = self._intact(wanted)
        missing = [file for name, file in wanted.items() if name not in stored]
        with ThreadPoolExecutor(THREADS) as pool:
            try:
                transfers = pool.map(lambda file: self._transfer(file, fetch), missing)
                stored |= track(
                    ((_name(file.version), path) for file, path in zip(missing, transfers, strict=True)),
                    "downloading files",
                    len(missing),
                )
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        paths = {file.path: stored[_name(file.version)] for file in files}
        hashes = {path: target.name.rpartition(".")[2] for path, target in paths.items()}
        folder = self.datasets / directory_digest(hashes)
        _link(paths, folder)
        return folder, hashes

    def _intact(self, wanted: Iterable[str]) -> dict[str, Path]:
        """Name of a version -> its file, of those that are here with the bytes they were stored with."""
        wanted = set(wanted)
        found = [path for path in self.objects.glob("*/*") if path.name.rpartition(".")[0] in wanted]
        measured = md5s(self.objects, [str(path.relative_to(self.objects)) for path in found])
        intact = {}
        for path, md5 in zip(found, measured, strict=True):
            name, _, expected = path.name.rpartition(".")
            if md5 == expected:
                intact[name] = path
            else:
                path.unlink()
        return intact

    def _transfer(self, file: RemoteFile, fetch: Fetch) -> Path:
        with NamedTemporaryFile(dir=self.partial, delete=False) as temporary:
            partial = Path(temporary.name)
        try:
            for attempt in range(1, ATTEMPTS + 1):
                try:
                    fetch(file, partial)
                    break
                except TransientError:
                    if attempt == ATTEMPTS:
                        raise
                    time.sleep(SECONDS_BEFORE_RETRY * 2 ** (attempt - 1))
            md5 = file_md5(partial)
            target = self.objects / md5[:2] / f"{_name(file.version)}.{md5}"
            target.parent.mkdir(exist_ok=True)
            partial.chmod(0o444)  # its hard links are in datasets: an edit would change them all
            return partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)


def _name(version: str) -> str:
    return re.sub(r"[^0-9A-Za-z-]", "_", version)


def _refuse_unsafe(files: Sequence[RemoteFile]) -> None:
    paths = {file.path for file in files}
    for path in paths:
        parts = PurePosixPath(path).parts
        if path.startswith("/") or "\\" in path or ".." in parts or "/".join(parts) != path:
            raise InputError(f"the dataset holds a file named {path!r}, which would not lie in its folder: rename it")
        if inside := next((str(parent) for parent in PurePosixPath(path).parents if str(parent) in paths), None):
            raise InputError(
                f"the dataset holds {path!r} and also a file named {inside!r}, expected a folder of that name: rename"
                " one of them"
            )


def _link(paths: dict[str, Path], folder: Path) -> None:
    """Make ``folder`` hold exactly ``paths`` (place in the folder -> stored file)."""
    for place, stored in paths.items():
        target = folder / place
        if not target.exists() or not target.samefile(stored):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            try:
                target.hardlink_to(stored)
            except OSError:  # a file system without hard links
                shutil.copyfile(stored, target)
    for leftover in [
        path for path in folder.rglob("*") if not path.is_dir() and path.relative_to(folder).as_posix() not in paths
    ]:
        leftover.unlink()
