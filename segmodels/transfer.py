"""The bytes of a file over HTTP, received over as many connections as they take."""

from __future__ import annotations

import base64
import errno
import http.client
import os
import re
import shutil
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any

from segmodels.addresses import without_credentials
from segmodels.errors import InputError, TransientError, on_one_line

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


class Transfer:
    """Appends the bytes of a file at an address to one that is open.

    Args:
        url: begins with http:// or https://; may hold a user and a password.
        file: with the bytes that an earlier download brought.
        path: of the whole file: named in errors, and its disk must have room.
        size: expected number of bytes; None: not known.
        version: file with the ETag or time of the server's file, which must still be the same; None: any will do.
        progress: called after every part.

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
        """Receive what is missing.

        Raises:
            InputError: the address is wrong, the server refuses or has another file, or the disk is full.
            TransientError: no connection, or the server fails for now.
        """
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
                raise TransientError(f"{self.name}: the server's file is shorter than the part already here") from None
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
            raise InputError(f"{self.name} is not a valid address ({on_one_line(error)}): correct it") from None
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
                raise TransientError(f"{self.name}: the server sends another part of the file than the requested one")
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
