"""An object store of a given speed: a process of its own that serves a folder by S3's HEAD, GET and PUT, also in parts.

    with slow_store(folder, latency=0.02, bandwidth=200e6) as store:
        os.environ.update(store.environment)
        ...                                  # s3://bucket/key is the file folder/bucket/key
        store.requests()                     # keys of the GETs so far

All connections share the bandwidth; each request waits for the latency first. Files are written into the folder.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

BLOCK = 2**18
"""Bytes sent at once."""


@dataclass(frozen=True)
class Store:
    """A running store.

    Attributes:
        endpoint: its address.
        environment: variables that lead S3's clients to it.
    """

    endpoint: str
    environment: dict[str, str]

    def requests(self) -> list[str]:
        """``bucket/key`` of every GET so far, with a word behind it where it failed."""
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(f"{self.endpoint}/") as answer:
            return answer.read().decode().split("\n")[:-1]


@contextmanager
def slow_store(folder: Path, latency: float = 0.0, bandwidth: float = 1e12, broken: int = 0) -> Iterator[Store]:
    """Start the process; it ends with the block.

    Args:
        latency: seconds before each answer.
        bandwidth: bytes a second of all answers together.
        broken: number of GETs, the first ones, whose connection is closed half-way.
    """
    command = [sys.executable, __file__, str(folder), str(latency), str(bandwidth), str(broken)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        endpoint = f"http://127.0.0.1:{int(process.stdout.readline())}"
        names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        yield Store(endpoint, dict.fromkeys(names, "x") | {"AWS_ENDPOINT_URL": endpoint, "NO_PROXY": "127.0.0.1"})
    finally:
        process.kill()
        process.wait()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    folder: Path
    latency: float
    bandwidth: float
    broken: int
    lock = threading.Lock()
    requests: ClassVar[list[str]] = []
    free_at = 0.0

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_PUT(self) -> None:
        """An object, or a part of one, which waits in a file beside it."""
        time.sleep(self.latency)
        key, query = self._address()
        path = self.folder / (f"{key}.{query['partNumber'][0]}" if "partNumber" in query else key)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            left = int(self.headers["Content-Length"])
            while block := self.rfile.read(min(BLOCK, left)):
                self._wait_for_turn(len(block))
                left -= file.write(block)
        self._send(200, b"", {"ETag": f'"{path.stat().st_mtime_ns:x}"'})

    def do_POST(self) -> None:
        """Start an upload in parts, or put its parts together."""
        time.sleep(self.latency)
        key, query = self._address()
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        if "uploads" in query:
            return self._send(
                200, b"<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>"
            )
        with (self.folder / key).open("wb") as whole:
            for number in sorted(int(one) for one in re.findall(r"<PartNumber>(\d+)", body)):
                part = self.folder / f"{key}.{number}"
                with part.open("rb") as file:
                    shutil.copyfileobj(file, whole)
                part.unlink()
        return self._send(200, b"<CompleteMultipartUploadResult/>")

    def log_message(self, *_: object) -> None:
        pass

    def _address(self) -> tuple[str, dict[str, list[str]]]:
        """``bucket/key`` and the query of the request."""
        url = urlsplit(self.path)
        return unquote(url.path).strip("/"), parse_qs(url.query, keep_blank_values=True)

    def _answer(self, body: bool) -> None:
        key, _ = self._address()
        if not key:
            return self._send(200, "".join(f"{one}\n" for one in self.requests).encode())
        time.sleep(self.latency)
        path = self.folder / key
        if not path.is_file():
            error = "<Error><Code>NoSuchKey</Code><Message>there is none</Message></Error>"
            return self._send(404, error.encode() if body else b"")
        size = path.stat().st_size
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start = int(wanted[1]) if wanted else 0
        stop = min(int(wanted[2]) + 1, size) if wanted and wanted[2] else size
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        self.send_header("Content-Length", str(stop - start))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("ETag", f'"{path.stat().st_mtime_ns:x}"')
        self.send_header("Last-Modified", formatdate(path.stat().st_mtime, usegmt=True))
        self.end_headers()
        if body:
            self._send_file(key, path, start, stop)
        return None

    def _send_file(self, key: str, path: Path, start: int, stop: int) -> None:
        with self.lock:
            breaks = len(self.requests) < self.broken
            self.requests.append(f"{key} broken" if breaks else key)
        if breaks:
            stop = (start + stop) // 2
            self.close_connection = True
        with path.open("rb") as file:
            for offset in range(start, stop, BLOCK):
                count = min(BLOCK, stop - offset)
                self._wait_for_turn(count)
                self.connection.sendfile(file, offset, count)

    def _wait_for_turn(self, count: int) -> None:
        cls = type(self)
        with self.lock:
            cls.free_at = max(cls.free_at, time.monotonic()) + count / self.bandwidth
            until = cls.free_at
        time.sleep(max(0.0, until - time.monotonic()))

    def _send(self, status: int, content: bytes, headers: Mapping[str, str] = MappingProxyType({})) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_: object) -> None:
        pass  # a client that left


def main(folder: str, latency: str, bandwidth: str, broken: str) -> None:
    Handler.folder, Handler.latency, Handler.bandwidth = Path(folder), float(latency), float(bandwidth)
    Handler.broken = int(broken)
    with Server(("127.0.0.1", 0), Handler) as server:
        print(server.server_port, flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
