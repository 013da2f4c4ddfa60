"""The server's log of the images that it predicts, for ``python -m components drift``."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from queue import Full, Queue
from threading import Thread

import numpy as np

from components.serving.live_model import ServedModel
from segmodels.errors import on_one_line
from segmodels.files import LOG_SUFFIX
from segmodels.inference.observation import shares_of
from segmodels.inference.reference import Observation, as_logged, statistics
from segmodels.tasks.base import Result

WAITING = 16
"""Requests that may wait to be written; more are dropped."""

FILES = 10
"""Files of a full log; the oldest is removed for a new one."""

SECONDS_TO_FINISH = 5
"""Seconds to write the waiting requests when the server ends."""


@dataclass(frozen=True)
class LoggedRequest:
    """A request that was answered, one entry per image."""

    model: ServedModel
    images: Sequence[np.ndarray]
    results: Sequence[Result]
    observations: Sequence[Observation]


class RequestLog:
    """JSON lines in a folder, one record per image, written by a thread of its own.

    A record has ``time``, ``name`` and ``version`` of the model, ``size`` of the image, ``statistics`` by name
    (``segmodels.inference.reference``), and ``image``, the file of its pixels, where images are kept. Errors here never
    reach a request: records that cannot be written are counted as dropped.

    Args:
        folder: of the files; made where it does not exist.
        share: of the requests that are logged, chosen at random.
        most_bytes: of all files in the folder, those of other servers included. The oldest are removed.
        images: whether pixels are kept, as ``.npy``.

    Attributes:
        logged, dropped: number of images.
    """

    def __init__(self, folder: Path, share: float, most_bytes: float, *, images: bool = False) -> None:
        self.logged = self.dropped = 0
        self._folder, self._share, self._images = folder, share, images
        self._most_bytes = most_bytes
        self._random = np.random.default_rng()
        self._waiting: Queue[LoggedRequest | None] = Queue(WAITING)
        self._file: FileIO | None = None
        self._bytes = self._kept = 0  # of the file with its images; images in it
        self._failing = False
        self._thread = Thread(target=self._run, name="request log", daemon=True)
        self._thread.start()

    def wants(self) -> bool:
        """Draw whether the next request is logged."""
        return bool(self._random.random() < self._share)

    def offer(self, request: LoggedRequest) -> None:
        """Log a request later; returns at once."""
        try:
            self._waiting.put_nowait(request)
        except Full:
            self.dropped += len(request.images)

    def drop(self, images: int, error: Exception) -> None:
        """Count images that could not be observed or written; the first error of a series is printed."""
        self.dropped += images
        if not self._failing:
            print(f"warning: requests are not logged to {self._folder} ({on_one_line(error)})", flush=True)
        self._failing = True

    def close(self) -> None:
        """Write what waits, and end the thread."""
        with suppress(Full):
            self._waiting.put(None, timeout=SECONDS_TO_FINISH)
        self._thread.join(SECONDS_TO_FINISH)

    def _run(self) -> None:
        while (request := self._waiting.get()) is not None:
            logged = 0
            try:
                for number in range(len(request.images)):
                    self._write(request, number)
                    self.logged, logged, self._failing = self.logged + 1, logged + 1, False
            except Exception as error:  # a full disk or anything else: the server keeps serving
                self._end_file()
                self.drop(len(request.images) - logged, error)
        self._end_file()

    def _write(self, request: LoggedRequest, number: int) -> None:
        model, image = request.model, request.images[number]
        shares, reference = shares_of(model.predictor, request.results[number]), model.reference
        basis = () if reference is None else (reference.mean, reference.components)
        record = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "name": model.name,
            "version": model.version,
            "size": list(image.shape[:-1]),
            "statistics": {
                name: as_logged(value)
                for name, value in statistics(request.observations[number], shares, *basis).items()
            },
        }
        file = self._open_file(image.nbytes if self._images else 0)
        if self._images:
            path = Path(file.name).with_suffix("") / f"{self._kept:06}.npy"
            path.parent.mkdir(exist_ok=True)
            try:
                np.save(path, image)
            except OSError:
                path.unlink(missing_ok=True)
                raise
            self._kept, self._bytes = self._kept + 1, self._bytes + path.stat().st_size
            record["image"] = str(path.relative_to(self._folder))
        self._append(file, (json.dumps(record, allow_nan=False) + "\n").encode())

    def _append(self, file: FileIO, line: bytes) -> None:
        """Write the line whole or not at all."""
        before = file.tell()
        try:
            if file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), file.name)
        except OSError:
            with suppress(OSError):
                file.truncate(before)
            raise
        self._bytes += len(line)

    def _open_file(self, more: int) -> FileIO:
        """The file that is written, with room for an image; a new one where it is full."""
        most = self._most_bytes / FILES
        if more + most > self._most_bytes:
            raise ValueError(
                f"an image of {more / 1e6:.1f} MB does not fit into a log of {self._most_bytes / 1e6:g} MB"
            )
        if self._file is not None and not Path(os.fsdecode(self._file.name)).exists():
            self._end_file()  # somebody has moved or removed it: what is written on would be lost
        if self._file is not None and self._bytes and self._bytes + more > most:
            self._end_file()
        if self._file is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._make_room(most + more)
            name = f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{os.getpid()}{LOG_SUFFIX}"
            self._file = FileIO(self._folder / name, "a")
            self._bytes = self._kept = 0
        return self._file

    def _end_file(self) -> None:
        if self._file is not None:
            path = Path(os.fsdecode(self._file.name))
            with suppress(OSError):
                self._file.close()
                if not path.stat().st_size:  # of a full disk, which would collect them
                    path.unlink()
            self._file = None

    def _make_room(self, more: float) -> None:
        """Remove the oldest files, with their images, until there is room for ``more`` bytes."""
        sizes = {path: _size(path) for path in sorted(self._folder.glob(f"*{LOG_SUFFIX}"))}
        total = sum(sizes.values())
        for path, size in sizes.items():
            if total + more <= self._most_bytes:
                break
            path.unlink(missing_ok=True)
            shutil.rmtree(path.with_suffix(""), ignore_errors=True)
            total -= size


def _size(path: Path) -> int:
    """Bytes of a file of the log and of its images."""
    with suppress(FileNotFoundError):  # another server has removed it
        return path.stat().st_size + sum(one.stat().st_size for one in path.with_suffix("").glob("*"))
    return 0
