"""A local HTTP server of files with ranges, which breaks connections and refuses when a test asks for it."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FileServer:
    """Attributes:
    files: path -> content.
    break_after: bytes after which a connection breaks; None: never.
    ranges: whether parts of files are served.
    statuses: sent in the place of the next answers, in turn.
    requests: (path, Range, If-Range) of each request.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.files: dict[str, bytes] = {}
        self.break_after: int | None = None
        self.ranges = True
        self.etag = '"1"'
        self.statuses: list[int] = []
        self.requests: list[tuple[str, str | None, str | None]] = []


@contextmanager
def file_server() -> Iterator[FileServer]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            wanted, known = self.headers.get("Range"), self.headers.get("If-Range")
            files.requests.append((self.path, wanted, known))
            if files.statuses or self.path not in files.files:
                self.answer(files.statuses.pop(0) if files.statuses else 404, b"")
                return
            content = files.files[self.path]
            found = re.fullmatch(r"bytes=(\d+)-", wanted or "")
            start = int(found[1]) if found and files.ranges and known in (None, files.etag) else 0
            if start and start >= len(content):
                self.answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
            elif start:
                self.answer(206, content[start:], {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"})
            else:
                self.answer(200, content)

        def answer(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), "ETag": files.etag, **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content if files.break_after is None else content[: files.break_after])
            self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    files = FileServer(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.02), daemon=True)
    thread.start()
    try:
        yield files
    finally:
        server.shutdown()
        server.server_close()
