"""Downloads over HTTP: resumed where they stopped, verified, and whole or not there."""

from __future__ import annotations

import base64
import errno
import fcntl
import hashlib
import http.client
import os
import re
import shutil
import ssl
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import Any

from segmodels.addresses import without_credentials
from segmodels.errors import InputError, TransientError, on_one_line, refusal

Progress = Callable[[int, int | None], None]
"""Called with the number of bytes that are here, and the number of all bytes (None: the server does not say)."""

ATTEMPTS = 4
"""In a row without a new byte, before a download is given up."""
FIRST_PAUSE = 0.5
"""Seconds before the second attempt, doubled each time."""
TIMEOUT = 60
"""Seconds without a byte, after which a connection counts as broken."""
CHUNK = 2**18
HEADERS = {"User-Agent": "segmodels", "Accept-Encoding": "identity"}
PASSING = (408, 425, 429)
"""HTTP statuses below 500 that a later attempt may not get."""
SECONDS_BETWEEN_LINES = 10.0


def download(
    url: str,
    path: str | Path,
    *,
    sha256: str | None = None,
    md5: str | None = None,
    size: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Bring the file at ``url`` to ``path``. A file that is already there with the stated size and digests stays.

    The bytes arrive in ``PATH.partial``. A broken connection is resumed at once, an interrupted download by the next
    call: from any address if a digest is stated, else only if the server confirms that its file is still the same (by
    its ETag or time, kept in ``PATH.partial.version``). Of several processes one downloads, the others wait for it.

    Args:
        url: begins with http:// or https://; may hold a user and a password.
        sha256, md5: expected digests, hexadecimal; the first 8 digits of a SHA-256 or more suffice.
        size: expected number of bytes.
        progress: such as ``shown_progress`` gives.

    Raises:
        InputError: the address is wrong, the server refuses, the file there is another one than expected, or the disk
            is full.
        TransientError: no connection, or the server fails for now; what has arrived is kept.
    """
    path = Path(path)
    if not url.startswith(("http://", "https://")):
        raise InputError(
            f"{without_credentials(url)!r} cannot be downloaded, expected an address that begins with https:// or"
            " http://: correct it"
        )
    if path.is_file() and not _difference(path, size, sha256, md5):
        return path
    partial, version = (path.with_name(path.name + end) for end in (".partial", ".partial.version"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(partial) as file:
            if path.is_file() and not _difference(path, size, sha256, md5):  # another process was faster
                partial.unlink()
                return path
            transfer = _Transfer(url, file, path, size, None if sha256 or md5 else version, progress)
            transfer.run()
            os.fsync(file.fileno())
            if difference := _difference(partial, size, sha256, md5):
                partial.unlink()
                version.unlink(missing_ok=True)
                found = f"the file from {without_credentials(url)} has {difference}, and was removed"
                if transfer.kept:
                    raise TransientError(f"{found}: a part of it was of an earlier download, the next one begins anew")
                raise InputError(f"{found}: check the address, the file there may have been replaced")
            partial.replace(path)
            version.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(refusal(error, path)) from None
    return path


@contextmanager
def shown_progress(description: str) -> Iterator[Progress]:
    """Show a download on stderr: a bar on a terminal, else a line every ten seconds."""
    from rich import progress as bars
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_terminal:
        columns = (bars.TextColumn("{task.description}"), bars.BarColumn(), bars.DownloadColumn())
        speed = (bars.TransferSpeedColumn(), bars.TimeRemainingColumn())
        with bars.Progress(*columns, *speed, console=console, transient=True) as display:
            task = display.add_task(description, total=None)
            yield lambda here, total: display.update(task, completed=here, total=total)
        return
    last = time.monotonic()

    def print_line(here: int, total: int | None) -> None:
        nonlocal last
        if time.monotonic() - last >= SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            whole = f" of {total / 1e6:.0f}" if total else ""
            print(f"{description}: {here / 1e6:.0f}{whole} MB", file=sys.stderr, flush=True)

    yield print_line


class _Transfer:
    """The bytes of one file, over as many connections as they take.

    Attributes:
        kept: how many bytes of the file an earlier download brought.
    """

    def __init__(
        self, url: str, file: FileIO, path: Path, size: int | None, version: Path | None, progress: Progress | None
    ) -> None:
        self.url, self.file, self.path, self.size, self.version = url, file, path, size, version
        self.progress = progress
        self.name = without_credentials(url)
        self.kept = self._here()

    def run(self) -> None:
        most, failures = self._here(), 0
        while True:
            try:
                return self._receive()
            except TransientError:
                failures = 0 if self._here() > most else failures + 1
                most = max(most, self._here())
                if failures == ATTEMPTS:
                    raise
                time.sleep(FIRST_PAUSE * 2**failures)

    def _here(self) -> int:
        return os.fstat(self.file.fileno()).st_size

    def _restart(self) -> None:
        self.file.truncate(0)
        self.kept = 0

    def _receive(self) -> None:
        """Receive the bytes after those that are here, over one connection.

        Raises:
            TransientError: not all of them arrived.
        """
        resumption = self._resumption()
        start = self._here()
        if start and start == self.size:
            return
        try:
            response = self._open(HEADERS | resumption)
        except urllib.error.HTTPError as error:
            error.close()
            if start and error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
                if error.headers.get("Content-Range", "").rpartition("/")[2] == str(start):
                    return  # all bytes are here
                self._restart()
                raise TransientError(f"{self.name}: the server's file is shorter than what is here of it") from None
            raise self._refused(error.code, error.reason) from None
        with response:
            if response.status != http.client.PARTIAL_CONTENT:
                self._restart()
            total = self._total(response)
            if response.status != http.client.PARTIAL_CONTENT:
                self._note_version(response.headers)
            self._copy(response, total)

    def _resumption(self) -> dict[str, str]:
        """Headers that ask for the bytes that are missing; removes those that are here if no more can be appended."""
        here = self._here()
        if here and (self.size is None or here <= self.size):
            wanted = {"Range": f"bytes={here}-"}
            if self.version is None:
                return wanted
            with suppress(OSError, UnicodeError):  # it is missing
                return wanted | {"If-Range": self.version.read_text(encoding="ascii")}
        self._restart()
        return {}

    def _note_version(self, headers: Any) -> None:
        if self.version is None:
            return
        marks = [mark for mark in (headers.get("ETag"), headers.get("Last-Modified")) if mark and mark.isascii()]
        strong = [mark for mark in marks if not mark.startswith("W/")]
        if strong:
            self.version.write_text(strong[0], encoding="ascii")
        else:
            self.version.unlink(missing_ok=True)

    def _open(self, headers: dict[str, str]) -> http.client.HTTPResponse:
        try:
            request = urllib.request.Request(self.url, headers=headers)
            user, at, host = request.host.rpartition("@") if request.host else ("", "", "")
            if at:
                request.host = host
                login = base64.b64encode(urllib.parse.unquote(user).encode()).decode()
                request.add_unredirected_header("Authorization", f"Basic {login}")
            return urllib.request.urlopen(request, timeout=TIMEOUT)
        except urllib.error.HTTPError:
            raise
        except (ValueError, http.client.InvalidURL) as error:
            raise InputError(f"{self.name} is no valid address ({on_one_line(error)}): correct it") from None
        except (OSError, http.client.HTTPException) as error:
            raise self._failed(error) from None

    def _total(self, response: http.client.HTTPResponse) -> int | None:
        """The number of all bytes of the file, as the server states it.

        Raises:
            InputError: it is not the expected one, or the disk has no room for them.
        """
        here = self._here()
        if response.status == http.client.PARTIAL_CONTENT:
            found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
            if not found or int(found[1]) != here:
                self._restart()
                raise TransientError(f"{self.name}: the server sends another part of the file than was asked for")
            stated = found[2]
        else:
            stated = response.headers.get("Content-Length", "")
        total = int(stated) if stated.isdecimal() else None
        if self.size is not None and total is not None and total != self.size:
            raise InputError(
                f"{self.name} has {total} bytes, expected {self.size}: check the address, the file there may have been"
                " replaced"
            )
        if (total or self.size or 0) - here > shutil.disk_usage(self.path.parent).free:
            raise self._full()
        return total if total is not None else self.size

    def _copy(self, response: http.client.HTTPResponse, total: int | None) -> None:
        here = self._here()
        while True:
            if self.progress:
                self.progress(here, total)
            try:
                chunk = response.read1(CHUNK)
            except (OSError, http.client.HTTPException) as error:
                raise self._failed(error) from None
            if not chunk:
                break
            here += len(chunk)
            if total is not None and here > total:
                raise InputError(f"{self.name} has more bytes than the {total} expected: check the address")
            self._write(chunk)
        if total is not None and here < total:
            raise TransientError(f"{self.name}: the connection broke after {here} of {total} bytes")

    def _write(self, chunk: bytes) -> None:
        rest = memoryview(chunk)
        try:
            while rest:
                rest = rest[self.file.write(rest) :]
        except OSError as error:
            raise self._full() if error.errno in (errno.ENOSPC, errno.EDQUOT) else error from None

    def _full(self) -> InputError:
        return InputError(
            f"the disk is full ({self.path}): free some space and run the command again, it resumes the download"
        )

    def _refused(self, code: int, words: str) -> Exception:
        what = f"{self.name} cannot be downloaded, the server answers {code} {words}".rstrip()
        if code >= 500 or code in PASSING:
            return TransientError(what)
        advice = "it wants a login" if code in (401, 403, 407) else "check the address"
        return InputError(f"{what}: {advice}, or fetch the file elsewhere and put it at {self.path}")

    def _failed(self, error: Exception) -> Exception:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(reason, ssl.SSLCertVerificationError):
            return InputError(
                f"{self.name} cannot be downloaded, its certificate is not trusted ({reason.verify_message}): check the"
                " machine's clock and certificates (SSL_CERT_FILE)"
            )
        words = " ".join(str(reason).split())[:200] or type(error).__name__
        return TransientError(f"{self.name} cannot be downloaded ({words}): check the network")


@contextmanager
def _locked(partial: Path) -> Iterator[FileIO]:
    """``partial``, opened to append to it by this process alone; waits while another one has it."""
    while True:
        with partial.open("ab", buffering=0) as file:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX)
            # the other process has renamed or removed it
            if not partial.exists() or not os.path.samestat(os.fstat(file.fileno()), partial.stat()):
                continue
            try:
                yield file
            finally:
                if not os.fstat(file.fileno()).st_size:
                    partial.unlink(missing_ok=True)
            return


def _difference(path: Path, size: int | None, sha256: str | None, md5: str | None) -> str:
    """How a file differs from the expected size and digests, in words; empty if it does not."""
    here = path.stat().st_size
    if size is not None and here != size:
        return f"{here} bytes, expected {size}"
    for name, expected in (("SHA-256", sha256), ("MD5", md5)):
        if expected is not None:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, name.replace("-", "").lower()).hexdigest()
            if not digest.startswith(expected.lower()):
                return f"the {name} {digest}, expected {expected}"
    return ""
